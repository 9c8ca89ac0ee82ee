"""Graphs through the real processes: KServe's and Penstock's manifests, REST and gRPC, sleeping steps."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from platform_harness import Platform, manifest, until

import grpc
from penstock.protocols.grpc.schema import METHODS, SERVICE

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.2, 3.4, 5.4, 2.3]]
V1 = {"instances": ROWS}
V2 = {
    "id": "1",
    "inputs": [
        {
            "name": "input-0",
            "shape": [2, 4],
            "datatype": "FP64",
            "data": [x for r in ROWS for x in r],
        }
    ],
}

DOUBLE = """
import penstock

class Double(penstock.Model):
    async def predict(self, request):
        return {"y": request.as_numpy() * 2}
"""


def graph(name: str, nodes: dict[str, Any]) -> str:
    return json.dumps(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "InferenceGraph",
            "metadata": {"name": name},
            "spec": {"nodes": nodes},
        }
    )


def pipeline(name: str, spec: str) -> str:
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": name},
            "spec": yaml.safe_load(spec),
        }
    )


@pytest.fixture(scope="module")
def served(platform: Platform, folder: Path) -> Platform:
    (folder / "models" / "double").mkdir()
    (folder / "models" / "double" / "model.py").write_text(DOUBLE)
    double = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "double"},
        "spec": {"predictor": {"python": {"storageUri": "models/double"}}},
    }
    documents = [manifest("iris"), manifest("other", "models/other"), json.dumps(double)]
    platform.run("apply", "-f", "-", "--wait", stdin="\n---\n".join(documents))
    return platform


def condition(platform: Platform, plural: str, name: str) -> dict[str, Any]:
    found = platform.get(f"/apis/{plural}/{name}").get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == "Ready"), {})


def test_an_ensemble_of_kserve(served: Platform) -> None:
    steps = [{"serviceName": "iris", "name": "tree"}, {"serviceName": "other", "name": "line"}]
    nodes = {"root": {"routerType": "Ensemble", "steps": steps}}
    served.run("apply", "-f", "-", "--wait", stdin=graph("both", nodes))
    for url, headers in (
        (f"{served.http}/serving/default/both", {}),
        (f"{served.http}/", {"host": "both.default.example.com"}),
        (f"{served.http}/v1/models/both:predict", {}),
    ):
        answer = httpx.post(url, json=V1, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "tree": {"predictions": [0, 2]},
            "line": {"predictions": [0, 2]},
        }
    listed = served.run("get", "inferencegraphs")
    assert "both" in listed
    assert "True" in listed


def test_every_kind_of_node_of_kserve(served: Platform) -> None:
    """A sequence whose second step is a switch; the switch's first case is a splitter."""
    first = [{"serviceName": "iris"}, {"nodeName": "choose", "dependency": "Hard"}]
    cases = [
        {"condition": "instances.1", "nodeName": "some"},
        {"condition": "instances.0.3", "serviceName": "other"},
    ]
    shares = [{"serviceName": "other", "weight": 100}, {"serviceName": "iris", "weight": 0}]
    nodes = {
        "root": {"routerType": "Sequence", "steps": first},
        "choose": {"routerType": "Switch", "steps": cases},
        "some": {"routerType": "Splitter", "steps": shares},
    }
    served.run("apply", "-f", "-", "--wait", stdin=graph("nodes", nodes))
    url = f"{served.http}/serving/default/nodes?trace=1"
    for rows, wanted in ((ROWS, ["root.step-0", "some.~choice"]), (ROWS[:1], ["root.step-0"])):
        answer = httpx.post(url, json={"instances": rows}, timeout=30)
        assert (answer.status_code, len(answer.json()["predictions"])) == (200, len(rows))
        trace = json.loads(answer.headers["x-penstock-trace"])
        done = [s["step"] for s in trace["steps"] if s["outcome"] == "ok"]
        assert [s for s in wanted if s not in done] == []
    refused = httpx.post(url, json={"instances": [[1.0, 2.0, 3.0]]}, timeout=30)
    assert refused.status_code in (400, 404)


