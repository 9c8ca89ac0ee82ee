"""Rules on request headers: which revision a request goes to, before stickiness and shares."""

from __future__ import annotations

import time

import pytest
from gateway_stand_in import reply, route

from penstock.domain.patterns import MOST_VALUE
from penstock.domain.routes import HeaderTest, Rule, Sticky, Target

BETA = Rule((HeaderTest("x-group", "exact", "beta"),), "latest")
CURL = Rule((HeaderTest("user-agent", "prefix", "curl/"),), "previous")
EU = Rule((HeaderTest("x-region", "regex", "eu-(west|north)-[0-9]"),), "v2")
BOTH = Rule((HeaderTest("x-a", "exact", "1"), HeaderTest("x-b", "prefix", "2")), "iris-v2-00001")
RULES = (BETA, CURL, EU, BOTH)


async def split(front, stand_in, up=("latest", "stable", "v2"), **fields):
    fields.setdefault("rules", RULES)
    found = {name: await stand_in(name) for name in ("latest", "stable", "v2")}
    replicas = {name: (s.route,) if name in up else () for name, s in found.items()}
    targets = (
        Target("iris-00002", 0, replicas["latest"], tags=("latest",)),
        Target("iris-00001", 100, replicas["stable"], tags=("previous",)),
        Target("iris-v2-00001", 0, replicas["v2"], tags=("v2",)),
    )
    front.routes(route("iris", targets=targets, **fields))
    return found


