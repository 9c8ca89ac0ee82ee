"""Annotations by which people and the command line ask something of a service that is no part of its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Names a kept revision that takes all requests until the annotation is removed.
PINNED: Final = "penstock.dev/pinned-revision"
#: Names a revision that skips the steps of `spec.rollout`.
PROMOTED: Final = "penstock.dev/promoted-revision"
#: Names a revision that is given up beside a bandit's arms, though the steps would let it go on.
GIVEN_UP: Final = "penstock.dev/given-up-revision"
#: Any new text makes a new revision, and so new processes, of the same manifest.
RESTARTED_AT: Final = "penstock.dev/restartedAt"
#: "true": a service's processes are stopped and a graph answers nobody, until the annotation is removed.
STOP: Final = "serving.kserve.io/stop"
#: "false": what passes a graph's steps is shown to nobody, whoever asks.
INSPECT: Final = "penstock.dev/inspect"
#: Names of request headers, or regular expressions, that go along to every step of a graph.
HEADERS: Final = "penstock.dev/headers"


def stops(annotations: Mapping[str, str]) -> bool:
    """Whether they ask for what they are about to be stopped."""
    return annotations.get(STOP, "").lower() == "true"
