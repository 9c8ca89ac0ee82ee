"""TensorFlow's TensorProto on the wire: declared here, with the numbers of TensorFlow's tensor.proto.

What it means is told in `protocols.tftensor`, in JSON's terms; protobuf's own JSON leads there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import DecodeError

from penstock.errors import InvalidInput
from penstock.protocols import tftensor

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

_PACKAGE: Final = "tensorflow"
_FIELD = descriptor_pb2.FieldDescriptorProto
#: Field, number and type of the values' lists.
_VALUES: Final = (
    ("float_val", 5, _FIELD.TYPE_FLOAT),
    ("double_val", 6, _FIELD.TYPE_DOUBLE),
    ("int_val", 7, _FIELD.TYPE_INT32),
    ("string_val", 8, _FIELD.TYPE_BYTES),
    ("int64_val", 10, _FIELD.TYPE_INT64),
    ("bool_val", 11, _FIELD.TYPE_BOOL),
    ("half_val", 13, _FIELD.TYPE_INT32),
    ("uint32_val", 16, _FIELD.TYPE_UINT32),
    ("uint64_val", 17, _FIELD.TYPE_UINT64),
)


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="tensor.proto", package=_PACKAGE, syntax="proto3"
    )
    enum = file.enum_type.add(name="DataType")
    enum.value.add(name="DT_INVALID", number=0)
    for name, number, _, _ in tftensor.DTYPES:
        enum.value.add(name=name, number=number)
    shape = file.message_type.add(name="TensorShapeProto")
    dim = shape.nested_type.add(name="Dim")
    dim.field.add(name="size", number=1, label=1, type=_FIELD.TYPE_INT64)
    dim.field.add(name="name", number=2, label=1, type=_FIELD.TYPE_STRING)
    of_dim = f".{_PACKAGE}.TensorShapeProto.Dim"
    shape.field.add(name="dim", number=2, label=3, type=_FIELD.TYPE_MESSAGE, type_name=of_dim)
    shape.field.add(name="unknown_rank", number=3, label=1, type=_FIELD.TYPE_BOOL)
    tensor = file.message_type.add(name="TensorProto")
    kind = f".{_PACKAGE}.DataType"
    tensor.field.add(name="dtype", number=1, label=1, type=_FIELD.TYPE_ENUM, type_name=kind)
    of_shape = f".{_PACKAGE}.TensorShapeProto"
    tensor.field.add(
        name="tensor_shape", number=2, label=1, type=_FIELD.TYPE_MESSAGE, type_name=of_shape
    )
    tensor.field.add(name="version_number", number=3, label=1, type=_FIELD.TYPE_INT32)
    tensor.field.add(name="tensor_content", number=4, label=1, type=_FIELD.TYPE_BYTES)
    for name, number, type_ in _VALUES:
        tensor.field.add(name=name, number=number, label=3, type=type_)
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_file().SerializeToString())
TensorProto: Final = message_factory.GetMessageClass(
    _pool.FindMessageTypeByName(f"{_PACKAGE}.TensorProto")
)


def from_bytes(data: bytes) -> Array:
    """The array of a TensorProto's bytes. Raises InvalidInput."""
    try:
        proto = TensorProto.FromString(data)
    except DecodeError:
        raise InvalidInput("'data.tftensor' is no TensorProto") from None
    return tftensor.decode(MessageToDict(proto))


def to_bytes(array: Array) -> bytes:
    """A TensorProto's bytes. ValueError for an array that it cannot hold."""
    made: bytes = ParseDict(tftensor.encode(array), TensorProto()).SerializeToString()
    return made
