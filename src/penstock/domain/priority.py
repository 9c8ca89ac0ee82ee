"""How much a service matters when there is not enough for all.

A manifest names a PriorityClass or, without a cluster's admission in between, says the number itself. Higher
goes first; who says nothing has the default class's priority, or 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Kubernetes' own classes, which nobody can define anew.
BUILT_IN: Mapping[str, int] = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
#: Most that a user's class may have.
MOST = 1_000_000_000
LEAST = -(2**31)


@dataclass(frozen=True, slots=True)
class Priority:
    """What a manifest says. `value` counts without a class only, `preempts` over the class's policy."""

    class_name: str = ""
    value: int | None = None
    preempts: bool | None = None


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """One PriorityClass."""

    name: str
    value: int
    default: bool = False
    #: False: its services go first when something becomes free, and take nothing from anybody.
    preempts: bool = True


@dataclass(frozen=True, slots=True)
class Rank:
    """A priority as it was resolved."""

    value: int = 0
    preempts: bool = True


def resolve(asked: Priority, classes: Mapping[str, PriorityClass]) -> Rank | None:
    """The rank of who asked; None when its class does not exist."""
    if not asked.class_name and asked.value is not None:
        return Rank(asked.value, asked.preempts is not False)
    if asked.class_name in BUILT_IN:
        found = PriorityClass(asked.class_name, BUILT_IN[asked.class_name])
    elif asked.class_name:
        if asked.class_name not in classes:
            return None
        found = classes[asked.class_name]
    else:
        defaults = [c for c in classes.values() if c.default]
        # As in Kubernetes, the lowest where several say so.
        found = min(defaults, key=lambda c: (c.value, c.name), default=PriorityClass("", 0))
    return Rank(found.value, found.preempts if asked.preempts is None else asked.preempts)
