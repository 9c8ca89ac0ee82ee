"""Request bodies: gathered or streamed, large, early answered, over limits, with 100-continue."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_peers import GET, Wire, post, wired

from penstock.http.incoming import MAPPED_BYTES, _DirectReader, allocate
from penstock.http.limits import Limits
from penstock.http.server import Exchange

CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
EXPECT = b"expect: 100-continue\r\n"


def digest(exchange: Exchange) -> None:
    assert exchange.body is not None
    exchange.send(200, b"", hashlib.sha256(exchange.body).hexdigest().encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Recorder:
    """A sink that keeps what happens, and answers at the end."""

    def __init__(self, exchange: Exchange, *, answer: bool = True) -> None:
        self.exchange = exchange
        self.answer = answer
        self.data = b""
        self.calls: list[str] = []

    def on_data(self, data: Any) -> None:
        self.data += bytes(data)
        self.calls.append("data")

    def on_end(self) -> None:
        self.calls.append("end")
        if self.answer:
            self.exchange.send(200, b"", hashlib.sha256(self.data).hexdigest().encode())

    def on_abort(self, exc: Exception) -> None:
        self.calls.append("abort")


def stream(exchange: Exchange) -> None:
    exchange.receive(Recorder(exchange))


SIZES = [0, 1, 65_535, 300_000, MAPPED_BYTES - 1, MAPPED_BYTES, 9_000_001]


@pytest.mark.parametrize("mode", ["gathered", "streamed", "gathered from streaming"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_bodies_arrive_whole(serve: Callable[..., Any], mode: str, chunked: bool) -> None:
    """Every size, one after another on one connection, with a small request between."""
    handler = {
        "gathered": digest,
        "streamed": stream,
        "gathered from streaming": lambda e: e.gather(digest),
    }[mode]
    serving = await serve(handler, streaming=mode != "gathered")
    async with await serving.peer() as peer:
        for size in SIZES:
            body = bytes(i * 7 % 251 for i in range(1009)) * (size // 1009 + 1)
            body = body[:size]
            if chunked:
                pieces = [body[i : i + 70_001] for i in range(0, size, 70_001)]
                peer.send(CHUNKED + b"".join(map(chunk, pieces)) + b"0\r\n\r\n" + post(b"next"))
            else:
                peer.send(post(body) + post(b"next"))
            assert (await peer.answer()).body == hashlib.sha256(body).hexdigest().encode()
            assert (await peer.answer()).body == hashlib.sha256(b"next").hexdigest().encode()
    assert serving.server.gathered == 0


async def test_a_large_gathered_body_is_in_memory_once() -> None:
    """Read straight into its buffer: no second copy, not even for a moment."""
    size = 3_000_000
    bodies: list[Any] = []
    wire, _ = wired(lambda e: bodies.append(e.body))
    wire.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
    wire.feed(b"first bytes")
    tracemalloc.start()
    part = b"x" * 1000
    try:
        for _ in range((size - 11) // 1000):
            wire.feed(part)
        wire.feed(part[: (size - 11) % 1000])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(bodies[0]) == size
    assert peak < 200_000


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_loop_reads_a_large_body_into_its_buffer(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """Both loops really change to direct reads, and back for the next request."""
    direct = 0
    updated = _DirectReader.buffer_updated

    def buffer_updated(self: _DirectReader, count: int) -> None:
        nonlocal direct
        direct += count
        updated(self, count)

    monkeypatch.setattr(_DirectReader, "buffer_updated", buffer_updated)
    handler = (lambda e: e.gather(digest)) if streaming else digest
    serving = await serve(handler, streaming=streaming)
    async with await serving.peer() as peer:
        for i in (1, 2):
            peer.send(post(b"x" * 2_000_000))
            await peer.answer()
            peer.send(post(b"small"))
            await peer.answer()
            assert i * 1_500_000 < direct < i * 2_000_000


def test_a_huge_announced_body_costs_no_memory_until_it_comes() -> None:
    """Above a size the buffer is fresh pages of the system."""
    with open("/proc/self/statm") as f:
        before = int(f.read().split()[1])
    buffer = allocate(200 * 1024 * 1024)
    with open("/proc/self/statm") as f:
        after = int(f.read().split()[1])
    assert len(buffer) == 200 * 1024 * 1024
    assert (after - before) * 4096 < 8 * 1024 * 1024


def test_a_client_that_has_sent_little_has_got_little_memory() -> None:
    """Not a huge page for its first bytes."""

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    before = resident()
    buffers = [allocate(8 * 1024 * 1024) for _ in range(50)]
    for buffer in buffers:
        buffer[: 64 * 1024] = bytes(64 * 1024)
    assert (resident() - before) * 4096 < 50 * 256 * 1024


def huge_pages_when_asked_for() -> bool:
    try:
        said = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
    return "[madvise]" in said


@pytest.mark.skipif(not huge_pages_when_asked_for(), reason="the system gives no huge pages")
def test_large_bodies_come_to_few_pages() -> None:
    """A fault for each 4 KiB would take longer than the copying."""
    size = 9_000_001
    buffer = allocate(size)
    assert len(buffer) == size
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for at in range(0, size, 4096):
        buffer[at] = 1
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before < 1_200


async def test_a_body_that_came_with_its_head_is_there_at_once() -> None:
    """In streaming mode too, chunked or not; receive and gather then call back within."""
    calls: list[Any] = []

    def handler(exchange: Exchange) -> None:
        calls.append(exchange.body)
        exchange.gather(lambda e: calls.append(e.body))
        recorder = Recorder(exchange)
        exchange.receive(recorder)
        calls.append(recorder.calls)

    wire, _ = wired(handler, streaming=True)
    wire.feed(post(b"hello"))
    wire.feed(CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
    wire.feed(GET)
    assert calls == [
        b"hello", b"hello", ["data", "end"],
        b"hello", b"hello", ["data", "end"],
        b"", b"", ["end"],
    ]  # fmt: skip


def test_nothing_is_read_while_nobody_wants_the_body() -> None:
    """What came is held, reading stops, and goes on when the body is claimed."""
    seen: list[Exchange] = []
    wire, _ = wired(seen.append, streaming=True)
    wire.feed(post(b"x" * 100)[:-60])
    assert wire.paused
    assert seen[0].body is None
    recorder = Recorder(seen[0])
    seen[0].receive(recorder)
    assert not wire.paused
    assert recorder.data == b"x" * 40
    wire.feed(b"x" * 60 + GET)
    assert recorder.calls[-1] == "end"
    assert len(seen) == 2


def test_a_handler_can_make_the_client_wait_with_its_body() -> None:
    """pause_reading and resume_reading."""
    recorders: list[Recorder] = []

    def handler(exchange: Exchange) -> None:
        recorders.append(Recorder(exchange))
        exchange.receive(recorders[0])

    wire, loop = wired(handler, streaming=True)
    wire.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
    exchange = recorders[0].exchange
    exchange.pause_reading()
    assert wire.paused
    wire.feed(b"0123456789")
    assert recorders[0].data == b""
    exchange.resume_reading()
    loop.run()
    assert recorders[0].data == b"0123456789"
    assert recorders[0].calls[-1] == "end"


def test_a_body_has_one_receiver() -> None:
    """A second one is the handler's mistake."""
    seen: list[Exchange] = []
    wire, _ = wired(seen.append, streaming=True)
    wire.feed(post(b"hello")[:-2])
    seen[0].gather(lambda e: None)
    with pytest.raises(RuntimeError):
        seen[0].gather(lambda e: None)
    with pytest.raises(RuntimeError):
        seen[0].receive(Recorder(seen[0]))


