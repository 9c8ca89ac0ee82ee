"""Triton's ensembles: steps that are other models of the same process (framework `triton_ensemble`).

The configuration becomes a typed graph, which the executor of all graphs runs: steps start when their
tensors are there, side by side where data allows. A step's call joins the other requests of its model, in
that model's batches; no tensor is copied or written as text on its way. `repositories.triton_ensembles` has
held the configuration against the models beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.domain.graph import Call, CallUrl, Flow, Graph, Inputs, Source, Step
from penstock.domain.graph_check import check
from penstock.errors import Internal, InvalidInput, LoadError, ModelError, PenstockError
from penstock.graphs.calls import Context, Done
from penstock.graphs.execution import Execution
from penstock.graphs.program import CompiledStep, Program
from penstock.graphs.results import Result
from penstock.graphs.values import Failure, Tensors, Value, tensors_of
from penstock.protocols import v1
from penstock.protocols.infer import InferRequest, InferResponse, RequestedOutput
from penstock.runtimes import inputs as given
from penstock.runtimes.base import (
    CallContext,
    Framework,
    LoadOptions,
    LocalModels,
    PayloadRuntime,
    RawReply,
    RawRequest,
    ResponseStream,
    StreamReply,
)
from penstock.runtimes.loading import known_options, option
from penstock.runtimes.triton_specs import specs_of

if TYPE_CHECKING:
    from penstock.graphs.calls import Under

PLATFORM: Final = "ensemble"


class Ensemble(PayloadRuntime):
    """One ensemble."""

    platform = PLATFORM
    reentrant = True

    def __init__(
        self, name: str, config: Mapping[str, Any], models: LocalModels, timeout_s: float
    ) -> None:
        self._name = name
        self._models = models
        self._timeout_s = timeout_s
        self._most_rows = int(config.get("max_batch_size", 0))
        self.inputs = tuple(specs_of(config.get("input") or [], self._most_rows))
        self.outputs = tuple(specs_of(config.get("output") or [], self._most_rows))
        self._names = frozenset(s.name for s in self.outputs)
        self._program = Program(graph_of(name, config, timeout_s))
        #: What each step's answer has to have.
        self._wanted = {
            f"{self._program.entry.name}.{_step_name(i, step)}": tuple(step["output_map"])
            for i, step in enumerate(_steps(config))
        }

    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest | RawRequest, context: CallContext
    ) -> InferResponse | RawReply | StreamReply | ResponseStream:
        if isinstance(payload, InferRequest):
            return await self._infer(payload, context.headers)
        if not isinstance(payload, dict):
            raise InvalidInput("A JSON body, or V2's tensors, are expected.")
        decoded = v1.to_arrays(payload, self.inputs)
        asked = InferRequest(dict(decoded.named(self.inputs)), parameters=dict(decoded.parameters))
        answer = await self._infer(asked, context.headers)
        return RawReply(v1.encode_predictions(answer.outputs))

    async def _infer(self, asked: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        arrays = self._checked(asked)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def done(result: Result) -> None:
            if not answer.done():
                answer.set_result(result)

        caller = _Caller(self._models, self._wanted, asked, headers)
        execution = Execution(
            self._program,
            Tensors(arrays, {s.name: s.datatype for s in self.inputs}),
            caller,
            Context("", loop.time() + self._timeout_s),
            done,
            loop=loop,
            observer=_NOBODY,
        )
        execution.start()
        try:
            result = await answer
        finally:
            execution.cancel()
        if result.value is not None:
            return self._answer(tensors_of(result.value), asked)
        failure = result.failure
        if failure is None:
            raise ModelError(f"Ensemble {self._name} answered nothing: {result.nothing}.")
        raise caller.raised.get(failure) or ModelError(f"Ensemble {self._name}: {failure.message}")

    def _checked(self, asked: InferRequest) -> dict[str, Any]:
        """The request's tensors, as they are declared. InvalidInput."""
        if asked.outputs is not None:
            unknown = [o.name for o in asked.outputs if o.name not in self._names]
            if unknown:
                raise InvalidInput(
                    f"Model {self._name} has no output {given.listed(unknown)}; "
                    f"it has {given.listed(sorted(self._names))}."
                )
        arrays = given.by_name(asked.inputs, list(self.inputs), binary=True)
        if self._most_rows:
            sizes = {a.shape[0] for a in arrays}
            if len(sizes) != 1:
                raise InvalidInput("The inputs have different numbers of rows.")
            if max(sizes) > self._most_rows:
                raise InvalidInput(
                    f"The request has {max(sizes)} rows; at most {self._most_rows} are allowed"
                    " (max_batch_size)."
                )
        return dict(zip((s.name for s in self.inputs), arrays, strict=True))

    def _answer(self, value: Tensors, asked: InferRequest) -> InferResponse:
        wanted = [o.name for o in asked.outputs] if asked.outputs is not None else None
        outputs = {n: a for n, a in value.arrays.items() if wanted is None or n in wanted}
        kinds = {n: k for n, k in value.datatypes.items() if n in outputs}
        return InferResponse(outputs, kinds)


