"""What gateways and the control plane tell each other about bandits.

A gateway chooses arms by what it was told last (`Learned`) and counts what it gave to whom; what it counted
it says again and again as a sum since it began (`Pulls`), so that a message that is lost or comes twice
changes nothing. A reward goes to the control plane, which alone knows whether it was counted already: it
keeps the ids, adds the sums up in its store, answers (`Credited`), and tells every gateway.

A bandit is known by a *key*: `NAMESPACE/NAME@UID` for a service, `NAMESPACE/NAME@UID#STEP` for a step of a
graph. With the uid, a service that takes a deleted one's name learns afresh.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from penstock.domain.bandit import Arm


def bandit_key(namespace: str, name: str, uid: str, step: str = "") -> str:
    """The key of a service's bandit, or of a graph's at `step` (`FLOW.STEP`)."""
    key = f"{namespace}/{name}@{uid}"
    return f"{key}#{step}" if step else key


def parse_key(key: str) -> tuple[str, str, str, str]:
    """(namespace, name, uid, step) of a key."""
    where, _, step = key.partition("#")
    full, _, uid = where.rpartition("@")
    namespace, _, name = full.partition("/")
    return namespace, name, uid, step


class Credit(msgspec.Struct, frozen=True, array_like=True):
    """An arm that a request was given to."""

    key: str
    arm: str
    features: tuple[float, ...] = ()


class Reward(msgspec.Struct, frozen=True, array_like=True):
    """A reward for one request."""

    #: The request's own number; a second reward for it is not counted.
    id: int
    #: The feedback's own number, so that the same one sent again is known again.
    attempt: int
    #: Unix seconds from when on no reward is taken for this request.
    expires: float
    reward: float
    credits: tuple[Credit, ...]


class Outcome(StrEnum):
    """What became of a reward."""

    COUNTED = "counted"
    #: There was one for this request before.
    DOUBLE = "double"
    #: Its time is over.
    LATE = "late"
    #: It could not be kept (a full disk); it may be sent again.
    FAILED = "failed"


class Feedback(msgspec.Struct, frozen=True, tag="feedback"):
    """From a gateway: rewards, to be answered by one `Credited` before there are more."""

    rewards: tuple[Reward, ...]


class Pulls(msgspec.Struct, frozen=True, tag="pulls"):
    """From a gateway: how many requests arms got since it began. What is left out is as it was."""

    #: Differs from one run of a gateway to the next.
    epoch: str
    #: (key, arm, count).
    counts: tuple[tuple[str, str, int], ...]


class Learned(msgspec.Struct, frozen=True, tag="learned"):
    """From the control plane: what is known of some arms of a bandit, in the place of what was known."""

    key: str
    arms: tuple[Arm, ...]


class Credited(msgspec.Struct, frozen=True, tag="credited"):
    """From the control plane: what became of rewards, by their attempt."""

    outcomes: tuple[tuple[int, Outcome], ...]
