"""MLflow's registry as a source: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/ID/PATH`, and
`mlflow-artifacts:/PATH`.

A tracking store says where a model's artifacts are, and only that is asked of it, over its REST interface or,
on a laptop, in its database or folder. Then the artifacts are fetched like those of any other place, or from
the tracking server itself where that stands before them. Names, aliases and versions are looked up anew each
time, so an alias that has moved is followed when the service is applied or refreshed.
"""

from __future__ import annotations

import base64
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode, urlsplit

import yaml

from penstock.errors import Forbidden, InvalidInput, NotFound, Unauthorized, Unsupported
from penstock.storage.credentials import Credentials, MlflowCredentials
from penstock.storage.download import in_thread
from penstock.storage.ranged import RangedClient, status_error
from penstock.storage.settings import Settings
from penstock.storage.source import (
    Changed,
    Entry,
    Listing,
    Source,
    check_entries,
    nothing_there,
    relative_path,
)
from penstock.storage.uris import Location, parse, redact

#: References from one place to the next: an alias, its version, the logged model it is of, its files.
_HOPS: Final = 6
_LOGGED: Final = re.compile(r"m-[0-9a-f]{32}")
_STAGES: Final = ("none", "staging", "production", "archived")
_API: Final = "api/2.0"

#: Opens the source of a URI (`fetching.open_source` of what `uris.parse` made of it).
Opener = Callable[[Location], Source]


class MlflowSource(Source):
    """One URI of MLflow's."""

    def __init__(
        self, location: Location, credentials: Credentials, settings: Settings, opener: Opener
    ) -> None:
        super().__init__(location.uri)
        self._uri = location.uri
        self._settings = settings
        self._open = opener
        self._inner: Source | None = None
        tracking = credentials.mlflow or MlflowCredentials()
        self._store = _store(tracking, self.shown, settings)

    async def list(self) -> Listing:
        await self._close_inner()
        place = await self._place()
        if place.startswith("mlflow-artifacts:"):
            return await self._artifacts(place)
        self.identity = place
        self._inner = await in_thread(self._open, parse(place))
        self.identity = self._inner.identity
        return await self._inner.list()

    def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        if self._inner is not None:
            return self._inner.read(entry, offset)
        return self._store.read(entry, offset, self.shown)

    async def prove(self, listing: Listing) -> None:
        if self._inner is not None:
            await self._inner.prove(listing)
        else:
            await super().prove(listing)

    def clone(self, entry: Entry, descriptor: int) -> bool:
        return self._inner is not None and self._inner.clone(entry, descriptor)

    async def settled(self, entry: Entry) -> bool:
        return True if self._inner is None else await self._inner.settled(entry)

    async def close(self) -> None:
        await self._close_inner()
        await self._store.close()

    async def _close_inner(self) -> None:
        if self._inner is not None:
            inner, self._inner = self._inner, None
            await inner.close()

    async def _place(self) -> str:
        """The URI of the artifacts, which is none of MLflow's but `mlflow-artifacts:`."""
        uri = self._uri
        for _ in range(_HOPS):
            kind, _, rest = uri.partition(":")
            if kind == "models":
                uri = await self._store.model(rest.lstrip("/"), self.shown)
            elif kind == "runs":
                run, _, path = rest.lstrip("/").partition("/")
                uri = await self._store.run(run, path.strip("/"), self.shown)
            elif kind == "dbfs" or uri.startswith("databricks"):
                raise Unsupported(
                    f"{self.shown}: its artifacts are at Databricks, which is not served."
                )
            else:
                return uri
        raise NotFound(f"{self.shown} leads from one reference of MLflow's to the next.")

    async def _artifacts(self, place: str) -> Listing:
        self.identity = f"{self._store.identity} {place}"
        parts = urlsplit(place)
        top = unquote(parts.path).strip("/")
        entries: list[Entry] = []
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for item in await self._store.listed(f"{top}/{folder}".strip("/"), self.shown):
                name = f"{folder}/{item['path']}".strip("/")
                if item.get("is_dir"):
                    waiting.append(relative_path(name, self.shown))
                    continue
                size = item.get("file_size")
                entries.append(
                    Entry(
                        relative_path(name, self.shown),
                        f"{top}/{name}".strip("/"),
                        int(size) if size is not None else None,
                        # The server tells nothing that differs when the bytes do.
                        None,
                    )
                )
            if len(entries) + len(waiting) > self._settings.max_files:
                break
        if not entries:
            raise nothing_there(self.shown, f"artifacts at {top}")
        return Listing(check_entries(entries, self.shown, self._settings.max_files))


