"""Which names a model process writes to: the list of `penstock.backends.local.written_names`, measured.

    python -m benchmarks.written_names [--write]

A forked process gets a copy of a page at its first write to it. Here the kernel tells each of those writes
of two model processes, one of scikit-learn and one of a class, from the fork to some seconds after their
first answers, and those that met the reference count of an interned string are looked up in their zygotes.
What is found depends on the list as it is: a page that is copied for one name hides the next. So it is added
to, and the second run finds little. Needs `perf` (package linux-perf) and root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.graph_rows import TRIVIAL
from benchmarks.measure import iris_model
from benchmarks.system import ROOT, System, manifest, system
from penstock.backends.local.written_names import NAMES

TARGET = ROOT / "src/penstock/backends/local/written_names.py"
#: Seconds for the timers of a process that has answered, and for its metrics to be read.
LATER_S = 8.0
REQUEST: dict[str, Any] = {
    "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]
}
_EVENT = re.compile(r"^\s*(\d+)/\d+\s.*?:\s+([0-9a-f]+)\s*$")


class Memory:
    """Objects of a zygote, which its children have at the same addresses."""

    def __init__(self, pid: int) -> None:
        self._file = open(f"/proc/{pid}/mem", "rb", 0)  # noqa: SIM115 - closed with the process
        self._types: dict[int, str] = {}

    def _read(self, address: int, size: int) -> bytes:
        try:
            self._file.seek(address)
            return self._file.read(size)
        except (OSError, OverflowError):
            return b""

    def _words(self, address: int, count: int) -> tuple[int, ...]:
        data = self._read(address, 8 * count)
        return struct.unpack(f"<{count}Q", data) if len(data) == 8 * count else (0,) * count

    def _type_name(self, address: int) -> str:
        if address not in self._types:
            name = self._words(address, 4)[3] if address % 8 == 0 else 0
            text = self._read(name, 64).split(b"\0")[0]
            self._types[address] = text.decode("latin-1")
        return self._types[address]

    def interned(self, address: int) -> str | None:
        """The name whose object begins at `address`."""
        _, kind, length, _, state = self._words(address, 5)
        # Of its state the lowest two bits say whether it is interned, bit 6 whether it is ASCII.
        if self._type_name(kind) != "str" or not state & 3 or not state & 64 or length > 100:
            return None
        text = self._read(address + 48, length).decode("ascii", "replace")
        return text if text.isidentifier() else None


def measure() -> set[str]:
    """The names that were met."""
    found: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "echo").mkdir()
        (folder / "echo" / "model.py").write_text(TRIVIAL)
        iris = iris_model(folder / "iris")
        with system(model_dir=folder) as s:
            # What starts the zygotes: they are there, and settled, when the first of each is Ready.
            for label in ("first", "second"):
                recording = _record(s, folder) if label == "second" else None
                for framework, uri in (("sklearn", iris), ("python", folder / "echo")):
                    service = f"{framework}-{label}"
                    s.apply(manifest(service, framework, str(uri)))
                    asked = httpx.post(f"{s.url}/v2/models/{service}/infer", json=REQUEST)
                    asked.raise_for_status()
            httpx.get(f"{s.api}/metrics").raise_for_status()
            time.sleep(LATER_S)
            assert recording is not None
            recording.send_signal(signal.SIGINT)
            recording.wait(timeout=30)
            zygotes = {pid: Memory(pid) for pid in _zygotes(s)}
            parents = {child: z for z in zygotes for child in _children(z)}
            for pid, address in _events(folder / "perf.data"):
                zygote = parents.get(pid)
                written = zygotes[zygote].interned(address) if zygote is not None else None
                if written is not None:
                    found.add(written)
    return found


def _record(s: System, folder: Path) -> subprocess.Popen[bytes]:
    pids = ",".join(map(str, _zygotes(s)))
    process = subprocess.Popen(
        ["perf", "record", "-e", "page-faults", "-c", "1", "-d", "--inherit", "-p", pids, "-o",
         str(folder / "perf.data")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(2)  # it does not say when it has begun
    return process


def _events(file: Path) -> list[tuple[int, int]]:
    done = subprocess.run(
        ["perf", "script", "-i", str(file), "-F", "pid,tid,time,addr"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    matches = (_EVENT.match(line) for line in done.stdout.splitlines())
    return [(int(m[1]), int(m[2], 16)) for m in matches if m]


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(p) for p in text.split()]


def _zygotes(s: System) -> list[int]:
    return [
        p for p in _children(s.pid) if b"zygote_main" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.written_names")
    parser.add_argument("--write", action="store_true", help="add what is found to the list")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("perf tells of other processes' writes to root only.", file=sys.stderr)
        return 2
    new = measure() - set(NAMES)
    print(json.dumps(sorted(new)))
    if options.write:
        text = TARGET.read_text()
        before = text[: text.index("NAMES: Final = (\n")]
        words = " ".join(f'"{n}",' for n in sorted({*NAMES, *new}))
        lines = textwrap.fill(words, 106, break_long_words=False)
        TARGET.write_text(
            f"{before}NAMES: Final = (\n{textwrap.indent(lines, '    ')}\n)  # fmt: skip\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
