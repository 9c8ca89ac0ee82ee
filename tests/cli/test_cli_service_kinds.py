"""Services have many kinds: the command line knows them by what discovery says, each object once."""

from __future__ import annotations

from typing import Any

from penstock.api.kinds import discovery_entry, resources
from penstock.cli.client import Kinds


class Discovery:
    """Answers what the API's discovery answers."""

    def get(self, path: str) -> Any:
        if path == "/apis":
            versions = dict.fromkeys(r.api_version for r in resources() if r.group)
            groups: dict[str, list[dict[str, str]]] = {}
            for v in versions:
                groups.setdefault(v.rpartition("/")[0], []).append({"groupVersion": v})
            return {"groups": [{"versions": v} for v in groups.values()]}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        return {
            "groupVersion": version,
            "resources": [discovery_entry(r) for r in resources() if r.api_version == version],
        }


def test_versions_of_a_kind_are_listed_once_and_the_newest_first() -> None:
    kinds = Kinds(Discovery())  # type: ignore[arg-type]
    found = [k.api_version for k in kinds.named("isvc")]
    assert found == [
        "penstock.dev/v1alpha1",
        "serving.kserve.io/v1beta1",
        "serving.kubeflow.org/v1beta1",
    ]
    assert [k.api_version for k in kinds.named("sdep")] == ["machinelearning.seldon.io/v1"]


def test_a_version_may_be_asked_for() -> None:
    kinds = Kinds(Discovery())  # type: ignore[arg-type]
    (old,) = kinds.named("isvc.v1alpha2.serving.kubeflow.org")
    assert old.api_version == "serving.kubeflow.org/v1alpha2"


def test_services_are_every_kind_that_means_one() -> None:
    services = Kinds(Discovery()).services()  # type: ignore[arg-type]
    assert services[0].kind == "InferenceService"
    assert {k.kind for k in services} == {
        "InferenceService", "KFService", "KFServing", "KFSERVICE", "SeldonDeployment", "Model",
        "InferenceGraph", "Pipeline", "Experiment", "TrainedModel",
    }  # fmt: skip
