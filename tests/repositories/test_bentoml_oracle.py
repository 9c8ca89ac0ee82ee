"""What the package `bentoml` itself saves, exports and answers, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from benchmarks import peers

from penstock import repositories

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]]
_PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import bentoml, numpy as np, xgboost
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

rows = np.array(json.loads(sys.argv[1]))
x, y = load_iris(return_X_y=True)
told = {"version": bentoml.__version__, "models": {}}

def save(name, module, model, method, answer, **more):
    saved = module.save_model(name, model, signatures={method: {"batchable": True}}, **more)
    loaded = module.load_model(f"{name}:{saved.tag.version}")
    told["models"].setdefault(name, []).append([saved.tag.version, np.asarray(answer(loaded)).tolist()])
    return saved

for c in (0.01, 1.0):
    save("iris", bentoml.sklearn, LogisticRegression(C=c, max_iter=500).fit(x, y), "predict",
         lambda m: m.predict(rows))
save("odds", bentoml.sklearn, LogisticRegression(max_iter=500).fit(x, y), "predict_proba",
     lambda m: m.predict_proba(rows))
booster = xgboost.train({"max_depth": 2, "seed": 1}, xgboost.DMatrix(x, label=y), 5)
save("trees", bentoml.xgboost, booster, "predict",
     lambda m: (m if isinstance(m, xgboost.Booster) else m.get_booster()).predict(xgboost.DMatrix(rows)))
bentoml.models.export_model("iris:latest", sys.argv[2])
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Saved:
    """A model store of BentoML's own making, and what its models answered there."""

    home: Path
    exported: Path
    #: Name -> (version, answers to ROWS), oldest first.
    models: dict[str, list[tuple[str, Any]]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("bento")
    exported = folder / "iris.bentomodel"
    done = subprocess.run(
        [peers.environment("bentoml") / "python", "-W", "ignore", "-c", _PROGRAM, json.dumps(ROWS),
         str(exported)],
        env={**os.environ, "BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    return Saved(folder / "home", exported, told["models"])


def predict(running: Any, name: str) -> Any:
    answer = httpx.post(f"http://{running.http}/v1/models/{name}:predict", json={"instances": ROWS})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


@pytest.mark.parametrize("name", ["iris", "odds", "trees"])
def test_a_store_answers_as_bentoml_does(
    saved: Saved, name: str, penstock_run: Callable[..., Any]
) -> None:
    """By the store's folder of the model: its `latest`, with the method that its signature names."""
    store = saved.home / "models" / name
    assert repositories.detect(store) == "bentoml"
    version, answers = saved.models[name][-1]
    running = penstock_run(store)
    np.testing.assert_allclose(predict(running, name), answers, atol=1e-6)
    about = httpx.get(f"http://{running.http}/v2/models/{name}").json()
    assert about["versions"] == [version]


def test_an_older_version_is_one_of_its_own(saved: Saved, penstock_run: Callable[..., Any]) -> None:
    (old, answers), (new, _) = saved.models["iris"]
    assert old != new
    running = penstock_run(saved.home / "models" / "iris" / old)
    assert predict(running, "iris") == answers
    assert httpx.get(f"http://{running.http}/v2/models/iris").json()["versions"] == [old]


def test_an_exported_model_is_the_folder_packed(saved: Saved, tmp_path: Path) -> None:
    with tarfile.open(saved.exported) as archive:
        archive.extractall(tmp_path, filter="data")
    (found,) = repositories.read("bentoml", tmp_path).models
    assert (found.name, found.framework) == ("iris", "sklearn")
    assert found.version == saved.models["iris"][-1][0]
