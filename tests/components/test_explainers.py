"""Every built-in explainer before a real model of its framework, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from component_servers import chain, error_of, running, write
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from penstock import runtimes
from penstock.errors import InvalidInput, LoadError
from penstock.explain.base import Explainer, Explanation
from penstock.runtimes.base import CallContext, LoadOptions
from penstock.runtimes.explainer import ExplainerRuntime
from penstock.sdk.predictor import Predictor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import shap  # noqa: F401

IRIS = load_iris()
ROW = IRIS.data[120].tolist()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: iris (with training data), forest, digits, mood (texts)."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("iris", "forest", "digits", "mood"):
        (folder / name).mkdir()
    iris = LogisticRegression(max_iter=500).fit(IRIS.data, IRIS.target)
    joblib.dump(iris, folder / "iris/model.joblib")
    forest = RandomForestClassifier(10, random_state=0).fit(IRIS.data, IRIS.target)
    joblib.dump(forest, folder / "forest/model.joblib")
    for name in ("iris", "forest"):
        lines = [",".join(IRIS.feature_names)] + [",".join(map(str, r)) for r in IRIS.data]
        (folder / name / "train.csv").write_text("\n".join(lines))
        (folder / name / "explainer.json").write_text(
            json.dumps({"class_names": list(IRIS.target_names)})
        )
    digits = load_digits()
    joblib.dump(
        LogisticRegression(max_iter=2000).fit(digits.data / 16, digits.target),
        folder / "digits/model.joblib",
    )
    texts = [
        f"{w} {o}" for w in ("good", "bad", "my") for o in ("film", "book", "play", "song")
    ] * 4
    mood = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        texts, [t.startswith("good") for t in texts]
    )
    joblib.dump(mood, folder / "mood/model.joblib")
    return folder


def iris(tmp_path: Path, models: Path, kind: str, model: str = "iris", **config: Any) -> Any:
    return chain(
        tmp_path,
        ("sklearn", models / model),
        ("explainer", models / model),
        type=kind,
        config=config,
        **({"model_format": "sklearn"} if kind == "TreeShap" else {}),
    )


async def explained(front: Any, row: Any = ROW) -> dict[str, Any]:
    answer = await front.v1({"instances": [row]}, verb="explain")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["explanations"] == [{"meta": body["meta"], "data": body["data"]}]
    data: dict[str, Any] = body["data"]
    return data


async def test_anchors_of_a_table(tmp_path: Path, models: Path) -> None:
    async with iris(tmp_path, models, "AnchorTabular", threshold=0.9) as (behind, front):
        data = await explained(front)
        assert data["prediction_name"] == "virginica"
        assert all("petal" in a for a in data["anchor"])
        assert data["precision"] >= 0.9
        assert data["samples"] / data["predictor_calls"] > 50
        about = (await front.client.get("/v1/models/m:explain")).json()
        assert about["explainer"] == "AnchorTabular"
        assert about["params"]["threshold"] == 0.9
        assert about == (await front.client.get("/v2/models/m/explain")).json()
        # The model itself explains nothing.
        error_of(await behind.v1({"instances": [ROW]}, verb="explain"), 501)


async def test_many_instances_and_v2(tmp_path: Path, models: Path) -> None:
    async with iris(tmp_path, models, "AnchorTabular", max_samples=2000) as (_, front):
        rows = IRIS.data[[0, 120]].tolist()
        body = (await front.v1({"instances": rows}, verb="explain")).json()
        assert list(body) == ["explanations"]
        names = [e["data"]["prediction_name"] for e in body["explanations"]]
        assert names == ["setosa", "virginica"]
        tensor = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": rows}
        for verb in ("explain", "infer"):  # Seldon's clients ask an explainer by infer
            answer = (await front.v2({"inputs": [tensor]}, verb=verb)).json()
            (output,) = answer["outputs"]
            assert output["name"] == "explanation"
            assert output["shape"] == [2, 1]
            assert output["parameters"] == {"content_type": "str"}
            found = [json.loads(d) for d in output["data"]]
            assert found == body["explanations"]


async def test_anchors_of_a_text(tmp_path: Path, models: Path) -> None:
    async with chain(
        tmp_path, ("sklearn", models / "mood"), ("explainer", models / "mood"),
        type="AnchorText", config={"use_unk": "true", "sample_prob": "0.5", "class_names": "bad, good"},
    ) as (_, front):  # fmt: skip
        data = await explained(front, "such a good film that I went again")
        assert data["anchor"] == ["good"]
        assert await explained(front, ["such a good film that I went again"]) == data
        tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["good book"]}
        answer = (await front.v2({"inputs": [tensor]}, verb="explain")).json()
        assert json.loads(answer["outputs"][0]["data"][0])["data"]["anchor"] == ["good"]


async def test_anchors_of_an_image(tmp_path: Path, models: Path) -> None:
    image = (load_digits().images[0] / 16).reshape(-1).tolist()
    async with chain(
        tmp_path, ("sklearn", models / "digits"), ("explainer", models / "digits"),
        type="AnchorImage", config={"image_shape": [8, 8], "segments": 12, "background": 0},
    ) as (_, front):  # fmt: skip
        data = await explained(front, image)
        assert data["prediction"] == 0
        assert np.shape(data["mask"]) == np.shape(data["segments"]) == (8, 8)
        assert 0 < len(data["anchor"]) < 13


async def test_kernel_shap(tmp_path: Path, models: Path) -> None:
    async with chain(
        tmp_path, ("sklearn", models / "iris"), ("explainer", models / "iris"),
        predictor_options={"method": "predict_proba"}, type="KernelShap",
    ) as (_, front):  # fmt: skip
        data = await explained(front)
        assert np.shape(data["shap_values"]) == (3, 4)
        total = np.sum(data["shap_values"], axis=1) + data["expected_value"]
        np.testing.assert_allclose(total, data["raw_prediction"], atol=1e-9)


async def test_tree_shap_loads_the_model_too(tmp_path: Path, models: Path) -> None:
    async with iris(tmp_path, models, "TreeShap", "forest") as (_, front):
        data = await explained(front)
        assert np.shape(data["shap_values"]) == (3, 4)
        forest = joblib.load(models / "forest/model.joblib")
        np.testing.assert_allclose(
            data["raw_prediction"], forest.predict_proba([ROW])[0], atol=1e-6
        )


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm", "catboost"])
def test_tree_shap_of_boosted_trees(tmp_path: Path, framework: str) -> None:
    from penstock.explain.registry import build

    y = (IRIS.target == 2).astype(int)
    if framework == "xgboost":
        import xgboost

        model = xgboost.XGBClassifier(n_estimators=5).fit(IRIS.data, y)
        model.save_model(tmp_path / "model.ubj")
    elif framework == "lightgbm":
        import lightgbm

        lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(IRIS.data, y).booster_.save_model(
            tmp_path / "model.txt"
        )
    else:
        import catboost

        catboost.CatBoostClassifier(5, verbose=0, allow_writing_files=False).fit(
            IRIS.data, y
        ).save_model(tmp_path / "model.cbm")
    loaded = runtimes.find(framework).load(tmp_path, LoadOptions("m"))
    explainer = build("TreeShap", {}, tmp_path, lambda: loaded.native)
    data = explainer.explain(np.array(ROW), lambda rows: rows).data
    assert np.shape(data["shap_values"]) == (1, 4)
    assert data["raw_prediction"][0] > 0


async def test_integrated_gradients_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).eval()
    folder = tmp_path / "net"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 4)), folder / "model.pt")
    async with chain(
        tmp_path, ("torch", folder), ("explainer", folder),
        type="IntegratedGradients", config={"n_steps": "20", "target": 1}, model_format="pytorch",
    ) as (_, front):  # fmt: skip
        data = await explained(front)
        x = torch.tensor([ROW])
        whole = (net(x) - net(torch.zeros(1, 4)))[0, 1].item()
        assert sum(data["attributions"]) == pytest.approx(whole, abs=1e-4)
        assert abs(data["delta"]) < 1e-4


async def test_counterfactuals(tmp_path: Path, models: Path) -> None:
    async with iris(tmp_path, models, "Counterfactuals", target_class="setosa") as (behind, front):
        data = await explained(front)
        assert data["found"]
        assert data["class_name"] == "setosa"
        answer = (await behind.v1({"instances": [data["cf"]["X"]]})).json()
        assert answer["predictions"] == [0]


async def test_an_explanation_is_of_one_revision(tmp_path: Path, models: Path) -> None:
    """However the predictor's requests are divided: all questions go where the first one was answered."""
    code = f"""
import numpy as np, penstock

class Two(penstock.Model):
    inputs = [("x", "FP64", (-1, 4))]
    asked = 0

    def predict(self, payload, headers=None, response_headers=None):
        Two.asked += 1
        prefers = headers.get("x-penstock-prefer", "")
        with open({str(tmp_path / "asked")!r}, "a") as file:
            print(prefers or "any", file=file)
        asks_any = prefers in ("", "*")
        response_headers["x-penstock-revision"] = f"m-{{Two.asked % 2}}" if asks_any else prefers
        x = payload.as_numpy()
        return {{"y": (x[:, 2] > 2).astype(np.int64)}}
"""
    folder = write(tmp_path, "two", code)
    async with chain(
        tmp_path,
        ("custom", folder),
        ("explainer", models / "iris"),
        type="AnchorTabular",
        config={},
    ) as (_, explainer):
        assert (await explainer.v1({"instances": [ROW]}, "explain")).status_code == 200
        assert (await explainer.v1({"instances": [ROW]}, "explain")).status_code == 200
    asked = (tmp_path / "asked").read_text().split()
    first = asked.index("*")
    second = asked.index("*", first + 1)
    assert asked.count("*") == 2
    assert set(asked[first + 1 : second]) == {"m-1"}
    assert len(set(asked[second + 1 :])) == 1


