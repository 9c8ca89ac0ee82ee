"""Malformed requests of every HTTP protocol, and what the servers that users come from answer to them.

`test_bad_requests` sends each to a model process and holds the answers and docs/reference/errors.md to each
other. `python tests/server/bad_requests.py` prints the page; with `--peers` it starts the peers and prints
their statuses, which are kept here.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
from server_client import Served, serving
from server_models import Function
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from penstock.runtimes import find
from penstock.runtimes.base import LoadOptions, Signature, TensorSpec

#: Largest body of the process under test.
MOST = 100_000
GOOD = [5.1, 3.5, 1.4, 0.2]
FOUR = np.array(GOOD).tobytes()
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Bad:
    """One malformed request, and the status it gets."""

    name: str
    body: bytes
    status: int = 400
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Protocol:
    """A protocol's malformed requests. `peers` names whose statuses are known, by row."""

    title: str
    path: str
    rows: tuple[Bad, ...]
    #: Name -> one status per row; 0: the peer has nothing like it, -1: it never answered.
    peers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    about: str = ""
    good: bytes = b""
    good_headers: Mapping[str, str] = field(default_factory=dict)


def said(value: Any) -> bytes:
    return json.dumps(value).encode()


def v1(rows: Any, **more: Any) -> bytes:
    return said({"instances": rows, **more})


def tensor(data: Any, shape: Any = (1, 4), datatype: Any = "FP64", **more: Any) -> dict[str, Any]:
    return {"name": "input-0", "shape": shape, "datatype": datatype, "data": data, **more}


def v2(*inputs: Any, **more: Any) -> bytes:
    return said({"inputs": list(inputs), **more})


def coded(data: Any, kind: Any, datatype: str = "BYTES", shape: Any = (1,)) -> dict[str, Any]:
    return tensor(data, shape, datatype, parameters={"content_type": kind})


DEEP = b"[" * 5000 + b"]" * 5000

HTTP_ROWS = (
    Bad("a path that is not there", b"{}", 404, "/v3/models/iris/infer"),
    Bad("GET where POST is meant", b"", 405, method="GET"),
    Bad("POST where GET is meant", b"{}", 405, "/v2/health/live"),
    Bad("a model that is not there", v1([GOOD]), 404, "/v1/models/nope:predict"),
    Bad("a version that is not there", v1([GOOD]), 404, "/v1/models/iris/versions/7:predict"),
    Bad("a body over the limit", v1([GOOD] * 20_000), 413),
    Bad("compressed by what is not served", v1([GOOD]), 501, headers={"content-encoding": "br"}),
    Bad("said to be gzip", v1([GOOD]), headers={"content-encoding": "gzip"}),
    Bad("gzip, cut off", gzip.compress(v1([GOOD]))[:-9], headers={"content-encoding": "gzip"}),
    Bad(
        "gzip, and more behind it",
        gzip.compress(v1([GOOD])) + b"more",
        headers={"content-encoding": "gzip"},
    ),
    Bad(
        "gzip of more than is taken",
        gzip.compress(bytes(10 * MOST)),
        413,
        headers={"content-encoding": "gzip"},
    ),
    Bad("a deadline that is no number", v1([GOOD]), headers={"x-request-timeout-ms": "soon"}),
    Bad("a deadline of nothing", v1([GOOD]), headers={"x-request-timeout-ms": "0"}),
)

