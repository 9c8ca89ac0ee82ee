"""Seldon V2's documented pipelines, as data: manifests, models, a request, and the answer.

Tests run each of them twice: in a gateway before services that are functions, and in the whole platform with
Triton Python models of the same code. `graph_scenarios` makes a table of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import dedent, indent
from typing import Any

import numpy as np
import yaml
from graph_scenarios import Refused, Row, System

#: Models by name: inputs (one with `?` may be left out), outputs, and the function's body. `t` has the
#: inputs' arrays, `out` takes outputs.
_SUM_AND_DIFFERENCE = (
    ("INPUT0", "INPUT1"),
    ("OUTPUT0", "OUTPUT1"),
    'out["OUTPUT0"] = t["INPUT0"] + t["INPUT1"]\nout["OUTPUT1"] = t["INPUT0"] - t["INPUT1"]',
)
#: A model that answers nothing for requests that its query does not fit.
_CHOICE = 'if t["choice"][0] == N:\n    out["choice"] = t["choice"]'
MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "tfsimple1": _SUM_AND_DIFFERENCE,
    "tfsimple2": _SUM_AND_DIFFERENCE,
    "tfsimple3": _SUM_AND_DIFFERENCE,
    "tfsimple4": _SUM_AND_DIFFERENCE,
    "mul10": (("INPUT",), ("OUTPUT",), 'out["OUTPUT"] = t["INPUT"] * 10'),
    "add10": (("INPUT",), ("OUTPUT",), 'out["OUTPUT"] = t["INPUT"] + 10'),
    "conditional": (
        ("CHOICE", "INPUT0", "INPUT1"),
        ("OUTPUT0", "OUTPUT1"),
        'which = int(t["CHOICE"][0])\nout[f"OUTPUT{which}"] = t[f"INPUT{which}"]',
    ),
    "outlier-error": (
        ("INPUT",),
        ("OUTPUT",),
        'if t["INPUT"].max() > 100:\n    raise ValueError("outlier")\nout["OUTPUT"] = t["INPUT"]',
    ),
    "counter": (
        ("input",),
        ("output", "continue", "stop"),
        'out["output"] = t["input"] + 1\n'
        'out["continue" if out["output"][0] < 3 else "stop"] = out["output"]',
    ),
    "choice-is-one": (("choice", "INPUT"), ("choice",), _CHOICE.replace("N", "1")),
    "choice-is-two": (("choice", "INPUT"), ("choice",), _CHOICE.replace("N", "2")),
    "tally": (
        ("output",),
        ("output", "continue", "stop"),
        'out["output"] = t["output"] + 1\n'
        'out["continue" if out["output"][0] < 3 else "stop"] = out["output"]',
    ),
    "identity-back": (("output",), ("output",), 'out["output"] = t["output"]'),
    "identity-last": (("output", "stop?", "continue?"), ("output", "stop"), "out.update(t)"),
    "identity-loop": (("input",), ("output",), 'out["output"] = t["input"]'),
    "identity-output": (("input",), ("output",), 'out["output"] = t["input"]'),
}


def function(model: str) -> Any:
    """The model as a function of arrays by name."""
    space: dict[str, Any] = {"np": np}
    body = indent(MODELS[model][2], "    ")
    exec(f"def run(t):\n    out = {{}}\n{body}\n    return out", space)
    return space["run"]


_TRITON = """
import triton_python_backend_utils as pb_utils


{function}


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(r) for r in requests]

    def answer(self, request):
        arrays = {{t.name(): t.as_numpy() for t in request.inputs()}}
        try:
            found = run(arrays)
        except ValueError as exc:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        tensors = [pb_utils.Tensor(n, a) for n, a in found.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)