async def test_an_explanation_begins_anew_when_its_revision_is_replaced(
    tmp_path: Path, models: Path
) -> None:
    """Half of the questions to one model and half to another would explain neither."""
    code = f"""
import numpy as np, penstock

class Two(penstock.Model):
    inputs = [("x", "FP64", (-1, 4))]
    asked = 0

    def predict(self, payload, headers=None, response_headers=None):
        Two.asked += 1
        revision = "m-1" if Two.asked <= 3 else "m-2"
        with open({str(tmp_path / "asked")!r}, "a") as file:
            print(revision, headers.get("x-penstock-prefer"), file=file)
        response_headers["x-penstock-revision"] = revision
        x = payload.as_numpy()
        return {{"y": (x[:, 2] > (2 if revision == "m-1" else 5)).astype(np.int64)}}
"""
    folder = write(tmp_path, "two", code)
    async with chain(
        tmp_path, ("custom", folder), ("explainer", models / "iris"), type="AnchorTabular"
    ) as (_, front):
        rows = {"instances": [ROW, ROW]}
        body = (await front.v1(rows, "explain")).json()
    asked = [tuple(line.split()) for line in (tmp_path / "asked").read_text().splitlines()]
    first, second = (e["data"] for e in body["explanations"])
    assert first["anchor"] == second["anchor"] == ["petal length (cm) > 5.10"]
    # The first is made of the newer revision's answers only, and another may be chosen for it.
    new = asked.index(("m-2", "m-1")) + 1
    assert asked[new] == ("m-2", "*")
    assert len(asked) - new == first["predictor_calls"] + second["predictor_calls"]


