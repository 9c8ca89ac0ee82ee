"""Quotas of a namespace, held at admission."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_harness import ISVC, Api, isvc


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
