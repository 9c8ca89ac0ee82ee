"""A user's own Python class as a model (framework `custom`).

`load` finds the class (see `penstock.sdk.discovery`), makes one instance and loads it. How its `predict` is
annotated decides what the model process gets: a `Runtime` that takes arrays like any framework's, and may
be batched, or a `PayloadRuntime` that runs preprocess, predict and postprocess on the request itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError, PenstockError, Unsupported
from penstock.protocols import v1
from penstock.protocols.datatypes import datatype_of
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes.base import (
    Arrays,
    CallContext,
    Framework,
    LoadOptions,
    PayloadRuntime,
    RawReply,
    RawRequest,
    ResponseStream,
    Runtime,
    StreamReply,
    TensorSpec,
)
from penstock.sdk.discovery import find_class, import_error
from penstock.sdk.model import Model
from penstock.sdk.results import is_stream, to_outputs, to_response, to_v1, to_v2
from penstock.sdk.signature import as_arrays, plan_of

log = logging.getLogger(__name__)

PLATFORM: Final = "python_class"
#: Threads of a reentrant model's own, where the server lends none.
_THREADS: Final = 8
_END: Final = object()
_Run = Callable[[Callable[[], Any]], Awaitable[Any]]


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
        """The user's own method, None where it is the base class's."""
        function = getattr(type(self.instance), name, None)
        if function is None or function is getattr(Model, name, None):
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


class _Step(NamedTuple):
    """One of the user's methods, or the making of the reply."""

    name: str
    run: Callable[[Any], Any]
    #: It is a coroutine function, or follows one.
    awaited: bool


class ClassPayloadRuntime(PayloadRuntime):
    """A class that sees the request: preprocess, predict or explain, postprocess."""

    platform = PLATFORM

    def __init__(self, model: UserModel) -> None:
        self._model = model
        self.inputs = model.inputs
        self.outputs = model.outputs
        self.reentrant = model.reentrant
        self.decoupled = model.streams
        self.verbs = frozenset({"predict"} | ({"explain"} if model.explain else set()))
        self._threads: ThreadPoolExecutor | None = None
        what = model.class_name
        ours = isinstance(model.instance, Model)
        self._plans = {
            name: plan_of(method, f"{what}.{name}", lists=ours or name != "postprocess")
            for name in ("preprocess", "postprocess", "explain")
            if (method := getattr(model, name)) is not None
        }
        self._plans["predict"] = model.predict
        self.takes_raw = self._plans["preprocess" if model.preprocess else "predict"].raw
        #: `async def`: quick by its own promise, so no thread is asked.
        self._awaited = frozenset(
            n for n in self._plans if inspect.iscoroutinefunction(getattr(model.instance, n))
        )

    async def start(self) -> None:
        model = self._model
        if not inspect.iscoroutinefunction(getattr(model.instance, "load", None)):
            return  # done by the framework's `load`, in its thread
        result = model.run_load()
        if inspect.isawaitable(result):
            try:
                result = await result
            except (Exception, SystemExit) as e:
                raise model.load_error(e) from e
        model.loaded(result)

    async def call(
        self,
        payload: dict[str, Any] | bytes | InferRequest | RawRequest,
        context: CallContext,
    ) -> InferResponse | RawReply | StreamReply | ResponseStream:
        if context.verb not in self.verbs:
            raise Unsupported(f"model '{self._model.name}' cannot explain")
        run = context.run or self._in_thread
        steps = [
            _Step(step, self._step(step, context), step in self._awaited)
            for step in ("preprocess", context.verb, "postprocess")
            if step in self._plans
        ]
        steps.append(_Step("its answer", self._finish(context), steps[-1].awaited))

        result: Any = payload
        at = 0
        while at < len(steps):
            if steps[at].awaited:
                at, result = self._advance(steps, at, result)
            else:
                # Synchronous steps that follow each other share one hop to the thread.
                at, result = await run(partial(self._advance, steps, at, result))
            if inspect.isawaitable(result):
                try:
                    result = await result
                except (Exception, SystemExit) as e:
                    raise self._model.fault(e, steps[at - 1].name) from e
        if is_stream(result):
            source = await self._begun(result, run)
            if context.protocol == "v2":
                return ResponseStream(self._responses(*source))
            return StreamReply(self._pieces(*source))
        return result  # type: ignore[no-any-return]

    def _advance(self, steps: list[_Step], at: int, value: Any) -> tuple[int, Any]:
        """Runs steps from `at` until one gives something to await, belongs elsewhere, or there are no more.

        What is `async def` begins on the loop, whatever is not in a thread.
        """
        here = steps[at].awaited
        while at < len(steps) and steps[at].awaited is here:
            try:
                value = steps[at].run(value)
            except (Exception, SystemExit) as e:
                raise self._model.fault(e, steps[at].name) from e
            at += 1
            if inspect.isawaitable(value):
                break
        return at, value

    def _step(self, name: str, context: CallContext) -> Callable[[Any], Any]:
        method = getattr(self._model.instance, name)
        plan = self._plans[name]
        if not plan.typed:
            return lambda value: plan.call(method, value, context)

        def bound(value: Any) -> Any:
            inputs, parameters = _tensors_in(value, self.inputs)
            return plan.call_bound(method, plan.bind(inputs, parameters), context)

        return bound

    def _finish(self, context: CallContext) -> Callable[[Any], Any]:
        """What makes the reply of the last step's result."""
        # A method from tensors to tensors answers outputs, whatever the protocol, as `ClassRuntime` has it.
        outputs = self._plans[context.verb].typed and self._model.postprocess is None

        if context.verb == "explain":
            return partial(_explained, context.protocol)

        def finish(result: Any) -> Any:
            if is_stream(result) and (context.protocol == "v1" or context.streams):
                return result
            if outputs and not is_stream(result) and not isinstance(result, InferResponse):
                result = InferResponse(dict(to_outputs(result, self.outputs)))
            return to_v2(result, self.outputs) if context.protocol == "v2" else to_v1(result)

        return finish

    async def _begun(self, result: Any, run: _Run) -> tuple[Any, AsyncGenerator[Any, None]]:
        """A stream's first item and where the others come from. The first is made before this returns, so
        that a model that fails at once gets a proper status."""
        source = _pull(result, run)
        try:
            first = await anext(source, _END)
        except (Exception, SystemExit) as e:
            await source.aclose()
            raise self._model.fault(e, "predict") from e
        return first, source

    async def _responses(
        self, first: Any, source: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[InferResponse, None]:
        try:
            item = first
            while item is not _END:
                yield to_response(item, self.outputs)
                item = await anext(source, _END)
        except (Exception, SystemExit) as e:
            raise self._model.fault(e, "predict") from e
        finally:
            await source.aclose()

    async def _pieces(
        self, first: Any, source: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[bytes, None]:
        try:
            item = first
            while item is not _END:
                yield v1.encode_chunk(item)
                item = await anext(source, _END)
        except (Exception, SystemExit) as e:
            raise self._model.fault(e, "predict") from e
        finally:
            await source.aclose()

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                _THREADS if self._model.reentrant else 1, f"model-{self._model.name}"
            )
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def example(self) -> dict[str, Any] | bytes | InferRequest | RawRequest | None:
        example = self._model.example()
        if self.takes_raw and isinstance(example, bytes | bytearray):
            return RawRequest(bytes(example))
        if isinstance(example, RawRequest):
            return example
        if example is None or isinstance(example, bytes | InferRequest):
            return example
        if isinstance(example, dict) and ("instances" in example or "inputs" in example):
            return example
        if self._model.predict.typed and self._model.preprocess is None:
            arrays = dict(as_arrays(example, "example"))
            return InferRequest(arrays, {n: datatype_of(a, n) for n, a in arrays.items()})
        if isinstance(example, dict):
            return example
        raise ModelError(f"example returned a {type(example).__name__}, a request is expected")

    async def stop(self) -> None:
        try:
            result = self._model.close()
            if inspect.isawaitable(result):
                await result
        finally:
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)