OF_V1 = """
import penstock

class Old(penstock.Model):
    calls = 0

    def predict(self, payload, headers=None):
        with open({asked!r}, "a") as file:
            print("v1" if isinstance(payload, dict) else "v2", file=file)
        Old.calls += 1
        if Old.calls == {fails}:
            raise RuntimeError("this once")
        return {{"predictions": {answer}}}
"""


@pytest.mark.parametrize(
    "answer",
    [
        "[int(r[2] > 5.1) for r in payload['instances']]",
        "[[1.0, 0] if r[2] > 5.1 else [0, 1.0] for r in payload['instances']]",
        "['high' if r[2] > 5.1 else 'low' for r in payload['instances']]",
        "[{'label': int(r[2] > 5.1), 'size': r[0]} for r in payload['instances']]",
    ],
)
async def test_a_class_of_v1_alone_is_asked_by_v1(
    tmp_path: Path, models: Path, answer: str
) -> None:
    """As KServe's classes mostly are. Only the first question is asked by V2 too."""
    asked = tmp_path / "asked"
    folder = write(tmp_path, "old", OF_V1.format(asked=str(asked), answer=answer, fails=-1))
    async with chain(
        tmp_path, ("custom", folder), ("explainer", models / "iris"), type="AnchorTabular"
    ) as (_, front):
        for _ in range(2):
            assert (await explained(front))["anchor"] == ["petal length (cm) > 5.10"]
    said = asked.read_text().split()
    assert said[0] == "v2"
    assert said.count("v2") == 1


