"""A whole control plane of which a test holds all that is around it: store, replicas, files and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.control.control_fakes import FakeBackend, FakeClock, FakeFiles, at_rest

from penstock.backends.base import Phase
from penstock.control.plane import ControlPlane
from penstock.control.settings import ControlSettings
from penstock.errors import Conflict, NotFound
from penstock.store.base import Key, Kind
from penstock.store.sqlite import SqliteStore


def sklearn_service(
    name: str = "iris",
    uri: str = "",
    annotations: dict[str, str] | None = None,
    **predictor: Any,
) -> dict[str, Any]:
    """An InferenceService with a scikit-learn model, at `models/NAME` if nothing else is said."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
        "spec": {"predictor": {"sklearn": {"storageUri": uri or f"models/{name}"}, **predictor}},
    }


class ControlWorld:
    """What tests of controllers have in common. `plane` is not started."""

    def __init__(
        self,
        store: SqliteStore,
        backend: FakeBackend | None = None,
        settings: ControlSettings | None = None,
        **more: Any,
    ) -> None:
        self.store = store
        self.backend = backend or FakeBackend()
        self.files = FakeFiles()
        self.clock = FakeClock()
        self._settings = settings or ControlSettings(cores=4)
        self._more = more
        self.plane = self.another()

    def another(self) -> ControlPlane:
        """A control plane that knows nothing yet, in the same world."""
        return ControlPlane(
            self.store,
            self.backend,
            self.files,
            settings=self._settings,
            clock=self.clock,
            **self._more,
        )

    async def restart(self) -> None:
        """The control plane dies and another one takes its place."""
        await self.plane.close()
        self.plane = self.another()
        await self.plane.start()

    @staticmethod
    def key(obj: dict[str, Any]) -> Key:
        kind = Kind(obj["apiVersion"].rpartition("/")[0], obj["kind"])
        return Key(kind, "default", obj["metadata"]["name"])

    async def apply(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Create it, or put it in the place of what is there."""
        while True:
            try:
                old = await self.store.get(self.key(obj))
            except NotFound:
                return await self.store.create(obj)
            meta = {**obj["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
            try:
                return await self.store.update({**obj, "metadata": meta})
            except Conflict:  # a status was written in between
                continue

    async def until(self, what: Callable[[], Any], step_s: float = 0.01) -> Any:
        """Wait for something to become true; time goes on meanwhile.

        The store answers from a thread, so tasks need real turns.
        """
        async with asyncio.timeout(50):
            while True:
                found = what()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.002)
                # A lost compare-and-swap waits for its next look.
                await self.clock.advance(step_s)

    async def settled(self) -> None:
        await at_rest(self.store, self.plane.loop)


class SleepingWorld(ControlWorld):
    """So many services, of which each is proven once and sleeps soon after; routes are kept in a folder."""

    def __init__(
        self, store: SqliteStore, folder: Path, count: int, *, grace_s: float = 5.0, **settings: Any
    ) -> None:
        super().__init__(
            store,
            settings=ControlSettings(
                cores=4, scale_to_zero_grace_s=grace_s, routes_applied_s=0.0, **settings
            ),
            routes_file=folder / "routes.json",
            routes_socket=folder / "routes.sock",
        )
        self.count = count

    def asleep(self) -> bool:
        live = [r for r in self.backend.replicas.values() if r.phase is not Phase.STOPPED]
        return not live and self.plane.manifests.ready["True"] == self.count