# -- 100-continue ---------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_client_is_told_to_continue_when_its_body_is_wanted(
    serve: Callable[..., Any], streaming: bool, chunked: bool
) -> None:
    """Once, before the body."""
    serving = await serve(
        (lambda e: e.gather(digest)) if streaming else digest, streaming=streaming
    )
    async with await serving.peer() as peer:
        for _ in range(2):
            if chunked:
                peer.send(CHUNKED[:-2] + EXPECT + b"\r\n")
            else:
                peer.send(post(b"hello", extra=EXPECT)[:-5])
            assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            peer.send(chunk(b"hello") + b"0\r\n\r\n" if chunked else b"hello")
            assert (await peer.answer()).body == hashlib.sha256(b"hello").hexdigest().encode()


async def test_a_client_that_does_not_wait_is_not_told(serve: Callable[..., Any]) -> None:
    """Its body is there already."""
    serving = await serve(digest)
    async with await serving.peer() as peer:
        peer.send(post(b"hello", extra=EXPECT))
        assert (await peer.answer()).interim == []


async def test_an_early_answer_instead_of_continue_closes(serve: Callable[..., Any]) -> None:
    """Whether the client now sends its body nobody can know, so the connection cannot be used again."""
    serving = await serve(lambda e: e.send(404, b"", b"no"), streaming=True)
    async with await serving.peer() as peer:
        peer.send(post(b"hello", extra=EXPECT)[:-5])
        answer = await peer.answer()
        assert (answer.status, answer.interim) == (404, [])
        assert answer.headers[b"connection"] == b"close"
        assert await peer.rest() == b""


