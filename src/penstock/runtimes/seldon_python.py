"""Classes for Seldon's Python wrapper (framework `seldon_python`): finding one, making it, and what it needs.

`MODEL_NAME` is Seldon's: a file with a class of its name, or `module.Class`; a folder made for its s2i images
says it in `.s2i/environment`. A class without the method that its node's type asks for is refused here, where
Seldon hands on its input or answers an empty list. What it answers is `seldon_unit`'s.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from penstock.errors import LoadError
from penstock.runtimes.base import Framework, LoadOptions
from penstock.runtimes.loading import known_options, option
from penstock.runtimes.seldon_classes import METHODS, implements, offer_seldon_core
from penstock.runtimes.seldon_unit import SeldonUnit
from penstock.sdk.discovery import find_class, import_error

_S2I: Final = ".s2i/environment"


def load(path: Path, options: LoadOptions) -> SeldonUnit:
    """The class at `path`.

    Options: `class` (MODEL_NAME), `parameters` for its constructor, `unit` (the node's name), `methods` that
    the node's type asks of it. LoadError; the user's traceback goes to the log.
    """
    known_options(options, ("class", "parameters", "unit", "methods"))
    offer_seldon_core()
    wanted = option(options, "class", str, "") or _from_s2i(path)
    if wanted and ":" not in wanted and path.is_dir():
        # Seldon's MODEL_NAME: a file with a class of its name, or module.Class.
        module, dot, cls_name = wanted.rpartition(".")
        if not dot and (path / f"{wanted}.py").is_file():
            wanted = f"{wanted}.py:{wanted}"
        elif dot and cls_name != "py":
            wanted = f"{module}:{cls_name}"
        elif not dot:
            _look_for(wanted, path)
    names = [n for m in METHODS.values() for n in (m, f"{m}_raw")]
    cls, folder = find_class(path, wanted or None, methods=names)
    needed = option(options, "methods", list, [])
    for verb in needed:
        method = METHODS.get(str(verb), "")
        if not (implements(cls, method) or implements(cls, f"{method}_raw")):
            raise LoadError(
                f"{cls.__name__} has no {method}, which its place in the graph needs.",
                hint=f"It has {', '.join(n for n in names if implements(cls, n)) or 'none of them'}.",
            )
    parameters = dict(option(options, "parameters", dict, {}))
    instance = _made(cls, parameters, folder)
    try:
        if callable(getattr(instance, "load", None)):
            instance.load()
    except LoadError:
        raise
    except (Exception, SystemExit) as error:
        raise import_error(f"{cls.__name__}.load", error, folder) from error
    unit = option(options, "unit", str, "") or os.environ.get("PREDICTIVE_UNIT_ID", options.name)
    return SeldonUnit(instance, options.name, unit)


def _look_for(wanted: str, folder: Path) -> None:
    """Say so where no file can be meant; a class may be in `model.py`, or in the only file there is."""
    files = sorted(f.name for f in folder.glob("*.py"))
    if "model.py" not in files and len(files) != 1:
        raise LoadError(
            f"MODEL_NAME says {wanted}, and the model's folder has no {wanted}.py.",
            hint=f"It has {', '.join(files[:8]) or 'no Python file'}.",
        )


def _made(cls: type, parameters: Mapping[str, Any], folder: Path) -> Any:
    """An instance; a parameter that its constructor does not take is an error that lists what it takes."""
    try:
        known = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        known = {}  # type: ignore[assignment]
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        unknown = [p for p in parameters if p not in known]
        if unknown:
            raise LoadError(
                f"{cls.__name__} takes no parameter {', '.join(map(repr, unknown))}.",
                hint=f"It takes {', '.join(known) or 'none'}.",
            )
    try:
        return cls(**parameters)
    except (Exception, SystemExit) as error:
        if isinstance(error, LoadError):
            raise
        raise import_error(cls.__name__, error, folder) from error


def _from_s2i(path: Path) -> str:
    """MODEL_NAME of a folder that was made for Seldon's s2i images; empty when it is none."""
    file = (path if path.is_dir() else path.parent) / _S2I
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return os.environ.get("MODEL_NAME", "")
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("MODEL_NAME", os.environ.get("MODEL_NAME", "")).strip()


framework = Framework(
    name="seldon_python",
    extra="",
    preload=(),
    load=load,
    formats=("seldon",),
)
