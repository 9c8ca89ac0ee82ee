"""The models of one process and their versions: loading, swapping, dropping.

A load happens in a thread, beside the requests. The new versions take over when all of them are loaded and
have answered their probe; until then, and if one of them fails, the old ones serve. What they stop serving
is closed when its last request has its answer. `endpoints` asks here for the version a request names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from penstock.domain.devices import DeviceShare
from penstock.domain.process import Neighbour, ServedModel
from penstock.errors import LoadError, NotFound, PenstockError, Unavailable, Unsupported
from penstock.protocols.classification import Classes
from penstock.protocols.documents import IndexEntry
from penstock.runtimes import accelerators
from penstock.runtimes.base import Framework, LoadOptions, PayloadRuntime, Runtime
from penstock.runtimes.declared import declared_runtime
from penstock.runtimes.loading import require
from penstock.server.batching import DEFAULT_BYTES, DEFAULT_ROWS, Batcher
from penstock.server.execution import Executor
from penstock.server.loaded import Loaded, release
from penstock.server.local import LocalModel
from penstock.server.probe import NOT_TRIED, probe_arrays, probe_payload
from penstock.server.statistics import Metrics, Statistics
from penstock.server.versions import LABEL, age, choose, labelled
from penstock.server.workers import Hung, OffLoop, Watchdog, Workers, in_thread

log = logging.getLogger(__name__)

#: Threads for a payload model that may be called in several at once: its calls mostly wait for others.
REENTRANT_THREADS: Final = 8


class State(StrEnum):
    """Of a version, in the words of the repository extension."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Limits:
    """What every model of a process is held to."""

    timeout_s: float = 60.0
    max_queue: int = 1024
    #: Threads of the numeric libraries, and calls at once of a model whose predict is reentrant.
    threads: int = 1
    #: Accelerators that this process holds.
    devices: tuple[DeviceShare, ...] = ()
    #: For a transformer and an explainer: the predictor they stand before.
    predictor: Neighbour | None = None


class Entry:
    """One model name: its newest loaded versions, and what is known of those that are not."""

    __slots__ = ("default", "lock", "model", "states", "versions", "wanted")

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        #: Versions that serve, oldest first; `default` is the newest.
        self.versions: dict[str, Loaded] = {}
        self.default: Loaded | None = None
        self.states: dict[str, tuple[State, str]] = {}
        self.wanted = model.load
        self.lock = asyncio.Lock()


