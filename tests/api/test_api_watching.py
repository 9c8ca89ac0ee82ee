"""Watches and lists by version: of every kind, with bookmarks, from the start or from a version."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from api_harness import ISVC, Api, isvc

from penstock.api import feeds, streams
from penstock.backends.base import Phase
from penstock.domain.devices import Device, DeviceStatus

BASE = "/apis/penstock.dev/v1alpha1"
EVENTS = "/api/v1/namespaces/default/events"
REPLICAS = f"{BASE}/namespaces/default/replicas"
PODS = "/api/v1/namespaces/default/pods"
NEWEST = {"resourceVersionMatch": "NotOlderThan", "sendInitialEvents": "true"}


async def changes(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async with asyncio.timeout(20):
        async for line in response.aiter_lines():
            yield json.loads(line)


def watch(api: Api, path: str, **query: Any) -> Any:
    return api.client.stream("GET", path, params={"watch": "true", **query})


async def version(api: Api, path: str) -> str:
    return str((await api.client.get(path)).json()["metadata"]["resourceVersion"])


# -- what is not stored -------------------------------------------------------------------------------


async def test_events_are_watched_from_the_version_of_a_list(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("a"))
    await api.ready("a")
    since = await version(api, EVENTS)
    async with watch(api, EVENTS, resourceVersion=since) as response:
        await api.client.post(ISVC, json=isvc("b"))
        seen = []
        async for change in changes(response):
            assert change["type"] in ("ADDED", "MODIFIED")
            assert change["object"]["involvedObject"]["name"] == "b"
            assert int(change["object"]["metadata"]["resourceVersion"]) > int(since)
            seen.append(change["object"]["reason"])
            if "Ready" in seen:
                break
    assert "RevisionReady" in seen


async def test_events_of_one_object_are_watched(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("a"))
    await api.client.post(ISVC, json=isvc("b"))
    await api.ready("a")
    await api.ready("b")
    query = {"fieldSelector": "involvedObject.name=b,type!=Warning", "timeoutSeconds": "1"}
    async with watch(api, EVENTS, **query) as response:
        found = [c async for c in changes(response)]
    assert {c["object"]["involvedObject"]["name"] for c in found} == {"b"}


@pytest.mark.parametrize("path", [REPLICAS, PODS, f"{BASE}/replicas"])
async def test_replicas_are_watched(api: Api, path: str) -> None:
    async with watch(api, path) as response:
        await api.client.post(ISVC, json=isvc())
        replica = (await api.ready()) and next(iter(api.backend.replicas))
        told = changes(response)
        first = await anext(told)
        assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", replica)
        api.backend.set(replica, Phase.BACKOFF, restarts=3, reason="Exit")
        async for change in told:
            assert change["type"] == "MODIFIED"
            if "BackOff" in json.dumps(change["object"]["status"]):
                break
        await api.client.delete(f"{ISVC}/iris")
        async for change in told:
            if change["type"] == "DELETED":
                break
        assert change["object"]["metadata"]["name"] == replica


async def test_a_replica_that_leaves_the_selection_is_told_as_deleted(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    (replica,) = api.backend.replicas
    since = await version(api, REPLICAS)
    query = {"fieldSelector": "status.phase=Ready", "resourceVersion": since}
    async with watch(api, REPLICAS, **query) as response:
        api.backend.set(replica, Phase.BACKOFF, restarts=1)
        api.backend.set(replica, Phase.READY, restarts=1)
        told = changes(response)
        types = [(await anext(told))["type"] for _ in range(2)]
    assert types == ["DELETED", "ADDED"]


async def test_devices_are_watched(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_S", 0.01)
    device = Device(0, "GPU-1", "H100", memory_bytes=80 << 30)
    present: list[DeviceStatus] = []

    async def devices() -> tuple[DeviceStatus, ...]:
        return tuple(present)

    monkeypatch.setattr(api.backend, "devices", devices)
    async with watch(api, f"{BASE}/devices") as response:
        present.append(DeviceStatus(device, {}))
        told = changes(response)
        added = await anext(told)
        assert (added["type"], added["object"]["metadata"]["name"]) == ("ADDED", "nvidia-0")
        present.clear()
        assert (await anext(told))["type"] == "DELETED"


@pytest.mark.parametrize("path", [EVENTS, REPLICAS, PODS, f"{BASE}/devices", ISVC])
async def test_a_version_that_is_gone_is_told_as_such(api: Api, path: str) -> None:
    for since in ("999999999999999", "1"):
        if since == "1" and path in (ISVC, EVENTS):
            continue  # these keep all there was
        async with watch(api, path, resourceVersion=since) as response:
            change = await anext(changes(response))
        assert (change["type"], change["object"]["code"]) == ("ERROR", 410)
        assert change["object"]["reason"] == "Expired"


@pytest.mark.parametrize("path", [EVENTS, REPLICAS, PODS, f"{BASE}/devices"])
async def test_what_is_not_stored_cannot_be_written(api: Api, path: str) -> None:
    assert (await api.client.post(path, json={"metadata": {"name": "x"}})).status_code == 405
    assert (await api.client.delete(path)).status_code == 405
    assert (await api.client.delete(f"{path}/x")).status_code == 405
    assert (await api.client.get(f"{path}/x")).status_code == 404


# -- bookmarks ----------------------------------------------------------------------------------------


async def test_a_bookmark_ends_what_there_was(api: Api) -> None:
    for name in ("a", "b"):
        await api.client.post(ISVC, json=isvc(name))
        await api.ready(name)
    async with watch(api, ISVC, allowWatchBookmarks="true", **NEWEST) as response:
        told = changes(response)
        first = [await anext(told) for _ in range(3)]
        assert [c["type"] for c in first] == ["ADDED", "ADDED", "BOOKMARK"]
        mark = first[2]["object"]
        assert (mark["kind"], mark["apiVersion"]) == ("InferenceService", "penstock.dev/v1alpha1")
        assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await api.client.delete(f"{ISVC}/a")
        async for change in told:
            if change["type"] == "DELETED":
                break
        assert int(change["object"]["metadata"]["resourceVersion"]) > int(
            mark["metadata"]["resourceVersion"]
        )


async def test_a_quiet_watch_is_told_how_far_others_have_come(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BOOKMARK_S", 0.02)
    path = f"{BASE}/namespaces/default/servingruntimes"
    since = await version(api, path)
    async with watch(api, path, resourceVersion=since, allowWatchBookmarks="1") as response:
        await api.client.post(ISVC, json=isvc())
        reached = int(await version(api, ISVC))
        async for change in changes(response):
            assert change["type"] == "BOOKMARK"
            if int(change["object"]["metadata"]["resourceVersion"]) >= reached:
                break


async def test_a_watch_ends_with_a_bookmark_if_it_asked_for_them(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    for bookmarks, expected in (("true", ["BOOKMARK"]), ("false", [])):
        query = {
            "resourceVersion": await version(api, ISVC),
            "timeoutSeconds": "1",
            "allowWatchBookmarks": bookmarks,
        }
        async with watch(api, ISVC, **query) as response:
            assert [c["type"] async for c in changes(response)] == expected


async def test_a_watch_can_begin_with_nothing_of_what_there_is(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("old"))
    await api.ready("old")
    query = {**NEWEST, "sendInitialEvents": "false"}
    async with watch(api, ISVC, **query) as response:
        await api.client.post(ISVC, json=isvc("new"))
        async for change in changes(response):
            assert change["object"]["metadata"]["name"] == "new"
            break


async def test_a_bookmark_in_a_watch_of_tables_has_no_rows(api: Api) -> None:
    accept = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    query = {"watch": "1", "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
    async with api.client.stream("GET", ISVC, params=query, headers=accept) as response:
        found = [c async for c in changes(response)]
    assert [c["type"] for c in found] == ["BOOKMARK", "BOOKMARK"]
    assert found[-1]["object"]["kind"] == "Table"
    assert found[-1]["object"]["rows"] == []
    assert found[-1]["object"]["metadata"]["resourceVersion"]


# -- versions of lists ----------------------------------------------------------------------------------


async def test_a_list_of_exactly_a_version(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("a"))
    await api.ready("a")
    then = await version(api, ISVC)
    await api.client.post(ISVC, json=isvc("b"))
    exact = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
    old = (await api.client.get(ISVC, params=exact)).json()
    assert [o["metadata"]["name"] for o in old["items"]] == ["a"]
    assert old["metadata"]["resourceVersion"] == then
    older = (await api.client.get(ISVC, params={"resourceVersion": then, "limit": "1"})).json()
    assert older["metadata"]["resourceVersion"] == then
    newer = {"resourceVersion": then, "resourceVersionMatch": "NotOlderThan"}
    assert len((await api.client.get(ISVC, params=newer)).json()["items"]) == 2
    assert len((await api.client.get(ISVC, params={"resourceVersion": "0"})).json()["items"]) == 2


async def test_a_version_that_is_not_kept_is_gone(api: Api) -> None:
    exact = {"resourceVersion": "999999", "resourceVersionMatch": "Exact"}
    for path in (ISVC, EVENTS, REPLICAS):
        answer = await api.client.get(path, params=exact)
        assert (answer.status_code, answer.json()["reason"]) == (410, "Expired")


async def test_a_version_that_is_not_there_yet_is_to_be_tried_again(api: Api) -> None:
    answer = await api.client.get(ISVC, params={"resourceVersion": "999999"})
    assert answer.status_code == 504
    assert answer.json()["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"resourceVersion": "x"}, 400),
        ({"resourceVersion": "-1"}, 400),
        ({"resourceVersion": "9" * 40}, 400),
        ({"resourceVersion": "١"}, 400),
        ({"resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersion": "1", "resourceVersionMatch": "Nearly"}, 422),
        ({"resourceVersion": "0", "resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersion": "1", "resourceVersionMatch": "Exact", "continue": "x"}, 422),
        ({"resourceVersion": "1", "continue": "x"}, 400),
        ({"sendInitialEvents": "true"}, 422),
        ({"limit": "-1"}, 400),
        ({"limit": "99999"}, 400),
        ({"limit": "²"}, 400),
        ({"continue": "e30="}, 400),
        ({"watch": "maybe"}, 400),
        ({"watch": "1", "resourceVersion": "x"}, 400),
        ({"watch": "1", "resourceVersion": "1", "resourceVersionMatch": "Exact"}, 422),
        ({"watch": "1", "sendInitialEvents": "true"}, 422),
        ({"watch": "1", "sendInitialEvents": "x"}, 400),
        ({"watch": "1", "timeoutSeconds": "-5"}, 400),
        ({"watch": "1", "timeoutSeconds": "1e9"}, 400),
        ({"watch": "1", "allowWatchBookmarks": "2"}, 400),
        ({"fieldSelector": "spec.x=1"}, 400),
        ({"labelSelector": "a in"}, 400),
    ],
)
async def test_queries_that_cannot_be(api: Api, query: dict[str, str], status: int) -> None:
    for path in (ISVC, REPLICAS):
        answer = await api.client.get(path, params=query)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["kind"] == "Status"
