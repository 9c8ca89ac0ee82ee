"""Requests to the control API that are not right, and what each is answered with.

`test_api_bad_input` sends each and holds the answers and docs/reference/control-bad-input.md to this table.
`python tests/api/bad_control_requests.py` prints the page.
"""

# ruff: noqa: E501 - a request a line

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GROUP = "/apis/penstock.dev/v1alpha1"
ALL = f"{GROUP}/namespaces/default/inferenceservices"
IRIS = f"{ALL}/iris"
SECRETS = "/api/v1/namespaces/default/secrets"
PODS = "/api/v1/namespaces/default/pods"
JSON, YAML = "application/json", "application/yaml"
MERGE, PATCH = "application/merge-patch+json", "application/json-patch+json"
APPLY, STRATEGIC = "application/apply-patch+yaml", "application/strategic-merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@dataclass(frozen=True)
class Bad:
    """`theirs` is Kubernetes' status by its conventions and source; 0 where it has no such thing."""

    name: str
    method: str
    path: str
    status: int
    says: str
    theirs: int
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", JSON)


def bad(
    name: str,
    method: str,
    path: str,
    status: int,
    says: str,
    theirs: int,
    *,
    body: Any = None,
    kind: str = JSON,
    query: Mapping[str, str] | None = None,
    **headers: str,
) -> Bad:
    sent = {k.replace("_", "-"): v for k, v in headers.items()}
    if body is not None:
        sent["content-type"] = kind
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Bad(name, method, path, status, says, theirs, query or {}, sent, data)


def isvc(**changed: Any) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "other"},
        "spec": {"predictor": {"sklearn": {"storageUri": "models/iris"}}},
        **changed,
    }


def iris(**changed: Any) -> dict[str, Any]:
    return isvc(**{"metadata": {"name": "iris"}, **changed})


def predictor(**fields: Any) -> dict[str, Any]:
    return isvc(spec={"predictor": fields})


MANAGER = {"fieldManager": "m"}

