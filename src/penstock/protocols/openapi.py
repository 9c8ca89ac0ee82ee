"""The inference port as an OpenAPI document, `GET /v2/openapi.json`: of a model process and of a gateway.

What is published is what any service answers by its protocol; paths by which a gateway finds a service
(`/serving/NAMESPACE/NAME/...`, Host, headers) lead to the same operations. MLServer's clients look for it at
`/v2/docs/dataplane.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from penstock._version import __version__
from penstock.protocols.datatypes import DATATYPES
from penstock.protocols.mlflow import FORMATS

_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_ANY: Final[dict[str, Any]] = {}
_PARAMETERS: Final = {"type": "object", "additionalProperties": True}
_ROWS: Final = {"type": "array", "minItems": 1, "items": _ANY}


def _object(required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        made["required"] = list(required)
    return made


def _list(items: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final = {"type": "string"}
_SIZE: Final = {"type": "integer", "minimum": 0}
_DATATYPE: Final = {"type": "string", "enum": sorted(DATATYPES)}

SCHEMAS: Final[Mapping[str, Any]] = {
    "Error": _object(("error",), error=_TEXT),
    "InferRequest": _object(
        ("inputs",),
        id=_TEXT,
        parameters=_PARAMETERS,
        inputs=_list(_ref("RequestInput"), minItems=1),
        outputs=_list(_ref("RequestOutput")),
    ),
    "RequestInput": _object(
        ("name", "shape", "datatype", "data"),
        name=_TEXT,
        shape=_list(_SIZE),
        datatype=_DATATYPE,
        parameters=_PARAMETERS,
        data={"type": "array", "items": _ANY, "description": "Flat, or nested as the shape is."},
    ),
    "RequestOutput": _object(("name",), name=_TEXT, parameters=_PARAMETERS),
    "InferResponse": _object(
        ("model_name", "outputs"),
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS,
        outputs=_list(_ref("ResponseOutput")),
    ),
    "ResponseOutput": _object(
        ("name", "shape", "datatype"),
        name=_TEXT,
        shape=_list(_SIZE),
        datatype=_DATATYPE,
        parameters=_PARAMETERS,
        data=_list(_ANY),
    ),
    "PredictRequest": {
        "type": "object",
        "additionalProperties": True,
        "oneOf": [
            _object(("instances",), instances=_ROWS),
            _object(("inputs",), inputs={"anyOf": [_ROWS, {"type": "object"}]}),
        ],
        "properties": {"signature_name": _TEXT},
    },
    "PredictResponse": _object(
        (), predictions=_ANY, outputs={"description": "A SavedModel's answer to columns."}
    ),
    "Examples": {
        **_object(
            ("examples",),
            signature_name=_TEXT,
            context={"type": "object"},
            examples=_list({"type": "object"}, minItems=1),
        ),
        "additionalProperties": False,
    },
    "Results": _object(("results",), results=_list(_ANY)),
    "Tensor": _object(
        ("name", "datatype", "shape"),
        name=_TEXT,
        datatype=_TEXT,
        shape=_list({"type": "integer"}),
    ),
    "ModelMetadata": _object(
        ("name",),
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_ref("Tensor")),
        outputs=_list(_ref("Tensor")),
    ),
    "ModelReady": _object(("name", "ready"), name=_TEXT, ready={"type": "boolean"}),
    "Models": _object(("models",), models=_list(_TEXT)),
    "ServerMetadata": _object(
        ("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list(_TEXT)
    ),
    "Live": _object(("live",), live={"type": "boolean"}),
    "Ready": _object(("ready",), ready={"type": "boolean"}),
    "IndexRequest": _object((), ready={"type": "boolean"}),
    "Index": _list(
        _object(("name", "state"), name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)
    ),
    "Change": _object((), parameters=_PARAMETERS),
    "Document": {"type": "object", "additionalProperties": True},
    "Invocation": {
        "type": "object",
        "description": "Exactly one of the formats, and perhaps params.",
        "properties": {**dict.fromkeys(FORMATS, _ANY), "params": {"type": "object"}},
        "additionalProperties": False,
    },
    "SeldonMessage": _object(
        (),
        data=_object((), names=_list(_TEXT), ndarray=_list(_ANY), tensor={"type": "object"}),
        strData=_TEXT,
        binData={"type": "string", "format": "byte"},
        jsonData=_ANY,
        meta={"type": "object"},
    ),
    "SeldonError": _object((), status=_object((), status=_TEXT, info=_TEXT, code=_ANY, reason=_TEXT)),
    "MlflowError": _object(("error_code", "message"), error_code=_TEXT, message=_TEXT),
}  # fmt: skip

#: Schemas of what only a gateway answers.
GATEWAY_SCHEMAS: Final[dict[str, Any]] = {
    "Query": {
        **_object(
            (),
            models=_list(_TEXT, minItems=1, maxItems=1000),
            id=_TEXT,
            selector={**_TEXT, "description": "Labels, as Kubernetes' list calls take them."},
            inputs=_list(_ref("RequestInput")),
            instances=_ROWS,
            parameters=_PARAMETERS,
            outputs=_list(_ref("RequestOutput")),
            timeout={"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 3600},
        ),
        "additionalProperties": False,
        "description": "One of models and selector, and one of inputs and instances.",
    },
    "QueryResults": _object(
        ("results",),
        results=_list(
            _object(
                ("model", "status", "seconds"),
                model=_TEXT,
                status={"type": "integer"},
                seconds={"type": "number"},
                outputs=_list(_ref("ResponseOutput")),
                predictions=_ANY,
                answer=_ANY,
                error=_ANY,
                id=_ANY,
                arm=_TEXT,
                revision=_TEXT,
                route=_TEXT,
                trace=_ANY,
            )
        ),
    ),
    "Feedback": {
        **_object(
            ("id", "reward"),
            id=_TEXT,
            reward={"type": "number"},
            truth=_ANY,
            model=_TEXT,
            namespace=_TEXT,
        ),
        "additionalProperties": False,
    },
}

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/versions/{version}"
_V1: Final = "/v1/models/{model}"


def _body(schema: str, *more: str) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": _ref(schema)}}
    content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in more}
    return {"required": True, "content": content}


def _operation(
    path: str,
    summary: str,
    tag: str,
    answer: str,
    *,
    body: dict[str, Any] | None = None,
    error: str = "Error",
    also: tuple[str, ...] = (),
) -> dict[str, Any]:
    """`also` are statuses beside 200 that have a document of the answer's own kind."""
    good: dict[str, Any] = {
        "description": "As asked.",
        "content": {_JSON: {"schema": _ref(answer)}},
    }
    if body is not None and _BINARY in body["content"]:
        good["content"][_BINARY] = {"schema": {"type": "string", "format": "binary"}}
    bad = {"description": "What is wrong.", "content": {_JSON: {"schema": _ref(error)}}}
    names = [n for n in ("model", "version") if f"{{{n}}}" in path]
    made: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "parameters": [
            {"name": n, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}
            for n in names
        ],
        "responses": {"200": good, **dict.fromkeys(also, good), "default": bad},
    }
    if body is not None:
        made["requestBody"] = body
    return made


