"""Which framework the files of a model are for, when nobody said.

Looked at, in this order: a marker file that only one framework writes (`MLmodel`, `saved_model.pb`, a
transformers `config.json`), then suffixes, then the first bytes where two frameworks share a suffix.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Final

from penstock.errors import LoadError
from penstock.runtimes.inputs import listed
from penstock.runtimes.loading import suffix_of

_SUFFIXES: Final = {
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".skops": "sklearn",
    ".onnx": "onnx",
    ".cbm": "catboost",
    ".ubj": "xgboost",
    ".pt": "torch",
    ".pt2": "torch",
    ".pth": "torch",
    ".ts": "torch",
}
_MARKS: Final = ("MLmodel", "saved_model.pb", "config.json")
#: Suffixes that say nothing by themselves.
_LOOK_INSIDE: Final = (".bst", ".model", ".txt", ".json", ".lgb")


def framework_of(path: Path) -> str:
    """A framework's name; LoadError lists what was found when it is none, or more than one."""
    if not path.exists():
        raise LoadError(f"There is no model at {path}.")
    if path.is_file():
        # The file that a folder is known by stands for it.
        found = _of_file(path) or (_marked(path.parent) if path.name in _MARKS else None)
        if found is None:
            raise LoadError(
                f"No framework is known for the file {path.name}.",
                hint="Say which one it is for: --framework, or modelFormat in a manifest.",
            )
        return found
    folder = _newest_version(path)
    marked = _marked(folder)
    if marked:
        return marked
    kinds: dict[str, list[str]] = {}
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    for file in files:
        kind = _of_file(file)
        if kind is not None:
            kinds.setdefault(kind, []).append(file.name)
    if "torch" in kinds and "custom" in kinds:
        del kinds["custom"]  # a state dict comes with the .py file of its class
    if len(kinds) > 1 and "custom" in kinds and _has(folder, "model.py"):
        return "custom"  # a user's class that opens the other files itself
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds:
        parts = "; ".join(f"{kind}: {listed(names)}" for kind, names in kinds.items())
        raise LoadError(
            f"The files in the model's folder are for several frameworks ({parts}).",
            hint="Say which one it is for: --framework, or modelFormat in a manifest.",
        )
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    what = f"Found: {listed(names)}." if names else "The folder is empty."
    raise LoadError(f"No model of a known framework is in the model's folder. {what}")


def _newest_version(path: Path) -> Path:
    """The highest numbered sub-folder of a folder that has nothing but those."""
    seen = [p for p in path.iterdir() if not p.name.startswith(".")]
    numbered = [p for p in seen if p.is_dir() and p.name.isdigit()]
    if numbered and len(numbered) == len(seen):
        return max(numbered, key=lambda p: int(p.name))
    return path


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _marked(folder: Path) -> str | None:
    if _has(folder, "MLmodel"):
        return "mlflow"
    if _has(folder, "saved_model.pb"):
        return "tensorflow"
    if _has(folder, "config.json"):
        try:
            config = json.loads((folder / "config.json").read_bytes())
        except ValueError:
            return None
        if isinstance(config, dict) and ("architectures" in config or "model_type" in config):
            return "huggingface"
    return None


def _of_file(file: Path) -> str | None:
    suffix = suffix_of(file)
    if suffix == ".py":
        return "custom"
    kind = _SUFFIXES.get(suffix)
    if kind is not None or suffix not in _LOOK_INSIDE:
        return kind
    with file.open("rb") as f:
        head = f.read(4096)
    if head.startswith(b"tree\n"):
        return "lightgbm"
    if head.startswith(b"CBM1"):
        return "catboost"
    if head.startswith((b"binf", b"bs64")):
        return "xgboost"
    if suffix == ".txt":
        return None
    if suffix == ".json":
        if b'"learner"' in head:
            return "xgboost"
        return "catboost" if b'"features_info"' in head or b'"oblivious_trees"' in head else None
    if zipfile.is_zipfile(file):
        return None
    # UBJSON or JSON that starts with an object: what XGBoost writes whatever the suffix.
    return "xgboost" if head.startswith(b"{") else None
