"""The paths of Seldon V1, in one table, and the OpenAPI document and the page that are made of it.

Seldon's servers show theirs at `/api/v1.0/doc/`. Ours differs from service to service, since it has what
that one answers: of a class for Seldon's wrapper its own calls, and the explain call where there is an
explainer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from penstock._version import __version__

#: What has to be there for a path to be answered, beside the verbs of units.
PREDICT: Final = "predict"
FEEDBACK: Final = "send-feedback"
EXPLAIN: Final = "explain"
#: Only a graph's own pages have it, or only those of one process.
GRAPH: Final = "graph"
PROCESS: Final = "process"

_MESSAGE: Final = "SeldonMessage"
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """One path and its method."""

    path: str
    summary: str
    #: A service has to be able to do it; empty: all answer it.
    needs: str = ""
    method: str = "get"
    takes: str = ""
    gives: str = "Document"
    #: Answered with 503 where something is not ready.
    may_wait: bool = False
    #: Its answer is text.
    text: str = ""


def _posts(summary: str, needs: str, takes: str, gives: str, *paths: str) -> list[Operation]:
    return [Operation(p, summary, needs, "post", takes, gives) for p in paths]


def _pages(
    summary: str, *paths: str, needs: str = "", may_wait: bool = False, text: str = ""
) -> list[Operation]:
    return [Operation(p, summary, needs, may_wait=may_wait, text=text) for p in paths]


OPERATIONS: Final[tuple[Operation, ...]] = (
    *_posts(
        "Ask for a prediction", PREDICT, _MESSAGE, _MESSAGE,
        "/api/v1.0/predictions", "/api/v0.1/predictions", "/predict",
    ),
    *_posts(
        "Reward an answer", FEEDBACK, "Feedback", _MESSAGE,
        "/api/v1.0/feedback", "/api/v0.1/feedback", "/send-feedback",
    ),
    *_posts(
        "Ask why it answers so", EXPLAIN, _MESSAGE, "Document",
        "/api/v1.0/explain", "/api/v0.1/explain",
    ),
    *_posts("Change an input", "transform-input", _MESSAGE, _MESSAGE, "/transform-input"),
    *_posts("Change an output", "transform-output", _MESSAGE, _MESSAGE, "/transform-output"),
    *_posts("Choose a child", "route", _MESSAGE, _MESSAGE, "/route"),
    *_posts("Make one answer of several", "aggregate", "SeldonMessageList", _MESSAGE, "/aggregate"),
    *_pages("What it is", "/api/v1.0/metadata", "/api/v0.1/metadata", "/metadata"),
    *_pages("What a model is", "/api/v1.0/metadata/{name}", "/api/v0.1/metadata/{name}"),
    *_pages(
        "Whether it is ready", "/api/v1.0/status/{name}", "/api/v0.1/status/{name}", may_wait=True
    ),
    *_pages(
        "Whether it is well", "/api/v1.0/health/status", "/api/v0.1/health/status", "/health/status",
        may_wait=True,
    ),
    *_pages(
        "Whether it is there", "/api/v1.0/health/ping", "/api/v0.1/health/ping", "/health/ping",
        text="text/plain",
    ),
    *_pages("Whether it is there", "/live", needs=GRAPH, text="text/plain"),
    *_pages("Whether it is there", "/live", needs=PROCESS),
    *_pages("Whether it is ready", "/ready", may_wait=True),
    *_pages("This, to be read", "/api/v1.0/doc/", "/api/v0.1/doc/", text="text/html"),
    *_pages("This document", "/api/v0.1/doc/seldon.json", "/api/v1.0/doc/seldon.json"),
)  # fmt: skip


def answered(abilities: Collection[str]) -> list[Operation]:
    """What a service with these abilities answers."""
    return [o for o in OPERATIONS if not o.needs or o.needs in abilities]


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final = {"type": "string"}
#: Of a tensor, as protobuf's JSON has it.
_NUMBER: Final = {
    "anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]
}
_META: Final = {
    "type": "object",
    "properties": {
        "puid": _TEXT,
        "tags": {"type": "object"},
        "routing": {"type": "object", "additionalProperties": {"type": "integer"}},
        "requestPath": {"type": "object", "additionalProperties": _TEXT},
        "metrics": {"type": "array", "items": _ref("Metric")},
    },
}
_SCHEMAS: Final[dict[str, Any]] = {
    _MESSAGE: {
        "type": "object",
        "description": "At most one of data, strData, binData and jsonData.",
        "properties": {
            "meta": _META,
            "data": _ref("Data"),
            "strData": _TEXT,
            "binData": {"type": "string", "format": "byte"},
            "jsonData": {},
        },
    },
    "Data": {
        "type": "object",
        "description": "One of ndarray, tensor and tftensor; the answer has the request's.",
        "properties": {
            "names": {"type": "array", "items": _TEXT},
            "ndarray": {"type": "array", "items": {}},
            "tensor": {
                "type": "object",
                "required": ["shape", "values"],
                "properties": {
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "values": {"type": "array", "items": _NUMBER},
                },
            },
            "tftensor": {"type": "object", "description": "TensorFlow's TensorProto."},
        },
    },
    "Metric": {
        "type": "object",
        "properties": {
            "key": _TEXT,
            "type": {"type": "string", "enum": ["COUNTER", "GAUGE", "TIMER"]},
            "value": {"type": "number"},
            "tags": {"type": "object", "additionalProperties": _TEXT},
        },
    },
    "SeldonMessageList": {
        "type": "object",
        "required": ["seldonMessages"],
        "properties": {"seldonMessages": {"type": "array", "items": _ref(_MESSAGE)}},
    },
    "Feedback": {
        "type": "object",
        "properties": {
            "request": _ref(_MESSAGE),
            "response": _ref(_MESSAGE),
            "truth": _ref(_MESSAGE),
            "reward": {"type": "number"},
        },
    },
    "Failure": {
        "type": "object",
        "properties": {
            "status": {
                "type": "object",
                "properties": {
                    "code": {"type": "integer"},
                    "info": _TEXT,
                    "reason": _TEXT,
                    "status": {"type": "string", "enum": ["FAILURE"]},
                },
            }
        },
    },
    "Document": {"type": "object"},
}


def document(name: str, abilities: Collection[str]) -> dict[str, Any]:
    """The OpenAPI document of the service `name`. Its paths are relative to where it was found."""
    paths: dict[str, Any] = {}
    for operation in answered(abilities):
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": f"{name}: Seldon V1",
            "version": __version__,
            "description": "Seldon V1's REST calls that this service answers.",
        },
        "servers": [{"url": "../../.."}],
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def with_explain(found: dict[str, Any]) -> dict[str, Any]:
    """The document of a service's process, with the call that only the gateway knows."""
    paths = dict(found["paths"])
    for operation in OPERATIONS:
        if operation.needs == EXPLAIN:
            paths[operation.path] = {operation.method: _described(operation)}
    return {**found, "paths": paths}


