"""An instance of a user's own class: how it is made and loaded, what it declares, and whose its faults are.

Nothing here calls `predict`: `custom` and `class_calls` do, each in its way.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from penstock.errors import LoadError, ModelError, PenstockError
from penstock.runtimes.base import TensorSpec
from penstock.runtimes.kserve_classes import PACKAGES
from penstock.sdk.discovery import import_error
from penstock.sdk.model import Model
from penstock.sdk.signature import plan_of

log = logging.getLogger(__name__)

#: What the process says its framework is.
PLATFORM: Final = "python_class"


class UserModel:
    """One instance of the user's class and what is known of it."""

    def __init__(self, instance: Any, name: str, folder: Path, options: Mapping[str, Any]) -> None:
        cls = type(instance)
        self.instance = instance
        self.name = name
        self.folder = folder
        self.class_name = cls.__name__
        self.options = options
        self.predict = plan_of(instance.predict, f"{cls.__name__}.predict")
        self.inputs = _specs(instance, "inputs", "get_input_types")
        self.outputs = _specs(instance, "outputs", "get_output_types")
        self.batchable = bool(getattr(instance, "batchable", False))
        self.reentrant = bool(getattr(instance, "reentrant", False))
        self.preprocess = self._own("preprocess")
        self.postprocess = self._own("postprocess")
        self.explain = self._own("explain")
        self.streams = inspect.isgeneratorfunction(instance.predict) or inspect.isasyncgenfunction(
            instance.predict
        )
        self.awaited = inspect.iscoroutinefunction(instance.predict)

    def _own(self, name: str) -> Callable[..., Any] | None:
        """The user's own method, None where it is a base class's: ours, or KServe's."""
        function = getattr(type(self.instance), name, None)
        if function is None or function is getattr(Model, name, None):
            return None
        if definer(type(self.instance), name).partition(".")[0] in PACKAGES:
            return None
        method: Callable[..., Any] = getattr(self.instance, name)
        return method

    @property
    def arrays_only(self) -> bool:
        """The whole model is one function from tensors to outputs."""
        return self.predict.typed and not self.needs_payload

    @property
    def needs_payload(self) -> str:
        """Why the request itself is needed; empty when tensors do."""
        for name in ("preprocess", "postprocess", "explain"):
            if getattr(self, name) is not None:
                return f"has its own {name}"
        if self.streams:
            return "is a generator"
        if self.predict.context:
            return f"takes {self.predict.context[0]}"
        return ""

    def fault(self, error: BaseException, step: str) -> PenstockError:
        """What the caller is told: the user's own PenstockError, or one line without the data."""
        if isinstance(error, PenstockError):
            return error
        log.error("model %s: %s raised", self.name, step, exc_info=error)
        return ModelError(
            f"model '{self.name}' failed in {step}: {type(error).__name__}.",
            hint="Its log has the traceback.",
        )

    def run_load(self) -> Any:
        """The user's `load`, unless `__init__` has made the model ready; perhaps an awaitable."""
        method = getattr(self.instance, "load", None)
        if method is None or getattr(self.instance, "ready", False) is True:
            return None
        try:
            return method()
        except (Exception, SystemExit) as e:
            raise self.load_error(e) from e

    def loaded(self, result: Any) -> None:
        """Judges what `load` returned."""
        if result is False:
            raise LoadError(f"{self.class_name}.load returned False")
        if self._own("load") is not None and result is True and hasattr(self.instance, "ready"):
            self.instance.ready = True

    def load_error(self, error: BaseException) -> LoadError:
        if isinstance(error, LoadError):
            return error
        return import_error(f"{self.class_name}.load", error, self.folder)

    def example(self) -> Any:
        method = self._own("example")
        return None if method is None else method()

    def close(self) -> Any:
        method = self._own("close")
        return None if method is None else method()


def definer(cls: type, name: str) -> str:
    """The module of the class that has the attribute; empty where none has."""
    return next((base.__module__ for base in cls.__mro__ if name in vars(base)), "")


def _specs(instance: Any, attribute: str, method: str) -> tuple[TensorSpec, ...]:
    """What the class declares, as `inputs` or by KServe's method; LoadError when it is no declaration."""
    declared = getattr(instance, attribute, ())
    if not declared and callable(getattr(instance, method, None)):
        declared = getattr(instance, method)()
    if not isinstance(declared, list | tuple):
        return ()  # an attribute of the user's own that has this name
    specs: list[TensorSpec] = []
    for entry in declared:
        if isinstance(entry, TensorSpec):
            specs.append(entry)
        elif isinstance(entry, Mapping) and {"name", "datatype", "shape"} <= entry.keys():
            specs.append(TensorSpec(entry["name"], entry["datatype"], tuple(entry["shape"])))
        elif isinstance(entry, tuple) and len(entry) == 3:
            specs.append(TensorSpec(entry[0], entry[1], tuple(entry[2])))
        else:
            raise LoadError(
                f"{type(instance).__name__}.{attribute} has an entry that is no tensor:"
                " (name, datatype, shape) is expected"
            )
    return tuple(specs)


def load_here(model: UserModel) -> None:
    result = model.run_load()
    if inspect.iscoroutine(result):
        try:
            result = asyncio.run(result)
        except (Exception, SystemExit) as e:
            raise model.load_error(e) from e
    model.loaded(result)


def instantiate(
    cls: type,
    name: str,
    folder: Path,
    options: Mapping[str, Any],
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """An instance of the user's class, given the options that its `__init__` takes.

    `attributes` are set before `__init__` runs on a class that extends ours, and offered to it by name.
    """
    known: dict[str, Any] = {"name": name, "path": folder, "model_dir": str(folder)}
    known |= attributes or {}
    arguments: dict[str, Any] = dict(options)
    inherited = getattr(cls, "__init__", None) is Model.__init__
    if inherited:
        arguments = {"name": name, **{k: v for k, v in options.items() if k != "name"}}
    else:
        try:
            parameters = inspect.signature(cls).parameters
        except (TypeError, ValueError):
            parameters = {}  # type: ignore[assignment]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = [] if takes_any else [k for k in options if k not in parameters]
        if unknown:
            takes = ", ".join(p for p in parameters if p not in known) or "none"
            raise LoadError(
                f"{cls.__name__} takes no option {', '.join(map(repr, unknown))}.",
                hint=f"Its options: {takes}.",
            )
        arguments |= {k: v for k, v in known.items() if k in parameters and k not in options}
    try:
        if issubclass(cls, Model):
            model = cls.__new__(cls)
            model.name, model.path, model.options = name, folder, options
            for attribute, value in (attributes or {}).items():
                setattr(model, attribute, value)
            cls.__init__(model, **arguments)
            return model
        return cls(**arguments)
    except (Exception, SystemExit) as e:
        if isinstance(e, LoadError):
            raise
        raise import_error(cls.__name__, e, folder) from e