def _paths(gateway: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def get(path: str, summary: str, tag: str, answer: str, **more: Any) -> None:
        found.setdefault(path, {})["get"] = _operation(path, summary, tag, answer, **more)

    def post(path: str, summary: str, tag: str, answer: str, body: Any, **more: Any) -> None:
        found.setdefault(path, {})["post"] = _operation(
            path, summary, tag, answer, body=body, **more
        )

    infer = _body("InferRequest", _BINARY)
    for version in ("", _VERSION):
        model = _MODEL + version
        post(f"{model}/infer", "Ask a model", "V2", "InferResponse", infer)
        get(model, "What a model takes and answers", "V2", "ModelMetadata")
        get(f"{model}/ready", "Whether a model is ready", "V2", "ModelReady", also=("503",))
        get(f"{model}/config", "A model's configuration, as Triton has it", "V2", "Document")
        get(f"{model}/stats", "A model's statistics, as Triton has them", "V2", "Document")
        tag = "V1"
        predict = _body("PredictRequest")
        post(f"{_V1}{version}:predict", "Ask a model", tag, "PredictResponse", predict)
        examples = _body("Examples")
        classify, regress = "Classify examples", "Regress examples"
        post(f"{_V1}{version}:classify", classify, tag, "Results", examples)
        post(f"{_V1}{version}:regress", regress, tag, "Results", examples)
        get(f"{_V1}{version}/metadata", "A model's signatures", tag, "Document")
    post(f"{_V1}:explain", "Ask why a model answers so", "V1", "Document", predict)
    post(f"{_MODEL}/explain", "Ask why a model answers so", "V2", "InferResponse", infer)
    get(_V1, "Whether a model is ready", "V1", "ModelReady")
    get(f"{_V1}{_VERSION}", "A version's state", "V1", "Document")
    get("/v1/models", "The models' names", "V1", "Models")
    get("/v2/models", "The models' names", "V2", "Models")
    get("/v2", "The server", "V2", "ServerMetadata")
    get("/v2/health/live", "Whether the server runs", "V2", "Live")
    get("/v2/health/ready", "Whether every model is ready", "V2", "Ready", also=("503",))
    get("/v2/models/stats", "All statistics", "V2", "Document")
    change = {**_body("Change"), "required": False}
    index = {**_body("IndexRequest"), "required": False}
    post("/v2/repository/index", "Models and their states", "repository", "Index", index)
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/{{model}}/{verb}"
        post(path, f"{verb.capitalize()} a model", "repository", "Document", change)
    mlflow = _body("Invocation", "text/csv")
    post("/invocations", "Ask the only model", "MLflow", "Document", mlflow, error="MlflowError")
    message = _body("SeldonMessage")
    for v in ("v1.0", "v0.1"):
        path = f"/api/{v}/predictions"
        post(path, "Ask the only model", "Seldon", "SeldonMessage", message, error="SeldonError")
    if gateway:
        query = _body("Query")
        post("/v2/query", "Ask many models at once", "V2", "QueryResults", query)
        reward = _body("Feedback")
        for path in ("/feedback", f"{_MODEL}/feedback"):
            post(path, "Reward an answer that a bandit chose", "bandits", "Document", reward)
    return dict(sorted(found.items()))


@cache
def document(gateway: bool = False) -> dict[str, Any]:
    """The document, of a gateway with what only that answers. Not to be changed."""
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Penstock: inference",
            "version": __version__,
            "description": "The Open Inference Protocol (V2), V1, and the protocols of TensorFlow Serving, "
            "MLflow and Seldon V1. Errors are answered in each protocol's own shape.",
        },
        "paths": _paths(gateway),
        "components": {"schemas": {**SCHEMAS, **(GATEWAY_SCHEMAS if gateway else {})}},
    }
