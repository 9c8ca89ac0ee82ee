"""What reaches a replica, what comes back, and what happens when either end misbehaves."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from gateway_stand_in import reply, route, say_ok

from penstock.domain.routes import Snapshot, Target
from penstock.gateway import replicas


async def test_a_request_reaches_the_replica_with_its_fields_and_body(front, stand_in):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.post(
        "/v2/models/iris/infer?x=1",
        json={"a": 1},
        headers={"x-mine": "yes", "connection": "x-drop", "x-drop": "1"},
    )
    assert answer.status_code == 200
    assert answer.json() == {"ok": True}
    assert answer.headers["x-penstock-revision"] == "iris-00001"
    (seen,) = a.seen
    assert seen.line == "POST /v2/models/iris/infer?x=1 HTTP/1.1"
    assert seen.headers["x-mine"] == "yes"
    assert "x-drop" not in seen.headers
    assert seen.headers["host"] == "iris.default"
    assert seen.body == b'{"a":1}'


@pytest.mark.parametrize(
    ("path", "host", "upstream"),
    [
        ("/v1/models/iris:predict", None, "/v1/models/iris:predict"),
        ("/v1/models/iris", None, "/v1/models/iris"),
        ("/v2/models/iris", None, "/v2/models/iris"),
        ("/v2/models/iris/versions/1/infer", None, "/v2/models/iris/versions/1/infer"),
        ("/serving/default/iris/v2/models/iris/infer", None, "/v2/models/iris/infer"),
        ("/serving/default/iris", None, "/"),
        ("/v2/health/ready", "iris.default.example.com", "/v2/health/ready"),
        ("/v2", "iris-default.example.com", "/v2"),
        ("/v2", "IRIS.default.example.com:8080", "/v2"),
    ],
)
async def test_every_address_of_a_service_is_equivalent(front, stand_in, path, host, upstream):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.get(path, headers={"host": host} if host else {})
    assert answer.status_code == 200
    assert a.seen[0].line == f"GET {upstream} HTTP/1.1"


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v1/models/nope:predict", 404, "Model with name nope does not exist"),
        ("POST", "/v2/models/nope/infer", 404, "Model with name nope does not exist"),
        (
            "POST",
            "/serving/other/iris/v2/models/iris/infer",
            404,
            "no service iris in namespace other",
        ),
        ("GET", "/serving/default", 404, "No such path"),
        ("GET", "/nothing/here", 404, "No such path"),
        ("GET", "/metrics", 404, "the control API's port"),
        ("POST", "/invocations", 404, "/serving/NAMESPACE/NAME/invocations"),
        ("DELETE", "/v2/health/live", 405, "DELETE is not possible"),
        ("POST", "/v2/repository/models/iris/unload", 409, "keeps at least one replica"),
        ("GET", "/v2/repository/models/iris/load", 405, "GET is not possible"),
        ("POST", "/v2/repository/models/nope/load", 404, "Model with name nope does not exist"),
        ("POST", "/v2/repository/models/nope/unload", 404, "Model with name nope does not exist"),
    ],
)
async def test_a_wrong_address_is_answered_with_what_is_right(
    front, stand_in, method, path, status, says
):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.request(method, path)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert not a.seen


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/models/late:predict", {}),
        ("/v2/models/late/infer", {}),
        ("/v2/models/late/feedback", {}),
        ("/v2/repository/models/late/load", {}),
        ("/serving/default/late/v2/models/late/infer", {}),
        ("/seldon/default/late/api/v1.0/predictions", {}),
        ("/v2/models/x/infer", {"seldon-model": "late"}),
    ],
)
async def test_what_a_kept_table_does_not_have_may_be_there(front, stand_in, path, headers):
    """A gateway began while the control plane was away: its file may be older than the service."""
    a = await stand_in()
    front.gateway.restore(Snapshot(1, (route("iris", a.route),)))
    assert (await front.client.post("/v2/models/iris/infer", json={})).status_code == 200
    answer = await front.client.post(path, headers=headers, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "has not heard from the control plane" in answer.json()["error"]
    assert (await front.client.post("/no/such", json={})).status_code == 404
    front.routes(route("iris", a.route))
    assert (await front.client.post(path, headers=headers, json={})).status_code == 404


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/serving/default/iris@iris-00002/v2/models/iris/infer", {}),
        ("/v2/models/iris/infer", {"x-penstock-revision": "iris-00002"}),
        ("/v2/models/iris/infer", {"x-penstock-revision": "previous"}),
    ],
)
async def test_a_revision_that_a_kept_table_does_not_have_may_be_there(
    front, stand_in, path, headers
):
    a = await stand_in()
    front.gateway.restore(Snapshot(1, (route("iris", a.route),)))
    answer = await front.client.post(path, headers=headers, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "has not heard from the control plane" in answer.json()["error"]
    query = {"models": ["iris@iris-00002"], "instances": [[1]]}
    (result,) = (await front.client.post("/v2/query", json=query)).json()["results"]
    assert result["status"] == 503
    # What the control plane says changes nothing of the service, and yet it counts.
    front.routes(route("iris", a.route))
    answer = await front.client.post(path, headers=headers, json={})
    assert answer.status_code == 404
    assert "has no revision" in answer.json()["error"]


@pytest.mark.parametrize("value", ["-1", "0", "1.5", "soon", "99999999999"])
async def test_a_deadline_that_is_no_number_is_refused(front, stand_in, value):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.get("/v2/models/iris", headers={"x-request-timeout-ms": value})
    assert answer.status_code == 400
    assert "x-request-timeout-ms" in answer.json()["error"]


async def test_own_answers_tell_what_is_served(front, stand_in):
    a = await stand_in()
    front.routes(route("iris", a.route), route("asleep"))
    get = front.client.get
    assert (await get("/v1/models")).json() == {"models": ["asleep", "iris"]}
    assert (await get("/v2/health/live")).json() == {"live": True}
    assert (await get("/v2/health/ready")).json() == {"ready": True}
    index = (await front.client.post("/v2/repository/index")).json()
    assert [(m["name"], m["state"]) for m in index] == [
        ("asleep", "UNAVAILABLE"),
        ("iris", "READY"),
    ]


async def test_ready_is_false_before_the_first_table(front):
    answer = await front.client.get("/v2/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False}


async def test_large_bodies_stream_both_ways(front, stand_in):
    async def echo(seen, writer):
        writer.write(reply(seen.body))

    a = await stand_in(answer=echo)
    front.routes(route("iris", a.route))
    body = bytes(range(256)) * 20_000
    answer = await front.client.post("/v2/models/iris/infer", content=body)
    assert answer.content == body


async def test_chunked_bodies_pass_in_both_directions(front, stand_in):
    async def echo(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for i in range(0, len(seen.body), 1000):
            part = seen.body[i : i + 1000]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    a = await stand_in(answer=echo)
    front.routes(route("iris", a.route))

    async def parts():
        for i in range(50):
            yield b"%03d" % i * 111

    answer = await front.client.post("/v2/models/iris/infer", content=parts())
    assert answer.content == b"".join(b"%03d" % i * 111 for i in range(50))
    assert a.seen[0].headers["transfer-encoding"] == "chunked"


async def test_a_replica_that_breaks_off_before_its_answer_is_a_502_and_not_tried_again(
    front, stand_in
):
    async def die(seen, writer):
        writer.transport.abort()

    a = await stand_in("a", die)
    b = await stand_in("b", die)
    front.routes(route("iris", a.route, b.route))
    answer = await front.client.post("/v2/models/iris/infer", content=b"x")
    assert answer.status_code == 502
    assert "ended the connection" in answer.json()["error"]
    assert len(a.seen) + len(b.seen) == 1


@pytest.mark.parametrize("began", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
async def test_after_a_lost_request_the_next_one_waits_for_the_process_that_comes_instead(
    front, stand_in, began
):
    """It may listen already and still load: its 503 is none of the client's business."""
    a = await stand_in("a")

    async def loading(seen, writer):
        writer.write(reply(b'{"error":"loading"}', status="503 Service Unavailable"))

    async def die(seen, writer):
        a.ready = False
        a.answer = loading
        writer.write(began)
        await writer.drain()
        writer.transport.abort()

    a.answer = die
    front.routes(route("iris", a.route))
    if began:
        with pytest.raises(httpx.RemoteProtocolError):
            await front.client.post("/v2/models/iris/infer", content=b"x")
    else:
        assert (await front.client.post("/v2/models/iris/infer", content=b"x")).status_code == 502
    second = asyncio.create_task(front.client.post("/v2/models/iris/infer", content=b"x"))
    while a.asked_ready < 3 and not second.done():
        await asyncio.sleep(0)
    assert not second.done()
    assert len(a.seen) == 1
    a.answer = say_ok
    a.ready = True
    assert (await second).status_code == 200
    assert len(a.seen) == 2


