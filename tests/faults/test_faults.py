"""Parts of the platform are broken under load: which requests fail, and that all is well afterwards.

One platform for all, in this order: the last tests end it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

import httpx
from fault_load import CLIENTS, Book, load
from platform_harness import PENSTOCK, Platform, alive, manifest, until


def test_a_replica_killed_under_load_costs_at_most_what_it_had(
    platform: Platform, book: Book
) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris", minReplicas=2))
    victim = platform.replicas()[0]["status"]["pid"]
    with load(platform, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")
        until(lambda: all(r["status"]["phase"] == "Ready" for r in platform.replicas()), "another")
    book.note(
        "one of two replicas killed (SIGKILL)",
        seen,
        f"{CLIENTS}: those under way there",
        "a model may have acted on a request that it was sent; asking another one could do it twice",
    )
    assert seen.failed <= CLIENTS, seen
    assert set(seen.counts) <= {"200", "502"}, "a request that was under way there, and no other"


def test_a_zygote_killed_under_load_takes_its_replicas_and_they_come_back(
    platform: Platform, book: Book
) -> None:
    """Requests that come meanwhile wait in line."""
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    victim = platform.child("penstock.backends.local.zygote_main")
    with load(platform, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")
        until(
            lambda: platform.running("penstock.backends.local.zygote_main") not in (None, victim),
            "another",
        )
    book.note(
        "the framework's zygote killed (SIGKILL), and all its replicas with it",
        seen,
        f"{CLIENTS}: those under way",
        "a model may have acted on a request that it was sent",
    )
    assert seen.failed <= CLIENTS, seen
    assert set(seen.counts) <= {"200", "502"}, seen


def test_a_gateway_killed_under_load_costs_its_connections(platform: Platform, book: Book) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    victim = platform.child("penstock.gateway")
    with load(platform, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")
        until(lambda: platform.running("penstock.gateway") not in (None, victim), "another")
    book.note(
        "one of two gateways killed (SIGKILL)",
        seen,
        f"{2 * CLIENTS}: its connections, each once in use and once in its backlog",
        "a connection ends with the process that holds it",
    )
    assert seen.failed <= 2 * CLIENTS, seen
    assert all(what == "200" or not what.isdigit() for what in seen.counts), "broken connections"


def test_a_control_plane_killed_under_load_costs_nothing(platform: Platform, book: Book) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    victim = platform.child("penstock.api")
    with load(platform, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")

        def back() -> bool:
            try:
                return httpx.get(f"{platform.api}/readyz", timeout=2).status_code == 200
            except httpx.TransportError:
                return False

        until(back, "another")
    book.note(
        "control plane killed (SIGKILL)",
        seen,
        "none",
        "gateways have their routes, the node its replicas",
    )
    assert set(seen.counts) == {"200"}, seen


def test_a_killed_supervisor_takes_all_with_it_and_the_next_serves_again(
    platform: Platform, book: Book
) -> None:
    """Nobody answers while there is nobody; from the first answer on none fails."""
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    with load(platform, "iris") as seen:
        platform.kill()
        broken = seen.failed - len(seen.refused)
        down = time.monotonic()
        before = seen.answered
        platform.start()
        until(lambda: seen.answered > before, "an answer without anything being applied again")
        back = time.monotonic()
        failed = seen.failed
        until(lambda: seen.answered > before + 200, "more of them")
        assert seen.failed == failed, seen
    outage = max(seen.refused) - min(seen.refused)
    others = {w: n for w, n in seen.counts.items() if w not in ("200", "ConnectError")}
    book.note(
        "supervisor killed (SIGKILL) and started again",
        f"{seen.answered} answered, {sum(others.values())} broken off, "
        f"{len(seen.refused)} found nobody within {outage:.1f} s",
        f"{2 * CLIENTS} broken off, and whoever comes while nothing runs",
        "everything ends with the supervisor, so that nothing runs unseen",
    )
    assert broken <= 2 * CLIENTS, seen
    assert sum(others.values()) <= 2 * CLIENTS, seen
    assert back - down < 60


def test_a_damaged_store_is_refused_and_never_overwritten(platform: Platform, book: Book) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    platform.stop()
    store = platform.data / "store.db"
    damaged = b"this is no database" + store.read_bytes()[19:]
    store.write_bytes(damaged)
    done = subprocess.run(
        [
            *PENSTOCK,
            "serve",
            "--data-dir",
            str(platform.data),
            "--http-port",
            "0",
            "--api-port",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stderr + platform.node_logs()
    book.note(
        "the store's file damaged",
        "the start is refused with the file's name and what to do; not a byte of it is changed",
        "nothing runs",
        "what was asked for is not known any more; guessing would end services that should run",
    )
    assert done.returncode == 1
    assert "store.db" in said
    assert "move it away to begin anew" in done.stderr
    assert store.read_bytes() == damaged
