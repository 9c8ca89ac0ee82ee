"""Bandits in the gateway: who gets a request, what its answer says, and whose reward it is."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from gateway_stand_in import Seen, reply, route

from penstock.control.routes import MAX_LINE
from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.learning import Pulls, bandit_key
from penstock.domain.routes import Remove, Snapshot, Sticky, Target
from penstock.gateway.learning.request_ids import RequestIds

UCB = Bandit(PolicyName.UCB1, seed=1)
V2_PATH = "/v2/models/iris/infer"
V1_PATH = "/v1/models/iris:predict"
V2_BODY = (
    b'{"model_name":"iris","outputs":[{"name":"y","shape":[1],"datatype":"FP64","data":[1.5]}]}'
)


async def learning(
    front: Any, stand_in: Any, bandit: Bandit = UCB, answer: Any = None, **fields: Any
) -> list[Any]:
    """A service of two revisions with a bandit."""

    async def say_v2(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(V2_BODY))

    stands = [await stand_in(n, answer or say_v2) for n in ("a", "b")]
    targets = tuple(Target(f"iris-0000{i}", 50, (s.route,)) for i, s in enumerate(stands, start=1))
    front.routes(route("iris", targets=targets, bandit=bandit, uid="u1", **fields))
    return stands


async def rewarded(front: Any, answer: Any, reward: float) -> Any:
    body = {"id": answer.headers["x-request-id"], "reward": reward}
    return await front.client.post("/feedback", json=body)


async def test_requests_move_to_the_arm_that_rewards_speak_for(front, stand_in, plane):
    await learning(front, stand_in)
    taken: Counter[str] = Counter()
    for _ in range(100):
        answer = await front.client.post(V2_PATH, json={})
        arm = answer.headers["x-penstock-arm"]
        assert arm == answer.headers["x-penstock-revision"]
        taken[arm] += 1
        told = await rewarded(front, answer, 1.0 if arm == "iris-00002" else 0.0)
        assert told.json()["credited"] == [{"namespace": "default", "name": "iris", "arm": arm}]
    assert taken["iris-00002"] > 80


async def test_the_answer_of_v2_has_the_id_in_its_body(front, stand_in, plane):
    await learning(front, stand_in)
    answer = await front.client.post(V2_PATH, json={})
    assert answer.json()["id"] == answer.headers["x-request-id"]
    assert answer.json()["outputs"][0]["data"] == [1.5]
    assert "x-penstock-feedback" not in answer.headers


async def test_a_binary_answer_of_v2_has_it_too(front, stand_in, plane):
    head = b'{"model_name":"iris","outputs":[{"name":"y","shape":[2],"datatype":"FP64",' \
        b'"parameters":{"binary_data_size":16}}]}'  # fmt: skip
    data = np.array([1.5, 2.5]).tobytes()

    async def binary(seen: Seen, writer: asyncio.StreamWriter) -> None:
        body = head + data
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
            b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
            % (len(head), len(body))
            + body
        )

    await learning(front, stand_in, answer=binary)
    answer = await front.client.post(V2_PATH, json={})
    size = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:size])["id"] == answer.headers["x-request-id"]
    assert answer.content[size:] == data


async def test_an_id_that_the_client_chose_comes_back_and_can_be_rewarded(front, stand_in, plane):
    async def echo(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b'{"id":"mine-2",' + V2_BODY[1:]))

    await learning(front, stand_in, answer=echo)
    headers = {"x-request-id": "mine-1"}
    answer = await front.client.post(V2_PATH, json={"id": "mine-2"}, headers=headers)
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json()["id"] == "mine-2"
    own = answer.headers["x-penstock-feedback"]
    # All three are the same request: one reward counts.
    path = "/v2/models/iris/feedback"
    first = await front.client.post(path, json={"id": "mine-2", "reward": 1})
    assert first.status_code == 200, first.text
    for body in ({"id": "mine-1"}, {"id": own}):
        again = await front.client.post(path, json={**body, "reward": 1})
        assert again.status_code == 409
    by_model = {"id": "mine-1", "model": "iris", "reward": 1}
    assert (await front.client.post("/feedback", json=by_model)).status_code == 409
    unsaid = await front.client.post("/feedback", json={"id": "mine-1", "reward": 1})
    assert unsaid.status_code == 404
    assert "model" in unsaid.json()["error"]


async def test_a_reward_counts_once(front, stand_in, plane):
    await learning(front, stand_in)
    answer = await front.client.post(V1_PATH, json={})
    results = await asyncio.gather(*(rewarded(front, answer, 1) for _ in range(5)))
    assert sorted(r.status_code for r in results) == [200, 409, 409, 409, 409]
    assert sum(a.rewards for a in plane.arms.values()) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"id":"x"}', 400),
        (b'{"reward":1}', 400),
        (b'{"id":"x","reward":"much"}', 400),
        (b'{"id":"x","reward":1,"rewrad":2}', 400),
        (b'{"id":"fb1AAAA","reward":1}', 404),
        (b'{"id":"fb1' + b"A" * 60 + b'","reward":1}', 404),
        (b'{"id":"fb1\xc3\xa9","reward":1}', 404),
        (b'{"id":"","reward":1}', 404),
        (b'{"id":"x","reward":1,"model":"iris"}', 404),
        (b"{" * 5000, 400),
    ],
)
async def test_what_is_no_feedback_says_so(front, stand_in, plane, body, status):
    await learning(front, stand_in)
    answer = await front.client.post("/feedback", content=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert not plane.arms


@pytest.mark.parametrize("reward", [-0.1, 1.1, 1e300])
async def test_a_reward_out_of_range_is_refused_and_may_be_corrected(
    front, stand_in, plane, reward
):
    await learning(front, stand_in)
    answer = await front.client.post(V1_PATH, json={})
    told = await rewarded(front, answer, reward)
    assert told.status_code == 400
    assert "between" in told.json()["error"]
    assert (await rewarded(front, answer, 0.5)).status_code == 200


async def test_an_id_of_another_key_is_unknown(front, stand_in, plane):
    await learning(front, stand_in)
    answer = await front.client.post(V1_PATH, json={})
    own = answer.headers["x-request-id"]
    issued = front.gateway.bandits.ids.read(own)
    assert issued is not None
    forged = RequestIds(b"another").make([], 1)
    for bad in (forged, own[:-1] + ("A" if own[-1] != "A" else "B"), own + "A" * 4):
        told = await front.client.post("/feedback", json={"id": bad, "reward": 1})
        assert told.status_code == 404


async def test_a_late_reward_is_not_taken(front, stand_in, plane):
    await learning(front, stand_in, Bandit(PolicyName.UCB1, window_s=60))
    answer = await front.client.post(V1_PATH, json={})
    bandits = front.gateway.bandits
    now = bandits.now()
    bandits.now = lambda: now + 61
    told = await rewarded(front, answer, 1)
    assert told.status_code == 404
    assert "too late" in told.json()["error"]


async def test_seldons_feedback_is_credited_by_its_puid(front, stand_in, plane):
    async def seldon(seen: Seen, writer: asyncio.StreamWriter) -> None:
        puid = seen.headers["seldon-puid"]
        body = json.dumps({"data": {"ndarray": [1]}, "meta": {"puid": puid}}).encode()
        writer.write(reply(body, extra=f"seldon-puid: {puid}\r\n"))

    stands = await learning(front, stand_in, answer=seldon)
    path = "/seldon/default/iris/api/v1.0"
    answer = await front.client.post(f"{path}/predictions", json={"data": {"ndarray": [1]}})
    puid = answer.json()["meta"]["puid"]
    assert puid == answer.headers["x-request-id"]
    body = {"request": {}, "response": answer.json(), "reward": 1.0}
    told = await front.client.post(f"{path}/feedback", json=body)
    assert (told.status_code, told.json()) == (200, {"meta": {"puid": puid}})
    again = await front.client.post("/api/v1.0/feedback", json=body)
    assert again.status_code == 409
    assert again.json()["status"]["status"] == "FAILURE"
    # One that the client chose.
    headers = {"seldon-puid": "mine"}
    answer = await front.client.post(f"{path}/predictions", json={}, headers=headers)
    assert answer.json()["meta"]["puid"] == "mine"
    told = await front.client.post(
        f"{path}/feedback", json={"response": answer.json(), "reward": 0}
    )
    assert told.status_code == 200, told.text
    assert sum(a.rewards for a in plane.arms.values()) == 2
    assert sum(len(s.seen) for s in stands) == 2, "no feedback went to a replica"


async def test_a_service_without_a_bandit_gets_its_feedback_itself(front, stand_in):
    stand = await stand_in("plain")
    front.routes(route("plain", stand.route))
    for path in ("/v2/models/plain/feedback", "/seldon/default/plain/api/v1.0/feedback"):
        assert (await front.client.post(path, json={"reward": 1})).status_code == 200
    assert len(stand.seen) == 2
    assert "bandits" not in str(front.gateway._bandits)
    assert (await front.client.post("/feedback", json={"id": "x", "reward": 1})).status_code == 404


async def test_failures_have_no_id_and_what_is_no_prediction_is_no_pull(front, stand_in, plane):
    async def fails(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b'{"error":"x"}', status="500 No"))

    await learning(front, stand_in, answer=fails)
    answer = await front.client.post(V1_PATH, json={})
    assert "x-request-id" not in answer.headers
    before = sum(a.pulls for a in front.gateway.table.get("default", "iris").learner.arms.values())
    assert "x-request-id" not in (await front.client.get("/v2/models/iris/ready")).headers
    after = sum(a.pulls for a in front.gateway.table.get("default", "iris").learner.arms.values())
    assert (before, after) == (1, 1)


async def test_who_asks_for_one_revision_gets_it_and_nothing_is_learned(front, stand_in, plane):
    await learning(front, stand_in)
    headers = {"x-penstock-revision": "iris-00001"}
    for _ in range(5):
        answer = await front.client.post(V1_PATH, json={}, headers=headers)
        assert answer.headers["x-penstock-revision"] == "iris-00001"
        assert "x-penstock-arm" not in answer.headers


async def test_an_arm_that_is_away_gets_nothing(front, stand_in, plane):
    a, _ = await learning(front, stand_in)
    await a.stop()
    for _ in range(10):
        answer = await front.client.post(V1_PATH, json={})
        assert answer.headers["x-penstock-arm"] == "iris-00002"
    # It was asked once, to find out.
    assert front.gateway.table.get("default", "iris").learner.arm("iris-00001").pulls <= 1


async def test_without_rewards_requests_are_divided_by_shares(front, stand_in, plane):
    a, b = await stand_in("a"), await stand_in("b")
    targets = (Target("iris-00001", 75, (a.route,)), Target("iris-00002", 25, (b.route,)))
    front.routes(route("iris", targets=targets, bandit=UCB, uid="u1"))
    for _ in range(100):
        await front.client.post(V1_PATH, json={})
    assert (len(a.seen), len(b.seen)) == (75, 25)


async def test_features_choose_the_arm(front, stand_in, plane):
    bandit = Bandit(PolicyName.LINUCB, features=2, header="x-user", exploration=0.5)
    await learning(front, stand_in, bandit)
    right = Counter()
    for i in range(120):
        user = "1,0" if i % 2 else "0,1"
        answer = await front.client.post(V1_PATH, json={}, headers={"x-user": user})
        arm = answer.headers["x-penstock-arm"]
        good = (arm == "iris-00001") == (user == "1,0")
        right[good and i >= 40] += 1
        await rewarded(front, answer, float(good))
    assert right[True] >= 72
    # Without features requests are divided by shares, and there is nothing to reward.
    plain = await front.client.post(V1_PATH, json={})
    assert plain.status_code == 200
    assert "x-penstock-arm" not in plain.headers
    for bad in ("1", "1,2,3", "a,b", "1,nan", "1e9,0", "inf,0", "1_0,0"):
        answer = await front.client.post(V1_PATH, json={}, headers={"x-user": bad})
        assert answer.status_code == 400, bad
        assert "x-user" in answer.json()["error"]


@pytest.mark.parametrize("protocol", ["v1", "v2", "v2-binary", "v2-binary-gzip"])
async def test_features_may_be_an_input_tensor(front, stand_in, plane, protocol):
    bandit = Bandit(PolicyName.LINUCB, features=2, tensor="x")
    await learning(front, stand_in, bandit)
    row = np.array([[1.0, 2.0, 9.0]])
    headers, path = {}, V2_PATH
    if protocol == "v1":
        path, body = V1_PATH, json.dumps({"instances": [{"x": [1.0, 2.0, 9.0]}]}).encode()
    elif protocol == "v2":
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP64", "data": row[0].tolist()}
        body = json.dumps({"inputs": [tensor]}).encode()
    else:
        size = {"binary_data_size": 24}
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP64", "parameters": size}
        head = json.dumps({"inputs": [tensor]}).encode()
        body, headers = head + row.tobytes(), {"inference-header-content-length": str(len(head))}
    if protocol.endswith("gzip"):
        body, headers["content-encoding"] = gzip.compress(body), "gzip"
    answer = await front.client.post(path, content=body, headers=headers)
    assert answer.headers["x-penstock-arm"]
    assert (await rewarded(front, answer, 1.0)).status_code == 200
    (arm,) = plane.arms.values()
    assert arm.response == [1.0, 2.0, 1.0]


async def test_a_control_plane_that_is_away_is_told_when_it_is_back(front, stand_in, plane):
    await learning(front, stand_in)
    answer = await front.client.post(V1_PATH, json={})
    plane.away = True
    waiting = asyncio.create_task(rewarded(front, answer, 1))
    while not front.gateway.bandits._sent:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    plane.away = False
    front.routes(front.gateway.table.get("default", "iris").route)
    assert (await waiting).status_code == 200
    assert sum(a.rewards for a in plane.arms.values()) == 1


async def test_a_service_that_is_gone_is_forgotten(front, stand_in, plane):
    await learning(front, stand_in)
    answer = await front.client.post(V1_PATH, json={})
    front.gateway.apply(Remove(9, "default/iris"))
    assert (await rewarded(front, answer, 1)).status_code == 404
    assert not front.gateway.snapshot()["penstock_bandit_requests"]["samples"]


async def test_a_gateway_that_has_just_begun_has_rewards_sent_again(front, stand_in, plane):
    """It may not have heard of the bandit or the arm: no reward is lost for that."""
    await learning(front, stand_in)
    answer = await front.client.post(V1_PATH, json={})
    front.gateway.restore(Snapshot(3, ()))  # as old as a kept file may be
    told = await rewarded(front, answer, 1)
    assert (told.status_code, told.headers["retry-after"]) == (503, "1")
    message = {"response": {"meta": {"puid": answer.headers["x-request-id"]}}, "reward": 1}
    told = await front.client.post("/api/v1.0/feedback", json=message)
    assert (told.status_code, told.headers["retry-after"]) == (503, "1")
    assert told.json()["status"]["status"] == "FAILURE"
    assert (await front.client.post("/feedback", json={"id": "x", "reward": 1})).status_code == 404
    front.gateway.apply(Snapshot(4, ()))
    assert (await rewarded(front, answer, 1)).status_code == 404


async def test_pulls_are_told_as_sums(front, stand_in, plane):
    await learning(front, stand_in)
    for _ in range(7):
        await front.client.post(V1_PATH, json={})
    front.gateway.bandits._tell()
    await asyncio.sleep(0)
    assert sum(plane.pulls.values()) == 7


async def test_a_client_keeps_its_arm_and_its_answers_are_learned_from(front, stand_in, plane):
    await learning(front, stand_in, sticky=Sticky())
    first = await front.client.post(V1_PATH, json={})
    arm = first.headers["x-penstock-arm"]
    assert first.headers["x-penstock-route"] == arm
    front.client.cookies.clear()
    other = "iris-00002" if arm == "iris-00001" else "iris-00001"
    for _ in range(30):
        answer = await front.client.post(V1_PATH, json={}, headers={"x-penstock-route": other})
        assert answer.headers["x-penstock-arm"] == other
        assert (await rewarded(front, answer, 0.0)).status_code == 200
        front.client.cookies.clear()
    known = front.gateway.table.get("default", "iris").learner.arms
    assert (known[other].pulls, known[other].rewards) == (30, 30)
    # Who is new goes where the bandit says.
    assert (await rewarded(front, first, 1.0)).status_code == 200
    front.client.cookies.clear()
    for _ in range(5):
        answer = await front.client.post(V1_PATH, json={})
        assert answer.headers["x-penstock-arm"] == arm
        assert (await rewarded(front, answer, 1.0)).status_code == 200
        front.client.cookies.clear()


async def test_a_kept_arm_that_is_away_or_gone_is_another_one(front, stand_in, plane):
    a, _ = await learning(front, stand_in, sticky=Sticky())
    await a.stop()
    for route_ in ("iris-00001", "iris-00007", "nonsense"):
        headers = {"x-penstock-route": route_}
        for _ in range(2):
            answer = await front.client.post(V1_PATH, json={}, headers=headers)
            assert answer.headers["x-penstock-arm"] == "iris-00002"
            front.client.cookies.clear()


async def before(
    front: Any, stand_in: Any, answered: Any, *, asleep: bool = False, **fields: Any
) -> Any:
    """A service of two arms with a transformer in a process of its own, which says who answered."""

    async def says(seen: Seen, writer: asyncio.StreamWriter) -> None:
        by = answered(seen.headers.get("x-penstock-prefer", ""))
        more = f"x-penstock-answered-by: {by}\r\n" if by else ""
        writer.write(reply(V2_BODY, extra=more))

    stands = [await stand_in(n) for n in ("a", "b")]
    transformer = await stand_in("t", says)
    targets = tuple(
        Target(f"iris-0000{i}", 50, () if asleep else (s.route,))
        for i, s in enumerate(stands, start=1)
    )
    front.routes(
        route("iris", targets=targets, bandit=UCB, uid="u1", entry="transformer", **fields),
        route(
            "iris",
            targets=(Target("iris-transformer-00001", 100, (transformer.route,)),),
            component="transformer",
        ),
    )
    return transformer


async def test_the_arm_is_chosen_before_the_transformer(front, stand_in, plane):
    transformer = await before(front, stand_in, lambda prefer: prefer)
    for _ in range(60):
        answer = await front.client.post(V2_PATH, json={})
        arm = answer.headers["x-penstock-arm"]
        assert transformer.seen[-1].headers["x-penstock-prefer"] == arm
        assert answer.headers["x-penstock-revision"] == "iris-transformer-00001"
        assert answer.json()["id"] == answer.headers["x-request-id"]
        told = await rewarded(front, answer, 1.0 if arm == "iris-00002" else 0.0)
        assert told.json()["credited"] == [{"namespace": "default", "name": "iris", "arm": arm}]
    arms = front.gateway.table.get("default", "iris").learner.arms
    assert arms["iris-00002"].pulls > 45
    assert arms["iris-00001"].pulls + arms["iris-00002"].pulls == 60


async def test_where_all_arms_sleep_the_transformer_is_told_of_one_of_them(front, stand_in, plane):
    """So it waits for that one, and not for whichever wakes first."""
    transformer = await before(front, stand_in, lambda prefer: prefer, asleep=True)
    answer = await front.client.post(V2_PATH, json={})
    assert answer.headers["x-penstock-arm"] in ("iris-00001", "iris-00002")
    assert transformer.seen[-1].headers["x-penstock-prefer"] == answer.headers["x-penstock-arm"]


async def test_the_arm_that_answered_through_the_transformer_is_rewarded(front, stand_in, plane):
    await before(front, stand_in, lambda prefer: "iris-00002")
    for _ in range(4):
        answer = await front.client.post(V2_PATH, json={})
        assert answer.headers["x-penstock-arm"] == "iris-00002"
        told = (await rewarded(front, answer, 1.0)).json()["credited"]
        assert [c["arm"] for c in told] == ["iris-00002"]


async def test_a_transformer_that_asks_no_arm_has_no_reward(front, stand_in, plane):
    await before(front, stand_in, lambda prefer: "")
    answer = await front.client.post(V2_PATH, json={})
    assert answer.status_code == 200
    assert not {"x-penstock-arm", "x-request-id"} & set(answer.headers)


async def test_clients_keep_their_arm_through_a_transformer(front, stand_in, plane):
    transformer = await before(front, stand_in, lambda prefer: prefer, sticky=Sticky())
    for arm in ("iris-00001", "iris-00002", "iris-00001"):
        front.client.cookies.clear()
        headers = {"x-penstock-route": arm}
        answer = await front.client.post(V2_PATH, json={}, headers=headers)
        assert answer.headers["x-penstock-route"] == arm
        assert answer.headers["x-penstock-arm"] == arm
        assert transformer.seen[-1].headers["x-penstock-prefer"] == arm


async def test_an_explanations_questions_are_divided_by_shares_and_no_pulls(front, stand_in, plane):
    a, b = await learning(front, stand_in)
    for _ in range(10):
        answer = await front.client.post(V1_PATH, json={}, headers={"x-penstock-prefer": "*"})
        assert "x-penstock-arm" not in answer.headers
    assert (len(a.seen), len(b.seen)) == (5, 5)
    assert not any(
        x.pulls for x in front.gateway.table.get("default", "iris").learner.arms.values()
    )


async def test_one_revision_asked_for_through_a_transformer_is_not_the_bandits(
    front, stand_in, plane
):
    transformer = await before(front, stand_in, lambda prefer: prefer)
    headers = {"x-penstock-revision": "iris-00001"}
    answer = await front.client.post(V2_PATH, json={}, headers=headers)
    assert "x-penstock-arm" not in answer.headers
    assert "x-penstock-prefer" not in transformer.seen[-1].headers
    # What the transformer itself asks of the predictor is no pull either: it was one.
    headers = {"x-penstock-prefer": "iris-00002"}
    at = "/serving/default/iris/components/predictor" + V2_PATH
    answer = await front.client.post(at, json={}, headers=headers)
    assert answer.headers["x-penstock-revision"] == "iris-00002"
    assert (
        sum(a.pulls for a in front.gateway.table.get("default", "iris").learner.arms.values()) == 0
    )


async def test_a_late_reward_from_before_other_features_leaves_what_was_learned_since(
    front, stand_in, plane
):
    a, b = await learning(front, stand_in, Bandit(PolicyName.LINUCB, features=2, header="x-user"))
    early = await front.client.post(V1_PATH, json={}, headers={"x-user": "1,0"})
    targets = (Target("iris-00001", 50, (a.route,)), Target("iris-00002", 50, (b.route,)))
    changed = Bandit(PolicyName.LINUCB, features=3, header="x-user")
    front.routes(route("iris", targets=targets, bandit=changed, uid="u1"))
    for _ in range(4):
        answer = await front.client.post(V1_PATH, json={}, headers={"x-user": "1,0,2"})
        assert (await rewarded(front, answer, 1.0)).status_code == 200
    before = {name: list(arm.products) for (_, name), arm in plane.arms.items()}
    assert (await rewarded(front, early, 1.0)).status_code == 200
    arm = early.headers["x-penstock-arm"]
    assert {name: x.products for (_, name), x in plane.arms.items()} == before
    assert plane.arms[next(k for k in plane.arms if k[1] == arm)].rewards == 3


async def test_arms_that_were_are_known_while_there_is_room(front, stand_in, plane):
    """A reward for an arm that is no more for an hour is still somebody's."""
    a = await stand_in("a")
    answers = []
    for number in range(40):
        target = Target(f"iris-{number:05d}", 100, (a.route,))
        front.routes(route("iris", targets=(target,), bandit=UCB, uid="u1"))
        answers.append(await front.client.post(V1_PATH, json={}))
    assert {(await rewarded(front, x, 1.0)).status_code for x in answers} == {200}


