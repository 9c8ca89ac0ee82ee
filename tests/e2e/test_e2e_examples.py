"""Every manifest of examples/ is applied as its comment says, and what it makes answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from platform_harness import Platform

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
#: 2, 1.4, 0.55 and 0.08 inches: a setosa.
INCHES = {"instances": [[2.0, 1.4, 0.55, 0.08]]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform started where a reader starts it: models/ beside examples/."""
    folder = tmp_path_factory.mktemp("examples")
    subprocess.run([sys.executable, EXAMPLES / "train.py", "--to", folder / "models"], check=True)
    (folder / "examples").symlink_to(EXAMPLES)
    platform = Platform(folder)
    platform.start()
    try:
        files = [
            "iris.yaml",
            "digits.yaml",
            "graphs/services.yaml",
            "graphs/pipeline.yaml",
            "graphs/inferencegraph.yaml",
            "components/transformer.yaml",
            "components/explainer.yaml",
        ]
        options = [o for f in files for o in ("-f", f"examples/{f}")]
        platform.run("apply", *options, "--wait")
        yield platform
    finally:
        platform.stop()


def ask(platform: Platform, path: str, document: Any) -> Any:
    answer = httpx.post(f"{platform.http}{path}", json=document, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("name", ["flowers", "garden"])
def test_graphs_answer_by_v1(served: Platform, name: str) -> None:
    answer = ask(served, f"/v1/models/{name}:predict", INCHES)
    assert answer["petals"] == {"predictions": [0]}
    ((likely, *_),) = answer["odds"]["predictions"]
    assert likely > 0.9


def test_the_pipeline_answers_tensors(served: Platform) -> None:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": INCHES["instances"][0]}
    answer = ask(served, "/v2/models/flowers/infer", {"inputs": [tensor]})
    assert answer["petals"]["outputs"][0]["data"] == [0]


def test_python_makes_the_pipeline_of_the_manifest() -> None:
    """The same steps, whichever way they are written."""
    made = subprocess.run(
        [sys.executable, EXAMPLES / "graphs" / "pipeline.py"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    written = yaml.safe_load((EXAMPLES / "graphs" / "pipeline.yaml").read_text())
    found = yaml.safe_load(made)
    assert found["spec"] == written["spec"]
    assert found["metadata"]["name"] == written["metadata"]["name"]


def test_the_transformer_names_species(served: Platform) -> None:
    asked = {"flowers": [{"sepal": [5.1, 3.5], "petal": [1.4, 0.2]}]}
    assert ask(served, "/v1/models/named:predict", asked) == {"species": ["setosa"]}


def test_the_explainer_says_why(served: Platform) -> None:
    why = ask(served, "/v1/models/reasons:explain", {"instances": [[5.1, 3.5, 1.4, 0.2]]})
    assert why["data"]["prediction_name"] == "setosa"
    assert why["data"]["anchor"]
    assert ask(served, "/v1/models/reasons:predict", {"instances": [[5.1, 3.5, 1.4, 0.2]]}) == {
        "predictions": [0]
    }


def test_models_of_the_first_tutorial_answer(served: Platform) -> None:
    assert ask(served, "/v1/models/iris:predict", {"instances": [[5.1, 3.5, 1.4, 0.2]]}) == {
        "predictions": [0]
    }
    assert ask(served, "/v1/models/digits:predict", {"instances": [[0.0] * 64]})["predictions"]


def test_every_example_is_applied_here_or_by_a_test_of_its_own() -> None:
    """An example that nobody runs is one that does not work."""
    here = Path(__file__).read_text()
    others = "".join(
        p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if p.name != Path(__file__).name
    )
    for path in EXAMPLES.rglob("*.yaml"):
        name = path.relative_to(EXAMPLES)
        assert str(name) in here or path.name in others, name
