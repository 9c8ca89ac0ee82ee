"""What a class for Seldon's wrapper says when it refuses a request or fails, as Penstock's errors.

Such a class has two ways: an exception with a `status_code`, as Seldon's SeldonMicroserviceException has,
or, of a raw method, an answer whose `status` is a failure. Both are its author's own words for the caller, so
status, text and reason go on. What any other exception says is for the log: it may quote the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock.errors import InvalidInput, ModelError, PenstockError

_SELDONS: Final = "SeldonMicroserviceException"
#: Seldon's base class raises it in each method that a class leaves out.
_NOT_THERE: Final = ("SeldonNotImplementedError", "NotImplementedHere")
_MOST_REASON: Final = 100


class UnitRefused(InvalidInput):
    """The class refuses the request, with a status of its own."""


class UnitFailed(ModelError):
    """The class fails, with a status and words of its own."""


def _made(status: int, message: str, reason: Any) -> PenstockError:
    kind = UnitRefused if status < 500 else UnitFailed
    error = kind(message)
    error.status = status
    if isinstance(reason, str) and 0 < len(reason) <= _MOST_REASON:
        error.reason = reason
    return error


def own_error(error: BaseException, what: str) -> PenstockError | None:
    """The error that an exception of a class means; None where it is not meant for the caller."""
    status = getattr(error, "status_code", None)
    if type(status) is not int or not 400 <= status < 600:
        return None
    if status >= 500 and not any(c.__name__ == _SELDONS for c in type(error).__mro__):
        return None
    said = getattr(error, "message", None)
    message = said if isinstance(said, str) and said else str(error)
    message = message or f"The unit refused the request in {what}."
    return _made(status, message, getattr(error, "reason", None))


def not_there(error: BaseException) -> bool:
    """Whether an exception says that the method is not there, whoever has it."""
    return any(c.__name__ in _NOT_THERE for c in type(error).__mro__)


def failure_in(answer: Mapping[str, Any]) -> PenstockError | None:
    """The error that a raw answer is, by its `status`; None for one that is none."""
    status = answer.get("status")
    if not isinstance(status, Mapping):
        return None
    code = status.get("code")
    failed = status.get("status") in ("FAILURE", 1)
    if type(code) is not int or not 400 <= code < 600:
        if not failed:
            return None
        code = 500
    info = status.get("info")
    message = info if isinstance(info, str) and info else "The unit answered a failure."
    return _made(code, message, status.get("reason"))
