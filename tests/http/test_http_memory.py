"""What stays behind: the allocator's blocks, on request; a request's objects, never."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from http_peers import GET, post

from penstock.http.client import Upstream, UpstreamError
from penstock.http.head import ResponseHead
from penstock.http.server import Exchange

PROBE = """
import resource, sys
from penstock.http.memory import keep_large_blocks
if sys.argv[1] == "tuned":
    assert keep_large_blocks(32 * 1024 * 1024)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    pieces = [bytearray(250_000) for _ in range(8)]
for _ in range(5):
    use()
before = faults()
for _ in range(200):
    use()
print(faults() - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_large_blocks_are_kept_for_the_next_body() -> None:
    """Without it the same blocks are faulted in, page by page, each time."""
    assert faults("tuned") * 10 < faults("plain")


class Passing:
    """What a gateway keeps per request: exchange, upstream exchange, and callbacks to itself."""

    def __init__(self, exchange: Exchange, upstream: Upstream) -> None:
        self.exchange = exchange
        exchange.on_abort = self.gone
        head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        self.outgoing = upstream.request(head, None, self, more=True, chunked=True)
        self.outgoing.on_drain = self.drained
        exchange.receive(self)

    def drained(self) -> None:
        self.exchange.resume_reading()

    def gone(self) -> None:
        self.outgoing.cancel()

    def on_response(self, head: ResponseHead, body: bytes | None) -> None:
        self.exchange.start(200, b"")
        self.exchange.on_drain = self.drained
        if body is not None:
            self.exchange.write(body)
            self.exchange.end()

    def on_data(self, data: Any) -> None:
        # Both directions end up here: the request's body, then the response's.
        if self.outgoing.status:
            self.exchange.write(data)
        else:
            self.outgoing.write(data)

    def on_end(self) -> None:
        if self.outgoing.status:
            self.exchange.end()
        else:
            self.outgoing.end()

    def on_abort(self, exc: Exception) -> None:
        pass

    def on_error(self, exc: UpstreamError) -> None:
        raise AssertionError(exc)


@pytest.mark.parametrize("kind", ["gathered", "relayed"])
async def test_a_request_leaves_no_cycles(serve: Callable[..., Any], kind: str) -> None:
    """Its objects, and its body with them, go when it ends; the garbage collector finds nothing."""
    if kind == "gathered":
        serving = await serve(lambda e: e.gather(lambda e: e.send(200, b"", b"ok")), streaming=True)
    else:
        echo = await serve(lambda e: e.send(200, b"", e.body), unix=True)
        upstream = Upstream(echo.address)
        serving = await serve(lambda e: [Passing(e, upstream)].clear(), streaming=True)
    async with await serving.peer() as peer:
        for _ in range(2):  # the first round makes the connections
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for request in (post(b"x" * 300_000), post(b"x" * 10), GET):
                    peer.send(request)
                    await peer.answer()
                gc.collect()
                ours = [o for o in gc.garbage if type(o).__module__.startswith("penstock")]
                ours += [o for o in gc.garbage if isinstance(o, Passing)]
                names = sorted(type(o).__name__ for o in ours)
                ours.clear()
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
        assert names == []
    if kind == "relayed":
        upstream.abort()
        await asyncio.sleep(0)
