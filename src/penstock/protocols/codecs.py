"""Content types of tensors, as MLServer's codecs have them: what the elements of an input stand for.

A client that says `content_type` among the parameters of a request, of one of its inputs or of an output it
asks for means more than V2's datatypes tell: that BYTES are base64 or dates, that inputs are the columns of
a table. Between the wire and the model this turns such elements into what they stand for, and a model's
outputs back. A request that says nothing of it never comes here.

MLServer's ways that V2 does not have count only where a content type asks for them:

* a JSON null is a missing value (NaN among numbers, None among text);
* `data` may be a single value without a list around it;
* text whose shape counts its characters is one element;
* base64 that is none is taken as it is;
* answers say their content types, and one of shape [n] is sent as [n, 1].

A content type that is not known is refused; those for images and conversations are not.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from penstock.errors import InvalidInput
from penstock.protocols.classification import LABELS
from penstock.protocols.datatypes import count_of, datatype_of
from penstock.protocols.infer import InferRequest, InferResponse, as_text
from penstock.protocols.json_faults import JSON_FAULTS
from penstock.protocols.json_tensors import from_json, json_texts

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array, Arrays, TensorSpec

#: Where a parameter names a content type, and the headers that MLServer's clients put beside it.
KEY: Final = "content_type"
_OWN: Final = frozenset({KEY, "headers"})
#: Of a request: its only input is that (np, str); its inputs are a table's columns (pd), tensors by name
#: (dict), or a pipeline's text and the parameters beside it (hf).
OF_REQUESTS: Final = ("np", "pd", "str", "dict", "hf")
_JSON: Final = frozenset({"pd_json", "hg_json", "hg_jsonlist"})
_AS_IT_IS: Final = frozenset({"np", "nplist", "raw"})
#: Of one input or output.
OF_TENSORS: Final = ("np", "str", "base64", "datetime", *sorted(_JSON), "nplist", "raw")
#: What MLServer's clients call the input of a Hugging Face pipeline.
_TEXT: Final = "args"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class ContentTypes:
    """What a model's own configuration says, where a request says nothing."""

    request: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    #: The inputs as the model's file has them, where its configuration declares others.
    takes: tuple[TensorSpec, ...] = ()

    def __post_init__(self) -> None:
        if self.request:
            _known(self.request, OF_REQUESTS, "the model")
        for side, tensors in (("input", self.inputs), ("output", self.outputs)):
            for name, kind in tensors.items():
                _known(kind, OF_TENSORS, f"{side} '{name}'")


class Coded:
    """A request as the model takes it, and how its answer is to be written."""

    __slots__ = ("_as", "_frame", "_hugging", "inputs", "parameters", "request")

    def __init__(
        self,
        request: InferRequest,
        inputs: Arrays,
        frame: bool,
        outputs: Mapping[str, str],
        hugging: bool,
        parameters: Mapping[str, Any],
    ) -> None:
        self.request = request
        #: The arrays for the model: `str`, `bytes`, `datetime` or JSON's values in object arrays.
        self.inputs = inputs
        #: The request's parameters without those that are about content types.
        self.parameters = {
            **{k: v for k, v in request.parameters.items() if k not in _OWN},
            **parameters,
        }
        self._frame = frame
        self._as = outputs
        self._hugging = hugging

    def response(self, outputs: Arrays, datatypes: Mapping[str, str] | None) -> InferResponse:
        """The model's outputs as the request wants them. Raises InvalidInput."""
        frame = self._frame and all(a.ndim == 1 for a in outputs.values())
        arrays: dict[str, Array] = {}
        said: dict[str, dict[str, Any]] = {}
        for name, values in outputs.items():
            wanted = self._as.get(name)
            kind = wanted or _fitting(values, frame, self._hugging)
            arrays[name] = _column(_written(name, values, kind))
            # A table's numbers say nothing of themselves, as MLServer has it.
            if wanted or not frame or kind != "np":
                said[name] = {KEY: kind}
        return InferResponse(
            arrays,
            dict(datatypes or {}),
            parameters={KEY: "pd"} if frame else {},
            output_parameters=said,
        )


