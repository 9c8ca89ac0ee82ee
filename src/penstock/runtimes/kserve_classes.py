"""User classes that extend KServe's own `Model`: they are given, and give, that package's requests.

Such a class asks `isinstance(payload, kserve.InferRequest)` and builds `kserve.InferResponse`, so ours would
not do. What is handed in and out of each of its methods is changed here; the package is the one that the
user's code has imported, and its errors that mean the caller stay the caller's.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidInput
from penstock.protocols.datatypes import datatype_of
from penstock.protocols.infer import InferRequest, InferResponse, as_bytes
from penstock.runtimes.base import Array

if TYPE_CHECKING:
    from penstock.sdk.predictor import Predictor

#: Packages of KServe's; their own methods are none of a user's.
PACKAGES = frozenset({"kserve", "kfserving"})
#: Said of a tensor whose bytes follow; nothing follows inside of a process.
_ON_THE_WIRE = "binary_data_size"


def types_for(cls: type) -> KServeTypes | None:
    """What changes payloads for a class; None for one that does not extend KServe's."""
    if not any(base.__module__.partition(".")[0] == "kserve" for base in cls.__mro__):
        return None
    package = sys.modules.get("kserve")
    names = ("InferRequest", "InferInput", "InferResponse", "InferOutput")
    if package is None or not all(hasattr(package, n) for n in names):
        return None  # a release from before it had such types
    return KServeTypes(package)


def asking(cls: type, predictor: Predictor) -> type:
    """A class as `cls`, whose `super().predict` asks `predictor`; `cls` itself where it is none of KServe's.

    KServe's own would open connections by its settings, of which there are none here.
    """
    base = next((b for b in cls.__mro__ if _of_package(b) and "predict" in vars(b)), None)
    if base is None or base is cls:
        return cls

    async def predict(
        self: Any, payload: Any, headers: Mapping[str, str] | None = None, *_: Any, **__: Any
    ) -> Any:
        kserve = types_for(type(self))
        if kserve is None:
            return await predictor(payload, headers)
        return kserve.given(await predictor(kserve.taken(payload), headers))

    def named(members: dict[str, Any]) -> None:
        members |= {"__module__": cls.__module__, "__doc__": cls.__doc__}

    # Between the user's class and KServe's, where `super()` looks.
    between = types.new_class("Asks", (base,), exec_body=lambda m: m.update(predict=predict))
    between.__module__ = __name__
    try:
        return types.new_class(cls.__name__, (cls, between), exec_body=named)
    except TypeError:  # it wants to know more of its subclasses; then `super().predict` is KServe's
        return cls


def _of_package(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in PACKAGES


class KServeTypes:
    """Changes payloads between KServe's types, from the package `kserve` that is given, and ours."""

    def __init__(self, package: Any) -> None:
        self._kserve = package
        errors = sys.modules.get("kserve.errors")
        self._invalid: tuple[type[Exception], ...] = (
            (errors.InvalidInput,) if hasattr(errors, "InvalidInput") else ()  # type: ignore[union-attr]
        )

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, given KServe's types and understood in them. Its signature is left to the caller."""

        def called(payload: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                result = method(self.given(payload), *args, **kwargs)
            except self._invalid as e:
                raise InvalidInput(_said(e)) from e
            return self._awaited(result) if inspect.isawaitable(result) else self.taken(result)

        return called

    async def _awaited(self, result: Awaitable[Any]) -> Any:
        try:
            return self.taken(await result)
        except self._invalid as e:
            raise InvalidInput(_said(e)) from e

    def given(self, payload: Any) -> Any:
        """KServe's request or response for one of ours; what is neither stays as it is."""
        kserve = self._kserve
        if isinstance(payload, InferRequest):
            inputs = [
                kserve.InferInput(
                    name,
                    list(array.shape),
                    payload.datatypes.get(name) or datatype_of(array, name),
                    data=array,
                    parameters=dict(payload.input_parameters.get(name, {})),
                )
                for name, array in payload.inputs.items()
            ]
            return kserve.InferRequest(
                payload.model_name, inputs, payload.id, parameters=dict(payload.parameters)
            )
        if isinstance(payload, InferResponse):
            outputs = [
                kserve.InferOutput(
                    name,
                    list(array.shape),
                    payload.datatypes.get(name) or datatype_of(array, name),
                    data=array,
                )
                for name, array in payload.outputs.items()
            ]
            return kserve.InferResponse(
                payload.id or "", payload.model_name, outputs, parameters=dict(payload.parameters)
            )
        return payload

    def taken(self, result: Any) -> Any:
        """Ours for one of KServe's; what is neither stays as it is."""
        if isinstance(result, self._kserve.InferRequest):
            return InferRequest(
                {t.name: _array(t) for t in result.inputs},
                {t.name: t.datatype for t in result.inputs},
                id=result.id,
                model_name=result.model_name or "",
                parameters=dict(result.parameters or {}),
                input_parameters={t.name: p for t in result.inputs if (p := _parameters(t))},
            )
        if isinstance(result, self._kserve.InferResponse):
            return InferResponse(
                {t.name: _array(t) for t in result.outputs},
                {t.name: t.datatype for t in result.outputs},
                result.model_name or "",
                id=result.id or None,
                parameters=dict(result.parameters or {}),
            )
        return result


def _array(tensor: Any) -> Array:
    """Its elements; BYTES are bytes, which there may be text."""
    array: Array = tensor.as_numpy()
    return as_bytes(array) if array.dtype.kind in "OSU" else array


def _parameters(tensor: Any) -> dict[str, Any]:
    return {n: v for n, v in (tensor.parameters or {}).items() if n != _ON_THE_WIRE}


def _said(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error)
