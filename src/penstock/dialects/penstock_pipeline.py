"""Penstock's own Pipeline, penstock.dev/v1alpha1: graphs the pleasant way.

A step calls the service of its own name unless it says otherwise, takes the request unless it names inputs,
and the pipeline answers the steps that nobody else takes. An input is written `STEP`, `STEP.TENSOR`,
`request` or `request.TENSOR`, or as a map where it gets another name (`{from: detect.boxes, as: x}`).
"""

from __future__ import annotations

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.graph_annotations import header_patterns
from penstock.dialects.graph_fields import problems_of, render_status
from penstock.dialects.metadata import DEFAULT_NAMESPACE, check_metadata
from penstock.dialects.penstock_pipeline_fields import (
    InputFields,
    Pipeline,
    PipelineSpec,
    Seconds,
    StepFields,
    TensorFields,
)
from penstock.dialects.scaling_fields import seconds
from penstock.dialects.schema import path, read
from penstock.dialects.support import Table
from penstock.domain.graph import (
    Action,
    Batch,
    Builtin,
    BuiltinUnit,
    Call,
    CallUrl,
    Combine,
    Condition,
    External,
    Flow,
    Gate,
    Graph,
    HandOn,
    Inputs,
    Join,
    OnFailure,
    Router,
    RunGraph,
    Side,
    Signature,
    Source,
    Splitter,
    Step,
    Switch,
    Tensor,
    Verb,
    Wire,
)
from penstock.domain.graph_check import GraphProblem
from penstock.domain.names import label_problem, service_problem
from penstock.errors import FieldProblem

API_VERSION = "penstock.dev/v1alpha1"
REQUEST = "request"
FLOW = "pipeline"

TABLE = Table(())

_ACTIONS = ("model", "url", "pipeline", "switch", "split", "router", "builtin", "join_only")


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """Pipeline -> `Graph`."""
    parsed, problems = read(Pipeline, manifest)
    if parsed is None:
        refuse(manifest, problems)
    meta = parsed.metadata
    problems = check_metadata(meta, name_problem=service_problem, namespaced=True)
    reader = _Reader(parsed.spec, manifest["spec"], problems)
    graph = reader.graph(meta.namespace or DEFAULT_NAMESPACE, meta.name or "")
    if not problems:
        problems = problems_of(graph, reader.locate) or reader.unanswered
    if problems:
        refuse(manifest, problems)
    return Translation(graph, locate=reader.locate)


