"""The repository API as a platform has it: models are services, and what runs follows their manifests.

`index` lists the services of a namespace, whether they can answer and why not. `load` wakes a service that
sleeps and is answered when it can answer; of one that is awake it changes nothing, because new files come
with a new revision. `unload` puts a service to sleep if its manifest allows none of its replicas, and says
what to do if not. Statistics are added up over all replicas. A model process run alone has its own
repository (`server.repository`), and so has one that is asked for under its service's own name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.routes import ROLES, Address, Sleep
from penstock.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PenstockError,
    Unavailable,
    Unsupported,
)
from penstock.gateway.proxy import Forward
from penstock.http.client import UpstreamError, fetch
from penstock.http.head import JSON_TYPE
from penstock.protocols import documents
from penstock.protocols.json_object import json_object

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.replicas import Replica
    from penstock.gateway.table import Service, Table

logger = logging.getLogger(__name__)

#: How long an unload waits for the service's replicas to be gone from the table, seconds.
UNLOAD_S: Final = 10.0
#: How often it looks, and how often it tells the control plane again.
LOOK_S: Final = 0.02
SAY_AGAIN_S: Final = 0.5
#: Replicas asked for their statistics at a time, seconds for each, and bytes it may answer.
ASKED_AT_ONCE: Final = 16
STATISTICS_S: Final = 2.0
STATISTICS_BYTES: Final = 4 * 1024 * 1024


# -- index ------------------------------------------------------------------------------------------


def can_answer(service: Service) -> bool:
    """A replica of it is up."""
    return any(r.up for t in service.targets for r in t.replicas)


def index(table: Table, namespace: str, *, ready_only: bool = False) -> list[dict[str, str]]:
    """A namespace's services by name: `READY`, or `UNAVAILABLE` with the reason."""
    found = []
    for service in sorted(table.services(namespace), key=lambda s: s.name):
        ready = can_answer(service)
        if ready or not ready_only:
            reason = "" if ready else service.route.message or "asleep; the first request wakes it"
            found.append(
                {
                    "name": service.name,
                    "version": "",
                    "state": "READY" if ready else "UNAVAILABLE",
                    "reason": reason,
                }
            )
    return found


def ready_only(body: Any) -> bool:
    """What the body of an index request asks for."""
    value = json_object(body).get("ready", False)
    if not isinstance(value, bool):
        raise InvalidInput("'ready' is true or false.")
    return value


# -- load -------------------------------------------------------------------------------------------


def refuse_parameters(names: Iterable[str]) -> None:
    """Unsupported, with the first name: what is loaded follows the manifest, not the request."""
    for name in names:
        raise Unsupported(
            f"The load parameter {name!r} is not supported.",
            hint="What is loaded follows the service's manifest.",
        )


class Load(Forward):
    """A load: waits like any other request, and is answered by the gateway once a replica is up."""

    __slots__ = ()

    def dispatch(self) -> bool:
        if not can_answer(self.service):
            return False
        # Not here: whoever calls this may be going through the line that the end of a request changes.
        asyncio.get_running_loop().call_soon(self._awake)
        return True

    def _awake(self) -> None:
        if not self.done:
            self.say_loaded()
            self._finish(200)

    def say_loaded(self) -> None:
        self.exchange.send(200, JSON_TYPE, documents.loaded(self.service.name))


# -- unload -----------------------------------------------------------------------------------------


