"""`gs://`: Google Cloud Storage, by gcsfs.

gcsfs refreshes tokens with blocking calls, so everything of it runs in threads (its own loop behind them).
It tries a failing request six times by itself, over half a minute: what it raises then is final.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from penstock.errors import (
    Forbidden,
    InvalidInput,
    LoadError,
    NotFound,
    PenstockError,
    Unauthorized,
    Unavailable,
)
from penstock.storage.credentials import GcsCredentials
from penstock.storage.download import in_thread
from penstock.storage.ranged import refuse_endpoint
from penstock.storage.settings import MIB, Settings
from penstock.storage.source import (
    Changed,
    Entry,
    Listing,
    Source,
    check_entries,
    nothing_there,
    relative_path,
)
from penstock.storage.uris import Location, redact

T = TypeVar("T")
_GOOGLE: Final = "https://storage.googleapis.com"
_SCOPES: Final = ["https://www.googleapis.com/auth/devstorage.read_only"]
_RANGE_BYTES: Final = 16 * MIB


class GcsSource(Source):
    """An object, or everything below a prefix, in one bucket."""

    def __init__(
        self, location: Location, credentials: GcsCredentials | None, settings: Settings
    ) -> None:
        super().__init__(location.uri)
        self._credentials = credentials or GcsCredentials()
        self._endpoint = self._credentials.endpoint.rstrip("/") or _GOOGLE
        host = urlsplit(self._endpoint).hostname
        if not self._endpoint.startswith(("http://", "https://")) or not host:
            raise InvalidInput(
                f"The Cloud Storage endpoint {redact(self._endpoint)} is no http or https URL."
            )
        if self._credentials.endpoint:
            refuse_endpoint(host, self.shown, settings)
        self._bucket = location.root
        self._key = location.path.rstrip("/")
        self._is_prefix = location.path.endswith("/") or not location.path
        self._path = f"{location.root}/{self._key}".rstrip("/")
        self._settings = settings
        self._fs: Any = None
        self.identity = f"gs:{self._endpoint}/{location.root}/{location.path}"
        try:
            import gcsfs  # noqa: F401 - its absence is said now, not in a thread
        except ImportError as error:
            raise LoadError(
                f"{self.shown}: gs:// needs the package gcsfs.", hint="pip install 'penstock[gcs]'"
            ) from error

    async def list(self) -> Listing:
        return await self._call(self._list)

    def _list(self) -> Listing:
        fs = self._open()
        if not self._is_prefix:
            try:
                info = fs.info(self._path)
            except FileNotFoundError:
                info = None
            if info is not None and info["type"] == "file":
                name = relative_path(self._key.rpartition("/")[2], self.shown)
                return Listing((_entry(name, info),), single=True)
        below = f"{self._path}/"
        found = [
            _entry(relative_path(name.removeprefix(below), self.shown), info)
            for name, info in fs.find(self._path, detail=True).items()
            if info["type"] == "file" and not name.endswith("/") and name != self._path
        ]
        if not found:
            prefix = f"{self._key}/" if self._key else "/"
            tried = [f"objects below {prefix} in the bucket {self._bucket}"]
            if not self._is_prefix:
                tried.insert(0, f"the object {self._key}")
            raise nothing_there(self.shown, *tried)
        return Listing(check_entries(found, self.shown, self._settings.max_files))

    async def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        size = entry.size_bytes or 0
        while offset < size:
            end = min(offset + _RANGE_BYTES, size)
            data = await self._call(self._range, entry, offset, end)
            if len(data) != end - offset:
                raise Changed
            offset = end
            yield data

    def _range(self, entry: Entry, start: int, end: int) -> bytes:
        try:
            # By generation: the bytes that were listed, whatever has been written since.
            return bytes(
                self._open().cat_file(entry.key, start=start, end=end, generation=entry.version)
            )
        except FileNotFoundError:
            raise Changed from None

    async def settled(self, entry: Entry) -> bool:
        # Google keeps to the generation asked for; emulators of it may not.
        try:
            info = await self._call(lambda: self._open().info(entry.key))
        except NotFound:
            return False
        return _entry(entry.path, info).version == entry.version

    async def close(self) -> None:
        fs, self._fs = self._fs, None
        if fs is not None and fs.session is not None:
            await in_thread(_close, fs)

    def _open(self) -> Any:
        if self._fs is None:
            import aiohttp
            from gcsfs.core import GCSFileSystem

            self._fs = GCSFileSystem(
                token=self._token(),
                access="read_only",
                endpoint_url=self._endpoint,
                project="",
                requests_timeout=aiohttp.ClientTimeout(
                    sock_read=self._settings.idle_s, sock_connect=self._settings.connect_s
                ),
                use_listings_cache=False,
                skip_instance_cache=True,
            )
        return self._fs

    def _token(self) -> Any:
        """Credentials that have been tried: gcsfs would try a bad key for half a minute."""
        if not self._credentials.key_json and not self._credentials.ambient:
            return "anon"
        import google.auth
        import google.auth.exceptions
        import requests
        from google.auth.transport.requests import Request

        try:
            credentials = (
                self._own_key() if self._credentials.key_json else google.auth.default(_SCOPES)[0]
            )
        except google.auth.exceptions.DefaultCredentialsError:
            return "anon"
        with requests.Session() as session:
            session.trust_env = False  # ~/.netrc is not the service's
            credentials.refresh(Request(session))
        return credentials

    def _own_key(self) -> Any:
        import google.oauth2.credentials
        import google.oauth2.service_account

        key = json.loads(self._credentials.key_json)
        try:
            if key["type"] == "authorized_user":
                return google.oauth2.credentials.Credentials.from_authorized_user_info(key, _SCOPES)
            host = urlsplit(str(key.get("token_uri", ""))).hostname or ""
            refuse_endpoint(host, self.shown, self._settings)
            return google.oauth2.service_account.Credentials.from_service_account_info(
                key, scopes=_SCOPES
            )
        except ValueError as error:
            # Its message may quote the key.
            raise Unauthorized(
                f"{self.shown}: gcloud-application-credentials.json is no usable key "
                f"({type(error).__name__}).",
                hint="Download it again from the Google Cloud console.",
            ) from None

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await in_thread(function, *args)
        except (PenstockError, Changed):
            raise
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> PenstockError:
        import aiohttp
        import google.auth.exceptions
        import requests
        from gcsfs.retry import HttpError

        said = redact(" ".join(str(error).split())[:300]) or type(error).__name__
        code = getattr(error, "code", None) if isinstance(error, HttpError) else None
        hint = (
            "Check the key and its rights on the bucket."
            if self._credentials.key_json or self._credentials.ambient
            else "The request had no key: give the service a Secret with gcloud-application-credentials.json."
        )
        if isinstance(error, FileNotFoundError):
            return nothing_there(self.shown, f"the bucket {self._bucket}")
        if isinstance(error, google.auth.exceptions.TransportError) or getattr(
            error, "retryable", False
        ):
            return Unavailable(f"{self.shown}: {said}.", hint="It is worth trying again later.")
        if str(code) == "401" or isinstance(error, google.auth.exceptions.GoogleAuthError):
            return Unauthorized(f"{self.shown} wants credentials, or others ({said}).", hint=hint)
        if str(code) == "403" or (isinstance(error, OSError) and said.startswith("Forbidden")):
            return Forbidden(f"{self.shown} is not for these credentials ({said}).", hint=hint)
        if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
            return LoadError(f"{self.shown}: {said}.")
        if isinstance(
            error,
            HttpError
            | OSError
            | aiohttp.ClientError
            | requests.RequestException
            | TimeoutError
            | ValueError,
        ):
            return Unavailable(f"{self.shown}: {said}.", hint="It is worth trying again later.")
        raise error


def _entry(name: str, info: Any) -> Entry:
    generation = info.get("generation")
    return Entry(
        name, info["name"], int(info["size"]), str(generation) if generation else info.get("etag")
    )


def _close(fs: Any) -> None:
    from fsspec.asyn import sync

    sync(fs.loop, fs.session.close)