V1_ROWS = (
    Bad("an empty body", b""),
    Bad("no JSON", b"hello"),
    Bad("JSON cut off", v1([GOOD])[:-2]),
    Bad("JSON and more behind it", v1([GOOD]) + b"x"),
    Bad("no UTF-8", b'{"instances":["\xff\xfe"]}'),
    Bad("a list", said([GOOD])),
    Bad("a number", b"7"),
    Bad("an empty object", b"{}"),
    Bad("instances and inputs", v1([GOOD], inputs=[GOOD])),
    Bad("instances that are no list", v1(7)),
    Bad("no instances", v1([])),
    Bad("rows of too few numbers", v1([[1, 2, 3]])),
    Bad("numbers instead of rows", v1([1, 2, 3, 4])),
    Bad("ragged rows", v1([[1, 2, 3, 4], [1, 2]])),
    Bad("lists and numbers mixed", v1([[1, [2], 3, 4]])),
    Bad("text for numbers", v1([["a", "b", "c", "d"]])),
    Bad("null", v1([[1, 2, None, 4]])),
    Bad("NaN", b'{"instances":[[NaN,1,2,3]]}'),
    Bad("Infinity", b'{"instances":[[-Infinity,1,2,3]]}'),
    Bad("a number out of range", b'{"instances":[[1e999,1,2,3]]}'),
    Bad("nested too deeply", b'{"instances":' + DEEP + b"}"),
    Bad("rows with other keys", v1([{"a": 1}, {"b": 2}])),
    Bad("an empty row", v1([{}])),
    Bad("b64 that is none", v1([{"b64": "?"}])),
    Bad("inputs that are a number", said({"inputs": 3})),
    Bad("a body that is no JSON, by its type", b"a,b", headers={"content-type": "text/csv"}),
    Bad("an explanation of a model without one", v1([GOOD]), 501, path="/v1/models/iris:explain"),
)

V2_ROWS = (
    Bad("an empty body", b""),
    Bad("no JSON", b"hello"),
    Bad("JSON cut off", v2(tensor(GOOD))[:-2]),
    Bad("a list", said([tensor(GOOD)])),
    Bad("no inputs", v2()),
    Bad("inputs left out", said({"id": "1"})),
    Bad("an input without a name", v2({"shape": [1, 4], "datatype": "FP64", "data": GOOD})),
    Bad("an input without a shape", v2({"name": "x", "datatype": "FP64", "data": GOOD})),
    Bad("an input without a datatype", v2({"name": "x", "shape": [1, 4], "data": GOOD})),
    Bad("an input without data", v2({"name": "x", "shape": [1, 4], "datatype": "FP64"})),
    Bad("an unknown datatype", v2(tensor(GOOD, datatype="FP128"))),
    Bad("a datatype in small letters", v2(tensor(GOOD, datatype="fp64"))),
    Bad("a datatype that is no text", v2(tensor(GOOD, datatype=7))),
    Bad("a shape of text", v2(tensor(GOOD, shape=["1", "4"]))),
    Bad("a negative size", v2(tensor(GOOD, shape=[-1, 4]))),
    Bad("a size with a fraction", v2(tensor(GOOD, shape=[1.5, 4]))),
    Bad("more elements than fit in memory", v2(tensor(GOOD, shape=[2**31, 2**31]))),
    Bad("sizes whose product overflows", v2(tensor(GOOD, shape=[2**32, 2**32, 2**32]))),
    Bad("a thousand dimensions", v2(tensor(GOOD, shape=[1] * 1000))),
    Bad("fewer elements than the shape says", v2(tensor([1, 2, 3]))),
    Bad("more elements than the shape says", v2(tensor([*GOOD, 1.0]))),
    Bad("a rank that is not the model's", v2(tensor(GOOD, shape=[4]))),
    Bad("a width that is not the model's", v2(tensor([1, 2, 3], shape=[1, 3]))),
    Bad("no rows", v2(tensor([], shape=[0, 4]))),
    Bad("ragged data", v2(tensor([[1, 2, 3, 4], [1, 2, 3]], shape=[2, 4]))),
    Bad("data nested too deeply", b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":'
        + DEEP + b"}]}"),
    Bad("data that are no list", v2(tensor(7.0, shape=[1]))),
    Bad("text for numbers", v2(tensor(["a", "b", "c", "d"]))),
    Bad("text where the model takes numbers", v2(tensor(list("abcd"), datatype="BYTES"))),
    Bad("a boolean for a number", v2(tensor([True, 0, 0, 0]))),
    Bad("null", v2(tensor([None, 0, 0, 0]))),
    Bad("NaN", v2(tensor([float("nan"), 0, 0, 0]))),
    Bad("Infinity", v2(tensor([float("inf"), 0, 0, 0]))),
    Bad("a fraction for an integer", v2(tensor([1.5, 0, 0, 0], datatype="INT32"))),
    Bad("an integer that the datatype cannot hold", v2(tensor([256, 0, 0, 0], datatype="UINT8"))),
    Bad("a number that FP32 cannot hold", v2(tensor([1e300, 0, 0, 0], datatype="FP32"))),
    Bad("an input given twice", v2(tensor(GOOD), tensor(GOOD))),
    Bad("two inputs for one", v2(tensor(GOOD), {**tensor(GOOD), "name": "more"})),
    Bad(
        "inputs of different numbers of rows",
        v2(tensor(GOOD), {**tensor(GOOD * 2, shape=[2, 4]), "name": "more"}),
    ),
    Bad("an output that is not there", v2(tensor(GOOD), outputs=[{"name": "nope"}])),
    Bad("an output asked for twice", v2(tensor(GOOD), outputs=[{"name": "predict"}] * 2)),
    Bad("parameters that are no object", v2(tensor(GOOD), parameters=[1])),
    Bad("an id that is no text", v2(tensor(GOOD), id=7)),
    Bad(
        "shared memory that is not allowed",
        v2(
            {
                "name": "input-0",
                "shape": [1, 4],
                "datatype": "FP64",
                "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 32},
            }
        ),
        501,
    ),
)  # fmt: skip


