"""Triton's Python models, as they are: a class `TritonPythonModel` in `model.py`.

The model gets what Triton's Python backend gives it: `initialize(args)`, then `execute(requests)` with a list
of requests of one batch, then `finalize()`; `import triton_python_backend_utils as pb_utils` finds the module
of that name here (`triton_backend_utils`). Requests stay requests: they are gathered as the configuration
allows, work-conserving as everywhere, and never joined into one array, so ids, parameters and correlation
ids are each request's own.

A decoupled model answers through `request.get_response_sender()`, as often as it likes, over
`ModelStreamInfer`. Over V2 and unary gRPC a request has one answer, so exactly one is expected there.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import logging
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from penstock.errors import (
    Internal,
    InvalidInput,
    LoadError,
    ModelError,
    PenstockError,
    Unsupported,
)
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.tensors import DATATYPES
from penstock.runtimes import inputs as given
from penstock.runtimes import triton_backend_utils as pb_utils
from penstock.runtimes.base import (
    CallContext,
    Framework,
    LoadOptions,
    PayloadRuntime,
    RawReply,
    ResponseStream,
    StreamReply,
    TensorSpec,
)
from penstock.runtimes.loading import first_line, known_options, option
from penstock.sdk.discovery import enter

log = logging.getLogger(__name__)

PLATFORM: Final = "python"
CLASS: Final = "TritonPythonModel"
_MODULE: Final = "triton_python_backend_utils"
#: Triton's type names by V2's.
_TYPES: Final = {
    **{name: f"TYPE_{name}" for name in DATATYPES if name != "BYTES"},
    "BYTES": "TYPE_STRING",
}
_NAMES: Final = {v: k for k, v in _TYPES.items()}
#: Calls in one hop to the model's thread, and the seconds after which the next one waits for another hop.
_CALLS_A_HOP: Final = 32
_HOP_S: Final = 0.001
#: Responses of one decoupled request that may wait to be sent on.
_HELD: Final = 64
_END: Final = object()


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a call of the model raised."""

    error: BaseException


@dataclass(slots=True)
class _Waiting:
    """One request between its arrival and its answer."""

    request: InferRequest
    rows: int
    future: asyncio.Future[InferResponse]
    #: Of a decoupled model's request; `future` is not used then.
    collector: _Collector | None = None

    def left(self) -> bool:
        """Nobody waits for the answer any more."""
        return self.future.done() if self.collector is None else self.collector.gone


