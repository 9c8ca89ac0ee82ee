"""Quotas at admission: a service that would exceed a sum of its namespace is not stored.

Check and write are done under one lock per namespace, so two services that come at once cannot both take
the last of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from fractions import Fraction
from weakref import WeakValueDictionary

from penstock import dialects
from penstock.api.kinds import Resource, service_kinds
from penstock.domain.quota import Quota, Undeclared, exceeded, usage
from penstock.domain.service import Service
from penstock.errors import Forbidden, InvalidManifest
from penstock.store.base import Kind, Object, Store

QUOTA = Kind("", "ResourceQuota")
_Usage = Mapping[str, Fraction | None]


class QuotaGate:
    """`passing` lets a write through, or raises Forbidden with the sums."""

    def __init__(self, store: Store, *, runs_containers: bool) -> None:
        self._store = store
        self._runs_containers = runs_containers
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        #: By uid: what the usage was made from, and it. Dropped with the namespace's last quota.
        self._known: dict[str, tuple[str, _Usage]] = {}

    @asynccontextmanager
    async def passing(
        self, resource: Resource, obj: Object, stored: Object | None
    ) -> AsyncIterator[None]:
        """Around the write of `obj` in place of `stored`."""
        if not resource.is_service:
            yield
            return
        namespace = obj["metadata"]["namespace"]
        lock = self._locks.get(namespace)
        if lock is None:
            lock = self._locks[namespace] = asyncio.Lock()
        async with lock:
            listing = await self._store.list(QUOTA, namespace=namespace)
            if listing.items:
                await self._check([_quota(o) for o in listing.items], resource, obj, stored)
            else:
                self._known.clear()
            yield

    async def _check(
        self, quotas: list[Quota], resource: Resource, obj: Object, stored: Object | None
    ) -> None:
        new = self._usage(obj)
        old = self._usage(stored) if stored is not None else None
        uid = stored["metadata"]["uid"] if stored is not None else None
        others = []
        for kind in service_kinds():
            listing = await self._store.list(kind, namespace=obj["metadata"]["namespace"])
            others += [self._of(o) for o in listing.items if o["metadata"]["uid"] != uid]
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
                asked = ",".join(f"{r}={_shown(amount)}" for r, amount, _, _ in over)
                used = ",".join(f"{r}={_shown(amount)}" for r, _, amount, _ in over)
                hard = ",".join(f"{r}={_shown(amount)}" for r, _, _, amount in over)
                raise Forbidden(
                    f'{resource.qualified} "{name}" is forbidden: exceeded quota: {quota.name}, '
                    f"requested: {asked}, used: {used}, limited: {hard}."
                )

    def _of(self, obj: Object) -> _Usage:
        meta = obj["metadata"]
        mark = f"{meta.get('generation')}|{meta.get('annotations')}"
        known = self._known.get(meta["uid"])
        if known is None or known[0] != mark:
            known = self._known[meta["uid"]] = (mark, self._usage(obj))
        return known[1]

    def _usage(self, obj: Object) -> _Usage:
        dialect = dialects.find(obj["apiVersion"], obj["kind"])
        try:
            service = dialect.translate(obj, runs_containers=self._runs_containers).object
        except InvalidManifest:
            return {}  # stored by another release; nothing of it runs
        if not isinstance(service, Service):
            return {}
        kind = f"{dialect.plural}.{dialect.group}"
        return usage(service, kind)


def _quota(obj: Object) -> Quota:
    quota = dialects.find(obj["apiVersion"], obj["kind"]).translate(obj).object
    assert isinstance(quota, Quota)  # noqa: S101 - the kind means a quota
    return quota


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        for suffix, factor in (("Gi", 2**30), ("Mi", 2**20)):
            if value and value % factor == 0:
                return f"{value // factor}{suffix}"
        return str(value)
    return f"{float(value):g}"
