"""TensorFlow Serving's requests to a model that has signatures: which one, rows or columns, examples.

A model without signatures is asked as V1 has it; it answers `predictions` to columns too, as KServe does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.errors import InvalidInput, Unsupported
from penstock.http.server import Exchange
from penstock.protocols import tfserving, v1
from penstock.server.batching import Batcher
from penstock.server.execution import Outputs
from penstock.server.inference import ShapedCall, V1Predict

if TYPE_CHECKING:
    from penstock.runtimes.base import Arrays


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

        def shape(outputs: Outputs) -> tuple[bytes, bytes]:
            return v1.JSON_HEADERS, tfserving.encode_answer(outputs, columnar=columnar)

        call = ShapedCall(self, exchange, shape, began)
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
    write: Callable[[Arrays, int], bytes]

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
        write = type(self).write
        call = ShapedCall(self, exchange, lambda o: (v1.JSON_HEADERS, write(o, rows)), began)
        parameters = {} if signature.inputs is self.specs else {"signature_name": signature.name}
        inputs = {signature.inputs[0].name: examples.serialized}
        call.pending = batcher.submit(inputs, parameters, call.done, timeout_s=self.timeout_s)
        exchange.on_abort = call.aborted

    def _to_payload_model(self, exchange: Exchange, began: float) -> None:
        raise Unsupported(f"Model {self.name} has no {self.method}.", hint="Use :predict.")


class Classify(Examples):
    method = "classify"
    write = staticmethod(tfserving.encode_classes)


class Regress(Examples):
    method = "regress"
    write = staticmethod(tfserving.encode_values)
