"""Every datatype, to JSON and to bytes and back, and every way that data can be wrong."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from protocol_strategies import DATATYPES, DTYPES, objects, same, tensors

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.binary_tensors import from_binary, realign, to_binary
from penstock.protocols.datatypes import bf16_to_float32, datatype_of, float32_to_bf16
from penstock.protocols.json_tensors import from_json, to_json


@given(tensors())
def test_json_gives_back_what_was_put_in(tensor):
    datatype, array = tensor
    text = to_json("x", datatype, array)
    json.loads(text)  # it is JSON to others, too
    assert same(from_json("x", datatype, array.shape, text), array)


@given(tensors(finite=False, texts=False))
def test_bytes_give_back_what_was_put_in(tensor):
    datatype, array = tensor
    raw = bytes(to_binary("x", datatype, array))
    assert same(from_binary("x", datatype, array.shape, memoryview(raw)), array)


@given(tensors())
def test_json_may_be_nested_as_the_shape_is(tensor):
    datatype, array = tensor
    if array.ndim == 0:
        return
    if datatype == "BYTES":
        nested = (
            np.vectorize(bytes.decode, otypes=[object])(array).tolist()
            if array.size
            else array.tolist()
        )
    else:
        nested = array.astype(
            np.float64 if datatype in ("FP16", "FP32", "BF16") else array.dtype
        ).tolist()
    text = json.dumps(nested).encode()
    assert same(from_json("x", datatype, array.shape, text), array)


@pytest.mark.parametrize("datatype", DTYPES)
def test_the_extremes_of_each_datatype_fit_and_nothing_beyond(datatype):
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind == "b":
        assert from_json("x", datatype, [2], b"[true,false]").tolist() == [True, False]
        return
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = info.min.item() if dtype.kind == "f" else info.min, info.max
    high = high.item() if dtype.kind == "f" else high
    got = from_json("x", datatype, [2], json.dumps([low, high]).encode())
    assert got.tolist() == [low, high]
    assert got.dtype == dtype
    for beyond in (low * 2 - 1, high * 2 + 1):
        # FP64 ends where JSON's numbers end.
        with pytest.raises(InvalidInput, match=r"cannot hold|out of range|no JSON"):
            from_json("x", datatype, [1], json.dumps([beyond]).encode())


@pytest.mark.parametrize("count", [1, 64, 65, 1000])
def test_a_float_out_of_range_is_found_in_small_and_large_tensors(count):
    values = [0.5] * (count - 1) + [1e39]
    with pytest.raises(InvalidInput, match="a value that FP32 cannot hold"):
        from_json("x", "FP32", [count], json.dumps(values).encode())


def test_arrays_from_json_are_writable_and_typed():
    for datatype in DTYPES:
        text = b"[[true]]" if datatype == "BOOL" else b"[[1]]"
        array = from_json("x", datatype, [1, 1], text)
        assert array.dtype == DTYPES[datatype]
        assert array.flags.writeable
        assert array.shape == (1, 1)


BAD_JSON = [
    ("FP32", [2], b"[1.0]", r"shape \[2\], that is 2 elements, but its data has 1"),
    ("FP32", [1], b"[1.0, 2.0]", r"shape \[1\], that is 1 elements, but its data has 2"),
    ("FP32", [], b"[]", r"shape \[\], that is 1 elements, but its data has 0"),
    ("FP32", [0], b"[1]", r"that is 0 elements, but its data has 1"),
    ("FP32", [2, 2], b"[[1,2],[3]]", "ragged, rows have different lengths"),
    ("FP32", [2, 2], b"[[1,2],3,4]", "ragged|Expected `array`"),
    ("FP32", [2, 2], b"[1,2,[3,4]]", "ragged"),
    ("FP32", [1], b"[true]", "datatype FP32: Expected `float`, got `bool`"),
    ("FP32", [1], b'["1"]', "datatype FP32: Expected `float`, got `str`"),
    ("FP32", [1], b"[null]", "has a null"),
    ("FP32", [1], b"[NaN]", "JSON has no NaN and no Infinity"),
    ("FP32", [1], b"[-Infinity]", "JSON has no NaN and no Infinity"),
    ("FP32", [1], b"[1e999]", "out of range"),
    ("FP32", [1], b"1.0", "data is no array"),
    ("FP32", [1], b'{"a": 1}', "data is no array"),
    ("FP32", [1], b'"abcd"', "data is no array"),
    ("FP16", [1], b"[65520]", "a value that FP16 cannot hold"),
    ("BF16", [1], b"[3.4e38]", "a value that BF16 cannot hold"),
    ("INT64", [1], b"[1.5]", "element 0 has a fraction, INT64 takes integers"),
    ("INT64", [3], b"[1, 2.0, 3.25]", "element 2 has a fraction"),
    ("INT64", [2, 2], b"[[1.0, 2],[3, 0.5]]", "element 3 has a fraction"),
    ("INT64", [1], b"[true]", "datatype INT64: Expected `int`, got `bool`"),
    ("INT64", [1], b"[9223372036854775808]", "a value that INT64 cannot hold"),
    ("INT64", [1], b"[1e19]", "a value that INT64 cannot hold"),
    ("UINT8", [1], b"[-1]", "a value that UINT8 cannot hold"),
    ("UINT8", [1], b"[256]", "a value that UINT8 cannot hold"),
    ("UINT64", [1], b"[-1]", "a value that UINT64 cannot hold"),
    ("UINT64", [1], b"[" + b"9" * 400 + b"]", "a value that UINT64 cannot hold"),
    ("INT32", [1], b"[null]", "Expected `int`, got `null`"),
    ("BOOL", [1], b"[1]", "datatype BOOL: Expected `bool`, got `int`"),
    ("BOOL", [1], b'["true"]', "datatype BOOL: Expected `bool`, got `str`"),
    ("BYTES", [1], b"[1]", "datatype BYTES: Expected `str`, got `int`"),
    ("BYTES", [1], b"[null]", "datatype BYTES: Expected `str`, got `null`"),
    ("BYTES", [1], b'["\\ud800"]', "input 'x'"),
    ("BYTES", [1], b'["\xff"]', "no UTF-8"),
    ("FP31", [1], b"[1]", "unknown datatype. Did you mean FP32"),
    ("float", [1], b"[1]", "unknown datatype"),
    ("FP32", [1] * 65, b"[1]", "65 dimensions"),
    ("FP32", [2**40, 2**40], b"[1]", "too large"),
    ("FP32", [0, 2**63], b"[]", "too large"),
    ("FP64", [0, 2**60 + 1], b"[]", "too large"),
    ("FP32", [1], b"[" * 40 + b"1" + b"]" * 40, "nested more than 32 deep"),
    ("FP32", [1], b"[" * 100_000, "nested more than 32 deep"),
]


@pytest.mark.parametrize(("datatype", "shape", "text", "message"), BAD_JSON)
def test_json_data_that_do_not_fit_are_refused(datatype, shape, text, message):
    with pytest.raises(InvalidInput, match=message):
        from_json("x", datatype, shape, text)


def test_integers_may_be_written_with_a_zero_fraction():
    got = from_json("x", "INT64", [2, 2], b"[[1.0, 2], [3e2, -4]]")
    assert got.tolist() == [[1, 2], [300, -4]]


def test_the_nesting_need_not_be_that_of_the_shape():
    got = from_json("x", "INT64", [2, 2], b"[[1, 2, 3, 4]]")
    assert got.tolist() == [[1, 2], [3, 4]]


def test_a_refusal_never_repeats_the_data():
    for text in (b'["hunter2"]', b"[987654321.5]", b"[NaN, 987654321]", b'[{"hunter2": 1}]'):
        with pytest.raises(InvalidInput) as caught:
            from_json("x", "INT8", [1], text)
        assert "hunter2" not in str(caught.value)
        assert "987654321" not in str(caught.value)


def test_nan_and_infinity_leave_as_null():
    assert to_json("y", "FP32", np.array([np.nan, np.inf, -np.inf, 1.5], np.float32)) == (
        b"[null,null,null,1.5]"
    )


@given(
    hnp.arrays(
        np.float32,
        8,
        elements=hnp.from_dtype(np.dtype(np.float32), allow_nan=False, allow_infinity=False),
    )
)
def test_float32_printed_as_decimals_reads_back_bit_by_bit(array):
    text = to_json("y", "FP32", array)
    again = np.array(json.loads(text), np.float32)
    assert again.tobytes() == array.tobytes()


# ---------------------------------------------------------------------------------------------- BF16


@given(hnp.arrays(np.uint32, 16))
def test_bf16_rounds_as_ml_dtypes_does(bits):
    values = bits.view(np.float32)
    ours = bf16_to_float32(float32_to_bf16(values))
    with np.errstate(all="ignore"):
        theirs = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert same(ours, theirs)


def test_bf16_ties_go_to_even():
    # 1 + 2^-8 lies halfway between 1 and 1 + 2^-7; 1 + 3 * 2^-8 between odd and even.
    got = from_json("x", "BF16", [2], b"[1.00390625, 1.01171875]")
    assert got.tolist() == [1.0, 1.015625]


def test_every_bf16_pattern_survives():
    bits = np.arange(65536, dtype=np.uint16)
    values = bf16_to_float32(bits)
    numbers = ~np.isnan(values)
    assert np.array_equal(float32_to_bf16(values)[numbers], bits[numbers])
    assert np.isnan(bf16_to_float32(float32_to_bf16(values)))[~numbers].all()


# -------------------------------------------------------------------------------------------- binary

BAD_BINARY = [
    ("FP32", [2], b"\0" * 7, r"datatype FP32, that is 8 bytes, but its binary data has 7"),
    ("FP32", [2], b"\0" * 9, "that is 8 bytes, but its binary data has 9"),
    ("BF16", [2], b"\0" * 8, "that is 4 bytes, but its binary data has 8"),
    ("BOOL", [2], b"\0\2", "neither 0 nor 1"),
    ("BYTES", [1], b"", "at least 4 bytes, but its binary data has 0"),
    ("BYTES", [2], b"\1\0\0\0a\1\0", "at least 4 bytes"),
    ("BYTES", [1], b"\1\0\0\0a\1\0", "element 1 is cut off in its length: 4 bytes .* 2 are left"),
    ("BYTES", [1], b"\5\0\0\0ab", "element 0 has length 5, but 2 bytes are left"),
    ("BYTES", [1], b"\xff\xff\xff\xff", "has length 4294967295, but 0 bytes are left"),
    ("BYTES", [1], b"\0\0\0\0\0\0\0\0", "that is 1 elements, but its binary data has 2"),
    ("BYTES", [2**40], b"\0" * 8, "that is 1099511627776 BYTES elements"),
    ("FP99", [1], b"\0" * 4, "unknown datatype"),
]


@pytest.mark.parametrize(("datatype", "shape", "raw", "message"), BAD_BINARY)
def test_binary_data_that_do_not_fit_are_refused(datatype, shape, raw, message):
    with pytest.raises(InvalidInput, match=message):
        from_binary("x", datatype, shape, memoryview(raw))


@settings(max_examples=300)
@given(st.sampled_from(DATATYPES), st.lists(st.integers(0, 5), max_size=3), st.binary(max_size=64))
def test_any_bytes_are_a_tensor_or_invalid_input(datatype, shape, raw):
    try:
        array = from_binary("x", datatype, shape, memoryview(raw))
    except InvalidInput:
        return
    assert array.shape == tuple(shape)
    assert bytes(to_binary("x", datatype, array)) == raw or np.isnan(array.astype(float)).any()


@settings(max_examples=300)
@given(
    st.sampled_from(DATATYPES),
    st.lists(st.integers(0, 3), max_size=3),
    st.one_of(
        st.binary(max_size=24),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
        ).map(lambda v: json.dumps(v).encode()),
    ),
)
def test_any_json_is_a_tensor_or_invalid_input(datatype, shape, text):
    try:
        array = from_json("x", datatype, shape, text)
    except InvalidInput:
        return
    assert array.shape == tuple(shape)


def test_binary_tensors_are_views_of_the_buffer():
    raw = bytearray(np.arange(4, dtype=np.float32).tobytes())
    array = from_binary("x", "FP32", [2, 2], memoryview(raw))
    raw[0:4] = np.float32(7).tobytes()
    assert array[0, 0] == 7


def test_what_leaves_is_a_view_of_the_output():
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    view = to_binary("y", "FP64", array[1:])
    array[1, 0] = 9
    assert np.frombuffer(view)[0] == 9


@pytest.mark.parametrize(
    "part", [np.s_[:, 1:2], np.s_[::2, 0], np.s_[::-1], np.s_[:, :0], np.s_[0, 1], np.s_[1:]]
)
def test_any_part_of_an_array_can_leave(part):
    """A column of an array stays strided however it is reshaped."""
    values = np.arange(12, dtype=np.float64).reshape(4, 3)[part]
    assert bytes(to_binary("y", "FP64", values)) == values.tobytes()


def test_strided_and_big_endian_outputs_are_sent_row_major_little_endian():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert bytes(to_binary("y", "FP32", array.T)) == np.ascontiguousarray(array.T).tobytes()
    swapped = array.astype(">f4")
    assert datatype_of(swapped) == "FP32"
    assert bytes(to_binary("y", "FP32", swapped)) == array.tobytes()
    assert json.loads(to_json("y", "FP32", swapped)) == array.ravel().tolist()


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 4)), max_size=5),
    st.integers(0, 16),
    st.integers(0, 7),
)
def test_realigned_parts_keep_their_bytes(parts, header, lead):
    """Whatever the parts and wherever the buffer begins, no part's bytes change."""
    size = header + sum(e * n for e, n in parts)
    backing = bytearray(lead + size)
    body = memoryview(backing)[lead:]
    body[:] = bytes(i % 251 for i in range(size))
    spans, expected, at = [], [], header
    for element, n in parts:
        spans.append((at, element * n, element))
        expected.append(bytes(body[at : at + element * n]))
        at += element * n
    placed = realign(body, spans)
    assert [bytes(body[o : o + n]) for o, n in placed] == expected
    if header >= 8 and len(parts) == 1 and parts[0][1]:
        address = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
        assert (address + placed[0][0]) % parts[0][0] == 0


