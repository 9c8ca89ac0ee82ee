"""The predictor behind a transformer or an explainer, asked over pooled keep-alive connections.

It is reached through the gateways, at the component's own address: so a request of a transformer waits for a
sleeping predictor, is retried, split over revisions and counted like any other. V1's dict goes out as V1,
everything else as V2 with binary tensors.

Answers that are no success become the error that the predictor's status stands for, with its words: a
caller's mistake stays a caller's mistake through both components.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
import numpy as np

from penstock.domain.headers import REVISION
from penstock.domain.process import Neighbour
from penstock.domain.routes import Address
from penstock.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    NotFound,
    PenstockError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from penstock.http.client import Upstream, UpstreamError
from penstock.http.head import ResponseHead, render_headers
from penstock.http.incoming import Buffer
from penstock.protocols import v1
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.v2_client import decode_response, encode_request
from penstock.runtimes.base import LocalPredictor, TensorSpec
from penstock.sdk import passing
from penstock.sdk.results import to_outputs

_REVISION: Final = REVISION.encode()
#: Fields of the caller's request that go on to the predictor: who asked, and on behalf of which trace.
FORWARDED: Final = frozenset(
    {
        "authorization",
        "b3",
        "baggage",
        "traceparent",
        "tracestate",
        "x-b3-flags",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-spanid",
        "x-b3-traceid",
        "x-request-id",
    }
)
#: Largest answer of a predictor, bytes.
_MAX_ANSWER: Final = 512 * 1024 * 1024
_ERRORS: Final[Mapping[int, type[PenstockError]]] = {
    400: InvalidInput,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidInput,
    501: Unsupported,
    504: DeadlineExceeded,
}


class Predictor:
    """One predictor. Its methods are called on the loop that `open` was called on, `ask` from threads."""

    def __init__(
        self,
        at: Neighbour | None,
        model: str,
        *,
        timeout_s: float = 60.0,
        local: LocalPredictor | None = None,
    ) -> None:
        self.model = (at.model if at is not None else "") or model
        #: In a request's path; a name may hold anything.
        self._path = quote(self.model, safe="")
        self._local = local
        self.timeout_s = timeout_s
        self._at = at
        self._upstreams: list[Upstream] = []
        self._turns = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._specs: tuple[TensorSpec, ...] | None = None

    def open(self) -> None:
        """Belong to the running loop. Connections are made when they are needed."""
        self._loop = asyncio.get_running_loop()
        if self._at is not None:
            self._upstreams = [Upstream(Address.parse(a)) for a in self._at.addresses]

    def close(self) -> None:
        for upstream in self._upstreams:
            upstream.close()

    @property
    def host(self) -> str:
        """KServe's `predictor_host`: `http://HOST/v1/models/...` asks it, unless it is a socket's address."""
        if self._at is None:
            return ""
        where = self._at.host or next(iter(self._at.addresses), "")
        return f"{where}{self._at.prefix}"

    @property
    def prefix(self) -> str:
        return self._at.prefix if self._at is not None else ""

    # -- asking

    async def __call__(self, payload: Any, headers: Mapping[str, str] | None = None) -> Any:
        """What the predictor answers: V1's dict to a V1 dict, an `InferResponse` to anything else.

        A dict with `instances` or `inputs` is V1, and so is a list (its rows). An `InferRequest`, an array,
        arrays by name or a data frame go as V2 tensors.
        """
        if isinstance(payload, list):
            payload = {"instances": payload}
        if isinstance(payload, dict) and ("instances" in payload or "inputs" in payload):
            return await self.predict_v1(payload, headers)
        return await self.infer(as_request(payload), headers)

    def ask(self, payload: Any, headers: Mapping[str, str] | None = None) -> Any:
        """The same from a thread: what synchronous code of a transformer or explainer calls."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("the predictor can be asked once the model is loaded")
        if _running() is loop:
            raise RuntimeError("ask() would hold the event loop: await the predictor instead")
        return asyncio.run_coroutine_threadsafe(self(payload, headers), loop).result()

    async def predict_v1(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Any:
        """V1's answer to `payload`, decoded."""
        if self._local is not None:
            return await self._local.predict(payload, _forwarded(headers))
        body = v1.encode_result(payload)
        answer = await self._post(
            f"/v1/models/{self._path}:predict",
            [("content-type", "application/json")],
            [body],
            headers,
        )
        try:
            return msgspec.json.decode(answer[1])
        except msgspec.MsgspecError:
            raise ModelError("The predictor's answer is no JSON.") from None

    async def infer(
        self, request: InferRequest, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """V2's answer, tensors as views of the received bytes."""
        # Which outputs the caller asked for is seen to when postprocess is done.
        wanted = msgspec.structs.replace(request, outputs=None, binary_output=True)
        if self._local is not None:
            return await self._local.infer(wanted, _forwarded(headers))
        length, body = encode_request(wanted)
        fields = [("content-type", "application/octet-stream")]
        if length is not None:
            fields.append(("inference-header-content-length", str(length)))
        head, content = await self._post(f"/v2/models/{self._path}/infer", fields, body, headers)
        size = head.get(b"inference-header-content-length")
        return decode_response(content, int(size) if size is not None and size.isdigit() else None)

    async def inputs(self, *, fresh: bool = False) -> tuple[TensorSpec, ...]:
        """The inputs that the predictor declares, asked for once, or again when they have to be `fresh`."""
        if self._local is not None:
            return self._local.inputs
        if self._specs is None or fresh:
            _, content = await self._call("GET", f"/v2/models/{self._path}", [], [], None)
            try:
                found = msgspec.json.decode(content, type=_Metadata).inputs
            except msgspec.MsgspecError:
                raise ModelError("The predictor's metadata is no V2 document.") from None
            self._specs = tuple(TensorSpec(i.name, i.datatype, tuple(i.shape)) for i in found)
        return self._specs

    # -- the wire

    async def _post(
        self,
        path: str,
        fields: list[tuple[str, str]],
        body: list[Buffer],
        headers: Mapping[str, str] | None,
    ) -> tuple[ResponseHead, bytes]:
        return await self._call("POST", path, fields, body, headers)

    async def _call(
        self,
        method: str,
        path: str,
        fields: list[tuple[str, str]],
        body: list[Buffer],
        headers: Mapping[str, str] | None,
    ) -> tuple[ResponseHead, bytes]:
        if not self._upstreams:
            raise Unavailable("There is no predictor: this model runs alone.")
        content = body[0] if len(body) == 1 else b"".join(body)
        lines = [("host", "predictor"), *fields]
        lines += _forwarded(headers).items()
        passage = passing.current()
        if passage is not None:
            lines += passage.wanted.items()
        lines.append(("x-request-timeout-ms", str(max(1, int(self.timeout_s * 1000)))))
        if method == "POST":
            lines.append(("content-length", str(len(content))))
        start = f"{method} {self.prefix}{path} HTTP/1.1\r\n".encode()
        head = start + render_headers(lines) + b"\r\n"
        first = next(self._turns)
        for turn in range(len(self._upstreams) + 1):
            upstream = self._upstreams[(first + turn) % len(self._upstreams)]
            try:
                response, answer = await self._exchange(upstream, head, content, method)
                break
            except UpstreamError as e:
                # A prediction may be asked for twice; what began to answer is not asked again.
                if e.phase == "response" and not e.retryable:
                    raise ModelError(f"The predictor's answer broke off: {e}.") from None
                problem = e
        else:
            raise Unavailable(
                f"The predictor cannot be reached: {problem}.", hint="Try again in a moment."
            )
        if response.status >= 300:
            raise _refusal(response, answer)
        if passage is not None:
            passage.heard((response.get(_REVISION) or b"").decode("latin-1"))
        return response, answer

    async def _exchange(
        self, upstream: Upstream, head: bytes, content: Buffer, method: str
    ) -> tuple[ResponseHead, bytes]:
        sink = _Answer(asyncio.get_running_loop().create_future())
        exchange = upstream.request(head, content, sink, method=method)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await sink.answer
        except TimeoutError:
            raise DeadlineExceeded(
                f"The predictor did not answer within {self.timeout_s:g} s."
            ) from None
        finally:
            exchange.cancel()


class _Answer:
    """A sink that collects one response."""

    def __init__(self, answer: asyncio.Future[tuple[ResponseHead, bytes]]) -> None:
        self.answer = answer
        self._head: ResponseHead | None = None
        self._body = bytearray()

    def on_response(self, head: ResponseHead, body: bytes | None) -> None:
        self._head = head
        if body is not None and not self.answer.done():
            self.answer.set_result((head, body))

    def on_data(self, data: Buffer) -> None:
        self._body += data
        if len(self._body) > _MAX_ANSWER and not self.answer.done():
            self.answer.set_exception(ModelError("The predictor's answer is too large."))

    def on_end(self) -> None:
        if self._head is not None and not self.answer.done():
            self.answer.set_result((self._head, bytes(self._body)))

    def on_error(self, exc: UpstreamError) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    inputs: list[_Input] = []


def as_request(payload: Any) -> InferRequest:
    """An `InferRequest` of arrays, arrays by name, or a data frame.

    InvalidInput for a dict or bytes that are none, since those may be the client's, handed on as they came;
    ModelError for what only the code that asks can have made.
    """
    if isinstance(payload, InferRequest):
        return payload
    if isinstance(payload, np.ndarray):
        return InferRequest({"input-0": payload})
    unfit = f"A predictor takes a dict, an InferRequest or arrays, not {type(payload).__name__}."
    if isinstance(payload, bytes):
        raise InvalidInput(unfit)
    if payload is None or isinstance(payload, str | int | float):
        raise ModelError(unfit)
    if isinstance(payload, InferResponse):
        return InferRequest(payload.outputs, payload.datatypes, id=payload.id)
    try:
        return InferRequest({str(n): a for n, a in to_outputs(payload).items()})
    except ModelError as e:
        if isinstance(payload, Mapping):
            raise InvalidInput(e.message) from None
        raise ModelError(unfit) from None


def _forwarded(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {n: v for n, v in (headers or {}).items() if n.lower() in FORWARDED}


def _refusal(head: ResponseHead, body: bytes) -> PenstockError:
    """The error that an answer which is no success stands for."""
    try:
        said = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        said = None
    text = said.get("error") if isinstance(said, dict) else None
    message = str(text) if text else f"The predictor answered with status {head.status}."
    if head.status == 503:
        after = head.get(b"retry-after")
        wait_s = float(after) if after is not None and after.isdigit() else None
        return Unavailable(message, retry_after_s=wait_s)
    return _ERRORS.get(head.status, ModelError)(message)


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
