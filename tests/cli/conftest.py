"""Fixtures of this folder; what tests import by name is in `cli_harness`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "api"), str(_HERE.parent / "control")]

from cli_harness import Penstock, ServerThread  # noqa: E402


@pytest.fixture
def penstock(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Penstock]:
    server = ServerThread()
    yield Penstock(server, capsys, monkeypatch)
    server.close()
