"""Content types of tensors: what MLServer's own codecs make of the same requests, and what is refused."""

from __future__ import annotations

import datetime
import json
import subprocess
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks import peers

from penstock.errors import InvalidInput
from penstock.protocols import v2
from penstock.protocols.codecs import Coded, ContentTypes, coded
from penstock.protocols.grpc import infer as grpc_infer
from penstock.protocols.grpc.schema import ModelInferRequest
from penstock.protocols.infer import InferRequest
from penstock.runtimes.base import TensorSpec


def tensor(
    data: Any, datatype: str, shape: list[int], kind: str | None = None, name: str = "x"
) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    if kind is not None:
        made["parameters"] = {"content_type": kind}
    return made


def request(*inputs: dict[str, Any], kind: str | None = None, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"inputs": list(inputs), **more}
    if kind is not None:
        made["parameters"] = {"content_type": kind}
    return made


#: Requests that MLServer and Penstock have to read alike.
ALIKE: dict[str, dict[str, Any]] = {
    "np of floats": request(tensor([1.5, 2, 3, 4], "FP32", [2, 2], "np")),
    "np of the request": request(tensor([[1, 2], [3, 4]], "INT64", [2, 2]), kind="np"),
    "np with a null": request(tensor([1.5, None], "FP64", [2], "np")),
    "np of booleans": request(tensor([True, False], "BOOL", [2], "np")),
    "str": request(tensor(["a", "ü", ""], "BYTES", [3], "str")),
    "str in a column": request(tensor(["a", "b"], "BYTES", [2, 1], "str")),
    "str of the request": request(tensor(["a"], "BYTES", [1]), kind="str"),
    "str with a null": request(tensor(["a", None], "BYTES", [2], "str")),
    "one str without a list": request(tensor("hello", "BYTES", [1], "str")),
    "str whose shape counts characters": request(tensor("hello world", "BYTES", [11], "str")),
    "rows of characters": request(tensor(["abc", "de"], "BYTES", [2, 3], "str")),
    "base64": request(tensor(["aGVsbG8=", "AP8="], "BYTES", [2], "base64")),
    "base64 that is none": request(tensor(["hello!"], "BYTES", [1], "base64")),
    "datetime": request(
        tensor(["2021-08-24T15:02:04", "2020-02-29", "2021-08-24T15:02:04+02:00"], "BYTES", [3],
               "datetime")
    ),
    "a table": request(
        tensor([1, 2], "INT32", [2], name="a"),
        tensor([0.5, None], "FP64", [2, 1], name="b"),
        tensor(["x", None], "BYTES", [2], "str", name="c"),
        tensor([True, False], "BOOL", [2], name="d"),
        kind="pd",
    ),
    "a table with dates": request(
        tensor(["2021-08-24T15:02:04", "2020-02-29T00:00:00"], "BYTES", [2], "datetime", name="a"),
        kind="pd",
    ),
    "a table with JSON": request(
        tensor(['{"a": [1, null]}', '"t"'], "BYTES", [2], "pd_json", name="a"), kind="pd"
    ),
    "a table of text that says nothing": request(
        tensor(["x", "y"], "BYTES", [2], name="a"), kind="pd"
    ),
}  # fmt: skip

#: Reads each request as MLServer does; prints what came out, value by value.
ORACLE = """
import datetime, json, sys
import numpy as np, pandas as pd
from mlserver.types import InferenceRequest
from mlserver.codecs import decode_inference_request
from mlserver.codecs.utils import get_decoded_or_raw

def plain(v):
    if isinstance(v, pd.DataFrame):
        return {c: plain(v[c].tolist()) for c in v}
    if isinstance(v, np.ndarray):
        return plain(v.reshape(-1).tolist())
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    if isinstance(v, dict):
        return {k: plain(x) for k, x in v.items()}
    if isinstance(v, bytes):
        return {"bytes": v.hex()}
    if v is None or v is pd.NaT or (isinstance(v, float) and v != v):
        return None
    if isinstance(v, (datetime.datetime, pd.Timestamp)):
        return {"date": v.isoformat()}
    return v

def read(case):
    parsed = InferenceRequest.model_validate(case)
    whole = decode_inference_request(parsed)
    if isinstance(whole, InferenceRequest):
        whole = get_decoded_or_raw(whole.inputs[0])
    return plain(getattr(whole, "root", whole))

print(json.dumps({k: read(c) for k, c in json.load(sys.stdin).items()}))
"""


