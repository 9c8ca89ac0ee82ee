"""The node: what `penstock serve` is. One supervisor process that owns all the others.

It serves node.sock, starts the control plane and the gateways, keeps zygotes, and looks after replicas. It
imports no framework and touches no model, so there is little that could end it; when it ends all the same,
however, the kernel ends everything else. What should run is the control plane's knowledge: a new node begins
empty and is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from penstock.backends.local import descriptors
from penstock.backends.local.children import Child
from penstock.backends.local.clock import Clock
from penstock.backends.local.config import NodeConfig
from penstock.backends.local.devices import Devices
from penstock.backends.local.endpoint import Endpoint
from penstock.backends.local.forked import raise_open_files
from penstock.backends.local.inventory import Inventory
from penstock.backends.local.limits import Limiter
from penstock.backends.local.lock import NodeLock
from penstock.backends.local.logs import ProcessLog
from penstock.backends.local.node_protocol import NodeStatus, ZygoteStatus
from penstock.backends.local.ports import is_loopback, probe, reserve, url
from penstock.backends.local.prctl import adopt_orphans
from penstock.backends.local.replicas import Replicas
from penstock.backends.local.spawn import Reaper
from penstock.backends.local.zygotes import Zygotes
from penstock.errors import InvalidInput

logger = logging.getLogger(__name__)

#: The control plane has nothing to drain but its own requests.
_CONTROL_GRACE_S: Final = 5.0
#: How long the node listens who needs a device before it gives the first one, seconds.
_SETTLE_S: Final = 1.0
#: What a shutdown may take beyond the two drains, seconds.
_SLACK_S: Final = 5.0
_EXIT_START_FAILED: Final = 1
_EXIT_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a node that is up can be reached."""

    http: str
    api: str
    pid: int
    #: Empty without a gRPC port.
    grpc: str = ""


