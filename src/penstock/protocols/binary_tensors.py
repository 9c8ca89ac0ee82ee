"""Tensors as raw bytes: little endian, row-major, a BYTES element as its length and that many bytes.

What is received becomes views of the buffer, without a copy, except where an element would not be aligned:
then the bytes are moved a few places inside the buffer when it is writable, and copied when it is not
(compiled code behind the model may fault on such a pointer).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.datatypes import (
    DATATYPES,
    bf16_to_float32,
    count_of,
    datatype,
    elements,
    fit,
    float32_to_bf16,
)

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

_LENGTH = struct.Struct("<I")


def from_binary(tensor: str, name: str, shape: Sequence[int], data: memoryview) -> Array:
    """The raw bytes of a tensor as an array of `shape`; a view of `data` wherever that is possible.

    Raises InvalidInput when the number of bytes is not what shape and datatype say.
    """
    kind = DATATYPES.get(name) or datatype(name, tensor)
    count = count_of(shape, f"input '{tensor}'")
    if not kind.size:
        return _split_bytes(tensor, shape, count, data)
    if data.nbytes != count * kind.size:
        raise InvalidInput(
            f"input '{tensor}' has shape {list(shape)} and datatype {name}, that is"
            f" {count * kind.size} bytes, but its binary data has {data.nbytes}"
        )
    if name == "BF16":
        return bf16_to_float32(np.frombuffer(data, "<u2")).reshape(shape)
    result: Array = np.frombuffer(data, kind.dtype.newbyteorder("<"))
    if name == "BOOL":
        if count and np.frombuffer(data, np.uint8).max() > 1:
            raise InvalidInput(f"input '{tensor}' has a BOOL element that is neither 0 nor 1")
    elif not result.flags.aligned:
        result = result.copy()
    return result.reshape(shape)


def _split_bytes(tensor: str, shape: Sequence[int], count: int, data: memoryview) -> Array:
    """BYTES: each element is its length, 4 bytes little endian, and that many bytes."""
    size = data.nbytes
    if count * 4 > size:  # before anything of `count` elements is made
        raise InvalidInput(
            f"input '{tensor}' has shape {list(shape)}, that is {count} BYTES elements of at least 4"
            f" bytes, but its binary data has {size}"
        )
    found: list[bytes] = []
    at = 0
    length_at = _LENGTH.unpack_from
    while at < size:
        if size - at < 4:
            raise InvalidInput(
                f"input '{tensor}': BYTES element {len(found)} is cut off in its length:"
                f" 4 bytes are expected, {size - at} are left"
            )
        (length,) = length_at(data, at)
        at += 4
        if length > size - at:
            raise InvalidInput(
                f"input '{tensor}': BYTES element {len(found)} has length {length}, but"
                f" {size - at} bytes are left"
            )
        found.append(bytes(data[at : at + length]))
        at += length
    if len(found) != count:
        raise InvalidInput(
            f"input '{tensor}' has shape {list(shape)}, that is {count} elements, but its binary data"
            f" has {len(found)}"
        )
    result = np.empty(count, dtype=object)
    result[:] = found
    return result.reshape(shape)


def to_binary(tensor: str, name: str, values: Array) -> memoryview | bytes:
    """The elements' raw bytes, little endian, row-major; a view of `values` where it lies like that.

    ModelError when the array cannot be `name`.
    """
    if name == "BYTES":
        parts: list[bytes] = []
        for v in elements(tensor, values):
            try:
                raw = v.encode() if isinstance(v, str) else v
            except UnicodeEncodeError:
                raise ModelError(f"output '{tensor}' has a string that is no Unicode") from None
            parts.append(_LENGTH.pack(len(raw)))
            parts.append(raw)
        return b"".join(parts)
    values = fit(tensor, name, values)
    if name == "BF16":
        values = float32_to_bf16(values)
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return values.ravel().view(np.uint8).data  # copies what is strided; reshape(-1) not all of it


def realign(body: memoryview, spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Moves parts of a writable `body` a few bytes down where their elements are not aligned.

    `spans` are (offset, bytes, element size), in order and without overlap; the new (offset, bytes) of
    each come back. Up to seven bytes before a part are overwritten, but never those of another part: a
    part without room stays where it is, as does everything in a read-only body.
    """
    address = np.frombuffer(body, np.uint8).__array_interface__["data"][0] if body.nbytes else 0
    placed: list[tuple[int, int]] = []
    free = 0
    for offset, size, element in spans:
        end = offset + size
        shift = (address + offset) % element if element > 1 else 0
        if shift and offset - shift >= free and not body.readonly:
            body[offset - shift : end - shift] = body[offset:end]
            offset -= shift
        free = end
        placed.append((offset, size))
    return placed
