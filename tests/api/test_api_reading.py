"""Discovery, watches, replicas, events, logs, health and metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from api_harness import ISVC, Api, isvc

from penstock.backends.base import Phase


async def events_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        yield json.loads(line)


async def test_discovery_lists_what_is_served(api: Api) -> None:
    groups = (await api.client.get("/apis")).json()["groups"]
    assert {"penstock.dev", "serving.kserve.io"} <= {g["name"] for g in groups}
    listed = (await api.client.get("/apis/penstock.dev/v1alpha1")).json()
    assert listed["groupVersion"] == "penstock.dev/v1alpha1"
    by_name = {r["name"]: r for r in listed["resources"]}
    assert by_name["inferenceservices"]["shortNames"] == ["isvc"]
    assert by_name["replicas"]["verbs"] == ["get", "list", "watch"]
    core = (await api.client.get("/api/v1")).json()
    assert {"secrets", "namespaces", "events"} <= {r["name"] for r in core["resources"]}
    assert (await api.client.get("/api")).json()["versions"] == ["v1"]
    assert (await api.client.get("/version")).json()["major"] == "1"
    assert (await api.client.get("/apis/nobody.dev")).status_code == 404
    assert (await api.client.get("/apis/penstock.dev/v9")).status_code == 404


async def test_a_watch_tells_what_is_there_and_each_change(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("a"))
    await api.ready("a")
    async with api.client.stream("GET", ISVC, params={"watch": "1"}) as response:
        events = events_of(response)
        first = await anext(events)
        assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "a")
        await api.client.delete(f"{ISVC}/a")
        async for event in events:
            if event["type"] == "DELETED":
                break
        assert event["object"]["metadata"]["name"] == "a"


async def test_a_watch_resumes_from_a_version_and_says_when_it_is_too_old(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("a"))
    version = (await api.client.get(ISVC)).json()["metadata"]["resourceVersion"]
    await api.client.post(ISVC, json=isvc("b"))
    params = {"watch": "true", "resourceVersion": version}
    async with api.client.stream("GET", ISVC, params=params) as response:
        async for event in events_of(response):
            if event["object"]["metadata"]["name"] == "b":
                assert event["type"] == "ADDED"
                break
    async with api.client.stream(
        "GET", ISVC, params={"watch": "1", "resourceVersion": "99999999"}
    ) as response:
        event = await anext(events_of(response))
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


async def test_a_watch_with_a_selector_tells_when_an_object_leaves_it(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("a", labels={"team": "x"}))
    await api.client.post(ISVC, json=isvc("other", labels={"team": "y"}))
    await api.ready("a")
    await api.ready("other")
    merge = {"content-type": "application/merge-patch+json"}
    async with api.client.stream(
        "GET", ISVC, params={"watch": "1", "labelSelector": "team=x"}
    ) as response:
        events = events_of(response)
        assert (await anext(events))["object"]["metadata"]["name"] == "a"
        for team in ("y", "x"):
            await api.client.patch(
                f"{ISVC}/a", json={"metadata": {"labels": {"team": team}}}, headers=merge
            )
        await api.client.delete(f"{ISVC}/other")
        left, back = await anext(events), await anext(events)
        assert (left["type"], left["object"]["metadata"]["name"]) == ("DELETED", "a")
        assert (back["type"], back["object"]["metadata"]["name"]) == ("ADDED", "a")


async def test_a_watch_ends_at_its_time_and_when_the_server_stops(api: Api) -> None:
    async with api.client.stream("GET", ISVC, params={"watch": "1", "timeoutSeconds": "1"}) as r:
        async with asyncio.timeout(30):
            assert await r.aread() == b""
    async with api.client.stream("GET", ISVC, params={"watch": "1"}) as response:
        api.stop.set()
        async with asyncio.timeout(30):
            assert await response.aread() == b""


async def test_replicas_are_objects_that_can_be_read(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    base = "/apis/penstock.dev/v1alpha1/namespaces/default/replicas"
    (replica,) = (await api.client.get(base)).json()["items"]
    assert replica["status"]["phase"] == "Ready"
    assert replica["metadata"]["labels"]["penstock.dev/service"] == "iris"
    name = replica["metadata"]["name"]
    assert (await api.client.get(f"{base}/{name}")).json()["spec"]["revision"] == "iris-00001"
    assert (await api.client.get(f"{base}/nobody")).status_code == 404
    chosen = await api.client.get(base, params={"labelSelector": "penstock.dev/service=other"})
    assert chosen.json()["items"] == []
    assert (await api.client.delete(f"{base}/{name}")).status_code == 405


async def test_events_can_be_selected_by_what_they_are_about(api: Api) -> None:
    await api.client.post(ISVC, json=isvc("a"))
    await api.client.post(ISVC, json=isvc("b"))
    await api.ready("a")
    await api.ready("b")
    path = "/api/v1/namespaces/default/events"
    found = (await api.client.get(path, params={"fieldSelector": "involvedObject.name=a"})).json()
    assert {e["involvedObject"]["name"] for e in found["items"]} == {"a"}
    assert "RevisionReady" in {e["reason"] for e in found["items"]}
    assert (await api.client.get(path, params={"fieldSelector": "nonsense=1"})).status_code == 400


async def test_logs_of_one_replica_and_of_several(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    one = await api.client.get(f"{ISVC}/iris/logs")
    assert one.text == "loading\nready\n"
    assert (await api.client.get(f"{ISVC}/iris/logs", params={"tail": "1"})).text == "ready\n"
    assert (await api.client.get(f"{ISVC}/iris/logs", params={"previous": "1"})).text == ""
    prefixed = await api.client.get(f"{ISVC}/iris/logs", params={"prefix": "1", "follow": "1"})
    assert prefixed.text.startswith("[default.iris-00001-0.")
    assert (await api.client.get(f"{ISVC}/nobody/logs")).status_code == 404
    assert (await api.client.get(f"{ISVC}/iris/logs", params={"tail": "-1"})).status_code == 400


async def test_health_and_readiness(api: Api) -> None:
    for path in ("/healthz", "/livez", "/readyz"):
        assert (await api.client.get(path)).text == "ok"
    api.plane.started.clear()
    answer = await api.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_metrics_count_services_and_replicas(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    text = (await api.client.get("/metrics")).text
    assert 'penstock_services{ready="True"} 1.0' in text
    assert 'penstock_replicas{namespace="default",phase="Ready",service="iris"} 1.0' in text
    (replica,) = api.backend.replicas
    api.backend.set(replica, Phase.BACKOFF, restarts=1, reason="OutOfMemory")
    api.backend.set(replica, Phase.READY, restarts=1)

    async def counted() -> bool:
        text = (await api.client.get("/metrics")).text
        return 'restarts_total{namespace="default",reason="OutOfMemory",service="iris"} 1.0' in text

    await api.until(counted)


async def test_a_fault_of_our_own_is_one_failed_request_with_no_inside_shown(api: Api) -> None:
    async def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("inside")

    api.plane.store.get = broken  # type: ignore[method-assign]
    answer = await api.client.get(f"{ISVC}/iris")
    assert answer.status_code == 500
    assert "inside" not in answer.text
    assert (await api.client.get("/healthz")).status_code == 200
