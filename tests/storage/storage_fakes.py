"""HTTP servers in threads of the test: files with faults on demand, a WebHDFS name node, a model hub.

`Files` stands where a plain web server would, and can do what those do on bad days: break off in the middle
of a body, stall, answer 503, forget ranges, change a file, redirect. The two fakes follow the published
interfaces as far as the clients use them.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit


@dataclass
class File:
    """One file and what goes wrong with it."""

    data: bytes
    media_type: str = "application/octet-stream"
    etag: str | None = None
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    #: Statuses to answer before the file, one a request.
    first: list[int] = field(default_factory=list)
    #: Break off after so many bytes of each answer, once for each number.
    breaks: list[int] = field(default_factory=list)
    #: Send so many bytes, set `stalled`, and wait for `go` before the rest.
    stall_after: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    #: Send no Content-Length.
    lengthless: bool = False
    need: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.etag is None:
            self.etag = f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'


@dataclass
class Seen:
    """One request."""

    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class Files:
    """A web server over a dictionary of path to `File`, status, or redirect (a URL)."""

    def __init__(self) -> None:
        self.files: dict[str, File | int | str] = {}
        self.seen: list[Seen] = []
        self.url = ""

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.seen.append(Seen(request.path, headers))
        found = self.files.get(request.path, 404)
        if isinstance(found, int):
            return answer(request, found, b"no")
        if isinstance(found, str):
            return answer(request, 302, b"", {"location": found})
        if any(headers.get(k) != v for k, v in found.need.items()):
            return answer(request, 401, b"who are you")
        if found.first:
            status = found.first.pop(0)
            return answer(request, status, b"later", {"retry-after": "0"})
        send_file(request, found, headers)
        return None


def send_file(request: BaseHTTPRequestHandler, file: File, asked: dict[str, str]) -> None:
    data, start = file.data, 0
    headers = {"content-type": file.media_type, **file.headers}
    if file.etag:
        headers["etag"] = file.etag
    span = asked.get("range")
    if span and file.ranges and asked.get("if-range", file.etag) == file.etag:
        start = int(span.removeprefix("bytes=").partition("-")[0])
        if start >= len(data):
            return answer(request, 416, b"", {"content-range": f"bytes */{len(data)}"})
        headers["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    body = data[start:]
    request.send_response(206 if "content-range" in headers else 200)
    for name, value in headers.items():
        request.send_header(name, value)
    if file.lengthless:
        request.send_header("transfer-encoding", "chunked")
    else:
        request.send_header("content-length", str(len(body)))
    request.end_headers()
    if file.breaks:
        request.wfile.write(body[: file.breaks.pop(0)])
        request.wfile.flush()
        request.connection.close()
        request.close_connection = True
        return None
    if file.stall_after is not None and not file.go.is_set():
        request.wfile.write(body[: file.stall_after])
        request.wfile.flush()
        file.stalled.set()
        file.go.wait(30)
        body = body[file.stall_after :]
    if file.lengthless:
        request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    else:
        request.wfile.write(body)
    return None


def answer(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":  # it would be taken for the beginning of the next answer
        request.wfile.write(body)


@contextmanager
def serving(
    handle: Callable[[BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Answer requests with `handle` until the block ends; the server's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                handle(self)
            except OSError:  # the client went away, as tests have it do
                self.close_connection = True

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class NameNode:
    """WebHDFS: GETFILESTATUS, LISTSTATUS, and OPEN with its redirect to a data node (itself)."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}
        self.forbidden: set[str] = set()
        self.user: str | None = None
        self.seen: list[str] = []
        self.url = ""
        self._clock = 1_700_000_000_000

    def put(self, path: str, data: bytes) -> None:
        self._clock += 1
        self.files["/" + path.strip("/")] = (data, self._clock)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.seen.append(request.path)
        if parts.path.startswith("/data"):
            data = self.files[unquote(parts.path.removeprefix("/data"))][0]
            offset = int(query.get("offset", 0))
            length = int(query.get("length", len(data)))
            return answer(request, 200, data[offset : offset + length])
        path = unquote(parts.path.removeprefix("/webhdfs/v1")) or "/"
        path = path.rstrip("/") or "/"
        if self.user is not None and query.get("user.name") != self.user:
            return self._fail(request, 403, "AccessControlException", f"Permission denied: {path}")
        below = sorted(p for p in self.files if p.startswith(path.rstrip("/") + "/"))
        if path not in self.files and not below:
            return self._fail(request, 404, "FileNotFoundException", f"File does not exist: {path}")
        if path in self.forbidden:
            return self._fail(request, 403, "AccessControlException", f"Permission denied: {path}")
        op = query["op"]
        if op == "GETFILESTATUS":
            return self._json(request, {"FileStatus": self._status(path, "")})
        if op == "LISTSTATUS":
            prefix = path.rstrip("/") + "/"
            names = sorted({p.removeprefix(prefix).partition("/")[0] for p in below})
            statuses = [self._status(prefix + n, n) for n in names]
            return self._json(request, {"FileStatuses": {"FileStatus": statuses}})
        assert op == "OPEN"
        target = f"{self.url}/data{quote(path)}?{parts.query}"
        return answer(request, 307, b"", {"location": target})

    def _status(self, path: str, suffix: str) -> dict[str, Any]:
        if path in self.files:
            data, modified = self.files[path]
            kind = {"type": "FILE", "length": len(data), "modificationTime": modified}
        else:
            kind = {"type": "DIRECTORY", "length": 0, "modificationTime": 0}
        return {"pathSuffix": suffix, "fileId": abs(hash(path)), **kind}

    def _json(self, request: BaseHTTPRequestHandler, value: Any) -> None:
        answer(request, 200, json.dumps(value).encode(), {"content-type": "application/json"})

    def _fail(self, request: BaseHTTPRequestHandler, status: int, kind: str, text: str) -> None:
        body = {"RemoteException": {"exception": kind, "message": text}}
        answer(request, status, json.dumps(body).encode(), {"content-type": "application/json"})