def read(case: dict[str, Any], specs: tuple[TensorSpec, ...] = ()) -> Coded:
    found = coded(v2.decode_infer(json.dumps(case).encode()), None, specs)
    assert found is not None
    return found


def plain(v: Any) -> Any:
    if isinstance(v, np.ndarray):
        return plain(v.reshape(-1).tolist())
    if isinstance(v, dict):
        return {k: plain(x) for k, x in v.items()}
    if isinstance(v, list):
        return [plain(x) for x in v]
    if isinstance(v, bytes):
        return {"bytes": v.hex()}
    if v is None or (isinstance(v, float) and v != v):
        return None
    if isinstance(v, datetime.datetime):
        return {"date": v.isoformat()}
    return v


@pytest.fixture(scope="module")
def mlserver() -> Any:
    python = peers.environment("mlserver") / "python"

    def ask(program: str, given: Any) -> Any:
        done = subprocess.run(
            [str(python), "-W", "ignore", "-c", program],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return ask


@pytest.mark.timeout(600)  # the first run installs the package
def test_requests_mean_what_they_mean_to_mlserver(mlserver: Any) -> None:
    theirs = mlserver(ORACLE, ALIKE)
    for name, case in ALIKE.items():
        inputs = plain(read(case).inputs)
        table = case.get("parameters", {}).get("content_type") == "pd"
        assert (inputs if table else inputs["x"]) == theirs[name], name


WRITER = """
import datetime, json, sys
import numpy as np, pandas as pd
from mlserver.codecs import (
    Base64Codec, DatetimeCodec, NumpyCodec, PandasCodec, StringCodec)

def out(v):
    made = json.loads(v.model_dump_json(exclude_none=True))
    return made

date = datetime.datetime(2021, 8, 24, 15, 2, 4)
frame = pd.DataFrame({"n": [1, 2], "f": [0.5, None], "t": ["x", "y"], "j": [{"a": 1}, [2]]})
frame["t"] = frame["t"].astype(object)
print(json.dumps({
    "np": out(NumpyCodec.encode_output("y", np.array([1.5, 2.5]))),
    "np matrix": out(NumpyCodec.encode_output("y", np.array([[1, 2]]))),
    "str": out(StringCodec.encode_output("y", ["a", "b"])),
    "base64": out(Base64Codec.encode_output("y", [b"hello"])),
    "datetime": out(DatetimeCodec.encode_output("y", [date])),
    "frame": out(PandasCodec.encode_response("m", frame)),
}))
"""


def objects(*values: Any) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def answer(case: dict[str, Any], outputs: dict[str, np.ndarray]) -> Any:
    found = read(case)
    _, body = v2.encode_infer(found.response(outputs, None), found.request)
    return json.loads(b"".join(body))


def outputs_of(case: dict[str, Any], values: np.ndarray) -> Any:
    (output,) = answer(case, {"y": values})["outputs"]
    return output


ASKED = request(tensor([1], "INT64", [1]), outputs=[{"name": "y"}])


def asking(kind: str) -> dict[str, Any]:
    outputs = [{"name": "y", "parameters": {"content_type": kind}}]
    return request(tensor([1], "INT64", [1]), outputs=outputs)


@pytest.mark.timeout(600)
def test_answers_are_what_mlserver_writes(mlserver: Any) -> None:
    theirs = mlserver(WRITER, {})
    date = objects(datetime.datetime(2021, 8, 24, 15, 2, 4))
    text = objects("a", "b")
    ours = {
        "np": outputs_of(asking("np"), np.array([1.5, 2.5])),
        "np matrix": outputs_of(asking("np"), np.array([[1, 2]])),
        "str": outputs_of(asking("str"), text),
        "base64": outputs_of(asking("base64"), objects(b"hello")),
        "datetime": outputs_of(asking("datetime"), date),
        "frame": answer(
            request(tensor([1], "INT64", [1]), kind="pd"),
            {
                "n": np.array([1, 2]),
                "f": np.array([0.5, np.nan]),
                "t": objects("x", "y"),
                "j": objects({"a": 1}, [2]),
            },
        ),
    }
    ours["frame"]["model_name"] = "m"
    for name, made in ours.items():
        want = theirs[name]
        if name == "frame":
            # Its model leaves missing values to what writes the response, which has null.
            for output in want["outputs"]:
                output["data"] = [None if v != v else v for v in output["data"]]
        assert made == want, name


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (request(tensor([1], "INT64", [1], "str")), "input 'x' has datatype INT64"),
        (request(tensor(["a"], "BYTES", [1], "nope")), "the content type 'nope'"),
        (request(tensor(["a"], "BYTES", [1], "pd")), "the content type 'pd'"),
        (request(tensor(["a"], "BYTES", [1]), kind="base64"), "the content type 'base64'"),
        (
            {"inputs": [tensor([1], "INT64", [1])], "parameters": {"content_type": 7}},
            "the request has a content type, which is no text",
        ),
        (
            request(tensor([1], "INT64", [1]), tensor([1], "INT64", [1], name="z"), kind="np"),
            "which is for one input; it has 2",
        ),
        (request(tensor(["yesterday"], "BYTES", [1], "datetime")), "element 0 is no ISO date"),
        (request(tensor(["1", "{"], "BYTES", [2], "pd_json")), "element 1 is no JSON"),
        (request(tensor(["ab", "c"], "BYTES", [7], "str")), "7 elements, but its data has 2"),
        (request(tensor(["a"], "BYTES", [1] * 1000, "str")), "1000 dimensions"),
        (request(tensor(["a"], "BYTES", [2**62, 2**62], "str")), "too large"),
        (request(tensor([1, 2], "BYTES", [2], "str")), "input 'x' has datatype BYTES"),
        (request(tensor([[["a"], "b"]], "BYTES", [2], "str")), "ragged"),
        (request(tensor([1, None], "INT64", [2], "np")), "Expected `int"),
        (request(tensor([1, 2], "INT64", [1, 2]), kind="pd"), "a table's column is [n] or [n, 1]"),
        (
            request(tensor([1, 2], "INT64", [2]), tensor([1], "INT64", [1], name="z"), kind="pd"),
            "different numbers of rows: 'x' 2, 'z' 1",
        ),
        (asking("nope"), "output 'y' has the content type 'nope'"),
    ],
)
def test_what_is_wrong_with_a_content_type_is_said(case: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(case)
    assert says in str(caught.value)


def test_bytes_that_are_no_text_are_refused_as_str() -> None:
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": 6, "content_type": "str"},
                }
            ]
        }
    ).encode()
    decoded = v2.decode_infer(body + b"\x02\0\0\0\xff\xfe", len(body))
    with pytest.raises(InvalidInput, match="element 0 is no UTF-8 text"):
        coded(decoded, None, ())


