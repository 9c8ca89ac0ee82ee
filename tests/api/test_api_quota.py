"""Quotas of a namespace, held at admission."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_harness import ISVC, Api, isvc
from control_fakes import FakeBackend, FakeFiles

from penstock.backends.base import Phase
from penstock.control.placement.quotas import QUOTA
from penstock.control.plane import ControlPlane
from penstock.control.settings import ControlSettings
from penstock.store.base import Key
from penstock.store.sqlite import SqliteStore


def quota(name: str = "team", **hard: Any) -> dict[str, Any]:
    spec = {"hard": {k.replace("__", "/").replace("_", "."): v for k, v in hard.items()}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}


def sized(name: str, cpu: str = "1", memory: str = "1Gi", **predictor: Any) -> dict[str, Any]:
    obj = isvc(name)
    obj["spec"]["predictor"].update(predictor)
    obj["spec"]["predictor"]["sklearn"]["resources"] = {"limits": {"cpu": cpu, "memory": memory}}
    return obj


async def test_over_a_sum_a_service_is_refused_with_the_sums(api: Api) -> None:
    assert (await api.apply(quota(cpu=4, memory="8Gi"))).status_code == 201
    assert (await api.apply(sized("a", maxReplicas=2))).status_code == 201
    assert (await api.apply(sized("b"))).status_code == 201
    refused = await api.apply(sized("c", cpu="2"))
    assert refused.status_code == 403
    assert refused.json()["message"] == (
        'inferenceservices.penstock.dev "c" is forbidden: exceeded quota: team, requested: cpu=2, '
        "used: cpu=3, limited: cpu=4."
    )
    assert (await api.apply(sized("c"))).status_code == 201
    grown = await api.apply(sized("a", maxReplicas=3))
    assert grown.status_code == 403
    assert "requested: cpu=3, used: cpu=2, limited: cpu=4" in grown.json()["message"]
    await api.client.delete(f"{ISVC}/b")
    assert (await api.apply(sized("a", maxReplicas=3))).status_code == 200


async def test_what_a_quota_limits_has_to_be_declared(api: Api) -> None:
    await api.apply(quota(limits_memory="1Gi"))
    refused = await api.apply(isvc("a"))
    assert refused.status_code == 403
    assert "must specify limits.memory" in refused.json()["message"]


async def test_services_and_replicas_are_counted(api: Api) -> None:
    await api.apply(quota(penstock_dev__services=2, pods=3))
    assert (await api.apply(isvc("a"))).status_code == 201
    many = isvc("b")
    many["spec"]["predictor"]["minReplicas"] = 3
    refused = await api.apply(many)
    assert "requested: pods=3, used: pods=1, limited: pods=3" in refused.json()["message"]
    assert (await api.apply(isvc("b"))).status_code == 201
    assert "penstock.dev/services=2" in (await api.apply(isvc("c"))).json()["message"]


async def test_a_quota_that_was_lowered_forbids_no_change_to_less(api: Api) -> None:
    await api.apply(sized("a", maxReplicas=4))
    await api.apply(quota(cpu=1))
    assert (await api.apply(sized("a", maxReplicas=3))).status_code == 200
    assert (await api.apply(sized("a", maxReplicas=4))).status_code == 403


async def test_of_two_that_come_at_once_one_gets_the_last_of_it(api: Api) -> None:
    await api.apply(quota(cpu=1))
    answers = await asyncio.gather(*(api.apply(sized(f"m{i}")) for i in range(6)))
    assert sorted(a.status_code for a in answers) == [201, 403, 403, 403, 403, 403]


@pytest.mark.parametrize(
    ("hard", "message"),
    [
        ({"secrets": 1}, "spec.hard.secrets: is not counted here"),
        ({"count/secrets.v1": 1}, "is not counted here"),
        ({"cpu": "lots"}, "spec.hard.cpu: 'lots' is no quantity"),
        ({"cpu": -1}, "spec.hard.cpu: must not be negative"),
    ],
)
async def test_a_quota_that_makes_no_sense_is_refused(
    api: Api, hard: dict[str, Any], message: str
) -> None:
    refused = await api.apply(quota(**hard))
    assert refused.status_code == 422
    assert message in refused.json()["message"]


# -- status ----------------------------------------------------------------------------------------


async def used(api: Api, name: str = "team") -> dict[str, str]:
    obj = (await api.client.get(f"/api/v1/namespaces/default/resourcequotas/{name}")).json()
    status: dict[str, dict[str, str]] = obj.get("status") or {}
    return status.get("used") or {}


async def until_used(api: Api, **expected: str) -> None:
    wanted = {k.replace("_", "."): v for k, v in expected.items()}

    async def look() -> bool:
        found = await used(api)
        return {k: found.get(k) for k in wanted} == wanted

    await api.until(look)


async def test_the_status_says_what_is_used_of_it_after_every_change(api: Api) -> None:
    await api.apply(sized("before", cpu="500m"))
    await api.apply(quota(cpu=4, memory="8Gi", pods=10))
    await until_used(api, cpu="500m", memory="1Gi", pods="1")
    obj = (await api.client.get("/api/v1/namespaces/default/resourcequotas/team")).json()
    assert obj["status"]["hard"] == {"cpu": "4", "memory": "8Gi", "pods": "10"}
    await api.apply(sized("a", maxReplicas=3))
    await until_used(api, cpu="3500m", memory="4Gi", pods="4")
    await api.apply(sized("a", maxReplicas=2))
    await until_used(api, cpu="2500m", memory="3Gi")
    await api.client.delete(f"{ISVC}/a")
    await until_used(api, cpu="500m", memory="1Gi", pods="1")
    await api.apply(quota(cpu=2))
    await until_used(api, cpu="500m")
    obj = (await api.client.get("/api/v1/namespaces/default/resourcequotas/team")).json()
    assert obj["status"] == {"hard": {"cpu": "2"}, "used": {"cpu": "500m"}}


async def test_a_refused_service_is_not_counted(api: Api) -> None:
    await api.apply(quota(cpu=1))
    assert (await api.apply(sized("a"))).status_code == 201
    assert (await api.apply(sized("b"))).status_code == 403
    await until_used(api, cpu="1")


async def test_a_stopped_service_keeps_its_place_in_the_count_only(api: Api) -> None:
    await api.apply(quota(cpu=4, pods=4, penstock_dev__services=4))
    await api.apply(sized("a"))
    await until_used(api, cpu="1", pods="1")
    stopped = sized("a")
    stopped["metadata"]["annotations"] = {"serving.kserve.io/stop": "true"}
    await api.apply(stopped)
    await until_used(api, cpu="0", pods="0")
    assert (await used(api))["penstock.dev/services"] == "1"


async def test_a_status_that_a_service_gets_makes_no_work(api: Api) -> None:
    """Else every look at a service would be one at its quotas."""
    await api.apply(quota(cpu=4))
    await api.apply(sized("a"))
    await until_used(api, cpu="1")
    await api.ready("a")
    await api.plane.quotas.loop.settled()
    looks = api.plane.quotas.loop.looks
    api.backend.set(next(iter(api.backend.replicas)), Phase.BACKOFF, reason="Exit")

    async def told() -> bool:
        obj = (await api.client.get(f"{ISVC}/a")).json()
        return any(
            c["type"] == "Ready" and c["status"] != "True" for c in obj["status"]["conditions"]
        )

    await api.until(told)
    await api.plane.quotas.loop.settled()
    assert api.plane.quotas.loop.looks == looks


async def test_what_changed_while_no_control_plane_ran_is_counted_when_one_is_back() -> None:
    store = await SqliteStore.in_memory()
    settings = ControlSettings(cores=2)
    meta = {"name": "team", "namespace": "default"}
    kept = await store.create({**quota(cpu=4), "metadata": meta})
    service = sized("a", maxReplicas=2)
    service["metadata"]["namespace"] = "default"
    await store.create(service)
    plane = ControlPlane(store, FakeBackend(), FakeFiles(), settings=settings)
    await plane.start()
    try:
        await plane.quotas.loop.settled()
        found = await store.get(Key(QUOTA, "default", "team"))
        assert kept.get("status") is None
        assert found["status"] == {"hard": {"cpu": "4"}, "used": {"cpu": "2"}}
    finally:
        await plane.close()
        await store.close()


async def test_a_quota_without_services_has_its_status_after_a_start() -> None:
    store = await SqliteStore.in_memory()
    await store.create({**quota(cpu=4), "metadata": {"name": "team", "namespace": "empty"}})
    plane = ControlPlane(store, FakeBackend(), FakeFiles(), settings=ControlSettings(cores=2))
    await plane.start()
    try:
        await plane.quotas.loop.settled()
        found = await store.get(Key(QUOTA, "empty", "team"))
        assert found["status"] == {"hard": {"cpu": "4"}, "used": {"cpu": "0"}}
    finally:
        await plane.close()
        await store.close()


async def test_kubectl_shows_used_and_hard(api: Api) -> None:
    await api.apply(quota(cpu=4, limits_memory="8Gi"))
    await api.apply(sized("a"))
    await until_used(api, cpu="1")
    table = await api.client.get(
        "/api/v1/namespaces/default/resourcequotas",
        headers={"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"},
    )
    (row,) = table.json()["rows"]
    assert row["cells"][1:3] == ["cpu: 1/4", "limits.memory: 1Gi/8Gi"]


# -- graphs ----------------------------------------------------------------------------------------


def pipeline(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": name},
        "spec": {"steps": [{"name": "a"}]},
    }


def ensemble(*models: str, cpu: str = "1", name: str = "trees") -> dict[str, Any]:
    """A deployment of several models whose answers are averaged."""
    child = {"implementation": "SKLEARN_SERVER", "modelUri": "models/iris"}
    containers = [{"name": m, "resources": {"limits": {"cpu": cpu}}} for m in models]
    predictor = {
        "name": "p",
        "graph": {
            "name": "mean",
            "implementation": "AVERAGE_COMBINER",
            "children": [{**child, "name": m} for m in models],
        },
        "componentSpecs": [{"spec": {"containers": containers}}],
    }
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": name},
        "spec": {"predictors": [predictor]},
    }


async def test_graphs_are_counted_by_their_kind(api: Api) -> None:
    await api.apply(quota(penstock_dev__services=1, count__pipelines_penstock_dev=1))
    assert (await api.apply(pipeline("p"))).status_code == 201
    refused = await api.apply(pipeline("q"))
    assert refused.status_code == 403
    assert "count/pipelines.penstock.dev=1" in refused.json()["message"]
    # A graph has no process, and is no service.
    assert (await api.apply(isvc("a"))).status_code == 201
    await until_used(api, **{"penstock.dev/services": "1", "count/pipelines.penstock.dev": "1"})


async def test_an_explainer_of_a_graph_takes_what_a_service_does(api: Api) -> None:
    """A quota of cpu wants to know what each takes; one of pods and services counts it."""
    explained = ensemble("a", "b")
    explained["spec"]["predictors"][0]["explainer"] = {"type": "AnchorText", "replicas": 2}
    await api.apply(quota(pods=3, penstock_dev__services=3))
    refused = await api.apply(explained)
    assert refused.status_code == 403
    assert "requested: pods=4" in refused.json()["message"]
    explained["spec"]["predictors"][0]["explainer"]["replicas"] = 1
    assert (await api.apply(explained)).status_code == 201
    await until_used(api, **{"pods": "3", "penstock.dev/services": "3"})


async def test_a_deployment_of_several_models_takes_what_all_of_them_do(api: Api) -> None:
    await api.apply(quota(cpu=3, pods=3, penstock_dev__services=3))
    refused = await api.apply(ensemble("a", "b", "c", "d"))
    assert refused.status_code == 403
    assert "requested: cpu=4,pods=4,penstock.dev/services=4" in refused.json()["message"]
    assert (await api.apply(ensemble("a", "b"))).status_code == 201
    assert "used: cpu=2" in (await api.apply(sized("x", cpu="2"))).json()["message"]
    # The services that are made for it take nothing more.
    part = f"{ISVC}/trees-p-a"
    await api.until(lambda: _there(api, part))
    await until_used(api, cpu="2", pods="2", **{"penstock.dev/services": "2"})
    assert (await api.apply(sized("x"))).status_code == 201
    await until_used(api, cpu="3")
    more = await api.apply(ensemble("a", "b", cpu="2"))
    assert "requested: cpu=4, used: cpu=1, limited: cpu=3" in more.json()["message"]
    noted = (await api.client.get(part)).json()
    noted["metadata"]["labels"] = {"seen": "yes"}
    assert (await api.client.put(part, json=noted)).status_code == 200


async def _there(api: Api, path: str) -> bool:
    return (await api.client.get(path)).status_code == 200


async def test_who_only_says_that_a_deployment_owns_it_is_counted(api: Api) -> None:
    await api.apply(quota(cpu=3))
    made = (await api.apply(ensemble("a", "b"))).json()
    forged = sized("mine", cpu="2")
    forged["metadata"]["ownerReferences"] = [
        {
            "apiVersion": made["apiVersion"],
            "kind": made["kind"],
            "name": "trees",
            "uid": made["metadata"]["uid"],
            "controller": True,
        }
    ]
    assert (await api.apply(forged)).status_code == 403
