"""Seldon's addresses of a service: the header `seldon-model`, and the ingress path of V1."""

from __future__ import annotations

import pytest
from gateway_stand_in import route


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/v2/models/iris/infer", None),
        ("/v2/models/other/infer", None),
        ("/v2/models/infer", "other.default.example.com"),
        ("/api/v1.0/predictions", None),
    ],
)
async def test_the_header_comes_before_path_and_host(front, stand_in, path, host):
    a, b = await stand_in("a"), await stand_in("b")
    front.routes(route("iris", a.route), route("other", b.route))
    headers = {"seldon-model": "iris", **({"host": host} if host else {})}
    answer = await front.client.post(path, json={}, headers=headers)
    assert answer.status_code == 200
    assert [s.line for s in a.seen] == [f"POST {path} HTTP/1.1"]
    assert not b.seen


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("nope", 404, "There is no service nope"),
        ("a.pipeline", 404, "There is no service a.pipeline"),
        ("a.experiment", 404, "There is no service a.experiment"),
        ("iris.experiment", 404, "There is no service iris.experiment"),
        ("", 404, "There is no service"),
    ],
)
async def test_a_header_that_names_no_service(front, stand_in, name, status, says):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.post(
        "/v2/models/iris/infer", json={}, headers={"seldon-model": name}
    )
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert not a.seen


async def test_seldon_v1s_ingress_path_is_a_services_address(front, stand_in):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.post("/seldon/default/iris/api/v1.0/predictions", json={})
    assert answer.status_code == 200
    assert a.seen[0].line == "POST /api/v1.0/predictions HTTP/1.1"
    assert (await front.client.post("/seldon/other/iris/x", json={})).status_code == 404