class _Store(ABC):
    """What a tracking store is asked."""

    identity = ""

    async def model(self, rest: str, shown: str) -> str:
        """Where the model of `NAME/VERSION`, `NAME@ALIAS`, `NAME/latest` or `m-ID` is."""
        if _LOGGED.fullmatch(rest):
            return await self.logged_model(rest, shown)
        name, at, alias = rest.rpartition("@")
        if at and name and "/" not in alias:
            version = await self.alias(unquote(name), alias, shown)
        else:
            name, slash, version = rest.rpartition("/")
            if not slash or not name or not version:
                raise InvalidInput(
                    f"{shown} is not models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME/latest."
                )
            if version.lower() == "latest":
                version = await self.newest(unquote(name), None, shown)
            elif version.lower() in _STAGES:
                version = await self.newest(unquote(name), version.lower(), shown)
            elif not version.isdigit():
                raise InvalidInput(
                    f"{shown}: {version!r} is neither a version nor a stage.",
                    hint=f"An alias is written models:/{name}@{version}.",
                )
        return await self.version(unquote(name), version, shown)

    @abstractmethod
    async def alias(self, name: str, alias: str, shown: str) -> str: ...

    @abstractmethod
    async def newest(self, name: str, stage: str | None, shown: str) -> str: ...

    @abstractmethod
    async def version(self, name: str, version: str, shown: str) -> str: ...

    @abstractmethod
    async def logged_model(self, model_id: str, shown: str) -> str: ...

    @abstractmethod
    async def run(self, run_id: str, path: str, shown: str) -> str: ...

    async def listed(self, path: str, shown: str) -> list[dict[str, Any]]:
        raise Unsupported(
            f"{shown}: mlflow-artifacts: are a tracking server's.",
            hint="Set MLFLOW_TRACKING_URI to the server's address.",
        )

    def read(self, entry: Entry, offset: int, shown: str) -> AsyncIterator[bytes]:
        raise Unsupported(f"{shown}: there is no tracking server to read it from.")

    async def close(self) -> None:
        """Release connections."""


def _missing(what: str, shown: str) -> NotFound:
    return NotFound(f"{shown}: the tracking store has no {what}.", hint="Check the spelling.")


