"""The parts of commands that need no server."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock._version import __version__
from penstock.cli import payloads, places
from penstock.cli.documents import parse, split_path
from penstock.cli.exits import REFUSED, USAGE, CliError
from penstock.cli.output import age, duration, seconds, size, table
from penstock.cli.predicting import detect, to_binary
from penstock.cli.running import parse_options
from penstock.cli.top import quantile, rows_of
from penstock.cli.waiting import condition_of


def test_help_imports_nothing_heavy() -> None:
    """`penstock --help` has to be instant: this is what would make it slow."""
    code = (
        "import sys; sys.argv = ['penstock', '--help']\n"
        "from penstock.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'pydantic', 'numpy', 'starlette', 'uvicorn', 'httpx', 'asyncio', 'yaml', 'ssl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "serve" in done.stdout


def test_looking_at_objects_imports_nothing_that_changes_them() -> None:
    code = (
        "import sys; from penstock.cli import getting\n"
        "heavy = {'yaml', 'concurrent.futures', 'asyncio', 'penstock.cli.applying'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- documents ----------------------------------------------------------------------------------------


def test_every_field_knows_its_line() -> None:
    text = "---\n# a comment\nkind: A\nspec:\n  list:\n  - x: 1\n  - y: 2\n---\nkind: B\n"
    a, b = parse(text, "f.yaml")
    assert a.where("spec.list[1].y") == "f.yaml:7"
    assert a.where("spec.list[1].missing") == "f.yaml:7"
    assert a.where("spec.other") == "f.yaml:4"
    assert a.where("") == "f.yaml:3"
    assert b.where("kind") == "f.yaml:9"


def test_field_paths() -> None:
    assert split_path('metadata.annotations["a.b/c"]') == ("metadata", "annotations", "a.b/c")
    assert split_path("a[0][1].b-c") == ("a", "0", "1", "b-c")
    assert split_path("") == ()


def test_dates_stay_text_and_recursion_is_refused() -> None:
    (m,) = parse("when: 2026-01-02\n", "f")
    assert m.document == {"when": "2026-01-02"}
    with pytest.raises(CliError):
        parse("a: &x\n  b: *x\n", "f")


# -- output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("kind: A\nmetadata:\n\tname: a\n", 3, "a tab; YAML is indented with spaces"),
        ("kind: A\nmetadata:\n  name: a\n spec: 1\n", 4, "the indentation does not fit"),
        ("kind: A\n  spec: 1\n", 2, "the indentation does not fit"),
    ],
)
def test_the_parsers_grammar_is_not_what_a_reader_is_told(text: str, line: int, said: str) -> None:
    with pytest.raises(CliError) as refused:
        parse(text, "f.yaml")
    assert refused.value.message.startswith(f"f.yaml:{line}: {said}")


def test_ages_sizes_and_durations() -> None:
    assert [duration(s) for s in (0, 59, 119, 120, 7200, 100_000)] == [
        "0s",
        "59s",
        "119s",
        "2m",
        "2h",
        "1d",
    ]
    assert age("2026-01-01T00:00:00Z", now=1767225600 + 180) == "3m"
    assert age(None) == "-"
    assert age("nonsense") == "?"
    assert [size(n) for n in (0, 999, 5_000, 7_400_000, None)] == [
        "0 B",
        "999 B",
        "5.0 kB",
        "7.4 MB",
        "-",
    ]
    assert [seconds(t) for t in ("5", "1.5s", "2m", "1m30s", "250ms")] == [5, 1.5, 120, 90, 0.25]
    for wrong in ("", "m", "5 s", "5x", "-1s"):
        with pytest.raises(ValueError, match="duration"):
            seconds(wrong)


def test_a_table_is_aligned_and_holds_no_control_characters() -> None:
    text = table(("A", "LONG"), [("x", "1"), ("yyyy\x1b[31m", "2")])
    assert text.splitlines()[0] == "A           LONG"
    assert "\x1b" not in text


# -- places -------------------------------------------------------------------------------------------


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PENSTOCK_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert places.data_dir(None) == tmp_path / ".local/share/penstock"
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    assert places.data_dir(None) == Path("/x/penstock")
    monkeypatch.setenv("PENSTOCK_DATA_DIR", "/y")
    assert places.data_dir(None) == Path("/y")
    assert places.data_dir(Path("/z")) == Path("/z")


# -- wait ---------------------------------------------------------------------------------------------


def test_a_condition_of_an_older_manifest_says_nothing() -> None:
    conditions = [{"type": "Ready", "status": "True"}]
    obj = {
        "metadata": {"name": "iris", "generation": 2},
        "status": {"observedGeneration": 1, "conditions": conditions},
    }
    assert condition_of(obj, "Ready")["status"] == "Unknown"
    obj["status"]["observedGeneration"] = 2  # type: ignore[index]
    assert condition_of(obj, "ready")["status"] == "True"
    assert condition_of(obj, "Stopped")["status"] == "Unknown"
    assert condition_of({"metadata": {"name": "iris"}}, "Ready")["status"] == "Unknown"


# -- predict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "protocol"),
    [
        ({"instances": [[1]]}, "v1"),
        ({"inputs": {"a": [1]}}, "v1"),
        ({"inputs": [[1, 2]]}, "v1"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}, "v2"),
    ],
)
def test_the_protocol_shows_in_the_payload(document: dict[str, Any], protocol: str) -> None:
    assert detect(document) == protocol


def test_a_payload_of_neither_protocol_is_said() -> None:
    with pytest.raises(CliError, match="neither"):
        detect({"rows": []})


def test_a_binary_request_is_what_the_server_reads() -> None:
    from penstock.protocols.v2 import decode_infer

    document = {
        "id": "7",
        "inputs": [
            {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4.5]]},
            {"name": "s", "shape": [2], "datatype": "BYTES", "data": ["a", "büro"]},
        ],
    }
    body, length = to_binary(document)
    request = decode_infer(memoryview(body), length)
    assert request.inputs["x"].tolist() == [[1, 2], [3, 4.5]]
    assert [bytes(v) for v in request.inputs["s"]] == [b"a", "büro".encode()]
    with pytest.raises(CliError, match="datatype"):
        to_binary({"inputs": [{"name": "x", "shape": [1], "data": [1]}]})
    with pytest.raises(CliError):
        to_binary({"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1]}]})


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_run_says_in_one_line_that_its_port_is_taken(tmp_path: Path, option: str) -> None:
    model = tmp_path / "double.py"
    model.write_text("class Double:\n    def predict(self, payload):\n        return payload\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = ["--port", "0", option, port] if option == "--grpc-port" else [option, port]
        done = subprocess.run(
            [sys.executable, "-m", "penstock.cli", "run", str(model), *ports],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert done.stderr == (
        f"error: 127.0.0.1:{port} cannot be listened on: Address already in use. "
        f"Choose another address with --host or {option}.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "m.py", "--port", "99999"],
        ["serve", "--http-port", "99999"],
        ["serve", "--api-port", "-1"],
        ["serve", "--model-dir", "/no/such/folder"],
        ["serve", "--pvc-root", "/no/such/folder"],
        ["serve", "--warm", "sklearn,scikit"],
    ],
)
def test_ports_and_folders_that_cannot_be_are_wrong_usage(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == USAGE
    assert arguments[1 if arguments[0] == "serve" else 2] in done.stderr


def test_frameworks_to_have_ready_are_ones_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt one is refused with its like, one that is not there with what to install."""
    from penstock import runtimes
    from penstock.cli.serving import _warm

    assert _warm(["sklearn, onnx", "onnx", ""]) == ("sklearn", "onnx")
    assert _warm([""]) == ()
    with pytest.raises(CliError, match=r"--warm pytorch: .* Did you mean 'torch'") as wrong:
        _warm(["sklearn", "pytorch"])
    assert wrong.value.code == USAGE
    monkeypatch.setattr(runtimes, "installed", lambda framework: False)
    with pytest.raises(CliError, match=r"--warm onnx: .*pip install 'penstock\[onnx\]'"):
        _warm(["onnx"])
    assert _warm(["sklearn"]) == ("sklearn",)  # nobody said it


