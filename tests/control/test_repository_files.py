"""Files that were fetched: when they are a repository, and which models a process is told of then."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.control.models.repository_files import models_of, warnings_of, with_models
from penstock.control.process_spec import process_spec
from penstock.control.revisions import Kept, from_object, to_object
from penstock.domain.process import decode, encode
from penstock.domain.revision import Revision
from penstock.domain.service import (
    Batching,
    Component,
    Model,
    ModelFormat,
    Role,
    Service,
    Storage,
    VersionPolicy,
)
from penstock.errors import LoadError


@dataclass
class Fetched:
    path: str
    digest: str = "sha256:1"
    size_bytes: int = 1


def component(format_: str, **fields: Any) -> Component:
    return Component(Role.PREDICTOR, model=Model(ModelFormat(format_), Storage("x")), **fields)


def settings(folder: Path, **more: Any) -> Fetched:
    """scikit-learn's by MLServer."""
    given = {"name": "theirs", "implementation": "mlserver_sklearn.SKLearnModel", **more}
    (folder / "model-settings.json").write_text(json.dumps(given))
    (folder / "model.joblib").write_bytes(b"x")
    return Fetched(str(folder))


def triton(folder: Path) -> Fetched:
    for name in ("a", "b"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.onnx").write_bytes(b"x")
        (folder / name / "config.pbtxt").write_text(
            'backend: "onnxruntime" max_batch_size: 4 dynamic_batching { } instance_group { count: 2 }'
        )
    return Fetched(str(folder))


async def test_a_models_own_files_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"x")
    files = Fetched(str(tmp_path))
    assert await with_models(files, component("sklearn"), "sklearn", "iris") is files
    assert models_of(files) == warnings_of(files) == ()


async def test_a_repository_keeps_its_models_names(tmp_path: Path) -> None:
    files = await with_models(triton(tmp_path), component("triton"), "triton", "svc")
    assert [m.name for m in models_of(files)] == ["a", "b"]
    assert warnings_of(files)[0].startswith("a/config.pbtxt: instance_group: ")
    assert (files.digest, files.size_bytes) == ("sha256:1", 1)


async def test_settings_beside_a_manifests_model_count_under_the_services_name(
    tmp_path: Path,
) -> None:
    files = settings(tmp_path, parameters={"uri": "./model.joblib", "version": "v2"})
    (model,) = models_of(await with_models(files, component("sklearn"), "sklearn", "iris"))
    assert (model.name, model.version) == ("iris", "v2")
    assert model.path == str(tmp_path / "model.joblib")


async def test_settings_for_another_framework_are_refused(tmp_path: Path) -> None:
    files = settings(tmp_path, implementation="mine.Model")
    with pytest.raises(LoadError, match="Say modelFormat: mlserver"):
        await with_models(files, component("sklearn"), "sklearn", "iris")
    (model,) = models_of(await with_models(files, component("mlserver"), "mlserver", "iris"))
    assert (model.name, model.framework) == ("theirs", "mlserver_python")


async def test_an_explainers_settings_say_where_its_files_are(tmp_path: Path) -> None:
    """As Seldon's artifacts have it: which explainer and of which model is the manifest's word."""
    files = settings(tmp_path, implementation="mlserver_alibi_explain.AlibiExplainRuntime")
    assert await with_models(files, component("explainer"), "explainer", "why") is files
    (tmp_path / "data").mkdir()
    files = settings(tmp_path, parameters={"uri": "./data"})
    (model,) = models_of(await with_models(files, component("explainer"), "explainer", "why"))
    assert (model.name, model.framework, model.options) == ("why", "explainer", {})
    assert model.path == str(tmp_path / "data")
    files = settings(tmp_path, parameters={"uri": "../elsewhere"})
    with pytest.raises(LoadError, match="is not in the repository"):
        await with_models(files, component("explainer"), "explainer", "why")
    (tmp_path / "model-settings.json").unlink()
    assert await with_models(files, component("explainer"), "explainer", "why") is files


async def test_a_class_opens_its_files_itself(tmp_path: Path) -> None:
    files = settings(tmp_path)
    assert await with_models(files, component("python"), "custom", "iris") is files


async def test_what_a_process_is_told_survives_the_store_and_the_wire(tmp_path: Path) -> None:
    files = await with_models(triton(tmp_path), component("triton"), "triton", "svc")
    predictor = component("triton", batching=Batching(max_batch_size=2))
    kept = Kept(
        Revision("svc-00001", 1, "d", 1.0, predictor, runtime="r", framework="onnx"),
        asked="x",
        path=str(tmp_path),
        models=models_of(files),
    )
    service = Service("default", "svc", predictor)
    owner = {"apiVersion": "v", "kind": "k", "metadata": {"name": "svc", "uid": "u"}}
    again = from_object(json.loads(json.dumps(to_object(kept, service, owner))))
    assert again.models == kept.models
    spec = process_spec(again, service, "r", env={}, cores=1, replicas=1)
    assert [m.name for m in spec.models] == ["a", "b"]
    assert spec.models[0].declared == models_of(files)[0].declared
    # What the manifest says of batching stands over the repository's.
    assert {m.batching for m in spec.models} == {Batching(max_batch_size=2)}
    assert spec.models[0].versions == VersionPolicy()
    assert decode(encode(spec)) == spec
