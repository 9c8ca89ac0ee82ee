"""Graphs that are run for other graphs' requests (`domain.graph.External`; Seldon's externalInputs).

Who asks a graph gets that graph's answer, and nobody's else: what listens to it runs beside the request, as
soon as the values that it is made of are there, and is seen in the metrics. A request and all that runs for
it are one `Lineage`, so that a graph which joins two others' values gets those of one request. Each graph
runs once in a lineage, so graphs that listen to each other end; when nothing of a lineage runs any more, an
outer join goes on with what it has, and an inner one that is not complete is dropped. So is what comes while
`MOST_AT_ONCE` run. Runs have their graph's own time limit and end with the gateway: at most once, not later.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from penstock.domain.graph import Inputs, Join
from penstock.errors import PenstockError
from penstock.graphs.calls import Context
from penstock.graphs.program import Joined, Unit
from penstock.graphs.values import Part, has_tensor, merge

if TYPE_CHECKING:
    import asyncio

    from penstock.domain.graph import External
    from penstock.gateway.graphs.front import GraphFront, Graphs
    from penstock.graphs.execution import Execution
    from penstock.graphs.program import CompiledStep, Program
    from penstock.graphs.results import Result
    from penstock.graphs.values import Value

logger = logging.getLogger(__name__)

#: Runs of a gateway that no client waits for.
MOST_AT_ONCE: Final = 256


class Listening:
    """A graph's external inputs, compiled: sources are `GRAPH` or `GRAPH.STEP`, by position."""

    __slots__ = ("inputs", "names", "triggers")

    def __init__(self, external: External) -> None:
        triggers = external.triggers.sources if external.triggers is not None else ()
        self.names = list(dict.fromkeys(s.step for s in (*external.inputs.sources, *triggers)))
        position = {name: i for i, name in enumerate(self.names)}
        self.inputs = Joined(external.inputs, position)
        self.triggers = Joined(external.triggers or Inputs(), position) if triggers else None


class Externals:
    """Who listens to whom at this gateway. Made with the first graph that listens."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self.loop = graphs.loop
        self._listeners: dict[str, set[str]] = {}
        self._heard: dict[str, tuple[str, ...]] = {}
        self.running: set[Execution] = set()
        self._runs = graphs.gateway.registry.counter(
            "penstock_graph_external_runs",
            "Runs of graphs for other graphs' requests, by how they ended: ok, nothing, failed, timeout,"
            " incomplete (an input never came) or dropped (too many at once).",
            ("namespace", "graph", "outcome"),
        )

    def listen(self, front: GraphFront) -> None:
        """A graph is new or has changed."""
        graph = front.graph
        self.forget(graph.key)
        if graph.external is not None:
            heard = tuple(f"{graph.namespace}/{name}" for name in graph.external.graphs())
            self._heard[graph.key] = heard
            for key in heard:
                self._listeners.setdefault(key, set()).add(graph.key)

    def forget(self, key: str) -> None:
        """A graph listens no more. No-op when it never did."""
        for heard in self._heard.pop(key, ()):
            listeners = self._listeners[heard]
            listeners.discard(key)
            if not listeners:
                del self._listeners[heard]

    def gone(self, namespace: str, graph: str) -> None:
        """A graph was deleted."""
        self.forget(f"{namespace}/{graph}")
        for labels in [k for k in self._runs.children if k[:2] == (namespace, graph)]:
            self._runs.remove(*labels)

    def listeners(self, key: str) -> tuple[str, ...]:
        """Keys of the graphs that a graph's values may start."""
        return tuple(self._listeners.get(key, ()))

    def lineage(self, front: GraphFront, context: Context) -> Lineage | None:
        """The lineage of a client's request for this graph; None when nobody listens to it."""
        if front.graph.key not in self._listeners:
            return None
        return Lineage(self, front.graph.key, context)

    def count(self, key: str, outcome: str) -> None:
        namespace, _, name = key.partition("/")
        self._runs.labels(namespace, name, outcome).inc()

    def close(self) -> None:
        """End every run."""
        for execution in tuple(self.running):
            execution.cancel()
        self.running.clear()


