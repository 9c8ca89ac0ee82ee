"""What a class for Seldon's Python wrapper answers, as a unit of a graph or as a model by itself.

It speaks Seldon's calls (`predict`, `transform-input`, `transform-output`, `route`, `aggregate`,
`send-feedback`), and V1 and V2 where it predicts, then with the request's only tensor as features. What a
class may leave out is as Seldon has it: names default to `t:0`, `t:1`, ...; tags and metrics to none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import isfinite
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, ModelError, PenstockError, Unsupported
from penstock.protocols import v1
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.seldon_message import (
    ARRAY_KINDS,
    Feedback,
    SeldonMessage,
    merged,
    message_of,
)
from penstock.runtimes.base import (
    CallContext,
    RawReply,
    RawRequest,
    UnitAnswer,
    UnitRuntime,
)
from penstock.runtimes.seldon_classes import (
    METHODS,
    METRIC_TAGS,
    Method,
    implements,
    plain,
)
from penstock.runtimes.seldon_errors import failure_in, not_there, own_error

log = logging.getLogger(__name__)

PLATFORM: Final = "seldon_python"
_METRIC_TYPES: Final = ("COUNTER", "GAUGE", "TIMER")
#: Metrics that one answer may bring.
_MOST_METRICS: Final = 100


class _NotThere(InvalidInput):
    """A method says that it is not there."""


class SeldonUnit(UnitRuntime):
    """One instance of a user's class."""

    platform = PLATFORM

    def __init__(self, instance: Any, name: str, unit: str) -> None:
        cls = type(instance)
        self._instance = instance
        self._name = name
        self._unit = unit
        self._threads: ThreadPoolExecutor | None = None
        #: Verb -> (the method, whether it takes the message itself).
        self._methods: dict[str, tuple[Method, bool]] = {}
        #: Verb -> the method besides a raw one, which may say that it is not there.
        self._besides: dict[str, Method] = {}
        for verb, method in METHODS.items():
            for found, raw in ((f"{method}_raw", True), (method, False)):
                if not implements(cls, found):
                    continue
                if verb in self._methods:
                    self._besides[verb] = Method(getattr(instance, found))
                else:
                    self._methods[verb] = (Method(getattr(instance, found)), raw)
        self.verbs = frozenset(self._methods)

    # -- calls

    async def unit(
        self, verb: str, messages: Sequence[SeldonMessage], context: CallContext
    ) -> UnitAnswer:
        if verb not in self._methods:
            raise Unsupported(
                f"{type(self._instance).__name__} has no {METHODS.get(verb, verb)}.",
            )
        run = context.run or self._in_thread
        answer: UnitAnswer = await run(partial(self._answer, verb, messages))
        return answer

    async def feedback(self, feedback: Feedback, context: CallContext) -> UnitAnswer:
        if "send-feedback" not in self._methods:
            # A unit that learns nothing takes a reward all the same; it is counted.
            return UnitAnswer(SeldonMessage(None, ""), ())
        run = context.run or self._in_thread
        answer: UnitAnswer = await run(partial(self._learn, feedback))
        return answer

    async def health(self, context: CallContext) -> SeldonMessage | None:
        cls = type(self._instance)
        raw = implements(cls, "health_status_raw")
        if not raw and not implements(cls, "health_status"):
            return None
        run = context.run or self._in_thread

        def ask() -> SeldonMessage:
            if raw:
                return self._raw(self._called("health", self._instance.health_status_raw))
            result = self._called("health_status", self._instance.health_status)
            return self._message(result, None, "health")[0]

        found: SeldonMessage = await run(ask)
        return found

    def metadata(self) -> Mapping[str, Any]:
        known: dict[str, Any] = {
            "name": self._name, "versions": [], "platform": "seldon", "inputs": [], "outputs": [],
            "custom": {},
        }  # fmt: skip
        if implements(type(self._instance), "init_metadata"):
            given = self._called("init_metadata", self._instance.init_metadata)
            if not isinstance(given, Mapping):
                raise ModelError(f"model '{self._name}': init_metadata returned no mapping.")
            for key, default in known.items():
                if not isinstance(given.get(key, default), type(default)):
                    kind = type(default).__name__
                    message = f"model '{self._name}': init_metadata's {key} is no {kind}."
                    raise ModelError(message)
            known |= given
        return known

    def _answer(self, verb: str, messages: Sequence[SeldonMessage]) -> UnitAnswer:
        """Run the class's method. In a thread."""
        method, raw = self._methods[verb]
        name = METHODS[verb]
        if raw:
            given: Any = (
                {"seldonMessages": [m.document() for m in messages]}
                if verb == "aggregate"
                else messages[0].document()
            )
            try:
                answer = self._raw(self._called(f"{name}_raw", partial(method, given)))
            except _NotThere:
                if verb not in self._besides:
                    raise
                method = self._besides[verb]
            else:
                return UnitAnswer(answer, self._own(answer, messages))
        if verb == "aggregate":
            result = self._called(
                name,
                partial(method, [m.value for m in messages], [list(m.names) for m in messages]),
            )
            meta = merged([m.meta for m in messages])
        else:
            first = messages[0]
            meta = dict(first.meta)
            # A copy: what the class keeps of it shall stay what it was.
            call = partial(method, first.value, list(first.names), meta=dict(meta) or None)
            result = self._called(name, call)
        # Who chose which branch is for the graph to say.
        meta.pop("routing", None)
        if verb == "route":
            result = self._branch(result)
        message, own = self._message(result, messages[0], METRIC_TAGS[verb], meta)
        return UnitAnswer(message, own)

    def _learn(self, feedback: Feedback) -> UnitAnswer:
        method, raw = self._methods["send-feedback"]
        if raw:
            result = self._called("send_feedback_raw", partial(method, dict(feedback.document)))
            return UnitAnswer(SeldonMessage(None, "") if result is None else self._raw(result), ())
        routing = (feedback.meta.get("routing") or {}).get(self._unit)
        request = feedback.request
        result = self._called(
            "send_feedback",
            partial(
                method,
                _features(request),
                list(request.names) if request is not None else [],
                feedback.reward,
                _features(feedback.truth),
                routing=routing,
            ),
        )
        like = request if request is not None and request.kind else None
        data = getattr(result, "data", result) if hasattr(result, "metrics") else result
        if data is None:
            tags, own = self._tags(result), self._metrics(result, "feedback")
            return UnitAnswer(SeldonMessage(None, "", meta={"tags": tags} if tags else {}), own)
        message, own = self._message(result, like, "feedback")
        return UnitAnswer(message, own)

    # -- what the class answers

    def _called(self, what: str, call: Callable[[], Any]) -> Any:
        """Run the user's code; what it raises becomes one line without the data."""
        try:
            return call()
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            if not_there(error):
                raise _NotThere(f"{type(self._instance).__name__} has no {what}.") from error
            own = own_error(error, what)
            if own is not None:
                if own.status >= 500:
                    log.error("model %s: %s raised", self._name, what, exc_info=error)
                raise own from error
            log.error("model %s: %s raised", self._name, what, exc_info=error)
            raise ModelError(
                f"model '{self._name}' failed in {what}: {type(error).__name__}.",
                hint="Its log has the traceback.",
            ) from error

    def _message(
        self,
        result: Any,
        request: SeldonMessage | None,
        method: str,
        meta: Mapping[str, Any] | None = None,
    ) -> tuple[SeldonMessage, Sequence[Mapping[str, Any]]]:
        """The answer's message, and the metrics that are this unit's own."""
        own = self._metrics(result, method)
        out = dict(meta or {})
        tags = self._tags(result)
        if tags:
            out["tags"] = {**out.get("tags", {}), **tags}
        if own:
            out["metrics"] = [*out.get("metrics", ()), *own]
        value = result.data if _is_response(result) else result
        if isinstance(value, dict):
            return SeldonMessage(value, "jsonData", (), out), own
        if isinstance(value, str):
            return SeldonMessage(value, "strData", (), out), own
        if isinstance(value, bytes | bytearray):
            return SeldonMessage(bytes(value), "binData", (), out), own
        array = self._array(value)
        numeric = array.dtype.kind in "iuf"
        if request is not None and request.kind in ARRAY_KINDS:
            holds = numeric or (request.kind == "tftensor" and array.dtype.kind in "bU")
            kind = request.kind if holds else "ndarray"
        else:
            kind = "tensor" if numeric else "ndarray"
        return SeldonMessage(array, kind, self._names(array), out), own

    def _array(self, value: Any) -> np.ndarray[Any, Any]:
        if not isinstance(value, np.ndarray | list | tuple) and not hasattr(value, "__array__"):
            raise ModelError(
                f"model '{self._name}' answered a {type(value).__name__}; an array, a list, text, bytes"
                " or a dict is expected."
            )
        try:
            array = np.asarray(value)
            if array.dtype.kind in "US" and not isinstance(value, np.ndarray):
                # Numbers beside text stay numbers.
                each = np.asarray(value, dtype=object)
                if any(not isinstance(v, str) for v in each.ravel()):
                    return each
        except (ValueError, TypeError) as error:
            raise ModelError(f"model '{self._name}' answered rows of different lengths.") from error
        if not array.ndim:
            array = array.reshape(1)  # no message holds an array without a dimension
        if array.dtype.kind in "mM":
            return array.astype(str)
        if array.dtype.kind in "cV":
            raise ModelError(
                f"model '{self._name}' answered {array.dtype}, which a SeldonMessage cannot say."
            )
        return array

    def _names(self, array: np.ndarray[Any, Any]) -> list[str]:
        """Names of the answer's columns."""
        if array.ndim < 2:
            return []
        instance = self._instance
        found: Any = None
        if hasattr(instance, "class_names"):
            named = instance.class_names
            if not callable(named):
                found = named
            elif implements(type(instance), "class_names"):
                found = self._called("class_names", named)
        if found is None:
            return [f"t:{i}" for i in range(array.shape[1])]
        return [str(n) for n in found]

    def _tags(self, result: Any) -> dict[str, Any]:
        tags: dict[str, Any] = {}
        if implements(type(self._instance), "tags"):
            given = self._called("tags", self._instance.tags) or {}
            if not isinstance(given, Mapping):
                raise ModelError(f"model '{self._name}': tags returned no mapping.")
            tags |= given
        if _is_response(result) and result.tags:
            tags |= result.tags
        plain_tags: dict[str, Any] = self._called("tags", partial(plain, tags))
        return plain_tags

    def _metrics(self, result: Any, method: str) -> Sequence[Mapping[str, Any]]:
        found: list[Any] = list(result.metrics or ()) if _is_response(result) else []
        if implements(type(self._instance), "metrics"):
            given = self._called("metrics", self._instance.metrics)
            if not isinstance(given, list | tuple):
                raise ModelError(f"model '{self._name}': metrics returned no list.")
            found += given
        return [
            {**m, "value": plain(m["value"])}
            | ({"tags": {**m["tags"], "method": method}} if m.get("tags") else {})
            for m in self._counted(found)
        ]

    def _counted(self, metrics: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Those of a class's metrics that are numbers: what is none is not worth an answer."""
        for metric in metrics:
            self._check_metric(metric)
        if len(metrics) > _MOST_METRICS:
            raise ModelError(
                f"model '{self._name}' answered {len(metrics)} metrics; {_MOST_METRICS} are possible."
            )
        return [m for m in metrics if isfinite(m["value"])]

    def _check_metric(self, metric: Any) -> None:
        if (
            not isinstance(metric, Mapping)
            or not isinstance(metric.get("key"), str)
            or metric.get("type") not in _METRIC_TYPES
            or isinstance(metric.get("value"), bool)
            or not isinstance(metric.get("value"), int | float | np.number)
            or not isinstance(metric.get("tags", {}), Mapping)
        ):
            raise ModelError(
                f"model '{self._name}': metrics returned something that is no metric.",
                hint='One is {"type": "COUNTER", "key": "name", "value": 1}; COUNTER, GAUGE or TIMER.',
            )

    def _branch(self, result: Any) -> Any:
        branch = result.data if _is_response(result) else result
        if isinstance(branch, np.ndarray) and branch.size == 1:
            branch = branch.item()
        if isinstance(branch, bool) or not isinstance(branch, int | np.integer):
            raise ModelError(
                f"model '{self._name}': route returned a {type(branch).__name__}; a whole number is expected."
            )
        whole = np.array([[int(branch)]])
        if _is_response(result):
            result.data = whole
            return result
        return whole

    def _raw(self, result: Any) -> SeldonMessage:
        """What a `_raw` method answered: a SeldonMessage as a dict."""
        if not isinstance(result, dict):
            raise ModelError(
                f"model '{self._name}' answered a {type(result).__name__}; a SeldonMessage, as a dict, is"
                " expected of a raw method."
            )
        failure = failure_in(result)
        if failure is not None:
            raise failure
        try:
            return message_of(result)
        except InvalidInput as error:
            raise ModelError(f"model '{self._name}' answered no SeldonMessage: {error}") from error

    def _own(
        self, answer: SeldonMessage, given: Sequence[SeldonMessage]
    ) -> Sequence[Mapping[str, Any]]:
        """The metrics in a raw method's answer that did not come with its request."""
        before = [m for message in given for m in message.meta.get("metrics") or ()]
        own = list(answer.meta.get("metrics") or ())
        if own[: len(before)] == before:
            own = own[len(before) :]
        return self._counted(own)

    # -- V1 and V2

    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest | RawRequest, context: CallContext
    ) -> InferResponse | RawReply:
        if context.verb not in self._methods:
            raise Unsupported(f"Model {self._name} has no {context.verb}.")
        if isinstance(payload, InferRequest):
            inputs, identity = payload.inputs, payload.id
        elif isinstance(payload, dict):
            decoded = v1.to_arrays(payload)
            inputs, identity = {n or "input-0": a for n, a in decoded.inputs.items()}, None
        else:
            raise InvalidInput("A JSON body is expected.")
        if len(inputs) != 1:
            raise InvalidInput(
                f"The class takes one tensor as its features, the request has {len(inputs)}."
            )
        (features,) = inputs.values()
        message = (
            await self.unit(context.verb, [SeldonMessage(features, "ndarray")], context)
        ).message
        if not isinstance(payload, InferRequest):
            if message.kind in ARRAY_KINDS:
                return RawReply(v1.encode_predictions({"output-0": message.value}))
            return RawReply(v1.encode_result({"predictions": message.value}))
        if message.kind not in ARRAY_KINDS:
            held = np.empty(1, dtype=object)
            held[0] = message.value
            return InferResponse({"output-0": held}, id=identity)
        array = message.value.astype(object) if message.value.dtype.kind == "U" else message.value
        return InferResponse({"output-0": array}, id=identity)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, f"unit-{self._name}")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def stop(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _is_response(value: Any) -> bool:
    """SeldonResponse, by whatever package's class."""
    # Arrays have data, too, and some raise when they are asked for it.
    return hasattr(value, "tags") and hasattr(value, "metrics") and hasattr(value, "data")


def _features(message: SeldonMessage | None) -> Any:
    """What `send_feedback` is given of a message: an array of nothing where there is none."""
    if message is None or not message.kind:
        return np.array([])
    return message.value
