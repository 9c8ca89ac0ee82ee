"""BentoML's model store, by its documented layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
from repository_folders import write
from sklearn.linear_model import LinearRegression

from penstock import repositories
from penstock.errors import LoadError

MODEL_YAML = """
name: {name}
version: abcdefgh
module: {module}
labels: {{}}
options: {{}}
metadata: {{}}
context:
  framework_name: scikit-learn
  framework_versions: {{scikit-learn: 1.9.1}}
  bentoml_version: 1.4.0
  python_version: '3.11'
signatures:
  {method}: {{batchable: false, batch_dim: [0, 0], input_spec: null, output_spec: null}}
api_version: v1
creation_time: '2026-01-01T00:00:00+00:00'
"""


def model(module: str = "bentoml.sklearn", method: str = "predict") -> str:
    return MODEL_YAML.format(name="price", module=module, method=method)


def test_a_store_serves_its_latest(tmp_path: Path, penstock_run: Callable[..., Any]) -> None:
    write(tmp_path, {"abcdefgh/model.yaml": model(), "latest": "abcdefgh\n"})
    x = np.arange(4.0).reshape(4, 1)
    joblib.dump(LinearRegression().fit(x, x[:, 0] * 2), tmp_path / "abcdefgh" / "saved_model.pkl")
    assert repositories.detect(tmp_path) == "bentoml"
    running = penstock_run(tmp_path)
    url = f"http://{running.http}"
    answer = httpx.post(f"{url}/v1/models/price:predict", json={"instances": [[5.0]]})
    assert answer.json()["predictions"] == pytest.approx([10.0])
    assert httpx.get(f"{url}/v2/models/price").json()["versions"] == ["abcdefgh"]


def test_a_signature_says_the_method(tmp_path: Path) -> None:
    root = write(tmp_path, {"model.yaml": model(method="predict_proba"), "saved_model.pkl": b"x"})
    (found,) = repositories.read("bentoml", root).models
    assert found.options == {"method": "predict_proba"}
    assert found.path == str(root / "saved_model.pkl")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (model("bentoml.picklable_model"), "module: a pickled object needs its code"),
        (model("bentoml.fastai"), "module: 'bentoml.fastai' is not served; bentoml.sklearn"),
        (model("bentoml.onnx"), "bentoml.onnx writes saved_model.onnx, which is not there"),
        ("module: bentoml: x", r"model.yaml is no YAML"),
        ("module: bentoml.sklearn\n- 3", r"model.yaml is no YAML"),
    ],
)
def test_what_is_not_served_is_named(tmp_path: Path, yaml: str, message: str) -> None:
    write(tmp_path, {"model.yaml": yaml})
    with pytest.raises(LoadError) as told:
        repositories.read("bentoml", tmp_path)
    assert message in str(told.value)


def test_another_model_yaml_is_no_model_of_bentoml(tmp_path: Path) -> None:
    write(tmp_path, {"model.yaml": "module: mine"})
    assert repositories.detect(tmp_path) is None
    write(tmp_path / "b", {"latest": "../../etc"})
    assert repositories.detect(tmp_path / "b") is None