class Repository:
    """Models by name. All methods are called in the loop it was made in."""

    def __init__(
        self,
        models: tuple[ServedModel, ...],
        *,
        metrics: Metrics,
        hung: Hung,
        find: Callable[[str], Framework],
        limits: Limits | None = None,
        watchdog: Watchdog | None = None,
        prepare_thread: Callable[[Framework], None] | None = None,
        off_loop: OffLoop = in_thread,
        also: str = "",
        empty: bool = False,
    ) -> None:
        self._entries = {m.name: Entry(m) for m in models}
        self._limits = limits or Limits()
        self._metrics = metrics
        self._hung = hung
        self._find = find
        self._watchdog = watchdog
        #: Beats while models are asked.
        self.pulse = watchdog.pulse if watchdog is not None else None
        self._prepare_thread = prepare_thread
        self._off_loop = off_loop
        #: Another name of the only model: its service's.
        self._also = also if len(models) == 1 else ""
        self._started_empty = (bool(models) or empty) and not any(m.load for m in models)
        self._closing: set[asyncio.Task[None]] = set()
        #: Changes whenever `get` may answer differently, so that look-ups can be remembered.
        self.generation = 0

    # -- asking

    def get(self, name: str, version: str | None = None) -> Loaded:
        """The version that serves; without a `version` the newest. Raises NotFound or Unavailable.

        A `version` that begins with `LABEL` is a label.
        """
        entry = self._entry(name)
        if version is None:
            if entry.default is not None:
                return entry.default
            raise Unavailable(f"Model with name {name} is not ready.", hint=self._why(entry))
        if version.startswith(LABEL):
            version = labelled(entry.model, version.removeprefix(LABEL))
        loaded = entry.versions.get(version)
        if loaded is not None:
            return loaded
        if version in entry.states:
            state, reason = entry.states[version]
            raise Unavailable(
                f"Version {version} of model {name} is not ready.", hint=reason or state.value
            )
        raise NotFound(
            f"Model {name} has no version {version}.",
            hint=f"It has {', '.join(entry.versions) or 'none'}.",
        )

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            if name and name == self._also:
                return next(iter(self._entries.values()))
            raise NotFound(f"Model with name {name} does not exist.")
        return entry

    def __contains__(self, name: str) -> bool:
        return name in self._entries or (bool(name) and name == self._also)

    def names(self) -> list[str]:
        behind = {e.model.behind for e in self._entries.values()}
        return [name for name in self._entries if name not in behind]

    def versions(self, name: str) -> dict[str, Loaded]:
        """Versions of `name` that serve, oldest first. NotFound when there is no such model."""
        return self._entry(name).versions

    def loaded(self) -> list[Loaded]:
        return [v for e in self._entries.values() for v in e.versions.values()]

    @property
    def ready(self) -> bool:
        """Every model that shall be loaded is, and there is one; or none was asked for from the start."""
        wanted = [e for e in self._entries.values() if e.wanted]
        if not wanted:
            return self._started_empty
        return all(e.default is not None for e in wanted)

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        lines: list[IndexEntry] = []
        for name, entry in self._entries.items():
            found = dict(entry.states)
            for version in entry.versions:
                _, failed = found.get(version, (State.READY, ""))
                reason = f"The last reload failed: {failed}" if failed else ""
                found[version] = (State.READY, reason)
            if not found:
                found = {"": (State.UNAVAILABLE, "")}
            lines.extend(
                IndexEntry(name, version, state, reason)
                for version, (state, reason) in sorted(found.items(), key=lambda i: age(i[0]))
                if not ready_only or state is State.READY
            )
        return lines

    def _why(self, entry: Entry) -> str | None:
        for state, reason in reversed(entry.states.values()):
            if reason:
                return reason
            if state is State.LOADING:
                return "It is being loaded."
        return None if entry.wanted else "It is not loaded."

    # -- changing

    async def load_all(self) -> None:
        """Load every model that shall be there at start. Raises the first LoadError."""
        for entry in list(self._entries.values()):
            if entry.wanted:
                await self.load(entry.model.name)

    async def load(self, name: str) -> None:
        """Load or reload `name` by its version policy. The old versions serve on when it fails.

        Raises NotFound for an unknown name and LoadError when a version cannot be loaded.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"Model with name {name} does not exist.")
        async with entry.lock:
            began = perf_counter()
            fresh: dict[str, Loaded] = {}
            version = ""
            entry.wanted = True
            try:
                chosen = await self._off_loop(
                    lambda: choose(
                        Path(entry.model.path), entry.model.versions, entry.model.version or "1"
                    )
                )
                for version in chosen:
                    if version not in entry.versions:
                        entry.states[version] = (State.LOADING, "")
                for version, path in chosen.items():
                    fresh[version] = await self._load_version(entry.model, version, path)
            except PenstockError as error:
                for v, (state, _) in list(entry.states.items()):
                    if state is State.LOADING:
                        del entry.states[v]
                entry.states[version] = (State.UNAVAILABLE, str(error))
                for loaded in fresh.values():
                    self._retire(loaded)
                raise
            self._metrics.load_seconds(name).observe(perf_counter() - began)
            old = entry.versions
            entry.versions = fresh
            entry.default = next(reversed(fresh.values()))
            entry.states.clear()
            self.generation += 1
            for loaded in old.values():
                self._retire(loaded)

    async def unload(self, name: str) -> None:
        """Stop serving `name`. Returns when nothing new reaches it; what runs is finished behind it."""
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"Model with name {name} does not exist.")
        async with entry.lock:
            old = entry.versions
            entry.wanted = False
            entry.versions = {}
            entry.default = None
            entry.states = dict.fromkeys(old, (State.UNAVAILABLE, "unloaded"))
            self.generation += 1
            for loaded in old.values():
                self._retire(loaded)

    async def close(self) -> None:
        """Close every model, after its last answer."""
        for name in self._entries:
            await self.unload(name)
        if self._closing:
            await asyncio.wait(self._closing)

    def abandon_hung(self, error: PenstockError) -> None:
        """Answer everybody who waits for a model whose call is late with `error`: it will never answer."""
        for loaded in self.loaded():
            if loaded.executor is not None and loaded.batcher is not None and loaded.executor.late:
                loaded.batcher.abandon(error)

    def _retire(self, loaded: Loaded) -> None:
        task = asyncio.get_running_loop().create_task(loaded.close(self._off_loop))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _load_version(self, model: ServedModel, version: str, path: Path) -> Loaded:
        began = perf_counter()
        framework = self._find(model.framework)
        classes = await self._off_loop(lambda: _classes(model)) if model.classes else None
        options = LoadOptions(
            name=model.name,
            version=version,
            threads=self._limits.threads,
            options=model.options,
            devices=self._limits.devices,
            predictor=self._limits.predictor,
            timeout_s=self._limits.timeout_s,
            local=LocalModel(self, model.behind) if model.behind else None,
            models=lambda name, version: LocalModel(self, name, version),
        )

        def load() -> Runtime | PayloadRuntime:
            return _load(framework, path, options, self._prepare_thread)

        runtime = load() if framework.main_thread else await self._off_loop(load)
        if model.declared is not None and isinstance(runtime, Runtime):
            runtime = declared_runtime(runtime, model.declared)
        try:
            if isinstance(runtime, Runtime):
                loaded = await self._ready_arrays(model, version, runtime, framework)
            else:
                loaded = await self._ready_payload(model, version, runtime, framework)
        except PenstockError:
            await release(model.name, version, runtime, self._off_loop)
            raise
        loaded.classes = classes
        loaded.load_s = perf_counter() - began
        if log.isEnabledFor(logging.INFO):
            # Written by hand: the first line through `logging` costs a forked process 0.2 MB.
            line = f"model {model.name} version {version} is loaded in {loaded.load_s:.3f} s"
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            text = f"{stamp} INFO {__name__} {line} (probe: {loaded.probe})\n"
            os.write(2, text.encode())
        return loaded

    async def _ready_arrays(
        self,
        model: ServedModel,
        version: str,
        runtime: Runtime,
        framework: Framework,
    ) -> Loaded:
        statistics = Statistics(model.name, version, self._metrics)
        executor = Executor(
            runtime,
            name=model.name,
            timeout_s=self._limits.timeout_s,
            hung=self._hung,
            watchdog=self._watchdog,
            cores=self._limits.threads,
            on_thread_start=self._thread_start(framework),
        )
        probed = await probe_arrays(model.name, runtime, self._limits.timeout_s, self._off_loop)
        if probed.seconds is not None:
            executor.estimate.in_loop(probed.nbytes, probed.seconds)
        asked = model.batching
        batches = runtime.batchable and (asked is None or asked.max_batch_size > 1)
        most_rows = asked.max_batch_size if asked else DEFAULT_ROWS
        batcher = Batcher(
            executor,
            batches=batches,
            max_rows=most_rows,
            max_bytes=float("inf") if asked else DEFAULT_BYTES,
            max_latency_s=asked.max_latency_s if asked else 0.0,
            max_queue=self._limits.max_queue,
            timeout_s=self._limits.timeout_s,
            observer=statistics,
        )
        return Loaded(
            name=model.name,
            version=version,
            platform=runtime.platform,
            runtime=runtime,
            statistics=statistics,
            probe=probed.outcome,
            load_s=0.0,
            batcher=batcher,
            executor=executor,
            batch_rows=most_rows if batches else 0,
            max_latency_s=asked.max_latency_s if asked else 0.0,
        )

    async def _ready_payload(
        self,
        model: ServedModel,
        version: str,
        runtime: PayloadRuntime,
        framework: Framework,
    ) -> Loaded:
        workers = Workers(
            name=model.name,
            threads=REENTRANT_THREADS if runtime.reentrant else 1,
            timeout_s=self._limits.timeout_s,
            hung=self._hung,
            on_thread_start=self._thread_start(framework),
            pulse=self.pulse,
        )
        try:
            await runtime.start()
        except PenstockError:
            raise
        except Exception as error:
            raise _unloadable(model.name, error) from error
        outcome = NOT_TRIED
        if runtime.example() is not None:
            outcome = await probe_payload(model.name, runtime, workers.call, self._limits.timeout_s)
        return Loaded(
            name=model.name,
            version=version,
            platform=runtime.platform,
            runtime=runtime,
            statistics=Statistics(model.name, version, self._metrics),
            probe=outcome,
            load_s=0.0,
            payload=runtime,
            workers=workers,
        )

    def _thread_start(self, framework: Framework) -> Callable[[], None] | None:
        prepare = self._prepare_thread
        return None if prepare is None else lambda: prepare(framework)


def refuse_parameters(parameters: Mapping[str, Any]) -> None:
    """Load parameters of Triton's extension that are not served here raise Unsupported, by name."""
    for name in parameters:
        raise Unsupported(
            f"The load parameter {name!r} is not supported.",
            hint="A model is loaded as its manifest says.",
        )


