"""How a graph's end becomes an answer, in the shape that the graph's dialect has.

An answer that a service gave goes on as it is, status included, when that is what the dialect's users know
(KServe's hard dependency). Errors of ours have V1's and V2's shape, `{"error": ...}`, with the step's path
beside it; Seldon's pipelines answer 400 with `STEP : error` as text.
"""

from __future__ import annotations

import json
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.graph import Answers
from penstock.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelError,
    NoAnswer,
    NotFound,
    PenstockError,
    ReplicaLost,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from penstock.gateway.proxy import error_answer
from penstock.graphs.results import RUNNING

if TYPE_CHECKING:
    from penstock.graphs.execution import Execution
    from penstock.graphs.results import Result
    from penstock.graphs.values import Failure
    from penstock.http.head import RequestHead

TRACE_HEADER: Final = b"x-penstock-trace"
#: The parameter of a gRPC answer that has the same.
TRACE_PARAMETER: Final = "penstock_trace"
#: A trace is a header, and clients refuse long ones.
MOST_TRACE_BYTES: Final = 6 * 1024

_encode = msgspec.json.encode

_KINDS: Final[dict[int, type[PenstockError]]] = {
    400: InvalidInput, 401: Unauthorized, 403: Forbidden, 404: NotFound, 501: Unsupported,
    502: ReplicaLost, 503: Unavailable, 504: DeadlineExceeded,
}  # fmt: skip


class StepFailed(PenstockError):
    """A step failed with a status that has no class of its own here."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = "StepFailed"


def error_of(key: str, result: Result) -> PenstockError:
    """The error that a result without a value is."""
    failure = result.failure
    if failure is None:
        return NoAnswer(f"The graph {key} gave no answer: {result.nothing}.")
    message = failure.message
    if failure.step and not message.startswith(f"The step {failure.step} "):
        message = f"The step {failure.step} failed: {message}"
    kind = _KINDS.get(failure.status)
    if kind is Unavailable:
        return Unavailable(message, retry_after_s=failure.retry_after_s)
    if kind is not None:
        return kind(message)
    if failure.status == 500:
        return ModelError(message)
    # A redirection is the step's, whose address the client does not know.
    return StepFailed(failure.status if failure.status >= 400 else 502, message)


def failure_answer(key: str, answers: Answers, result: Result) -> tuple[int, bytes, bytes]:
    """Status, header lines and body for a graph that ended without a value."""
    failure = result.failure
    error = error_of(key, result)
    if failure is not None and answers is Answers.KSERVE:
        return _kserve(failure, error)
    if answers is Answers.SELDON_V2 and failure is not None:
        text = of_step(failure)
        if text:
            return 400, b"content-type: text/plain; charset=utf-8\r\n", text.encode()
    status, headers, _ = error_answer(error)
    document: dict[str, Any] = {"error": str(error)}
    if failure is not None and failure.step:
        document["step"] = failure.step
    return status, headers, _encode(document)


def of_step(failure: Failure) -> str:
    """`STEP : error`, as Seldon's pipelines say that a model failed; empty for what else went wrong."""
    if not failure.step or failure.status in (503, 504):
        return ""
    step = failure.step.rpartition(".")[2]
    return f"{step} : {failure.message.removeprefix(f'{step}: ')}"


def _kserve(failure: Failure, error: PenstockError) -> tuple[int, bytes, bytes]:
    if failure.body is not None:
        headers = b"content-type: %b\r\n" % failure.body.content_type
        if failure.retry_after_s is not None:
            headers += b"retry-after: %d\r\n" % max(1, round(failure.retry_after_s))
        return failure.status, headers, bytes(failure.body.data)
    status, headers, _ = error_answer(error)
    if failure.reason == "NoRoute":
        document = {"error": "Failed to process request", "cause": failure.message}
    else:
        document = {"error": str(error)}
    return status, headers, _encode(document)


def wants_trace(head: RequestHead) -> bool:
    """Whether a request asks what its steps did."""
    asked = head.get(TRACE_HEADER)
    if asked is not None and asked.strip() not in (b"", b"0", b"false"):
        return True
    return "trace=1" in head.query.split("&") if head.query else False


def trace_line(text: str) -> bytes:
    """A header line, or a trailer, with a trace."""
    return b"%b: %b\r\n" % (TRACE_HEADER, text.encode("ascii"))


def steps_of(execution: Execution) -> tuple[float, list[dict[str, Any]]]:
    """Milliseconds since a request began, and what each step did."""
    now_s = perf_counter() - execution.since
    ms = now_s * 1000
    steps: list[dict[str, Any]] = []
    for r in execution.records or ():
        step: dict[str, Any] = {
            "step": r.path,
            "outcome": r.outcome,
            "start_ms": round(r.started_s * 1000, 3),
            "ms": round(((now_s if r.outcome == RUNNING else r.ended_s) - r.started_s) * 1000, 3),
        }
        if r.within:
            step["within"] = r.within
        if r.target:
            step["target"] = r.target
        if r.branch is not None:
            step["branch"] = list(r.branch)
        if r.detail:
            step["detail"] = r.detail[:200]
        if r.given is not None:
            step["given"] = r.given
        if r.gave is not None:
            step["gave"] = r.gave
        steps.append(step)
    return round(ms, 3), steps


def trace_of(execution: Execution) -> str:
    """What each step did, as JSON; the last steps are left out where it is long."""
    ms, steps = steps_of(execution)
    if execution.inspector is not None:
        for step in steps:
            step.pop("given", None)
            step.pop("gave", None)
    document: dict[str, Any] = {"graph": execution.program.key, "ms": ms, "steps": steps}
    # ASCII, because it is a header.
    text = json.dumps(document, separators=(",", ":"))
    while len(text) > MOST_TRACE_BYTES and steps:
        document["more"] = document.get("more", 0) + max(1, len(steps) // 2)
        del steps[len(steps) - max(1, len(steps) // 2) :]
        text = json.dumps(document, separators=(",", ":"))
    return text
