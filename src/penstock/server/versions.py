"""Which versions of a model's folder are served, in which order, and by which labels."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from penstock.domain.process import ServedModel
from penstock.domain.service import VersionPolicy
from penstock.errors import LoadError, NotFound

#: What a label begins with where a version's number may stand.
LABEL: Final = "@"


def choose(path: Path, policy: VersionPolicy, only: str = "1") -> dict[str, Path]:
    """The versions at `path` that `policy` asks for, oldest first.

    Numbered sub-folders are versions. A file, or a folder without them, is version `only` of itself. Raises
    LoadError when there is nothing, or not what the policy names.
    """
    if not path.exists():
        raise LoadError(f"There is no model at {path}.")
    found: dict[str, Path] = {}
    if path.is_dir():
        children = list(path.iterdir())
        if not children:
            raise LoadError(f"The folder {path} is empty.")
        found = {
            p.name: p for p in children if p.name.isascii() and p.name.isdigit() and p.is_dir()
        }
    if not found:
        found = {only: path}
    ordered = dict(sorted(found.items(), key=lambda i: age(i[0])))
    if policy.specific:
        missing = [v for v in policy.specific if v not in ordered]
        if missing:
            raise LoadError(
                f"The model's folder has no version {', '.join(missing)}.",
                hint=f"It has {', '.join(ordered)}.",
            )
        chosen = {v: p for v, p in ordered.items() if v in policy.specific}
    elif policy.all or policy.latest is None:
        chosen = ordered
    else:
        chosen = dict(list(ordered.items())[-max(1, policy.latest) :])
    for label, version in policy.labels:
        if version not in chosen:
            raise LoadError(
                f"The label {label} is for version {version}, which is not served.",
                hint=f"Served is {', '.join(chosen)}.",
            )
    return chosen


def labelled(model: ServedModel, label: str) -> str:
    """The version of `model` that has a label. Raises NotFound."""
    labels = dict(model.versions.labels)
    if label not in labels:
        raise NotFound(
            f"Model {model.name} has no version with the label {label}.",
            hint=f"Its labels are {', '.join(labels)}." if labels else "It has no labels.",
        )
    return labels[label]


def age(version: str) -> tuple[int, str]:
    """What versions are sorted by, oldest first."""
    return (int(version), version) if version.isdigit() else (-1, version)
