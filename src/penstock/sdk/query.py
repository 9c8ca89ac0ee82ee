"""Asking many models at once from Python: the question's body, and each model's part of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.infer import InferRequest, RequestedOutput
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
    #: What it answered when that is neither, as decoded JSON or as text.
    answer: Any = None
    #: What went wrong; empty when nothing did.
    error: str = ""
    seconds: float = 0.0
    #: By which `Client.feedback` rewards it, where a bandit chose who answers.
    id: str = ""
    #: The revision that the bandit chose; empty without one.
    arm: str = ""
    #: Which revision answered; empty for a graph.
    revision: str = ""
    #: Which candidate of an experiment answered, as Seldon says it: `:NAME_1:`, `:NAME.pipeline:`.
    route: str = ""
    #: What each step of a graph did, where the client's headers ask for it (`x-penstock-trace: 1`).
    trace: Any = None

    @property
    def ok(self) -> bool:
        """It answered a prediction."""
        return self.status < 400 and not self.error


class _Result(msgspec.Struct):
    """The same, as it is sent."""

    model: str
    status: int
    seconds: float = 0.0
    outputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    predictions: Any = None
    answer: Any = None
    error: Any = ""
    id: str = ""
    arm: str = ""
    revision: str = ""
    route: str = ""
    trace: Any = None


class _Results(msgspec.Struct):
    results: list[_Result]


def query_body(
    models: Sequence[str] | None,
    selector: str | None,
    inputs: Mapping[str, Any] | InferRequest | None,
    instances: Any,
    parameters: Mapping[str, Any] | None,
    timeout_s: float | None,
    outputs: Sequence[str] | None = None,
    id: str | None = None,
) -> bytes:
    """The body of `POST /v2/query`. InvalidInput when it names nobody, or nothing to ask."""
    if (models is None) == (selector is None):
        raise InvalidInput("either models or a selector is expected")
    if (inputs is None) == (instances is None):
        raise InvalidInput("either inputs or instances are expected")
    if inputs is None and (outputs is not None or id is not None):
        raise InvalidInput("outputs and an id are asked for beside inputs (V2)")
    members: dict[str, Any] = {}
    if models is not None:
        members["models"] = [models] if isinstance(models, str) else list(models)
    else:
        members["selector"] = selector
    if timeout_s is not None:
        members["timeout"] = timeout_s
    if inputs is None:
        if parameters:
            members["parameters"] = dict(parameters)
        try:
            return bytes(encode_result({**members, "instances": instances}))
        except ModelError as e:
            raise InvalidInput("the instances cannot be sent as JSON") from e
    if not isinstance(inputs, InferRequest):
        inputs = InferRequest({name: np.asarray(value) for name, value in inputs.items()})
    request = structs.replace(
        inputs,
        parameters={**inputs.parameters, **(parameters or {})},
        outputs=inputs.outputs if outputs is None else tuple(map(RequestedOutput, outputs)),
        id=inputs.id if id is None else id,
        binary_output=False,  # all answers are one JSON document
    )
    _, pieces = encode_request(request, binary=False)
    tensors = b"".join(pieces)
    return msgspec.json.encode(members)[:-1] + b"," + tensors[1:]


def query_results(body: bytes) -> list[QueryResult]:
    """What the models answered. ModelError when it is no such answer."""
    try:
        found = msgspec.json.decode(body, type=_Results).results
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise ModelError(f"the answer is none to a query: {e}") from None
    return [_made(r) for r in found]


def _made(told: _Result) -> QueryResult:
    outputs: Mapping[str, Any] = {}
    error = told.error if isinstance(told.error, str) else msgspec.json.encode(told.error).decode()
    if told.outputs is not msgspec.UNSET:
        try:
            outputs = _outputs(told.outputs)
        except ModelError as e:  # one model's: the others' are read
            error = e.message
    return QueryResult(**{**structs.asdict(told), "outputs": outputs, "error": error})


def _outputs(raw: msgspec.Raw) -> Mapping[str, Any]:
    return decode_response(b'{"model_name":"","outputs":%b}' % bytes(raw)).outputs
