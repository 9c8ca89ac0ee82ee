"""A graph: many models answering one request, in the one form that every dialect compiles to.

KServe's InferenceGraph, Seldon's Pipeline and predictor graph, and Penstock's own Pipeline differ in what
they let a user write. What runs is the same for all of them, and is described here: a `Graph` has flows; a
`Flow` is a set of steps between an input and an output; a `Step` does one thing (asks a service, runs
another flow, chooses a branch, or hands its input on) as soon as what it is made of is there.

What a step waits for is all data flow, in three ways:

* `inputs`: values of other steps, whole or tensor by tensor, joined (`Inputs`);
* `triggers`: values that have to be there and are not looked at;
* `gates` and `when`: a branch that a `Switch`, `Splitter` or `Router` has chosen, and conditions.

A step ends *done* with a value, *skipped* (an input is absent, a gate is shut, a condition does not hold,
a wanted tensor was not in the answer) or *failed*. A skipped step's value is absent, which skips what needs
it: so a branch is switched off by choosing another, by a condition, or, as in Seldon, by a model that leaves
a tensor out of its answer. A failure ends the flow, unless `Step.on_failure` says otherwise.

How dialects map onto it:

| there | here |
|---|---|
| KServe node Sequence | step n has `inputs` of the flow or of step n-1, `when` on n-1; the output is `LAST` |
| KServe node Switch, Splitter | a step `Switch` or `Splitter`, gated steps, the output `FIRST` |
| KServe node Ensemble | steps side by side, the output `OBJECT` with `Source.key` |
| KServe `nodeName` | `RunFlow` |
| KServe dependency Soft | `OnFailure.ANSWER` |
| Seldon Pipeline step | a `Call`, `Inputs` with tensors and join, `triggers`, `batch` |
| Seldon `tensorMap` | `Source.rename`, of a whole value `Source.renames` |
| Seldon `externalInputs` | `Graph.external` |
| Seldon ROUTER | a step `Router` that calls the unit's ROUTE; children are gated by it |
| Seldon COMBINER | a `Call` with verb AGGREGATE whose inputs are combined as a `LIST` |
| Seldon TRANSFORMER, OUTPUT_TRANSFORMER | `Call`s with verbs TRANSFORM_INPUT and TRANSFORM_OUTPUT |

The types are msgspec structs because a graph travels to the gateways as it is, inside its route. `check`
(graph_check) says what is wrong with one; only a graph without problems may be executed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from penstock.domain.bandit import Bandit


class Join(StrEnum):
    """When a step with several sources runs, where a source is a step (several tensors of it are one)."""

    #: All of them are there. One that is absent skips the step.
    INNER = "inner"
    #: Every one is there or known to be absent, or the window is over; at least one is there.
    OUTER = "outer"
    #: The first one that is there; the others are not used. The step runs once (in a cycle: once for each).
    ANY = "any"


class Combine(StrEnum):
    """What one value is made of several sources' values, in the order in which the sources are listed."""

    #: All tensors side by side. A name that was there before becomes `STEP.NAME`. JSON objects: all keys.
    MERGE = "merge"
    #: The first of the values that are there.
    FIRST = "first"
    #: The last of the values that are there: what a sequence that stopped early answers.
    LAST = "last"
    #: A list of values (Seldon's SeldonMessageList), for an AGGREGATE.
    LIST = "list"
    #: One JSON object, each value under its source's key.
    OBJECT = "object"


class Side(StrEnum):
    """Which side of a step a source takes: what went in, or what came out."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"


class OnFailure(StrEnum):
    """What a step's failure means for its flow."""

    #: The flow fails with it: KServe's Hard.
    FAIL = "fail"
    #: Its error body and status are its value: KServe's Soft.
    ANSWER = "answer"
    #: The step counts as skipped.
    SKIP = "skip"


class Verb(StrEnum):
    """What is asked of a service."""

    PREDICT = "predict"
    EXPLAIN = "explain"
    #: The calls of Seldon's Python wrapper.
    TRANSFORM_INPUT = "transform-input"
    TRANSFORM_OUTPUT = "transform-output"
    ROUTE = "route"
    AGGREGATE = "aggregate"
    SEND_FEEDBACK = "send-feedback"


class Wire(StrEnum):
    """How a value goes to a service."""

    #: Tensors as V2 with binary tensors; JSON as V2 or V1 by its shape, or as it came.
    AUTO = "auto"
    V1 = "v1"
    V2 = "v2"
    #: Seldon's SeldonMessage.
    SELDON = "seldon"


