"""Every documented scenario of Seldon V2's pipelines and of Penstock's, on real models, REST and gRPC."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from platform_harness import Platform, until
from tritonclient.utils import InferenceServerException

sys.path.insert(0, str(Path(__file__).parents[1] / "graphs"))

import penstock_scenarios
import seldon_v2_scenarios

SELDON = seldon_v2_scenarios.SCENARIOS
PENSTOCK = penstock_scenarios.SCENARIOS
#: An experiment has its requests.
TAKEN = "tfsimple4"


def seldon_model(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": {"storageUri": f"triton/{name}", "requirements": ["triton", "python"]},
    }


def own_model(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"python": {"storageUri": f"own/{name}"}}},
    }


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("sp")
    for name in seldon_v2_scenarios.MODELS:
        for file, text in seldon_v2_scenarios.triton_files(name).items():
            path = folder / "triton" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in penstock_scenarios.MODELS:
        path = folder / "own" / name / "model.py"
        path.parent.mkdir(parents=True)
        path.write_text(penstock_scenarios.code(name))
    platform = Platform(folder)
    platform.start()
    try:
        documents = [seldon_model(n) for n in seldon_v2_scenarios.MODELS]
        documents += [own_model(n) for n in penstock_scenarios.MODELS]
        for scenario in (*SELDON, *PENSTOCK):
            documents += scenario.manifests()
        texts = "\n---\n".join(json.dumps(d) for d in documents)
        platform.run("apply", "-f", "-", stdin=texts)
        for name in seldon_v2_scenarios.MODELS:
            platform.run("wait", f"model/{name}", "--for=condition=Ready", "--timeout=60s")
        for name in penstock_scenarios.MODELS:
            platform.run("wait", f"isvc/{name}", "--for=condition=Ready", "--timeout=60s")
        yield platform
    finally:
        platform.stop()


def asked(platform: Platform) -> Counter[str]:
    """How often each model has been asked, by the model processes' own statistics."""
    found: Counter[str] = Counter()
    for name in seldon_v2_scenarios.MODELS:
        if name == TAKEN:
            continue
        stats = httpx.get(f"{platform.http}/v2/models/{name}/stats", timeout=10).json()
        for model in stats["model_stats"]:
            counts = model["inference_stats"]
            found[name] += counts["success"]["count"] + counts["fail"]["count"]
    return found


def body(tensors: dict[str, list[float]], datatype: str = "FP32") -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name,
                "shape": [len(values)],
                "datatype": "INT32" if name == "CHOICE" else datatype,
                "data": values,
            }
            for name, values in tensors.items()
        ]
    }


def listed(answer: httpx.Response) -> dict[str, Any]:
    return {o["name"]: o["data"] for o in answer.json()["outputs"]}


@pytest.mark.parametrize("scenario", SELDON, ids=lambda s: s.name)
def test_seldon_over_rest(platform: Platform, scenario: seldon_v2_scenarios.Scenario) -> None:
    url = f"{platform.http}/v2/models/{scenario.target()}/infer"
    answer = httpx.post(url, json=body(scenario.request), timeout=30)
    assert answer.status_code == scenario.status, answer.text
    if isinstance(scenario.answer, str):
        said = answer.text if answer.status_code == 400 else answer.json()["error"]
        assert said.startswith(scenario.answer)
    else:
        assert listed(answer) == scenario.answer
    if scenario.told is not None:
        assert answer.headers[scenario.told[0]] == scenario.told[1]


@pytest.mark.parametrize("scenario", SELDON, ids=lambda s: s.name)
def test_seldon_over_grpc(platform: Platform, scenario: seldon_v2_scenarios.Scenario) -> None:
    """Named by Seldon's header, whatever the message names."""
    client = grpc_client.InferenceServerClient(platform.grpc)
    inputs = []
    for name, values in scenario.request.items():
        array = np.array(values, np.int32 if name == "CHOICE" else np.float32)
        given = grpc_client.InferInput(
            name, list(array.shape), "INT32" if name == "CHOICE" else "FP32"
        )
        given.set_data_from_numpy(array)
        inputs.append(given)
    headers = {"seldon-model": f"{scenario.target()}.pipeline"}
    if isinstance(scenario.answer, str):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("x", inputs, headers=headers)
        assert scenario.answer.partition(" : ")[0] in str(caught.value)
    else:
        answer = client.infer("x", inputs, headers=headers)
        names = [o.name for o in answer.get_response().outputs]
        assert {n: answer.as_numpy(n).tolist() for n in names} == scenario.answer
    client.close()


