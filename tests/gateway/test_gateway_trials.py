"""A revision that is rolled out beside a bandit's arms: it gets its share, the arms get the rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from gateway_stand_in import Seen, reply, route
from test_gateway_bandits import UCB, V1_PATH, V2_BODY, V2_PATH, rewarded

from penstock import dialects
from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.routes import HeaderTest, Route, Rule, Sticky, Target
from penstock.gateway.table import Service

NEW, STABLE, BOLD = "iris-00002", "iris-00001", "iris-bold-00001"


async def rolling(
    front: Any, stand_in: Any, *, share: int = 20, bandit: Bandit = UCB, **fields: Any
) -> dict[str, Any]:
    """Two arms, and a new revision of one of them that gets `share` percent; by revision, who answers."""

    async def say_v2(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(V2_BODY))

    stands = {name: await stand_in(name[5:], say_v2) for name in (NEW, STABLE, BOLD)}
    publish(front, stands, share, bandit=bandit, **fields)
    return stands


def publish(front: Any, stands: dict[str, Any], share: int, **fields: Any) -> None:
    """The route at that share; at 100 the new revision is an arm in the stable one's place."""
    weights = {NEW: share, STABLE: (100 - share) // 2, BOLD: 100 - share - (100 - share) // 2}
    if share == 100:
        weights = {NEW: 50, BOLD: 50}
    targets = tuple(
        Target(
            name,
            weight,
            (stands[name].route,) if stands[name] is not None else (),
            tags=("latest",) if name == NEW else (),
            concurrency=fields.get("concurrency", 0),
        )
        for name, weight in weights.items()
    )
    given = {"bandit": UCB, "uid": "u1", "trial": NEW if 0 < share < 100 else ""} | fields
    given.pop("concurrency", None)
    front.routes(route("iris", targets=targets, **given))


def arms_of(front: Any) -> dict[str, Any]:
    learner = front.gateway.table.get("default", "iris").learner
    return {name: arm for name, arm in learner.arms.items() if arm.pulls or arm.rewards}


async def ask(front: Any, path: str = V2_PATH, **headers: str) -> Any:
    answer = await front.client.post(
        path, json={}, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    front.client.cookies.clear()
    assert answer.status_code == 200, answer.text
    return answer


async def test_it_gets_just_its_share_whatever_the_rewards_say(front, stand_in, plane):
    await rolling(front, stand_in)
    taken: Counter[str] = Counter()
    for i in range(100):
        answer = await ask(front)
        taken[answer.headers["x-penstock-revision"]] += 1
        if "x-penstock-arm" in answer.headers:
            arm = answer.headers["x-penstock-arm"]
            assert arm == answer.headers["x-penstock-revision"]
            assert (await rewarded(front, answer, float(arm == BOLD))).status_code == 200
        if i % 10 == 9:
            assert taken[NEW] == 2 * (i + 1) // 10
    assert taken[NEW] == 20
    assert taken[BOLD] > 3 * taken[STABLE]
    arms = arms_of(front)
    assert set(arms) == {STABLE, BOLD}
    assert sum(a.pulls for a in arms.values()) == 80


async def test_its_answers_have_an_id_that_nobody_is_rewarded_for(front, stand_in, plane):
    stands = await rolling(front, stand_in, share=99)
    answer = await ask(front)
    assert answer.headers["x-penstock-revision"] == NEW
    assert "x-penstock-arm" not in answer.headers
    assert answer.json()["id"] == answer.headers["x-request-id"]
    own = await ask(front, x_request_id="mine")
    assert own.headers["x-request-id"] == "mine"
    # Not after it has become an arm, either: then it begins without a past.
    for share in (99, 100):
        publish(front, stands, share)
        for given in (answer.headers["x-request-id"], own.headers["x-penstock-feedback"], "mine"):
            body = {"id": given, "reward": 1.0, "model": "iris"}
            told = await front.client.post("/feedback", json=body)
            assert told.status_code == 404
            assert "was no arm of a bandit" in told.json()["error"]
    assert not arms_of(front)


async def test_when_the_rollout_has_ended_it_is_an_arm_and_the_others_know_what_they_knew(
    front, stand_in, plane
):
    stands = await rolling(front, stand_in)
    for _ in range(50):
        answer = await ask(front)
        if "x-penstock-arm" in answer.headers:
            arm = answer.headers["x-penstock-arm"]
            await rewarded(front, answer, float(arm == BOLD))
    before = {name: (a.pulls, a.total) for name, a in arms_of(front).items()}
    publish(front, stands, 0)  # taken back
    assert {name: (a.pulls, a.total) for name, a in arms_of(front).items()} == before
    seen = {(await ask(front)).headers["x-penstock-arm"] for _ in range(20)}
    assert NEW not in seen
    publish(front, stands, 100)  # or it has taken all
    taken: Counter[str] = Counter()
    for _ in range(30):
        answer = await ask(front)
        arm = answer.headers["x-penstock-arm"]
        taken[arm] += 1
        assert (await rewarded(front, answer, float(arm == NEW))).status_code == 200
    assert taken[NEW] >= 10
    assert arms_of(front)[NEW].rewards == taken[NEW]


async def test_beside_one_arm_alone_too(front, stand_in, plane):
    stands = await rolling(front, stand_in)
    targets = (
        Target(NEW, 10, (stands[NEW].route,)),
        Target(STABLE, 90, (stands[STABLE].route,)),
    )
    front.routes(route("iris", targets=targets, bandit=UCB, uid="u1", trial=NEW))
    for _ in range(100):
        await ask(front)
    assert (len(stands[NEW].seen), len(stands[STABLE].seen)) == (10, 90)


async def test_who_asks_for_it_or_is_led_to_it_gets_it_beyond_its_share(front, stand_in, plane):
    rule = Rule((HeaderTest("x-group", "exact", "beta"),), "latest")
    stands = await rolling(front, stand_in, share=10, rules=(rule,))
    for headers in ({"x_group": "beta"}, {"x_penstock_revision": NEW}):
        for _ in range(5):
            answer = await ask(front, **headers)
            assert answer.headers["x-penstock-revision"] == NEW
    assert len(stands[NEW].seen) == 10
    for _ in range(20):
        await ask(front)
    assert len(stands[NEW].seen) == 12


async def test_clients_stay_with_it_or_with_their_arm(front, stand_in, plane):
    await rolling(front, stand_in, share=10, sticky=Sticky())
    for _ in range(20):
        for kept in (NEW, BOLD):
            answer = await ask(front, x_penstock_route=kept)
            assert answer.headers["x-penstock-route"] == kept
            assert answer.headers["x-penstock-revision"] == kept
    # New ones get it in their turn, and are told so.
    told = Counter([(await ask(front)).headers["x-penstock-route"] for _ in range(20)])
    assert told[NEW] == 2


async def test_a_malformed_context_is_refused_whoever_s_turn_it_is(front, stand_in, plane):
    bandit = Bandit(PolicyName.LINUCB, features=2, header="x-user")
    stands = await rolling(front, stand_in, share=50, bandit=bandit)
    for _ in range(4):
        answer = await front.client.post(V1_PATH, json={}, headers={"x-user": "1"})
        assert answer.status_code == 400
    assert not any(s.seen for s in stands.values())
    for _ in range(10):
        await ask(front, x_user="1,0")
    assert len(stands[NEW].seen) == 5


async def test_requests_that_wait_for_an_arm_do_not_go_to_it_out_of_turn(front, stand_in, plane):
    hold = asyncio.Event()

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.write(reply(V2_BODY))

    stands = await rolling(front, stand_in, concurrency=1)
    for name in (STABLE, BOLD):
        stands[name].answer = slow
    asked = [asyncio.create_task(front.client.post(V2_PATH, json={})) for _ in range(20)]
    for name in (STABLE, BOLD):
        await stands[name].until_seen(1)
    hold.set()
    assert {a.status_code for a in await asyncio.gather(*asked)} == {200}
    assert len(stands[NEW].seen) == 4


async def test_when_it_cannot_answer_the_arms_do_and_it_does_when_none_of_them_can(
    front, stand_in, plane
):
    stands = await rolling(front, stand_in, share=50)
    await stands[NEW].stop()
    seen = {(await ask(front)).headers["x-penstock-revision"] for _ in range(10)}
    assert seen == {STABLE, BOLD}
    await stands[NEW].start()
    publish(front, stands | {STABLE: None, BOLD: None}, 50)
    service: Service = front.gateway.table.get("default", "iris")
    await asyncio.wait_for(until_up(service), 5)
    for _ in range(4):
        assert (await ask(front)).headers["x-penstock-revision"] == NEW


async def until_up(service: Service) -> None:
    while service.trial.target.pick() is None:
        await asyncio.sleep(0.01)


async def test_it_gets_its_share_through_a_transformer(front, stand_in, plane):
    async def says(seen: Seen, writer: asyncio.StreamWriter) -> None:
        by = seen.headers.get("x-penstock-prefer", "")
        writer.write(reply(V2_BODY, extra=f"x-penstock-answered-by: {by}\r\n"))

    stands = await rolling(front, stand_in)
    transformer = await stand_in("t", says)
    targets = tuple(
        Target(n, w, (stands[n].route,)) for n, w in ((NEW, 20), (STABLE, 40), (BOLD, 40))
    )
    front.routes(
        route("iris", targets=targets, bandit=UCB, uid="u1", entry="transformer", trial=NEW),
        route(
            "iris",
            targets=(Target("iris-transformer-00001", 100, (transformer.route,)),),
            component="transformer",
        ),
    )
    asked: Counter[str] = Counter()
    for _ in range(50):
        answer = await ask(front)
        by = transformer.seen[-1].headers["x-penstock-prefer"]
        asked[by] += 1
        assert answer.headers.get("x-penstock-arm", NEW) == by
        told = await rewarded(front, answer, 1.0)
        assert told.status_code == (404 if by == NEW else 200), told.text
    assert asked[NEW] == 10
    assert set(arms_of(front)) == {STABLE, BOLD}


@pytest.mark.parametrize("splits", [False, True])
async def test_in_a_graph_s_step_too(front, stand_in, plane, splits):
    """Its answer has an id; what is rewarded is what was chosen, the splitter's branch at most."""
    stands = await rolling(front, stand_in, share=50)
    steps: list[dict[str, Any]] = [{"name": "iris"}]
    if splits:
        split = [{"step": "iris", "weight": 100}]
        steps = [{"name": "which", "split": split, "bandit": "ucb1"}, *steps]
    pipeline = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "fork"},
        "spec": {"steps": steps},
    }
    graph = dialects.translate(pipeline).object
    fork = Route("default", "fork", graph=getattr(graph, "graph", graph), uid="g1")
    targets = tuple(
        Target(n, w, (stands[n].route,)) for n, w in ((NEW, 50), (STABLE, 25), (BOLD, 25))
    )
    front.routes(route("iris", targets=targets, bandit=UCB, uid="u1", trial=NEW), fork)
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]}
    outcomes: Counter[tuple[int, int]] = Counter()
    for _ in range(10):
        answer = await front.client.post("/v2/models/fork/infer", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == answer.headers["x-request-id"]
        told = await rewarded(front, answer, 1.0)
        assert told.status_code == 200 or "no arm of a bandit" in told.json()["error"]
        outcomes[told.status_code, len(told.json().get("credited", ()))] += 1
    assert len(stands[NEW].seen) == 5
    if splits:
        assert outcomes == {(200, 1): 5, (200, 2): 5}
    else:
        assert outcomes == {(404, 0): 5, (200, 1): 5}
