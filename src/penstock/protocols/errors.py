"""Errors on the wire: V1 and V2 have one shape, `{"error": "..."}`; the status is the error's own."""

from __future__ import annotations

import msgspec

from penstock.errors import PenstockError

_encode = msgspec.json.Encoder().encode


def error_body(error: PenstockError) -> bytes:
    """The JSON body for `error`. Only its message and hint: no cause, no traceback."""
    return _encode({"error": str(error)})