async def test_what_a_class_of_v1_fails_at_is_told(tmp_path: Path, models: Path) -> None:
    """One failing call ends an explanation: nothing is left out of it, and the next one goes well."""
    asked = tmp_path / "asked"
    answer = "[int(r[2] > 5.1) for r in payload['instances']]"
    folder = write(tmp_path, "old", OF_V1.format(asked=str(asked), answer=answer, fails=4))
    async with chain(
        tmp_path, ("custom", folder), ("explainer", models / "iris"), type="AnchorTabular"
    ) as (_, front):
        failed = await front.v1({"instances": [ROW]}, verb="explain")
        assert "RuntimeError" in error_of(failed, 500)
        assert asked.read_text().split() == ["v2", "v1", "v1", "v1"]
        assert (await explained(front))["threshold_met"]


async def test_a_class_that_fails_by_either_protocol_is_told_of_both(
    tmp_path: Path, models: Path
) -> None:
    asked = str(tmp_path / "asked")
    folder = write(tmp_path, "old", OF_V1.format(asked=asked, answer="payload['rows']", fails=1))
    async with chain(
        tmp_path, ("custom", folder), ("explainer", models / "iris"), type="AnchorTabular"
    ) as (_, front):
        said = error_of(await front.v1({"instances": [ROW]}, verb="explain"), 500)
        assert "RuntimeError" in said
        assert "KeyError" in said


@pytest.mark.parametrize(
    "answer", ["7", "[[1, 2], [3]] * 50", "[{'a': 1}] + [{'b': 1}] * 99", "[None] * 7"]
)
async def test_predictions_that_are_no_array_are_the_models_fault(
    tmp_path: Path, models: Path, answer: str
) -> None:
    folder = write(
        tmp_path, "old", OF_V1.format(asked=str(tmp_path / "asked"), answer=answer, fails=-1)
    )
    async with chain(
        tmp_path, ("custom", folder), ("explainer", models / "iris"), type="AnchorTabular"
    ) as (_, front):
        error_of(await front.v1({"instances": [ROW]}, verb="explain"), 500)


async def test_requests_at_once_get_their_own_answers(tmp_path: Path, models: Path) -> None:
    async with iris(tmp_path, models, "Counterfactuals") as (_, front):
        rows = IRIS.data[::15].tolist()
        found = await asyncio.gather(*(explained(front, r) for r in rows))
        assert [f["instance"] for f in found] == rows


