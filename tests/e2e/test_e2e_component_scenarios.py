"""Every row about transformers and explainers in docs/reference/graph-scenarios.md, on one platform."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from component_models import write_models
from platform_harness import Platform, until

from penstock import dialects
from penstock.errors import InvalidManifest

sys.path.insert(0, str(Path(__file__).parents[1] / "graphs"))
sys.path.insert(0, str(Path(__file__).parents[1] / "components"))
import kserve_component_scenarios as kserve
import seldon_v1_component_scenarios as seldon_v1
import seldon_v2_component_scenarios as seldon_v2
from component_scenarios_base import Call, Manifest, Scenario
from kserve_package import write_packages

SYSTEMS = (kserve, seldon_v1, seldon_v2)
SCENARIOS = [s for system in SYSTEMS for s in system.SCENARIOS if not s.alone]
REFUSED = [r for system in SYSTEMS for r in system.REFUSED]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with everything that any row applies."""
    folder = tmp_path_factory.mktemp("p")
    write_models(folder)
    write_packages(folder / "site")
    platform = Platform(folder, env={"PYTHONPATH": str(folder / "site")})
    platform.start()
    try:
        for told in (True, False):
            applied: dict[str, Manifest] = {}
            for scenario in SCENARIOS:
                if bool(scenario.told) is told:
                    applied |= {json.dumps(m): m for m in scenario.manifests}
            items = {"apiVersion": "v1", "kind": "List", "items": list(applied.values())}
            wait = () if told else ("--wait", "--timeout", "110s")
            platform.run("apply", "-f", "-", *wait, stdin=json.dumps(items))
        yield platform
    finally:
        platform.stop()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.service}: {s.name}")
def test_scenario(platform: Platform, scenario: Scenario) -> None:
    if scenario.told:
        until(lambda: scenario.told in _status(platform, scenario), scenario.told)
    status, body = _asked(platform, scenario.service, scenario.call)
    assert status == scenario.status, body
    for place, expected in scenario.answer.items():
        found = _at(body, place)
        assert expected(found) if callable(expected) else found == expected, (place, found)
    if status != 200:
        assert body.get("error") or body["status"]["info"]


@pytest.mark.parametrize(
    ("what", "manifest", "field", "said"), REFUSED, ids=[r[0] for r in REFUSED]
)
def test_what_is_refused(what: str, manifest: Manifest, field: str, said: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        dialects.translate(manifest)
    found = {p.path: p.message for p in refused.value.problems}
    assert found == {field: said}, what


def _status(platform: Platform, scenario: Scenario) -> str:
    kind = scenario.manifests[-1]["kind"].lower()
    at = f"/apis/{scenario.manifests[-1]['apiVersion']}/namespaces/default/{kind}s/{scenario.service}"
    conditions = platform.get(at).get("status", {}).get("conditions", [])
    return " ".join(c.get("message", "") for c in conditions)


def _asked(platform: Platform, name: str, call: Call) -> tuple[int, Any]:
    if call.wire != "json":
        return 200, _by_triton(platform, name, call)
    url = platform.http + call.path.replace("{}", name)
    method = "GET" if call.body is None else "POST"
    answer = httpx.request(method, url, json=call.body, headers=dict(call.headers), timeout=60)
    body = answer.json()
    for output in body.get("outputs", ()):
        if output["name"] == "explanation":
            body["explained"] = json.loads(output["data"][0])
    return answer.status_code, body


def _by_triton(platform: Platform, name: str, call: Call) -> dict[str, Any]:
    """V2's JSON of what Triton's client gets for the one tensor of the body, in binary."""
    import tritonclient.grpc
    import tritonclient.http

    by_grpc = call.wire == "grpc"
    module: Any = tritonclient.grpc if by_grpc else tritonclient.http
    address = platform.grpc if by_grpc else platform.http.removeprefix("http://")
    (given,) = call.body["inputs"]
    with module.InferenceServerClient(address) as client:
        tensor = module.InferInput(given["name"], given["shape"], given["datatype"])
        numbers = given["datatype"] != "BYTES"
        array = np.array(given["data"], float if numbers else object).reshape(given["shape"])
        tensor.set_data_from_numpy(array)
        answer = client.infer(name, [tensor])
        document = answer.get_response(as_json=True) if by_grpc else answer.get_response()
        outputs = [
            {"name": o["name"], "data": [_plain(v) for v in answer.as_numpy(o["name"]).ravel()]}
            for o in document["outputs"]
        ]
    body: dict[str, Any] = {"outputs": outputs}
    if outputs[0]["name"] == "explanation":
        body["explained"] = json.loads(outputs[0]["data"][0])
    return body


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()


def _at(body: Any, place: str) -> Any:
    """What is at `place`, such as `outputs[0].data`."""
    for key in re.findall(r"[^.\[\]]+", place):
        body = body[int(key)] if isinstance(body, list) else body[key]
    return body
