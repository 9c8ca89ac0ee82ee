"""Penstock's own pipelines: every row of the table in a gateway, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from graph_services import Answer, GraphFrontUnderTest
from penstock_scenarios import MODELS, REFUSED, SCENARIOS, Scenario, function, manifest
from seldon_v2_front import until

from penstock import dialects
from penstock.errors import InvalidManifest


def service(model: str) -> Any:
    """V2's tensors or V1's instances, whichever come."""
    run = function(model)

    def answer(given: Any) -> Any:
        try:
            if "instances" in given:
                return {"predictions": [run({"x": n})["y"] for n in given["instances"]]}
            return run(given)
        except ZeroDivisionError as exc:
            raise Answer(500, {"error": str(exc)}) from None

    return answer


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_scenario(front: GraphFrontUnderTest, scenario: Scenario) -> None:
    await front.serve(**{m: service(m) for m in MODELS})
    for made in scenario.manifests():
        front.graph(dialects.translate(made).object)
    name = scenario.target()
    if scenario.body:
        answer = await front.client.post(f"/v1/models/{name}:predict", json=scenario.body)
    else:
        tensors = [
            {"name": n, "shape": [len(v)], "datatype": "FP64", "data": v}
            for n, v in scenario.request.items()
        ]
        answer = await front.client.post(f"/v2/models/{name}/infer", json={"inputs": tensors})
    assert answer.status_code == scenario.status, answer.text
    if scenario.beside:
        wanted = {("default", name, "ok"): 1 for name in scenario.beside}
        await until(lambda: front.samples("penstock_graph_external_runs") == wanted, "its end")
    if isinstance(scenario.answer, str):
        assert answer.json()["error"].startswith(scenario.answer)
    elif scenario.body:
        assert answer.json() == scenario.answer
    else:
        assert {o["name"]: o["data"] for o in answer.json()["outputs"]} == scenario.answer


@pytest.mark.parametrize(("what", "spec", "path", "said"), REFUSED, ids=lambda v: str(v)[:40])
def test_refused(what: str, spec: str, path: str, said: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        dialects.translate(manifest("p", spec))
    assert (path, said) in [(p.path, p.message) for p in caught.value.problems]
