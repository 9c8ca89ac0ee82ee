"""Seldon V1's explain call: its addresses, what of a message is explained, and errors in its shape."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from gateway_stand_in import reply, route

from penstock.domain.experiment import Candidate, Experiment
from penstock.domain.routes import Route, Target

EXPLANATION = b'{"meta":{"name":"AnchorTabular"},"data":{"anchor":["a <= 1"]}}'
ROWS = [[5.1, 3.5]]


async def explains(seen, writer):
    writer.write(reply(EXPLANATION))


async def explained(front, stand_in, *more, answer=explains):
    """A service `iris` with an explainer; the stand-ins of both."""
    predictor, explainer = await stand_in("p"), await stand_in("e", answer)
    front.routes(
        route("iris", targets=(Target("iris-00001", 100, (predictor.route,)),)),
        route(
            "iris",
            targets=(Target("iris-explainer-00001", 100, (explainer.route,)),),
            component="explainer",
        ),
        *more,
    )
    return predictor, explainer


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/seldon/default/iris-explainer/main/api/v1.0/explain", {}),
        ("/seldon/default/iris-explainer/main/api/v0.1/explain", {}),
        ("/seldon/iris-explainer/main/api/v1.0/explain", {}),
        ("/seldon/default/iris/api/v1.0/explain", {}),
        ("/serving/default/iris/api/v1.0/explain", {}),
        ("/api/v1.0/explain", {"host": "iris.default.example.com"}),
        ("/api/v1.0/explain", {"seldon-model": "iris"}),
    ],
)
async def test_every_address_reaches_the_explainer(front, stand_in, path, headers):
    predictor, explainer = await explained(front, stand_in)
    message = {"data": {"names": ["a", "b"], "ndarray": ROWS}}
    answer = await front.client.post(
        path, json=message, headers={**headers, "x-request-id": "7", "authorization": "b"}
    )
    assert (answer.status_code, answer.content) == (200, EXPLANATION)
    (seen,) = explainer.seen
    assert seen.line == "POST /v1/models/iris:explain HTTP/1.1"
    assert json.loads(seen.body) == {"instances": ROWS, "names": ["a", "b"]}
    assert seen.headers["content-type"] == "application/json"
    assert (seen.headers["x-request-id"], seen.headers["authorization"]) == ("7", "b")
    assert not predictor.seen


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        ({"data": {"tensor": {"shape": [1, 2], "values": [5.1, 3.5]}}}, {"instances": ROWS}),
        ({"data": {"ndarray": ["a film"]}}, {"instances": ["a film"]}),
        ({"strData": "a film"}, {"instances": ["a film"]}),
        ({"jsonData": {"instances": ROWS}}, {"instances": ROWS}),
        ({"jsonData": ROWS}, {"instances": ROWS}),
    ],
)
async def test_what_of_a_message_is_explained(front, stand_in, message, request_):
    _, explainer = await explained(front, stand_in)
    answer = await front.client.post("/seldon/default/iris/api/v1.0/explain", json=message)
    assert answer.status_code == 200
    assert json.loads(explainer.seen[0].body) == request_


async def test_other_protocols_at_the_explainers_own_address(front, stand_in):
    """Its one model has a name that is made of the deployment's; here it is the service's."""
    _, explainer = await explained(front, stand_in)
    base = "/seldon/default/iris-explainer/main"
    for path in ("/v1/models/iris-main-explainer:explain", "/v2/models/classifier/infer"):
        assert (await front.client.post(base + path, json={})).status_code == 200
    assert [s.line for s in explainer.seen] == [
        "POST /v1/models/iris:explain HTTP/1.1",
        "POST /v2/models/iris/infer HTTP/1.1",
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "JSON"),
        (b"", ""),
        (b'{"data":{}}', "data"),
        (b'{"binData":"YQ=="}', "binData cannot be explained"),
    ],
)
async def test_a_message_that_is_none_is_refused_in_seldons_shape(front, stand_in, body, said):
    _, explainer = await explained(front, stand_in)
    answer = await front.client.post("/seldon/default/iris/api/v1.0/explain", content=body)
    assert answer.status_code == 400
    status = answer.json()["status"]
    assert (status["code"], status["status"]) == (400, "FAILURE")
    assert said in status["info"]
    assert not explainer.seen


async def test_what_the_explainer_refuses_keeps_its_status(front, stand_in):
    async def refuse(seen, writer):
        writer.write(reply(b'{"error":"an instance has 4 numbers"}', status="400 Bad Request"))

    await explained(front, stand_in, answer=refuse)
    answer = await front.client.post(
        "/seldon/default/iris/api/v1.0/explain", json={"data": {"ndarray": ROWS}}
    )
    assert answer.status_code == 400
    assert "an instance has 4 numbers" in answer.json()["status"]["info"]
    wrong = await front.client.get("/seldon/default/iris/api/v1.0/explain")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


async def test_an_explainer_that_answers_with_tensors_is_told_of(front, stand_in):
    """Its answer is no JSON document to hand on; the client is not left without one."""
    head = json.dumps({"outputs": [{"name": "y", "shape": [1], "datatype": "FP32",
                                    "parameters": {"binary_data_size": 4}}]})  # fmt: skip

    async def tensors(seen, writer):
        extra = f"inference-header-content-length: {len(head)}\r\n"
        writer.write(reply(head.encode() + b"\0\0\0\0", extra=extra))

    await explained(front, stand_in, answer=tensors)
    answer = await front.client.post(
        "/seldon/default/iris/api/v1.0/explain", json={"data": {"ndarray": ROWS}}, timeout=10
    )
    assert answer.status_code == 500
    assert "tensors" in answer.json()["status"]["info"]


async def test_a_client_that_hangs_up_stops_the_explanation(front, stand_in):
    async def never(seen, writer):
        await asyncio.Event().wait()

    _, explainer = await explained(front, stand_in, answer=never)
    path, message = "/seldon/default/iris/api/v1.0/explain", {"data": {"ndarray": ROWS}}
    asked = asyncio.create_task(front.client.post(path, json=message))
    await explainer.until_seen(1)
    ended = asyncio.Event()
    count = front.gateway.count
    front.gateway.count = lambda *a: (count(*a), ended.set())
    asked.cancel()
    await asyncio.wait_for(ended.wait(), 10)
    assert not front.gateway.active


async def test_without_an_explainer_there_is_nothing(front, stand_in):
    stand = await stand_in("p")
    front.routes(route("iris", targets=(Target("iris-00001", 100, (stand.route,)),)))
    answer = await front.client.post("/seldon/default/iris-explainer/main/api/v1.0/explain")
    assert answer.status_code == 404


async def test_a_service_whose_name_says_explainer_is_itself(front, stand_in):
    stand = await stand_in("x")
    own = route("iris-explainer", targets=(Target("iris-explainer-1", 100, (stand.route,)),))
    await explained(front, stand_in, own)
    await front.client.post("/seldon/default/iris-explainer/v1/models/iris-explainer:predict")
    assert stand.seen[0].line == "POST /v1/models/iris-explainer:predict HTTP/1.1"


async def test_through_an_experiment_the_candidate_explains(front, stand_in):
    trial = Experiment("default", "trial", (Candidate("iris", 100),), "iris")
    _, explainer = await explained(front, stand_in, Route("default", "trial", experiment=trial))
    answer = await front.client.post(
        "/api/v1.0/explain", json={"data": {"ndarray": ROWS}}, headers={"seldon-model": "iris"}
    )
    assert answer.content == EXPLANATION
    assert len(explainer.seen) == 1


async def test_a_compressed_message_is_explained(front, stand_in):
    _, explainer = await explained(front, stand_in)
    body = gzip.compress(json.dumps({"data": {"ndarray": ROWS}}).encode())
    path, headers = "/seldon/default/iris/api/v1.0/explain", {"content-encoding": "gzip"}
    answer = await front.client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.content) == (200, EXPLANATION)
    (seen,) = explainer.seen
    assert json.loads(seen.body) == {"instances": ROWS}
    assert "content-encoding" not in seen.headers


@pytest.mark.parametrize("own", [b"<html>", b"[]", b'{"info":{}}', b'{"paths":[]}'])
async def test_a_document_of_another_kind_is_passed_on(front, stand_in, own):
    """A container of the user's own answers there what it likes."""

    async def described(seen, writer):
        writer.write(reply(own))

    predictor, explainer = await stand_in("p", described), await stand_in("e", explains)
    front.routes(
        route("iris", predictor.route),
        route("iris", explainer.route, component="explainer"),
    )
    path = "/seldon/default/iris/api/v1.0/doc/seldon.json"
    answer = await asyncio.wait_for(front.client.get(path), 5)
    assert (answer.status_code, answer.content) == (200, own)