async def run_node(config: NodeConfig, *, on_ready: Callable[[Serving], None] | None = None) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; the exit code.

    0 after a clean stop, 1 when the control plane or a gateway cannot be started (its last words are on
    stderr), 130 when a second signal cut the stop short. `on_ready` is called once everything listens; left
    out, one line per address is printed. Raises lock.AlreadyRunning, ports.PortTaken, InvalidInput; nothing
    runs then. Must be the only asyncio program of its process: it takes the signals, and the process's
    orphans.
    """
    for listen, option in (
        (config.listen_http, "--http-port"),
        (config.listen_grpc, "--grpc-port"),
        (config.listen_api, "--api-port"),
    ):
        if listen and not is_loopback(listen) and config.token_file is None and not config.insecure:
            raise InvalidInput(
                f"{listen} can be reached from other machines.",
                hint=f"Give a --token-file, or --insecure to allow it, or leave {option} on 127.0.0.1.",
            )
    lock = NodeLock.acquire(config.data_dir)
    held = contextlib.ExitStack()
    try:
        http, reserved = reserve(config.listen_http, "--http-port")
        held.enter_context(reserved)
        api = probe(config.listen_api, "--api-port")
        grpc = ""
        if config.listen_grpc:
            grpc, reserved = reserve(config.listen_grpc, "--grpc-port")
            held.enter_context(reserved)
        try:
            limiter = Limiter(config.cgroup)
        except OSError as e:
            raise InvalidInput(f"The cgroup {config.cgroup} cannot be used: {e}.") from e
        devices = Devices(Inventory(config.devices), settle_s=_SETTLE_S)
        node = _Node(config, lock, limiter, devices, Serving(http, api, os.getpid(), grpc))
        return await node.run(on_ready or _announce)
    finally:
        held.close()
        lock.release()


class _Node:
    def __init__(
        self,
        config: NodeConfig,
        lock: NodeLock,
        limiter: Limiter,
        devices: Devices,
        serving: Serving,
    ) -> None:
        self._config = config
        self._layout = lock.layout
        self._serving = serving
        self._limiter = limiter
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        adopt_orphans()
        # The usual soft limit of 1024 would end at three hundred replicas.
        raise_open_files()
        clock = Clock()
        self._reaper = Reaper(orphans=True)
        arguments = (f"--log-level={config.log_level}", *config.zygotes.arguments)
        self._zygotes = Zygotes(
            self._layout,
            reaper=self._reaper,
            clock=clock,
            policy=replace(config.zygotes, arguments=arguments),
        )
        self._replicas = Replicas(
            self._layout,
            zygotes=self._zygotes,
            limiter=limiter,
            devices=devices,
            clock=clock,
            policy=config.replicas,
        )
        self._endpoint = Endpoint(self._replicas, self._status)
        self._control = self._child(
            "control", config.control_command(self._layout, serving.api, serving.http), clock
        )
        self._gateways = [
            self._child(
                f"gateway-{n}",
                config.gateway_command(self._layout, serving.http, n, serving.grpc),
                clock,
            )
            for n in range(config.gateways)
        ]

    def _child(self, name: str, argv: tuple[str, ...], clock: Clock) -> Child | None:
        if not argv:
            return None
        log = ProcessLog(self._layout.node_log(name))
        return Child(name, argv, reaper=self._reaper, log=log, clock=clock)

    @property
    def _children(self) -> list[Child]:
        return [c for c in (self._control, *self._gateways) if c is not None]

    async def run(self, on_ready: Callable[[Serving], None]) -> int:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal)
        looking = loop.create_task(self._replicas.look_after(), name="look after replicas")
        looking.add_done_callback(self._stopped_looking)
        code = 0
        try:
            self._replicas.prune_logs()
            await self._endpoint.listen(self._layout.node_socket)
            for child in self._children:
                child.begin()
            self._zygotes.warm(self._config.warm)
            code = await self._come_up(on_ready)
            if code == 0:
                await self._stop.wait()
        finally:
            if not await self._go_down():
                code = code or _EXIT_INTERRUPTED
            looking.cancel()
            self._replicas.close()
            await self._endpoint.close()
            self._reaper.close()
            for number in signals:
                loop.remove_signal_handler(number)
        return code

    async def _come_up(self, on_ready: Callable[[Serving], None]) -> int:
        """Wait until all children are ready, one is given up, or somebody wants to stop."""
        waits: list[asyncio.Future[Any]] = [
            asyncio.gather(*(c.ready.wait() for c in self._children)),
            asyncio.ensure_future(self._stop.wait()),
            *(asyncio.ensure_future(c.given_up.wait()) for c in self._children),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for w in waits:
                w.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for child in self._children:
            if child.given_up.is_set():
                log = self._layout.node_log(child.name)
                sys.stderr.write(f"{child.name} cannot be started: {child.message}\nSee {log}\n")
                return _EXIT_START_FAILED
        if not self._stop.is_set():
            on_ready(self._serving)
        return 0

    async def _go_down(self) -> bool:
        """Drain and stop everything within the bound; False when that was cut short."""
        loop = asyncio.get_running_loop()
        drain = loop.create_task(self._drain())
        hurry = loop.create_task(self._hurry.wait())
        bound = 2 * self._config.grace_s + _CONTROL_GRACE_S + _SLACK_S
        await asyncio.wait((drain, hurry), timeout=bound, return_when=asyncio.FIRST_COMPLETED)
        clean = drain.done() and not drain.cancelled() and drain.exception() is None
        for task in (drain, hurry):
            task.cancel()
        found = await asyncio.gather(drain, hurry, return_exceptions=True)
        if isinstance(found[0], Exception):
            logger.error("the stop failed", exc_info=found[0])
        if not clean:
            self._replicas.kill()
            for zygote in self._zygotes.all():
                zygote.kill()
        return clean

    async def _drain(self) -> None:
        # The control plane first: it would start again what is stopped here.
        if self._control is not None:
            await self._control.stop(_CONTROL_GRACE_S)
        await asyncio.gather(*(g.stop(self._config.grace_s) for g in self._gateways if g))
        await self._replicas.drain(self._config.grace_s)
        await self._zygotes.close()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _stopped_looking(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # Without it limits and heartbeats are not held; better no node than such a one.
            logger.critical("the node stops: it can look after replicas no more", exc_info=error)
            self._stop.set()

    def _status(self) -> NodeStatus:
        return NodeStatus(
            pid=os.getpid(),
            limits=self._limiter.name,
            replicas=len(self._replicas.list()),
            zygotes=tuple(
                ZygoteStatus(
                    framework=z.framework,
                    pid=z.pid,
                    ready=z.ready,
                    load_s=z.load_s,
                    replicas=z.replicas,
                    starts=self._zygotes.starts[z.framework],
                    failure=z.failure,
                )
                for z in self._zygotes.all()
            ),
            children=tuple(c.status for c in self._children),
            loading=self._replicas.loading.running,
            waiting=self._replicas.loading.waiting,
            descriptors=descriptors.open_now(),
            descriptors_most=descriptors.most() or 0,
        )


def _announce(serving: Serving) -> None:
    sys.stdout.write(
        f"Inference  {url(serving.http)}\nControl    {url(serving.api)}\nCtrl-C stops.\n"
    )
    sys.stdout.flush()
