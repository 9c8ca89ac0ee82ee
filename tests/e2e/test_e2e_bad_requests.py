"""Wrong requests through gateway and model process, in both protocols: status, reason, the next good one."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from platform_harness import Platform, manifest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

GOOD = [5.1, 3.5, 1.4, 0.2]
#: The features of `named`, fitted on a data frame.
COLUMNS = ("sepal", "petal")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Platform]:
    """`iris` (fitted on an array), `named` (on a data frame with columns) and `words` (on text)."""
    import joblib
    import pandas as pd
    from sklearn.datasets import load_iris
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier

    x, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(x[:, [0, 2]], columns=list(COLUMNS))
    texts = make_pipeline(CountVectorizer(), LogisticRegression())
    for name, model in (
        ("named", DecisionTreeClassifier(random_state=0).fit(frame, y)),
        ("words", texts.fit(["good day", "bad night"] * 4, [1, 0] * 4)),
    ):
        (folder / "models" / name).mkdir()
        joblib.dump(model, folder / "models" / name / "model.joblib")
    p = Platform(folder)
    p.start()
    for name in ("iris", "named", "words"):
        p.run("apply", "-f", "-", "--wait", stdin=manifest(name, f"models/{name}"))
    yield p
    assert all(not r["status"].get("restarts") for r in p.replicas()), "no request ended a process"
    p.stop()


def tensor(data: Any, shape: Any = (1, 4), datatype: str = "FP64", name: str = "input-0") -> Any:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data}


def v2(*tensors: Any) -> bytes:
    return json.dumps({"inputs": tensors}).encode()


def v1(instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def columns(**data: Any) -> bytes:
    return v2(*(tensor([v], (1, 1), "FP64", name) for name, v in data.items()))


#: What is wrong, model, protocol, body, status, and what the answer has to say.
WRONG = [
    ("width", "iris", "v1", v1([[1, 2]]), "4 features"),
    ("width", "iris", "v2", v2(tensor([1, 2], (1, 2))), "4 features"),
    ("rank", "iris", "v1", v1([1, 2, 3, 4]), "shape [4]"),
    ("rank", "iris", "v2", v2(tensor([GOOD], (1, 1, 4))), "shape [1, 1, 4]"),
    ("shape", "iris", "v2", v2(tensor([1, 2, 3])), "its data has 3"),
    ("dtype", "iris", "v1", v1([["a", "b", "c", "d"]]), "the model takes FP64"),
    ("dtype", "iris", "v2", v2(tensor(["a", "b", "c", "d"], datatype="BYTES")), "could not convert string"),
    ("dtype", "words", "v2", v2(tensor([1.5], (1,))), "text"),
    ("datatype", "iris", "v2", v2(tensor(GOOD, datatype="FP31")), "unknown datatype"),
    ("name", "named", "v1", v1([{"sepal": 1, "petl": 2}]), "petl"),
    ("name", "named", "v2", columns(sepal=1, petl=2), "petl"),
    ("name missing", "named", "v1", v1([{"sepal": 1}]), "'petal'"),
    ("name missing", "named", "v2", columns(sepal=1), "petal"),
    ("two inputs", "iris", "v2", v2(tensor(GOOD, name="a"), tensor(GOOD, name="b")), "one input"),
    ("row count", "iris", "v1", v1([]), "empty"),
    ("row count", "iris", "v2", v2(tensor([], (0, 4))), "rows"),
    (
        "rows differ", "named", "v2",
        v2(tensor([1], (1, 1), name="sepal"), tensor([1, 2], (2, 1), name="petal")), "rows",
    ),
    ("NaN", "iris", "v1", b'{"instances":[[NaN,1,2,3]]}', "NaN"),
    ("NaN", "iris", "v2", v2(tensor([1, 2, 3, float("nan")])), "NaN"),
    ("infinity", "iris", "v1", b'{"instances":[[-Infinity,1,2,3]]}', "Infinity"),
    ("infinity", "iris", "v2", v2(tensor([1, 2, 3, float("inf")])), "Infinity"),
    ("range", "iris", "v1", b'{"instances":[[1e999,1,2,3]]}', "out of range"),
    ("range", "iris", "v2", v2(tensor([300, 1, 2, 3], datatype="UINT8")), "UINT8"),
    ("no UTF-8", "words", "v1", b'{"instances":["\xff"]}', "UTF-8"),
    ("no JSON", "iris", "v1", b"{", "JSON"),
    ("no JSON", "iris", "v2", b"{", "JSON"),
    ("no body", "iris", "v2", b"", "JSON"),
    ("no output", "iris", "v2", json.dumps({
        "inputs": [tensor(GOOD)], "outputs": [{"name": "nope"}]}).encode(), "'nope'"),
]  # fmt: skip


def url(p: Platform, model: str, protocol: str) -> str:
    path = f"/v1/models/{model}:predict" if protocol == "v1" else f"/v2/models/{model}/infer"
    return p.http + path


def good_is_answered(p: Platform) -> None:
    """The next good request, in each protocol."""
    answer = httpx.post(url(p, "iris", "v1"), content=v1([GOOD]), timeout=10)
    assert answer.json() == {"predictions": [0]}
    answer = httpx.post(url(p, "iris", "v2"), content=v2(tensor(GOOD)), timeout=10)
    assert answer.json()["outputs"][0]["data"] == [0]


@pytest.mark.parametrize(
    ("model", "protocol", "body", "said"),
    [w[1:] for w in WRONG],
    ids=[f"{w[0]}-{w[1]}-{w[2]}" for w in WRONG],
)
def test_a_wrong_request_is_a_400_that_says_what_is_wrong(
    served: Platform, model: str, protocol: str, body: bytes, said: str
) -> None:
    answer = httpx.post(url(served, model, protocol), content=body, timeout=10)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    good_is_answered(served)


def test_names_of_a_model_that_has_them_are_listed(served: Platform) -> None:
    """A model fitted on an array has no name for its input, and takes any; as KServe and MLServer do."""
    answer = httpx.post(url(served, "named", "v2"), content=columns(sepal=1, petl=2), timeout=10)
    assert "'sepal', 'petal'" in answer.json()["error"]
    body = v2(tensor(GOOD, name="whatever"))
    answer = httpx.post(url(served, "iris", "v2"), content=body, timeout=10)
    assert answer.json()["outputs"][0]["data"] == [0]


def binary(size: Any, tail: bytes, header: str | None = None) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "input-0",
                    "shape": [1, 4],
                    "datatype": "FP64",
                    "parameters": {"binary_data_size": size},
                }
            ]
        }
    ).encode()
    return head + tail, {"inference-header-content-length": header or str(len(head))}


FOUR = struct.pack("<4d", *GOOD)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (binary(32, FOUR, "100000"), "but the body has"),
        (binary(32, FOUR, "40"), "JSON"),
        (binary(32, FOUR, "many"), "no number"),
        (binary(32, FOUR[:24]), "24 bytes follow"),
        (binary(32, FOUR + b"1234"), "36 bytes follow"),
        (binary(24, FOUR[:24]), "32 bytes"),
    ],
    ids=["beyond the body", "too short", "no number", "truncated", "left over", "size and shape"],
)
def test_a_binary_request_that_does_not_add_up(
    served: Platform, sent: tuple[bytes, dict[str, str]], said: str
) -> None:
    body, headers = sent
    answer = httpx.post(url(served, "iris", "v2"), content=body, headers=headers, timeout=10)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]
    good_is_answered(served)


def test_bytes_that_are_no_utf8(served: Platform) -> None:
    """The binary extension carries any bytes; a model of text wants text."""
    element = b"\xff\xfe"
    data = struct.pack("<I", len(element)) + element
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "input-0",
                    "shape": [1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data)},
                }
            ]
        }
    ).encode()
    answer = httpx.post(
        url(served, "words", "v2"),
        content=head + data,
        headers={"inference-header-content-length": str(len(head))},
        timeout=10,
    )
    assert answer.status_code == 400, answer.text
    assert "no UTF-8" in answer.json()["error"]
    good_is_answered(served)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/models/nobody:predict", "nobody does not exist"),
        ("/v2/models/nobody/infer", "nobody does not exist"),
        ("/v1/models/iris/versions/7:predict", "no version 7"),
        ("/v2/models/iris/versions/7/infer", "no version 7"),
        ("/serving/team/iris/v2/models/iris/infer", "no service iris in namespace team"),
    ],
)
def test_an_unknown_model_or_version_is_a_404(served: Platform, path: str, said: str) -> None:
    answer = httpx.post(served.http + path, content=v1([GOOD]), timeout=10)
    assert answer.status_code == 404
    assert said in answer.json()["error"]
    good_is_answered(served)


@pytest.mark.parametrize("path", ["/v1/models/iris:predict", "/v2/models/iris/infer"])
@pytest.mark.parametrize(
    ("length", "body", "status"),
    [(5_000_000_000, b"", b"413"), (500, b'{"inputs":', b"")],
    ids=["oversized", "truncated"],
)
def test_a_body_that_never_comes_whole(
    served: Platform, path: str, length: int, body: bytes, status: bytes
) -> None:
    host, _, port = served.http.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as s:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        s.sendall(head.encode() + body)
        if status:
            assert s.recv(100).startswith(b"HTTP/1.1 " + status)
    good_is_answered(served)


class TestGrpc:
    """The same faults as gRPC statuses."""

    @pytest.fixture
    def client(self, served: Platform) -> Iterator[InferenceServerClient]:
        with InferenceServerClient(served.grpc) as client:
            yield client

    @staticmethod
    def input(name: str, array: np.ndarray, datatype: str) -> InferInput:
        made = InferInput(name, list(array.shape), datatype)
        made.set_data_from_numpy(array)
        return made

    @pytest.mark.parametrize(
        ("model", "inputs", "options", "code", "said"),
        [
            ("iris", {"x": np.ones((1, 2))}, {}, "INVALID_ARGUMENT", "4 features"),
            ("iris", {"x": np.ones((4,))}, {}, "INVALID_ARGUMENT", "shape"),
            ("iris", {"a": np.ones((1, 4)), "b": np.ones((1, 4))}, {}, "INVALID_ARGUMENT", "one input"),
            (
                "named", {"sepal": np.ones((1, 1)), "petl": np.ones((1, 1))}, {},
                "INVALID_ARGUMENT", "petl",
            ),
            (
                "named", {"sepal": np.ones((1, 1)), "petal": np.ones((2, 1))}, {},
                "INVALID_ARGUMENT", "rows",
            ),
            ("nobody", {"x": np.ones((1, 4))}, {}, "NOT_FOUND", "does not exist"),
            ("iris", {"x": np.ones((1, 4))}, {"model_version": "7"}, "NOT_FOUND", "no version 7"),
            (
                "iris", {"x": np.ones((1, 4))}, {"outputs": [InferRequestedOutput("nope")]},
                "INVALID_ARGUMENT", "nope",
            ),
        ],
    )  # fmt: skip
    def test_a_wrong_call(
        self,
        client: InferenceServerClient,
        model: str,
        inputs: dict[str, np.ndarray],
        options: dict[str, Any],
        code: str,
        said: str,
    ) -> None:
        made = [self.input(n, a, "FP64") for n, a in inputs.items()]
        with pytest.raises(InferenceServerException, match=said) as refused:
            client.infer(model, made, **options)
        assert refused.value.status() == f"StatusCode.{code}"
        answer = client.infer("iris", [self.input("x", np.array([GOOD]), "FP64")])
        assert answer.as_numpy(answer.get_response().outputs[0].name).tolist() == [0]

    def test_bytes_that_are_no_utf8(self, client: InferenceServerClient) -> None:
        array = np.array([b"\xff\xfe"], dtype=object)
        with pytest.raises(InferenceServerException, match="no UTF-8") as refused:
            client.infer("words", [self.input("x", array, "BYTES")])
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
