"""What every Backend keeps. A file per implementation subclasses this and gives the fixture `backend`.

Toys stand in for models: their behaviour is in `conftest.spec`.
"""

import asyncio
from contextlib import aclosing

import pytest
from backend_harness import DEADLINE_S, spec

from penstock.backends.base import Phase, ReplicaGone
from penstock.errors import Conflict, NotFound


async def wait_for(backend, replica_id, condition):
    """The first status of the replica's that fulfils `condition`."""
    async with asyncio.timeout(DEADLINE_S), aclosing(backend.watch()) as changes:
        async for change in changes:
            if change.id == replica_id and condition(change):
                return change
    raise AssertionError("the watch ended")


def is_phase(phase):
    return lambda change: not isinstance(change, ReplicaGone) and change.phase is phase


class BackendContract:
    """The rules of `penstock.backends.base.Backend`."""

    async def test_starts_and_lists(self, backend):
        """A started replica is listed with whose it is, and becomes Ready with an address."""
        status = await backend.start(
            "r1", "", spec(service="iris", namespace="ns", revision="iris-00001")
        )
        assert status.id == "r1"
        assert status.phase is Phase.STARTING
        ready = await wait_for(backend, "r1", is_phase(Phase.READY))
        assert ready.address == status.address != ""
        assert ready.started_at is not None
        assert ready.ready_at is not None
        (listed,) = await backend.list()
        assert (listed.namespace, listed.service, listed.revision, listed.component) == (
            "ns",
            "iris",
            "iris-00001",
            "predictor",
        )
        assert listed.phase is Phase.READY

    async def test_start_is_idempotent(self, backend):
        """The same again is the same replica; another spec or framework is a Conflict."""
        await backend.start("r1", "", spec())
        ready = await wait_for(backend, "r1", is_phase(Phase.READY))
        again = await backend.start("r1", "", spec())
        assert (again.pid, again.restarts) == (ready.pid, 0)
        with pytest.raises(Conflict):
            await backend.start("r1", "", spec(service="other"))
        assert len(await backend.list()) == 1

    async def test_stops(self, backend):
        """Stopped after a drain, and then free to be started anew; unknown ids are a no-op."""
        await backend.start("r1", "", spec())
        await wait_for(backend, "r1", is_phase(Phase.READY))
        await backend.stop("r1")
        assert [s.phase for s in await backend.list()] in ([], [Phase.STOPPED])
        await backend.stop("r1")
        await backend.stop("unknown", grace_s=0)
        await backend.start("r1", "", spec(service="other"))
        ready = await wait_for(backend, "r1", is_phase(Phase.READY))
        assert ready.service == "other"

    async def test_hurrying_is_no_more_than_a_word(self, backend):
        """What is up, and what is not there, stays as it is."""
        await backend.start("r1", "", spec())
        await wait_for(backend, "r1", lambda s: s.phase is Phase.READY)
        before = await backend.list()
        await backend.hurry("r1")
        await backend.hurry("unknown")
        assert await backend.list() == before

    async def test_stops_what_never_was_ready(self, backend):
        """A replica that is still starting is ended too."""
        await backend.start("r1", "", spec("never-ready"))
        await backend.stop("r1")
        assert [s.phase for s in await backend.list()] in ([], [Phase.STOPPED])

    async def test_reports_a_replica_that_cannot_load(self, backend):
        """Failed, with the reason and one line."""
        await backend.start("r1", "", spec("failed"))
        failed = await wait_for(backend, "r1", is_phase(Phase.FAILED))
        assert failed.reason == "ModelLoadFailed"
        assert failed.message == "no file model.joblib in it"
        assert failed.pid is None

    async def test_restarts_what_ends(self, backend):
        """A replica that exits is started again and counts it."""
        await backend.start("r1", "", spec("exit:3"))
        status = await wait_for(backend, "r1", lambda s: s.restarts >= 2)
        assert (status.reason, status.exit_code) == ("Exit", 3)

    async def test_watch_begins_with_the_present_state(self, backend):
        """Each replica once, then each change in order."""
        for n in range(3):
            await backend.start(f"r{n}", "", spec())
            await wait_for(backend, f"r{n}", is_phase(Phase.READY))
        async with asyncio.timeout(DEADLINE_S), aclosing(backend.watch()) as changes:
            first = [await anext(changes) for _ in range(3)]
            assert {s.id for s in first} == {"r0", "r1", "r2"}
            assert all(s.phase is Phase.READY for s in first)
            stop = asyncio.ensure_future(backend.stop("r1"))
            phases = [(await anext(changes)).phase for _ in range(2)]
            await stop
            assert phases == [Phase.DRAINING, Phase.STOPPED]

    async def test_keeps_logs_across_restarts(self, backend):
        """What it printed, whichever of its processes did; the last lines on request."""
        await backend.start("r1", "", spec("exit:3", service="iris"))
        await wait_for(backend, "r1", lambda s: s.restarts >= 2)
        text = b"".join([x async for x in backend.logs("r1")])
        assert text.count(b"toy iris starts") >= 2
        await backend.stop("r1")
        whole = b"".join([x async for x in backend.logs("r1")])
        tail = b"".join([x async for x in backend.logs("r1", tail=2)])
        assert tail.splitlines() == whole.splitlines()[-2:]
        with pytest.raises(NotFound):
            [x async for x in backend.logs("unknown")]

    async def test_follows_logs(self, backend):
        """A reader that follows sees what comes, and its end when the replica is stopped."""
        await backend.start("r1", "", spec(service="iris"))
        await wait_for(backend, "r1", is_phase(Phase.READY))
        got = []
        async with asyncio.timeout(DEADLINE_S):
            async for chunk in backend.logs("r1", follow=True):
                if not got:
                    stop = asyncio.ensure_future(backend.stop("r1"))
                got.append(chunk)
            await stop
        assert b"toy iris starts" in b"".join(got)
        assert b"toy ends" in b"".join(got)
