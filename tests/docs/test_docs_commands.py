"""Every command in the README, the tutorials and how-tos is run, in order, as a reader would run it.

A page's ```console blocks hold commands behind `$ `; lines between them are what the reader should see,
and must be in the output. A block marked `file=NAME` is the file's content. The platform the pages talk
to is a real one, on ports that take the place of 8080, 8081 and 8090.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.ports import spare_port

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs" / "tutorials").glob("*.md"),
        *(ROOT / "docs" / "how-to").glob("*.md"),
    ]
)
_BLOCK = re.compile(r"^```(\S+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Commands that the fixture stands for: the package is installed, and the platform runs.
_STANDS = ("pip install", "penstock serve")


@dataclass(frozen=True)
class Step:
    """A file to write, or a command and what it should print."""

    file: str | None
    text: str
    expected: tuple[str, ...] = ()


def steps(page: Path) -> list[Step]:
    found: list[Step] = []
    for language, file, content in _BLOCK.findall(page.read_text()):
        if file:
            found.append(Step(file, content))
        elif language == "console":
            command: list[str] = []
            expected: list[str] = []
            heredoc = ""
            for line in content.splitlines():
                if heredoc:
                    command.append(line)
                    heredoc = "" if line == heredoc else heredoc
                elif line.startswith("$ "):
                    if command:
                        found.append(Step(None, "\n".join(command), tuple(expected)))
                    command, expected = [line[2:]], []
                    match = re.search(r"<<'?(\w+)'?", line)
                    heredoc = match.group(1) if match else ""
                elif line.strip():
                    expected.append(line)
            if command:
                found.append(Step(None, "\n".join(command), tuple(expected)))
    return found


@dataclass(frozen=True)
class Reader:
    """Someone at a shell beside a running platform."""

    folder: Path
    env: dict[str, str]
    ports: dict[str, str]

    def real(self, text: str) -> str:
        """The text with the ports that the platform listens on here."""
        for said, real in self.ports.items():
            text = re.sub(rf"\b{said}\b", real, text)
        return text

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", self.real(command)],
            cwd=self.folder, env=self.env, text=True, timeout=200, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that `make demo` trains."""
    folder = tmp_path_factory.mktemp("trained") / "models"
    subprocess.run([sys.executable, ROOT / "examples" / "train.py", "--to", folder], check=True)
    return folder


@pytest.fixture
def reader(tmp_path: Path, models: Path) -> Iterator[Reader]:
    """A reader of one page, in a new folder and beside a platform that nothing was applied to."""
    folder = tmp_path / "reader"
    shutil.copytree(models, folder / "models")
    http_port, grpc_port, api_port, run_port = (spare_port() for _ in range(4))
    api = f"http://127.0.0.1:{api_port}"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PENSTOCK_SERVER": api,
    }
    with open(folder / "serve.log", "wb") as log:
        process = subprocess.Popen(
            ["penstock", "serve", "--data-dir", folder / "data", "--http-port", str(http_port),
             "--grpc-port", str(grpc_port), "--api-port", str(api_port)],
            cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    if httpx.get(f"{api}/readyz", timeout=5).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                assert process.poll() is None, (folder / "serve.log").read_text()
                assert time.monotonic() < deadline, (folder / "serve.log").read_text()
                time.sleep(0.05)
            ports = {"8080": http_port, "8081": grpc_port, "8090": api_port, "9000": run_port}
            yield Reader(folder, env, {said: str(real) for said, real in ports.items()})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_command_of_the_page_works(page: Path, reader: Reader) -> None:
    """Commands end with status 0 and print what the page says they print."""
    background: list[subprocess.Popen[bytes]] = []
    try:
        for step in steps(page):
            if step.file:
                (reader.folder / step.file).parent.mkdir(parents=True, exist_ok=True)
                (reader.folder / step.file).write_text(reader.real(step.text))
            elif step.text.startswith(_STANDS):
                continue
            elif step.text.endswith(" &"):
                command = reader.real(step.text[:-2])
                background.append(
                    subprocess.Popen(
                        ["bash", "-c", f"exec {command}"], cwd=reader.folder, env=reader.env
                    )
                )
            else:
                done = reader.run(step.text)
                assert done.returncode == 0, f"$ {step.text}\n{done.stdout}"
                for line in step.expected:
                    assert line in done.stdout, f"$ {step.text}\n{done.stdout}"
    finally:
        for process in background:
            process.terminate()
            process.wait(30)


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of README.md and docs/ names a file that exists."""
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links {target}"


def test_every_page_is_found_from_the_first_one() -> None:
    """From README.md, by links, however many."""
    found = {ROOT / "README.md"}
    todo = list(found)
    while todo:
        page = todo.pop()
        for target in re.findall(r"\]\(([^)#]+?\.md)(?:#[^)]*)?\)", page.read_text()):
            linked = (page.parent / target).resolve()
            if "://" not in target and linked not in found:
                found.add(linked)
                todo.append(linked)
    lost = set((ROOT / "docs").rglob("*.md")) - found
    assert not lost, sorted(str(p.relative_to(ROOT)) for p in lost)