async def asked(front, **headers: str) -> str:
    answer = await front.client.post(
        "/v2/models/iris/infer", headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    assert answer.status_code == 200
    return answer.headers["x-penstock-revision"]


@pytest.mark.parametrize(
    ("headers", "revision"),
    [
        ({}, "iris-00001"),
        ({"X-Group": "beta"}, "iris-00002"),
        ({"x-group": "Beta"}, "iris-00001"),
        ({"user_agent": "curl/8.5"}, "iris-00001"),
        ({"x_region": "eu-west-1"}, "iris-v2-00001"),
        ({"x_region": "eu-west-1x"}, "iris-00001"),
        ({"x_region": "xeu-west-1"}, "iris-00001"),
        ({"x_a": "1"}, "iris-00001"),
        ({"x_a": "1", "x_b": "23"}, "iris-v2-00001"),
        ({"x_a": "1", "x_b": "3"}, "iris-00001"),
        ({"x_group": "beta", "x_region": "eu-west-1"}, "iris-00002"),
        ({"x_group": "beta", "x_penstock_revision": "v2"}, "iris-v2-00001"),
    ],
)
async def test_the_first_rule_that_fits_decides(front, stand_in, headers, revision):
    await split(front, stand_in)
    assert await asked(front, **headers) == revision


async def test_a_rule_comes_before_stickiness(front, stand_in):
    await split(front, stand_in, sticky=Sticky(header="x-user"))
    assert await asked(front, x_user="u") == "iris-00001"
    assert await asked(front, x_user="u", x_group="beta") == "iris-00002"


async def test_where_the_rules_revision_does_not_answer_the_shares_decide(front, stand_in):
    await split(front, stand_in, up=("stable", "v2"))
    assert await asked(front, x_group="beta") == "iris-00001"
    rules = (Rule((HeaderTest("x-group", "exact", "beta"),), "no-such"),)
    await split(front, stand_in, rules=rules)
    assert await asked(front, x_group="beta") == "iris-00001"


async def test_new_rules_hold_for_the_next_request_of_the_same_connection(front, stand_in):
    await split(front, stand_in)
    assert await asked(front, x_group="beta") == "iris-00002"
    await split(front, stand_in, rules=())
    assert await asked(front, x_group="beta") == "iris-00001"


async def test_a_value_that_is_too_long_for_a_pattern_does_not_fit(front, stand_in):
    rules = (Rule((HeaderTest("x-long", "regex", ".*a.*b"),), "latest"),)
    await split(front, stand_in, rules=rules)
    assert await asked(front, x_long="a" * (MOST_VALUE - 1) + "b") == "iris-00002"
    began = time.process_time()
    assert await asked(front, x_long="a" * 8000 + "b") == "iris-00001"
    assert time.process_time() - began < 1


async def test_through_a_transformer_the_predictor_is_asked_for_what_the_rule_says(front, stand_in):
    found = {name: await stand_in(name) for name in ("t", "one", "two")}
    predictor = (
        Target("iris-00001", 100, (found["one"].route,), tags=("latest",)),
        Target("iris-v2-00001", 0, (found["two"].route,), tags=("v2",)),
    )
    transformer = (Target("iris-transformer-00001", 100, (found["t"].route,), tags=("latest",)),)
    rules = (Rule((HeaderTest("x-group", "exact", "beta"),), "v2"),)
    front.routes(
        route("iris", targets=predictor, rules=rules, entry="transformer"),
        route("iris", targets=transformer, component="transformer"),
    )
    await asked(front, x_group="beta")
    await asked(front)
    assert [s.headers.get("x-penstock-prefer") for s in found["t"].seen] == ["v2", None]
    # Rules that change are known to plans of the transformer too.
    front.put(route("iris", targets=predictor, entry="transformer"))
    await asked(front, x_group="beta")
    assert "x-penstock-prefer" not in found["t"].seen[-1].headers


@pytest.mark.parametrize("sticky", [Sticky(), Sticky("x-user")])
async def test_through_a_transformer_a_client_stays_with_the_predictors_revision(
    front, stand_in, sticky
):
    """The transformer is told which, or to say who answered; the client is told what it said."""

    async def answered(seen, writer):
        prefer = seen.headers.get("x-penstock-prefer", "")
        by = "iris-00002" if prefer in ("*", "") else prefer
        writer.write(reply(b"{}", extra=f"x-penstock-answered-by: {by}\r\n" if prefer else ""))

    found = {name: await stand_in(name, answered) for name in ("t", "one", "two")}
    predictor = (
        Target("iris-00001", 50, (found["one"].route,)),
        Target("iris-00002", 50, (found["two"].route,)),
    )
    transformer = (Target("iris-transformer-00001", 100, (found["t"].route,)),)
    front.routes(
        route("iris", targets=predictor, sticky=sticky, entry="transformer"),
        route("iris", targets=transformer, component="transformer"),
    )
    client = front.client
    if sticky.header:
        for user in ("ada", "ada", "grace", "grace"):
            await client.post("/v1/models/iris:predict", headers={"x-user": user})
        ada, again, grace, too = (s.headers["x-penstock-prefer"] for s in found["t"].seen)
        assert ada == again
        assert grace == too
        return
    answer = await client.post("/v1/models/iris:predict")
    assert answer.headers["x-penstock-route"] == "iris-00002"
    assert "penstock-route-iris=iris-00002" in answer.headers["set-cookie"]
    await client.post("/v1/models/iris:predict", headers={"x-penstock-route": "iris-00001"})
    assert [s.headers["x-penstock-prefer"] for s in found["t"].seen] == ["*", "iris-00001"]


async def test_what_is_preferred_gives_way_and_what_is_asked_for_does_not(front, stand_in):
    await split(front, stand_in)
    assert await asked(front, x_penstock_prefer="iris-00002") == "iris-00002"
    assert await asked(front, x_penstock_prefer="*") == "iris-00001"
    assert await asked(front, x_penstock_prefer="iris-00009") == "iris-00001"


async def test_a_transformers_own_revision_is_not_asked_of_the_predictor(front, stand_in):
    found = {name: await stand_in(name) for name in ("t", "one")}
    front.routes(
        route(
            "iris", targets=(Target("iris-00001", 100, (found["one"].route,)),), entry="transformer"
        ),
        route(
            "iris",
            targets=(Target("iris-transformer-00001", 100, (found["t"].route,)),),
            component="transformer",
        ),
    )
    headers = {"x-penstock-revision": "iris-transformer-00001"}
    assert (await front.client.post("/v1/models/iris:predict", headers=headers)).status_code == 200
    assert found["t"].seen[-1].headers.get("x-penstock-revision") == ""
