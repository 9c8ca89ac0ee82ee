"""Ten thousand objects: lists in pages are of one moment, whatever is written between them."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from api_harness import Api
from kubectl_harness import Kubectl

from penstock.errors import NotFound
from penstock.store.base import Key, Kind

COUNT = 10_000
SECRETS = "/api/v1/namespaces/default/secrets"
SECRET = Kind("", "Secret")


@pytest.fixture
async def many(api: Api) -> Api:
    """Secrets, because no controller does anything about them."""
    for start in range(0, COUNT, 1000):
        await asyncio.gather(
            *(api.plane.store.create(secret(i)) for i in range(start, start + 1000))
        )
    return api


def secret(i: int, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"s{i:05}",
            "namespace": "default",
            "labels": {"made": "first", **labels},
        },
        "type": "Opaque",
    }


async def _write(api: Api) -> None:
    """Goes on changing, removing and adding objects, behind and ahead of whoever reads."""
    store = api.plane.store
    for i in itertools.count():
        n = i * 7919 % COUNT
        try:
            old = await store.get(Key(SECRET, "default", f"s{n:05}"))
        except NotFound:  # was removed before
            continue
        if i % 3 == 0:
            await store.delete(Key(SECRET, "default", f"s{n:05}"))
        elif i % 3 == 1:
            meta = {**old["metadata"], "labels": {"made": "later"}}
            await store.update({**old, "metadata": meta})
        else:
            new = secret(n)
            await store.create({**new, "metadata": {**new["metadata"], "name": f"s{n:05}-{i}"}})


async def test_pages_are_of_one_moment_while_all_is_changed(many: Api) -> None:
    writing = asyncio.create_task(_write(many))
    try:
        seen: list[str] = []
        versions = set()
        query = {"limit": "500"}
        while True:
            answer = await many.client.get(SECRETS, params=query, timeout=60)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            versions.add(page["metadata"]["resourceVersion"])
            first = not seen
            seen += [o["metadata"]["name"] for o in page["items"]]
            labels = {o["metadata"]["labels"]["made"] for o in page["items"]}
            if first:
                moment = int(page["metadata"]["resourceVersion"])
            assert all(int(o["metadata"]["resourceVersion"]) <= moment for o in page["items"])
            assert labels <= {"first", "later"}
            if "continue" not in page["metadata"]:
                break
            query["continue"] = page["metadata"]["continue"]
        written = (await many.plane.store.list(SECRET, limit=1)).version - moment
        assert written > 20, "nothing was written meanwhile"
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert len(versions) == 1
    assert seen == sorted(set(seen))
    whole = await many.client.get(
        SECRETS,
        params={"resourceVersion": str(moment), "resourceVersionMatch": "Exact"},
        timeout=60,
    )
    assert [o["metadata"]["name"] for o in whole.json()["items"]] == seen


async def test_kubectl_reads_them_in_pages(many: Api, kubectl: Kubectl) -> None:
    listed = await kubectl("get", "secrets", "--chunk-size=500", "-o", "name")
    assert len(listed.out.splitlines()) == COUNT