def _explained(protocol: str, result: Any) -> InferResponse | RawReply:
    """An explanation is a document: V1's body, or V2's one BYTES element with its JSON."""
    if isinstance(result, InferResponse):
        return RawReply(v1.encode_predictions(result.outputs)) if protocol == "v1" else result
    if is_stream(result):
        raise ModelError("explain returned a generator: an explanation is sent in one piece")
    if protocol == "v1":
        return to_v1(result)
    document = np.empty(1, dtype=object)
    document[0] = v1.encode_result(result)
    return InferResponse({"explanation": document})


async def _pull(result: Any, run: _Run) -> AsyncGenerator[Any, None]:
    """The items of a sync or async iterator; sync ones are made where they do not hold the loop."""
    if isinstance(result, Iterator):
        try:
            while (item := await run(lambda: next(result, _END))) is not _END:
                yield item
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                try:
                    close()
                except ValueError:
                    log.warning("a stream was closed while its generator ran; it ends by itself")
    else:
        try:
            async for item in result:
                yield item
        finally:
            aclose = getattr(result, "aclose", None)
            if aclose is not None:
                await aclose()


def _tensors_in(value: Any, specs: tuple[TensorSpec, ...]) -> tuple[Any, Mapping[str, Any]]:
    """Named arrays and parameters in a payload, or in what a preprocess made of it."""
    if isinstance(value, InferRequest):
        return value.inputs, value.parameters
    if isinstance(value, bytes):
        raise InvalidInput("a JSON body is expected")
    if isinstance(value, dict):
        if "instances" in value or "inputs" in value:
            decoded = v1.to_arrays(value, specs)
            return decoded.inputs, decoded.parameters
        if not value or not all(isinstance(v, np.ndarray | list) for v in value.values()):
            raise InvalidInput("the request has neither 'instances' nor 'inputs'")
        return as_arrays(value, "preprocess"), {}
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):
        return {c: value[c].to_numpy() for c in value.columns}, {}
    return {None: np.asarray(value)}, {}


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


framework = Framework(
    name="custom",
    extra="",
    preload=(),
    load=load,
    formats=("custom", "python"),
    uses_devices=True,
)
