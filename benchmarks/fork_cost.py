"""What a replica costs that is forked from a process which has imported its framework: time and memory.

    python -m benchmarks.fork_cost [FRAMEWORK ...] [--forks N] [--threads N] [--json]

For each framework one process imports it as a zygote does, freezes its garbage and forks: a first child
makes a small model and the framework's own answer to a request, then N children, one after the other, load
the model, answer the request, and report

* the milliseconds from before the fork to the answer, and those of them spent in loading and predicting,
* its private memory then (`Private_*` of /proc/self/smaps_rollup): what one more replica costs,
* whether the answer is the framework's own.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from penstock import runtimes
from penstock.runtimes.base import LoadOptions

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
X = np.random.default_rng(1).random((60, 4)).astype(np.float32)
Y = (X[:, 0] * 3).astype(int)

#: Writes a model into a folder; the inputs of a request and the framework's own answer to it.
Make = Callable[[Path], tuple[dict[str, Any], dict[str, Any]]]


def make_sklearn(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import joblib
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(X, Y)
    joblib.dump(model, path / "model.joblib")
    return {"x": X[:1]}, {"predict": model.predict(X[:1])}


def make_xgboost(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import xgboost

    parameters = {"objective": "multi:softprob", "num_class": 3}
    model = xgboost.train(parameters, xgboost.DMatrix(X, Y), 20)
    model.save_model(path / "model.ubj")
    return {"x": X[:1]}, {"predict": model.predict(xgboost.DMatrix(X[:1]))}


def make_lightgbm(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import lightgbm

    quiet = {"verbose": -1, "objective": "multiclass", "num_class": 3}
    model = lightgbm.train(quiet, lightgbm.Dataset(X, Y, params=quiet), 20)
    model.save_model(path / "model.txt")
    return {"x": X[:1]}, {"predict": model.predict(X[:1])}


def make_catboost(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import catboost

    model = catboost.CatBoostRegressor(iterations=20, verbose=False, allow_writing_files=False)
    model.fit(X, X[:, 0]).save_model(str(path / "model.cbm"))
    return {"x": X[:1]}, {"predict": model.predict(X[:1])}


def make_onnx(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 3]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
        ],
        [numpy_helper.from_array(X[:3].T.copy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path / "model.onnx"))
    answer = session.run(["scores", "label"], {"x": X[:1]})
    return {"x": X[:1]}, dict(zip(("scores", "label"), answer, strict=True))


def make_torch(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    rows = torch.export.Dim("rows")
    example = (torch.zeros(2, 4),)
    program = torch.export.export(module.eval(), example, dynamic_shapes=({0: rows},))
    torch.export.save(program, path / "model.pt2")
    with torch.inference_mode():
        answer = module(torch.from_numpy(X[:1])).numpy()
    return {"input": X[:1]}, {"output-0": answer}


def make_tensorflow(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(tf.ones((4, 3)))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def scores(self, x: Any) -> Any:
            return {"scores": x @ self.w}

    model = Model()
    tf.saved_model.save(model, str(path), signatures=model.scores)
    return {"x": X[:1]}, {"scores": model.scores(tf.constant(X[:1]))["scores"].numpy()}


def make_mlflow(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    x = X.astype(np.float64)
    model = LogisticRegression(max_iter=500).fit(x, Y)
    path.rmdir()
    signature = infer_signature(x, model.predict(x))
    mlflow.sklearn.save_model(model, str(path), signature=signature, pip_requirements=[])
    return {"x": x[:1]}, {"predict": model.predict(x[:1])}


def make_huggingface(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    fast.save_pretrained(path)
    own = transformers.pipeline("text-classification", model=str(path), device="cpu")
    return {"text": np.array(["good film"], dtype=object)}, {"output": own(["good film"])}


MAKERS: dict[str, Make] = {
    name.removeprefix("make_"): maker
    for name, maker in list(globals().items())
    if name.startswith("make_")
}


def private_kib() -> int:
    """Private memory of this process, KiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def imported(framework: str) -> tuple[Any, float]:
    """Everything a zygote does before its first fork; seconds."""
    began = time.monotonic()
    found = runtimes.find(framework)
    runtimes.prepare_environment(found)
    for module in found.preload:
        importlib.import_module(module)
    if found.warm is not None:
        found.warm()
    gc.collect()
    gc.freeze()
    return found, time.monotonic() - began


