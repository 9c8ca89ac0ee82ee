"""The model process as a process: its status lines, exit codes, signals, and what clients see of its end."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import tritonclient.http as triton
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from penstock.domain.process import ProcessSpec, ServedModel, encode

MODEL = '''
"""A model whose input says what to do."""
import os, time
import numpy as np
from penstock import Model


class Does(Model):
    batchable = True
    inputs = [("x", "FP64", (-1, 1))]
    outputs = [("y", "FP64", (-1, 1))]

    def example(self):
        return {"x": np.ones((1, 1))}

    def predict(self, x: np.ndarray) -> np.ndarray:
        what = x.max()
        if what == -1:
            raise ValueError("it was minus one")
        if what == -2:  # hangs, though it was quick so far
            while True:
                pass
        if what == -3:
            os._exit(7)
        if what == -4:
            os.kill(os.getpid(), 9)
        if what == -5:
            print("slow begins", flush=True)
            time.sleep(1)
        return x * 2
'''


class Process:
    """A started model process and what it says."""

    def __init__(self, folder: Path, spec: ProcessSpec) -> None:
        self.spec = spec
        self.path = spec.listen.removeprefix("unix:")
        file = folder / "spec.json"
        file.write_bytes(encode(spec))
        reader, writer = os.pipe()
        self._reader = reader
        self._lines = b""
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [
                    sys.executable, "-m", "penstock.server",
                    "--spec", str(file), "--status-fd", str(writer),
                ],
                pass_fds=[writer],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        os.close(writer)

    def event(self, *wanted: str, timeout_s: float = 60) -> dict[str, Any]:
        """The next status line with one of the events `wanted`; {} at the end of the lines."""
        deadline = time.monotonic() + timeout_s
        while True:
            line, newline, rest = self._lines.partition(b"\n")
            if newline:
                self._lines = rest
                event: dict[str, Any] = json.loads(line)
                if event["event"] in wanted:
                    return event
                continue
            ready, _, _ = select.select([self._reader], [], [], deadline - time.monotonic())
            assert ready, f"no {wanted} within {timeout_s} s; {self.log.read_text()}"
            data = os.read(self._reader, 65536)
            if not data:
                return {}
            self._lines += data

    def until_logged(self, text: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, f"{text!r} was never logged"
            time.sleep(0.005)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("m", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(self.path)
        return connection

    def ask(self, value: float, *, rows: int = 1) -> tuple[int, Any]:
        """Status and body of a V1 prediction, over a connection of its own."""
        connection = self.connect()
        try:
            body = json.dumps({"instances": [[value]] * rows})
            connection.request("POST", "/v1/models/m:predict", body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def wait(self, timeout_s: float = 60) -> int:
        return self.popen.wait(timeout_s)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        os.close(self._reader)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.close()


def start(processes: list[Process], folder: Path, source: str = MODEL, **fields: Any) -> Process:
    (folder / "model.py").write_text(source)
    models = (ServedModel(name="m", framework="custom", path=str(folder / "model.py")),)
    process = Process(
        folder,
        ProcessSpec(
            **{"listen": f"unix:{folder}/s.sock", "models": models, "threads": 1, **fields}
        ),
    )
    processes.append(process)
    return process


def test_a_life_from_listening_to_drained(processes: list[Process], tmp_path: Path) -> None:
    process = start(processes, tmp_path)
    assert process.event("listening", "ready")["event"] == "listening"
    ready = process.event("ready", "failed")
    assert ready["probe"] == "answered"
    assert ready["models"] == ["m"]
    assert ready["load_s"] > 0
    assert os.stat(process.path).st_mode & 0o777 == 0o600
    assert process.ask(4) == (200, {"predictions": [[8.0]]})
    assert process.event("beat")["event"] == "beat"
    assert process.event("beat", "rest"), "it goes on, or says that nobody asks it anything"
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not os.path.exists(process.path)


def test_the_socket_of_a_dead_process_is_taken_over(
    processes: list[Process], tmp_path: Path
) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s.sock"))
    stale.close()
    process = start(processes, tmp_path)
    assert process.event("ready", "failed")["event"] == "ready"
    assert process.ask(1)[0] == 200


def test_a_drain_answers_what_was_taken(processes: list[Process], tmp_path: Path) -> None:
    process = start(processes, tmp_path)
    process.event("ready")
    answers: list[tuple[int, Any]] = []
    slow = threading.Thread(target=lambda: answers.append(process.ask(-5)))
    slow.start()
    process.until_logged("slow begins")
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    slow.join(60)
    assert answers == [(200, {"predictions": [[-10.0]]})]


def test_a_drain_under_load_loses_no_request(processes: list[Process], tmp_path: Path) -> None:
    """A request that was sent is answered, or its connection was closed before a byte of an answer."""
    process = start(processes, tmp_path)
    process.event("ready")
    answered = refused = 0
    broken: list[str] = []
    begun = threading.Barrier(5)

    def load() -> None:
        nonlocal answered, refused
        connection = process.connect()
        for i in range(100_000):
            if i == 20:
                begun.wait(60)
            try:
                connection.request("POST", "/v1/models/m:predict", '{"instances":[[1]]}')
                response = connection.getresponse()
                body = response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                refused += 1
                return
            except http.client.HTTPException as e:
                broken.append(repr(e))
                return
            if response.status != 200 or json.loads(body) != {"predictions": [[2.0]]}:
                broken.append(f"{response.status} {body!r}")
            answered += 1
            if response.getheader("connection") == "close":
                return

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(60)
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    for thread in threads:
        thread.join(60)
    assert broken == []
    assert answered >= 80
    assert refused == 0  # each heard `connection: close` with its last answer


def test_a_predict_that_raises_is_an_answer_and_a_traceback_in_the_log(
    processes: list[Process], tmp_path: Path
) -> None:
    process = start(processes, tmp_path)
    process.event("ready")
    status, body = process.ask(-1)
    assert status == 500
    assert "ValueError" in body["error"]
    assert "minus one" not in body["error"]
    assert "it was minus one" in process.log.read_text()
    assert process.ask(2)[0] == 200


def test_a_hang_in_the_loop_answers_504_and_ends_the_process(
    processes: list[Process], tmp_path: Path
) -> None:
    process = start(processes, tmp_path, timeout_s=1.0)
    process.event("ready")
    for _ in range(5):
        assert process.ask(1)[0] == 200  # quick: it runs in the loop
    status, body = process.ask(-2)
    assert status == 504
    assert "did not return from predict within 1 s" in body["error"]
    assert "within 1 s" in process.event("hung")["message"]
    assert process.wait() == 79


def test_a_hang_in_a_thread_answers_504_and_ends_the_process(
    processes: list[Process], tmp_path: Path
) -> None:
    slow = MODEL.replace("what = x.max()", "what = x.max(); time.sleep(0.02)")
    process = start(processes, tmp_path, slow, timeout_s=3.0)
    process.event("ready")
    assert process.ask(1)[0] == 200
    hanging: list[tuple[int, Any]] = []
    thread = threading.Thread(target=lambda: hanging.append(process.ask(-2)))
    thread.start()
    connection = process.connect()  # health is served meanwhile
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().status == 200
    connection.close()
    thread.join(60)
    ((status, body),) = hanging
    assert status == 504
    assert "3 s" in body["error"]
    assert "within 3 s" in process.event("hung")["message"]
    assert process.wait() == 79


@pytest.mark.parametrize(("value", "code"), [(-3, 7), (-4, -9)], ids=["exit", "signal"])
def test_a_predict_that_kills_the_process(
    processes: list[Process], tmp_path: Path, value: float, code: int
) -> None:
    process = start(processes, tmp_path)
    process.event("ready")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        process.ask(value)
    assert process.wait() == code
    again = start(processes, tmp_path)  # and the next one serves on the same address
    assert again.event("ready", "failed")["event"] == "ready"
    assert again.ask(3) == (200, {"predictions": [[6.0]]})


BROKEN_LOADS = [
    ("raises", MODEL + "\n    def load(self):\n        raise RuntimeError('no weights')", "no weights"),
    ("does not import", "import nothing_of_that_name", "nothing_of_that_name"),
    ("no class", "x = 1", ""),
    ("ends", MODEL + "\n    def load(self):\n        raise SystemExit(3)", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "said"), [c[1:] for c in BROKEN_LOADS], ids=[c[0] for c in BROKEN_LOADS]
)
def test_a_model_that_cannot_be_loaded_says_so_in_one_line_and_exits_78(
    processes: list[Process], tmp_path: Path, source: str, said: str
) -> None:
    process = start(processes, tmp_path, source)
    failed = process.event("ready", "failed")
    assert failed["event"] == "failed"
    assert failed["reason"] == "ModelLoadFailed"
    assert said in failed["message"]
    assert "\n" not in failed["message"]
    assert process.wait() == 78


def test_a_traceback_of_a_failed_load_is_in_the_log(
    processes: list[Process], tmp_path: Path
) -> None:
    process = start(processes, tmp_path, BROKEN_LOADS[0][1])
    process.event("failed")
    process.wait()
    log = process.log.read_text()
    assert "Traceback" in log
    assert "RuntimeError: no weights" in log


def test_a_model_that_does_not_answer_its_probe_exits_78(
    processes: list[Process], tmp_path: Path
) -> None:
    process = start(processes, tmp_path, MODEL.replace("np.ones((1, 1))", "-np.ones((1, 1))"))
    failed = process.event("ready", "failed")
    assert failed["reason"] == "ProbeFailed"
    assert "ValueError" in failed["message"]
    assert process.wait() == 78


@pytest.mark.parametrize(
    ("framework", "files", "said"),
    [
        ("sklearn", {}, "no model at"),
        ("sklearn", {"model.joblib": b"not a pickle"}, "model.joblib"),
        ("sklearn", {"readme.txt": b"hello"}, "readme.txt"),
        ("abacus", {"model.joblib": b"x"}, "no framework 'abacus'"),
    ],
    ids=["missing", "no pickle", "wrong format", "unknown framework"],
)
def test_files_that_are_no_model(
    processes: list[Process], tmp_path: Path, framework: str, files: dict[str, bytes], said: str
) -> None:
    folder = tmp_path / "files"
    for name, content in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    models = (ServedModel(name="m", framework=framework, path=str(folder)),)
    process = start(processes, tmp_path, models=models)
    failed = process.event("ready", "failed")
    assert failed["reason"] == "ModelLoadFailed"
    assert said in failed["message"]
    assert process.wait() == 78


def test_sigterm_while_loading_ends_at_once(processes: list[Process], tmp_path: Path) -> None:
    source = MODEL + "\n    def load(self):\n        time.sleep(60)"
    process = start(processes, tmp_path, source)
    process.event("listening")
    connection = process.connect()
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 503
    connection.close()
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_spec_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"listen": 7}')
    done = subprocess.run(
        [sys.executable, "-m", "penstock.server", "--spec", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "listen" in done.stderr


# -- Triton's own client


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scikit-learn model in a process of its own, on a port; its address."""
    folder = tmp_path_factory.mktemp("iris")
    x, y = load_iris(return_X_y=True)
    (folder / "model" / "3").mkdir(parents=True)
    joblib.dump(
        LogisticRegression(max_iter=1000).fit(x, y), folder / "model" / "3" / "model.joblib"
    )
    models = (ServedModel(name="iris", framework="sklearn", path=str(folder / "model")),)
    process = Process(folder, ProcessSpec(listen="tcp:127.0.0.1:0", models=models, threads=1))
    address = process.event("listening")["address"]
    assert process.event("ready", "failed")["event"] == "ready", process.log.read_text()
    yield address.removeprefix("tcp:")
    process.close()


