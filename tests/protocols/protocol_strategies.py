"""Hypothesis strategies: tensors of every V2 datatype, and requests made of them."""

import math

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.protocols.datatypes import bf16_to_float32

DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
DATATYPES = [*DTYPES, "BF16", "BYTES"]

#: From no dimension at all to four, zero-size ones among them.
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def objects(values, shape):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


@st.composite
def tensors(draw, datatypes=tuple(DATATYPES), finite=True, texts=True):
    """(datatype, array). `finite`: no NaN and no infinity; `texts`: BYTES are UTF-8."""
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(shapes)
    if datatype == "BYTES":
        element = st.text(max_size=6).map(str.encode) if texts else st.binary(max_size=6)
        count = math.prod(shape)
        return datatype, objects(draw(st.lists(element, min_size=count, max_size=count)), shape)
    if datatype == "BF16":
        bits = draw(hnp.arrays(np.uint16, shape))
        array = bf16_to_float32(bits)
        if finite:
            array = np.where(np.isfinite(array), array, np.float32(1.5))
        return datatype, array
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind == "f":
        elements = hnp.from_dtype(dtype, allow_nan=not finite, allow_infinity=not finite)
        return datatype, draw(hnp.arrays(dtype, shape, elements=elements))
    return datatype, draw(hnp.arrays(dtype, shape))


def same(a, b):
    """Equal bit by bit, but for the payload of NaNs."""
    if a.dtype == object or b.dtype == object:
        return a.shape == b.shape and a.tolist() == b.tolist()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind == "f":
        nan = np.isnan(a)
        return bool(
            np.array_equal(nan, np.isnan(b))
            and np.array_equal(a[~nan], b[~nan])
            and np.array_equal(np.signbit(a[~nan]), np.signbit(b[~nan]))
        )
    return bool(np.array_equal(a, b))
