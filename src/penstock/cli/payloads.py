"""A payload's way from a file to the gateway and its answer's way back, for the commands that ask models."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock.cli.exits import UNREACHABLE, USAGE, CliError


def read(file: str) -> bytes:
    """What a file has, or standard input (`-`). CliError when there is none."""
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise CliError(f"{file} cannot be read: {exc.strerror}.", USAGE) from exc


def parse(payload: bytes, file: str) -> Any:
    """The JSON of a file that was read. CliError when it is none."""
    try:
        return json.loads(payload)
    except ValueError as exc:
        if file == "-" and not payload.strip():
            raise CliError("Standard input has no payload; -f FILE names one.", USAGE) from None
        shown = "Standard input" if file == "-" else file
        raise CliError(f"{shown} is no JSON: {exc}.", USAGE) from exc


def post(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Status, body and header fields of the gateway's answer. CliError when there is none."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    # The gateway keeps the deadline; a little longer here, so that its answer is what is seen.
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s + 5)
    try:
        connection.request("POST", parts.path, body=body, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    except (OSError, http.client.HTTPException) as exc:
        raise CliError(
            f"The gateway at {parts.netloc} cannot be reached: {exc}.", UNREACHABLE
        ) from exc
    finally:
        connection.close()
