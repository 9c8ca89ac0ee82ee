"""TensorFlow Serving's requests to a model that has signatures: which one, rows or columns, examples.

A model without signatures is asked as V1 has it; it answers `predictions` to columns too, as KServe does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from penstock.errors import InvalidInput, PenstockError, Unsupported
from penstock.http.server import Exchange
from penstock.protocols import tfserving, v1
from penstock.server.batching import Batcher
from penstock.server.execution import Outputs
from penstock.server.inference import Call, Target, V1Predict, unanswered, unencodable

if TYPE_CHECKING:
    from penstock.runtimes.base import Arrays

log = logging.getLogger(__name__)

_Encode = Callable[[Outputs], bytes]


class _Answered(Call):
    """A call whose answer is written as TensorFlow Serving writes it."""

    __slots__ = ("encode",)

    def __init__(self, target: Target, exchange: Exchange, encode: _Encode, began: float) -> None:
        super().__init__(target, exchange, None, began)
        self.encode = encode

    def done(self, outputs: Outputs | None, error: PenstockError | None) -> None:
        target = self.target
        if outputs is None or error is not None:
            self.failed(error or unanswered(target.name))
            return
        try:
            body = self.encode(outputs)
        except PenstockError as fault:
            self.failed(fault)
            return
        except Exception:
            log.exception("the answer of model %s could not be encoded", target.name)
            self.failed(unencodable(target.name))
            return
        self.pending = None
        self.exchange.on_abort = None
        self.exchange.send(200, v1.JSON_HEADERS, body)
        target.answered.value += 1
        target.seconds.observe(perf_counter() - self.began)


class TensorflowPredict(V1Predict):
    """POST /v1/models/M[/versions/V]:predict"""

    def submit(self, exchange: Exchange, batcher: Batcher, began: float) -> None:
        signatures = self.signatures
        if not signatures:
            super().submit(exchange, batcher, began)
            return
        payload = v1.decode_predict(exchange.body or b"")
        signature = tfserving.signature_of(payload, signatures, next(iter(signatures)))
        decoded = v1.to_arrays(payload, signature.inputs)
        columnar = not decoded.rows
        call = _Answered(
            self, exchange, lambda o: tfserving.encode_answer(o, columnar=columnar), began
        )
        # Who names the default signature shares calls with who names none.
        parameters = decoded.parameters
        if signature.inputs is self.specs:
            parameters = {k: v for k, v in parameters.items() if k != "signature_name"}
        inputs = decoded.named(signature.inputs)
        call.pending = batcher.submit(inputs, parameters, call.done, timeout_s=self.timeout_s)
        exchange.on_abort = call.aborted


class Examples(V1Predict):
    """POST /v1/models/M[/versions/V]:classify or :regress"""

    method: str
    #: Makes the body of the outputs for that many examples.
    encode: Callable[[Arrays, int], bytes]

    def submit(self, exchange: Exchange, batcher: Batcher, began: float) -> None:
        able = [n for n, s in self.signatures.items() if s.method == self.method]
        if not able:
            raise InvalidInput(
                f"Model {self.name} has no signature for {self.method}: it takes no tf.Examples.",
                hint="Use :predict.",
            )
        examples = tfserving.decode_examples(exchange.body or b"")
        signature = tfserving.signature_of(
            examples.payload, self.signatures, next(iter(self.signatures))
        )
        if signature.method != self.method:
            raise InvalidInput(
                f"The signature {signature.name} of model {self.name} is not for {self.method}.",
                hint=f"Say another as signature_name: {', '.join(able)}.",
            )
        rows = len(examples.serialized)
        encode = type(self).encode
        call = _Answered(self, exchange, lambda o: encode(o, rows), began)
        parameters = {} if signature.inputs is self.specs else {"signature_name": signature.name}
        inputs = {signature.inputs[0].name: examples.serialized}
        call.pending = batcher.submit(inputs, parameters, call.done, timeout_s=self.timeout_s)
        exchange.on_abort = call.aborted

    def _to_payload_model(self, exchange: Exchange, began: float) -> None:
        raise Unsupported(f"Model {self.name} has no {self.method}.", hint="Use :predict.")


class Classify(Examples):
    method = "classify"
    encode = staticmethod(tfserving.encode_classes)


class Regress(Examples):
    method = "regress"
    encode = staticmethod(tfserving.encode_values)
