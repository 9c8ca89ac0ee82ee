"""kubectl patches and scales; secrets, namespaces, and what else it asks for."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from api_harness import ISVC, Api, isvc
from kubectl_harness import Kubectl

from penstock.api import patches
from penstock.errors import PenstockError
from penstock.store.base import Kind

JSON_PATCH = {"content-type": "application/json-patch+json"}
URI = "/spec/predictor/sklearn/storageUri"


async def test_patch_json_and_merge(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    operations = f'[{{"op":"replace","path":"{URI}","value":"models/patched"}}]'
    await kubectl("patch", "isvc", "iris", "--type=json", "-p", operations)
    await kubectl(
        "patch", "isvc", "iris", "--type=merge", "-p", '{"metadata":{"labels":{"a":"b"}}}'
    )
    stored = (await api.client.get(f"{ISVC}/iris")).json()
    assert stored["spec"]["predictor"]["sklearn"]["storageUri"] == "models/patched"
    assert stored["metadata"]["labels"] == {"a": "b"}
    strategic = await kubectl("patch", "isvc", "iris", "-p", '{"spec":{}}', fails=True)
    assert "application/strategic-merge-patch+json is not supported" in strategic.err or (
        "UnsupportedMediaType" in strategic.err
    )


async def test_scale(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    assert "scaled" in (await kubectl("scale", "isvc", "iris", "--replicas=2")).out
    stored = (await api.client.get(f"{ISVC}/iris")).json()
    assert stored["spec"]["predictor"]["minReplicas"] == 2
    scale = (await api.client.get(f"{ISVC}/iris/scale")).json()
    assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 2})
    scale["spec"]["replicas"] = 3
    scale["metadata"]["resourceVersion"] = "1"
    assert (await api.client.put(f"{ISVC}/iris/scale", json=scale)).status_code == 409
    del scale["metadata"]["resourceVersion"]
    assert (await api.client.put(f"{ISVC}/iris/scale", json=scale)).json()["spec"]["replicas"] == 3


@pytest.mark.parametrize("replicas", [-1, 1.5, "2", None, True, 10**9, {}])
async def test_a_wrong_scale_is_refused(api: Api, replicas: Any) -> None:
    await api.client.post(ISVC, json=isvc())
    answer = await api.client.put(f"{ISVC}/iris/scale", json={"spec": {"replicas": replicas}})
    assert answer.status_code == 422


async def test_secrets_go_in_and_never_come_out(api: Api, kubectl: Kubectl) -> None:
    await kubectl("create", "secret", "generic", "made", "--from-literal=pw=hunter2")
    applied: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "applied"},
        "stringData": {"pw": "hunter2"},
    }
    await kubectl("apply", "-f", kubectl.file(applied))
    for shape in ("yaml", "json", "wide"):
        shown = (await kubectl("get", "secrets", "-o", shape)).out
        assert "hunter" not in shown
        assert base64.b64encode(b"hunter2").decode() not in shown
    applied["stringData"] = {"pw": "hunter3"}
    await kubectl("apply", "-f", kubectl.file(applied))
    await kubectl("label", "secret", "applied", "a=b")
    for obj in (await api.plane.store.list(Kind("", "Secret"))).items:
        assert "hunter" not in str(obj["metadata"])
        if obj["metadata"]["name"] == "applied":
            assert base64.b64decode(obj["data"]["pw"]) == b"hunter3"
    assert (await kubectl("get", "secret", "made")).words[1][:3] == ["made", "Opaque", "1"]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "copy", "from": "/data/pw", "path": "/metadata/annotations"},
        {"op": "move", "from": "/data", "path": "/metadata/labels"},
        {"op": "copy", "from": "", "path": "/metadata/annotations"},
        {"op": "test", "path": "/data/pw", "value": "aA=="},
        {"op": "test", "path": "", "value": {}},
    ],
)
async def test_no_patch_tells_a_secret(api: Api, operation: dict[str, Any]) -> None:
    path = "/api/v1/namespaces/default/secrets"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    await api.client.post(path, json={**secret, "stringData": {"pw": "x"}})
    answer = await api.client.request("PATCH", f"{path}/s", json=[operation], headers=JSON_PATCH)
    assert answer.status_code == 403


async def test_a_namespace_goes_with_what_is_in_it(api: Api, kubectl: Kubectl) -> None:
    await kubectl("create", "namespace", "team")
    await kubectl("apply", "-n", "team", "-f", kubectl.file(isvc()))
    assert "team" in (await kubectl("get", "isvc", "-A")).out
    await kubectl("delete", "namespace", "team")
    assert "No resources found" in (await kubectl("get", "isvc", "-A")).err
    await kubectl("apply", "-f", kubectl.file(isvc()))
    kept = await kubectl("delete", "namespace", "default", fails=True)
    assert "Forbidden" in kept.err


async def test_what_it_asks_about_the_server(kubectl: Kubectl) -> None:
    assert "penstock.dev/v1alpha1" in (await kubectl("api-versions")).out
    assert "isvc" in (await kubectl("api-resources")).out
    assert "Server Version" in (await kubectl("version")).out
    assert (await kubectl("auth", "can-i", "create", "isvc")).out == "yes\n"
    no = await kubectl("auth", "can-i", "create", "revisions.penstock.dev", fails=True)
    assert no.out.startswith("no")
    assert "inferenceservices.penstock.dev" in (await kubectl("auth", "can-i", "--list")).out


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{}", 400),
        ("[7]", 400),
        ("nonsense", 400),
        ('[{"op":"add"}]', 400),
        ('[{"op":"add","path":"spec","value":1}]', 400),
        ('[{"op":"add","path":"/spec/x"}]', 400),
        ('[{"op":"burn","path":"/spec"}]', 400),
        ('[{"op":"replace","path":"","value":7}]', 400),
        ('[{"op":"remove","path":""}]', 422),
        ('[{"op":"remove","path":"/spec/none"}]', 422),
        ('[{"op":"test","path":"/metadata/name","value":"other"}]', 422),
        ('[{"op":"move","from":"/spec","path":"/spec/predictor"}]', 422),
        ('[{"op":"add","path":"/metadata/name/x","value":1}]', 422),
        ('[{"op":"replace","path":"/kind","value":"Secret"}]', 400),
        ('[{"op":"replace","path":"/metadata","value":null}]', 422),
        ('[{"op":"copy","from":"/spec","path":"/spec/predictor/x"}]', 422),
    ],
)
async def test_a_wrong_json_patch_is_the_clients_fault(api: Api, body: str, status: int) -> None:
    await api.client.post(ISVC, json=isvc())
    for path in (f"{ISVC}/iris", f"{ISVC}/iris/scale"):
        answer = await api.client.request("PATCH", path, content=body, headers=JSON_PATCH)
        assert answer.status_code < 500, answer.text
        if not path.endswith("scale"):
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize("body", ["[]", "7", "null", '"x"', "{", '{"spec":7}', '{"metadata":7}'])
@pytest.mark.parametrize("kind", ["merge-patch+json", "strategic-merge-patch+json", "x"])
async def test_a_wrong_patch_is_the_clients_fault(api: Api, kind: str, body: str) -> None:
    await api.client.post(ISVC, json=isvc())
    for path in (
        f"{ISVC}/iris",
        f"{ISVC}/iris/scale",
        "/api/v1/namespaces/default",
    ):
        answer = await api.client.request(
            "PATCH", path, content=body, headers={"content-type": f"application/{kind}"}
        )
        assert answer.status_code < 500, (path, answer.text)


@pytest.mark.parametrize(
    ("document", "operation", "expected"),
    [
        ({"a": [1, 2]}, {"op": "add", "path": "/a/1", "value": 9}, {"a": [1, 9, 2]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a": [1, 2]}, {"op": "remove", "path": "/a/0"}, {"a": [2]}),
        ({"a/b": 1, "c~d": 2}, {"op": "remove", "path": "/a~1b"}, {"c~d": 2}),
        ({"c~1": 2}, {"op": "replace", "path": "/c~01", "value": 3}, {"c~1": 3}),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/b"}, {"b": 1}),
        ({"a": {"b": 1}}, {"op": "copy", "from": "/a", "path": "/c"}, {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a": None}, {"op": "test", "path": "/a", "value": None}, {"a": None}),
        ({"a": {"x": [{"y": 1}]}}, {"op": "add", "path": "/a/x/0/y", "value": 2}, {"a": {"x": [{"y": 2}]}}),
    ],
)  # fmt: skip
def test_operations(document: Any, operation: dict[str, Any], expected: Any) -> None:
    before = str(document)
    assert patches.operate(document, [operation]) == expected
    assert str(document) == before


def test_copies_do_not_blow_up() -> None:
    """Thirty doublings of a small document end in a refusal, not in gigabytes."""
    doubling = [{"op": "copy", "from": "", "path": f"/{i}"} for i in range(40)]
    with pytest.raises(PenstockError, match="copies more than"):
        patches.operate({"a": "x" * 100}, doubling)


def test_strategic_merges_keyed_lists() -> None:
    account = {"secrets": [{"name": "a"}, {"name": "b"}], "metadata": {"finalizers": ["x", "y"]}}
    patch = {
        "secrets": [{"name": "c"}, {"name": "a", "$patch": "delete"}],
        "$setElementOrder/secrets": [{"name": "c"}],
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]},
    }
    assert patches.strategic(account, patch) == {
        "secrets": [{"name": "b"}, {"name": "c"}],
        "metadata": {"finalizers": ["y"]},
    }
