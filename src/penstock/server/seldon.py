"""Seldon V1's calls of a model process: predictions of any model that takes arrays, and all verbs of a unit.

`/api/v1.0/predictions` and `/predict` are answered by every model: arrays go to the batcher, a unit (a class
for Seldon's wrapper) gets the message as it is. The other verbs are a unit's. A message comes as JSON, as a
form, or, from the gateway's graphs, with binary tensors; the answer comes the same way. Errors are Seldon's
`status` object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import InvalidInput, ModelError, PenstockError, Unsupported
from penstock.http.server import Exchange, RequestHead
from penstock.protocols import v2
from penstock.protocols.infer import InferRequest
from penstock.protocols.seldon import (
    Message,
    checked_puid,
    decode_message,
    encode_message,
    new_puid,
    seldon_error,
)
from penstock.protocols.seldon_forms import decode_body, field, is_form, may_be_in_query
from penstock.protocols.seldon_message import (
    Feedback,
    SeldonMessage,
    binary_answer,
    encode_binary,
    feedback_of,
    from_tensors,
    message_of,
    messages_of,
)
from penstock.protocols.v1 import JSON_HEADERS
from penstock.runtimes.base import CallContext, PayloadRuntime, RawReply, UnitRuntime
from penstock.server.execution import Outputs
from penstock.server.inference import Shape
from penstock.server.other_protocols import Foreign, only_model

if TYPE_CHECKING:
    from penstock.runtimes.base import Array
    from penstock.server.application import Application

__all__ = ["SeldonPredict", "SeldonVerb", "only_model"]

#: What this process is called in `requestPath`.
_SELF: Final = "penstock"
#: The variable with the name of the node that a SeldonDeployment calls this model by.
NODE: Final = "PREDICTIVE_UNIT_ID"


class SeldonPredict(Foreign):
    """POST /api/v1.0/predictions, /api/v0.1/predictions, /predict"""

    protocol = "seldon"
    #: What is asked of a unit.
    asked = "predict"

    def __init__(self, app: Application, head: RequestHead, name: str, version: str | None) -> None:
        super().__init__(app, head, name, version)
        puid = head.get(b"seldon-puid")
        self._puid = puid.decode("latin-1") if puid else ""
        self._content_type = head.get(b"content-type")
        self._is_form = is_form(self._content_type)
        self._length = head.get(b"inference-header-content-length")
        #: The message where the query has it.
        self._query = b""
        if may_be_in_query(head.path, head.query):
            try:
                self._query = field(head.query)
            except InvalidInput as error:
                self.fault = self.fault or error

    def __call__(self, exchange: Exchange) -> None:
        if self._query and not exchange.body:
            exchange.body = self._query
        super().__call__(exchange)

    @property
    def node(self) -> str:
        """The name in `requestPath`: of several predictors it says which one answered."""
        return self.app.spec.env.get(NODE) or self.name

    # -- models that take arrays

    def read(self, body: Any) -> tuple[Mapping[str, Array], Mapping[str, Any], Shape]:
        if self._length is not None:
            return self._read_binary(body)
        given = decode_body(body, self._content_type) if self._is_form else body
        message = decode_message(given, self.specs, self._puid)

        def encode(outputs: Outputs) -> tuple[bytes, Any]:
            headers = b"%bseldon-puid: %b\r\n" % (JSON_HEADERS, message.puid.encode())
            return headers, encode_message(outputs, message, self.node)

        return message.inputs, {}, encode

    def _read_binary(self, body: Any) -> tuple[Mapping[str, Array], Mapping[str, Any], Shape]:
        """Tensors of a graph: one of them has the model's own name, whatever the graph called it."""
        request = self._request(body)
        first = from_tensors(request.inputs, request.parameters)[0][1]
        specs = self.specs
        inputs: Mapping[str, Array] = request.inputs
        if len(inputs) == 1 and len(specs) == 1:
            inputs = {specs[0].name: next(iter(inputs.values()))}
        elif len(inputs) == 1 and len(specs) > 1:
            rows = first.value.tolist()
            document = {"data": {"names": list(first.names), "ndarray": rows}}
            inputs = decode_message(document, specs).inputs

        def encode(outputs: Outputs) -> tuple[bytes, Any]:
            known = Message({}, first.kind, "", dict(first.meta.get("tags") or {}))
            return self._encode_binary(outputs, known, first.meta)

        return inputs, {}, encode

    def _encode_binary(
        self, outputs: Outputs, known: Message, meta: Mapping[str, Any]
    ) -> tuple[bytes, Any]:
        if len(outputs) == 1:
            ((name, array),) = outputs.items()
            names = [f"t:{i}" for i in range(array.shape[1])] if array.ndim == 2 else []
            answer = binary_answer(SeldonMessage(array, known.kind or "tensor", names, meta), name)
            if answer is not None:
                return encode_binary(answer)
        document = decode_answer(encode_message(outputs, known, self.name))
        document["meta"] = dict(meta)
        return JSON_HEADERS, message_of(document).encoded()

    def _request(self, body: Any) -> InferRequest:
        """A binary body as V2 has it. InvalidInput when it has no tensor."""
        length = v2.parse_header_length(self._length, len(body))
        request = v2.decode_infer(body, length, self.name)
        if not request.inputs:
            raise InvalidInput("The request has no tensor.")
        return request

    # -- units

    def payload(self, exchange: Exchange) -> list[SeldonMessage] | Feedback:
        """What a unit is given. Raises InvalidInput."""
        body = exchange.body
        if not body:
            raise InvalidInput("The request has no body.")
        if self._length is not None:
            request = self._request(body)
            return [m for _, m in from_tensors(request.inputs, request.parameters)]
        document = decode_body(body, self._content_type)
        if self.asked == "send-feedback":
            return feedback_of(document)
        if self.asked == "aggregate":
            return messages_of(document)
        return [message_of(document, self._puid)]

    async def unit_answer(
        self, model: PayloadRuntime, payload: Any, context: CallContext
    ) -> SeldonMessage:
        """A unit's answer; its metrics and a feedback's reward are counted."""
        if not isinstance(model, UnitRuntime):
            raise Unsupported(
                f"Model {self.name} takes its own payloads, which this protocol has none of.",
                hint="Use V1 or V2.",
            )
        metrics = self.app.metrics
        if isinstance(payload, Feedback):
            answer = await model.feedback(payload, context)
            metrics.feedback(self.name, payload.reward)
        else:
            if self.asked != "aggregate" and len(payload) != 1:
                raise InvalidInput(f"One message is expected, the request has {len(payload)}.")
            answer = await model.unit(self.asked, payload, context)
        if answer.metrics:
            metrics.of_user(self.name, answer.metrics)
        message = answer.message
        if self._length is None and not isinstance(payload, Feedback):
            puid = checked_puid(message.meta.get("puid") or self._puid or new_puid())
            message.meta = {**message.meta, "puid": puid}
            context.response_headers["seldon-puid"] = puid
            if self.asked == "predict":
                path = message.meta.get("requestPath") or {}
                message.meta["requestPath"] = {**path, self.node: _SELF}
        return message

    async def ask(self, model: PayloadRuntime, payload: Any, context: CallContext) -> RawReply:
        message = await self.unit_answer(model, payload, context)
        binary = binary_answer(message, "output-0") if self._length is not None else None
        if binary is None:
            return RawReply(message.encoded())
        headers, pieces = encode_binary(binary)
        for line in headers.decode("latin-1").splitlines():
            name, _, value = line.partition(": ")
            if name.lower() != "content-type":
                context.response_headers[name] = value
        return RawReply(b"".join(pieces), "application/octet-stream")

    def _to_payload_model(self, exchange: Exchange, began: float) -> None:
        loaded = self.loaded
        runtime = loaded.payload
        if not isinstance(runtime, UnitRuntime):
            if self.asked != "predict":
                raise no_verb(self.name, self.asked)
            super()._to_payload_model(exchange, began)
            return
        if self.asked not in runtime.verbs and self.asked != "send-feedback":
            raise no_verb(self.name, self.asked)
        self.app.payloads.take(self, loaded, exchange, began)

    def error_body(self, error: PenstockError) -> bytes:
        return seldon_error(error)