def test_each_model_was_asked_as_often_as_the_table_says(platform: Platform) -> None:
    """What runs beside requests, and on copies of them, is counted, too."""
    before = asked(platform)
    for scenario in SELDON:
        url = f"{platform.http}/v2/pipelines/{scenario.target()}/infer"
        httpx.post(url, json=body(scenario.request), timeout=30)
    wanted = Counter(n for s in SELDON for n in s.called)
    unsure = {s.maybe for s in SELDON}

    def counted() -> Counter[str]:
        return Counter({n: c for n, c in (asked(platform) - before).items() if n not in unsure})

    expected = Counter({n: c for n, c in wanted.items() if n not in unsure})
    with contextlib.suppress(AssertionError):
        until(lambda: counted() == expected, "the calls to be counted")
    assert counted() == expected


@pytest.mark.parametrize("scenario", PENSTOCK, ids=lambda s: s.name)
def test_penstock(platform: Platform, scenario: penstock_scenarios.Scenario) -> None:
    name = scenario.target()
    if scenario.body:
        url = f"{platform.http}/v1/models/{name}:predict"
        answer = httpx.post(url, json=scenario.body, timeout=30)
    else:
        url = f"{platform.http}/v2/models/{name}/infer"
        answer = httpx.post(url, json=body(scenario.request, "FP64"), timeout=30)
    assert answer.status_code == scenario.status, answer.text
    if isinstance(scenario.answer, str):
        assert answer.json()["error"].startswith(scenario.answer)
    elif scenario.body:
        assert answer.json() == scenario.answer
    else:
        assert listed(answer) == scenario.answer
    for beside in scenario.beside:
        metric = f'penstock_graph_external_runs_total{{graph="{beside}",namespace="default",outcome="ok"}}'
        until(lambda m=metric: m in httpx.get(platform.api + "/metrics").text, beside)


def test_the_status_is_seldons(platform: Platform) -> None:
    path = "/apis/mlops.seldon.io/v1alpha1/namespaces/default/pipelines"

    def conditions(name: str) -> dict[str, str]:
        status = platform.get(f"{path}/{name}").get("status") or {}
        return {c["type"]: c["status"] for c in status.get("conditions", ())}

    until(lambda: conditions("tfsimples").get("Ready") == "True", "the pipeline")
    assert set(conditions("tfsimples").values()) == {"True"}
    spec = {"steps": [{"name": "mul10"}, {"name": "nowhere"}], "output": {"steps": ["mul10"]}}
    beside = {**SELDON[0].manifests()[0], "metadata": {"name": "lacks-one"}, "spec": spec}
    spec = {**spec, "output": {"steps": ["mul10", "nowhere"]}}
    missing = {**beside, "metadata": {"name": "missing"}, "spec": spec}
    for manifest in (beside, missing):
        platform.run("apply", "-f", "-", stdin=json.dumps(manifest))
    until(lambda: conditions("lacks-one").get("Ready") == "True", "what is beside the answer")
    assert conditions("lacks-one")["ModelsReady"] == "False"
    until(lambda: conditions("missing").get("Ready") == "False", "what is missing")
    assert conditions("missing") == {
        "Ready": "False",
        "ModelsReady": "False",
        "PipelineReady": "True",
        "PipelineGwReady": "True",
    }
    ready = httpx.get(f"{platform.http}/v2/pipelines/missing/ready")
    assert ready.status_code == 424
    assert httpx.get(f"{platform.http}/v2/pipelines/tfsimples/ready").status_code == 200


def test_what_nobody_listens_to_is_told(platform: Platform) -> None:
    path = "/apis/mlops.seldon.io/v1alpha1/namespaces/default/pipelines/by-itself"
    told = until(lambda: (platform.get(path).get("status") or {}).get("penstock"), "the status")
    assert told == {"warnings": ["input: somebody does not exist: it is not run for its requests"]}


