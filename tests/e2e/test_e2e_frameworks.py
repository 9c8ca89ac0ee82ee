"""Every framework through the whole platform: its zygote, its forked replica, the gateway, V2."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from platform_harness import Platform

ROOT = Path(__file__).resolve().parents[2]
#: Framework -> the manifest's block.
BLOCKS = {
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "onnx": "onnx",
    "torch": "pytorch",
    "tensorflow": "tensorflow",
    "mlflow": "mlflow",
    "huggingface": "huggingface",
}
_MAKE = """
import pickle, sys
from pathlib import Path
from benchmarks.fork_cost import MAKERS
folder = Path(sys.argv[2])
folder.mkdir(parents=True)
pickle.dump(MAKERS[sys.argv[1]](folder), open(sys.argv[3], "wb"))
"""


def _tensor(name: str, value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return {
            "name": name,
            "datatype": "BYTES",
            "shape": list(array.shape),
            "data": array.tolist(),
        }
    kinds = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}
    return {
        "name": name,
        "datatype": kinds[str(array.dtype)],
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("framework", BLOCKS)
def test_a_framework_from_its_file_to_its_answer(
    framework: str, platform: Platform, tmp_path: Path
) -> None:
    """The answer through the gateway is the framework's own."""
    made = tmp_path / "made.pickle"
    folder = platform.folder / "models" / framework
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MAKE, framework, str(folder), str(made)],
        check=True, cwd=ROOT, capture_output=True, timeout=120,
    )  # fmt: skip
    inputs, expected = pickle.loads(made.read_bytes())  # our own, made a moment ago
    (platform.folder / "m.yaml").write_text(
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceService\n"
        f"metadata:\n  name: {framework}\nspec:\n  predictor:\n    {BLOCKS[framework]}:\n"
        f"      storageUri: models/{framework}\n"
    )
    platform.run("apply", "-f", "m.yaml", "--wait", "--timeout=55s")
    answer = httpx.post(
        f"{platform.http}/v2/models/{framework}/infer",
        json={"inputs": [_tensor(name, value) for name, value in inputs.items()]},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    outputs = {o["name"]: o for o in answer.json()["outputs"]}
    assert set(expected) <= set(outputs)
    for name, value in expected.items():
        if framework == "huggingface":
            assert f'"{value[0]["label"]}"' in str(outputs[name]["data"][0])
            continue
        got = np.array(outputs[name]["data"]).reshape(outputs[name]["shape"])
        np.testing.assert_allclose(got, np.asarray(value).reshape(got.shape), rtol=1e-6)
    platform.run("delete", "isvc", framework)