async def test_what_is_told_of_many_arms_fits_into_the_control_plane_s_lines(front, stand_in):
    await learning(front, stand_in)
    bandits = front.gateway.bandits
    name = "n" * 63
    pairs = {
        (bandit_key(name, f"{name[:-4]}{i:04d}", "u" * 36, "flow." + name), f"{name}-{i:05d}")
        for i in range(900)
    }
    for key, arm in pairs:
        bandits.pulled(key, arm)
    front.wakes.clear()
    bandits._tell()
    told = [m for m in front.wakes if isinstance(m, Pulls)]
    assert {(key, arm) for m in told for key, arm, _ in m.counts} == pairs
    assert sum(len(m.counts) for m in told) == len(pairs)
    assert max(len(msgspec.json.encode(m)) for m in told) < MAX_LINE
    assert len(told) < 20


async def test_a_service_made_again_under_its_name_begins_afresh(front, stand_in, plane):
    """Without a moment in which there was none."""
    await learning(front, stand_in)
    early = await front.client.post(V1_PATH, json={})
    a, b = await stand_in("a2"), await stand_in("b2")
    targets = (Target("iris-00001", 50, (a.route,)), Target("iris-00002", 50, (b.route,)))
    front.routes(route("iris", targets=targets, bandit=UCB, uid="u2"))
    assert (await rewarded(front, early, 1.0)).status_code == 404
    later = await front.client.post(V1_PATH, json={})
    assert (await rewarded(front, later, 1.0)).status_code == 200
    assert {key for key, _ in plane.arms} == {"default/iris@u2"}
