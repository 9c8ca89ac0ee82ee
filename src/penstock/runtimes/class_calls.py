"""A user's class that sees the request itself: preprocess, predict or explain, postprocess, in turn.

Each step runs where it belongs: what is `async def` on the loop, the others in a thread, those that follow
each other in one hop. A generator's items are a stream, and its first one is made before the status is sent.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from penstock.errors import InvalidInput, ModelError, Unsupported
from penstock.protocols import v1
from penstock.protocols.datatypes import datatype_of
from penstock.protocols.infer import InferRequest, InferResponse, explanations
from penstock.runtimes.base import (
    CallContext,
    PayloadRuntime,
    RawReply,
    RawRequest,
    ResponseStream,
    StreamReply,
    TensorSpec,
)
from penstock.runtimes.kserve_classes import types_for
from penstock.runtimes.user_model import PLATFORM, UserModel
from penstock.sdk.model import Model
from penstock.sdk.results import is_stream, to_outputs, to_response, to_v1, to_v2
from penstock.sdk.signature import as_arrays, plan_of

log = logging.getLogger(__name__)

#: Threads of a reentrant model's own, where the server lends none.
_THREADS: Final = 8
_END: Final = object()
_Run = Callable[[Callable[[], Any]], Awaitable[Any]]


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
        self._kserve = types_for(type(model.instance))
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
            # What is no method of the class is the predictor that it was lent.
            if self._kserve is not None and inspect.ismethod(method):
                method = self._kserve.around(method)
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
    return explanations([v1.encode_result(result)])


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
            raise v1.no_input(value)
        return as_arrays(value, "preprocess"), {}
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):
        return {c: value[c].to_numpy() for c in value.columns}, {}
    return {None: np.asarray(value)}, {}
