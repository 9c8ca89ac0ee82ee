"""MLServer's custom runtimes, as they are: a subclass of `mlserver.MLModel`.

The class runs against MLServer's own package, which has to be installed beside the platform: its settings,
types and codecs are what such classes import. A request becomes an `InferenceRequest` of `mlserver.types`,
its answer an `InferenceResponse` back. `load`, `predict` and `unload` are awaited on the serving loop, as
MLServer does without parallel workers.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError, PenstockError, Unsupported
from penstock.protocols.datatypes import DATATYPES
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes.base import (
    CallContext,
    Framework,
    LoadOptions,
    PayloadRuntime,
    RawReply,
    RawRequest,
    StreamReply,
    TensorSpec,
)
from penstock.runtimes.loading import first_line, known_options, option

log = logging.getLogger(__name__)

_SETTINGS: Final = "model-settings.json"


class MlserverModel(PayloadRuntime):
    """One instance of a user's MLModel."""

    platform = "mlserver"
    reentrant = True

    def __init__(self, model: Any, types: Any, name: str) -> None:
        self._model = model
        self._types = types
        self._name = name
        settings = model.settings
        self.inputs = _specs(settings.inputs)
        self.outputs = _specs(settings.outputs)

    async def start(self) -> None:
        try:
            ready = await self._model.load()
        except (Exception, SystemExit) as error:
            log.error("model %s: load raised", self._name, exc_info=error)
            raise LoadError(f"Model {self._name} cannot be loaded: {first_line(error)}") from error
        if ready is False:
            raise LoadError(f"{type(self._model).__name__}.load returned False.")
        self._model.ready = True

    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest | RawRequest, context: CallContext
    ) -> InferResponse | RawReply | StreamReply:
        if not isinstance(payload, InferRequest):
            raise Unsupported(
                f"Model {self._name} is a runtime of MLServer's, which takes V2 requests.",
                hint=f"Use /v2/models/{self._name}/infer.",
            )
        request = self._request(payload, context.headers)
        try:
            answer = await self._model.predict(request)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            status = getattr(error, "status_code", None)
            if isinstance(status, int) and 400 <= status < 500:
                raise InvalidInput(str(error) or "The model refused the request.") from error
            log.error("model %s: predict raised", self._name, exc_info=error)
            raise ModelError(
                f"model '{self._name}' failed in predict: {type(error).__name__}.",
                hint="Its log has the traceback.",
            ) from error
        response = self._response(answer)
        # As MLServer does it: headers among the parameters are the response's own.
        headers = getattr(answer.parameters, "headers", None)
        if isinstance(headers, Mapping):
            context.response_headers.update({str(k): str(v) for k, v in headers.items()})
        return response

    def _request(self, request: InferRequest, headers: Mapping[str, str]) -> Any:
        types = self._types
        parameters = types.Parameters(**{**request.parameters, "headers": dict(headers)})
        return types.InferenceRequest(
            id=request.id,
            parameters=parameters,
            inputs=[
                types.RequestInput(
                    name=t.name,
                    shape=t.shape,
                    datatype=t.datatype,
                    parameters=types.Parameters(**t.parameters) if t.parameters else None,
                    data=t.data,
                )
                for t in request.tensors
            ],
            outputs=None
            if request.outputs is None
            else [types.RequestOutput(name=o.name) for o in request.outputs],
        )

    def _response(self, answer: Any) -> InferResponse:
        outputs: dict[str, Any] = {}
        datatypes: dict[str, str] = {}
        said: dict[str, dict[str, Any]] = {}
        try:
            for output in answer.outputs:
                outputs[output.name] = _array(output)
                datatypes[output.name] = str(getattr(output.datatype, "value", output.datatype))
                kept = _kept(output.parameters)
                if kept:
                    said[output.name] = kept
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            log.error("model %s: its answer cannot be read", self._name, exc_info=error)
            raise ModelError(
                f"model '{self._name}' answered something that is no InferenceResponse of tensors."
            ) from error
        return InferResponse(
            outputs,
            datatypes,
            id=answer.id,
            parameters=_kept(answer.parameters),
            output_parameters=said,
        )

    async def stop(self) -> None:
        unload = getattr(self._model, "unload", None)
        if unload is not None:
            answer = unload()
            if inspect.isawaitable(answer):
                await answer


