"""How a graph's request ended, and what is remembered of its steps for a trace."""

from __future__ import annotations

from typing import Any, Final

from penstock.graphs.values import Failure, Value

#: A step's outcome while it has none.
RUNNING: Final = "running"


class StepRecord:
    """What happened to one step, for a trace. Times are seconds from the request's start."""

    __slots__ = (
        "branch", "detail", "ended_s", "gave", "given", "outcome", "path", "started_s", "target",
        "within",
    )  # fmt: skip

    def __init__(self, path: str, target: str, started_s: float, within: str = "") -> None:
        self.path = path
        #: Paths of the steps that it ran inside of, from the outermost, with slashes between.
        self.within = within
        self.target = target
        self.started_s = started_s
        self.ended_s = started_s
        self.outcome = RUNNING
        self.detail = ""
        self.branch: tuple[int, ...] | None = None
        #: What it was given and what it answered, as an `inspection.Inspector` wrote it down.
        self.given: Any = None
        self.gave: Any = None


class Result:
    """How a graph ended: exactly one of `value`, `failure` and `nothing` is set."""

    __slots__ = ("failure", "nothing", "value")

    def __init__(
        self, value: Value | None = None, failure: Failure | None = None, nothing: str = ""
    ) -> None:
        self.value = value
        self.failure = failure
        #: Why there is no value: which steps were skipped, and why.
        self.nothing = nothing