def _classes(model: ServedModel) -> dict[str, Classes]:
    """What the model's outputs' classes are called. LoadError for a file that is not there any more."""
    from penstock.repositories.triton_labels import read_labels

    folder = Path(model.path)
    return {
        name: Classes(
            tuple(label.encode() for label in read_labels(folder / said.labels, said.labels))
            if said.labels
            else (),
            said.batched,
        )
        for name, said in model.classes.items()
    }


def _load(
    framework: Framework,
    path: Path,
    options: LoadOptions,
    prepare_thread: Callable[[Framework], None] | None,
) -> Runtime | PayloadRuntime:
    try:
        require(framework)
        accelerators.check(framework, options)
        if prepare_thread is not None:
            prepare_thread(framework)
        return framework.load(path, options)
    except PenstockError as error:
        # What a model's own code or file raised; the way from there to here is about this program, and of
        # no use to who reads a model's log.
        log.error("model %s cannot be loaded: %s", options.name, error, exc_info=error.__cause__)
        raise
    except (Exception, SystemExit) as error:
        raise _unloadable(options.name, error) from error


def _unloadable(name: str, error: BaseException) -> LoadError:
    log.error("model %s cannot be loaded", name, exc_info=error)
    first = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return LoadError(f"Model {name} cannot be loaded: {said}")
