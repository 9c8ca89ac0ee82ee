"""Graphs that cannot run are found before they do, with the place of the fault."""

from __future__ import annotations

import msgspec
import pytest

from penstock.domain.graph import (
    Batch,
    Call,
    CallUrl,
    Condition,
    Flow,
    Gate,
    Graph,
    HandOn,
    Inputs,
    Join,
    Router,
    RunFlow,
    RunGraph,
    Signature,
    Source,
    Splitter,
    Step,
    Switch,
    Tensor,
)
from penstock.domain.graph_check import check, find_cycle


def out_of(*names: str, join: Join = Join.INNER) -> Inputs:
    return Inputs(tuple(Source(n) for n in names), join=join)


def step(name: str, *sources: str, **more: object) -> Step:
    return Step(name, more.pop("action", Call(name)), out_of(*sources), **more)  # type: ignore[arg-type]


def graph(*steps: Step, output: Inputs | None = None, **more: object) -> Graph:
    flow = Flow("root", steps, output or out_of(steps[-1].name), **more)  # type: ignore[arg-type]
    return Graph("default", "g", (flow,))


def told(g: Graph) -> list[str]:
    return [str(p) for p in check(g)]


def test_a_sound_graph_has_no_problems_and_travels_as_json() -> None:
    g = graph(
        step("a"),
        step("choice", "a", action=Switch(("x", ""))),
        step("b", "a", gates=(Gate("choice", 0),)),
        step("c", "a", gates=(Gate("choice", 1),), batch=Batch(4), when=(Condition("y", "a"),)),
        output=out_of("b", "c", join=Join.ANY),
    )
    assert told(g) == []
    assert msgspec.json.decode(msgspec.json.encode(g), type=Graph) == g
    assert g.services() == (("default", "a"), ("default", "b"), ("default", "c"))


