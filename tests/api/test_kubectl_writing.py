"""kubectl writes: apply, create, replace, edit, label, delete."""

from __future__ import annotations

import asyncio

from api_harness import ISVC, Api, isvc
from kubectl_harness import Kubectl


async def test_apply_again_and_changed(api: Api, kubectl: Kubectl) -> None:
    first = await kubectl("apply", "-f", kubectl.file(isvc()))
    assert first.out == "inferenceservice.penstock.dev/iris created\n"
    assert "unchanged" in (await kubectl("apply", "-f", kubectl.file(isvc()))).out
    changed = await kubectl("apply", "-f", kubectl.file(isvc(uri="models/other")))
    assert "configured" in changed.out
    stored = (await api.client.get(f"{ISVC}/iris")).json()
    assert stored["spec"]["predictor"]["sklearn"]["storageUri"] == "models/other"
    assert stored["metadata"]["generation"] == 2


async def test_a_wrong_manifest_is_refused_with_its_field(api: Api, kubectl: Kubectl) -> None:
    wrong = isvc()
    wrong["spec"]["predictor"] = {"sklern": {}}
    refused = await kubectl("apply", "-f", kubectl.file(wrong), fails=True)
    assert "spec.predictor" in refused.err
    assert "sklern" in refused.err
    unchecked = await kubectl("create", "--validate=false", "-f", kubectl.file(wrong), fails=True)
    assert "did you mean sklearn?" in unchecked.err
    assert (await api.client.get(ISVC)).json()["items"] == []


async def test_create_replace_delete(api: Api, kubectl: Kubectl) -> None:
    file = kubectl.file(isvc())
    assert "created" in (await kubectl("create", "-f", file)).out
    again = await kubectl("create", "-f", file, fails=True)
    assert "AlreadyExists" in again.err
    assert "replaced" in (await kubectl("replace", "-f", file)).out
    assert "deleted" in (await kubectl("delete", "isvc", "iris")).out
    gone = await kubectl("delete", "isvc", "iris", fails=True)
    assert 'inferenceservices.penstock.dev "iris" not found' in gone.err
    assert "deleted" not in (await kubectl("delete", "isvc", "--all")).out


async def test_label_annotate_edit(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    await kubectl("label", "isvc", "iris", "team=a")
    await kubectl("annotate", "isvc", "iris", "example.org/why=because")
    edited = await kubectl(
        "edit", "isvc", "iris", KUBE_EDITOR="sed -i s,models/iris,models/edited,"
    )
    assert "edited" in edited.out
    stored = (await api.client.get(f"{ISVC}/iris")).json()
    assert stored["metadata"]["labels"] == {"team": "a"}
    assert stored["metadata"]["annotations"]["example.org/why"] == "because"
    assert stored["spec"]["predictor"]["sklearn"]["storageUri"] == "models/edited"


async def test_a_dry_run_keeps_nothing(api: Api, kubectl: Kubectl) -> None:
    tried = await kubectl("apply", "--dry-run=server", "-f", kubectl.file(isvc()))
    assert "(server dry run)" in tried.out
    assert (await api.client.get(ISVC)).json()["items"] == []


async def test_explain(api: Api, kubectl: Kubectl) -> None:
    told = (await kubectl("explain", "isvc.spec.predictor.sklearn")).out
    assert "storageUri\t<string>" in told
    assert "VERSION:" in told
    await kubectl("explain", "secrets")
    await kubectl("explain", "isvc", "--api-version=serving.kserve.io/v1beta1")


async def test_the_same_openapi_in_three_forms(api: Api) -> None:
    index = (await api.client.get("/openapi/v3")).json()["paths"]
    for path, entry in index.items():
        document = (await api.client.get(entry["serverRelativeURL"])).json()
        assert document["openapi"].startswith("3."), path
        assert "$defs" not in str(document)
    swagger = (await api.client.get("/openapi/v2")).json()
    assert "dev.penstock.v1alpha1.InferenceService" in swagger["definitions"]
    binary = await api.client.get(
        "/openapi/v2",
        headers={"accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"},
    )
    assert binary.headers["content-type"].endswith("protobuf")
    assert binary.content.startswith(b"\x0a\x032.0")
    missing = await api.client.get("/openapi/v3/apis/none/v1")
    assert missing.status_code == 404


async def test_delete_waits_for_finalizers(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc(finalizers=["example.org/hold"]))
    kept = await kubectl("delete", "isvc", "iris", "--timeout=1s", fails=True)
    assert "timed out" in kept.err
    stored = (await api.client.get(f"{ISVC}/iris")).json()
    assert stored["metadata"]["deletionTimestamp"]
    # Either of the two may come first; where the patch does, there is nothing left to delete.
    waiting = asyncio.ensure_future(kubectl("delete", "isvc", "iris", "--ignore-not-found"))
    await kubectl("patch", "isvc", "iris", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    await waiting
    assert (await api.client.get(f"{ISVC}/iris")).status_code == 404
