"""The control API as commands use it. Standard library only, so that a command starts at once."""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from penstock.cli import places
from penstock.cli.exits import FAILED, UNREACHABLE, USAGE, CliError, code_of_status

TIMEOUT_S = 30.0
#: All kinds in two answers instead of one a group.
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with a JSON body."""

    status: int
    headers: Mapping[str, str]
    body: Any
    warnings: tuple[str, ...] = ()


class ApiFailure(CliError):
    """The API answered with an error `Status`."""

    def __init__(self, status: int, document: Any) -> None:
        info = document if isinstance(document, dict) else {}
        message = str(info.get("message") or f"the server answered {status}")
        if status == 404 and "message" not in info:
            message += ". Is --server the control API? `penstock serve` says where that is"
        super().__init__(message, code_of_status(status))
        self.status = status
        self.reason = str(info.get("reason", ""))
        details = info.get("details")
        found = details.get("causes") if isinstance(details, dict) else None
        #: (field path, message) of an invalid manifest.
        self.causes = tuple(
            (str(c.get("field", "")), str(c.get("message", ""))) for c in found or ()
        )


class _HttpConnection(http.client.HTTPConnection):
    """Hangs up when the thread or the client that kept it is no more."""

    def __del__(self) -> None:
        self.close()


class _HttpsConnection(http.client.HTTPSConnection):
    """The same."""

    def __del__(self) -> None:
        self.close()


class Client:
    """One server. Each thread keeps its connection between calls; streams have one of their own."""

    def __init__(self, server: str | None = None, token_file: Path | None = None) -> None:
        self.server = places.server(server)
        parts = urlsplit(self.server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CliError(
                f"{self.server} is no server address; http://HOST:PORT is expected.", USAGE
            )
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._https else 80)
        self._prefix = parts.path
        self._kept = threading.local()
        self._token: str | None = None
        file = places.token_file(token_file)
        if file is not None:
            try:
                self._token = file.read_text(encoding="utf-8").strip()
            except OSError as exc:
                raise CliError(f"The token file {file} cannot be read: {exc.strerror}.") from exc

    def get(self, path: str, **query: str) -> Any:
        """The document at a path."""
        return self.call("GET", path, query=query).body

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """One request; ApiFailure for an error answer, CliError when the server cannot be reached."""
        connection = self._take(timeout_s)
        response = self._request(connection, method, path, query, body, content_type, accept)
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise self._away(exc) from exc
        if not response.will_close:
            self._kept.connection = connection
        try:
            document = json.loads(data) if data else None
        except ValueError:
            document = data.decode("utf-8", "replace")
        if response.status >= 400:
            raise ApiFailure(response.status, document)
        warnings = tuple(_warning(v) for v in response.headers.get_all("warning") or ())
        headers = {k.lower(): v for k, v in response.getheaders()}
        return Answer(response.status, headers, document, warnings)

    def text(self, path: str, **query: str) -> str:
        """The text at a path, e.g. metrics."""
        answer = self.call("GET", path, query=query)
        return answer.body if isinstance(answer.body, str) else json.dumps(answer.body)

    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[bytes]:
        """Pieces of an answer as they come. `timeout_s` is for silence; TimeoutError then."""
        connection = self._connect(TIMEOUT_S)
        response = self._request(connection, "GET", path, query, None, "", "application/json")
        try:
            if response.status >= 400:
                data = response.read()
                try:
                    raise ApiFailure(response.status, json.loads(data))
                except ValueError:
                    raise ApiFailure(response.status, None) from None
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            while piece := response.read1(65536):
                yield piece
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as exc:
            raise self._away(exc) from exc
        finally:
            connection.close()

    def lines(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Any]:
        """JSON documents, one a line."""
        rest = b""
        for piece in self.stream(path, query=query, timeout_s=timeout_s):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line:
                    yield json.loads(line)

    def _take(self, timeout_s: float) -> http.client.HTTPConnection:
        """This thread's connection, if the server has not hung up meanwhile; else a new one."""
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        self._kept.connection = None
        if kept is None or kept.sock is None:
            return self._connect(timeout_s)
        poll = select.poll()
        poll.register(kept.sock, select.POLLIN)
        if poll.poll(0):  # nothing was asked, so it can only be the end
            kept.close()
            return self._connect(timeout_s)
        kept.sock.settimeout(timeout_s)
        return kept

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = _HttpsConnection if self._https else _HttpConnection
        return kind(self._host, self._port, timeout=timeout_s)

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        accept: str,
    ) -> http.client.HTTPResponse:
        target = self._prefix + path
        if query:
            target += "?" + urlencode(query)
        headers = {"accept": accept, "user-agent": "penstock"}
        if body is not None:
            headers["content-type"] = content_type
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, target, body=body, headers=headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise self._away(exc) from exc

    def _away(self, exc: Exception) -> CliError:
        if isinstance(exc, TimeoutError):
            return CliError(f"The server at {self.server} does not answer.", UNREACHABLE)
        if isinstance(exc, ConnectionRefusedError | socket.gaierror):
            return CliError(
                f"No server at {self.server}. Start one with `penstock serve`, or say where it is "
                "with --server or $PENSTOCK_SERVER.",
                UNREACHABLE,
            )
        if isinstance(exc, ssl.SSLError) and exc.reason == "WRONG_VERSION_NUMBER":
            plain = self.server.replace("https://", "http://", 1)
            return CliError(
                f"What answers at {self.server} speaks no TLS. Say {plain}.", UNREACHABLE
            )
        return CliError(f"The connection to {self.server} broke off: {exc}.", UNREACHABLE)


