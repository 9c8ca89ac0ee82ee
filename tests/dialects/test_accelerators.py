"""Accelerators and priorities in manifests: every spelling, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import OWN, isvc, problems_of, warnings_of

from penstock import dialects
from penstock.dialects.accelerators import is_accelerator
from penstock.domain.devices import NVIDIA, DeviceRequest, request_of
from penstock.domain.priority import Priority, PriorityClass
from penstock.domain.service import Component

GIB = 2**30


def predictor_of(manifest: Any) -> Component:
    predictor: Component = dialects.translate(manifest).object.predictor
    return predictor


def asked(limits: dict[str, Any], **metadata: Any) -> DeviceRequest | None:
    block = {"storageUri": "x", "resources": {"limits": limits}}
    r = predictor_of(isvc({"pytorch": block}, **metadata)).resources
    return request_of(r.gpu, r.gpu_resource, r.gpu_memory_bytes)


@pytest.mark.parametrize(
    "resource", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb", "google.com/tpu", "gpu",
                 "intel.com/gpu", "habana.ai/gaudi", "aws.amazon.com/neuron", "nvidia.com/gpu.shared"]
)  # fmt: skip
def test_accelerators(resource: str) -> None:
    assert is_accelerator(resource)


@pytest.mark.parametrize("resource", ["cpu", "memory", "ephemeral-storage", "hugepages-2Mi"])
def test_what_is_no_accelerator(resource: str) -> None:
    assert not is_accelerator(resource)


@pytest.mark.parametrize(
    ("limits", "annotations", "request_"),
    [
        ({"nvidia.com/gpu": 1}, {}, DeviceRequest()),
        ({"nvidia.com/gpu": "2"}, {}, DeviceRequest(milli=2000)),
        ({"nvidia.com/gpu": 0.5}, {}, DeviceRequest(milli=500)),
        ({"nvidia.com/gpu": "250m"}, {}, DeviceRequest(milli=250)),
        ({"gpu": 1}, {}, DeviceRequest()),
        ({"amd.com/gpu": 1}, {}, DeviceRequest("amd.com/gpu")),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 4096}, {}, DeviceRequest(memory_bytes=4 * GIB)),
        ({"nvidia.com/gpumem": "4096"}, {}, DeviceRequest(milli=0, memory_bytes=4 * GIB)),
        ({}, {"gpu-fraction": "0.25"}, DeviceRequest(milli=250)),
        ({}, {"gpu-memory": "2048"}, DeviceRequest(milli=0, memory_bytes=2 * GIB)),
        ({"nvidia.com/gpu": 1}, {"penstock.dev/gpu-fraction": "0.5"}, DeviceRequest(milli=500)),
        ({"amd.com/gpu": 1}, {"gpu-fraction": "0.5"}, DeviceRequest("amd.com/gpu", 500)),
        ({}, {"penstock.dev/gpu-memory": "2Gi"}, DeviceRequest(milli=0, memory_bytes=2 * GIB)),
        ({"nvidia.com/gpu": 0}, {}, None),
        ({}, {}, None),
    ],
)  # fmt: skip
def test_spellings(
    limits: dict[str, Any], annotations: dict[str, str], request_: DeviceRequest | None
) -> None:
    assert asked(limits, annotations=annotations) == request_


def test_a_components_own_annotation_counts_before_the_services() -> None:
    manifest = isvc(
        {"pytorch": {"storageUri": "x"}, "annotations": {"gpu-fraction": "0.25"}},
        annotations={"gpu-fraction": "0.5"},
    )
    resources = predictor_of(manifest).resources
    assert (resources.gpu, resources.gpu_resource) == (0.25, NVIDIA)


def test_another_share_of_a_device_is_another_revision() -> None:
    from penstock.domain.revision import digest

    half, third = (
        predictor_of(isvc({"pytorch": {"storageUri": "x"}}, annotations={"gpu-fraction": f}))
        for f in ("0.5", "0.3")
    )
    assert digest(half) != digest(third)


@pytest.mark.parametrize(
    ("limits", "annotations", "problem"),
    [
        ({"nvidia.com/gpu": -1}, {}, "neither a whole number"),
        ({"nvidia.com/gpu": "0.0005"}, {}, "in thousandths"),
        ({"nvidia.com/gpu": 1, "amd.com/gpu": 1}, {}, "only one kind"),
        ({"nvidia.com/gpumem": "1.5"}, {}, "no whole number of MiB"),
        ({}, {"gpu-fraction": "2"}, "at most 1"),
        ({}, {"gpu-fraction": "0"}, "more than 0"),
        ({}, {"gpu-fraction": "half"}, "no quantity"),
        ({}, {"gpu-memory": "0"}, "more than 0"),
        ({"nvidia.com/gpu": 2}, {"gpu-fraction": "0.5"}, "is for one device"),
        ({}, {"gpu-fraction": "0.5", "gpu-memory": "1"}, "together with gpu-memory"),
    ],
)
def test_what_makes_no_sense_is_refused(
    limits: dict[str, Any], annotations: dict[str, str], problem: str
) -> None:
    block = {"storageUri": "x", "resources": {"limits": limits}}
    (found,) = problems_of(isvc({"pytorch": block}, annotations=annotations))
    assert problem in found


# -- priorities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ({}, Priority()),
        ({"priorityClassName": "high"}, Priority("high")),
        ({"priority": 100}, Priority("", 100)),
        ({"priority": 1, "preemptionPolicy": "Never"}, Priority("", 1, False)),
    ],
)
def test_a_priority_is_read(fields: dict[str, Any], priority: Priority) -> None:
    manifest = isvc({"sklearn": {"storageUri": "x"}, **fields}, api_version=OWN)
    assert predictor_of(manifest).priority == priority
    assert warnings_of(manifest) == []


def test_a_change_of_priority_is_no_new_revision() -> None:
    from penstock.domain.revision import digest

    low, high = (
        predictor_of(isvc({"sklearn": {"storageUri": "x"}, "priority": n})) for n in (1, 2)
    )
    assert digest(low) == digest(high)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"priority": 1, "priorityClassName": "x"}, "spec.predictor.priority: may not"),
        ({"priority": 2 * 10**9}, "spec.predictor.priority: must be from"),
        ({"preemptionPolicy": "Sometimes"}, "must be one of Never"),
    ],
)
def test_a_priority_that_makes_no_sense_is_refused(fields: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(isvc({"sklearn": {"storageUri": "x"}, **fields}))
    assert problem in found


def priority_class(name: str = "high", **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": 1000,
        **fields,
    }


def test_a_class_is_read() -> None:
    manifest = priority_class(
        globalDefault=True, description="for serving", preemptionPolicy="Never"
    )
    assert dialects.translate(manifest).object == PriorityClass("high", 1000, True, False)


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (priority_class("system-mine"), "are Kubernetes'"),
        (priority_class(value=2 * 10**9), "value: must be from"),
        (priority_class(preemptionPolicy="x"), "preemptionPolicy"),
    ],
)
def test_a_class_that_kubernetes_would_refuse_is_refused(
    manifest: dict[str, Any], problem: str
) -> None:
    assert problem in problems_of(manifest)[0]


# -- replacing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "recreate", "warned"),
    [
        ({"type": "Recreate"}, True, False),
        ({"type": "RollingUpdate"}, False, False),
        ({}, False, False),
        ({"rollingUpdate": {"maxSurge": 0}}, False, True),
    ],
)
def test_how_a_revision_is_replaced(strategy: dict[str, Any], recreate: bool, warned: bool) -> None:
    manifest = isvc({"sklearn": {"storageUri": "x"}, "deploymentStrategy": strategy})
    assert predictor_of(manifest).recreate is recreate
    assert bool(warnings_of(manifest)) is warned


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ({"type": "BlueGreen"}, "deploymentStrategy.type: must be one of"),
        ({"type": "Recreate", "rollingUpdate": {}}, "may not be given with type Recreate"),
        ({"typ": "Recreate"}, "deploymentStrategy.typ: unknown field"),
    ],
)
def test_a_strategy_that_makes_no_sense_is_refused(strategy: dict[str, Any], problem: str) -> None:
    manifest = isvc({"sklearn": {"storageUri": "x"}, "deploymentStrategy": strategy})
    assert any(problem in p for p in problems_of(manifest))


def test_a_transformers_priority_is_its_own_and_else_the_predictors() -> None:
    manifest = isvc({"sklearn": {"storageUri": "x"}, "priority": 5})
    manifest["spec"]["transformer"] = {
        "containers": [{"image": "a", "name": "kserve-container"}],
        "priority": 7,
    }
    service = dialects.translate(manifest, runs_containers=True).object
    assert (service.predictor.priority.value, service.transformer.priority.value) == (5, 7)
