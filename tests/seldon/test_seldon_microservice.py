"""Seldon's own client calls a unit by itself: every verb, over REST and gRPC."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import environment
from seldon_oracle import HERE

from penstock.domain.routes import Address
from penstock.http.limits import Limits
from penstock.http.server import HttpServer
from penstock.runtimes.base import LoadOptions
from penstock.runtimes.seldon_python import load

sys.path.insert(0, str(HERE.parent / "grpc"))
from grpc_peers import model_process


@pytest.mark.timeout(300)
async def test_its_unit_calls_work_unchanged(tmp_path: Path) -> None:
    options = {"class": "seldon_units.py:Doubler", "unit": "node"}
    python = await asyncio.to_thread(environment, "seldon")

    def make() -> Any:
        return load(HERE, LoadOptions("m", options=options))

    async with model_process(tmp_path, {"m": make}) as (app, _, grpc_port):
        server = HttpServer(app, limits=Limits())
        port = (await server.listen(Address(host="127.0.0.1", port=0))).port
        process = await asyncio.create_subprocess_exec(
            python / "python", "-W", "ignore", HERE / "seldon_microservice_client.py",
            f"127.0.0.1:{port}", f"127.0.0.1:{grpc_port}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        server.close()
        assert process.returncode == 0, err.decode()[-3000:]
        runtime: Any = app.repository.get("m").runtime
        assert runtime._instance.learned[2] == 0.5
    told = json.loads(out.splitlines()[-1])
    for transport in ("rest", "grpc"):
        for method, expected in (
            ("predict", [2.0, 4.0]),
            ("transform-input", [2.0, 3.0]),
            ("transform-output", [0.0, 1.0]),
            ("route", [1.0]),
            ("aggregate", [2.0, 4.0]),
        ):
            assert told[f"{transport} {method}"] == [True, expected], (transport, method)
        assert told[f"{transport} feedback"] == [True, ""]
