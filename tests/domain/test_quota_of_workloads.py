"""What a service of several workloads may take."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from penstock.domain.quota import REPLICAS, usage
from penstock.domain.service import (
    Canary,
    Component,
    Model,
    ModelFormat,
    Resources,
    Role,
    Scaling,
    Service,
    Storage,
)

PREDICTOR = Component(
    role=Role.PREDICTOR,
    model=Model(ModelFormat("sklearn"), Storage("models/iris")),
    resources=Resources(cpu_limit=0.5),
    scaling=Scaling(min_replicas=2, max_replicas=10),
)


def test_a_canary_counts_with_its_part_of_the_replicas_and_other_components_with_theirs() -> None:
    canary = replace(PREDICTOR, name="v2", scaling=replace(PREDICTOR.scaling, min_replicas=1))
    service = Service(
        "default",
        "iris",
        PREDICTOR,
        transformer=replace(PREDICTOR, role=Role.TRANSFORMER, scaling=Scaling(min_replicas=3)),
        canaries=(Canary(canary, 25),),
    )
    sums = usage(service, "inferenceservices.penstock.dev")
    assert sums[REPLICAS] == 10 + 3 + 3
    assert sums["limits.cpu"] == Fraction(1, 2) * 16
    assert usage(replace(service, stopped=True), "x")["limits.cpu"] == 0