def child(found: Any, path: Path, threads: int, began: float) -> dict[str, Any]:
    """Load, answer and report, in a fork."""
    gc.disable()
    inputs, want = pickle.loads((path.parent / "request.pkl").read_bytes())
    forked = time.monotonic()
    if threads > 1:
        threadpool_limits(threads)
    if found.set_threads is not None:
        found.set_threads(threads)
    runtime = found.load(path, LoadOptions(name="m", threads=threads))
    loaded = time.monotonic()
    answer = runtime.predict(inputs, {})
    answered = time.monotonic()
    same = all(np.asarray(answer[n]).tolist() == np.asarray(w).tolist() for n, w in want.items())
    report = {
        "total_ms": (answered - began) * 1e3,
        "fork_ms": (forked - began) * 1e3,
        "load_ms": (loaded - forked) * 1e3,
        "predict_ms": (answered - loaded) * 1e3,
        "private_kib": private_kib(),
        "same": same,
    }
    if threads > 1 and all(a.dtype.kind == "f" for a in inputs.values()):
        # Enough rows for the framework's own threads to start.
        many = runtime.predict({n: np.repeat(a, 20_000, axis=0) for n, a in inputs.items()}, {})
        report["same"] = same and all(len(a) == 20_000 for a in many.values())
    return report


def forked(work: Callable[[], Any], limit_s: int = 60) -> dict[str, Any]:
    """What `work` returns, done in a child; a child that dies or takes too long reports that."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(limit_s)
            os.close(read)
            os.write(write, json.dumps(work()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status or not data:
        return {"died": status}
    report = json.loads(data)
    assert isinstance(report, dict)
    return report


def make(framework: str, path: Path) -> dict[str, Any]:
    path.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        request = MAKERS[framework](path)
    (path.parent / "request.pkl").write_bytes(pickle.dumps(request))
    return {}


def measure(framework: str, path: Path, forks: int, threads: int) -> dict[str, Any]:
    """The reports of `forks` children of this process, which has only imported `framework`."""
    found, seconds = imported(framework)
    tasks = len(os.listdir("/proc/self/task"))
    base = private_kib()
    made = forked(lambda: make(framework, path))
    if "died" in made:
        raise SystemExit(f"the child that makes the model died: {made['died']}")
    reports = []
    for _ in range(forks):
        began = time.monotonic()
        reports.append(forked(lambda began=began: child(found, path, threads, began)))
    return {
        "framework": framework,
        "import_s": seconds,
        "threads": tasks,
        "zygote_kib": base,
        "forks": reports,
    }


def run(framework: str, forks: int, threads: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    env = {**os.environ, **dict.fromkeys(ONE_THREAD, "1")}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.fork_cost", framework, "--folder", folder]
        command += ["--forks", str(forks), "--threads", str(threads)]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            raise SystemExit(f"{framework} failed\n{done.stderr[-3000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(result, dict)
        if any("died" in report for report in result["forks"]):
            print(done.stderr[-3000:], file=sys.stderr)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frameworks", nargs="*", default=list(MAKERS))
    parser.add_argument("--forks", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of each child, 1")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder is not None:
        (name,) = asked.frameworks
        path = asked.folder / "model"
        print(json.dumps(measure(name, path, asked.forks, asked.threads)))
        return
    results = []
    if not asked.json:
        print(f"{'':12} {'import':>8} {'threads':>8}   fork to first answer   of it load   private")
    for name in asked.frameworks:
        result = run(name, asked.forks, asked.threads)
        results.append(result)
        if asked.json:
            continue
        alive = [r for r in result["forks"] if "died" not in r]
        right = sum(r["same"] for r in alive)
        total = [r["total_ms"] for r in alive]
        print(
            f"{name:12} {result['import_s']:6.1f} s {result['threads']:8} "
            f"{statistics.median(total):10.0f} ms (max {max(total):.0f})"
            f" {statistics.median(r['load_ms'] for r in alive):9.0f} ms"
            f" {statistics.median(r['private_kib'] for r in alive) / 1024:8.1f} MiB"
            f"  {right} of {len(result['forks'])} right",
            flush=True,
        )
    if asked.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
