"""The contract of a store, over every implementation there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_contract import Clock, StoreContract

from penstock.store.base import Store
from penstock.store.sqlite import SqliteStore


class TestStores(StoreContract):
    @pytest.fixture(params=["file", "file-without-ring", "memory"])
    async def store(
        self, request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
    ) -> AsyncIterator[Store]:
        """`file-without-ring` makes every watch read from the file."""
        if request.param == "memory":
            store = await SqliteStore.in_memory(now=clock)
        else:
            ring = 2000 if request.param == "file" else 0
            store = await SqliteStore.open(tmp_path / "store.db", now=clock, ring=ring)
        yield store
        await store.close()
