"""From the bytes of a write to an object that may be stored.

Everything that is wrong with it is said at once, by field. What users may not set - status, uid, versions -
is taken out here, and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from penstock.api.kinds import Resource
from penstock.api.redaction import restore, without_secrets_applied
from penstock.api.wire import ApiError, invalid
from penstock.api.write_options import STRICT, WARN
from penstock.errors import FieldProblem, InvalidInput, InvalidManifest
from penstock.store.base import Object

#: Metadata that the store and the controllers own.
_OWNED = (
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
)
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Admitted:
    """An object ready for the store, and what has no effect in it, one line each."""

    object: Object
    warnings: tuple[str, ...]


def parse(body: bytes, content_type: str) -> dict[str, Any]:
    """A JSON or YAML document that is a map. Raises InvalidInput."""
    document = parse_any(body, content_type)
    if not isinstance(document, dict):
        raise InvalidInput("The body is no object.")
    return document


def parse_any(body: bytes, content_type: str) -> Any:
    """A JSON or YAML document. Raises InvalidInput."""
    kind = content_type.partition(";")[0].strip().lower()
    try:
        is_yaml = kind.endswith("yaml")
        if is_yaml and body.lstrip()[:1] == b"{":
            # JSON is YAML, and what most clients send as such: read as JSON in a fiftieth of the time.
            is_yaml = not _is_json(body)
        document = (
            yaml.load(body, Loader=_Loader)  # noqa: S506 - is a SafeLoader
            if is_yaml
            else msgspec.json.decode(body)
        )
        check_depth(document)
        if not is_yaml:
            json.loads(body, object_pairs_hook=_no_twice)
    except (ValueError, yaml.YAMLError, RecursionError) as exc:
        first = str(exc).partition("\n")[0]
        raise InvalidInput(f"The body cannot be read: {first}.") from exc
    return document


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _no_twice(members: list[tuple[str, Any]]) -> None:
    """What has a member twice would mean one of them, and nobody would know which."""
    seen = set()
    for name, _ in members:
        if name in seen:
            raise InvalidInput(f'strict decoding error: duplicate field "{name}".')
        seen.add(name)


class _Loader(yaml.SafeLoader):
    """Dates stay text, as JSON would have them; aliases are refused because they can multiply."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        _no_twice([(str(k.value), None) for k, _ in node.value])
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def check_depth(document: Any) -> None:
    """InvalidInput when a document is nested deeper than what comes after can follow."""
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            v
            for d in level
            for v in (d.values() if isinstance(d, dict) else d)
            if isinstance(v, dict | list)
        ]
        if not level:
            return
    raise InvalidInput(f"The body is nested deeper than {MAX_DEPTH} levels.")


def identified(
    document: Mapping[str, Any], resource: Resource, *, namespace: str, name: str | None
) -> Object:
    """A written document as the object that its path means, less what its writer cannot decide.

    Raises ApiError 400 when it does not belong under this path.
    """
    if resource.dialect is None:
        raise ApiError(405, f"{resource.plural} are made by the platform and cannot be written.")
    for field, expected in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if document.get(field, expected) != expected:
            raise ApiError(
                400, f"{field} is {document[field]!r}, but the path is that of {expected}."
            )
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping):
        raise invalid(resource.kind, resource.group, name or "", [("metadata", "is required")])
    metadata = {k: v for k, v in metadata.items() if k not in _OWNED}
    if name is not None and metadata.setdefault("name", name) != name:
        raise ApiError(400, f"metadata.name is {metadata['name']!r}, but the path says {name!r}.")
    if resource.namespaced:
        if metadata.setdefault("namespace", namespace) != namespace:
            raise ApiError(
                400,
                f"metadata.namespace is {metadata['namespace']!r}, but the path says {namespace!r}.",
            )
    else:
        metadata.pop("namespace", None)
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        **{k: v for k, v in document.items() if k not in ("apiVersion", "kind", "status")},
        "metadata": metadata,
    }


def admit(
    obj: Object,
    resource: Resource,
    *,
    stored: Object | None = None,
    runs_containers: bool = False,
    validation: str = STRICT,
) -> Admitted:
    """Check an `identified` object against its dialect, and what is stored.

    Raises ApiError 422 with every field that is wrong. Unknown ones are left out where `validation` says so.
    """
    dialect = resource.dialect
    assert dialect is not None  # noqa: S101 - `identified` refuses kinds without one
    obj = without_secrets_applied(restore(obj, stored, dialect), dialect)
    dropped: list[FieldProblem] = []
    for _ in range(MAX_DEPTH):
        try:
            translation = dialect.translate(obj, runs_containers=runs_containers)
            kept = dialect.admit(obj)
            if stored is not None:
                dialect.check_update(stored, kept)
            break
        except InvalidManifest as exc:
            unknown = [p for p in exc.problems if p.unknown]
            if validation == STRICT or not unknown:
                # What was left out may be why something is missing now.
                raise _refused(obj, resource, (*dropped, *exc.problems)) from exc
            # What is left may show more of them: models are checked one after the other.
            for problem in unknown:
                obj = dropping(obj, problem.path)
                dropped.append(problem)
    else:
        raise InvalidInput("The manifest has unknown fields in too many places.")
    told = [f'unknown field "{p.path}": {p.message}; left out' for p in dropped]
    warnings = (*(told if validation == WARN else ()), *map(str, translation.warnings))
    return Admitted(kept, warnings)


def _refused(obj: Object, resource: Resource, problems: Iterable[FieldProblem]) -> ApiError:
    metadata = obj["metadata"]
    shown = metadata.get("name") or metadata.get("generateName") or ""
    return invalid(
        resource.kind, resource.group, str(shown), ((p.path, p.message) for p in problems)
    )


_STEP = re.compile(r'\["(.*?)"\](?=[.\[]|$)|\[(\d+)\]|\.?([^.\[\]]+)', re.DOTALL)


def dropping(obj: Object, path: str) -> Object:
    """`obj` without the field at a problem's path, such as `spec.predictor.env[0]["x.y"]`."""
    steps: list[str | int] = [
        int(index) if index else (key or word) for key, index, word in _STEP.findall(path)
    ]
    result: Object = _dropping(obj, steps)
    return result


def _dropping(value: Any, steps: list[str | int]) -> Any:
    step, *rest = steps
    if isinstance(value, Mapping) and step in value:
        if not rest:
            return {k: v for k, v in value.items() if k != step}
        return {**value, step: _dropping(value[str(step)], rest)}
    if isinstance(value, list) and isinstance(step, int) and step < len(value) and rest:
        return [*value[:step], _dropping(value[step], rest), *value[step + 1 :]]
    return value


def warning_headers(warnings: tuple[str, ...]) -> list[str]:
    """Values for `Warning` headers, which clients of Kubernetes print."""
    return [f'299 - "{_quoted(w)}"' for w in warnings[:20]]


def _quoted(text: str) -> str:
    clean = "".join(c if c.isprintable() and ord(c) < 256 else "?" for c in text)
    return clean.replace("\\", "\\\\").replace('"', '\\"')[:500]
