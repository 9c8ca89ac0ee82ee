"""Model repositories of other servers: a folder in, the models that a process is told to serve out.

Pure functions over files that are here already; what runs the models is said as a framework's name. The
control plane reads a repository when its files were fetched (`control.models.model_files`), `penstock run`
when it starts. A reader refuses what it cannot honour with file and field, and says what has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from penstock.repositories import bentoml, mlserver, triton
from penstock.repositories.base import Found

__all__ = ["KINDS", "Found", "detect", "read"]

#: Kind of repository, which is also the model format that means it -> (is it one?, its reader).
KINDS: Final[Mapping[str, tuple[Callable[[Path], bool], Callable[..., Found]]]] = {
    "triton": (triton.is_repository, triton.read),
    "mlserver": (mlserver.is_repository, mlserver.read),
    "bentoml": (bentoml.is_repository, bentoml.read),
}


def detect(path: Path) -> str | None:
    """The kind of repository at `path`, None when it is none."""
    for kind, (is_one, _) in KINDS.items():
        if is_one(path):
            return kind
    return None


def read(kind: str, path: Path, *, name: str = "") -> Found:
    """The models of a repository; `name` is for one that names none itself. LoadError."""
    return KINDS[kind][1](path, name=name)
