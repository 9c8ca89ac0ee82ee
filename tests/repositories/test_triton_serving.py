"""Triton's models, served by `penstock run` and called with Triton's own client."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from onnx import TensorProto, helper
from repository_folders import ADD_SUB, ADD_SUB_CONFIG, write
from tritonclient.utils import InferenceServerException

#: Answers what a request told of itself, and how many came together.
ECHO = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "TEXT", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_output({"name": "OUT", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_output({"name": "BATCH", "data_type": "TYPE_INT32", "dims": [1]})
        config.set_max_batch_size(8)
        config.set_dynamic_batching()
        return config

    def initialize(self, args):
        self.args = args
        self.seen = 0

    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            words = [t.decode() for t in text.ravel()]
            if "fail" in words:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("no such word")))
                continue
            if "wrong" in words:
                error = pb_utils.TritonError("bad word", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            if "raise" in words:
                raise pb_utils.TritonModelException("the model gives up")
            if "crash" in words:
                raise KeyError("secret of the request")
            told = {
                "id": request.request_id(),
                "parameters": json.loads(request.parameters()),
                "outputs": sorted(request.requested_output_names()),
                "sequence": request.correlation_id(),
                "version": self.args["model_version"],
                "name": self.args["model_name"],
            }
            out = np.array([[json.dumps(told)]] * len(words), dtype=object)
            batch = np.full((len(words), 1), len(requests), np.int32)
            tensors = [pb_utils.Tensor("OUT", out), pb_utils.Tensor("BATCH", batch)]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses
"""
#: Reads a neighbour of the same name as another model's.
NEIGHBOUR = """
import numpy as np
import triton_python_backend_utils as pb_utils
from neighbour import NAME


class TritonPythonModel:
    def execute(self, requests):
        from late import LATE

        out = np.array([NAME + LATE], dtype=object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", out)]) for _ in requests]
"""
NEIGHBOUR_CONFIG = """
backend: "python"
input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ 1 ] } ]
"""
DECOUPLED = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            thread = threading.Thread(target=self.answer, args=(request,), daemon=True)
            thread.start()
        return None

    def answer(self, request):
        sender = request.get_response_sender()
        n = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0])
        for i in range(n):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([i], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
CALLS_ANOTHER = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        request = pb_utils.InferenceRequest(model_name="add_sub", inputs=[], requested_output_names=[])
        return [request.exec()]
"""


def relu(shape: list[int | str]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model.SerializeToString()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, penstock_run: Callable[..., Any]) -> Any:
    root: Path = tmp_path_factory.mktemp("repository")
    write(
        root,
        {
            "add_sub/config.pbtxt": ADD_SUB_CONFIG,
            "add_sub/1/model.py": ADD_SUB,
            "echo/config.pbtxt": 'backend: "python" version_policy { all { } }',
            "echo/1/model.py": ECHO,
            "echo/7/model.py": ECHO,
            "many/config.pbtxt": """
            backend: "python"
            model_transaction_policy { decoupled: true }
            input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
            output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
            """,
            "many/1/model.py": DECOUPLED,
            "calls/config.pbtxt": """
            backend: "python"
            input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
            output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
            """,
            "calls/1/model.py": CALLS_ANOTHER,
            "relu/config.pbtxt": """
            platform: "onnxruntime_onnx"
            max_batch_size: 4
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 6 ] reshape { shape: [ 2, 3 ] } } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 6 ] reshape { shape: [ 2, 3 ] } } ]
            dynamic_batching { }
            """,
            "relu/1/model.onnx": relu(["n", 2, 3]),
        },
    )
    return penstock_run(root)


def test_the_example_model_by_http_and_grpc(server: Any) -> None:
    a, b = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    for module, address in ((http_client, server.http), (grpc_client, server.grpc)):
        client = module.InferenceServerClient(address)
        assert client.is_model_ready("add_sub")
        inputs = [module.InferInput(n, [4], "FP32") for n in ("INPUT0", "INPUT1")]
        inputs[0].set_data_from_numpy(a)
        inputs[1].set_data_from_numpy(b)
        outputs = [module.InferRequestedOutput(n) for n in ("OUTPUT0", "OUTPUT1")]
        answer = client.infer("add_sub", inputs, outputs=outputs, request_id="1")
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), a + b)
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), a - b)
        client.close()


def test_metadata_are_the_configurations(server: Any) -> None:
    client = http_client.InferenceServerClient(server.http)
    meta = client.get_model_metadata("add_sub")
    assert meta["inputs"][0] == {"name": "INPUT0", "datatype": "FP32", "shape": [4]}
    # Of a configuration that the model completed itself.
    meta = client.get_model_metadata("echo")
    assert meta["inputs"] == [{"name": "TEXT", "datatype": "BYTES", "shape": [-1, 1]}]
    assert meta["versions"] == ["1", "7"]
    assert {m["name"] for m in client.get_model_repository_index()} == {
        "add_sub", "calls", "echo", "many", "relu",
    }  # fmt: skip
    client.close()


def echo(server: Any, *words: str, version: str = "", **options: Any) -> Any:
    client = http_client.InferenceServerClient(server.http)
    try:
        given = http_client.InferInput("TEXT", [len(words), 1], "BYTES")
        given.set_data_from_numpy(np.array([[w.encode()] for w in words], dtype=object))
        return client.infer("echo", [given], model_version=version, **options)
    finally:
        client.close()


def test_a_request_keeps_what_it_said_of_itself(server: Any) -> None:
    answer = echo(
        server, "a", request_id="seven", parameters={"mine": 3}, sequence_id=5, sequence_start=True
    )
    told = json.loads(answer.as_numpy("OUT")[0, 0])
    assert told == {
        "id": "seven",
        "parameters": {"mine": 3},
        "outputs": ["BATCH", "OUT"],
        "sequence": 5,
        "version": "7",
        "name": "echo",
    }
    only = echo(server, "a", "b", version="1", outputs=[http_client.InferRequestedOutput("OUT")])
    assert json.loads(only.as_numpy("OUT")[1, 0])["version"] == "1"
    assert json.loads(only.as_numpy("OUT")[1, 0])["outputs"] == ["OUT"]
    assert only.as_numpy("BATCH") is None


def test_requests_that_gather_stay_requests_of_their_own(server: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: echo(server, f"w{i}", request_id=f"r{i}"), range(300)))
    for i, answer in enumerate(answers):
        assert json.loads(answer.as_numpy("OUT")[0, 0])["id"] == f"r{i}"
        assert 1 <= answer.as_numpy("BATCH")[0, 0] <= 8


@pytest.mark.parametrize(
    ("word", "status", "message"),
    [
        ("fail", 500, "no such word"),
        ("wrong", 400, "bad word"),
        ("raise", 500, "the model gives up"),
        ("crash", 500, "failed in execute: KeyError"),
    ],
)
def test_a_models_errors(server: Any, word: str, status: int, message: str) -> None:
    body = {"inputs": [{"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [word]}]}
    answer = httpx.post(f"http://{server.http}/v2/models/echo/infer", json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "secret" not in answer.text
    assert echo(server, "fine").as_numpy("BATCH")[0, 0] == 1


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"name": "TEXTS", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}, "TEXT"),
        ({"name": "TEXT", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}, "shape"),
        ({"name": "TEXT", "shape": [9, 1], "datatype": "BYTES", "data": ["a"] * 9}, "at most 8"),
    ],
)
def test_a_request_is_held_to_the_configuration(server: Any, tensor: Any, message: str) -> None:
    answer = httpx.post(f"http://{server.http}/v2/models/echo/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_an_onnx_model_with_another_shape_outside(server: Any) -> None:
    client = http_client.InferenceServerClient(server.http)
    x = np.array([[-1, 2, -3, 4, -5, 6], [1, -2, 3, -4, 5, -6]], np.float32)
    given = http_client.InferInput("x", [2, 6], "FP32")
    given.set_data_from_numpy(x)
    np.testing.assert_array_equal(client.infer("relu", [given]).as_numpy("y"), np.maximum(x, 0))
    five = http_client.InferInput("x", [5, 6], "FP32")
    five.set_data_from_numpy(np.zeros((5, 6), np.float32))
    with pytest.raises(InferenceServerException, match="at most 4 are allowed"):
        client.infer("relu", [five])
    assert client.get_model_metadata("relu")["inputs"][0]["shape"] == [-1, 6]
    client.close()


def test_a_decoupled_model_answers_once(server: Any) -> None:
    def ask(n: int) -> httpx.Response:
        body = {"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [n]}]}
        return httpx.post(f"http://{server.http}/v2/models/many/infer", json=body)

    assert ask(1).json()["outputs"][0]["data"] == [0]
    several = ask(3)
    assert several.status_code == 501
    assert "answered more than once" in several.json()["error"]
    assert ask(0).status_code == 501


def test_a_decoupled_model_answers_a_stream_as_often_as_it_likes(server: Any) -> None:
    client = grpc_client.InferenceServerClient(server.grpc)
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    given = grpc_client.InferInput("IN", [1], "INT32")
    given.set_data_from_numpy(np.array([200], np.int32))
    client.async_stream_infer("many", [given], request_id="a")
    for i in range(200):
        result, error = answers.get(timeout=10)
        assert error is None
        assert result.as_numpy("OUT")[0] == i
        assert result.get_response().id == "a"
    client.stop_stream()
    client.close()


def test_models_import_their_own_neighbours(
    tmp_path: Path, penstock_run: Callable[..., Any]
) -> None:
    for name in ("a", "b"):
        write(
            tmp_path,
            {
                f"{name}/config.pbtxt": NEIGHBOUR_CONFIG,
                f"{name}/1/model.py": NEIGHBOUR.replace("late", f"late_{name}"),
                f"{name}/1/neighbour.py": f"NAME = {name!r}",
                f"{name}/1/late_{name}.py": "LATE = '!'",
            },
        )
    running = penstock_run(tmp_path)
    body = {"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [1]}]}
    for name in ("a", "b"):
        answer = httpx.post(f"http://{running.http}/v2/models/{name}/infer", json=body)
        assert answer.json()["outputs"][0]["data"] == [f"{name}!"], answer.text


def test_calling_another_model_is_refused_in_words(server: Any) -> None:
    body = {"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [1]}]}
    answer = httpx.post(f"http://{server.http}/v2/models/calls/infer", json=body)
    assert answer.status_code == 500
    assert "Calling another model from a model (add_sub) is not supported" in answer.json()["error"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_is_called_by_position(
    tmp_path: Path, penstock_run: Callable[..., Any]
) -> None:
    torch = pytest.importorskip("torch")

    class Two(torch.nn.Module):
        def forward(self, left, right):
            return left + right, left - right

    (tmp_path / "two/1").mkdir(parents=True)
    torch.jit.script(Two()).save(str(tmp_path / "two/1/model.pt"))
    write(
        tmp_path,
        {
            "two/config.pbtxt": """
            platform: "pytorch_libtorch"
            max_batch_size: 4
            input [
              { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 2 ] },
              { name: "INPUT__1" data_type: TYPE_FP32 dims: [ 2 ] }
            ]
            output [
              { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 2 ] },
              { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [ 2 ] }
            ]
            """
        },
    )
    running = penstock_run(tmp_path)
    client = http_client.InferenceServerClient(running.http)
    inputs = [http_client.InferInput(f"INPUT__{i}", [1, 2], "FP32") for i in range(2)]
    inputs[0].set_data_from_numpy(np.array([[1, 2]], np.float32))
    inputs[1].set_data_from_numpy(np.array([[3, 5]], np.float32))
    answer = client.infer("two", inputs)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT__0"), [[4, 7]])
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT__1"), [[-2, -3]])
    assert client.get_model_metadata("two")["outputs"][1]["name"] == "OUTPUT__1"
    client.close()


#: Writes a SavedModel, in a process of its own: TensorFlow stays out of the tests'.
SAVE = """
import sys, tensorflow as tf

class Double(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def call(self, x):
        return {"y": x * 2}

module = Double()
tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": module.call})
"""


@pytest.mark.timeout(120)
def test_a_savedmodel_in_its_folder(tmp_path: Path, penstock_run: Callable[..., Any]) -> None:
    folder = tmp_path / "double" / "3" / "model.savedmodel"
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        [sys.executable, "-c", SAVE, str(folder)], check=True, env=quiet, capture_output=True
    )
    write(
        tmp_path,
        {
            "double/config.pbtxt": """
            platform: "tensorflow_savedmodel"
            max_batch_size: 4
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
            """
        },
    )
    running = penstock_run(tmp_path)
    client = http_client.InferenceServerClient(running.http)
    given = http_client.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.array([[1, 2]], np.float32))
    answer = client.infer("double", [given], model_version="3")
    np.testing.assert_array_equal(answer.as_numpy("y"), [[2, 4]])
    client.close()
