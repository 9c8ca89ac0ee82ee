"""HTTP downloads: redirects without leaking headers, ranges that are checked, statuses as our errors.

httpx does the wire. What it does not do is here: credentials go to the host they are for and no further, a
redirect never leaves TLS, a link-local peer (a cloud's metadata service) is hung up on, and a partial
answer is only taken when it is a part of the object that was listed.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from penstock.errors import Forbidden, LoadError, NotFound, PenstockError, Unauthorized
from penstock.storage.settings import Settings
from penstock.storage.source import Changed, Transient
from penstock.storage.uris import redact

_MAX_JSON_BYTES: Final = 16 * 1024 * 1024
_MAX_REDIRECTS: Final = 10
#: A socket's reads are small, and each piece handed on costs a thread.
_GATHER_BYTES: Final = 1024 * 1024
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_TRANSIENT: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_CONTENT_RANGE: Final = re.compile(r"^bytes (\d+)-(\d+)/(\d+|\*)$")

#: From a URL's host (with port) to the headers it may see.
HeadersFor = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer whose body has not been read."""

    response: httpx.Response
    #: Bytes of the whole object; None when the server does not say.
    size_bytes: int | None
    #: What `If-Range` takes, when the server gives anything that strong.
    validator: str | None
    #: What differs when the object does, also where it is too weak to resume by.
    version: str | None


class RangedClient:
    """One connection pool; close it."""

    def __init__(self, settings: Settings, headers_for: HeadersFor, *, ca_pem: str = "") -> None:
        self._settings = settings
        self._headers_for = headers_for
        self._client = httpx.AsyncClient(
            verify=_tls(settings, ca_pem),
            timeout=httpx.Timeout(settings.idle_s, connect=settings.connect_s),
            follow_redirects=False,
            limits=httpx.Limits(max_connections=settings.concurrency + 1),
        )

    async def open(
        self, url: str, shown: str, *, offset: int = 0, validator: str | None = None
    ) -> Opened:
        """GET from `offset` on, if the object is still `validator`'s; redirects followed.

        The caller closes `response`. Changed when it is another object now.
        """
        response = await self._get(url, shown, offset, validator)
        try:
            return self._opened(response, shown, offset, validator)
        except BaseException:
            await response.aclose()
            raise

    async def read(self, opened: Opened, shown: str, skip: int = 0) -> AsyncIterator[bytes]:
        """The body's bytes as they are on the wire (no Content-Encoding is undone), then close."""
        gathered = bytearray()
        failure: httpx.HTTPError | None = None
        try:
            try:
                async for chunk in opened.response.aiter_raw():
                    gathered += chunk
                    if len(gathered) < _GATHER_BYTES:
                        continue
                    if skip < len(gathered):
                        yield bytes(gathered[skip:])
                    skip = max(0, skip - len(gathered))
                    gathered.clear()
            except httpx.HTTPError as error:
                failure = error
            if skip < len(gathered):  # what came before it broke off has come
                yield bytes(gathered[skip:])
        finally:
            await opened.response.aclose()
        if failure is not None:
            raise Transient(f"{shown}: {_words(failure)}") from failure

    async def json(self, url: str, shown: str) -> tuple[int, Any]:
        """The status of an answer, and the JSON in its body (None: there is none). Transient."""
        response = await self._get(url, shown, 0, None)
        if response.status_code in _TRANSIENT:
            await response.aclose()
            raise Transient(f"{shown} answered {response.status_code}")
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_JSON_BYTES:
                    raise LoadError(
                        f"{shown}: the server's answer is over {_MAX_JSON_BYTES} bytes."
                    )
        except httpx.HTTPError as error:
            raise Transient(f"{shown}: {_words(error)}") from error
        finally:
            await response.aclose()
        try:
            return response.status_code, msgspec.json.decode(bytes(body))
        except (msgspec.MsgspecError, RecursionError):
            return response.status_code, None

    async def close(self) -> None:
        await self._client.aclose()

    async def _get(
        self, url: str, shown: str, offset: int, validator: str | None
    ) -> httpx.Response:
        try:
            target = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise LoadError(f"{shown} is not a URL: {error}.") from None
        for _ in range(_MAX_REDIRECTS):
            refuse_link_local(target.host, shown, self._settings)
            headers = {"accept-encoding": "identity", "user-agent": "penstock"}
            headers.update(self._headers_for(target.netloc.decode()))
            if offset:
                headers["range"] = f"bytes={offset}-"
                if validator is not None:
                    headers["if-range"] = validator
            try:
                response = await self._client.send(
                    self._client.build_request("GET", target, headers=headers), stream=True
                )
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise LoadError(f"{shown}: {error}.") from None
            except httpx.HTTPError as error:
                if (permanent := _certificate_error(error)) is not None:
                    raise LoadError(
                        f"{shown}: the server's certificate is not trusted ({permanent}).",
                        hint="Add its authority to the trusted certificates (ca_file).",
                    ) from error
                raise Transient(f"{shown}: {_words(error)}") from error
            try:
                self._refuse_peer(response, shown)
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    return response
                following = target.join(response.headers["location"])
            except httpx.InvalidURL as error:
                await response.aclose()
                raise LoadError(
                    f"{shown} redirects to something that is no URL ({error})."
                ) from None
            except BaseException:
                await response.aclose()
                raise
            await response.aclose()
            if following.scheme not in ("http", "https") or not following.host:
                raise LoadError(
                    f"{shown} redirects to what is no http address ({following.scheme or 'none'})."
                )
            if target.scheme == "https" and following.scheme != "https":
                raise LoadError(
                    f"{shown} redirects from https to {following.scheme}, to {_host(following)}."
                )
            target = following
        raise LoadError(f"{shown} redirects more than {_MAX_REDIRECTS} times.")

    def _refuse_peer(self, response: httpx.Response, shown: str) -> None:
        # After the fact, and before a byte is used: names that resolve anew cannot get around it.
        stream: Any = response.extensions.get("network_stream")
        address = stream.get_extra_info("server_addr") if stream is not None else None
        if isinstance(address, tuple):
            refuse_link_local(str(address[0]), shown, self._settings)

    def _opened(
        self, response: httpx.Response, shown: str, offset: int, validator: str | None
    ) -> Opened:
        status = response.status_code
        if status == 416:
            raise Changed
        if status not in (200, 206):
            raise status_error(status, shown, response.headers)
        headers = response.headers
        etag = headers.get("etag", "")
        strong = etag if etag and not etag.startswith("W/") else None
        modified = headers.get("last-modified")
        size = _length(headers)
        if status == 206:
            span = _CONTENT_RANGE.match(headers.get("content-range", ""))
            if not offset or span is None or int(span[1]) != offset:
                raise LoadError(
                    f"{shown} answered with another part of the file than was asked for."
                )
            size = int(span[3]) if span[3] != "*" else None
        elif offset and validator is not None and validator not in (strong, modified):
            raise Changed
        if "gzip" in headers.get("content-encoding", ""):
            size = None if status == 200 else size
        return Opened(response, size, strong or modified, etag or modified)


