"""Requests to a service of several components: who answers what, and how components reach each other."""

from __future__ import annotations

import asyncio

import pytest
from gateway_stand_in import route

from penstock.domain.routes import Remove, Target
from penstock.gateway.load import LoadMeter


async def graph(front, stand_in, roles=("predictor", "transformer", "explainer")):
    """A service `iris` with these components, one stand-in each."""
    found = {}
    routes = []
    for role in roles:
        found[role] = await stand_in(role)
        name = "iris-00001" if role == "predictor" else f"iris-{role}-00001"
        entry = "transformer" if role == "predictor" and "transformer" in roles else ""
        targets = (Target(name, 100, (found[role].route,), tags=("latest",)),)
        routes.append(route("iris", targets=targets, component=role, entry=entry))
    front.routes(*routes)
    return found


INFER, PREDICT = "/v2/models/iris/infer", "/v1/models/iris:predict"
SERVING = "/serving/default/iris"


@pytest.mark.parametrize(
    ("path", "headers", "role", "sent"),
    [
        (INFER, {}, "transformer", INFER),
        (PREDICT, {}, "transformer", PREDICT),
        (f"{SERVING}{INFER}", {}, "transformer", INFER),
        (INFER, {"host": "iris.default.example.com"}, "transformer", INFER),
        ("/v1/models/iris:explain", {}, "explainer", "/v1/models/iris:explain"),
        (f"{SERVING}/v1/models/iris:explain", {}, "explainer", "/v1/models/iris:explain"),
        ("/v2/models/iris/explain", {}, "explainer", "/v2/models/iris/explain"),
        (f"{SERVING}/components/predictor{INFER}", {}, "predictor", INFER),
        (f"{SERVING}/components/transformer{PREDICT}", {}, "transformer", PREDICT),
        (f"{SERVING}/components/predictor", {}, "predictor", "/"),
        (INFER, {"x-penstock-component": "predictor"}, "predictor", INFER),
        ("/v2/repository/models/iris/index", {}, "transformer", "/v2/repository/models/iris/index"),
    ],
)
async def test_an_address_reaches_its_component(front, stand_in, path, headers, role, sent):
    found = await graph(front, stand_in)
    answer = await front.client.post(path, headers=headers)
    assert answer.status_code == 200
    (seen,) = found[role].seen
    assert seen.line == f"POST {sent} HTTP/1.1"
    assert not [r for r, s in found.items() if r != role and s.seen]


async def test_the_component_whose_time_is_over_is_named_with_its_own_limit(front, stand_in):
    never = asyncio.Event()

    async def hang(seen, writer):
        await never.wait()

    slow = await stand_in("explainer", answer=hang)
    targets = (Target("iris-explainer-00001", 100, (slow.route,), tags=("latest",)),)
    front.routes(
        route("iris", (await stand_in("predictor")).route),
        route("iris", targets=targets, component="explainer", timeout_s=0.06),
    )
    answer = await front.client.post("/v1/models/iris:explain", json={"instances": [[1]]})
    assert answer.status_code == 504
    assert "spec.explainer.timeout raises the limit" in answer.json()["error"]


async def test_without_an_explainer_the_entry_is_asked_to_explain(front, stand_in):
    found = await graph(front, stand_in, ("predictor",))
    assert (await front.client.post("/v1/models/iris:explain")).status_code == 200
    assert len(found["predictor"].seen) == 1
    own = await front.client.post(f"{SERVING}/components/predictor/v1/models/iris:explain")
    assert own.status_code == 200


async def test_a_component_that_is_not_there_is_told_with_those_that_are(front, stand_in):
    await graph(front, stand_in, ("predictor", "transformer"))
    answer = await front.client.post(f"{SERVING}/components/explainer/v2")
    assert answer.status_code == 404
    assert "It has predictor, transformer." in answer.json()["error"]
    answer = await front.client.post(INFER, headers={"x-penstock-component": "../x"})
    assert answer.status_code == 404


async def test_a_predictors_revision_is_asked_for_through_the_transformer(front, stand_in):
    """The transformer answers, and hands on which of the predictor's revisions it shall ask."""
    found = await graph(front, stand_in)
    await front.client.post(f"{SERVING}@latest{INFER}")
    await front.client.post(INFER, headers={"x-penstock-revision": "iris-00001"})
    asked = [seen.headers["x-penstock-revision"] for seen in found["transformer"].seen]
    assert asked == ["latest", "iris-00001"]
    of_its_own = {"x-penstock-revision": "iris-transformer-00001"}
    assert (await front.client.post(INFER, headers=of_its_own)).status_code == 200
    unknown = await front.client.post(INFER, headers={"x-penstock-revision": "iris-00007"})
    assert unknown.status_code == 404


