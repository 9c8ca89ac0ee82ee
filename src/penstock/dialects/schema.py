"""How manifests are read: strictly, and with every mistake named by its path.

A dialect describes its fields as pydantic models on `Spec`; `read` validates a manifest against one and turns
whatever pydantic found into `FieldProblem`s in one wording for all dialects. An unknown field is told with
the nearest name that is known there, or with the place where a field of that name lives.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from penstock.errors import FieldProblem


class Spec(BaseModel):
    """Base of every part of a manifest: camelCase on the wire, no coercion, no field ignored."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )
    #: Names that fields had in versions of a kind before its first release, and what says it now.
    renamed: ClassVar[Mapping[str, str]] = {}


M = TypeVar("M", bound=Spec)
Location = Sequence[int | str]

#: How deep a field of the same name is searched for when an unknown one is explained.
_SEARCH_DEPTH = 7


def read(model: type[M], manifest: Mapping[str, Any]) -> tuple[M | None, list[FieldProblem]]:
    """The validated manifest, or None and everything that is wrong with it."""
    try:
        return model.model_validate(manifest), []
    except ValidationError as e:
        problems: dict[FieldProblem, None] = {}
        for error in _fields_once(e.errors(include_url=False)):
            problems[_problem(model, error)] = None
        return None, list(problems)


#: What a value of each kind is, by the name that pydantic gives it in the place of an error, beneath a field
#: that takes several kinds.
_KINDS: Final = {"str": "a string", "float": "a number", "int": "a number"}


def _fields_once(errors: Sequence[Any]) -> Iterator[Any]:
    """Pydantic tells of a field of several kinds once for each kind; here once, of the field itself."""
    several: dict[Location, list[str]] = {}
    for error in errors:
        kind = error["loc"][-1] if error["loc"] else ""
        if kind in _KINDS and error["type"].endswith("_type"):
            several.setdefault(error["loc"][:-1], []).append(_KINDS[kind])
    for error in errors:
        *_, kind = error["loc"] or ("",)
        field = error["loc"][:-1]
        kinds = several.get(field, ()) if kind in _KINDS else ()
        if len(kinds) < 2:
            yield error
        else:
            expected = " or ".join(dict.fromkeys(kinds))
            yield {**error, "loc": field, "type": _SEVERAL, "ctx": {"expected": expected}}


_SEVERAL: Final = "no_kind_of_several"


def path(location: Location) -> str:
    """`spec.predictor.containers[0].env`; keys that are no plain words go into brackets."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and all(c.isalnum() or c in "-_" for c in part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Every field path a model knows, with `[]` for list items, and whether it is required."""
    for alias, info in _by_alias(model).items():
        here = f"{prefix}.{alias}" if prefix else alias
        yield here, info.is_required()
        child, is_list = _child(info.annotation)
        if child is not None:
            yield from fields(child, here + ("[]" if is_list else ""))


def _problem(model: type[BaseModel], error: Any) -> FieldProblem:
    location = tuple(p for p in error["loc"] if p != "[key]")
    kind = error["type"]
    given = error.get("input")
    context = error.get("ctx") or {}
    if kind == "extra_forbidden":
        message = _unknown(model, location, given)
    elif kind == "missing":
        message = "is required"
    elif kind == "value_error":
        message = str(context.get("error"))
    elif kind == "string_type":
        message = f"must be a string, not {_name(given)}"
        if isinstance(given, bool | int | float):
            message += "; write it in quotes"
    elif kind in ("int_type", "int_from_float", "int_parsing"):
        message = f"must be a whole number, not {_name(given)}"
    elif kind == "float_type":
        message = f"must be a number, not {_name(given)}"
    elif kind == "bool_type":
        message = f"must be true or false, not {_name(given)}"
    elif kind in ("list_type", "tuple_type"):
        message = f"must be a list, not {_name(given)}"
    elif kind in ("dict_type", "model_type", "model_attributes_type", "mapping_type"):
        message = f"must be a map, not {_name(given)}"
    elif kind == _SEVERAL:
        message = f"must be {context['expected']}, not {_name(given)}"
    elif kind == "literal_error":
        message = f"must be {context['expected']}"
    elif kind == "greater_than_equal":
        message = f"must be {context['ge']} or more"
    elif kind == "less_than_equal":
        message = f"must be {context['le']} or less"
    elif kind == "greater_than":
        message = f"must be more than {context['gt']}"
    elif kind in ("too_short", "string_too_short"):
        message = "must not be empty"
    else:
        message = str(error["msg"])
    return FieldProblem(path(location), message, unknown=kind == "extra_forbidden")