class Lineage:
    """One client's request, and all that runs because of it."""

    def __init__(self, externals: Externals, root: str, context: Context) -> None:
        self.externals = externals
        self._context = context
        self._executions: list[Execution] = []
        #: Keys of the graphs that have had their turn.
        self._started = {root}
        self._waits: dict[str, _Wait] = {}
        self._starting = 0
        self._look_planned = False

    def follow(self, execution: Execution) -> None:
        """An execution of this lineage that is about to start."""
        self._executions.append(execution)
        execution.observer = Tap(self, execution.observer)
        execution.after = self.look_later

    def arrived(
        self, program: Program, step: CompiledStep | None, given: bool, value: Value
    ) -> None:
        """A graph, or a step of it, was `given` a value or answered it."""
        name = program.graph.name if step is None else f"{program.graph.name}.{step.name}"
        for key in self.externals.listeners(program.key):
            if key in self._started:
                continue
            wait = self._waits.get(key)
            if wait is None:
                service = self.externals.graphs.gateway.table.by_key(key)
                if service is None or service.route.graph is None:
                    continue
                front: GraphFront = service.graph
                if front.listening is None:
                    continue
                wait = self._waits[key] = _Wait(self, key, front, front.listening)
            wait.take(name, given, value)
            if wait.ready():
                self._start(wait)

    def window_over(self, wait: _Wait) -> None:
        """The others had their time."""
        if self._waits.get(wait.key) is not wait:
            return
        wait.closed = True
        if wait.ready():
            self._start(wait)
        else:
            self._give_up(wait)

    def _start(self, wait: _Wait) -> None:
        del self._waits[wait.key]
        self._started.add(wait.key)
        wait.close()
        self._starting += 1
        # Not from within the execution that gave the last value.
        self.externals.loop.call_soon(self._run, wait)

    def _give_up(self, wait: _Wait) -> None:
        del self._waits[wait.key]
        wait.close()
        self.externals.count(wait.key, "incomplete")

    def _run(self, wait: _Wait) -> None:
        self._starting -= 1
        externals = self.externals
        front = wait.front
        if len(externals.running) >= MOST_AT_ONCE:
            externals.count(wait.key, "dropped")
            self.look_later()
            return
        timer: asyncio.TimerHandle | None = None
        execution: Execution | None = None

        def ended(result: Result) -> None:
            if timer is not None:
                timer.cancel()
            if execution is not None:
                externals.running.discard(execution)
            if result.value is not None:
                outcome = "ok"
            elif result.failure is not None:
                outcome = "failed"
                logger.info("%s, run beside a request: %s", wait.key, result.failure.message)
            else:
                outcome = "nothing"
            externals.count(wait.key, outcome)

        def expire() -> None:
            if execution is not None and not execution.answered:
                externals.running.discard(execution)
                externals.count(wait.key, "timeout")
                execution.cancel()
                self.look_later()

        limit_s = front.graph.timeout_s
        loop = externals.loop
        context = Context(
            front.graph.namespace,
            loop.time() + limit_s,
            self._context.headers,
            self._context.request_id,
        )
        try:
            value = wait.value()
        except PenstockError as exc:
            logger.info("%s, run beside a request: %s", wait.key, exc)
            externals.count(wait.key, "failed")
            self.look_later()
            return
        execution = front.run(value, context, ended, lineage=self)
        if not execution.answered:
            externals.running.add(execution)
            timer = loop.call_later(limit_s, expire)

    # -- the end ----------------------------------------------------------------------------------

    def look_later(self) -> None:
        """Something has ended: see whether that was the last."""
        if not self._look_planned and (self._waits or self._executions):
            self._look_planned = True
            self.externals.loop.call_soon(self._look)

    def _look(self) -> None:
        self._look_planned = False
        if self._starting or not all(e.over for e in self._executions):
            return
        self._executions.clear()
        # Nothing more comes: outer joins go on with what they have. One that may still get another's goes
        # after that one.
        able = {w.key for w in self._waits.values() if w.could_close()}
        first = {k for k in able if not able & self._waits[k].absent()} or able
        for key in first:
            wait = self._waits[key]
            wait.closed = True
            self._start(wait)
        if not first:
            for wait in tuple(self._waits.values()):
                self._give_up(wait)