def test_numbers_cannot_be_had_as_text() -> None:
    with pytest.raises(InvalidInput, match="content type str is for BYTES"):
        outputs_of(asking("str"), np.array([1.5]))
    with pytest.raises(InvalidInput, match="element 0 is no ISO date"):
        outputs_of(asking("datetime"), objects(3))


def test_a_request_that_says_nothing_is_left_alone() -> None:
    plain_request = v2.decode_infer(json.dumps(request(tensor([1], "INT64", [1]))).encode())
    assert coded(plain_request, None, ()) is None
    assert coded(v2.decode_infer(json.dumps(ASKED).encode()), None, ()) is None


MATRIX = (TensorSpec("input-0", "FP64", (-1, 2)),)


def test_a_table_is_a_matrix_where_the_model_takes_one() -> None:
    columns = (tensor([1, 2], "INT64", [2], name="a"), tensor([3.5, 4], "FP64", [2, 1], name="b"))
    (matrix,) = read(request(*columns, kind="pd"), MATRIX).inputs.items()
    assert matrix[0] == "input-0"
    np.testing.assert_array_equal(matrix[1], [[1, 3.5], [2, 4]])
    mixed = (tensor([1], "INT64", [1], name="a"), tensor(["t"], "BYTES", [1], name="b"))
    found = read(request(*mixed, kind="pd"), MATRIX).inputs["input-0"]
    assert found.tolist() == [[1, "t"]]


