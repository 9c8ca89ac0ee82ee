"""Named canaries: `spec.canary[]` of KServe 0.20, in both dialects that have it."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import problems_of

from penstock import dialects
from penstock.dialects.kserve.canary import merged, promoted, without
from penstock.domain.service import Role, Service
from penstock.domain.status import CanaryStatus, ServiceStatus, Truth
from penstock.errors import InvalidManifest

VERSIONS = ("serving.kserve.io/v1beta1", "penstock.dev/v1alpha1")
STABLE = {
    "minReplicas": 4,
    "sklearn": {"storageUri": "models/a", "env": [{"name": "A", "value": "1"}]},
}


def manifest(
    *canaries: dict[str, Any], predictor: dict[str, Any] | None = None, version: str = VERSIONS[0]
) -> dict[str, Any]:
    spec: dict[str, Any] = {"predictor": predictor or STABLE}
    if canaries:
        spec["canary"] = list(canaries)
    return {
        "apiVersion": version,
        "kind": "InferenceService",
        "metadata": {"name": "iris", "namespace": "default"},
        "spec": spec,
    }


def canary(name: str | None = "v2", percent: int = 20, **predictor: Any) -> dict[str, Any]:
    predictor = predictor or {"sklearn": {"storageUri": "models/b"}}
    return {
        "predictor": {**({"name": name} if name else {}), **predictor},
        "trafficPercent": percent,
    }


def service(*canaries: dict[str, Any], **more: Any) -> Service:
    found = dialects.translate(manifest(*canaries, **more)).object
    assert isinstance(found, Service)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_canary_is_merged_over_the_stable_predictor(version: str) -> None:
    (found,) = service(canary(), version=version).canaries
    assert found.percent == 20
    c = found.component
    assert (c.role, c.name) == (Role.PREDICTOR, "v2")
    assert c.model is not None
    assert c.model.storage.uri == "models/b"
    assert [e.name for e in c.env] == ["A"]
    assert c.scaling.min_replicas == 1, "20% of four"


@pytest.mark.parametrize(
    ("percent", "said", "least"), [(50, None, 2), (51, None, 3), (0, None, 1), (20, 3, 3)]
)
def test_replicas_follow_the_share_unless_they_are_said(
    percent: int, said: int | None, least: int
) -> None:
    more = {"minReplicas": said} if said else {}
    (found,) = service(canary(percent=percent, sklearn={}, **more)).canaries
    assert found.component.scaling.min_replicas == least


def test_a_canary_of_a_service_that_may_sleep_sleeps_too() -> None:
    predictor = {"minReplicas": 0, "sklearn": {"storageUri": "models/a"}}
    (found,) = service(canary(), predictor=predictor).canaries
    assert found.component.scaling.min_replicas == 0


def test_another_framework_takes_the_blocks_place_and_model_means_the_same_one() -> None:
    (found,) = service(canary(xgboost={"storageUri": "models/x"})).canaries
    assert found.component.model is not None
    assert found.component.model.format.name == "xgboost"
    (found,) = service(canary(model={"storageUri": "models/c"})).canaries
    assert found.component.model is not None
    assert (found.component.model.format.name, found.component.model.storage.uri) == (
        "sklearn",
        "models/c",
    )


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([canary(None)], "spec.canary[0].predictor.name: is required: it is promoted by its name"),
        (
            [canary(), canary()],
            "spec.canary[1].predictor.name: there is another predictor named v2",
        ),
        (
            [canary(percent=60), canary("v3", 50)],
            "spec.canary: together they take 110%, more than 100",
        ),
        ([canary(percent=101)], "spec.canary[0].trafficPercent: must be 100 or less"),
        (
            [canary("transformer")],
            "spec.canary[0].predictor.name: 'transformer' has another meaning in a revision's address; "
            "take another name",
        ),
        (
            [canary(maxReplicas=3)],
            "spec.canary[0].predictor.maxReplicas: a canary may not have it: its replicas follow its share",
        ),
        (
            [canary(minReplicas=5)],
            "spec.canary[0].predictor.minReplicas: must not be more than the stable one's 4",
        ),
        (
            [canary(sklearn={"storageURI": "x"})],
            "spec.canary[0].predictor.sklearn.storageURI: unknown field, did you mean storageUri?",
        ),
        (
            [canary(logger={"url": "x"})],
            "spec.canary[0].predictor.logger: logging of payloads is not supported yet",
        ),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_problems_are_told_at_the_canarys_own_place(
    version: str, entries: list[dict[str, Any]], problem: str
) -> None:
    assert problem in problems_of(manifest(*entries, version=version))


def test_only_one_thing_divides_the_requests() -> None:
    with_percent = manifest(canary(), predictor={**STABLE, "canaryTrafficPercent": 10})
    assert "spec.predictor.canaryTrafficPercent" in problems_of(with_percent)[0]
    for field, where in (
        ({"traffic": {"shadow": {}}}, "spec.traffic.shadow"),
        ({"rollout": {}}, "spec.rollout"),
    ):
        obj = manifest(canary(), version=VERSIONS[1])
        obj["spec"].update(field)
        assert problems_of(obj)[0].startswith(f"{where}: may not be given together with canary")


def test_promotion_makes_the_canary_the_predictor_and_keeps_the_number_of_replicas() -> None:
    spec = manifest(canary(minReplicas=1, sklearn={"storageUri": "models/b"}), canary("v3"))["spec"]
    after = promoted(spec, "v2")
    assert after["predictor"] == {
        "name": "v2",
        "minReplicas": 4,
        "sklearn": {"storageUri": "models/b", "env": [{"name": "A", "value": "1"}]},
    }
    assert [e["predictor"]["name"] for e in after["canary"]] == ["v3"]
    assert "canary" not in without(after, ["v3"])
    with pytest.raises(KeyError):
        promoted(spec, "v9")
    unsaid = manifest(canary(minReplicas=1), predictor={"sklearn": {"storageUri": "models/a"}})
    assert "minReplicas" not in promoted(unsaid["spec"], "v2")["predictor"]


def test_a_promoted_canary_asks_for_the_same_as_before() -> None:
    """So that its revision stays and its processes carry on."""
    before = manifest(canary())
    (found,) = service(canary()).canaries
    after = dialects.translate({**before, "spec": promoted(before["spec"], "v2")}).object
    assert isinstance(after, Service)
    assert after.predictor.model == found.component.model
    assert after.predictor.env == found.component.env
    assert after.predictor.name == "v2"


def test_a_promotion_without_the_canarys_files_is_refused() -> None:
    old = manifest(canary())
    wrong = manifest(predictor={**STABLE, "name": "v2"})
    dialect = dialects.of(old)
    with pytest.raises(InvalidManifest, match=r"names the canary v2, but storageUri"):
        dialect.check_update(old, wrong)
    dialect.check_update(old, {**old, "spec": promoted(old["spec"], "v2")})
    dialect.check_update(manifest(), wrong)


def test_merging_says_nothing_twice_and_drops_nothing() -> None:
    assert merged({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": None}) == {
        "a": {"b": 1, "c": [2]}
    }


def test_the_status_has_kserves_canary_statuses() -> None:
    status = ServiceStatus(canaries=(CanaryStatus("v2", Truth.TRUE, "", "", 20),))
    rendered = dialects.of(manifest()).render_status(manifest(), status)
    assert rendered["canaryStatuses"] == [
        {
            "name": "v2",
            "ready": True,
            "trafficPercent": 20,
            "modelStatus": {
                "transitionStatus": "InProgress",
                "states": {"targetModelState": "Pending"},
            },
        }
    ]
