"""Names of classes beside Triton's models: read with the repository, and answered to Triton's clients."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from onnx import TensorProto, helper
from repository_folders import write

from penstock import repositories
from penstock.domain.declared import DeclaredClasses
from penstock.errors import LoadError
from penstock.repositories.triton_labels import MAX_LABEL_BYTES, read_labels

X = np.array([[1, 5, 3], [9, 0, 4]], np.float32)

IDENTITY = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(r, "x").as_numpy())]
            )
            for r in requests
        ]
"""


def config(head: str, labels: str = "labels.txt", dims: str = "3", datatype: str = "FP32") -> str:
    named = f'label_filename: "{labels}"' if labels else ""
    return f"""
    {head}
    input [ {{ name: "x" data_type: TYPE_{datatype} dims: [ {dims} ] }} ]
    output [ {{ name: "y" data_type: TYPE_{datatype} dims: [ {dims} ] {named} }} ]
    """


def python(**more: Any) -> str:
    return config('backend: "python" max_batch_size: 8', **more)


def ensemble(model: str, labels: str = "") -> str:
    return config(
        f"""
        platform: "ensemble" max_batch_size: 8
        ensemble_scheduling {{ step [ {{ model_name: "{model}" model_version: -1
          input_map [ {{ key: "x" value: "x" }} ] output_map [ {{ key: "y" value: "y" }} ] }} ] }}
        """,
        labels,
    )


def identity(shape: list[Any], datatype: int = TensorProto.FLOAT) -> bytes:
    ends = [helper.make_tensor_value_info(n, datatype, shape) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    model.ir_version = 8
    return model.SerializeToString()


# -- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"a\nb\n", ("a", "b")),
        (b"a\nb", ("a", "b")),
        (b"a\n\nc\n", ("a", "", "c")),
        (b"\n", ("",)),
        (b"", ()),
        (b"a\r\nb\r\n", ("a", "b")),
        (b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9f\n", ("grüß",)),
        ("a\u2028b\x0cc:d \n".encode(), ("a\u2028b\x0cc:d ",)),
    ],
)
def test_a_line_is_a_name(tmp_path: Path, data: bytes, names: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_bytes(data)
    assert read_labels(tmp_path / "labels.txt", "labels.txt") == names


def test_an_output_says_its_file_and_what_a_row_is(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "batches/config.pbtxt": python(),
            "batches/1/model.py": IDENTITY,
            "batches/labels.txt": "a",
            "whole/config.pbtxt": config('backend: "python" max_batch_size: 0', "names/l.txt"),
            "whole/1/model.py": IDENTITY,
            "whole/names/l.txt": "a",
            "plain/config.pbtxt": config('backend: "python" max_batch_size: 2', ""),
            "plain/1/model.py": IDENTITY,
            # It may say its batch size itself, when it runs.
            "open/config.pbtxt": config('backend: "python"', ""),
            "open/1/model.py": IDENTITY,
        },
    )
    found = repositories.read("triton", tmp_path)
    assert not found.warnings
    assert {m.name: m.classes for m in found.models} == {
        "batches": {"y": DeclaredClasses("labels.txt", True)},
        "whole": {"y": DeclaredClasses("names/l.txt", False)},
        "plain": {},
        "open": {},
    }
    (one,) = repositories.read("triton", tmp_path / "batches").models
    assert one.classes == {"y": DeclaredClasses("labels.txt", True)}


def test_an_ensemble_has_the_names_of_the_model_that_makes_its_output(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "named/config.pbtxt": python(),
            "named/1/model.py": IDENTITY,
            "named/labels.txt": "a",
            "bare/config.pbtxt": python(labels=""),
            "bare/1/model.py": IDENTITY,
            "inner/config.pbtxt": ensemble("named"),
            "outer/config.pbtxt": ensemble("inner"),
            "own/config.pbtxt": ensemble("named", "mine.txt"),
            "own/mine.txt": "b",
            "none/config.pbtxt": ensemble("bare"),
        },
    )
    found = {m.name: m.classes for m in repositories.read("triton", tmp_path).models}
    assert found["inner"] == found["outer"] == {"y": DeclaredClasses("../named/labels.txt")}
    assert found["own"] == {"y": DeclaredClasses("mine.txt")}
    assert found["none"] == {}


def _no_file(folder: Path) -> str:
    return "labels.txt"


def _folder(folder: Path) -> str:
    (folder / "labels.txt").mkdir()
    return "labels.txt"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "labels.txt")
    return "labels.txt"


def _no_text(folder: Path) -> str:
    (folder / "labels.txt").write_bytes(b"a\n\xff\n")
    return "labels.txt"


def _large(folder: Path) -> str:
    (folder / "labels.txt").write_bytes(b"a" * (MAX_LABEL_BYTES + 1))
    return "labels.txt"


def _above(folder: Path) -> str:
    (folder.parent / "labels.txt").write_text("a")
    return "../labels.txt"


def _absolute(folder: Path) -> str:
    return "/etc/hostname"


