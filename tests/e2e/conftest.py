"""A trained model and a running platform for the tests of this folder."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from platform_harness import Platform


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with models/iris, models/other (another classifier) and models/broken."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    path = tmp_path_factory.mktemp("e2e")
    x, y = load_iris(return_X_y=True)
    for name, model in (
        ("iris", DecisionTreeClassifier(random_state=0)),
        ("other", LogisticRegression(max_iter=500)),
    ):
        (path / "models" / name).mkdir(parents=True)
        joblib.dump(model.fit(x, y), path / "models" / name / "model.joblib")
    (path / "models" / "broken").mkdir()
    (path / "models" / "broken" / "model.joblib").write_bytes(b"this is no pickle")
    return path


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[Platform]:
    p = Platform(folder)
    p.start()
    yield p
    p.stop()