def _warning(value: str) -> str:
    """The text of a `Warning: 299 - "..."` header."""
    _, _, text = value.partition(' - "')
    return text.removesuffix('"').replace('\\"', '"').replace("\\\\", "\\")


@dataclass(frozen=True, slots=True)
class Served:
    """A kind as the server's discovery lists it."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    #: Objects of this kind are services, whatever the kind is called.
    is_service: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, below: str = "") -> str:
        """The path of a collection or an object."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if below:
            parts.append(below)
        return "/" + "/".join(quote(p, safe="") for p in parts)


def _discovered(client: Client, path: str) -> dict[str, Any]:
    try:
        document = client.call("GET", path, accept=_DISCOVERY).body
    except ApiFailure as exc:
        if exc.status != 404:
            raise
        document = None
    if not isinstance(document, dict) or "kind" not in document:
        raise CliError(
            f"What answers at {client.server} is no control API. `penstock serve` says where that is, "
            "on its line 'control'; the port is 8090 if not given.",
            UNREACHABLE,
        )
    return document


class Kinds:
    """The kinds a server has, by every name a person may call them."""

    def __init__(self, client: Client) -> None:
        self.all: list[Served] = []
        documents = [_discovered(client, p) for p in ("/api", "/apis")]
        if all(d.get("kind") == "APIGroupDiscoveryList" for d in documents):
            self._read_groups([g for d in documents for g in d["items"]])
        else:
            self._read_lists(client, documents[1]["groups"])

    def _read_groups(self, groups: list[dict[str, Any]]) -> None:
        """All kinds at once."""
        # A short name is told of one group only, and people mean every kind that is called alike by it.
        short: dict[str, tuple[str, ...]] = {}
        for group in groups:
            for version in group["versions"]:
                for r in version["resources"]:
                    short[r["resource"]] = short.get(r["resource"]) or tuple(
                        r.get("shortNames", ())
                    )
        for group in groups:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                for r in version["resources"]:
                    self._add(
                        name,
                        version["version"],
                        r["responseKind"]["kind"],
                        (
                            r["resource"],
                            r["singularResource"],
                            *(r.get("shortNames") or short[r["resource"]]),
                        ),
                        namespaced=r["scope"] == "Namespaced",
                        categories=r.get("categories", ()),
                    )

    def _read_lists(self, client: Client, groups: list[dict[str, Any]]) -> None:
        """One list a version, from servers that know no other way."""
        paths = ["/api/v1", *(f"/apis/{v['groupVersion']}" for g in groups for v in g["versions"])]
        for listed in map(client.get, paths):
            group, _, version = listed["groupVersion"].rpartition("/")
            for r in listed["resources"]:
                if "/" not in r["name"]:
                    self._add(
                        group,
                        version,
                        r["kind"],
                        (r["name"], r["singularName"], *r.get("shortNames", ())),
                        namespaced=r["namespaced"],
                        categories=r.get("categories", ()),
                    )

    def _add(
        self,
        group: str,
        version: str,
        kind: str,
        words: tuple[str, ...],
        *,
        namespaced: bool,
        categories: Sequence[str],
    ) -> None:
        # There are never any of Kubernetes' Services; who says so here means inference services.
        if (group, kind) == ("", "Service"):
            return
        plural, singular, *short = words
        # Pods, which are a way to look at replicas, are of the category of services, too.
        is_service = bool(group) and "all" in categories
        self.all.append(
            Served(group, version, kind, plural, singular, tuple(short), namespaced, is_service)
        )

    def named(self, word: str) -> list[Served]:
        """All kinds of that name: `isvc`, `inferenceservices`, `inferenceservice.serving.kserve.io`.

        Several dialects may have a kind of one name; of a kind's versions, which are the same objects, the
        first is taken. Raises CliError when there is none.
        """
        short, _, group = word.lower().partition(".")
        found = [
            k
            for k in self.all
            if short in (k.plural, k.singular, k.kind.lower(), *k.short_names)
            and (not group or k.group == group or f"{k.version}.{k.group}" == group)
        ]
        if not found:
            import difflib

            words = sorted({w for k in self.all for w in (k.plural, k.singular, *k.short_names)})
            near = difflib.get_close_matches(short, words, n=1)
            plurals = ", ".join(sorted({k.plural for k in self.all}))
            hint = f" Did you mean {near[0]}?" if near else f" There are {plurals}."
            if not near and not group:
                hint = f" A service of that name: `penstock get isvc {word}`.{hint}"
            raise CliError(f"There is no kind {word!r}.{hint}", FAILED)
        return _first_versions(found)

    def services(self) -> list[Served]:
        """Every kind that means a service, InferenceService first."""
        found = [k for k in self.all if k.is_service]
        return _first_versions(sorted(found, key=lambda k: k.kind != "InferenceService"))

    def of(self, api_version: str, kind: str) -> Served | None:
        """The kind of a manifest."""
        return next((k for k in self.all if k.api_version == api_version and k.kind == kind), None)


def _first_versions(kinds: list[Served]) -> list[Served]:
    """One of each kind in a group: its versions are the same objects."""
    first: dict[tuple[str, str], Served] = {}
    for kind in kinds:
        first.setdefault((kind.group, kind.kind), kind)
    return list(first.values())
