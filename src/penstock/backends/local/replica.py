"""One replica's life: started, watched, started again, drained.

A task runs it: wait for a place, fork, wait for the end, decide, wait, again. What the model process says on
its status pipe moves the phase; the collection that owns it (`replicas`) has it checked regularly for what a
process cannot say itself: that it hangs, takes too long to start, or uses too much memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from penstock.backends.base import WAITING_FOR_DEVICE, WAITING_FOR_TURN, Phase, ReplicaStatus
from penstock.backends.local import descriptors
from penstock.backends.local.backoff import Endings
from penstock.backends.local.clock import Clock, wait_event
from penstock.backends.local.devices import Devices
from penstock.backends.local.limits import Limiter, Limits
from penstock.backends.local.logs import ProcessLog
from penstock.backends.local.memory import pages_mark, private_bytes
from penstock.backends.local.paths import Layout
from penstock.backends.local.pipes import Pipe, StatusLines
from penstock.backends.local.policy import ReplicaPolicy
from penstock.backends.local.reasons import Why, mib, one_line, why_ended
from penstock.backends.local.spawn import Ending
from penstock.backends.local.temporary import ReplicaTemporary
from penstock.backends.local.turns import Rank, Turns
from penstock.backends.local.zygotes import CannotLoad, ForkOrder, Zygote, ZygoteLost, Zygotes
from penstock.domain.devices import DeviceRequest, DeviceShare
from penstock.domain.process import ProcessSpec, encode
from penstock.domain.routes import Address
from penstock.errors import InvalidInput

logger = logging.getLogger(__name__)

#: A change of a process's memory that those who watch are told at once.
_TELL_BYTES: Final = 4 << 20
_OTHERS_LOAD: Final = "Others load their models first."
_BEAT: Final = b'{"event":"beat"}\n'


class Replica:
    """A replica, whichever process it is at the moment."""

    def __init__(
        self,
        replica_id: str,
        framework: str,
        spec: ProcessSpec,
        *,
        layout: Layout,
        zygotes: Zygotes,
        limiter: Limiter,
        devices: Devices,
        loading: Turns[Replica],
        serves: Callable[[], bool],
        clock: Clock,
        policy: ReplicaPolicy,
        log: ProcessLog,
        publish: Callable[[ReplicaStatus], None],
    ) -> None:
        """Nothing runs before `begin`. OSError when its limits cannot be held here.

        `serves` answers whether its service has ready replicas here.
        """
        self.framework = framework
        #: As it was asked for, for comparison; `listen` may have been left to the node.
        self.asked = spec
        address = spec.listen or f"unix:{layout.replica_socket(replica_id)}"
        self.spec = replace(
            spec,
            listen=address,
            replica=spec.replica or replica_id,
            shared_memory=str(layout.regions) if policy.shared_memory else "",
        )
        try:
            self._socket = Address.parse(address)
        except ValueError as e:
            raise InvalidInput(f"{e}.") from e
        self._temporary = ReplicaTemporary(layout.replica_temporary(replica_id))
        self._zygotes = zygotes
        self._devices = devices
        self._loading = loading
        self._serves = serves
        self._clock = clock
        self._policy = policy
        self.log = log
        self._publish = publish
        self._limits: Limits = limiter.limits(replica_id, spec.memory_limit_bytes, spec.cpu_limit)
        self._endings = Endings(policy.healthy_s)
        self._zygote: Zygote | None = None
        self._stopping = False
        self._hurried = False
        #: A process of it was ready once.
        self._was_ready = False
        self._has_place = False
        self._wake = asyncio.Event()
        self.done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Of the present process:
        self._started = 0.0
        self._ready_since: float | None = None
        self._last_beat: float | None = None
        self._quiet = False
        self._measured: tuple[int, bytes | None] | None = None
        self._told_bytes: int | None = None
        self._early = b""
        self._status_pipe: Pipe | None = None
        self._said: Why | None = None  # by the process
        self._verdict: Why | None = None  # by the node
        self.status = ReplicaStatus(
            id=replica_id,
            namespace=spec.namespace,
            service=spec.service,
            revision=spec.revision,
            component=spec.component,
            phase=Phase.STARTING,
            address=address,
            limits=self._limits.name,
            device=spec.device,
            priority=spec.priority if spec.device is not None else None,
        )

    def begin(self) -> None:
        """Start the first process. Call once."""
        if self._limits.note:
            self.log.note(self._limits.note)
        self._task = asyncio.get_running_loop().create_task(
            self._live(), name=f"replica {self.status.id}"
        )

    def retry(self) -> None:
        """Start again now what waits for its next try. No-op otherwise."""
        if self.status.phase in (Phase.BACKOFF, Phase.FAILED):
            self._endings.reset()
            self._wake.set()

    def hurry(self) -> None:
        """A request waits for it: its framework is imported and it is loaded before what nobody waits for."""
        self._hurried = True
        if self.status.phase in (Phase.STARTING, Phase.WAITING) and self._zygote is not None:
            self._zygote.hurry()
        self._loading.hurry(self)

    async def stop(self, grace_s: float | None = None) -> None:
        """SIGTERM, `grace_s` seconds (the spec's unless said), SIGKILL; returns when it is gone."""
        grace_s = self.spec.grace_s if grace_s is None else grace_s
        if not self._stopping:
            self._stopping = True
            self._wake.set()
            if not self.done.is_set():
                self._set(phase=Phase.DRAINING, retry_at=None)
                if self.status.pid is not None and grace_s > 0:
                    self._signal(signal.SIGTERM)
        if await wait_event(self._clock, self.done, grace_s):
            return
        self._signal(signal.SIGKILL)
        if await wait_event(self._clock, self.done, self._policy.kill_s):
            return
        if self._zygote is not None:
            logger.error("%s cannot be ended; its zygote is replaced", self.status.id)
            self._zygote.kill()
        await self.done.wait()

    def end(self) -> None:
        """Kill the process now and start no other. For the node's hurried exit."""
        self._stopping = True
        self._wake.set()
        self._signal(signal.SIGKILL)

    def _stop_asked(self) -> bool:
        return self._stopping

    def check_memory(self, now: float) -> None:
        """End the process if it uses too much. `now` is the clock's monotonic time."""
        pid = self.status.pid
        if not self._limits.watched or pid is None or self._verdict is not None:
            return
        used = self._limits.exceeded_by(pid, now)
        if used is not None:
            limit = self._limits.memory_limit_bytes or 0
            self._condemn(
                "OutOfMemory", f"used {mib(used)} of private memory, its limit is {mib(limit)}"
            )

    def check(self, now: float) -> None:
        """End the process if it is late or silent. `now` is the clock's monotonic time."""
        if self._has_place and now - self._started > self._policy.place_s:
            self._leave()
        if self.status.pid is None or self._verdict is not None:
            return
        if self.status.phase is Phase.STARTING and now - self._started > self._policy.startup_s:
            self._condemn("StartTimeout", f"was not ready within {self._policy.startup_s:g} s")
        elif (
            self.status.phase is Phase.READY
            and not self._quiet
            and self._last_beat is not None
            and now - self._last_beat > self._policy.heartbeat_s
        ):
            if self._status_pipe is not None:
                self._status_pipe.drain()  # it may be the node that was busy
            if self._last_beat is not None and now - self._last_beat > self._policy.heartbeat_s:
                self._condemn(
                    "Unresponsive", f"gave no sign of life for {self._policy.heartbeat_s:g} s"
                )

    def forgive(self, now: float) -> None:
        """The node itself was away (suspended, starved): silence meanwhile says nothing."""
        self._alive(now, known=True)

    def _alive(self, now: float, *, known: bool = False) -> None:
        """It lives; a rest that it has announced goes on. `known`: only if it has ever beaten."""
        if self._last_beat is None:
            self._last_beat = None if known else now
        else:
            self._last_beat = max(self._last_beat, now)

    def measure(self) -> None:
        """Read the process's private memory into the status, if it may be another than before.

        What makes a difference to a budget is told to those who watch; they read the rest now and then.
        """
        pid = self.status.pid
        if pid is None:
            return
        mark = (pid, pages_mark(pid))
        if mark == self._measured and mark[1] is not None:
            return
        self._measured = mark
        self.status = replace(self.status, memory_bytes=private_bytes(pid))
        now, told = self.status.memory_bytes or 0, self._told_bytes or 0
        if abs(now - told) >= _TELL_BYTES:
            self._told_bytes = self.status.memory_bytes
            self._publish(self.status)

    @property
    def watched(self) -> bool:
        """Its memory has to be looked at often: nothing else holds its limit."""
        return self._limits.watched

    def _condemn(self, reason: str, message: str) -> None:
        logger.warning("%s is killed: %s", self.status.id, message)
        self._verdict = Why(reason, message)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.status.pid is not None and self._zygote is not None:
            self._zygote.signal(self.status.pid, number)

    async def _live(self) -> None:
        try:
            while not self._stop_asked():
                why, ready_for_s = await self._run_once()
                if self._stop_asked():
                    break
                delay = self._endings.next_delay_s(failed=why.failed, healthy_for_s=ready_for_s)
                if why.failed:
                    # What cannot load needs no device meanwhile.
                    self._devices.release(self.status.id)
                    self._set(devices=())
                self._explain(why, delay)
                if delay > 0:
                    self._wake.clear()
                    await wait_event(self._clock, self._wake, delay)
                if not self._stop_asked():
                    self._set(
                        phase=Phase.STARTING, retry_at=None, restarts=self.status.restarts + 1
                    )
        except Exception:  # the task's border: a replica that is not looked after must be seen
            logger.exception("%s: the node failed to look after it", self.status.id)
            self.end()
            self._set(reason="InternalError", message="the node failed; its log says how")
        finally:
            self._remove_socket()
            self._limits.release()
            self.log.close()
            self._set(phase=Phase.STOPPED, pid=None, retry_at=None, memory_bytes=None, devices=())
            self._devices.release(self.status.id)
            self.done.set()

    def _explain(self, why: Why, delay: float) -> None:
        self.log.note(one_line(why.message) or why.reason)
        # An immediate restart is a start to everyone else: it is not ready, and it is coming.
        phase = Phase.STARTING if delay <= 0 else Phase.FAILED if why.failed else Phase.BACKOFF
        self._set(
            phase=phase,
            pid=None,
            ready_at=None,
            retry_at=self._clock.now() + delay if delay > 0 else None,
            reason=why.reason,
            message=one_line(why.message),
            exit_code=why.exit_code,
            signal=why.signal,
            memory_bytes=None,
        )

    async def _run_once(self) -> tuple[Why, float]:
        """One process from fork to end: why it ended, and for how many seconds it was ready."""
        self._said = self._verdict = self._ready_since = self._last_beat = None
        self._quiet = False
        self._early = b""
        self.log.forget_last()
        self._remove_socket()
        self._lines = StatusLines(self._on_event)
        ended: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._started = self._clock.monotonic()
        output = status = None
        try:
            if self.spec.device is None:
                self._hold(())
            else:
                await self._unless_stopped(self._take(self.spec.device))
                if self._stop_asked():
                    return Why("", ""), 0.0
            await self._unless_stopped(self._turn())
            if self._stop_asked():
                return Why("", ""), 0.0
            # Waiting for a device or for a place is no part of a slow start, and costs no descriptor.
            self._started = self._clock.monotonic()
            output = Pipe(self.log.write)
            status = self._status_pipe = Pipe(self._status_bytes)
            descriptors.check(status.read_fd)
            self._temporary.make()
            # Another one if that which was ready has ended since.
            zygote = self._zygote = self._zygotes.get(self.framework)
            pid = await zygote.fork(
                ForkOrder(
                    name=self.spec.service or self.status.id,
                    spec=encode(self.spec),
                    log_fd=output.write_fd,
                    status_fd=status.write_fd,
                    limits=self._limits.for_fork,
                ),
                ended.set_result,
            )
            self._hurried = False
            output.close_writer()
            status.close_writer()
            self._started = self._clock.monotonic()
            self._set(pid=pid, started_at=self._clock.now(), **self._turn_came())
            early, self._early = self._early, b""
            self._status_bytes(early)
            if self._stop_asked():
                self._signal(signal.SIGKILL)
            ending = await ended
            output.drain()
            status.drain()
            return self._why_ended(ending), self._ready_for_s()
        except CannotLoad as e:
            return Why(e.reason, str(e), failed=True), 0.0
        except ZygoteLost as e:
            return Why("ZygoteLost", str(e)), 0.0
        except OSError as e:  # no more processes, memory or descriptors: perhaps later
            return Why("CannotStart", f"the machine refused a new process: {e}"), 0.0
        finally:
            self._leave()
            for pipe in (output, status):
                if pipe is not None:
                    pipe.close()
            self._status_pipe = None
            if not self._stop_asked():
                self.status = replace(self.status, pid=None)
            await self._temporary.remove()

    async def _take(self, device: DeviceRequest) -> None:
        """Wait until the node has what it asks for."""
        self._hold(
            await self._devices.acquire(
                self.status.id, device, priority=self.spec.priority, tell=self._waits
            )
        )

    def _hold(self, shares: tuple[DeviceShare, ...]) -> None:
        """Write into the specification what it was given, and that it sees nothing else."""
        given = self._devices.environment(shares)
        env = {**self._temporary.environment, **self.asked.env, **given}
        self.spec = replace(self.spec, devices=shares, env=env)
        if self.status.phase is Phase.WAITING:
            self._set(phase=Phase.STARTING, reason="", message="")
        self._set(devices=shares)

    async def _turn(self) -> None:
        """Wait until its framework is imported, then until few enough others load."""
        zygote = self._zygote = self._zygotes.get(self.framework)
        if self._hurried:
            zygote.hurry()
        await zygote.wait_ready()
        granted = asyncio.Event()
        if self._hurried:
            rank = Rank.WAITED_FOR
        else:
            rank = Rank.KEPT if self._was_ready or self._serves() else Rank.WANTED
        self._loading.ask(self, granted.set, rank)
        try:
            if not granted.is_set():
                self._before = (self.status.reason, self.status.message)
                self._set(phase=Phase.WAITING, reason=WAITING_FOR_TURN, message=_OTHERS_LOAD)
            await granted.wait()
        except asyncio.CancelledError:
            self._set(**self._turn_came())  # its place, or its turn, `_run_once` gives back
            raise
        self._has_place = True

    def _turn_came(self) -> dict[str, Any]:
        """What its status says when it has waited for a place: the end before is told again."""
        if self.status.reason != WAITING_FOR_TURN:
            return {}
        reason, message = self._before
        phase = Phase.STARTING if self.status.phase is Phase.WAITING else self.status.phase
        return {"phase": phase, "reason": reason, "message": message}

    def _leave(self) -> None:
        self._has_place = False
        self._loading.leave(self)

    def _waits(self, why: str) -> None:
        self._set(phase=Phase.WAITING, reason=WAITING_FOR_DEVICE, message=why)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        ready = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._wake.wait())
        try:
            if not self._stop_asked():
                self._wake.clear()
            await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
        finally:
            stopped.cancel()
            ready.cancel()
            await asyncio.gather(ready, stopped, return_exceptions=True)

    def _ready_for_s(self) -> float:
        return 0.0 if self._ready_since is None else self._clock.monotonic() - self._ready_since

    def _status_bytes(self, data: bytes) -> None:
        if self.status.pid is None:  # faster than the zygote's own message
            self._early += data
        elif data == _BEAT:  # nearly always
            self._last_beat = self._clock.monotonic()
        else:
            self._lines.feed(data)

    def _on_event(self, event: dict[str, Any]) -> None:
        now = self._clock.monotonic()
        match event["event"]:
            case "beat":
                self._last_beat = now
            case "rest":
                for_s = event.get("for_s")
                rest_s = float(for_s) if isinstance(for_s, int | float) else 0.0
                self._last_beat = now + min(max(0.0, rest_s), self._policy.rest_s)
            case "ready":
                self._leave()
                self._was_ready = True
                self._alive(now)
                if self._ready_since is None:
                    self._ready_since = now
                if not self._stop_asked():
                    self._set(phase=Phase.READY, ready_at=self._clock.now(), retry_at=None)
            case "loading":  # another model, on request: it may be silent until it says `loaded`
                self._quiet = True
            case "loaded":
                self._quiet = False
                self._alive(now)
            case "failed":
                reason = str(event.get("reason") or "ModelLoadFailed")
                self._said = Why(reason, one_line(event.get("message")))
            case "hung":
                self._said = Why("Unresponsive", one_line(event.get("message")))
            case "listening":
                pass
            case other:
                logger.debug("%s said %r", self.status.id, other)

    def _why_ended(self, ending: Ending | None) -> Why:
        return why_ended(
            ending,
            said=self._said,
            verdict=self._verdict,
            last=self.log.last_error(),
            limits=self._limits,
            zygote_failure=self._zygote.failure if self._zygote is not None else "",
        )

    def _remove_socket(self) -> None:
        """A stale socket file would let the gateway connect to nobody."""
        if self._socket.path is not None:
            try:
                os.unlink(self._socket.path)
            except FileNotFoundError:
                pass

    def _set(self, **changes: Any) -> None:
        status = replace(self.status, **changes)
        if status != self.status:
            self.status = status
            self._told_bytes = status.memory_bytes
            self._publish(status)
