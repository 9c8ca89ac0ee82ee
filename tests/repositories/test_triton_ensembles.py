"""Triton's ensembles: what is wrong with one is told from its files; those served answer Triton's client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from repository_folders import write

from penstock import repositories
from penstock.errors import LoadError

#: Adds its parameter to its input; a negative sum is an error of the caller's.
ADD = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.number = float(parameters["number"]["string_value"])

    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            if (x < 0).any():
                error = pb_utils.TritonError("negative", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            if (x > 900).any():
                responses.append(pb_utils.InferenceResponse([]))
                continue
            out = pb_utils.Tensor("OUT", (x + self.number).astype(np.float32))
            responses.append(pb_utils.InferenceResponse([out]))
        return responses
"""


def adding(number: int) -> str:
    return f"""
    backend: "python"
    max_batch_size: 8
    dynamic_batching {{ }}
    input [ {{ name: "IN" data_type: TYPE_FP32 dims: [ 2 ] }} ]
    output [ {{ name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] }} ]
    parameters [ {{ key: "number" value: {{ string_value: "{number}" }} }} ]
    """


def step(model: str, inputs: dict[str, str], outputs: dict[str, str], more: str = "") -> str:
    maps = [
        f'{which} {{ key: "{k}" value: "{v}" }}'
        for which, entries in (("input_map", inputs), ("output_map", outputs))
        for k, v in entries.items()
    ]
    return f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} {more} }}'


def ensemble(*steps: str, out: tuple[str, ...] = ("y",), more: str = "") -> str:
    outputs = "\n".join(f'output {{ name: "{o}" data_type: TYPE_FP32 dims: [ 2 ] }}' for o in out)
    return f"""
    platform: "ensemble"
    max_batch_size: 8
    input {{ name: "x" data_type: TYPE_FP32 dims: [ 2 ] }}
    {outputs}
    ensemble_scheduling {{ {" ".join(steps)} }}
    {more}
    """


#: x -> one -> (ten, hundred) side by side -> y and z.
DIAMOND = ensemble(
    step("one", {"IN": "x"}, {"OUT": "plus_one"}),
    step("ten", {"IN": "plus_one"}, {"OUT": "y"}),
    step("hundred", {"IN": "plus_one"}, {"OUT": "z"}),
    out=("y", "z"),
)
NUMBERS = {"one": 1, "ten": 10, "hundred": 100}


def repository(root: Path, **ensembles: str) -> Path:
    files: dict[str, Any] = {f"{n}/config.pbtxt": adding(v) for n, v in NUMBERS.items()}
    files |= {f"{n}/1/model.py": ADD for n in NUMBERS}
    files |= {f"{n}/config.pbtxt": text for n, text in ensembles.items()}
    return write(root, files)


def test_an_ensemble_comes_behind_the_models_it_is_made_of(tmp_path: Path) -> None:
    found = repositories.read("triton", repository(tmp_path, all=DIAMOND))
    assert [m.name for m in found.models] == ["hundred", "one", "ten", "all"]
    assert found.models[-1].framework == "triton_ensemble"
    assert found.framework == "triton_python"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ensemble(), "all/config.pbtxt: ensemble_scheduling: step: at least one is required"),
        (
            ensemble(step("two", {"IN": "x"}, {"OUT": "y"})),
            "ensemble_scheduling.step[0].model_name: there is no model 'two' beside it; there are",
        ),
        (
            ensemble(step("one", {"IN": "w"}, {"OUT": "y"})),
            "step[0].input_map: 'w' is neither an input nor made by a step",
        ),
        (
            ensemble(step("one", {"INN": "x"}, {"OUT": "y"})),
            "step[0].input_map: the model has no input 'INN'; it has IN",
        ),
        (
            ensemble(step("one", {"IN": "x"}, {"OUTT": "y"})),
            "step[0].output_map: the model has no output 'OUTT'; it has OUT",
        ),
        (ensemble(step("one", {}, {"OUT": "y"})), "step[0].input_map: at least one entry"),
        (
            ensemble(step("one", {"IN": "x"}, {"OUT": "x"})),
            "step[0].output_map: 'x' is an input already",
        ),
        (
            ensemble(
                step("one", {"IN": "x"}, {"OUT": "y"}), step("ten", {"IN": "x"}, {"OUT": "y"})
            ),
            "step[1].output_map: 'y' is made by step[0] already",
        ),
        (
            ensemble(
                step("one", {"IN": "b"}, {"OUT": "a"}),
                step("ten", {"IN": "a"}, {"OUT": "b"}),
                out=("a",),
            ),
            "ensemble_scheduling: steps wait for each other in a circle: step[0], step[1], step[0]",
        ),
        (
            ensemble(step("one", {"IN": "x"}, {"OUT": "a"})),
            "all/config.pbtxt: output: 'y' is made by no step",
        ),
        (
            ensemble(step("one", {"IN": "x"}, {"OUT": "y"})).replace("FP32", "FP64"),
            "step[0].input_map: 'x' is TYPE_FP64, and the model's input 'IN' takes TYPE_FP32",
        ),
        (
            ensemble(step("one", {"IN": "x"}, {"OUT": "y"}), more="dynamic_batching { }"),
            "dynamic_batching: an ensemble's models batch, it does not",
        ),
        (
            ensemble(step("all", {"x": "x"}, {"y": "y"})),
            "ensemble_scheduling: ensembles call each other in a circle: all, all",
        ),
        (
            ensemble(step("one", {"IN": "x"}, {"OUT": "y"}, 'model_namespace: "n"')),
            "step[0].model_namespace: models are found by their names",
        ),
        (
            ensemble(step("one", {"IN": "x"}, {"OUT": "y"}), more='backend: "python"'),
            "backend: an ensemble has none",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_its_place(
    tmp_path: Path, config: str, message: str
) -> None:
    with pytest.raises(LoadError) as told:
        repositories.read("triton", repository(tmp_path, all=config))
    assert message in str(told.value)


def test_an_ensembles_folder_alone_is_no_repository(tmp_path: Path) -> None:
    root = repository(tmp_path, all=DIAMOND)
    with pytest.raises(LoadError, match="no model 'one' beside it"):
        repositories.read("triton", root / "all")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, penstock_run: Callable[..., Any]) -> Any:
    within = ensemble(
        step("all", {"x": "x"}, {"z": "high"}), step("one", {"IN": "high"}, {"OUT": "y"})
    )
    root = repository(tmp_path_factory.mktemp("ensembles"), all=DIAMOND, within=within)
    return penstock_run(root)