def test_the_version_is_an_option_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"penstock {__version__}\n"


def test_options_of_run() -> None:
    assert parse_options(["method=predict_proba", "scale=2.5", 'kw={"a":1}', "x=a=b"]) == {
        "method": "predict_proba",
        "scale": 2.5,
        "kw": {"a": 1},
        "x": "a=b",
    }
    with pytest.raises(CliError):
        parse_options(["nothing"])


# -- top ----------------------------------------------------------------------------------------------


def reading(requests: float, errors: float, counts: list[int]) -> dict[str, Any]:
    labels = ["namespace", "service", "revision", "protocol"]
    key = ["default", "iris", "iris-00001", "v2"]
    return {
        "penstock_gateway_requests": {
            "labels": [*labels, "status"],
            "samples": [[[*key, "200"], requests - errors], [[*key, "503"], errors]],
        },
        "penstock_gateway_request_seconds": {
            "labels": labels,
            "bounds": [0.001, 0.01, 0.1],
            "samples": [[key, [counts, 1.0]]],
        },
        "penstock_batch_rows": {
            "labels": ["namespace", "service", "revision", "model"],
            "samples": [[["default", "iris", "iris-00001", "iris"], [[requests / 4], requests]]],
        },
        "penstock_replica_memory_bytes": {
            "labels": ["namespace", "service", "revision", "replica"],
            "samples": [[["default", "iris", "iris-00001", "r"], 6_000_000]],
        },
        "penstock_replicas": {
            "labels": ["namespace", "service", "phase"],
            "samples": [[["default", "iris", "Ready"], 1], [["default", "iris", "Starting"], 1]],
        },
    }


