"""MLServer's folders, read and served."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
from benchmarks import peers
from repository_folders import write
from sklearn.linear_model import LogisticRegression

from penstock import repositories
from penstock.domain.declared import Declared, DeclaredTensor
from penstock.domain.service import Batching, VersionPolicy
from penstock.errors import LoadError
from penstock.repositories import mlserver

IRIS = {
    "name": "iris",
    "implementation": "mlserver_sklearn.SKLearnModel",
    "parameters": {"uri": "./model.joblib", "version": "v0.1.0"},
}


def test_many_models_in_one_tree(tmp_path):
    root = write(
        tmp_path,
        {
            "settings.json": {"debug": True, "http_port": 8080},
            "iris/model-settings.json": {
                **IRIS,
                "max_batch_size": 16,
                "max_batch_time": 0.01,
                "inputs": [{"name": "flowers", "datatype": "FP64", "shape": [-1, 4]}],
            },
            "iris/model.joblib": b"x",
            "deep/er/model-settings.json": {
                "implementation": "mlserver_lightgbm.LightGBMModel",
                "parallel_workers": 4,
            },
            "mine/model-settings.json": {
                "implementation": "mine.Sums",
                "parameters": {"extra": {"a": 1}},
            },
        },
    )
    found = repositories.read("mlserver", root)
    models = {m.name: m for m in found.models}
    assert {n: m.framework for n, m in models.items()} == {
        "er": "lightgbm",
        "iris": "sklearn",
        "mine": "mlserver_python",
    }
    iris = models["iris"]
    assert iris.path == str(root / "iris" / "model.joblib")
    assert iris.version == "v0.1.0"
    assert iris.batching == Batching(16, 0.01)
    assert iris.declared == Declared(
        inputs=(DeclaredTensor("flowers", "FP64", (-1, 4)),), held=False
    )
    assert models["er"].path == str(root / "deep" / "er")
    assert models["mine"].options["settings"]["implementation"] == "mine.Sums"
    assert found.warnings == (
        "settings.json: debug: is about MLServer's program; it has no effect here",
        "settings.json: http_port: is about MLServer's program; it has no effect here",
        "deep/er/model-settings.json: parallel_workers: one process runs per replica",
    )
    write(root, {"settings.json": {"load_models_at_startup": False}})
    assert all(not m.load for m in repositories.read("mlserver", root).models)


def test_content_types_and_the_method_are_read(tmp_path):
    root = write(
        tmp_path,
        {
            "model-settings.json": {
                **IRIS,
                "inputs": [
                    {
                        "name": "day",
                        "datatype": "BYTES",
                        "shape": [-1],
                        "parameters": {"content_type": "datetime"},
                    }
                ],
                "parameters": {
                    "uri": "./model.joblib",
                    "content_type": "pd",
                    "extra": {"predict_fn": "predict_proba"},
                },
            },
            "model.joblib": b"x",
        },
    )
    found = repositories.read("mlserver", root)
    (model,) = found.models
    assert found.warnings == ()
    assert model.options == {"method": "predict_proba"}
    assert model.declared == Declared(
        (DeclaredTensor("day", "BYTES", (-1,), content_type="datetime"),),
        held=False,
        content_type="pd",
    )
    write(root, {"model-settings.json": {**IRIS, "parameters": {"content_type": 7}}})
    with pytest.raises(LoadError, match=r"parameters.content_type: a text is expected"):
        repositories.read("mlserver", root)


def test_a_models_versions_are_folders(tmp_path):
    for v in ("1", "2"):
        settings = {"name": "m", "implementation": "mlserver_xgboost.XGBoostModel"}
        write(
            tmp_path,
            {f"m/{v}/model-settings.json": {**settings, "parameters": {"version": v}}},
        )
    (model,) = repositories.read("mlserver", tmp_path).models
    assert model.path == str(tmp_path / "m")
    assert model.versions == VersionPolicy(latest=None, all=True)
    write(
        tmp_path,
        {"m/3/model-settings.json": {**settings, "parameters": {"version": "new"}}},
    )
    with pytest.raises(LoadError, match=r"name: 'm' is there already; versions of a model are"):
        repositories.read("mlserver", tmp_path)


def test_a_path_in_a_container_is_the_repositorys(tmp_path):
    root = write(
        tmp_path,
        {
            "model-settings.json": {**IRIS, "parameters": {"uri": "/mnt/models/a/model.joblib"}},
            "a/model.joblib": b"x",
        },
    )
    (model,) = repositories.read("mlserver", root, name="service").models
    assert model.path == str(root / "a" / "model.joblib")
    assert model.name == "iris"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "implementation: a class is expected, such as mlserver_sklearn.SKLearnModel"),
        ({"implementation": "mlserver_alibi_detect.AlibiDetectRuntime"}, "detectors are not"),
        ({**IRIS, "parameters": {"uri": "../../etc/passwd"}}, "is not in the repository"),
        ({**IRIS, "parameters": {"uri": "s3://b/m"}}, "a path is expected; where files come"),
        ({**IRIS, "parameters": {"uri": "./none.joblib"}}, "there is no ./none.joblib"),
        ({**IRIS, "parameters": {"extra": {"a": 1}}}, "parameters.extra: is not read for sklearn"),
        (
            {**IRIS, "parameters": {"environment_tarball": "e.tar.gz"}},
            "parameters.environment_tarball: environments of a model's own",
        ),
        ({**IRIS, "inputs": [{"name": "x"}]}, "inputs[0]: name, datatype and shape"),
        ({**IRIS, "max_batch_size": "many"}, "max_batch_size: a number"),
        (
            {
                "implementation": "mlserver_huggingface.HuggingFaceRuntime",
                "parameters": {"extra": {"pretrained_model": "distilgpt2"}},
            },
            "models of the hub are fetched by storageUri: hf://distilgpt2",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_place(tmp_path, settings, message):
    root = write(
        tmp_path,
        {"m/model-settings.json": settings, "m/model.joblib": b"x"},
    )
    with pytest.raises(LoadError) as told:
        repositories.read("mlserver", root)
    assert str(told.value).startswith("m/model-settings.json: ")
    assert message in str(told.value)


def test_a_file_that_is_no_json(tmp_path):
    write(tmp_path, {"model-settings.json": "{"})
    with pytest.raises(LoadError, match=r"model-settings\.json: is no JSON: "):
        repositories.read("mlserver", tmp_path)


def test_an_unknown_field_is_told(tmp_path):
    root = write(
        tmp_path,
        {"model-settings.json": {**IRIS, "max_batchsize": 3}, "model.joblib": b"x"},
    )
    assert repositories.read("mlserver", root).warnings == (
        "model-settings.json: max_batchsize: unknown field, did you mean max_batch_size?",
    )


def test_the_table_and_the_readers_fields_do_not_overlap():
    read = {*mlserver._READ, *(f"parameters.{p}" for p in mlserver._READ_PARAMETERS)}
    assert not read & set(mlserver.TABLE)


@pytest.fixture(scope="module")
def trained() -> LogisticRegression:
    x = np.random.default_rng(0).normal(size=(60, 4))
    return LogisticRegression().fit(x, (x[:, 0] > 0).astype(int))


def test_models_are_served_under_their_names_and_versions(
    tmp_path: Path, trained: LogisticRegression, penstock_run: Callable[..., Any]
) -> None:
    root = write(
        tmp_path,
        {
            "iris/model-settings.json": {
                **IRIS,
                "inputs": [{"name": "flowers", "datatype": "FP64", "shape": [-1, 4]}],
            },
            "other/model-settings.json": {"implementation": "mlserver_sklearn.SKLearnModel"},
            "other/model.pkl": pickle.dumps(trained),
        },
    )
    joblib.dump(trained, root / "iris" / "model.joblib")
    running = penstock_run(root)
    url = f"http://{running.http}/v2/models"
    meta = httpx.get(f"{url}/iris").json()
    assert meta["versions"] == ["v0.1.0"]
    assert meta["inputs"] == [{"name": "flowers", "datatype": "FP64", "shape": [-1, 4]}]
    body = {
        "inputs": [{"name": "predict", "shape": [1, 4], "datatype": "FP32", "data": [9, 0, 0, 0]}]
    }
    for path in ("iris/infer", "iris/versions/v0.1.0/infer", "other/infer"):
        assert httpx.post(f"{url}/{path}", json=body).json()["outputs"][0]["data"] == [1]
    assert httpx.post(f"{url}/iris/versions/2/infer", json=body).status_code == 404


CUSTOM = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from neighbour import FACTOR


class Sums(MLModel):
    async def load(self) -> bool:
        self.added = int(self.settings.parameters.extra["added"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        if x.size == 0:
            raise ZeroDivisionError("x")
        total = x.sum(axis=1) * FACTOR + self.added
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            parameters=Parameters(headers={"x-sums": "1"}, content_type="pd"),
            outputs=[
                ResponseOutput(name="total", shape=list(total.shape), datatype="FP64", data=total.tolist()),
                ResponseOutput(name="word", shape=[1], datatype="BYTES", data=["sum"],
                               parameters=Parameters(content_type="str")),
            ],
        )
"""
PACKAGES = str(Path(httpx.__file__).parents[1])
CALL = """
import asyncio, json, sys
from pathlib import Path
sys.path.append(sys.argv[2])  # the platform's packages, behind MLServer's own
import numpy as np
from benchmarks import peers
from penstock import repositories
from penstock.protocols.infer import InferRequest
from penstock.runtimes import mlserver_python
from penstock.runtimes.base import CallContext, LoadOptions


async def main():
    (model,) = repositories.read("mlserver", Path(sys.argv[1])).models
    options = {**model.options, **json.loads(sys.argv[3])}
    runtime = mlserver_python.load(Path(model.path), LoadOptions(model.name, options=options))
    await runtime.start()
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    request = InferRequest({"x": x}, {"x": "FP64"}, id="7")
    context = CallContext(protocol="v2", headers={"a": "b"})
    answer = await runtime.call(request, context)
    try:
        empty = InferRequest({"x": np.empty((0, 2))}, {"x": "FP64"})
        await runtime.call(empty, CallContext(protocol="v2"))
    except Exception as error:
        failed = str(error)
    await runtime.stop()
    print(json.dumps([answer.outputs["total"].tolist(), answer.outputs["word"].tolist()[0].decode(),
                      answer.id, failed, context.response_headers, answer.parameters,
                      answer.output_parameters]))

asyncio.run(main())
"""


