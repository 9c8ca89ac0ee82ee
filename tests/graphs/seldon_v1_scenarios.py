"""What Seldon Core V1's documentation and tests show of graphs, as data: each row is run by tests/seldon.

`graph_scenarios` makes a table of them. `MODEL_NAME`s are classes of tests/seldon/graph_units.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graph_scenarios import Refused, Row, System

SIMPLE = {"implementation": "SIMPLE_MODEL"}
#: Doubles its input in the tests.
SERVER = {"implementation": "SKLEARN_SERVER", "modelUri": "file:///model"}


def unit(name: str, type_: str, cls: str, *children: Any, **parameters: float) -> dict[str, Any]:
    """A node that is a class for Seldon's Python wrapper."""
    made: dict[str, Any] = {
        "name": name,
        "type": type_,
        "modelUri": "file:///units",
        "parameters": [
            {"name": "MODEL_NAME", "value": f"graph_units.py:{cls}", "type": "STRING"},
            *({"name": k, "value": str(v), "type": "FLOAT"} for k, v in parameters.items()),
        ],
    }
    if children:
        made["children"] = list(children)
    return made


def plus(name: str, by: float, *children: Any, type_: str = "MODEL") -> dict[str, Any]:
    return unit(name, type_, "Tagged", *children, by=by)


@dataclass(frozen=True)
class Scenario:
    """One row: a predictor's graph, a request, and what of the answer is looked at."""

    name: str
    graph: dict[str, Any]
    request: dict[str, Any]
    #: Rows of the answer's data, text, or how an error begins.
    answer: Any
    status: int = 200
    #: What the answer's meta has, by its key.
    meta: dict[str, Any] = field(default_factory=dict)
    #: How Seldon differs.
    note: str = ""
    #: Further predictors: (graph, fields).
    others: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = ()
    #: Fields of the first predictor.
    first: dict[str, Any] = field(default_factory=dict)


def rows(*values: Any) -> dict[str, Any]:
    return {"data": {"ndarray": list(values)}}


