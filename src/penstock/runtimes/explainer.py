"""Explainers chosen by their type (framework `explainer`): what `:explain` of a service is answered by.

The algorithms are in `penstock.explain`; here they get their instances out of a request, and a way to ask the
predictor for many rows at once. An explanation is computed in a thread; its questions go through the event
loop's connections, a few thousand rows each.

Options: `type`, `config`, and for those that look into the model (`TreeShap`, `IntegratedGradients`)
`model_format` and `model_options`: the explainer's files are the model's then, loaded here a second time.
`predictor` names the model that is asked where it is another one of this process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from penstock.domain import explainers
from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadError,
    ModelError,
    PenstockError,
    Unavailable,
)
from penstock.explain.base import Array, Explainer, Explanation
from penstock.explain.registry import build
from penstock.explain.training import Training
from penstock.protocols import v1
from penstock.protocols.datatypes import DATATYPES
from penstock.protocols.infer import InferRequest, InferResponse, as_bytes, explanations
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
from penstock.runtimes.explainer_payload import Given, called, numbered, read
from penstock.runtimes.loading import known_options
from penstock.sdk import passing
from penstock.sdk.predictor import Predictor

log = logging.getLogger(__name__)

PLATFORM: Final = "penstock_explainer"
#: Explanations at a time; the others wait, as requests do.
_THREADS: Final = 2
#: Times that an explanation is begun, as revisions come and go.
_ATTEMPTS: Final = 3
#: Bytes of rows in one question to the predictor, and rows.
_ASK_BYTES: Final = 4 * 1024 * 1024
_ASK_ROWS: Final = 20_000
#: A request's parameter for MLServer's explainers.
_SETTINGS: Final = "explain_parameters"


T = TypeVar("T")


class ExplainerRuntime(PayloadRuntime):
    """One explainer and the predictor it asks."""

    platform = PLATFORM
    reentrant = True
    # Seldon's clients ask an explainer by V2's infer.
    verbs = frozenset({"explain", "predict"})

    def __init__(
        self, explainer: Explainer, predictor: Predictor, timeout_s: float, output: str | None
    ) -> None:
        self._explainer = explainer
        self._predictor = predictor
        self._timeout_s = timeout_s
        self._output = output
        training = getattr(explainer, "training", None)
        self._columns = tuple(training.names) if isinstance(training, Training) else ()
        self._threads: ThreadPoolExecutor | None = None
        self._spoken = _Spoken()
        self.about = {
            "explainer": explainer.kind,
            "takes": explainer.takes,
            "params": dict(explainer.params),
        }

    async def start(self) -> None:
        self._predictor.open()

    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest | RawRequest, context: CallContext
    ) -> InferResponse | RawReply | StreamReply:
        if isinstance(payload, InferRequest) and payload.parameters.get(_SETTINGS):
            raise InvalidInput(
                f"{_SETTINGS} is not read: an explainer's settings are its manifest's"
            )
        given = read(payload, self._explainer.takes)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "explain")
        # What is explained is one revision, however the predictor's requests are divided.
        passage = passing.Passage(passing.told(context.headers), stays=True)
        question = _Question(
            self._predictor, context.headers, self._output, passage, self._columns, self._spoken
        )
        with passage.entered():
            work = self._threads.submit(copy_context().run, self._explain, given, question)
        try:
            found = await asyncio.wrap_future(work)
        finally:
            question.stop()  # a thread whose caller has gone or run out of time ends at its next question
        if isinstance(payload, InferRequest):
            return explanations([v1.encode_result(document(e)) for e in found])
        return RawReply(v1.encode_result(_body(found)))

    def _explain(self, given: Given, question: _Question) -> list[Explanation]:
        try:
            given, explainer = called(given, self._explainer, question.declared_names)
            if len(given.instances) > 1:  # an error in the last one would come after minutes
                self._each(explainer.check, given, question)
            return self._each(explainer.explain, given, question)
        except PenstockError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as e:
            log.exception("%s failed", self._explainer.kind)
            raise ModelError(
                f"{self._explainer.kind} failed: {type(e).__name__}.",
                hint="Its log has the traceback.",
            ) from e

    def _each(
        self, work: Callable[[Array, _Question], T], given: Given, question: _Question
    ) -> list[T]:
        """Do what asks about an instance for each; an error says of which one it is."""
        count = len(given.instances)
        found = []
        for index, instance in enumerate(given.instances):
            with numbered(index, count):
                found.append(self._of_one_revision(partial(work, instance), question))
        return found

    def _of_one_revision(self, work: Callable[[_Question], T], question: _Question) -> T:
        """Do what asks about an instance; anew when the predictor's revision was replaced in the middle."""
        for _ in range(_ATTEMPTS):
            question.check()  # what looks into the model asks nothing in between
            question.begin()
            try:
                return work(question)
            except _Replaced:
                log.info("%s begins anew: its revision was replaced", self._explainer.kind)
        raise Unavailable(
            "The predictor's revisions change faster than they can be explained.",
            hint="Try again when the roll-out is done.",
        )

    async def stop(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._predictor.close()


class _Replaced(Exception):
    """Another revision answered than the one that is explained, which is gone."""


@dataclass(slots=True)
class _Spoken:
    """Which protocol the predictor was found to understand, where it declares no inputs.

    A class of one's own may take V1's dict and nothing else, as KServe's usually do.
    """

    v1: bool = False


class _Question:
    """One request's way to the predictor: `Ask`, from the explanation's thread."""

    def __init__(
        self,
        predictor: Predictor,
        headers: Mapping[str, str],
        output: str | None,
        passage: passing.Passage,
        columns: Sequence[str],
        spoken: _Spoken,
    ) -> None:
        self._predictor = predictor
        self._headers = headers
        self._output = output
        self._passage = passage
        self._columns = columns
        self._spoken = spoken
        #: This revision has answered: what it refuses now is not for the protocol.
        self._answered = False
        self._revision = ""
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._specs: tuple[TensorSpec, ...] | None = None

    def stop(self) -> None:
        self._stopped.set()

    def begin(self) -> None:
        """Forget the revision that was asked; without a word of it in the request, another may be chosen."""
        if self._passage.answered != self._revision:
            self._passage.anew()
            self._specs = None
            self._answered = False
        self._revision = ""

    def check(self) -> None:
        """DeadlineExceeded when nobody waits for the explanation any more."""
        if self._stopped.is_set():
            raise DeadlineExceeded("The explanation was given up: its time was over.")

    def _declared(self) -> tuple[TensorSpec, ...]:
        """The predictor's inputs, of each explanation anew: another model may have been rolled out since."""
        if self._specs is None:
            self._specs = self._wait(self._predictor.inputs(fresh=True))
            _check_order(self._columns, [spec.name for spec in self._specs])
        return self._specs

    def declared_names(self) -> list[str]:
        """The names of the predictor's inputs; empty where it declares none, or is not asked at all."""
        return [spec.name for spec in self._declared()]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Of the only input; None where there are several, or it is no array's."""
        specs = self._declared()
        return _declared_dtype(specs[0]) if len(specs) == 1 else None

    def __call__(self, rows: Array) -> Array:
        self._declared()
        size = max(1, len(rows))
        per_row = max(1, (rows.nbytes if rows.dtype != object else _text_bytes(rows)) // size)
        count = max(1, min(_ASK_ROWS, _ASK_BYTES // per_row))
        parts = [self._part(rows[i : i + count]) for i in range(0, len(rows), count)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _part(self, rows: Array) -> Array:
        found = self._asked(rows)
        revision = self._passage.answered
        if revision and self._revision and revision != self._revision:
            raise _Replaced
        self._revision = revision
        return found

    def _asked(self, rows: Array) -> Array:
        """The answer; to the first question by the other protocol when one is not understood."""
        if self._specs:
            return self._by_v2(rows)
        ways = [self._by_v2, self._by_v1]
        if self._spoken.v1:
            ways.reverse()
        try:
            found = ways[0](rows)
        except (InvalidInput, ModelError) as e:
            if self._answered:
                raise
            try:
                found = ways[1](rows)
            except (InvalidInput, ModelError) as other:
                if other.message != e.message:
                    e.message = f"{e.message} (asked by the other protocol: {other.message})"
                raise e from None
            self._spoken.v1 = not self._spoken.v1
        self._answered = True
        return found

    def _by_v2(self, rows: Array) -> Array:
        request = InferRequest(to_inputs(rows, self._specs or ()))
        answer: InferResponse = self._wait(self._predictor.infer(request, self._headers))
        return _chosen(answer.outputs, self._output)

    def _by_v1(self, rows: Array) -> Array:
        payload = {"instances": rows.tolist()}
        answer = self._wait(self._predictor.predict_v1(payload, self._headers))
        found = answer.get("predictions") if isinstance(answer, dict) else None
        if not isinstance(found, list):
            raise ModelError("the predictor's answer has no list of predictions")
        try:
            if found and isinstance(found[0], dict):
                outputs = {name: np.asarray([row[name] for row in found]) for name in found[0]}
                return _chosen(outputs, self._output)
            return np.asarray(found)
        except (KeyError, TypeError, ValueError):
            raise ModelError("the predictor's predictions are no array") from None

    def _wait(self, coroutine: Any) -> Any:
        try:
            self.check()
        except DeadlineExceeded:
            coroutine.close()
            raise
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except RuntimeError as e:  # the loop has ended: so does the process
            raise DeadlineExceeded("The explainer is being stopped.") from e


def _check_order(columns: Sequence[str], inputs: Sequence[str]) -> None:
    """ModelError when the training data has the model's inputs in another order: each would mean another."""
    if len(inputs) < 2 or list(columns) == list(inputs) or set(columns) != set(inputs):
        return
    at = next(i for i, name in enumerate(inputs) if columns[i] != name)
    raise ModelError(
        f"The training data has the column {columns[at]!r} where the predictor takes {inputs[at]!r}.",
        hint="Write the columns of train.csv in the order of the model's inputs.",
    )


def _text_bytes(rows: Array) -> int:
    return sum(len(v) for v in rows.ravel().tolist() if isinstance(v, str | bytes))


def _chosen(outputs: Mapping[str, Array], name: str | None) -> Array:
    if name is None:
        if not outputs:
            raise ModelError("the predictor answered no outputs")
        return next(iter(outputs.values()))
    if name not in outputs:
        raise InvalidInput(f"output_name is '{name}'; the predictor answers {', '.join(outputs)}")
    return outputs[name]


def to_inputs(rows: Array, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """`rows` as the inputs that the predictor declares: one tensor, or a column each.

    Dtypes are the declared ones. InvalidInput when there is no way to make them fit.
    """
    if not specs:
        return {"input-0": _cast(rows, None)}
    if len(specs) == 1:
        spec = specs[0]
        if rows.ndim == 1 and len(spec.shape) == 2:
            rows = rows[:, None]
        return {spec.name: _cast(rows, spec)}
    if rows.ndim != 2 or rows.shape[1] != len(specs):
        raise InvalidInput(
            f"the predictor has {len(specs)} inputs; a row of {len(specs)} numbers is one instance"
        )
    return {
        spec.name: _cast(rows[:, [i]] if len(spec.shape) == 2 else rows[:, i], spec)
        for i, spec in enumerate(specs)
    }


def _cast(rows: Array, spec: TensorSpec | None) -> Array:
    if rows.dtype == object:
        return as_bytes(rows)
    dtype = None if spec is None else _declared_dtype(spec)
    if spec is None or dtype is None or dtype == rows.dtype:
        return np.ascontiguousarray(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        taken = np.ascontiguousarray(rows, dtype=dtype)
    # A half would be cut off, and the explanation be of another row.
    unlike = np.isinf(taken) & np.isfinite(rows) if dtype.kind == "f" else taken != rows
    if bool(np.any(unlike)):
        raise InvalidInput(
            f"the predictor takes {spec.datatype}, which does not hold {rows[unlike].flat[0]:g}.",
            hint="Instances, and the explainer's training data, are in the numbers that the model takes.",
        )
    return taken


def _declared_dtype(spec: TensorSpec) -> np.dtype[Any] | None:
    """What numpy calls the input's datatype; None where it has no numbers for it."""
    declared = DATATYPES.get(spec.datatype)
    if declared is None or spec.datatype in ("BYTES", "BF16"):
        return None
    return declared.dtype


def document(explanation: Explanation) -> dict[str, Any]:
    """One explanation as JSON, in the shape that Alibi's have: `meta` and `data`."""
    meta = {
        "name": explanation.kind,
        "type": ["whitebox" if _looks_inside(explanation.kind) else "blackbox"],
        "explanations": ["local"],
        "params": dict(explanation.params),
    }
    return {"meta": meta, "data": dict(explanation.data)}


def _looks_inside(kind: str) -> bool:
    found = explainers.find(kind)
    return found is not None and found.looks_inside


def _body(found: list[Explanation]) -> dict[str, Any]:
    """V1's body: every explanation in `explanations`; the only one also where Alibi's clients look."""
    documents = [document(e) for e in found]
    body: dict[str, Any] = dict(documents[0]) if len(documents) == 1 else {}
    return {**body, "explanations": documents}


def load(path: Path, options: LoadOptions) -> PayloadRuntime:
    """The explainer that the options `type` and `config` ask for, with the files at `path`. LoadError."""
    known_options(options, ("type", "config", "model_format", "model_options", "predictor"))
    kind = options.options.get("type")
    config = options.options.get("config") or {}
    if not isinstance(kind, str):
        raise LoadError("The option type says which explainer; it is missing.")
    if not isinstance(config, Mapping):
        raise LoadError("The option config has to be an object.")
    explainer = build(kind, config, path, lambda: _native(path, options))
    local = None
    if (asked := options.options.get("predictor")) and options.models is not None:
        local = options.models(str(asked), "")
    predictor = Predictor(options.predictor, options.name, timeout_s=options.timeout_s, local=local)
    output = config.get("output_name")
    return ExplainerRuntime(explainer, predictor, options.timeout_s, output)


def _native(path: Path, options: LoadOptions) -> Any:
    """The model itself, as its framework has it."""
    from penstock import runtimes
    from penstock.runtimes.base import Runtime

    name = options.options.get("model_format")
    framework = runtimes.for_format(name) if isinstance(name, str) else None
    if framework is None:
        framework = runtimes.find(runtimes.detect(str(path)))
    runtimes.require(framework)
    model_options = options.options.get("model_options") or {}
    loaded = framework.load(
        path, LoadOptions(options.name, options.version, options.threads, model_options)
    )
    native = loaded.native if isinstance(loaded, Runtime) else None
    if native is None:
        raise LoadError(f"A model of {framework.name} cannot be looked into.")
    return native


framework = Framework(
    name="explainer",
    extra="",
    preload=(),
    load=load,
    formats=("explainer",),
)