async def test_lists_and_names_show_a_service_once(front, stand_in):
    await graph(front, stand_in)
    assert (await front.client.get("/v2/models")).json() == {"models": ["iris"]}
    assert len(front.gateway.table) == 1
    hidden = await front.client.post("/v2", headers={"seldon-model": "iris/transformer"})
    assert hidden.status_code == 404


async def test_load_waiting_and_wake_ups_are_told_per_component(front, stand_in):
    """A request for a sleeping transformer wakes that one, and counts as its load alone."""
    found = await graph(front, stand_in, ("predictor",))
    asleep = route(
        "iris", targets=(Target("iris-transformer-00001", 100),), component="transformer"
    )
    front.put(asleep)
    front.put(
        route(
            "iris",
            targets=(Target("iris-00001", 100, (found["predictor"].route,)),),
            entry="transformer",
        )
    )
    meter = LoadMeter(front.gateway, lambda message: None)
    call = asyncio.create_task(front.client.post(INFER, content=b"{}"))
    async with asyncio.timeout(30):
        while not front.wakes:
            await asyncio.sleep(0)
    assert front.wakes[0].key == "default/iris/transformer"
    loads = {s.key: s for message in meter.read() for s in message.services}
    assert set(loads) == {"default/iris/transformer"}
    assert loads["default/iris/transformer"].waiting == 1
    up = await stand_in("transformer")
    targets = (Target("iris-transformer-00001", 100, (up.route,)),)
    front.put(route("iris", targets=targets, component="transformer"))
    assert (await call).status_code == 200
    assert len(up.seen) == 1
    ended = {s.key: s.requests for message in meter.read() for s in message.services}
    assert ended == {"default/iris/transformer": 1}
    await front.client.post(f"{SERVING}/components/predictor{INFER}", content=b"{}")
    ended = {s.key: s.requests for message in meter.read() for s in message.services}
    assert ended == {"default/iris": 1}


async def test_plans_follow_a_transformer_that_comes_and_goes(front, stand_in):
    """The same connection's next request goes where the route says then."""
    found = await graph(front, stand_in)
    await front.client.post(INFER)
    plain = Target("iris-00001", 100, (found["predictor"].route,))
    front.put(route("iris", targets=(plain,)))
    front.sequence += 1
    front.gateway.apply(Remove(front.sequence, "default/iris/transformer"))
    await front.client.post(INFER)
    assert len(found["transformer"].seen) == len(found["predictor"].seen) == 1


async def test_an_explainer_that_comes_later_is_asked_from_then_on(front, stand_in):
    found = await graph(front, stand_in, ("predictor",))
    await front.client.post("/v1/models/iris:explain")
    explainer = await stand_in("explainer")
    targets = (Target("iris-explainer-00001", 100, (explainer.route,)),)
    front.put(route("iris", targets=targets, component="explainer"))
    await front.client.post("/v1/models/iris:explain")
    front.sequence += 1
    front.gateway.apply(Remove(front.sequence, "default/iris/explainer"))
    await front.client.post("/v1/models/iris:explain")
    assert (len(found["predictor"].seen), len(explainer.seen)) == (2, 1)


async def test_an_entry_that_is_not_known_yet_is_not_passed_by(front, stand_in):
    found = await graph(front, stand_in, ("predictor",))
    plain = Target("iris-00001", 100, (found["predictor"].route,))
    front.put(route("iris", targets=(plain,), entry="transformer"))
    answer = await front.client.post(INFER)
    assert answer.status_code == 503
    assert "transformer" in answer.json()["error"]
    assert found["predictor"].seen == []


READY = ["/v2/models/iris/ready", "/v1/models/iris", f"{SERVING}/v2/health/ready"]


@pytest.mark.parametrize("path", READY)
async def test_a_transformer_is_not_ready_before_a_predictor_that_cannot_answer(
    front, stand_in, path
):
    found = await graph(front, stand_in, ("predictor", "transformer"))
    assert (await front.client.get(path)).status_code == 200
    targets = (Target("iris-00001", 100),)
    front.put(route("iris", targets=targets, entry="transformer", message="the pickle is broken"))
    answer = await front.client.get(path)
    assert answer.status_code == 503
    assert "the pickle is broken" in answer.json()["error"]
    # Asleep is no fault, and what asks for a prediction is the transformer's.
    assert (await front.client.post(INFER)).status_code == 200
    front.put(route("iris", targets=targets, entry="transformer"))
    assert (await front.client.get(path)).status_code == 200
    assert not [s for s in found["predictor"].seen if s.line.startswith("POST")]
