"""How long a caller waits: the header `x-request-timeout-ms`, at a gateway and at a model process."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from penstock.http.head import RequestHead


def requested_timeout_s(head: RequestHead, most_s: float = inf) -> float | None:
    """The caller's own deadline, from `x-request-timeout-ms`; None when it named none.

    InvalidInput when it is no positive whole number, or means more than `most_s`.
    """
    value = head.get(b"x-request-timeout-ms")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12 or not 0 < int(value) <= most_s * 1000:
        raise InvalidInput(
            "The header x-request-timeout-ms is not a whole number of milliseconds above 0."
        )
    return int(value) / 1000
