"""A control plane that keeps rewards, for gateways that learn."""

from __future__ import annotations

from typing import Any

from penstock.domain.bandit import Arm
from penstock.domain.learning import Credited, Feedback, Learned, Outcome, Pulls


class Plane:
    """A control plane that counts: what a gateway says comes here, what it is told goes back."""

    def __init__(self, front: Any) -> None:
        self.front = front
        self.seen: dict[int, int] = {}
        self.arms: dict[tuple[str, str], Arm] = {}
        self.pulls: dict[tuple[str, str], int] = {}
        self.away = False

    def hear(self) -> None:
        said, self.front.wakes[:] = list(self.front.wakes), []
        for message in said:
            if isinstance(message, Pulls):
                self.pulls.update({(key, arm): n for key, arm, n in message.counts})
            elif isinstance(message, Feedback) and not self.away:
                self.front.gateway.apply(Credited(tuple(self._count(r) for r in message.rewards)))

    def _count(self, reward: Any) -> tuple[int, Outcome]:
        if self.seen.setdefault(reward.id, reward.attempt) != reward.attempt:
            return reward.attempt, Outcome.DOUBLE
        for credit in reward.credits:
            arm = self.arms.setdefault((credit.key, credit.arm), Arm(credit.arm))
            arm.credit(reward.reward, credit.features)
            self.front.gateway.apply(Learned(credit.key, (arm,)))
        return reward.attempt, Outcome.COUNTED