# -- what goes wrong

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(["matrix", "text", "image"]))
def test_no_instance_is_anything_but_explained_or_refused(
    models: Path, body: Any, kind: str
) -> None:
    """Whatever JSON is sent: an explanation, or an error that is the caller's."""
    from penstock.explain.registry import build
    from penstock.runtimes.explainer_payload import read

    types = {"matrix": "AnchorTabular", "text": "AnchorText", "image": "AnchorImages"}
    explainer = build(types[kind], {"max_samples": 100}, models / "iris", lambda: None)
    try:
        for instance in read({"instances": body}, explainer.takes).instances:
            explainer.explain(instance, lambda rows: np.zeros(len(rows), dtype=int))
    except InvalidInput:
        pass


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"instances": []}, "no instance"),
        ({"rows": [ROW]}, "neither"),
        ({"instances": ROW[0]}, "list"),
        ({"instances": [ROW[:3]]}, "4 numbers"),
        ({"instances": [["a", "b", "c", "d"]]}, "row of numbers"),
        ({"instances": [{"x": 1}]}, "not an object"),
        ({"instances": [[ROW, ROW[:2]]]}, "ragged"),
        ({"instances": [[1, 2, 3, None]]}, "row of numbers|NaN"),
        ({"instances": [ROW] * 65}, "64"),
        ({"instances": [[10**400, 1, 1, 1]]}, "row of numbers"),
    ],
)
async def test_bad_instances(tmp_path: Path, models: Path, body: Any, said: str) -> None:
    import re

    async with iris(tmp_path, models, "AnchorTabular", max_samples=500) as (_, front):
        message = error_of(await front.v1(body, verb="explain"), 400)
        assert re.search(said, message), message
        assert (await front.v1({"instances": [ROW]}, verb="explain")).status_code == 200


async def test_an_instance_whose_array_would_be_gigabytes(tmp_path: Path, models: Path) -> None:
    async with iris(tmp_path, models, "AnchorTabular", max_samples=500) as (_, front):
        rows = {"instances": [["x" * 20_000] + [""] * 4_000]}
        assert "4001 texts" in error_of(await front.v1(rows, verb="explain"), 413)


async def test_a_body_that_is_no_json(tmp_path: Path, models: Path) -> None:
    async with iris(tmp_path, models, "AnchorTabular", max_samples=500) as (_, front):
        for path in ("/v1/models/m:explain", "/v2/models/m/explain"):
            error_of(await front.client.post(path, content=b"{nonsense"), 400)


async def test_a_predictor_with_another_number_of_features(tmp_path: Path, models: Path) -> None:
    """The explainer's rows do not fit the model: the model's own words, as the caller's fault."""
    async with chain(
        tmp_path,
        ("sklearn", models / "digits"),
        ("explainer", models / "iris"),
        type="AnchorTabular",
    ) as (_, front):
        assert "64" in error_of(await front.v1({"instances": [ROW]}, verb="explain"), 400)


async def test_a_predictor_that_is_gone(tmp_path: Path, models: Path) -> None:
    async with running(
        f"{tmp_path}/t.sock", "explainer", models / "iris",
        predictor=f"{tmp_path}/nobody.sock", type="AnchorTabular",
    ) as front:  # fmt: skip
        error_of(await front.v1({"instances": [ROW]}, verb="explain"), 503)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("x[:-1]", 500, "rows"),
        ("x[:, 0] * 1.1", 400, "no classes"),
        ("np.zeros((len(x), 2, 2))", 500, "shape"),
        ("(_ for _ in ()).throw(ValueError('secret'))", 500, "ValueError"),
        ("np.array(['a'] * len(x)) if len(x) > 1 else np.zeros(1, int)", 500, "texts and numbers"),
    ],
)
async def test_a_predictor_that_answers_another_shape(
    tmp_path: Path, models: Path, answer: str, status: int, said: str
) -> None:
    folder = write(
        tmp_path,
        "odd",
        "import numpy as np, penstock\n"
        "class Odd(penstock.Model):\n"
        "    def predict(self, x: np.ndarray):\n"
        f"        return {answer}\n",
    )
    async with chain(
        tmp_path, ("custom", folder), ("explainer", models / "iris"), type="AnchorTabular"
    ) as (_, front):
        message = error_of(await front.v1({"instances": [ROW]}, verb="explain"), status)
        assert said in message
        assert "secret" not in message


