"""The peers' own packages, each in a virtual environment of its own, made at first use.

Beside the package, and of the standard library only, so that a script can install them while it installs
everything else: `python benchmarks/peers/environments.py seldon mlserver`.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / ".venvs"

#: A failed installation is told with so many of pip's last lines.
_LINES = 15
_TRIES = 3
_PAUSE_S = 5.0
#: pip says this of every package once for each index that is a folder without it.
_IDLE = re.compile(r"WARNING: Location '.*' is ignored")
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_NETWORK = re.compile(
    r"connection|timed? ?out|name resolution|max retries|incomplete ?read|protocolerror|ssl"
    r"|HTTP error 5\d\d|5\d\d Server Error",
    re.IGNORECASE,
)


class NotInstalled(RuntimeError):
    """A peer's packages could not be installed; the message says why."""


def environment(name: str) -> Path:
    """The bin folder of a peer's environment, made from its pinned requirements at first use.

    One process makes it and others wait. NotInstalled.
    """
    folder = FOLDER / name
    requirements = HERE / f"{name}.txt"
    wanted = requirements.read_text()
    stamp = folder / ".installed"
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"installing {name} into .venvs/{name}", file=sys.stderr, flush=True)
            _make(folder, requirements)
            stamp.write_text(wanted)
    return folder / "bin"


def _make(folder: Path, requirements: Path) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as e:
        said = getattr(e, "output", None) or b""
        raise NotInstalled(f"{folder.name}: {e}\n{said.decode(errors='replace')[-1000:]}") from e
    # Most modules are never imported: compiling them all would take as long as the rest.
    command = [folder / "bin" / "pip", "install", "-q", "--no-compile", "-r", requirements]
    for tried in range(1, _TRIES + 1):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode == 0:
            return
        said = [s for s in done.stdout.splitlines() if s.strip() and not _IDLE.match(s)]
        reason = "\n".join(said[-_LINES:])
        if _DISK.search(reason):
            free = shutil.disk_usage(folder).free / 1e9
            shutil.rmtree(folder, ignore_errors=True)
            raise NotInstalled(
                f"{folder.name}: no space left on device, {free:.1f} GB free:\n{reason}"
            )
        if tried == _TRIES or not _NETWORK.search(reason):
            raise NotInstalled(
                f"{folder.name}: pip failed with {done.returncode}, try {tried}:\n{reason}"
            )
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    try:
        for peer in sys.argv[1:]:
            environment(peer)
    except NotInstalled as e:
        sys.exit(str(e))