def test_a_pipeline_over_rest_and_grpc(served: Platform) -> None:
    spec = "steps: [{name: double}, {name: again, model: double, inputs: [double]}]"
    served.run("apply", "-f", "-", "--wait", stdin=pipeline("four", spec))
    answer = httpx.post(f"{served.http}/v2/models/four/infer?trace=1", json=V2, timeout=30)
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert np.allclose(np.array(output["data"]).reshape(2, 4), np.array(ROWS) * 4)
    trace = json.loads(answer.headers["x-penstock-trace"])
    assert [s["outcome"] for s in trace["steps"]] == ["ok", "ok"]
    request_kind, answer_kind = METHODS["ModelInfer"]
    request = request_kind(model_name="four")
    request.inputs.add(name="x", datatype="FP64", shape=[2, 4])
    request.raw_input_contents.append(np.array(ROWS).tobytes())
    with grpc.insecure_channel(served.grpc) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=request_kind.SerializeToString,
            response_deserializer=answer_kind.FromString,
        )
        reply = infer(request, timeout=30)
        assert reply.model_name == "four"
        values = np.frombuffer(reply.raw_output_contents[0], np.float64)
        assert np.allclose(values.reshape(2, 4), np.array(ROWS) * 4)
        stream_kinds = METHODS["ModelStreamInfer"]
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=stream_kinds[0].SerializeToString,
            response_deserializer=stream_kinds[1].FromString,
        )
        streamed = list(stream(iter([request, request]), timeout=30))
        assert [a.error_message for a in streamed] == ["", ""]
        assert streamed[1].infer_response.raw_output_contents == reply.raw_output_contents
        request.model_name = "four-that-is-not"
        with pytest.raises(grpc.RpcError) as caught:
            infer(request, timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_step_that_sleeps_is_woken(served: Platform) -> None:
    served.run("apply", "-f", "-", stdin=manifest("lazy", minReplicas=0))
    nodes = {"root": {"routerType": "Sequence", "steps": [{"serviceName": "lazy"}]}}
    served.run("apply", "-f", "-", "--wait", stdin=graph("waker", nodes))
    answer = httpx.post(f"{served.http}/serving/default/waker", json=V1, timeout=30)
    assert answer.json() == {"predictions": [0, 2]}


def test_it_says_what_it_waits_for_and_goes_on_by_itself(served: Platform) -> None:
    nodes = {"root": {"routerType": "Sequence", "steps": [{"serviceName": "later"}]}}
    served.run("apply", "-f", "-", stdin=graph("early", nodes))
    plural = "serving.kserve.io/v1alpha1/namespaces/default/inferencegraphs"
    until(
        lambda: condition(served, plural, "early").get("message") == "later does not exist", "why"
    )
    refused = httpx.post(f"{served.http}/serving/default/early", json=V1, timeout=30)
    # A soft step's failure is the answer.
    assert refused.status_code == 503
    assert refused.json() == {"error": "The service default/later does not exist."}
    served.run("apply", "-f", "-", "--wait", stdin=manifest("later"))
    until(lambda: condition(served, plural, "early").get("status") == "True", "ready")
    answer = httpx.post(f"{served.http}/serving/default/early", json=V1, timeout=30)
    assert answer.json() == {"predictions": [0, 2]}
    described = served.run("describe", "inferencegraph", "early")
    assert "later does not exist" in described  # as an event of before


def test_what_is_wrong_is_refused_with_its_path(served: Platform) -> None:
    steps = [{"serviceName": "iris", "weight": 10}, {"serviceName": "other", "weight": 80}]
    nodes = {"root": {"routerType": "Splitter", "steps": steps}}
    said = served.run("apply", "-f", "-", stdin=graph("bad", nodes), code=1)
    assert "spec.nodes.root.steps: weights add up to 90, not 100" in said
    said = served.run("apply", "-f", "-", stdin=pipeline("iris", "steps: [{name: other}]"), code=3)
    assert "The name default/iris is taken" in said


def test_a_deleted_graph_is_gone(served: Platform) -> None:
    served.run("apply", "-f", "-", "--wait", stdin=pipeline("brief", "steps: [{name: iris}]"))
    assert httpx.post(f"{served.http}/v1/models/brief:predict", json=V1).status_code == 200
    served.run("delete", "pipeline", "brief")
    until(
        lambda: httpx.post(f"{served.http}/v1/models/brief:predict", json=V1).status_code == 404,
        "the route to go",
    )


def test_steps_are_in_the_metrics(served: Platform) -> None:
    served.run("apply", "-f", "-", "--wait", stdin=pipeline("seen", "steps: [{name: iris}]"))
    httpx.post(f"{served.http}/v1/models/seen:predict", json=V1)
    wanted = 'penstock_graph_steps_total{graph="seen",namespace="default",outcome="ok",'
    until(
        lambda: "\n" + wanted in httpx.get(f"{served.api}/metrics", timeout=10).text, "the metric"
    )


def test_a_graph_is_drawn_with_its_numbers(served: Platform) -> None:
    spec = "steps: [{name: iris}, {name: two, model: other, inputs: [request]}]\noutput: [iris]"
    served.run("apply", "-f", "-", "--wait", stdin=pipeline("drawn", spec))
    for _ in range(3):
        httpx.post(f"{served.http}/v1/models/drawn:predict", json=V1)
    # What is read may be a second old.
    until(lambda: "3 ok" in served.run("graph", "show", "drawn"), "the numbers")
    shown = served.run("graph", "show", "drawn")
    assert "default/drawn is ready" in shown
    assert "ms · p99" in shown
    assert served.run("graph", "show", "drawn", "-o", "svg").startswith("<svg ")
    served.run("graph", "show", "gone", code=4)


def test_inspect_shows_what_passed_each_step(served: Platform, folder: Path) -> None:
    spec = "steps: [{name: double}, {name: again, model: double, inputs: [double]}]"
    served.run("apply", "-f", "-", "--wait", stdin=pipeline("watched", spec))
    (folder / "v2.json").write_text(json.dumps(V2))
    shown = served.run("graph", "inspect", "watched", "-f", "v2.json", "--elements", "2")
    assert "default/watched answered 200" in shown
    assert "pipeline.again (double): ok" in shown
    assert "given  input-0 FP64[2,4] [5.1, 3.5] and 6 more" in shown
    assert "gave  y FP64[2,4] [20.4, 14.0] and 6 more" in shown
    whole = served.run("graph", "inspect", "watched", "-f", "-", "-o", "json", stdin=json.dumps(V2))
    assert [len(s["gave"]["tensors"][0]["data"]) for s in json.loads(whole)["steps"]] == [8, 8]
    refused = served.run("graph", "inspect", "watched", "-f", "-", code=1, stdin=json.dumps(V1))
    assert "double" in refused
    served.run("graph", "inspect", "watched", "-f", "gone.json", code=2)
    for command in (("inspect", "iris", "-f", "v2.json"), ("show", "iris")):
        assert "is one service, not a graph" in served.run("graph", *command, code=1)
        gone = [w.replace("iris", "nothing") for w in command]
        assert "There is no graph nothing" in served.run("graph", *gone, code=4)
    single = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "single"},
        "spec": {
            "predictors": [
                {
                    "name": "p",
                    "graph": {
                        "name": "m",
                        "implementation": "SKLEARN_SERVER",
                        "modelUri": "models/iris",
                    },
                }
            ]
        },
    }
    served.run("apply", "-f", "-", "--wait", stdin=json.dumps(single))
    for command in (("inspect", "single", "-f", "v2.json"), ("show", "single")):
        assert "is one service, not a graph" in served.run("graph", *command, code=1)


