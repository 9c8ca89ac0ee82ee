"""Messages: field numbers of the real packages, tensors of every datatype, malformed requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_peers import request
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from penstock.errors import InvalidInput, ModelError, PenstockError, TooLarge, Unsupported
from penstock.protocols.datatypes import DATATYPES
from penstock.protocols.grpc import schema, wire
from penstock.protocols.grpc.infer import decode_answer, decode_infer, encode_infer
from penstock.protocols.infer import InferResponse

#: KServe's answer to loads and unloads, which Triton's package does not have.
KSERVE_ONLY = {("model_name", 1), ("isLoaded", 2), ("isUnloaded", 2)}
REAL = {
    "inference": [service_pb2, model_config_pb2],
    "grpc.health.v1": [health_pb2],
    "grpc.reflection.v1alpha": [reflection_pb2],
}


def _messages(kinds: Any) -> Any:
    for kind in kinds:
        yield kind
        yield from _messages(kind.nested_types)


@pytest.mark.parametrize("package", REAL)
def test_fields_are_numbered_as_in_the_real_packages(package: str) -> None:
    """Every message, nested ones too; names, numbers, types and what they refer to."""
    real = {
        m.full_name: m
        for module in REAL[package]
        for m in _messages(module.DESCRIPTOR.message_types_by_name.values())
    }
    file = next(f for f in schema.FILES.values() if f.package == package)
    ours = schema._pool.FindFileByName(file.name)
    checked = 0
    for kind in _messages(ours.message_types_by_name.values()):
        theirs = real[kind.full_name]
        for field in kind.fields:
            if (field.name, field.number) in KSERVE_ONLY and not theirs.fields:
                continue
            other = theirs.fields_by_name[field.name]
            for what in ("number", "type", "is_repeated"):
                assert getattr(field, what) == getattr(other, what), (kind.full_name, field.name)
            for what in ("message_type", "enum_type"):
                mine, its = getattr(field, what), getattr(other, what)
                assert (mine and mine.full_name) == (its and its.full_name)
            checked += 1
    assert checked > 4


def test_methods_are_those_of_the_real_service() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name, (asked, answered) in schema.METHODS.items():
        method = theirs.methods_by_name[name]
        assert method.input_type.full_name == asked.DESCRIPTOR.full_name
        assert method.output_type.full_name == answered.DESCRIPTOR.full_name


def _values(kind: str) -> np.ndarray:
    if kind == "BYTES":
        return np.array([b"", b"\xff\x00", "é".encode()], object)
    if kind == "BOOL":
        return np.array([True, False, True])
    dtype = DATATYPES[kind].dtype
    if dtype.kind == "f":
        return np.array([0.0, -1.5, 65024.0], dtype)
    info = np.iinfo(dtype)
    return np.array([info.min, 0, info.max], dtype)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", DATATYPES)
def test_every_datatype_goes_in_and_out(kind: str, raw: bool) -> None:
    """Raw requests are answered raw, typed ones typed; FP16 and BF16 have no typed form."""
    values = _values(kind)
    made = encode_infer(
        InferResponse({"x": values}, {"x": kind}), decode_infer(request().SerializeToString())
    )
    theirs = service_pb2.ModelInferResponse.FromString(b"".join(made)[5:])
    asked = service_pb2.ModelInferRequest(
        model_name="m", id="7", raw_input_contents=theirs.raw_output_contents if raw else []
    )
    tensor = asked.inputs.add(name="x", datatype=kind, shape=[3])
    if not raw:
        typed = {"FP16": "", "BF16": ""}.get(kind, "x")
        if not typed:
            tensor.contents.fp32_contents.extend([1.0, 2.0, 3.0])
            with pytest.raises(InvalidInput, match="raw_input_contents"):
                decode_infer(asked.SerializeToString())
            return
        from penstock.protocols.grpc.infer import CONTENTS

        getattr(tensor.contents, CONTENTS[kind]).extend(values.tolist())
    decoded = decode_infer(asked.SerializeToString())
    assert decoded.inputs["x"].dtype == values.dtype
    np.testing.assert_array_equal(decoded.inputs["x"], values)
    answer = b"".join(encode_infer(InferResponse({"x": values}, {"x": kind}), decoded))
    outputs, message = decode_answer(answer[5:])
    np.testing.assert_array_equal(outputs["x"], values)
    assert bool(message.raw_output_contents) is raw
    assert (message.id, message.model_name) == ("7", "m")
    assert int.from_bytes(answer[1:5], "big") == len(answer) - 5


def test_raw_tensors_are_views_not_copies() -> None:
    decoded = decode_infer(request(data=np.ones((1000, 2))).SerializeToString())
    assert decoded.inputs["x"].base is not None
    assert not decoded.inputs["x"].flags.writeable


def test_typed_requests_with_outputs_that_need_it_are_answered_raw() -> None:
    asked = service_pb2.ModelInferRequest(model_name="m")
    asked.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)
    decoded = decode_infer(asked.SerializeToString())
    answer = b"".join(encode_infer(InferResponse({"h": np.ones(2, np.float16)}), decoded))
    outputs, message = decode_answer(answer[5:])
    assert message.outputs[0].datatype == "FP16"
    assert outputs["h"].tolist() == [1, 1]


def test_parameters_and_requested_outputs_pass_both_ways() -> None:
    asked = request()
    asked.parameters["b"].bool_param = True
    asked.parameters["i"].int64_param = -(2**62)
    asked.parameters["s"].string_param = "é"
    asked.parameters["d"].double_param = 0.5
    asked.parameters["u"].uint64_param = 2**63 + 1
    asked.inputs[0].parameters["t"].string_param = "np"
    asked.outputs.add(name="b")
    decoded = decode_infer(asked.SerializeToString())
    wanted = {"b": True, "i": -(2**62), "s": "é", "d": 0.5, "u": 2**63 + 1}
    assert decoded.parameters == wanted
    assert decoded.input_parameters == {"x": {"t": "np"}}
    outputs = {"a": np.ones(1), "b": np.zeros(1)}
    answer = b"".join(encode_infer(InferResponse(outputs, parameters=wanted), decoded))
    theirs = service_pb2.ModelInferResponse.FromString(answer[5:])
    assert [o.name for o in theirs.outputs] == ["b"]
    assert theirs.parameters["u"].uint64_param == 2**63 + 1
    assert theirs.parameters["b"].bool_param is True


def _changed(change: Any) -> bytes:
    asked = request()
    change(asked)
    data: bytes = asked.SerializeToString()
    return data


def _typed(kind: str, shape: list[int], **contents: Any) -> bytes:
    asked = service_pb2.ModelInferRequest(model_name="m")
    tensor = asked.inputs.add(name="x", datatype=kind, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    data: bytes = asked.SerializeToString()
    return data


MALFORMED: dict[str, tuple[bytes, type[PenstockError], str]] = {
    "no protobuf": (b"\xff\xff\xff", InvalidInput, "cannot be decoded"),
    "a message cut off": (request().SerializeToString()[:-3], InvalidInput, "cannot be decoded"),
    "a name that is no UTF-8": (b"\x0a\x02\xff\xfe", InvalidInput, "cannot be decoded"),
    "no inputs": (_changed(lambda r: r.ClearField("inputs")), InvalidInput, "no inputs"),
    "more raw contents than inputs": (
        _changed(lambda r: r.raw_input_contents.append(b"")),
        InvalidInput,
        "1 inputs, but 2 raw_input_contents",
    ),
    "contents beside raw contents": (
        _changed(lambda r: r.inputs[0].contents.fp32_contents.append(1)),
        InvalidInput,
        "contents beside the request's raw_input_contents",
    ),
    "an input twice": (
        _changed(lambda r: (r.inputs.add(name="x"), r.raw_input_contents.append(b""))),
        InvalidInput,
        "given twice",
    ),
    "an unknown datatype": (
        _changed(lambda r: setattr(r.inputs[0], "datatype", "FLOAT")),
        InvalidInput,
        "unknown datatype",
    ),
    "a negative size": (
        _changed(lambda r: r.inputs[0].shape.__setitem__(0, -1)),
        InvalidInput,
        "negative size",
    ),
    "a huge shape": (
        _changed(lambda r: r.inputs[0].shape.extend([2**40, 2**40])),
        InvalidInput,
        "too large",
    ),
    "too few bytes": (
        _changed(lambda r: r.inputs[0].shape.__setitem__(0, 2)),
        InvalidInput,
        "that is 16 bytes, but its binary data has 8",
    ),
    "too few typed elements": (
        _typed("FP32", [2], fp32_contents=[1]),
        InvalidInput,
        "2 elements, but its contents have 1",
    ),
    "no contents at all": (_typed("FP32", [2]), InvalidInput, "but its contents have 0"),
    "the wrong list": (
        _typed("FP32", [1], fp64_contents=[1]),
        InvalidInput,
        "belong into fp32_contents, not fp64_contents",
    ),
    "a value out of range": (
        _typed("INT8", [1], int_contents=[200]),
        InvalidInput,
        "INT8 cannot hold",
    ),
    "an unsigned value out of range": (
        _typed("UINT16", [1], uint_contents=[70000]),
        InvalidInput,
        "UINT16 cannot hold",
    ),
    "a parameter without a value": (
        _changed(lambda r: r.parameters["p"].SetInParent()),
        InvalidInput,
        "has no value",
    ),
    "shared memory": (
        _changed(
            lambda r: setattr(
                r.inputs[0].parameters["shared_memory_region"], "string_param", "region"
            )
        ),
        Unsupported,
        "shared memory",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_with_what_was_expected(name: str) -> None:
    data, kind, message = MALFORMED[name]
    with pytest.raises(kind, match=message):
        decode_infer(data)


def test_an_unknown_output_and_an_unsendable_answer_are_told_apart() -> None:
    asked = request()
    asked.outputs.add(name="nope")
    decoded = decode_infer(asked.SerializeToString())
    with pytest.raises(InvalidInput, match="unexpected inference output 'nope'"):
        encode_infer(InferResponse({"y": np.ones(1)}), decoded)
    plain = decode_infer(request().SerializeToString())
    with pytest.raises(ModelError, match="complex"):
        encode_infer(InferResponse({"y": np.ones(1, complex)}), plain)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_request_or_invalid(data: bytes) -> None:
    for prefix in (b"", request().SerializeToString()):
        try:
            decode_infer(prefix + data)
        except (InvalidInput, Unsupported):
            pass
        try:
            wire.peek_strings(prefix + data, (1, 2))
        except InvalidInput:
            pass


@given(
    st.binary(max_size=300),
    st.sampled_from([None, b"gzip", b"deflate", b"identity", b"br"]),
)
def test_random_frames_are_a_message_or_refused(data: bytes, encoding: bytes | None) -> None:
    try:
        message = wire.unframe(data, encoding, 1000)
    except (InvalidInput, Unsupported, TooLarge):
        return
    assert len(message) <= 1000


def test_a_compressed_message_is_unpacked_no_further_than_the_limit() -> None:
    import gzip

    bomb = gzip.compress(bytes(10_000_000))
    framed = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    with pytest.raises(TooLarge):
        wire.unframe(framed, b"gzip", 1_000_000)
    assert len(wire.unframe(framed, b"gzip", 10_000_000)) == 10_000_000
    with pytest.raises(InvalidInput, match="cut off"):
        wire.unframe(b"\1" + (len(bomb) - 20).to_bytes(4, "big") + bomb[:-20], b"gzip", 10**8)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9)],
)
def test_deadlines_have_units(text: bytes, seconds: float) -> None:
    assert wire.timeout_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"S", b"1", b"-1S", b"1.5S", b"123456789S", b"1s", b"1 S"])
def test_a_malformed_deadline_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        wire.timeout_s(text)


def test_a_message_of_any_text_survives_the_trailer() -> None:
    for text in ("plain", "é ü 漢字", "a\r\nb: c", "100%", "x" * 100):
        status, message = wire.read_status(wire.status_lines(5, text))
        assert (status, message) == (5, text)
        assert b"\r\n" not in wire.status_lines(5, text)[:-2].replace(b"\r\ngrpc-message", b"")


def test_every_error_of_the_tree_has_a_status() -> None:
    """The table in `errors` says which; this holds the two together."""
    import re

    import penstock.errors as errors

    numbers = {
        "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "PERMISSION_DENIED": 7,
        "RESOURCE_EXHAUSTED": 8, "ABORTED": 10, "UNIMPLEMENTED": 12, "INTERNAL": 13,
        "UNAVAILABLE": 14, "DATA_LOSS": 15, "UNAUTHENTICATED": 16,
    }  # fmt: skip
    table = re.findall(r"([A-Z]\w+) .*? (\d{3}) / ([A-Z_]+)", errors.__doc__ or "")
    assert len(table) > 12
    for name, http, grpc in table:
        kind = getattr(errors, name)
        error = kind(()) if name == "InvalidManifest" else kind("x")
        assert (error.status, wire.status_of(error)) == (int(http), numbers[grpc]), name


def test_gzip_of_several_members_is_one_message() -> None:
    """RFC 1952, section 2.2; whatever else follows the end is refused, never dropped."""
    import gzip
    import zlib

    first, second = gzip.compress(b"x" * 200_000), gzip.compress(b"y" * 70_000)
    whole = first + second + gzip.compress(b"")
    assert wire.decompress(whole, b"gzip", 270_000) == b"x" * 200_000 + b"y" * 70_000
    with pytest.raises(TooLarge):
        wire.decompress(whole, b"gzip", 269_999)
    for data, encoding, message in (
        (whole[:-25], b"gzip", "cut off"),
        (first + b"junk", b"gzip", "no valid compressed data"),
        (zlib.compress(b"x") + b"junk", b"deflate", "more bytes after its end"),
        (gzip.compress(b"x") * 2000, b"gzip", "over 1024 members"),
    ):
        with pytest.raises(InvalidInput, match=message):
            wire.decompress(data, encoding, 10**6)
