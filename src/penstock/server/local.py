"""The predictor in the same process, as its transformer asks it: no socket, no copy, the same batches.

A collocated transformer's requests join those of others in the predictor's batcher. Deadlines and cancelling
are those of the request: who stops waiting leaves the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import Internal, ModelError, PenstockError
from penstock.protocols import v1
from penstock.protocols.codecs import coded
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes.base import Arrays, CallContext, RawReply, Runtime, TensorSpec

if TYPE_CHECKING:
    from penstock.server.loaded import Loaded
    from penstock.server.repository import Repository


class LocalModel:
    """One model of the repository, by name: what serves under it when it is asked."""

    def __init__(self, repository: Repository, name: str, version: str = "") -> None:
        self._repository = repository
        self._name = name
        self._version = version or None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._repository.get(self._name, self._version).runtime.inputs

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        """V2's answer. Raises what the model's own endpoint would answer with."""
        loaded = self._repository.get(self._name, self._version)
        if loaded.batcher is None:
            reply = await self._call(loaded, request, CallContext("v2", headers=headers))
            if not isinstance(reply, InferResponse):
                raise ModelError(f"Model {self._name} answers with a body of its own, not tensors.")
            return reply
        runtime = loaded.runtime
        declared = runtime.content_types if isinstance(runtime, Runtime) else None
        means = coded(request, declared, runtime.inputs)
        if means is not None:
            outputs = await self._submit(loaded, means.inputs, means.parameters)
            return means.response(outputs, None)
        outputs = await self._submit(loaded, request.inputs, request.parameters)
        return InferResponse(dict(outputs))  # under the name that was asked for

    async def predict(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """V1's answer as its JSON would be read."""
        loaded = self._repository.get(self._name, self._version)
        if loaded.batcher is None:
            reply = await self._call(loaded, dict(payload), CallContext("v1", headers=headers))
            if not isinstance(reply, RawReply):
                raise ModelError(f"Model {self._name} streams its answer.")
            body = reply.body
        else:
            specs = loaded.runtime.inputs
            decoded = v1.to_arrays(payload, specs)
            outputs = await self._submit(loaded, decoded.named(specs), decoded.parameters)
            body = v1.encode_predictions(outputs)
        try:
            return msgspec.json.decode(body)
        except msgspec.MsgspecError:
            raise ModelError(f"The answer of model {self._name} is no JSON.") from None

    async def _call(self, loaded: Loaded, payload: Any, context: CallContext) -> Any:
        if loaded.payload is None or loaded.workers is None:
            raise Internal(f"Model {self._name} takes no payloads.")
        loaded.enter()
        try:
            return await loaded.payload.call(
                payload,
                CallContext(context.protocol, headers=context.headers, run=loaded.workers.call),
            )
        finally:
            loaded.leave()

    async def _submit(
        self, loaded: Loaded, arrays: Arrays, parameters: Mapping[str, Any]
    ) -> Arrays:
        if loaded.batcher is None:
            raise Internal(f"Model {self._name} takes no arrays.")
        answer: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()

        def done(outputs: Arrays | None, error: PenstockError | None) -> None:
            if answer.done():
                return
            if outputs is None or error is not None:
                answer.set_exception(error or ModelError(f"Model {self._name} answered nothing."))
            else:
                answer.set_result(outputs)

        pending = loaded.batcher.submit(arrays, parameters, done)
        try:
            return await answer
        except asyncio.CancelledError:
            pending.cancel()
            raise
