"""The real kubectl, pointed at the API of a test."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_harness import Api

from penstock.cli.kubeconfig import document

TIMEOUT_S = 60


def _program() -> str:
    return os.environ.get("PENSTOCK_TEST_KUBECTL", "kubectl")


@cache
def _minor(program: str) -> int:
    said = subprocess.run(
        [program, "version", "--client", "-o", "json"], capture_output=True, check=True, timeout=60
    )
    return int(re.sub(r"\D", "", json.loads(said.stdout)["clientVersion"]["minor"]))


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> list[list[str]]:
        """The lines of a table, by words."""
        return [line.split() for line in self.out.splitlines()]


class Kubectl:
    """`await kubectl(...)` runs a command; it must end with 0 unless `fails` is said."""

    def __init__(self, server: str, folder: Path) -> None:
        self._folder = folder
        config = folder / "kubeconfig"
        config.write_text(yaml.safe_dump(document(server, None, "default")))
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "KUBECONFIG": str(config),
        }

    @property
    def minor(self) -> int:
        """The program's version, 1.N."""
        return _minor(_program())

    def file(self, *objects: dict[str, Any]) -> str:
        """A manifest on the disk."""
        path = self._folder / "manifest.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        return str(path)

    async def start(self, *args: str, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            _program(),
            *args,
            env=self._env | env,
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *args: str, fails: bool = False, **env: str) -> Ran:
        process = await self.start(*args, **env)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        ran = Ran(process.returncode or 0, out.decode(), err.decode())
        assert (ran.code != 0) is fails, ran
        return ran


@pytest.fixture
def kubectl(api: Api, tmp_path: Path) -> Kubectl:
    return Kubectl(str(api.client.base_url).rstrip("/"), tmp_path)
