"""Protocols of other platforms on the process's model: MLflow's predictions, and what `seldon` has in common.

Neither names the model, so they are for the only one of the process. Each is a `Target` whose answers and
errors have that platform's shape; queueing, deadlines and counting are the same as for V1 and V2. A model
that takes payloads as they are has no arrays to be translated into, and says so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidInput, PenstockError, Unsupported
from penstock.http.server import Exchange, RequestHead
from penstock.protocols.mlflow import decode_invocation, mlflow_error
from penstock.protocols.v1 import JSON_HEADERS, encode_predictions
from penstock.server.batching import Batcher
from penstock.server.inference import Shape, ShapedCall, Target
from penstock.server.replies import send_error

if TYPE_CHECKING:
    from penstock.runtimes.base import Array
    from penstock.server.application import Application


def only_model(app: Application) -> str:
    """The name of the model that a path without one means. InvalidInput when there are several."""
    names = app.repository.names()
    if len(names) != 1:
        raise InvalidInput(
            f"This process has {len(names)} models, and the path names none.",
            hint="Use V1 or V2, which name the model.",
        )
    return names[0]


class Foreign(Target):
    """A prediction by a protocol that names no model."""

    def __init__(self, app: Application, head: RequestHead, name: str, version: str | None) -> None:
        fault: PenstockError | None = None
        try:
            name = name or only_model(app)
        except InvalidInput as error:
            fault = error
        super().__init__(app, head, name, version)
        self.fault = fault or self.fault

    @abstractmethod
    def read(self, body: Any) -> tuple[Mapping[str, Array], Mapping[str, Any], Shape]:
        """(inputs, parameters, how to answer). Raises InvalidInput."""

    @abstractmethod
    def error_body(self, error: PenstockError) -> bytes:
        """An error in this protocol's shape."""

    def submit(self, exchange: Exchange, batcher: Batcher, began: float) -> None:
        body = exchange.body
        if not body:
            raise InvalidInput("The request has no body.")
        inputs, parameters, encode = self.read(body)
        call = ShapedCall(self, exchange, encode, began)
        call.pending = batcher.submit(inputs, parameters, call.done, timeout_s=self.timeout_s)
        exchange.on_abort = call.aborted

    def _to_payload_model(self, exchange: Exchange, began: float) -> None:
        raise Unsupported(
            f"Model {self.name} takes its own payloads, which this protocol has none of.",
            hint="Use V1 or V2.",
        )

    def send_error(self, exchange: Exchange, error: PenstockError) -> None:
        send_error(exchange, error, self.error_body(error))


class MlflowInvocation(Foreign):
    """POST /invocations"""

    protocol = "mlflow"

    def __init__(self, app: Application, head: RequestHead, name: str, version: str | None) -> None:
        super().__init__(app, head, name, version)
        self._content_type = (head.get(b"content-type") or b"").decode("latin-1")

    def read(self, body: Any) -> tuple[Mapping[str, Array], Mapping[str, Any], Shape]:
        inputs, parameters = decode_invocation(body, self._content_type, self.specs)
        return inputs, parameters, lambda o: (JSON_HEADERS, encode_predictions(o))

    def error_body(self, error: PenstockError) -> bytes:
        return mlflow_error(error)
