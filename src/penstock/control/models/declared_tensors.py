"""What the models of services say that they take and give, asked of their processes.

A graph's tensors can be held to it (`domain.graph_tensors`). Each service's model is asked once for each
revision, when a graph names the service and a replica of it is ready; a service of several revisions at a
time, or with a transformer in front, is not judged. What was learned stays while the service sleeps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.replicas import ReplicaCache
from penstock.domain.graph import Tensor
from penstock.domain.graph_tensors import Declared
from penstock.domain.routes import PREDICTOR, Address

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]

#: Seconds that a model process has for its answer, and the bytes of it.
ANSWER_S: Final = 2.0
MOST_BYTES: Final = 1 << 20
_IN_FRONT: Final = "transformer"


class _Tensor(msgspec.Struct):
    name: str
    datatype: str = ""
    shape: tuple[int, ...] | None = None


class _Metadata(msgspec.Struct):
    platform: str = ""
    inputs: tuple[_Tensor, ...] = ()
    outputs: tuple[_Tensor, ...] = ()


_decode = msgspec.json.Decoder(_Metadata).decode


class DeclaredTensors:
    """What is known, by service. `learned` is called when that has changed."""

    def __init__(self, replicas: ReplicaCache, learned: Callable[[ServiceKey], None]) -> None:
        self._replicas = replicas
        self._learned = learned
        #: The revision that was asked, and what it said; None: nothing that can be used.
        self._known: dict[ServiceKey, tuple[str, Declared | None]] = {}
        self._asking: dict[ServiceKey, asyncio.Task[None]] = {}

    def of(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, Declared]:
        """What is known of these services."""
        found = {}
        for key in keys:
            known = self._known.get(key)
            if known is not None and known[1] is not None and self._revision(key) in ("", known[0]):
                found[key] = known[1]
        return found

    def ask(self, keys: Iterable[ServiceKey]) -> list[asyncio.Task[None]]:
        """Ask those that are not known and can answer. The tasks that are under way for these services."""
        tasks = []
        for key in keys:
            task = self._asking.get(key)
            if task is None:
                ready = self._ready(key)
                if not ready or len({r.revision for r in ready}) != 1:
                    continue
                known = self._known.get(key)
                if known is not None and known[0] == ready[0].revision:
                    continue
                task = asyncio.create_task(self._ask(key, ready[0]), name=f"metadata of {key}")
                self._asking[key] = task
            tasks.append(task)
        return tasks

    async def wait(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, Declared]:
        """As `of`, after those that can answer were asked."""
        keys = tuple(keys)
        tasks = self.ask(keys)
        if tasks:
            await asyncio.wait(tasks, timeout=ANSWER_S)
        return self.of(keys)

    def forget(self, key: ServiceKey) -> None:
        """The service is gone. No-op when unknown."""
        self._known.pop(key, None)

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ready(self, key: ServiceKey) -> list[ReplicaStatus]:
        replicas = self._replicas.of(key)
        if any(r.component == _IN_FRONT for r in replicas):
            return []
        return [
            r for r in replicas if r.component == PREDICTOR and r.phase is Phase.READY and r.address
        ]

    def _revision(self, key: ServiceKey) -> str:
        """The revision that answers now; empty when none does, `?` when there are several."""
        revisions = {r.revision for r in self._ready(key)}
        return "?" if len(revisions) > 1 else next(iter(revisions), "")

    async def _ask(self, key: ServiceKey, replica: ReplicaStatus) -> None:
        declared: Declared | None = None
        try:
            async with asyncio.timeout(ANSWER_S):
                document = await _get(replica.address or "", f"/v2/models/{key[1]}")
            found = _decode(document)
            declared = Declared(found.platform, _tensors(found.inputs), _tensors(found.outputs))
        except (ValueError, msgspec.DecodeError) as exc:
            log.debug("what %s/%s takes is not known: %s", *key, exc)
        except (OSError, TimeoutError) as exc:
            log.debug("%s/%s was not asked what it takes: %s", *key, exc)
            return  # the next look asks again
        finally:
            self._asking.pop(key, None)
        self._known[key] = (replica.revision, declared)
        if declared is not None:
            self._learned(key)


def _tensors(given: tuple[_Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor(t.name, t.datatype, t.shape) for t in given)


async def _get(address: str, path: str) -> bytes:
    """The body of a 200 answer. OSError; ValueError for any other answer."""
    where = Address.parse(address)
    if where.path is not None:
        reader, writer = await asyncio.open_unix_connection(where.path)
    else:
        reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = bytearray()
        while piece := await reader.read(65536):
            answer += piece
            if len(answer) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes")
    finally:
        writer.close()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0] or b"content-length:" not in head.lower():
        raise ValueError("no metadata")
    return body