def binary(
    name: str,
    size: Any = 32,
    tail: bytes = FOUR,
    length: str | None = "",
    parameters: Any = None,
    **changes: Any,
) -> Bad:
    given = {"binary_data_size": size} if parameters is None else parameters
    made = {"name": "input-0", "shape": [1, 4], "datatype": "FP64", "parameters": given, **changes}
    head = said({"inputs": [made]})
    headers = {"content-type": "application/octet-stream"}
    if length is not None:
        headers["inference-header-content-length"] = length or str(len(head))
    return Bad(name, head + tail, headers=headers)


BINARY_ROWS = (
    binary("a JSON length that is no number", length="many"),
    binary("a negative JSON length", length="-5"),
    binary("a JSON length beyond the body", length="100000"),
    binary("a JSON length that cuts the JSON", length="40"),
    binary("no JSON length", length=None),
    binary("a tensor cut off", tail=FOUR[:24]),
    binary("bytes left over", tail=FOUR + b"1234"),
    binary("a size that is not the shape's", size=24, tail=FOUR[:24]),
    binary("a negative size", size=-1),
    binary("a size of text", size="32"),
    binary("a size and data", data=GOOD),
    binary("no size", parameters={}),
    binary("BYTES cut off", size=6, tail=b"\x05\0\0\0ab", datatype="BYTES", shape=[1]),
    binary(
        "BYTES longer than the body", size=8, tail=b"\xff\xff\xff\xffabcd", datatype="BYTES",
        shape=[1],
    ),
    binary("BOOL that is neither 0 nor 1", size=4, tail=b"\0\1\2\1", datatype="BOOL"),
    Bad(
        "raw bytes that are no row",
        FOUR[:30],
        headers={"inference-header-content-length": "0"},
    ),
)  # fmt: skip

CODED_ROWS = (
    Bad("an unknown content type of an input", v2(coded(["a"], "nope"))),
    Bad("an unknown content type of the request", v2(tensor(GOOD), parameters={"content_type": "csv"})),
    Bad("a content type that is no text", v2(tensor(GOOD), parameters={"content_type": 7})),
    Bad("a request's content type for an input", v2(coded(["a"], "pd"))),
    Bad("str that is no BYTES", v2(coded(GOOD, "str", "FP64", (1, 4)))),
    Bad("a date that is none", v2(coded(["yesterday"], "datetime"))),
    Bad("JSON that is none", v2(coded(["{"], "pd_json"))),
    Bad("two inputs of a request that is one", v2(tensor(GOOD), {**tensor(GOOD), "name": "b"},
        parameters={"content_type": "np"})),
    Bad("a table's column with two axes", v2(tensor(GOOD), parameters={"content_type": "pd"})),
    Bad("a table's columns of different lengths", v2(tensor([1.0], (1,)), {**tensor([1.0, 2.0], (2,)),
        "name": "b"}, parameters={"content_type": "pd"})),
    Bad("a table of too few columns", v2(tensor([1.0], (1,)), {**tensor([1.0], (1,)), "name": "b"},
        parameters={"content_type": "pd"})),
    Bad("a number asked for as text", v2(tensor(GOOD), outputs=[{"name": "predict",
        "parameters": {"content_type": "str"}}])),
)  # fmt: skip


