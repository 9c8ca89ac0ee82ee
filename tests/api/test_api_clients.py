"""Kubernetes' clients for Python, unchanged: lightkube, kr8s, and the official one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kr8s.asyncio
import kubernetes
import lightkube
import pytest
import yaml
from api_harness import ISVC, Api, isvc
from kr8s.asyncio.objects import new_class
from kubernetes.dynamic import DynamicClient
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event, Namespace, Pod, Secret
from lightkube.types import CascadeType, PatchType

from penstock.cli.kubeconfig import document

Service = create_namespaced_resource(
    "penstock.dev", "v1alpha1", "InferenceService", "inferenceservices", verbs=None
)


@pytest.fixture
def kubeconfig(api: Api, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    server = str(api.client.base_url).rstrip("/")
    path.write_text(yaml.safe_dump(document(server, None, "default")))
    return path


# -- lightkube ----------------------------------------------------------------------------------------


@pytest.fixture
async def light(kubeconfig: Path) -> AsyncIterator[lightkube.AsyncClient]:
    client = lightkube.AsyncClient(KubeConfig.from_file(kubeconfig), field_manager="tests")
    yield client
    await client.close()


def light_isvc(name: str = "iris", **metadata: Any) -> Any:
    obj = isvc(name, **metadata)
    return Service.from_dict({**obj, "metadata": {**obj["metadata"], "namespace": "default"}})


async def test_lightkube_creates_reads_patches_and_deletes(
    api: Api, light: lightkube.AsyncClient
) -> None:
    created = await light.create(light_isvc(labels={"a": "b"}))
    assert created.metadata is not None
    assert created.metadata.managedFields[0].manager == "tests"
    found = [s.metadata.name async for s in light.list(Service, labels={"a": "b"})]
    assert found == ["iris"]
    patched = await light.patch(
        Service, "iris", {"spec": {"predictor": {"minReplicas": 2}}}, patch_type=PatchType.MERGE
    )
    assert patched.spec["predictor"]["minReplicas"] == 2
    await light.wait(Service, "iris", for_conditions=["Ready"])
    await light.delete(Service, "iris", cascade=CascadeType.FOREGROUND)

    async def gone() -> bool:
        return (await api.client.get(f"{ISVC}/iris")).status_code == 404

    await api.until(gone)


async def test_lightkube_applies_with_owners(api: Api, light: lightkube.AsyncClient) -> None:
    await light.apply(light_isvc())
    other = light_isvc()
    other.spec["predictor"]["sklearn"]["storageUri"] = "models/other"
    with pytest.raises(ApiError) as refused:
        await light.apply(other, field_manager="else")
    assert refused.value.status.code == 409
    assert refused.value.status.details.causes[0].reason == "FieldManagerConflict"
    taken = await light.apply(other, field_manager="else", force=True)
    assert taken.spec["predictor"]["sklearn"]["storageUri"] == "models/other"


async def test_lightkube_pages_and_watches(api: Api, light: lightkube.AsyncClient) -> None:
    for i in range(5):
        await light.create(light_isvc(f"s{i}"))
    assert len([s async for s in light.list(Service, chunk_size=2)]) == 5
    async with asyncio.timeout(20):
        async for event, obj in light.watch(Service, fields={"metadata.name": "s3"}):
            assert (event, obj.metadata.name) == ("ADDED", "s3")
            break
    await api.ready("s1")
    events = [e async for e in light.list(Event, fields={"involvedObject.name": "s1"})]
    assert "Ready" in {e.reason for e in events}
    pods = [p async for p in light.list(Pod, labels={"penstock.dev/service": "s1"})]
    assert pods[0].status.containerStatuses[0].ready is True
    log = [line async for line in light.log(pods[0].metadata.name)]
    assert "".join(log).splitlines()[-1] == "ready"


async def test_lightkube_makes_kubernetes_own_kinds(light: lightkube.AsyncClient) -> None:
    await light.create(Namespace(metadata=ObjectMeta(name="team")))
    secret = Secret(metadata=ObjectMeta(name="s", namespace="team"), stringData={"pw": "x"})
    made = await light.create(secret)
    assert made.data == {"pw": ""}
    await light.delete(Namespace, "team")
    with pytest.raises(ApiError):
        await light.get(Secret, "s", namespace="team")


# -- kr8s ---------------------------------------------------------------------------------------------


async def test_kr8s(api: Api, kubeconfig: Path) -> None:
    client = await kr8s.asyncio.api(kubeconfig=str(kubeconfig))
    kind = new_class("InferenceService", "penstock.dev/v1alpha1", asyncio=True)
    service = await kind(isvc(labels={"a": "b"}), api=client)
    await service.create()
    await service.wait("condition=Ready", timeout=20)
    await service.label({"team": "x"})
    await service.patch({"spec": {"predictor": {"minReplicas": 2}}})
    listed = [s async for s in client.get("inferenceservices.penstock.dev", label_selector="a=b")]
    assert [s.name for s in listed] == ["iris"]
    await service.refresh()
    assert service.labels["team"] == "x"
    pods = [p async for p in client.get("pods", label_selector={"penstock.dev/service": "iris"})]
    lines = [line async for line in pods[0].logs()]
    assert lines[-1] == "ready"
    async with asyncio.timeout(20):
        async for event, obj in client.watch("inferenceservices.penstock.dev"):
            assert (event, obj.name) == ("ADDED", "iris")
            break
    assert "InferenceService" in {r["kind"] for r in await client.api_resources()}
    await service.delete()
    assert not await service.exists()
    await client._session.aclose()


# -- the official one ---------------------------------------------------------------------------------


async def test_the_official_client(api: Api, kubeconfig: Path) -> None:
    """It blocks, so it runs in a thread; the API runs on the loop."""
    await asyncio.to_thread(_official, kubeconfig)


def _official(kubeconfig: Path) -> None:
    client = kubernetes.config.new_client_from_config(str(kubeconfig))
    with client:
        objects = kubernetes.client.CustomObjectsApi(client)
        where = ("penstock.dev", "v1alpha1", "default", "inferenceservices")
        objects.create_namespaced_custom_object(*where, isvc(labels={"a": "b"}))
        listed = objects.list_namespaced_custom_object(*where, label_selector="a=b", limit=1)
        assert [o["metadata"]["name"] for o in listed["items"]] == ["iris"]
        patch = {"spec": {"predictor": {"minReplicas": 2}}}
        patched = objects.patch_namespaced_custom_object(*where, "iris", patch)
        assert patched["spec"]["predictor"]["minReplicas"] == 2
        scale = objects.get_namespaced_custom_object_scale(*where, "iris")
        assert scale["spec"]["replicas"] == 2
        core = kubernetes.client.CoreV1Api(client)
        assert "default" in {n.metadata.name for n in core.list_namespace().items}
        for change in kubernetes.watch.Watch().stream(
            core.list_namespaced_event, "default", timeout_seconds=10
        ):
            assert change["object"].involved_object.name == "iris"
            break
        _wait_for_pods(core)
        with pytest.raises(kubernetes.client.ApiException) as missing:
            core.read_namespaced_secret("none", "default")
        assert missing.value.status == 404
        dynamic = DynamicClient(client).resources.get(
            api_version="penstock.dev/v1alpha1", kind="InferenceService"
        )
        again = dynamic.server_side_apply(
            isvc(labels={"a": "c"}), namespace="default", field_manager="dyn", force_conflicts=True
        )
        assert again.metadata.labels.a == "c"
        gone = objects.delete_namespaced_custom_object(*where, "iris")
        assert gone["status"] == "Success"
        assert objects.list_namespaced_custom_object(*where)["items"] == []


def _wait_for_pods(core: Any) -> None:
    """Until both replicas are ready, by a watch of pods."""
    ready = set()
    for change in kubernetes.watch.Watch().stream(
        core.list_namespaced_pod, "default", timeout_seconds=20
    ):
        pod = change["object"]
        if pod.status.container_statuses[0].ready:
            ready.add(pod.metadata.name)
        if len(ready) == 2:
            return
    raise AssertionError(f"only {ready} got ready")
