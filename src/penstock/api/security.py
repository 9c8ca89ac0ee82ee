"""Who may talk to the control API, checked before anything else sees a request.

On a loopback address without a token, everybody on the machine may; what must be kept out is a web page
in the user's browser. A page can make the browser send requests here, directly (CSRF) or by a name that it
points at 127.0.0.1 (DNS rebinding). So the Host header must be a loopback name, an Origin header must be
the same host, and a write must have a content type that no form can send.

With a token every request needs `Authorization: Bearer TOKEN`, but for the two health checks. An address
that other machines can reach is refused at start without one (see `check_bind`).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.api.wire import ApiError, error_response
from penstock.errors import Forbidden, InvalidInput, PenstockError, TooLarge, Unauthorized

#: Bytes of a request's body. Kubernetes' API server has 3 MiB.
MAX_BODY = 3 * 1024 * 1024
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/livez"})
_WRITES = frozenset({"POST", "PUT", "PATCH"})
_TYPES = frozenset(
    {
        "application/json",
        "application/yaml",
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    }
)


def is_loopback(host: str) -> bool:
    """True when only this machine can connect to `host`."""
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(host: str, *, token: str | None, insecure: bool) -> None:
    """Refuse an address that others can reach while nothing protects it. Raises InvalidInput."""
    if not is_loopback(host) and token is None and not insecure:
        raise InvalidInput(
            f"{host} can be reached from other machines and no token is set.",
            hint="Give --token-file FILE, or --insecure to allow everybody.",
        )


def read_token(path: Path) -> str:
    """The token in a file: its first line. Raises InvalidInput when there is none to use."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"The token file {path} cannot be read: {exc}.") from exc
    if len(text) < 16 or not text.isprintable() or " " in text:
        raise InvalidInput(
            f"The token in {path} is too short or has spaces; 16 characters or more are needed.",
            hint="For example: openssl rand -hex 32 > FILE",
        )
    return text


def host_of(header: str) -> str:
    """The host of a Host header, without port and brackets, lower-case."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


class Guard:
    """ASGI middleware: body limit, host, origin, content type, token."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None = None,
        loopback: bool = True,
        hosts: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._loopback = loopback
        self._hosts = {h.lower() for h in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            self._check(scope["method"], scope["path"], headers)
        except PenstockError as exc:
            await error_response(exc)(scope, receive, send)
            return
        await self._app(scope, _limited(receive), send)

    def _check(self, method: str, path: str, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY:
            raise TooLarge(f"The body is over {MAX_BODY} bytes.")
        host = host_of(headers.get("host", ""))
        known = host in self._hosts or is_loopback(host)
        if self._loopback and not known:
            raise Forbidden(
                f"The Host {host!r} is not this server's.",
                hint="Use 127.0.0.1 or localhost, or start with --allow-host NAME.",
            )
        origin = headers.get("origin")
        if origin is not None and host_of(urlsplit(origin).netloc) != host:
            raise Forbidden("Requests from other web sites are refused.")
        if path in OPEN_PATHS and method in ("GET", "HEAD"):
            return
        if self._token is not None:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token):
                raise Unauthorized(
                    "A bearer token is needed." if not given else "The token is wrong.",
                    hint="Give --token-file FILE or set PENSTOCK_TOKEN_FILE.",
                )
        if method in _WRITES:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            has_body = length not in ("", "0") or "transfer-encoding" in headers
            # Some clients of Kubernetes say no type. A page can do so too, but no browser lets it leave out
            # where it is from: with an Origin, which was checked above, the type must be there.
            untyped = not kind and origin is None and "sec-fetch-site" not in headers
            if has_body and kind not in _TYPES and not untyped:
                raise ApiError(
                    415,
                    f"The content type {kind or '(none)'} is not accepted; send application/json.",
                )


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise TooLarge(f"The body is over {MAX_BODY} bytes.")
        return message

    return limited
