"""What may be in a manifest, as OpenAPI: `kubectl explain` and client-side validation read it.

The schemas are made from the dialects' models, flattened to what Kubernetes calls structural: no references
but the one to ObjectMeta, no unions but int-or-string. Fields whose union cannot be said keep any value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import msgspec

from penstock._version import __version__
from penstock.api.field_sets import LIST_KEYS, LIST_SETS
from penstock.api.kinds import POD, REPLICA, Resource, resources
from penstock.api.scale import can_scale
from penstock.dialects.metadata import ObjectMeta

META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
STATUS = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
Schema = dict[str, Any]

#: What a dialect's manifests have beside what their models read.
_STATUS: Schema = {"type": "object", "description": "What the platform says about it; read-only."}
_ANYTHING: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
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
    for resource in resources():
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


@cache
def _groups() -> Mapping[str, tuple[str, str]]:
    return {
        f"apis/{r.group}/{r.version}" if r.group else f"api/{r.version}": (r.group, r.version)
        for r in resources()
    }


@cache
def _v3(group: str, version: str) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    schemas: Schema = {META: _metadata(), STATUS: _status_schema()}
    for resource in resources():
        if (resource.group, resource.version) != (group, version):
            continue
        name = definition_name(resource)
        schemas[name] = _definition(resource, "#/components/schemas/")
        for path, item in _paths(resource).items():
            paths[path] = {method: _v3_operation(path, op, name) for method, op in item.items()}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Penstock", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _v3_operation(path: str, operation: dict[str, Any], name: str) -> dict[str, Any]:
    """Swagger's parameters as OpenAPI 3 has them."""
    part = path.endswith(("}/status", "}/scale"))
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
                kind: {"schema": _patch_schema(kind) or (_ANYTHING if part else schema)}
                for kind in operation["consumes"]
            },
        }
    result["responses"] = {
        "200": {"description": "The object, a list, or what was asked for."},
        "201": {"description": "The object that was made."},
        "default": {
            "description": "A Status that says why not.",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{STATUS}"}}},
        },
    }
    return result


def _patch_schema(kind: str) -> Schema | None:
    if kind == "application/json-patch+json":
        return {"type": "array", "items": _ANYTHING}
    return _ANYTHING if "patch" in kind else None


def _status_schema() -> Schema:
    """Kubernetes' Status, as `wire` makes it."""
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "What became of a request.",
        "required": ["kind", "apiVersion", "status", "message", "reason", "code"],
        "properties": {
            "kind": {"type": "string", "enum": ["Status"]},
            "apiVersion": text,
            "metadata": _ANYTHING,
            "status": {"type": "string", "enum": ["Success", "Failure"]},
            "message": text,
            "reason": text,
            "code": {"type": "integer"},
            "details": _ANYTHING,
        },
    }


@cache
def _hash(group: str, version: str) -> str:
    return hashlib.sha256(msgspec.json.encode(_v3(group, version))).hexdigest()[:32].upper()


# -- schemas ------------------------------------------------------------------------------------------


@cache
def _metadata() -> Schema:
    schema = _list_types(flattened(ObjectMeta.model_json_schema()))
    return {**schema, "description": "Kubernetes' ObjectMeta."}


def _definition(resource: Resource, references: str) -> Schema:
    if resource.dialect is None:
        schema: Schema = {"properties": {"spec": _ANYTHING, "status": _STATUS}}
    else:
        schema = _list_types(flattened(resource.dialect.model.model_json_schema()))
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