async def beside(front, stand_in, *, first=True, known=True):
    """A service with a canary that has an explainer of its own: stand-ins by what they are."""
    found = {name: await stand_in(name[0] + name[-1]) for name in ("main", "canary")}
    found |= {name: await stand_in(name, explains) for name in ("explainer", "own")}
    explainers = (*([("main", "")] if first else []), ("canary", "iris-canary-explainer"))
    routes = [
        route(
            "iris",
            targets=(
                Target("iris-00001", 75, (found["main"].route,), tags=("latest",)),
                Target("iris-canary-00001", 25, (found["canary"].route,), tags=("canary",)),
            ),
            explainers=explainers,
        )
    ]
    if first:
        target = Target("iris-explainer-00001", 100, (found["explainer"].route,))
        routes.append(route("iris", targets=(target,), component="explainer"))
    if known:
        target = Target("iris-canary-explainer-00001", 100, (found["own"].route,))
        routes.append(
            route("iris-canary-explainer", targets=(target,), models=("other",)),
        )
    front.routes(*routes)
    return found


@pytest.mark.parametrize(
    ("path", "headers", "who", "revision"),
    [
        ("/seldon/default/iris-explainer/main/api/v1.0/explain", {}, "explainer", "latest"),
        ("/seldon/iris-explainer/main/api/v1.0/explain", {}, "explainer", "latest"),
        ("/seldon/default/iris-explainer/canary/api/v1.0/explain", {}, "own", "canary"),
        ("/seldon/iris-explainer/canary/api/v0.1/explain", {}, "own", "canary"),
        ("/seldon/default/iris@canary/api/v1.0/explain", {}, "own", "canary"),
        ("/seldon/default/iris/api/v1.0/explain", {}, "explainer", None),
        (
            "/seldon/default/iris/api/v1.0/explain",
            {"x-penstock-revision": "canary"},
            "own",
            "canary",
        ),
        ("/seldon/default/iris@latest/api/v1.0/explain", {}, "explainer", "latest"),
    ],
)
async def test_each_predictors_explainer_is_asked_for_that_one(
    front, stand_in, path, headers, who, revision
):
    found = await beside(front, stand_in)
    answer = await front.client.post(path, json={"data": {"ndarray": ROWS}}, headers=headers)
    assert (answer.status_code, answer.content) == (200, EXPLANATION), answer.text
    (seen,) = found[who].seen
    assert seen.line == "POST /v1/models/iris:explain HTTP/1.1"
    assert seen.headers.get("x-penstock-revision") == revision
    assert not any(stand.seen for name, stand in found.items() if name != who)


