"""Rows of transformers and explainers: the hop between components, and explanations of a served model."""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx
import joblib
import numpy as np
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks import peers
from benchmarks.load import Load, wrk
from benchmarks.measure import best, in_turns, iris_model, middle, not_measured
from benchmarks.report import Row
from benchmarks.system import System, manifest, system

JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"instances": [[51, 35, 14, 2]]}).encode()
TRANSFORMER = """\
import penstock


class Scale(penstock.Transformer):
    async def preprocess(self, payload, headers=None):
        return {"instances": [[v / 10 for v in row] for row in payload["instances"]]}
"""


def transformers(seconds: float) -> list[Row]:
    """A transformer in a process of its own, and in the predictor's; against KServe's two servers."""
    with tempfile.TemporaryDirectory() as folder:
        model = iris_model(Path(folder))
        (model.parent / "transformer.py").write_text(TRANSFORMER)
        (Path(folder) / "code").mkdir()
        (Path(folder) / "code" / "model.py").write_text(TRANSFORMER)
        found: dict[str, Load] = {}
        with system(model_dir=Path(folder)) as s:
            beside = "  transformer:\n    collocated: true\n    python: {class: transformer.py}\n"
            apart = "  transformer:\n    python: {storageUri: code}\n"
            urls = {}
            for name, more in (("alone", ""), ("beside", beside), ("apart", apart)):
                s.apply(manifest(name, "sklearn", "iris") + more)
                urls[name] = f"{s.url}/v1/models/{name}:predict"
            for connections in (1, 32):
                for url in urls.values():
                    wrk(url, connections=connections, seconds=1, body=BODY, headers=JSON)
                loads = in_turns(
                    3, {n: partial(_load, u, connections, seconds) for n, u in urls.items()}
                )
                found |= {f"{name}{connections}": middle(of) for name, of in loads.items()}
        one = {n: found[f"{n}1"].p50_s * 1e3 for n in ("alone", "beside", "apart")}
        rows = [
            Row(
                "a transformer beside the predictor, 1 connection, median",
                f"{one['beside']:.2f} ms",
                f"the predictor alone {one['alone']:.2f} ms; a transformer in its own process "
                f"{one['apart']:.2f} ms",
                "adds less than half of what the hop adds",
                one["beside"] - one["alone"] < (one["apart"] - one["alone"]) / 2,
                {f"{n}_ms": v for n, v in one.items()},
            )
        ]
        work = "transformer and predictor in two processes, V1, 32 connections"
        ours = found["apart32"]
        measured = f"{ours.rate:,.0f}/s, p50 {ours.p50_s * 1e3:.2f} ms"
        try:
            with peers.kserve(model) as behind, peers.kserve_transformer(behind) as base:
                url = f"{base}/v1/models/iris:predict"
                wrk(url, connections=32, seconds=1, body=BODY, headers=JSON)
                theirs = best(3, lambda: _load(url, 32, seconds))
        except Exception as e:
            return [*rows, not_measured(work, measured, "KServe 0.20.0", "10 times", e)]
        ratio = ours.rate / theirs.rate
        return [
            *rows,
            Row(
                work,
                measured,
                f"KServe 0.20.0's transformer and predictor {theirs.rate:,.0f}/s: {ratio:.1f} times",
                "10 times",
                ratio >= 10,
                {"rate": ours.rate, "kserve": theirs.rate, "beside": found["beside32"].rate},
            ),
        ]


def _load(url: str, connections: int, seconds: float) -> Load:
    return wrk(url, connections=connections, seconds=seconds, body=BODY, headers=JSON)


def anchors(seconds: float) -> list[Row]:
    """Anchors of iris rows and of texts of 50 words, each by one request to a served model."""
    del seconds  # so many requests, whatever they take
    with tempfile.TemporaryDirectory() as folder, system(model_dir=Path(folder)) as s:
        return [_iris(Path(folder), s), _texts(Path(folder), s)]


def _iris(folder: Path, s: System) -> Row:
    data = load_iris()
    iris_model(folder)
    np.savetxt(folder / "iris" / "train.csv", data.data, delimiter=",", comments="",
               header=",".join(data.feature_names))  # fmt: skip
    s.apply(
        manifest("iris", "sklearn", "iris") + "  explainer:\n    anchors: {type: AnchorTabular}\n"
    )
    times, calls = _explained(s, "iris", [data.data[i].tolist() for i in range(0, 150, 10)])
    return _row("anchors of an iris row", times, calls, 0.2)


def _texts(folder: Path, s: System) -> Row:
    """Texts out of 300 words, two of which say what the mood is."""
    draw = random.Random(0)
    words = [f"word{i}" for i in range(300)]
    moods = (["good", "great", "lovely", "fine"], ["bad", "awful", "dull", "poor"])

    def text(mood: int) -> str:
        chosen = draw.choices(words, k=48) + draw.choices(moods[mood], k=2)
        draw.shuffle(chosen)
        return " ".join(chosen)

    texts = [text(i % 2) for i in range(600)]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        texts, [i % 2 for i in range(600)]
    )
    (folder / "mood").mkdir()
    joblib.dump(model, folder / "mood" / "model.joblib")
    s.apply(manifest("mood", "sklearn", "mood") + "  explainer:\n    anchors: {type: AnchorText}\n")
    times, calls = _explained(s, "mood", texts[:20])
    return _row("anchors of a text of 50 words", times, calls, 1.0)


def _explained(s: System, name: str, instances: list[object]) -> tuple[list[float], list[int]]:
    times, calls = [], []
    with httpx.Client(base_url=s.url, timeout=30) as client:
        client.post(f"/v1/models/{name}:explain", json={"instances": instances[:1]})
        for instance in instances:
            began = time.perf_counter()
            answer = client.post(f"/v1/models/{name}:explain", json={"instances": [instance]})
            times.append(time.perf_counter() - began)
            answer.raise_for_status()
            calls.append(answer.json()["data"]["predictor_calls"])
    return times, calls


def _row(work: str, times: list[float], calls: list[int], goal_s: float) -> Row:
    median = statistics.median(times)
    return Row(
        f"{work}, median of {len(times)}",
        f"{median * 1e3:.0f} ms, longest {max(times) * 1e3:.0f} ms",
        f"{statistics.median(calls):.0f} calls of the model",
        f"under {goal_s * 1e3:.0f} ms",
        median < goal_s,
        {"median_s": median, "longest_s": max(times)},
    )