"""


def triton_files(model: str) -> dict[str, str]:
    """A Triton repository's folder of the model: file name to text."""
    inputs, outputs, body = MODELS[model]
    types = {"CHOICE": "TYPE_INT32"}

    def listed(names: tuple[str, ...]) -> str:
        return ", ".join(
            f'{{ name: "{n.rstrip("?")}" data_type: {types.get(n, "TYPE_FP32")} dims: [ -1 ]'
            f"{' optional: true' if n.endswith('?') else ''} }}"
            for n in names
        )

    run = f"def run(t):\n    out = {{}}\n{indent(body, '    ')}\n    return out"
    return {
        "config.pbtxt": f'name: "{model}"\nbackend: "python"\n'
        f"input [ {listed(inputs)} ]\noutput [ {listed(outputs)} ]\n",
        "1/model.py": _TRITON.format(function=run),
    }


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    name: str
    #: Pipelines by name; the first one is asked.
    pipelines: dict[str, str]
    request: dict[str, list[float]]
    #: Tensors by name, or what the error's text begins with.
    answer: dict[str, list[float]] | str
    #: Models in alphabetical order, one for each call.
    called: tuple[str, ...]
    status: int = 200
    #: How Seldon differs, where it does.
    note: str = ""
    experiments: dict[str, str] = field(default_factory=dict)
    #: Who is asked, if it is not the first pipeline.
    asked: str = ""
    #: A model that may be asked, too: its call is stopped when it cannot matter any more.
    maybe: str = ""
    #: Header of the answer.
    told: tuple[str, str] | None = None

    def manifests(self) -> list[dict[str, Any]]:
        return [
            {
                "apiVersion": "mlops.seldon.io/v1alpha1",
                "kind": kind,
                "metadata": {"name": name, "namespace": "default"},
                "spec": yaml.safe_load(dedent(spec)),
            }
            for kind, specs in (("Pipeline", self.pipelines), ("Experiment", self.experiments))
            for name, spec in specs.items()
        ]

    def models(self) -> set[str]:
        """Every model that its pipelines name."""
        return {
            s["name"]
            for m in self.manifests()
            if m["kind"] == "Pipeline"
            for s in m["spec"]["steps"]
        }

    def target(self) -> str:
        return self.asked or next(iter(self.pipelines))


_TWO = {"INPUT0": [1.0], "INPUT1": [2.0]}
_ONE = {"INPUT": [1.0]}
_CONDITIONAL = """
    steps:
    - name: conditional
    - name: mul10
      inputs: [conditional.outputs.OUTPUT0]
      tensorMap: {conditional.outputs.OUTPUT0: INPUT}
    - name: add10
      inputs: [conditional.outputs.OUTPUT1]
      tensorMap: {conditional.outputs.OUTPUT1: INPUT}
    output:
      steps: [mul10, add10]
      stepsJoin: any
"""
_TRIGGERS = """
    steps:
    - name: mul10
      inputs: [NAME.inputs.INPUT]
      triggers: [NAME.inputs.ok1, NAME.inputs.ok2]
      triggersJoinType: any
    - name: add10
      inputs: [NAME.inputs.INPUT]
      triggers: [NAME.inputs.ok3]
    output:
      steps: [mul10, add10]
      stepsJoin: any
"""
_COUNTER = """
    allowCycles: true
    maxStepRevisits: REVISITS
    steps:
    - name: counter
      inputsJoinType: any
      inputs: [NAME.inputs.start, identity-loop.outputs.output]
      tensorMap:
        NAME.inputs.start: input
        identity-loop.outputs.output: input
    - name: identity-loop
      joinWindowMs: 1
      inputs: [counter.outputs.output]
      triggers: [counter.outputs.continue]
      tensorMap: {counter.outputs.output: input}
    - name: identity-output
      joinWindowMs: 1
      inputs: [counter.outputs.output]
      triggers: [counter.outputs.stop]
      tensorMap: {counter.outputs.output: input}
    output:
      steps: [identity-output]
"""
_CHOSEN = """
    steps:
    - name: choice-is-one
    - name: mul10
      inputs: [NAME.inputs.INPUT]
      triggers: [choice-is-one.outputs.choice]
    - name: choice-is-two
    - name: add10
      inputs: [NAME.inputs.INPUT]
      triggers: [choice-is-two.outputs.choice]
    output:
      steps: [mul10, add10]
      stepsJoin: any
"""
_SIMPLE = "{steps: [{name: tfsimple1}], output: {steps: [tfsimple1]}}"
_EXTENDED = """
    input:
      externalInputs: [NAME.outputs]
      tensorMap:
        NAME.outputs.OUTPUT0: INPUT0
        NAME.outputs.OUTPUT1: INPUT1
    steps: [{name: tfsimple2}]
    output: {steps: [tfsimple2]}
"""

