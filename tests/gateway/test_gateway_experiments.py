"""Experiments in the gateway: who gets which request, under which name, and who stays with whom."""

from __future__ import annotations

from collections import Counter

import pytest
from gateway_stand_in import route

from penstock.domain.experiment import Candidate, Experiment
from penstock.domain.routes import STOPPED, Put, Remove, Route, Target


async def trial(front, stand_in, weights=(70, 30), **fields):
    """Two services and a mirror, and an experiment over them."""
    stands = [await stand_in(n) for n in ("iris", "iris2", "iris3")]
    routes = [
        route(n, targets=(Target(f"{n}-00001", 100, (s.route,)),))
        for n, s in zip(("iris", "iris2", "iris3"), stands, strict=True)
    ]
    candidates = (Candidate("iris", weights[0]), Candidate("iris2", weights[1]))
    experiment = Experiment("default", "trial", candidates, **fields)
    front.routes(*routes, Route("default", "trial", experiment=experiment))
    return stands


def lines(stand) -> list[str]:
    return [s.line for s in stand.seen]


async def test_requests_are_divided_by_weight_under_each_ones_own_name(front, stand_in):
    iris, iris2, _ = await trial(front, stand_in)
    told = Counter()
    for i in range(100):
        answer = await front.client.post("/v2/models/trial/infer", json={"n": i})
        assert answer.status_code == 200
        told[answer.headers["x-seldon-route"]] += 1
    assert told == {":iris_1:": 70, ":iris2_1:": 30}
    assert set(lines(iris)) == {"POST /v2/models/iris/infer HTTP/1.1"}
    assert set(lines(iris2)) == {"POST /v2/models/iris2/infer HTTP/1.1"}
    # Each is still itself.
    answer = await front.client.post("/v2/models/iris2/infer", json={})
    assert "x-seldon-route" not in answer.headers


async def test_the_default_gives_its_requests_to_the_experiment(front, stand_in):
    _, iris2, _ = await trial(front, stand_in, weights=(0, 1), default="iris")
    answer = await front.client.post("/v1/models/iris:predict", json={})
    assert answer.headers["x-seldon-route"] == ":iris2_1:"
    assert lines(iris2) == ["POST /v1/models/iris2:predict HTTP/1.1"]
    # What asks about a model asks the default.
    answer = await front.client.get("/v2/models/iris")
    assert answer.headers["x-penstock-revision"] == "iris-00001"


async def test_a_default_gets_its_requests_back_when_the_experiment_ends(front, stand_in):
    iris, iris2, _ = await trial(front, stand_in, weights=(0, 1))
    await front.client.post("/v2/models/iris/infer", json={})
    assert len(iris.seen) == 1
    experiment = Experiment(
        "default", "trial", (Candidate("iris", 0), Candidate("iris2", 1)), "iris"
    )
    front.gateway.apply(Put(7, Route("default", "trial", experiment=experiment)))
    await front.client.post("/v2/models/iris/infer", json={})
    assert (len(iris.seen), len(iris2.seen)) == (1, 1)
    front.gateway.apply(Remove(8, "default/trial"))
    await front.client.post("/v2/models/iris/infer", json={})
    assert (len(iris.seen), len(iris2.seen)) == (2, 1)
    assert (await front.client.post("/v2/models/trial/infer", json={})).status_code == 404


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/models/trial/infer", {}),
        ("/v2/models/trial.experiment/infer", {}),
        ("/v2/models/x/infer", {"seldon-model": "trial.experiment"}),
    ],
)
async def test_a_stopped_experiment_answers_nobody_and_takes_no_ones_requests(
    front, stand_in, path, headers
):
    iris, iris2, _ = await trial(front, stand_in, weights=(0, 1), default="iris")
    assert (await front.client.post(path, headers=headers, json={})).status_code == 200
    assert (len(iris.seen), len(iris2.seen)) == (0, 1)
    front.gateway.apply(Put(7, Route("default", "trial", message=STOPPED)))
    answer = await front.client.post(path, headers=headers, json={})
    assert answer.status_code == 503
    assert STOPPED in answer.json()["error"]
    answer = await front.client.post("/v2/models/iris/infer", json={})
    assert "x-seldon-route" not in answer.headers
    assert (len(iris.seen), len(iris2.seen)) == (1, 1)


async def test_a_client_that_sends_the_route_back_stays(front, stand_in):
    iris, iris2, _ = await trial(front, stand_in)
    for _ in range(20):
        headers = {"x-seldon-route": ":other_3::iris2_1:"}
        await front.client.post("/v2/models/trial/infer", json={}, headers=headers)
    assert (len(iris.seen), len(iris2.seen)) == (0, 20)
    for _ in range(10):
        headers = {"x-seldon-route": ":gone_1:"}
        await front.client.post("/v2/models/trial/infer", json={}, headers=headers)
    assert (len(iris.seen), len(iris2.seen)) == (7, 23)


