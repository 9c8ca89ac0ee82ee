"""Who gives way when there is not enough for all: the decision, as pure functions.

Replicas are taken only from services of a lower rank, and only those above what their manifests say at least.
The lowest rank gives first; among equals an idle service before a busy one, and the least recently used
before others. `budget` (memory) and `placing` (devices) ask, `scaler` carries it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

#: (namespace, component), as in `scaler`.
Key = tuple[str, str]
Taken = Mapping[Key, int]


@dataclass(frozen=True, slots=True)
class Holder:
    """A component that has replicas."""

    key: Key
    rank: int
    #: How many it is meant to have now, and at least.
    replicas: int
    least: int
    #: Monotonic seconds.
    used_at: float = 0.0
    busy: bool = False

    @property
    def spare(self) -> int:
        return max(0, self.replicas - self.least)


def in_order(holders: Iterable[Holder], below: int) -> list[Key]:
    """Replicas that may be taken for a service of rank `below`, each once, in the order they go."""
    weaker = sorted(
        (h for h in holders if h.rank < below and h.spare),
        key=lambda h: (h.rank, h.busy, h.used_at, h.key),
    )
    return [h.key for h in weaker for _ in range(h.spare)]


def take(holders: Iterable[Holder], below: int, enough: Callable[[Taken], bool]) -> Counter[Key]:
    """The replicas to take, by component, so that it is `enough`; empty when it never would be.

    Whoever's part turns out not to be needed keeps it, the highest rank first.
    """
    order = in_order(holders, below)
    taken: Counter[Key] = Counter()
    for key in order:
        taken[key] += 1
        if enough(taken):
            break
    else:
        return Counter()
    for key in reversed(order[: taken.total()]):
        less = taken - Counter([key])
        if enough(less):
            taken = less
    return taken


def take_bytes(
    holders: Iterable[Holder], below: int, each: Mapping[Key, float], need: float
) -> Counter[Key]:
    """The replicas to take so that `need` bytes become free, or as many as may be taken."""
    taken: Counter[Key] = Counter()
    for key in in_order(holders, below):
        if need <= 0:
            break
        if each.get(key):
            taken[key] += 1
            need -= each[key]
    return taken
