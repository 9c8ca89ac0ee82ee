"""Asking many models at once from Python: the question's body, and each model's part of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.infer import InferRequest
from penstock.protocols.v1 import encode_result
from penstock.protocols.v2_client import decode_response, encode_request


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What one model answered."""

    model: str
    #: HTTP's; 200 when it answered a prediction.
    status: int
    #: V2's outputs as arrays by name.
    outputs: Mapping[str, Any] = field(default_factory=dict)
    #: V1's predictions; None without.
    predictions: Any = None
    #: What went wrong; empty when nothing did.
    error: str = ""
    seconds: float = 0.0
    #: By which `Client.feedback` rewards it, where a bandit chose who answers.
    id: str = ""
    #: The revision that the bandit chose; empty without one.
    arm: str = ""

    @property
    def ok(self) -> bool:
        """It answered a prediction."""
        return self.status < 400


class _Result(msgspec.Struct):
    model: str
    status: int
    seconds: float = 0.0
    outputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    predictions: Any = None
    error: Any = ""
    id: str = ""
    arm: str = ""


class _Results(msgspec.Struct):
    results: list[_Result]


def query_body(
    models: Sequence[str] | None,
    selector: str | None,
    inputs: Mapping[str, Any] | InferRequest | None,
    instances: Any,
    parameters: Mapping[str, Any] | None,
    timeout_s: float | None,
) -> bytes:
    """The body of `POST /v2/query`. InvalidInput when it names nobody, or nothing to ask."""
    if (models is None) == (selector is None):
        raise InvalidInput("either models or a selector is expected")
    if (inputs is None) == (instances is None):
        raise InvalidInput("either inputs or instances are expected")
    members: dict[str, Any] = {}
    if models is not None:
        members["models"] = [models] if isinstance(models, str) else list(models)
    else:
        members["selector"] = selector
    if timeout_s is not None:
        members["timeout"] = timeout_s
    if parameters:
        members["parameters"] = dict(parameters)
    if inputs is None:
        try:
            return bytes(encode_result({**members, "instances": instances}))
        except ModelError as e:
            raise InvalidInput("the instances cannot be sent as JSON") from e
    if not isinstance(inputs, InferRequest):
        inputs = InferRequest({name: np.asarray(value) for name, value in inputs.items()})
    _, pieces = encode_request(inputs, binary=False)
    tensors = b"".join(pieces)
    return msgspec.json.encode(members)[:-1] + b"," + tensors[1:]


def query_results(body: bytes) -> list[QueryResult]:
    """What the models answered. ModelError when it is no such answer."""
    try:
        found = msgspec.json.decode(body, type=_Results).results
        return [
            QueryResult(
                r.model,
                r.status,
                {} if r.outputs is msgspec.UNSET else _outputs(r.outputs),
                r.predictions,
                str(r.error),
                r.seconds,
                r.id,
                r.arm,
            )
            for r in found
        ]
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise ModelError(f"the answer is none to a query: {e}") from None


def _outputs(raw: msgspec.Raw) -> Mapping[str, Any]:
    return decode_response(b'{"model_name":"","outputs":%b}' % bytes(raw)).outputs