class Unload:
    """Puts a service to sleep; `answer` is called once, with None or with what went wrong."""

    def __init__(
        self, gateway: Gateway, service: Service, answer: Callable[[PenstockError | None], None]
    ) -> None:
        self._gateway = gateway
        self._namespace, self._name, self._key = service.namespace, service.name, service.key
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._until = self._loop.time() + UNLOAD_S
        self._said = float("-inf")

    def look(self) -> None:
        """Answer if the service sleeps, or cannot; else look again soon."""
        service = self._gateway.table.get(self._namespace, self._name)
        now = self._loop.time()
        if service is None:
            self._answer(NotFound(f"The service {self._key} was deleted."))
        elif _awake(service) and not service.route.may_sleep:
            self._answer(
                Conflict(
                    f"{self._key} keeps at least one replica by its manifest.",
                    hint="With minReplicas: 0 it may be unloaded; the annotation "
                    "serving.kserve.io/stop: 'true' takes it down until it is removed.",
                )
            )
        elif not any(_awake(c) and c.route.may_sleep for c in self._components(service)):
            self._answer(None)
        elif now >= self._until:
            self._answer(
                Unavailable(
                    f"{self._key} is still awake: requests are under way, or the control plane "
                    "is away.",
                    hint="Try again later.",
                    retry_after_s=1,
                )
            )
        else:
            if now - self._said >= SAY_AGAIN_S:
                self._said = now
                self._gateway.tell(Sleep(self._key))
            self._timer = self._loop.call_later(LOOK_S, self.look)

    def _components(self, service: Service) -> Iterable[Service]:
        """All of the service: one that was busy when the others went is told again."""
        for role in ROLES:
            component = self._gateway.table.component(service, role)
            if component is not None:
                yield component

    def forget(self) -> None:
        """The client is gone. What was asked for may still be done."""
        if self._timer is not None:
            self._timer.cancel()


def _awake(component: Service) -> bool:
    return bool(component.waiting) or any(t.replicas for t in component.targets)


# -- statistics -------------------------------------------------------------------------------------


async def statistics(services: Iterable[Service], path: str) -> dict[str, Any]:
    """Triton's statistics of all replicas of `services`, added up by model and version.

    `path` is what the replicas are asked for. One that does not answer, or has no statistics (a server of
    another kind), is left out.
    """
    limit = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(replica: Replica) -> list[dict[str, Any]]:
        async with limit:
            try:
                status, _, body = await fetch(
                    Address.parse(replica.address), "GET", path,
                    timeout_s=STATISTICS_S, max_body=STATISTICS_BYTES,
                )  # fmt: skip
                document = msgspec.json.decode(body, type=_Statistics)
            except (UpstreamError, TimeoutError, OSError, msgspec.MsgspecError) as exc:
                logger.warning("no statistics of %s: %s", replica.address, exc)
                return []
        return document.model_stats if status == 200 else []

    replicas = [(s.key, r) for s in services for t in s.targets for r in t.replicas if r.up]
    sums: dict[tuple[str, Any, Any], dict[str, Any]] = {}
    for (key, _), entries in zip(
        replicas, await asyncio.gather(*(ask(r) for _, r in replicas)), strict=True
    ):
        for entry in entries:
            of = (key, entry.get("name"), entry.get("version"))
            sums[of] = add(sums[of], entry) if of in sums else entry
    return {"model_stats": [sums[of] for of in sorted(sums, key=str)]}


class _Statistics(msgspec.Struct):
    model_stats: list[dict[str, Any]]


def add(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two entries of the same model: numbers are added, the later time counts, batches by their size."""
    whole = dict(one)
    for name, value in other.items():
        mine = whole.get(name)
        if name == "last_inference":
            whole[name] = max(mine or 0, value)
        elif name == "batch_stats":
            whole[name] = _batches(mine or [], value)
        elif isinstance(value, dict):
            whole[name] = add(mine or {}, value)
        elif isinstance(value, int) and not isinstance(value, bool):
            whole[name] = (mine or 0) + value
        else:
            whole.setdefault(name, value)
    return whole


def _batches(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_size: dict[int, dict[str, Any]] = {}
    for entry in (*one, *other):
        size = entry.get("batch_size", 0)
        mine = by_size.get(size)
        by_size[size] = {**add(mine, entry), "batch_size": size} if mine is not None else entry
    return [by_size[size] for size in sorted(by_size)]