@pytest.fixture
def client(iris: str) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(iris)
    yield client
    client.close()


def test_tritons_client_reads_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("iris")
    assert client.is_model_ready("iris", "3")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "penstock"
    metadata = client.get_model_metadata("iris")
    assert metadata["versions"] == ["3"]
    assert metadata["inputs"][0]["shape"] == [-1, 4]
    assert client.get_model_repository_index() == [
        {"name": "iris", "version": "3", "state": "READY", "reason": ""}
    ]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("version", ["", "3"])
def test_tritons_client_infers(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool, version: str
) -> None:
    x, y = load_iris(return_X_y=True)
    tensor = triton.InferInput("input-0", list(x.shape), "FP64")
    tensor.set_data_from_numpy(x, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("predict", binary_data=binary_out)
    result = client.infer("iris", [tensor], model_version=version, outputs=[wanted], request_id="r")
    assert (result.as_numpy("predict") == y).mean() > 0.9
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("r", "3")


def test_tritons_client_gets_our_errors(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("input-0", [1, 3], "FP64")
    tensor.set_data_from_numpy(np.zeros((1, 3)))
    with pytest.raises(triton.InferenceServerException, match="4"):
        client.infer("iris", [tensor])
    with pytest.raises(triton.InferenceServerException, match="does not exist"):
        client.infer("other", [tensor])


def test_tritons_client_reads_statistics_and_changes_the_repository(
    client: triton.InferenceServerClient,
) -> None:
    stats = client.get_inference_statistics("iris")["model_stats"][0]
    assert stats["name"] == "iris"
    assert stats["inference_stats"]["success"]["count"] >= 0
    client.unload_model("iris")
    assert not client.is_model_ready("iris")
    client.load_model("iris")
    assert client.is_model_ready("iris")
