"""What a framework's file in this package provides, and what the model process asks of it.

A runtime module has one `Framework` named `framework`. The zygote imports `framework.preload` before any
fork; after the fork `framework.load` turns a local path into a `Runtime`, which the executor calls with
arrays. Payload shapes (V1 instances, V2 tensors, gRPC) never reach a runtime: protocols make arrays of
them, so batching is the same for all.

An answer that is no tensor (a Hugging Face pipeline's labels and scores, an ONNX ZipMap) is a 1-D object
array with one JSON-able value per row: dict, list, str, number, bool or None. V1 writes it as it is, V2 as
one BYTES element per row that holds its JSON text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.domain.devices import DeviceShare
from penstock.domain.process import Neighbour

if TYPE_CHECKING:
    from penstock.protocols.codecs import ContentTypes
    from penstock.protocols.infer import InferRequest, InferResponse
    from penstock.protocols.seldon_message import Feedback, SeldonMessage

Array: TypeAlias = npt.NDArray[Any]
#: Named arrays; insertion order is the order on the wire. Text is an object array of `bytes` (V2 BYTES)
#: or of `str` (V1 JSON); BF16 arrives as float32.
Arrays: TypeAlias = Mapping[str, Array]


#: The parameter that names the outputs a request asks for, of a runtime that makes some on demand.
ASKED: Final = "penstock.outputs"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output as the model itself declares it.

    `datatype` is V2's name (FP32, INT64, BYTES, ...); `shape` has -1 where any size is accepted, the batch
    axis first when the model batches.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    #: False where the model also takes values of another kind: a categorical column of text or of whole
    #: numbers, a column whose kind the model's file does not tell. Then JSON values keep their own kind.
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Signature:
    """One of several functions that a model has, with its own inputs and outputs.

    A request chooses it by the parameter `signature_name`.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: What TensorFlow Serving lets it do beside predict: `classify` or `regress` serialized examples.
    method: Literal["predict", "classify", "regress"] = "predict"


class LocalPredictor(Protocol):
    """A model of the same process, as a transformer beside it asks it. Called on the serving loop."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse: ...

    async def predict(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> Any: ...


#: (name, version; empty: the one that serves) -> a model of the same process, looked up when it is asked.
LocalModels: TypeAlias = Callable[[str, str], LocalPredictor]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load: the manifest's options and this process's share of the cores."""

    name: str
    version: str = ""
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Accelerators that this process holds; it sees no others. See `accelerators`.
    devices: tuple[DeviceShare, ...] = ()
    #: The predictor that a transformer or an explainer stands before, and how long it may take.
    predictor: Neighbour | None = None
    timeout_s: float = 60.0
    #: The predictor where it is in this process.
    local: LocalPredictor | None = None
    #: The other models of the process, for one that is made of them.
    models: LocalModels | None = None


class Runtime(ABC):
    """One loaded version of one model.

    `predict` is called from one thread at a time unless `reentrant` is true. It gets every input the
    request had, by name, all with the same number of rows when `batchable`, and answers named arrays with
    that number of rows. It raises `penstock.errors.InvalidInput` when the input is at fault (wrong names,
    rank, width or dtype: say what was expected); anything else it raises is the model's fault.

    An output that is an object array may hold text, bytes, or anything that JSON can carry (dicts, lists,
    numbers): V1 sends such elements as they are, V2 as BYTES with their JSON. `predict` may be an
    `async def`; it is awaited on the serving loop then.
    """

    #: V2's `platform`, e.g. `sklearn_joblib`, `onnx_onnxv1`.
    platform: str = ""
    #: As the model declares them; empty when it declares nothing.
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    #: V2 datatypes of outputs whose dtype does not tell them (BF16 in float32), where only answers show it:
    #: kept up to date by `predict`. None: as `outputs` declares them.
    datatypes: dict[str, str] | None = None
    #: The functions that a request may choose from, the one of `inputs` and `outputs` first; empty: there
    #: is nothing to choose.
    signatures: Mapping[str, Signature] = {}
    #: What inputs and outputs stand for where requests do not say; None: nothing is known of it.
    content_types: ContentTypes | None = None
    #: Rows along axis 0 are independent, so requests may share one call.
    batchable: bool = True
    #: `predict` may run in several threads at once.
    reentrant: bool = False
    #: The framework's own object (estimator, booster, module), for explainers that look inside; None:
    #: there is nothing to be seen.
    native: Any = None

    def on_demand(self) -> frozenset[str]:
        """Outputs beside `outputs` that are made for V2 requests that ask for them by name.

        `predict` finds the names of all that are asked for in the parameter `ASKED`, a tuple.
        """
        return frozenset()

    @abstractmethod
    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        """Answer `inputs`. Shapes and dtypes as `inputs`/`outputs` declare."""

    def example(self) -> Arrays | None:
        """Inputs for one row that the model should be able to answer, for the readiness probe.

        None when the model declares too little to make one up.
        """
        return None

    def close(self) -> None:
        """Release what garbage collection does not. Called once, after the last `predict`."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a `PayloadRuntime` is told about a call besides its payload."""

    protocol: Literal["v1", "v2"] = "v1"
    #: predict or explain; of a `UnitRuntime` also Seldon's other verbs.
    verb: str = "predict"
    #: A V2 caller takes a `ResponseStream` too.
    streams: bool = False
    #: Request headers, names in lower case.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: What the model adds to the response's headers; read by the server after the call (for a stream:
    #: before its first chunk).
    response_headers: dict[str, str] = field(default_factory=dict)
    #: Runs the model's synchronous code where it cannot hold the event loop; None: the runtime has a
    #: thread of its own for it.
    run: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it came, for a model that reads it itself, whatever its content type and its path."""

    body: bytes
    #: As the client said it; empty where it said nothing.
    content_type: str = ""
    path: str = ""
    #: Names in lower case.
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawReply:
    """A complete response body, encoded already."""

    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A response body in pieces, sent as they come (chunked). Closing the iterator stops the model."""

    chunks: AsyncIterator[bytes]
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class ResponseStream:
    """Any number of V2 responses to one request. Closing the iterator stops the model."""

    responses: AsyncIterator[InferResponse]


