"""A quota's sums are kept while services change: they are right at every moment, and cost no list of all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_harness import ISVC, Api, isvc
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.kinds import service_kinds
from penstock.control.placement import quotas
from penstock.control.placement.quota_sums import QuotaSums
from penstock.control.placement.usages import Usages
from penstock.store.base import Kind, Listing

MANY = 300


def quota(**hard: Any) -> dict[str, Any]:
    spec = {"hard": hard}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": spec}


def sized(name: str, cpu: str = "1", **metadata: Any) -> dict[str, Any]:
    obj = isvc(name, **metadata)
    obj["spec"]["predictor"]["minReplicas"] = 0
    obj["spec"]["predictor"]["sklearn"]["resources"] = {"limits": {"cpu": cpu}}
    return obj


class Reads:
    """Lists of services that were asked of the store."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kinds: list[Kind] = []
        of_services = set(service_kinds())
        store = api.plane.store
        read = store.list

        async def listed(kind: Kind, **options: Any) -> Listing:
            if kind in of_services:
                self.kinds.append(kind)
            return await read(kind, **options)

        monkeypatch.setattr(store, "list", listed)


async def test_an_apply_beside_hundreds_lists_none_of_them(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.apply(quota(cpu=MANY + 3))
    for i in range(10):
        await api.apply(sized(f"m{i}"))
    for i in range(10, MANY):
        obj = sized(f"m{i}")
        obj["metadata"]["namespace"] = "default"
        await api.plane.store.create(obj)
    reads = Reads(api, monkeypatch)
    assert (await api.apply(sized("a", cpu="2"))).status_code == 201
    refused = await api.apply(sized("b", cpu="2"))
    assert f"requested: cpu=2, used: cpu={MANY + 2}, limited: cpu={MANY + 3}" in refused.text
    assert (await api.apply(sized("m7", cpu="2"))).status_code == 200
    assert (await api.apply(sized("m8", cpu="2"))).status_code == 403
    await api.client.delete(f"{ISVC}/m9")
    assert (await api.apply(sized("m8", cpu="2"))).status_code == 200
    assert reads.kinds == []


async def test_a_write_that_failed_takes_nothing(api: Api) -> None:
    await api.apply(quota(cpu=2))
    made = (await api.apply(sized("a"))).json()
    stale = {**sized("a", cpu="2", resourceVersion="1")}
    for _ in range(3):
        assert (await api.client.put(f"{ISVC}/a", json=stale)).status_code == 409
        assert (await api.client.post(ISVC, json=sized("a"))).status_code == 409
    assert made["metadata"]["name"] == "a"
    assert (await api.apply(sized("b"))).status_code == 201
    assert (await api.apply(sized("c"))).status_code == 403


async def test_where_changes_are_slow_to_come_all_are_listed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that lags or broke costs time, and never lets through what is over the sum."""
    monkeypatch.setattr(quotas, "CATCH_UP_S", 0.01)
    await api.apply(quota(cpu=2))
    await api.apply(sized("a"))
    monkeypatch.setattr(api.plane.quotas, "take", lambda change: None)
    reads = Reads(api, monkeypatch)
    assert (await api.apply(sized("b"))).status_code == 201
    assert (await api.apply(sized("c"))).status_code == 403
    assert reads.kinds
    await api.client.delete(f"{ISVC}/b")
    api.plane.quotas.lost()
    assert (await api.apply(sized("c"))).status_code == 201


async def test_sums_are_right_after_changes_were_missed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.apply(quota(cpu=3))
    await api.apply(sized("a"))
    await api.apply(sized("b"))
    plane = api.plane
    take = plane.quotas.take
    monkeypatch.setattr(plane.quotas, "take", lambda change: None)
    plane.quotas.lost()
    await api.client.delete(f"{ISVC}/a")
    await api.apply(sized("b", cpu="2"))
    await api.until(lambda: _forgotten(api))
    monkeypatch.setattr(plane.quotas, "take", take)
    await plane.quotas.load(await plane.manifests.load(plane.store))
    reads = Reads(api, monkeypatch)
    refused = await api.apply(sized("c", cpu="2"))
    assert "used: cpu=2" in refused.text
    assert (await api.apply(sized("c"))).status_code == 201
    assert reads.kinds == []


async def _forgotten(api: Api) -> bool:
    return api.plane.manifests.get(("default", "a")) is None


async def test_a_quota_that_comes_goes_and_comes_again_counts_what_there_is(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.apply(sized("a"))
    for _ in range(2):
        await api.apply(quota(cpu=2))
        assert (await api.apply(sized("b", cpu="2"))).status_code == 403
        await api.client.delete("/api/v1/namespaces/default/resourcequotas/team")
        await api.plane.quotas.loop.settled()
        assert (await api.apply(sized("b", cpu="2"))).status_code == 201
        await api.client.delete(f"{ISVC}/b")


async def test_of_many_that_come_at_once_as_many_get_in_as_there_is_room_for(api: Api) -> None:
    await api.apply(quota(cpu=5))
    answers = await asyncio.gather(*(api.apply(sized(f"m{i}")) for i in range(12)))
    assert sorted(a.status_code for a in answers) == [201] * 5 + [403] * 7


# -- the sums by themselves ------------------------------------------------------------------------


def stored(uid: str, cpu: int, version: int, owner: str = "") -> dict[str, Any]:
    obj = sized(f"d-p-{uid}", cpu=str(cpu))
    owners = [{"uid": owner, "controller": True}] if owner else []
    obj["metadata"].update(namespace="n", uid=uid, resourceVersion=str(version), generation=version)
    obj["metadata"]["ownerReferences"] = owners
    return obj


def deployment(uid: str, names: list[str], version: int) -> dict[str, Any]:
    graph = {
        "name": "mean",
        "implementation": "AVERAGE_COMBINER",
        "children": [
            {"name": n, "implementation": "SKLEARN_SERVER", "modelUri": "m"} for n in names
        ],
    }
    containers = [{"name": n, "resources": {"limits": {"cpu": "1"}}} for n in names]
    specs = [{"spec": {"containers": containers}}]
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {
            "name": "d",
            "namespace": "n",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": version,
        },
        "spec": {"predictors": [{"name": "p", "graph": graph, "componentSpecs": specs}]},
    }


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(1, 3), st.sampled_from(["", "x", "y"])),
        st.tuples(st.just("drop"), st.sampled_from("abcx")),
        st.tuples(st.just("deploy"), st.lists(st.sampled_from("abc"), min_size=1, unique=True)),
    ),
    max_size=14,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(_STEPS)
def test_what_is_kept_is_what_adding_up_gives(steps: list[Any]) -> None:
    """Whatever comes and goes in whatever order, parts and those who bring them too."""
    usages = Usages(runs_containers=False)
    kept = QuotaSums(usages)
    kept.open("n", ())
    objects: dict[str, dict[str, Any]] = {}
    for version, step in enumerate(steps, 1):
        if step[0] == "drop":
            objects.pop(step[1], None)
            kept.drop("n", step[1])
            continue
        if step[0] == "put":
            obj = stored(step[1], step[2], version, step[3])
        else:
            obj = deployment("x", step[1], version)
        objects[obj["metadata"]["uid"]] = obj
        kept.put("n", obj)
        anew = QuotaSums(Usages(runs_containers=False))
        anew.open("n", objects.values())
        assert _nonzero(kept.total("n")) == _nonzero(anew.total("n"))
        for uid, new in objects.items():
            assert _nonzero(kept.beside("n", new, uid)) == _nonzero(anew.beside("n", new, uid))


def _nonzero(sums: Any) -> Any:
    return sums and {name: amount for name, amount in sums.items() if amount}
