"""How a Python model of Triton's is called: requests gather, `execute` gets them, each has its own answer.

`triton_python` has made the instance; what a decoupled one sends goes through `triton_responses`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from penstock.errors import Internal, InvalidInput, ModelError, PenstockError, Unsupported
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes import inputs as given
from penstock.runtimes import triton_backend_utils as pb_utils
from penstock.runtimes.base import (
    CallContext,
    PayloadRuntime,
    RawReply,
    RawRequest,
    ResponseStream,
    StreamReply,
)
from penstock.runtimes.triton_responses import Collector
from penstock.runtimes.triton_specs import specs_of

log = logging.getLogger(__name__)

PLATFORM: Final = "python"
#: Calls in one hop to the model's thread, and the seconds after which the next one waits for another hop.
_CALLS_A_HOP: Final = 32
_HOP_S: Final = 0.001


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
    collector: Collector | None = None

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
        self.inputs = tuple(specs_of(config.get("input") or [], most))
        self.outputs = tuple(specs_of(config.get("output") or [], most))
        self._optional = frozenset(
            t.get("name") for t in config.get("input") or [] if t.get("optional")
        )
        self._declared = frozenset(s.name for s in self.inputs)
        self._outputs = frozenset(s.name for s in self.outputs)
        self._queue: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest | RawRequest, context: CallContext
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
            waiting.collector = Collector(loop)
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
        self, request: InferRequest, collector: Collector
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
