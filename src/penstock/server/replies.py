"""Answers of the model process that are not a model's: small JSON documents and errors."""

from __future__ import annotations

from math import ceil
from typing import Final

from penstock.errors import PenstockError, Unavailable
from penstock.http.head import JSON_TYPE
from penstock.http.server import Exchange
from penstock.protocols.errors import error_body

PROMETHEUS: Final = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"


def send_json(exchange: Exchange, body: bytes, status: int = 200) -> None:
    exchange.send(status, JSON_TYPE, body)


def send_error(exchange: Exchange, error: PenstockError, body: bytes | None = None) -> None:
    """The error with its own status; Retry-After where trying again makes sense.

    The body is `{"error": ...}` unless a protocol has a shape of its own.
    """
    headers = JSON_TYPE
    if isinstance(error, Unavailable) and error.retry_after_s is not None:
        headers += b"retry-after: %d\r\n" % max(1, ceil(error.retry_after_s))
    exchange.send(error.status, headers, error_body(error) if body is None else body)


def send_not_allowed(exchange: Exchange, allow: str) -> None:
    """405: the path exists, for other methods."""
    error = PenstockError(f"{exchange.head.method} is not allowed here.", hint=f"Use {allow}.")
    exchange.send(405, JSON_TYPE + b"allow: %b\r\n" % allow.encode(), error_body(error))
