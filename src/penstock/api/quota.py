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
from penstock.control.placement.quota_sums import QuotaSums
from penstock.control.placement.quotas import QUOTA, QuotaKeeper, quota_of
from penstock.domain.quantity import format_quantity
from penstock.domain.quota import Quota, Undeclared, exceeded
from penstock.errors import Forbidden
from penstock.store.base import Object, Store


class QuotaGate:
    """`passing` lets a write through, or raises Forbidden with the sums."""

    def __init__(self, store: Store, keeper: QuotaKeeper) -> None:
        self._store = store
        self._keeper = keeper
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
                sums = await self._sums(namespace, listing.version)
                self._check([quota_of(o) for o in listing.items], sums, resource, obj, stored)
            yield

    async def _sums(self, namespace: str, version: int) -> QuotaSums:
        """What there is of a namespace at a version of the store, or later."""
        if await self._keeper.caught_up(namespace, version):
            return self._keeper.sums
        # Nothing is known yet, or the changes are slow to come: read it all.
        there: list[Object] = []
        for kind in service_kinds():
            there += (await self._store.list(kind, namespace=namespace)).items
        sums = QuotaSums(self._keeper.usages)
        sums.open(namespace, there)
        return sums

    def _check(
        self,
        quotas: list[Quota],
        sums: QuotaSums,
        resource: Resource,
        obj: Object,
        stored: Object | None,
    ) -> None:
        usages = self._keeper.usages
        uid = stored["metadata"]["uid"] if stored is not None else None
        others = sums.beside(obj["metadata"]["namespace"], obj, uid)
        if others is None:
            return  # a part of what was admitted as a whole
        new = usages.of_new(obj)
        old = usages.of(stored)[0] if stored is not None else None
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
