"""Memory given back: only what nobody can miss."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from penstock.server.memory import release_zeros

SCRIPT = """
import asyncio, socket, uvloop
from penstock.server.memory import private_bytes, release_zeros
loop = uvloop.new_event_loop()
before = private_bytes()
given = release_zeros(loop)
print(given, before - private_bytes())

# A protocol without a buffer of its own: it reads through the loop's, which was given back.
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport, _ = await loop.create_connection(Echo, sock=theirs)
    sent = bytes(range(256)) * 800
    reading = asyncio.ensure_future(read(ours, len(sent)))
    await loop.sock_sendall(ours, sent)
    assert await reading == sent
    transport.close()
    ours.close()

async def read(ours, size):
    got = b""
    while len(got) < size:
        got += await loop.sock_recv(ours, 65536)
    return got

loop.run_until_complete(main())
loop.close()
print("whole")
"""


def test_the_buffer_of_a_new_loop_is_given_back_and_still_reads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    numbers, whole = done.stdout.splitlines()
    given, freed = map(int, numbers.split())
    assert given > 200_000
    assert freed > 200_000
    assert whole == "whole"


def test_what_holds_anything_but_zeros_stays() -> None:
    """Of ten thousand fields three are set: the pages they lie in stay, the others read as before."""
    names = tuple(f"field{i}" for i in range(10_000))
    thing = type("Wide", (), {"__slots__": names})()
    written = {names[0]: "first", names[5_000]: "middle", names[-1]: "last"}
    for name, value in written.items():
        setattr(thing, name, value)
    assert 40_000 < release_zeros(thing) < 80_000
    assert {n: getattr(thing, n) for n in names if hasattr(thing, n)} == written


def test_what_has_no_page_of_its_own_gives_nothing() -> None:
    for thing in (object(), bytes(100_000), [0] * 10_000, asyncio.Event()):
        assert release_zeros(thing) == 0