class _Caller:
    """Calls models of this process for one request (a `penstock.graphs.calls.Caller`)."""

    def __init__(
        self,
        models: LocalModels,
        wanted: Mapping[str, tuple[str, ...]],
        asked: InferRequest,
        headers: Mapping[str, str],
    ) -> None:
        self._models = models
        self._wanted = wanted
        self._asked = asked
        self._headers = headers
        #: What the models raised, by what became of it.
        self.raised: dict[Failure, PenstockError] = {}

    def call(self, action: Call | CallUrl, value: Value, context: Context, done: Done) -> Under:
        assert isinstance(action, Call)  # noqa: S101 - an ensemble has no others
        return _Task(asyncio.get_running_loop().create_task(self._call(action, value, done)))

    async def _call(self, action: Call, value: Value, done: Done) -> None:
        try:
            done(await self._infer(action, tensors_of(value)))
        except PenstockError as exc:
            failure = Failure(exc.status, str(exc), reason=exc.reason)
            self.raised[failure] = exc
            done(failure)

    async def _infer(self, action: Call, value: Tensors) -> Value:
        asked = self._asked
        names = self._wanted[action.path]
        request = InferRequest(
            dict(value.arrays),
            dict(value.datatypes),
            tuple(RequestedOutput(n) for n in names),
            asked.id,
            action.service,
            action.revision,
            asked.parameters,
        )
        model = self._models(action.service, action.revision)
        answer = await model.infer(request, self._headers)
        missing = [n for n in names if n not in answer.outputs]
        if missing:
            raise ModelError(
                f"Model {action.service} answered no output {given.listed(missing)}, which an"
                " ensemble takes from it."
            )
        return Tensors({n: answer.outputs[n] for n in names}, answer.datatypes)


class _Task:
    """A call under way."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class _Nobody:
    """Steps are counted by the models that run them."""

    def step(self, program: Program, step: CompiledStep, outcome: str, seconds: float) -> None: ...

    def value(
        self, program: Program, step: CompiledStep | None, given: bool, value: Value
    ) -> None: ...


_NOBODY: Final = _Nobody()


def graph_of(name: str, config: Mapping[str, Any], timeout_s: float) -> Graph:
    """The graph that an ensemble's configuration means. LoadError when it is none."""
    steps = _steps(config)
    inputs = {t["name"] for t in config.get("input") or ()}
    #: Who makes a tensor, and what it is called there.
    made: dict[str, tuple[str, str]] = {}
    for i, step in enumerate(steps):
        for own, tensor in step["output_map"].items():
            made[tensor] = (_step_name(i, step), own)

    def source(tensor: str, rename: str) -> Source:
        if tensor in inputs:
            return Source("", tensor=tensor, rename=rename)
        if tensor not in made:
            raise LoadError(f"Ensemble {name}: no step makes the tensor {tensor!r}.")
        maker, own = made[tensor]
        return Source(maker, tensor=own, rename=rename)

    compiled = []
    for i, step in enumerate(steps):
        version = int(step.get("model_version", -1))
        call = Call(
            step["model_name"],
            revision=str(version) if version > 0 else "",
            path=f"ensemble.{_step_name(i, step)}",
        )
        sources = tuple(source(t, own) for own, t in step["input_map"].items())
        compiled.append(Step(_step_name(i, step), call, Inputs(sources)))
    output = Inputs(tuple(source(t["name"], t["name"]) for t in config.get("output") or ()))
    graph = Graph(
        "default", name, (Flow("ensemble", tuple(compiled), output),), timeout_s=timeout_s
    )
    problems = check(graph)
    if problems:
        raise LoadError(f"Ensemble {name}: {problems[0].message}")
    return graph


def _steps(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((config.get("ensemble_scheduling") or {}).get("step") or ())


def _step_name(index: int, step: Mapping[str, Any]) -> str:
    return f"{index}-{step['model_name']}"


def load(path: Path, options: LoadOptions) -> PayloadRuntime:
    """The ensemble of the option `config`. LoadError."""
    known_options(options, ("config",))
    config = option(options, "config", dict, {})
    if options.models is None:
        raise Internal("An ensemble needs a model process with other models.")
    return Ensemble(options.name, config, options.models, options.timeout_s)


framework = Framework(name="triton_ensemble", extra="", preload=(), load=load, formats=())
