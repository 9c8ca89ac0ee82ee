"""Feedback's bodies in every shape that clients send, and whose request an id may be said to be."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from gateway_stand_in import reply, route

from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.routes import Target

V2_PATH = "/v2/models/iris/infer"
SELDON_PATH = "/seldon/default/iris/api/v1.0/feedback"


@pytest.fixture
async def iris(front: Any, stand_in: Any, plane: Any) -> Any:
    """A service of two revisions with a bandit, and one without."""

    async def say(seen: Any, writer: Any) -> None:
        writer.write(reply(b'{"model_name":"iris","outputs":[]}'))

    stands = [await stand_in(n, say) for n in ("a", "b", "c")]
    targets = tuple(Target(f"iris-0000{i}", 50, (s.route,)) for i, s in enumerate(stands[:2], 1))
    bandit = Bandit(PolicyName.UCB1, seed=1)
    front.routes(
        route("iris", targets=targets, bandit=bandit, uid="u1"),
        route("roses", targets=targets, bandit=bandit, uid="u2"),
        route("plain", stands[2].route),
    )
    return stands


async def asked(front: Any, path: str = V2_PATH, **headers: str) -> str:
    answer = await front.client.post(path, json={}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: str = answer.headers["x-request-id"]
    return found


def total(plane: Any) -> float:
    return sum(arm.total for arm in plane.arms.values())


@pytest.mark.parametrize(
    "payload",
    [
        {"data": {"ndarray": [[1, 2]]}},
        {"data": {"names": ["a"], "tensor": {"shape": [1, 1], "values": [1]}}},
        {"data": {"tftensor": {"dtype": "DT_INT32"}}},
        {"strData": "text"},
        {"binData": base64.b64encode(b"\x00\xff").decode()},
        {"jsonData": {"any": [1, None]}},
        {"customData": {"@type": "x"}},
        {},
    ],
)
async def test_seldons_feedback_with_any_payload(front, iris, plane, payload):
    """What was asked, answered and true is for the units; a bandit takes the id and the reward."""
    own = await asked(front)
    message = {
        "request": payload,
        "response": {**payload, "meta": {"puid": own, "routing": {}}},
        "truth": payload,
        "reward": 0.5,
    }
    answer = await front.client.post(SELDON_PATH, json=message)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"meta": {"puid": own}}
    assert total(plane) == 0.5


@pytest.mark.parametrize("way", ["form", "multipart", "multipart-fields", "gzip", "curl", "v0.1"])
async def test_seldons_feedback_comes_in_every_way_that_its_messages_do(front, iris, plane, way):
    message = {"response": {"meta": {"puid": await asked(front)}}, "reward": 1}
    text, path, more = json.dumps(message), SELDON_PATH, {}
    if way == "form":
        more = {"data": {"json": text}}
    elif way == "multipart":
        more = {"files": {"json": (None, text)}}
    elif way == "multipart-fields":
        more = {"files": {k: (None, json.dumps(v)) for k, v in message.items()}}
    elif way == "gzip":
        more = {"content": gzip.compress(text.encode()), "headers": {"content-encoding": "gzip"}}
    elif way == "curl":
        form = {"content-type": "application/x-www-form-urlencoded"}
        more = {"content": text.encode(), "headers": form}
    else:
        path, more = path.replace("v1.0", "v0.1"), {"json": message}
    answer = await front.client.post(path, **more)
    assert answer.status_code == 200, (way, answer.text, urlencode(more.get("data", {})))
    assert total(plane) == 1


async def test_our_own_feedback_may_be_compressed(front, iris, plane):
    body = gzip.compress(json.dumps({"id": await asked(front), "reward": 1}).encode())
    answer = await front.client.post(
        "/feedback", content=body, headers={"content-encoding": "gzip"}
    )
    assert answer.status_code == 200, answer.text
    assert total(plane) == 1


@pytest.mark.parametrize(
    "number", ["1" + "0" * 400, "1e999", "-1e999", "NaN", '"1"', "true", "[1]"]
)
@pytest.mark.parametrize("path", [SELDON_PATH, "/feedback"])
async def test_a_reward_that_is_no_number_is_the_clients_mistake(front, iris, plane, number, path):
    own = await asked(front)
    if path == "/feedback":
        body = f'{{"id":"{own}","reward":{number}}}'
    else:
        body = f'{{"response":{{"meta":{{"puid":"{own}"}}}},"reward":{number}}}'
    answer = await front.client.post(path, content=body)
    assert answer.status_code == 400, answer.text
    assert not plane.arms


@pytest.mark.parametrize("model", ["roses", "plain", "nobody", "../iris"])
async def test_an_id_is_credited_to_nobody_but_whom_it_names(front, iris, plane, model):
    own = await asked(front)
    answer = await front.client.post("/feedback", json={"id": own, "reward": 1, "model": model})
    assert answer.status_code == 404, answer.text
    there = {"id": own, "reward": 1, "model": "iris", "namespace": "other"}
    assert (await front.client.post("/feedback", json=there)).status_code == 404
    at_another = await front.client.post("/v2/models/roses/feedback", json={"id": own, "reward": 1})
    assert at_another.status_code == 404
    assert not plane.arms
    right = await front.client.post("/feedback", json={"id": own, "reward": 1, "model": "iris"})
    assert right.status_code == 200
    assert total(plane) == 1


async def test_an_id_of_a_deleted_service_is_unknown_to_the_next_of_its_name(front, iris, plane):
    own = await asked(front)
    targets = (Target("iris-00001", 100, (iris[0].route,)), Target("iris-00002", 0, ()))
    front.routes()
    front.routes(route("iris", targets=targets, bandit=Bandit(PolicyName.UCB1), uid="u9"))
    answer = await front.client.post("/feedback", json={"id": own, "reward": 1})
    assert answer.status_code == 404, answer.text
    assert not plane.arms


async def test_an_id_with_a_character_changed_is_unknown(front, iris, plane):
    own = await asked(front)
    for position in range(3, len(own)):
        forged = own[:position] + ("A" if own[position] != "A" else "B") + own[position + 1 :]
        answer = await front.client.post("/feedback", json={"id": forged, "reward": 1})
        assert answer.status_code == 404, position
    assert not plane.arms


async def test_an_id_that_a_client_chose_is_known_by_its_service_only(front, iris, plane):
    """Two services may have answered requests that their clients call the same."""
    assert await asked(front, **{"x-request-id": "mine"}) == "mine"
    assert await asked(front, "/v2/models/roses/infer", **{"x-request-id": "mine"}) == "mine"
    assert (
        await front.client.post("/feedback", json={"id": "mine", "reward": 1})
    ).status_code == 404
    for model in ("iris", "roses"):
        path = f"/v2/models/{model}/feedback"
        answer = await front.client.post(path, json={"id": "mine", "reward": 1})
        assert answer.json()["credited"][0]["name"] == model
        again = await front.client.post(path, json={"id": "mine", "reward": 1})
        assert again.status_code == 409
    assert total(plane) == 2


@pytest.mark.parametrize("sibling", ["knows", "does not", "hangs", "is gone"])
async def test_another_gateway_is_asked_for_an_id_that_a_client_chose(
    front, iris, plane, tmp_path, sibling
):
    """One that does not answer may be the one that knows: the client is to try again, and not to give up."""
    own = await asked(front)
    hung = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /feedback/known?service=default%2Firis&id=mine")
        if sibling == "hangs":
            await hung.wait()
        known = sibling == "knows"
        status, body = ("200 OK", own.encode()) if known else ("404 No", b"")
        writer.write(reply(body, status=status))
        writer.close()

    path = tmp_path / "g.sock"
    server = await asyncio.start_unix_server(answer, str(path))
    if sibling == "is gone":
        server.close()
    front.gateway.bandits.siblings = lambda: (path,)
    told = await front.client.post("/v2/models/iris/feedback", json={"id": "mine", "reward": 1})
    expected = {"knows": 200, "does not": 404, "hangs": 503, "is gone": 404}
    assert told.status_code == expected[sibling], told.text
    assert ("retry-after" in told.headers) == (sibling == "hangs")
    hung.set()
    server.close()
