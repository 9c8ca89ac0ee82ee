"""What an operator can set about fetching, with units and reasons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds and places for `fetch`. The defaults suit a laptop."""

    deadline_s: float = 3600.0
    """Over everything: listing, waiting for another process's download, retries, unpacking."""

    idle_s: float = 60.0
    """A read that brings no byte for this long is broken off and tried again from where it stood."""

    connect_s: float = 10.0
    """Most time to connect to a server."""

    attempts: int = 5
    """Tries in a row that bring nothing before a transient error becomes final. Progress starts anew."""

    backoff_s: float = 0.25
    """First wait between tries; doubled each time up to `backoff_max_s`, with jitter."""

    backoff_max_s: float = 15.0

    concurrency: int = 4
    """Files downloaded at once for one URI."""

    max_files: int = 100_000
    """Most files in one model, listed or unpacked: a bucket's root given by mistake ends here."""

    max_unpack_ratio: float = 200.0
    """Most times an archive may grow when unpacked; counts only above `unpack_floor_bytes`."""

    unpack_floor_bytes: int = 256 * MIB
    """Small archives of zeros are harmless, so the ratio is not looked at below this."""

    pvc_root: Path | None = None
    """`pvc://CLAIM/PATH` is `pvc_root/CLAIM/PATH`. None: this installation has no claims."""

    bentoml_home: Path | None = None
    """BentoML's folder, for `bentoml:NAME:VERSION`. None: BENTOML_HOME, or `~/bentoml`."""

    file_roots: tuple[Path, ...] | None = None
    """Folders that `file` URIs may name things in, symbolic links followed. None: anywhere. A platform
    with several teams sets it, or a manifest could name any file this process can read."""

    ca_file: Path | None = None
    """PEM certificates trusted beside the system's, e.g. of an internal object store."""

    allow_private_metadata: bool = False
    """Allow servers on link-local addresses (169.254.0.0/16, fe80::/10). Off, because a cloud's metadata
    service lives there and hands out the node's own credentials."""
