"""Frameworks by name: what a manifest's `modelFormat`, or the files themselves, say is to be run.

Each framework is a module of this package with one `Framework` named `framework` (the table below has their
names). They are imported when asked for, and import their own packages only when a model is loaded or a
zygote preloads them. `base` is what they provide; `loading`, `inputs`, `frames`, `objects` and `blame` are
what they have in common.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator
from typing import Final

from penstock.errors import LoadError, NotFound
from penstock.runtimes.base import Framework
from penstock.runtimes.loading import installed, prepare_environment, require

__all__ = [
    "detect",
    "find",
    "for_format",
    "frameworks",
    "installed",
    "names",
    "prepare_environment",
    "require",
]

_MODULES: Final = {
    name: f"penstock.runtimes.{name}"
    for name in (
        "sklearn",
        "skops",
        "xgboost",
        "lightgbm",
        "catboost",
        "onnx",
        "torch",
        "tensorflow",
        "mlflow",
        "huggingface",
        "triton_python",
        "triton_ensemble",
        "mlserver_python",
        "seldon_python",
        "custom",
        "transformer",
        "explainer",
    )
}


def names() -> tuple[str, ...]:
    """Every framework there is, installed or not."""
    return tuple(_MODULES)


def find(name: str) -> Framework:
    """The framework called `name`; NotFound with the nearest name otherwise.

    Its own packages are not imported: `require(find(name))` does that and raises LoadError.
    """
    module = _MODULES.get(name)
    if module is None:
        near = difflib.get_close_matches(name, _MODULES, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(_MODULES)}."
        raise NotFound(f"There is no framework {name!r}.", hint=hint)
    # Importing what is imported already goes through enough code to cost a forked process 40 kB.
    framework: Framework = (sys.modules.get(module) or importlib.import_module(module)).framework
    return framework


def frameworks() -> Iterator[Framework]:
    """All frameworks, in the order of `names`."""
    return map(find, _MODULES)


def for_format(name: str, version: str | None = None) -> Framework:
    """The framework that serves models of a `modelFormat`; NotFound lists the formats there are.

    Names are compared without regard to case. `version` is the major version a model was written with:
    the installed packages read older ones, so it excludes nothing.
    """
    wanted = name.lower()
    known: list[str] = []
    for framework in frameworks():
        formats = [f.lower() for f in framework.formats]
        if wanted in formats:
            return framework
        known += formats
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}."
    shown = f"{name}:{version}" if version else name
    raise NotFound(f"No framework serves the model format {shown!r}.", hint=hint)


def detect(path: str) -> str:
    """The name of the framework that the files at `path` are for; LoadError tells what was found."""
    from pathlib import Path

    from penstock.runtimes.detection import framework_of

    found = framework_of(Path(path))
    if found not in _MODULES:
        raise LoadError(f"No framework is known for {path}.")
    return found