def status_error(status: int, shown: str, headers: Mapping[str, str]) -> PenstockError | Transient:
    """Our error for an answer that is no file."""
    if status == 401:
        return Unauthorized(
            f"{shown} wants credentials, or others (401).",
            hint="Give the service a Secret for that host (https-host and headers, or HF_TOKEN).",
        )
    if status in (403, 407):
        return Forbidden(
            f"{shown} is not for these credentials ({status}).",
            hint="A signed URL may have expired.",
        )
    if status in (404, 410):
        return NotFound(f"There is nothing at {shown} ({status}).", hint="Check the spelling.")
    if status in _TRANSIENT:
        return Transient(f"{shown} answered {status}", retry_after_s=_retry_after(headers))
    return LoadError(f"{shown} answered {status}, which is no file.")


def refuse_link_local(host: str, shown: str, settings: Settings) -> None:
    """Forbidden for an address that only this machine's own neighbourhood has. Names pass; see above."""
    if settings.allow_private_metadata:
        return
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        if host.lower().rstrip(".") in ("metadata.google.internal", "metadata"):
            raise Forbidden(f"{shown}: {host} hands out this machine's own credentials.") from None
        return
    mapped = getattr(address, "ipv4_mapped", None)
    if (mapped or address).is_link_local or str(address) == "fd00:ec2::254":
        raise Forbidden(
            f"{shown}: {host} is a link-local address, where clouds keep their machines' credentials.",
            hint="An operator can allow it (allow_private_metadata).",
        )


def refuse_endpoint(host: str, shown: str, settings: Settings) -> None:
    """As above for a host that another library will connect to: what it resolves to counts. Blocking."""
    refuse_link_local(host, shown, settings)
    if settings.allow_private_metadata:
        return
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return  # the library will say so, and try again
    for *_, address in found:
        refuse_link_local(str(address[0]), f"{shown} ({host})", settings)


def _tls(settings: Settings, ca_pem: str) -> ssl.SSLContext:
    try:
        file = settings.ca_file
        # Comments between certificates may be in any language.
        own = "" if file is None else file.read_text(encoding="ascii", errors="ignore")
        return _trusting(own, ca_pem, *map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise LoadError(f"The trusted certificates cannot be read: {error}.") from error


@functools.lru_cache(maxsize=16)
def _trusting(ca_file: str, ca_pem: str, *_places: str | None) -> ssl.SSLContext:
    """A context that trusts the usual authorities and these. Making one takes 70 ms and 850 kB."""
    context = httpx.create_ssl_context()
    for certificates in (ca_file, ca_pem):
        if certificates:
            context.load_verify_locations(cadata=certificates)
    return context


def _length(headers: httpx.Headers) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _certificate_error(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
        error = error.__cause__ or error.__context__
    return None


def _words(error: httpx.HTTPError) -> str:
    return redact(str(error)) or type(error).__name__


def _host(url: httpx.URL) -> str:
    return url.netloc.decode()