def examples(*given: Any, **more: Any) -> bytes:
    return said({"signature_name": "classes", "examples": list(given), **more})


CLASSIFY = "/v1/models/signed:classify"
TF_ROWS = (
    Bad("a signature that is not there", said({"signature_name": "nope", "instances": [1]})),
    Bad("a signature that is no text", said({"signature_name": 3, "instances": [1]})),
    Bad("examples for a signature that predicts", said({"examples": [{"f": 1}]}), path=CLASSIFY),
    Bad("examples for a model without signatures", said({"examples": [{}]}),
        path="/v1/models/iris:regress"),
    Bad("no examples", examples(), path=CLASSIFY),
    Bad("instances for examples", said({"instances": [1]}), path=CLASSIFY),
    Bad("an example that is no object", examples(1), path=CLASSIFY),
    Bad("a boolean feature", examples({"f": True}), path=CLASSIFY),
    Bad("a feature of text and numbers", examples({"f": ["a", 1]}), path=CLASSIFY),
    Bad("a nested feature", examples({"f": [[1]]}), path=CLASSIFY),
    Bad("an integer over 64 bits", examples({"f": 2**63}), path=CLASSIFY),
    Bad("b64 that is none", examples({"f": {"b64": "?"}}), path=CLASSIFY),
    Bad("a context that is no object", examples({}, context=1), path=CLASSIFY),
    Bad("a version that is not there", examples({}), 404, "/v1/models/signed/versions/9:classify"),
    Bad("a label", v1([[1, 2]]), 404, "/v1/models/signed/labels/stable:predict"),
)  # fmt: skip

CSV = {"content-type": "text/csv"}
MLFLOW_ROWS = (
    Bad("an empty body", b""),
    Bad("no JSON", b"{"),
    Bad("a list", b"[1]"),
    Bad("none of the formats", b"{}"),
    Bad("two of the formats", said({"instances": [GOOD], "inputs": [GOOD]})),
    Bad("an unknown key", said({"data": [GOOD]})),
    Bad("params that are no object", said({"instances": [GOOD], "params": 1})),
    Bad("dataframe_split that is a list", said({"dataframe_split": [GOOD]})),
    Bad("dataframe_split without data", said({"dataframe_split": {"columns": list("abcd")}})),
    Bad("a row wider than its columns", said({"dataframe_split": {"columns": ["a"], "data": [GOOD]}})),
    Bad("a column twice", said({"dataframe_split": {"columns": list("aabc"), "data": [GOOD]}})),
    Bad("too few columns", said({"dataframe_split": {"columns": ["a"], "data": [[1]]}})),
    Bad("dataframe_records that is an object", said({"dataframe_records": {}})),
    Bad("a record without columns", said({"dataframe_records": [{}]})),
    Bad("ragged instances", said({"instances": [GOOD, [1]]})),
    Bad("text for numbers", said({"instances": [list("abcd")]})),
    Bad("CSV without rows", b"a,b,c,d\n", headers=CSV),
    Bad("CSV with a short line", b"a,b,c,d\n1\n", headers=CSV),
    Bad("CSV that is no UTF-8", b"\xff\n1\n", headers=CSV),
    Bad("CSV with an open quote", b'a,b,c,d\n"1,2,3,4\n', headers=CSV),
    Bad("a content type that is not served", b"x", 415, headers={"content-type": "application/x-parquet"}),
    Bad("GET", b"", 405, method="GET"),
)  # fmt: skip


def seldon(**message: Any) -> bytes:
    return said(message)


