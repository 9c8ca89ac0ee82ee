"""Metrics of many processes as one text, read over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from control_fakes import FakeClock

from penstock.control.metrics import MetricsCollector, went_back
from penstock.control.metrics import Process as Source
from penstock.control.reading import Result, read_snapshots
from penstock.observe.metrics import START_TIME, Registry


class Process:
    """Something that answers GET /metrics.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = Registry()
        self.requests = self.registry.counter("penstock_x", "X.", ("namespace", "service"))
        self.gauge = self.registry.gauge("penstock_g", "G.")
        self.hist = self.registry.histogram("penstock_h", "H.", bounds=(1.0, 2.0))
        self.readings = 0
        self.hang = False
        self.status = 200
        self.server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    async def start(self) -> Process:
        self.server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.readings += 1
        try:
            if self.hang:
                await asyncio.Event().wait()
            body = msgspec.json.encode(self.registry.snapshot())
            writer.write(
                b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (self.status, len(body), body)
            )
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def stop(self) -> None:
        if self.server is not None:
            self.server.close()


Make = Callable[[str], Awaitable[Process]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Process] = []

    async def one(name: str) -> Process:
        made.append(await Process(tmp_path / f"{name}.sock").start())
        return made[-1]

    yield one
    for p in made:
        p.stop()


def samples(text: bytes, name: str) -> dict[str, float]:
    found = {}
    for line in text.decode().splitlines():
        if line.startswith(name):
            key, _, value = line.rpartition(" ")
            found[key] = float(value)
    return found


async def test_counters_of_all_processes_are_added_and_survive_their_ends(make: Make) -> None:
    a, b = await make("a"), await make("b")
    live = {"a": Source(a.address), "b": Source(b.address)}
    clock = FakeClock()
    collector = MetricsCollector(lambda: live, Registry(), clock=clock)
    a.requests.labels("default", "iris").inc(3)
    b.requests.labels("default", "iris").inc(4)
    a.gauge.labels().set(1)
    b.gauge.labels().set(1)
    b.hist.labels().observe(1.5)
    text = await collector.text()
    assert samples(text, "penstock_x_total") == {
        'penstock_x_total{namespace="default",service="iris"}': 7
    }
    assert samples(text, "penstock_g") == {"penstock_g": 2}
    del live["b"]
    await clock.advance(2)
    text = await collector.text()
    assert samples(text, "penstock_x_total") == {
        'penstock_x_total{namespace="default",service="iris"}': 7
    }
    assert samples(text, "penstock_g") == {"penstock_g": 1}
    assert samples(text, 'penstock_h_bucket{le="2.0"}') == {'penstock_h_bucket{le="2.0"}': 1}
    collector.forget("default", "iris")
    text = await collector.text()
    assert samples(text, "penstock_x_total") == {
        'penstock_x_total{namespace="default",service="iris"}': 3
    }


async def test_a_process_that_starts_anew_at_its_address_takes_nothing_back(make: Make) -> None:
    a = await make("a")
    clock = FakeClock()
    collector = MetricsCollector(lambda: {"a": Source(a.address)}, Registry(), clock=clock)
    counter = a.requests.labels("default", "iris")
    counter.inc(10)
    await collector.text()
    counter.value = 2  # another process
    await clock.advance(2)
    (value,) = samples(await collector.text(), "penstock_x_total").values()
    assert value == 12


async def test_a_gateway_that_forgets_a_graph_is_the_same_gateway(make: Make) -> None:
    """Deleted and applied again between two readings, the graph counts from nothing; nothing else does."""
    a = await make("a")
    started = a.registry.gauge(START_TIME, "When.", ("pid",))
    started.labels("1").set(1.0)
    clock = FakeClock()
    collector = MetricsCollector(lambda: {"a": Source(a.address)}, Registry(), clock=clock)
    a.requests.labels("default", "other").inc(100)
    a.requests.labels("default", "graph").inc(10)

    async def counted() -> list[float]:
        await clock.advance(2)
        return sorted(samples(await collector.text(), "penstock_x_total").values())

    assert await counted() == [10, 100]
    a.requests.remove("default", "graph")
    a.requests.labels("default", "graph").inc(3)
    assert await counted() == [3, 100]
    started.remove("1")
    started.labels("2").set(2.0)
    a.requests.labels("default", "graph").value = 50
    a.requests.labels("default", "other").value = 0
    assert await counted() == [53, 100]  # another one, whose counters are not all lower


