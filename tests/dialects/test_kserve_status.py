"""The status as KServe's users and clients read it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from dialect_manifests import KSERVE, OWN, isvc

from penstock import dialects
from penstock.domain.service import Role
from penstock.domain.status import (
    ComponentStatus,
    Condition,
    Failure,
    FailureReason,
    ModelState,
    RevisionTraffic,
    ServiceStatus,
    Transition,
    Truth,
    conditions_of,
)

MANIFEST = isvc({"sklearn": {"storageUri": "x"}})


def render(status: ServiceStatus, api_version: str = KSERVE) -> dict[str, Any]:
    return dialects.find(api_version, "InferenceService").render_status(MANIFEST, status)


def test_a_ready_service() -> None:
    status = ServiceStatus(
        observed_generation=3,
        conditions=(
            Condition("Ready", Truth.TRUE, since=1_700_000_000.0),
            Condition("PredictorReady", Truth.TRUE, since=1_700_000_000.0),
            Condition("IngressReady", Truth.TRUE, since=1_700_000_001.0),
        ),
        components=MappingProxyType(
            {
                Role.PREDICTOR: ComponentStatus(
                    ready=Truth.TRUE,
                    latest_created_revision="iris-00002",
                    latest_ready_revision="iris-00002",
                    latest_rolledout_revision="iris-00002",
                    previous_rolledout_revision="iris-00001",
                    traffic=(RevisionTraffic("iris-00002", 100, latest=True),),
                    url="http://127.0.0.1:8080/v2/models/iris",
                    replicas=2,
                    ready_replicas=2,
                    limits="cgroup-v2",
                )
            }
        ),
        transition=Transition.UP_TO_DATE,
        active=ModelState.LOADED,
        target=ModelState.LOADED,
        url="http://iris-default.example.com",
        address="http://127.0.0.1:8080/serving/default/iris",
        runtime="penstock-sklearnserver",
        framework="sklearn",
        warnings=("spec.predictor.tolerations: placement is for a cluster",),
    )
    assert render(status) == {
        "observedGeneration": 3,
        "url": "http://iris-default.example.com",
        "address": {"url": "http://127.0.0.1:8080/serving/default/iris"},
        "deploymentMode": "Standard",
        "clusterServingRuntimeName": "penstock-sklearnserver",
        "conditions": [
            {
                "type": "IngressReady",
                "status": "True",
                "lastTransitionTime": "2023-11-14T22:13:21Z",
            },
            {
                "type": "PredictorReady",
                "status": "True",
                "lastTransitionTime": "2023-11-14T22:13:20Z",
            },
            {"type": "Ready", "status": "True", "lastTransitionTime": "2023-11-14T22:13:20Z"},
        ],
        "components": {
            "predictor": {
                "latestCreatedRevision": "iris-00002",
                "latestReadyRevision": "iris-00002",
                "latestRolledoutRevision": "iris-00002",
                "previousRolledoutRevision": "iris-00001",
                "url": "http://127.0.0.1:8080/v2/models/iris",
                "restUrl": "http://127.0.0.1:8080/v2/models/iris",
                "traffic": [{"revisionName": "iris-00002", "percent": 100, "latestRevision": True}],
            }
        },
        "modelStatus": {
            "transitionStatus": "UpToDate",
            "states": {"activeModelState": "Loaded", "targetModelState": "Loaded"},
            "copies": {"failedCopies": 0, "totalCopies": 2},
        },
        "penstock": {
            "framework": "sklearn",
            "warnings": ["spec.predictor.tolerations: placement is for a cluster"],
            "replicas": {"predictor": {"wanted": 2, "ready": 2, "failed": 0}},
            "limits": {"predictor": "cgroup-v2"},
        },
    }


def test_a_failed_service_says_why() -> None:
    status = ServiceStatus(
        conditions=(
            Condition("Ready", Truth.FALSE, "ModelLoadFailed", "no model file", 1.0),
            Condition("PredictorReady", Truth.FALSE, "ModelLoadFailed", "no model file", 1.0),
        ),
        transition=Transition.BLOCKED,
        active=None,
        target=ModelState.FAILED,
        failure=Failure(
            FailureReason.MODEL_LOAD_FAILED,
            "no model file in models/iris",
            revision="iris-00001",
            location="iris-00001-a",
            time=1_700_000_000.0,
            exit_code=78,
        ),
        runtime="mine",
        runtime_is_cluster=False,
    )
    rendered = render(status)
    assert rendered["modelStatus"] == {
        "transitionStatus": "BlockedByFailedLoad",
        "states": {"targetModelState": "FailedToLoad"},
        "copies": {"failedCopies": 0, "totalCopies": 0},
        "lastFailureInfo": {
            "reason": "ModelLoadFailed",
            "message": "no model file in models/iris",
            "modelRevisionName": "iris-00001",
            "location": "iris-00001-a",
            "time": "2023-11-14T22:13:20Z",
            "exitCode": 78,
        },
    }
    assert rendered["servingRuntimeName"] == "mine"
    assert "clusterServingRuntimeName" not in rendered
    ready = next(c for c in rendered["conditions"] if c["type"] == "Ready")
    assert ready["reason"] == "ModelLoadFailed"
    assert ready["message"] == "no model file"
    assert "severity" not in ready


def test_what_ready_does_not_depend_on_is_for_information() -> None:
    conditions = (Condition("Stopped", Truth.FALSE), Condition("PredictorReady", Truth.FALSE))
    rendered = render(ServiceStatus(conditions=conditions))["conditions"]
    assert [c.get("severity") for c in rendered] == [None, "Info"]


def test_conditions_survive_being_rendered_and_read_back() -> None:
    conditions = (
        Condition("IngressReady", Truth.UNKNOWN, "Waiting", "for replicas", 1_700_000_000.0),
        Condition("Ready", Truth.FALSE, "NotYet", "", 1_700_000_001.0),
    )
    assert conditions_of(render(ServiceStatus(conditions=conditions))) == conditions


def test_our_own_dialect_reads_the_same() -> None:
    assert render(ServiceStatus(), OWN) == render(ServiceStatus())


def test_kinds_without_a_status_say_so() -> None:
    with pytest.raises(TypeError, match="Secret"):
        dialects.find("v1", "Secret").render_status({}, ServiceStatus())


@pytest.mark.parametrize(
    ("version", "tag"), [(KSERVE, "prev"), ("penstock.dev/v1alpha1", "previous")]
)
def test_the_revision_before_has_the_tag_that_users_of_the_dialect_look_for(
    version: str, tag: str
) -> None:
    traffic = (
        RevisionTraffic("iris-00002", 10, latest=True, tag="latest"),
        RevisionTraffic("iris-00001", 90, latest=False, tag="previous"),
    )
    component = ComponentStatus(ready=Truth.TRUE, traffic=traffic)
    status = ServiceStatus(
        observed_generation=1, components=MappingProxyType({Role.PREDICTOR: component})
    )
    manifest = {**MANIFEST, "apiVersion": version}
    rendered = dialects.find(version, "InferenceService").render_status(manifest, status)
    tags = [t["tag"] for t in rendered["components"]["predictor"]["traffic"]]
    assert tags == ["latest", tag]
