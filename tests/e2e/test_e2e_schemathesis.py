"""Requests made from the published OpenAPI documents of both ports: no answer is a fault.

Bounded: a few generated requests for every operation, through the whole platform. 501 is an answer:
understood, and not served here; so is 503 of a model that is not ready.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from platform_harness import Platform
from schemathesis.checks import CHECKS

ISVC = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "InferenceService",
    "metadata": {"name": "iris"},
    "spec": {"predictor": {"sklearn": {"storageUri": "models/iris"}}},
}
CHECKED = ["content_type_conformance", "response_schema_conformance"]
ANSWERS = frozenset({501, 503})
#: A path without a model's name is for the service that the host names.
HOST = {"host": "iris.default.example.com"}
ROW = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


@pytest.fixture(scope="module")
def served(platform: Platform) -> Platform:
    import yaml

    spare = {**ISVC, "metadata": {"name": "spare"}}
    (platform.folder / "isvc.yaml").write_text(yaml.safe_dump_all([ISVC, spare]))
    platform.run("apply", "-f", "isvc.yaml")
    platform.run("wait", "isvc/iris", "--for", "condition=Ready", "--timeout", "60s")
    return platform


def operations(document: dict[str, Any]) -> Iterator[Any]:
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        yield found.ok()


def drive(
    operation: Any,
    base: str,
    examples: int,
    checks: list[str],
    headers: dict[str, str] | None = None,
) -> None:
    """Send generated requests of one operation; each answer has to be one."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        response = case.call(base_url=base, timeout=20, headers=headers)
        said = f"{case.method} {case.formatted_path}: {response.status_code} {response.text[:300]}"
        assert response.status_code < 500 or response.status_code in ANSWERS, said
        assert "Traceback" not in response.text, said
        if response.status_code < 400:
            case.validate_response(response, checks=[CHECKS.get_one(name) for name in checks])

    send()


def named(document: dict[str, Any], **names: list[str]) -> dict[str, Any]:
    """The document with the names that its paths may have: some that are there, some that are not."""
    for path in document["paths"].values():
        for operation in (path, *path.values()):
            if isinstance(operation, dict):
                given = operation.get("parameters", [])
                # What goes on until its client has had enough is not waited for.
                given[:] = [p for p in given if p["name"] not in ("watch", "follow")]
                for parameter in given:
                    if parameter["name"] in names:
                        parameter["schema"] = {"type": "string", "enum": names[parameter["name"]]}
    return document


@pytest.mark.timeout(300)
def test_the_inference_port(served: Platform) -> None:
    published = httpx.get(f"{served.http}/v2/openapi.json").json()
    # An unload would leave the others without a model.
    del published["paths"]["/v2/repository/models/{model}/unload"]
    count = 0
    names = {"model": ["iris", "nope", "i ris"], "version": ["1", "7", "x"]}
    for operation in operations(named(published, **names)):
        headers = None if "/models" in operation.path else HOST
        drive(operation, served.http, 12, CHECKED, headers)
        count += 1
    assert count > 30
    answer = httpx.post(f"{served.http}/v1/models/iris:predict", json=ROW, timeout=30)
    assert answer.json() == {"predictions": [0]}


#: One group of each dialect, and the core: the others are conversions of these.
GROUPS = (
    "api/v1",
    "apis/penstock.dev/v1alpha1",
    "apis/serving.kserve.io/v1beta1",
    "apis/machinelearning.seldon.io/v1",
    "apis/mlops.seldon.io/v1alpha1",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", GROUPS)
def test_the_control_port(served: Platform, group: str) -> None:
    published = served.get(f"/openapi/v3/{group}")
    assert published["paths"]
    names = {"name": ["spare", "nope"], "namespace": ["default", "other"]}
    for operation in operations(named(published, **names)):
        drive(operation, served.api, 2, ["content_type_conformance"])
    assert httpx.get(f"{served.api}/healthz", timeout=30).text == "ok"


def test_the_platform_has_lived_through_it(served: Platform) -> None:
    assert "Traceback" not in served.node_logs()
    assert httpx.get(f"{served.http}/v2/health/live", timeout=30).status_code == 200
