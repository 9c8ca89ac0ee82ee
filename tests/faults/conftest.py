"""The platform of the end-to-end tests, for tests that break parts of it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parent))

from fault_load import Book
from platform_harness import Platform

#: Models by name: what `predict` does, and perhaps `load`.
MODELS = {
    "slow": "async def predict(self, payload, headers=None):\n        await asyncio.sleep(0.02)\n"
    "        return {'predictions': [0]}",
    "good": "def predict(self, payload, headers=None):\n        return {'predictions': [0]}",
    "never": "def load(self):\n        time.sleep(3600)\n\n"
    "    def predict(self, payload, headers=None):\n        return {'predictions': [0]}",
    "dragging": "def predict(self, payload, headers=None):\n        time.sleep(0.3)\n"
    "        return {'predictions': [0]}",
    "crashing": "n = 0\n\n    def predict(self, payload, headers=None):\n        self.n += 1\n"
    "        if self.n >= 3:\n            os._exit(9)\n        return {'predictions': [0]}",
    "hanging": "def predict(self, payload, headers=None):\n"
    "        if payload['instances'] == ['hang']:\n            time.sleep(3600)\n"
    "        return {'predictions': [0]}",
    "leaking": "kept = []\n\n    def predict(self, payload, headers=None):\n"
    "        self.kept.append(os.urandom(1 << 20))\n        return {'predictions': [0]}",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", help="page to write what was seen into")


@pytest.fixture(scope="session")
def book(request: pytest.FixtureRequest) -> Iterator[Book]:
    """Where each test notes what its fault cost."""
    found = Book()
    yield found
    if page := request.config.getoption("--fault-table", default=None):
        found.write(Path(page))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with models/iris and those of `MODELS`."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.tree import DecisionTreeClassifier

    path = tmp_path_factory.mktemp("faults")
    x, y = load_iris(return_X_y=True)
    (path / "models" / "iris").mkdir(parents=True)
    model = DecisionTreeClassifier(random_state=0).fit(x, y)
    joblib.dump(model, path / "models" / "iris" / "model.joblib")
    for name, body in MODELS.items():
        (path / "models" / name).mkdir()
        (path / "models" / name / "model.py").write_text(
            "import asyncio\nimport os\nimport time\n\nfrom penstock.sdk import Model\n\n\n"
            f"class M(Model):\n    {body}\n"
        )
    return path


@pytest.fixture(scope="module")
def platform(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    p = Platform(folder, "--gateways", "2")
    p.data = tmp_path_factory.mktemp("data")
    p.start()
    yield p
    p.stop()
