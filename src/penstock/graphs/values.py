"""What steps give to each other: tensors, or a body as it came.

A `Tensors` holds arrays, which no step copies or encodes for another step that runs here too. A `Body` holds
bytes that nobody has looked into yet, usually JSON; its JSON is parsed once, when somebody asks. The ways
between them are defined here and nowhere else:

* a V2 body's tensors are its `inputs` or `outputs`; a V1 body's are its rows (`instances`, `predictions`) or
  columns (`inputs`, `outputs`), nameless rows as `input-0` or `output-0`;
* tensors as JSON are a V2 response, which is what conditions see of them;
* a name picked of a JSON object that is neither V1 nor V2 is that key's value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

from penstock.errors import InvalidInput, ModelError, PenstockError
from penstock.protocols import v1, v2
from penstock.protocols.classification import LABELS
from penstock.protocols.codecs import spoken
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.json_faults import JSON_FAULTS
from penstock.protocols.v2_client import decode_response

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array

JSON: Final = b"application/json"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_NOTHING: Final[Mapping[str, Any]] = {}
#: Asks for an answer that is all JSON.
_PLAIN: Final = InferRequest({})
#: How the text of a V2 answer begins that names no model.
_NO_NAME: Final = b'{"model_name":"",'
#: Keys that make V1 or V2 of a JSON object.
_KNOWN: Final = frozenset(("instances", "predictions", "inputs", "outputs"))
#: Of a page that is an error's text.
_MESSAGE_BYTES: Final = 500


class _Shape(msgspec.Struct):
    """Which keys a JSON object has, without building what is under them."""

    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    predictions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    outputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Named(msgspec.Struct):
    name: str
    datatype: str


_shape = msgspec.json.Decoder(_Shape).decode
_named = msgspec.json.Decoder(list[_Named]).decode


class Tensors:
    """Arrays by name, in order. `datatypes` has V2's name where a dtype does not tell it; `said` the
    content types and names of classes that go along with tensors from step to step."""

    __slots__ = ("arrays", "datatypes", "id", "parameters", "rendered", "said", "text")

    #: A weak reference to the request that was last made of it, for its next reader; see `encoding`.
    rendered: Any
    #: Its JSON, if that was wanted already.
    text: bytes | None

    def __init__(
        self,
        arrays: Mapping[str, Array],
        datatypes: Mapping[str, str] = {},
        id: str | None = None,
        parameters: Mapping[str, Any] = _NOTHING,
        said: Mapping[str, Mapping[str, Any]] = _NOTHING,
    ) -> None:
        self.said = said
        self.arrays = arrays
        self.datatypes = datatypes
        self.id = id
        self.parameters = parameters
        self.rendered = None
        self.text = None


def of_request(request: InferRequest) -> Tensors:
    """What a V2 request carries."""
    said = spoken(request.input_parameters)
    return Tensors(request.inputs, request.datatypes, request.id, request.parameters, said)


def of_response(response: InferResponse) -> Tensors:
    """What a V2 response carries."""
    said = spoken(response.output_parameters)
    return Tensors(response.outputs, response.datatypes, response.id, response.parameters, said)


def said_of(value: Tensors) -> dict[str, dict[str, Any]]:
    """What is said of the tensors, for a request or a response that is made of them.

    Names of classes are no part of it: they are for the one who asked for classes.
    """
    return {
        name: {k: v for k, v in said.items() if k != LABELS}
        for name, said in value.said.items()
        if name in value.arrays
    }


class Body:
    """Bytes, their content type, and their JSON once it was asked for. `status` is that of an answer."""

    __slots__ = ("_document", "_parsed", "_tensors", "content_type", "data", "status")

    def __init__(self, data: Buffer, content_type: bytes = JSON, status: int = 200) -> None:
        self.data = data
        self.content_type = content_type
        self.status = status
        self._parsed = False
        self._document: Any = None
        #: False before anybody asked.
        self._tensors: Tensors | bool | None = False

    @classmethod
    def of(cls, document: Any) -> Body:
        """A body whose JSON is `document`."""
        body = cls(_encode(document))
        body._document = document
        body._parsed = True
        return body

    @property
    def document(self) -> Any:
        """The JSON in it; InvalidInput when it is none."""
        if not self._parsed:
            try:
                self._document = _decode(self.data)
            except JSON_FAULTS as exc:
                raise InvalidInput(f"the body is no JSON: {exc}") from None
            self._parsed = True
        return self._document


class Several:
    """A list of values, for a step that aggregates. A member that is absent is left out."""

    __slots__ = ("keys", "values")

    def __init__(self, keys: Sequence[str], values: Sequence[Tensors | Body]) -> None:
        self.keys = keys
        self.values = values


Value: TypeAlias = Tensors | Body | Several


class Failure:
    """A step that failed: the status and body of an answer that was none, or an error of ours."""

    __slots__ = ("body", "message", "reason", "retry_after_s", "status", "step")

    def __init__(
        self,
        status: int,
        message: str,
        *,
        body: Body | None = None,
        reason: str = "",
        step: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.message = message
        #: What the service answered, if it answered.
        self.body = body
        #: The class of our own error; empty for a service's.
        self.reason = reason
        #: `flow.step` where it happened.
        self.step = step
        self.retry_after_s = retry_after_s

    def as_body(self) -> Body:
        """What a soft dependency hands on."""
        if self.body is not None:
            return self.body
        body = Body.of({"error": self.message})
        body.status = self.status
        return body


# -- bodies ---------------------------------------------------------------------------------------------


def is_v2(body: Body) -> bool:
    """Whether the body is V2's: `inputs` or `outputs` is a list of objects with a name and a datatype."""
    if body._tensors is None:
        return False
    try:
        shape = _shape(body.data)
        for raw in (shape.inputs, shape.outputs):
            if raw is not msgspec.UNSET:
                return bool(_named(raw))
    except JSON_FAULTS:
        pass
    return False


