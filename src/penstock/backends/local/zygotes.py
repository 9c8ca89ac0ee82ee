"""The node's side of the zygotes: one per framework, started when first wanted, replaced when dead.

How many import at a time, and which is next, is decided in `turns`.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from penstock.backends.local.backoff import Endings
from penstock.backends.local.clock import Clock
from penstock.backends.local.cores import cores
from penstock.backends.local.environment import for_models
from penstock.backends.local.limits import ForkLimits
from penstock.backends.local.logs import ProcessLog
from penstock.backends.local.paths import Layout
from penstock.backends.local.pipes import Pipe
from penstock.backends.local.spawn import Ending, Reaper
from penstock.backends.local.turns import Rank, Turns
from penstock.backends.local.zygote_messages import (
    MAX_MESSAGE,
    EndedMessage,
    FailedMessage,
    ForkedMessage,
    ForkMessage,
    FromZygote,
    ReadyMessage,
    SignalMessage,
    spec_file,
)
from penstock.errors import PenstockError

logger = logging.getLogger(__name__)

#: The machine has no process to spare: time until the next try, seconds.
_NO_PROCESS_S: Final = 10.0
#: A zygote that lived this long and ends is replaced at once, seconds.
_HEALTHY_S: Final = 60.0

_decode = msgspec.json.Decoder(FromZygote).decode
_encode = msgspec.json.encode


class ZygoteLost(PenstockError):
    """The zygote ended, or does not answer: the fork may be asked for again."""

    reason = "ZygoteLost"


class CannotLoad(PenstockError):
    """The framework cannot be imported here; asking again soon will not help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ForkOrder:
    """A replica to be forked. The descriptors stay the caller's."""

    name: str
    spec: bytes
    log_fd: int
    status_fd: int
    limits: ForkLimits


@dataclass(frozen=True, slots=True)
class ZygotePolicy:
    """How long a zygote may take, and what it runs."""

    #: To import its framework, seconds. TensorFlow from a cold disk takes tens of them.
    start_s: float = 300.0
    #: To answer a fork request, seconds. Few are in its queue at a time (`turns`).
    fork_s: float = 30.0
    #: More arguments for each zygote (`--entry`, `--preload`).
    arguments: tuple[str, ...] = ()
    #: How many import their frameworks side by side, beside as many that requests wait for.
    at_once: int = field(default_factory=cores)


