"""What runs when: data flow, joins, conditions, choices, failures, and ends of every kind."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from graph_stand_in import Running, StandIn, graph, sources, step

from penstock.domain.graph import (
    Builtin,
    BuiltinUnit,
    Call,
    Combine,
    Condition,
    Flow,
    Gate,
    HandOn,
    Inputs,
    Join,
    OnFailure,
    Router,
    RunFlow,
    RunGraph,
    Side,
    Source,
    Splitter,
    Switch,
)
from penstock.graphs.values import Tensors, json_of, tensors_of


def tensors(**values: Any) -> Tensors:
    return Tensors({n: np.array(v, np.float32) for n, v in values.items()})


# -- data flow ------------------------------------------------------------------------------------------


async def test_a_step_without_inputs_gets_the_request_and_the_last_one_answers() -> None:
    run = Running(graph(step("a"), step("b", "a")), {"x": 1})
    assert run.caller.waiting() == ["a"]
    assert run.caller.of("a").json == {"x": 1}
    run.caller.of("a").answer({"y": 2})
    assert run.caller.of("b").json == {"y": 2}
    run.caller.of("b").answer({"z": 3})
    assert await run.json() == {"z": 3}
    assert run.observed.steps == [("a", "ok"), ("b", "ok")]
    assert run.execution.over


async def test_steps_that_need_nothing_of_each_other_run_at_once() -> None:
    both = sources("a", "b")
    run = Running(graph(step("a"), step("b"), step("c", joined=both)), {"x": 1})
    assert run.caller.waiting() == ["a", "b"]
    run.caller.of("b").answer({"b": 1})
    assert run.caller.waiting() == ["a"]
    run.caller.of("a").answer({"a": 1})
    assert run.caller.of("c").json == {"a": 1, "b": 1}


async def test_tensors_are_picked_renamed_and_not_copied() -> None:
    run = Running(
        graph(step("a"), step("b", ".x:image", "a.y:mask")), tensors(x=[1, 2], unused=[9])
    )
    first = run.caller.of("a")
    assert list(tensors_of(first.value).arrays) == ["x", "unused"]
    answer = tensors(y=[3], more=[4])
    first.answer(answer)
    got = tensors_of(run.caller.of("b").value)
    assert list(got.arrays) == ["image", "mask"]
    assert got.arrays["mask"] is answer.arrays["y"]


async def test_tensors_of_one_name_do_not_hide_each_other() -> None:
    run = Running(graph(step("a"), step("b"), output=sources("a", "b")), tensors(x=[1]))
    run.caller.of("a").answer(tensors(out=[1]))
    run.caller.of("b").answer(tensors(out=[2]))
    value = (await run.end()).value
    assert value is not None
    assert list(tensors_of(value).arrays) == ["out", "b.out"]


async def test_a_step_may_take_what_another_was_given() -> None:
    of_inputs = Inputs((Source("a", Side.INPUTS), Source("b")))
    run = Running(graph(step("a"), step("b"), step("c", joined=of_inputs)), {"x": 1})
    run.caller.of("b").answer({"y": 2})
    assert run.caller.of("c").json == {"x": 1, "y": 2}


async def test_v1_rows_are_tensors_when_somebody_asks_for_one() -> None:
    run = Running(graph(step("a"), step("b", ".age")), {"instances": [{"age": 1, "sex": 0}]})
    assert tensors_of(run.caller.of("b").value).arrays["age"].tolist() == [1]
    run.caller.of("a").answer({"predictions": [1]})


# -- joins ----------------------------------------------------------------------------------------------


async def test_any_takes_the_first_that_is_there_and_runs_once() -> None:
    g = graph(step("a"), step("b"), step("c", "a", "b", join=Join.ANY))
    run = Running(g, {})
    run.caller.of("b").answer({"b": 1})
    assert run.caller.of("c").json == {"b": 1}
    run.caller.of("a").answer({"a": 1})
    assert run.caller.called == ["a", "b", "c"]
    run.caller.of("c").answer({"c": 1})
    assert await run.json() == {"c": 1}


async def test_outer_waits_until_each_is_there_or_known_to_be_absent() -> None:
    g = graph(step("a", ".no"), step("b"), step("c"), step("d", "a", "b", "c", join=Join.OUTER))
    run = Running(g, tensors(x=[1]))
    assert run.outcome("a") == "skipped"
    run.caller.of("b").answer({"b": 1})
    assert run.caller.waiting() == ["c"]
    run.caller.of("c").answer({"c": 1})
    assert run.caller.of("d").json == {"b": 1, "c": 1}


async def test_outer_goes_on_when_its_window_is_over() -> None:
    joined = sources("a", "b", join=Join.OUTER, window_s=0.01)
    run = Running(graph(step("a"), step("b"), step("c", joined=joined)), {})
    run.caller.of("a").answer({"a": 1})
    while "c" not in run.caller.waiting():
        await asyncio.sleep(0)
    assert run.caller.of("c").json == {"a": 1}


async def test_inner_is_skipped_when_its_window_is_over() -> None:
    joined = sources("a", "b", window_s=0.01)
    run = Running(graph(step("a"), step("b"), step("c", joined=joined)), {})
    run.caller.of("a").answer({"a": 1})
    result = await run.end()
    assert "c was skipped (b was not there within 0.01 s)" in result.nothing
    assert run.caller.canceled == ["b"]


async def test_triggers_are_waited_for_and_not_looked_at() -> None:
    run = Running(graph(step("a"), step("b", triggers=sources("a"))), {"x": 1})
    assert run.caller.waiting() == ["a"]
    run.caller.of("a").answer({"y": 2})
    assert run.caller.of("b").json == {"x": 1}


async def test_the_same_step_may_be_input_and_trigger() -> None:
    run = Running(graph(step("a"), step("b", "a", triggers=sources("a.y"))), {})
    run.caller.of("a").answer(tensors(z=[1]))
    assert "its trigger: a has no tensor y" in (await run.end()).nothing


# -- what switches branches off ----------------------------------------------------------------------


async def test_an_answer_without_the_tensor_switches_the_branch_off() -> None:
    g = graph(
        step("a"),
        step("left", "a.l"),
        step("right", "a.r"),
        output=sources("left", "right", join=Join.ANY),
    )
    run = Running(g, {})
    run.caller.of("a").answer(tensors(r=[1]))
    assert run.caller.waiting() == ["right"]
    run.caller.of("right").answer({"right": 1})
    assert await run.json() == {"right": 1}
    assert run.outcome("left") == "skipped"


async def test_a_graph_that_gives_nothing_says_why() -> None:
    run = Running(graph(step("a"), step("b", "a.gone"), step("c", "b")), {})
    run.caller.of("a").answer(tensors(x=[1]))
    result = await run.end()
    assert result.value is None
    assert result.failure is None
    assert result.nothing == (
        "b was skipped (a has no tensor gone); c was skipped (b gave nothing)"
    )


@pytest.mark.parametrize(("negate", "runs"), [(False, True), (True, False)])
async def test_a_condition_decides(negate: bool, runs: bool) -> None:
    when = (Condition('predictions.#(label=="dog")', "a", negate=negate),)
    run = Running(graph(step("a"), step("b", "a", when=when)), {})
    run.caller.of("a").answer({"predictions": [{"label": "dog"}]})
    assert (run.caller.waiting() == ["b"]) is runs


async def test_conditions_see_tensors_as_a_v2_response() -> None:
    when = (Condition('outputs.#(name=="y").data.#(>2)', "a"),)
    run = Running(graph(step("a"), step("b", "a", when=when)), {})
    run.caller.of("a").answer(tensors(y=[1, 3]))
    assert run.caller.waiting() == ["b"]


async def test_a_condition_on_what_is_no_json_does_not_hold() -> None:
    from penstock.graphs.values import Body

    run = Running(graph(step("a"), step("b", "a", when=(Condition("x", "a"),))), {})
    run.caller.of("a").answer(Body(b"\x00", b"image/png"))
    assert "the condition x does not hold" in (await run.end()).nothing


# -- choices --------------------------------------------------------------------------------------------


def choice(action: Any) -> Any:
    return graph(
        step("choose", action=action),
        step("a", gates=(Gate("choose", 0),)),
        step("b", gates=(Gate("choose", 1),)),
        output=sources("a", "b", join=Join.ANY),
    )


@pytest.mark.parametrize(
    ("request_", "called"), [({"a": 1}, ["a"]), ({"b": 1}, ["b"]), ({"a": 1, "b": 1}, ["a"])]
)
async def test_a_switch_takes_the_first_condition_that_holds(
    request_: dict[str, int], called: list[str]
) -> None:
    assert Running(choice(Switch(("a", "b"))), request_).caller.waiting() == called


async def test_a_switch_without_a_match_fails() -> None:
    failure = await Running(choice(Switch(("a", "b"))), {"c": 1}).failure()
    assert (failure.status, failure.step) == (404, "root.choose")
    run = Running(choice(Switch(("a", "b"), must_match=False)), {"c": 1})
    assert "choose chose another branch" in (await run.end()).nothing


@pytest.mark.parametrize(
    ("chance", "called"), [(0.0, "a"), (0.2999, "a"), (0.3, "b"), (0.9999, "b")]
)
async def test_a_splitter_follows_its_weights(chance: float, called: str) -> None:
    run = Running(choice(Splitter((30, 70))), {}, chance=lambda: chance)
    assert run.caller.waiting() == [called]


@pytest.mark.parametrize(
    ("answer", "called"),
    [
        ({"data": {"ndarray": [[1]]}}, ["b"]),
        ({"data": {"tensor": {"shape": [1], "values": [0]}}}, ["a"]),
        ({"predictions": [1]}, ["b"]),
        ({"data": {"ndarray": [-1]}}, ["a", "b"]),
        (tensors(branch=[0]), ["a"]),
    ],
)
async def test_a_router_says_the_branch(answer: Any, called: list[str]) -> None:
    run = Running(choice(Router(Call("r"), 2)), {"x": 1})
    run.caller.of("r").answer(answer)
    assert run.caller.waiting() == called
    assert run.caller.of(called[0]).json == {"x": 1}


@pytest.mark.parametrize(
    "answer",
    [
        {"data": {"ndarray": [2]}},
        {"data": {}},
        {"predictions": ["a"]},
        {"predictions": [0.5]},
        pytest.param({"predictions": [10**400]}, id="beyond any float"),
    ],
)
async def test_a_router_that_answers_no_branch_fails(answer: Any) -> None:
    run = Running(choice(Router(Call("r"), 2)), {})
    run.caller.of("r").answer(answer)
    failure = await run.failure()
    assert failure.status == 500
    assert "0 to 1, -1 (all) or -2 (none) is expected" in failure.message


async def test_a_router_may_take_no_branch() -> None:
    g = choice(Router(Call("r"), 2))
    with_default = graph(
        *g.flows[0].steps,
        output=sources("a", "b", "choose", join=Join.OUTER, combine=Combine.FIRST),
    )
    run = Running(with_default, {"x": 1})
    run.caller.of("r").answer({"data": {"ndarray": [-2]}})
    assert await run.json() == {"x": 1}


# -- combining ------------------------------------------------------------------------------------------


async def test_an_object_has_each_answer_under_its_key() -> None:
    inputs = Inputs((Source("a"), Source("b", key="second")), combine=Combine.OBJECT)
    run = Running(graph(step("a"), step("b"), output=inputs), {})
    run.caller.of("b").answer(tensors(y=[1]))
    run.caller.of("a").answer({"predictions": [1]})
    assert await run.json() == {
        "a": {"predictions": [1]},
        "second": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]},
    }


async def test_last_is_what_a_sequence_that_stopped_answers() -> None:
    last = sources("a", "b", "c", join=Join.OUTER, combine=Combine.LAST)
    g = graph(step("a"), step("b", "a", when=(Condition("go", "a"),)), step("c", "b"), output=last)
    run = Running(g, {})
    run.caller.of("a").answer({"stop": 1})
    assert await run.json() == {"stop": 1}


async def test_the_mean_of_several_answers() -> None:
    mean = step(
        "mean",
        joined=Inputs((Source("a"), Source("b")), combine=Combine.LIST),
        action=Builtin(BuiltinUnit.AVERAGE),
    )
    run = Running(graph(step("a"), step("b"), mean), {})
    run.caller.of("a").answer(tensors(y=[1, 2]))
    run.caller.of("b").answer(tensors(y=[3, 4]))
    value = (await run.end()).value
    assert value is not None
    assert tensors_of(value).arrays["y"].tolist() == [2, 3]
    run = Running(graph(step("a"), step("b"), mean), {})
    run.caller.of("a").answer(tensors(y=[1, 2]))
    run.caller.of("b").answer(tensors(y=[3]))
    assert "different shapes" in (await run.failure()).message


async def test_predictions_go_on_as_instances() -> None:
    run = Running(graph(step("a"), step("b", "a", predictions_as_instances=True)), {})
    run.caller.of("a").answer({"predictions": [1], "more": 2})
    assert run.caller.of("b").json == {"instances": [1], "more": 2}


async def test_tensors_beside_plain_json_cannot_be_joined() -> None:
    run = Running(graph(step("a"), step("b"), step("c", "a", "b")), {})
    run.caller.of("a").answer(tensors(y=[1]))
    run.caller.of("b").answer({"text": "x"})
    failure = await run.failure()
    assert failure.step == "root.c"
    assert "cannot be joined" in failure.message


# -- failures -------------------------------------------------------------------------------------------


async def test_a_failure_ends_the_request_and_stops_the_rest() -> None:
    run = Running(graph(step("a"), step("b"), step("c", "a", "b")), {})
    run.caller.of("a").fail(503, "asleep")
    failure = await run.failure()
    assert (failure.status, failure.step) == (503, "root.a")
    assert failure.body is not None
    assert failure.body.document == {"error": "asleep"}
    assert run.caller.canceled == ["b"]
    assert run.execution.over


async def test_a_soft_failure_is_handed_on() -> None:
    g = graph(step("a", on_failure=OnFailure.ANSWER), step("b", "a"))
    run = Running(g, {})
    run.caller.of("a").fail(500, "oh")
    assert run.caller.of("b").json == {"error": "oh"}
    assert run.outcome("a") == "ignored"


async def test_a_failure_may_count_as_absent() -> None:
    g = graph(step("a", on_failure=OnFailure.SKIP), step("b"), step("c", "a", "b", join=Join.OUTER))
    run = Running(g, {})
    run.caller.of("a").fail()
    run.caller.of("b").answer({"b": 1})
    assert run.caller.of("c").json == {"b": 1}


async def test_a_step_has_its_own_time() -> None:
    run = Running(graph(step("a", timeout_s=0.01)), {})
    failure = await run.failure()
    assert failure.status == 504
    assert failure.message == "The step root.a did not answer within 0.01 s."
    assert run.caller.canceled == ["a"]


async def test_cancel_stops_every_call_and_answers_nothing() -> None:
    flow = Flow("inner", (step("x"), step("y")), sources("x", "y"))
    run = Running(graph(step("a"), step("b", action=RunFlow("inner")), flows=(flow,)), {})
    assert sorted(run.caller.waiting()) == ["a", "x", "y"]
    run.execution.cancel()
    assert sorted(run.caller.canceled) == ["a", "x", "y"]
    assert run.result is None
    assert run.execution.over


async def test_steps_beside_the_output_go_on_until_the_deadline() -> None:
    run = Running(graph(step("drift"), step("a"), output=sources("a")), {}, deadline_s=0.02)
    run.caller.of("a").answer({"a": 1})
    assert await run.json() == {"a": 1}
    assert run.caller.waiting() == ["drift"]
    while not run.execution.over:
        await asyncio.sleep(0)
    assert run.caller.canceled == ["drift"]


async def test_steps_beside_the_output_may_finish() -> None:
    g = graph(step("a"), step("drift", "a"), step("alarm", "drift"), output=sources("a"))
    run = Running(g, {})
    run.caller.of("a").answer({"a": 1})
    await run.json()
    run.caller.of("drift").answer({"d": 1})
    run.caller.of("alarm").answer({})
    assert run.execution.over
    assert run.observed.steps[-1] == ("alarm", "ok")


async def test_what_lost_a_race_is_stopped() -> None:
    run = Running(graph(step("a"), step("b"), output=sources("a", "b", join=Join.ANY)), {})
    run.caller.of("b").answer({"b": 1})
    assert await run.json() == {"b": 1}
    assert run.caller.canceled == ["a"]


# -- flows and graphs inside ----------------------------------------------------------------------------


async def test_a_flow_inside_answers_and_fails_as_a_step() -> None:
    inner = Flow("inner", (step("x"),), sources("x"))
    g = graph(
        step("n", action=RunFlow("inner"), on_failure=OnFailure.ANSWER),
        step("b", "n"),
        flows=(inner,),
    )
    run = Running(g, {"q": 1})
    assert run.caller.of("x").json == {"q": 1}
    run.caller.of("x").answer({"x": 1})
    assert run.caller.of("b").json == {"x": 1}
    run = Running(g, {})
    run.caller.of("x").fail(500, "inside")
    assert run.caller.of("b").json == {"error": "inside"}


async def test_a_flow_inside_that_gives_nothing_skips_its_step() -> None:
    inner = Flow("inner", (step("x", ".gone"),), sources("x"))
    run = Running(graph(step("n", action=RunFlow("inner")), flows=(inner,)), tensors(t=[1]))
    assert "n was skipped (x was skipped (the request has no tensor gone))" in (
        (await run.end()).nothing
    )


async def test_another_graph_runs_as_a_step() -> None:
    other = graph(step("x"))
    other = type(other)("default", "other", other.flows)
    g = graph(step("n", action=RunGraph("other")))
    run = Running(g, {"q": 1}, others=(other,))
    run.caller.of("x").answer({"x": 1})
    assert await run.json() == {"x": 1}
    failure = await Running(g, {}).failure()
    assert failure.message == "root.n: there is no graph default/other."


# -- bounds ---------------------------------------------------------------------------------------------


async def test_calls_at_a_time_are_bounded() -> None:
    g = graph(*(step(f"s{i}") for i in range(5)), output=sources("s0", "s1", "s2", "s3", "s4"))
    g = type(g)(g.namespace, g.name, g.flows, max_parallel=2)
    run = Running(g, {})
    assert run.caller.waiting() == ["s0", "s1"]
    run.caller.of("s1").answer({"b": 1})
    assert run.caller.waiting() == ["s0", "s2"]
    run.execution.cancel()
    assert run.caller.called == ["s0", "s1", "s2"]


async def test_calls_of_one_request_are_bounded() -> None:
    g = graph(step("a"), step("b", "a"))
    g = type(g)(g.namespace, g.name, g.flows, max_calls=1)
    run = Running(g, {})
    run.caller.of("a").answer({})
    assert "more than 1 times" in (await run.failure()).message


async def test_a_long_chain_does_not_grow_the_stack() -> None:
    names = [f"s{i}" for i in range(250)]
    steps = [step(n, p, action=HandOn()) for p, n in zip(["", *names], names, strict=False)]
    assert await Running(graph(*steps), {"x": 1}).json() == {"x": 1}


async def test_a_fault_in_the_executor_fails_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Running(graph(step("a"), step("b", "a")), {})

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run.execution._root, "look", broken)
    run.caller.of("a").answer({})
    failure = await run.failure()
    assert failure.status == 500
    assert run.execution.over


# -- cycles ---------------------------------------------------------------------------------------------


def loop_of(rounds: int) -> Any:
    """`count` gets the request, then its own answers back until it leaves `again` out."""
    return graph(
        step("count", "", "back", join=Join.ANY),
        step("back", "count.again", action=HandOn()),
        step("end", "count.done"),
        max_revisits=rounds,
    )


def counting(most: int) -> Any:
    def count(value: Any) -> Tensors:
        (array,) = tensors_of(value).arrays.values()
        number = int(array[0]) + 1
        return tensors(**{"done" if number >= most else "again": [number]})

    return count


async def test_a_cycle_runs_until_its_model_leaves_the_tensor_out() -> None:
    caller = StandIn(count=counting(4), end=lambda v: v)
    run = Running(loop_of(3), tensors(x=[0]), caller)
    value = (await run.end()).value
    assert value is not None
    assert tensors_of(value).arrays["done"].tolist() == [4]
    assert caller.called == ["count"] * 4 + ["end"]


async def test_one_round_too_many_fails() -> None:
    caller = StandIn(count=counting(5), end=lambda v: v)
    failure = await Running(loop_of(3), tensors(x=[0]), caller).failure()
    assert failure.message == (
        "The step root.count was to run again more than 3 times for one request (maxRevisits)."
    )
    assert caller.called == ["count"] * 4


async def test_a_cycle_in_which_nothing_goes_on_ends() -> None:
    caller = StandIn(count=lambda v: tensors(other=[1]))
    result = await Running(loop_of(3), tensors(x=[0]), caller).end()
    assert "never had all that is needed" in result.nothing


async def test_a_cycle_with_a_choice() -> None:
    g = graph(
        step("work", "", "again", join=Join.ANY),
        step("check", "work", action=Switch(("done", ""))),
        step("end", "work", gates=(Gate("check", 0),), action=HandOn()),
        step("again", "work", gates=(Gate("check", 1),), action=HandOn()),
        output=sources("end"),
        max_revisits=10,
    )

    def work(value: Any) -> Any:
        from penstock.graphs.values import Body

        n = json_of(value)["n"] + 1
        return Body.of({"n": n, "done": True} if n == 3 else {"n": n})

    caller = StandIn(work=work)
    run = Running(g, {"n": 0}, caller)
    assert await run.json() == {"n": 3, "done": True}
    assert caller.called == ["work"] * 3


async def test_a_trace_has_every_step_with_its_times() -> None:
    g = graph(step("a"), step("b", "a.gone"), output=sources("a"))
    run = Running(g, tensors(x=[1]), trace=True)
    run.caller.of("a").answer(tensors(y=[1]))
    await run.end()
    records = run.execution.records
    assert records is not None
    first = records[0]
    assert (first.path, first.target, first.outcome) == ("root.a", "a", "ok")
    assert 0 <= first.started_s <= first.ended_s
