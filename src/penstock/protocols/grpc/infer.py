"""ModelInfer's messages as arrays, and arrays as its answers.

protobuf's C decoder reads the request; raw tensors become views of what it hands out. An answer with raw
tensors is put together from remembered pieces and the arrays' own memory: protobuf allows fields in any
order and in several pieces, so only the tensors differ from answer to answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import InvalidInput, ModelError, Unsupported
from penstock.protocols.binary_tensors import from_binary, to_binary
from penstock.protocols.classification import Classes, class_count, classified
from penstock.protocols.datatypes import count_of, datatype, datatype_of
from penstock.protocols.grpc.schema import ModelInferRequest, ModelInferResponse, parse
from penstock.protocols.grpc.wire import varint
from penstock.protocols.infer import InferRequest, InferResponse, RequestedOutput
from penstock.protocols.shared_memory import Place, SharedMemory, expected, place, taken

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array

#: Which list of `InferTensorContents` holds a datatype's elements. FP16 and BF16 have none: raw only.
CONTENTS: Final = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_NARROW: Final = frozenset({"INT8", "INT16", "UINT8", "UINT16"})
#: Answers' first pieces remembered.
_MAX_HEADS: Final = 4096
_heads: dict[tuple[Any, ...], bytes] = {}


def parameters_of(entries: Any) -> dict[str, Any]:
    """A map of parameters as Python values."""
    found: dict[str, Any] = {}
    for name, value in entries.items():
        which = value.WhichOneof("parameter_choice")
        if which is None:
            raise InvalidInput(f"the parameter '{name}' has no value")
        found[name] = getattr(value, which)
    return found


def decode_infer(
    message: Buffer,
    model_name: str = "",
    model_version: str = "",
    memory: SharedMemory | None = None,
) -> InferRequest:
    """The request in a ModelInferRequest. Tensors in shared memory are in `memory`.

    `binary_output` is true where an input was raw or in shared memory: then the answer is too. Raises
    InvalidInput, Unsupported, and NotFound for a region.
    """
    request = parse(ModelInferRequest, message)
    tensors = request.inputs
    if not tensors:
        raise InvalidInput("the request has no inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(tensors):
        _check_count(tensors, len(raw))
    inputs: dict[str, Array] = {}
    datatypes: dict[str, str] = {}
    input_parameters: dict[str, dict[str, Any]] = {}
    shared = 0
    for i, tensor in enumerate(tensors):
        name = tensor.name
        if name in inputs:
            raise InvalidInput(f"input '{name}' is given twice")
        kind = tensor.datatype
        datatypes[name] = kind
        shape = list(tensor.shape)
        for size in shape:
            if size < 0:
                raise InvalidInput(f"input '{name}' has shape {shape}, with a negative size")
        if tensor.parameters:
            found = input_parameters[name] = parameters_of(tensor.parameters)
            if "shared_memory_region" in found:
                inputs[name] = _from_memory(tensor, shape, found, memory)
                shared += 1  # it has no raw contents
                continue
        if raw:
            if tensor.HasField("contents") and tensor.contents.ListFields():
                raise InvalidInput(
                    f"input '{name}' has contents beside the request's raw_input_contents; one of"
                    " them is expected"
                )
            inputs[name] = from_binary(name, kind, shape, memoryview(raw[i - shared]))
        else:
            inputs[name] = _typed(name, kind, shape, tensor.contents)
    outputs = tuple(_requested(o) for o in request.outputs)
    for o in outputs:
        if "shared_memory_region" in o.parameters:
            expected(memory, o.parameters, f"output '{o.name}'")
    return InferRequest(
        inputs,
        datatypes,
        outputs or None,
        request.id or None,
        model_name or request.model_name,
        model_version or request.model_version,
        parameters_of(request.parameters) if request.parameters else {},
        input_parameters,
        bool(raw) or shared > 0,
        memory,
    )


def _requested(output: Any) -> RequestedOutput:
    if not output.parameters:
        return RequestedOutput(output.name)
    parameters = parameters_of(output.parameters)
    return RequestedOutput(output.name, None, parameters, class_count(parameters, output.name))


def _check_count(tensors: Any, raw: int) -> None:
    """InvalidInput unless there is one raw content for each input that is not in shared memory."""
    shared = sum("shared_memory_region" in tensor.parameters for tensor in tensors)
    if raw != len(tensors) - shared:
        raise InvalidInput(f"the request has {len(tensors)} inputs, but {raw} raw_input_contents")


def _from_memory(
    tensor: Any, shape: Sequence[int], parameters: Mapping[str, Any], memory: SharedMemory | None
) -> Array:
    what = f"input '{tensor.name}'"
    if tensor.HasField("contents") and tensor.contents.ListFields():
        raise InvalidInput(
            f"{what} has both contents and a shared_memory_region; one of them is expected"
        )
    return from_binary(tensor.name, tensor.datatype, shape, taken(memory, parameters, what))


def _typed(name: str, kind: str, shape: Sequence[int], contents: Any) -> Array:
    """A tensor's typed contents as an array."""
    described = datatype(kind, name)
    count = count_of(shape, f"input '{name}'")
    wanted = CONTENTS.get(kind)
    if wanted is None:
        raise InvalidInput(
            f"input '{name}' has datatype {kind}, which has no typed contents.",
            hint="Send it in raw_input_contents.",
        )
    for field, _ in contents.ListFields():
        if field.name != wanted:
            raise InvalidInput(
                f"input '{name}' has datatype {kind}, whose elements belong into {wanted}, not"
                f" {field.name}"
            )
    values = getattr(contents, wanted)
    if len(values) != count:
        raise InvalidInput(
            f"input '{name}' has shape {list(shape)}, that is {count} elements, but its contents"
            f" have {len(values)}"
        )
    if kind == "BYTES":
        objects = np.empty(count, dtype=object)
        objects[:] = list(values)
        return objects.reshape(shape)
    if kind in _NARROW:
        wide = np.fromiter(values, np.int64, count)
        narrow: Array = wide.astype(described.dtype)
        if not np.array_equal(narrow, wide):
            raise InvalidInput(f"input '{name}' has a value that {kind} cannot hold")
        return narrow.reshape(shape)
    return np.fromiter(values, described.dtype, count).reshape(shape)


