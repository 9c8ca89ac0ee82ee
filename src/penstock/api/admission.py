"""From the bytes of a write to an object that may be stored.

Everything that is wrong with it is said at once, by field. What users may not set - status, uid, versions -
is taken out here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from penstock.api.kinds import Resource
from penstock.api.redaction import restore, without_secrets_applied
from penstock.api.wire import ApiError, invalid
from penstock.errors import InvalidInput, InvalidManifest
from penstock.store.base import Object

#: Metadata that the store and the controllers own.
_OWNED = (
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
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
        document = (
            yaml.load(body, Loader=_Loader)  # noqa: S506 - is a SafeLoader
            if kind.endswith("yaml")
            else msgspec.json.decode(body)
        )
    except (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        first = str(exc).partition("\n")[0]
        raise InvalidInput(f"The body cannot be read: {first}.") from exc
    check_depth(document)
    return document


class _Loader(yaml.SafeLoader):
    """Dates stay text, as JSON would have them; aliases are refused because they can multiply."""

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


def admit(
    document: Mapping[str, Any],
    resource: Resource,
    *,
    namespace: str,
    name: str | None,
    stored: Object | None = None,
    runs_containers: bool = False,
) -> Admitted:
    """Check a written document against its path, its dialect, and what is stored.

    Raises ApiError 400 when it does not belong under this path, 422 with every field that is wrong.
    """
    dialect = resource.dialect
    if dialect is None:
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
    obj: Object = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        **{k: v for k, v in document.items() if k not in ("apiVersion", "kind", "status")},
        "metadata": metadata,
    }
    obj = without_secrets_applied(restore(obj, stored, dialect), dialect)
    try:
        translation = dialect.translate(obj, runs_containers=runs_containers)
        obj = dialect.admit(obj)
        if stored is not None:
            dialect.check_update(stored, obj)
    except InvalidManifest as exc:
        shown = metadata.get("name") or metadata.get("generateName") or ""
        raise invalid(
            resource.kind, resource.group, str(shown), ((p.path, p.message) for p in exc.problems)
        ) from exc
    return Admitted(obj, tuple(str(w) for w in translation.warnings))


def warning_headers(warnings: tuple[str, ...]) -> list[str]:
    """Values for `Warning` headers, which clients of Kubernetes print."""
    return [f'299 - "{_quoted(w)}"' for w in warnings[:20]]


def _quoted(text: str) -> str:
    clean = "".join(c if c.isprintable() and ord(c) < 256 else "?" for c in text)
    return clean.replace("\\", "\\\\").replace('"', '\\"')[:500]