# -- where values come from -----------------------------------------------------------------------------


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value, or one tensor of it."""

    #: A step of the same flow; empty: the flow's own input.
    step: str = ""
    side: Side = Side.OUTPUTS
    #: Only this tensor (or key of a JSON object); empty: the whole value.
    tensor: str = ""
    #: The tensor's new name; empty: it keeps its own.
    rename: str = ""
    #: Under which key `Combine.OBJECT` puts it; empty: the step's name.
    key: str = ""
    #: Of a whole value: (tensor, new name) of those that do not keep theirs.
    renames: tuple[tuple[str, str], ...] = ()


class Inputs(msgspec.Struct, frozen=True, omit_defaults=True):
    """Several sources that make up one value."""

    sources: tuple[Source, ...] = ()
    join: Join = Join.INNER
    #: How long to wait for the others once the first is there, seconds; None: as long as there is time.
    window_s: float | None = None
    combine: Combine = Combine.MERGE


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Holds when the GJSON `path` exists in a value's JSON (tensors are looked at as a V2 response)."""

    path: str
    #: Whose value; empty: the flow's input.
    step: str = ""
    side: Side = Side.OUTPUTS
    #: Holds when the path does not exist.
    negate: bool = False


class Gate(msgspec.Struct, frozen=True):
    """Open when the step `chooser` has taken `branch`."""

    chooser: str
    branch: int


# -- what steps do --------------------------------------------------------------------------------------


class Call(msgspec.Struct, frozen=True, tag="call", omit_defaults=True):
    """Ask a service of this platform, by the way that its clients take."""

    service: str
    #: Empty: the graph's.
    namespace: str = ""
    #: The model's name on the wire; empty: the service's.
    model: str = ""
    #: A revision's tag or name; empty: by the service's shares.
    revision: str = ""
    verb: Verb = Verb.PREDICT
    wire: Wire = Wire.AUTO
    #: The path to post to, where a verb and a wire do not say it; empty: they do.
    path: str = ""


class CallUrl(msgspec.Struct, frozen=True, tag="url", omit_defaults=True):
    """POST the value to an address outside of the platform: `http://HOST[:PORT]/PATH`."""

    url: str
    wire: Wire = Wire.AUTO


class RunFlow(msgspec.Struct, frozen=True, tag="flow"):
    """Run another flow of this graph; its failure is this step's."""

    flow: str


class RunGraph(msgspec.Struct, frozen=True, tag="graph", omit_defaults=True):
    """Run another graph; its failure is this step's. Its own deadline counts too."""

    graph: str
    namespace: str = ""


class HandOn(msgspec.Struct, frozen=True, tag="hand-on"):
    """Answer the input: a step that only joins."""


class BuiltinUnit(StrEnum):
    """Units that run without a process of their own."""

    #: Element-wise mean of a LIST of values of one shape (Seldon's AVERAGE_COMBINER).
    AVERAGE = "average"
    #: Seldon's SIMPLE_MODEL: one row of [0.1, 0.9, 0.5] named class0 to class2, whatever the input.
    SIMPLE_MODEL = "simple-model"


class Builtin(msgspec.Struct, frozen=True, tag="builtin"):
    """Computed by the executor."""

    unit: BuiltinUnit


class Switch(msgspec.Struct, frozen=True, tag="switch", omit_defaults=True):
    """Takes the branch of the first condition (GJSON path) that exists in the input; an empty one does."""

    conditions: tuple[str, ...]
    #: No condition holds: True fails the step (404), False takes no branch.
    must_match: bool = True


class Splitter(msgspec.Struct, frozen=True, tag="splitter", omit_defaults=True):
    """Takes a branch at random by weights, in percent; or the one that rewards speak for."""

    weights: tuple[float, ...]
    #: Branches with a weight are its arms, `weights` what divides requests until there are rewards.
    bandit: Bandit | None = None
    #: The branches' names as arms; empty: their numbers.
    arms: tuple[str, ...] = ()

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches, as arms."""
        return self.arms or tuple(str(i) for i in range(len(self.weights)))


class Router(msgspec.Struct, frozen=True, tag="router"):
    """Asks a unit for the branch. -1 takes all of them, -2 none."""

    call: Call
    branches: int


#: Steps whose value is their input, and which open gates.
Chooser: TypeAlias = Switch | Splitter | Router
Action: TypeAlias = (
    Call | CallUrl | RunFlow | RunGraph | HandOn | Builtin | Switch | Splitter | Router
)


class Batch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows of several requests in one call; each request gets its own rows back."""

    #: Rows that a call waits for.
    size: int
    #: How long the first of them waits for the rest, seconds.
    window_s: float = 0.05


class Tensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor as somebody declares it: V2's datatype (empty: any), -1 for a size that is open."""

    name: str
    datatype: str = ""
    #: None: any rank.
    shape: tuple[int, ...] | None = None