def load(path: Path, options: LoadOptions) -> PayloadRuntime:
    """The class that `model-settings.json` names. Options: `settings` (its content), `folder`, `root`,
    `extra` (what comes to its `parameters.extra`).

    LoadError when `mlserver` is not installed, or the class is not there.
    """
    known_options(options, ("settings", "folder", "root", "extra"))
    given = dict(option(options, "settings", dict, {}))
    folder = Path(option(options, "folder", str, str(path)))
    implementation = str(given.get("implementation", ""))
    if not folder.is_dir():
        raise LoadError(f"There is no model at {folder}.")
    try:
        # By name: the package is the user's own, and not among those that are checked here.
        package: Any = importlib.import_module("mlserver")
        reader: Any = importlib.import_module("mlserver.repository.load")
    except ImportError as error:
        raise LoadError(
            f"{implementation} is a runtime of MLServer's, and the package mlserver cannot be imported: "
            f"{first_line(error)}",
            hint="Install it with: pip install mlserver",
        ) from error
    text = str(folder.resolve())
    if text not in sys.path:
        # MLServer has the folder there only while it imports the class; what that imports later needs it too.
        sys.path.insert(0, text)
    try:
        settings = reader.load_model_settings(str(folder / _SETTINGS))
        settings.name = options.name
        if extra := option(options, "extra", dict, {}):
            _add(settings, extra)
        cls = settings.implementation
        if not (isinstance(cls, type) and issubclass(cls, package.MLModel)):
            raise LoadError(f"{implementation} is no subclass of mlserver.MLModel.")
        model = cls(settings)
    except LoadError:
        raise
    except (Exception, SystemExit) as error:
        log.error("model %s: %s cannot be made", options.name, implementation, exc_info=error)
        raise LoadError(f"{implementation} cannot be loaded: {first_line(error)}") from error
    return MlserverModel(model, package.types, options.name)


def _add(settings: Any, extra: Mapping[str, Any]) -> None:
    """More of `parameters.extra`, such as what a Model of Seldon's says."""
    if settings.parameters is None:
        module: Any = importlib.import_module("mlserver.settings")
        settings.parameters = module.ModelParameters()
    settings.parameters.extra = {**(settings.parameters.extra or {}), **extra}


def _specs(tensors: Sequence[Any] | None) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            t.name, str(getattr(t.datatype, "value", t.datatype)), tuple(int(n) for n in t.shape)
        )
        for t in tensors or ()
    )


def _kept(parameters: Any) -> dict[str, Any]:
    """Those parameters of an answer or an output that V2 can carry, such as content types."""
    if parameters is None:
        return {}
    given = parameters.model_dump(exclude_none=True)
    return {k: v for k, v in given.items() if isinstance(v, str | int | float | bool)}


def _array(output: Any) -> Any:
    datatype = str(getattr(output.datatype, "value", output.datatype))
    data = output.data
    data = getattr(data, "root", data)
    shape = tuple(int(n) for n in output.shape)
    if datatype == "BYTES":
        elements = data if isinstance(data, list | tuple) else [data]
        array = np.empty(len(elements), dtype=object)
        array[:] = [e.encode() if isinstance(e, str) else e for e in elements]
        return array.reshape(shape)
    return np.asarray(data, dtype=DATATYPES[datatype].dtype).reshape(shape)


framework = Framework(
    name="mlserver_python",
    extra="",
    preload=(),
    load=load,
    formats=(),
)
