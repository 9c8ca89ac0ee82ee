"""Names of any length are answered with an error of a length."""

from __future__ import annotations

import pytest

NAME = "n" * 5000


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/models/{NAME}"),
        ("POST", f"/v1/models/{NAME}:predict"),
        ("GET", f"/v2/models/{NAME}"),
        ("GET", f"/v2/models/{NAME}/ready"),
        ("POST", f"/v2/models/{NAME}/infer"),
        ("POST", f"/v2/repository/models/{NAME}/load"),
        ("POST", f"/serving/{NAME}/{NAME}/v2/models/{NAME}/infer"),
        ("POST", f"/serving/default/{NAME}/components/{NAME}/x"),
        ("POST", f"/seldon/{NAME}/{NAME}/api/v1.0/predictions"),
        ("POST", f"/v2/pipelines/{NAME}/infer"),
        ("GET", f"/{NAME}"),
    ],
)
async def test_a_long_name_does_not_come_back_whole(front, method: str, path: str) -> None:
    front.routes()
    if len(path) > 8000:
        path = path.replace(NAME, "n" * 2400)
    answer = await front.client.request(method, path, json={} if method == "POST" else None)
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 1500


async def test_a_long_host_or_header_does_not_either(front) -> None:
    front.routes()
    for headers in (
        {"host": f"{NAME}.default.example.com"},
        {"seldon-model": NAME},
        {"x-penstock-revision": NAME, "host": "m.default.example.com"},
    ):
        answer = await front.client.post("/v2/models/m/infer", json={}, headers=headers)
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 1500
