"""What may be in a manifest, as OpenAPI: `kubectl explain` and client-side validation read it.

The schemas are made from the dialects' models, flattened to what Kubernetes calls structural: no references
but the one to ObjectMeta, no unions but int-or-string. Fields whose union cannot be said keep any value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from penstock._version import __version__
from penstock.api.kinds import Resource, resources
from penstock.dialects.metadata import ObjectMeta

META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
Schema = dict[str, Any]

#: What a dialect's manifests have beside what their models read.
_STATUS: Schema = {"type": "object", "description": "What the platform says about it; read-only."}
_KEPT = ("description", "type", "format", "enum", "minimum", "maximum", "minLength", "minItems")
_DESCRIPTIONS = {
    "apiVersion": "The version of this manifest's fields.",
    "kind": "What the manifest describes.",
    "metadata": "Name, namespace, labels, annotations.",
}


def index() -> dict[str, Any]:
    """`/openapi/v3`: where the documents of the groups are. The hash lets clients keep them."""
    return {
        "paths": {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={_hash(*where)}"}
            for path, where in _groups().items()
        }
    }


def v3(path: str) -> dict[str, Any] | None:
    """The document of one group version (`apis/GROUP/VERSION`); None if there is none."""
    where = _groups().get(path)
    return None if where is None else _v3(*where)


@cache
def v2() -> dict[str, Any]:
    """All of it, as Swagger 2.0."""
    definitions: Schema = {META: _metadata()}
    paths: dict[str, Any] = {}
    for resource in _written():
        definitions[definition_name(resource)] = _definition(resource, "#/definitions/")
        for path, item in _paths(resource).items():
            paths[path] = {
                method: {**op, "responses": {"200": {"description": "OK"}}}
                for method, op in item.items()
            }
    return {
        "swagger": "2.0",
        "info": {"title": "Penstock", "version": __version__},
        "paths": paths,
        "definitions": definitions,
    }


def definition_name(resource: Resource) -> str:
    """`dev.penstock.v1alpha1.InferenceService`."""
    if not resource.group:
        return f"io.k8s.api.core.{resource.version}.{resource.kind}"
    reverse = ".".join(reversed(resource.group.split(".")))
    return f"{reverse}.{resource.version}.{resource.kind}"


def _written() -> list[Resource]:
    return [r for r in resources() if r.dialect is not None]


@cache
def _groups() -> Mapping[str, tuple[str, str]]:
    return {
        f"apis/{r.group}/{r.version}" if r.group else f"api/{r.version}": (r.group, r.version)
        for r in _written()
    }


@cache
def _v3(group: str, version: str) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    schemas: Schema = {META: _metadata()}
    for resource in _written():
        if (resource.group, resource.version) != (group, version):
            continue
        name = definition_name(resource)
        schemas[name] = _definition(resource, "#/components/schemas/")
        for path, item in _paths(resource).items():
            paths[path] = {method: _v3_operation(op, name) for method, op in item.items()}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Penstock", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _v3_operation(operation: dict[str, Any], name: str) -> dict[str, Any]:
    """Swagger's parameters as OpenAPI 3 has them."""
    result = {k: v for k, v in operation.items() if k not in ("consumes", "parameters")}
    result["parameters"] = [
        {k: v for k, v in p.items() if k != "type"} | {"schema": {"type": p["type"]}}
        for p in operation["parameters"]
        if p["in"] != "body"
    ]
    if "consumes" in operation:
        schema = {"$ref": f"#/components/schemas/{name}"}
        result["requestBody"] = {
            "required": True,
            "content": {
                kind: {"schema": {} if "patch" in kind else schema}
                for kind in operation["consumes"]
            },
        }
    result["responses"] = {"default": {"description": "The object, a list, or a Status."}}
    return result


@cache
def _hash(group: str, version: str) -> str:
    return hashlib.sha256(msgspec.json.encode(_v3(group, version))).hexdigest()[:32].upper()


# -- schemas ------------------------------------------------------------------------------------------


@cache
def _metadata() -> Schema:
    return {**flattened(ObjectMeta.model_json_schema()), "description": "Kubernetes' ObjectMeta."}