class _Server(_Store):
    """A tracking server, by REST."""

    def __init__(self, tracking: MlflowCredentials, shown: str, settings: Settings) -> None:
        parts = urlsplit(tracking.tracking_uri)
        host = parts.netloc.rpartition("@")[2]
        if not host:
            raise InvalidInput(f"MLFLOW_TRACKING_URI {redact(tracking.tracking_uri)} has no host.")
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self.identity = f"mlflow:{self._base}"
        user, password = tracking.username, tracking.password
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
        headers: dict[str, str] = {}
        if tracking.token:
            headers["authorization"] = f"Bearer {tracking.token}"
        elif user:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers["authorization"] = f"Basic {pair}"

        def headers_for(asked: str) -> Mapping[str, str]:
            return headers if asked.lower() == host.lower() else {}

        self._client = RangedClient(settings, headers_for, ca_pem=tracking.ca_pem)

    async def _get(self, call: str, shown: str, **query: str) -> dict[str, Any]:
        url = f"{self._base}/{_API}/{call}" + (f"?{urlencode(query)}" if query else "")
        status, answer = await self._client.json(url, shown)
        if status == 200 and isinstance(answer, dict):
            return answer
        message = ""
        if isinstance(answer, dict):
            message = redact(" ".join(str(answer.get("message") or "").split())[:300])
        if status == 401:
            raise Unauthorized(
                f"{shown}: the tracking server wants credentials, or others.",
                hint="Give the service a Secret with MLFLOW_TRACKING_TOKEN, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
            )
        if status == 403:
            raise Forbidden(f"{shown}: the tracking server refuses these credentials. {message}")
        if status == 404 or (status == 400 and "not found" in message.lower()):
            raise NotFound(f"{shown}: {message or 'the tracking server does not know it.'}")
        raise status_error(status, f"{shown} ({message})" if message else shown, {})

    async def alias(self, name: str, alias: str, shown: str) -> str:
        found = await self._get("mlflow/registered-models/alias", shown, name=name, alias=alias)
        return str(found["model_version"]["version"])

    async def newest(self, name: str, stage: str | None, shown: str) -> str:
        quoted = name.replace("'", "''")
        found = await self._get(
            "mlflow/model-versions/search",
            shown,
            filter=f"name='{quoted}'",
            order_by="version_number DESC",
            max_results="1000",
        )
        versions = [
            int(v["version"])
            for v in found.get("model_versions", ())
            if stage is None or str(v.get("current_stage", "None")).lower() == stage
        ]
        if not versions:
            raise _missing(f"version of {name}" + (f" in stage {stage}" if stage else ""), shown)
        return str(max(versions))

    async def version(self, name: str, version: str, shown: str) -> str:
        found = await self._get(
            "mlflow/model-versions/get-download-uri", shown, name=name, version=version
        )
        return str(found["artifact_uri"])

    async def logged_model(self, model_id: str, shown: str) -> str:
        found = await self._get(f"mlflow/logged-models/{quote(model_id)}", shown)
        return str(found["model"]["info"]["artifact_uri"])

    async def run(self, run_id: str, path: str, shown: str) -> str:
        found = await self._get("mlflow/runs/get", shown, run_id=run_id)
        outputs = (found["run"].get("outputs") or {}).get("model_outputs") or ()
        for output in outputs:
            model = await self._get(f"mlflow/logged-models/{quote(output['model_id'])}", shown)
            info = model["model"]["info"]
            if info.get("name") == path:
                return str(info["artifact_uri"])
        return _below(str(found["run"]["info"]["artifact_uri"]), path)

    async def listed(self, path: str, shown: str) -> list[dict[str, Any]]:
        found = await self._get("mlflow-artifacts/artifacts", shown, path=path)
        return list(found.get("files") or ())

    async def read(self, entry: Entry, offset: int, shown: str) -> AsyncIterator[bytes]:
        url = f"{self._base}/{_API}/mlflow-artifacts/artifacts/{quote(entry.key)}"
        opened = await self._client.open(url, shown, offset=offset)
        skip = offset if opened.response.status_code == 200 else 0
        if entry.size_bytes is not None and opened.size_bytes not in (None, entry.size_bytes):
            await opened.response.aclose()
            raise Changed
        async for chunk in self._client.read(opened, shown, skip):
            yield chunk

    async def close(self) -> None:
        await self._client.close()


