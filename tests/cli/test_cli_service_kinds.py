"""Services have many kinds: the command line knows them by what discovery says, each object once."""

from __future__ import annotations

import json
from typing import Any

from penstock import dialects
from penstock.api import aggregated, discovery
from penstock.cli.client import Answer, Kinds
from penstock.cli.columns import columns_of


class Discovery:
    """Answers what the API's discovery answers, of the plain kind alone."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def call(self, method: str, path: str, *, accept: str) -> Answer:
        self.asked.append(path)
        return Answer(200, {}, self.get(path))

    def get(self, path: str) -> Any:
        if path == "/api":
            return discovery.core_versions()
        if path == "/apis":
            return discovery.groups()
        group, _, version = path.removeprefix("/apis/").removeprefix("/api/").rpartition("/")
        return discovery.resource_list(group, version)


class Aggregated(Discovery):
    """Answers all in two documents."""

    def get(self, path: str) -> Any:
        body, _ = aggregated.document("v2", core=path == "/api")
        return json.loads(body)


def test_both_ways_of_discovery_tell_the_same() -> None:
    whole = Aggregated()
    assert Kinds(whole).all == Kinds(Discovery()).all  # type: ignore[arg-type]
    assert whole.asked == ["/api", "/apis"]


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


def test_every_kind_of_service_and_graph_is_listed_with_whether_it_is_ready() -> None:
    for dialect in dialects.all_dialects():
        if dialect.renderer is not None:
            shown = columns_of(dialect.kind, wide=False, all_namespaces=False)
            assert "READY" in [c.header for c in shown], dialect.kind