class _Reader:
    """A graph out of validated fields; collects problems."""

    def __init__(self, spec: PipelineSpec, raw: Manifest, problems: list[FieldProblem]) -> None:
        self._spec = spec
        whole = isinstance(raw.get("output"), dict)
        #: Where the output's sources are written.
        self._output_at: tuple[str, ...] = ("output", "from") if whole else ("output",)
        whole = isinstance(raw.get("listensTo"), dict)
        self._listens_at: tuple[str, ...] = ("listensTo", "from") if whole else ("listensTo",)
        #: Whether steps' conditions are written as lists.
        self._listed = [isinstance(s.get("when"), list) for s in raw["steps"]]
        self._problems = problems
        #: Why there has to be an output. A step that is misspelt, or a circle, leaves steps over that nobody
        #: meant, so it is told once the steps themselves are right.
        self.unanswered: list[FieldProblem] = []
        self._index = {s.name: i for i, s in enumerate(spec.steps)}
        self._gates: dict[str, list[Gate]] = {}

    def _wrong(self, at: tuple[int | str, ...], message: str) -> None:
        self._problems.append(FieldProblem(path(("spec", *at)), message))

    def _seconds(self, value: Seconds | None, at: tuple[int | str, ...]) -> float | None:
        if value is None:
            return None
        try:
            found = seconds(float(value) if isinstance(value, int) else value)
        except ValueError as exc:
            self._wrong(at, str(exc))
            return None
        if found is not None and found <= 0:
            self._wrong(at, "must be more than 0")
        return found

    def graph(self, namespace: str, name: str) -> Graph:
        spec = self._spec
        for i, step in enumerate(spec.steps):
            if self._index[step.name] != i:
                at = ("steps", self._index[step.name], "name")
                self._wrong(at, f"there are two steps of the name {step.name}")
        actions = [self._action(s, ("steps", i)) for i, s in enumerate(spec.steps)]
        steps = tuple(
            self._step(s, action, ("steps", i))
            for i, (s, action) in enumerate(zip(spec.steps, actions, strict=True))
        )
        plain = Graph(namespace, name, ())
        timeout_s = self._seconds(spec.timeout, ("timeout",))
        flow = Flow(
            FLOW,
            steps,
            self._output(steps),
            inputs=_tensors(spec.request.tensors) if spec.request is not None else None,
            max_revisits=spec.max_revisits,
        )
        return Graph(
            namespace,
            name,
            (flow,),
            timeout_s=plain.timeout_s if timeout_s is None else timeout_s,
            propagate=header_patterns(spec.headers or ()),
            max_parallel=spec.max_parallel or plain.max_parallel,
            external=self._external() if spec.listens_to is not None else None,
        )

    def _action(self, step: StepFields, at: tuple[int | str, ...]) -> Action:
        said = [f for f in _ACTIONS if getattr(step, f) not in (None, False)]
        if len(said) > 1:
            names = " and ".join("joinOnly" if f == "join_only" else f for f in said)
            self._wrong(at, f"does one thing, not {names}")
        if "." in step.name or step.name == REQUEST:
            self._wrong(
                (*at, "name"), f"{step.name!r} cannot name a step: no dots, and not request"
            )
        called = step.model if step.model is not None else step.name
        if not said or step.model is not None:
            problem = service_problem(called)
            if problem:
                self._wrong((*at, "model" if step.model is not None else "name"), problem)
        if step.namespace is not None and (problem := label_problem(step.namespace)):
            self._wrong((*at, "namespace"), problem)
        wire = Wire(step.protocol) if step.protocol is not None else Wire.AUTO
        if step.bandit is not None and step.split is None:
            self._wrong((*at, "bandit"), "has a meaning beside split only")
        if step.url is not None:
            return CallUrl(step.url, wire)
        if step.pipeline is not None:
            return RunGraph(step.pipeline, step.namespace or "")
        if step.switch is not None:
            self._branches(
                step, [(c.step, (*at, "switch", i, "step")) for i, c in enumerate(step.switch)]
            )
            return Switch(tuple(c.when or "" for c in step.switch))
        if step.split is not None:
            self._branches(
                step, [(c.step, (*at, "split", i, "step")) for i, c in enumerate(step.split)]
            )
            return Splitter(
                tuple(float(c.weight) for c in step.split),
                step.bandit.bandit() if step.bandit is not None else None,
                tuple(c.step for c in step.split) if step.bandit is not None else (),
            )
        if step.router is not None:
            named = step.router.steps
            self._branches(step, [(n, (*at, "router", "steps", i)) for i, n in enumerate(named)])
            return Router(Call(step.router.model, step.namespace or "", wire=wire), len(named))
        if step.builtin is not None:
            return Builtin(BuiltinUnit(step.builtin))
        if step.join_only:
            return HandOn()
        return Call(
            called,
            step.namespace or "",
            step.model_name or "",
            step.revision or "",
            Verb(step.verb) if step.verb is not None else Verb.PREDICT,
            wire,
        )

    def _branches(
        self, chooser: StepFields, named: list[tuple[str, tuple[int | str, ...]]]
    ) -> None:
        for branch, (name, at) in enumerate(named):
            if name not in self._index:
                self._wrong(at, f"there is no step {name!r}")
            elif name == chooser.name:
                self._wrong(at, "a step cannot choose itself")
            self._gates.setdefault(name, []).append(Gate(chooser.name, branch))

    def _step(self, given: StepFields, action: Action, at: tuple[int | str, ...]) -> Step:
        inputs = Inputs(
            self._sources(given.inputs, (*at, "inputs")),
            Join(given.join or "inner"),
            self._seconds(given.window, (*at, "window")),
            Combine(given.combine or "merge"),
        )
        triggers = None
        if given.triggers is not None:
            triggers = Inputs(
                self._sources(given.triggers, (*at, "triggers")),
                Join(given.triggers_join or "inner"),
            )
        elif given.triggers_join is not None:
            self._wrong((*at, "triggersJoin"), "there are no triggers to join")
        batch = None
        if given.batch is not None:
            window_s = self._seconds(given.batch.window, (*at, "batch", "window"))
            batch = (
                Batch(given.batch.size) if window_s is None else Batch(given.batch.size, window_s)
            )
        signature = None
        if given.takes is not None or given.gives is not None:
            signature = Signature(
                _tensors(given.takes) if given.takes is not None else None,
                _tensors(given.gives) if given.gives is not None else None,
            )
        return Step(
            given.name,
            action,
            inputs,
            triggers,
            self._when(given, inputs),
            tuple(self._gates.get(given.name, ())),
            OnFailure(given.on_failure or "fail"),
            batch,
            self._seconds(given.timeout, (*at, "timeout")),
            bool(given.predictions_as_instances),
            signature,
        )

    def _when(self, given: StepFields, inputs: Inputs) -> tuple[Condition, ...]:
        first = next((s.step for s in inputs.sources), "")
        if given.when is None:
            return ()
        found = []
        for when in given.when:
            step = first if when.step is None else when.step
            found.append(
                Condition(when.path, "" if step == REQUEST else step, negate=bool(when.negate))
            )
        return tuple(found)

    def _sources(
        self, given: list[InputFields] | None, at: tuple[int | str, ...]
    ) -> tuple[Source, ...]:
        found = []
        for i, fields in enumerate(given or ()):
            step, _, tensor = fields.from_.partition(".")
            if not step or (not tensor and fields.from_.endswith(".")):
                self._wrong((*at, i), "STEP, STEP.TENSOR, request or request.TENSOR is expected")
            if fields.as_ and not tensor:
                self._wrong((*at, i), "`as` names one tensor; write STEP.TENSOR")
            found.append(
                Source(
                    "" if step == REQUEST else step,
                    Side(fields.side or "outputs"),
                    tensor,
                    fields.as_ or "",
                    fields.key or "",
                )
            )
        return tuple(found)

    def _external(self) -> External:
        given = self._spec.listens_to
        assert given is not None  # noqa: S101 - the caller has looked
        window_s = self._seconds(given.window, ("listensTo", "window"))
        triggers = None
        if given.triggers is not None:
            heard = self._heard(given.triggers, ("listensTo", "triggers"))
            triggers = Inputs(heard, Join(given.triggers_join or "inner"), window_s)
        elif given.triggers_join is not None:
            self._wrong(("listensTo", "triggersJoin"), "there are no triggers to join")
        heard = self._heard(given.from_, self._listens_at)
        return External(Inputs(heard, Join(given.join or "inner"), window_s), triggers)

    def _heard(self, given: list[InputFields], at: tuple[int | str, ...]) -> tuple[Source, ...]:
        """Sources as `External` has them: PIPELINE or PIPELINE.STEP."""
        found = []
        for i, fields in enumerate(given):
            whose, dot, tensor = fields.from_.partition(".")
            pipeline, slash, step = whose.partition("/")
            wrong = service_problem(pipeline)
            if wrong or (slash and not step) or (dot and not tensor):
                self._wrong((*at, i), wrong or "PIPELINE[/STEP][.TENSOR] is expected")
            if fields.as_ and not tensor:
                self._wrong((*at, i), "`as` names one tensor; write PIPELINE.TENSOR")
            source = f"{pipeline}.{step}" if step else pipeline
            found.append(Source(source, Side(fields.side or "outputs"), tensor, fields.as_ or ""))
        return tuple(found)

    def _output(self, steps: tuple[Step, ...]) -> Inputs:
        given = self._spec.output
        if given is None:
            return self._default_output(steps)
        return Inputs(
            self._sources(given.from_, self._output_at),
            Join(given.join or "inner"),
            self._seconds(given.window, ("output", "window")),
            Combine(given.combine or "merge"),
        )

    def _default_output(self, steps: tuple[Step, ...]) -> Inputs:
        """The steps that no other one takes: one, or branches of which one is taken."""
        taken = {s.step for step in steps for s in step.inputs.sources}
        taken |= {g.chooser for step in steps for g in step.gates}
        last = [s for s in steps if s.name not in taken]
        wrong = ""
        if len(last) > 1 and not all(s.gates for s in last):
            names = ", ".join(s.name for s in last)
            wrong = f"is required: which of {names} is the answer?"
        if not last:
            wrong = "is required: every step is the input of another"
            last = list(steps)
        if wrong:
            self.unanswered.append(FieldProblem(path(("spec", "output")), wrong))
        join = Join.ANY if len(last) > 1 else Join.INNER
        return Inputs(tuple(Source(s.name) for s in last), join)

    def locate(self, problem: GraphProblem) -> tuple[int | str, ...]:
        """Where a problem of the graph is in the manifest."""
        if problem.part == "timeout" and not problem.step:
            return ("spec", "timeout")
        if problem.part == "external":
            return ("spec", *self._listens_at, *_at(problem))
        if problem.part == "external triggers":
            return ("spec", "listensTo", "triggers", *_at(problem))
        if problem.part == "propagate":
            return ("spec", "headers", problem.index or 0)
        if problem.part == "max_revisits":
            return ("spec", "maxRevisits")
        if problem.step not in self._index:
            if problem.part == "output":
                return ("spec", *self._output_at, *_at(problem))
            return ("spec", "steps", *_at(problem))
        index = self._index[problem.step]
        at: tuple[int | str, ...] = ("spec", "steps", index)
        step = self._spec.steps[index]
        if problem.part == "conditions":
            return (*at, "switch", problem.index or 0, "when")
        if problem.part == "weights":
            return (*at, "split", *((problem.index, "weight") if problem.index is not None else ()))
        if problem.part == "action":
            field = next((f for f in _ACTIONS if getattr(step, f) is not None), "")
            return (*at, field) if field else at
        if problem.part == "when" and not self._listed[index]:
            return (*at, "when")
        if problem.part in ("inputs", "triggers", "when"):
            return (*at, problem.part, *_at(problem))
        return (*at, problem.part) if problem.part in ("batch", "timeout") else at


def _at(problem: GraphProblem) -> tuple[int, ...]:
    return (problem.index,) if problem.index is not None else ()


def _tensors(given: list[TensorFields]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(t.name, t.datatype or "", tuple(t.shape) if t.shape is not None else None)
        for t in given
    )


DIALECT = Dialect(
    api_version=API_VERSION,
    kind="Pipeline",
    plural="pipelines",
    singular="pipeline",
    short_names=("pl",),
    namespaced=True,
    model=Pipeline,
    table=TABLE,
    translator=translate,
    renderer=render_status,
    is_graph=True,
)
