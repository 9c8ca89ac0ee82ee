"""Whatever a request says of content types or sends as examples is read or refused, and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, ModelError, Unsupported
from penstock.protocols import tfserving, v2
from penstock.protocols.codecs import OF_REQUESTS, OF_TENSORS, coded
from penstock.protocols.infer import InferResponse
from penstock.runtimes.base import TensorSpec

SPECS: list[tuple[TensorSpec, ...]] = [
    (),
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("a", "FP64", (-1,)), TensorSpec("b", "BYTES", (-1, 1))),
]
_kinds = st.sampled_from([*OF_REQUESTS, *OF_TENSORS, "other", 7, None])
_values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from(["YQ==", "2024-02-29", '{"a":1}', "[1]"])
)
_data = st.recursive(_values, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
_input = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "x", "args"]),
        "datatype": st.sampled_from(["BYTES", "BYTES", "FP64", "INT8", "BOOL", "NONE"]),
        "shape": st.lists(st.integers(0, 3), max_size=3),
        "data": _data,
    },
    optional={"parameters": st.fixed_dictionaries({}, optional={"content_type": _kinds})},
)
_request = st.fixed_dictionaries(
    {"inputs": st.lists(_input, min_size=1, max_size=3, unique_by=lambda i: i["name"])},
    optional={
        "parameters": st.fixed_dictionaries({}, optional={"content_type": _kinds}),
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["y", "z"])},
                optional={"parameters": st.fixed_dictionaries({"content_type": _kinds})},
            ),
            max_size=2,
            unique_by=lambda o: o["name"],
        ),
    },
)


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


_outputs = st.sampled_from(
    [
        np.array([1.5, np.nan]),
        np.array([[True], [False]]),
        np.array(3),
        _objects(["a", b"\xff"]),
        _objects([None, {"a": [1]}]),
        _objects([[], 7]),
        _objects([]),
    ]
)


@given(
    document=_request,
    specs=st.sampled_from(SPECS),
    outputs=st.fixed_dictionaries({"y": _outputs, "z": _outputs}),
)
def test_any_content_types(document: Any, specs: Any, outputs: Any) -> None:
    with contextlib.suppress(InvalidInput, Unsupported, ModelError):
        request = v2.decode_infer(msgspec.json.encode(document))
        means = coded(request, None, specs)
        if means is None:
            response = InferResponse(outputs)
        else:
            assert all(isinstance(a, np.ndarray) for a in means.inputs.values())
            assert "content_type" not in means.parameters
            response = means.response(outputs, None)
        _, body = v2.encode_infer(response, request)
        msgspec.json.decode(b"".join(map(bytes, body)))


_feature = st.recursive(
    _values | st.fixed_dictionaries({"b64": st.sampled_from(["YQ==", "?", 7])}),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)
_features = st.dictionaries(st.text(max_size=3), _feature, max_size=3)


@given(
    document=st.fixed_dictionaries(
        {"examples": st.lists(_features | _values, max_size=3) | _values},
        optional={"context": _features | _values, "signature_name": _values, "more": _values},
    )
)
def test_any_examples(document: Any) -> None:
    with contextlib.suppress(InvalidInput):
        try:
            body = msgspec.json.encode(document)
        except UnicodeEncodeError:
            return
        found = tfserving.decode_examples(body)
        assert all(type(e) is bytes for e in found.serialized)