def _link(folder: Path) -> str:
    (folder / "labels.txt").symlink_to("/etc/hostname")
    return "labels.txt"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_file, "labels.txt is not there, or is no file"),
        (_folder, "labels.txt is not there, or is no file"),
        (_pipe, "labels.txt is not there, or is no file"),
        (_no_text, "labels.txt is not UTF-8 text"),
        (_large, f"labels.txt has more than {MAX_LABEL_BYTES} bytes"),
        (_above, "'../labels.txt' leads out of the model's folder"),
        (_absolute, "'/etc/hostname' leads out of the model's folder"),
        (_link, "'labels.txt' leads out of the model's folder"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_field(
    tmp_path: Path, make: Callable[[Path], str], message: str
) -> None:
    write(tmp_path, {"m/1/model.py": IDENTITY})
    write(tmp_path, {"m/config.pbtxt": python(labels=make(tmp_path / "m"))})
    with pytest.raises(LoadError) as told:
        repositories.read("triton", tmp_path)
    assert str(told.value).startswith(f"m/config.pbtxt: output[0].label_filename: {message}")


# -- serving -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, penstock_run: Callable[..., Any]) -> Any:
    root: Path = tmp_path_factory.mktemp("labels")
    onnx = 'platform: "onnxruntime_onnx"'
    write(
        root,
        {
            "batches/config.pbtxt": config(f"{onnx} max_batch_size: 4 dynamic_batching {{ }}"),
            "batches/1/model.onnx": identity(["n", 3]),
            "batches/labels.txt": "rose\n\nlily:white\n",
            "whole/config.pbtxt": config(onnx, dims="1, 3"),
            "whole/1/model.onnx": identity([1, 3]),
            "whole/labels.txt": "rose\r\ntulip\r\n",
            "half/config.pbtxt": config(onnx, dims="3", datatype="FP16"),
            "half/1/model.onnx": identity([3], TensorProto.FLOAT16),
            "half/labels.txt": "a\nb\nc\n",
            "python/config.pbtxt": python(),
            "python/1/model.py": IDENTITY,
            "python/labels.txt": "one\ntwo\nthree\n",
            "together/config.pbtxt": ensemble("python"),
        },
    )
    return penstock_run(root)


def classes(server: Any, model: str, x: np.ndarray, count: int = 2, **more: Any) -> list[Any]:
    """What Triton's two clients read, which is one thing."""
    read = []
    for module, address in ((http_client, server.http), (grpc_client, server.grpc)):
        client = module.InferenceServerClient(address)
        given = module.InferInput("x", list(x.shape), "FP16" if x.dtype == np.float16 else "FP32")
        given.set_data_from_numpy(x)
        outputs = [module.InferRequestedOutput("y", class_count=count)]
        answer = client.infer(model, [given], outputs=outputs, **more).as_numpy("y")
        read.append(np.vectorize(bytes.decode, otypes=[object])(answer).tolist())
        client.close()
    assert read[0] == read[1]
    return read[0]


def test_each_row_of_a_batch_has_its_classes_with_names(server: Any) -> None:
    assert classes(server, "batches", X, 3) == [
        ["5.000000:1", "3.000000:2:lily:white", "1.000000:0:rose"],
        ["9.000000:0:rose", "4.000000:2:lily:white", "0.000000:1"],
    ]


def test_a_model_that_does_not_batch_has_classes_of_its_whole_output(server: Any) -> None:
    assert classes(server, "whole", X[:1], 9) == [
        "5.000000:1:tulip",
        "3.000000:2",
        "1.000000:0:rose",
    ]


def test_half_precision_has_classes_too(server: Any) -> None:
    """Triton refuses them; whoever asks gets them here. Of equal values the first comes first."""
    assert classes(server, "half", np.array([1, 2, 2], np.float16)) == [
        "2.000000:1:b",
        "2.000000:2:c",
    ]


@pytest.mark.parametrize("model", ["python", "together"])
def test_python_models_and_ensembles_name_classes(server: Any, model: str) -> None:
    assert classes(server, model, X, 1) == [["5.000000:1:two"], ["9.000000:0:one"]]


def test_json_has_them_and_what_is_not_asked_for_as_classes_has_none(server: Any) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 5, 3]}
    url = f"http://{server.http}/v2/models/batches/infer"
    wanted = {"name": "y", "parameters": {"classification": 1}}
    answer = httpx.post(url, json={"inputs": [tensor], "outputs": [wanted]}).json()
    assert answer["outputs"] == [
        {"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["5.000000:1"]}
    ]
    for outputs in ({}, {"outputs": [{"name": "y"}]}):
        (plain,) = httpx.post(url, json={"inputs": [tensor], **outputs}).json()["outputs"]
        assert (plain["datatype"], plain["data"]) == ("FP32", [1.0, 5.0, 3.0])
        assert "parameters" not in plain


def test_who_asks_for_names_beside_the_numbers_gets_them(server: Any) -> None:
    """A graph does, whose answer's classes are made where the answer is."""
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 5, 3]}
    answer = httpx.post(
        f"http://{server.http}/v2/models/together/infer",
        json={"inputs": [tensor]},
        headers={"x-penstock-labels": "1"},
    ).json()
    (output,) = answer["outputs"]
    assert output["parameters"] == {"labels": ["one", "two", "three"]}
    assert output["data"] == [1.0, 5.0, 3.0]