def infer(
    server: Any, values: Any, name: str = "all", module: Any = http_client, **more: Any
) -> Any:
    values = np.asarray(values, np.float32)
    client = module.InferenceServerClient(server.http if module is http_client else server.grpc)
    try:
        given = module.InferInput("x", list(values.shape), "FP32")
        given.set_data_from_numpy(values)
        return client.infer(name, [given], **more)
    finally:
        client.close()


@pytest.mark.parametrize("module", [http_client, grpc_client])
def test_steps_give_their_tensors_to_each_other(server: Any, module: Any) -> None:
    answer = infer(server, [[1, 2], [3, 4]], module=module, request_id="r")
    assert answer.as_numpy("y").tolist() == [[12, 13], [14, 15]]
    assert answer.as_numpy("z").tolist() == [[102, 103], [104, 105]]
    assert answer.as_numpy("plus_one") is None
    only = infer(server, [[1, 2]], module=module, outputs=[module.InferRequestedOutput("z")])
    assert only.as_numpy("y") is None
    assert only.as_numpy("z").tolist() == [[102, 103]]


def test_an_ensemble_may_be_a_step(server: Any) -> None:
    assert infer(server, [[1, 2]], "within").as_numpy("y").tolist() == [[103, 104]]


def test_v1_takes_rows(server: Any) -> None:
    answer = httpx.post(
        f"http://{server.http}/v1/models/within:predict", json={"instances": [[1, 2]]}
    )
    assert answer.json() == {"predictions": [[103.0, 104.0]]}


def test_metadata_are_the_ensembles_own(server: Any) -> None:
    client = http_client.InferenceServerClient(server.http)
    meta = client.get_model_metadata("all")
    client.close()
    assert meta["platform"] == "ensemble"
    assert meta["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert [o["name"] for o in meta["outputs"]] == ["y", "z"]


@pytest.mark.parametrize(
    ("values", "status", "message"),
    [
        ([[-5, 0]], 400, "negative"),
        ([[950, 0]], 500, "Model one answered no output 'OUT'"),
        ([[1, 2, 3]], 400, "shape"),
        ([[0, 0]] * 9, 400, "at most 8 are allowed"),
    ],
)
def test_errors_are_those_of_the_step(server: Any, values: Any, status: int, message: str) -> None:
    array = np.asarray(values, np.float32)
    tensor = {
        "name": "x",
        "shape": list(array.shape),
        "datatype": "FP32",
        "data": array.ravel().tolist(),
    }
    answer = httpx.post(f"http://{server.http}/v2/models/all/infer", json={"inputs": [tensor]})
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


def test_a_step_that_is_unloaded_is_told(server: Any) -> None:
    client = http_client.InferenceServerClient(server.http)
    client.unload_model("hundred")
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    answer = httpx.post(f"http://{server.http}/v2/models/all/infer", json={"inputs": [tensor]})
    client.load_model("hundred")
    client.close()
    assert answer.status_code in (404, 503)
    assert "hundred" in answer.json()["error"]
    assert infer(server, [[1, 2]]).as_numpy("z").tolist() == [[102, 103]]
