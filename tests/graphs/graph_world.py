"""The control plane with graphs and the services they name; a step ends when nothing is left to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.control.control_world import ControlWorld
from tests.control.control_world import sklearn_service as service

from penstock.store.base import Key, Kind
from penstock.store.sqlite import SqliteStore

__all__ = ["PIPELINE", "GraphWorld", "service", "world"]

PIPELINE = Kind("penstock.dev", "Pipeline")


class GraphWorld(ControlWorld):
    async def apply(self, obj: dict[str, Any]) -> dict[str, Any]:
        stored = await super().apply(obj)
        await self.settled()
        return stored

    async def settled(self) -> None:
        """Nothing is left to do, nor to do once more because somebody else had written first."""
        await super().settled()
        for _ in range(3):
            if not self.plane.loop._failures:
                return
            await self.clock.advance(1.0)
            await super().settled()

    async def delete(self, obj: dict[str, Any]) -> None:
        await self.store.delete(self.key(obj))
        await self.settled()

    async def ready(self, name: str = "chain") -> dict[str, Any]:
        obj = await self.store.get(Key(PIPELINE, "default", name))
        condition: dict[str, Any]
        (condition,) = obj["status"]["conditions"]
        return condition

    async def events(self, name: str = "chain") -> list[tuple[str, str]]:
        found = await self.store.events(about=Key(PIPELINE, "default", name))
        return [(e["reason"], e["message"]) for e in found]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GraphWorld]:
    store = await SqliteStore.open(tmp_path / "store.db")
    made = GraphWorld(store)
    await made.plane.start()
    yield made
    await made.plane.close()
    await store.close()