class SeldonVerb(SeldonPredict):
    """POST /transform-input, /transform-output, /route, /aggregate, /send-feedback, /api/v1.0/feedback"""

    def __init__(self, app: Application, head: RequestHead, name: str, version: str | None) -> None:
        super().__init__(app, head, "", version)
        self.asked = "send-feedback" if name in ("feedback", "send-feedback") else name

    def submit(self, exchange: Exchange, batcher: Any, began: float) -> None:
        if self.asked == "predict":
            super().submit(exchange, batcher, began)
            return
        if self.asked != "send-feedback":
            raise no_verb(self.name, self.asked)
        # A model that learns nothing takes a reward all the same: it is counted.
        payload = self.payload(exchange)
        assert isinstance(payload, Feedback)  # noqa: S101 - by `asked`
        self.app.metrics.feedback(self.name, payload.reward)
        self.accept(exchange)
        self.count(200, began)

    def accept(self, exchange: Exchange) -> None:
        """Answer a feedback that was counted."""
        exchange.send(200, JSON_HEADERS, b'{"meta":{}}')


def no_verb(name: str, verb: str) -> Unsupported:
    return Unsupported(
        f"Model {name} has no {verb}.", hint="A class for Seldon's wrapper may have one."
    )


def decode_answer(body: bytes) -> dict[str, Any]:
    """A message of our own making."""
    import msgspec

    document = msgspec.json.decode(body)
    if not isinstance(document, dict):
        raise ModelError("the answer is no SeldonMessage")
    return document


def metadata_of(
    name: str, versions: Sequence[str], platform: str, inputs: Any, outputs: Any
) -> dict[str, Any]:
    """A model's metadata in Seldon's terms."""

    def tensors(specs: Any) -> list[dict[str, Any]]:
        return [
            {
                "messagetype": "tensor",
                "schema": {"names": [s.name], "shape": [n for n in s.shape[1:] if n >= 0]},
            }
            for s in specs
        ]

    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": tensors(inputs),
        "outputs": tensors(outputs),
        "custom": {},
    }