class Zygote:
    """One zygote process, from its start to its end; another one takes its place after that."""

    def __init__(
        self,
        framework: str,
        *,
        reaper: Reaper,
        log: ProcessLog,
        clock: Clock,
        policy: ZygotePolicy,
        turns: Turns[Zygote],
        rank: Rank,
        on_gone: Callable[[Zygote], None],
    ) -> None:
        """It begins when it is its turn, perhaps at once."""
        self.framework = framework
        self._turns = turns
        self._on_gone = on_gone
        self._reaper = reaper
        self._log = log
        self._clock = clock
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._forks: dict[int, tuple[asyncio.Future[int], Callable[[Ending | None], None]]] = {}
        self._live: dict[int, Callable[[Ending | None], None]] = {}
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        # Somebody may or may not wait for it.
        self._ready.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._ended = asyncio.Event()
        self.load_s = 0.0
        self.was_ready = False
        #: Why it ended or never began; empty while all is well.
        self.failure = ""
        #: It waits for its turn, or the machine had no process for it.
        self.unborn = True
        #: 0 before it has one.
        self.pid = 0
        self._born = clock.monotonic()
        self._deadline: asyncio.Task[None] | None = None
        turns.ask(self, self._begin, rank)

    @property
    def replicas(self) -> int:
        """Children that live."""
        return len(self._live)

    @property
    def usable(self) -> bool:
        return not self._ended.is_set()

    @property
    def ready(self) -> bool:
        return self.usable and self.was_ready

    @property
    def lived_s(self) -> float:
        """Seconds since it was begun."""
        return self._clock.monotonic() - self._born

    def hurry(self) -> None:
        """A request waits for it: it goes before those that nobody waits for."""
        self._turns.hurry(self)

    def _begin(self) -> None:
        try:
            self.pid = self._start()
        except OSError as e:
            # Perhaps later: whoever waits is told, and the next one who asks gets another zygote.
            self._never_born(e)
            return
        self.unborn = False
        self._born = self._clock.monotonic()
        self._deadline = self._loop.create_task(
            self._limit_start(), name=f"zygote {self.framework}"
        )

    def _never_born(self, why: PenstockError | OSError) -> None:
        self._ended.set()
        self._fail_start(why)
        # Not from within its own making.
        self._loop.call_soon(self._on_gone, self)

    def _start(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output = Pipe(self._log.write)
        self._link = ours
        ours.setblocking(False)
        argv = (
            sys.executable,
            "-m",
            "penstock.backends.local.zygote_main",
            self.framework,
            f"--fd={theirs.fileno()}",
            f"--parent={os.getpid()}",
            *self._policy.arguments,
        )
        self._log.forget_last()
        try:
            pid = self._reaper.spawn(
                argv,
                self._on_end,
                output_fd=self._output.write_fd,
                pass_fds=(theirs.fileno(),),
                env=for_models(os.environ),
            )
        except BaseException:
            ours.close()
            self._output.close()
            raise
        finally:
            theirs.close()
        self._output.close_writer()
        self._loop.add_reader(ours, self._readable)
        return pid

    async def _limit_start(self) -> None:
        await self._clock.sleep(self._policy.start_s)
        if not self._ready.done():
            self._fail_start(
                CannotLoad(
                    "StartTimeout",
                    f"{self.framework} was not imported within {self._policy.start_s:g} s.",
                )
            )
            self.kill()

    async def wait_ready(self) -> None:
        """Until it can fork. CannotLoad or ZygoteLost."""
        await asyncio.shield(self._ready)

    async def fork(self, order: ForkOrder, on_end: Callable[[Ending | None], None]) -> int:
        """The pid of a new replica; ZygoteLost, CannotLoad, OSError when the machine refuses a process.

        `on_end` is called once when it ended, on the loop and perhaps before this returns, with None when
        the zygote was lost with it and nobody can say how.
        """
        await self.wait_ready()
        if not self.usable:
            raise ZygoteLost(self.failure)
        number = next(self._ids)
        message = _encode(ForkMessage(number, order.name, order.limits.fields()))
        if len(message) > MAX_MESSAGE:
            raise CannotLoad("InvalidInput", "The replica's limits do not fit into a message.")
        future: asyncio.Future[int] = self._loop.create_future()
        self._forks[number] = (future, on_end)
        # Copies: the message may wait for a full socket, and the caller closes its own.
        spec_fd = spec_file(order.spec)
        self._post(message, (spec_fd, os.dup(order.log_fd), os.dup(order.status_fd)))
        alarm = self._loop.create_task(self._limit_fork(future))
        try:
            return await asyncio.shield(future)
        finally:
            alarm.cancel()

    async def _limit_fork(self, future: asyncio.Future[int]) -> None:
        await self._clock.sleep(self._policy.fork_s)
        if not future.done():
            logger.error("the zygote for %s does not answer; it is replaced", self.framework)
            self.kill()

    def signal(self, pid: int, number: int) -> None:
        """Signal a replica. No-op when it has ended or the zygote is gone (its replicas go with it)."""
        if self.usable and pid in self._live:
            self._post(_encode(SignalMessage(pid, number)), ())

    def kill(self) -> None:
        """End it and all its replicas at once."""
        if self.unborn and self.usable:
            self._never_born(ZygoteLost(f"The zygote for {self.framework} was not begun."))
            return
        self._reaper.kill(self.pid, signal.SIGKILL)

    def _post(self, message: bytes, fds: tuple[int, ...]) -> None:
        self._unsent.append((message, fds))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            message, fds = self._unsent[0]
            ancillary = (
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            )
            try:
                self._link.sendmsg([message], ancillary)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._link, self._flush)
                return
            except OSError:
                break  # it is gone; its end is on the way and settles everything
            _close_all(fds)
            self._unsent.popleft()
        self._loop.remove_writer(self._link)

    def _readable(self) -> None:
        for _ in range(64):
            try:
                data = self._link.recv(MAX_MESSAGE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(self._link)
                return
            self._on_message(_decode(data))

    def _on_message(self, message: FromZygote) -> None:
        if isinstance(message, ForkedMessage):
            future, on_end = self._forks.pop(message.id)
            if message.pid < 0:
                if not future.done():
                    future.set_exception(OSError(message.message))
                return
            self._live[message.pid] = on_end
            if not future.done():
                future.set_result(message.pid)
        elif isinstance(message, EndedMessage):
            self._live.pop(message.pid)(Ending.of(message.status))
        elif isinstance(message, ReadyMessage):
            self.load_s = message.load_s
            self.was_ready = True
            self._turns.leave(self)
            self._cancel_deadline()
            if not self._ready.done():
                self._ready.set_result(None)
            logger.info(
                "zygote %s is ready after %.2f s, pid %d", self.framework, message.load_s, self.pid
            )
        elif isinstance(message, FailedMessage):
            self._fail_start(CannotLoad(message.reason, message.message))

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _fail_start(self, error: PenstockError | OSError) -> None:
        self._turns.leave(self)
        self.failure = self.failure or str(error)
        if not self._ready.done():
            self._ready.set_exception(error)

    def _on_end(self, ending: Ending) -> None:
        # What it said before it ended comes first: pids, endings, the reason it could not start.
        self._output.drain()
        self._output.close()
        self._readable()
        self._ended.set()
        self._cancel_deadline()
        self._loop.remove_reader(self._link)
        self._loop.remove_writer(self._link)
        self._link.close()
        for _, fds in self._unsent:
            _close_all(fds)
        self._unsent.clear()
        last = self._log.last_error()
        how = f"The zygote for {self.framework} ended ({ending})" + (f": {last}" if last else ".")
        lost = ZygoteLost(how)
        self._fail_start(lost)
        for future, _ in self._forks.values():
            if not future.done():
                future.set_exception(lost)
        self._forks.clear()
        live, self._live = self._live, {}
        for on_end in live.values():
            on_end(None)
        self._on_gone(self)

    async def close(self) -> None:
        """Ask it to end, with whatever it still has, and wait."""
        if not self.usable:
            return
        if self.unborn:
            self.kill()
            return
        if not self.was_ready:
            self.kill()  # it still imports, and listens to nobody
        # The end of the conversation: it ends its replicas, their children, and itself.
        self._link.shutdown(socket.SHUT_WR)
        try:
            await asyncio.wait_for(self._ended.wait(), 3.0)
        except TimeoutError:
            self.kill()
            await self._ended.wait()


class Zygotes:
    """All zygotes of a node, by framework."""

    def __init__(
        self, layout: Layout, *, reaper: Reaper, clock: Clock, policy: ZygotePolicy
    ) -> None:
        self._layout = layout
        self._reaper = reaper
        self._clock = clock
        self._policy = policy
        self._logs: dict[str, ProcessLog] = {}
        self._zygotes: dict[str, Zygote] = {}
        #: How often a zygote was made, by framework.
        self.starts: dict[str, int] = {}
        self._closed = False
        self._warm: dict[str, Endings] = {}
        self._turns: Turns[Zygote] = Turns(policy.at_once)
        self._rewarming: set[asyncio.Task[None]] = set()

    def get(self, framework: str) -> Zygote:
        """The framework's zygote, started if there is none that lives."""
        zygote = self._zygotes.get(framework)
        if zygote is not None and zygote.usable:
            return zygote
        if self._closed:
            raise ZygoteLost("The node is stopping.")
        log = self._logs.get(framework)
        if log is None:
            name = "zygote-" + "-".join(filter(None, framework.split(",")))
            log = self._logs[framework] = ProcessLog(self._layout.node_log(name.rstrip("-")))
        zygote = Zygote(
            framework,
            reaper=self._reaper,
            log=log,
            clock=self._clock,
            policy=self._policy,
            turns=self._turns,
            rank=Rank.KEPT if framework in self._warm else Rank.WANTED,
            on_gone=self._gone,
        )
        self._zygotes[framework] = zygote
        self.starts[framework] = self.starts.get(framework, 0) + 1
        return zygote

    def warm(self, frameworks: Iterable[str]) -> None:
        """Keep zygotes for these from now on, for replicas that come later."""
        for name in frameworks:
            self._warm.setdefault(name, Endings(_HEALTHY_S))
            self.get(name)

    def all(self) -> tuple[Zygote, ...]:
        """The newest of each framework, dead ones included."""
        return tuple(self._zygotes.values())

    def _gone(self, zygote: Zygote) -> None:
        endings = self._warm.get(zygote.framework)
        if self._closed or endings is None:
            return
        if zygote.unborn:
            delay = _NO_PROCESS_S
        else:
            delay = endings.next_delay_s(failed=not zygote.was_ready, healthy_for_s=zygote.lived_s)
        logger.warning("%s; the next one starts in %g s", zygote.failure or zygote.framework, delay)
        task = asyncio.get_running_loop().create_task(self._rewarm(zygote.framework, delay))
        self._rewarming.add(task)
        task.add_done_callback(self._rewarming.discard)

    async def _rewarm(self, framework: str, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        if not self._closed:
            self.get(framework)

    async def close(self) -> None:
        """End every zygote and with it every replica."""
        self._closed = True
        for task in self._rewarming:
            task.cancel()
        await asyncio.gather(*(z.close() for z in self._zygotes.values()))
        for log in self._logs.values():
            log.close()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