def test_rates_and_quantiles_come_from_two_readings() -> None:
    before = reading(1000, 0, [500, 500, 0, 0])
    after = reading(1200, 2, [700, 500, 0, 0])
    (row,) = rows_of(before, after, 2.0, "default")
    assert row == (
        "iris", "iris-00001", "1/2", "100.0", "0.50 ms", "0.99 ms", "1.0%", "0", "4.0", "6.0 MB",
    )  # fmt: skip
    assert rows_of(before, after, 2.0, "other") == []
    assert rows_of(before, after, 2.0, None)[0][0] == "default/iris"
    # A process that started anew counts from zero; no rate is below zero.
    assert rows_of(after, reading(3, 0, [3, 0, 0, 0]), 1.0, None)[0][3] == "0.0"
    assert rows_of({}, {}, 1.0, None) == []


def test_one_that_was_not_asked_yet_has_no_quantiles() -> None:
    running = reading(0, 0, [])
    for of_requests in ("penstock_gateway_requests", "penstock_gateway_request_seconds"):
        assert running.pop(of_requests)
    asked = reading(10, 0, [10, 0, 0, 0])
    (row,) = rows_of(running, asked, 1.0, None)
    assert row[3:6] == ("10.0", "0.50 ms", "0.99 ms")
    for before in (running, asked):
        (row,) = rows_of(before, running, 1.0, None)
        assert row[3:6] == ("0.0", "-", "-")


def test_quantiles_of_a_histogram() -> None:
    assert quantile([1, 2], [0, 0, 0], 0.5) is None
    assert quantile([1, 2], [10, 0, 0], 0.5) == 0.5
    assert quantile([1, 2], [0, 10, 0], 0.5) == 1.5
    assert quantile([1, 2], [0, 0, 5], 0.99) == 2.0


@pytest.mark.parametrize(
    ("payload", "file", "said"),
    [
        (b"", "-", "Standard input has no payload; -f FILE names one."),
        (b"{", "-", "Standard input is no JSON: "),
        (b"", "flower.json", "flower.json is no JSON: "),
    ],
)
def test_a_payload_that_is_none_is_told_by_where_it_came_from(
    payload: bytes, file: str, said: str
) -> None:
    with pytest.raises(CliError) as caught:
        payloads.parse(payload, file)
    assert str(caught.value).startswith(said)
