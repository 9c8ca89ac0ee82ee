"""V1 requests to arrays and answers to rows, by TensorFlow Serving's rules."""

import base64
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from protocol_strategies import DTYPES, objects, same

from penstock.errors import InvalidInput, ModelError
from penstock.protocols import v1
from penstock.runtimes.base import TensorSpec


def arrays(document, *specs):
    return v1.decode_arrays(json.dumps(document).encode(), specs)


def only(document, *specs):
    (array,) = arrays(document, *specs).inputs.values()
    return array


# ------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("rows", "dtype", "shape"),
    [
        ([[5.1, 3.5, 1.4, 0.2]], np.float64, (1, 4)),
        ([[1, 2], [3, 4.5]], np.float64, (2, 2)),
        ([[1, 2], [3, 4]], np.int64, (2, 2)),
        ([1, 2, 3], np.int64, (3,)),
        ([True, False], np.bool_, (2,)),
        (["a", "b"], object, (2,)),
        ([["a", 1.5, None]], object, (1, 3)),
        ([[[[0.5]]]], np.float64, (1, 1, 1, 1)),
        ([[], []], np.float64, (2, 0)),
        ([1, None], np.float64, (2,)),
        ([None], object, (1,)),
    ],
)
def test_rows_without_names_are_one_array(rows, dtype, shape):
    decoded = arrays({"instances": rows})
    assert list(decoded.inputs) == [None]
    assert decoded.rows
    array = decoded.inputs[None]
    assert array.dtype == dtype
    assert array.shape == shape
    expected = [[np.nan if v is None else v for v in np.ravel(r)] for r in rows]
    if dtype is not object:
        np.testing.assert_array_equal(
            array.reshape(len(rows), -1), np.array(expected, dtype).reshape(len(rows), -1)
        )
    else:
        assert array.tolist() == rows


@pytest.mark.parametrize("rows", [[1, 2.5, 3], [[1], [2.5], [3]]])
def test_rows_of_one_value_need_no_list_around_it(rows):
    """Where the model declares rows of one value; the rank is the caller's everywhere else."""
    column = TensorSpec("x", "FP32", (-1, 1))
    assert only({"instances": rows}, column).tolist() == [[1], [2.5], [3]]
    named = {"instances": [{"x": r} for r in rows]}
    assert only(named, column).tolist() == [[1], [2.5], [3]]
    assert only({"instances": [1, 2]}, TensorSpec("x", "FP32", (-1, 2))).shape == (2,)
    assert only({"instances": [1, 2]}, TensorSpec("x", "FP32", (-1,))).shape == (2,)
    assert only({"inputs": [1, 2]}, column).shape == (2,)


def test_a_single_value_is_the_input_of_a_model_that_takes_one():
    scalar = TensorSpec("x", "FP32", ())
    for document in ({"inputs": 3.5}, {"inputs": {"x": 3.5}}):
        array = only(document, scalar)
        assert (array.shape, array.dtype, float(array)) == ((), np.float32, 3.5)
    with pytest.raises(InvalidInput, match="'inputs' is a number; a list or an object is expected"):
        arrays({"inputs": 3.5}, TensorSpec("x", "FP32", (-1,)))


@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16"), ("utf-16-be", None)]
)
def test_a_byte_order_mark_is_named(encoding, name):
    body = '{"instances": [1]}'.encode(encoding)
    with pytest.raises(InvalidInput, match=f"byte order mark of {name}" if name else "is no JSON"):
        v1.decode_arrays(body)


def test_rows_that_are_objects_are_an_array_per_key():
    decoded = arrays({"instances": [{"a": 1, "b": [1, 2]}, {"b": [3, 4], "a": 2.5}]})
    assert list(decoded.inputs) == ["a", "b"]
    assert decoded.inputs["a"].tolist() == [1.0, 2.5]
    assert decoded.inputs["b"].tolist() == [[1, 2], [3, 4]]


def test_columns():
    decoded = arrays({"inputs": {"a": [1, 2], "b": 3}})
    assert not decoded.rows
    assert decoded.inputs["a"].tolist() == [1, 2]
    assert decoded.inputs["b"].shape == ()
    assert arrays({"inputs": [[1, 2]]}).inputs[None].tolist() == [[1, 2]]


def test_base64_is_binary_data():
    encoded = {"b64": base64.b64encode(b"\xff\x00").decode()}
    assert only({"instances": [encoded, encoded]}).tolist() == [b"\xff\x00"] * 2
    assert only({"instances": [{"image": encoded}]}).tolist() == [b"\xff\x00"]
    assert only({"inputs": {"image": encoded}}).tolist() == b"\xff\x00"


def test_other_keys_are_parameters():
    decoded = arrays({"signature_name": "serving_default", "instances": [1], "k": {"a": 1}})
    assert decoded.parameters == {"signature_name": "serving_default", "k": {"a": 1}}


