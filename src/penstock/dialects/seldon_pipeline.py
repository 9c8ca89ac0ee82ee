"""Seldon Core V2's Pipeline, mlops.seldon.io/v1alpha1.

A step is a Model of its name. What Seldon moves through topics goes from step to step of one request here, so
its semantics are kept where a caller can see them, and where Seldon's caller would wait for ever or get two
answers, what happens is decided (docs/how-to/from-seldon.md):

* a step without the tensors that it takes is skipped, as there; if nothing is left, the answer is 422;
* a join `any` takes the first that is there, once;
* a step that the output does not need may fail without changing the answer;
* a batch goes after its window even if it is not full, and each request gets its own rows;
* a pipeline without `output` answers what its last steps give.

References are told apart here: `STEP`, `STEP.inputs|outputs[.TENSOR]`, the pipeline's own name for its
request, and for external inputs `PIPELINE[.step.STEP][.inputs|outputs[.TENSOR]]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import structs
from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.graph_fields import problems_of
from penstock.dialects.graph_fields import render_status as render_graph
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.schema import Spec, nearest, path, read
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
    Side,
    Source,
    Step,
)
from penstock.domain.graph_check import GraphProblem, needs
from penstock.domain.names import service_problem
from penstock.domain.status import ServiceStatus
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

At = tuple[int | str, ...]


class _Reference(NamedTuple):
    """Where a value is; `step` is empty for the pipeline's own request."""

    step: str
    side: Side
    tensor: str = ""


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
        inputs = Inputs(
            self._sources(
                given.inputs or (), (*at, "inputs"), given.tensor_map, at, join is Join.INNER
            ),
            join,
            window_s,
        )
        triggers = None
        if given.triggers:
            found = self._sources(given.triggers, (*at, "triggers"), None, at, False)
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
        return Inputs(
            self._sources(given.steps, ("output", "steps"), given.tensor_map, ("output",), False),
            Join(given.steps_join or "inner"),
            _seconds(given.join_window_ms),
        )

    # -- references -------------------------------------------------------------------------------

    def _sources(
        self,
        given: Sequence[str],
        at: At,
        tensor_map: Mapping[str, str] | None,
        owner: At,
        together: bool,
    ) -> tuple[Source, ...]:
        """`given` as sources, under the names that the map of the field's `owner` gives their tensors."""
        found: list[_Reference] = []
        for i, text in enumerate(given):
            reference = self._reference(text, (*at, i))
            if reference is None:
                continue
            if reference in found:
                self._wrong((*at, i), f"{text} is named twice")
            found.append(reference)
        if not given:
            found.append(_Reference("", Side.INPUTS))
        renames = self._renames(
            tensor_map or {}, found, (*owner, "tensorMap"), self._reference, together
        )
        if not given and not renames:
            return ()
        return _renamed(found, renames)

    def _reference(self, text: str, at: At) -> _Reference | None:
        """A value of this pipeline; None when the text means none, which is told."""
        step, _, rest = text.partition(".")
        own = step == self._name
        if not step or text.endswith("."):
            self._wrong(at, "is empty" if not text else f"{text}: STEP.outputs.TENSOR is expected")
            return None
        if not own and step not in self._index:
            near = nearest(step, [*self._index, self._name])
            known = ", ".join(list(self._index)[:8])
            hint = f"did you mean {near}?" if near else f"there is {known}, or {self._name} itself"
            self._wrong(at, f"there is no step {step!r}; {hint}")
            return None
        side, _, tensor = rest.partition(".")
        if not rest:
            return _Reference("" if own else step, Side.INPUTS if own else Side.OUTPUTS)
        if not self._is_side(side, at, text):
            return None
        if own and side == "outputs":
            self._wrong(at, f"{self._name} is this pipeline: while it runs it has only inputs")
            return None
        return _Reference("" if own else step, Side(side), tensor)

    def _external_reference(self, text: str, at: At) -> _Reference | None:
        """A value of another pipeline: its `step` is PIPELINE or PIPELINE.STEP."""
        if not text or text.endswith("."):
            self._wrong(at, "is empty" if not text else f"{text}: PIPELINE.outputs is expected")
            return None
        source, _, rest = text.partition(".")
        if rest == "step" or rest.startswith("step."):
            step, _, rest = rest[5:].partition(".")
            if not step:
                self._wrong(at, f"{text}: PIPELINE.step.STEP is expected")
                return None
            source += f".{step}"
        for name in source.split("."):
            if problem := service_problem(name):
                self._wrong(at, problem)
                return None
        if not rest:
            return _Reference(source, Side.OUTPUTS)
        side, _, tensor = rest.partition(".")
        if not self._is_side(side, at, text):
            return None
        return _Reference(source, Side(side), tensor)

    def _is_side(self, side: str, at: At, text: str) -> bool:
        if side in ("inputs", "outputs"):
            return True
        near = nearest(side, ["inputs", "outputs"])
        hint = f", did you mean {near}?" if near else ""
        self._wrong(at, f"{text}: inputs or outputs is expected after the first dot{hint}")
        return False

    def _renames(
        self,
        given: Mapping[str, str],
        among: Sequence[_Reference],
        at: At,
        parse: Any,
        together: bool,
    ) -> dict[_Reference, str]:
        """New names by tensor. One of nothing is told, and so is one of two that come `together`."""
        found: dict[_Reference, str] = {}
        for text, new in given.items():
            here = (*at, text)
            reference = parse(text, here)
            if reference is None:
                continue
            whole = reference._replace(tensor="")
            if not reference.tensor:
                self._wrong(here, "names no tensor: STEP.outputs.TENSOR is expected")
            elif not new:
                self._wrong(here, "the tensor's new name is empty")
            elif reference not in among and whole not in among:
                self._wrong(here, f"renames nothing: {text} is not among the inputs")
            elif together and new in found.values():
                self._wrong(here, f"a second tensor gets the name {new!r}")
            else:
                found[reference] = new
        return found

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
        found = [
            self._external_reference(text, (*at, "externalInputs", i))
            for i, text in enumerate(given.external_inputs)
        ]
        renames = self._renames(
            given.tensor_map or {},
            [r for r in found if r is not None],
            (*at, "tensorMap"),
            self._external_reference,
            (given.join_type or "inner") == "inner",
        )
        window_s = _seconds(given.join_window_ms)
        triggers = None
        if given.external_triggers:
            started_by = [
                self._external_reference(text, (*at, "externalTriggers", i))
                for i, text in enumerate(given.external_triggers)
            ]
            triggers = Inputs(
                _renamed([r for r in started_by if r is not None], {}),
                Join(given.triggers_join_type or "inner"),
                window_s,
            )
        return External(
            Inputs(
                _renamed([r for r in found if r is not None], renames),
                Join(given.join_type or "inner"),
                window_s,
            ),
            triggers,
        )

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


def _renamed(found: Sequence[_Reference], renames: Mapping[_Reference, str]) -> tuple[Source, ...]:
    """References as sources; a whole value brings the new names of its tensors."""
    return tuple(
        Source(r.step, r.side, r.tensor, renames.get(r, ""))
        if r.tensor
        else Source(
            r.step,
            r.side,
            renames=tuple(
                (t.tensor, new)
                for t, new in renames.items()
                if t._replace(tensor="") == r and t not in found
            ),
        )
        for r in found
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
        itself = {k: v for k, v in ready.items() if k not in ("reason", "message")}
        rendered["conditions"] = [
            *rendered["conditions"],
            {**ready, "type": "ModelsReady"},
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
