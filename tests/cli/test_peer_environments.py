"""Installing what the benchmarks compare with: a failure says its reason and not hundreds of warnings."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest
from benchmarks.peers import environments
from benchmarks.peers.environments import NotInstalled, environment

WARNINGS = (
    "for n in $(seq 300); do echo \"WARNING: Location 'file:///simple/p$n/' is ignored: it is neither a file"
    ' nor a directory."; done\n'
)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands in for pip; it notes each call in `calls` beside it."""
    program = tmp_path / "pip"
    (tmp_path / "peer.txt").write_text("peer==1\n")

    def create(folder: Path, **_: object) -> None:
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "pip").symlink_to(program)

    monkeypatch.setattr(environments, "HERE", tmp_path)
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "made")
    monkeypatch.setattr(environments, "_PAUSE_S", 0.0)
    monkeypatch.setattr("venv.create", create)
    return program


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\necho call >> {program.parent}/calls\n{WARNINGS}{script}\n")
    program.chmod(0o755)


def calls(program: Path) -> int:
    return len((program.parent / "calls").read_text().splitlines())


def test_is_made_once(pip: Path) -> None:
    write(pip, "exit 0")
    assert environment("peer") == environment("peer") == pip.parent / "made" / "peer" / "bin"
    assert calls(pip) == 1


def test_is_made_again_for_other_requirements(pip: Path) -> None:
    write(pip, "exit 0")
    environment("peer")
    (pip.parent / "made" / "peer" / "bin" / "pip").unlink()
    (pip.parent / "peer.txt").write_text("peer==2\n")
    environment("peer")
    assert calls(pip) == 2


def test_side_by_side_one_makes_it_and_the_other_waits(pip: Path) -> None:
    write(pip, f"while [ ! -e {pip.parent}/go ]; do sleep 0.01; done")
    threads = [threading.Thread(target=environment, args=("peer",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while not (pip.parent / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    (pip.parent / "go").touch()
    for thread in threads:
        thread.join(30)
    assert calls(pip) == 1


def test_what_pip_cannot_find_is_said_at_once(pip: Path) -> None:
    write(pip, "echo 'ERROR: No matching distribution found for peer==1'; exit 1")
    with pytest.raises(NotInstalled) as e:
        environment("peer")
    assert "No matching distribution found for peer==1" in str(e.value)
    assert "is ignored" not in str(e.value)
    assert calls(pip) == 1


def test_a_network_that_fails_is_tried_again(pip: Path) -> None:
    write(
        pip,
        f"[ $(wc -l < {pip.parent}/calls) -ge 3 ] && exit 0\n"
        "echo 'ERROR: Could not install packages due to an OSError: Read timed out.'; exit 1",
    )
    environment("peer")
    assert calls(pip) == 3


def test_a_network_that_stays_away_is_given_up(pip: Path) -> None:
    write(pip, "echo 'ERROR: Temporary failure in name resolution'; exit 1")
    with pytest.raises(NotInstalled, match=r"try 3:\nERROR: Temporary failure in name resolution"):
        environment("peer")
    assert calls(pip) == 3


def test_a_full_disk_is_said_as_such_and_gets_its_space_back(pip: Path) -> None:
    write(pip, "echo 'ERROR: Connection: [Errno 28] No space left on device'; exit 1")
    with pytest.raises(NotInstalled, match=r"no space left on device, \d+\.\d GB free"):
        environment("peer")
    assert calls(pip) == 1
    assert not (pip.parent / "made" / "peer").exists()


def test_no_environment_at_all_says_its_peer(pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(folder: Path, **_: object) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip", b"OSError: [Errno 28]")

    monkeypatch.setattr("venv.create", create)
    with pytest.raises(NotInstalled, match=r"peer: .*\n.*Errno 28"):
        environment("peer")
