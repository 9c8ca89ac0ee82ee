"""Pictures of graphs, and pipelines written in Python."""

from __future__ import annotations

import io
from pathlib import Path
from time import process_time
from xml.etree import ElementTree

import pytest
import yaml
from graph_stand_in import graph, sources, step
from hypothesis import given
from hypothesis import strategies as st

from penstock import dialects
from penstock.cli.exits import CliError
from penstock.cli.graphs import diagrams_of, numbers_of, show_file
from penstock.domain.graph import Flow, Gate, HandOn, Inputs, Join, Source, Switch
from penstock.errors import InvalidManifest
from penstock.graph import Pipeline
from penstock.graphs import drawing, svg
from penstock.graphs.layout import Numbers, layout


def cycle() -> Flow:
    return graph(
        step("work", "", "again", join=Join.ANY),
        step("again", "work.more", action=HandOn()),
        step("end", "work.done"),
        max_revisits=3,
    ).flows[0]


def test_a_chain() -> None:
    drawn = drawing.draw(layout(graph(step("a"), step("b", "a")).flows[0]))
    assert drawn == (
        "╭─────────╮     ┌───┐     ┌───┐     ╭────────╮\n"
        "│ request │────▶│ a │────▶│ b │────▶│ answer │\n"
        "╰─────────╯     └───┘     └───┘     ╰────────╯"
    )


def test_branches_numbers_and_edges_that_pass_a_layer() -> None:
    flow = graph(
        step("pick", action=Switch(("x", ""))),
        step("a", "pick", gates=(Gate("pick", 0),)),
        step("b", gates=(Gate("pick", 1),)),
        output=sources("a", "b", join=Join.ANY),
    ).flows[0]
    numbers = {"a": Numbers({"ok": 90, "failed": 10}, 0.0012, 0.02)}
    drawn = drawing.draw(layout(flow, numbers))
    assert "ok 90% failed 10%" in drawn
    assert "1.20 ms · p99 20 ms" in drawn
    assert "  pick ─▶ a: x" in drawn
    assert "  pick ╌▶ b: else" in drawn
    assert drawn.count("▶│") + drawn.count("▶") >= 5


def test_a_cycle_is_told_in_words() -> None:
    drawn = drawing.draw(layout(cycle()))
    assert "again ─▶ work (back)" in drawn


@given(st.data())
def test_any_graph_can_be_drawn(data: st.DataObject) -> None:
    """No two boxes overlap, every step is there, and the SVG is well-formed."""
    count = data.draw(st.integers(1, 12))
    names = [f"s{i}" for i in range(count)]
    steps = []
    for i, name in enumerate(names):
        taken = data.draw(st.lists(st.sampled_from(["", *names[:i]]), max_size=3, unique=True))
        steps.append(step(name, *taken))
    answered = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    diagram = layout(Flow("f", tuple(steps), Inputs(tuple(Source(n) for n in answered))))
    drawn = drawing.draw(diagram)
    for name in names:
        assert f" {name} " in drawn
    assert drawn.count("┌") >= count
    ElementTree.fromstring(svg.draw([diagram]))


def test_text_of_users_cannot_leave_its_element() -> None:
    flow = graph(step("a", action=None), step("b", "a.<script>")).flows[0]
    drawn = svg.draw([layout(flow, title="</text><script>")])
    assert "<script>" not in drawn
    ElementTree.fromstring(drawn)


def test_what_would_drive_a_terminal_or_break_xml_is_not_drawn() -> None:
    flow = graph(step("a\x1b[31m", action=Switch(("x\x00\x07", ""))), step("\ud800b")).flows[0]
    diagram = layout(flow, title="g\x1b")
    for text in (drawing.draw(diagram), drawing.listed(diagram)):
        assert all(c.isprintable() or c == "\n" for c in text)
    ElementTree.fromstring(svg.draw([diagram]).encode())


def test_characters_of_two_columns_keep_boxes_straight() -> None:
    drawn = drawing.draw(layout(graph(step("日本語"), step("e\u0301", "日本語")).flows[0]))
    assert drawn == (
        "╭─────────╮     ┌────────┐     ┌───┐     ╭────────╮\n"
        "│ request │────▶│ 日本語 │────▶│ e\u0301 │────▶│ answer │\n"
        "╰─────────╯     └────────┘     └───┘     ╰────────╯"
    )


