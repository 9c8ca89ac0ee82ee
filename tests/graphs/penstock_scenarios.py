"""What Penstock's own Pipeline can do, as data: each row is run in a gateway, and on real models.

`graph_scenarios` makes a table of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any

import yaml
from graph_scenarios import Refused, Row, System

#: Python models: what each makes of the tensor `x`, as text.
MODELS = {
    "double": "x * 2",
    "plus": "x + 1",
    "fails": "1 / 0",
}
_CODE = """
import penstock

class Model(penstock.Model):
    async def predict(self, request):
        if isinstance(request, dict):
            return {{"predictions": [{0} for x in request["instances"]]}}
        x = next(iter(request.inputs.values()))
        return {{"y": {0}}}
"""


def code(model: str) -> str:
    """The model as a file of one's own."""
    return _CODE.format(MODELS[model])


def function(model: str) -> Any:
    """The model as a function of arrays by name."""
    return lambda t: {"y": eval(MODELS[model], {"x": next(iter(t.values()))})}


@dataclass(frozen=True)
class Scenario:
    """One row. Requests bring the tensors, or a JSON body."""

    name: str
    pipelines: dict[str, str]
    request: dict[str, list[float]]
    #: Tensors by name, a JSON document, or how an error begins.
    answer: Any
    status: int = 200
    #: Pipelines that run beside the request.
    beside: tuple[str, ...] = ()
    #: V1's JSON in place of tensors.
    body: dict[str, Any] = field(default_factory=dict)

    def manifests(self) -> list[dict[str, Any]]:
        return [manifest(name, spec) for name, spec in self.pipelines.items()]

    def target(self) -> str:
        return next(iter(self.pipelines))


def manifest(name: str, spec: str) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": name, "namespace": "default"},
        "spec": yaml.safe_load(dedent(spec)),
    }


_X = {"x": [3.0]}
SCENARIOS = (
    Scenario(
        "Steps in a row",
        {"row": "steps: [{name: double}, {name: plus, inputs: [double]}]"},
        _X,
        {"y": [7.0]},
    ),
    Scenario(
        "Steps side by side, answers under their names",
        {
            "both": "{steps: [{name: double}, {name: plus}],"
            " output: {from: [double, plus], combine: object}}"
        },
        {},
        {"double": {"predictions": [6.0]}, "plus": {"predictions": [4.0]}},
        body={"instances": [3.0]},
    ),
    Scenario(
        "A join of tensors under other names",
        {
            "joined": """
                steps:
                - {name: double}
                - {name: plus}
                - {name: both, joinOnly: true, inputs: [{from: double.y, as: a}, {from: plus.y, as: b}]}
            """
        },
        _X,
        {"a": [6.0], "b": [4.0]},
    ),
    Scenario(
        "A switch on the request",
        {
            "choose": """
                steps:
                - {name: kind, switch: [{when: big, step: double}, {step: plus}]}
                - {name: double}
                - {name: plus}
            """
        },
        {},
        {"predictions": [4.0]},
        body={"instances": [3.0]},
    ),
    Scenario(
        "A split by weights",
        {
            "split": """
                steps:
                - {name: some, split: [{step: double, weight: 100}, {step: plus, weight: 0}]}
                - {name: double, inputs: [some]}
                - {name: plus, inputs: [some]}
            """
        },
        _X,
        {"y": [6.0]},
    ),
    Scenario(
        "The mean of several models",
        {
            "mean": """
                steps:
                - {name: double}
                - {name: plus}
                - {name: mean, builtin: average, inputs: [double, plus], combine: list}
            """
        },
        _X,
        {"y": [5.0]},
    ),
    Scenario(
        "A step that a condition leaves out; the one before is answered",
        {
            "stop": """
                steps:
                - {name: double}
                - {name: plus, inputs: [double], when: "outputs.#(name==nothing)"}
                output: {from: [double, plus], join: outer, combine: last}
            """
        },
        _X,
        {"y": [6.0]},
    ),
    Scenario(
        "A step that fails and counts as skipped",
        {
            "soft": """
                steps: [{name: fails, onFailure: skip}, {name: plus}]
                output: {from: [fails, plus], join: outer, combine: last}
            """
        },
        _X,
        {"y": [4.0]},
    ),
    Scenario(
        "A step that fails",
        {"hard": "steps: [{name: fails}]"},
        _X,
        "The step pipeline.fails failed",
        status=500,
    ),
    Scenario(
        "A pipeline inside of a pipeline",
        {
            "around": "steps: [{name: inner, pipeline: inside}, {name: plus, inputs: [inner]}]",
            "inside": "steps: [{name: double}]",
        },
        _X,
        {"y": [7.0]},
    ),
    Scenario(
        "A pipeline beside another one's requests",
        {
            "heard": "{steps: [{name: double}]}",
            "hears": """
                listensTo: [heard.y]
                steps: [{name: plus}]
            """,
        },
        _X,
        {"y": [6.0]},
        beside=("hears",),
    ),
    Scenario(
        "Nothing is left to answer",
        {"nothing": 'steps: [{name: plus, when: "outputs.#(name==nothing)"}]'},
        _X,
        "The graph default/nothing gave no answer",
        status=422,
    ),
)  # fmt: skip

REFUSED = (
    (
        "a step that does not exist",
        "steps: [{name: a, inputs: [b]}]",
        "spec.steps[0].inputs[0]",
        "there is no step 'b'; there is a",
    ),
    (
        "a cycle without maxRevisits",
        "{steps: [{name: a, inputs: [b]}, {name: b, inputs: [a]}], output: b}",
        "spec.steps[0].inputs",
        "there is a cycle: a -> b -> a",
    ),
    (
        "weights that do not add up to 100",
        "steps: [{name: s, split: [{step: a, weight: 20}]}, {name: a, inputs: [s]}]",
        "spec.steps[0].split",
        "weights add up to 20, not 100",
    ),
    (
        "a condition that cannot be parsed",
        "steps: [{name: a, when: 'x.#(y=='}]",
        "spec.steps[0].when",
        "no condition: a value is expected (at character 8 of 'x.#(y==')",
    ),
    (
        "tensors that do not fit, where they are said",
        "steps:\n- {name: a, gives: [{name: x, datatype: FP32}]}\n"
        "- {name: b, inputs: [a.x], takes: [{name: x, datatype: BYTES}]}",
        "spec.steps[1].inputs[0]",
        "'x' is FP32, the input 'x' takes BYTES",
    ),
    (
        "a pipeline that listens to itself",
        "{listensTo: [p.y], steps: [{name: a}]}",
        "spec.listensTo[0]",
        "a graph cannot be its own input",
    ),
    (
        "two steps that might be the answer",
        "steps: [{name: a}, {name: b}]",
        "spec.output",
        "is required: which of a, b is the answer?",
    ),
)

SYSTEM = System(
    "Penstock's Pipeline",
    "",
    tuple(Row(s.name, s.status) for s in SCENARIOS),
    tuple(Refused(what, path, said) for what, _, path, said in REFUSED),
    tests="`tests/graphs/test_penstock_pipelines.py`, and on real models by "
    "`tests/e2e/test_e2e_seldon_pipelines.py`",
    place=1,
)
