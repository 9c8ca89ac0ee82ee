"""A user's own Python class as a model (framework `custom`).

`load` finds the class (see `penstock.sdk.discovery`), makes one instance and loads it (`user_model`). How
its `predict` is annotated decides what the model process gets: a `Runtime` that takes arrays like any
framework's, and may be batched, or a `ClassPayloadRuntime` (`class_calls`) that runs preprocess, predict and
postprocess on the request itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.errors import LoadError
from penstock.runtimes.base import Arrays, Framework, LoadOptions, PayloadRuntime, Runtime
from penstock.runtimes.class_calls import ClassPayloadRuntime
from penstock.runtimes.user_model import PLATFORM, UserModel, instantiate, load_here
from penstock.sdk.discovery import find_class
from penstock.sdk.results import to_outputs
from penstock.sdk.signature import as_arrays


class ClassRuntime(Runtime):
    """A class whose `predict` takes tensors and answers them, and does nothing else."""

    platform = PLATFORM

    def __init__(self, model: UserModel) -> None:
        self._model = model
        self.inputs = model.inputs
        self.outputs = model.outputs
        self.batchable = model.batchable
        self.reentrant = model.reentrant

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        model = self._model
        values = model.predict.bind(inputs, parameters)
        try:
            result = model.instance.predict(**values)
        except (Exception, SystemExit) as e:
            raise model.fault(e, "predict") from e
        return to_outputs(result, model.outputs)

    def example(self) -> Arrays | None:
        example = self._model.example()
        return None if example is None else as_arrays(example, "example")

    def close(self) -> None:
        self._model.close()


class AwaitedClassRuntime(ClassRuntime):
    """The same for an `async def predict`; the server awaits it."""

    async def predict(  # type: ignore[override]
        self, inputs: Arrays, parameters: Mapping[str, Any]
    ) -> Arrays:
        model = self._model
        values = model.predict.bind(inputs, parameters)
        try:
            result = await model.instance.predict(**values)
        except (Exception, SystemExit) as e:
            raise model.fault(e, "predict") from e
        return to_outputs(result, model.outputs)


def load(path: Path, options: LoadOptions) -> Runtime | PayloadRuntime:
    """The model at `path`. Options: `class` says which; the others go to its `__init__`.

    Raises LoadError; the user's traceback goes to the log.
    """
    wanted = dict(options.options)
    class_name = wanted.pop("class", None)
    if class_name is not None and not isinstance(class_name, str):
        raise LoadError("the option class is a text: Class, module:Class or file.py:Class")
    cls, folder = find_class(path, class_name)
    instance = instantiate(cls, options.name, folder, wanted)
    model = UserModel(instance, options.name, folder, wanted)
    if model.batchable and not model.arrays_only:
        reason = model.needs_payload or "takes the payload, not tensors"
        raise LoadError(
            f"{cls.__name__} is batchable, but it {reason}.",
            hint="Only a predict from tensors to tensors, with nothing around it, can be batched.",
        )
    later = inspect.iscoroutinefunction(getattr(instance, "load", None))
    # An async load opens things on the loop that calls will use, so it has to run there.
    if not model.arrays_only or (later and model.awaited and not model.batchable):
        runtime = ClassPayloadRuntime(model)
        if not later:
            load_here(model)
        return runtime
    load_here(model)
    return AwaitedClassRuntime(model) if model.awaited else ClassRuntime(model)


framework = Framework(
    name="custom",
    extra="",
    preload=(),
    load=load,
    formats=("custom", "python"),
    uses_devices=True,
)