def test_steps_named_like_the_ends_are_steps() -> None:
    flow = graph(step("request"), step("answer", "request")).flows[0]
    drawn = drawing.draw(layout(flow))
    assert drawn.count("│ request │") == drawn.count("│ answer │") == 2


def test_a_step_after_another_that_takes_the_request_shows_both() -> None:
    flow = graph(step("a"), step("b", triggers=sources("a"))).flows[0]
    assert "b ◀ after a, request" in drawing.listed(layout(flow)).splitlines()


def dense(count: int) -> Flow:
    names = [f"s{i}" for i in range(count)]
    return graph(*(step(n, *names[:i]) for i, n in enumerate(names))).flows[0]


def test_a_picture_that_no_terminal_shows_is_a_list() -> None:
    """What would be wrapped is written a step a line, with what it is made of; so is what is too large."""
    flow = graph(
        step("a"),
        step("b", "a.y:z"),
        step("c", "a", "b", action=Switch(("x", ""))),
        step("d", gates=(Gate("c", 1),)),
        output=sources("d", "c", join=Join.ANY),
    ).flows[0]
    diagram = layout(flow, {"a": Numbers({"ok": 3}, 0.001, 0.002)})
    assert drawing.draw(diagram, width=200) == drawing.draw(diagram)
    listed = drawing.draw(diagram, width=60)
    assert listed == drawing.listed(diagram)
    assert listed.splitlines() == [
        "request",
        "a · 3 ok · 1.00 ms · p99 2.00 ms ◀ request",
        "b ◀ a (y→z)",
        "c · switch ◀ a, b",
        "d ◀ c (else)",
        "answer · any ◀ d, c",
    ]
    many = layout(dense(100))
    drawn = drawing.draw(many)
    assert drawn == drawing.listed(many)
    assert len(svg.draw([many])) < 2_000_000


def test_the_largest_graph_is_drawn_in_no_time() -> None:
    began = process_time()
    diagram = layout(dense(256))
    drawing.draw(diagram)
    svg.draw([diagram])
    assert process_time() - began < 20  # it took minutes and gigabytes


def test_a_cycle_in_a_list() -> None:
    assert "work · any ◀ request, again (back)" in drawing.listed(layout(cycle()))


def test_numbers_are_those_of_the_graph() -> None:
    snapshot = {
        "penstock_graph_steps": {
            "labels": ["namespace", "graph", "step", "outcome"],
            "samples": [
                [["default", "g", "root.a", "ok"], 4],
                [["default", "other", "root.a", "ok"], 9],
            ],
        },
        "penstock_graph_step_seconds": {
            "labels": ["namespace", "graph", "step"],
            "bounds": [0.001, 0.01],
            "samples": [[["default", "g", "root.a"], [[4, 0, 0], 0.002]]],
        },
    }
    g = graph(step("a"))
    numbers = numbers_of(snapshot, g)
    assert numbers["root.a"].outcomes == {"ok": 4}
    assert numbers["root.a"].median_s == pytest.approx(0.0005)
    (diagram,) = diagrams_of(g, numbers)
    assert "4 ok" in diagram.nodes["a"].lines


# -- in Python ------------------------------------------------------------------------------------------


def triage() -> Pipeline:
    made = Pipeline("triage", spec={"timeout": "2s", "max_revisits": 1})
    boxes = made.step("detect")
    pick = made.switch("pick", {"outputs.0": "near"}, otherwise="far", inputs=[boxes])
    near = made.step("near", model="resnet", inputs=[boxes["boxes"].named("input-0"), pick])
    far = made.step("far", inputs=[made.request["image"], boxes.given], on_failure="skip")
    made.answer(near.under("n"), far, join="any", combine="first")
    return made


def test_python_makes_the_manifest() -> None:
    manifest = triage().manifest()
    assert manifest["spec"] == {
        "timeout": "2s",
        "maxRevisits": 1,
        "steps": [
            {"name": "detect"},
            {
                "name": "pick",
                "inputs": ["detect"],
                "switch": [{"when": "outputs.0", "step": "near"}, {"step": "far"}],
            },
            {
                "name": "near",
                "model": "resnet",
                "inputs": [{"from": "detect.boxes", "as": "input-0"}, "pick"],
            },
            {
                "name": "far",
                "inputs": ["request.image", {"from": "detect", "side": "inputs"}],
                "onFailure": "skip",
            },
        ],
        "output": {
            "from": [{"from": "near", "key": "n"}, "far"],
            "join": "any",
            "combine": "first",
        },
    }
    assert yaml.safe_load(triage().yaml()) == manifest
    assert dialects.translate(manifest).object == triage().graph()


