"""V2's other half: request bodies out, response bodies in, for those who ask a model.

The wire is the one that `v2` describes. A response that does not hold together is the server's fault, so
what is wrong with it is a `ModelError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import InvalidInput, ModelError
from penstock.protocols import v2_layouts
from penstock.protocols.binary_tensors import from_binary, to_binary
from penstock.protocols.datatypes import datatype_of
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.json_faults import JSON_FAULTS
from penstock.protocols.json_tensors import from_json, to_json

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Response(msgspec.Struct):
    outputs: list[_Output]
    model_name: str = ""
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


_decode_response = msgspec.json.Decoder(_Response).decode
_encode = msgspec.json.Encoder().encode


def encode_request(
    request: InferRequest, *, binary: bool = True
) -> tuple[int | None, list[Buffer]]:
    """The JSON's length where tensors follow it (else None), and the body as buffers.

    `binary` sends inputs as raw tensors, views of their memory; otherwise they are JSON. Datatypes that
    `request` leaves out follow from the dtypes. Raises InvalidInput for what cannot be sent.
    """
    document: dict[str, Any] = {}
    if request.id is not None:
        document["id"] = request.id
    parameters = dict(request.parameters)
    if request.binary_output:
        parameters["binary_data_output"] = True
    if parameters:
        document["parameters"] = parameters
    inputs: list[dict[str, Any]] = []
    blobs: list[Buffer] = []
    for name, values in request.inputs.items():
        try:
            kind = request.datatypes.get(name) or datatype_of(values, name)
            tensor: dict[str, Any] = {"name": name, "shape": values.shape, "datatype": kind}
            own = dict(request.input_parameters.get(name, {}))
            if binary:
                blob = to_binary(name, kind, values)
                own["binary_data_size"] = len(blob)
                blobs.append(blob)
            else:
                tensor["data"] = msgspec.Raw(to_json(name, kind, values))
        except ModelError as e:  # said of an output; here the caller made the tensor
            raise InvalidInput(e.message.replace("output", "input", 1), hint=e.hint) from None
        if own:
            tensor["parameters"] = own
        inputs.append(tensor)
    document["inputs"] = inputs
    if request.outputs is not None:
        outputs: list[dict[str, Any]] = []
        for o in request.outputs:
            own = dict(o.parameters)
            if o.binary is not None:
                own["binary_data"] = o.binary
            outputs.append({"name": o.name} | ({"parameters": own} if own else {}))
        document["outputs"] = outputs
    text = _encode(document)
    return (len(text) if binary else None), [text, *blobs]


def decode_response(body: Buffer, header_length: int | None = None) -> InferResponse:
    """The response in `body`, its first `header_length` bytes JSON (None: all of it).

    Binary outputs are views of `body`; null in a floating-point output is NaN. Raises ModelError.
    """
    text: Buffer = body
    if header_length is not None:
        if not 0 <= header_length <= len(body):
            raise _broken("Inference-Header-Content-Length points outside of it")
        known = v2_layouts.known(body, header_length)
        if known is not None:
            return known
        text = memoryview(body)[:header_length]
    try:
        response = _decode_response(text)
    except JSON_FAULTS as e:
        raise _broken(str(e)) from None
    at = header_length or 0
    outputs: dict[str, Array] = {}
    datatypes: dict[str, str] = {}
    said: dict[str, dict[str, Any]] = {}
    for o in response.outputs:
        size = None
        if o.parameters:
            size = o.parameters.pop("binary_data_size", None)
            if o.parameters:
                said[o.name] = o.parameters
        try:
            if type(size) is int and size >= 0 and header_length is not None:
                values = from_binary(o.name, o.datatype, o.shape, memoryview(body)[at : at + size])
                at += size
            elif o.data is msgspec.UNSET:
                raise InvalidInput(f"input '{o.name}' has no data")
            else:
                values = from_json(o.name, o.datatype, o.shape, o.data, null_is_nan=True)
        except (InvalidInput, ValueError) as e:
            raise _broken(str(e).replace("input", "output", 1)) from None
        outputs[o.name] = values
        datatypes[o.name] = o.datatype
    if header_length is not None and at != len(body):
        raise _broken(f"its tensors end at byte {at} of {len(body)}")
    answer = InferResponse(
        outputs,
        datatypes,
        response.model_name,
        response.model_version or "",
        response.id,
        response.parameters or {},
        said,
    )
    if header_length is not None:
        v2_layouts.remember(bytes(text), answer, len(body))
    return answer


def _broken(why: str) -> ModelError:
    return ModelError(f"the answer is no V2 response: {why}")
