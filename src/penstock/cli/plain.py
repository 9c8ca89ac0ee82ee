"""Runs a command whose command line is plain, without building typer's parser for it.

Typer builds the parsers of all commands and imports a validation library for the values of one: 110 ms of
the processor, most of what a short command takes. A plain command line - known options, texts, flags and
paths, as the command's signature declares them - is read here in a millisecond. All that is not plain (help,
completion, nested commands, numbers, a mistake) is left to typer, whose words people then see.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer import BadParameter
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

__all__ = ["BadParameter", "Call", "call_of", "run"]

Call = Callable[[], object]

#: What a value on the command line becomes, by the annotation.
_SINGLE: dict[Any, Callable[[str], Any]] = {
    str: str,
    str | None: str,
    Path: Path,
    Path | None: Path,
}
_MANY = (list[str], list[str] | None)
#: What typer does more for a parameter, and this reader does not.
_MORE = (
    "callback", "is_eager", "envvar", "parser", "click_type", "default_factory", "min", "max", "clamp",
    "formats", "mode", "encoding", "exists", "resolve_path", "path_type", "prompt", "hide_input", "count",
)  # fmt: skip


class _NotPlain(Exception):
    """Typer's parser is asked."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    kind: Any
    required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class _Option:
    parameter: _Parameter
    #: What a flag of this name means.
    on: bool


@dataclass(slots=True)
class _Signature:
    options: dict[str, _Option]
    arguments: list[_Parameter]
    all: list[_Parameter]


def call_of(app: typer.Typer, argv: Sequence[str]) -> Call | None:
    """The command of `argv` (without the program's name) with its values; None where typer is needed."""
    if not argv or any(name.endswith("_COMPLETE") for name in os.environ if "PENSTOCK" in name):
        return None
    body = next((c.callback for c in app.registered_commands if _name(c) == argv[0]), None)
    if body is None:
        return None
    try:
        values = _read(_signature(body), argv[1:])
    except _NotPlain:
        return None
    return lambda: body(**values)


def run(call: Call) -> None:
    """Call it and exit as typer would: with 0, the code that it says, or 1 when nobody reads on.

    Raises typer.BadParameter for a value that the command refuses, which it does before anything else.
    """
    try:
        call()
        sys.stdout.flush()
    except typer.Exit as exc:
        sys.exit(exc.exit_code)
    except OSError as exc:
        if exc.errno != errno.EPIPE:
            raise
        # Nobody reads on; the interpreter's last flush would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__.replace("_", "-"))


def _signature(body: Callable[..., Any]) -> _Signature:
    hints = get_type_hints(body, include_extras=True)
    found = _Signature({}, [], [])
    for name, parameter in inspect.signature(body).parameters.items():
        hint = hints[name]
        if get_origin(hint) is not Annotated:
            raise _NotPlain
        kind, info, *_ = get_args(hint)
        if not isinstance(info, ParameterInfo) or _asks_more(info):
            raise _NotPlain
        required = parameter.default is inspect.Parameter.empty
        read = _Parameter(name, kind, required, parameter.default)
        found.all.append(read)
        if isinstance(info, ArgumentInfo):
            if kind not in _SINGLE and kind not in _MANY:
                raise _NotPlain
            found.arguments.append(read)
        elif isinstance(info, OptionInfo):
            _declare(found.options, read, info)
    return found


def _asks_more(info: ParameterInfo) -> bool:
    given = (getattr(info, name, None) for name in _MORE)
    return any(value is not None and value is not False for value in given)  # a bound may be 0


def _declare(options: dict[str, _Option], read: _Parameter, info: OptionInfo) -> None:
    # Where the default stands in the signature, typer takes the first name for it.
    first = (info.default,) if isinstance(info.default, str) else ()
    names = (*first, *(info.param_decls or ()))
    if read.kind is not bool and read.kind not in _SINGLE and read.kind not in _MANY:
        raise _NotPlain
    if not names:
        name = read.name.replace("_", "-")
        names = (f"--{name}/--no-{name}",) if read.kind is bool else (f"--{name}",)
    for name in names:
        on, _, off = name.partition("/")
        options[on] = _Option(read, True)
        if off:
            options[off] = _Option(read, False)


def _read(signature: _Signature, argv: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    words: list[str] = []
    left = list(reversed(argv))
    while left:
        word = left.pop()
        if word == "--":
            words += reversed(left)
            break
        if len(word) < 2 or word[0] != "-":
            words.append(word)
            continue
        name, given, value = word.partition("=")
        option = signature.options.get(name)
        if option is None or (given and word[1] != "-"):
            raise _NotPlain  # unknown, or several in one
        parameter = option.parameter
        if parameter.kind is bool:
            if given:
                raise _NotPlain
            values[parameter.name] = option.on
            continue
        if not given:
            if not left:
                raise _NotPlain
            value = left.pop()
        if parameter.kind in _MANY:
            values.setdefault(parameter.name, []).append(value)
        else:
            values[parameter.name] = _SINGLE[parameter.kind](value)
    for argument in signature.arguments:
        if argument.kind in _MANY:
            if words:
                values[argument.name] = words
            words = []
        elif words:
            values[argument.name] = _SINGLE[argument.kind](words.pop(0))
    if words:
        raise _NotPlain
    for parameter in signature.all:
        if parameter.name not in values:
            if parameter.required:
                raise _NotPlain
            default = parameter.default
            values[parameter.name] = list(default) if isinstance(default, list) else default
    return values