def test_python_draws_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "detect" in triage().draw()
    assert triage().svg().startswith("<svg ")
    triage().write(tmp_path / "t.yaml")
    show_file(str(tmp_path / "t.yaml"), "text")
    assert "resnet" in capsys.readouterr().out
    wrong = Pipeline("wrong")
    wrong.step("a", inputs=["gone"])
    with pytest.raises(
        InvalidManifest, match=r"spec.steps\[0\].inputs\[0\]: there is no step 'gone'"
    ):
        wrong.manifest()
    with pytest.raises(ValueError, match="name one tensor"):
        wrong.request.named("x")
    split = Pipeline("split")
    split.split("half", {"a": 50, "b": 50})
    split.join("all", [split.step("a"), split.step("b")], join="any")
    assert split.graph().flows[0].output == Inputs((Source("all"),))


def test_one_input_needs_no_list() -> None:
    one = Pipeline("one")
    a = one.step("a")
    one.step("b", inputs=a)
    one.step("c", inputs="b", triggers=a["x"])
    one.join("d", "c")
    assert one.manifest()["spec"]["steps"] == [
        {"name": "a"},
        {"name": "b", "inputs": ["a"]},
        {"name": "c", "inputs": ["b"], "triggers": ["a.x"]},
        {"name": "d", "inputs": ["c"], "joinOnly": True},
    ]
    for loop in (lambda: list(a), lambda: one.answer(*a), lambda: "x" in a):
        with pytest.raises(TypeError, match=r"one value, not several|not iterable"):
            loop()


def test_python_listens_to_others() -> None:
    after = Pipeline("after")
    after.step("two")
    after.listens_to("scale.y", "scale/one.z", join="outer", triggers=["other"])
    assert after.manifest()["spec"]["listensTo"] == {
        "from": ["scale.y", "scale/one.z"],
        "join": "outer",
        "triggers": ["other"],
    }
    external = after.graph().external
    assert external is not None
    assert [s.step for s in external.inputs.sources] == ["scale", "scale.one"]
    assert external.graphs() == ("scale", "other")
    assert "or scale.y" in after.draw()
    after.listens_to("scale/.z")
    with pytest.raises(InvalidManifest, match=r"spec.listensTo.from\[0\]: PIPELINE"):
        after.manifest()


def test_what_a_pipeline_listens_to_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "input": {"externalInputs": ["scale.outputs.y"], "externalTriggers": ["other.step.a"]},
        "steps": [
            {"name": "one"},
            {"name": "two", "inputs": ["one"], "tensorMap": {"one.outputs.a": "b"}},
        ],
    }
    manifest = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "after"},
        "spec": spec,
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(manifest))
    show_file(str(tmp_path / "p.yaml"), "text")
    drawn = capsys.readouterr().out
    for said in ("or scale.y", "when other.a", "one ─▶ two: a→b"):
        assert said in drawn


@pytest.mark.parametrize(
    ("text", "said", "last"),
    [
        ("a: [", "", "x.yaml:1: expected the node content"),
        (
            "kind: Pipeline\nmetadata:\n\tname: g\n",
            "",
            "x.yaml:3: a tab; YAML is indented with spaces",
        ),
        ("a: 1", "x.yaml:1: apiVersion: is required", "cannot be drawn"),
        ("- 1", "", "x.yaml:1: a manifest is a map, not a list"),
        ("", "", "There is no manifest in what was given"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: n}", "", "There is no graph in "),
        (
            triage().yaml().replace("detect.boxes", "detct.boxes"),
            "x.yaml:21: spec.steps[2].inputs[0]: there is no step 'detct'",
            "triage cannot be drawn.",
        ),
    ],
)
def test_why_a_file_is_not_drawn_has_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str, last: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(CliError) as caught:
        show_file(str(path), "text")
    assert last in str(caught.value)
    assert said in capsys.readouterr().err


def test_a_graph_from_standard_input_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(triage().yaml()))
    show_file("-", "text")
    assert "resnet" in capsys.readouterr().out
