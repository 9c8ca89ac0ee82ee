"""V2 requests and responses: good ones by value, bad ones by message."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_strategies import objects, same, tensors

from penstock.errors import InvalidInput, ModelError, NotFound, Unsupported
from penstock.protocols import v2
from penstock.protocols.infer import InferRequest, InferResponse, RequestedOutput
from penstock.runtimes.base import TensorSpec

IRIS = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}


def body(*inputs, **more):
    return json.dumps({"inputs": list(inputs), **more}).encode()


def with_binary(text, *blobs):
    head = json.dumps(text).encode()
    return head + b"".join(blobs), len(head)


def binary_input(size, **changes):
    return {
        "name": "x",
        "shape": [1, 4],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
        **changes,
    }


# ------------------------------------------------------------------------------------------- requests


def test_a_request_has_everything_that_was_said():
    request = v2.decode_infer(
        body(
            {**IRIS, "parameters": {"content_type": "np"}},
            {"name": "flag", "shape": [1], "datatype": "BOOL", "data": [True]},
            id="abc",
            parameters={"threshold": 0.5},
            outputs=[{"name": "b"}, {"name": "a", "parameters": {"binary_data": True}}],
            something_new={"is": "ignored"},
        ),
        None,
        "iris",
        "3",
    )
    assert list(request.inputs) == ["x", "flag"]
    assert request.inputs["x"].dtype == np.float32
    assert request.datatypes == {"x": "FP32", "flag": "BOOL"}
    assert (request.id, request.model_name, request.model_version) == ("abc", "iris", "3")
    assert request.parameters == {"threshold": 0.5}
    assert request.input_parameters == {"x": {"content_type": "np"}}
    assert request.outputs == (
        RequestedOutput("b"),
        RequestedOutput("a", True, {"binary_data": True}),
    )
    assert not request.binary_output


@pytest.mark.parametrize("null", ["id", "parameters", "outputs"])
def test_optional_fields_may_be_null(null):
    assert v2.decode_infer(body(IRIS, **{null: None})).outputs is None


def test_an_empty_list_of_outputs_asks_for_all():
    assert v2.decode_infer(body(IRIS, outputs=[])).outputs is None


def test_binary_and_json_inputs_keep_the_order_of_the_wire():
    blob = np.arange(4, dtype=np.float32).tobytes()
    raw, length = with_binary(
        {
            "inputs": [
                binary_input(16, name="b"),
                {**IRIS, "name": "a"},
                binary_input(8, name="c", shape=[1], datatype="BYTES"),
            ]
        },
        blob,
        b"\4\0\0\0\xff\xfe\0\1",
    )
    request = v2.decode_infer(raw, length)
    assert list(request.inputs) == ["b", "a", "c"]
    assert request.inputs["b"].tolist() == [[0, 1, 2, 3]]
    assert request.inputs["c"].tolist() == [b"\xff\xfe\0\1"]


@pytest.mark.parametrize("pad", range(8))
def test_a_binary_input_is_an_aligned_view_of_a_writable_body(pad):
    blob = np.arange(4, dtype=np.float64).tobytes()
    raw, length = with_binary(
        {"id": "i" * pad, "inputs": [binary_input(32, datatype="FP64")]}, blob
    )
    buffer = bytearray(raw)
    array = v2.decode_infer(buffer, length).inputs["x"]
    assert array.flags.aligned
    assert array.tolist() == [[0, 1, 2, 3]]
    assert np.shares_memory(array, np.frombuffer(buffer, np.uint8))


def test_binary_inputs_of_mixed_alignment_come_out_right():
    a, b, c = np.arange(3, dtype=np.int8), np.arange(2, dtype=np.float64), np.arange(3, dtype="<u2")
    raw, length = with_binary(
        {
            "inputs": [
                binary_input(3, name="a", datatype="INT8", shape=[3]),
                binary_input(16, name="b", datatype="FP64", shape=[2]),
                binary_input(6, name="c", datatype="UINT16", shape=[3]),
                {**IRIS, "name": "d"},
            ]
        },
        a.tobytes(),
        b.tobytes(),
        c.tobytes(),
    )
    got = v2.decode_infer(bytearray(raw), length).inputs
    assert [got[n].tolist() for n in "abcd"] == [
        a.tolist(),
        b.tolist(),
        c.tolist(),
        [np.array(IRIS["data"], np.float32).tolist()],
    ]


BAD = [
    (b"", "the body is empty"),
    (b"{", "no JSON"),
    (b"[1]", "does not fit the protocol: Expected `object`, got `array`"),
    (b"null", "does not fit the protocol"),
    (b"\xff\xfe", "no JSON|no UTF-8"),
    (b'{"inputs": []}', "the request has no inputs"),
    (b"{}", r"missing required field `inputs`"),
    (b'{"inputs": {}}', r"Expected `array`, got `object` - at `\$.inputs`"),
    (b'{"inputs": [{"name": "x"}]}', r"missing required field `shape` - at `\$.inputs\[0\]`"),
    (body({**IRIS, "name": 3}), r"Expected `str`, got `int` - at `\$.inputs\[0\].name`"),
    (body({**IRIS, "shape": [1.5]}), r"Expected `int`, got `float` - at `\$.inputs\[0\].shape"),
    (body({**IRIS, "shape": [-1, 4]}), r"Expected `int` >= 0 - at `\$.inputs\[0\].shape"),
    (body({**IRIS, "shape": [1, 3]}), r"shape \[1, 3\], that is 3 elements, but its data has 4"),
    (body({**IRIS, "datatype": "fp32"}), "unknown datatype. Did you mean FP32"),
    (body(IRIS, IRIS), "input 'x' is given twice"),
    (body({k: v for k, v in IRIS.items() if k != "data"}), "input 'x' has no data"),
    (body({**IRIS, "data": None}), "data is no array"),
    (body({**IRIS, "data": [1, 2, None, 4]}), "has a null"),
    (body({**IRIS, "data": [1, 2, float("nan"), 4]}), "JSON has no NaN"),
    (body({**IRIS, "data": [1, 2, float("inf"), 4]}), "JSON has no NaN and no Infinity"),
    (body(IRIS, id=7), r"Expected `str \| null`, got `int` - at `\$.id`"),
    (body(IRIS, outputs=[{"name": "a"}, {"name": "a"}]), "output 'a' is requested twice"),
    (body(IRIS, outputs=[{}]), r"missing required field `name` - at `\$.outputs\[0\]`"),
    (
        body(IRIS, outputs=[{"name": "a", "parameters": {"binary_data": 1}}]),
        "output 'a': the parameter binary_data is true or false",
    ),
    (body(IRIS, parameters={"binary_data_output": "yes"}), "binary_data_output is true or false"),
    (body(IRIS, parameters=[]), r"got `array` - at `\$.parameters`"),
    (
        b'{"inputs": ' + b"[" * 100_000,
        "nested too deeply|does not fit|no JSON",
    ),
    (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "inputs": []}', "nested too deeply"),
    (body(binary_input(16)), "no Inference-Header-Content-Length"),
]


@pytest.mark.parametrize(("raw", "message"), BAD)
def test_a_bad_request_is_refused_with_what_is_wrong(raw, message):
    with pytest.raises(InvalidInput, match=message):
        v2.decode_infer(raw)


BLOB = np.arange(4, dtype=np.float32).tobytes()
BAD_PARTS = [
    ([binary_input(15)], BLOB, "add up to 15 bytes, but 16 bytes follow the JSON"),
    ([binary_input(17)], BLOB, "add up to 17 bytes, but 16 bytes follow"),
    ([binary_input(16)], BLOB[:-1], "add up to 16 bytes, but 15 bytes follow"),
    ([binary_input(16)], BLOB + b"!", "add up to 16 bytes, but 17 bytes follow"),
    ([IRIS], b"left over", "add up to 0 bytes, but 9 bytes follow"),
    ([binary_input(16, shape=[1, 5])], BLOB, "that is 20 bytes, but its binary data has 16"),
    ([binary_input(-1)], BLOB, "binary_data_size is a number of bytes, 0 or more"),
    ([binary_input("16")], BLOB, "binary_data_size is a number of bytes"),
    ([binary_input(True)], BLOB, "binary_data_size is a number of bytes"),
    ([binary_input(16.0)], BLOB, "binary_data_size is a number of bytes"),
    ([binary_input(None)], BLOB, "binary_data_size is a number of bytes"),
    ([binary_input(16, data=[1, 2, 3, 4])], BLOB, "both data and a binary_data_size"),
    ([binary_input(10**30)], BLOB, "but 16 bytes follow"),
    ([binary_input(16, datatype="FP8")], BLOB, "unknown datatype"),
    (
        [binary_input(16, datatype="BYTES")],
        BLOB,
        "BYTES element 1 has length 1065353216, but 8 bytes are left",
    ),
]


@pytest.mark.parametrize(("inputs", "blob", "message"), BAD_PARTS)
def test_binary_parts_that_do_not_add_up_are_refused(inputs, blob, message):
    raw, length = with_binary({"inputs": inputs}, blob)
    with pytest.raises(InvalidInput, match=message):
        v2.decode_infer(raw, length)


def test_a_wrong_header_length_is_refused():
    raw, length = with_binary({"inputs": [binary_input(16)]}, BLOB)
    for wrong in (length - 1, length + 1, length + 16, 1):
        with pytest.raises(InvalidInput):
            v2.decode_infer(raw, wrong)
    for beyond in (-1, len(raw) + 1):
        with pytest.raises(InvalidInput, match=f"Length is {beyond}, but the body has {len(raw)}"):
            v2.decode_infer(raw, beyond)


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"1.5", b"0x10", b"1e3", b"+5", b"5 5", b"\xb2", b"9" * 30]
)
def test_a_header_length_that_is_no_number_is_refused(text):
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        v2.parse_header_length(text, 100)


def test_header_lengths():
    assert v2.parse_header_length(None, 5) is None
    assert v2.parse_header_length(b" 5 ", 5) == 5
    assert v2.parse_header_length("0", 5) == 0
    with pytest.raises(InvalidInput, match="is 6, but the body has 5 bytes"):
        v2.parse_header_length(b"6", 5)


@pytest.mark.parametrize(
    "raw",
    [
        body({**IRIS, "parameters": {"shared_memory_region": "r"}}),
        body(IRIS, outputs=[{"name": "a", "parameters": {"shared_memory_region": "r"}}]),
    ],
)
def test_extensions_that_are_not_served_are_said_to_be(raw):
    with pytest.raises(Unsupported, match="not served"):
        v2.decode_infer(raw)


def test_a_raw_binary_request_is_the_only_input():
    spec = TensorSpec("x", "FP32", (-1, 4))
    request = v2.decode_infer(BLOB * 2, 0, "m", "", (spec,))
    assert request.inputs["x"].shape == (2, 4)
    assert request.binary_output
    text = v2.decode_infer(b"hello", 0, specs=(TensorSpec("t", "BYTES", (-1, 1)),))
    assert text.inputs["t"].tolist() == [[b"hello"]]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ((), "declares one input; it declares 0"),
        ((TensorSpec("a", "FP32", (1,)), TensorSpec("b", "FP32", (1,))), "it declares 2"),
        ((TensorSpec("a", "FP32", (-1, -1)),), "one size open at most"),
        (
            (TensorSpec("a", "FP32", (-1, 3)),),
            "a multiple of 12 bytes is expected, the body has 16",
        ),
        ((TensorSpec("a", "FP32", (3,)),), "that is 12 bytes, but its binary data has 16"),
        ((TensorSpec("a", "FP32", (-1, 0)),), "a multiple of 0 bytes"),
        ((TensorSpec("a", "BYTES", (2,)),), "one BYTES element"),
    ],
)
def test_a_raw_binary_request_that_does_not_fit_is_refused(specs, message):
    with pytest.raises(InvalidInput, match=message):
        v2.decode_infer(BLOB, 0, specs=specs)


@settings(max_examples=400)
@given(st.data())
def test_no_body_and_no_header_length_give_anything_but_invalid_input(data):
    """Fuzzes the binary path: a good request, its bytes and its header length changed at will."""
    datatype, array = data.draw(tensors(finite=False, texts=False))
    raw = bytes(v2.to_binary("x", datatype, array))
    text, length = with_binary(
        {"inputs": [binary_input(len(raw), shape=list(array.shape), datatype=datatype)]}, raw
    )
    changed = bytearray(text)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(changed)))
        cut = data.draw(st.integers(0, 4))
        changed[at : at + cut] = data.draw(st.binary(max_size=4))
    wrong = data.draw(st.one_of(st.just(length), st.integers(-2, len(changed) + 2)))
    try:
        v2.decode_infer(changed, wrong, specs=(TensorSpec("x", datatype, (-1,)),))
    except (InvalidInput, Unsupported):
        pass


@settings(max_examples=300)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=4)
        | st.sampled_from(["FP32", "BYTES", "x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "inputs",
                        "outputs",
                        "name",
                        "shape",
                        "datatype",
                        "data",
                        "parameters",
                        "id",
                        "binary_data_size",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_no_json_gives_anything_but_a_request_or_invalid_input(document):
    try:
        v2.decode_infer(json.dumps(document).encode())
    except (InvalidInput, Unsupported):
        pass


# ------------------------------------------------------------------------------------------ responses


def decoded(headers, buffers):
    """(document, arrays) of a response, read by nothing of ours."""
    raw = b"".join(bytes(b) for b in buffers)
    lines = dict(line.split(b": ", 1) for line in headers.split(b"\r\n") if line)
    if b"inference-header-content-length" not in lines:
        assert lines == {b"content-type": b"application/json"}
        return json.loads(raw), b""
    length = int(lines[b"inference-header-content-length"])
    assert lines[b"content-type"] == b"application/octet-stream"
    return json.loads(raw[:length]), raw[length:]


REQUEST = InferRequest(
    {"x": np.zeros(1)}, {"x": "FP64"}, id="r-1", model_name="m", model_version="2"
)
OUTPUTS = {"label": np.array([0, 1]), "proba": np.array([[0.25, 0.75], [1, 0]], np.float32)}


def test_an_answer_in_json():
    document, rest = decoded(*v2.encode_infer(InferResponse(OUTPUTS), REQUEST))
    assert document == {
        "model_name": "m",
        "model_version": "2",
        "id": "r-1",
        "outputs": [
            {"name": "label", "shape": [2], "datatype": "INT64", "data": [0, 1]},
            {"name": "proba", "shape": [2, 2], "datatype": "FP32", "data": [0.25, 0.75, 1, 0]},
        ],
    }
    assert rest == b""


def test_without_version_and_id_there_is_none_in_the_answer():
    document, _ = decoded(
        *v2.encode_infer(InferResponse(OUTPUTS), InferRequest({}, model_name='quo"ted'))
    )
    assert set(document) == {"model_name", "outputs"}
    assert document["model_name"] == 'quo"ted'


def test_what_the_model_says_of_itself_goes_first():
    document, _ = decoded(
        *v2.encode_infer(InferResponse(OUTPUTS, {}, "other", "9", "own", {"took": 3}), REQUEST)
    )
    assert (document["model_name"], document["model_version"], document["id"]) == (
        "other",
        "9",
        "own",
    )
    assert document["parameters"] == {"took": 3}


def ask(*outputs, binary=False):
    return InferRequest({}, outputs=tuple(outputs), model_name="m", binary_output=binary)


def test_only_what_was_asked_for_and_in_that_order():
    document, _ = decoded(
        *v2.encode_infer(
            InferResponse(OUTPUTS), ask(RequestedOutput("proba"), RequestedOutput("label"))
        )
    )
    assert [o["name"] for o in document["outputs"]] == ["proba", "label"]
    document, _ = decoded(*v2.encode_infer(InferResponse(OUTPUTS), ask(RequestedOutput("label"))))
    assert [o["name"] for o in document["outputs"]] == ["label"]


def test_an_output_that_does_not_exist_is_the_callers_mistake():
    with pytest.raises(
        InvalidInput, match=r"unexpected inference output 'nope' for model 'm'.*'label'"
    ):
        v2.encode_infer(InferResponse(OUTPUTS), ask(RequestedOutput("nope")))


def test_binary_outputs_follow_the_json_in_order():
    request = InferRequest({}, model_name="m", binary_output=True)
    document, rest = decoded(*v2.encode_infer(InferResponse(OUTPUTS), request))
    assert [o["parameters"] for o in document["outputs"]] == [
        {"binary_data_size": 16},
        {"binary_data_size": 16},
    ]
    assert rest == OUTPUTS["label"].tobytes() + OUTPUTS["proba"].tobytes()


@pytest.mark.parametrize(
    ("default", "own", "binary"),
    [
        (False, None, False),
        (False, True, True),
        (False, False, False),
        (True, None, True),
        (True, False, False),
        (True, True, True),
    ],
)
def test_an_outputs_own_flag_goes_before_the_requests(default, own, binary):
    document, rest = decoded(
        *v2.encode_infer(InferResponse(OUTPUTS), ask(RequestedOutput("label", own), binary=default))
    )
    assert ("data" in document["outputs"][0]) is not binary
    assert bool(rest) is binary


def test_rows_of_a_batch_leave_without_a_copy():
    batch = np.arange(300_000, dtype=np.float32).reshape(3, -1)
    request = InferRequest({}, model_name="m", binary_output=True)
    _, buffers = v2.encode_infer(InferResponse({"y": batch[1:2]}), request)
    assert np.shares_memory(np.frombuffer(buffers[1], np.uint8), batch)


def test_a_declared_datatype_decides():
    response = InferResponse({"y": np.array([1.0], np.float32)}, {"y": "BF16"})
    document, rest = decoded(
        *v2.encode_infer(response, InferRequest({}, model_name="m", binary_output=True))
    )
    assert document["outputs"][0]["datatype"] == "BF16"
    assert rest == b"\x80\x3f"


def test_an_answer_that_cannot_be_sent_is_the_models_fault():
    with pytest.raises(ModelError, match="output 'y'"):
        v2.encode_infer(InferResponse({"y": np.zeros(1, complex)}), REQUEST)


@given(st.lists(tensors(finite=False, texts=False), max_size=4))
def test_a_binary_answer_has_every_tensor(outputs):
    arrays = {f"t{i}": a for i, (_, a) in enumerate(outputs)}
    datatypes = {f"t{i}": d for i, (d, _) in enumerate(outputs)}
    request = InferRequest({}, model_name="m", binary_output=True)
    document, rest = decoded(*v2.encode_infer(InferResponse(arrays, datatypes), request))
    at = 0
    for entry in document["outputs"]:
        size = entry["parameters"]["binary_data_size"]
        got = v2.from_binary(
            entry["name"], entry["datatype"], entry["shape"], memoryview(rest)[at : at + size]
        )
        assert same(got, arrays[entry["name"]])
        at += size
    assert at == len(rest)


def test_more_shapes_than_are_remembered_are_still_right(monkeypatch):
    monkeypatch.setattr(v2, "_MAX_CACHED", 3)
    for i in range(20):
        document, _ = decoded(
            *v2.encode_infer(
                InferResponse({f"o{i % 5}": np.zeros(i)}), InferRequest({}, model_name=f"m{i}")
            )
        )
        assert document["model_name"] == f"m{i}"
        assert document["outputs"][0]["shape"] == [i]
        assert len(v2._tensor_heads) <= 3


# -------------------------------------------------------------------------------- what a model sees


def test_inputs_by_name():
    request = v2.decode_infer(body({**IRIS, "parameters": {"a": 1}}))
    assert request.as_numpy() is request.inputs["x"]
    assert request.as_numpy("x").shape == (1, 4)
    with pytest.raises(InvalidInput, match="input 'y' is missing; the request has 'x'"):
        request.as_numpy("y")
    (tensor,) = request.tensors
    assert (tensor.name, tensor.datatype, tensor.shape, tensor.parameters) == (
        "x",
        "FP32",
        [1, 4],
        {"a": 1},
    )
    assert request.get_input_by_name("y") is None


def test_a_data_frame_has_a_column_per_input():
    request = InferRequest(
        {"age": np.array([[30], [40]]), "city": objects([b"K\xc3\xb6ln", b"Bonn"], (2,))}
    )
    frame = request.as_dataframe()
    assert frame["age"].tolist() == [30, 40]
    assert frame["city"].tolist() == ["Köln", "Bonn"]
    assert InferRequest({"x": np.zeros((2, 3))}).as_dataframe().shape == (2, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, "different numbers of rows: 'a' 2, 'b' 3"),
        ({"a": np.zeros((2, 2)), "b": np.zeros(2)}, r"shape \[2, 2\]; a column"),
        ({"a": np.array(1.0)}, "a column is"),
        ({"a": objects([b"\xff"], (1,))}, "no UTF-8"),
    ],
)
def test_inputs_that_are_no_table_are_refused(inputs, message):
    with pytest.raises(InvalidInput, match=message):
        InferRequest(inputs).as_dataframe()


def test_error_bodies_have_message_and_hint_only():
    error = NotFound("Model 'a\"b' does not exist.", hint="Its neighbours do.")
    error.__cause__ = ValueError("secret")
    assert json.loads(v2.error_body(error)) == {
        "error": "Model 'a\"b' does not exist. Its neighbours do."
    }


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "-NaN", "nan", "-inf"])
def test_which_literal_is_no_json_is_found_where_it_stands(literal):
    text = body({**IRIS, "data": "HERE"}).decode()
    with pytest.raises(InvalidInput, match="JSON has no NaN and no Infinity"):
        v2.decode_infer(text.replace('"HERE"', f"[1, {literal}, 2, 3]").encode())
    with pytest.raises(InvalidInput, match="no JSON: JSON is malformed"):
        v2.decode_infer((text.replace('"HERE"', '["NaN"], x')).encode())


def test_a_shape_without_end_is_refused_at_once():
    """A product of these would take minutes."""
    sizes = ",".join(["9223372036854775807"] * 1_000_000)
    for data in ('"data":[]', '"parameters":{"binary_data_size":0}'):
        text = '{"inputs":[{"name":"x","shape":[%s],"datatype":"FP32",%s}]}' % (sizes, data)  # noqa: UP031
        with pytest.raises(InvalidInput, match="1000000 dimensions; 64 is the most"):
            v2.decode_infer(text.encode(), len(text))