def _list_types(schema: Schema, name: str = "") -> Schema:
    """How server-side apply merges each list: the same rules that owners of fields are counted by."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {k: _list_types(v, k) for k, v in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), Mapping):
        result["additionalProperties"] = _list_types(schema["additionalProperties"])
    if schema.get("type") == "array":
        items = result["items"] = _list_types(schema["items"])
        if name in LIST_SETS:
            result["x-kubernetes-list-type"] = "set"
        elif name in LIST_KEYS and items.get("type") == "object":
            result["x-kubernetes-list-type"] = "map"
            result["x-kubernetes-list-map-keys"] = [LIST_KEYS[name]]
        else:
            result["x-kubernetes-list-type"] = "atomic"
    return result


# -- paths --------------------------------------------------------------------------------------------


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "kind": resource.kind, "version": resource.version}


#: What a list and a watch can be asked for.
_LISTING = (
    ("labelSelector", "string"),
    ("fieldSelector", "string"),
    ("limit", "integer"),
    ("continue", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("watch", "boolean"),
    ("allowWatchBookmarks", "boolean"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
)
_WRITING = (("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"))
_DELETING = (
    ("dryRun", "string"),
    ("propagationPolicy", "string"),
    ("orphanDependents", "boolean"),
    ("gracePeriodSeconds", "integer"),
)
_LOGGING = (
    ("container", "string"),
    ("follow", "boolean"),
    ("limitBytes", "integer"),
    ("tailLines", "integer"),
)
_BODIES = ("application/json", "application/yaml")
_PATCHES = (
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
)


def _paths(resource: Resource) -> dict[str, Any]:
    base = f"/apis/{resource.group}" if resource.group else "/api"
    base += f"/{resource.version}"
    front = f"{base}/namespaces/{{namespace}}" if resource.namespaced else base
    collection, one = f"{front}/{resource.plural}", f"{front}/{resource.plural}/{{name}}"
    place = [_parameter("namespace", "path")] if resource.namespaced else []
    named = [*place, _parameter("name", "path")]

    def operation(
        verb: str, place: list[Any], query: Iterable[tuple[str, str]], *consumes: str, of: str = ""
    ) -> dict[str, Any]:
        return {
            "operationId": f"{verb}_{definition_name(resource)}{of}",
            "x-kubernetes-action": verb,
            "x-kubernetes-group-version-kind": _gvk(resource),
            "parameters": [*place, *(_parameter(name, "query", type_) for name, type_ in query)],
            **({"consumes": list(consumes)} if consumes else {}),
        }

    patching = (*_WRITING, ("force", "boolean"))
    paths: dict[str, Any] = {
        collection: {"get": operation("list", place, _LISTING)},
        one: {"get": operation("get", named, ())},
    }
    if resource.namespaced:
        everywhere = operation("list", [], _LISTING, of="_everywhere")
        paths[f"{base}/{resource.plural}"] = {"get": everywhere}
    if resource.dialect is not None:
        paths[collection] |= {
            "post": operation("create", place, _WRITING, *_BODIES),
            "delete": operation("deletecollection", place, (*_LISTING[:2], *_DELETING)),
        }
        paths[one] |= {
            "put": operation("replace", named, _WRITING, *_BODIES),
            "patch": operation("patch", named, patching, *_PATCHES),
            "delete": operation("delete", named, _DELETING),
        }
    below = ["status"] if resource.has_status else []
    below += ["scale"] if can_scale(resource) else []
    for part in below:
        paths[f"{one}/{part}"] = {
            "get": operation("get", named, (), of=f"_{part}"),
            "put": operation("replace", named, _WRITING, *_BODIES, of=f"_{part}"),
            "patch": operation("patch", named, patching, *_PATCHES, of=f"_{part}"),
        }
    if resource is POD:
        paths[f"{one}/log"] = {"get": operation("get", named, _LOGGING, of="_log")}
    elif resource.is_service or resource is REPLICA:
        query = (("tail", "integer"), ("follow", "boolean"), ("prefix", "boolean"))
        paths[f"{one}/logs"] = {"get": operation("get", named, query, of="_logs")}
    return paths


def _parameter(name: str, where: str, type_: str = "string") -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "type": type_,
        **({"required": True} if where == "path" else {}),
    }
