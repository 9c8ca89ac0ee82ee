"""What an object owns goes with it, as the deletion says: in the background, first, or not at all."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest
from api_harness import ISVC, Api, isvc
from control_fakes import FakeBackend, FakeFiles

from penstock.control.plane import ControlPlane
from penstock.control.settings import ControlSettings
from penstock.errors import NotFound
from penstock.store.base import ChangeType, Key, Kind
from penstock.store.sqlite import SqliteStore

SECRETS = "/api/v1/namespaces/default/secrets"


async def owned_secret(api: Api, owner: dict[str, Any], name: str = "s", **extra: Any) -> None:
    meta = owner["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        **extra,
    }
    answer = await api.client.post(
        SECRETS,
        json={
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "ownerReferences": [reference]},
            "data": {"k": base64.b64encode(b"v").decode()},
        },
    )
    assert answer.status_code == 201, answer.text


async def exists(api: Api, path: str) -> bool:
    return (await api.client.get(path)).status_code == 200


async def delete(api: Api, **options: Any) -> httpx.Response:
    return await api.client.request("DELETE", f"{ISVC}/iris", json=options)


@pytest.mark.parametrize("options", [{}, {"propagationPolicy": "Background"}])
async def test_a_services_secret_goes_with_it(api: Api, options: dict[str, str]) -> None:
    await api.apply(isvc())
    await owned_secret(api, await api.ready())
    assert (await delete(api, **options)).json()["status"] == "Success"

    async def gone() -> bool:
        return not await exists(api, f"{SECRETS}/s")

    await api.until(gone)


@pytest.mark.parametrize("options", [{"propagationPolicy": "Orphan"}, {"orphanDependents": True}])
async def test_an_orphan_stays_and_has_no_owner(api: Api, options: dict[str, Any]) -> None:
    await api.apply(isvc())
    await owned_secret(api, await api.ready())
    await delete(api, **options)

    async def gone() -> bool:
        return not await exists(api, f"{ISVC}/iris")

    await api.until(gone)
    kept = (await api.client.get(f"{SECRETS}/s")).json()
    assert not kept["metadata"].get("ownerReferences")


async def test_in_the_foreground_the_owner_goes_last(api: Api) -> None:
    await api.apply(isvc())
    await owned_secret(api, await api.ready(), blockOwnerDeletion=True)
    held = await delete(api, propagationPolicy="Foreground")
    assert "foregroundDeletion" in held.json()["metadata"]["finalizers"]

    async def gone() -> bool:
        if await exists(api, f"{ISVC}/iris"):
            return False
        assert not await exists(api, f"{SECRETS}/s"), "it went before"
        return True

    await api.until(gone)


async def test_replicas_of_a_service_that_goes_in_the_foreground_are_drained(api: Api) -> None:
    await api.apply(isvc())
    await api.ready()
    await delete(api, propagationPolicy="Foreground")

    async def stopped() -> bool:
        return not api.backend.replicas and not await exists(api, f"{ISVC}/iris")

    await api.until(stopped)
    assert api.backend.stopped


async def test_what_lost_its_owner_while_no_control_plane_ran_goes_when_one_is_back() -> None:
    store = await SqliteStore.in_memory()
    owner = await store.create({**isvc(), "metadata": {"name": "iris", "namespace": "default"}})
    reference = {k: owner[k] for k in ("apiVersion", "kind")} | {
        k: owner["metadata"][k] for k in ("name", "uid")
    }
    key = Key(Kind("", "Secret"), "default", "s")
    meta = {"name": "s", "namespace": "default", "ownerReferences": [reference]}
    await store.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta})
    await store.delete(Key(Kind("penstock.dev", "InferenceService"), "default", "iris"))
    plane = ControlPlane(store, FakeBackend(), FakeFiles(), settings=ControlSettings(cores=2))
    await plane.start()
    try:
        async with asyncio.timeout(30):
            async for change in store.watch(key.kind):
                if change.type is ChangeType.DELETED:
                    break
                try:
                    await store.get(key)
                except NotFound:
                    break
    finally:
        await plane.close()
        await store.close()


async def test_an_unknown_policy_is_refused(api: Api) -> None:
    await api.apply(isvc())
    answer = await delete(api, propagationPolicy="Sideways")
    assert answer.status_code == 400
    assert "none of Foreground, Background, Orphan" in answer.json()["message"]
    assert await exists(api, f"{ISVC}/iris")
