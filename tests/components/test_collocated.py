"""A transformer in its predictor's own process: the same answers as through a socket, without one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from textwrap import dedent
from typing import Any

import joblib
import numpy as np
import pytest
from component_servers import error_of, running
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from penstock.errors import LoadError

IRIS = load_iris()
CODE = """
import penstock

class Named(penstock.Transformer):
    def preprocess(self, payload, headers=None):
        if isinstance(payload, penstock.InferRequest):
            return payload
        return {"instances": [list(r.values()) for r in payload["instances"]]}

    def postprocess(self, result, headers=None):
        if isinstance(result, penstock.InferResponse):
            return result
        return {"predictions": [f"class {p}" for p in result["predictions"]]}
"""


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("iris")
    model = LogisticRegression(max_iter=500).fit(IRIS.data, IRIS.target)
    joblib.dump(model, folder / "model.joblib")
    (folder / "transformer.py").write_text(CODE)
    return folder


def together(tmp_path: Path, folder: Path, **options: Any) -> Any:
    wanted = {"class": "transformer.py", **options}
    return running(f"{tmp_path}/s.sock", "transformer", folder, beside=("sklearn", {}), **wanted)


ROWS = [dict(zip("abcd", r.tolist(), strict=True)) for r in IRIS.data[::30]]


async def test_v1_and_v2(tmp_path: Path, iris: Path) -> None:
    async with together(tmp_path, iris) as s:
        answer = await s.v1({"instances": ROWS})
        assert answer.json()["predictions"][0] == "class 0"
        tensor = {
            "name": "x", "shape": [5, 4], "datatype": "FP64", "data": IRIS.data[::30].tolist(),
        }  # fmt: skip
        answer = await s.v2({"inputs": [tensor], "id": "1"})
        model = joblib.load(iris / "model.joblib")
        assert answer.json()["outputs"][0]["data"] == model.predict(IRIS.data[::30]).tolist()
        assert answer.json()["model_name"] == "m"


async def test_only_the_transformer_is_listed(tmp_path: Path, iris: Path) -> None:
    async with together(tmp_path, iris) as s:
        assert (await s.client.get("/v1/models")).json() == {"models": ["m"]}
        assert (await s.client.get("/v2/health/ready")).status_code == 200
        # MLflow's path names no model: it means the one that is seen.
        assert (await s.client.post("/invocations", json={"inputs": [[1, 2]]})).status_code != 404


async def test_requests_share_the_predictors_batches(tmp_path: Path, iris: Path) -> None:
    """Many at once are answered each with its own rows, in fewer calls of the model."""
    async with together(tmp_path, iris) as s:
        answers = await asyncio.gather(*(s.v1({"instances": [r]}) for r in ROWS * 20))
        model = joblib.load(iris / "model.joblib")
        expected = [f"class {p}" for p in model.predict(IRIS.data[::30])] * 20
        assert [a.json()["predictions"][0] for a in answers] == expected


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"instances": [{"a": 1}]}, 400, "4"),
        ({"instances": "x"}, 500, "preprocess"),
        ({"instances": [{"a": "x", "b": 1, "c": 1, "d": 1}]}, 400, ""),
    ],
)
async def test_errors_are_those_of_two_processes(
    tmp_path: Path, iris: Path, body: Any, status: int, said: str
) -> None:
    async with together(tmp_path, iris) as s:
        assert said in error_of(await s.v1(body), status)
        assert (await s.v1({"instances": ROWS})).status_code == 200


async def test_before_a_class_of_ones_own(tmp_path: Path) -> None:
    """The predictor takes payloads itself: V1 as V1, V2 as V2."""
    (tmp_path / "model.py").write_text(
        dedent(
            """
            import penstock

            class Sum(penstock.Model):
                def predict(self, payload, headers=None):
                    if isinstance(payload, penstock.InferRequest):
                        return {"y": payload.as_numpy().sum(axis=1)}
                    return {"predictions": [sum(r) for r in payload["instances"]]}
            """
        )
    )
    (tmp_path / "t.py").write_text("import penstock\nclass T(penstock.Transformer):\n    pass\n")
    options = {"class": "t.py:T"}
    async with running(
        f"{tmp_path}/s.sock",
        "transformer",
        tmp_path,
        beside=("custom", {"class": "model.py"}),
        **options,
    ) as s:
        assert (await s.v1({"instances": [[1, 2]]})).json() == {"predictions": [3]}
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        assert (await s.v2({"inputs": [tensor]})).json()["outputs"][0]["data"] == [3.0]


async def test_synchronous_code_asks_too(tmp_path: Path, iris: Path) -> None:
    (iris / "asks.py").write_text(
        "import penstock\n"
        "class Asks(penstock.Transformer):\n"
        "    def predict(self, payload, headers=None):\n"
        "        return self.predictor.ask(payload)\n"
    )
    async with running(
        f"{tmp_path}/s.sock", "transformer", iris, beside=("sklearn", {}), **{"class": "asks.py"}
    ) as s:
        body = {"instances": np.asarray(IRIS.data[:2]).tolist()}
        assert (await s.v1(body)).json() == {"predictions": [0, 0]}


async def test_a_predictor_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("import penstock\nclass T(penstock.Transformer):\n    pass\n")
    with pytest.raises(LoadError, match="joblib"):
        async with running(
            f"{tmp_path}/s.sock",
            "transformer",
            tmp_path,
            beside=("sklearn", {}),
            **{"class": "t.py"},
        ):
            pass
