"""From a folder to a loaded model: which file, which options, and what is said when it fails.

Everything that unpickles or parses a model's files runs inside `opening`, so that whatever a framework
raises becomes one `LoadError` line that names the file, with the traceback in the log, and warnings (a
model written by an older version of its framework) go to the log too, never to the caller.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from penstock.errors import LoadError, PenstockError
from penstock.runtimes.base import Framework, LoadOptions
from penstock.runtimes.inputs import listed

log = logging.getLogger(__name__)

#: pandas imports pyarrow, whose allocator would start a thread in the zygote.
ARROW_ENV: Final[Mapping[str, str]] = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


def require(framework: Framework) -> None:
    """Import the packages of `framework`; LoadError names the one that is absent, and the extra."""
    prepare_environment(framework)
    # Tops only: the submodules in `preload` are for zygotes, a model imports those that it needs.
    for module in dict.fromkeys(m.partition(".")[0] for m in framework.preload):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about packages' own affairs
                importlib.import_module(module)
        except ModuleNotFoundError as e:
            missing = (e.name or module).partition(".")[0]
            raise LoadError(
                f"{framework.name} models need the package {missing!r}, which is not installed.",
                hint=f"Install it with: pip install 'penstock[{framework.extra}]'",
            ) from e
        except ImportError as e:
            raise LoadError(
                f"{framework.name} models need {module}, which cannot be imported: {first_line(e)}",
                hint=f"Install it again with: pip install 'penstock[{framework.extra}]'",
            ) from e


def prepare_environment(framework: Framework) -> None:
    """Set what `framework.env` asks for; to be called before its packages are imported."""
    for name, value in framework.env.items():
        os.environ.setdefault(name, value)


def installed(framework: Framework) -> bool:
    """Whether `framework` can be imported here, without importing it."""
    tops = {m.partition(".")[0] for m in framework.preload}
    return all(importlib.util.find_spec(top) is not None for top in tops)


def import_if_installed(*modules: str) -> None:
    """Import what a framework may need and does not depend on, or does not promise to have."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            log.debug("%s is not there to be shared", module)


#: What joblib writes and reads, compressed or not; it looks at the bytes, not at the name.
PICKLES: Final = (".joblib", ".pkl", ".pickle")
_COMPRESSED: Final = (".gz", ".gzip", ".z", ".bz2", ".xz", ".lzma", ".lz4")


def suffix_of(file: Path) -> str:
    """What a model file's name ends in, in lower case; of a compressed pickle, what is before `.gz`."""
    suffix = file.suffix.lower()
    if suffix in _COMPRESSED and (inner := Path(file.stem).suffix.lower()) in PICKLES:
        return inner
    return suffix


def _is_preferred(file: Path) -> bool:
    end = file.name.lower().rfind(suffix_of(file))
    return file.name[:end] == "model"


def model_file(
    path: Path, suffixes: Sequence[str], options: LoadOptions, *, what: str = "model file"
) -> Path:
    """The one file at `path` that ends in one of `suffixes` (`suffix_of`).

    `options.file` chooses one by name. Else a file called `model.*` is preferred over others; two that are
    equally good are an error that names them.
    """
    named = option(options, "file", str)
    if named is not None:
        chosen = (path / named) if path.is_dir() else path.with_name(named)
        root = path if path.is_dir() else path.parent
        if not chosen.resolve().is_relative_to(root.resolve()):
            raise LoadError(f"The option file={named!r} leads out of the model's folder.")
        if not chosen.is_file():
            raise LoadError(f"There is no file {named!r} in the model's folder. {_found(path)}")
        return _looked_at(chosen)
    if not path.exists():
        raise LoadError(f"There is no model at {path}.")
    if path.is_file():
        if suffix_of(path) not in suffixes:
            raise LoadError(f"{path.name} is no {what}: one of {', '.join(suffixes)} is expected.")
        return _looked_at(path)
    every = sorted(p for p in path.iterdir() if p.is_file() and suffix_of(p) in suffixes)
    best = [p for p in every if _is_preferred(p)] or every
    if not best:
        raise LoadError(
            f"There is no {what} in the model's folder: one of {', '.join('*' + s for s in suffixes)} is "
            f"expected. {_found(path)}",
            hint=_further_down(path, suffixes) or _meant_for(path),
        )
    if len(best) > 1:
        raise LoadError(
            f"There are several model files in the folder: {listed(p.name for p in best)}.",
            hint="Leave one, or choose with the option 'file'.",
        )
    return _looked_at(best[0])


def _looked_at(file: Path) -> Path:
    """`file`, unless its first bytes say that it is none of any framework's."""
    mistaken = _mistaken(file)
    if mistaken:
        raise LoadError(f"{file.name} is {mistaken[0]}", hint=mistaken[1])
    return file


#: How files begin that come in a model's place, and what to do about each.
_MISTAKEN: Final = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file that it stands for.",
        "Run 'git lfs pull' in the clone that it comes from.",
    ),
    (
        (b"<!doctype html", b"<html"),
        "a web page, not a model.",
        "What the URI names is perhaps a page about the model, or one to log in.",
    ),
)
_PEEK: Final = 64
#: So many files of a folder are looked at.
_MAX_LOOKED_AT: Final = 200