async def test_an_explanation_that_takes_too_long_is_given_up(tmp_path: Path, models: Path) -> None:
    """Its caller gets 504, and its thread ends at the next question instead of going on for nobody."""
    folder = write(
        tmp_path,
        "slow",
        "import asyncio\nimport numpy as np, penstock\n"
        "class Slow(penstock.Model):\n"
        "    calls = 0\n"
        "    async def predict(self, x: np.ndarray):\n"
        "        type(self).calls += 1\n"
        "        await asyncio.sleep(0.05)\n"
        "        return np.random.default_rng(self.calls).integers(0, 2, len(x))\n",
    )
    async with (
        running(f"{tmp_path}/p.sock", "custom", folder) as behind,
        running(
            f"{tmp_path}/t.sock", "explainer", models / "iris", predictor=behind.socket,
            timeout_s=0.4, type="AnchorTabular",
        ) as front,
    ):  # fmt: skip
        error_of(await front.v1({"instances": [ROW]}, verb="explain"), 504)
        runtime: Any = front.app.repository.get("m").runtime
        threads = runtime._threads
        async with asyncio.timeout(30):
            await asyncio.to_thread(threads.shutdown)  # returns when its threads have nothing to do
        model: Any = behind.app.repository.get("m").runtime
        assert model._model.instance.calls < 20


async def test_a_client_that_hangs_up_stops_its_explanation(tmp_path: Path, models: Path) -> None:
    """The predictor is asked no more: a page that is reloaded would else be explained many times over."""
    folder = write(
        tmp_path,
        "told",
        "import asyncio\nimport numpy as np, penstock\n"
        "class Told(penstock.Model):\n"
        "    calls = 0\n"
        "    asked = asyncio.Event()\n"
        "    async def predict(self, x: np.ndarray):\n"
        "        type(self).calls += 1\n"
        "        self.asked.set()\n"
        "        await asyncio.sleep(0.05)\n"
        "        return np.random.default_rng(self.calls).integers(0, 2, len(x))\n",
    )
    async with (
        running(f"{tmp_path}/p.sock", "custom", folder) as behind,
        running(
            f"{tmp_path}/t.sock", "explainer", models / "iris", predictor=behind.socket,
            type="AnchorTabular",
        ) as front,
    ):  # fmt: skip
        model: Any = behind.app.repository.get("m").runtime
        told = model._model.instance
        asked = asyncio.create_task(front.v1({"instances": [ROW, ROW]}, verb="explain"))
        async with asyncio.timeout(30):
            await told.asked.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        runtime: Any = front.app.repository.get("m").runtime
        async with asyncio.timeout(30):
            await asyncio.to_thread(runtime._threads.shutdown)
        assert told.calls < 10


async def test_no_instance_is_begun_for_a_caller_that_has_gone(tmp_path: Path) -> None:
    """Also of an explainer that asks nothing on its way: 64 rows, the first of which takes all the time."""
    begun: list[float] = []
    hold = threading.Event()

    class Inside(Explainer):
        kind = "TreeShap"

        def explain(self, instance: Any, ask: Any) -> Any:
            begun.append(float(instance[0]))
            hold.wait(30)
            return Explanation("TreeShap", {})

    runtime = ExplainerRuntime(Inside(), Predictor(None, "m"), 1.0, None)
    rows = {"instances": [[float(i)] for i in range(64)]}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await runtime.call(rows, CallContext())
    hold.set()
    threads: Any = runtime._threads
    await asyncio.to_thread(threads.shutdown)
    assert begun == [0.0]