def test_pipelines_of_both_kinds_share_a_word(platform: Platform) -> None:
    """`pipeline` means Seldon's and Penstock's at the command line."""
    assert {"tfsimples", "around"} <= set(platform.run("get", "pipelines").split())
    for name, group in (("tfsimples", "mlops.seldon.io"), ("around", "penstock.dev")):
        assert group in platform.run("get", "pipeline", name, "-o", "yaml")
        assert name in platform.run("describe", "pipeline", name)
    wait = ("--for=condition=PipelineReady", "--timeout=20s")
    platform.run("wait", "pipeline/tfsimples", *wait)
    brief = {**SELDON[0].manifests()[0], "metadata": {"name": "brief"}}
    platform.run("apply", "-f", "-", stdin=json.dumps(brief))
    platform.run("delete", "pipeline", "brief")
    platform.run("get", "pipeline", "brief", code=4)


def test_pipelines_of_both_kinds_are_listed_and_drawn(platform: Platform) -> None:
    table = platform.run("get", "pipelines.mlops.seldon.io")
    assert "tfsimples" in table
    assert "around" not in table
    assert "mul10" in platform.run("graph", "show", "tfsimple-conditional")


def test_every_pipeline_is_ready(platform: Platform) -> None:
    """What the models say of their tensors is held against none of them."""
    path = "/apis/{}/namespaces/default/pipelines"

    def not_ready() -> list[str]:
        found = []
        for group in ("mlops.seldon.io/v1alpha1", "penstock.dev/v1alpha1"):
            for item in platform.get(path.format(group))["items"]:
                conditions = (item.get("status") or {}).get("conditions", ())
                ready = next((c for c in conditions if c["type"] == "Ready"), {})
                if ready.get("status") != "True" and item["metadata"]["name"] != "missing":
                    found.append(f"{item['metadata']['name']}: {ready.get('message')}")
        return found

    with contextlib.suppress(AssertionError):
        until(lambda: not not_ready(), "every pipeline")
    assert not_ready() == []


def test_tensors_that_the_models_do_not_take_are_refused(platform: Platform) -> None:
    steps = [{"name": "mul10"}, {"name": "add10", "inputs": ["mul10"]}]
    wrong = {**SELDON[0].manifests()[0], "metadata": {"name": "unfit"}, "spec": {"steps": steps}}
    said = platform.run("apply", "-f", "-", stdin=json.dumps(wrong), code=1)
    assert "spec.steps[1].inputs[0]: there is no input 'OUTPUT'; 'add10' takes INPUT" in said
    steps[1]["inputs"] = ["mul10.outputs.RESULT"]
    said = platform.run("apply", "-f", "-", stdin=json.dumps(wrong), code=1)
    assert "'mul10' answers no tensor 'RESULT'; it answers OUTPUT" in said


def test_the_example_is_applied_and_answers(platform: Platform) -> None:
    (platform.folder / "examples").symlink_to(Path(__file__).parents[2] / "examples")
    platform.run("apply", "-f", "examples/seldon_pipelines/seldon_pipelines.yaml", "--wait")
    url = f"{platform.http}/v2/pipelines/scale/infer"
    found = Counter()
    for value in [3.0] * 5 + [300.0] * 5:
        answer = httpx.post(url, json=body({"x": [value]}), timeout=30)
        assert answer.status_code == 200, answer.text
        found[answer.headers["x-seldon-route"], listed(answer)["y"][0]] += 1
    assert found[":scale.pipeline:", 30.0] + found[":scale-simply.pipeline:", 30.0] == 5
    assert found[":scale.pipeline:", 310.0] + found[":scale-simply.pipeline:", 3000.0] == 5
    assert sum(n for (route, _), n in found.items() if route == ":scale-simply.pipeline:") == 2
    metric = (
        'penstock_graph_external_runs_total{graph="afterwards",namespace="default",outcome="ok"} 8'
    )
    until(
        lambda: metric in httpx.get(platform.api + "/metrics", timeout=10).text, "what runs after"
    )
