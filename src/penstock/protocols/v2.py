"""V2, the Open Inference Protocol over REST: request bodies in, response bodies out.

JSON, and JSON followed by raw tensors (the binary tensor data extension: the header
`Inference-Header-Content-Length` says where the JSON ends). A decoded request goes to the batcher, the
model's answer comes back through `encode_infer`. Everything that does not add up is an `InvalidInput`
that says what was expected and what was found; nothing of the caller's data is repeated in it.

A JSON request for four numbers costs about two microseconds here, its answer one: typed decoding with
msgspec, and responses joined from cached pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from penstock.errors import InvalidInput
from penstock.protocols.binary_tensors import from_binary, realign, to_binary
from penstock.protocols.classification import PARAMETER as CLASSIFICATION
from penstock.protocols.classification import Classes, class_count, classified
from penstock.protocols.codecs import KEY as CONTENT_TYPE
from penstock.protocols.codecs import read_json
from penstock.protocols.datatypes import DATATYPES, datatype, datatype_of
from penstock.protocols.errors import error_body
from penstock.protocols.infer import InferRequest, InferResponse, RequestedOutput
from penstock.protocols.json_faults import JSON_FAULTS, json_fault
from penstock.protocols.json_tensors import from_json, to_json
from penstock.protocols.shared_memory import Place, SharedMemory, expected, place, taken

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array, TensorSpec

__all__ = ["decode_infer", "decode_raw", "encode_infer", "error_body", "parse_header_length"]

JSON_HEADERS: Final = b"content-type: application/json\r\n"
_BINARY_HEADERS: Final = (
    b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
)
_NOTHING: Final[Mapping[str, Any]] = {}
#: Response pieces remembered; a server has few models and few shapes, so this is seldom full.
_MAX_CACHED: Final = 4096


class _Input(msgspec.Struct):
    name: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def parse_header_length(value: bytes | str | None, body_size: int) -> int | None:
    """The header `Inference-Header-Content-Length` as a number; None when it is absent.

    InvalidInput when it is no number or points past the body.
    """
    if value is None:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    text = text.strip(" \t")
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidInput(
            "Inference-Header-Content-Length is no number: the bytes of JSON before the tensors are"
            " expected"
        )
    length = int(text)
    if length > body_size:
        raise InvalidInput(
            f"Inference-Header-Content-Length is {length}, but the body has {body_size} bytes"
        )
    return length


def decode_infer(
    body: Buffer,
    header_length: int | None = None,
    model_name: str = "",
    model_version: str = "",
    specs: Sequence[TensorSpec] = (),
    memory: SharedMemory | None = None,
) -> InferRequest:
    """The request in `body`, its first `header_length` bytes JSON (None: all of it).

    A `header_length` of 0 is a raw binary request: the body is the data of the model's only input, and
    `specs`, the model's inputs, say which (see `decode_raw`).

    Binary inputs are views of `body`, which has to stay as it is while they are used; in a writable
    `body` tensors may be moved a few bytes to be aligned. Tensors in shared memory are in `memory`.
    Raises InvalidInput, and NotFound or Unsupported for a region.
    """
    if header_length == 0:
        return decode_raw(body, _only(specs), model_name, model_version)
    text = body if header_length is None else _json_part(body, header_length)
    try:
        request = _decode_request(text)
    except JSON_FAULTS as e:
        raise json_fault(e, text) from None
    if not request.inputs:
        raise InvalidInput("the request has no inputs")

    inputs: dict[str, Array] = {}
    datatypes: dict[str, str] = {}
    input_parameters: dict[str, dict[str, Any]] = {}
    binary: list[tuple[_Input, int]] = []
    whole = request.parameters.get(CONTENT_TYPE) if request.parameters else None
    for tensor in request.inputs:
        name = tensor.name
        if name in datatypes:
            raise InvalidInput(f"input '{name}' is given twice")
        datatypes[name] = tensor.datatype
        shape = tensor.shape
        parameters = tensor.parameters
        if parameters:
            input_parameters[name] = parameters
            if "binary_data_size" in parameters:
                binary.append((tensor, _binary_size(tensor, parameters["binary_data_size"])))
                inputs[name] = _PENDING  # keeps the order of the wire
                continue
            if "shared_memory_region" in parameters:
                inputs[name] = _from_memory(tensor, parameters, memory)
                continue
        if tensor.data is msgspec.UNSET:
            raise _no_data(name)
        if whole is not None or (parameters and CONTENT_TYPE in parameters):
            kind = parameters.get(CONTENT_TYPE) if parameters else None
            inputs[name] = read_json(name, tensor.datatype, shape, tensor.data, kind)
            continue
        inputs[name] = from_json(name, tensor.datatype, shape, tensor.data)

    if header_length is not None:
        _take_binary(memoryview(body), header_length, binary, inputs)
    elif binary:
        raise _no_header_length(binary[0][0].name)

    parameters = request.parameters
    outputs = request.outputs
    return InferRequest(
        inputs,
        datatypes,
        _requested(outputs, memory) if outputs else None,
        request.id,
        model_name,
        model_version,
        parameters or {},
        input_parameters,
        _flag(parameters, "binary_data_output", "the request") if parameters else False,
        memory,
    )


def decode_raw(
    body: Buffer, spec: TensorSpec, model_name: str = "", model_version: str = ""
) -> InferRequest:
    """A raw binary request (`Inference-Header-Content-Length: 0`): `body` is the input `spec`'s data.

    One size of its shape may be open; it follows from the number of bytes. BYTES take the whole body as
    one element. The answer is binary too. Raises InvalidInput.
    """
    kind = datatype(spec.datatype, spec.name)
    array: Array
    shape = list(spec.shape)
    view = memoryview(body)
    if not kind.size:
        if any(size not in (1, -1) for size in shape):
            raise InvalidInput(
                f"input '{spec.name}' has shape {shape}; a raw binary request carries one BYTES element"
            )
        length = len(body).to_bytes(4, "little")
        array = from_binary(
            spec.name, spec.datatype, [1] * len(shape), memoryview(length + bytes(body))
        )
    else:
        if shape.count(-1) > 1:
            raise InvalidInput(
                f"input '{spec.name}' has shape {shape}; a raw binary request leaves one size open at"
                " most"
            )
        if -1 in shape:
            row = kind.size
            for size in shape:
                row *= 1 if size == -1 else size
            if row == 0 or view.nbytes % row:
                raise InvalidInput(
                    f"input '{spec.name}' has shape {shape} and datatype {kind.name}: a multiple of"
                    f" {row} bytes is expected, the body has {view.nbytes}"
                )
            shape[shape.index(-1)] = view.nbytes // row
        array = from_binary(spec.name, spec.datatype, shape, view)
    return InferRequest(
        {spec.name: array},
        {spec.name: spec.datatype},
        None,
        None,
        model_name,
        model_version,
        binary_output=True,
    )


_PENDING: Final[Any] = None


def _only(specs: Sequence[TensorSpec]) -> TensorSpec:
    """The input that a raw binary request is the data of."""
    if len(specs) != 1:
        raise InvalidInput(
            "a raw binary request (Inference-Header-Content-Length: 0) needs a model that"
            f" declares one input; it declares {len(specs)}"
        )
    return specs[0]


def _json_part(body: Buffer, length: int) -> Buffer:
    """The JSON in front of binary tensors."""
    if length < 0 or length > len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes"
        )
    return memoryview(body)[:length]


def _no_data(name: str) -> InvalidInput:
    return InvalidInput(
        f"input '{name}' has no data: 'data', or 'binary_data_size' in its parameters, is expected"
    )


def _no_header_length(name: str) -> InvalidInput:
    return InvalidInput(
        f"input '{name}' has a binary_data_size, but the request has no"
        " Inference-Header-Content-Length"
    )


def _from_memory(
    tensor: _Input, parameters: Mapping[str, Any], memory: SharedMemory | None
) -> Array:
    what = f"input '{tensor.name}'"
    if memory is not None and tensor.data is not msgspec.UNSET:
        raise InvalidInput(
            f"{what} has both data and a shared_memory_region; one of them is expected"
        )
    return from_binary(tensor.name, tensor.datatype, tensor.shape, taken(memory, parameters, what))


def _binary_size(tensor: _Input, size: Any) -> int:
    if tensor.data is not msgspec.UNSET:
        raise InvalidInput(
            f"input '{tensor.name}' has both data and a binary_data_size; one of them is expected"
        )
    if type(size) is not int or size < 0:
        raise InvalidInput(
            f"input '{tensor.name}': binary_data_size is a number of bytes, 0 or more"
        )
    return size


def _take_binary(
    body: memoryview,
    header_length: int,
    binary: list[tuple[_Input, int]],
    inputs: dict[str, Array],
) -> None:
    """Puts the tensors that follow the JSON into `inputs`."""
    available = body.nbytes - header_length
    wanted = sum(size for _, size in binary)
    if wanted != available:
        raise InvalidInput(
            f"the inputs' binary_data_size add up to {wanted} bytes, but {available} bytes follow the"
            " JSON"
        )
    at = header_length
    spans: list[tuple[int, int, int]] = []
    for tensor, size in binary:
        kind = DATATYPES.get(tensor.datatype) or datatype(tensor.datatype, tensor.name)
        spans.append((at, size, kind.dtype.itemsize if kind.size == kind.dtype.itemsize else 1))
        at += size
    for (tensor, _), (offset, size) in zip(binary, realign(body, spans), strict=True):
        inputs[tensor.name] = from_binary(
            tensor.name, tensor.datatype, tensor.shape, body[offset : offset + size]
        )


def _requested(outputs: list[_Output], memory: SharedMemory | None) -> tuple[RequestedOutput, ...]:
    found: dict[str, RequestedOutput] = {}
    for o in outputs:
        if o.name in found:
            raise InvalidInput(f"output '{o.name}' is requested twice")
        parameters = o.parameters
        if not parameters:
            found[o.name] = RequestedOutput(o.name)
            continue
        if "shared_memory_region" in parameters:
            expected(memory, parameters, f"output '{o.name}'")
        binary = (
            _flag(parameters, "binary_data", f"output '{o.name}'")
            if "binary_data" in parameters
            else None
        )
        classes = class_count(parameters, o.name) if CLASSIFICATION in parameters else 0
        found[o.name] = RequestedOutput(o.name, binary, parameters, classes)
    return tuple(found.values())


def _flag(parameters: Mapping[str, Any], key: str, where: str) -> bool:
    value = parameters.get(key, False)
    if type(value) is not bool:
        raise InvalidInput(f"{where}: the parameter {key} is true or false")
    return value


# ------------------------------------------------------------------------------------------- response

_heads: dict[tuple[str, str], bytes] = {}
_tensor_heads: dict[tuple[str, str, tuple[int, ...]], bytes] = {}


def encode_infer(
    response: InferResponse, request: InferRequest, classes: Mapping[str, Classes] | None = None
) -> tuple[bytes, list[Buffer]]:
    """Rendered header lines, and the body as buffers to be sent one after the other.

    `classes` is what is known of outputs whose top classes may be asked for.
    Buffers are views of the outputs' memory where they are binary and contiguous. Names, version and id
    that `response` leaves open are the request's. Raises InvalidInput for an output that does not exist
    or cannot be had as JSON, ModelError for one that cannot be sent at all.
    """
    if request.outputs is not None:
        response = classified(response, request, classes)
    outputs = response.outputs
    model = response.model_name or request.model_name
    version = response.model_version or request.model_version
    pieces: list[bytes] = [_heads.get((model, version)) or _head(model, version)]
    identity = response.id if response.id is not None else request.id
    if identity is not None:
        pieces += (b',"id":', _encode(identity))
    if response.parameters:
        pieces += (b',"parameters":', _encode(response.parameters))

    declared = response.datatypes
    blobs: list[Buffer] = []
    before = b',"outputs":['
    said = response.output_parameters
    if request.outputs is None and not request.binary_output and not said:
        for name, values in outputs.items():
            dtype = (declared and declared.get(name)) or datatype_of(values, name)
            key = (name, dtype, values.shape)
            head = _tensor_heads.get(key) or _tensor_head(*key)
            pieces += (before, head, b',"data":', to_json(name, dtype, values))
            before = b"},"
    else:
        for name, binary, where in _chosen(outputs, request, model):
            values = outputs[name]
            dtype = declared.get(name) or datatype_of(values, name)
            key = (name, dtype, values.shape)
            head = _tensor_heads.get(key) or _tensor_head(*key)
            more = said.get(name) if said else None
            if where is not None and request.memory is not None:
                blob = to_binary(name, dtype, values)
                request.memory.write(where, blob, f"output '{name}'")
                pieces += (before, head, b',"parameters":', _written(where, len(blob), more))
            elif binary:
                blob = to_binary(name, dtype, values)
                pieces += (before, head, b',"parameters":{"binary_data_size":%d' % len(blob))
                pieces.append(b"," + _encode(more)[1:] if more else b"}")
                blobs.append(blob)
            else:
                if more:
                    head = b'%b,"parameters":%b' % (head, _encode(more))
                pieces += (before, head, b',"data":', to_json(name, dtype, values))
            before = b"},"
    pieces.append(b"}]}" if outputs else b',"outputs":[]}')
    text = b"".join(pieces)
    if not blobs:
        return JSON_HEADERS, [text]
    return _BINARY_HEADERS % len(text), [text, *blobs]


def _chosen(
    outputs: Mapping[str, Array], request: InferRequest, model: str
) -> Sequence[tuple[str, bool, Place | None]]:
    """Names of the outputs to send, in order, whether each goes as binary, and where else it goes."""
    default = request.binary_output
    if request.outputs is None:
        return [(name, default, None) for name in outputs]
    chosen: list[tuple[str, bool, Place | None]] = []
    for o in request.outputs:
        if o.name not in outputs:
            known = ", ".join(f"'{n}'" for n in outputs)
            raise InvalidInput(
                f"unexpected inference output '{o.name}' for model '{model}'.",
                hint=f"Its outputs are {known}.",
            )
        where = place(o.parameters, o.name) if o.parameters else None
        chosen.append((o.name, default if o.binary is None else o.binary, where))
    return chosen


def _written(where: Place, size: int, more: Mapping[str, Any] | None) -> bytes:
    """Parameters of an output that was put into shared memory: it has no data in the answer."""
    return _encode(
        {
            **(more or {}),
            "shared_memory_region": where.region,
            "shared_memory_byte_size": size,
            "shared_memory_offset": where.offset,
        }
    )


def _head(model: str, version: str) -> bytes:
    head = b'{"model_name":' + _encode(model)
    if version:
        head += b',"model_version":' + _encode(version)
    if len(_heads) >= _MAX_CACHED:
        _heads.clear()
    _heads[model, version] = head
    return head


def _tensor_head(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    head = b'{"name":%b,"shape":%b,"datatype":%b' % (
        _encode(name),
        _encode(shape),
        _encode(dtype),
    )
    if len(_tensor_heads) >= _MAX_CACHED:
        _tensor_heads.clear()
    _tensor_heads[name, dtype, shape] = head
    return head