async def test_scrapes_within_a_second_are_one_reading_and_scrapers_share_it(make: Make) -> None:
    a = await make("a")
    clock = FakeClock()
    collector = MetricsCollector(lambda: {"a": Source(a.address)}, Registry(), clock=clock)
    await asyncio.gather(*(collector.text() for _ in range(5)))
    await collector.text()
    assert a.readings == 1
    await clock.advance(1.1)
    await collector.text()
    assert a.readings == 2


async def test_a_process_that_hangs_or_fails_costs_only_its_own_numbers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.control.metrics.DEADLINE_S", 0.1)
    good, bad, hung = await make("good"), await make("bad"), await make("hung")
    for p in (good, bad, hung):
        p.requests.labels("default", p.path.stem).inc()
    bad.status = 500
    hung.hang = True
    live = {p.path.stem: Source(p.address) for p in (good, bad, hung)}
    live["gone"] = Source("unix:/nowhere")
    collector = MetricsCollector(lambda: live, Registry(), clock=FakeClock())
    async with asyncio.timeout(30):
        text = await collector.text()
    assert samples(text, "penstock_x_total") == {
        'penstock_x_total{namespace="default",service="good"}': 1
    }
    assert samples(text, "penstock_metrics_unread_total") == {"penstock_metrics_unread_total": 3}


async def read(address: str) -> object:
    (result,) = await asyncio.to_thread(read_snapshots, [address], deadline_s=5.0)
    if isinstance(result, Exception):
        raise result
    return result


async def test_reading_says_what_is_wrong(make: Make) -> None:
    with pytest.raises(OSError, match="nowhere"):
        await read("unix:/nowhere")
    p = await make("p")
    p.status = 404
    with pytest.raises(OSError, match="404"):
        await read(p.address)
    with pytest.raises(ValueError, match="no address"):
        await read("nonsense")