def coded(
    request: InferRequest, declared: ContentTypes | None, specs: Sequence[TensorSpec]
) -> Coded | None:
    """What `request` means by its content types and the model's; None where there are none.

    `specs` are the model's inputs: a table becomes the columns they name, or the one matrix they are.
    Raises InvalidInput.
    """
    given = {name: p[KEY] for name, p in request.input_parameters.items() if p.get(KEY) is not None}
    wanted = {
        o.name: o.parameters[KEY]
        for o in request.outputs or ()
        if o.parameters.get(KEY) is not None
    }
    whole = request.parameters.get(KEY)
    if declared is not None:
        whole = whole or declared.request or None
        given = {n: k for n, k in declared.inputs.items() if n in request.inputs} | given
        wanted = {**declared.outputs, **wanted}
        specs = declared.takes or specs
    if whole is None and not given and not wanted:
        return None

    if whole is not None:
        _known(whole, OF_REQUESTS, "the request")
    for name, kind in wanted.items():
        _known(kind, OF_TENSORS, f"output '{name}'")
    for name, kind in given.items():
        _known(kind, OF_TENSORS, f"input '{name}'")
    if whole in ("np", "str"):
        if len(request.inputs) != 1:
            raise InvalidInput(
                f"the request has content type {whole}, which is for one input; it has"
                f" {len(request.inputs)}.",
                hint="Say the content type of each input, or pd for the columns of a table.",
            )
        (only,) = request.inputs
        given.setdefault(only, whole)
    arrays: Mapping[str, Array] = {
        name: _read(name, array, request.datatypes.get(name, ""), given.get(name))
        for name, array in request.inputs.items()
    }
    beside: dict[str, Any] = {}
    if whole == "pd":
        arrays = _table(arrays, specs)
    elif whole == "hf" and len(arrays) > 1:
        arrays, beside = _pipeline(arrays, specs)
    hugging = whole == "hf" or any(k.startswith("hg_") for k in given.values())
    return Coded(request, arrays, whole == "pd", wanted, hugging, beside)


def _known(kind: Any, kinds: Sequence[str], what: str) -> None:
    if kind not in kinds:
        shown = f"the content type {kind[:40]!r}" if isinstance(kind, str) else "a content type"
        why = "is not known here" if isinstance(kind, str) else "is no text"
        raise InvalidInput(
            f"{what} has {shown}, which {why}.", hint=f"Known are {', '.join(kinds)}."
        )


