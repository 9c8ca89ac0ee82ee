"""Finding and importing a user's model class: from a file, a folder, or by name.

The class is imported in the model process only. Its folder comes first on `sys.path`, so it may import
its neighbours. When a second model of the same process has neighbours of the same names, they are
imported anew: each model keeps what it imported while it loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from penstock.errors import LoadError
from penstock.sdk.model import Model
from penstock.sdk.results import one_line

log = logging.getLogger(__name__)

#: The file taken from a folder when nothing else is said.
DEFAULT_FILE: Final = "model.py"

#: Folders that models of this process were imported from, each ending in a separator.
_folders: set[str] = set()


def find_class(
    path: Path, name: str | None = None, *, methods: Sequence[str] = ("predict",)
) -> tuple[type, Path]:
    """The model class at `path` and the folder of the model's files.

    `path` is a `.py` file or a folder; `name` is `Class`, `module:Class` or `file.py:Class` (module and
    file are looked for in the folder; an installed module will do). Without a class in `name`, the only
    `Model` subclass is taken, or else the only class with one of `methods`. Raises LoadError; a traceback
    of the user's code goes to the log.
    """
    module_part, class_part = _split(name)
    if path.is_file():
        if path.suffix != ".py":
            raise LoadError(f"{path.name} is no Python file")
        folder = path.parent
        file: Path | None = path if module_part in (None, path.stem, path.name) else None
    elif path.is_dir():
        folder = path
        file = None if module_part else _only_file(folder)
    else:
        raise LoadError(f"{path} does not exist")
    if file is None and module_part is not None:
        relative = (
            module_part if module_part.endswith(".py") else module_part.replace(".", "/") + ".py"
        )
        candidate = folder / relative
        if candidate.is_file():
            file = candidate
        elif module_part.endswith(".py"):
            raise LoadError(f"{module_part} is not in the model's folder.", hint=_listing(folder))
    enter(folder)
    where = file.name if file is not None else str(module_part)
    module = _import_file(file, folder) if file is not None else _import_name(where, folder)
    cls = (
        _named(module, class_part, where, methods)
        if class_part
        else _single(module, where, methods)
    )
    if not any(getattr(cls, m, None) is not getattr(Model, m, None) for m in methods):
        raise LoadError(f"{cls.__name__} in {where} has no {' or '.join(methods)} of its own")
    return cls, folder


def _split(name: str | None) -> tuple[str | None, str | None]:
    if not name:
        return None, None
    module, colon, cls = name.partition(":")
    if colon:
        return module or None, cls or None
    if name.endswith(".py"):
        return name, None
    module, dot, cls = name.rpartition(".")
    return (module, cls) if dot else (None, name)


def _only_file(folder: Path) -> Path:
    file = folder / DEFAULT_FILE
    if file.is_file():
        return file
    found = sorted(f for f in folder.glob("*.py") if not f.name.startswith("_"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise LoadError(f"the model's folder has no {DEFAULT_FILE} and no other Python file")
    raise LoadError(
        f"the model's folder has no {DEFAULT_FILE}, but {', '.join(f.name for f in found)}.",
        hint="Say which with the option class: file.py:Class.",
    )


def _listing(folder: Path) -> str:
    found = sorted(f.name for f in folder.glob("*.py"))
    return f"It has {', '.join(found)}." if found else "It has no Python file."


def enter(folder: Path) -> None:
    """Puts `folder` first on the path and forgets what other models' folders have under its names."""
    folder = folder.resolve()
    text = str(folder)
    if text in sys.path:
        sys.path.remove(text)
    sys.path.insert(0, text)
    importlib.invalidate_caches()
    # By text: frameworks have thousands of modules, a process may have hundreds of folders.
    below = tuple(_folders)
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and str(origin).startswith(below):
            del sys.modules[name]
    _folders.add(os.path.join(text, ""))


def _import_file(file: Path, folder: Path) -> ModuleType:
    file = file.resolve()
    parts = file.relative_to(folder.resolve()).with_suffix("").parts
    name = ".".join(parts)
    if (
        not all(p.isidentifier() for p in parts)
        or parts[0] in sys.stdlib_module_names
        or (name in sys.modules)
    ):
        # Not to stand in the way of the module that has this name already.
        name = "penstock_model_" + hashlib.sha256(str(file).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoadError(f"{file.name} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:
        sys.modules.pop(name, None)
        raise import_error(file.name, e, folder) from e
    return module


def _import_name(name: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(e.name + ".")):
            raise LoadError(f"there is no module {name}.", hint=_listing(folder)) from None
        raise import_error(name, e, folder) from e
    except (Exception, SystemExit) as e:
        raise import_error(name, e, folder) from e


def import_error(what: str, error: BaseException, folder: Path) -> LoadError:
    """One line for the caller, with the user's own line number; the traceback goes to the log."""
    log.error("%s could not be loaded", what, exc_info=error)
    return LoadError(f"{what}{_line(error, folder)}: {one_line(error)}")


def _line(error: BaseException, folder: Path) -> str:
    """Where in the user's folder `error` was raised: ` line 12`, or nothing."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" line {error.lineno}"
    found = ""
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_absolute() and file.is_relative_to(folder.resolve()):
            found = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _named(module: ModuleType, name: str, where: str, methods: Sequence[str]) -> type:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        known = ", ".join(c.__name__ for c in _classes(module)) or "none"
        raise LoadError(f"{where} has no class {name}.", hint=f"Its classes: {known}.")
    if not inspect.isclass(found):
        raise LoadError(f"{name} in {where} is no class")
    if not any(callable(getattr(found, m, None)) for m in methods):
        raise LoadError(f"{name} in {where} has no {' or '.join(methods)}")
    return found


def _classes(module: ModuleType) -> list[type]:
    """Classes that `module` defines itself, in the order of the file."""
    return [
        c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__
    ]


def _single(module: ModuleType, where: str, methods: Sequence[str]) -> type:
    own = _classes(module)
    imported = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and not c.__module__.startswith("penstock.") and c not in own
    ]
    for candidates in (
        [c for c in own if issubclass(c, Model)],
        [c for c in imported if issubclass(c, Model)],
        [c for c in own if any(callable(getattr(c, m, None)) for m in methods)],
    ):
        concrete = dict.fromkeys(c for c in candidates if not inspect.isabstract(c))
        # Of a class and its own base class the former is meant.
        last = [c for c in concrete if not any(c is not d and issubclass(d, c) for d in concrete)]
        if len(last) == 1:
            return last[0]
        if last:
            raise LoadError(
                f"{where} has several models: {', '.join(c.__name__ for c in last)}.",
                hint=f"Say which with the option class: {where}:{last[0].__name__}.",
            )
    what = " or ".join(methods)
    raise LoadError(f"{where} has no subclass of penstock.Model and no class with a {what}")