def _definition(resource: Resource, references: str) -> Schema:
    assert resource.dialect is not None  # noqa: S101 - `_written` picks them so
    schema = flattened(resource.dialect.model.model_json_schema())
    properties = {k: dict(v) for k, v in schema.get("properties", {}).items()}
    properties["metadata"] = {"$ref": references + META}
    for field in ("apiVersion", "kind"):
        properties[field] = {"type": "string", "description": _DESCRIPTIONS[field]}
    properties.setdefault("status", _STATUS)
    return {
        "type": "object",
        "description": f"{resource.kind} of {resource.api_version}.",
        "properties": properties,
        **({"required": r} if (r := _required(schema)) else {}),
        "x-kubernetes-group-version-kind": [_gvk(resource)],
    }


def _required(schema: Schema) -> list[str]:
    # A client fills these in by itself, and validates before it does.
    return [r for r in schema.get("required", ()) if r not in ("apiVersion", "kind", "metadata")]


def flattened(schema: Mapping[str, Any]) -> Schema:
    """A pydantic schema without references, nulls and titles."""
    return _flat(schema, schema.get("$defs", {}), ())


def _flat(schema: Any, definitions: Mapping[str, Any], inside: tuple[str, ...]) -> Schema:
    if not isinstance(schema, Mapping):
        return {"x-kubernetes-preserve-unknown-fields": True}
    reference = schema.get("$ref")
    if reference is not None:
        name = str(reference).rpartition("/")[2]
        if name in inside:  # a model that contains itself: its inner one may be anything
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return _flat(definitions[name], definitions, (*inside, name))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            choices = [c for c in schema[union] if c.get("type") != "null"]
            if len(choices) == 1:
                about = {k: schema[k] for k in ("description",) if k in schema}
                return {**_flat(choices[0], definitions, inside), **about}
            if {c.get("type") for c in choices} <= {"integer", "string", "number"}:
                return {"x-kubernetes-int-or-string": True}
            return {"x-kubernetes-preserve-unknown-fields": True}
    result: Schema = {k: schema[k] for k in _KEPT if k in schema}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if "exclusiveMinimum" in schema:
        result |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if "properties" in schema:
        result["properties"] = {
            k: _flat(v, definitions, inside) for k, v in schema["properties"].items()
        }
        if schema.get("required"):
            result["required"] = list(schema["required"])
    elif isinstance(schema.get("additionalProperties"), Mapping):
        result["additionalProperties"] = _flat(schema["additionalProperties"], definitions, inside)
    elif schema.get("type") == "object" or not result.get("type"):
        result["x-kubernetes-preserve-unknown-fields"] = True
    if schema.get("type") == "array":
        result["items"] = _flat(schema.get("items", {}), definitions, inside)
    return result


# -- paths --------------------------------------------------------------------------------------------


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "kind": resource.kind, "version": resource.version}


def _paths(resource: Resource) -> dict[str, Any]:
    base = f"/apis/{resource.group}" if resource.group else "/api"
    base += f"/{resource.version}"
    front = f"{base}/namespaces/{{namespace}}" if resource.namespaced else base
    collection, one = f"{front}/{resource.plural}", f"{front}/{resource.plural}/{{name}}"
    place = [_parameter("namespace", "path")] if resource.namespaced else []
    named = [*place, _parameter("name", "path")]
    dry = [_parameter(n, "query") for n in ("dryRun", "fieldManager", "fieldValidation")]
    listing = [
        _parameter(n, "query")
        for n in ("labelSelector", "fieldSelector", "continue", "resourceVersion")
    ]
    listing += [_parameter("limit", "query", "integer")]

    def operation(verb: str, parameters: list[Any], *consumes: str) -> dict[str, Any]:
        return {
            "operationId": f"{verb}_{definition_name(resource)}",
            "x-kubernetes-action": verb,
            "x-kubernetes-group-version-kind": _gvk(resource),
            "parameters": parameters,
            **({"consumes": list(consumes)} if consumes else {}),
        }

    kinds = ("application/json", "application/yaml")
    patches = (
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/apply-patch+yaml",
    )
    return {
        collection: {
            "get": operation("list", place + listing),
            "post": operation("create", place + dry, *kinds),
        },
        one: {
            "get": operation("get", named),
            "put": operation("replace", named + dry, *kinds),
            "patch": operation(
                "patch", [*named, *dry, _parameter("force", "query", "boolean")], *patches
            ),
            "delete": operation("delete", named + dry[:1]),
        },
    }


def _parameter(name: str, where: str, type_: str = "string") -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "type": type_,
        **({"required": True} if where == "path" else {}),
    }