async def test_http_1_0_has_no_continue(serve: Callable[..., Any]) -> None:
    """RFC 9110, 10.1.1."""
    serving = await serve(digest)
    async with await serving.peer() as peer:
        request = post(b"hello", extra=EXPECT).replace(b"HTTP/1.1", b"HTTP/1.0")
        peer.send(request[:-5])
        peer.send(request[-5:])
        assert (await peer.answer()).interim == []


async def test_curl_with_expect(serve: Callable[..., Any]) -> None:
    """curl asks by itself for bodies over 1 MiB, and waits a second when it hears nothing."""
    serving = await serve(lambda e: e.gather(digest), streaming=True)
    path = serving.tmp_path / "body"
    path.write_bytes(b"x" * 2_000_000)
    url = f"http://127.0.0.1:{serving.address.port}/"
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-w", " %{http_code}", "-H", "Expect: 100-continue",
        "--expect100-timeout", "60", "-m", "30", "--data-binary", f"@{path}", url, url,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    expected = hashlib.sha256(b"x" * 2_000_000).hexdigest().encode() + b" 200"
    assert out == expected * 2


# -- early answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", ["no", "receive", "gather"])
async def test_a_short_rest_of_a_body_is_read_and_dropped(
    serve: Callable[..., Any], claim: str
) -> None:
    """So an early answer does not cost the connection; the receiver hears nothing more."""
    recorders: list[Recorder] = []

    def handler(exchange: Exchange) -> None:
        if exchange.head.path == "/next":
            exchange.send(200, b"", b"next")
            return
        recorders.append(Recorder(exchange))
        if claim == "receive":
            exchange.receive(recorders[0])
        elif claim == "gather":
            exchange.gather(lambda e: recorders[0].on_end())
        exchange.send(404, b"", b"no")

    serving = await serve(handler, streaming=True)
    async with await serving.peer() as peer:
        peer.send(post(b"x" * 50_000)[:-10_000])
        assert (await peer.answer()).status == 404
        peer.send(b"x" * 10_000 + GET.replace(b"/ ", b"/next "))
        assert (await peer.answer()).body == b"next"
    assert set(recorders[0].calls) <= {"data"}


async def test_a_long_rest_of_a_body_is_not_read(serve: Callable[..., Any]) -> None:
    """The answer says close, and reaches a client that goes on sending for a while."""
    serving = await serve(
        lambda e: e.send(404, b"", b"no"), streaming=True, limits=Limits(linger_s=0.2)
    )
    async with await serving.peer() as peer:
        peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(50):
            peer.send(b"x" * 20_000)
            await asyncio.sleep(0)
        answer = await peer.answer()
        assert answer.status == 404
        assert answer.headers[b"connection"] == b"close"


async def test_an_answer_may_begin_before_the_body_is_here(serve: Callable[..., Any]) -> None:
    """Both directions stream at once, and the connection stays usable."""

    class Echo(Recorder):
        def on_data(self, data: Any) -> None:
            self.exchange.write(bytes(data))

        def on_end(self) -> None:
            self.exchange.end()

    def handler(exchange: Exchange) -> None:
        exchange.start(200, b"")
        exchange.receive(Echo(exchange))

    serving = await serve(handler, streaming=True)
    async with await serving.peer() as peer:
        for _ in range(2):
            peer.send(CHUNKED)
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            for word in (b"one", b"two"):
                peer.send(chunk(word))
                assert await peer.reader.readexactly(len(chunk(word))) == chunk(word)
            peer.send(b"0\r\n\r\n")
            assert await peer.reader.readexactly(5) == b"0\r\n\r\n"


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_body_over_the_limit_is_refused_unread(
    serve: Callable[..., Any], streaming: bool
) -> None:
    """By its announced length, before a byte of it; the handler does not hear of it."""
    seen: list[Exchange] = []
    serving = await serve(seen.append, streaming=streaming, limits=Limits(max_body=1000))
    for request in (post(b"x" * 1001), post(b"x" * 1001, extra=EXPECT)[:-1001]):
        async with await serving.peer() as peer:
            peer.send(request)
            answer = await peer.answer()
            assert answer.status == 413
            assert answer.interim == []
            assert b"1000" in answer.body
            assert await peer.rest() == b""
    assert seen == []


async def test_a_chunked_body_is_refused_when_it_goes_over(serve: Callable[..., Any]) -> None:
    """At the chunk that would exceed the limit."""
    seen: list[Exchange] = []
    serving = await serve(seen.append, limits=Limits(max_body=1000))
    async with await serving.peer() as peer:
        peer.send(CHUNKED + chunk(b"x" * 600) + b"191\r\n")
        assert (await peer.answer()).status == 413
    assert seen == []