def spoken(parameters: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Of what was said of tensors, by name, their content types and the names of their classes.

    The rest is about how they were sent.
    """
    if not parameters:
        return parameters
    found = {n: {k: p[k] for k in (KEY, LABELS) if k in p} for n, p in parameters.items()}
    return {name: said for name, said in found.items() if said}


# --------------------------------------------------------------------------------------------- inputs


def read_json(
    name: str, datatype: str, shape: Sequence[int], data: Buffer | msgspec.Raw, kind: Any = None
) -> Array:
    """The JSON `data` of an input that has a content type, with MLServer's liberties. Raises InvalidInput.

    The array is as `from_json` makes it, with None for a missing text; `raw` BYTES may be numbers.
    """
    text = bytes(data).strip()
    if not text.startswith(b"["):
        text = b"[%b]" % text
    if datatype != "BYTES":
        return from_json(name, datatype, shape, text, null_is_nan=True)
    elements = json_texts(name, text, numbers=kind == "raw")
    count = count_of(shape, f"input '{name}'")
    if len(elements) != count:
        length = sum(len(e) for e in elements if isinstance(e, bytes))
        if count != length and (not shape or shape[0] != len(elements)):
            raise InvalidInput(
                f"input '{name}' has shape {list(shape)}, that is {count} elements, but its data has"
                f" {len(elements)}"
            )
        shape = [len(elements)]
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _read(name: str, array: Array, datatype: str, kind: str | None) -> Array:
    """An input's elements as what its content type says they are."""
    if kind is None or kind in _AS_IT_IS:
        return array
    if datatype != "BYTES":
        raise InvalidInput(
            f"input '{name}' has datatype {datatype}, content type {kind} takes BYTES"
        )
    return _mapped(name, array, kind, _READERS[kind], "input")


def _mapped(name: str, array: Array, kind: str, function: Callable[[Any], Any], side: str) -> Array:
    out = np.empty(array.size, dtype=object)
    for i, value in enumerate(array.ravel().tolist()):
        try:
            out[i] = None if value is None else function(value)
        except (ValueError, TypeError, UnicodeError, *JSON_FAULTS):
            raise InvalidInput(
                f"{side} '{name}': element {i} is no {_WORDS[kind]}, as content type {kind} has it"
            ) from None
    return out.reshape(array.shape)


def _str(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _from_base64(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    try:
        return base64.b64decode(raw, validate=True)
    except binascii.Error:
        return raw


def _from_iso(value: bytes | str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(_str(value))


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "str": _str,
    "base64": _from_base64,
    "datetime": _from_iso,
    **dict.fromkeys(_JSON, _decode),
}
_WORDS: Final[Mapping[str, str]] = {
    "str": "UTF-8 text",
    "base64": "bytes",
    "datetime": "ISO date",
    **dict.fromkeys(_JSON, "JSON"),
}


def _table(arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """One column per input, in the shape that `specs` have; or one matrix where the model takes that."""
    columns: dict[str, Array] = {}
    rows: dict[str, int] = {}
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
            raise InvalidInput(
                f"input '{name}' has shape {list(array.shape)}; a table's column is [n] or [n, 1]"
            )
        columns[name] = array.reshape(-1)
        rows[name] = array.shape[0]
    if len(set(rows.values())) > 1:
        counted = ", ".join(f"'{n}' {r}" for n, r in rows.items())
        raise InvalidInput(f"a table's columns have different numbers of rows: {counted}")
    known = {s.name: s for s in specs}
    if len(specs) == 1 and len(specs[0].shape) == 2 and specs[0].name not in columns:
        return {specs[0].name: _matrix(list(columns.values()))}
    return {
        n: a.reshape(-1, 1) if n in known and len(known[n].shape) == 2 else _plain(n, a)
        for n, a in columns.items()
    }


def _pipeline(
    arrays: Mapping[str, Array], specs: Sequence[TensorSpec]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The text of a pipeline among its inputs, and the others as parameters."""
    names = [n for n in (_TEXT, *(s.name for s in specs)) if n in arrays]
    main = names[0] if names else next(iter(arrays))
    beside: dict[str, Any] = {}
    for name, array in arrays.items():
        if name != main:
            values = _plain(name, array).reshape(-1).tolist()
            beside[name] = values[0] if len(values) == 1 else values
    return {main: arrays[main]}, beside


def _matrix(columns: list[Array]) -> Array:
    if all(c.dtype != object for c in columns):
        return np.column_stack(columns)
    return np.column_stack([_plain("", c).astype(object) for c in columns])


def _plain(name: str, column: Array) -> Array:
    return as_text(column, name) if column.dtype == object else column


# -------------------------------------------------------------------------------------------- outputs


def _fitting(values: Array, frame: bool, hugging: bool) -> str:
    """The content type of an output that nobody asked for in a certain one."""
    if values.dtype.kind not in "OSU":
        return "np"
    elements = values.ravel().tolist()
    if all(isinstance(v, str | bytes) for v in elements):
        return "str"
    if elements and all(isinstance(v, datetime.datetime) for v in elements) and not frame:
        return "datetime"
    return "hg_jsonlist" if hugging else "pd_json"


def _written(name: str, values: Array, kind: str) -> Array:
    """`values` as an output of content type `kind` carries them. Raises InvalidInput."""
    if kind in _AS_IT_IS:
        return values
    if kind in _JSON:
        return _mapped(name, values.astype(object), kind, _encode_plain, "output")
    if values.dtype.kind not in "OSU":
        raise InvalidInput(
            f"output '{name}' has datatype {datatype_of(values, name)}, content type {kind} is for BYTES.",
            hint="Ask for np.",
        )
    return _mapped(name, values, kind, _WRITERS[kind], "output")


def _encode_plain(value: Any) -> bytes:
    return _encode(value.decode() if isinstance(value, bytes) else value)


def _to_text(value: Any) -> Any:
    if not isinstance(value, str | bytes):
        raise TypeError
    return value


def _to_base64(value: Any) -> bytes:
    text = _to_text(value)
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


def _to_iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else _to_text(value)


_WRITERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "str": _to_text,
    "base64": _to_base64,
    "datetime": _to_iso,
}


def _column(values: Array) -> Array:
    return values.reshape(-1, 1) if values.ndim == 1 else values