class _Database(_Store):
    """A tracking store in an SQLite file: MLflow's own default on a laptop. Only read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.identity = f"mlflow:{file}"

    async def _one(self, what: str, shown: str, query: str, *values: str) -> str:
        def ask() -> str | None:
            if not self._file.is_file():
                raise NotFound(f"{shown}: there is no tracking database {self._file}.")
            uri = f"file:{quote(str(self._file))}?mode=ro"
            try:
                with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
                    row = connection.execute(query, values).fetchone()
            except sqlite3.Error as error:
                raise InvalidInput(
                    f"{shown}: {self._file} cannot be read as MLflow's database: {error}."
                ) from error
            return None if row is None or row[0] is None else str(row[0])

        found = await in_thread(ask)
        if found is None:
            raise _missing(what, shown)
        return found

    async def alias(self, name: str, alias: str, shown: str) -> str:
        return await self._one(
            f"alias {alias} of {name}",
            shown,
            "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?",
            name,
            alias,
        )

    async def newest(self, name: str, stage: str | None, shown: str) -> str:
        staged = "" if stage is None else " AND lower(current_stage) = ?"
        return await self._one(
            f"version of {name}" + (f" in stage {stage}" if stage else ""),
            shown,
            "SELECT max(version) FROM model_versions WHERE name = ?"  # noqa: S608 - one of two constants
            " AND current_stage <> 'Deleted_Internal'" + staged,
            name,
            *([] if stage is None else [stage]),
        )

    async def version(self, name: str, version: str, shown: str) -> str:
        return await self._one(
            f"version {version} of {name}",
            shown,
            "SELECT coalesce(storage_location, source) FROM model_versions WHERE name = ? "
            "AND version = ? AND current_stage <> 'Deleted_Internal'",
            name,
            version,
        )

    async def logged_model(self, model_id: str, shown: str) -> str:
        return await self._one(
            f"model {model_id}",
            shown,
            "SELECT artifact_location FROM logged_models WHERE model_id = ?",
            model_id,
        )

    async def run(self, run_id: str, path: str, shown: str) -> str:
        place = await self._one(
            f"run {run_id}", shown, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id
        )
        try:
            return await self._one(
                path,
                shown,
                "SELECT artifact_location FROM logged_models WHERE source_run_id = ? AND name = ?",
                run_id,
                path,
            )
        except (NotFound, InvalidInput):  # an older MLflow keeps models among the run's artifacts
            return _below(place, path)


class _Folder(_Store):
    """A tracking store in a folder, `mlruns`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.identity = f"mlflow:{root}"

    async def _meta(self, *parts: str, what: str, shown: str) -> Mapping[str, Any]:
        def look() -> Mapping[str, Any] | None:
            if any("/" in p or p in ("", ".", "..") for p in parts):
                return None
            found = sorted(self._root.glob("/".join((*map(_literal, parts), "meta.yaml"))))
            if not found:
                return None
            value = yaml.safe_load(found[0].read_bytes()[: 1 << 20])
            return value if isinstance(value, dict) else None

        meta = await in_thread(look)
        if meta is None:
            raise _missing(what, shown)
        return meta

    async def alias(self, name: str, alias: str, shown: str) -> str:
        def look() -> str | None:
            if any("/" in p or p in (".", "..") for p in (name, alias)):
                return None
            file = self._root / "models" / name / "aliases" / alias
            return file.read_text().strip() if file.is_file() else None

        version = await in_thread(look)
        if version is None:
            raise _missing(f"alias {alias} of {name}", shown)
        return version

    async def newest(self, name: str, stage: str | None, shown: str) -> str:
        def look() -> list[int]:
            if "/" in name or name in (".", ".."):
                return []
            found = (self._root / "models" / name).glob("version-*")
            return [int(p.name[8:]) for p in found if p.name[8:].isdigit()]

        if stage is not None:
            raise Unsupported(f"{shown}: stages are not read in a folder.", hint="Use an alias.")
        versions = await in_thread(look)
        if not versions:
            raise _missing(f"version of {name}", shown)
        return str(max(versions))

    async def version(self, name: str, version: str, shown: str) -> str:
        meta = await self._meta(
            "models", name, f"version-{version}", what=f"version {version} of {name}", shown=shown
        )
        return str(meta.get("storage_location") or meta.get("source") or "")

    async def logged_model(self, model_id: str, shown: str) -> str:
        meta = await self._meta("*", "models", model_id, what=f"model {model_id}", shown=shown)
        return str(meta.get("artifact_location") or "")

    async def run(self, run_id: str, path: str, shown: str) -> str:
        def look() -> str | None:
            for file in self._root.glob("*/models/m-*/meta.yaml"):
                meta = yaml.safe_load(file.read_bytes()[: 1 << 20])
                if meta.get("source_run_id") == run_id and meta.get("name") == path:
                    return str(meta.get("artifact_location"))
            return None

        meta = await self._meta("*", run_id, what=f"run {run_id}", shown=shown)
        return await in_thread(look) or _below(str(meta.get("artifact_uri") or ""), path)


def _literal(part: str) -> str:
    return part if part == "*" else re.sub(r"([*?\[])", r"[\1]", part)


def _below(place: str, path: str) -> str:
    return f"{place.rstrip('/')}/{path}" if path else place


def _store(tracking: MlflowCredentials, shown: str, settings: Settings) -> _Store:
    uri = tracking.tracking_uri
    if not uri:
        raise InvalidInput(
            f"{shown} is in MLflow's registry, and nothing says where that is.",
            hint="Set MLFLOW_TRACKING_URI in a Secret of the service, or for penstock serve.",
        )
    scheme = uri.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return _Server(tracking, shown, settings)
    if scheme.startswith("databricks"):
        raise Unsupported(f"{shown}: a tracking server at Databricks is not served.")
    if not tracking.local:
        raise Forbidden(
            f"{shown}: a Secret may name a tracking server, not a file of this machine.",
            hint="Set MLFLOW_TRACKING_URI to the server's address.",
        )
    if scheme == "sqlite":
        return _Database(Path(unquote(uri.partition("://")[2])[1:] or "mlflow.db").absolute())
    if "://" in uri and scheme != "file":
        raise Unsupported(
            f"{shown}: a tracking store in {scheme} is not read by itself.",
            hint="Start `mlflow server` over it and set MLFLOW_TRACKING_URI to its address.",
        )
    path = unquote(urlsplit(uri).path) if scheme == "file" else uri
    return _Folder(Path(path).absolute())