ENGINE = "only its first engine, in Java, had it"
SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "A transformer before a model", plus("t", 1, {"name": "m", **SERVER}, type_="TRANSFORMER"),
        rows([1.0, 2.0]), [[4.0, 6.0]], meta={"requestPath": {"t": "dep-main-t", "m": "dep-main-m"}},
        note="its requestPath has images",
    ),
    Scenario(
        "A transformer after a model", plus("t", 1, {"name": "m", **SERVER}, type_="OUTPUT_TRANSFORMER"),
        rows([1.0, 2.0]), [[3.0, 5.0]],
    ),
    Scenario(
        "A model behind a model", plus("a", 1, plus("b", 10)), rows([1.0]), [[12.0]],
    ),
    Scenario(
        "A router of one's own", unit("r", "ROUTER", "Chooses", plus("a", 1), plus("b", 2)),
        rows([1.0]), [[3.0]], meta={"routing": {"r": 1}},
        note="its routing is left out unless a variable of the engine asks for it",
    ),
    Scenario(
        "A router that asks all children", unit("r", "ROUTER", "Chooses", plus("a", 1), plus("b", 2)),
        rows([-1.0]), [[0.0]], meta={"routing": {"r": -1}},
    ),
    Scenario(
        "A router that asks none", unit("r", "ROUTER", "Chooses", plus("a", 1), plus("b", 2)),
        rows([-2.0]), [[-2.0]], meta={"routing": {"r": -2}},
    ),
    Scenario(
        "A router's branch that does not exist", unit("r", "ROUTER", "Chooses", plus("a", 1), plus("b", 2)),
        rows([5.0]), "The step main.r failed: The router r answered branch 5", 500,
        note="its engine ends with an index out of range",
    ),
    Scenario(
        "A combiner of one's own", unit("c", "COMBINER", "Sums", plus("a", 1), plus("b", 2)),
        rows([1.0]), [[5.0]], meta={"tags": {"by1": True, "by2": True, "summed": True}},
    ),
    Scenario(
        "The mean of models (AVERAGE_COMBINER)",
        {"name": "c", "implementation": "AVERAGE_COMBINER", "children": [plus("a", 1), plus("b", 2)]},
        rows([1.0]), [[2.5]], note=ENGINE,
    ),
    Scenario(
        "The mean of answers of different shapes",
        {"name": "c", "implementation": "AVERAGE_COMBINER",
         "children": [plus("a", 1), {"name": "b", **SIMPLE}]},
        rows([1.0]), "The step main.c failed: main.c: the messages to average have different shapes", 400,
        note=ENGINE,
    ),
    Scenario(
        "An A/B test (RANDOM_ABTEST)",
        {"name": "r", "implementation": "RANDOM_ABTEST", "children": [plus("a", 1), plus("b", 2)],
         "parameters": [{"name": "ratioA", "value": "1", "type": "FLOAT"}]},
        rows([1.0]), [[2.0]], meta={"routing": {"r": 0}},
    ),
    Scenario(
        "The first child always (SIMPLE_ROUTER)",
        {"name": "r", "implementation": "SIMPLE_ROUTER", "children": [plus("a", 1), plus("b", 2)]},
        rows([1.0]), [[2.0]], meta={"routing": {"r": 0}}, note=ENGINE,
    ),
    Scenario(
        "A stub (SIMPLE_MODEL)", {"name": "m", **SIMPLE}, rows([1.0]), [[0.1, 0.9, 0.5]], note=ENGINE,
    ),
    Scenario(
        "A router below a combiner below a transformer",
        plus("t", 1, unit("c", "COMBINER", "Sums", plus("a", 1),
                          unit("r", "ROUTER", "Chooses", plus("x", 10), plus("y", 20))),
             type_="TRANSFORMER"),
        rows([0.0]), [[23.0]], meta={"routing": {"r": 1}},
    ),
    Scenario(
        "A transformer before and one after a mean of models",
        plus("out", 100, plus("in", 1, {"name": "c", "implementation": "AVERAGE_COMBINER",
                                        "children": [plus("a", 1), plus("b", 3)]},
                              type_="TRANSFORMER"),
             type_="OUTPUT_TRANSFORMER"),
        rows([1.0]), [[104.0]],
    ),
    Scenario(
        "Behind a transformer an A/B test of a transformed model and a mean",
        plus("outliers", 1,
             {"name": "ab", "implementation": "RANDOM_ABTEST", "type": "UNKNOWN_TYPE",
              "parameters": [{"name": "ratioA", "value": "0.0", "type": "FLOAT"}],
              "children": [plus("t", 10, plus("m", 1), type_="TRANSFORMER"),
                           {"name": "c", "type": "UNKNOWN_TYPE", "implementation": "AVERAGE_COMBINER",
                            "children": [plus("a", 1), plus("b", 3)]}]},
             type_="TRANSFORMER"),
        rows([1.0]), [[4.0]], meta={"routing": {"ab": 1}},
    ),
    Scenario(
        "A router that learns (EPSILON_GREEDY, THOMPSON_SAMPLING)",
        {"name": "r", "implementation": "EPSILON_GREEDY",
         "parameters": [{"name": "n_branches", "value": "2", "type": "INT"}],
         "children": [plus("a", 1), plus("b", 1)]},
        rows([1.0]), [[2.0]], note="they are images; what they learned is their process's own",
    ),
    Scenario(
        "Tags and metrics of every unit", plus("a", 1, plus("b", 2)),
        {**rows([1.0]), "meta": {"tags": {"mine": "x"}}}, [[4.0]],
        meta={
            "tags": {"mine": "x", "by1": True, "by2": True},
            "metrics": [{"key": "calls1", "type": "COUNTER", "value": 1},
                        {"key": "calls2", "type": "COUNTER", "value": 1}],
        },
    ),
    Scenario(
        "Text through a graph", unit("c", "COMBINER", "Joins", unit("a", "MODEL", "Says"),
                                     unit("b", "MODEL", "Says")),
        {"strData": "you"}, "hello: you|hello: you",
    ),
    Scenario(
        "Predictors with traffic, each a graph", plus("m", 1, plus("n", 0)), rows([1.0]), [[3.0]],
        others=((plus("m", 2, plus("n", 0)), {"traffic": 100}),), first={"traffic": 0},
        note="a mesh divides the requests",
    ),
    Scenario(
        "A shadow predictor", plus("m", 1, plus("n", 0)), rows([1.0]), [[2.0]],
        others=((unit("m", "MODEL", "Fails", plus("n", 0)), {"shadow": True}),),
        note="a mesh copies the requests",
    ),
    Scenario(
        "A unit that fails", plus("t", 1, unit("m", "MODEL", "Fails"), type_="TRANSFORMER"),
        rows([1.0]), "The step main.m failed: dep-main-m: model 'dep-main-m' failed in predict: RuntimeError",
        500, note="it answers the exception's text, and so the data in it",
    ),
    Scenario(
        "A message that is none", plus("m", 1, plus("n", 0)), {"data": {"ndarray": [[1], [1, 2]]}},
        "'data' is ragged", 400, note="500",
    ),
)  # fmt: skip