class PayloadRuntime(ABC):
    """One loaded version of a model that takes the request as its protocol has it: a user's own class.

    Never batched. `start` is awaited once on the serving loop after `Framework.load`, before anything
    else (an `async def load` runs there); `stop` once after the last call.
    """

    platform: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    #: The model's synchronous code may run in several threads at once.
    reentrant: bool = False
    #: It reads requests itself: `call` gets a `RawRequest`, and answers V1's kinds of replies.
    takes_raw: bool = False
    #: Its predict yields: a request may have any number of responses.
    decoupled: bool = False
    #: What explains the model's answers, for those who ask for it by GET; None: nothing does.
    about: Mapping[str, Any] | None = None
    #: Verbs that `call` answers; a server answers 501 for the others.
    verbs: frozenset[str] = frozenset({"predict"})

    async def start(self) -> None:
        """Finish loading on the serving loop. Raises LoadError."""

    @abstractmethod
    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest | RawRequest, context: CallContext
    ) -> InferResponse | RawReply | StreamReply | ResponseStream:
        """Answer one request.

        `payload` is V1's JSON object, the raw body (V1 with a content type that is not JSON), V2's
        `InferRequest`, or for a model that takes it so the `RawRequest`. V1 answers are a `RawReply` or
        `StreamReply`; V2 answers an `InferResponse`, or a `RawReply` where the model made the body itself,
        or, where the context says that the caller takes it, a `ResponseStream`. Raises `InvalidInput` and
        its kin when the caller is at fault, `ModelError` (one line, the user's traceback is logged) when the
        model is. Cancelling the call stops an async model; a synchronous one runs on in its thread.
        """

    def example(self) -> dict[str, Any] | bytes | InferRequest | RawRequest | None:
        """A payload that the model should be able to answer, for the readiness probe; None: not known."""
        return None

    async def stop(self) -> None:
        """Release what garbage collection does not."""


@dataclass(frozen=True, slots=True)
class UnitAnswer:
    """What a unit answers, and the metrics in it that are its own."""

    message: SeldonMessage
    metrics: Sequence[Mapping[str, Any]] = ()


class UnitRuntime(PayloadRuntime):
    """A unit of a Seldon V1 graph: it takes messages, and may do more with them than predict."""

    @abstractmethod
    async def unit(
        self, verb: str, messages: Sequence[SeldonMessage], context: CallContext
    ) -> UnitAnswer:
        """Answer one message, or with the verb `aggregate` all of them. Raises as `call` does."""

    @abstractmethod
    async def feedback(self, feedback: Feedback, context: CallContext) -> UnitAnswer:
        """Learn from a reward. Raises as `call` does."""

    @abstractmethod
    async def health(self, context: CallContext) -> SeldonMessage | None:
        """What the class itself says of its health; None where it says nothing."""

    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """The unit in Seldon's terms: name, versions, platform, inputs, outputs."""


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework as the platform sees it, cheap to import: `load` imports the real thing."""

    name: str
    #: The extra that installs it: `pip install 'penstock[EXTRA]'`.
    extra: str
    #: Modules the zygote imports before it forks (and whose absence means: not installed).
    preload: Sequence[str]
    load: Callable[[Path, LoadOptions], Runtime | PayloadRuntime]
    #: KServe `modelFormat` names this framework serves.
    formats: Sequence[str] = ()
    #: Sets the framework's own thread pools after the fork; OpenMP and BLAS are set for all of them.
    set_threads: Callable[[int], None] | None = None
    #: Run once in the zygote after `preload`, for what is safe and costly (no threads, no model).
    warm: Callable[[], None] | None = None
    #: Run a dozen times in the zygote after `warm`: what a load and a call do, as far as it leaves nothing
    #: behind. Code that has run often writes to fewer pages of a fork.
    rehearse: Callable[[], None] | None = None
    #: Environment that has to be there before `preload` is imported: some packages start threads or call
    #: home at import otherwise. A variable that is set already stays as it is.
    env: Mapping[str, str] = field(default_factory=dict)
    #: `load` must run in the process's main thread: nothing else is served meanwhile.
    main_thread: bool = False
    #: `load` puts the model on `LoadOptions.devices`, or fails. The others are refused a device.
    uses_devices: bool = False


def rows_of(arrays: Arrays) -> int:
    """Rows along axis 0 of the first array; 0-d arrays count as one row."""
    for a in arrays.values():
        return int(a.shape[0]) if np.ndim(a) else 1
    return 0
