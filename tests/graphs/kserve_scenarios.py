"""KServe's documented InferenceGraph scenarios, as data: a graph, services, a request, and the answer.

The tests run each of them; `graph_scenarios` makes a table of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graph_scenarios import Refused, Row, System

DOG = {"predictions": [{"label": "dog"}]}
CAT = {"predictions": [{"label": "cat"}]}


class Fails(Exception):
    """A service answers this status and body instead."""

    def __init__(self, status: int, document: Any) -> None:
        self.status = status
        self.document = document


def fails(status: int, document: Any) -> Callable[[Any], Any]:
    def answer(_: Any) -> Any:
        raise Fails(status, document)

    return answer


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    name: str
    nodes: dict[str, Any]
    request: Any
    services: dict[str, Callable[[Any], Any]]
    status: int
    answer: Any
    #: Services in the order of their calls.
    called: tuple[str, ...]
    #: How KServe differs, where it does.
    note: str = ""
    chance: float = 0.5


def node(kind: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"routerType": kind, "steps": list(steps)}


def service(called: str, **more: Any) -> dict[str, Any]:
    return {"serviceName": called, **more}


def say(document: Any) -> Callable[[Any], Any]:
    return lambda _: document


def echo(document: Any) -> Any:
    return document


SCENARIOS = (
    Scenario(
        "Sequence: the second step gets the first one's response",
        {
            "root": node(
                "Sequence",
                service("cat-dog", name="cat_dog"),
                service("breed", name="breed", data="$response", condition='predictions.#(label=="dog")'),
            )
        },
        {"instances": [1]},
        {"cat-dog": say(DOG), "breed": lambda d: {"got": d}},
        200,
        {"got": DOG},
        ("cat-dog", "breed"),
    ),
    Scenario(
        "Sequence: a condition that does not hold ends it with the response before",
        {
            "root": node(
                "Sequence",
                service("cat-dog"),
                service("breed", data="$request", condition='predictions.#(label=="dog")'),
                service("after"),
            )
        },
        {"instances": [1]},
        {"cat-dog": say(CAT), "breed": echo, "after": echo},
        200,
        CAT,
        ("cat-dog",),
    ),
    Scenario(
        "Sequence: without data, or with $request, each step gets the request",
        {"root": node("Sequence", service("a"), service("b", data="$request"), service("c"))},
        {"instances": [7]},
        {"a": say(1), "b": say(2), "c": echo},
        200,
        {"instances": [7]},
        ("a", "b", "c"),
    ),
    Scenario(
        "Sequence: mapPredictionsToInstances",
        {
            "root": node(
                "Sequence",
                service("a"),
                service("b", data="$response", mapPredictionsToInstances=True),
            )
        },
        {"instances": [7]},
        {"a": say({"predictions": [1, 2]}), "b": echo},
        200,
        {"instances": [1, 2]},
        ("a", "b"),
    ),
    Scenario(
        "Sequence: a hard step that fails ends it with its own answer",
        {"root": node("Sequence", service("a", dependency="Hard"), service("b", data="$response"))},
        {},
        {"a": fails(503, {"error": "a is down"}), "b": echo},
        503,
        {"error": "a is down"},
        ("a",),
    ),
    Scenario(
        "Sequence: a soft step's failure is the next one's input",
        {"root": node("Sequence", service("a", dependency="Soft"), service("b", data="$response"))},
        {},
        {"a": fails(500, {"error": "a is down"}), "b": echo},
        200,
        {"error": "a is down"},
        ("a", "b"),
    ),
    Scenario(
        "Sequence: a fallback by a condition on a soft failure",
        {
            "root": node(
                "Sequence", service("a", dependency="Soft"), service("backup", condition="error")
            )
        },
        {"instances": [1]},
        {"a": fails(500, {"error": "a is down"}), "backup": echo},
        200,
        {"instances": [1]},
        ("a", "backup"),
    ),
    Scenario(
        "Sequence: the last step fails softly: its answer and its status",
        {"root": node("Sequence", service("a"), service("b"))},
        {},
        {"a": say(1), "b": fails(418, {"error": "teapot"})},
        418,
        {"error": "teapot"},
        ("a", "b"),
    ),
    Scenario(
        "Switch: the first condition that holds on the request",
        {
            "root": node(
                "Switch",
                service("m1", condition='instances.#(modelId=="1")'),
                service("m2", condition='instances.#(modelId=="2")'),
            )
        },
        {"instances": [{"modelId": "2"}]},
        {"m1": say(1), "m2": echo},
        200,
        {"instances": [{"modelId": "2"}]},
        ("m2",),
    ),
    Scenario(
        "Switch: none holds",
        {"root": node("Switch", service("m1", condition='instances.#(modelId=="1")'))},
        {"instances": [{"modelId": "3"}]},
        {"m1": say(1)},
        404,
        {
            "error": "Failed to process request",
            "cause": "None of the routes matched with the switch condition",
        },
        (),
    ),
    Scenario(
        "Switch inside of a Sequence: none holds, hard",
        {
            "root": node("Sequence", {"nodeName": "inner", "dependency": "Hard"}, service("after")),
            "inner": node("Switch", service("m1", condition="a")),
        },
        {"b": 1},
        {"m1": say(1), "after": echo},
        404,
        {
            "error": "Failed to process request",
            "cause": "None of the routes matched with the switch condition",
        },
        (),
        "KServe answers 500 when the Switch is not the root",
    ),
    Scenario(
        "Switch: the whole document as a list of one",
        {
            "root": node(
                "Sequence",
                service("picker"),
                service("bad", data="$request", condition="[@this].#(decision_picker==ERROR)"),
            )
        },
        {"instances": [1]},
        {"picker": say({"decision_picker": "ERROR"}), "bad": echo},
        200,
        {"instances": [1]},
        ("picker", "bad"),
    ),
    Scenario(
        "Splitter: by weights, the first",
        {"root": node("Splitter", service("a", weight=20), service("b", weight=80))},
        {},
        {"a": say("a"), "b": say("b")},
        200,
        "a",
        ("a",),
        chance=0.19,
    ),
    Scenario(
        "Splitter: by weights, the second",
        {"root": node("Splitter", service("a", weight=20), service("b", weight=80))},
        {},
        {"a": say("a"), "b": say("b")},
        200,
        "b",
        ("b",),
        chance=0.2,
    ),
    Scenario(
        "Switch: two comparisons in one condition",
        {
            "root": node(
                "Switch",
                service("upper", condition="[@this].#(instances.0.data>0.9)"),
                service("lower", condition="[@this].#(instances.0.data<=0.5)"),
                {
                    "nodeName": "middle",
                    "condition": "[@this].#(instances.0.data>0.5 && instances.0.data<=0.9)",
                },
            ),
            "middle": node("Sequence", service("between")),
        },
        {"instances": [{"data": 0.7}]},
        {"upper": say("upper"), "lower": say("lower"), "between": say("between")},
        200,
        "between",
        ("between",),
        "KServe's documentation has it; its router takes what follows > for 0",
    ),
    Scenario(
        "Splitter: a condition there is warned of; a soft step's failure, softly, goes on",
        {
            "root": node(
                "Sequence", {"nodeName": "node1", "dependency": "Soft"}, service("success")
            ),
            "node1": node(
                "Splitter",
                service("error", weight=100, condition="[@this].#(decision_picker==ERROR)"),
            ),
        },
        {"instances": [1]},
        {"error": fails(404, {"detail": "Intentional 404 code"}), "success": say("SUCCESS")},
        200,
        "SUCCESS",
        ("error", "success"),
    ),
    Scenario(
        "Splitter: a hard step's failure ends the graph through a hard node",
        {
            "root": node(
                "Sequence", {"nodeName": "node1", "dependency": "Hard"}, service("success")
            ),
            "node1": node("Splitter", service("error", weight=100, dependency="Hard")),
        },
        {"instances": [1]},
        {"error": fails(404, {"detail": "Intentional 404 code"}), "success": say("SUCCESS")},
        404,
        {"detail": "Intentional 404 code"},
        ("error",),
    ),
    Scenario(
        "Ensemble: its answers are what the next step gets",
        {
            "root": node("Sequence", {"nodeName": "both"}, service("vote", data="$response")),
            "both": node("Ensemble", service("one", name="one"), service("two")),
        },
        {"instances": [1]},
        {
            "one": say({"predictions": [0.75, 0.25]}),
            "two": say({"predictions": [0.25, 0.75]}),
            "vote": lambda d: {
                "predictions": [
                    sum(x) / len(d) for x in zip(*(o["predictions"] for o in d.values()), strict=True)
                ]
            },
        },
        200,
        {"predictions": [0.5, 0.5]},
        ("one", "two", "vote"),
    ),
    Scenario(
        "Ensemble: all at once, answers by name, or by position",
        {"root": node("Ensemble", service("a", name="first"), service("b"))},
        {"instances": [1]},
        {"a": say({"predictions": [1]}), "b": say({"predictions": [2]})},
        200,
        {"first": {"predictions": [1]}, "1": {"predictions": [2]}},
        ("a", "b"),
    ),
    Scenario(
        "Ensemble: a soft step that fails is merged like an answer",
        {"root": node("Ensemble", service("a", name="a"), service("b", name="b"))},
        {},
        {"a": say({"x": 1}), "b": fails(500, {"error": "b is down"})},
        200,
        {"a": {"x": 1}, "b": {"error": "b is down"}},
        ("a", "b"),
    ),
    Scenario(
        "Ensemble: a hard step that fails is the answer",
        {"root": node("Ensemble", service("a", name="a"), service("b", name="b", dependency="Hard"))},
        {},
        {"a": say({"x": 1}), "b": fails(400, {"error": "bad"})},
        400,
        {"error": "bad"},
        ("a", "b"),
    ),
    Scenario(
        "Ensemble: answers that are no objects",
        {"root": node("Ensemble", service("a", name="a"), service("b", name="b"))},
        {},
        {"a": say([1, 2]), "b": say(3)},
        200,
        {"a": [1, 2], "b": 3},
        ("a", "b"),
        "KServe answers 500",
    ),
    Scenario(
        "Nodes inside of nodes: an Ensemble of a Splitter and a Sequence",
        {
            "root": node(
                "Ensemble", {"nodeName": "split", "name": "s"}, {"nodeName": "chain", "name": "c"}
            ),
            "split": node("Splitter", service("a", weight=100), service("b", weight=0)),
            "chain": node("Sequence", service("c"), service("d", data="$response")),
        },
        {"instances": [1]},
        {"a": say({"a": 1}), "b": say({"b": 1}), "c": say({"c": 1}), "d": lambda d: {"d": d}},
        200,
        {"s": {"a": 1}, "c": {"d": {"c": 1}}},
        ("c", "a", "d"),
    ),
    Scenario(
        "A step by its address",
        {"root": node("Sequence", {"serviceUrl": "http://outside.example.com/v1/models/m:predict"})},
        {"instances": [1]},
        {"http://outside.example.com/v1/models/m:predict": echo},
        200,
        {"instances": [1]},
        ("http://outside.example.com/v1/models/m:predict",),
    ),
)  # fmt: skip

#: (what is wrong, nodes, the field, what is said)
REFUSED: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    (
        "no node named root",
        {"start": node("Sequence", service("a"))},
        "spec.nodes",
        "needs a node of the name root",
    ),
    (
        "a node without steps",
        {"root": {"routerType": "Sequence"}},
        "spec.nodes.root.steps",
        "a node needs at least one step",
    ),
    (
        "a step with two targets",
        {"root": node("Sequence", service("a", nodeName="b"))},
        "spec.nodes.root.steps[0]",
        "must have exactly one of nodeName, serviceName and serviceUrl, not nodeName and serviceName",
    ),
    (
        "a step without a target",
        {"root": node("Sequence", {"name": "x"})},
        "spec.nodes.root.steps[0]",
        "must have exactly one of nodeName, serviceName and serviceUrl",
    ),
    (
        "two steps of one name in a node",
        {"root": node("Sequence", service("a", name="x"), service("b", name="x"))},
        "spec.nodes.root.steps[1].name",
        "there are two steps of the name x",
    ),
    (
        "a node that does not exist",
        {"root": node("Sequence", {"nodeName": "gone"})},
        "spec.nodes.root.steps[0].nodeName",
        "there is no node 'gone'; there is root",
    ),
    (
        "nodes in a circle (KServe's router runs until its memory is full)",
        {
            "root": node("Sequence", {"nodeName": "b"}),
            "b": node("Sequence", {"nodeName": "root"}),
        },
        "spec.nodes.b.steps[0].nodeName",
        "the nodes run each other in a circle: root -> b -> root",
    ),
    (
        "a graph that calls itself",
        {"root": node("Sequence", service("g"))},
        "spec.nodes.root.steps[0].serviceName",
        "a graph cannot call itself",
    ),
    (
        "weights that do not add up to 100",
        {"root": node("Splitter", service("a", weight=20), service("b", weight=70))},
        "spec.nodes.root.steps",
        "weights add up to 90, not 100",
    ),
    (
        "a Splitter's step without a weight",
        {"root": node("Splitter", service("a", weight=100), service("b"))},
        "spec.nodes.root.steps[1].weight",
        "is required in a Splitter",
    ),
    (
        "a condition that cannot be parsed (KServe: it never holds)",
        {"root": node("Switch", service("a", condition="instances.#(x=="))},
        "spec.nodes.root.steps[0].condition",
        "no condition: a value is expected (at character 16 of 'instances.#(x==')",
    ),
    (
        "a comparison outside of a query (KServe: it never holds)",
        {"root": node("Switch", service("a", condition='target == "blue"'))},
        "spec.nodes.root.steps[0].condition",
        "no condition: == compares in a query only, such as [@this].#(target==value) "
        "(at character 7 of 'target == \"blue\"')",
    ),
    (
        "conditions joined by || (KServe: they never hold)",
        {"root": node("Switch", service("a", condition="[@this].#(a==1 || b==2)"))},
        "spec.nodes.root.steps[0].condition",
        "no condition: '||' in a query is not understood; give each case a step of its own "
        "(at character 16 of '[@this].#(a==1 || b==2)')",
    ),
    (
        "the fields of KServe's graphs before their first release",
        {"root": {"routerType": "Ensemble", "routes": [{"service": "a"}]}},
        "spec.nodes.root.routes",
        "unknown field; it became steps",
    ),
    (
        "a Switch's step without a condition (KServe: never taken)",
        {"root": node("Switch", service("a"))},
        "spec.nodes.root.steps[0].condition",
        "is required in a Switch; @this always holds",
    ),
    (
        "a condition on the first step of a Sequence (KServe: always 500)",
        {"root": node("Sequence", service("a", condition="x"))},
        "spec.nodes.root.steps[0].condition",
        "the first step has no response before it to look at; use a Switch",
    ),
    (
        "data that is neither $request nor $response (KServe: the request)",
        {"root": node("Sequence", service("a"), service("b", data="$response.predictions"))},
        "spec.nodes.root.steps[1].data",
        "must be '$request' or '$response'",
    ),
    (
        "an address that is none",
        {"root": node("Sequence", {"serviceUrl": "not an address"})},
        "spec.nodes.root.steps[0].serviceUrl",
        "is no address: http://HOST[:PORT]/PATH is expected, without user or fragment",
    ),
)  # fmt: skip


def manifest(nodes: dict[str, Any], name: str = "g", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "InferenceGraph",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodes": nodes, **spec},
    }


SYSTEM = System(
    "KServe's InferenceGraph",
    "KServe",
    tuple(Row(s.name, s.status, s.note) for s in SCENARIOS),
    tuple(Refused(what, field, said) for what, _, field, said in REFUSED),
    tests="`tests/graphs/test_kserve_graph.py`, in the executor and through a gateway over HTTP; each kind "
    "of node on real models by `tests/e2e/test_e2e_graphs.py`",
    place=2,
)
