"""Seldon V1's gRPC: its messages, declared here, and the way between them and `SeldonMessage`s.

Message and field numbers are those of Seldon's prediction.proto; a test compares them with Seldon's own
package, but for `tftensor`, whose bytes are read in `grpc.tftensor`. The classes live in a descriptor pool of
their own, as the inference protocol's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    struct_pb2,
)
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.grpc import tftensor
from penstock.protocols.seldon_message import (
    ARRAY_KINDS,
    Feedback,
    SeldonMessage,
    decode_object,
    feedback_of,
    message_of,
)
from penstock.protocols.v1 import encode_result, rows_of_json

PACKAGE: Final = "seldon.protos"
PREFIX: Final = f"/{PACKAGE}."

#: Service -> its methods; the first word of a method's kind is its request.
SERVICES: Final[dict[str, tuple[str, ...]]] = {
    "Seldon": ("Predict", "SendFeedback", "ModelMetadata", "GraphMetadata"),
    "Model": ("Predict", "SendFeedback", "Metadata"),
    "Generic": ("TransformInput", "TransformOutput", "Route", "Aggregate", "SendFeedback"),
    "Router": ("Route", "SendFeedback"),
    "Transformer": ("TransformInput",),
    "OutputTransformer": ("TransformOutput",),
    "Combiner": ("Aggregate",),
}
#: What is asked about a model, and about a graph.
METADATA: Final = "metadata"
GRAPH_METADATA: Final = "graph-metadata"
#: Method -> Seldon's verb.
VERBS: Final = {
    "Predict": "predict",
    "SendFeedback": "send-feedback",
    "TransformInput": "transform-input",
    "TransformOutput": "transform-output",
    "Route": "route",
    "Aggregate": "aggregate",
    "ModelMetadata": METADATA,
    "Metadata": METADATA,
    "GraphMetadata": GRAPH_METADATA,
}

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
}
_VALUE: Final = ".google.protobuf.Value"
#: Message -> (field, number, kind): a scalar, a message's name; `*` for repeated, `@` for a map of text to
#: it; `?ONEOF` after it where it is one of several.
_MESSAGES: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "Status": (("code", 1, "int32"), ("info", 2, "string"), ("reason", 3, "string"),
               ("status", 4, "Status.StatusFlag")),
    "Metric": (("key", 1, "string"), ("type", 2, "Metric.MetricType"), ("value", 3, "float"),
               ("tags", 4, "@string")),
    "Meta": (("puid", 1, "string"), ("tags", 2, f"@{_VALUE}"), ("routing", 3, "@int32"),
             ("requestPath", 4, "@string"), ("metrics", 5, "*Metric")),
    "Tensor": (("shape", 1, "*int32"), ("values", 2, "*double")),
    "DefaultData": (("names", 1, "*string"), ("tensor", 2, "Tensor?data_oneof"),
                    ("ndarray", 3, ".google.protobuf.ListValue?data_oneof"),
                    ("tftensor", 4, "bytes?data_oneof")),
    "SeldonMessage": (("status", 1, "Status"), ("meta", 2, "Meta"), ("data", 3, "DefaultData?data_oneof"),
                      ("binData", 4, "bytes?data_oneof"), ("strData", 5, "string?data_oneof"),
                      ("jsonData", 6, f"{_VALUE}?data_oneof"),
                      ("customData", 7, ".google.protobuf.Any?data_oneof")),
    "SeldonMessageList": (("seldonMessages", 1, "*SeldonMessage"),),
    "Feedback": (("request", 1, "SeldonMessage"), ("response", 2, "SeldonMessage"), ("reward", 3, "float"),
                 ("truth", 4, "SeldonMessage")),
    "SeldonModelMetadataRequest": (("name", 1, "string"),),
    "SeldonMessageMetadata": (("messagetype", 1, "string"), ("schema", 2, _VALUE), ("name", 3, "string"),
                              ("datatype", 4, "string"), ("shape", 5, "*int64")),
    "SeldonModelMetadata": (("name", 1, "string"), ("versions", 2, "*string"), ("platform", 3, "string"),
                            ("inputs", 4, "*SeldonMessageMetadata"),
                            ("outputs", 5, "*SeldonMessageMetadata"), ("custom", 6, "@string")),
    "SeldonGraphMetadata": (("name", 1, "string"), ("models", 2, "@SeldonModelMetadata"),
                            ("inputs", 3, "*SeldonMessageMetadata"),
                            ("outputs", 4, "*SeldonMessageMetadata")),
}  # fmt: skip
_ENUMS: Final = {
    "Status": ("StatusFlag", ("SUCCESS", "FAILURE")),
    "Metric": ("MetricType", ("COUNTER", "GAUGE", "TIMER")),
}


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="prediction.proto", package=PACKAGE, syntax="proto3"
    )
    file.dependency.extend(["google/protobuf/struct.proto", "google/protobuf/any.proto"])
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ENUMS:
            kind, values = _ENUMS[name]
            enum = message.enum_type.add(name=kind)
            for number, value in enumerate(values):
                enum.value.add(name=value, number=number)
        for field, number, kind in fields:
            kind, _, oneof = kind.partition("?")
            repeated = kind[:1] in ("*", "@")
            made = message.field.add(
                name=field,
                number=number,
                label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
            )
            if kind.startswith("@"):
                entry = message.nested_type.add(name=field[0].upper() + field[1:] + "Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=_FIELD.TYPE_STRING)
                _typed(entry.field.add(name="value", number=2, label=1), kind[1:])
                made.type = _FIELD.TYPE_MESSAGE
                made.type_name = f".{PACKAGE}.{name}.{entry.name}"
            else:
                _typed(made, kind.lstrip("*"))
            if oneof:
                if not message.oneof_decl:
                    message.oneof_decl.add(name=oneof)
                made.oneof_index = 0
    return file


def _typed(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = (
        _FIELD.TYPE_ENUM if "." in kind.strip(".") and kind[0] != "." else _FIELD.TYPE_MESSAGE
    )
    field.type_name = kind if kind.startswith(".") else f".{PACKAGE}.{kind}"


#: The file, as reflection would give it.
FILE: Final = _file()
_pool = descriptor_pool.DescriptorPool()
for _needed in (struct_pb2, any_pb2):
    _pool.AddSerializedFile(_needed.DESCRIPTOR.serialized_pb)
_pool.AddSerializedFile(FILE.SerializeToString())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


MessageProto: Final = _class("SeldonMessage")
ListProto: Final = _class("SeldonMessageList")
FeedbackProto: Final = _class("Feedback")
AboutRequestProto: Final = _class("SeldonModelMetadataRequest")
ModelAboutProto: Final = _class("SeldonModelMetadata")
GraphAboutProto: Final = _class("SeldonGraphMetadata")


def verb_of(path: str) -> str:
    """Seldon's verb that a method's path means; empty for a path of no such method."""
    if not path.startswith(PREFIX):
        return ""
    service, _, method = path[len(PREFIX) :].partition("/")
    return VERBS[method] if method in SERVICES.get(service, ()) else ""


def parse(verb: str, message: Any) -> list[SeldonMessage] | Feedback:
    """What a call of a verb says. InvalidInput."""
    kind = {"aggregate": ListProto, "send-feedback": FeedbackProto}.get(verb, MessageProto)
    proto = _read(kind, message)
    if verb == "aggregate":
        return [from_proto(m) for m in proto.seldonMessages]
    if verb == "send-feedback":
        return _feedback(proto)
    return [from_proto(proto)]


def _read(kind: Any, message: Any) -> Any:
    try:
        return kind.FromString(bytes(message))
    except DecodeError:
        raise InvalidInput("The message is no protobuf of this call.") from None


def from_proto(proto: Any) -> SeldonMessage:
    """A protobuf SeldonMessage as a message. InvalidInput."""
    meta = _meta(proto.meta)
    which = proto.WhichOneof("data_oneof")
    if which == "data":
        data = proto.data
        kind = data.WhichOneof("data_oneof")
        names = list(data.names)
        if kind == "tensor":
            values = np.array(data.tensor.values, dtype=np.float64)
            shape = tuple(data.tensor.shape) or (values.size,)
            if any(n < 0 for n in shape) or prod(shape) != values.size:
                raise InvalidInput(
                    f"'data.tensor' has {values.size} values, its shape is {list(shape)}"
                )
            return SeldonMessage(values.reshape(shape), kind, names, meta)
        if kind == "ndarray":
            document = {
                "data": {"names": names, "ndarray": [_plain(v) for v in data.ndarray.values]}
            }
            found = message_of(document)
            found.meta = meta
            return found
        if kind == "tftensor":
            return SeldonMessage(tftensor.from_bytes(data.tftensor), kind, names, meta)
        raise InvalidInput("'data' must have one of ndarray, tensor, tftensor")
    if which == "binData":
        return SeldonMessage(proto.binData, which, (), meta)
    if which == "strData":
        return SeldonMessage(proto.strData, which, (), meta)
    if which == "jsonData":
        return SeldonMessage(_plain(proto.jsonData), which, (), meta)
    if which == "customData":
        raise InvalidInput("'customData' is not supported; send data, strData, binData or jsonData")
    raise InvalidInput("the request must have one of data, strData, binData, jsonData")


def _plain(value: Any) -> Any:
    """A protobuf Value as Python's. Unlike protobuf's own way this takes NaN, which is a missing number."""
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [_plain(v) for v in value.list_value.values]
    if kind == "struct_value":
        return {k: _plain(v) for k, v in value.struct_value.fields.items()}
    return None if kind in (None, "null_value") else getattr(value, kind)


def _meta(proto: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if proto.puid:
        meta["puid"] = proto.puid
    if proto.tags:
        meta["tags"] = {k: _plain(v) for k, v in proto.tags.items()}
    if proto.routing:
        meta["routing"] = dict(proto.routing)
    if proto.requestPath:
        meta["requestPath"] = dict(proto.requestPath)
    if proto.metrics:
        kinds = _ENUMS["Metric"][1]
        meta["metrics"] = [
            {
                "key": m.key,
                "type": kinds[m.type] if m.type < len(kinds) else kinds[0],
                "value": m.value,
                **({"tags": dict(m.tags)} if m.tags else {}),
            }
            for m in proto.metrics
        ]
    return meta


def _feedback(proto: Any) -> Feedback:
    """A protobuf Feedback; what is not set is not there."""
    document: dict[str, Any] = {"reward": proto.reward}
    for name in ("request", "response", "truth"):
        if proto.HasField(name):
            part = getattr(proto, name)
            if part.WhichOneof("data_oneof") is None:
                document[name] = {"meta": _meta(part.meta)}
            else:
                document[name] = from_proto(part).document()
    return feedback_of(document)


def asked_about(message: Any) -> str:
    """The model that a call for metadata names; empty: the only one. InvalidInput."""
    name: str = _read(AboutRequestProto, message).name
    return name


def about_model(known: Mapping[str, Any]) -> Any:
    """A model's metadata, from what REST says. What the message has no field for goes into `custom`."""
    names = {f.name for f in ModelAboutProto.DESCRIPTOR.fields}
    document = {k: v for k, v in known.items() if k in names}
    custom = {**{k: v for k, v in known.items() if k not in names}, **(known.get("custom") or {})}
    document["custom"] = {str(k): str(v) for k, v in custom.items()}
    return _parsed(document, ModelAboutProto())


