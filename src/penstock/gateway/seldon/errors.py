"""Errors in Seldon V1's shape, of whatever the gateway answers by itself there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.gateway.proxy import error_answer
from penstock.protocols.seldon import seldon_error

if TYPE_CHECKING:
    from penstock.errors import PenstockError


def seldon_answer(error: PenstockError) -> tuple[int, bytes, bytes]:
    """Status, header lines and body for an error: those of any protocol, but for the body."""
    status, headers, _ = error_answer(error)
    return status, headers, seldon_error(error)
