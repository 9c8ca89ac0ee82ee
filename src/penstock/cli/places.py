"""Where things are: the data folder, and the server that commands talk to."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_SERVER = "http://127.0.0.1:8090"


def data_dir(given: Path | None) -> Path:
    """The option, else $PENSTOCK_DATA_DIR, else below $XDG_DATA_HOME or ~/.local/share."""
    if given is not None:
        return given
    env = os.environ.get("PENSTOCK_DATA_DIR")
    if env:
        return Path(env)
    base = os.environ.get("XDG_DATA_HOME")
    # A relative one is to be ignored, says the XDG specification.
    home = Path(base) if base and os.path.isabs(base) else Path.home() / ".local" / "share"
    return home / "penstock"


def server(given: str | None) -> str:
    """The control API's address, without a slash at its end."""
    return (given or os.environ.get("PENSTOCK_SERVER") or DEFAULT_SERVER).rstrip("/")


def token_file(given: Path | None) -> Path | None:
    """The option, else $PENSTOCK_TOKEN_FILE."""
    env = os.environ.get("PENSTOCK_TOKEN_FILE")
    return given if given is not None else Path(env) if env else None