async def test_a_replica_that_breaks_off_inside_its_answer_breaks_the_clients_connection(
    front, stand_in
):
    async def half(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhalf")
        await writer.drain()
        writer.transport.abort()

    a = await stand_in(answer=half)
    front.routes(route("iris", a.route))
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"GET /v2/models/iris HTTP/1.1\r\nhost: x\r\n\r\n")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1_000_000), 30)
    writer.close()


async def test_nonsense_from_a_replica_is_a_502(front, stand_in):
    async def nonsense(seen, writer):
        writer.write(b"HELLO\r\n\r\n")

    a = await stand_in(answer=nonsense)
    front.routes(route("iris", a.route))
    assert (await front.client.get("/v2/models/iris")).status_code == 502


async def test_a_replica_that_cannot_be_reached_is_passed_over(front, stand_in):
    gone = await stand_in("gone", start=False)
    a = await stand_in("a")
    front.routes(route("iris", gone.route, a.route))
    for _ in range(5):
        assert (await front.client.post("/v2/models/iris/infer", content=b"x")).status_code == 200
    assert len(a.seen) == 5


async def gone_while_asked(front, stand_in):
    """A replica that answered once and has stopped, and a request that waits for it."""
    a = await stand_in()
    front.routes(route("iris", a.route))
    assert (await front.client.get("/v2/models/iris")).status_code == 200
    await a.stop()
    waiting = asyncio.create_task(front.client.get("/v2/models/iris"))
    while not front.gateway.table.get("default", "iris").waiting:
        await asyncio.sleep(0)
    return a, waiting


