"""What an explainer finds in its folder: rows of training data, and what their columns mean.

`train.npz`, `train.npy` or `train.csv` (with a header) hold the rows; `explainer.json` may hold
`feature_names`, `class_names`, `categorical_names` and settings. They stand in the folder itself or in its
subfolder `explainer`, so that they can be kept beside a model.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.lib.npyio import NpzFile

from penstock.errors import LoadError
from penstock.explain.base import Floats
from penstock.explain.training import LARGEST, Training

DESCRIPTION: Final = "explainer.json"
_ROWS: Final = ("train.npz", "train.npy", "train.csv")


class Description(msgspec.Struct, forbid_unknown_fields=True):
    """explainer.json."""

    feature_names: list[str] = []
    class_names: list[str] = []
    #: Column number (JSON has texts as keys) to the names of the values 0, 1, ...
    categorical_names: dict[str, list[str]] = {}
    #: Settings, over which those of the manifest go.
    config: dict[str, Any] = {}


def folder_of(path: Path) -> Path:
    """Where the explainer's files are."""
    folder = path if path.is_dir() else path.parent
    inner = folder / "explainer"
    return inner if inner.is_dir() else folder


def describe(folder: Path) -> Description:
    """explainer.json, empty when there is none. LoadError when it is none of ours."""
    file = folder / DESCRIPTION
    if not file.is_file():
        return Description()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Description)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise LoadError(f"{DESCRIPTION} cannot be read: {e}") from None


def refuse_pickled(folder: Path) -> None:
    """LoadError for a folder of Alibi's, with a pickled explainer and nothing that is read here."""
    if not folder.is_dir() or any((folder / n).is_file() for n in (DESCRIPTION, *_ROWS)):
        return
    pickled = sorted(p.name for p in folder.glob("*.dill"))
    if pickled:
        raise LoadError(
            f"{pickled[0]} is a pickled explainer of Alibi's, which is not read.",
            hint=f"Put the training data beside it as one of {', '.join(_ROWS)}, or {DESCRIPTION} where"
            " the type needs no data; settings belong into config.",
        )


def training(folder: Path, description: Description, config: Mapping[str, Any]) -> Training:
    """The training rows. LoadError when there are none, or not numbers, or their names do not fit."""
    file = next((folder / n for n in _ROWS if (folder / n).is_file()), None)
    if file is None:
        raise LoadError(
            f"The explainer's folder has no training data: one of {', '.join(_ROWS)} is expected."
        )
    names, rows = _csv(file) if file.suffix == ".csv" else (None, _numpy(file))
    if not rows.shape[1]:
        raise LoadError(f"{file.name} has no columns")
    given = config.get("feature_names") or description.feature_names
    drop = config.get("drop") or []
    if drop:
        if names is None:
            raise LoadError("drop names columns, which only train.csv has")
        missing = [d for d in drop if d not in names]
        if missing:
            raise LoadError(f"drop names {missing[0]!r}, which is no column of {file.name}")
        kept = [i for i, n in enumerate(names) if n not in drop]
        rows, names = rows[:, kept], [names[i] for i in kept]
    if len(rows) < 2:
        raise LoadError(f"{file.name} has {len(rows)} rows; an explainer learns from more")
    if not bool(np.all(np.abs(rows) <= LARGEST)):
        raise LoadError(
            f"{file.name} holds NaN or infinity, or a number beyond {LARGEST:g}.",
            hint="Leave such rows out; a few hundred others will do.",
        )
    columns: Sequence[str] = given or names or [f"feature-{i}" for i in range(rows.shape[1])]
    if len(set(columns)) < len(columns):
        twice = next(n for i, n in enumerate(columns) if n in columns[:i])
        raise LoadError(f"there are two features of the name {twice!r}")
    if len(columns) != rows.shape[1]:
        raise LoadError(
            f"{file.name} has {rows.shape[1]} columns, but there are {len(columns)} feature names"
        )
    categories: dict[int, list[str]] = {}
    for key, values in description.categorical_names.items():
        index = (
            int(key) if key.isdecimal() else (list(columns).index(key) if key in columns else -1)
        )
        if not 0 <= index < rows.shape[1]:
            raise LoadError(f"categorical_names has {key!r}, which is no column of {file.name}")
        categories[index] = values
    classes = config.get("class_names") or description.class_names
    return Training(rows, tuple(columns), categories, tuple(classes), bool(given or names))


def _numpy(file: Path) -> Floats:
    try:
        with file.open("rb") as opened:
            loaded = np.load(opened, allow_pickle=False)
            if isinstance(loaded, NpzFile):
                names = loaded.files
                if not names:
                    raise ValueError("it holds no array")
                loaded = loaded["X" if "X" in names else names[0]]
        if loaded.dtype.kind not in "fiub":
            raise ValueError(f"its numbers are {loaded.dtype}")
        rows = np.asarray(loaded, dtype=np.float64)
    except (ValueError, OSError, EOFError, BadZipFile, KeyError, IndexError, TypeError) as e:
        raise LoadError(f"{file.name} cannot be read as an array of numbers: {e}") from None
    if rows.ndim != 2:
        raise LoadError(
            f"{file.name} has the shape {list(rows.shape)}; rows and columns are expected"
        )
    return rows


def _csv(file: Path) -> tuple[list[str], Floats]:
    # Spreadsheets put a byte order mark before the first name.
    with file.open(newline="", encoding="utf-8-sig") as lines:
        try:
            names, rows = _lines(file.name, csv.reader(lines))
        except UnicodeDecodeError as e:
            raise LoadError(f"{file.name} is no UTF-8: {e.reason} at byte {e.start}") from None
        except csv.Error as e:
            raise LoadError(f"{file.name} is no CSV: {e}") from None
    return names, np.array(rows, dtype=np.float64).reshape(-1, len(names))


def _lines(file: str, reader: Iterator[list[str]]) -> tuple[list[str], list[list[float]]]:
    """Names and rows of a CSV file, and where it has none."""
    rows: list[list[float]] = []
    names = [n.strip() for n in next(reader, [])]
    if not names:
        raise LoadError(f"{file} is empty")
    if all(map(_is_number, names)) and names != [str(i) for i in range(len(names))]:
        raise LoadError(
            f"The first line of {file} holds numbers, where the columns' names are expected.",
            hint="Write a header, without which a row would be taken for it.",
        )
    for number, line in enumerate(reader, 2):
        if not line:
            continue
        if len(line) != len(names):
            raise LoadError(f"{file}, line {number}: {len(line)} values for {len(names)} columns")
        try:
            rows.append([float(v) for v in line])
        except ValueError:
            hint = "Write categories as 0, 1, ... and their names to explainer.json."
            if len(names) == 1 and ";" in line[0]:
                hint = "Put commas between values."
            raise LoadError(f"{file}, line {number}: a value is no number.", hint=hint) from None
    return names, rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
