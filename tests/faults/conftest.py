"""The platform of the end-to-end tests, for tests that break parts of it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from platform_harness import Platform

SLOW = """
import asyncio

from penstock.sdk import Model


class Slow(Model):
    async def predict(self, payload, headers=None):
        await asyncio.sleep(0.02)
        return {"predictions": [0]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with models/iris and models/slow (20 ms a prediction)."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.tree import DecisionTreeClassifier

    path = tmp_path_factory.mktemp("faults")
    x, y = load_iris(return_X_y=True)
    (path / "models" / "iris").mkdir(parents=True)
    model = DecisionTreeClassifier(random_state=0).fit(x, y)
    joblib.dump(model, path / "models" / "iris" / "model.joblib")
    (path / "models" / "slow").mkdir()
    (path / "models" / "slow" / "model.py").write_text(SLOW)
    return path


@pytest.fixture(scope="module")
def platform(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    p = Platform(folder, "--gateways", "2")
    p.data = tmp_path_factory.mktemp("data")
    p.start()
    yield p
    p.stop()
