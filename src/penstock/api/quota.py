"""Quotas at admission: a service that would exceed a sum of its namespace is not stored.

Check and write are done under one lock per namespace, so two services that come at once cannot both take
the last of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from penstock.api.kinds import Resource, service_kinds
from penstock.control.quotas import QUOTA, Usages, quota_of
from penstock.domain.quantity import format_quantity
from penstock.domain.quota import Quota, Undeclared, exceeded
from penstock.errors import Forbidden
from penstock.store.base import Object, Store


class QuotaGate:
    """`passing` lets a write through, or raises Forbidden with the sums."""

    def __init__(self, store: Store, usages: Usages) -> None:
        self._store = store
        self._usages = usages
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def passing(
        self, resource: Resource, obj: Object, stored: Object | None
    ) -> AsyncIterator[None]:
        """Around the write of `obj` in place of `stored`."""
        if not resource.is_service:
            yield
            return
        namespace = obj["metadata"]["namespace"]
        if not (await self._store.list(QUOTA, namespace=namespace, limit=1)).items:
            # Without a quota nobody waits for another's write: those that come at once share a commit.
            yield
            return
        lock = self._locks.get(namespace)
        if lock is None:
            lock = self._locks[namespace] = asyncio.Lock()
        async with lock:
            listing = await self._store.list(QUOTA, namespace=namespace)
            if listing.items:
                await self._check([quota_of(o) for o in listing.items], resource, obj, stored)
            yield

    async def _check(
        self, quotas: list[Quota], resource: Resource, obj: Object, stored: Object | None
    ) -> None:
        new = self._usages.of_new(obj)
        old = self._usages.of(stored) if stored is not None else None
        uid = stored["metadata"]["uid"] if stored is not None else None
        there: list[Object] = []
        for kind in service_kinds():
            listing = await self._store.list(kind, namespace=obj["metadata"]["namespace"])
            there += listing.items
        others = self._usages.of_all(there, new=obj, uid=uid)
        if others is None:
            return  # a part of what was admitted as a whole
        name = obj["metadata"].get("name", "")
        for quota in quotas:
            try:
                over = exceeded(quota, others, new, old)
            except Undeclared as exc:
                raise Forbidden(
                    f'{resource.qualified} "{name}" is forbidden: failed quota: {quota.name}: '
                    f"must specify {exc} in the model's resources."
                ) from None
            if over:
                asked = ",".join(f"{r}={format_quantity(amount)}" for r, amount, _, _ in over)
                used = ",".join(f"{r}={format_quantity(amount)}" for r, _, amount, _ in over)
                hard = ",".join(f"{r}={format_quantity(amount)}" for r, _, _, amount in over)
                raise Forbidden(
                    f'{resource.qualified} "{name}" is forbidden: exceeded quota: {quota.name}, '
                    f"requested: {asked}, used: {used}, limited: {hard}."
                )
