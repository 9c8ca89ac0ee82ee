"""BentoML's models: a folder of its model store, or the contents of an exported `.bentomodel`.

`model.yaml` says which of BentoML's framework modules wrote the files beside it; those that a framework here
reads are served, the others refused by name. Bentos (services with code) are not models: their own classes
run as Python models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from penstock.domain.process import ServedModel
from penstock.domain.service import VersionPolicy
from penstock.errors import LoadError
from penstock.repositories.base import Found, Notes, read_config

MODEL: Final = "model.yaml"
#: In a model's folder of the store: the version that `latest` is.
LATEST: Final = "latest"


class _Module(NamedTuple):
    framework: str
    #: The model's file or folder beside `model.yaml`; None: that folder itself.
    file: str | None


MODULES: Final[Mapping[str, _Module]] = {
    "bentoml.sklearn": _Module("sklearn", "saved_model.pkl"),
    "bentoml.xgboost": _Module("xgboost", "saved_model.ubj"),
    "bentoml.lightgbm": _Module("lightgbm", "saved_model.txt"),
    "bentoml.catboost": _Module("catboost", "saved_model.cbm"),
    "bentoml.onnx": _Module("onnx", "saved_model.onnx"),
    "bentoml.torchscript": _Module("torch", "saved_model.pt"),
    "bentoml.tensorflow": _Module("tensorflow", None),
    "bentoml.mlflow": _Module("mlflow", "mlflow_model"),
    "bentoml.transformers": _Module("huggingface", None),
}
_NOT_HERE: Final = {
    "bentoml.pytorch": "a pickled module needs its code; save it with bentoml.torchscript",
    "bentoml.picklable_model": "a pickled object needs its code; write a Python model that loads it",
    "bentoml.keras": "Keras files are not served; write a SavedModel (bentoml.tensorflow)",
}
#: Methods that may be served where a framework lets one choose.
_METHODS: Final = {
    "sklearn": ("predict", "predict_proba", "decision_function", "transform"),
    "lightgbm": (),
}


def is_repository(path: Path) -> bool:
    """A folder with a `model.yaml` that names one of BentoML's modules, or a store's folder of a model."""
    if not path.is_dir():
        return False
    file = path / MODEL
    if file.is_file():
        with file.open("rb") as f:
            return b"module: bentoml" in f.read(1 << 20).replace(b'"', b"")
    return (path / LATEST).is_file() and (path / _latest(path) / MODEL).is_file()


def read(path: Path, *, name: str = "") -> Found:
    """The model at `path`, by its tag's name. LoadError."""
    notes = Notes()
    folder = path
    if not (folder / MODEL).is_file():
        if not (path / LATEST).is_file():
            raise LoadError(f"There is no {MODEL} in {path.name}/, so it is no model of BentoML's.")
        folder = path / _latest(path)
    text = read_config(folder / MODEL, MODEL)
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LoadError(f"{MODEL} is no YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(given, dict):
        raise LoadError(f"{MODEL} is no map.")
    module = str(given.get("module") or "")
    known = MODULES.get(module)
    if known is None:
        why = _NOT_HERE.get(module) or f"{module!r} is not served; {', '.join(MODULES)} are"
        notes.refuse(MODEL, f"module: {why}")
        return notes.found([])
    place = folder if known.file is None else folder / known.file
    if not place.exists():
        notes.refuse(MODEL, f"module: {module} writes {known.file}, which is not there")
    return notes.found(
        [
            ServedModel(
                name=str(given.get("name") or name),
                framework=known.framework,
                path=str(place),
                options=_options(known.framework, given, notes),
                versions=VersionPolicy(),
                version=str(given.get("version") or ""),
            )
        ]
    )


def _latest(path: Path) -> str:
    name = (path / LATEST).read_text(errors="replace").strip()[:200]
    return name if name and "/" not in name and name not in (".", "..") else "(none)"


def _options(framework: str, given: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    methods = _METHODS.get(framework, ())
    signatures = given.get("signatures") or {}
    said = [m for m in signatures if m in methods]
    if len(said) > 1:
        notes.warn(
            MODEL,
            f"signatures: {said[0]} is served; the option method chooses {' or '.join(said[1:])}",
        )
    return {"method": said[0]} if said else {}