async def test_v2s_address_of_a_predictors_explainer_has_the_deployments_model(front, stand_in):
    found = await beside(front, stand_in)
    path = "/seldon/default/iris-explainer/canary/v2/models/anything/infer"
    assert (await front.client.post(path, json={})).status_code == 200
    assert found["own"].seen[0].line == "POST /v2/models/iris/infer HTTP/1.1"


async def test_a_predictor_without_an_explainer_has_no_such_address(front, stand_in):
    found = await beside(front, stand_in, first=False)
    path = "/seldon/default/iris-explainer/{}/api/v1.0/explain"
    message = {"data": {"ndarray": ROWS}}
    for name in ("main", "nobody"):
        answer = await front.client.post(path.format(name), json=message)
        assert answer.status_code == 404, answer.text
    assert (await front.client.post(path.format("canary"), json=message)).status_code == 200
    # The service's own address has the first that there is, as a graph's.
    own = await front.client.post("/seldon/default/iris/api/v1.0/explain", json=message)
    assert own.status_code == 200
    assert len(found["own"].seen) == 2


async def test_an_explainer_that_is_not_here_yet_is_waited_for_by_the_client(front, stand_in):
    """Nobody else explains instead of it."""
    found = await beside(front, stand_in, known=False)
    path = "/seldon/default/iris-explainer/canary/api/v1.0/explain"
    answer = await front.client.post(path, json={"data": {"ndarray": ROWS}})
    assert answer.status_code == 503
    assert "explainer of default/iris's predictor canary" in answer.text
    assert not any(stand.seen for stand in found.values())


@pytest.mark.parametrize(("name", "who"), [("main", "explainer"), ("canary", "own")])
async def test_each_explainers_document_is_its_own(front, stand_in, name, who):
    found = await beside(front, stand_in)
    path = f"/seldon/default/iris-explainer/{name}/api/v1.0/doc/seldon.json"
    assert (await front.client.get(path)).status_code == 200
    (seen,) = found[who].seen
    assert seen.line.startswith("GET /api/v1.0/doc/seldon.json ")
