"""The JSON object that a small request carries: a load's parameters, an index's filter, a setting."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import InvalidInput


def json_object(body: bytes | bytearray | memoryview | None) -> dict[str, Any]:
    """The object in `body`; an empty body is an empty object. InvalidInput for anything else."""
    if not body:
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidInput("The body is no JSON.") from None
    if not isinstance(value, dict):
        raise InvalidInput("The body is no JSON object.")
    return value