@pytest.mark.parametrize("datatype", DTYPES)
def test_a_declared_datatype_decides(datatype):
    value = True if datatype == "BOOL" else 1
    array = only({"instances": [[value]]}, TensorSpec("x", datatype, (-1, 1)))
    assert array.dtype == DTYPES[datatype]
    array = arrays({"instances": [{"a": value, "x": value}]}, TensorSpec("x", datatype, (-1,)))
    assert array.inputs["x"].dtype == DTYPES[datatype]


def test_null_among_declared_floats_is_nan():
    array = only({"instances": [[1, None]]}, TensorSpec("x", "FP32", (-1, 2)))
    np.testing.assert_array_equal(array, np.array([[1, np.nan]], np.float32))


def test_text_stays_text():
    assert only({"instances": ["é"]}, TensorSpec("x", "BYTES", (-1,))).tolist() == ["é"]


BAD = [
    ([1], (), "the body is a list"),
    ("x", (), "the body is a string"),
    (None, (), "the body is null"),
    ({}, (), "neither 'instances' nor 'inputs'"),
    ({"predictions": [1]}, (), "has predictionsAsInstances: true"),
    ({"instance": [1]}, (), "neither 'instances' nor 'inputs'"),
    ({"instances": [1], "inputs": [1]}, (), "both 'instances' and 'inputs'"),
    ({"instances": 5}, (), "'instances' is a number; a list of rows"),
    ({"instances": {"a": [1]}}, (), "'instances' is an object; a list of rows"),
    ({"instances": None}, (), "'instances' is null"),
    ({"instances": []}, (), "'instances' is empty"),
    ({"inputs": {}}, (), "'inputs' is empty"),
    ({"inputs": "x"}, (), "'inputs' is a string; a list or an object"),
    ({"instances": [[1, 2], [3]]}, (), "'instances' is ragged: rows have different lengths"),
    ({"instances": [[1, 2], 3]}, (), "'instances' is ragged: lists and single values"),
    ({"instances": [[[1], [2, 3]]]}, (), "ragged"),
    (
        {"instances": [{"a": 1}, {"b": 1}]},
        (),
        "row 1 of 'instances' has other keys than row 0: 'a' is",
    ),
    ({"instances": [{"a": 1}, {"a": 1, "b": 2}]}, (), "row 1 .*'b' is not in row 0"),
    ({"instances": [{"a": 1}, 5]}, (), "row 1 of 'instances' is a number, row 0 is an object"),
    ({"instances": [5, {"a": 1}]}, (), "'instances' has an object where a value is expected"),
    ({"instances": [{}]}, (), "row 0 of 'instances' is an empty object"),
    ({"instances": [{"a": {"c": 1}}]}, (), "input 'a' has an object where a value"),
    ({"instances": [{"a": [1, 2]}, {"a": [1]}]}, (), "input 'a' is ragged"),
    ({"instances": [{"b64": "!!"}]}, (), "no base64"),
    ({"instances": [2**70]}, (), "too large for 64 bits"),
    ({"instances": [1.5]}, ("INT64",), "element 0 has a fraction, the model takes INT64"),
    ({"instances": [300]}, ("UINT8",), "a value that UINT8 cannot hold"),
    ({"instances": [1e39]}, ("FP32",), "a value that FP32 cannot hold"),
    ({"instances": ["a"]}, ("FP32",), "'instances' has a string, the model takes FP32"),
    ({"instances": [True]}, ("FP32",), "'instances' has a boolean, the model takes FP32"),
    ({"instances": [1]}, ("BOOL",), "'instances' has a number, the model takes BOOL"),
    ({"instances": [None]}, ("INT64",), "'instances' has null, the model takes INT64"),
    ({"instances": [1, "a"]}, ("BYTES",), "'instances' has a number, the model takes text"),
]


@pytest.mark.parametrize(("document", "datatypes", "message"), BAD)
def test_a_bad_request_is_refused_with_what_is_wrong(document, datatypes, message):
    with pytest.raises(InvalidInput, match=message):
        arrays(document, *(TensorSpec("x", d, (-1,)) for d in datatypes))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is empty; JSON is expected"),
        (b'{"instances": [1', "no JSON"),
        (b'{"instances": [NaN]}', "JSON has no NaN and no Infinity"),
        (b'{"instances": [-Infinity]}', "JSON has no NaN and no Infinity"),
        (b'{"instances": [1e999]}', "no JSON|out of range"),
        (b'{"instances": ["\xff"]}', "no UTF-8"),
        (b'{"instances": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"instances": ' + b"[" * 200 + b"]" * 200 + b"}", "dimensions"),
        (b'{"instances": [' + b"9" * 5000 + b"]}", "."),
    ],
)
def test_a_body_that_is_no_json_is_refused(raw, message):
    with pytest.raises(InvalidInput, match=message):
        v1.decode_arrays(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["instances", "inputs", "b64", "a"]), inner, max_size=3
            )
        ),
        max_leaves=15,
    ),
    st.sampled_from([None, "FP32", "FP16", "INT8", "BOOL", "BYTES"]),
)
def test_no_json_gives_anything_but_arrays_or_invalid_input(document, datatype):
    specs = (TensorSpec("x", datatype, (-1,)),) if datatype else ()
    for value in (document, {"instances": document}, {"inputs": document}):
        try:
            decoded = arrays(value, *specs)
        except InvalidInput:
            continue
        assert all(isinstance(a, np.ndarray) for a in decoded.inputs.values())