async def test_a_predictor_that_takes_other_inputs_since_is_asked_by_them(
    tmp_path: Path, models: Path
) -> None:
    """The predictor rolls out a model whose input has another name; the explainer goes on running."""
    code = """
import numpy as np, penstock

class Named(penstock.Model):
    inputs = [("{name}", "FP64", (-1, 4))]

    def predict(self, payload):
        x = payload.get_input_by_name("{name}").as_numpy()
        return {{"y": (x[:, 2] > 2).astype(np.int64)}}
"""
    folders = [write(tmp_path, name, code.format(name=name)) for name in ("old", "new")]
    socket = f"{tmp_path}/p.sock"
    async with running(
        f"{tmp_path}/t.sock", "explainer", models / "iris", predictor=socket, type="AnchorTabular"
    ) as front:
        for folder in folders:
            async with running(socket, "custom", folder):
                assert (await explained(front))["prediction"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "type"),
        ({"type": "AnchorTabluar"}, "did you mean AnchorTabular"),
        ({"type": "ALE"}, "ALE is not supported"),
        ({"type": "AnchorTabular", "config": {"treshold": 0.9}}, "did you mean threshold"),
        ({"type": "AnchorTabular", "config": {"threshold": 2}}, "below 1"),
        ({"type": "AnchorTabular", "config": [1]}, "object"),
        ({"type": "AnchorText", "config": {"use_unk": False}}, "similar.json"),
        ({"type": "AnchorTabular", "config": {"feature_names": ["a"]}}, "1 feature names"),
        ({"type": "AnchorTabular", "config": {"drop": ["x"]}}, "no column"),
        ({"type": "TreeShap", "model_format": "sklearn"}, "cannot explain a LogisticRegression"),
        ({"type": "IntegratedGradients", "model_format": "sklearn"}, "PyTorch or TensorFlow"),
        ({"type": "Counterfactuals", "config": {"immutable": ["colour"]}}, "no feature"),
        ({"type": "AnchorTabular", "explain": 1}, "Unknown option"),
    ],
)
def test_explainers_that_cannot_be_made(models: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadError) as caught:
        runtimes.find("explainer").load(models / "iris", LoadOptions("m", options=options))
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["AnchorText", "AnchorImages", "AnchorTabular"])
def test_alibis_pickled_explainers_are_refused(tmp_path: Path, kind: str) -> None:
    """A file that nobody reads must not pass for an explainer; what we read may lie beside it."""
    (tmp_path / "explainer.dill").write_bytes(b"x")
    options = LoadOptions("m", options={"type": kind})
    with pytest.raises(LoadError, match=r"explainer.dill is a pickled explainer of Alibi's"):
        runtimes.find("explainer").load(tmp_path, options)
    (tmp_path / "explainer.json").write_text("{}")
    (tmp_path / "train.csv").write_text("a,b\n1,2\n2,3\n4,1\n")
    runtimes.find("explainer").load(tmp_path, options)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no training data"),
        ({"explainer.dill": "x"}, "Alibi"),
        ({"train.csv": ""}, "empty"),
        ({"train.csv": "a,b\n1,2\n3\n"}, "line 3"),
        ({"train.csv": "a,b\n1,red\n"}, "line 2"),
        ({"train.csv": "a,b\n1,2\n"}, "1 rows"),
        ({"train.csv": "a,b\n1,2\nnan,3\n"}, "NaN"),
        ({"train.csv": "a,b\n1,2\n1e300,3\n"}, "beyond 1e+150"),
        ({"train.csv": "5.1,3.5\n4.9,3.0\n4.7,3.2\n"}, "first line of train.csv holds numbers"),
        ({"train.npy": "junk"}, "cannot be read"),
        ({"explainer.json": "{"}, "explainer.json"),
        ({"explainer.json": '{"feature_nmaes": []}'}, "feature_nmaes"),
        (
            {"train.csv": "a,b\n1,2\n2,3\n", "explainer.json": '{"categorical_names": {"7": []}}'},
            "'7'",
        ),
    ],
)
def test_folders_that_explain_nothing(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(LoadError) as caught:
        runtimes.find("explainer").load(
            tmp_path, LoadOptions("m", options={"type": "AnchorTabular"})
        )
    assert said in str(caught.value)


def test_columns_that_are_called_by_their_numbers(tmp_path: Path) -> None:
    """As a data frame without names writes itself."""
    from penstock.explain import files

    (tmp_path / "train.csv").write_text("0,1\n5.1,3.5\n4.9,3.0\n")
    found = files.training(tmp_path, files.describe(tmp_path), {})
    assert list(found.names) == ["0", "1"]
    assert found.rows.shape == (2, 2)


@pytest.mark.parametrize("form", ["npy", "npz", "csv"])
def test_training_data_in_each_form(tmp_path: Path, form: str) -> None:
    from penstock.explain import files

    inner = tmp_path / "explainer"
    inner.mkdir()
    if form == "npy":
        np.save(inner / "train.npy", IRIS.data)
    elif form == "npz":
        np.savez(inner / "train.npz", y=IRIS.target, X=IRIS.data)
    else:
        table = np.column_stack([IRIS.data, IRIS.target])
        np.savetxt(inner / "train.csv", table, delimiter=",", header="a,b,c,d,y", comments="")
    folder = files.folder_of(tmp_path)
    assert folder == inner
    config = {"drop": ["y"]} if form == "csv" else {}
    found = files.training(folder, files.describe(folder), config)
    np.testing.assert_allclose(found.rows, IRIS.data)
    assert len(found.names) == 4


async def test_a_model_with_named_columns_gets_them(tmp_path: Path) -> None:
    """A pipeline that wants a data frame declares an input a column; rows are taken apart for it."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import StandardScaler

    folder = tmp_path / "frame"
    folder.mkdir()
    names = ["sl", "sw", "pl", "pw"]
    frame = pd.DataFrame(IRIS.data, columns=names)
    scale = ColumnTransformer([("all", StandardScaler(), names)])
    model = make_pipeline(scale, LogisticRegression()).fit(frame, IRIS.target)
    joblib.dump(model, folder / "model.joblib")
    frame.to_csv(folder / "train.csv", index=False)
    async with chain(
        tmp_path, ("sklearn", folder), ("explainer", folder), type="AnchorTabular"
    ) as (_, front):
        data = await explained(front)
        assert data["prediction"] == 2
        assert all(a.split()[0] in names for a in data["anchor"])


async def test_training_data_in_another_order_than_the_models_inputs_is_told(
    tmp_path: Path,
) -> None:
    """A petal's width would be taken for its length, and the explanation be of nothing."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import StandardScaler

    folder = tmp_path / "frame"
    folder.mkdir()
    names = ["sl", "sw", "pl", "pw"]
    frame = pd.DataFrame(IRIS.data, columns=names)
    scale = ColumnTransformer([("all", StandardScaler(), names)])
    model = make_pipeline(scale, LogisticRegression()).fit(frame, IRIS.target)
    joblib.dump(model, folder / "model.joblib")
    frame[["sl", "sw", "pw", "pl"]].to_csv(folder / "train.csv", index=False)
    async with chain(
        tmp_path, ("sklearn", folder), ("explainer", folder), type="AnchorTabular"
    ) as (_, front):
        message = error_of(await front.v1({"instances": [ROW]}, verb="explain"), 500)
        assert "'pw' where the predictor takes 'pl'" in message


def test_integrated_gradients_of_a_saved_model(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    w = np.array([[1.0, -2.0], [0.5, 3.0]], dtype=np.float32)

    class Linear(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def serve(self, x: Any) -> Any:
            return {"y": tf.matmul(x, w)}

    module = Linear()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.serve)
    runtime = runtimes.find("explainer").load(
        tmp_path / "m",
        LoadOptions(
            "m",
            options={
                "type": "IntegratedGradients", "config": {"target": 1}, "model_format": "tensorflow",
            },
        ),
    )  # fmt: skip
    data = runtime._explainer.explain(np.array([2.0, 4.0]), lambda rows: rows).data
    np.testing.assert_allclose(data["attributions"], [-4.0, 12.0], atol=1e-5)
