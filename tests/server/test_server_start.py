"""How a model process starts: what `run` serves, its share of threads, its status lines, the dry run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.domain.process import ProcessSpec
from penstock.errors import InvalidInput, LoadError, NotFound
from penstock.server.run import served_model
from penstock.server.status import Status
from penstock.server.threads import share

CLASS = """
from penstock import Model
class Mine(Model):
    def predict(self, payload):
        return [1]
"""


def test_files_name_their_framework_and_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "my iris"
    folder.mkdir()
    (folder / "model.joblib").write_bytes(b"x")
    by_folder = served_model(str(folder))
    assert (by_folder.framework, by_folder.name) == ("sklearn", "my-iris")
    by_file = served_model(str(folder / "model.joblib"))
    assert (by_file.framework, by_file.name) == ("sklearn", "my-iris")
    assert os.path.isabs(by_file.path)
    assert served_model(str(folder), name="other").name == "other"
    assert served_model(str(folder), framework="mlflow").framework == "mlflow"


def test_a_class_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(CLASS)
    model = served_model(f"{file}:Mine", options={"depth": 3})
    assert (model.framework, model.name) == ("custom", "mine")
    assert model.options == {"depth": 3, "class": "Mine"}
    assert model.path == str(file)
    assert served_model(str(file)).options == {}
    with pytest.raises(InvalidInput, match="onnx"):
        served_model(f"{file}:Mine", framework="onnx")


def test_what_cannot_be_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no model at"):
        served_model(str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LoadError):
        served_model(str(tmp_path))
    with pytest.raises(NotFound, match="abacus"):
        served_model(str(tmp_path), framework="abacus")


def test_run_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """`run` in a process of its own: ready, one prediction, SIGTERM from itself, exit code 0."""
    (tmp_path / "mine.py").write_text(CLASS)
    script = f"""
import http.client, os, signal, sys, threading
from penstock.server.run import run
where = []
def ask():
    c = http.client.HTTPConnection(where[0].host, where[0].port, timeout=20)
    c.request("POST", "/v1/models/mine:predict", '{{"instances":[1]}}')
    print(c.getresponse().read().decode(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(run({str(tmp_path / "mine.py:Mine")!r}, port=0, on_listening=where.append,
             on_ready=lambda: threading.Thread(target=ask).start()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"predictions": [1]}


def test_the_share_of_threads() -> None:
    def spec(**fields: float) -> ProcessSpec:
        return ProcessSpec(listen="", models=(), **fields)  # type: ignore[arg-type]

    cores = len(os.sched_getaffinity(0))
    assert share(spec(threads=3)) == 3
    assert share(spec()) == cores
    assert share(spec(cpu_limit=0.5)) == 1
    assert share(spec(cpu_limit=1000.0)) == cores


def test_status_lines_are_json_and_a_reader_that_sleeps_or_is_gone_holds_nothing_up() -> None:
    reader, writer = os.pipe()
    status = Status(writer)
    status.say("ready", models=["m"])
    status.beat()
    lines = os.read(reader, 65536).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["ready", "beat"]
    for _ in range(10_000):
        status.beat()  # fills the pipe
    os.read(reader, 1 << 20)
    status.say("hung")  # and is heard again once somebody reads
    assert b"hung" in os.read(reader, 1 << 20)
    os.close(reader)
    status.beat()
    status.beat()
    os.close(writer)
    Status(None).say("ready")


def test_a_dry_run_leaves_no_thread_and_the_process_forks_and_serves_after_it() -> None:
    script = """
import os, socket, threading
from penstock.server.warming import warm
fds = lambda: {os.readlink(f"/proc/self/fd/{f}") for f in os.listdir("/proc/self/fd")
               if os.path.lexists(f"/proc/self/fd/{f}")}
warm()
before = fds()
warm()
assert {f for f in fds() - before if f.startswith("socket")} == set(), fds() - before
assert threading.active_count() == 1
print(len(os.listdir("/proc/self/task")), flush=True)
pid = os.fork()
if pid == 0:
    warm()  # serves again: the engine, the batcher and the loop work in a child
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0"]


def test_private_memory_is_measured_and_freed_memory_given_back() -> None:
    """In a process of its own: what other tests left free in the allocator would be used first."""
    code = """
from penstock.server.memory import private_bytes, release_free_memory
before = private_bytes()
assert before > 1_000_000
held = [bytes(2000) for _ in range(30_000)]
pin = [bytes(2000)]  # at the heap's end, so that what is freed below stays with the allocator
del held
kept = private_bytes() - before
release_free_memory()
assert kept > 30_000_000, kept
after = private_bytes() - before
assert after < 20_000_000, after
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_private_memory_is_asked_of_the_kernel_only_when_it_may_be_another() -> None:
    """In a process of its own: what else a test process frees would be seen too."""
    code = """
import mmap
from penstock.server import memory
asked = []
really = memory.private_bytes
def ask():
    asked.append(really())
    return asked[-1]
memory.private_bytes = ask
held = memory.PrivateMemory()
first = held.read()
assert first == asked[0] > 0
for _ in range(10):
    held.read()
assert len(asked) < 4, asked  # the program's own allocations may be seen
with mmap.mmap(-1, 8_000_000) as kept:  # a bytes object might lie in pages that are here already
    kept.write(b"x" * len(kept))
    assert held.read() >= first + len(kept) * 0.9, asked
assert held.read() < first + 4_000_000, asked
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
