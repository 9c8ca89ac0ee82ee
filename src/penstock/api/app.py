"""The control API: which path and method is which verb.

Kubernetes' wire conventions throughout, so that its tools can be pointed here. `security.Guard` stands in
front of everything; `admission` and `objects` are behind the writes; `streams` behind what goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.api import (
    reviews,
)
from penstock.api.about import About
from penstock.api.security import Guard
from penstock.api.verbs import Verbs
from penstock.api.wire import ApiError, error_response
from penstock.control.plane import ControlPlane
from penstock.errors import Internal, PenstockError
from penstock.store.base import Expired

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

_ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build(
    plane: ControlPlane,
    *,
    stop: asyncio.Event,
    token: str | None = None,
    loopback: bool = True,
    hosts: Iterable[str] = (),
) -> ASGIApp:
    """The ASGI application. `stop` ends what goes on (watches, followed logs)."""
    api, about = Verbs(plane, stop), About(plane)
    routes = [
        Route("/healthz", _answer(about.healthz)),
        Route("/livez", _answer(about.healthz)),
        Route("/readyz", _answer(about.readyz)),
        Route("/metrics", _answer(about.metrics)),
        Route("/metrics.json", _answer(about.metrics_json)),
        Route("/version", _answer(about.version)),
        Route("/openapi/v2", _answer(about.openapi_v2)),
        Route("/openapi/v3", _answer(about.openapi_v3)),
        Route("/openapi/v3/{path:path}", _answer(about.openapi_v3)),
        *(Route(path, _answer(api.review), methods=["POST"]) for path in reviews.PATHS),
        Route("/api", _answer(about.core_versions)),
        Route("/api/v1", _answer(about.core_resources)),
        Route("/apis", _answer(about.groups)),
        Route("/apis/{group}", _answer(about.group)),
        Route("/apis/{group}/{version}", _answer(about.group_resources)),
        Route("/{path:path}", _answer(api.resource), methods=_ALL_METHODS),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_exception})
    return Guard(_slashless(app), token=token, loopback=loopback, hosts=hosts)


def _slashless(app: ASGIApp) -> ASGIApp:
    """Kubernetes' clients end some paths with a slash, and none means anything by it."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if len(path) > 1 and path.endswith("/"):
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await app(scope, receive, send)

    return called


def _answer(handler: Handler) -> Handler:
    """Errors become `Status` documents, here and nowhere else."""

    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except PenstockError as exc:
            return error_response(exc)
        except Expired as exc:
            return error_response(ApiError(410, f"The resource version is too old: {exc}"))
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception:  # the request's border: one request fails, not the process
            log.exception("%s %s failed", request.method, request.url.path)
            return error_response(Internal("The control plane failed; its log says more."))

    return answered


async def _http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for it alone
    if exc.status_code == 405:
        error = ApiError(
            405, f"{request.method} is not possible at {request.url.path}.", headers=exc.headers
        )
    else:
        error = ApiError(exc.status_code, str(exc.detail), headers=exc.headers)
    return error_response(error)
