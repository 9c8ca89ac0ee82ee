"""Whatever is sent as a SeldonMessage or an invocation is read or refused; nothing else is raised."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.protocols.mlflow import FORMATS, UnsupportedType, decode_invocation
from penstock.protocols.seldon import KINDS, decode_message, decode_object, reward_of
from penstock.runtimes.base import TensorSpec

SPECS: list[tuple[TensorSpec, ...]] = [
    (),
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("a", "FP64", (-1,)), TensorSpec("b", "BYTES", (-1,))),
]

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["a", "b", "YQ=="])
)
_keys = st.sampled_from(
    ["names", "ndarray", "tensor", "shape", "values", "columns", "data", "index", "a", "b", "b64",
     "instances", "inputs", "puid", "tags"]
)  # fmt: skip
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=12,
)


def _only_our_errors(call: Any) -> None:
    with contextlib.suppress(InvalidInput, UnsupportedType):
        call()


@given(
    message=st.dictionaries(st.sampled_from([*KINDS, "meta", "reward"]), _json, max_size=2),
    specs=st.sampled_from(SPECS),
)
def test_any_json_as_a_seldon_message(message: Any, specs: Any) -> None:
    body = msgspec.json.encode(message)
    _only_our_errors(lambda: decode_message(body, specs))
    _only_our_errors(lambda: reward_of(decode_object(body)))


@given(
    body=st.dictionaries(st.sampled_from([*FORMATS, "params"]), _json, max_size=2),
    specs=st.sampled_from(SPECS),
)
def test_any_json_as_an_invocation(body: Any, specs: Any) -> None:
    _only_our_errors(lambda: decode_invocation(msgspec.json.encode(body), "", specs))


@given(
    body=st.binary(max_size=40) | st.text('ab01.,"\n\r -e_', max_size=40).map(str.encode),
    kind=st.sampled_from(["text/csv", "application/json"]),
    specs=st.sampled_from(SPECS),
)
def test_any_bytes(body: bytes, kind: str, specs: Any) -> None:
    _only_our_errors(lambda: decode_invocation(body, kind, specs))
    _only_our_errors(lambda: decode_message(body, specs))


@pytest.mark.parametrize("dimensions", [65, 5000])
def test_a_tensor_of_too_many_dimensions(dimensions: int) -> None:
    shape = [1] * dimensions
    body = msgspec.json.encode({"data": {"tensor": {"shape": shape, "values": [1.0]}}})
    with pytest.raises(InvalidInput):
        decode_message(body)


def test_numbers_of_a_csv_that_are_too_large() -> None:
    for text in ("9" * 5000, "9" * 30, "1e999"):
        _only_our_errors(lambda text=text: decode_invocation(f"a\n{text}\n".encode(), "text/csv"))