TABLES: Mapping[str, tuple[Bad, ...]] = {
    "Paths and methods": (
        bad("no such path", "GET", "/nothing", 404, "could not find", 404),
        bad("no such group", "GET", "/apis/nobody.dev", 404, "no API group", 404),
        bad("no such version", "GET", "/apis/penstock.dev/v9", 404, "no API version", 404),
        bad("no such kind", "GET", f"{GROUP}/namespaces/default/things", 404, "could not find", 404),
        bad("no such object", "GET", f"{ALL}/none", 404, '"none" not found', 404),
        bad("an object without its namespace", "GET", f"{GROUP}/inferenceservices/iris", 404, "could not find", 404),
        bad("no such part of an object", "GET", f"{IRIS}/thing", 404, "no thing below", 404),
        bad("no such OpenAPI document", "GET", "/openapi/v3/apis/none/v1", 404, "no OpenAPI document", 404),
        bad("POST to an object", "POST", IRIS, 405, "not possible", 405, body=iris()),
        bad("PUT to a collection", "PUT", ALL, 405, "not possible", 405, body=isvc()),
        bad("POST to all namespaces", "POST", f"{GROUP}/inferenceservices", 405, "not possible", 405, body=isvc()),
        bad("DELETE of a status", "DELETE", f"{IRIS}/status", 405, "not possible", 405),
        bad("write of what runs", "POST", PODS, 405, "made by the platform", 201, body={"metadata": {"name": "x"}}),
        bad("write of a revision", "POST", f"{GROUP}/namespaces/default/revisions", 405, "made by the platform", 0, body={"metadata": {"name": "x"}}),
        bad("deletion of what runs", "DELETE", f"{PODS}/x", 405, "made by the platform", 404),
    ),
    "Who asks": (
        bad("a Host that is not this machine's", "GET", "/version", 403, "not this server's", 0, host="evil.example"),
        bad("a request from another site", "GET", "/version", 403, "other web sites", 0, origin="http://evil.example"),
        bad("a form", "POST", ALL, 415, "not accepted", 415, body=b"a=1", kind="application/x-www-form-urlencoded"),
        bad("text", "POST", ALL, 415, "not accepted", 415, body=b"{}", kind="text/plain"),
        bad("no content type, from a page", "POST", ALL, 415, "not accepted", 0, body=isvc(), kind="", sec_fetch_site="cross-site"),
    ),
    "Bodies": (
        bad("nothing", "POST", ALL, 400, "cannot be read", 400, body=b""),
        bad("broken JSON", "POST", ALL, 400, "cannot be read", 400, body=b"{"),
        bad("broken YAML", "POST", ALL, 400, "cannot be read", 400, body=b"a: [", kind=YAML),
        bad("YAML with an alias", "POST", ALL, 400, "aliases", 0, body=b"a: &x [1]\nb: *x\n", kind=YAML),
        bad("bytes that are no text", "POST", ALL, 400, "cannot be read", 400, body=b"\xff\xfe"),
        bad("a number that is none", "POST", ALL, 400, "cannot be read", 400, body=b'{"a":NaN}'),
        bad("a list", "POST", ALL, 400, "no object", 400, body=[isvc()]),
        bad("a field twice", "POST", ALL, 400, 'duplicate field "name"', 201, body=b'{"metadata":{"name":"a","name":"b"}}'),
        bad("nested too deeply", "POST", ALL, 400, "deeper than 64", 400, body=b'{"a":' * 80 + b"1" + b"}" * 80),
        bad("too large", "POST", ALL, 413, "over 3145728 bytes", 413, body=b" " * (3 * 1024 * 1024 + 1)),
        bad("another kind", "POST", ALL, 400, "kind is 'Secret'", 400, body=isvc(kind="Secret")),
        bad("another version", "POST", ALL, 400, "apiVersion is", 400, body=isvc(apiVersion="v1")),
        bad("no metadata", "POST", ALL, 422, "metadata: is required", 422, body={"spec": {}}),
        bad("metadata that is a word", "POST", ALL, 422, "metadata: is required", 400, body=isvc(metadata="x")),
        bad("no name", "POST", ALL, 422, "metadata.name: is required", 422, body=isvc(metadata={})),
        bad("a name that cannot be", "POST", ALL, 422, "metadata.name", 422, body=isvc(metadata={"name": "A b"})),
        bad("another namespace", "POST", ALL, 400, "metadata.namespace is", 400, body=isvc(metadata={"name": "x", "namespace": "y"})),
        bad("another name than the path's", "PUT", IRIS, 400, "metadata.name is", 400, body=isvc()),
        bad("a label that cannot be", "POST", ALL, 422, "metadata.labels", 422, body=isvc(metadata={"name": "x", "labels": {"a": "b c"}})),
        bad("a label that is a number", "POST", ALL, 422, "must be a string", 400, body=isvc(metadata={"name": "x", "labels": {"a": 1}})),
        bad("a finalizer that cannot be", "POST", ALL, 422, "metadata.finalizers", 422, body=isvc(metadata={"name": "x", "finalizers": ["a b"]})),
        bad("an owner without a uid", "POST", ALL, 422, "ownerReferences[0].uid", 422, body=isvc(metadata={"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "s"}]})),
        bad("a version of one's own", "POST", ALL, 400, "resourceVersion must not be set", 400, body=isvc(metadata={"name": "x", "resourceVersion": "1"})),
        bad("an unknown field", "POST", ALL, 422, "spec.predictor.minReplicaz: unknown field", 201, body=predictor(sklearn={"storageUri": "m"}, minReplicaz=1)),
        bad("a value of another type", "POST", ALL, 422, "minReplicas: must be a whole number", 422, body=predictor(sklearn={"storageUri": "m"}, minReplicas="2")),
        bad("a value out of range", "POST", ALL, 422, "minReplicas", 422, body=predictor(sklearn={"storageUri": "m"}, minReplicas=-1)),
        bad("no framework", "POST", ALL, 422, "spec.predictor", 0, body=predictor()),
        bad("a name that is taken", "POST", ALL, 409, '"iris" already exists', 409, body=iris()),
        bad("a name that another dialect has", "POST", "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices", 409, "is taken by", 0, body=iris(apiVersion="serving.kserve.io/v1beta1")),
        bad("a version that is not the newest", "PUT", IRIS, 409, "has been modified", 409, body=iris(metadata={"name": "iris", "resourceVersion": "1"})),
        bad("a secret that is no base64", "POST", SECRETS, 422, "is no base64", 400, body={"metadata": {"name": "x"}, "data": {"k": "not base64"}}),
        bad("another type of a secret", "PUT", f"{SECRETS}/s", 422, "type: cannot be changed", 422, body={"metadata": {"name": "s"}, "type": "x/y"}),
    ),
    "Options of a write": (
        bad("a dryRun that there is not", "POST", ALL, 400, "only All", 422, body=isvc(), query={"dryRun": "Some"}),
        bad("a fieldValidation that there is not", "POST", ALL, 422, "Unsupported value", 422, body=isvc(), query={"fieldValidation": "Lax"}),
        bad("a fieldManager that is too long", "POST", ALL, 422, "at most 128", 422, body=isvc(), query={"fieldManager": "x" * 129}),
        bad("force without an apply", "PATCH", IRIS, 422, "non-apply", 422, body={}, kind=MERGE, query={"force": "true"}),
        bad("force that is no truth value", "PATCH", IRIS, 400, "force is", 400, body=iris(), kind=APPLY, query={**MANAGER, "force": "much"}),
    ),
    "Patches": (
        bad("no media type of a patch", "PATCH", IRIS, 415, "unknown format", 415, body={}),
        bad("a strategic patch of a custom kind", "PATCH", IRIS, 415, "unknown format", 415, body={}, kind=STRATEGIC),
        bad("a merge patch that is a list", "PATCH", IRIS, 400, "no application/merge-patch", 400, body=[], kind=MERGE),
        bad("a merge patch of nothing", "PATCH", f"{ALL}/none", 404, "not found", 404, body={}, kind=MERGE),
        bad("a merge patch that takes the name away", "PATCH", IRIS, 400, "metadata.name is", 422, body={"metadata": {"name": "x"}}, kind=MERGE),
        bad("a merge patch that makes it wrong", "PATCH", IRIS, 422, "spec.predictor", 422, body={"spec": {"predictor": None}}, kind=MERGE),
        bad("a JSON patch that is a map", "PATCH", IRIS, 400, "no application/json-patch", 400, body={}, kind=PATCH),
        bad("a JSON patch without a path", "PATCH", IRIS, 400, "needs a path", 400, body=[{"op": "add", "value": 1}], kind=PATCH),
        bad("a JSON patch with no such op", "PATCH", IRIS, 400, "no known op", 400, body=[{"op": "burn", "path": "/spec"}], kind=PATCH),
        bad("a JSON patch of what is not there", "PATCH", IRIS, 422, "there is no none", 422, body=[{"op": "remove", "path": "/spec/none"}], kind=PATCH),
        bad("a test that fails", "PATCH", IRIS, 422, "the value is another", 422, body=[{"op": "test", "path": "/kind", "value": "x"}], kind=PATCH),
        bad("too many operations", "PATCH", IRIS, 400, "at most 1000", 413, body=[{"op": "test", "path": "/kind", "value": "x"}] * 10_001, kind=PATCH),
        bad("a copy of a secret", "PATCH", f"{SECRETS}/s", 403, "write-only", 0, body=[{"op": "copy", "from": "/data/k", "path": "/metadata/labels/k"}], kind=PATCH),
    ),
    "Server-side apply": (
        bad("no fieldManager", "PATCH", IRIS, 422, "Required value", 422, body=iris(), kind=APPLY),
        bad("managedFields of one's own", "PATCH", IRIS, 400, "must be nil", 400, body=iris(metadata={"name": "iris", "managedFields": [{}]}), kind=APPLY, query=MANAGER),
        bad("a field of another owner", "PATCH", IRIS, 409, 'conflict with "first"', 409, body=iris(spec={"predictor": {"sklearn": {"storageUri": "models/x"}}}), kind=APPLY, query=MANAGER),
        bad("a version that is not the newest", "PATCH", IRIS, 409, "has been modified", 409, body=iris(metadata={"name": "iris", "resourceVersion": "1"}), kind=APPLY, query=MANAGER),
        bad("a new object with a version", "PATCH", f"{ALL}/other", 409, "has been modified", 409, body=isvc(metadata={"name": "other", "resourceVersion": "1"}), kind=APPLY, query=MANAGER),
        bad("an entry without its key", "PATCH", IRIS, 422, "env[0].name", 422, body=iris(spec={"predictor": {"sklearn": {"env": [{"value": "x"}]}}}), kind=APPLY, query=MANAGER),
    ),
    "Subresources": (
        bad("a scale that is negative", "PUT", f"{IRIS}/scale", 422, "whole number", 422, body={"spec": {"replicas": -1}}),
        bad("a scale that is text", "PUT", f"{IRIS}/scale", 422, "whole number", 400, body={"spec": {"replicas": "2"}}),
        bad("a scale of what has none", "GET", f"{SECRETS}/s/scale", 404, "no scale below", 404),
        bad("a status that is a number", "PUT", f"{IRIS}/status", 422, "status: must be a map", 422, body=iris(status=7)),
        bad("a condition that is neither", "PUT", f"{IRIS}/status", 422, "True, False or Unknown", 422, body=iris(status={"conditions": [{"type": "Ready", "status": True}]})),
        bad("logs of more lines than may be", "GET", f"{IRIS}/logs", 400, "whole number", 400, query={"tail": "-1"}),
        bad("logs of no such pod", "GET", f"{PODS}/none/log", 404, '"none" not found', 404),
        bad("a way into a pod", "POST", f"{PODS}/none/exec", 405, "", 400),
    ),
    "Lists and watches": (
        bad("a limit that is none", "GET", ALL, 400, "limit is", 400, query={"limit": "x"}),
        bad("a continue that no list gave", "GET", ALL, 400, "continue token", 400, query={"continue": "x"}),
        bad("a resourceVersion that is none", "GET", ALL, 400, "is no version", 400, query={"resourceVersion": "x"}),
        bad("a resourceVersionMatch without a version", "GET", ALL, 422, "forbidden unless", 422, query={"resourceVersionMatch": "Exact"}),
        bad("a resourceVersionMatch that there is not", "GET", ALL, 422, "Unsupported value", 422, query={"resourceVersion": "1", "resourceVersionMatch": "Near"}),
        bad("a version that is gone", "GET", ALL, 410, "too old", 410, query={"resourceVersion": "999999", "resourceVersionMatch": "Exact"}),
        bad("a version that is not there yet", "GET", ALL, 504, "Too large resource version", 504, query={"resourceVersion": "999999"}),
        bad("a label selector that is none", "GET", ALL, 400, "labelSelector", 400, query={"labelSelector": "a in"}),
        bad("a field that cannot be selected by", "GET", ALL, 400, "cannot be selected", 400, query={"fieldSelector": "spec.x=1"}),
        bad("initial events without a match", "GET", ALL, 422, "NotOlderThan", 422, query={"watch": "1", "sendInitialEvents": "true"}),
        bad("a time that is none", "GET", ALL, 400, "timeoutSeconds is", 400, query={"watch": "1", "timeoutSeconds": "soon"}),
        bad("an include that there is not", "GET", ALL, 400, "includeObject", 400, query={"includeObject": "Some"}, accept=TABLE),
    ),
    "Deletions": (
        bad("of nothing", "DELETE", f"{ALL}/none", 404, "not found", 404),
        bad("of another object", "DELETE", IRIS, 409, "uid is", 409, body={"preconditions": {"uid": "x"}}),
        bad("of an old version", "DELETE", IRIS, 409, "resourceVersion is", 409, body={"preconditions": {"resourceVersion": "1"}}),
        bad("with no such policy", "DELETE", IRIS, 400, "none of Foreground", 422, body={"propagationPolicy": "Sideways"}),
        bad("with a dryRun that there is not", "DELETE", IRIS, 400, "only All", 422, body={"dryRun": ["Some"]}),
        bad("with another kind of options", "DELETE", IRIS, 400, "DeleteOptions", 400, body={"kind": "Secret"}),
        bad("of the namespace default", "DELETE", "/api/v1/namespaces/default", 403, "cannot be deleted", 403),
    ),
}  # fmt: skip


def page() -> str:
    """docs/reference/control-bad-input.md"""
    out = [
        "# The control API: malformed requests",
        "<!-- made from tests/api/bad_control_requests.py, whose test sends every line; do not edit -->",
        "",
        "What a request to the control API that is not right is answered with, as a Kubernetes `Status`,",
        "and the status that Kubernetes' API server gives for the like of it: by its conventions and source",
        "(1.30, custom resources), not measured. Empty where it has no such thing. Differences are meant:",
        "what would be kept with a warning there is refused here, unless `fieldValidation` asks otherwise.",
    ]
    for title, rows in TABLES.items():
        out += [
            "",
            f"## {title}",
            "",
            "| request | Kubernetes | status | message |",
            "|---|---|---|---|",
        ]
        for row in rows:
            theirs = str(row.theirs) if row.theirs else ""
            says = f"... {row.says} ..." if row.says else ""
            out.append(f"| {row.name} | {theirs} | {row.status} | {says} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(page(), end="")
