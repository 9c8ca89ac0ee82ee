"""What a short command costs: one command's parser, one connection, few lines; and that nobody can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_harness import Penstock

from penstock.cli.app import app, only
from penstock.cli.client import Client


def _commands(group: Any, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{before}{name}"
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")


def run(*argv: str, code: str = "") -> subprocess.CompletedProcess[str]:
    program = ["-c", code, *argv] if code else ["-m", "penstock.cli", *argv]
    return subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "line",
    [
        *(_commands(typer.main.get_group(app))),
        "rollout",
        "rollout nothing",
        "graph",
        "apply --bogus",
        "apply",
    ],
)
def test_one_command_is_what_it_is_among_all(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its help, its mistakes, and its exit."""
    argv = line.split()
    said = []
    for form in (only(argv), app):
        with pytest.raises(SystemExit) as ended:
            form(argv if "bogus" in line else [*argv, "--help"], prog_name="penstock")
        said.append((ended.value.code, capsys.readouterr()))
    assert said[0] == said[1]


def test_no_more_parsers_are_built_than_are_needed() -> None:
    assert set(typer.main.get_group(only(["apply", "-f", "x"])).commands) == {"apply"}
    assert set(typer.main.get_group(only(["rollout", "status", "x"])).commands) == {"rollout"}
    every = set(typer.main.get_group(app).commands)
    assert {"apply", "delete-all"} - every == {"delete-all"}
    for argv in ([], ["--help"], ["-h"], ["--version"], ["appyl"], ["--install-completion"]):
        assert set(typer.main.get_group(only(argv)).commands) == every


def test_a_mistyped_command_is_told_the_nearest() -> None:
    done = run("appyl", "-f", "x")
    assert done.returncode == 2
    assert "apply" in done.stderr


def test_completion_knows_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nsys.argv[0] = 'penstock'\nfrom penstock.cli import main\nmain()"],
        env={
            **os.environ, "_PENSTOCK_COMPLETE": "complete_bash",
            "COMP_WORDS": "penstock ap", "COMP_CWORD": "1",
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "apply" in done.stdout


def test_a_value_that_the_command_refuses_is_said_with_its_usage() -> None:
    done = run("apply", "-f", "x", "--timeout", "soon")
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert "no duration" in done.stderr


def test_a_short_command_imports_no_library_for_values(tmp_path: Path) -> None:
    manifest = tmp_path / "a.yaml"
    manifest.write_text("a: 1\n")
    code = (
        "import sys\nfrom penstock.cli import main\n"
        "try:\n  main()\nexcept SystemExit as e:\n  print(e.code, 'pydantic' in sys.modules)"
    )
    away = ("--server", "http://127.0.0.1:1")
    for argv in (("apply", "-f", str(manifest)), ("delete", "isvc", "iris"), ("get", "isvc")):
        assert run(*argv, *away, code=code).stdout == "6 False\n"
    assert run("rollout", "status", "iris", *away, code=code).stdout == "6 False\n"


def test_a_pipe_that_nobody_reads_ends_it_quietly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")


CLOSED = """
import os, sys
from penstock.cli import main
here, there = os.pipe()
os.close(here)
os.dup2(there, 1)
sys.argv = ["penstock", "version", "--server", "http://127.0.0.1:1"]
main()
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
