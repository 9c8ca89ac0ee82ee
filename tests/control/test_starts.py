"""Which zygote a revision's processes come from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.control.starts import zygote_of


def kept(path: Path, framework: str = "sklearn", models: tuple[Any, ...] = ()) -> Any:
    revision = SimpleNamespace(framework=framework)
    return SimpleNamespace(revision=revision, path=str(path), models=models)


@pytest.mark.parametrize(
    ("file", "zygote"),
    [
        ("model.joblib", "sklearn"),
        ("model.skops", "skops"),
        ("MODEL.SKOPS", "skops"),
        ("1/model.skops", "skops"),
    ],
)
def test_skops_files_have_a_zygote_of_their_own(tmp_path: Path, file: str, zygote: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert zygote_of(kept(tmp_path)) == zygote
    assert zygote_of(kept(tmp_path / file)) == zygote
    assert zygote_of(kept(tmp_path, "mlflow")) == "mlflow"
    assert zygote_of(kept(tmp_path, models=("a",))) == "sklearn"


def test_files_that_are_gone_have_the_frameworks(tmp_path: Path) -> None:
    assert zygote_of(kept(tmp_path / "gone")) == "sklearn"