def _described(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "As asked."}
    if operation.text:
        good["content"] = {operation.text: {"schema": _TEXT}}
    else:
        good["content"] = {_JSON: {"schema": _ref(operation.gives)}}
    bad = {"description": "What is wrong.", "content": {_JSON: {"schema": _ref("Failure")}}}
    made: dict[str, Any] = {"summary": operation.summary, "tags": ["Seldon V1"]}
    made["responses"] = {"200": good, "default": bad}
    if operation.may_wait:
        made["responses"]["503"] = {**good, "description": "It is not."}
    if "{name}" in operation.path:
        made["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": _TEXT}]
    if operation.takes:
        taken = {"schema": _ref(operation.takes)}
        forms = {
            "schema": {"type": "object", "properties": {"json": _TEXT}, "additionalProperties": {}}
        }
        made["requestBody"] = {
            "required": True,
            "content": {
                _JSON: taken,
                "application/x-www-form-urlencoded": forms,
                "multipart/form-data": forms,
            },
        }
    return made


#: The page loads nothing but the document beside it.
PAGE_HEADERS: Final = (
    b"content-type: text/html; charset=utf-8\r\ncontent-security-policy: default-src 'none'; "
    b"script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'\r\n"
)
PAGE: Final = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Seldon V1</title>
<style>
body { font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 50em; padding: 0 1em }
code { font-size: 1.1em } th { text-align: left } td, th { padding: 0.2em 1.5em 0.2em 0 }
</style>
<h1>Seldon V1</h1>
<p>The calls of this service are in its <a href="seldon.json" id="document">OpenAPI document</a>.</p>
<table id="calls"></table>
<script>
const base = location.pathname.replace(/\\/*$/, "/");
document.getElementById("document").href = base + "seldon.json";
fetch(base + "seldon.json").then((answer) => answer.json()).then((found) => {
  document.querySelector("h1").textContent = found.info.title;
  const table = document.getElementById("calls");
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, told] of Object.entries(methods)) {
      const row = table.insertRow();
      for (const text of [method.toUpperCase(), path, told.summary]) {
        row.insertCell().textContent = text;
      }
    }
  }
});
</script>
</html>
"""