def _shared(one: str, other: str) -> int:
    """How many names two paths begin with together."""
    count = 0
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def _unknown(model: type[BaseModel], location: Location, given: Any) -> str:
    *parents, name = location
    at = _model_at(model, parents)
    if at is not None and issubclass(at, Spec) and name in at.renamed:
        return f"unknown field; it became {at.renamed[str(name)]}"
    siblings = list(_by_alias(at)) if at is not None else []
    near = nearest(str(name), siblings)
    # A name that exists elsewhere was put in the wrong place rather than misspelt, unless only its
    # capitals are wrong.
    if near is None or _plain(near) != _plain(str(name)):
        elsewhere = [p for p in _paths_named(model, str(name)) if p != path(location)]
        if elsewhere:
            # The nearest: a predictor's field belongs to the predictor, though a transformer has it too.
            shared = {p: _shared(p, path(location)) for p in elsewhere}
            elsewhere = [p for p in elsewhere if shared[p] == max(shared.values())]
            return f"unknown field; {name} belongs at {' or '.join(elsewhere[:2])}"
    if near:
        return f"unknown field, did you mean {near}?"
    if at is not None and isinstance(given, Mapping) and _STORED in given:
        # It means a framework that there is no block for.
        blocks = [n for n, i in _by_alias(at).items() if _STORED in _child_fields(i.annotation)]
        if blocks:
            return f"unknown field; there are {', '.join(blocks)}"
    return "unknown field"


def _child_fields(annotation: Any) -> Mapping[str, Any]:
    child, _ = _child(annotation)
    return _by_alias(child) if child is not None else {}


#: What every block of a framework has.
_STORED = "storageUri"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant."""
    lower = {_plain(k): k for k in reversed(known)}
    plain = _plain(name)
    if plain in lower:
        return lower[plain]
    found = difflib.get_close_matches(plain, list(lower), n=1, cutoff=0.7)
    return lower[found[0]] if found else None


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    at: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        info = _by_alias(at).get(part) if at is not None else None
        if info is None:
            # A key of a map whose values are models.
            continue
        at, _ = _child(info.annotation)
    return at


@lru_cache(maxsize=256)
def _paths_named(model: type[BaseModel], name: str) -> tuple[str, ...]:
    """Where fields called `name` live, the shallowest first; list items as `[0]`."""
    found: list[str] = []
    level: list[tuple[str, type[BaseModel]]] = [("", model)]
    for _ in range(_SEARCH_DEPTH):
        deeper: list[tuple[str, type[BaseModel]]] = []
        for prefix, at in level:
            for alias, info in _by_alias(at).items():
                here = f"{prefix}.{alias}" if prefix else alias
                if alias == name:
                    found.append(here)
                child, is_list = _child(info.annotation)
                if child is not None:
                    deeper.append((here + ("[0]" if is_list else ""), child))
        if found:
            break
        level = deeper
    return tuple(found)


@lru_cache(maxsize=256)
def _by_alias(model: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _child(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside `X | None`, `list[X]` or `dict[str, X]`, and whether it is in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType, dict, list):
        for argument in get_args(annotation):
            child, is_list = _child(argument)
            if child is not None:
                return child, is_list or origin is list
    return None, False


def _name(value: Any) -> str:
    """The kind of a value in YAML's words. The value itself is not shown: it may be a secret."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number with a fraction"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "a list"
    return "a map" if isinstance(value, Mapping) else type(value).__name__


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
