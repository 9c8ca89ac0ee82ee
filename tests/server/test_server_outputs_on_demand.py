"""Outputs that a scikit-learn model makes for who asks for them by name, as MLServer's runtime does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from server_client import error_of, serving
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from tritonclient.grpc import service_pb2

from penstock.runtimes import find
from penstock.runtimes.base import LoadOptions

X, Y = load_iris(return_X_y=True)
CLASSIFIER = LogisticRegression(max_iter=1000).fit(X, Y)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    root = tmp_path_factory.mktemp("on-demand")
    joblib.dump(CLASSIFIER, root / "c.joblib")
    joblib.dump(LinearRegression().fit(X, Y), root / "r.joblib")

    def load(name: str) -> Callable[[], Any]:
        return lambda: find("sklearn").load(root / f"{name}.joblib", LoadOptions(name=name))

    return {"c": load("c"), "r": load("r")}


def body(*outputs: str, **more: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": X[:2].tolist()}
    return {"inputs": [tensor], "outputs": [{"name": n} for n in outputs], **more}


def arrays(answer: Any) -> Iterator[tuple[str, Any]]:
    for output in answer.json()["outputs"]:
        yield output["name"], np.reshape(output["data"], output["shape"])


@pytest.mark.parametrize(
    "names",
    [
        ("predict_proba",),
        ("predict", "predict_proba"),
        ("decision_function", "predict_log_proba", "predict"),
        ("predict",),
    ],
)
async def test_who_asks_for_them_gets_them(
    tmp_path: Path, models: Any, names: tuple[str, ...]
) -> None:
    async with serving(tmp_path, models) as s:
        found = dict(arrays(await s.client.post("/v2/models/c/infer", json=body(*names))))
        assert tuple(found) == names
        for name, values in found.items():
            np.testing.assert_allclose(values, getattr(CLASSIFIER, name)(X[:2]))
        # With a content type, too.
        coded = body(*names, parameters={"content_type": "np"})
        assert tuple(dict(arrays(await s.client.post("/v2/models/c/infer", json=coded)))) == names


async def test_over_grpc(tmp_path: Path, models: Any) -> None:
    message = service_pb2.ModelInferRequest(model_name="c")
    message.inputs.add(name="x", datatype="FP64", shape=[1, 4])
    message.raw_input_contents.append(X[:1].tobytes())
    message.outputs.add(name="predict_proba")
    data = message.SerializeToString()
    async with serving(tmp_path, models) as s:
        answer = await s.client.post(
            "/inference.GRPCInferenceService/ModelInfer",
            content=b"\0" + len(data).to_bytes(4, "big") + data,
            headers={"content-type": "application/grpc", "te": "trailers"},
        )
        found = service_pb2.ModelInferResponse.FromString(answer.content[5:])
        have = np.frombuffer(found.raw_output_contents[0])
        np.testing.assert_allclose(have, CLASSIFIER.predict_proba(X[:1])[0])


async def test_what_a_model_has_not_is_a_400(tmp_path: Path, models: Any) -> None:
    async with serving(tmp_path, models) as s:
        for model, names in (
            ("c", ("transform",)),
            ("c", ("predict_proba", "nope")),
            ("r", ("predict_proba",)),
        ):
            answer = await s.client.post(f"/v2/models/{model}/infer", json=body(*names))
            assert answer.status_code == 400
            assert names[-1] in error_of(answer)


async def test_a_name_that_is_no_output_is_answered_with_all_that_there_are(
    tmp_path: Path, models: Any
) -> None:
    """With those made on demand: who misspells one has to learn of it."""
    async with serving(tmp_path, models) as s:
        answer = await s.client.post("/v2/models/c/infer", json=body("predict_probs"))
        assert answer.status_code == 400
        assert "no output 'predict_probs'; it has 'predict'" in error_of(answer)
        assert "'predict_proba'" in error_of(answer)


@pytest.mark.parametrize("asked", [["set_params"], ["__class__"], [1], "fit", [["predict"]]])
async def test_the_parameter_behind_it_opens_nothing_else(
    tmp_path: Path, models: Any, asked: Any
) -> None:
    async with serving(tmp_path, models) as s:
        request = body("predict", parameters={"penstock.outputs": asked})
        answer = await s.client.post("/v2/models/c/infer", json=request)
        assert dict(arrays(answer)).keys() == {"predict"}
        v1 = {"instances": X[:2].tolist(), "penstock.outputs": asked}
        answer = await s.client.post("/v1/models/c:predict", json=v1)
        assert answer.json() == {"predictions": [0, 0]}


async def test_outputs_that_are_no_methods_are_not_looked_for(tmp_path: Path, models: Any) -> None:
    async with serving(tmp_path, models) as s:
        request = body("predict_proba", "set_params")
        answer = await s.client.post("/v2/models/c/infer", json=request)
        assert answer.status_code == 400
        assert "no output 'set_params'" in error_of(answer)
