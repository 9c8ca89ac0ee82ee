"""Where the node keeps its files: one folder, and a short one for sockets if that one's name is long."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import InvalidInput

#: A Unix socket's path may have 107 bytes; the rest is room for names below the run folder.
MAX_SOCKET_PATH = 100
_REPLICA_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_LONGEST = "/r/" + "0" * 16 + ".sock"


@dataclass(frozen=True, slots=True)
class Layout:
    """The node's files. `run` is DATA_DIR/run unless socket paths there would be too long."""

    data_dir: Path
    run: Path
    #: Where replicas get their temporary folders; None: they use the machine's own.
    temporary: Path | None = None

    @property
    def lock(self) -> Path:
        return lock_path(self.data_dir)

    @property
    def node_socket(self) -> Path:
        return self.run / "node.sock"

    @property
    def routes_socket(self) -> Path:
        return self.run / "routes.sock"

    @property
    def routes_file(self) -> Path:
        return self.run / "routes.json"

    @property
    def regions(self) -> Path:
        """What clients have registered of shared memory; gateways and replicas share it."""
        return self.run / "regions"

    @property
    def feedback_key(self) -> Path:
        """What gateways sign request ids with."""
        return self.data_dir / "feedback.key"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    def gateway_socket(self, number: int) -> Path:
        return self.run / f"gateway-{number}.sock"

    def replica_socket(self, replica_id: str) -> Path:
        """Stable over restarts, and short whatever the id is."""
        return self.run / "r" / f"{_short(replica_id)}.sock"

    def replica_temporary(self, replica_id: str) -> Path | None:
        """As short, since programs make sockets among their temporary files."""
        return self.temporary / _short(replica_id) if self.temporary else None

    def replica_log(self, replica_id: str) -> Path:
        return self.logs / f"{replica_id}.log"

    def node_log(self, name: str) -> Path:
        """Log of a process of the node's own: control, gateway-0, zygote-sklearn."""
        return self.logs / "node" / f"{name}.log"

    def make(self) -> None:
        """Make the folders, private to this user, and remove the sockets an earlier node left behind."""
        for folder in (self.data_dir, self.run, self.run / "r", self.logs, self.logs / "node"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.run, self.run / "r"):
            os.chmod(folder, 0o700)
            for old in folder.glob("*.sock"):
                old.unlink(missing_ok=True)
        for old in self.regions.glob("*.json"):
            old.unlink(missing_ok=True)


def _short(replica_id: str) -> str:
    return hashlib.blake2s(replica_id.encode(), digest_size=8).hexdigest()


def lock_path(data_dir: Path) -> Path:
    return data_dir / "penstock.lock"


def check_replica_id(replica_id: str) -> str:
    """The id, if it is safe as a file name; InvalidInput."""
    if not _REPLICA_ID.match(replica_id):
        raise InvalidInput(
            f"{replica_id!r} is no replica id.",
            hint="Letters, digits, '.', '_' and '-', at most 200, beginning with a letter or digit.",
        )
    return replica_id


def choose_run_dir(data_dir: Path, earlier: Path | None = None) -> Path:
    """A folder for sockets: below `data_dir` if paths stay short enough, else a private one elsewhere.

    `earlier` is the folder a former node of this data folder used; it is taken again if it is still private
    to this user, so that `kill -9` leaves at most one behind.
    """
    inside = data_dir / "run"
    if len(os.fsencode(str(inside) + _LONGEST)) <= MAX_SOCKET_PATH:
        return inside
    if earlier is not None and is_private(earlier):
        return earlier
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base) and len(os.fsencode(base)) < 40:
        return Path(tempfile.mkdtemp(prefix="penstock-", dir=base))
    return Path(tempfile.mkdtemp(prefix="penstock-"))


def is_private(folder: Path) -> bool:
    """It is a folder that belongs to this user and that nobody else can enter."""
    try:
        s = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(s.st_mode) and s.st_uid == os.getuid() and not s.st_mode & 0o077