def test_the_limit_itself_is_allowed() -> None:
    """Off by none."""
    wire, _ = wired(digest, limits=Limits(max_body=1000))
    wire.feed(post(b"x" * 1000))
    wire.feed(CHUNKED + chunk(b"x" * 600) + chunk(b"x" * 400) + b"0\r\n\r\n")
    assert wire.sent.count(b"HTTP/1.1 200 OK") == 2


def test_bodies_on_their_way_in_are_bounded_together() -> None:
    """Many clients that announce much cannot make the server set aside without end."""
    limits = Limits(max_gathered=100_000)
    wire, _ = wired(digest, limits=limits)
    server = wire.get_protocol().server
    from penstock.http.connection import Connection

    def another() -> Wire:
        return Wire(Connection(server), server.loop)

    announce = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n"
    wire.feed(announce)
    second = another()
    second.feed(announce)
    assert second.sent.startswith(b"HTTP/1.1 503 ")
    third = another()
    third.feed(CHUNKED)
    third.feed(chunk(b"x" * 41_000))
    assert third.sent.startswith(b"HTTP/1.1 503 ")
    # Given back when the body is here, or its client has gone.
    wire.feed(b"x" * 60_000)
    assert wire.sent.startswith(b"HTTP/1.1 200 ")
    assert server.gathered == 0
    fourth = another()
    fourth.feed(announce)
    assert server.gathered == 60_000
    fourth.hang_up()
    assert server.gathered == 0


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_truncated_body_is_answered_and_aborted(
    serve: Callable[..., Any], streaming: bool
) -> None:
    """A client that stops sending in the middle gets a 400; the handler's receiver hears of it."""
    recorders: list[Recorder] = []

    def handler(exchange: Exchange) -> None:
        recorders.append(Recorder(exchange))
        exchange.receive(recorders[-1])

    serving = await serve(handler, streaming=streaming)
    for request in (post(b"x" * 100_000)[:-1], CHUNKED + b"5\r\nhel"):
        async with await serving.peer() as peer:
            peer.send(request)
            peer.writer.write_eof()
            assert (await peer.answer()).status == 400
            assert await peer.rest() == b""
    assert [r.calls[-1] for r in recorders] == (["abort", "abort"] if streaming else [])


async def test_a_client_that_vanishes_with_its_body_leaves_nothing_behind(
    serve: Callable[..., Any],
) -> None:
    """Reset in the middle of a direct read."""
    aborted: asyncio.Queue[str] = asyncio.Queue()

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = lambda: aborted.put_nowait("gone")
        exchange.gather(lambda e: aborted.put_nowait("gathered"))

    serving = await serve(handler, streaming=True)
    peer = await serving.peer()
    peer.send(post(b"x" * 1_000_000)[:-500_000])
    await peer.writer.drain()
    peer.writer.transport.abort()
    assert await asyncio.wait_for(aborted.get(), 30) == "gone"
    while serving.server.connections:
        await asyncio.sleep(0)
    assert serving.server.gathered == 0


def test_answering_while_the_body_is_read_directly() -> None:
    """A deadline passes while a large body is on its way: the connection survives if little is missing."""
    seen: list[Exchange] = []

    def handler(exchange: Exchange) -> None:
        seen.append(exchange)
        exchange.gather(lambda e: e.send(200, b""))

    for missing, survives in ((1000, True), (100_000, False)):
        wire, loop = wired(handler, streaming=True)
        body = b"x" * 300_000
        wire.feed(post(body)[:-200_000])
        wire.feed(body[: 200_000 - missing])
        seen[-1].send(504, b"")
        assert (b"connection: close" in wire.sent) != survives
        wire.feed(b"x" * missing)
        wire.feed(GET)
        loop.run()
        assert (wire.sent.count(b"HTTP/1.1 ") == 2) == survives
        assert wire.eof != survives


def test_a_receiver_that_raises_is_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    """The fault is the handler's; the log has it."""

    class Bad(Recorder):
        def on_data(self, data: Any) -> None:
            raise KeyError("oh")

    wire, _ = wired(lambda e: e.receive(Bad(e)), streaming=True)
    wire.feed(post(b"x" * 100)[:-60])
    assert wire.sent.startswith(b"HTTP/1.1 500 ")
    wire.feed(b"x" * 60)
    wire.feed(post(b"x" * 100)[:-100])
    wire.feed(b"x" * 100)
    assert wire.sent.count(b"HTTP/1.1 500 ") == 2
    assert "KeyError" in caplog.text
