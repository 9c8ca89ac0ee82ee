"""Commands run in this process against a real API server on a thread of its own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from api_harness import Api, serve

from penstock.cli import main

T = TypeVar("T")


class ServerThread:
    """The API of `api_harness`, on a loop that is not the test's."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._down = asyncio.Event()
        self.api: Api
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._up.wait(20)

    async def _run(self) -> None:
        async for api in serve(**self._options):
            self.api = api
            self._up.set()
            await self._down.wait()

    @property
    def url(self) -> str:
        return str(self.api.client.base_url).rstrip("/")

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something where the server runs."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(20)
        self._loop.close()


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


class Penstock:
    """`penstock(...)` runs a command and answers what it did."""

    def __init__(
        self, server: ServerThread, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.server = server
        self._capture = capture
        self._patch = patch
        patch.setenv("PENSTOCK_SERVER", server.url)
        patch.delenv("PENSTOCK_TOKEN_FILE", raising=False)

    def __call__(self, *args: str) -> Ran:
        self._patch.setattr(sys, "argv", ["penstock", *args])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        captured = self._capture.readouterr()
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)
