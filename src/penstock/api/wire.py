"""Answers in Kubernetes' shape: objects, lists, and `Status` for everything that goes wrong.

The one place that decides on the control API's status codes and error bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from penstock import errors

#: Our reasons in Kubernetes' words, where it has one.
_REASONS: Mapping[int, str] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    501: "NotImplemented",
    503: "ServiceUnavailable",
    504: "Timeout",
}

_encode = msgspec.json.Encoder().encode


class ApiError(errors.PenstockError):
    """An error that already knows its Kubernetes status, e.g. 405, 410, 415, 422."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = code
        self.reason = reason or _REASONS.get(code, "Unknown")
        self.details = dict(details or {})
        self.headers = dict(headers or {})


def invalid(kind: str, group: str, name: str, causes: Iterable[tuple[str, str]]) -> ApiError:
    """422 for a manifest with faults; `causes` are (field path, message)."""
    listed = [
        {"reason": "FieldValueInvalid", "message": message, "field": field}
        for field, message in causes
    ]
    qualified = f"{kind}.{group}" if group else kind
    text = "; ".join(
        f"{c['field']}: {c['message']}" if c["field"] else c["message"] for c in listed
    )
    return ApiError(
        422,
        f'{qualified} "{name}" is invalid: {text}',
        details={"name": name, "group": group, "kind": kind, "causes": listed},
    )


class Named(Protocol):
    """What the messages need of a kind."""

    @property
    def group(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def qualified(self) -> str: ...


def details_of(kind: Named, name: str) -> dict[str, Any]:
    return {"name": name, "group": kind.group, "kind": kind.plural}


def missing(kind: Named, namespace: str, name: str) -> ApiError:
    """404 for an object that there is not."""
    return ApiError(404, f'{kind.qualified} "{name}" not found', details=details_of(kind, name))


def status_object(
    exc: errors.PenstockError, *, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A `Status` for an error."""
    if isinstance(exc, ApiError):
        code, reason = exc.status, exc.reason
        details = {**(details or {}), **exc.details}
    else:
        code = exc.status
        reason = _REASONS.get(code, exc.reason)
    out: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(exc),
        "reason": reason,
        "code": code,
    }
    if isinstance(exc, errors.Unavailable) and exc.retry_after_s is not None:
        details = {**(details or {}), "retryAfterSeconds": max(1, round(exc.retry_after_s))}
    if details:
        out["details"] = dict(details)
    return out


def success(name: str, group: str, plural: str, uid: str) -> dict[str, Any]:
    """The `Status` that answers a delete."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": name, "group": group, "kind": plural, "uid": uid},
    }


def json_response(
    document: Any, code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        _encode(document), code, media_type="application/json", headers=dict(headers or {})
    )


def error_response(exc: errors.PenstockError, details: Mapping[str, Any] | None = None) -> Response:
    """The response for an error."""
    document = status_object(exc, details=details)
    headers = dict(exc.headers) if isinstance(exc, ApiError) else {}
    if exc.status == 401:
        headers["www-authenticate"] = "Bearer"
    retry = document.get("details", {}).get("retryAfterSeconds")
    if retry is not None:
        headers["retry-after"] = str(retry)
    return json_response(document, document["code"], headers)