async def test_a_replica_that_comes_back_answers_what_waited(front, stand_in):
    a, waiting = await gone_while_asked(front, stand_in)
    await a.start()
    assert (await waiting).status_code == 200


async def test_a_replica_that_comes_back_is_left_alone_while_it_loads(front, stand_in):
    """It takes connections before it has its model, and nobody else may be there to tell."""
    a, waiting = await gone_while_asked(front, stand_in)
    a.ready = False
    await a.start()
    while a.asked_ready < 3:
        await asyncio.sleep(0)
    assert not waiting.done()
    assert len(a.seen) == 1
    a.ready = True
    assert (await waiting).status_code == 200


async def test_a_replica_that_is_never_ready_is_taken_as_it_is_after_a_while(
    front, stand_in, monkeypatch
):
    """One of its many models cannot be loaded; the others answer."""
    monkeypatch.setattr(replicas, "LOADING_S", 0.2)
    a = await stand_in(start=False)
    a.ready = False
    front.routes(route("iris", a.route))
    waiting = asyncio.create_task(front.client.get("/v2/models/iris"))
    while not front.gateway.table.get("default", "iris").waiting:
        await asyncio.sleep(0)
    await a.start()
    assert (await waiting).status_code == 200
    assert a.asked_ready > 1


async def test_a_client_that_hangs_up_cancels_its_request(front, stand_in):
    gone = asyncio.Event()

    async def slow(seen, writer):
        await writer.wait_closed()
        gone.set()

    async def watch(seen, writer):
        try:
            while True:
                writer.write(b"")
                if writer.transport.is_closing():
                    break
                await asyncio.sleep(0.005)
        finally:
            gone.set()

    a = await stand_in(answer=watch)
    front.routes(route("iris", a.route))
    _reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"GET /v2/models/iris HTTP/1.1\r\nhost: x\r\n\r\n")
    await a.until_seen(1)
    writer.transport.abort()
    while front.gateway.active:
        await asyncio.sleep(0.001)
    assert front.counted() == {("iris", "iris-00001", "v2", "canceled"): 1}


async def test_a_request_over_its_deadline_is_a_504(front, stand_in):
    never = asyncio.Event()

    async def hang(seen, writer):
        await never.wait()

    a = await stand_in(answer=hang)
    front.routes(route("iris", a.route))
    answer = await front.client.get("/v2/models/iris", headers={"x-request-timeout-ms": "50"})
    assert answer.status_code == 504
    assert "did not answer within 0.05 s" in answer.json()["error"]
    assert "raises the limit" not in answer.json()["error"]
    front.routes(route("iris", a.route, timeout_s=0.06))
    answer = await front.client.get("/v2/models/iris")
    assert "spec.predictor.timeout raises the limit" in answer.json()["error"]
    front.routes(route("iris", a.route))
    a.answer = (await stand_in("other")).answer
    assert (await front.client.get("/v2/models/iris")).status_code == 200


async def test_requests_go_to_the_replica_with_the_fewest_outstanding(front, stand_in):
    release = asyncio.Event()

    async def hold(seen, writer):
        await release.wait()
        writer.write(reply())

    a, b = await stand_in("a", hold), await stand_in("b", hold)
    front.routes(route("iris", a.route, b.route))
    tasks = [asyncio.create_task(front.client.get("/v2/models/iris")) for _ in range(6)]
    await a.until_seen(3)
    await b.until_seen(3)
    release.set()
    assert {(await t).status_code for t in tasks} == {200}


async def test_shares_of_traffic_are_exact_over_every_hundred(front, stand_in):
    a, b = await stand_in("a"), await stand_in("b")
    front.routes(
        route(
            "iris",
            targets=(
                Target(revision="old", weight=90, replicas=(a.route,)),
                Target(revision="new", weight=10, replicas=(b.route,)),
            ),
        )
    )
    for _ in range(100):
        assert (await front.client.get("/v2/models/iris")).status_code == 200
    assert (len(a.seen), len(b.seen)) == (90, 10)


async def test_head_answers_have_no_body_and_keep_the_connection_in_step(front, stand_in):
    async def head_or_body(seen, writer):
        body = b'{"ok":true}'
        writer.write(reply(body) if seen.line.startswith("GET") else reply(body)[: -len(body)])

    a = await stand_in(answer=head_or_body)
    front.routes(route("iris", a.route))
    for method in ("HEAD", "GET", "HEAD", "GET"):
        answer = await front.client.request(method, "/v2/models/iris")
        assert answer.status_code == 200
        assert answer.content == (b"" if method == "HEAD" else b'{"ok":true}')
    assert a.connections == 1