@dataclass
class Repository:
    """One model repository on the fake hub."""

    files: dict[str, bytes]
    sha: str = "a" * 40
    token: str | None = None
    gated: bool = False
    #: Paths kept in LFS, whose SHA-256 the hub publishes.
    lfs: set[str] = field(default_factory=set)
    #: What is sent in place of a file, as a broken mirror would.
    instead: dict[str, File] = field(default_factory=dict)


class Hub:
    """The Hugging Face hub: model info with blobs, and files at a commit."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.seen: list[Seen] = []
        self.url = ""

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.seen.append(Seen(request.path, headers))
        path = unquote(parts.path).strip("/")
        if path.startswith("api/models/"):
            return self._info(request, path.removeprefix("api/models/"), headers)
        name, _, rest = path.partition("/resolve/")
        repository = self.repositories[name]
        if not self._may(repository, headers):
            return answer(request, 401, b"")
        sha, _, file = rest.partition("/")
        assert sha == repository.sha
        send_file(request, repository.instead.get(file, File(repository.files[file])), headers)
        return None

    def _info(self, request: BaseHTTPRequestHandler, path: str, headers: dict[str, str]) -> None:
        name, _, revision = path.partition("/revision/")
        repository = self.repositories.get(name)
        if repository is None or (not repository.gated and not self._may(repository, headers)):
            known = headers.get("authorization") is not None
            return answer(request, 404 if known else 401, b"{}", {"x-error-code": "RepoNotFound"})
        if revision and revision not in ("main", repository.sha, "v1"):
            return answer(request, 404, b"{}", {"x-error-code": "RevisionNotFound"})
        siblings = []
        for file, data in repository.files.items():
            digest = hashlib.sha256(data).hexdigest()
            item: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": digest[:40]}
            if file in repository.lfs:
                item["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(item)
        body = {
            "_id": "1", "id": name, "modelId": name, "sha": repository.sha, "private": False,
            "gated": "manual" if repository.gated else False, "siblings": siblings, "tags": [],
            "downloads": 0, "likes": 0,
        }  # fmt: skip
        return answer(request, 200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _may(self, repository: Repository, headers: dict[str, str]) -> bool:
        want = repository.token
        return want is None or headers.get("authorization") == f"Bearer {want}"