SCENARIOS = (
    Scenario(
        "One model after the other, tensors renamed by tensorMap",
        {
            "tfsimples": """
                steps:
                - name: tfsimple1
                - name: tfsimple2
                  inputs: [tfsimple1]
                  tensorMap:
                    tfsimple1.outputs.OUTPUT0: INPUT0
                    tfsimple1.outputs.OUTPUT1: INPUT1
                output: {steps: [tfsimple2]}
            """
        },
        _TWO,
        {"OUTPUT0": [2.0], "OUTPUT1": [4.0]},
        ("tfsimple1", "tfsimple2"),
    ),
    Scenario(
        "A join of two models' tensors (inner)",
        {
            "tfsimples-join": """
                steps:
                - name: tfsimple1
                - name: tfsimple2
                - name: tfsimple3
                  inputs: [tfsimple1.outputs.OUTPUT0, tfsimple2.outputs.OUTPUT1]
                  tensorMap:
                    tfsimple1.outputs.OUTPUT0: INPUT0
                    tfsimple2.outputs.OUTPUT1: INPUT1
                output: {steps: [tfsimple3]}
            """
        },
        _TWO,
        {"OUTPUT0": [2.0], "OUTPUT1": [4.0]},
        ("tfsimple1", "tfsimple2", "tfsimple3"),
    ),
    Scenario(
        "A model that leaves a tensor out switches a branch off: the first",
        {"tfsimple-conditional": _CONDITIONAL},
        {"CHOICE": [0], "INPUT0": [1.0], "INPUT1": [2.0]},
        {"OUTPUT": [10.0]},
        ("conditional", "mul10"),
    ),
    Scenario(
        "A model that leaves a tensor out switches a branch off: the second",
        {"tfsimple-conditional-2": _CONDITIONAL},
        {"CHOICE": [1], "INPUT0": [1.0], "INPUT1": [2.0]},
        {"OUTPUT": [12.0]},
        ("add10", "conditional"),
    ),
    Scenario(
        "Steps that take single tensors of the request; two outputs of one name",
        {
            "pipeline-inputs": """
                steps:
                - name: mul10
                  inputs: [pipeline-inputs.inputs.INPUT0]
                  tensorMap: {pipeline-inputs.inputs.INPUT0: INPUT}
                - name: add10
                  inputs: [pipeline-inputs.inputs.INPUT1]
                  tensorMap: {pipeline-inputs.inputs.INPUT1: INPUT}
                output: {steps: [mul10, add10]}
            """
        },
        _TWO,
        {"OUTPUT": [10.0], "add10.OUTPUT": [12.0]},
        ("add10", "mul10"),
        note="Seldon answers two tensors named OUTPUT; the second is `add10.OUTPUT` here",
    ),
    Scenario(
        "Outputs of one name, renamed by the output's tensorMap",
        {
            "renamed": """
                steps: [{name: mul10}, {name: add10}]
                output:
                  steps: [mul10, add10]
                  tensorMap: {mul10.outputs.OUTPUT: product, add10.outputs.OUTPUT: sum}
            """
        },
        _ONE,
        {"product": [10.0], "sum": [11.0]},
        ("add10", "mul10"),
    ),
    Scenario(
        "Triggers start a step and are not given to it (any of two)",
        {"trigger-joins": _TRIGGERS.replace("NAME", "trigger-joins")},
        {"ok1": [1.0], "INPUT": [1.0]},
        {"OUTPUT": [10.0]},
        ("mul10",),
    ),
    Scenario(
        "Triggers start a step and are not given to it (the other step)",
        {"trigger-joins-2": _TRIGGERS.replace("NAME", "trigger-joins-2")},
        {"ok3": [1.0], "INPUT": [1.0]},
        {"OUTPUT": [11.0]},
        ("add10",),
    ),
    Scenario(
        "A model that answers no tensor at all triggers nothing: the first of two",
        {"choice": _CHOSEN.replace("NAME", "choice")},
        {"choice": [1.0], "INPUT": [5.0]},
        {"OUTPUT": [50.0]},
        ("choice-is-one", "mul10"),
        maybe="choice-is-two",
    ),
    Scenario(
        "A model that answers no tensor at all triggers nothing: the second",
        {"choice-2": _CHOSEN.replace("NAME", "choice-2")},
        {"choice": [2.0], "INPUT": [5.0]},
        {"OUTPUT": [15.0]},
        ("add10", "choice-is-two"),
        maybe="choice-is-one",
    ),
    Scenario(
        "No trigger comes",
        {"trigger-none": _TRIGGERS.replace("NAME", "trigger-none")},
        _ONE,
        "The graph default/trigger-none gave no answer",
        (),
        status=422,
        note="Seldon's request waits for ever",
    ),
    Scenario(
        "An inner join of which one branch is off",
        {
            "half": """
                steps:
                - name: conditional
                - name: mul10
                  inputs: [conditional.outputs.OUTPUT0]
                  tensorMap: {conditional.outputs.OUTPUT0: INPUT}
                - name: add10
                  inputs: [conditional.outputs.OUTPUT1]
                  tensorMap: {conditional.outputs.OUTPUT1: INPUT}
                output: {steps: [mul10, add10]}
            """
        },
        {"CHOICE": [0], "INPUT0": [1.0], "INPUT1": [2.0]},
        "The graph default/half gave no answer",
        ("conditional",),
        status=422,
        maybe="mul10",
        note="Seldon's request waits for ever",
    ),
    Scenario(
        "An outer join of which one branch is off",
        {
            "outer": """
                steps:
                - name: conditional
                - name: mul10
                  inputs: [conditional.outputs.OUTPUT0]
                  tensorMap: {conditional.outputs.OUTPUT0: INPUT}
                - name: add10
                  inputs: [conditional.outputs.OUTPUT1]
                  tensorMap: {conditional.outputs.OUTPUT1: INPUT}
                output: {steps: [mul10, add10], stepsJoin: outer}
            """
        },
        {"CHOICE": [1], "INPUT0": [1.0], "INPUT1": [2.0]},
        {"OUTPUT": [12.0]},
        ("add10", "conditional"),
        note="Seldon answers when joinWindowMs is over; here as soon as the branch is known to be off",
    ),
    Scenario(
        "A join `any` of two that are both there: what follows runs once",
        {
            "any-once": """
                steps:
                - name: tfsimple1
                - name: tfsimple2
                - name: mul10
                  inputs: [tfsimple1.outputs.OUTPUT0, tfsimple2.outputs.OUTPUT0]
                  inputsJoinType: any
                  tensorMap:
                    tfsimple1.outputs.OUTPUT0: INPUT
                    tfsimple2.outputs.OUTPUT0: INPUT
                output: {steps: [mul10]}
            """
        },
        _TWO,
        {"OUTPUT": [30.0]},
        ("mul10", "tfsimple1", "tfsimple2"),
        note="Seldon runs it twice when the two are more than 1 ms apart",
    ),
    Scenario(
        "What a step was given, as another one's input",
        {
            "given": """
                steps:
                - name: mul10
                - name: add10
                  inputs: [mul10.inputs.INPUT]
                output:
                  steps: [mul10, add10]
                  tensorMap: {mul10.outputs.OUTPUT: product, add10.outputs.OUTPUT: sum}
            """
        },
        _ONE,
        {"product": [10.0], "sum": [11.0]},
        ("add10", "mul10"),
    ),
    Scenario(
        "A model's error ends the pipeline",
        {"error": "{steps: [{name: outlier-error}], output: {steps: [outlier-error]}}"},
        {"INPUT": [200.0]},
        "outlier-error : ",
        ("outlier-error",),
        status=400,
    ),
    Scenario(
        "An error of a step that the output does not need",
        {
            "beside": """
                steps:
                - name: mul10
                - name: outlier-error
                - name: add10
                  inputs: [mul10]
                  tensorMap: {mul10.outputs.OUTPUT: INPUT}
                output: {steps: [add10]}
            """
        },
        {"INPUT": [200.0]},
        {"OUTPUT": [2010.0]},
        ("add10", "mul10", "outlier-error"),
        note="Seldon answers the error or the output, whichever comes first",
    ),
    Scenario(
        "A pipeline without output",
        {"no-output": "{steps: [{name: mul10}]}"},
        _ONE,
        {"OUTPUT": [10.0]},
        ("mul10",),
        note="Seldon's request waits for ever; here the last steps are answered",
    ),
    Scenario(
        "A cycle that ends by what the model answers",
        {"loop": _COUNTER.replace("NAME", "loop").replace("REVISITS", "10")},
        {"start": [0.0]},
        {"output": [3.0]},
        ("counter", "counter", "counter", "identity-loop", "identity-loop", "identity-output"),
    ),
    Scenario(
        "A cycle in which whole outputs go round, with what triggers them",
        {
            "counter-pipeline": """
                allowCycles: true
                maxStepRevisits: 100
                steps:
                - name: tally
                  inputsJoinType: any
                  inputs: [counter-pipeline.inputs, identity-back.outputs]
                - name: identity-last
                  joinWindowMs: 1
                  inputs: [tally.outputs]
                  triggers: [tally.outputs.stop]
                - name: identity-back
                  joinWindowMs: 1
                  inputs: [tally.outputs.output]
                  triggers: [tally.outputs.continue]
                output: {steps: [identity-last.outputs]}
            """
        },
        {"output": [0.0]},
        {"output": [3.0], "stop": [3.0]},
        ("identity-back", "identity-back", "identity-last", "tally", "tally", "tally"),
    ),
    Scenario(
        "A cycle that goes round more than maxStepRevisits",
        {"long-loop": _COUNTER.replace("NAME", "long-loop").replace("REVISITS", "1")},
        {"start": [0.0]},
        "counter : ",
        ("counter", "counter", "identity-loop", "identity-loop"),
        status=400,
    ),
    Scenario(
        "A pipeline as the input of another",
        {"tfsimple": _SIMPLE, "tfsimple-extended": _EXTENDED.replace("NAME", "tfsimple")},
        _TWO,
        {"OUTPUT0": [3.0], "OUTPUT1": [-1.0]},
        ("tfsimple1", "tfsimple2"),
    ),
    Scenario(
        "A pipeline with external inputs, asked by itself",
        {"by-itself": _EXTENDED.replace("NAME", "somebody")},
        _TWO,
        {"OUTPUT0": [3.0], "OUTPUT1": [-1.0]},
        ("tfsimple2",),
    ),
    Scenario(
        "Two pipelines of one pipeline's requests, joined by a third",
        {
            "base": _SIMPLE,
            "left": _EXTENDED.replace("NAME", "base"),
            "right": _EXTENDED.replace("NAME", "base"),
            "combined": """
                input:
                  externalInputs: [left.outputs.OUTPUT0, right.outputs.OUTPUT1]
                  tensorMap: {left.outputs.OUTPUT0: INPUT0, right.outputs.OUTPUT1: INPUT1}
                steps: [{name: tfsimple3}]
                output: {steps: [tfsimple3]}
            """,
        },
        _TWO,
        {"OUTPUT0": [3.0], "OUTPUT1": [-1.0]},
        ("tfsimple1", "tfsimple2", "tfsimple2", "tfsimple3"),
    ),
    Scenario(
        "A step of another pipeline as input, a tensor of it as trigger",
        {
            "chosen": _CONDITIONAL,
            "watcher": """
                input:
                  externalInputs: [chosen.step.conditional.inputs.INPUT1]
                  externalTriggers: [chosen.step.conditional.outputs.OUTPUT0]
                  tensorMap: {chosen.step.conditional.inputs.INPUT1: INPUT}
                steps: [{name: outlier-error}]
                output: {steps: [outlier-error]}
            """,
        },
        {"CHOICE": [0], "INPUT0": [1.0], "INPUT1": [2.0]},
        {"OUTPUT": [10.0]},
        ("conditional", "mul10", "outlier-error"),
    ),
    Scenario(
        "Steps of two other pipelines, joined",
        {
            "one": _SIMPLE,
            "one-left": _EXTENDED.replace("NAME", "one"),
            "one-right": _EXTENDED.replace("NAME", "one"),
            "combined-step": """
                input:
                  externalInputs:
                  - one-left.step.tfsimple2.outputs.OUTPUT0
                  - one-right.step.tfsimple2.outputs.OUTPUT0
                  tensorMap:
                    one-left.step.tfsimple2.outputs.OUTPUT0: INPUT0
                    one-right.step.tfsimple2.outputs.OUTPUT0: INPUT1
                steps: [{name: tfsimple3}]
                output: {steps: [tfsimple3]}
            """,
        },
        _TWO,
        {"OUTPUT0": [3.0], "OUTPUT1": [-1.0]},
        ("tfsimple1", "tfsimple2", "tfsimple2", "tfsimple3"),
    ),
    Scenario(
        "One pipeline's outputs, when another one's have come",
        {
            "two": _SIMPLE,
            "two-left": _EXTENDED.replace("NAME", "two"),
            "two-right": _EXTENDED.replace("NAME", "two"),
            "combined-trigger": """
                input:
                  externalInputs: [two-left.outputs]
                  externalTriggers: [two-right.outputs]
                  tensorMap:
                    two-left.outputs.OUTPUT0: INPUT0
                    two-left.outputs.OUTPUT1: INPUT1
                steps: [{name: tfsimple3}]
                output: {steps: [tfsimple3]}
            """,
        },
        _TWO,
        {"OUTPUT0": [3.0], "OUTPUT1": [-1.0]},
        ("tfsimple1", "tfsimple2", "tfsimple2", "tfsimple3"),
    ),
    Scenario(
        "A batch of one request goes when its window is over",
        {"iris-batch": "{steps: [{name: mul10, batch: {size: 2, windowMs: 20}}], output: {steps: [mul10]}}"},
        _ONE,
        {"OUTPUT": [10.0]},
        ("mul10",),
        note="Seldon waits for the second one whatever windowMs says",
    ),
    Scenario(
        "An experiment on pipelines, with a mirror",
        {
            "pipe-add10": "{steps: [{name: add10}], output: {steps: [add10]}}",
            "pipe-mul10": "{steps: [{name: mul10}], output: {steps: [mul10]}}",
            "copied": "{steps: [{name: outlier-error}], output: {steps: [outlier-error]}}",
        },
        _ONE,
        {"OUTPUT": [11.0]},
        ("add10", "outlier-error"),
        experiments={
            "addmul10": """
                resourceType: pipeline
                default: pipe-mul10
                candidates: [{name: pipe-add10, weight: 1}, {name: pipe-mul10, weight: 0}]
                mirror: {name: copied, percent: 100}
            """
        },
        asked="pipe-mul10",
        told=("x-seldon-route", ":pipe-add10.pipeline:"),
    ),
    Scenario(
        "A model's experiment inside of a pipeline, with a mirror",
        {"mixed": "{steps: [{name: tfsimple4}], output: {steps: [tfsimple4]}}"},
        _TWO,
        {"OUTPUT0": [3.0], "OUTPUT1": [-1.0]},
        ("tfsimple1", "tfsimple2"),
        experiments={
            "model-trial": """
                default: tfsimple4
                candidates: [{name: tfsimple4, weight: 0}, {name: tfsimple1, weight: 1}]
                mirror: {name: tfsimple2, percent: 100}
            """
        },
    ),
)  # fmt: skip