SELDON_ROWS = (
    Bad("an empty body", b""),
    Bad("no JSON", b"{"),
    Bad("a list", b"[]"),
    Bad("nothing in the message", b"{}"),
    Bad("two kinds of payload", seldon(strData="a", jsonData=1)),
    Bad("data that are no object", seldon(data=[])),
    Bad("data with nothing in it", seldon(data={})),
    Bad("ndarray and tensor", seldon(data={"ndarray": [GOOD], "tensor": {}})),
    Bad("an ndarray that is no list", seldon(data={"ndarray": 1})),
    Bad("an empty ndarray", seldon(data={"ndarray": []})),
    Bad("a ragged ndarray", seldon(data={"ndarray": [GOOD, [1]]})),
    Bad("names that are no text", seldon(data={"ndarray": [GOOD], "names": [1]})),
    Bad("a tensor that is no object", seldon(data={"tensor": [1, 2]})),
    Bad("a tensor of too few values", seldon(data={"tensor": {"shape": [1, 4], "values": [1]}})),
    Bad("a tensor with a negative size", seldon(data={"tensor": {"shape": [-1, 4], "values": GOOD}})),
    Bad("a tensor of text", seldon(data={"tensor": {"shape": [1, 4], "values": list("abcd")}})),
    Bad("a tftensor", seldon(data={"tftensor": {"dtype": 1}})),
    Bad("binData that is no base64", seldon(binData="%%")),
    Bad("strData that is no text", seldon(strData=7)),
    Bad("meta that is no object", seldon(data={"ndarray": [GOOD]}, meta=7)),
    Bad("rows of too few numbers", seldon(data={"ndarray": [[1, 2]]})),
)  # fmt: skip

