"""A caller for tests of the executor: services are functions, and a test says when they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from penstock.domain.graph import Call, CallUrl, Flow, Graph, Inputs, Join, Source, Step
from penstock.domain.graph_check import check
from penstock.graphs.batches import Batches
from penstock.graphs.calls import Context, Done, Outcome
from penstock.graphs.execution import Execution
from penstock.graphs.program import Program
from penstock.graphs.results import Result
from penstock.graphs.values import Body, Failure, Value, json_of

Service = Callable[[Value], Any]


class Pending:
    """One call that nobody has answered yet."""

    def __init__(self, caller: StandIn, service: str, value: Value, context: Context, done: Done):
        self.caller = caller
        self.service = service
        self.value = value
        self.context = context
        self.done = done
        self.canceled = False

    @property
    def json(self) -> Any:
        return json_of(self.value)

    def answer(self, document: Any) -> None:
        self.caller.pending.remove(self)
        self.done(document if isinstance(document, Outcome.__args__) else Body.of(document))

    def fail(self, status: int = 500, message: str = "it broke") -> None:
        body = Body.of({"error": message})
        body.status = status
        self.answer(Failure(status, message, body=body))

    def cancel(self) -> None:
        if self in self.caller.pending:
            self.caller.pending.remove(self)
            self.canceled = True
            self.caller.canceled.append(self.service)


class StandIn:
    """Answers by functions where a test gave some, otherwise keeps calls for it to answer."""

    def __init__(self, **services: Service) -> None:
        self.services = services
        self.pending: list[Pending] = []
        self.canceled: list[str] = []
        #: Every call ever, in order.
        self.called: list[str] = []

    def call(self, action: Call | CallUrl, value: Value, context: Context, done: Done) -> Pending:
        name = action.service if isinstance(action, Call) else action.url
        call = Pending(self, name, value, context, done)
        self.pending.append(call)
        self.called.append(name)
        service = self.services.get(name)
        if service is not None:
            asyncio.get_running_loop().call_soon(self._serve, call, service)
        return call

    def _serve(self, call: Pending, service: Service) -> None:
        if not call.canceled:
            call.answer(service(call.value))

    def of(self, service: str) -> Pending:
        """The call of a service that waits for its answer."""
        return next(c for c in self.pending if c.service == service)

    def waiting(self) -> list[str]:
        return [c.service for c in self.pending]


class Observed:
    """Keeps what an execution tells of its steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.values: list[tuple[str, bool]] = []

    def step(self, program: Program, step: Any, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append((step.name, outcome))

    def value(self, program: Program, step: Any, given: bool, value: Value) -> None:
        self.values.append((step.name if step is not None else "", given))


class Running:
    """An execution of a graph, its caller and how it ended."""

    def __init__(
        self,
        graph: Graph,
        request: Any,
        caller: StandIn | None = None,
        *,
        deadline_s: float = 5.0,
        batches: Batches | None = None,
        others: tuple[Graph, ...] = (),
        **more: Any,
    ) -> None:
        problems = check(graph)
        assert not problems, [str(p) for p in problems]
        loop = asyncio.get_running_loop()
        self.caller = caller or StandIn()
        self.observed = Observed()
        self.result: Result | None = None
        self.ended = asyncio.Event()
        programs = {g.key: Program(g) for g in others}
        value = request if isinstance(request, Value.__args__) else Body.of(request)
        self.execution = Execution(
            Program(graph),
            value,
            self.caller,
            Context(graph.namespace, loop.time() + deadline_s),
            self._done,
            loop=loop,
            observer=self.observed,
            batches=batches,
            programs=programs.get,
            **more,
        )
        self.execution.start()

    def _done(self, result: Result) -> None:
        assert self.result is None, "ended twice"
        self.result = result
        self.ended.set()

    async def end(self) -> Result:
        async with asyncio.timeout(30):
            await self.ended.wait()
        assert self.result is not None
        return self.result

    async def json(self) -> Any:
        result = await self.end()
        assert result.value is not None, (result.failure and result.failure.message, result.nothing)
        return json_of(result.value)

    async def failure(self) -> Failure:
        result = await self.end()
        assert result.failure is not None
        return result.failure

    def outcome(self, step: str) -> str:
        return next(o for s, o in self.observed.steps if s == step)


def sources(*names: str, join: Join = Join.INNER, **more: Any) -> Inputs:
    """Steps' answers by name; `a.X` is a's tensor X, `a:X:Y` renames it, `` the request."""
    found = []
    for name in names:
        name, _, rename = name.partition(":")
        step, _, tensor = name.partition(".")
        found.append(Source(step, tensor=tensor, rename=rename))
    return Inputs(tuple(found), join=join, **more)


def step(name: str, *inputs: str, join: Join = Join.INNER, **more: Any) -> Step:
    """A step that calls the service of its own name, unless `action` is given."""
    action = more.pop("action", None) or Call(name)
    return Step(name, action, more.pop("joined", None) or sources(*inputs, join=join), **more)


def graph(
    *steps: Step, output: Inputs | None = None, flows: tuple[Flow, ...] = (), **more: Any
) -> Graph:
    """A graph whose first flow has these steps and answers the last one."""
    revisits = more.pop("max_revisits", None)
    flow = Flow("root", steps, output or sources(steps[-1].name), max_revisits=revisits)
    return Graph("default", "g", (flow, *flows), **more)
