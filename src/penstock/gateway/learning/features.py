"""Features of a request for a contextual bandit: a header's numbers, or an input tensor's first row.

A header that is there and cannot be read is the client's mistake; one that is not there, or a tensor that is
not, leaves the request without features: it is divided by shares, and nothing is learned from it. What is
wrong with a body is the model process's to say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.bandit import MOST_VALUE
from penstock.errors import InvalidInput, PenstockError
from penstock.gateway.learning.request_ids import rounded
from penstock.protocols.content_coding import plain_body

if TYPE_CHECKING:
    from penstock.domain.bandit import Bandit

#: Largest body that is looked into, bytes.
MOST_BODY: Final = 1024 * 1024


def features_of(bandit: Bandit, exchange: Any, plan: Any) -> tuple[float, ...]:
    """The features with their constant; empty where the bandit takes none, or the request has none."""
    if not bandit.dimensions:
        return ()
    if bandit.header:
        value = exchange.head.get(bandit.header.encode("latin-1"))
        return _of_header(value, bandit) if value is not None else ()
    body = exchange.body
    if plan is None or not body or len(body) > MOST_BODY:
        return ()
    try:
        row = _row(bytes(body), bandit.tensor, exchange.head, plan.protocol)
    except (PenstockError, msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError):
        return ()
    if len(row) < bandit.features:
        return ()
    return _checked(row[: bandit.features])


def _of_header(value: bytes, bandit: Bandit) -> tuple[float, ...]:
    text = value.decode("latin-1").strip().removeprefix("[").removesuffix("]")
    try:
        if "_" in text:  # Python's own way to write numbers
            raise ValueError
        found = _checked([float(part) for part in text.split(",")])
    except ValueError:
        found = ()
    if len(found) != bandit.features + 1:
        raise InvalidInput(
            f"The header {bandit.header} has to have {bandit.features} numbers between"
            f" {-MOST_VALUE:g} and {MOST_VALUE:g}, with commas between them."
        )
    return found


def _checked(row: list[float]) -> tuple[float, ...]:
    if not all(math.isfinite(x) and abs(x) <= MOST_VALUE for x in row):
        return ()
    return rounded((*row, 1.0))


def _row(body: bytes, tensor: str, head: Any, protocol: str) -> list[float]:
    """The first row of an input, flat."""
    if protocol != "grpc" and head.get(b"content-encoding") is not None:
        body = bytes(plain_body(head, body, MOST_BODY))
    if protocol == "v1":
        document = msgspec.json.decode(body)
        first = document["instances"][0]
        return _flat(first[tensor] if isinstance(first, dict) else first)
    # Loads numpy: only for bandits that look into tensors.
    from penstock.protocols import v2
    from penstock.protocols.grpc import infer
    from penstock.protocols.grpc.wire import unframe

    if protocol == "grpc":
        request = infer.decode_infer(unframe(body, None, MOST_BODY + 5), "")
    else:
        length = head.get(b"inference-header-content-length")
        request = v2.decode_infer(body, v2.parse_header_length(length, len(body)), "")
    array = request.inputs[tensor] if tensor else next(iter(request.inputs.values()))
    row = array[0] if array.ndim > 1 else array
    return [float(x) for x in row.ravel()]


def _flat(value: Any) -> list[float]:
    if isinstance(value, list):
        return [x for part in value for x in _flat(part)]
    return [float(value)]