def custom(root: Path, **settings: Any) -> Path:
    return write(
        root,
        {
            "model-settings.json": {
                "name": "sums",
                "implementation": "sums.Sums",
                **settings,
            },
            "sums.py": CUSTOM,
            "neighbour.py": "FACTOR = 2",
        },
    )


def sums(folder: Path, **options: Any) -> str:
    """What the runtime of `CUSTOM` answered."""
    # The package's pins keep it out of the platform's own environment.
    python = peers.environment("mlserver") / "python"
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", CALL, str(folder), PACKAGES, json.dumps(options)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.timeout(600)  # the first run installs the package
def test_a_runtime_of_ones_own_runs_as_it_is(tmp_path: Path) -> None:
    assert sums(custom(tmp_path, parameters={"extra": {"added": 1}})) == (
        '[[7.0, 15.0], "sum", "7", "model \'sums\' failed in predict: ZeroDivisionError. '
        'Its log has the traceback.", {"x-sums": "1"}, {"content_type": "pd"}, '
        '{"word": {"content_type": "str"}}]'
    )


@pytest.mark.timeout(600)
def test_a_runtime_of_ones_own_gets_what_the_manifest_says_to_it(tmp_path: Path) -> None:
    """As `parameters` of Seldon's Model: over what the folder says, or where it says nothing."""
    said = custom(tmp_path / "said", parameters={"extra": {"added": 1}})
    assert sums(said, extra={"added": "2"}).startswith("[[8.0, 16.0]")
    assert sums(custom(tmp_path / "none"), extra={"added": "3"}).startswith("[[9.0, 17.0]")


def test_without_mlserver_it_is_said_what_to_install(tmp_path: Path) -> None:
    if "mlserver" in sys.modules:
        pytest.skip("MLServer is installed here")
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "run", str(custom(tmp_path)), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert (
        "sums.Sums is a runtime of MLServer's, and the package mlserver cannot be imported" in text
    )
    assert "pip install mlserver" in text
