"""The one tree of Penstock's own errors.

PenstockError
├── InvalidInput          the caller's bytes, fields or values are wrong            400 / INVALID_ARGUMENT
│   ├── TooLarge          a body, header block or queue entry is over its limit     413 / RESOURCE_EXHAUSTED
│   ├── InvalidManifest   fields of a manifest are wrong; each with its path        422 / INVALID_ARGUMENT
│   └── NoAnswer          nothing in a graph applies to this request                422 / INVALID_ARGUMENT
├── Unauthorized          no credentials, or wrong ones                             401 / UNAUTHENTICATED
├── Forbidden             known caller, not allowed                                 403 / PERMISSION_DENIED
├── NotFound              the named model, version or object does not exist         404 / NOT_FOUND
├── Conflict              a compare-and-swap lost, or the object already exists     409 / ABORTED
├── Unsupported           understood, and deliberately not served here              501 / UNIMPLEMENTED
├── Unavailable           not ready, overloaded or draining: try again              503 / UNAVAILABLE
├── ReplicaLost           the model process ended before it answered                502 / UNAVAILABLE
├── DeadlineExceeded      the request's own deadline passed                         504 / DEADLINE_EXCEEDED
├── ModelError            the model raised, or answered nonsense                    500 / INTERNAL
│   └── LoadError         a model could not be loaded (missing file, wrong format)  500 / INTERNAL
└── Internal              a fault of Penstock's own                                 500 / INTERNAL
    └── Damaged           a file of Penstock's own cannot be trusted; not changed   500 / DATA_LOSS

Each carries one sentence for the caller (`message`) and, where there is something to do about it, a
second one (`hint`). Both quote callers' names, which may be megabytes long: they are cut here, in one place.
Protocols map the classes to their own statuses and shapes, in one place per
protocol; nothing else in the tree decides on a status code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: The longest word (name, path, URI) that is quoted whole, and what is left of a longer one.
LONGEST_WORD: Final = 256
_BEGINNING, _END = 160, 60
#: The longest sentence; a manifest may have a hundred problems.
LONGEST_MESSAGE: Final = 16_384
#: Looked for at the beginnings of words only: else each character of a word is tried, up to 256 times over.
_LONG_WORD: Final = re.compile(rf"(?<!\S)\S{{{LONGEST_WORD + 1},}}")


def quotable(text: str) -> str:
    """`text` with long words cut in the middle, and cut at its end where it is longer than anybody reads."""
    if len(text) <= LONGEST_WORD:
        return text
    cut = _LONG_WORD.sub(lambda m: f"{m[0][:_BEGINNING]}...{m[0][-_END:]}", text)
    return cut if len(cut) <= LONGEST_MESSAGE else f"{cut[: LONGEST_MESSAGE - 3]}..."


class PenstockError(Exception):
    """Base of every error that Penstock raises on purpose."""

    #: HTTP status for protocols that speak HTTP.
    status: int = 500
    #: Short machine-readable reason, CamelCase as Kubernetes has it.
    reason: str = "InternalError"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = quotable(message)
        self.hint = None if hint is None else quotable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidInput(PenstockError):
    """The caller's bytes, fields or values are wrong; the same request will fail again."""

    status = 400
    reason = "InvalidInput"


class TooLarge(InvalidInput):
    """A body, header block or queue entry is over its limit."""

    status = 413
    reason = "TooLarge"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field: its path (`spec.predictor.sklern`) and a sentence."""

    path: str
    message: str
    #: The field is none that there is: it may be left out where a caller asks for that.
    unknown: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidManifest(InvalidInput):
    """Fields of a manifest are wrong or cannot be honoured; `problems` has every one of them."""

    status = 422
    reason = "Invalid"

    def __init__(self, problems: Sequence[FieldProblem], *, about: str = "") -> None:
        head = f"{about}: " if about else ""
        super().__init__(head + "; ".join(map(str, problems)))
        self.problems = tuple(problems)
        self.about = about


class NoAnswer(InvalidInput):
    """A graph ran to its end and no step gave what its output needs: no branch applies to this request."""

    status = 422
    reason = "NoAnswer"


class Unauthorized(PenstockError):
    """No credentials were given, or wrong ones."""

    status = 401
    reason = "Unauthorized"


class Forbidden(PenstockError):
    """The caller is known and not allowed to do this."""

    status = 403
    reason = "Forbidden"


class NotFound(PenstockError):
    """The named model, version or object does not exist."""

    status = 404
    reason = "NotFound"


class Conflict(PenstockError):
    """A compare-and-swap lost against another writer, or the object already exists."""

    status = 409
    reason = "Conflict"


class Unsupported(PenstockError):
    """Understood, and deliberately not served here."""

    status = 501
    reason = "Unsupported"


class Unavailable(PenstockError):
    """Not ready, overloaded or draining: the same request may succeed later."""

    status = 503
    reason = "Unavailable"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ReplicaLost(PenstockError):
    """The model process ended, or broke the protocol, before it answered.

    The request may have been acted on, so it was not sent again.
    """

    status = 502
    reason = "ReplicaLost"


class DeadlineExceeded(PenstockError):
    """The request's own deadline passed before there was an answer."""

    status = 504
    reason = "DeadlineExceeded"


class ModelError(PenstockError):
    """The model raised, or answered something that is no answer."""

    status = 500
    reason = "ModelError"


class LoadError(ModelError):
    """A model could not be loaded: missing or broken file, wrong format, missing package."""

    reason = "ModelLoadFailed"


class Internal(PenstockError):
    """A fault of Penstock's own."""

    reason = "InternalError"


class Damaged(Internal):
    """A file of Penstock's own cannot be trusted. It was left as it is."""

    reason = "Damaged"