async def test_who_has_no_weight_any_more_keeps_nobody(front, stand_in):
    iris, _, _ = await trial(front, stand_in, weights=(1, 0))
    headers = {"x-seldon-route": ":iris2_1:"}
    await front.client.post("/v2/models/trial/infer", json={}, headers=headers)
    assert len(iris.seen) == 1


@pytest.mark.parametrize("size", [10, 400_000])
async def test_a_mirror_gets_copies_under_its_own_name(front, stand_in, size):
    iris, iris2, iris3 = await trial(front, stand_in, mirror="iris3", mirror_percent=50)
    body = b"x" * size
    for _ in range(10):
        answer = await front.client.post("/v2/models/trial/infer", content=body)
        assert answer.headers["x-seldon-route"] in (":iris_1:", ":iris2_1:")
    await iris3.until_seen(5)
    assert len(iris.seen) + len(iris2.seen) == 10
    assert lines(iris3) == ["POST /v2/models/iris3/infer HTTP/1.1"] * 5
    assert {s.body for s in iris3.seen} == {body}


async def test_seldons_header_names_an_experiment(front, stand_in):
    _, iris2, _ = await trial(front, stand_in, weights=(0, 1))
    for path in ("/v2/models/trial/infer", "/v2/models/whatever/infer"):
        answer = await front.client.post(
            path, json={}, headers={"seldon-model": "trial.experiment"}
        )
        assert answer.status_code == 200
    assert lines(iris2) == ["POST /v2/models/iris2/infer HTTP/1.1"] * 2
    answer = await front.client.post(
        "/v2/models/x/infer", json={}, headers={"seldon-model": "iris2.experiment"}
    )
    assert answer.status_code == 404


async def test_candidates_that_are_not_there_get_nothing(front, stand_in):
    iris = await stand_in("iris")
    candidates = (Candidate("iris", 1), Candidate("gone", 9))
    experiment = Experiment("default", "trial", candidates, mirror="gone2", mirror_percent=100)
    front.routes(
        route("iris", targets=(Target("iris-00001", 100, (iris.route,)),)),
        Route("default", "trial", experiment=experiment),
    )
    for _ in range(10):
        assert (await front.client.post("/v2/models/trial/infer", json={})).status_code == 200
    alone = Experiment("default", "alone", (Candidate("gone", 1),))
    front.gateway.apply(Put(9, Route("default", "alone", experiment=alone)))
    answer = await front.client.post("/v2/models/alone/infer", json={})
    assert answer.status_code == 503
    assert "has no service gone" in answer.json()["error"]


async def test_a_candidate_keeps_its_own_shares(front, stand_in):
    a, b = await stand_in("a"), await stand_in("b")
    targets = (Target("iris-00001", 50, (a.route,)), Target("iris-00002", 50, (b.route,)))
    experiment = Experiment("default", "trial", (Candidate("iris", 1),))
    front.routes(route("iris", targets=targets), Route("default", "trial", experiment=experiment))
    for _ in range(10):
        await front.client.post("/v2/models/trial/infer", json={})
    assert (len(a.seen), len(b.seen)) == (5, 5)


async def test_components_and_revisions_stay_the_services_own(front, stand_in):
    iris, iris2, _ = await trial(front, stand_in, weights=(0, 1), default="iris")
    for path in (
        "/serving/default/iris/components/predictor/v2/models/iris/infer",
        "/serving/default/iris@iris-00001/v2/models/iris/infer",
    ):
        assert (await front.client.post(path, json={})).status_code == 200
    assert (len(iris.seen), len(iris2.seen)) == (2, 0)
    await front.client.post("/serving/default/iris/v2/models/iris/infer", json={})
    assert (len(iris.seen), len(iris2.seen)) == (2, 1)


@pytest.mark.parametrize("weights", [(50, 50), (0, 100)])
async def test_a_candidate_that_cannot_answer_gets_nothing(front, stand_in, weights):
    """Its requests go to the others, until it can; the experiment's default loses none."""
    _, iris2, _ = await trial(front, stand_in, weights=weights, default="iris")
    broken = route("iris2", targets=(Target("iris2-00001", 100),), message="the pickle is broken")
    front.put(broken)
    kept = {"x-seldon-route": ":iris2_1:"}
    for headers in ({}, {}, kept):
        answer = await front.client.post("/v2/models/iris/infer", json={}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["x-seldon-route"] == ":iris_1:"
    front.put(route("iris2", targets=(Target("iris2-00001", 100, (iris2.route,)),)))
    answer = await front.client.post("/v2/models/iris/infer", json={}, headers=kept)
    assert answer.headers["x-seldon-route"] == ":iris2_1:"
    # Where nobody can, it is said why.
    for name in ("iris", "iris2"):
        targets = (Target(f"{name}-00001", 100),)
        front.put(route(name, targets=targets, message="the pickle is broken"))
    answer = await front.client.post("/v2/models/iris/infer", json={})
    assert answer.status_code == 503
    assert "the pickle is broken" in answer.json()["error"]
