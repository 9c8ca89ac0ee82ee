"""Coverage-guided fuzzing, seconds per target; PENSTOCK_FUZZ_SECONDS makes it longer."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_calls import CALLS, framed, message, typed
from hpack import Encoder

pytest.importorskip("atheris", reason="atheris has wheels for x86_64 Linux only")

TARGET = Path(__file__).with_name("fuzz_target.py")
ROOT = TARGET.parents[2]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def _binary() -> bytes:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
    described = {**tensor, "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [described], "id": "1", "outputs": [{"name": "x"}]}).encode()
    return len(head).to_bytes(2, "big") + head + np.ones(2, np.float32).tobytes()


def _coded(kind: str) -> bytes:
    """A request whose tensors have content types, of the request, an input and an output."""
    texts = ["YQ==", "2024-02-29", "[1]", None]
    tensors = [
        {
            "name": n,
            "shape": [4],
            "datatype": "BYTES",
            "data": texts,
            "parameters": {"content_type": k},
        }
        for n, k in (("x", "base64"), ("a", "str"), ("b", "raw"))
    ]
    body: dict[str, Any] = {"inputs": tensors if kind in ("pd", "hf") else tensors[:1]}
    outputs = [{"name": "x", "parameters": {"content_type": "pd_json"}}]
    text = json.dumps({**body, "parameters": {"content_type": kind}, "outputs": outputs}).encode()
    return len(text).to_bytes(2, "big") + text


def _frames() -> list[bytes]:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]
    block = Encoder().encode([*fields, ("content-type", "application/grpc")])
    whole = _frame(1, 4, 1, block) + _frame(0, 1, 1, b"body")
    parts = _frame(1, 0, 1, block[:9]) + _frame(9, 4, 1, block[9:]) + _frame(0, 0, 1, b"b")
    odd = (
        _frame(4, 0, 0, b"\0\4\0\0\0\0") + _frame(8, 0, 0, b"\0\0\1\0") + _frame(6, 0, 0, bytes(8))
    )
    return [bytes([n]) + data for data in (whole, parts + odd, odd + whole) for n in (0, 40)]


SEEDS: dict[str, list[bytes]] = {
    "protobuf": [
        b"\0" + framed(message()),
        b"\1" + framed(gzip.compress(message()), 1),
        *(b"\0" + bad.body for bad in CALLS if len(bad.body) < 300),
    ],
    "message": [
        message(),
        typed("FP64", [1, 4], fp64_contents=[1, 2, 3, 4]),
        typed("BYTES", [1], bytes_contents=[b"a"]),
        *(bad.body[5:] for bad in CALLS if len(bad.body) < 300),
    ],
    "binary_header": [_binary(), *map(_coded, ("pd", "np", "str", "hf"))],
    "frames": _frames(),
    "answers": [
        b"\5" + framed(message()) + framed(b"grpc-status: 0\r\n", 0x80),
        b"\0" + framed(message()),
    ],
}


@pytest.mark.parametrize("target", SEEDS)
def test_no_bytes_that_fuzzing_finds_are_a_fault(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(SEEDS[target]):
        (corpus / str(i)).write_bytes(seed)
    seconds = os.environ.get("PENSTOCK_FUZZ_SECONDS", "2")
    done = subprocess.run(
        # The peak of memory that libFuzzer limits is handed on by exec, and this process may have held
        # frameworks; the shell's fork starts at nothing.
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, str(TARGET), target,
         f"-max_total_time={seconds}", "-max_len=600",
         "-rss_limit_mb=1500", "-timeout=10", f"-artifact_prefix={tmp_path}/", str(corpus)],
        cwd=ROOT, capture_output=True, text=True, timeout=int(seconds) + 90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
