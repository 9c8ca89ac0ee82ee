"""A client for both protocols, sync and async: arrays in, arrays out.

    with Client("http://127.0.0.1:8080") as client:
        client.infer("iris", {"x": rows})["predict"]
        client.predict("iris", [[5.1, 3.5, 1.4, 0.2]])

Errors come back as the classes that the server raised (`penstock.errors`), by their status. Nothing is
retried: only a caller knows whether its request may be sent twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import numpy as np

from penstock.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelError,
    NotFound,
    PenstockError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from penstock.protocols.infer import InferRequest, InferResponse, RequestedOutput
from penstock.protocols.v1 import encode_result
from penstock.protocols.v2_client import decode_response, encode_request
from penstock.sdk.query import QueryResult, query_body, query_results

__all__ = ["AsyncClient", "Client"]

_BY_STATUS: Final[dict[int, type[PenstockError]]] = {
    e.status: e
    for e in (
        InvalidInput,
        TooLarge,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        Unsupported,
        Unavailable,
        DeadlineExceeded,
    )
}


#: Seconds that a query has if it does not say, and what its answer may come later than that.
_QUERY_S: Final = 60.0
_LATER_S: Final = 5.0


def _waits_s(timeout_s: float | None) -> float:
    """How long the answer to a query is waited for."""
    return (_QUERY_S if timeout_s is None else timeout_s) + _LATER_S


class _Shared:
    """What both clients do alike: addresses, bodies, errors."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        namespace: str | None = None,
        service: str | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`url` is a gateway's or a model process's, or `unix:/path.sock`.

        With `namespace` requests go to that namespace's service `service` (None: named as the model is).
        """
        self._socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._url = "http://localhost" if self._socket else url.rstrip("/")
        self._namespace = namespace
        self._service = service
        self._timeout = httpx.Timeout(timeout_s)
        self._headers = dict(headers or {})
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._open()

    def _open(self) -> None:
        raise NotImplementedError

    def _waiting(self, wait_s: float) -> httpx.Timeout:
        """The client's own limits, but for an answer that may take longer."""
        limits = self._timeout
        if limits.read is None or limits.read >= wait_s:
            return limits
        return httpx.Timeout(
            connect=limits.connect, read=wait_s, write=limits.write, pool=limits.pool
        )

    def _base(self, model: str) -> str:
        if self._namespace is None:
            return self._url
        service = self._service or model
        return f"{self._url}/serving/{quote(self._namespace, safe='')}/{quote(service, safe='')}"

    def _v2(self, model: str, version: str | None, verb: str = "") -> str:
        path = f"{self._base(model)}/v2/models/{quote(model, safe='')}"
        if version is not None:
            path += f"/versions/{quote(version, safe='')}"
        return path + verb

    def _v1(self, model: str, verb: str) -> str:
        return f"{self._base(model)}/v1/models/{quote(model, safe='')}:{verb}"

    def _query_url(self) -> str:
        if self._namespace is None:
            return f"{self._url}/v2/query"
        return f"{self._url}/serving/{quote(self._namespace, safe='')}/v2/query"

    def _feedback(self, id: str, reward: float, truth: Any, model: str | None) -> tuple[str, bytes]:
        url = f"{self._url}/feedback" if model is None else self._v2(model, None, "/feedback")
        said = {"truth": truth} if truth is not None else {}
        return url, _payload({"id": id, "reward": reward, **said})

    @staticmethod
    def _infer_body(
        model: str,
        inputs: Mapping[str, Any] | InferRequest,
        outputs: Sequence[str] | None,
        parameters: Mapping[str, Any] | None,
        id: str | None,
        binary: bool,
    ) -> tuple[dict[str, str], bytes]:
        if isinstance(inputs, InferRequest):
            request = inputs
        else:
            request = InferRequest(
                {name: _array(value) for name, value in inputs.items()},
                outputs=None if outputs is None else tuple(map(RequestedOutput, outputs)),
                id=id,
                model_name=model,
                parameters=dict(parameters or {}),
                binary_output=binary,
            )
        length, buffers = encode_request(request, binary=binary)
        headers = {"content-type": "application/json"}
        if length is not None:
            headers = {
                "content-type": "application/octet-stream",
                "inference-header-content-length": str(length),
            }
        return headers, b"".join(buffers)

    @staticmethod
    def _v1_body(rows: Any, inputs: Any, parameters: Mapping[str, Any] | None) -> bytes:
        if (rows is None) is (inputs is None):
            raise InvalidInput("either instances or inputs are expected")
        body = {"instances": rows} if inputs is None else {"inputs": inputs}
        return _payload({**(parameters or {}), **body})

    @staticmethod
    def _answer(model: str, response: httpx.Response) -> InferResponse:
        _check(response)
        length = response.headers.get("inference-header-content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise ModelError(f"the answer of model '{model}' has a wrong header length")
        return decode_response(response.content, None if length is None else int(length))


class Client(_Shared):
    """Asks models over HTTP. Keeps connections open; close it, or use it as a context manager."""

    _http: httpx.Client

    def _open(self) -> None:
        self._http = httpx.Client(
            timeout=self._timeout,
            headers=self._headers,
            transport=httpx.HTTPTransport(uds=self._socket) if self._socket else None,
        )

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any] | InferRequest,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        version: str | None = None,
        binary: bool = True,
    ) -> InferResponse:
        """V2: arrays by name in, arrays by name out (`.outputs`). Tensors travel raw unless not `binary`.

        Raises what the server answered, and Unavailable when there is none.
        """
        headers, body = self._infer_body(model, inputs, outputs, parameters, id, binary)
        url = self._v2(model, version, "/infer")
        return self._answer(model, self._send("POST", url, headers, body))

    def predict(
        self,
        model: str,
        instances: Any = None,
        *,
        inputs: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:
        """V1: the `predictions` for rows (or for `inputs`, columns)."""
        body = self._v1_body(instances, inputs, parameters)
        response = self._send("POST", self._v1(model, "predict"), _JSON, body)
        return _predictions(response)

    def explain(self, model: str, instances: Any) -> Any:
        """V1's :explain, the whole answer."""
        body = self._v1_body(instances, None, None)
        return _json(self._send("POST", self._v1(model, "explain"), _JSON, body))

    def query(
        self,
        models: Sequence[str] | None = None,
        *,
        selector: str | None = None,
        inputs: Mapping[str, Any] | InferRequest | None = None,
        instances: Any = None,
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] | None = None,
        id: str | None = None,
        timeout_s: float | None = None,
    ) -> list[QueryResult]:
        """Ask many models, by name or by a selector of labels, the same at once.

        `inputs` are arrays by name (V2), `instances` rows (V1); `outputs` are the names of V2's outputs that
        are wanted. `timeout_s` is for all of them together, 60 if it is not given. Each result has its own
        status; raises only what is wrong with the question as a whole.
        """
        body = query_body(models, selector, inputs, instances, parameters, timeout_s, outputs, id)
        response = self._send("POST", self._query_url(), _JSON, body, wait_s=_waits_s(timeout_s))
        _check(response)
        return query_results(response.content)

    def feedback(
        self, id: str, reward: float, *, truth: Any = None, model: str | None = None
    ) -> None:
        """Reward the answer with that id (an answer's `id`, or its header `x-request-id`).

        For an id of your own say the `model`. NotFound for an id that is not known, or known no more;
        Conflict when it was rewarded before.
        """
        url, body = self._feedback(id, reward, truth, model)
        _check(self._send("POST", url, _JSON, body))

    def stream(self, model: str, payload: Mapping[str, Any]) -> Iterator[bytes]:
        """V1: the pieces of a model that streams, as they come."""
        url = self._v1(model, "predict")
        try:
            with self._http.stream("POST", url, headers=_JSON, content=_payload(payload)) as r:
                if r.status_code >= 400:
                    r.read()
                    _check(r)
                yield from r.iter_raw()
        except httpx.HTTPError as e:
            raise _unreachable(e) from e

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or a model of it, answers predictions. False when there is no server."""
        url = f"{self._url}/v2/health/ready" if model is None else self._v2(model, None, "/ready")
        try:
            return self._http.get(url).status_code == 200
        except httpx.HTTPError:
            return False

    def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """What the server, or a model of it, says of itself."""
        url = f"{self._url}/v2" if model is None else self._v2(model, version)
        document: dict[str, Any] = _json(self._send("GET", url, {}, b""))
        return document

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        wait_s: float = 0.0,
    ) -> httpx.Response:
        try:
            return self._http.request(
                method, url, headers=headers, content=body or None, timeout=self._waiting(wait_s)
            )
        except httpx.HTTPError as e:
            raise _unreachable(e) from e

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_Shared):
    """`Client` for asyncio."""

    _http: httpx.AsyncClient

    def _open(self) -> None:
        self._http = httpx.AsyncClient(
            timeout=self._timeout,
            headers=self._headers,
            transport=httpx.AsyncHTTPTransport(uds=self._socket) if self._socket else None,
        )

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any] | InferRequest,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        version: str | None = None,
        binary: bool = True,
    ) -> InferResponse:
        """As `Client.infer`."""
        headers, body = self._infer_body(model, inputs, outputs, parameters, id, binary)
        url = self._v2(model, version, "/infer")
        return self._answer(model, await self._send("POST", url, headers, body))

    async def predict(
        self,
        model: str,
        instances: Any = None,
        *,
        inputs: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:
        """As `Client.predict`."""
        body = self._v1_body(instances, inputs, parameters)
        return _predictions(await self._send("POST", self._v1(model, "predict"), _JSON, body))

    async def explain(self, model: str, instances: Any) -> Any:
        """As `Client.explain`."""
        body = self._v1_body(instances, None, None)
        return _json(await self._send("POST", self._v1(model, "explain"), _JSON, body))

    async def query(
        self,
        models: Sequence[str] | None = None,
        *,
        selector: str | None = None,
        inputs: Mapping[str, Any] | InferRequest | None = None,
        instances: Any = None,
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] | None = None,
        id: str | None = None,
        timeout_s: float | None = None,
    ) -> list[QueryResult]:
        """As `Client.query`."""
        body = query_body(models, selector, inputs, instances, parameters, timeout_s, outputs, id)
        response = await self._send(
            "POST", self._query_url(), _JSON, body, wait_s=_waits_s(timeout_s)
        )
        _check(response)
        return query_results(response.content)

    async def feedback(
        self, id: str, reward: float, *, truth: Any = None, model: str | None = None
    ) -> None:
        """As `Client.feedback`."""
        url, body = self._feedback(id, reward, truth, model)
        _check(await self._send("POST", url, _JSON, body))

    async def stream(self, model: str, payload: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """As `Client.stream`."""
        url = self._v1(model, "predict")
        body = _payload(payload)
        try:
            async with self._http.stream("POST", url, headers=_JSON, content=body) as r:
                if r.status_code >= 400:
                    await r.aread()
                    _check(r)
                async for piece in r.aiter_raw():
                    yield piece
        except httpx.HTTPError as e:
            raise _unreachable(e) from e

    async def ready(self, model: str | None = None) -> bool:
        """As `Client.ready`."""
        url = f"{self._url}/v2/health/ready" if model is None else self._v2(model, None, "/ready")
        try:
            return (await self._http.get(url)).status_code == 200
        except httpx.HTTPError:
            return False

    async def metadata(
        self, model: str | None = None, version: str | None = None
    ) -> dict[str, Any]:
        """As `Client.metadata`."""
        url = f"{self._url}/v2" if model is None else self._v2(model, version)
        document: dict[str, Any] = _json(await self._send("GET", url, {}, b""))
        return document

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        wait_s: float = 0.0,
    ) -> httpx.Response:
        try:
            return await self._http.request(
                method, url, headers=headers, content=body or None, timeout=self._waiting(wait_s)
            )
        except httpx.HTTPError as e:
            raise _unreachable(e) from e

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


_JSON: Final = {"content-type": "application/json"}


def _payload(document: Mapping[str, Any]) -> bytes:
    try:
        return encode_result(dict(document))
    except ModelError as e:
        raise InvalidInput("the request cannot be sent as JSON") from e


def _array(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "O" and array.ndim == 0:
        raise InvalidInput(f"a {type(value).__name__} is no tensor")
    return array


def _json(response: httpx.Response) -> Any:
    _check(response)
    try:
        return msgspec.json.decode(response.content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise ModelError(f"the answer is no JSON: {e}") from None


def _predictions(response: httpx.Response) -> Any:
    document = _json(response)
    if not isinstance(document, dict) or "predictions" not in document:
        raise ModelError("the answer has no 'predictions'")
    return document["predictions"]


def _check(response: httpx.Response) -> None:
    """Raises the error that the server answered, if it did."""
    if response.status_code < 400:
        return
    message = f"HTTP status {response.status_code}"
    try:
        document = msgspec.json.decode(response.content)
        if isinstance(document, dict) and isinstance(document.get("error"), str):
            message = document["error"]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    kind = _BY_STATUS.get(response.status_code)
    if kind is Unavailable:
        after = response.headers.get("retry-after", "")
        raise Unavailable(message, retry_after_s=float(after) if after.isdigit() else None)
    if kind is None:
        kind = InvalidInput if response.status_code < 500 else ModelError
    raise kind(message)


def _unreachable(error: httpx.HTTPError) -> PenstockError:
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"there was no answer in time ({type(error).__name__})")
    return Unavailable(f"there is no answer: {error or type(error).__name__}")
