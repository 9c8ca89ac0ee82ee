"""Answers whose JSON was seen before are read as if it had not been."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from penstock.errors import ModelError
from penstock.protocols import v2_layouts
from penstock.protocols.v2_client import decode_response


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    v2_layouts._layouts.clear()
    yield
    v2_layouts._layouts.clear()


def body(*arrays: Any, kind: str = "FP32", **more: Any) -> tuple[bytes, int]:
    outputs = [
        {
            "name": f"o{i}",
            "shape": list(a.shape),
            "datatype": kind,
            "parameters": {"binary_data_size": a.nbytes},
        }
        for i, a in enumerate(arrays)
    ]
    text = json.dumps({"model_name": "m", "outputs": outputs, **more}).encode()
    # An odd length, so that tensors do not lie where their dtype wants them.
    text += b" " * (1 - len(text) % 2)
    return text + b"".join(a.tobytes() for a in arrays), len(text)


def test_a_second_answer_is_read_without_its_json() -> None:
    first = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(1, np.float32)
    data, length = body(*first)
    before = decode_response(data, length)
    assert len(v2_layouts._layouts) == 1
    data, length = body(first[0] * 2, first[1] * 3)
    after = decode_response(data, length)
    assert v2_layouts.known(data, length) is not None
    assert after.outputs["o0"].tolist() == (first[0] * 2).tolist()
    assert after.outputs["o1"].tolist() == [3.0]
    assert all(v.flags.aligned for v in after.outputs.values())
    assert (after.model_name, after.datatypes, list(after.outputs)) == (
        before.model_name, before.datatypes, list(before.outputs),
    )  # fmt: skip
    after.datatypes["o0"] = "changed"
    assert decode_response(data, length).datatypes["o0"] == "FP32"


def test_a_length_that_does_not_fit_is_told_as_ever() -> None:
    data, length = body(np.ones(4, np.float32))
    decode_response(data, length)
    for wrong in (data[:-4], data + b"1234"):
        with pytest.raises(ModelError):
            decode_response(wrong, length)


@pytest.mark.parametrize(
    ("array", "kind", "more"),
    [
        (np.ones(1, np.float32), "FP32", {"id": "7"}),
        (np.ones(1, np.float32), "FP32", {"parameters": {"a": 1}}),
        (np.ones(3, np.bool_), "BOOL", {}),
        (np.ones(2, np.uint16), "BF16", {}),
        (np.ones((0, 4), np.float32), "FP32", {}),
    ],
)
def test_what_differs_from_answer_to_answer_is_not_remembered(
    array: Any, kind: str, more: dict[str, Any]
) -> None:
    data, length = body(array, kind=kind, **more)
    decode_response(data, length)
    assert not v2_layouts._layouts


def test_answers_with_a_tensor_in_the_json_are_not_remembered() -> None:
    text = json.dumps(
        {
            "outputs": [
                {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]},
                {
                    "name": "b",
                    "shape": [1],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 4},
                },
            ]
        }
    ).encode()
    decode_response(text + b"\0\0\0\0", len(text))
    assert not v2_layouts._layouts


def test_what_is_remembered_is_bounded() -> None:
    for i in range(2 * v2_layouts.MOST):
        data, length = body(np.ones(i + 1, np.float32))
        decode_response(data, length)
    assert len(v2_layouts._layouts) <= v2_layouts.MOST
    data, length = body(*[np.ones(1, np.float32)] * 20)
    assert length > v2_layouts.LONGEST
    decode_response(data, length)
    assert v2_layouts.known(data, length) is None
