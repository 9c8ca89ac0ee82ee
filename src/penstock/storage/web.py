"""`http://` and `https://`: one file, or an archive.

One GET tells what is there; its body is read at once if the cache has not got it, and dropped if it has.
Signed URLs are often good for GET only, so there is no HEAD before it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from penstock.errors import LoadError
from penstock.storage.credentials import Credentials
from penstock.storage.ranged import Opened, RangedClient
from penstock.storage.settings import Settings
from penstock.storage.source import Changed, Entry, Listing, Source, relative_path
from penstock.storage.uris import Location

_FILE_NAME: Final = re.compile(r"""filename\*?=(?:UTF-8'[\w-]*')?"?([^";]+)"?""", re.IGNORECASE)


class WebSource(Source):
    """One URL."""

    def __init__(self, location: Location, credentials: Credentials, settings: Settings) -> None:
        super().__init__(location.uri)
        parts = urlsplit(location.uri)
        own: dict[str, str] = {}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            own["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
        self.identity = self._url

        def headers_for(asked: str) -> Mapping[str, str]:
            found = credentials.headers_for(asked) or credentials.headers_for(_bare(asked))
            return {**found, **own} if asked.lower() == host.lower() else found

        self._client = RangedClient(settings, headers_for)
        self._first: Opened | None = None
        self._validator: str | None = None

    async def list(self) -> Listing:
        await self._drop_first()
        opened = await self._client.open(self._url, self.shown)
        self._first = opened
        self._validator = opened.validator
        headers = opened.response.headers
        name = self._name(headers.get("content-disposition", ""))
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding not in ("", "identity") and not name.endswith((".gz", ".tgz")):
            raise LoadError(
                f"{self.shown} sends {encoding}-encoded bytes though it was asked not to.",
                hint="Turn the server's compression off for model files.",
            )
        # Without a strong validator a version tells changes, and cannot be resumed by: still worth having.
        entry = Entry(name, self._url, opened.size_bytes, opened.version)
        return Listing((entry,), single=True, media_type=headers.get("content-type", ""))

    async def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        first, self._first = self._first, None
        skip = 0
        if first is None or offset:
            if first is not None:
                await first.response.aclose()
            asked = offset if self._validator is not None else 0
            first = await self._client.open(
                self._url, self.shown, offset=asked, validator=self._validator
            )
            if first.version != entry.version or first.size_bytes != entry.size_bytes:
                await first.response.aclose()
                raise Changed
            skip = offset if first.response.status_code == 200 else 0
        async for chunk in self._client.read(first, self.shown, skip):
            yield chunk

    async def prove(self, listing: Listing) -> None:
        """Listing it was reading it."""

    async def close(self) -> None:
        await self._drop_first()
        await self._client.close()

    async def _drop_first(self) -> None:
        if self._first is not None:
            await self._first.response.aclose()
            self._first = None

    def _name(self, disposition: str) -> str:
        match = _FILE_NAME.search(disposition)
        name = unquote(match[1]) if match else unquote(urlsplit(self._url).path.rpartition("/")[2])
        name = name.replace("\\", "/").rpartition("/")[2].strip()
        return relative_path(name, self.shown) if name not in ("", ".", "..") else "model"


def _bare(netloc: str) -> str:
    return netloc.rpartition(":")[0] if re.search(r":\d+$", netloc) else netloc
