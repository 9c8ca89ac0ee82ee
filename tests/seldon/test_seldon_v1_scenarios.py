"""Every scenario of Seldon Core V1 in docs/reference/graph-scenarios.md runs; what it refuses is applied."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from seldon_oracle import HERE
from seldon_platform import deployed, deployment

from penstock import dialects
from penstock.errors import InvalidManifest

sys.path.insert(0, str(HERE.parent / "graphs"))
from seldon_v1_scenarios import REFUSED, SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_scenario(tmp_path: Path, scenario: Scenario) -> None:
    graphs = [
        {**graph, "predictor": more}
        for graph, more in ((scenario.graph, scenario.first), *scenario.others)
    ]
    async with deployed(tmp_path, deployment(*graphs)) as d:
        answer = await d.predict(scenario.request)
    assert answer.status_code == scenario.status, answer.text
    body = answer.json()
    if scenario.status != 200:
        assert body["status"]["info"].startswith(scenario.answer), body
        return
    given = body["strData"] if "strData" in body else body["data"]["ndarray"]
    assert given == scenario.answer
    for key, expected in scenario.meta.items():
        assert body["meta"][key] == expected
    assert body["meta"]["puid"]


@pytest.mark.parametrize(("what", "graph", "field", "said"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_is_refused(what: str, graph: dict[str, Any], field: str, said: str) -> None:
    predictor = {}
    if field.startswith("componentSpecs"):
        container = {"name": graph["name"], "image": "mine:1"}
        predictor = {"componentSpecs": [{"spec": {"containers": [container]}}]}
    with pytest.raises(InvalidManifest) as refused:
        dialects.translate(deployment({**graph, "predictor": predictor}))
    found = {p.path: p.message for p in refused.value.problems}
    assert found[f"spec.predictors[0].{field}"] == said, what