def about_graph(name: str, models: Mapping[str, Mapping[str, Any]]) -> Any:
    """A graph's metadata: that of each of its nodes."""
    made = GraphAboutProto(name=name)
    for node, known in models.items():
        made.models[node].CopyFrom(about_model(known))
    return made


def _parsed(document: dict[str, Any], proto: Any) -> Any:
    try:
        return ParseDict(document, proto, ignore_unknown_fields=True)
    except (ParseError, TypeError, ValueError) as exc:
        raise ModelError(f"the metadata cannot be written as protobuf: {exc}") from exc


def to_proto(message: SeldonMessage) -> Any:
    """A message as a protobuf SeldonMessage. ModelError for what it cannot hold."""
    proto = MessageProto()
    try:
        _fill_meta(proto.meta, message.meta)
        if message.kind in ARRAY_KINDS:
            array = message.value
            proto.data.names.extend(message.names)
            if message.kind == "tftensor":
                proto.data.tftensor = tftensor.to_bytes(array)
            elif message.kind == "tensor":
                proto.data.tensor.shape.extend(array.shape)
                proto.data.tensor.values.extend(array.ravel().tolist())
            else:
                ParseDict(rows_of_json(array), proto.data.ndarray)
        elif message.kind == "binData":
            proto.binData = message.value
        elif message.kind == "strData":
            proto.strData = message.value
        elif message.kind == "jsonData":
            # By way of JSON, which knows numpy's numbers.
            ParseDict(decode_object(encode_result({"": message.value}))[""], proto.jsonData)
    except (ParseError, TypeError, ValueError) as exc:
        raise ModelError(f"the answer cannot be written as protobuf: {exc}") from exc
    return proto


def _fill_meta(proto: Any, meta: Any) -> None:
    proto.puid = meta.get("puid") or ""
    for key, value in (meta.get("tags") or {}).items():
        ParseDict(value, proto.tags[str(key)])
    for key, value in (meta.get("routing") or {}).items():
        proto.routing[str(key)] = value
    for key, value in (meta.get("requestPath") or {}).items():
        proto.requestPath[str(key)] = str(value)
    kinds = _ENUMS["Metric"][1]
    for metric in meta.get("metrics") or ():
        made = proto.metrics.add(
            key=metric["key"], type=kinds.index(metric["type"]), value=float(metric["value"])
        )
        for key, value in (metric.get("tags") or {}).items():
            made.tags[str(key)] = str(value)