@pytest.mark.parametrize("lead", range(8))
def test_tensors_are_aligned_wherever_they_lie(lead):
    values = np.arange(5, dtype=np.float64)
    for buffer in (bytearray(lead) + bytearray(values.tobytes()), bytes(lead) + values.tobytes()):
        array = from_binary("x", "FP64", [5], memoryview(buffer)[lead:])
        assert array.flags.aligned
        assert array.tolist() == values.tolist()


# ------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.zeros(1, np.bool_), "BOOL"),
        (np.zeros(1, np.float16), "FP16"),
        (np.zeros(1, ml_dtypes.bfloat16), "BF16"),
        (np.array(["a"]), "BYTES"),
        (np.array([b"a"]), "BYTES"),
        (objects(["a"], (1,)), "BYTES"),
    ],
)
def test_the_datatype_follows_from_the_dtype(array, datatype):
    assert datatype_of(array) == datatype


@pytest.mark.parametrize("dtype", [np.complex64, "M8[s]", "m8[s]", np.longdouble])
def test_dtypes_without_a_datatype_are_the_models_fault(dtype):
    with pytest.raises(
        ModelError, match=r"output 'y' has dtype .*, which no V2 datatype can carry"
    ):
        datatype_of(np.zeros(1, dtype), "y")


def test_an_output_may_be_narrowed_only_where_no_value_changes():
    assert to_json("y", "INT32", np.array([1, -5])) == b"[1,-5]"
    assert to_json("y", "FP32", np.array([1, 2])) == b"[1.0,2.0]"
    assert json.loads(to_json("y", "BF16", np.array([1.5], ml_dtypes.bfloat16))) == [1.5]
    for values, declared in (
        (np.array([2**40]), "INT32"),
        (np.array([-1]), "UINT8"),
        (np.array([0.5]), "INT64"),
        (objects([1.5], (1,)), "FP32"),
        (np.array([1]), "NOPE"),
    ):
        with pytest.raises(ModelError, match="output 'y'"):
            to_json("y", declared, values)
        with pytest.raises(ModelError, match="output 'y'"):
            to_binary("y", declared, values)


def test_bytes_that_are_no_text_need_a_binary_tensor():
    array = objects([b"\xff\x00"], (1,))
    with pytest.raises(InvalidInput, match=r"no UTF-8 text.*binary_data: true"):
        to_json("y", "BYTES", array)
    assert bytes(to_binary("y", "BYTES", array)) == b"\2\0\0\0\xff\0"


def test_objects_are_sent_as_their_json():
    array = objects([{"label": "a", "score": 0.5}, [1, None]], (2,))
    assert json.loads(to_json("y", "BYTES", array)) == ['{"label":"a","score":0.5}', "[1,null]"]


def test_objects_without_json_are_the_models_fault():
    with pytest.raises(ModelError, match="element 1 is a complex"):
        to_json("y", "BYTES", objects([{}, 1j], (2,)))
