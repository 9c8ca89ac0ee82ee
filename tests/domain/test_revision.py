"""Two specs that run the same are one revision; two that do not are two."""

from __future__ import annotations

from dataclasses import fields, replace
from types import MappingProxyType

import pytest

from penstock.domain.revision import (
    DECIDES,
    DOES_NOT_DECIDE,
    digest,
    revision_name,
)
from penstock.domain.service import (
    Batching,
    Component,
    Container,
    EnvVar,
    Model,
    ModelFormat,
    Protocol,
    Resources,
    Role,
    ScaleMetric,
    Scaling,
    Storage,
    VersionPolicy,
)

MODEL = Model(ModelFormat("sklearn"), Storage("models/iris"))
IRIS = Component(Role.PREDICTOR, model=MODEL)


def test_every_field_of_a_component_is_decided_on() -> None:
    assert set(DECIDES) | set(DOES_NOT_DECIDE) == {f.name for f in fields(Component)}
    assert not set(DECIDES) & set(DOES_NOT_DECIDE)


@pytest.mark.parametrize(
    "changed",
    [
        replace(IRIS, model=replace(MODEL, storage=Storage("models/iris2"))),
        replace(IRIS, model=replace(MODEL, storage=Storage("models/iris", secret="s"))),
        replace(IRIS, model=replace(MODEL, format=ModelFormat("sklearn", "1"))),
        replace(IRIS, model=replace(MODEL, options={"method": "predict_proba"})),
        replace(IRIS, model=replace(MODEL, protocol=Protocol.V2)),
        replace(IRIS, model=replace(MODEL, runtime="mine")),
        replace(IRIS, model=replace(MODEL, served_name="other")),
        replace(IRIS, model=None, container=Container("image")),
        replace(IRIS, env=(EnvVar("A", "1"),)),
        replace(IRIS, env=(EnvVar("A", secret_name="s", secret_key="k"),)),
        replace(IRIS, args=("--x",)),
        replace(IRIS, resources=Resources(memory_limit_bytes=1)),
        replace(IRIS, batching=Batching()),
        replace(IRIS, service_account="reader"),
        replace(IRIS, role=Role.TRANSFORMER),
        replace(IRIS, timeout_s=5.0),
        replace(IRIS, model=replace(MODEL, versions=VersionPolicy(all=True))),
    ],
)
def test_what_decides_what_runs_makes_a_new_digest(changed: Component) -> None:
    assert digest(changed) != digest(IRIS)


@pytest.mark.parametrize(
    "changed",
    [
        replace(IRIS, name="v2"),
        replace(IRIS, scaling=Scaling(min_replicas=3, metric=ScaleMetric.RPS)),
        replace(IRIS, canary_percent=10),
        replace(IRIS, labels={"a": "b"}),
        replace(IRIS, annotations={"a": "b"}),
        replace(IRIS, model=replace(MODEL, options=MappingProxyType({}))),
        replace(IRIS, resources=Resources()),
    ],
)
def test_names_scaling_and_traffic_do_not(changed: Component) -> None:
    assert digest(changed) == digest(IRIS)


def test_files_and_the_selected_runtime_are_part_of_it() -> None:
    assert len({digest(IRIS), digest(IRIS, files="sha256:a"), digest(IRIS, runtime="r")}) == 3
    assert digest(IRIS, files="a") != digest(IRIS, runtime="a")


def test_the_order_of_a_maps_keys_is_no_difference() -> None:
    one = replace(IRIS, model=replace(MODEL, options={"a": 1, "b": {"c": 2, "d": 3}}))
    two = replace(IRIS, model=replace(MODEL, options={"b": {"d": 3, "c": 2}, "a": 1}))
    assert digest(one) == digest(two)


def test_a_digest_is_the_same_in_every_release() -> None:
    """A change of this value would restart every model of everybody who upgrades."""
    full = replace(
        IRIS,
        env=(EnvVar("A", "1"), EnvVar("B", secret_name="s", secret_key="k")),
        resources=Resources(cpu_limit=0.5, memory_limit_bytes=2**30),
        batching=Batching(16, 0.005),
    )
    assert digest(IRIS) == (
        "sha256:08e2553224ec06e58bb0171849e7d72953bcbe3abd9b4f4c65d446d08ebd3aa0"
    )
    assert digest(full, files="sha256:00", runtime="penstock-sklearnserver") == (
        "sha256:eb5b22524bb531cc2a8ca9dbd6a4ae4d824430b7d6046711a70306432ad5de0a"
    )


def test_names() -> None:
    assert revision_name("iris", 1) == "iris-00001"
    assert revision_name("iris", 123456) == "iris-123456"
