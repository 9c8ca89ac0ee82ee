"""Whatever comes as a message, a form or a protobuf: it is read, or refused as the caller's fault."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput, ModelError
from penstock.graphs import seldon as values
from penstock.protocols.grpc import seldon
from penstock.protocols.seldon_forms import decode_body
from penstock.protocols.seldon_message import (
    SeldonMessage,
    feedback_of,
    from_tensors,
    message_of,
    messages_of,
)
from penstock.protocols.v2_client import decode_response

KEYS = st.sampled_from(
    ["data", "ndarray", "tensor", "shape", "values", "names", "strData", "binData", "jsonData", "meta",
     "puid", "tags", "routing", "metrics", "request", "response", "truth", "reward", "seldonMessages", "x"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
NUMBERS = st.lists(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=2),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS)
def test_any_json_is_a_message_or_refused(document: Any) -> None:
    for read in (message_of, messages_of, feedback_of):
        with contextlib.suppress(InvalidInput):
            read(document)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(set(seldon.VERBS.values()))))
def test_any_bytes_are_a_protobuf_or_refused(data: bytes, verb: str) -> None:
    with contextlib.suppress(InvalidInput):
        seldon.parse(verb, data)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS)
def test_what_is_read_goes_through_protobuf_and_back(document: Any) -> None:
    try:
        message = message_of(document)
        proto = seldon.to_proto(message)
    except (InvalidInput, ModelError):
        return
    with contextlib.suppress(InvalidInput):
        again = seldon.from_proto(seldon.MessageProto.FromString(proto.SerializeToString()))
        assert again.kind == message.kind


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from(
        [b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data",
         b"multipart/form-data; boundary=b", None]
    ),
)  # fmt: skip
def test_any_body_is_read_or_refused(data: bytes, content_type: bytes | None) -> None:
    for body in (data, b'--b\r\ncontent-disposition: form-data; name="data"\r\n\r\n' + data):
        with contextlib.suppress(InvalidInput):
            assert isinstance(decode_body(body, content_type), dict)


@settings(max_examples=200, deadline=None)
@given(NUMBERS, st.lists(st.text(max_size=5), max_size=3), st.sampled_from(["ndarray", "tensor"]))
def test_arrays_go_in_binary_and_back(rows: Any, names: list[str], kind: str) -> None:
    """Nothing of a message is lost on its way between two units."""
    document: dict[str, Any] = {
        "data": {"names": names, "ndarray": rows},
        "meta": {"tags": {"a": [1]}},
    }
    message = message_of(json.loads(json.dumps(document)))
    message.kind = kind
    value = values.value_of(message)
    assert isinstance(value, values.Tensors)
    ((_, back),) = from_tensors(value.arrays, value.parameters)
    assert (back.kind, list(back.names), dict(back.meta)) == (kind, names, {"tags": {"a": [1]}})
    assert back.value.tolist() == rows
    headers, body = values.encode_several([value, value]) or (b"", b"")
    assert b"inference-header-content-length" in headers
    assert len(bytes(body)) > 16 * len(rows)


def test_a_response_in_binary_is_read_as_it_was_written() -> None:
    import numpy as np

    from penstock.protocols.seldon_message import binary_answer, encode_binary

    answer = binary_answer(SeldonMessage(np.ones((2, 2)), "tensor", ["a", "b"]), "y")
    assert answer is not None
    headers, pieces = encode_binary(answer)
    length = int(headers.decode().lower().partition("content-length: ")[2].split()[0])
    response = decode_response(b"".join(bytes(p) for p in pieces), length)
    assert response.outputs["y"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