class _Wait:
    """A graph that has some of its values."""

    __slots__ = ("_lineage", "_timers", "_values", "closed", "front", "key", "listening")

    def __init__(self, lineage: Lineage, key: str, front: GraphFront, listening: Listening) -> None:
        self._lineage = lineage
        self.key = key
        self.front = front
        self.listening = listening
        self._values: dict[tuple[int, bool], Value] = {}
        self._timers: list[asyncio.TimerHandle] = []
        #: The absent ones do not come any more.
        self.closed = False

    def take(self, name: str, given: bool, value: Value) -> None:
        """Keep a value that is one of this graph's, the first of each source."""
        listening = self.listening
        for joined in (listening.inputs, listening.triggers):
            for unit in joined.units if joined is not None else ():
                at = (unit.step, unit.inputs_side)
                if listening.names[unit.step] != name or unit.inputs_side != given:
                    continue
                if unit.tensors and not any(has_tensor(value, t) for t in unit.tensors):
                    continue
                if not self._values and joined is not None and joined.window_s is not None:
                    loop = self._lineage.externals.loop
                    self._timers.append(
                        loop.call_later(joined.window_s, self._lineage.window_over, self)
                    )
                self._values.setdefault(at, value)

    def _there(self, joined: Joined) -> list[Unit]:
        return [u for u in joined.units if (u.step, u.inputs_side) in self._values]

    def _complete(self, joined: Joined | None, closed: bool) -> bool:
        if joined is None:
            return True
        there = len(self._there(joined))
        if joined.join is Join.ANY or (closed and joined.join is Join.OUTER):
            return there > 0
        return there == len(joined.units)

    def ready(self) -> bool:
        listening = self.listening
        return self._complete(listening.inputs, self.closed) and self._complete(
            listening.triggers, self.closed
        )

    def could_close(self) -> bool:
        """Whether it may go on without what is absent."""
        listening = self.listening
        return self._complete(listening.inputs, True) and self._complete(listening.triggers, True)

    def absent(self) -> set[str]:
        """Keys of the graphs whose values are not there."""
        listening = self.listening
        names: set[str] = set()
        for joined in (listening.inputs, listening.triggers):
            if joined is not None:
                there = self._there(joined)
                names |= {listening.names[u.step] for u in joined.units if u not in there}
        return {f"{self.front.graph.namespace}/{n.partition('.')[0]}" for n in names}

    def value(self) -> Value:
        """The input. InvalidInput for what cannot be joined."""
        joined = self.listening.inputs
        there = self._there(joined)
        if joined.join is Join.ANY:
            there = there[:1]
        parts = []
        for unit in there:
            value = self._values[unit.step, unit.inputs_side]
            parts += [
                Part(unit.name, value, s.tensor, s.rename, s.key, unit.renames)
                for s in unit.sources
                if not s.tensor or has_tensor(value, s.tensor)
            ]
        return merge(parts)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()


class Tap:
    """Tells a lineage what an execution's steps are given and answer (an `execution.Observer`)."""

    __slots__ = ("_lineage", "_metrics")

    def __init__(self, lineage: Lineage, metrics: Any) -> None:
        self._lineage = lineage
        self._metrics = metrics

    def step(self, program: Program, step: CompiledStep, outcome: str, seconds: float) -> None:
        self._metrics.step(program, step, outcome, seconds)
        self._lineage.look_later()

    def value(self, program: Program, step: CompiledStep | None, given: bool, value: Value) -> None:
        self._lineage.arrived(program, step, given, value)