def json_of(value: Value) -> Any:
    """The value as decoded JSON: tensors as a V2 response. InvalidInput for what is no JSON."""
    if isinstance(value, Body):
        return value.document
    if isinstance(value, Several):
        return [json_of(v) for v in value.values]
    return _decode(_text_of(value))


def _text_of(value: Tensors) -> bytes:
    """Tensors as the JSON text of a V2 response that names no model."""
    if value.text is not None:
        return value.text
    answer = InferResponse(
        dict(value.arrays),
        dict(value.datatypes),
        id=value.id,
        parameters=dict(value.parameters),
        output_parameters=said_of(value),
    )
    (text,) = v2.encode_infer(answer, _PLAIN)[1]
    value.text = b"{" + bytes(text[len(_NO_NAME) :])
    return value.text


def make_text(value: Value) -> None:
    """Make the JSON of tensors now: `as_object` will want it."""
    if isinstance(value, Tensors) and value.text is None:
        try:
            _text_of(value)
        except PenstockError:
            pass  # it is told where it is wanted


def tensors_of(value: Value) -> Tensors:
    """The value as tensors; InvalidInput when it has none."""
    if isinstance(value, Tensors):
        return value
    if isinstance(value, Several):
        raise InvalidInput("a list of values has no tensors; a step that aggregates takes it")
    found = _tensors_of_body(value)
    if found is None:
        raise InvalidInput("the body has no tensors: it is neither V1 nor V2")
    return found


def _tensors_of_body(body: Body) -> Tensors | None:
    known = body._tensors
    if isinstance(known, bool):
        known = body._tensors = _read_tensors(body)
    return known


def _read_tensors(body: Body) -> Tensors | None:
    try:
        shape = _shape(body.data)
    except JSON_FAULTS:
        return None
    if is_v2(body):
        if shape.inputs is not msgspec.UNSET:
            request = v2.decode_infer(body.data)
            return of_request(request)
        response = decode_response(body.data)
        return of_response(response)
    for given, key, name in (
        (shape.instances, "instances", "input-0"),
        (shape.predictions, "instances", "output-0"),
        (shape.inputs, "inputs", "input-0"),
        (shape.outputs, "inputs", "output-0"),
    ):
        if given is not msgspec.UNSET:
            decoded = v1.to_arrays({key: _decode(given)})
            return Tensors({n if n is not None else name: a for n, a in decoded.inputs.items()})
    return None


# -- parts of values ------------------------------------------------------------------------------------


