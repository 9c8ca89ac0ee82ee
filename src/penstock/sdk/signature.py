"""How a user's `predict` wants to be called, read once from its annotations, and calling it so.

A `Payload` plan hands over the request as its protocol has it; a `Tensors` plan binds inputs to
parameters by name. What comes back is turned into outputs by `results`.
"""

from __future__ import annotations

import collections.abc
import inspect
import logging
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from penstock.errors import InvalidInput, LoadError
from penstock.protocols.infer import InferRequest, InferResponse, as_text, text
from penstock.runtimes.base import Array, Arrays, CallContext, RawRequest

log = logging.getLogger(__name__)

_SCALARS: Final = (str, bytes, bool, int, float)
_PAYLOADS: Final = (
    dict,
    InferRequest,
    InferResponse,  # what a transformer's postprocess gets
    RawRequest,
    collections.abc.Mapping,
    collections.abc.MutableMapping,
)
_LISTS: Final = (
    list,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
#: Classes by these names are other systems' request types: their code gets our own.
_FOREIGN_PAYLOADS: Final = frozenset(
    {"InferRequest", "ModelInferRequest", "InferResponse", "ModelInferResponse", "CloudEvent"}
)
_CONTEXT: Final = frozenset({"headers", "response_headers", "context"})


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter that takes a tensor, or part of one."""

    name: str
    kind: Literal["array", "frame", "list", "scalar"]
    #: The dtype of an array, the type of a list's elements or of a scalar; None where any will do.
    of: Any = None
    required: bool = True
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How to call one method."""

    #: Parameters bound to tensors; empty for a method that takes the payload.
    tensors: tuple[Tensor, ...] = ()
    #: Which of `headers`, `response_headers`, `context` are passed, by keyword.
    context: tuple[str, ...] = ()
    #: The second positional parameter, whatever its name, is KServe's `headers`.
    positional_headers: bool = False
    #: Gets the request's parameters under this name.
    parameters: str | None = None
    #: Takes inputs that no parameter names.
    open: bool = False
    names: frozenset[str] = field(default_factory=frozenset)
    #: Takes the request unread.
    raw: bool = False

    @property
    def typed(self) -> bool:
        return bool(self.tensors)

    def call(self, method: Callable[..., Any], payload: Any, context: CallContext) -> Any:
        """`method` with a payload."""
        extra = self._extra(context) if self.context else {}
        if self.positional_headers:
            return method(payload, dict(context.headers), **extra)
        return method(payload, **extra)

    def call_bound(
        self, method: Callable[..., Any], values: dict[str, Any], context: CallContext | None
    ) -> Any:
        """`method` with what `bind` made."""
        if self.context and context is not None:
            values = values | self._extra(context)
        return method(**values)

    def _extra(self, context: CallContext) -> dict[str, Any]:
        have = {
            "headers": context.headers,
            "response_headers": context.response_headers,
            "context": context,
        }
        return {name: have[name] for name in self.context}

    def bind(self, inputs: Mapping[Any, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments from `inputs` (name None: an input that was not named). InvalidInput."""
        tensors = self.tensors
        values: dict[str, Any] = {}
        if tensors[0].kind == "frame" and len(tensors) == 1 and tensors[0].name not in inputs:
            values[tensors[0].name] = _frame(inputs)
        else:
            if len(inputs) == 1:
                ((given, array),) = inputs.items()
                wanted = [t for t in tensors if t.required] or list(tensors)
                if len(wanted) == 1 and given not in self.names:
                    # One input, one parameter for it: what the caller calls it does not matter.
                    inputs = {wanted[0].name: array}
            for t in tensors:
                if t.name in inputs:
                    values[t.name] = _value(t, inputs[t.name])
                elif t.kind == "scalar" and t.name in parameters:
                    values[t.name] = _scalar(t, parameters[t.name])
                elif t.required:
                    raise InvalidInput(
                        f"input '{t.name}' is missing.",
                        hint=f"The model takes {self._described()}.",
                    )
            unknown = [n for n in inputs if n not in self.names]
            if self.open:
                values |= {str(n): inputs[n] for n in unknown}
            elif unknown:
                raise InvalidInput(
                    f"input {', '.join(repr(n) for n in unknown)} is unknown.",
                    hint=f"The model takes {self._described()}.",
                )
        if self.parameters:
            values[self.parameters] = parameters
        return values

    def _described(self) -> str:
        return ", ".join(
            f"'{t.name}'" + ("" if t.required else " (optional)") for t in self.tensors
        )


def plan_of(method: Callable[..., Any], what: str, *, lists: bool = True) -> Plan:
    """The plan for a bound method; LoadError about `what` when its annotations make no sense.

    Without `lists`, a first parameter that is a plain list takes the payload: KFServing writes
    `postprocess(self, inputs: List)` and passes a dict.
    """
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return Plan()
    hints = _hints(method, what)
    parameters = list(signature.parameters.values())
    named = [
        p
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"
    ]
    if not named:
        if not parameters:
            raise LoadError(f"{what} takes no parameter for the request")
        return Plan()
    first = _classify(named[0], hints, what)
    if first is None or (not lists and first.kind == "list" and first.of is None):
        return replace(_payload_plan(named), raw=hints.get(named[0].name) is RawRequest)
    return _tensor_plan(named, parameters, hints, first, what)


def _payload_plan(named: list[inspect.Parameter]) -> Plan:
    rest = named[1:]
    context = tuple(p.name for p in rest if p.name in _CONTEXT)
    second = rest[0] if rest else None
    positional = (
        second is not None
        and second.name not in _CONTEXT
        and second.kind is not second.KEYWORD_ONLY
        and second.default is second.empty
    )
    return Plan(context=context, positional_headers=positional)


def _tensor_plan(
    named: list[inspect.Parameter],
    parameters: list[inspect.Parameter],
    hints: Mapping[str, Any],
    first: Tensor,
    what: str,
) -> Plan:
    tensors = [first]
    context: list[str] = []
    extra: str | None = None
    for p in named[1:]:
        if p.name in _CONTEXT:
            context.append(p.name)
        elif p.name == "parameters":
            extra = p.name
        else:
            t = _classify(p, hints, what)
            if t is None:
                raise LoadError(
                    f"{what}: parameter '{p.name}' says nothing of its type, the first one does.",
                    hint="Annotate every tensor: np.ndarray, pd.DataFrame, list[str], float, ...",
                )
            tensors.append(t)
    if any(p.kind is p.POSITIONAL_ONLY for p in named):
        raise LoadError(f"{what}: tensors are passed by name, positional-only parameters get none")
    return Plan(
        tuple(tensors),
        tuple(context),
        parameters=extra,
        open=any(p.kind is p.VAR_KEYWORD for p in parameters),
        names=frozenset(t.name for t in tensors),
    )


def _hints(method: Callable[..., Any], what: str) -> dict[str, Any]:
    function = inspect.unwrap(getattr(method, "__func__", method))
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError, SyntaxError):
        pass
    # Some name in some annotation is not there at run time; the others still count.
    hints: dict[str, Any] = {}
    names = getattr(function, "__globals__", {})
    for name, hint in getattr(function, "__annotations__", {}).items():
        if not isinstance(hint, str):
            hints[name] = hint
            continue
        try:
            hints[name] = eval(hint, names)  # noqa: S307  the user's own annotation, as typing does it
        except (NameError, AttributeError, TypeError, SyntaxError) as e:
            log.warning("%s: the annotation of '%s' is not understood: %s", what, name, e)
    return hints


def _classify(p: inspect.Parameter, hints: Mapping[str, Any], what: str) -> Tensor | None:
    """The tensor that a parameter takes; None for one that takes the payload."""
    hint = hints.get(p.name, Any)
    required = p.default is p.empty
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        if any(_is_payload(a) for a in options):
            return None
        optional = len(options) < len(typing.get_args(hint))
        if len(options) != 1:
            raise LoadError(f"{what}: parameter '{p.name}' is annotated with several types")
        hint = options[0]
    if hint is Any or hint is inspect.Parameter.empty or _is_payload(hint):
        return None
    origin = typing.get_origin(hint) or hint
    if origin is np.ndarray:
        return Tensor(p.name, "array", _dtype(hint), required, optional)
    if _is_frame(origin):
        return Tensor(p.name, "frame", None, required, optional)
    if origin in _LISTS:
        (element,) = typing.get_args(hint) or (None,)
        return Tensor(p.name, "list", element if element in _SCALARS else None, required, optional)
    if origin in _SCALARS:
        return Tensor(p.name, "scalar", origin, required, optional)
    raise LoadError(
        f"{what}: parameter '{p.name}' is annotated with {getattr(hint, '__name__', hint)}, which no"
        " request can become.",
        hint="Use dict or InferRequest for the payload, or np.ndarray, pd.DataFrame, list[str], str,"
        " float, ... for tensors.",
    )


def _is_payload(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return (
        origin in _PAYLOADS
        or typing.is_typeddict(origin)
        or getattr(origin, "__name__", "") in _FOREIGN_PAYLOADS
    )


def _is_frame(hint: Any) -> bool:
    # By name: pandas is not imported to find out that it is not used.
    return getattr(hint, "__name__", "") == "DataFrame" and str(
        getattr(hint, "__module__", "")
    ).startswith("pandas")


def _dtype(hint: Any) -> np.dtype[Any] | None:
    arguments = typing.get_args(hint)
    inner = typing.get_args(arguments[1]) if len(arguments) == 2 else ()
    if inner and isinstance(inner[0], type) and issubclass(inner[0], np.generic):
        try:
            return np.dtype(inner[0])
        except TypeError:  # an abstract one, np.floating
            return None
    return None


# -------------------------------------------------------------------------------------------- values


def _value(t: Tensor, array: Array) -> Any:
    if t.kind == "array":
        if t.of is None or array.dtype == t.of:
            return array
        if not np.can_cast(array.dtype, t.of, "same_kind"):
            raise InvalidInput(f"input '{t.name}' is {array.dtype}, the model takes {t.of}")
        return array.astype(t.of)
    if t.kind == "frame":
        return _frame({t.name: array})
    if t.kind == "list":
        return _list(t, array)
    if array.size != 1:
        raise InvalidInput(
            f"input '{t.name}' is one {t.of.__name__}, but {array.size} values are given"
        )
    return _scalar(t, array.reshape(-1)[0])


def _list(t: Tensor, array: Array) -> list[Any]:
    if array.ndim == 2 and array.shape[1] == 1 and t.of is not None:
        array = array[:, 0]
    if t.of is None:
        plain: list[Any] = array.tolist() if array.ndim else [array.item()]
        return plain
    if array.ndim > 1:
        raise InvalidInput(
            f"input '{t.name}' has shape {list(array.shape)}; a list of {t.of.__name__} is expected"
        )
    return [_scalar(t, v) for v in array.ravel()]


def _scalar(t: Tensor, value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if t.of is str:
        if isinstance(plain, str | bytes):
            return text(plain, t.name)
    elif t.of is bytes:
        if isinstance(plain, str | bytes):
            return plain.encode() if isinstance(plain, str) else plain
    elif t.of is bool:
        if isinstance(plain, bool):
            return plain
    elif t.of is int:
        if type(plain) is int:
            return plain
        if type(plain) is float and plain.is_integer():
            return int(plain)
    elif type(plain) in (int, float):
        return float(plain)
    raise InvalidInput(f"input '{t.name}' takes {t.of.__name__}, not {type(plain).__name__}")


def _frame(inputs: Mapping[Any, Array]) -> Any:
    if len(inputs) == 1:
        ((name, array),) = inputs.items()
        if array.ndim == 2 and (name is None or array.shape[1] != 1):
            import pandas as pd

            return pd.DataFrame(as_text(array, str(name)) if _has_bytes(array) else array)
    return InferRequest({"0" if n is None else str(n): a for n, a in inputs.items()}).as_dataframe()


def _has_bytes(array: Array) -> bool:
    return array.dtype == object and any(isinstance(v, bytes) for v in array.ravel().tolist())


def as_arrays(value: Any, what: str) -> Arrays:
    """A dict of anything array-like as arrays; InvalidInput where that is not possible."""
    try:
        return {str(k): np.asarray(v) for k, v in value.items()}
    except (ValueError, TypeError) as e:
        raise InvalidInput(f"{what}: {e}") from None
