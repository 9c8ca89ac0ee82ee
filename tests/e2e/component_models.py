"""Models whose explanations are known, and classes around them, for the rows about components.

The table model looks at its first column, the mood model for `good`, the pictures' one at the upper left
quarter: an explanation that names anything else is wrong.
"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

#: Folder of classes/ -> its model.py.
CLASSES = {
    "extends_kserve": """
        import kserve
        import numpy as np
        from kserve.errors import InvalidInput

        NAMES = np.array(["low", "high"])

        class Named(kserve.Model):
            def __init__(self, name: str, predictor_host: str):
                super().__init__(name)
                self.predictor_host = predictor_host
                self.ready = True

            async def preprocess(self, payload, headers=None):
                if isinstance(payload, kserve.InferRequest):
                    return payload
                for row in payload["instances"]:
                    if not isinstance(row["a"], int | float):
                        raise InvalidInput("a has to be a number")
                rows = [[row["a"], row["b"], row["c"]] for row in payload["instances"]]
                return {"instances": rows}

            async def postprocess(self, result, headers=None, response_headers=None):
                if isinstance(result, dict):
                    return {"predictions": [str(NAMES[p]) for p in result["predictions"]]}
                names = NAMES[result.outputs[0].as_numpy().ravel()].astype(object)
                output = kserve.InferOutput("name", list(names.shape), "BYTES", data=list(names))
                return kserve.InferResponse(result.id, result.model_name, [output])
    """,
    "v1_to_v2": """
        import kserve
        import numpy as np

        class Asks(kserve.Model):
            def preprocess(self, payload, headers=None):
                rows = np.array([[r["a"], r["b"], r["c"]] for r in payload["instances"]], float)
                given = kserve.InferInput("x", list(rows.shape), "FP64", data=rows)
                return kserve.InferRequest(self.name, [given])

            def postprocess(self, result, headers=None):
                found = result.outputs[0].as_numpy().ravel()
                return {"predictions": [["low", "high"][int(p)] for p in found]}
    """,
    "asks_super": """
        import kserve

        class Twice(kserve.Model):
            async def predict(self, payload, headers=None, response_headers=None):
                await super().predict(payload, headers)
                return {"asked": 2, **await super().predict(payload, headers)}
    """,
    "asks_http": """
        import json
        import urllib.request

        import kfserving

        class Asks(kfserving.KFModel):
            def __init__(self, name: str, predictor_host: str):
                super().__init__(name)
                self.predictor_host = predictor_host

            def predict(self, request):
                url = f"http://{self.predictor_host}/v1/models/{self.name}:predict"
                body = json.dumps(request).encode()
                with urllib.request.urlopen(url, body, timeout=20) as answer:
                    return {"asked": url.partition(":")[0], **json.load(answer)}
    """,
    "extends_kfserving": """
        from typing import Dict, List

        import kfserving

        class Named(kfserving.KFModel):
            def __init__(self, name: str, predictor_host: str):
                super().__init__(name)
                self.predictor_host = predictor_host

            def preprocess(self, inputs: Dict) -> Dict:
                return {"instances": [[r["a"], r["b"], r["c"]] for r in inputs["instances"]]}

            def postprocess(self, inputs: List) -> List:
                return {"predictions": [["low", "high"][p] for p in inputs["predictions"]]}
    """,
    "with_settings": """
        import kserve

        class Named(kserve.Model):
            def __init__(self, name: str, predictor_host: str, names: list[str]):
                super().__init__(name)
                self.predictor_host = predictor_host
                self.names = names

            def postprocess(self, result, headers=None):
                return {"predictions": [self.names[p] for p in result["predictions"]]}
    """,
    "hands_on": """
        import kserve

        class Nothing(kserve.Model):
            async def preprocess(self, payload, headers=None):
                return payload
    """,
    "says_headers": """
        import penstock

        NAMES = ("authorization", "x-request-id", "x-b3-traceid", "traceparent", "cookie")

        class Says(penstock.Model):
            def predict(self, payload, headers=None):
                return {"predictions": [headers.get(n) for n in NAMES]}
    """,
    "occludes": """
        import kserve

        class Occludes(kserve.Model):
            async def explain(self, payload, headers=None):
                (row,) = payload["instances"]
                rows = [row] + [
                    [0 if i == j else v for i, v in enumerate(row)] for j in range(len(row))
                ]
                found = await super().predict({"instances": rows}, headers)
                whole, *parts = found["predictions"]
                return {"importance": [whole - p for p in parts]}
    """,
    "explains": """
        import kserve

        class Explains(kserve.Model):
            async def explain(self, payload, headers=None):
                return {"explained_by": "the transformer"}
    """,
}
#: Classes of Seldon V1, each alone in its folder.
UNITS = {
    "by_second": """
        import numpy as np

        class BySecond:
            def predict(self, X, names=None):
                return np.asarray(X, float)[:, 1:2]
    """,
    "swaps": """
        import numpy as np

        class Swaps:
            def transform_input(self, X, names=None):
                return np.asarray(X, float)[:, [1, 0, 2]]
    """,
    "sees": """
        import numpy as np

        class Sees:
            def predict(self, X, names=None):
                mean = np.asarray(X, float)[:, :4, :4].mean((1, 2, 3))
                return np.stack([1 - mean, mean], 1)
    """,
}
BESIDE = """
import penstock