def encode_infer(
    response: InferResponse, request: InferRequest, classes: Mapping[str, Classes] | None = None
) -> list[Buffer]:
    """The framed ModelInferResponse, in pieces. Raises InvalidInput, ModelError.

    `classes` is what is known of outputs whose top classes may be asked for.
    Raw tensors where the request's were, or where an output's datatype has no typed contents.
    """
    model = response.model_name or request.model_name
    version = response.model_version or request.model_version
    if request.outputs is not None:
        response = classified(response, request, classes)
    outputs = response.outputs
    declared = response.datatypes
    shared: dict[str, Place] = {}
    if request.outputs is None:
        chosen: Sequence[str] = list(outputs)
    else:
        chosen = [o.name for o in request.outputs]
        for o in request.outputs:
            if o.name not in outputs:
                raise InvalidInput(
                    f"unexpected inference output '{o.name}' for model '{model}'.",
                    hint=f"Its outputs are {', '.join(repr(n) for n in outputs)}.",
                )
            where = place(o.parameters, o.name) if o.parameters else None
            if where is not None:
                shared[o.name] = where
    kinds = {n: (declared and declared.get(n)) or datatype_of(outputs[n], n) for n in chosen}
    raw = request.binary_output or any(k not in CONTENTS for k in kinds.values())
    identity = response.id if response.id is not None else request.id
    if shared or (raw and response.output_parameters):
        return _frame(
            _described_answer(response, request, (model, version, identity or ""), kinds, shared)
        )
    if not raw:
        return _frame([_typed_answer(response, model, version, identity, kinds)])
    key = (model, version, *((n, kinds[n], outputs[n].shape) for n in chosen))
    head = _heads.get(key) or _head(key)
    pieces: list[Buffer] = [head]
    if identity:
        text = identity.encode()
        pieces.append(b"\x1a%b%b" % (varint(len(text)), text))
    if response.parameters:
        pieces.append(_parameters(response.parameters))
    for name in chosen:
        data = to_binary(name, kinds[name], outputs[name])
        pieces += (b"\x32" + varint(len(data)), data)
    return _frame(pieces)