def _mistaken(file: Path) -> tuple[str, str] | None:
    """What a file is that stands in a model's place, and what to do; None: perhaps a model."""
    with file.open("rb") as f:
        head = f.read(_PEEK)
    if not head:
        return "empty.", ""
    head = head.lstrip().lower()
    for beginning, what, hint in _MISTAKEN:
        if head.startswith(beginning):
            return what, hint
    return None


def _mistaken_within(folder: Path) -> LoadError | None:
    """About the first file below `folder` that is a pointer to another or a web page."""
    for file in islice((p for p in sorted(folder.rglob("*")) if p.is_file()), _MAX_LOOKED_AT):
        mistaken = _mistaken(file)
        if mistaken and mistaken[1]:
            return LoadError(f"{file.relative_to(folder)} is {mistaken[0]}", hint=mistaken[1])
    return None


def _found(path: Path) -> str:
    if not path.is_dir():
        return ""
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir())
    return f"Found: {listed(names)}." if names else "The folder is empty."


def _further_down(path: Path, suffixes: Sequence[str]) -> str:
    """The model in a folder of the folder, as archives have it that were made of a folder's name."""
    every = islice(path.rglob("*"), _MAX_LOOKED_AT)
    below = [p for p in every if p.is_file() and suffix_of(p) in suffixes]
    if len(below) != 1:
        return ""
    inner = below[0].relative_to(path)
    return (
        f"There is one in {inner.parent}/: have the URI or the archive begin there, "
        f"or set the option 'file' to {str(inner)!r}."
    )


def _meant_for(path: Path) -> str:
    """The framework whose files these are, where they are plainly of one."""
    from penstock.runtimes.detection import framework_of

    try:
        return f"These files look like {framework_of(path)}'s: that framework may be what is meant."
    except LoadError:
        return ""


@contextmanager
def opening(
    file: Path, what: str, reason: Callable[[BaseException], str] | None = None
) -> Iterator[None]:
    """Around the code that reads `file`, a file or a folder; `what` finishes "cannot be loaded as ...".

    `reason` makes one line of what the framework raised, for those whose first line says little.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except LoadError:
            raise
        except PenstockError as e:  # its own example was refused
            raise LoadError(f"{_called(file)} cannot be used as {what}: {e.message}") from e
        except ModuleNotFoundError as e:
            log.exception("loading %s", file)
            top = (e.name or "").partition(".")[0]
            if top != e.name and top in sys.modules:
                raise LoadError(
                    f"{_called(file)} needs the module {e.name!r}, which the {top} that is installed here "
                    "does not have.",
                    hint=f"It was written with another version of {top}: write it anew with this one"
                    + (f", {version}." if (version := _version(top)) else "."),
                ) from e
            raise LoadError(
                f"{_called(file)} needs the Python package {e.name!r}, which is not installed here."
            ) from e
        except (
            Exception
        ) as e:  # a model's file can raise anything, its classes run while it is read
            log.exception("loading %s", file)
            mistaken = _mistaken_within(file) if file.is_dir() else None
            if mistaken is not None:
                raise mistaken from e
            said = (reason or _first_line)(e)
            # Where the files are kept is nothing to whoever sees the message.
            folder = file if file.is_dir() else file.parent
            said = said.replace(f"{folder}{os.sep}", "").replace(str(folder), "the folder")
            raise LoadError(f"{_called(file)} cannot be loaded as {what}: {shortened(said)}") from e
    seen = set()
    for warning in caught:
        line = " ".join(str(warning.message).split())
        if line not in seen and not issubclass(
            warning.category, (DeprecationWarning, PendingDeprecationWarning, ResourceWarning)
        ):
            seen.add(line)
            log.warning("loading %s: %s: %s", file.name, warning.category.__name__, line)


def _version(package: str) -> str:
    return str(getattr(sys.modules[package], "__version__", ""))


def _called(file: Path) -> str:
    return "The model's folder" if file.is_dir() else file.name


def first_line(e: BaseException, limit: int = 300) -> str:
    """An exception as one line: its type and the first line of what it says."""
    return shortened(_first_line(e), limit)


def _first_line(e: BaseException) -> str:
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return f"{type(e).__name__}: {lines[0]}" if lines else type(e).__name__


def shortened(text: str, limit: int = 300) -> str:
    """`text`, cut off where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def known_options(options: LoadOptions, known: Sequence[str]) -> None:
    """LoadError for an option that this runtime does not have, with the nearest one."""
    for name in options.options:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {listed(known, 30)}."
            raise LoadError(f"Unknown option {name!r}.", hint=hint)


def option(
    options: LoadOptions, name: str, kind: type | tuple[type, ...], default: Any = None
) -> Any:
    """One option's value; LoadError when it is of another type."""
    value = options.options.get(name, default)
    if value is default:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds):
        wanted = " or ".join(_KINDS.get(k, k.__name__) for k in kinds)
        raise LoadError(f"The option {name!r} has to be {wanted}, not {value!r}.")
    return value


_KINDS: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def choice(options: LoadOptions, name: str, allowed: Sequence[str], default: str) -> str:
    """One option out of a few words; LoadError names them otherwise."""
    value = option(options, name, str, default)
    if value not in allowed:
        raise LoadError(f"The option {name!r} cannot be {value!r}: one of {listed(allowed)}.")
    return str(value)
