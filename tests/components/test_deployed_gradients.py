"""The row about a SeldonDeployment's TensorFlow model and its integrated gradients, without the platform."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from component_servers import chain

from penstock import dialects

sys.path.insert(0, str(Path(__file__).parents[1] / "graphs"))
from seldon_v1_component_scenarios import INTEGRATED_GRADIENTS, SCENARIOS


async def test_integrated_gradients_of_a_deployments_model(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    class Linear(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def serve(self, x: Any) -> Any:
            return {"y": tf.matmul(x, [[1.0, -2.0], [0.5, 3.0]])}

    module, folder = Linear(), tmp_path / "m"
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    (scenario,) = (s for s in SCENARIOS if s.name == INTEGRATED_GRADIENTS)
    service = dialects.translate(scenario.manifests[0]).object
    assert service.predictor.model.format.name == "tensorflow"
    options = service.explainer.model.options
    async with chain(tmp_path, ("tensorflow", folder), ("explainer", folder), **options) as (
        _,
        front,
    ):
        rows = scenario.call.body["data"]["ndarray"]
        answer = await front.v1({"instances": rows}, verb="explain")
    assert answer.status_code == scenario.status, answer.text
    for place, satisfied in scenario.answer.items():
        found = answer.json()
        for key in place.split("."):
            found = found[key]
        assert satisfied(found), found
