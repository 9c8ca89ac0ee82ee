"""kubectl lets the server merge: apply with owners, diff, validation, subresources, cascades."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import pytest
from api_harness import ISVC, Api, isvc
from kubectl_harness import Kubectl

QUOTAS = "/api/v1/namespaces/default/resourcequotas"


def scaled(replicas: int) -> dict[str, Any]:
    obj = isvc()
    obj["spec"]["predictor"]["minReplicas"] = replicas
    return obj


async def stored(api: Api) -> dict[str, Any]:
    return dict((await api.client.get(f"{ISVC}/iris")).json())


async def test_apply_on_the_servers_side(api: Api, kubectl: Kubectl) -> None:
    file = kubectl.file(isvc())
    first = await kubectl("apply", "--server-side", "-f", file)
    assert first.out == "inferenceservice.penstock.dev/iris serverside-applied\n"
    assert "fields have no owners" not in first.err
    await kubectl("scale", "isvc", "iris", "--replicas=2")
    again = await kubectl("apply", "--server-side", "-f", file)
    assert "serverside-applied" in again.out
    # What kubectl does not apply is not its to change.
    assert (await stored(api))["spec"]["predictor"]["minReplicas"] == 2
    clash = await kubectl("apply", "--server-side", "-f", kubectl.file(scaled(1)), fails=True)
    assert "conflict" in clash.err
    assert ".spec.predictor.minReplicas" in clash.err
    forced = ("apply", "--server-side", "--force-conflicts", "-f", kubectl.file(scaled(1)))
    await kubectl(*forced)
    assert (await stored(api))["spec"]["predictor"]["minReplicas"] == 1
    other = ("apply", "--server-side", "--field-manager=ci", "-f", kubectl.file(scaled(3)))
    assert 'conflict with "kubectl"' in (await kubectl(*other, fails=True)).err


async def test_from_its_own_side_to_the_servers_and_back(api: Api, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", kubectl.file(scaled(2)))
    changed = {**scaled(1), "metadata": {"name": "iris", "labels": {"a": "b"}}}
    await kubectl("apply", "--server-side", "-f", kubectl.file(changed))
    assert (await stored(api))["spec"]["predictor"]["minReplicas"] == 1
    await kubectl("apply", "-f", kubectl.file(isvc()))
    now = await stored(api)
    assert "minReplicas" not in now["spec"]["predictor"]
    assert "labels" not in now["metadata"]


@pytest.mark.skipif(shutil.which("diff") is None, reason="kubectl diff runs diff")
@pytest.mark.parametrize("side", [(), ("--server-side",)])
async def test_diff_changes_nothing(api: Api, kubectl: Kubectl, side: tuple[str, ...]) -> None:
    await kubectl("apply", *side, "-f", kubectl.file(isvc()))
    await api.ready()
    before = await stored(api)
    same = await kubectl("diff", *side, "-f", kubectl.file(isvc()))
    assert same.out == ""
    process = await kubectl.start("diff", *side, "-f", kubectl.file(isvc(uri="models/other")))
    out, _ = await process.communicate()
    assert process.returncode == 1
    lines = out.decode().splitlines()
    assert any(line.startswith("+") and "storageUri: models/other" in line for line in lines)
    assert any(line.startswith("-") and "storageUri: models/iris" in line for line in lines)
    assert await stored(api) == before


async def test_managed_fields_are_kept_and_can_be_seen(api: Api, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", kubectl.file(isvc()))
    await kubectl("label", "isvc", "iris", "a=b")
    managers = {e["manager"] for e in (await stored(api))["metadata"]["managedFields"]}
    assert managers == {"kubectl-client-side-apply", "kubectl-label"}
    flags = ("--show-managed-fields",) if kubectl.minor >= 21 else ()
    shown = await kubectl("get", "isvc", "iris", "-o", "yaml", *flags)
    assert "kubectl-label" in shown.out


async def test_unknown_fields_as_validate_says(api: Api, kubectl: Kubectl) -> None:
    if kubectl.minor < 25:
        pytest.skip("this kubectl does not let the server validate")
    obj = isvc()
    obj["spec"]["predictor"]["minReplicaz"] = 1
    file = kubectl.file(obj)
    refused = await kubectl("apply", "-f", file, fails=True)
    assert "minReplicaz" in refused.err
    warned = await kubectl("apply", "--validate=warn", "-f", file)
    assert 'unknown field "spec.predictor.minReplicaz"' in warned.err
    assert "minReplicaz" not in str((await stored(api))["spec"])
    ignored = await kubectl("replace", "--validate=ignore", "-f", file)
    assert "unknown" not in ignored.err


async def test_a_status_by_its_subresource(api: Api, kubectl: Kubectl) -> None:
    if kubectl.minor < 24:
        pytest.skip("this kubectl has no --subresource")
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "3"}},
    }
    await kubectl("create", "-f", kubectl.file(quota))
    patch = '{"status":{"mine":{"a":1}},"spec":{"hard":{"pods":"4"}}}'
    await kubectl(
        "patch", "resourcequota", "q", "--subresource=status", "--type=merge", "-p", patch
    )
    now = (await api.client.get(f"{QUOTAS}/q")).json()
    # The platform says its own again at once; who wrote what is kept.
    subresources = {e["manager"]: e.get("subresource") for e in now["metadata"]["managedFields"]}
    assert subresources["kubectl-patch"] == "status"
    assert now["spec"]["hard"] == {"pods": "3"}


async def test_a_dry_deletion(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    dry = await kubectl("delete", "isvc", "iris", "--dry-run=server")
    assert "deleted (server dry run)" in dry.out
    assert (await stored(api))["kind"] == "InferenceService"


@pytest.mark.parametrize("cascade", ["foreground", "orphan", "background"])
async def test_cascades(api: Api, kubectl: Kubectl, cascade: str) -> None:
    await api.client.post(ISVC, json=isvc())
    owner = await api.ready()
    reference = {k: owner[k] for k in ("apiVersion", "kind")} | {
        k: owner["metadata"][k] for k in ("name", "uid")
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "ownerReferences": [{**reference, "blockOwnerDeletion": True}]},
    }
    path = "/api/v1/namespaces/default/secrets"
    assert (await api.client.post(path, json=secret)).status_code == 201
    await kubectl("delete", "isvc", "iris", f"--cascade={cascade}")

    async def settled() -> bool:
        answer = await api.client.get(f"{path}/s")
        if cascade == "orphan":
            return not answer.json()["metadata"].get("ownerReferences")
        return answer.status_code == 404

    await api.until(settled)


async def test_delete_all_and_wait_until_gone(api: Api, kubectl: Kubectl) -> None:
    for name in ("a", "b", "c"):
        await api.client.post(ISVC, json=isvc(name))
    waiting = asyncio.ensure_future(
        kubectl("wait", "--for=delete", "isvc/a", "isvc/b", "--timeout=20s")
    )
    gone = await kubectl("delete", "isvc", "--all")
    assert len(gone.out.splitlines()) == 3
    await waiting
    assert (await api.client.get(ISVC)).json()["items"] == []


async def test_replace_by_force(api: Api, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", kubectl.file(isvc()))
    uid = (await stored(api))["metadata"]["uid"]
    replaced = await kubectl("replace", "--force", "-f", kubectl.file(isvc(uri="models/other")))
    assert "replaced" in replaced.out
    assert (await stored(api))["metadata"]["uid"] != uid


async def test_a_name_is_generated(kubectl: Kubectl) -> None:
    obj = isvc()
    obj["metadata"] = {"generateName": "iris-"}
    made = [await kubectl("create", "-f", kubectl.file(obj)) for _ in range(2)]
    assert made[0].out.startswith("inferenceservice.penstock.dev/iris-")
    assert made[0].out != made[1].out