CE = {"ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-specversion": "1.0", **JSON}
EVENT = {"id": "1", "source": "s", "type": "t", "specversion": "1.0"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
ROW = {"instances": [GOOD]}


def without(name: str) -> dict[str, str]:
    return {k: v for k, v in CE.items() if k != name}


EVENT_ROWS = (
    Bad("binary, without an id", v1([GOOD]), headers=without("ce-id")),
    Bad("binary, without a source", v1([GOOD]), headers=without("ce-source")),
    Bad("binary, without a type", v1([GOOD]), headers=without("ce-type")),
    Bad("binary, of an unknown version", v1([GOOD]), headers={**CE, "ce-specversion": "2.0"}),
    Bad("binary, an attribute's name with _", v1([GOOD]), headers={**CE, "ce-some_name": "x"}),
    Bad("binary, an attribute with a line end", v1([GOOD]), headers={**CE, "ce-tenant": "a%0Ab"}),
    Bad("binary, data that are no JSON", b"{", headers=CE),
    Bad("binary, data that are no request", b'{"nothing": 1}', headers=CE),
    Bad("structured, a list", said([EVENT]), headers=STRUCTURED),
    Bad("structured, no JSON", b'{"id": ', headers=STRUCTURED),
    Bad("structured, without an id", said({**EVENT, "id": None, "data": ROW}), headers=STRUCTURED),
    Bad("structured, an attribute that is a list", said({**EVENT, "tenant": [1], "data": ROW}),
        headers=STRUCTURED),
    Bad("structured, data twice", said({**EVENT, "data": ROW, "data_base64": ""}), headers=STRUCTURED),
    Bad("structured, data_base64 that is none", said({**EVENT, "data_base64": "?"}), headers=STRUCTURED),
    Bad("structured, without data", said(EVENT), headers=STRUCTURED),
    Bad("a batch of events", said([EVENT]),
        headers={"content-type": "application/cloudevents-batch+json"}),
    Bad("events in Avro", b"x", headers={"content-type": "application/cloudevents+avro"}),
)  # fmt: skip

REPOSITORY = "/v2/repository/models/iris/load"
REPOSITORY_ROWS = (
    Bad("an index's body that is no JSON", b"{", path="/v2/repository/index"),
    Bad("an index's ready that is no boolean", said({"ready": 1}), path="/v2/repository/index"),
    Bad("a load's body that is a list", b"[]", path=REPOSITORY),
    Bad("a load's parameters that are a list", said({"parameters": [1]}), path=REPOSITORY),
    Bad("a load with a configuration", said({"parameters": {"config": "{}"}}), 501, REPOSITORY),
    Bad("a load of a model that is not there", b"{}", 404, "/v2/repository/models/nope/load"),
    Bad("an unload of a model that is not there", b"{}", 404, "/v2/repository/models/nope/unload"),
    Bad("metadata of a model that is not there", b"", 404, "/v2/models/nope", method="GET"),
    Bad("statistics of a version that is not there", b"", 404, "/v2/models/iris/versions/7/stats",
        method="GET"),
    Bad("a trace setting that is not served", said({"trace_level": ["TIMESTAMPS"]}), 501,
        "/v2/models/iris/trace/setting"),
    Bad("a region of shared memory where none is allowed", said({"key": "/k", "byte_size": 1}), 501,
        "/v2/systemsharedmemory/region/r/register"),
)  # fmt: skip

GOOD_V1 = v1([GOOD])
GOOD_V2 = v2(tensor(GOOD))
V1_PATH, V2_PATH = "/v1/models/iris:predict", "/v2/models/iris/infer"

#: Statuses of the peers, by the title of a protocol: `--peers` prints them.
KNOWN: dict[str, dict[str, tuple[int, ...]]] = {
    "V1": {
        "KServe": (
            400, 400, 400, 400, 400, 500, 500, 500, 200, 400, 500, 500, 500, 500, 500,
            500, 500, 400, 400, 400, 400, 500, 500, 500, 500, 500, 501,
        ),
    },
    "V2, JSON": {
        "KServe": (
            422, 422, 422, 422, 500, 422, 422, 422, 422, 422, 400, 200, 422, 200, 200,
            422, 500, 500, 500, 500, 500, 500, 500, 500, 500, 400, 422, 500, 500, 200,
            500, 500, 500, 200, 500, 500, 200, 200, 200, 400, 400, 422, 422, 422,
        ),
        "MLServer": (
            422, 422, 422, 422, 400, 422, 422, 422, 422, 422, 422, 422, 422, 200, 200,
            422, 500, 500, 500, 500, 500, 500, 500, 500, 500, 422, 500, 500, 500, 200,
            500, 422, 422, 200, 500, 500, 400, 400, 400, 400, 200, 422, 422, 422,
        ),
        "Triton": (
            400, 500, 500, 500, 400, 500, 500, 500, 500, 400, 400, 400, 500, 500, 500,
            500, -1, 400, 500, 500, 500, 400, 400, 400, 500, 500, 500, 500, 400, 500, 500,
            500, 500, 500, 400, 400, 400, 400, 400, 400, 200, 500, 500, 404,
        ),
    },
    "V2, binary tensors": {
        "KServe": (
            500, 400, 400, 400, 400, 500, 200, 500, 500, 500, 200, 400, 500, 500, 200, 400,
        ),
        "Triton": (
            400, 400, 400, 500, 500, 400, 400, 400, 500, 500, 400, 400, 400, 400, 400, 400,
        ),
    },
    "CloudEvents": {
        "KServe": (
            200, 200, 200, 400, 200, 200, 500, 500, 500, 400, 500, 500, 500, 500, 500,
            500, 500,
        ),
    },
    "V2, content types": {
        "MLServer": (
            500, 200, 422, 500, 500, 500, 500, 400, 500, 500, 500, 500,
        ),
    },
    "MLflow": {
        "MLflow": (
            400, 400, 400, 400, 400, 400, 200, 400, 400, 400, 400, 400, 400, 400, 400,
            400, 400, 400, 400, 400, 415, 405,
        ),
    },
    "Seldon V1": {
        "Seldon Core": (
            400, 400, 400, 400, 500, 500, 500, 500, 500, 500, 500, 200, 500, 500, 200, 500, 500,
            500, 500, 500, 500,
        ),
    },
}  # fmt: skip

PROTOCOLS = (
    Protocol("Every path", V1_PATH, HTTP_ROWS, good=GOOD_V1),
    Protocol("V1", V1_PATH, V1_ROWS, good=GOOD_V1),
    Protocol("V2, JSON", V2_PATH, V2_ROWS, good=GOOD_V2),
    Protocol("V2, binary tensors", V2_PATH, BINARY_ROWS, good=GOOD_V2),
    Protocol("V2, content types", V2_PATH, CODED_ROWS, good=GOOD_V2),
    Protocol("V2, repository and extensions", V2_PATH, REPOSITORY_ROWS, good=GOOD_V2),
    Protocol(
        "TensorFlow Serving",
        "/v1/models/signed:predict",
        TF_ROWS,
        good=v1([[1, 2]]),
        about="A model with the signatures `serving_default` and `classes`.",
    ),
    Protocol("CloudEvents", V1_PATH, EVENT_ROWS, good=GOOD_V1, good_headers=CE),
    Protocol("MLflow", "/invocations", MLFLOW_ROWS, good=said({"inputs": [GOOD]})),
    Protocol(
        "Seldon V1",
        "/api/v1.0/predictions",
        SELDON_ROWS,
        good=seldon(data={"ndarray": [GOOD]}),
    ),
)


class _Signed(Function):
    """Doubles; has a signature that classifies."""

    inputs = (TensorSpec("x", "FP32", (-1, 2)),)

    def __init__(self) -> None:
        super().__init__(lambda i, _: {"y": i["x"] * 2})
        examples_input = (TensorSpec("inputs", "BYTES", (-1,)),)
        self.signatures = {
            s.name: s
            for s in (
                Signature("serving_default", self.inputs, ()),
                Signature("classes", examples_input, (), "classify"),
            )
        }


def iris_model(folder: Path) -> Path:
    """A classifier of four features."""
    x, y = load_iris(return_X_y=True)
    file = folder / "model.joblib"
    joblib.dump(LogisticRegression(max_iter=1000).fit(x, y), file)
    return file


def models(file: Path) -> dict[str, Callable[[], Any]]:
    return {
        "iris": lambda: find("sklearn").load(file, LoadOptions(name="iris")),
        "signed": _Signed,
    }


async def send(client: httpx.AsyncClient, protocol: Protocol, bad: Bad) -> httpx.Response:
    return await client.request(
        bad.method,
        bad.path or protocol.path,
        content=bad.body,
        headers=dict(bad.headers) or JSON,
    )


async def still_serves(s: Served, protocol: Protocol) -> bool:
    headers = dict(protocol.good_headers) or JSON
    answer = await s.client.post(protocol.path, content=protocol.good, headers=headers)
    return answer.status_code == 200


def message_of(answer: httpx.Response) -> str:
    """What an error says, in whichever of the protocols' shapes."""
    if answer.status_code == 200:
        return ""
    document = answer.json()
    if "error" in document:
        return str(document["error"])
    if "message" in document:
        return str(document["message"])
    return str(document["status"]["info"])


async def answers(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """The status and message that each row gets, by its protocol's title; checks that good ones follow."""
    file = iris_model(folder)
    found: dict[str, list[tuple[int, str]]] = {}
    for alone in (False, True):  # a path without a model is for a process with one
        here = [p for p in PROTOCOLS if (p.title in ("MLflow", "Seldon V1")) is alone]
        served = {n: m for n, m in models(file).items() if n == "iris" or not alone}
        place = folder / str(alone)
        place.mkdir()
        async with serving(place, served, max_body_bytes=MOST) as s:
            for protocol in here:
                rows = found[protocol.title] = []
                for bad in protocol.rows:
                    answer = await send(s.client, protocol, bad)
                    assert "Traceback" not in answer.text
                    rows.append((answer.status_code, message_of(answer)))
                    if not await still_serves(s, protocol):
                        raise AssertionError(f"{protocol.title}: none is served after {bad.name}")
    return found


def page(found: Mapping[str, list[tuple[int, str]]]) -> str:
    """docs/reference/errors.md"""
    out = [
        "# Malformed requests",
        "<!-- made from tests/server/bad_requests.py, whose test sends every line; do not edit -->",
        "",
        "What a request that is not right is answered with, by protocol, and what the servers that users",
        "come from answer to the same bytes (KServe 0.20, MLServer 1.7, Triton 2.51, MLflow 3, Seldon Core",
        "1.18's Python server). Each error has its protocol's own shape. The next good request is answered",
        "as ever. For gRPC see [grpc-bad-input.md](grpc-bad-input.md).",
    ]
    for protocol in PROTOCOLS:
        peers = KNOWN.get(protocol.title, {})
        out += ["", f"## {protocol.title}", ""]
        if protocol.about:
            out += [protocol.about, ""]
        columns = ["request", *peers, "status", "message"]
        out += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for i, bad in enumerate(protocol.rows):
            status, text = found[protocol.title][i]
            theirs = [
                {0: "", -1: "no answer"}.get(c, str(c)) for c in (p[i] for p in peers.values())
            ]
            shown = " ".join(text.replace("|", "\\|").split())
            out.append(f"| {' | '.join([bad.name, *theirs, str(status), shown])} |")
    return "\n".join(out) + "\n"


# ---------------------------------------------------------------------------------------------- peers


def _mlflow(file: Path) -> httpx.Client:
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    folder = file.parent / "mlflow"
    mlflow.sklearn.save_model(joblib.load(file), folder, serialization_format="pickle")
    app = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
    client: Any = TestClient(app, raise_server_exceptions=False)
    return client


_SELDON = """
import base64, json, sys
import numpy as np
from seldon_core.metrics import SeldonMetrics
from seldon_core.wrapper import get_rest_microservice

class Iris:
    def predict(self, X, names, meta=None):
        X = np.asarray(X, dtype=float)
        if X.ndim != 2 or X.shape[1] != 4:
            raise ValueError("4 features are expected")
        return X[:, 0]

client = get_rest_microservice(Iris(), SeldonMetrics()).test_client()
print(json.dumps([
    client.open(path, method=method, headers=headers, data=base64.b64decode(body)).status_code
    for method, path, headers, body in json.load(sys.stdin)
]))
"""


def _seldon(python: Path, protocol: Protocol) -> tuple[int, ...]:
    rows = [
        (b.method, b.path or protocol.path, dict(b.headers) or JSON, b64encode(b.body).decode())
        for b in protocol.rows
    ]
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", _SELDON],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _status(client: httpx.Client, protocol: Protocol, bad: Bad) -> int:
    # A connection of its own: some end it after an error without saying so.
    headers = {**(dict(bad.headers) or JSON), "connection": "close"}
    try:
        path = bad.path or protocol.path
        return client.request(bad.method, path, content=bad.body, headers=headers).status_code
    except httpx.HTTPError:
        return -1


def _survey(name: str, start: Any, protocol: Protocol) -> Iterator[int]:
    """One status per row; a peer that ends is started again."""
    rows = list(protocol.rows)
    while rows:
        with start() as base, httpx.Client(base_url=base, timeout=10) as client:
            while rows:
                status = _status(client, protocol, rows.pop(0))
                yield status
                if status == -1:
                    print(f"{name} did not answer", file=sys.stderr)
                    break


def _ask_peers() -> None:
    from benchmarks import peers

    with tempfile.TemporaryDirectory() as folder:
        file = iris_model(Path(folder))
        known: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, start, titles in (
            ("KServe", peers.kserve, ("V1", "V2, JSON", "V2, binary tensors", "CloudEvents")),
            ("MLServer", peers.mlserver, ("V2, JSON", "V2, content types")),
            ("Triton", peers.triton, ("V2, JSON", "V2, binary tensors")),
        ):
            for protocol in PROTOCOLS:
                if protocol.title in titles:
                    found = tuple(_survey(name, partial(start, file), protocol))
                    known.setdefault(protocol.title, {})[name] = found
        client = _mlflow(file)
        for protocol in PROTOCOLS:
            if protocol.title == "MLflow":
                known["MLflow"] = {
                    "MLflow": tuple(_status(client, protocol, b) for b in protocol.rows)
                }
            if protocol.title == "Seldon V1":
                python = peers.environment("seldon") / "python"
                known["Seldon V1"] = {"Seldon Core": _seldon(python, protocol)}
    print(json.dumps(known, indent=1))


if __name__ == "__main__":
    if "--peers" in sys.argv:
        _ask_peers()
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(page(asyncio.run(answers(Path(folder)))), end="")
