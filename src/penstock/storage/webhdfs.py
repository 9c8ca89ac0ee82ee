"""`webhdfs://`, `swebhdfs://` and `hdfs://`: Hadoop's file system over its REST interface, by fsspec.

Two spellings mean two things. With a name node in the credentials (KServe's HDFS_NAMENODE), everything
after the scheme is the path: `hdfs://user/me/model`. Without one the URI has to say it:
`webhdfs://namenode:9870/user/me/model`. A host with a port is always a host.

fsspec's client blocks and sets no time-outs; here it runs in threads and is given them. It also reads
~/.netrc, which is this process's and not the service's; that is off.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from penstock.errors import (
    Forbidden,
    InvalidInput,
    LoadError,
    PenstockError,
    Unauthorized,
)
from penstock.storage.credentials import HdfsCredentials
from penstock.storage.download import in_thread
from penstock.storage.ranged import refuse_endpoint, refuse_link_local
from penstock.storage.settings import Settings
from penstock.storage.source import (
    CHUNK_BYTES,
    Changed,
    Entry,
    Listing,
    Source,
    Transient,
    check_entries,
    nothing_there,
    relative_path,
)
from penstock.storage.uris import Location, redact

T = TypeVar("T")
_HOST_PORT: Final = re.compile(r"^[\w.-]+:\d{1,5}$")
#: Hadoop 3's; Hadoop 2 had 50070.
_DEFAULT_PORT: Final = 9870


class HdfsSource(Source):
    """A file, or a folder and everything below it."""

    def __init__(
        self, location: Location, credentials: HdfsCredentials | None, settings: Settings
    ) -> None:
        super().__init__(location.uri)
        self._settings = settings
        self._credentials = c = credentials or HdfsCredentials()
        if c.namenode and not _HOST_PORT.match(location.root):
            url = c.namenode if "://" in c.namenode else f"http://{c.namenode}"
            parts = urlsplit(url)
            secure = parts.scheme == "https"
            path = f"{location.root}/{location.path}"
        else:
            if c.namenode and location.root not in c.namenode:
                # The credentials are for one name node; another one in the URI gets none of them.
                self._credentials = HdfsCredentials()
            parts = urlsplit(f"//{location.root}")
            secure, path = location.secure, location.path
        self._host = parts.hostname or ""
        self._port = parts.port or _DEFAULT_PORT
        self._secure = secure
        if not self._host:
            raise InvalidInput(
                f"The name node of {self.shown} is no URL.", hint="HDFS_NAMENODE: http://HOST:9870"
            )
        refuse_endpoint(self._host, self.shown, settings)
        joined = "/".join(p for p in (self._credentials.root_path.strip("/"), path.strip("/")) if p)
        self._path = "/" + joined
        if ".." in joined.split("/"):
            raise InvalidInput(f"{self.shown} has .. in it.")
        self.identity = f"hdfs:{self._host}:{self._port}{self._path}"
        self._fs: Any = None
        self._files: list[Path] = []
        try:
            import fsspec.implementations.webhdfs  # noqa: F401 - its absence is said now, not in a thread
        except ImportError as error:
            raise LoadError(
                f"{self.shown}: {location.kind}:// needs the packages fsspec and requests.",
                hint="pip install 'penstock[webhdfs]'",
            ) from error

    async def list(self) -> Listing:
        return await self._call(self._list)

    def _list(self) -> Listing:
        fs = self._open()
        try:
            info = fs.info(self._path)
        except FileNotFoundError:
            raise nothing_there(
                self.shown, f"the file or folder {self._path} on {self._host}:{self._port}"
            ) from None
        if info["type"] == "file":
            name = relative_path(self._path.rpartition("/")[2], self.shown)
            return Listing((_entry(name, self._path, info),), single=True)
        found: list[Entry] = []
        waiting = [self._path]
        while waiting:
            for item in fs.ls(waiting.pop(), detail=True):
                name = item["name"].removeprefix(self._path.rstrip("/") + "/")
                if item["type"] == "directory":
                    waiting.append(item["name"])
                elif item["type"] == "file":
                    found.append(_entry(relative_path(name, self.shown), item["name"], item))
                else:
                    raise LoadError(f"{self.shown}: {name} is a link, which is not followed.")
                if len(found) + len(waiting) > self._settings.max_files:
                    break
        if not found:
            raise nothing_there(
                self.shown, f"files below {self._path} on {self._host}:{self._port}"
            )
        return Listing(check_entries(found, self.shown, self._settings.max_files))

    async def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        size = entry.size_bytes or 0
        while offset < size:
            data = await self._call(self._range, entry, offset, min(CHUNK_BYTES, size - offset))
            if not data:
                raise Transient(f"{self.shown}: {entry.path} broke off")
            offset += len(data)
            yield data

    def _range(self, entry: Entry, offset: int, length: int) -> bytes:
        # `open(...).read` would do, at the price of a GETFILESTATUS before each piece.
        answer = self._open()._call("OPEN", path=entry.key, offset=offset, length=length)
        return bytes(answer.content[:length])

    async def settled(self, entry: Entry) -> bool:
        try:
            info = await self._call(lambda: self._open().info(entry.key))
        except (Transient, Changed):
            return False
        return _entry(entry.path, entry.key, info).version == entry.version

    async def close(self) -> None:
        if self._fs is not None:
            await in_thread(self._fs.session.close)
        for path in self._files:
            path.unlink(missing_ok=True)

    def _open(self) -> Any:
        if self._fs is None:
            from fsspec.implementations.webhdfs import WebHDFS

            c = self._credentials
            options: dict[str, Any] = {"use_https": self._secure, "skip_instance_cache": True}
            if c.delegation_token:
                options["token"] = c.delegation_token
            else:
                options["user"] = c.user or None
                options["proxy_to"] = c.proxy_user or None
                options["password"] = c.password or None
            fs = WebHDFS(self._host, port=self._port, **options)
            fs.session.trust_env = False
            fs.session.headers.update(c.headers)
            adapter = _adapter(self._settings)
            fs.session.mount("http://", adapter)
            fs.session.mount("https://", adapter)
            if not c.verify_tls:
                fs.session.verify = False
            elif c.ca_pem:
                fs.session.verify = self._file(c.ca_pem)
            elif self._settings.ca_file is not None:
                fs.session.verify = str(self._settings.ca_file)
            if c.cert_pem:
                fs.session.cert = (self._file(c.cert_pem), self._file(c.key_pem))
            self._fs = fs
        return self._fs

    def _file(self, pem: str) -> str:
        # requests takes certificates by file name only. mkstemp's files are for this user alone.
        descriptor, name = tempfile.mkstemp(suffix=".pem", prefix="penstock-")
        self._files.append(Path(name))
        with os.fdopen(descriptor, "w") as f:
            f.write(pem)
        return name

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        import requests

        try:
            return await in_thread(function, *args)
        except (PenstockError, Changed, Transient):
            raise
        except FileNotFoundError:
            raise Changed from None
        except (
            PermissionError,
            requests.RequestException,
            OSError,
            ValueError,
            RuntimeError,
        ) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> PenstockError | Transient:
        import requests

        said = redact(" ".join(str(error).split())[:300]) or type(error).__name__
        hint = "Give the service a Secret with HDFS_NAMENODE and a user, token or headers that may read it."
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status == 401:
            return Unauthorized(f"{self.shown} wants credentials, or others ({said}).", hint=hint)
        if isinstance(error, PermissionError) or status == 403:
            return Forbidden(f"{self.shown} is not for these credentials ({said}).", hint=hint)
        if isinstance(error, requests.exceptions.SSLError):
            return LoadError(
                f"{self.shown}: TLS failed ({said}).",
                hint="Put the authority into the Secret (TLS_CA).",
            )
        if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
            return LoadError(f"{self.shown}: {said}.")
        if status is not None and status < 500 and status not in (408, 429):
            return LoadError(f"{self.shown}: {said}.")
        return Transient(f"{self.shown}: {said}")


def _entry(name: str, key: str, info: Any) -> Entry:
    size = int(info["length"])
    return Entry(name, key, size, f"{info.get('fileId', '')}-{info['modificationTime']}-{size}")


def _adapter(settings: Settings) -> Any:
    from requests.adapters import HTTPAdapter

    class Patient(HTTPAdapter):  # type: ignore[misc]
        """Requests have no time-out unless each call gives one, and fsspec's give none."""

        def send(self, request: Any, **kwargs: Any) -> Any:
            kwargs["timeout"] = (settings.connect_s, settings.idle_s)
            refuse_link_local(urlsplit(request.url).hostname or "", "the data node", settings)
            return super().send(request, **kwargs)

    return Patient()