class TritonPython(PayloadRuntime):
    """One version of one Python model. `execute` is called from one thread at a time."""

    platform = PLATFORM

    def __init__(self, instance: Any, name: str, config: Mapping[str, Any]) -> None:
        self._model = instance
        self._name = name
        most = int(config.get("max_batch_size", 0))
        self._most_rows = most
        dynamic = config.get("dynamic_batching")
        #: Rows of several requests in one call; 0: one request per call.
        self._batch_rows = most if dynamic is not None and most > 1 else 0
        self._delay_s = (dynamic or {}).get("max_queue_delay_microseconds", 0) / 1e6
        self._decoupled = bool((config.get("model_transaction_policy") or {}).get("decoupled"))
        self.inputs = tuple(_specs(config.get("input") or [], most))
        self.outputs = tuple(_specs(config.get("output") or [], most))
        self._optional = frozenset(
            t.get("name") for t in config.get("input") or [] if t.get("optional")
        )
        self._declared = frozenset(s.name for s in self.inputs)
        self._outputs = frozenset(s.name for s in self.outputs)
        self._queue: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest, context: CallContext
    ) -> InferResponse | RawReply | StreamReply | ResponseStream:
        if not isinstance(payload, InferRequest):
            raise Unsupported(
                f"Model {self._name} is a Python model of Triton's, which takes V2 requests.",
                hint=f"Use /v2/models/{self._name}/infer.",
            )
        if context.run is None:
            raise Unsupported("Triton's Python models need a model process to run in.")
        checked = self._checked(payload)
        rows = next(iter(checked.inputs.values())).shape[0] if self._most_rows else 1
        if self._most_rows and rows > self._most_rows:
            raise InvalidInput(
                f"The request has {rows} rows; at most {self._most_rows} are allowed (max_batch_size)."
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(checked, rows, loop.create_future())
        if self._decoupled:
            waiting.collector = _Collector(loop)
        self._queue.append(waiting)
        if self._task is None:
            self._task = loop.create_task(self._serve(context.run))
        if waiting.collector is not None:
            responses = self._responses(checked, waiting.collector)
            return ResponseStream(responses) if context.streams else await self._only(responses)
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            raise

    async def _responses(
        self, request: InferRequest, collector: _Collector
    ) -> AsyncGenerator[InferResponse, None]:
        async with aclosing(collector.responses()) as answers:
            async for answer in answers:
                yield self._response(request, answer)

    async def _only(self, responses: AsyncGenerator[InferResponse, None]) -> InferResponse:
        """The one response of a decoupled model to a request that can carry one."""
        found: InferResponse | None = None
        async with aclosing(responses):
            async for response in responses:
                if found is not None:
                    raise Unsupported(
                        f"Model {self._name} is decoupled and answered more than once.",
                        hint="Call it by a stream of gRPC (ModelStreamInfer).",
                    )
                found = response
        if found is None:
            raise Unsupported(
                f"Model {self._name} is decoupled and answered nothing.",
                hint="Call it by a stream of gRPC (ModelStreamInfer).",
            )
        return found

    async def _serve(self, run: Callable[[Callable[[], Any]], Any]) -> None:
        """Call the model for what has gathered, until nothing waits."""
        try:
            if self._delay_s and self._batch_rows:
                await asyncio.sleep(self._delay_s)
            while self._queue:
                # One hop to the thread for several calls, where each has one request only.
                most = 1 if self._batch_rows else _CALLS_A_HOP
                batches: list[list[_Waiting]] = []
                while len(batches) < most and (batch := self._gathered()):
                    batches.append(batch)
                if batches:
                    await self._execute(batches, run)
        finally:
            self._task = None

    def _gathered(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if first.left():
                self._queue.popleft()
                continue
            if batch and (not self._batch_rows or rows + first.rows > self._batch_rows):
                break
            if batch and not _alike(batch[0].request, first.request):
                break
            batch.append(self._queue.popleft())
            rows += first.rows
        return batch

    async def _execute(
        self, batches: list[list[_Waiting]], run: Callable[[Callable[[], Any]], Any]
    ) -> None:
        """Call the model once for each batch, as far as the time of one hop goes; the rest waits again."""
        prepared: list[tuple[list[_Waiting], list[Any]]] = []
        for batch in batches:
            try:
                prepared.append((batch, self._requests(batch)))
            except Exception:
                log.exception("a call of model %s failed", self._name)
                self._fail(batch, self._internal())
        try:
            outcomes: list[Any] = await run(lambda: self._work([r for _, r in prepared]))
        except Exception:
            log.exception("a call of model %s failed", self._name)
            for batch, _ in prepared:
                self._fail(batch, self._internal())
            return
        for (batch, _), outcome in zip(prepared, outcomes, strict=False):
            try:
                self._finish(batch, outcome)
            except Exception:
                log.exception("an answer of model %s could not be taken", self._name)
                self._fail(batch, self._internal())
        for batch, _ in reversed(prepared[len(outcomes) :]):
            self._queue.extendleft(reversed(batch))

    def _work(self, calls: list[list[Any]]) -> list[Any]:
        """In a thread: what the calls answered or raised, up to the one that used the time up."""
        outcomes: list[Any] = []
        began = perf_counter()
        for requests in calls:
            try:
                outcomes.append(self._model.execute(requests))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - judged where it is answered
                outcomes.append(_Raised(error))
            if perf_counter() - began >= _HOP_S:
                break
        return outcomes

    def _requests(self, batch: list[_Waiting]) -> list[Any]:
        """What the model is given for a batch."""
        requests = [
            pb_utils.InferenceRequest(
                request_id=w.request.id or "",
                model_name=self._name,
                model_version=_whole_number(w.request.model_version),
                inputs=[
                    pb_utils.Tensor(name, _writable(array))
                    for name, array in w.request.inputs.items()
                ],
                requested_output_names=self._wanted(w.request),
                correlation_id=w.request.parameters.get("sequence_id", 0),
                flags=_flags(w.request.parameters),
                timeout=w.request.parameters.get("timeout", 0),
                parameters=_plain(w.request.parameters),
                cancelled=w.left,
            )
            for w in batch
        ]
        for waiting, request in zip(batch, requests, strict=True):
            if waiting.collector is not None:
                request.attach(pb_utils.ResponseSender(waiting.collector.send))
        return requests

    def _finish(self, batch: list[_Waiting], outcome: Any) -> None:
        """Answer a batch's requests with what its call came to."""
        if isinstance(outcome, _Raised):
            self._fail(batch, self._fault(outcome.error))
        elif self._decoupled:
            if outcome is not None:
                self._fail(batch, ModelError("A decoupled model's execute returns None."))
        elif not isinstance(outcome, list | tuple) or len(outcome) != len(batch):
            what = f"{len(outcome)}" if isinstance(outcome, list | tuple) else "no list of"
            fault = f"model '{self._name}' answered {what} responses to {len(batch)} requests."
            self._fail(batch, ModelError(fault))
        else:
            for waiting, answer in zip(batch, outcome, strict=True):
                self._answer(waiting, answer)

    def _fault(self, error: BaseException) -> PenstockError:
        if isinstance(error, pb_utils.TritonModelException):
            return ModelError(_said(error))
        if isinstance(error, PenstockError):
            return error
        log.error("model %s: execute raised", self._name, exc_info=error)
        return ModelError(
            f"model '{self._name}' failed in execute: {type(error).__name__}.",
            hint="Its log has the traceback.",
        )

    def _internal(self) -> Internal:
        return Internal(f"A call of model {self._name} failed; its log tells why.")

    def _answer(self, waiting: _Waiting, answer: Any) -> None:
        if waiting.future.done():
            return
        try:
            waiting.future.set_result(self._response(waiting.request, answer))
        except PenstockError as error:
            waiting.future.set_exception(error)

    def _response(self, request: InferRequest, answer: Any) -> InferResponse:
        if not isinstance(answer, pb_utils.InferenceResponse):
            raise ModelError(
                f"model '{self._name}' answered a {type(answer).__name__}, "
                "an InferenceResponse is expected."
            )
        if answer.has_error():
            error = answer.error()
            if error.code() == pb_utils.TritonError.INVALID_ARG:
                raise InvalidInput(_said(error))
            raise ModelError(_said(error))
        outputs: dict[str, Any] = {}
        datatypes: dict[str, str] = {}
        wanted = [o.name for o in request.outputs] if request.outputs is not None else None
        for tensor in answer.output_tensors():
            if self._outputs and tensor.name() not in self._outputs:
                raise ModelError(
                    f"model '{self._name}' answered the output {tensor.name()!r}, "
                    "which its configuration does not have."
                )
            if wanted is not None and tensor.name() not in wanted:
                continue
            outputs[tensor.name()] = tensor.as_numpy()
        for spec in self.outputs:
            if spec.datatype == "BF16" and spec.name in outputs:
                datatypes[spec.name] = "BF16"
        return InferResponse(outputs, datatypes, parameters=dict(answer.parameters_dict()))

    def _wanted(self, request: InferRequest) -> list[str]:
        if request.outputs is not None:
            return [o.name for o in request.outputs]
        return [s.name for s in self.outputs]

    def _checked(self, request: InferRequest) -> InferRequest:
        """The request, with arrays of the declared types and shapes. InvalidInput."""
        if request.outputs is not None and self._outputs:
            unknown = [o.name for o in request.outputs if o.name not in self._outputs]
            if unknown:
                raise InvalidInput(
                    f"Model {self._name} has no output {given.listed(unknown)}; "
                    f"it has {given.listed(sorted(self._outputs))}."
                )
        if not self.inputs:
            if self._most_rows and not request.inputs:
                raise InvalidInput("The request has no input.")
            return request
        specs = [s for s in self.inputs if s.name in request.inputs or s.name not in self._optional]
        arrays = given.by_name(request.inputs, specs, binary=True)
        named = dict(zip((s.name for s in specs), arrays, strict=True))
        if self._most_rows:
            sizes = {a.shape[0] for a in arrays}
            if len(sizes) != 1:
                raise InvalidInput("The inputs have different numbers of rows.")
        return InferRequest(
            named,
            {s.name: s.datatype for s in specs},
            request.outputs,
            request.id,
            request.model_name,
            request.model_version,
            request.parameters,
            request.input_parameters,
            request.binary_output,
        )

    @staticmethod
    def _fail(batch: Sequence[_Waiting], error: PenstockError) -> None:
        for waiting in batch:
            if waiting.collector is not None:
                waiting.collector.fail(error)
            elif not waiting.future.done():
                waiting.future.set_exception(error)

    async def stop(self) -> None:
        finalize = getattr(self._model, "finalize", None)
        if finalize is None:
            return
        try:
            await asyncio.to_thread(finalize)
        except Exception:
            log.exception("model %s: finalize raised", self._name)


class _Collector:
    """A decoupled request's responses, sent from whatever thread the model has.

    A sender waits when the caller is slower than the model, so that little is held.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(_HELD)
        self._lock = threading.Lock()
        self._final = False
        #: Nobody waits any more.
        self.gone = False

    def send(self, response: Any, final: bool) -> None:
        with self._lock:
            if self._final:
                raise pb_utils.TritonModelException(
                    "Unable to send response. Response sender has been closed."
                )
            self._final = final
        if response is not None:
            self._room.acquire()
            self._put(response)
        if final:
            self._put(_END)

    def fail(self, error: PenstockError) -> None:
        """End with an error, behind what was sent before it."""
        self._put(error)

    def _put(self, item: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is on its way out
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def responses(self) -> AsyncGenerator[Any, None]:
        """As they come, to the end. Raises what the model's call raised."""
        try:
            while (item := await self._queue.get()) is not _END:
                if isinstance(item, PenstockError):
                    raise item
                self._room.release()
                yield item
        finally:
            self.gone = True
            for _ in range(_HELD):  # nobody is held by a caller that has left
                self._room.release()


def load(path: Path, options: LoadOptions) -> PayloadRuntime:
    """The class in `path`/model.py. Options: `config` (the configuration as JSON has it), `file`.

    Raises LoadError; the user's traceback goes to the log.
    """
    known_options(options, ("config", "file"))
    config: dict[str, Any] = dict(option(options, "config", dict, {}))
    filename = option(options, "file", str, "model.py")
    file = path / filename if path.is_dir() else path
    if not file.is_file():
        raise LoadError(f"There is no {filename} in {path.name}/.")
    cls = _class(file)
    folder = file.parent
    repository = folder.parent if folder.name.isdigit() else folder
    try:
        config = _completed(cls, config)
        instance = cls()
        _initialize(
            instance,
            {
                "model_config": json.dumps(config),
                "model_instance_kind": "CPU",
                "model_instance_name": f"{options.name}_0",
                "model_instance_device_id": "0",
                "model_repository": str(repository),
                "model_version": options.version or "1",
                "model_name": options.name,
            },
        )
    except LoadError:
        raise
    except (Exception, SystemExit) as error:
        log.error("model %s: initialize raised", options.name, exc_info=error)
        raise LoadError(
            f"{CLASS} in {file.name} cannot be initialized: {first_line(error)}"
        ) from error
    if not callable(getattr(instance, "execute", None)):
        raise LoadError(f"{CLASS} in {file.name} has no execute.")
    if inspect.iscoroutinefunction(instance.execute):
        raise LoadError(
            f"{CLASS}.execute in {file.name} is a coroutine; those call other models, which is not "
            "supported."
        )
    return TritonPython(instance, options.name, config)


def _class(file: Path) -> Any:
    """The user's class, imported with its folder on the path and `pb_utils` where it looks for it."""
    sys.modules.setdefault(_MODULE, pb_utils)
    enter(file.parent)
    name = f"penstock_triton_{file.parent.parent.name}_{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoadError(f"{file.name} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        log.exception("importing %s", file)
        raise LoadError(
            f"{file.name} needs the Python package {error.name!r}, which is not installed here."
        ) from error
    except (Exception, SystemExit) as error:
        log.error("importing %s", file, exc_info=error)
        raise LoadError(f"{file.name} cannot be imported: {first_line(error)}") from error
    cls = getattr(module, CLASS, None)
    if not isinstance(cls, type):
        raise LoadError(f"There is no class {CLASS} in {file.name}.")
    return cls


def _completed(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as the model itself completes it."""
    complete = getattr(cls, "auto_complete_config", None)
    if complete is None:
        return config
    answer = complete(pb_utils.ModelConfig(config))
    if not isinstance(answer, pb_utils.ModelConfig):
        raise LoadError(f"{CLASS}.auto_complete_config returned no ModelConfig.")
    return answer.as_dict()


def _initialize(instance: Any, args: dict[str, str]) -> None:
    initialize = getattr(instance, "initialize", None)
    if initialize is not None:
        initialize(args)


def _specs(tensors: Sequence[Mapping[str, Any]], most: int) -> list[TensorSpec]:
    found = []
    for tensor in tensors:
        datatype = _NAMES.get(str(tensor.get("data_type")))
        if datatype is None:
            raise LoadError(f"Tensor {tensor.get('name')!r} has no known data_type.")
        dims = tuple(int(d) for d in tensor.get("dims") or ())
        found.append(TensorSpec(str(tensor["name"]), datatype, ((-1,) if most else ()) + dims))
    return found


def _alike(a: InferRequest, b: InferRequest) -> bool:
    """Requests that Triton would put into one batch: the same inputs of the same shapes."""
    if a.inputs.keys() != b.inputs.keys():
        return False
    return all(x.shape[1:] == b.inputs[n].shape[1:] for n, x in a.inputs.items())


def _writable(array: Any) -> Any:
    """Triton's models may write to their inputs; views of a received body may not be."""
    return array if array.flags.writeable else array.copy()


def _whole_number(version: str) -> int:
    return int(version) if version.isdigit() else 1


def _flags(parameters: Mapping[str, Any]) -> int:
    flags = 0
    if parameters.get("sequence_start"):
        flags |= pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
    if parameters.get("sequence_end"):
        flags |= pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
    return flags


_RESERVED: Final = frozenset(
    ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output")
)


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: v
        for k, v in parameters.items()
        if k not in _RESERVED and isinstance(v, str | int | float | bool)
    }


def _said(error: Any) -> str:
    text = error.message() if isinstance(error, pb_utils.TritonError) else str(error)
    return " ".join(text.split())[:1000] or "The model failed."


framework = Framework(
    name="triton_python",
    extra="",
    preload=(),
    load=load,
    formats=(),
)
