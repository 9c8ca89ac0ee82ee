"""Models that are added to a service are reached under its address."""

from __future__ import annotations

from gateway_stand_in import route

from penstock.domain.routes import Put, Remove


async def test_a_child_is_reached_by_its_name_under_its_parents_address(front, stand_in):
    parent, child = await stand_in("parent"), await stand_in("child")
    front.routes(route("host", parent.route), route("m", child.route, parent="host"))
    for path in ("/serving/default/host/v1/models/m:predict", "/v1/models/m:predict"):
        assert (await front.client.post(path, json={})).status_code == 200
    answer = await front.client.post(
        "/v2/models/m/infer", json={}, headers={"host": "host.default.example.com"}
    )
    assert answer.status_code == 200
    assert len(child.seen) == 3
    assert not parent.seen
    await front.client.get("/serving/default/host/v1/models")
    assert len(parent.seen) == 1
    front.gateway.apply(Put(5, route("m", child.route)))
    await front.client.post("/serving/default/host/v1/models/m:predict", json={})
    assert len(parent.seen) == 2
    front.gateway.apply(Remove(6, "default/m"))
    assert (await front.client.post("/v1/models/m:predict", json={})).status_code == 404