def test_a_tables_columns_have_the_shape_that_the_model_declares() -> None:
    specs = (TensorSpec("a", "FP32", (-1, 1)), TensorSpec("b", "FP32", (-1,)))
    columns = (tensor([1], "FP32", [1], name="a"), tensor([2], "FP32", [1, 1], name="b"))
    found = read(request(*columns, kind="pd"), specs).inputs
    assert {n: a.shape for n, a in found.items()} == {"a": (1, 1), "b": (1,)}


def test_a_models_own_content_types_stand_in_for_the_requests() -> None:
    declared = ContentTypes("pd", {"a": "base64"}, {"y": "base64"}, ())
    case = request(tensor(["aGk="], "BYTES", [1], name="a"))
    found = coded(v2.decode_infer(json.dumps(case).encode()), declared, ())
    assert found is not None
    assert found.inputs["a"].tolist() == ["hi"]
    made = found.response({"y": objects(b"hi")}, None)
    assert made.outputs["y"].tolist() == [[b"aGk="]]
    # What the request says comes first.
    case = request(tensor(["aGk="], "BYTES", [1], "str", name="a"))
    found = coded(v2.decode_infer(json.dumps(case).encode()), declared, ())
    assert found is not None
    assert found.inputs["a"].tolist() == ["aGk="]
    with pytest.raises(InvalidInput, match="the model has the content type 'csv'"):
        ContentTypes("csv")


def test_what_is_beside_a_pipelines_text_is_its_parameters() -> None:
    case = request(
        tensor(["good"], "BYTES", [1], "str", name="args"),
        tensor([3], "BYTES", [1], "raw", name="top_k"),
        tensor(['["a", "b"]'], "BYTES", [1], "hg_json", name="candidate_labels"),
        kind="hf",
    )
    found = read(case)
    assert {n: a.tolist() for n, a in found.inputs.items()} == {"args": ["good"]}
    assert found.parameters == {"top_k": 3, "candidate_labels": ["a", "b"]}
    made = found.response({"output": objects({"label": "A"})}, None)
    assert made.output_parameters == {"output": {"content_type": "hg_jsonlist"}}
    assert made.outputs["output"].tolist() == [[b'{"label":"A"}']]


def test_the_models_parameters_have_nothing_of_content_types() -> None:
    case = request(tensor([1], "INT64", [1]))
    case["parameters"] = {"content_type": "np", "headers": {"a": "b"}, "k": 1}
    assert read(case).parameters == {"k": 1}


def test_a_frame_of_dates_has_dates() -> None:
    case = request(tensor(["2021-08-24"], "BYTES", [1], "datetime", name="a"), kind="pd")
    found = read(case).inputs
    frame = InferRequest(dict(found)).as_dataframe()
    assert pd.api.types.is_datetime64_any_dtype(frame["a"])


@pytest.mark.parametrize("raw", [False, True])
def test_content_types_over_grpc(raw: bool) -> None:
    message = ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[1])
    tensor.parameters["content_type"].string_param = "base64"
    if raw:
        message.raw_input_contents.append(b"\x04\0\0\0aGk=")
    else:
        tensor.contents.bytes_contents.append(b"aGk=")
    decoded = grpc_infer.decode_infer(message.SerializeToString())
    found = coded(decoded, None, ())
    assert found is not None
    assert found.inputs["x"].tolist() == [b"hi"]
    pieces = grpc_infer.encode_infer(found.response({"y": objects("ho")}, None), decoded)
    outputs, answer = grpc_infer.decode_answer(b"".join(pieces)[5:])
    assert outputs["y"].tolist() == [[b"ho"]]
    assert answer.outputs[0].parameters["content_type"].string_param == "str"
    assert bool(answer.raw_output_contents) is raw


def test_a_binary_answer_says_its_content_type_beside_its_size() -> None:
    case = request(tensor([1], "INT64", [1]), kind="np")
    case["parameters"]["binary_data_output"] = True
    found = read(case)
    headers, body = v2.encode_infer(found.response({"y": np.array([1, 2])}, None), found.request)
    text = json.loads(bytes(body[0]))
    assert text["outputs"][0] == {
        "name": "y",
        "shape": [2, 1],
        "datatype": "INT64",
        "parameters": {"binary_data_size": 16, "content_type": "np"},
    }
    assert b"octet-stream" in headers
