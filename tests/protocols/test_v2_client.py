"""Requests we make are requests we read, responses we make are responses we read."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_strategies import objects, same, tensors

from penstock.errors import InvalidInput, ModelError
from penstock.protocols import v2, v2_client
from penstock.protocols.infer import InferRequest, InferResponse, RequestedOutput

binary_tensors = st.dictionaries(
    st.sampled_from("abc"), tensors(finite=False, texts=False), min_size=1
)
json_tensors = st.dictionaries(st.sampled_from("abc"), tensors(), min_size=1)


def named(given_tensors):
    return {n: a for n, (_, a) in given_tensors.items()}, {
        n: d for n, (d, _) in given_tensors.items()
    }


@given(
    st.booleans().flatmap(lambda b: st.tuples(st.just(b), binary_tensors if b else json_tensors))
)
def test_a_request_arrives_as_it_was_sent(drawn):
    binary, given_tensors = drawn
    arrays, datatypes = named(given_tensors)
    request = InferRequest(
        arrays,
        datatypes,
        (RequestedOutput("y", True), RequestedOutput("z")),
        "id",
        parameters={"k": 1},
        input_parameters={next(iter(arrays)): {"p": "q"}},
        binary_output=binary,
    )
    length, buffers = v2_client.encode_request(request, binary=binary)
    got = v2.decode_infer(b"".join(buffers), length)
    assert list(got.inputs) == list(arrays)
    assert all(same(got.inputs[n], a) for n, a in arrays.items())
    assert got.datatypes == datatypes
    assert (got.id, got.binary_output, got.parameters["k"]) == ("id", binary, 1)
    assert [(o.name, o.binary) for o in got.outputs] == [("y", True), ("z", None)]
    assert got.input_parameters[next(iter(arrays))]["p"] == "q"


@given(
    st.booleans().flatmap(lambda b: st.tuples(st.just(b), binary_tensors if b else json_tensors))
)
def test_a_response_arrives_as_it_was_sent(drawn):
    binary, given_tensors = drawn
    arrays, datatypes = named(given_tensors)
    request = InferRequest({}, model_name="m", model_version="1", id="r", binary_output=binary)
    headers, buffers = v2.encode_infer(
        InferResponse(arrays, datatypes, parameters={"took": 1}), request
    )
    length = int(headers.rsplit(b": ", 1)[1]) if binary else None
    got = v2_client.decode_response(b"".join(buffers), length)
    assert all(same(got.outputs[n], a) for n, a in arrays.items())
    assert (got.datatypes, got.parameters) == (datatypes, {"took": 1})
    assert (got.model_name, got.model_version, got.id) == ("m", "1", "r")


@pytest.mark.parametrize("data", [[None, 1.5], [[None], [1.5]]])
def test_null_in_an_answer_is_nan(data):
    body = {"outputs": [{"name": "y", "shape": [2, 1], "datatype": "FP32", "data": data}]}
    got = v2_client.decode_response(json.dumps(body).encode()).outputs["y"]
    np.testing.assert_array_equal(got, np.array([[np.nan], [1.5]], np.float32))


OUTPUT = {"name": "y", "shape": [1], "datatype": "FP32", "data": [1]}
RAW = {"name": "y", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize(
    ("document", "rest", "length", "message"),
    [
        ([], b"", None, "no V2 response"),
        ({}, b"", None, "missing required field `outputs`"),
        ({"outputs": [OUTPUT | {"shape": [2]}]}, b"", None, "output 'y' has shape"),
        ({"outputs": [OUTPUT | {"datatype": "INT8", "data": [None]}]}, b"", None, "output 'y'"),
        ({"outputs": [OUTPUT | {"data": [None, 1]}]}, b"", None, "output 'y'"),
        ({"outputs": [OUTPUT | {"data": [[None], 1]}]}, b"", None, "output 'y'"),
        ({"outputs": [{k: v for k, v in OUTPUT.items() if k != "data"}]}, b"", None, "has no data"),
        ({"outputs": [RAW]}, b"\0" * 4, None, "no V2 response"),
        ({"outputs": [RAW]}, b"\0" * 3, 0, "output 'y' has shape"),
        ({"outputs": [RAW]}, b"\0" * 5, 0, "its tensors end at byte"),
        ({"outputs": [RAW | {"shape": [-1]}]}, b"\0" * 4, 0, "no V2 response"),
        ({"outputs": []}, b"", 10**6, "points outside"),
    ],
)
def test_a_broken_answer_is_the_servers_fault(document, rest, length, message):
    text = json.dumps(document).encode()
    with pytest.raises(ModelError, match=message):
        v2_client.decode_response(text + rest, len(text) if length == 0 else length)


def test_what_cannot_be_sent_is_the_callers_mistake():
    for array in (np.zeros(1, complex), objects([1j], (1,))):
        with pytest.raises(InvalidInput, match="input 'x'"):
            v2_client.encode_request(InferRequest({"x": array}))
