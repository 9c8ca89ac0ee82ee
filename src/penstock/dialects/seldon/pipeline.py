"""Seldon Core V2's Pipeline, mlops.seldon.io/v1alpha1.

A step is a Model of its name. What Seldon moves through topics goes from step to step of one request here, so
its semantics are kept where a caller can see them, and where Seldon's caller would wait for ever or get two
answers, what happens is decided (docs/how-to/seldon-pipelines.md):

* a step without the tensors that it takes is skipped, as there; if nothing is left, the answer is 422;
* a join `any` takes the first that is there, once;
* a step that the output does not need may fail without changing the answer;
* a batch goes after its window even if it is not full, and each request gets its own rows;
* a pipeline without `output` answers what its last steps give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import structs
from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.graph_fields import problems_of
from penstock.dialects.graph_fields import render_status as render_graph
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.schema import Spec, path, read
from penstock.dialects.seldon.references import At, References
from penstock.dialects.support import Table, no_effect
from penstock.domain.graph import (
    Answers,
    Batch,
    Call,
    External,
    Flow,
    Graph,
    Inputs,
    Join,
    OnFailure,
    Source,
    Step,
)
from penstock.domain.graph_check import GraphProblem, needs
from penstock.domain.names import service_problem
from penstock.domain.status import ANSWERS_WITHOUT, ServiceStatus
from penstock.errors import FieldProblem

FLOW: Final = "pipeline"
#: Seldon bounds no request; what nobody bounds would wait for ever.
TIMEOUT_S: Final = 60.0
#: Headers that Seldon carries along; those that steer a gateway are not the steps' concern.
PROPAGATED: Final = ("^x-(?!penstock-|seldon-)",)

JoinName = Literal["inner", "outer", "any"]
Window = Annotated[int, Field(ge=0)]


class BatchFields(Spec):
    size: Annotated[int, Field(ge=1)]
    window_ms: Annotated[int, Field(ge=1)] | None = None
    rolling: bool | None = None


class StepFields(Spec):
    name: Annotated[str, Field(min_length=1)]
    inputs: list[str] | None = None
    join_window_ms: Window | None = None
    tensor_map: dict[str, str] | None = None
    triggers: list[str] | None = None
    inputs_join_type: JoinName | None = None
    triggers_join_type: JoinName | None = None
    batch: BatchFields | None = None


class InputFields(Spec):
    external_inputs: list[str] | None = None
    external_triggers: list[str] | None = None
    join_window_ms: Window | None = None
    join_type: JoinName | None = None
    triggers_join_type: JoinName | None = None
    tensor_map: dict[str, str] | None = None


class OutputFields(Spec):
    steps: Annotated[list[str], Field(min_length=1)]
    join_window_ms: Window | None = None
    steps_join: JoinName | None = None
    tensor_map: dict[str, str] | None = None


class DataflowFields(Spec):
    clean_topics_on_delete: bool | None = None


class PipelineSpec(Spec):
    steps: Annotated[list[StepFields], Field(min_length=1)]
    input: InputFields | None = None
    output: OutputFields | None = None
    dataflow: DataflowFields | None = None
    allow_cycles: bool | None = None
    max_step_revisits: Annotated[int, Field(ge=0)] | None = None


class PipelineManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: PipelineSpec
    status: dict[str, Any] | None = None


TABLE = Table(
    (
        no_effect("spec.dataflow", "there are no topics", only_processes=False),
        no_effect(
            "spec.steps.*.batch.rolling", "is not read (Seldon does not read it either)",
            only_processes=False, harmless=(False,),
        ),
    )
)  # fmt: skip


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """Pipeline -> `Graph`."""
    _, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(PipelineManifest, manifest)
    if parsed is None:
        refuse(manifest, problems)
    meta = parsed.metadata
    problems = check_metadata(meta, name_problem=service_problem, namespaced=True)
    reader = _Reader(meta.name or "", parsed.spec, problems)
    graph = reader.graph(meta.namespace or DEFAULT_NAMESPACE)
    if not problems:
        problems = problems_of(graph, reader.locate)
    if problems:
        refuse(manifest, problems)
    if parsed.spec.max_step_revisits and not parsed.spec.allow_cycles:
        warnings.append(FieldProblem("spec.maxStepRevisits", "has a meaning with allowCycles only"))
    return Translation(graph, tuple(warnings), reader.locate)


class _Reader:
    """A graph out of validated fields; collects problems."""

    def __init__(self, name: str, spec: PipelineSpec, problems: list[FieldProblem]) -> None:
        self._name = name
        self._spec = spec
        self._problems = problems
        #: The first step of each name.
        self._index: dict[str, int] = {}
        for i, step in enumerate(spec.steps):
            self._index.setdefault(step.name, i)
        self._references = References(name, list(self._index), self._wrong)

    def _wrong(self, at: At, message: str) -> None:
        self._problems.append(FieldProblem(path(("spec", *at)), message))

    def graph(self, namespace: str) -> Graph:
        spec = self._spec
        for i, step in enumerate(spec.steps):
            self._check_name(step.name, i)
        steps = tuple(self._step(s, ("steps", i)) for i, s in enumerate(spec.steps))
        output = self._output(steps)
        flow = Flow(
            FLOW,
            _with_failures(steps, output),
            output,
            max_revisits=(spec.max_step_revisits or 0) if spec.allow_cycles else None,
        )
        return Graph(
            namespace,
            self._name,
            (flow,),
            timeout_s=TIMEOUT_S,
            answers=Answers.SELDON_V2,
            propagate=PROPAGATED,
            external=self._external() if spec.input is not None else None,
        )

    def _check_name(self, name: str, index: int) -> None:
        at = ("steps", index, "name")
        if name == self._name:
            self._wrong(at, "is the pipeline's own name, which stands for its request")
        elif (first := self._index[name]) != index:
            self._wrong(at, f"there is a step {name} already (steps[{first}]); a step is a model")
        elif problem := service_problem(name):
            self._wrong(at, problem)

    def _step(self, given: StepFields, at: At) -> Step:
        window_s = _seconds(given.join_window_ms)
        join = Join(given.inputs_join_type or "inner")
        references = self._references
        sources = references.sources(
            given.inputs or (),
            (*at, "inputs"),
            references.own,
            renames=given.tensor_map,
            renames_at=(*at, "tensorMap"),
            together=join is Join.INNER,
        )
        inputs = Inputs(sources, join, window_s)
        triggers = None
        if given.triggers:
            found = references.sources(given.triggers, (*at, "triggers"), references.own)
            triggers = Inputs(found, Join(given.triggers_join_type or "inner"), window_s)
            both = [t for t in given.triggers if t in (given.inputs or ())]
            for text in both:
                i = given.triggers.index(text)
                self._wrong((*at, "triggers", i), f"{text} is among the inputs already")
        elif given.triggers_join_type is not None:
            self._wrong((*at, "triggersJoinType"), "there are no triggers to join")
        batch = None
        if given.batch is not None:
            batch_s = _seconds(given.batch.window_ms)
            batch = Batch(given.batch.size, *(() if batch_s is None else (batch_s,)))
        return Step(given.name, Call(given.name), inputs, triggers, batch=batch)

    def _output(self, steps: Sequence[Step]) -> Inputs:
        given = self._spec.output
        if given is None:
            taken = {s.step for step in steps for s in step.inputs.sources}
            last = [s.name for s in steps if s.name not in taken] or [steps[-1].name]
            return Inputs(tuple(Source(n) for n in last), Join.OUTER)
        sources = self._references.sources(
            given.steps,
            ("output", "steps"),
            self._references.own,
            renames=given.tensor_map,
            renames_at=("output", "tensorMap"),
        )
        return Inputs(sources, Join(given.steps_join or "inner"), _seconds(given.join_window_ms))

    def _external(self) -> External | None:
        given = self._spec.input
        assert given is not None  # noqa: S101 - the caller has looked
        at = ("input",)
        if not given.external_inputs:
            for field, value in (
                ("externalTriggers", given.external_triggers),
                ("tensorMap", given.tensor_map),
            ):
                if value:
                    self._wrong(
                        (*at, field),
                        "needs externalInputs: a request of one's own has no other pipeline's values",
                    )
            return None
        references = self._references
        join = Join(given.join_type or "inner")
        window_s = _seconds(given.join_window_ms)
        inputs = references.sources(
            given.external_inputs,
            (*at, "externalInputs"),
            references.external,
            renames=given.tensor_map,
            renames_at=(*at, "tensorMap"),
            together=join is Join.INNER,
        )
        triggers = None
        if given.external_triggers:
            started_by = references.sources(
                given.external_triggers, (*at, "externalTriggers"), references.external
            )
            triggers = Inputs(started_by, Join(given.triggers_join_type or "inner"), window_s)
        return External(Inputs(inputs, join, window_s), triggers)

    # -- where problems are -----------------------------------------------------------------------

    def locate(self, problem: GraphProblem) -> At:
        """Where a problem of the graph is in the manifest."""
        index = (problem.index,) if problem.index is not None else ()
        if problem.part == "external":
            return ("spec", "input", "externalInputs", *index)
        if problem.part == "external triggers":
            return ("spec", "input", "externalTriggers", *index)
        if problem.step not in self._index:
            if problem.part == "output":
                return ("spec", "output", "steps", *index)
            return ("spec", "steps", *index)
        at: At = ("spec", "steps", self._index[problem.step])
        if problem.part == "inputs" and not self._spec.steps[self._index[problem.step]].inputs:
            return (*at, "triggers")  # what it waits for can only be these
        return (
            (*at, problem.part, *index) if problem.part in ("inputs", "triggers", "batch") else at
        )


def _with_failures(steps: Sequence[Step], output: Inputs) -> tuple[Step, ...]:
    """The steps; those that the answer does not depend on may fail without changing it."""
    needs_of = {s.name: needs(s) for s in steps}
    needed: set[str] = set()
    todo = [s.step for s in output.sources]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += needs_of.get(name, ())
    return tuple(
        s if s.name in needed else structs.replace(s, on_failure=OnFailure.SKIP) for s in steps
    )


def _seconds(window_ms: int | None) -> float | None:
    """Seldon's default window is a minute; here it is the time that the request has."""
    return window_ms / 1000 if window_ms else None


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """PipelineStatus: Seldon's conditions beside Ready.

    PipelineReady and PipelineGwReady are about the pipeline itself, ModelsReady about what it names.
    """
    rendered = render_graph(manifest, status)
    rendered.pop("deploymentMode", None)
    ready = next((c for c in rendered["conditions"] if c["type"] == "Ready"), None)
    if ready is not None:
        # It may be ready without all that it names: a step that the answer does not need may fail.
        models = {**ready, "status": "False"} if ready.get("reason") == ANSWERS_WITHOUT else ready
        itself = {k: v for k, v in ready.items() if k not in ("reason", "message")}
        rendered["conditions"] = [
            *rendered["conditions"],
            {**models, "type": "ModelsReady"},
            *({**itself, "type": t, "status": "True"} for t in ("PipelineReady", "PipelineGwReady")),
        ]  # fmt: skip
    return rendered


DIALECT = Dialect(
    api_version="mlops.seldon.io/v1alpha1",
    kind="Pipeline",
    plural="pipelines",
    singular="pipeline",
    short_names=("mlp",),
    namespaced=True,
    model=PipelineManifest,
    table=TABLE,
    translator=translate,
    renderer=render_status,
    is_graph=True,
)
