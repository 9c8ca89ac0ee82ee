"""What the stores that obstore speaks to have in common: listing a prefix, reading ranges, errors.

obstore's own retries are off: the engine's know how far a file has come.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import (
    Forbidden,
    InvalidInput,
    LoadError,
    NotFound,
    PenstockError,
    Unauthorized,
)
from penstock.storage.settings import Settings
from penstock.storage.source import (
    Changed,
    Entry,
    Listing,
    Source,
    Transient,
    check_entries,
    nothing_there,
    relative_path,
)
from penstock.storage.uris import redact

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, S3Store

_STATUS: Final = re.compile(r"status code: (\d{3})")
_XML: Final = re.compile(r"<(Code|Message)>([^<]{1,300})</\1>")
_MIN_CHUNK: Final = 1024 * 1024


class ObjectSource(Source):
    """An object, or everything below a prefix, in one bucket."""

    #: Set by the subclass.
    store: S3Store | AzureStore

    def __init__(self, uri: str, root: str, path: str, settings: Settings) -> None:
        super().__init__(uri)
        self._root = root
        self._key = path.rstrip("/")
        self._is_prefix = path.endswith("/") or not path
        self._settings = settings

    async def list(self) -> Listing:
        import obstore

        single = None if self._is_prefix else await self._head()
        if single is not None and single["size"] > 0:
            name = relative_path(self._key.rpartition("/")[2], self.shown)
            return Listing((_entry(name, single),), single=True)
        found: list[Entry] = []
        below = f"{self._key}/" if self._key else ""
        try:
            async for page in obstore.list(self.store, prefix=self._key or None, chunk_size=1000):
                for meta in page:
                    # Consoles make empty objects to show folders; some of them are named like the folder.
                    if meta["path"] == self._key or (
                        not meta["size"] and meta["path"].endswith("_$folder$")
                    ):
                        continue
                    name = relative_path(meta["path"].removeprefix(below), self.shown)
                    found.append(_entry(name, meta))
                if len(found) > self._settings.max_files:
                    break
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise self._error(error) from error
        names = {e.path for e in found}
        folders = {p for n in names for p in _parents(n)}
        files = [e for e in found if e.size_bytes or e.path not in folders]
        if not files:
            if single is not None:  # an empty object is an odd model, but it is what was named
                name = relative_path(self._key.rpartition("/")[2], self.shown)
                return Listing((_entry(name, single),), single=True)
            tried = [f"objects below {below or '/'} in {self._root}"]
            if not self._is_prefix:
                tried.insert(0, f"the object {self._key}")
            raise nothing_there(self.shown, *tried)
        return Listing(check_entries(files, self.shown, self._settings.max_files))

    async def _head(self) -> Any:
        import obstore

        try:
            return await obstore.head_async(self.store, self._key)
        except FileNotFoundError:
            return None
        except obstore.exceptions.PermissionDeniedError:
            # S3 says 403 of what is not there to those who may not list; listing will tell.
            return None
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise self._error(error) from error

    async def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        import obstore

        options: Any = {}
        if entry.version is not None:
            options["if_match"] = entry.version
        if offset:
            options["range"] = {"offset": offset}
        try:
            result = await obstore.get_async(self.store, entry.key, options=options)
            if result.meta["size"] != entry.size_bytes:
                raise Changed
            async for chunk in result.stream(min_chunk_size=_MIN_CHUNK):
                yield bytes(chunk)
        except (FileNotFoundError, obstore.exceptions.PreconditionError):
            raise Changed from None
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> PenstockError | Transient:
        """obstore's exception as ours. What it prints after the first lines is for its developers."""
        import obstore

        text = str(error).partition("\n\nDebug source")[0]
        match = _STATUS.search(text)
        status = int(match[1]) if match else None
        details = dict(_XML.findall(text))
        said = redact(": ".join(details.values()) or text.partition("\n")[0])
        code = details.get("Code", "")
        if isinstance(error, FileNotFoundError) or status == 404:
            return NotFound(
                f"{self.shown}: there is no bucket or container {self._root} there ({said})."
                if code in ("NoSuchBucket", "ContainerNotFound") or "Container" in code
                else f"{self.shown} is not there ({said}).",
                hint="Check the spelling, and the endpoint.",
            )
        if isinstance(error, obstore.exceptions.UnauthenticatedError) or status == 401:
            return Unauthorized(
                f"{self.shown} wants credentials, or others ({said}).", hint=self._hint()
            )
        if isinstance(error, obstore.exceptions.PermissionDeniedError) or status == 403:
            kind = (
                Unauthorized
                if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed")
                else Forbidden
            )
            return kind(f"{self.shown} is not for these credentials ({said}).", hint=self._hint())
        if isinstance(error, obstore.exceptions.InvalidPathError | ValueError):
            return InvalidInput(f"{self.shown}: {said}.")
        if "certificate" in str(error).lower() and "invalid peer" in str(error).lower():
            return LoadError(
                f"{self.shown}: the server's certificate is not trusted.",
                hint="Put its authority into the Secret (cabundle.crt), or into the trusted ones (ca_file).",
            )
        if status is not None and status < 500 and status not in (408, 429):
            if status in (301, 307):
                return LoadError(
                    f"{self.shown} is in another region ({said}).",
                    hint="Set the region (s3-region).",
                )
            return LoadError(f"{self.shown}: {said}.")
        return Transient(f"{self.shown}: {said}")

    def _hint(self) -> str:
        return "Give the service a Secret that opens it."


def client_options(settings: Settings, endpoint: str, *, verify: bool, ca_pem: str) -> ClientConfig:
    """obstore's HTTP client: bounded waits, plain HTTP only where the endpoint says so."""
    options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=settings.connect_s),
        "read_timeout": timedelta(seconds=settings.idle_s),
        # Of a whole body, which may be long; the fetch's own deadline bounds it.
        "timeout": timedelta(seconds=settings.deadline_s),
        "user_agent": "penstock",
    }
    if not verify:
        options["allow_invalid_certificates"] = True
    pem = ca_pem + ("\n" + _pem(settings.ca_file) if settings.ca_file is not None else "")
    if pem:
        options["root_certificate"] = pem
    return options


def _pem(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise LoadError(f"The trusted certificates cannot be read: {error}.") from error


def _entry(name: str, meta: Any) -> Entry:
    version = meta["e_tag"]
    return Entry(name, meta["path"], meta["size"], version)


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]
