"""Waiting for several services: each that failed is named, and a control plane may be replaced meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cli_harness import Penstock

from penstock.backends.base import Phase
from penstock.cli import waiting
from penstock.cli.client import ApiFailure, Client, Served
from penstock.cli.exits import TIMED_OUT, UNREACHABLE, CliError
from penstock.cli.waiting import Target, wait_for_condition


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"sklearn": {"storageUri": "models/iris"}}},
    }


def test_all_that_failed_are_named_and_the_others_are_waited_for(
    penstock: Penstock, tmp_path: Path
) -> None:
    penstock.server.api.backend.behave = lambda replica_id, spec: (
        Phase.FAILED if spec.service.startswith("bad") else Phase.READY
    )
    file = tmp_path / "three.json"
    items = [service(name) for name in ("bad-one", "good", "bad-two")]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    ran = penstock("apply", "-f", str(file), "--wait", "--timeout", "20s")
    assert ran.code == 1
    assert "error: 2 of 3 failed." in ran.err
    assert "inferenceservice/bad-one is not ready: " in ran.err
    assert "inferenceservice/bad-two is not ready: " in ran.err
    assert "good ready" in ran.out


def test_what_is_asked_to_stop_is_waited_for_until_it_has(
    penstock: Penstock, tmp_path: Path
) -> None:
    file = tmp_path / "iris.json"
    obj = service("iris")
    graph = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "one"},
        "spec": {"steps": [{"name": "iris"}]},
    }
    for stop, state in (("false", "ready"), ("true", "stopped"), ("false", "ready")):
        for made in (obj, graph):
            made["metadata"]["annotations"] = {"serving.kserve.io/stop": stop}
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [obj, graph]}))
        ran = penstock("apply", "-f", str(file), "--wait", "--timeout", "20s")
        assert ran.code == 0, ran.err
        for shown in ("inferenceservice.penstock.dev/iris", "pipeline.penstock.dev/one"):
            assert f"{shown} {state}" in ran.out
    # What its dialect says with a number of replicas has no annotation.
    node = {"name": "m", "implementation": "SKLEARN_SERVER", "modelUri": "models/iris"}
    seldon = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "none"},
        "spec": {"predictors": [{"name": "p", "replicas": 0, "graph": node}]},
    }
    file.write_text(json.dumps(seldon))
    ran = penstock("apply", "-f", str(file), "--wait", "--timeout", "20s")
    assert ran.code == 0, ran.err
    assert "seldondeployment.machinelearning.seldon.io/none stopped" in ran.out


class Deletes:
    """A control plane where `last` is deleted while the others fail, each second one in its transformer."""

    def __init__(self, others: int) -> None:
        self.others = [f"bad-{i}" for i in range(others)]

    def get(self, path: str, **query: str) -> Any:
        raise ApiFailure(404, {"message": "there is none"})

    def lines(self, path: str, **_: Any) -> Iterator[Any]:
        blocked = {"transitionStatus": "BlockedByFailedLoad"}
        beside = {"transitionStatus": "UpToDate"}, {"components": {"transformer": blocked}}
        for i, name in enumerate(self.others):
            model, own = (blocked, {}) if i % 2 else beside
            status = {
                "observedGeneration": 1,
                "modelStatus": model,
                "penstock": own,
                "conditions": [{"type": "Ready", "status": "False", "message": "no file"}],
            }
            metadata = {"name": name, "namespace": "default", "generation": 1}
            yield {"type": "ADDED", "object": {"metadata": metadata, "status": status}}


@pytest.mark.parametrize(("others", "more"), [(2, None), (40, "and 21 more")])
def test_what_failed_is_told_although_the_last_one_is_no_longer_there(
    others: int, more: str | None
) -> None:
    """And no more of them than a screen takes, with how many there are beyond."""
    server = Deletes(others)
    targets = [Target(KIND, "default", name) for name in [*server.others, "last"]]
    with pytest.raises(CliError, match=f"{others + 1} of {others + 1} failed") as caught:
        wait_for_condition(cast("Client", server), targets, "Ready", "True", 30, give_up=True)
    lines = caught.value.lines
    assert lines[0] == "inferenceservice/bad-0 is not ready: no file"
    assert lines[-1] == (more or "inferenceservice/last does not exist.")
    assert len(lines) <= 21


def test_a_condition_that_the_object_does_not_have_is_told(
    penstock: Penstock, tmp_path: Path
) -> None:
    file = tmp_path / "iris.json"
    file.write_text(json.dumps(service("iris")))
    assert penstock("apply", "-f", str(file), "--wait").code == 0
    ran = penstock("wait", "iris", "--for", "condition=Redy", "--timeout", "200ms")
    assert ran.code == TIMED_OUT
    assert "it has no such condition, only IngressReady, PredictorReady, Ready" in ran.err


def test_what_a_graph_answers_without_is_told(penstock: Penstock, tmp_path: Path) -> None:
    """A service's name that is mistyped in a step that may fail shows, although the graph is Ready."""
    steps = [{"name": "iris"}, {"name": "typo", "onFailure": "skip"}]
    graph = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "two"},
        "spec": {"steps": steps, "output": {"from": ["iris", "typo"], "join": "outer"}},
    }
    file = tmp_path / "graph.json"
    items = [graph, service("iris")]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    ran = penstock("apply", "-f", str(file), "--wait")
    assert ran.code == 0
    said = "warning: pipeline/two: Requests are answered without: typo does not exist"
    assert ran.err.splitlines().count(said) == 1
    items.append(service("typo"))
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    ran = penstock("apply", "-f", str(file), "--wait")
    assert "warning" not in ran.err


class Replaced:
    """A control plane that is away for `times` requests and then says that the service is Ready."""

    def __init__(self, times: int) -> None:
        self.times = times

    def get(self, path: str, **query: str) -> Any:
        return {}

    def lines(self, path: str, **_: Any) -> Iterator[Any]:
        if self.times:
            self.times -= 1
            raise CliError("No server at http://127.0.0.1:1.", UNREACHABLE)
        condition = {"type": "Ready", "status": "True"}
        metadata = {"name": "iris", "namespace": "default"}
        yield {
            "type": "ADDED",
            "object": {"metadata": metadata, "status": {"conditions": [condition]}},
        }


KIND = Served(
    group="penstock.dev",
    version="v1alpha1",
    kind="InferenceService",
    plural="inferenceservices",
    singular="inferenceservice",
    namespaced=True,
    short_names=(),
)


def wait(server: Replaced) -> list[str]:
    met: list[str] = []
    wait_for_condition(
        cast("Client", server),
        [Target(KIND, "default", "iris")],
        "Ready",
        "True",
        30,
        on_met=lambda target, _: met.append(target.name),
    )
    return met


def test_a_control_plane_that_is_replaced_is_waited_for() -> None:
    assert wait(Replaced(3)) == ["iris"]


def test_one_that_stays_away_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AWAY_S", 0.3)
    with pytest.raises(CliError, match="No server") as caught:
        wait(Replaced(1000))
    assert caught.value.code == UNREACHABLE
