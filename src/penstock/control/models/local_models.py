"""Models that are fetched ahead: one task per object, beside the loop of services.

The files are pinned in the cache for as long as the object exists. Nothing depends on it: a service whose
files are not here yet fetches them itself, and both wait for one download. A fetch that fails is tried again
with back-off.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from typing import Any, Protocol

from penstock import dialects
from penstock.control.clock import Clock
from penstock.control.loop import Backoff
from penstock.control.models.fetches import Files
from penstock.domain.local_model import LocalModel
from penstock.errors import Conflict, InvalidManifest, NotFound, PenstockError
from penstock.store.base import Change, ChangeType, Key, Kind, Object, Store

log = logging.getLogger(__name__)

KINDS = (
    Kind("serving.kserve.io", "LocalModelCache"),
    Kind("serving.kserve.io", "LocalModelNamespaceCache"),
)
DOWNLOADING = "NodeDownloading"
DOWNLOADED = "NodeDownloaded"
FAILED = "NodeDownloadError"


class LocalFiles(Protocol):
    """Where the files go (`control.models.model_files.CachedFiles`)."""

    async def keep(self, model: LocalModel) -> Files:
        """Fetch, and keep until `drop`."""
        ...

    async def drop(self, key: str) -> None: ...

    async def retain_kept(self, keys: Iterable[str]) -> None:
        """Drop what belongs to none of these: left behind by a crash."""
        ...


class LocalModels:
    """The objects of `KINDS`. `changed` is told of each change in the store."""

    def __init__(
        self,
        store: Store,
        files: LocalFiles,
        *,
        clock: Clock,
        backoff: Backoff = Backoff(1.0, 300.0),  # noqa: B008 - frozen
    ) -> None:
        self._store = store
        self._files = files
        self._clock = clock
        self._backoff = backoff
        self._node = socket.gethostname()
        #: Per object: (uid, generation) that its task is for.
        self._tasks: dict[Key, tuple[tuple[Any, Any], asyncio.Task[None]]] = {}

    async def load(self) -> None:
        """See to every object that exists."""
        keys = []
        for kind in KINDS:
            for obj in (await self._store.list(kind)).items:
                model = _model_of(obj)
                if model is not None:
                    keys.append(model.key)
                    self._start(_key(kind, obj), obj)
        await self._files.retain_kept(keys)

    def changed(self, change: Change) -> None:
        if change.key.kind not in KINDS:
            return
        key = _key(change.key.kind, change.object)
        if change.type is ChangeType.DELETED:
            known = self._tasks.pop(key, None)
            if known is not None:
                known[1].cancel()
            model = _model_of(change.object)
            if model is not None:
                task = asyncio.create_task(self._files.drop(model.key))
                self._tasks[key] = ((None, None), task)
            return
        self._start(key, change.object)

    async def settled(self) -> None:
        """Return when nothing is under way."""
        await asyncio.gather(*(task for _, task in self._tasks.values()), return_exceptions=True)

    async def close(self) -> None:
        """Break off what is under way; the next start takes it up again."""
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: Key, obj: Object) -> None:
        meta = obj["metadata"]
        mark = (meta.get("uid"), meta.get("generation"))
        known = self._tasks.get(key)
        if known is not None:
            if known[0] == mark:
                return  # its own status was written
            known[1].cancel()
        model = _model_of(obj)
        if model is not None:
            task = asyncio.create_task(self._run(key, model), name=f"local model {model.key}")
            self._tasks[key] = (mark, task)

    async def _run(self, key: Key, model: LocalModel) -> None:
        failures = 0
        await self._say(key, DOWNLOADING, "")
        while True:
            try:
                files = await self._files.keep(model)
            except PenstockError as exc:
                failures += 1
                await self._say(key, FAILED, str(exc))
            except Exception:
                log.exception("local model %s could not be fetched", model.key)
                failures += 1
                await self._say(key, FAILED, "The fetch failed; the control plane's log tells why.")
            else:
                await self._say(key, DOWNLOADED, "", files.size_bytes)
                return
            await self._clock.sleep(self._backoff.delay_s(failures))

    async def _say(self, key: Key, state: str, message: str, size_bytes: int = 0) -> None:
        """The status in KServe's shape, and why in our own field."""
        done, failed = state == DOWNLOADED, state == FAILED
        status: dict[str, Any] = {
            "nodeStatus": {self._node: state},
            "copies": {"available": int(done), "total": 1, "failed": int(failed)},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if done else "False" if failed else "Unknown",
                    "reason": state.removeprefix("Node"),
                    "message": message,
                }
            ],
        }
        if size_bytes:
            status["penstock"] = {"sizeBytes": size_bytes}
        for _ in range(5):
            try:
                obj = await self._store.get(key)
                if obj.get("status") == status:
                    return
                await self._store.update_status({**obj, "status": status})
            except Conflict:
                continue
            except NotFound:
                return
            return


def _key(kind: Kind, obj: Object) -> Key:
    meta = obj["metadata"]
    return Key(kind, meta.get("namespace", ""), meta["name"])


def _model_of(obj: Object) -> LocalModel | None:
    try:
        found = dialects.find(obj["apiVersion"], obj["kind"]).translate(obj).object
    except InvalidManifest as exc:
        log.warning("a stored object cannot be read any more and is left out: %s", exc)
        return None
    return found if isinstance(found, LocalModel) else None
