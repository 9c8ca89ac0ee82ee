"""`tftensor` of SeldonMessages: TensorFlow's own TensorProto, in JSON and protobuf, on models and graphs."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from seldon_oracle import HERE
from seldon_platform import deployed, deployment, node

from penstock.errors import InvalidInput
from penstock.protocols import tftensor
from penstock.protocols.grpc import seldon
from penstock.protocols.grpc import tftensor as wire
from penstock.runtimes.base import LoadOptions
from penstock.runtimes.seldon_python import load

sys.path.insert(0, str(HERE.parent / "server"))
from server_client import serving

DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
ARRAYS = [
    *(np.array([[0, 1, 2], [3, 4, 5]]).astype(d) for d in DTYPES),
    *(np.array([7]).astype(d) for d in DTYPES),
    np.array([["a", "ä"], ["", "long " * 50]], dtype=object),
    np.array([[np.nan, np.inf, -np.inf]]),
    np.array([2**62, -(2**62)]),
    np.zeros((0, 3)),
    np.arange(24.0).reshape(2, 3, 4),
]


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_tensorflow_and_we_read_each_other(tf: Any, array: Any) -> None:
    theirs = tf.make_tensor_proto(array)
    text = array.dtype == object
    expected = array.astype(str) if text else array
    for found in (
        wire.from_bytes(theirs.SerializeToString()),
        tftensor.decode(MessageToDict(theirs)),
        tftensor.decode(MessageToDict(theirs, preserving_proto_field_name=True)),
    ):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.kind == expected.dtype.kind
        assert found.flags.writeable
    for proto in (
        type(theirs).FromString(wire.to_bytes(array)),
        ParseDict(tftensor.encode(array), type(theirs)()),
    ):
        back = tf.make_ndarray(proto)
        if text:
            back = np.array([v.decode() for v in back.ravel()], dtype=object).reshape(back.shape)
        np.testing.assert_array_equal(back, array)


def test_the_last_value_stands_for_the_rest(tf: Any) -> None:
    theirs = tf.make_tensor_proto(3.5, shape=[2, 2])
    assert len(theirs.float_val) == 1
    assert tftensor.decode(MessageToDict(theirs)).tolist() == [[3.5, 3.5], [3.5, 3.5]]
    document = {"dtype": 3, "tensorShape": {"dim": [{"size": 4}]}, "intVal": [1, 2]}
    assert tftensor.decode(document).tolist() == [1, 2, 2, 2]
    texts = [base64.b64encode(text).decode() for text in (b"longer", b"a")]
    document = {"dtype": "DT_STRING", "tensorShape": dims(3), "stringVal": texts}
    assert tftensor.decode(document).tolist() == ["longer", "a", "a"]


def dims(*sizes: Any) -> dict[str, Any]:
    return {"dim": [{"size": s} for s in sizes]}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (3, "no object"),
        ({}, "dtype"),
        ({"dtype": "DT_COMPLEX64"}, "DT_COMPLEX64"),
        ({"dtype": 99}, "99"),
        ({"dtype": "DT_FLOAT", "tensorShape": []}, "dim"),
        ({"dtype": "DT_FLOAT", "tensorShape": {"unknownRank": True}}, "dim"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims(-1)}, "without a size"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims("x")}, "without a size"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims(*[1] * 40)}, "dim"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims(1 << 40), "floatVal": [1]}, "1 values for"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims(1), "floatVal": [1, 2]}, "at most 1"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims(1), "floatVal": ["x"]}, "no DT_FLOAT"),
        ({"dtype": "DT_INT32", "tensorShape": dims(1), "intVal": [1.5]}, "no DT_INT32"),
        ({"dtype": "DT_INT8", "tensorShape": dims(1), "intVal": [300]}, "no DT_INT8"),
        ({"dtype": "DT_INT32", "tensorShape": dims(1), "intVal": [None]}, "no DT_INT32"),
        ({"dtype": "DT_STRING", "tensorShape": dims(1), "stringVal": ["%"]}, "no DT_STRING"),
        ({"dtype": "DT_STRING", "tensorShape": dims(1), "tensorContent": "YQ=="}, "stringVal"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims(2), "tensorContent": "AAAAAA=="}, "4 bytes"),
        ({"dtype": "DT_FLOAT", "tensorShape": dims(2), "tensorContent": "%"}, "base64"),
    ],
)
def test_what_is_no_tensor_is_refused(document: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        tftensor.decode(document)


def message(array: Any, **more: Any) -> dict[str, Any]:
    return {"data": {"names": ["a", "b"], "tftensor": tftensor.encode(np.asarray(array))}, **more}


async def test_a_class_and_a_model_answer_with_what_they_are_asked(tmp_path: Path) -> None:
    def unit(cls: str) -> Any:
        return load(HERE, LoadOptions("m", options={"class": f"seldon_units.py:{cls}"}))

    for name, make, expected in (
        ("doubler", lambda: unit("Doubler"), [[2.0, 4.0]]),
        ("mixed", lambda: unit("Mixed"), None),
    ):
        folder = tmp_path / name
        folder.mkdir()
        async with serving(folder, {"m": make}) as s:
            answer = await s.client.post("/predict", json=message([[1.0, 2.0]]))
            assert answer.status_code == 200, answer.text
            data = answer.json()["data"]
            if expected is None:
                assert data["ndarray"] == [["a", 1], ["b", 2.5]], "no tensor can hold both"
                truth = await s.client.post("/transform-input", json=message([[1.0, 2.0]]))
                held = tftensor.decode(truth.json()["data"]["tftensor"])
                assert held.dtype == bool
            else:
                assert tftensor.decode(data["tftensor"]).tolist() == expected
                both = {"data": {**message([[1.0]])["data"], "ndarray": [[1.0]]}}
                assert (await s.client.post("/predict", json=both)).status_code == 400


async def test_through_a_graph_over_rest_and_grpc(tmp_path: Path) -> None:
    """A model of arrays, and a class; the answer is held as the question was."""
    child = node("m", "MODEL", implementation="SKLEARN_SERVER", modelUri="x")
    graph = node("t", "TRANSFORMER", "Plus", children=[child])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict(message(np.array([[1.0, 2.0]], dtype=np.float32)))
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert tftensor.decode(data["tftensor"]).tolist() == [[4.0, 6.0]]
        rest = await d.client.post(
            "/seldon/default/dep-main-m/api/v1.0/predictions",
            json=message(np.array([[1.0, 2.0]], dtype=np.float32)),
        )
        assert tftensor.decode(rest.json()["data"]["tftensor"]).tolist() == [[2.0, 4.0]]
        import grpc.aio

        async with grpc.aio.insecure_channel(f"127.0.0.1:{d.port}") as channel:
            call = channel.unary_unary(
                "/seldon.protos.Seldon/Predict",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=seldon.MessageProto.FromString,
            )
            for name, expected in (("dep", [[4.0, 6.0]]), ("dep-main-m", [[2.0, 4.0]])):
                asked = seldon.MessageProto()
                asked.data.tftensor = wire.to_bytes(np.array([[1.0, 2.0]]))
                told = await call(asked, metadata=(("seldon", name),), timeout=20)
                assert told.data.WhichOneof("data_oneof") == "tftensor", name
                assert wire.from_bytes(told.data.tftensor).tolist() == expected


def test_bytes_are_little_endian_whatever_the_arrays_are() -> None:
    found = tftensor.decode(tftensor.encode(np.array([[1.0, 2.0]], dtype=">f8")))
    assert found.tolist() == [[1.0, 2.0]]


def test_text_is_base64() -> None:
    found = tftensor.encode(np.array(["ä"]))
    assert found["stringVal"] == [base64.b64encode("ä".encode()).decode()]