_A = "steps: [{name: a}]\n"
REFUSED = (
    ("no steps", "steps: []", "spec.steps", "must not be empty"),
    (
        "a step that does not exist",
        "steps: [{name: aa}, {name: b, inputs: [a-a.outputs.X]}]",
        "spec.steps[1].inputs[0]",
        "there is no step 'a-a'; did you mean aa?",
    ),
    (
        "an output step that does not exist",
        _A + "output: {steps: [q]}",
        "spec.output.steps[0]",
        "there is no step 'q'; there is a, or p itself",
    ),
    ("an empty input", "steps: [{name: a, inputs: ['']}]", "spec.steps[0].inputs[0]", "is empty"),
    (
        "two steps of one name",
        "steps: [{name: a}, {name: a}]",
        "spec.steps[1].name",
        "there is a step a already (steps[0]); a step is a model",
    ),
    (
        "a step of the pipeline's name",
        "steps: [{name: p}]",
        "spec.steps[0].name",
        "is the pipeline's own name, which stands for its request",
    ),
    (
        "a name with an underscore",
        "steps: [{name: a_b}]",
        "spec.steps[0].name",
        "'a_b' cannot name a service: lower-case letters, digits and '-', "
        "beginning with a letter and ending with a letter or digit",
    ),
    (
        "a cycle without allowCycles",
        "steps: [{name: a, inputs: [b]}, {name: b, inputs: [a]}]\noutput: {steps: [b]}",
        "spec.steps[0].inputs",
        "there is a cycle: a -> b -> a",
    ),
    (
        "a cycle that can never start (Seldon's request waits for ever)",
        "allowCycles: true\nsteps: [{name: a, inputs: [b]}, {name: b, inputs: [a]}]\n"
        "output: {steps: [b]}",
        "spec.steps[0].inputs",
        "can never start: it waits for itself; in a cycle at least one step takes any of its inputs",
    ),
    (
        "a step that triggers itself",
        "steps: [{name: a, triggers: [a]}]",
        "spec.steps[0].triggers",
        "there is a cycle: a -> a",
    ),
    (
        "a join of no known kind",
        "steps: [{name: a, inputsJoinType: inne}]",
        "spec.steps[0].inputsJoinType",
        "must be 'inner', 'outer' or 'any'",
    ),
    (
        "a reference to neither inputs nor outputs",
        "steps: [{name: a}, {name: b, inputs: [a.output.X]}]",
        "spec.steps[1].inputs[0]",
        "a.output.X: inputs or outputs is expected after the first dot, did you mean outputs?",
    ),
    (
        "the pipeline's own outputs as an input",
        "steps: [{name: a, inputs: [p.outputs]}]",
        "spec.steps[0].inputs[0]",
        "p is this pipeline: while it runs it has only inputs",
    ),
    (
        "a tensorMap of what is not among the inputs (Seldon: no effect)",
        "steps: [{name: a}, {name: b, inputs: [a.outputs.X], tensorMap: {a.outputs.Y: Z}}]\n"
        "output: {steps: [b]}",
        'spec.steps[1].tensorMap["a.outputs.Y"]',
        "renames nothing: a.outputs.Y is not among the inputs",
    ),
    (
        "a tensorMap that gives two tensors one name",
        "steps: [{name: a}, {name: b, inputs: [a], tensorMap: {a.outputs.X: Z, a.outputs.Y: Z}}]\n"
        "output: {steps: [b]}",
        'spec.steps[1].tensorMap["a.outputs.Y"]',
        "a second tensor gets the name 'Z'",
    ),
    (
        "two tensors of one name in a join",
        "steps: [{name: a}, {name: b}, {name: c, inputs: [a.outputs.X, b.outputs.X]}]\n"
        "output: {steps: [c]}",
        "spec.steps[2].inputs[1]",
        "a second tensor of the name 'X'; give one of them another name",
    ),
    (
        "an input named twice",
        "steps: [{name: a}, {name: b, inputs: [a, a.outputs]}]\noutput: {steps: [b]}",
        "spec.steps[1].inputs[1]",
        "a.outputs is named twice",
    ),
    (
        "a trigger that is an input (Seldon means to refuse it, and does not)",
        "steps: [{name: a}, {name: b, inputs: [a], triggers: [a]}]\noutput: {steps: [b]}",
        "spec.steps[1].triggers[0]",
        "a is among the inputs already",
    ),
    (
        "a batch without a size",
        "steps: [{name: a, batch: {windowMs: 5}}]",
        "spec.steps[0].batch.size",
        "is required",
    ),
    (
        "a pipeline as its own input",
        "input: {externalInputs: [p.outputs]}\n" + _A,
        "spec.input.externalInputs[0]",
        "a graph cannot be its own input",
    ),
    (
        "external triggers without external inputs",
        "input: {externalTriggers: [q.outputs]}\n" + _A,
        "spec.input.externalTriggers",
        "needs externalInputs: a request of one's own has no other pipeline's values",
    ),
    (
        "a misspelt field",
        "steps: [{name: a, trigger: [p.inputs]}]",
        "spec.steps[0].trigger",
        "unknown field, did you mean triggers?",
    ),
)

SYSTEM = System(
    "Seldon Core V2's Pipeline and Experiment",
    "Seldon",
    tuple(Row(s.name, s.status, s.note) for s in SCENARIOS),
    tuple(Refused(what, field, said) for what, _, field, said in REFUSED),
    tests="`tests/graphs/test_seldon_pipelines.py`, and on Triton Python models by "
    "`tests/e2e/test_e2e_seldon_pipelines.py`, over REST and gRPC",
    place=3,
)