class Signature(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tensors that a step is known to take and to give; None: not known."""

    inputs: tuple[Tensor, ...] | None = None
    outputs: tuple[Tensor, ...] | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing to do in a flow. A chooser's value is its input."""

    name: str
    action: Action
    #: No sources: the flow's whole input.
    inputs: Inputs = Inputs()
    triggers: Inputs | None = None
    #: All of them have to hold, or the step is skipped.
    when: tuple[Condition, ...] = ()
    #: All of them have to be open.
    gates: tuple[Gate, ...] = ()
    on_failure: OnFailure = OnFailure.FAIL
    batch: Batch | None = None
    #: Seconds for this step; None: what is left of the request's.
    timeout_s: float | None = None
    #: `{"predictions": [...]}` goes in as `{"instances": [...]}` (KServe's mapPredictionsToInstances).
    predictions_as_instances: bool = False
    signature: Signature | None = None


class Flow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Steps between an input and an output.

    The flow is over as soon as its output is complete. Steps that the output does not need (a drift
    detector beside the model) go on until the request's deadline, and nobody waits for them.
    """

    name: str
    steps: tuple[Step, ...]
    output: Inputs
    #: Tensors that a request is known to bring; None: anything.
    inputs: tuple[Tensor, ...] | None = None
    #: Cycles are allowed, and each step in one may run this often again. None: no cycles.
    max_revisits: int | None = None


class External(msgspec.Struct, frozen=True, omit_defaults=True):
    """Values of other graphs' requests, in place of a request of one's own (Seldon's externalInputs).

    For each request of theirs this graph runs once, beside them: nobody waits for its answer, and what it
    gives may be the input of others. A source's `step` is `GRAPH` or `GRAPH.STEP` (of that graph's first
    flow, in the same namespace).
    """

    inputs: Inputs
    #: Values that have to be there, too.
    triggers: Inputs | None = None

    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs that it listens to."""
        triggers = self.triggers.sources if self.triggers is not None else ()
        names = (s.step.partition(".")[0] for s in (*self.inputs.sources, *triggers))
        return tuple(dict.fromkeys(names))


class Answers(StrEnum):
    """In whose shape a graph answers what only that dialect has: errors, empty answers, metadata."""

    PENSTOCK = "penstock"
    KSERVE = "kserve"
    SELDON_V2 = "seldon-v2"
    SELDON_V1 = "seldon-v1"


class Graph(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named graph. The first flow is the one that a request enters."""

    namespace: str
    name: str
    flows: tuple[Flow, ...]
    #: Seconds for the whole request.
    timeout_s: float = 60.0
    answers: Answers = Answers.PENSTOCK
    #: Request headers that go along to every call, as regular expressions over lower-case names.
    propagate: tuple[str, ...] = ()
    #: Calls of one request that may be under way, and that there may be, cycles and nested flows included.
    max_parallel: int = 64
    max_calls: int = 1000
    #: Other graphs' values that this graph is run for, besides its own requests.
    external: External | None = None
    #: (flow, step) of the units that learn from feedback about an answer that they had a part in.
    feedback: tuple[tuple[str, str], ...] = ()
    #: (flow, service) of those that explain a flow's answers, by asking it.
    explainers: tuple[tuple[str, str], ...] = ()
    #: A request may ask to be told what passed its steps.
    inspect: bool = True
    #: It answers nobody, on request.
    stopped: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def flow(self, name: str) -> Flow | None:
        return next((f for f in self.flows if f.name == name), None)

    def explainer(self, flow: str = "") -> str:
        """The service that explains a flow, or any; empty: there is none."""
        return next((s for f, s in self.explainers if flow in ("", f)), "")

    def explaining(self) -> tuple[tuple[str, str], ...]:
        """(namespace, name) of every service that explains it."""
        return tuple((self.namespace, service) for _, service in self.explainers)

    def services(self) -> tuple[tuple[str, str], ...]:
        """(namespace, name) of every service that it calls, each once, in the order of the steps."""
        found: dict[tuple[str, str], None] = {}
        for call in self._calls():
            found[call.namespace or self.namespace, call.service] = None
        return tuple(found)

    def bandits(self) -> dict[str, tuple[str, ...]]:
        """The arms of every splitter that learns, by `FLOW.STEP`."""
        return {
            f"{flow.name}.{step.name}": step.action.branches
            for flow in self.flows
            for step in flow.steps
            if isinstance(step.action, Splitter) and step.action.bandit is not None
        }

    def graphs(self) -> tuple[tuple[str, str], ...]:
        """(namespace, name) of every other graph that it runs."""
        found: dict[tuple[str, str], None] = {}
        for flow in self.flows:
            for step in flow.steps:
                if isinstance(step.action, RunGraph):
                    found[step.action.namespace or self.namespace, step.action.graph] = None
        return tuple(found)

    def _calls(self) -> list[Call]:
        calls = []
        for flow in self.flows:
            for step in flow.steps:
                if isinstance(step.action, Call):
                    calls.append(step.action)
                elif isinstance(step.action, Router):
                    calls.append(step.action.call)
        return calls


def asked(action: Action, namespace: str) -> tuple[str, str] | None:
    """(namespace, name) of the service or graph that an action of a graph in `namespace` asks, if it does."""
    if isinstance(action, Router):
        action = action.call
    if isinstance(action, Call):
        return action.namespace or namespace, action.service
    if isinstance(action, RunGraph):
        return action.namespace or namespace, action.graph
    return None


def branches(action: Action) -> int | None:
    """How many branches a chooser has; None for what is none."""
    if isinstance(action, Switch):
        return len(action.conditions)
    if isinstance(action, Splitter):
        return len(action.weights)
    return action.branches if isinstance(action, Router) else None