class Part:
    """A value that takes part in a join: all of it, or one tensor, under another name perhaps."""

    __slots__ = ("key", "rename", "renames", "step", "tensor", "value")

    def __init__(
        self,
        step: str,
        value: Value,
        tensor: str = "",
        rename: str = "",
        key: str = "",
        renames: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.step = step
        self.value = value
        self.tensor = tensor
        self.rename = rename
        self.key = key
        #: New names of a whole value's tensors.
        self.renames = renames


def has_tensor(value: Value, name: str) -> bool:
    """Whether the tensor, or key of a JSON object, is there. False for what has no names at all."""
    if isinstance(value, Tensors):
        return name in value.arrays
    try:
        return _pick(value, name) is not None
    except (InvalidInput, ModelError):
        return False


def _pick(value: Value, name: str) -> tuple[bool, Any, str] | None:
    """(is it an array, the array or JSON value, its datatype), or None when it is not there."""
    if isinstance(value, Tensors):
        array = value.arrays.get(name)
        return None if array is None else (True, array, value.datatypes.get(name, ""))
    if isinstance(value, Several):
        return None
    tensors = _tensors_of_body(value)
    if tensors is not None:
        return _pick(tensors, name)
    document = value.document
    if isinstance(document, Mapping) and name in document:
        return False, document[name], ""
    return None


def merge(parts: Sequence[Part]) -> Value:
    """All of the parts side by side; a name that was there before becomes `STEP.NAME`.

    InvalidInput for parts that have no names in common terms: tensors beside a body that has none.
    """
    if len(parts) == 1 and not parts[0].tensor and not parts[0].renames:
        return parts[0].value
    arrays: dict[str, Array] = {}
    datatypes: dict[str, str] = {}
    members: dict[str, Any] = {}
    said: dict[str, Mapping[str, Any]] = {}
    first: Tensors | None = None
    for part in parts:
        if part.tensor:
            found = _pick(part.value, part.tensor)
            if found is None:
                continue
            is_array, item, datatype = found
            name = _free(part.rename or part.tensor, part.step, arrays, members)
            if is_array:
                arrays[name] = item
                if datatype:
                    datatypes[name] = datatype
                holder = (
                    _tensors_of_body(part.value) if isinstance(part.value, Body) else part.value
                )
                if isinstance(holder, Tensors) and part.tensor in holder.said:
                    said[name] = holder.said[part.tensor]
            else:
                members[name] = item
            if first is None and isinstance(part.value, Tensors):
                first = part.value
            continue
        tensors = part.value if isinstance(part.value, Tensors) else None
        if tensors is None and isinstance(part.value, Body):
            tensors = _tensors_of_body(part.value)
        if tensors is not None:
            first = first or tensors
            for own, array in tensors.arrays.items():
                name = _free(part.renames.get(own, own), part.step, arrays, members)
                arrays[name] = array
                if own in tensors.datatypes:
                    datatypes[name] = tensors.datatypes[own]
                if own in tensors.said:
                    said[name] = tensors.said[own]
            continue
        document = json_of(part.value)
        if not isinstance(document, Mapping):
            raise InvalidInput(
                f"what {part.step or 'the request'} gives has no names, so it cannot be joined with others"
            )
        for own, item in document.items():
            members[_free(part.renames.get(own, own), part.step, arrays, members)] = item
    if arrays and members:
        raise InvalidInput(
            "tensors cannot be joined with JSON that has none: "
            f"{', '.join(sorted(arrays))} beside {', '.join(sorted(members))}"
        )
    if members:
        return Body.of(members)
    return Tensors(
        arrays,
        datatypes,
        first.id if first is not None else None,
        first.parameters if first is not None else _NOTHING,
        said,
    )


def _free(name: str, step: str, *taken: Mapping[str, Any]) -> str:
    if not any(name in t for t in taken):
        return name
    longer = f"{step or 'request'}.{name}"
    number = 2
    unique = longer
    while any(unique in t for t in taken):
        unique = f"{longer}.{number}"
        number += 1
    return unique


def as_object(parts: Iterable[Part]) -> Body:
    """One JSON object, each part's JSON under its key."""
    pieces: list[bytes] = []
    keys: set[str] = set()
    for part in parts:
        value = part.value
        if isinstance(value, Tensors):
            text = _text_of(value)
        elif isinstance(value, Body):
            text = _member(value, part.step)
        else:
            text = _encode(json_of(value))
        key = part.key or part.step
        keys.add(key)
        pieces.append(_encode(key) + b":" + text)
    made = Body(b"{" + b",".join(pieces) + b"}")
    if _KNOWN.isdisjoint(keys):
        made._tensors = None
    return made


def _member(body: Body, step: str) -> bytes:
    """A body's JSON. What failed and is none, such as a proxy's page, is an error's text.

    ModelError for a step's answer that is no JSON, InvalidInput for the request.
    """
    if not body._parsed:
        try:
            msgspec.json.decode(body.data, type=msgspec.Raw)
        except JSON_FAULTS as exc:
            if body.status < 300:
                if not step:
                    raise InvalidInput(f"the request is no JSON: {exc}") from None
                raise ModelError(f"the answer of {step} is no JSON: {exc}") from None
            said = ""
            if body.content_type.startswith(b"text/"):
                said = bytes(body.data[:_MESSAGE_BYTES]).decode("utf-8", "replace").strip()
            return _encode({"error": said or f"answered {body.status}"})
    return bytes(body.data)


def average(value: Value) -> Value:
    """The element-wise mean of several values of one shape (Seldon's AVERAGE_COMBINER)."""
    members = value.values if isinstance(value, Several) else (value,)
    every = [tensors_of(m) for m in members]
    names = list(every[0].arrays) if every else []
    if not names or any(list(t.arrays) != names for t in every):
        raise InvalidInput("the values to average have different tensors, or none")
    out: dict[str, Array] = {}
    for name in names:
        stack = [t.arrays[name] for t in every]
        if any(a.shape != stack[0].shape for a in stack):
            shapes = ", ".join(str(list(a.shape)) for a in stack)
            raise InvalidInput(f"{name!r} has different shapes in the values to average: {shapes}")
        if any(a.dtype.kind not in "biuf" for a in stack):
            raise InvalidInput(f"{name!r} is no number, so it has no average")
        kind = np.float32 if all(a.dtype == np.float32 for a in stack) else np.float64
        out[name] = np.asarray(np.mean(np.stack(stack), axis=0, dtype=kind))
    return Tensors(out)