class Named(penstock.Transformer):
    async def preprocess(self, payload, headers=None):
        return {"instances": [[r["a"], r["b"], r["c"]] for r in payload["instances"]]}

    async def postprocess(self, result, headers=None):
        return {"predictions": [["low", "high"][p] for p in result["predictions"]]}
"""
#: Every row of three numbers from 0 to 3.
ROWS = np.array(list(itertools.product(range(4), repeat=3)), float)


def write_models(folder: Path) -> None:
    """Make models/ and classes/ in `folder`."""
    models = folder / "models"
    for name, code in CLASSES.items():
        (folder / "classes" / name).mkdir(parents=True)
        (folder / "classes" / name / "model.py").write_text(dedent(code))
    for name, code in UNITS.items():
        (folder / "classes" / name).mkdir(parents=True)
        file = f"{name.title().replace('_', '')}.py"
        (folder / "classes" / name / file).write_text(dedent(code))
    for name in ("table", "beside"):
        _table(models / name)
    (models / "beside" / "named.py").write_text(BESIDE)
    _boosted(models / "boosted")
    _mood(models / "mood")
    (models / "words").mkdir()
    similar = {"good": ["bad", "dull"], "film": ["book", "song"], "such": ["quite"], "a": ["the"]}
    (models / "words" / "similar.json").write_text(json.dumps(similar))
    _pictures(models / "pictures")
    _repository(models / "repository", models)
    (models / "pickled").mkdir()
    (models / "pickled" / "explainer.dill").write_bytes(b"\x80\x03.")


def _repository(folder: Path, models: Path) -> None:
    """MLServer's folders: the table model, and anchors of it."""
    settings: dict[str, dict[str, Any]] = {
        "classifier": {
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib"},
        },
        "anchors": {
            "implementation": "mlserver_alibi_explain.AlibiExplainRuntime",
            "parameters": {
                "uri": "./data",
                "extra": {
                    "explainer_type": "anchor_tabular",
                    "infer_uri": "http://localhost:8080/v2/models/mls-classifier/infer",
                    "init_parameters": {"seed": 1, "feature_names": ["a", "b", "c"]},
                },
            },
        },
    }
    for name, given in settings.items():
        (folder / name).mkdir(parents=True)
        text = json.dumps({"name": f"mls-{name}", **given})
        (folder / name / "model-settings.json").write_text(text)
    shutil.copy(models / "table" / "model.joblib", folder / "classifier")
    shutil.copytree(models / "table" / "explainer", folder / "anchors" / "data")
    # As Seldon's own artifacts are: an explainer's block says the rest.
    artifact = models / "artifact"
    shutil.copytree(models / "table" / "explainer", artifact / "data")
    own = {**settings["anchors"], "parameters": {"uri": "./data"}}
    (artifact / "model-settings.json").write_text(json.dumps(own))


def _table(folder: Path) -> None:
    import joblib
    from sklearn.tree import DecisionTreeClassifier

    (folder / "explainer").mkdir(parents=True)
    model = DecisionTreeClassifier(max_depth=1, random_state=0).fit(ROWS, ROWS[:, 0] > 1)
    model.classes_ = np.array([0, 1])
    joblib.dump(model, folder / "model.joblib")
    np.savetxt(folder / "explainer" / "train.csv", ROWS, delimiter=",", comments="", header="a,b,c")
    names = {"class_names": ["low", "high"]}
    (folder / "explainer" / "explainer.json").write_text(json.dumps(names))


def _boosted(folder: Path) -> None:
    import xgboost

    folder.mkdir()
    model = xgboost.XGBClassifier(n_estimators=2, max_depth=1).fit(ROWS, ROWS[:, 0] > 1)
    model.save_model(folder / "model.ubj")


def _mood(folder: Path) -> None:
    import joblib
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier

    folder.mkdir()
    texts = [f"{w} {t}" for w in ("good", "bad", "dull") for t in ("film", "book", "song")]
    model = make_pipeline(
        CountVectorizer(binary=True), DecisionTreeClassifier(max_depth=1, random_state=0)
    )
    joblib.dump(model.fit(texts, [int("good" in t) for t in texts]), folder / "model.joblib")


def _pictures(folder: Path) -> None:
    """Two scores for pictures of 8 x 8 x 3: the second is the mean of the upper left quarter."""
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir()
    floats = TensorProto.FLOAT
    bounds = [
        helper.make_tensor(name, TensorProto.INT64, [2], values)
        for name, values in (("from", [0, 0]), ("to", [4, 4]), ("axes", [1, 2]))
    ]
    one = helper.make_tensor("one", floats, [1], [1.0])
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axes"], ["quarter"]),
        helper.make_node("Flatten", ["quarter"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["one", "mean"], ["rest"]),
        helper.make_node("Concat", ["rest", "mean"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "pictures",
        [helper.make_tensor_value_info("x", floats, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", floats, ["n", 2])],
        [*bounds, one],
    )
    opset: Any = helper.make_opsetid("", 13)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "model.onnx")
