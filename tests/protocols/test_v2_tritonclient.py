"""Differential: requests made by Triton's own client, and our answers read by it."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_strategies import DATATYPES, same, tensors
from tritonclient import http
from tritonclient.utils import InferenceServerException

from penstock.protocols import v2
from penstock.protocols.infer import InferResponse


def for_client(datatype, array):
    """The array as the client wants it: BF16 in its own dtype."""
    return array.astype(ml_dtypes.bfloat16) if datatype == "BF16" else array


def from_client(datatype, array):
    return array.astype(np.float32) if datatype == "BF16" else array


def made_by_client(tensors, binary, outputs=None, **more):
    inputs = []
    for name, (datatype, array) in tensors.items():
        tensor = http.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(for_client(datatype, array), binary_data=binary)
        inputs.append(tensor)
    body, length = http.InferenceServerClient.generate_request_body(inputs, outputs, **more)
    header = None if length is None else v2.parse_header_length(str(length).encode(), len(body))
    return v2.decode_infer(bytearray(body), header, "m")


named = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), tensors(texts=True), min_size=1, max_size=3
)
#: Its client has no JSON for these.
IN_JSON = tuple(d for d in DATATYPES if d not in ("FP16", "BF16"))
named_for_json = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), tensors(IN_JSON, texts=True), min_size=1, max_size=3
)


@settings(deadline=None)
@given(named, st.booleans())
def test_we_read_its_binary_requests(inputs, ask_for_binary):
    outputs = [http.InferRequestedOutput("y", binary_data=ask_for_binary)]
    request = made_by_client(inputs, True, outputs, request_id="7", parameters={"k": "v"})
    assert request.id == "7"
    assert request.parameters["k"] == "v"
    assert request.outputs[0].name == "y"
    assert bool(request.outputs[0].binary) is ask_for_binary
    assert list(request.inputs) == list(inputs)
    for name, (datatype, array) in inputs.items():
        assert request.datatypes[name] == datatype
        assert same(request.inputs[name], array)


@settings(deadline=None)
@given(named_for_json)
def test_we_read_its_json_requests(inputs):
    request = made_by_client(inputs, False)
    assert request.binary_output, "it asks for binary when it names no output"
    for name, (datatype, array) in inputs.items():
        assert request.datatypes[name] == datatype
        assert same(request.inputs[name], array)


@settings(deadline=None)
@given(st.data(), st.booleans())
def test_it_reads_our_answers(data, binary):
    outputs = data.draw(named if binary else named_for_json)
    asked = [http.InferRequestedOutput(n, binary_data=binary) for n in outputs]
    request = made_by_client({"x": ("FP32", np.zeros(1, np.float32))}, True, asked)
    response = InferResponse(
        {n: a for n, (_, a) in outputs.items()}, {n: d for n, (d, _) in outputs.items()}
    )
    headers, buffers = v2.encode_infer(response, request)
    lines = dict(line.split(b": ", 1) for line in headers.split(b"\r\n") if line)
    length = lines.get(b"inference-header-content-length")
    result = http.InferenceServerClient.parse_response_body(
        b"".join(bytes(b) for b in buffers), header_length=None if length is None else int(length)
    )
    assert result.get_response()["model_name"] == "m"
    for name, (datatype, array) in outputs.items():
        got = from_client(datatype, result.as_numpy(name))
        if datatype == "BYTES" and not binary:
            got = np.array([v.encode() if isinstance(v, str) else v for v in got.ravel()], object)
            got = got.reshape(array.shape)
        assert same(got, array)


def test_it_refuses_what_we_refuse():
    tensor = http.InferInput("x", [1], "FP32")
    with pytest.raises(InferenceServerException):
        tensor.set_data_from_numpy(np.zeros(1, np.float64))
