"""Malformed requests of every HTTP protocol: each has its status and message, and good ones follow."""

from __future__ import annotations

from pathlib import Path

import bad_requests
import pytest
from bad_requests import KNOWN, PROTOCOLS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md"
#: Statuses that say that the server is at fault. 501 is an answer: understood, and not served.
FAULTS = {500, 502, 503, 504}


@pytest.mark.timeout(120)
async def test_each_request_has_its_answer_and_the_page_has_them(tmp_path: Path) -> None:
    found = await bad_requests.answers(tmp_path)
    for protocol in PROTOCOLS:
        for bad, (status, said) in zip(protocol.rows, found[protocol.title], strict=True):
            assert status == bad.status, f"{protocol.title}, {bad.name}: {status} {said}"
            assert status not in FAULTS
            assert said, f"{protocol.title}, {bad.name} has no message"
    if PAGE.read_text() != bad_requests.page(found):
        pytest.fail(
            "stale: .venv/bin/python tests/server/bad_requests.py > docs/reference/errors.md"
        )


def test_every_row_has_the_peers_statuses() -> None:
    rows = {p.title: len(p.rows) for p in PROTOCOLS}
    for title, peers in KNOWN.items():
        assert {len(statuses) for statuses in peers.values()} == {rows[title]}, title
