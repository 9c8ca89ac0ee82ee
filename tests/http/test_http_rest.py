"""How often a server looks after its connections: seldom while nothing is under way on any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from http_peers import GET, Loop, Wire, post

from penstock.http.connection import Connection
from penstock.http.limits import Limits
from penstock.http.server import REST_SWEEP_S, Exchange, HttpServer

SOON_S = 0.5


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.live = at, call, True

    def cancel(self) -> None:
        self.live = False


class TimedLoop(Loop):
    """Time moves from timer to timer."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[Timer] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def next(self) -> float:
        """Seconds to the one timer that there is."""
        self.timers = [t for t in self.timers if t.live]
        (timer,) = self.timers
        return round(timer.at - self.now, 6)

    def step(self) -> None:
        """Until after it."""
        self.next()
        timer = self.timers.pop()
        self.now = timer.at
        timer.call()
        self.run()


class Rig:
    def __init__(self, handler: Callable[[Exchange], None]) -> None:
        self.loop = TimedLoop()
        self.server = HttpServer(handler, limits=Limits())
        self.server.loop = self.loop  # type: ignore[assignment]

    def connect(self) -> Wire:
        return Wire(Connection(self.server), self.loop)

    def at_rest(self) -> Wire:
        wire = self.connect()
        wire.feed(GET)
        self.loop.step()  # sees the progress
        self.loop.step()
        assert self.loop.next() == REST_SWEEP_S
        return wire


def answer(exchange: Exchange) -> None:
    exchange.send(200, b"", b"yes")


def silent(exchange: Exchange) -> None:
    """Never answers."""


def test_connections_at_rest_are_looked_at_seldom() -> None:
    rig = Rig(answer)
    wire = rig.at_rest()
    for _ in range(20):
        if not wire.closed:
            rig.loop.step()
    assert wire.closed
    assert 75 <= rig.loop.now <= 75 + REST_SWEEP_S + 2 * SOON_S


def test_a_head_a_body_or_an_end_that_begins_is_found_late_in_time() -> None:
    """Whatever has a deadline of its own brings the near sweep back."""
    for begins in (GET[:9], post(b"x" * 100)[:-50], b"nonsense\r\n\r\nmore"):
        rig = Rig(answer)
        wire = rig.at_rest()
        wire.feed(begins)
        assert rig.loop.next() == SOON_S
    rig = Rig(answer)
    rig.at_rest()
    rig.connect()
    assert rig.loop.next() == SOON_S


def test_one_connection_that_is_busy_keeps_the_sweep_near() -> None:
    rig = Rig(answer)
    rig.at_rest()
    rig.server.handler = silent
    rig.connect().feed(GET)
    for _ in range(5):
        rig.loop.step()
        assert rig.loop.next() == SOON_S


def test_without_connections_nothing_is_swept() -> None:
    rig = Rig(answer)
    wire = rig.at_rest()
    wire.hang_up()
    wire.close()
    rig.loop.run()
    assert not rig.server.connections
    assert [t for t in rig.loop.timers if t.live] == []