HELD = """
import asyncio
import os
from pathlib import Path

import penstock

class Held(penstock.Model):
    async def predict(self, payload):
        here = Path(os.environ["HELD"])
        if payload["instances"] == ["wait"]:
            (here / "arrived").touch()
            while not (here / "go").exists():
                await asyncio.sleep(0.01)
        return {"predictions": [1]}
"""


@pytest.mark.parametrize(
    "change", ["changed", "rolled back", "stopped", "deleted", "graph deleted"]
)
def test_what_is_under_way_in_a_step_is_answered_whatever_becomes_of_it(
    served: Platform, folder: Path, change: str
) -> None:
    """The step's service is changed, taken back, stopped or deleted, or the graph is, while it answers."""
    held = folder / "models" / "held"
    held.mkdir(exist_ok=True)
    (held / "model.py").write_text(HELD)
    for name in ("arrived", "go"):
        (held / name).unlink(missing_ok=True)

    def service(env: str = "1", **meta: Any) -> str:
        variables = [{"name": "HELD", "value": str(held)}, {"name": "TRY", "value": env}]
        block = {"storageUri": "models/held", "env": variables}
        return json.dumps(
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": "held", **meta},
                "spec": {"predictor": {"python": block}},
            }
        )

    served.run("apply", "-f", "-", "--wait", stdin=service())
    if change == "rolled back":
        served.run("apply", "-f", "-", "--wait", stdin=service("2"))
    served.run("apply", "-f", "-", "--wait", stdin=pipeline("holds", "steps: [{name: held}]"))
    url = f"{served.http}/v1/models/holds:predict"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url, json={"instances": ["wait"]}, timeout=60)
        until((held / "arrived").exists, "the step to be asked")
        if change == "changed":
            served.run("apply", "-f", "-", "--wait", stdin=service("3"))
        elif change == "rolled back":
            served.run("rollout", "rollback", "held")
        elif change == "stopped":
            stop = {"serving.kserve.io/stop": "true"}
            served.run("apply", "-f", "-", stdin=service(annotations=stop))
        elif change == "deleted":
            served.run("delete", "isvc", "held", "--no-wait")
        else:
            served.run("delete", "pipeline", "holds")
        (held / "go").touch()
        answer = asked.result(60)
    assert (answer.status_code, answer.text) == (200, '{"predictions":[1]}')
    later = {"stopped": 503, "deleted": 503, "graph deleted": 404}.get(change, 200)
    until(
        lambda: httpx.post(url, json={"instances": [1]}, timeout=60).status_code == later,
        f"{later} after that",
    )
    for kind, name in (("pipeline", "holds"), ("isvc", "held")):
        served.run("delete", kind, name, "--ignore-not-found")