@given(
    hnp.arrays(
        st.sampled_from([np.float64, np.int64, np.bool_]),
        hnp.array_shapes(max_dims=3, max_side=4),
        elements=None,
    ).filter(lambda a: a.dtype.kind != "f" or np.isfinite(a).all())
)
def test_rows_come_back_as_predictions(array):
    """An identity model over V1 changes nothing."""
    got = only({"instances": array.tolist()})
    assert same(got, array)
    assert json.loads(v1.encode_predictions({"y": got})) == {"predictions": array.tolist()}


def test_the_nameless_input_gets_the_models_name():
    decoded = arrays({"instances": [1]})
    assert list(decoded.named((TensorSpec("x", "FP32", (-1,)),))) == ["x"]
    assert list(decoded.named(())) == ["input-0"]
    assert list(arrays({"instances": [{"a": 1}]}).named(())) == ["a"]
    with pytest.raises(InvalidInput, match="the model has 2 inputs: 'x', 'y'"):
        decoded.named((TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,))))


@pytest.mark.parametrize(
    ("content_type", "json_"),
    [
        (None, True),
        ("", True),
        (b"application/json", True),
        ("application/json; charset=utf-8", True),
        ("Application/JSON", True),
        ("application/cloudevents+json", True),
        ("application/ld+json", True),
        ("application/octet-stream", True),
        ("application/x-www-form-urlencoded", True),
        ("text/plain", False),
        ("image/jpeg", False),
        ("application/jsonx", False),
    ],
)
def test_which_content_types_are_json(content_type, json_):
    assert v1.is_json(content_type) is json_


# ------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("outputs", "predictions"),
    [
        ({"y": np.array([1, 2])}, [1, 2]),
        ({"y": np.array([[0.5, np.nan]])}, [[0.5, None]]),
        ({"y": np.array([np.inf])}, [None]),
        ({"y": np.array(3)}, 3),
        ({"y": np.array(["a"])}, ["a"]),
        ({"y": np.array([True])}, [True]),
        ({"y": objects([b"a", "b"], (2,))}, ["a", "b"]),
        ({"y": objects([b"\xff"], (1,))}, [{"b64": "/w=="}]),
        ({"y": objects([{"label": "a"}], (1,))}, [{"label": "a"}]),
        (
            {"a": np.array([1, 2]), "b": np.array([[1], [2]])},
            [{"a": 1, "b": [1]}, {"a": 2, "b": [2]}],
        ),
        ({"a": np.array([1, 2]), "b": np.array([1])}, {"a": [1, 2], "b": [1]}),
        ({"a": np.array(1), "b": np.array(2)}, {"a": 1, "b": 2}),
    ],
)
def test_outputs_are_sent_as_rows(outputs, predictions):
    assert json.loads(v1.encode_predictions(outputs)) == {"predictions": predictions}


@pytest.mark.parametrize(
    ("result", "document"),
    [
        (
            {"predictions": [1], "meta": {"a": np.float32(0.5)}},
            {"predictions": [1], "meta": {"a": 0.5}},
        ),
        ([1, np.int64(2)], {"predictions": [1, 2]}),
        (np.array([[1.5]]), {"predictions": [[1.5]]}),
        (pd.DataFrame({"a": [1, 2]}), {"predictions": [{"a": 1}, {"a": 2}]}),
        (5, {"predictions": 5}),
        ({"predictions": (1, 2)}, {"predictions": [1, 2]}),
        ({"when": pd.Timestamp("2024-01-02")}, {"when": "2024-01-02T00:00:00"}),
        ({"price": Decimal("1.10")}, {"price": "1.10"}),
    ],
)
def test_what_a_model_returns_is_sent_as_json(result, document):
    assert json.loads(v1.encode_result(result)) == document


def test_an_answer_without_json_is_the_models_fault():
    circle = []
    circle.append(circle)
    for result in ({"a": object()}, {"a": 1j}, circle, {"a": np.array([1j])}, {(1, 2): 3}):
        with pytest.raises(ModelError, match="cannot be sent as JSON"):
            v1.encode_result(result)


def test_pieces_of_a_stream():
    assert v1.encode_chunk(b"ab") == b"ab"
    assert v1.encode_chunk("é") == "é".encode()
    assert v1.encode_chunk({"token": "a"}) == b'{"token":"a"}\n'
    assert v1.encode_chunk(np.array([1])) == b"[1]\n"
    with pytest.raises(ModelError, match="a piece of"):
        v1.encode_chunk(object())