#: What is refused when applied: (what, graph, field, what is said). A field of `componentSpecs` is one of a
#: container with an image that is named like the graph's first node.
REFUSED: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    (
        "a router without children",
        unit("r", "ROUTER", "Chooses"),
        "graph.children",
        "a router needs children to choose among",
    ),
    (
        "a combiner without children",
        unit("c", "COMBINER", "Sums"),
        "graph.children",
        "a combiner needs children whose answers it combines",
    ),
    (
        "a model with two children",
        unit("m", "MODEL", "Plus", plus("a", 1), plus("b", 1)),
        "graph.children",
        "2 children, and nobody chooses one or combines them; put a ROUTER or a COMBINER above them",
    ),
    (
        "an implementation that does not exist",
        {
            "name": "m",
            "implementation": "SKLEARN_SERVR",
            "modelUri": "x",
            "children": [plus("a", 1)],
        },
        "graph.implementation",
        "unknown server; did you mean SKLEARN_SERVER?",
    ),
    (
        "two nodes of one name",
        plus("a", 1, plus("a", 1)),
        "graph.children[0].name",
        "is the name of another node, spec.predictors[0].graph",
    ),
    (
        "a class without its folder",
        {"name": "m", "type": "TRANSFORMER", "children": [{"name": "s", **SERVER}]},
        "graph.modelUri",
        "is required: the folder of the node's Python class; or say an implementation, SKLEARN_SERVER,"
        " XGBOOST_SERVER, MLFLOW_SERVER, TENSORFLOW_SERVER, TRITON_SERVER, HUGGINGFACE_SERVER",
    ),
    (
        "a unit that is an image",
        {"name": "m", "type": "TRANSFORMER", "children": [{"name": "s", **SERVER}]},
        "componentSpecs[0].spec.containers[0].image",
        "images are not run here; put the folder of the unit's Python class into modelUri of its node in the"
        " graph, its name into the variable MODEL_NAME, and leave the image out",
    ),
    (
        "an A/B test of one",
        {"name": "r", "implementation": "RANDOM_ABTEST", "children": [plus("a", 1)]},
        "graph.children",
        "RANDOM_ABTEST has two children, not 1",
    ),
)

SYSTEM = System(
    title="Seldon Core V1's SeldonDeployment",
    compared="Seldon",
    rows=tuple(Row(s.name, s.status, s.note) for s in SCENARIOS),
    refused=tuple(Refused(what, f"spec.predictors[0].{at}", said) for what, _, at, said in REFUSED),
    tests="`tests/seldon/test_seldon_v1_scenarios.py`, and on real models by `tests/e2e/test_e2e_seldon.py`",
    place=40,
)