async def test_many_are_read_at_once_and_each_has_its_own_result(make: Make) -> None:
    """One that hangs costs the deadline once, whatever the number; TCP is read like a Unix socket."""
    processes = [await make(str(i)) for i in range(20)]
    for i, p in enumerate(processes):
        p.requests.labels("ns", "s").inc(i)
    processes[3].hang = processes[4].hang = True
    server = await asyncio.start_server(processes[5]._serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    addresses = [*(p.address for p in processes), f"tcp:127.0.0.1:{port}", "tcp:127.0.0.1:1"]
    results = await asyncio.to_thread(read_snapshots, addresses, deadline_s=1.0)
    server.close()
    for i, result in enumerate(results[:20]):
        if i in (3, 4):
            assert isinstance(result, TimeoutError)
        else:
            assert isinstance(result, dict)
            assert result["penstock_x"]["samples"] == [[["ns", "s"], i]]
    assert results[20] == results[5]
    assert isinstance(results[21], OSError)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", OSError, "broke off"),
        (b"HTTP/1.1 200 OK\r\nConte", OSError, "broke off"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", ValueError, "how long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", ValueError, "99999999 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, ValueError, "without an end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]", ValueError, "malformed"),
    ],
)
async def test_an_answer_that_is_none_costs_that_process_only(
    tmp_path: Path, answer: bytes, error: type[Exception], says: str
) -> None:
    """Broken off, without an end, or too long: an error that the collector counts, and no waiting."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "s"), asyncio.timeout(30):
        with pytest.raises(error, match=says):
            await read(f"unix:{tmp_path}/s")


def test_a_counter_that_is_lower_or_gone_shows_another_process() -> None:
    r = Registry()
    c = r.counter("a", "A.", ("x",))
    h = r.histogram("h", "H.", bounds=(1.0,))
    g = r.gauge("g", "G.")
    c.labels("1").inc(5)
    h.labels().observe(0.5)
    g.labels().set(9)
    old = r.snapshot()
    assert not went_back(old, old)
    g.labels().set(0)
    assert not went_back(old, r.snapshot())
    c.remove("1")
    assert not went_back(old, r.snapshot())  # a child that was forgotten, e.g. of a deleted service
    assert went_back(old, Registry().snapshot())
    h.labels().counts = [0, 0]
    assert went_back(old, r.snapshot())


class Platform:
    """A gateway and model processes, as a collector sees them."""

    def __init__(self, services: int) -> None:
        self.gateway = Registry()
        self.counter = self.gateway.counter("gateway", "G.", ("namespace", "service"))
        self.models = {f"s{i}#0": Registry() for i in range(services)}
        self.counters = {
            p: r.counter("model", "M.", ("namespace", "service")) for p, r in self.models.items()
        }
        self.busy: set[tuple[str, str]] = set()
        self.read: list[str] = []
        self.broken: set[str] = set()
        self.clock = FakeClock()
        self.collector = MetricsCollector(
            lambda: {
                "gateway": Source("gateway"),
                **{p: Source(p, ("ns", p.partition("#")[0])) for p in self.models},
            },
            Registry(),
            clock=self.clock,
            busy=lambda key: key in self.busy,
            read=self._read,
        )

    async def _read(self, addresses: Sequence[str]) -> list[Result]:
        self.read += addresses
        registries = {**self.models, "gateway": self.gateway}
        return [
            OSError("broken")
            if a in self.broken
            else msgspec.json.decode(msgspec.json.encode(registries[a].snapshot()))
            for a in addresses
        ]

    def request(self, process: str) -> None:
        self.counter.labels("ns", process.partition("#")[0]).inc()
        self.counters[process].labels("ns", process.partition("#")[0]).inc()

    async def scrape(self, after_s: float = 2.0) -> list[str]:
        """The model processes that were read for it."""
        await self.clock.advance(after_s)
        self.read.clear()
        self.text = await self.collector.text()
        return sorted(set(self.read) - {"gateway"})

    def requests(self) -> float:
        return sum(samples(self.text, "model_total").values())


async def test_processes_without_requests_are_not_asked() -> None:
    """Only what a gateway has counted for a service since, or has under way, wakes its processes."""
    p = Platform(30)
    assert len(await p.scrape()) == 30  # nobody knows them yet
    p.request("s3#0")
    p.request("s3#0")
    assert "s3#0" in await p.scrape()
    assert p.requests() == 2
    seen = await p.scrape()
    assert len(seen) <= 2  # in turn
    p.busy.add(("ns", "s7"))
    assert "s7#0" in await p.scrape()
    p.busy.clear()
    p.models["s30#0"] = Registry()
    p.counters["s30#0"] = p.models["s30#0"].counter("model", "M.", ("namespace", "service"))
    assert "s30#0" in await p.scrape()


async def test_what_no_gateway_knows_of_is_seen_within_a_minute_or_so() -> None:
    p = Platform(30)
    await p.scrape()
    seen = []
    for _ in range(40):
        some = await p.scrape(2.0)
        assert len(some) <= 2
        seen += some
    assert set(seen) == set(p.models)


async def test_requests_are_counted_once_their_process_can_be_read() -> None:
    """A process that could not be read is asked again, also without another request."""
    p = Platform(3)
    await p.scrape()
    p.request("s1#0")
    p.broken.add("s1#0")
    assert "s1#0" in await p.scrape()
    assert p.requests() == 0
    p.broken.clear()
    assert "s1#0" in await p.scrape()
    assert p.requests() == 1


async def test_without_an_answer_of_the_gateway_everybody_is_asked() -> None:
    p = Platform(10)
    await p.scrape()
    p.counters["s5#0"].labels("ns", "s5").inc()
    p.broken.add("gateway")
    assert await p.scrape() == sorted(p.models)
    assert p.requests() == 1


async def test_a_text_of_many_series_lets_others_have_their_turn() -> None:
    """No slice of the work is longer than some hundred series."""
    p = Platform(300)
    for process in p.models:
        h = p.models[process].histogram("h", "H.", ("namespace", "service"), bounds=(1.0, 2.0))
        for i in range(10):
            h.labels("ns", f"{process}{i}").observe(1)
    turns = 0
    done = asyncio.Event()

    async def other() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await p.scrape()
    done.set()
    await task
    assert turns > 3000 / 400
