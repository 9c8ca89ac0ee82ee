"""A plain command line means to the quick reader what it means to typer; others are left to typer."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from cli_harness import Penstock

from penstock.cli import plain
from penstock.cli.app import app
from penstock.cli.client import Client

PLAIN = [
    "apply -f a.yaml",
    "apply -f a.yaml --filename b.yaml -n team --wait --timeout 3s --dry-run",
    "apply --filename=a.yaml --timeout=5s --server=http://x --token-file /t",
    "apply -f -",
    "get isvc",
    "get isvc iris digits -o json -w -l a=b --selector c -A",
    "get -n team isvc -- -odd",
    "describe isvc/iris",
    "delete isvc iris",
    "delete isvc iris --no-wait --ignore-not-found",
    "delete isvc iris --no-wait --wait",
    "delete -f a.yaml --all",
    "events",
    "events isvc/iris --output yaml",
    "predict iris -f - --v1 --model m -v",
    "query a b -o json",
    "wait iris --for condition=Ready --timeout 1m",
    "top --once --interval 1s",
    "kubeconfig --merge -o file",
    "version --server http://x",
]
LEFT = [
    "", "--version", "--help", "-h", "apply --help", "apply -h", "apply", "apply -f", "apply --bogus",
    "nothing", "get isvc -ojson", "get isvc -wA", "get", "describe", "logs iris --tail 5",
    "apply --wait=yes -f a", "rollout status iris", "events a b", "serve --http-port 0", "run model",
]  # fmt: skip


class Seen(Exception):
    """Carries what a command was called with."""


def typers(argv: list[str]) -> dict[str, Any]:
    """What typer calls the command with."""
    command = next(c for c in app.registered_commands if plain._name(c) == argv[0])
    assert command.callback is not None

    @functools.wraps(command.callback)
    def record(**values: Any) -> None:
        raise Seen(values)

    other = typer.Typer()
    other.callback()(lambda: None)
    other.command(argv[0])(record)
    with pytest.raises(Seen) as seen:
        other(argv, standalone_mode=False)
    values: dict[str, Any] = seen.value.args[0]
    return values


@pytest.mark.parametrize("line", PLAIN)
def test_it_reads_what_typer_reads(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = line.split()
    seen: list[dict[str, Any]] = []
    command = next(c for c in app.registered_commands if plain._name(c) == argv[0])
    body = command.callback
    assert body is not None
    monkeypatch.setattr(command, "callback", functools.wraps(body)(lambda **v: seen.append(v)))
    call = plain.call_of(app, argv)
    monkeypatch.undo()
    assert call is not None
    call()
    assert seen == [typers(argv)]


@pytest.mark.parametrize("line", LEFT)
def test_what_is_not_plain_is_left_to_typer(line: str) -> None:
    assert plain.call_of(app, line.split()) is None


def test_an_option_with_a_bound_is_left_to_typer() -> None:
    bounded = typer.Typer()

    @bounded.command()
    def up(to: Annotated[int, typer.Option(min=0)] = 1) -> None: ...

    assert plain.call_of(bounded, ["up", "--to", "-1"]) is None


def test_completion_is_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PENSTOCK_COMPLETE", "complete_bash")
    assert plain.call_of(app, ["events"]) is None


def run(*argv: str, code: str = "") -> subprocess.CompletedProcess[str]:
    program = ["-c", code, *argv] if code else ["-m", "penstock.cli", *argv]
    return subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_value_that_the_command_refuses_is_said_with_its_usage() -> None:
    done = run("apply", "-f", "x", "--timeout", "soon")
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert "no duration" in done.stderr


def test_a_plain_command_imports_no_library_for_values(tmp_path: Path) -> None:
    manifest = tmp_path / "a.yaml"
    manifest.write_text("a: 1\n")
    code = (
        "import sys\nfrom penstock.cli import main\n"
        "try:\n  main()\nexcept SystemExit as e:\n  print(e.code, 'pydantic' in sys.modules)"
    )
    away = ("--server", "http://127.0.0.1:1")
    for argv in (("apply", "-f", str(manifest)), ("delete", "isvc", "iris"), ("get", "isvc")):
        assert run(*argv, *away, code=code).stdout == "6 False\n"
    assert run("rollout", "status", "iris", *away, code=code).stdout == "6 True\n"


def test_a_pipe_that_nobody_reads_ends_it_quietly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")


CLOSED = """
import os
from penstock.cli import plain
here, there = os.pipe()
os.close(here)
os.dup2(there, 1)
plain.run(lambda: print("x"))
"""


def test_calls_of_one_thread_share_a_connection(penstock: Penstock) -> None:
    client = Client(penstock.server.url)
    client.get("/version")
    kept = client._kept.connection.sock
    client.get("/version")
    assert client._kept.connection.sock is kept


def test_a_connection_that_the_server_ended_is_not_used_again(penstock: Penstock) -> None:
    client = Client(penstock.server.url)
    client.get("/version")
    first = client._kept.connection
    # As if the server had hung up: what is left to read is the end.
    first.sock.shutdown(2)
    client.get("/version")
    assert client._kept.connection is not first


def test_many_are_applied_and_deleted_with_few_lines_about_it(
    penstock: Penstock, tmp_path: Path
) -> None:
    names = [f"s{i}" for i in range(60)]
    secret = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {}\n"
    file = tmp_path / "many.yaml"
    file.write_text("---\n".join(map(secret.format, names)))
    applied = penstock("apply", "-f", str(file))
    assert applied.out.split() == [w for n in names for w in (f"secret/{n}", "created")]
    assert applied.err.splitlines() == [f"applying {n} of 60" for n in range(6, 61, 6)]
    deleted = penstock("delete", "secrets", *names)
    assert deleted.out.split() == [w for n in names for w in (f"secret/{n}", "deleted")]
    # The first that is not there ends it, as ever.
    gone = penstock("delete", "secrets", *names)
    assert gone.code == 4
    assert "s0" in gone.err