def _frame(pieces: list[Buffer]) -> list[Buffer]:
    size = sum([len(p) for p in pieces])
    if size >= 1 << 32:
        raise ModelError("The model's answer is too large for one message.")
    pieces.insert(0, b"\0" + size.to_bytes(4, "big"))
    return pieces


def _head(key: tuple[Any, ...]) -> bytes:
    """Everything of a raw answer that is not a tensor's bytes."""
    message = ModelInferResponse(model_name=key[0], model_version=key[1])
    for name, kind, shape in key[2:]:
        message.outputs.add(name=name, datatype=kind, shape=shape)
    made: bytes = message.SerializeToString()
    if len(_heads) >= _MAX_HEADS:
        _heads.clear()
    _heads[key] = made
    return made


def _set_parameters(entries: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            entries[name].bool_param = value
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**64:
                raise ModelError(f"The answer's parameter {name!r} is too large a number.")
            if value < 2**63:
                entries[name].int64_param = value
            else:
                entries[name].uint64_param = value
        elif isinstance(value, float):
            entries[name].double_param = value
        else:
            entries[name].string_param = value if isinstance(value, str) else str(value)


def _parameters(parameters: Mapping[str, Any]) -> bytes:
    message = ModelInferResponse()
    _set_parameters(message.parameters, parameters)
    made: bytes = message.SerializeToString()
    return made


def _described_answer(
    response: InferResponse,
    request: InferRequest,
    identity: tuple[str, str, str],
    kinds: Mapping[str, str],
    shared: Mapping[str, Place],
) -> list[Buffer]:
    """An answer some of whose tensors go into shared memory, or have parameters; the others go raw.

    There is a raw content for each output, and it is empty for one that went there.
    """
    memory = request.memory
    if shared and memory is None:
        raise Unsupported("Outputs in shared memory are not served.")
    message = ModelInferResponse(model_name=identity[0], model_version=identity[1], id=identity[2])
    _set_parameters(message.parameters, response.parameters)
    for name, kind in kinds.items():
        values = response.outputs[name]
        tensor = message.outputs.add(name=name, datatype=kind, shape=values.shape)
        _set_parameters(tensor.parameters, response.output_parameters.get(name, {}))
        data = to_binary(name, kind, values)
        where = shared.get(name)
        if where is None or memory is None:
            message.raw_output_contents.append(bytes(data))
            continue
        memory.write(where, data, f"output '{name}'")
        tensor.parameters["shared_memory_region"].string_param = where.region
        tensor.parameters["shared_memory_byte_size"].int64_param = len(data)
        tensor.parameters["shared_memory_offset"].int64_param = where.offset
        message.raw_output_contents.append(b"")
    return [message.SerializeToString()]


def _typed_answer(
    response: InferResponse,
    model: str,
    version: str,
    identity: str | None,
    kinds: Mapping[str, str],
) -> bytes:
    message = ModelInferResponse(model_name=model, model_version=version, id=identity or "")
    if response.parameters:
        _set_parameters(message.parameters, response.parameters)
    for name, kind in kinds.items():
        values = response.outputs[name]
        tensor = message.outputs.add(name=name, datatype=kind, shape=values.shape)
        if response.output_parameters:
            _set_parameters(tensor.parameters, response.output_parameters.get(name, {}))
        # By way of the raw bytes, which do all the checking and casting.
        data = memoryview(to_binary(name, kind, values))
        flat = from_binary(name, kind, (values.size,), data)
        getattr(tensor.contents, CONTENTS[kind]).extend(flat.tolist())
    made: bytes = message.SerializeToString()
    return made


def decode_answer(message: Buffer) -> tuple[dict[str, Array], Any]:
    """A ModelInferResponse's outputs as arrays, and the message; for tests and clients."""
    answer = parse(ModelInferResponse, message)
    outputs: dict[str, Array] = {}
    for i, tensor in enumerate(answer.outputs):
        if answer.raw_output_contents:
            data = memoryview(answer.raw_output_contents[i])
            outputs[tensor.name] = from_binary(tensor.name, tensor.datatype, tensor.shape, data)
        else:
            outputs[tensor.name] = _typed(
                tensor.name, tensor.datatype, tensor.shape, tensor.contents
            )
    return outputs, answer