@pytest.mark.parametrize(
    ("g", "problem"),
    [
        (Graph("n", "g", ()), "no steps"),
        (graph(step("a"), step("a")), "two steps of the name a"),
        (graph(step("a", "b")), "root.a.inputs[0]: there is no step 'b'; there is a"),
        (graph(step("a"), output=out_of("z")), "root.output[0]: there is no step 'z'"),
        (graph(step("a"), output=Inputs()), "root.output: nothing is answered"),
        (graph(step("a", triggers=out_of("z"))), "root.a.triggers[0]: there is no step 'z'"),
        (graph(step("a", "b"), step("b", "a")), "there is a cycle: a -> b -> a"),
        (graph(step("a", "a")), "there is a cycle: a -> a"),
        (graph(step("a"), step("b", gates=(Gate("a", 0),))), "chooses no branch"),
        (
            graph(step("a", action=Splitter((50, 50))), step("b", gates=(Gate("a", 2),))),
            "root.b.gates[0]: 'a' has 2 branches, none of them is 2",
        ),
        (graph(step("a", action=Splitter((50, 49)))), "root.a.weights: weights add up to 99"),
        (graph(step("a", action=Splitter((150, -50)))), "root.a.weights[0]: a weight is between"),
        (graph(step("a", action=Splitter(()))), "at least one branch"),
        (graph(step("a", action=Router(Call("r"), 0))), "at least one branch"),
        (graph(step("a", action=Switch(("a..b",)))), "root.a.conditions[0]: no condition: a key"),
        (graph(step("a"), step("b", when=(Condition("#(", "a"),))), "root.b.when[0]: no condition"),
        (graph(step("a", when=(Condition("x", "z"),))), "root.a.when[0]: there is no step 'z'"),
        (graph(step("a", action=CallUrl("ftp://x/y"))), "root.a.action: is no address"),
        (graph(step("a", action=CallUrl("http://me:secret@x/"))), "root.a.action: is no address"),
        (graph(step("a", action=RunFlow("n"))), "root.a.action: there is no node 'n'"),
        (graph(step("a", action=RunFlow("root"))), "in a circle: root -> root"),
        (graph(step("a", action=RunGraph("g"))), "a graph cannot run itself"),
        (graph(step("a", action=Call("g"))), "a graph cannot call itself"),
        (graph(step("a", action=Router(Call("g"), 2))), "a graph cannot call itself"),
        (graph(step("a", batch=Batch(0))), "size must be 1 or more"),
        (graph(step("a", batch=Batch(2, 0))), "a half batch waits for ever"),
        (graph(step("a", action=HandOn(), batch=Batch(2))), "only a step that calls"),
        (graph(step("a", timeout_s=0)), "root.a.timeout: must be more than 0"),
        (graph(step("a"), max_revisits=-1), "must be 0 or more"),
        (graph(step("a", "a"), max_revisits=3), "can never start"),
        (
            Graph("n", "g", (Flow("f", (step("a"),), out_of("a")),), timeout_s=-1),
            "timeout: must be more",
        ),
        (
            Graph("n", "g", (Flow("f", (step("a"),), out_of("a")),), propagate=("(",)),
            "propagate[0]: no regular expression",
        ),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_place(g: Graph, problem: str) -> None:
    assert any(problem in text for text in told(g)), told(g)


def test_nodes_may_share_a_node_but_not_run_in_a_circle() -> None:
    def node(name: str, *inner: str) -> Flow:
        steps = tuple(Step(f"s{i}", RunFlow(n)) for i, n in enumerate(inner))
        return Flow(name, (*steps, Step("m", Call("m"))), out_of("m"))

    assert told(Graph("n", "g", (node("root", "x", "y"), node("x", "y"), node("y")))) == []
    circle = Graph("n", "g", (node("root", "x"), node("x", "y"), node("y", "x")))
    assert told(circle) == [
        "y.s0.action: the nodes run each other in a circle: root -> x -> y -> x"
    ]


def test_a_cycle_that_any_input_starts_is_allowed_when_revisits_are() -> None:
    g = graph(
        Step("loop", Call("loop"), Inputs((Source(), Source("check")), join=Join.ANY)),
        step("check", "loop"),
        max_revisits=5,
    )
    assert told(g) == []
    assert find_cycle(g.flows[0])


FLOATS = Signature((Tensor("x", "FP32", (-1, 4)),), (Tensor("y", "FP32", (-1, 3)),))


def typed(name: str, *sources: Source) -> Step:
    return Step(name, Call(name), Inputs(sources), signature=FLOATS)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (Source("a", tensor="z", rename="x"), "'a' has no tensor 'z'; it has y"),
        (Source("a", tensor="y"), "there is no input 'y'; there is x"),
        (Source("a", tensor="y", rename="x"), "has shape [-1, 3], the input 'x' takes [-1, 4]"),
        (Source(tensor="img", rename="x"), "'img' is UINT8, the input 'x' takes FP32"),
        (Source(tensor="gone"), "the request has no tensor 'gone'; it has img, rows"),
    ],
)  # fmt: skip
def test_declared_tensors_have_to_fit(source: Source, problem: str) -> None:
    request = (Tensor("img", "UINT8"), Tensor("rows", "FP32", (-1, 4)))
    fits = graph(typed("a", Source(tensor="rows", rename="x")), inputs=request)
    assert told(fits) == []
    wrong = graph(typed("a", Source(tensor="rows", rename="x")), typed("b", source), inputs=request)
    assert any(problem in t for t in told(wrong)), told(wrong)


def test_two_tensors_of_one_name_are_refused_in_a_step() -> None:
    sources = (Source("a", tensor="y"), Source("b", tensor="y"))
    g = graph(step("a"), step("b"), Step("c", Call("c"), Inputs(sources)))
    assert told(g) == [
        "root.c.inputs[1]: a second tensor of the name 'y'; give one of them another name"
    ]
    one_of = Step("c", Call("c"), Inputs(sources, join=Join.ANY))
    assert told(graph(step("a"), step("b"), one_of)) == []
