"""A revision that is being rolled out beside a bandit's arms: whose turn a request is.

A rollout's evidence is worth something when the new revision's requests are a part of all of them, whatever
they bring: so it gets its share before the bandit is asked, by turns, and the bandit divides the rest among
its arms. The new revision is none of them. Its answers have an id that says that nothing was chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from penstock.gateway.table import turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.gateway.table import Service, Target


class _Side(NamedTuple):
    weight: int
    on_trial: bool


class Trial:
    """A target that is tried, the arms beside it, and the turns of both sides."""

    __slots__ = ("_turn", "arms", "target")

    def __init__(self, target: Target, arms: Sequence[Target]) -> None:
        self.target = target
        self.arms = list(arms)
        rest = sum(arm.weight for arm in arms)
        self._turn = turns([_Side(target.weight, True), _Side(rest, False)]).__next__

    def next(self) -> bool:
        """Whether the next request is the new revision's."""
        return self._turn().on_trial

    def arms_are_gone(self) -> bool:
        """No arm has a process that could answer, now or when it has answered others."""
        return not any(replica.up for arm in self.arms for replica in arm.replicas)


def trial_of(service: Service) -> Trial | None:
    """The trial that a service's route asks for, if that revision has a share."""
    name = service.route.trial
    target = next((t for t in service.weighted if t.revision == name), None) if name else None
    if target is None:
        return None
    return Trial(target, [t for t in service.weighted if t is not target])


__all__ = ["Trial", "trial_of"]
