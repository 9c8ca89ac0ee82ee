"""What a replica costs that is forked from a process which has imported its framework: time and memory.

    python -m benchmarks.fork_cost [FRAMEWORK ...] [--forks N] [--json]

For each framework one process makes a small model and its framework's own answer, another imports the
framework as a zygote does, freezes its garbage and forks N children, one after the other. Each child loads
the model, answers one request, and reports

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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    import onnxruntime
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(X, Y)
    proto = to_onnx(model, X[:1], options={"zipmap": False}, target_opset=17)
    (path / "model.onnx").write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(str(path / "model.onnx"))
    names = [o.name for o in session.get_outputs()]
    return {"X": X[:1]}, dict(zip(names, session.run(None, {"X": X[:1]}), strict=True))


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
    from penstock import runtimes

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


def child(found: Any, path: Path, inputs: Any, want: Any, began: float) -> dict[str, Any]:
    """Load, answer and report, in a fork."""
    from penstock.runtimes.base import LoadOptions

    gc.disable()
    forked = time.monotonic()
    if found.set_threads is not None:
        found.set_threads(1)
    runtime = found.load(path, LoadOptions(name="m"))
    loaded = time.monotonic()
    answer = runtime.predict(inputs, {})
    answered = time.monotonic()
    same = all(np.asarray(answer[n]).tolist() == np.asarray(w).tolist() for n, w in want.items())
    return {
        "total_ms": (answered - began) * 1e3,
        "fork_ms": (forked - began) * 1e3,
        "load_ms": (loaded - forked) * 1e3,
        "predict_ms": (answered - loaded) * 1e3,
        "private_kib": private_kib(),
        "same": same,
    }


def fork_once(found: Any, path: Path, inputs: Any, want: Any) -> dict[str, Any]:
    """One child's report; a child that dies or hangs (60 s) reports that."""
    read, write = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(60)
            os.close(read)
            report = json.dumps(child(found, path, inputs, want, began)).encode()
            os.write(write, report)
            status = 0
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


def measure(framework: str, path: Path, forks: int) -> dict[str, Any]:
    """The reports of `forks` children of one process that has only imported `framework`."""
    inputs, want = pickle.loads((path.parent / "request.pkl").read_bytes())
    found, seconds = imported(framework)
    threads = len(os.listdir("/proc/self/task"))
    base = private_kib()
    reports = [fork_once(found, path, inputs, want) for _ in range(forks)]
    return {
        "framework": framework,
        "import_s": seconds,
        "threads": threads,
        "zygote_kib": base,
        "forks": reports,
    }


def run(framework: str, forks: int) -> dict[str, Any]:
    """`measure` in processes of its own, model included."""
    env = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "TF_CPP_MIN_LOG_LEVEL": "2"}
    with tempfile.TemporaryDirectory() as folder:
        for step in ("make", "measure"):
            command = [sys.executable, "-m", "benchmarks.fork_cost", framework]
            command += ["--step", step, "--folder", folder, "--forks", str(forks)]
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode:
                raise SystemExit(f"{framework}: {step} failed\n{done.stderr[-3000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(result, dict)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frameworks", nargs="*", default=list(MAKERS))
    parser.add_argument("--forks", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", choices=("make", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step == "make":
        from penstock import runtimes

        (name,) = asked.frameworks
        runtimes.prepare_environment(runtimes.find(name))
        path = asked.folder / "model"
        path.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            request = MAKERS[name](path)
        (asked.folder / "request.pkl").write_bytes(pickle.dumps(request))
        return
    if asked.step == "measure":
        (name,) = asked.frameworks
        print(json.dumps(measure(name, asked.folder / "model", asked.forks)))
        return
    results = []
    if not asked.json:
        print(f"{'':12} {'import':>8} {'threads':>8}   fork to first answer   of it load   private")
    for name in asked.frameworks:
        result = run(name, asked.forks)
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
