"""The inference port's OpenAPI document: it has every path, and what it allows is never a server's fault."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate
from server_client import serving

from penstock.protocols import documents, openapi
from penstock.server import application


def test_the_document_is_valid() -> None:
    validate(openapi.document())


async def test_a_process_publishes_it_where_clients_look(tmp_path: Path) -> None:
    async with serving(tmp_path, {}) as s:
        for path in documents.OPENAPI_PATHS:
            assert (await s.client.get(path)).json() == openapi.document()


def _concrete() -> Iterator[tuple[str, str]]:
    for path, operations in openapi.document()["paths"].items():
        for method in operations:
            yield method, path.replace("{model}", "m").replace("{version}", "1")


@pytest.mark.parametrize(("method", "path"), list(_concrete()))
async def test_every_path_is_there(tmp_path: Path, method: str, path: str) -> None:
    async with serving(tmp_path, {}) as s:
        answer = await s.client.request(method, path, content=b"{}")
        assert answer.status_code != 405
        assert "nothing at this path" not in answer.text


#: Paths that are no part of the published interface: their names, or where they come from.
_UNPUBLISHED = re.compile(
    r"^/$|metrics|/labels|feedback|transform-input|health/\(|\(metadata\|status\)|^/live$|/ping|"
    r"openapi|/\(doc\(|trace/setting|/version$|penstock/mux"
)


def test_every_route_is_in_the_document() -> None:
    concrete = [path for _, path in _concrete()]
    for pattern in application._PATHS.patterns:
        if not _UNPUBLISHED.search(pattern):
            assert any(re.fullmatch(pattern, path) for path in concrete), pattern


def test_schemas_are_used_and_there() -> None:
    text = json.dumps(openapi.document())
    used = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert used == set(openapi.SCHEMAS)
