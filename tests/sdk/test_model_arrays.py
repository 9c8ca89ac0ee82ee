"""A predict from tensors to tensors: binding by name, values by annotation, outputs by what is returned."""

import asyncio
import json

import numpy as np
import pytest

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.runtimes.base import LoadOptions, Runtime, TensorSpec
from penstock.runtimes.custom import framework

HEAD = """
from __future__ import annotations
import numpy as np
import numpy.typing as npt
import pandas as pd
from typing import Any, Optional, Sequence
import penstock
from penstock import Model, InferRequest, InferResponse

"""


def objects(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_tensors_come_by_name_and_the_answer_is_an_output(load):
    runtime = load(
        HEAD
        + """
class Sum(Model):
    batchable = True
    def predict(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b
"""
    )
    assert isinstance(runtime, Runtime)
    assert runtime.batchable
    assert not runtime.reentrant
    got = runtime.predict({"b": np.array([1.0]), "a": np.array([2.0])}, {})
    assert {k: v.tolist() for k, v in got.items()} == {"output-0": [3.0]}


def test_a_class_that_does_not_say_so_is_not_batched(load):
    runtime = load(HEAD + "class M(Model):\n    def predict(self, x: np.ndarray): return x\n")
    assert not runtime.batchable


@pytest.mark.parametrize(
    ("annotation", "array", "expected"),
    [
        ("np.ndarray", np.array([1, 2]), "array([1, 2])"),
        ("npt.NDArray[np.float32]", np.array([1, 2]), "array([1., 2.], dtype=float32)"),
        ("npt.NDArray[Any]", np.array([1]), "array([1])"),
        ("Optional[np.ndarray]", np.array([1]), "array([1])"),
        ("np.ndarray | None", np.array([1]), "array([1])"),
        ("list", np.array([[1, 2]]), "[[1, 2]]"),
        ("list[str]", objects(b"a", "b"), "['a', 'b']"),
        ("list[str]", objects(b"a", b"b").reshape(2, 1), "['a', 'b']"),
        ("Sequence[float]", np.array([1, 2]), "[1.0, 2.0]"),
        ("list[int]", np.array([1.0, 2.0]), "[1, 2]"),
        ("list[bytes]", objects(b"\xff"), r"[b'\xff']"),
        ("str", objects(b"\xc3\xa9"), "'é'"),
        ("float", np.array([1]), "1.0"),
        ("int", np.array([[3]]), "3"),
        ("bool", np.array([True]), "True"),
    ],
)
def test_a_tensor_becomes_what_the_parameter_says(load, annotation, array, expected):
    runtime = load(
        HEAD
        + f"class M(Model):\n    def predict(self, x: {annotation}): return np.array([repr(x)])\n"
    )
    assert runtime.predict({"x": array}, {})["output-0"].tolist() == [expected]


@pytest.mark.parametrize(
    ("annotation", "array", "message"),
    [
        ("npt.NDArray[np.int64]", np.array([0.5]), "input 'x' is float64, the model takes int64"),
        ("npt.NDArray[np.float32]", objects(b"a"), "input 'x' is object, the model takes float32"),
        ("list[str]", np.array([1]), "input 'x' takes str, not int"),
        ("list[str]", objects(b"\xff"), "no UTF-8"),
        ("list[str]", objects("a", "b").reshape(1, 2), r"shape \[1, 2\]; a list of str"),
        ("list[int]", np.array([0.5]), "input 'x' takes int, not float"),
        ("str", objects("a", "b"), "input 'x' is one str, but 2 values are given"),
        ("float", np.array([]), "input 'x' is one float, but 0 values"),
        ("float", np.array([True]), "input 'x' takes float, not bool"),
        ("int", np.array([True]), "input 'x' takes int, not bool"),
        ("bool", np.array([1]), "input 'x' takes bool, not int"),
        ("bytes", np.array([1]), "input 'x' takes bytes, not int"),
    ],
)
def test_a_tensor_that_cannot_become_it_is_the_callers_mistake(load, annotation, array, message):
    runtime = load(HEAD + f"class M(Model):\n    def predict(self, x: {annotation}): return [1]\n")
    with pytest.raises(InvalidInput, match=message):
        runtime.predict({"x": array}, {})


def test_a_data_frame_is_the_whole_request(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    batchable = True
    def predict(self, df: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"total": df["a"] + df["b"], "city": df["city"]})
"""
    )
    got = runtime.predict(
        {"a": np.array([1, 2]), "b": np.array([[3], [4]]), "city": objects(b"x", "y")}, {}
    )
    assert got["total"].tolist() == [4, 6]
    assert got["city"].tolist() == ["x", "y"]


def test_a_nameless_matrix_is_a_data_frame_with_numbered_columns(load):
    runtime = load(
        HEAD
        + "class M(Model):\n    def predict(self, df: pd.DataFrame): return df.sum(axis=1).to_numpy()\n"
    )
    assert runtime.predict({"input-0": np.ones((2, 3))}, {})["output-0"].tolist() == [3, 3]


def test_one_input_for_one_parameter_needs_no_name(load):
    runtime = load(HEAD + "class M(Model):\n    def predict(self, x: np.ndarray): return x\n")
    assert runtime.predict({"whatever": np.array([1])}, {})["output-0"].tolist() == [1]


OPTIONAL = (
    HEAD
    + """
class M(Model):
    def predict(self, x: np.ndarray, scale: float = 2.0, note: str = "-", parameters: dict = {}):
        return {"y": x * scale, "note": np.array([note]), "n": np.array([len(parameters)])}
"""
)


def test_optional_scalars_come_from_inputs_parameters_or_their_default(load):
    runtime = load(OPTIONAL)
    x = np.array([1.0])
    assert runtime.predict({"x": x}, {})["y"].tolist() == [2]
    assert runtime.predict({"x": x}, {"scale": 3, "other": 1})["y"].tolist() == [3]
    assert runtime.predict({"x": x, "scale": np.array([4])}, {"scale": 3})["y"].tolist() == [4]
    assert runtime.predict({"z": x}, {})["y"].tolist() == [2], (
        "x is the only one that must be there"
    )
    assert runtime.predict({"x": x}, {"a": 1, "b": 2})["n"].tolist() == [2]
    with pytest.raises(InvalidInput, match="input 'scale' takes float, not str"):
        runtime.predict({"x": x}, {"scale": "big"})


def test_missing_and_unknown_inputs_are_named(load):
    runtime = load(
        HEAD
        + "class M(Model):\n    def predict(self, a: np.ndarray, b: np.ndarray, c: float = 1): return a\n"
    )
    x = np.array([1.0])
    with pytest.raises(
        InvalidInput, match=r"input 'b' is missing\. The model takes 'a', 'b', 'c' \(opt"
    ):
        runtime.predict({"a": x}, {})
    with pytest.raises(InvalidInput, match=r"input 'd' is unknown\. The model takes 'a'"):
        runtime.predict({"a": x, "b": x, "d": x}, {})


def test_kwargs_take_any_input(load):
    runtime = load(
        HEAD
        + "class M(Model):\n    def predict(self, a: np.ndarray, **more): return a + more['b']\n"
    )
    assert runtime.predict({"a": np.array([1]), "b": np.array([2])}, {})["output-0"].tolist() == [3]


@pytest.mark.parametrize(
    ("returned", "outputs"),
    [
        ("x", {"output-0": [1.0]}),
        ("(x, x + 1)", {"output-0": [1.0], "output-1": [2.0]}),
        ("{'a': x, 'b': [1, 2]}", {"a": [1.0], "b": [1, 2]}),
        ("[1, 2]", {"output-0": [1, 2]}),
        ("['a', 'b']", {"output-0": ["a", "b"]}),
        ("3.5", {"output-0": [3.5]}),
        ("'text'", {"output-0": ["text"]}),
        ("b'raw'", {"output-0": [b"raw"]}),
        ("[{'label': 'a'}]", {"output-0": [{"label": "a"}]}),
        ("InferResponse({'q': x})", {"q": [1.0]}),
        ("pd.DataFrame({'c': [1]})", {"c": [1]}),
        ("__import__('collections').namedtuple('R', 'p q')(x, 2)", {"p": [1.0], "q": [2]}),
        ("__import__('torch').ones(2)", {"output-0": [1.0, 1.0]}),
    ],
)
def test_what_is_returned_becomes_outputs(load, returned, outputs):
    runtime = load(
        HEAD + f"class M(Model):\n    def predict(self, x: np.ndarray): return {returned}\n"
    )
    got = runtime.predict({"x": np.array([1.0])}, {})
    assert {k: v.tolist() for k, v in got.items()} == outputs


def test_declared_outputs_give_the_names(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    inputs = [("x", "FP32", [-1, 4])]
    outputs = [penstock.TensorSpec("label", "INT64", (-1,)), ("score", "FP64", (-1,))]
    def predict(self, x: np.ndarray): return np.array([1]), np.array([0.5])
"""
    )
    assert runtime.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert list(runtime.predict({"x": np.zeros((1, 4))}, {})) == ["label", "score"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "answered None"),
        ("{}", "empty dict"),
        ("[[1], [1, 2]]", "output 'output-0' is ragged"),
        ("object()", "output 'output-0' is a object"),
        ("np.zeros(1, complex)", "no V2 datatype"),
        ("np.array(['2024-01-01'], 'M8[D]')", "no V2 datatype"),
    ],
)
def test_what_is_no_output_is_the_models_fault(load, returned, message):
    runtime = load(
        HEAD + f"class M(Model):\n    def predict(self, x: np.ndarray): return {returned}\n"
    )
    with pytest.raises(ModelError, match=message):
        runtime.predict({"x": np.array([1.0])}, {})


def test_a_predict_that_raises_tells_the_log_all_and_the_caller_its_kind(load, caplog):
    runtime = load(
        HEAD
        + "class M(Model):\n    def predict(self, x: np.ndarray): raise ValueError(f'secret {x}')\n"
    )
    with pytest.raises(ModelError) as caught:
        runtime.predict({"x": np.array([42])}, {})
    assert str(caught.value) == (
        "model 'm' failed in predict: ValueError. Its log has the traceback."
    )
    assert "secret [42]" in caplog.text
    assert "Traceback" in caplog.text


def test_a_predict_that_exits_is_a_failed_predict(load):
    runtime = load(
        HEAD + "class M(Model):\n    def predict(self, x: np.ndarray): raise SystemExit(3)\n"
    )
    with pytest.raises(ModelError, match="SystemExit"):
        runtime.predict({"x": np.array([42])}, {})


def test_a_predict_may_blame_the_caller(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, x: np.ndarray):
        raise penstock.InvalidInput("x has to be positive")
"""
    )
    with pytest.raises(InvalidInput, match="x has to be positive"):
        runtime.predict({"x": np.array([-1])}, {})


async def test_an_async_predict_is_awaited(load):
    runtime = await asyncio.to_thread(  # where the model process loads
        load,
        HEAD
        + """
import asyncio
class M(Model):
    batchable = True
    async def load(self):
        await asyncio.sleep(0)
        self.w = 3
    async def predict(self, x: np.ndarray):
        await asyncio.sleep(0)
        return x * self.w
""",
    )
    assert isinstance(runtime, Runtime)
    got = await runtime.predict({"x": np.array([2])}, {})
    assert got["output-0"].tolist() == [6]


def test_an_example_is_for_the_probe(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, x: np.ndarray): return x
    def example(self): return {"x": [[1.0, 2.0]]}
"""
    )
    assert runtime.example()["x"].tolist() == [[1, 2]]


def test_close_is_called_once_it_is_there(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, x: np.ndarray): return x
    def close(self): self.closed = True
"""
    )
    runtime.close()
    assert runtime._model.instance.closed


# ---------------------------------------------------------------------------------- annotations


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("self, x: np.ndarray, y", "parameter 'y' says nothing of its type"),
        (
            "self, x: complex",
            "parameter 'x' is annotated with complex, which no request can become",
        ),
        ("self, x: np.ndarray | str", "parameter 'x' is annotated with several types"),
        ("self, x: np.ndarray, /", "positional-only"),
        ("self", "takes no parameter"),
    ],
)
def test_a_signature_that_makes_no_sense_fails_the_load(load, signature, message):
    with pytest.raises(LoadError, match=message):
        load(HEAD + f"class M(Model):\n    def predict({signature}): return x\n")


TAKES_X = "    def predict(self, x: np.ndarray): return x"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("    def preprocess(self, p): return p\n" + TAKES_X, "has its own preprocess"),
        ("    def postprocess(self, p): return p\n" + TAKES_X, "has its own postprocess"),
        ("    def explain(self, p): return p\n" + TAKES_X, "has its own explain"),
        ("    def predict(self, x: np.ndarray): yield x", "is a generator"),
        ("    def predict(self, x: np.ndarray, headers: dict = {}): return x", "takes headers"),
        ("    def predict(self, payload: dict): return payload", "takes the payload, not tensors"),
    ],
)  # fmt: skip
def test_batchable_is_refused_where_it_cannot_be(load, body, reason):
    with pytest.raises(LoadError, match=f"M is batchable, but it {reason}"):
        load(HEAD + f"class M(Model):\n    batchable = True\n{body}\n")


def test_an_annotation_that_is_not_there_at_run_time_does_no_harm(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, x: np.ndarray) -> NotImported: return x
"""
    )
    assert runtime.predict({"x": np.array([1])}, {})["output-0"].tolist() == [1]


def test_a_decorated_predict_is_seen_through(load):
    runtime = load(
        HEAD
        + """
import functools
def timed(f):
    @functools.wraps(f)
    def inner(*a, **k): return f(*a, **k)
    return inner
class M(Model):
    @timed
    def predict(self, x: np.ndarray): return x
"""
    )
    assert runtime.predict({"x": np.array([1])}, {})["output-0"].tolist() == [1]


# ------------------------------------------------------------------------------------------ loading


def test_options_are_keyword_arguments(load):
    text = (
        HEAD
        + """
class M(Model):
    def __init__(self, factor: int, name: str = "?", path=None):
        self.factor, self.given, self.where = factor, name, path
    def predict(self, x: np.ndarray): return x * self.factor
"""
    )
    runtime = load(text, factor=3)
    assert runtime.predict({"x": np.array([1])}, {})["output-0"].tolist() == [3]
    instance = runtime._model.instance
    assert (instance.given, instance.name) == ("m", "m")
    assert instance.where == instance.path
    assert (instance.path / "model.py").is_file()
    with pytest.raises(LoadError, match=r"M takes no option 'factr'\. Its options: factor"):
        load(text, factor=3, factr=4)
    with pytest.raises(
        LoadError, match=r"M.*TypeError: .*missing 1 required positional argument: 'factor'"
    ):
        load(text)


def test_a_class_without_init_finds_its_options(load):
    runtime = load(
        HEAD
        + "class M(Model):\n    def predict(self, x: np.ndarray): return x * self.options['k']\n",
        k=2,
    )
    assert runtime.predict({"x": np.array([1])}, {})["output-0"].tolist() == [2]


def test_the_files_are_there_before_init_runs(load, tmp_path):
    (tmp_path / "w.txt").write_text("7")
    runtime = load(
        HEAD
        + """
class M(Model):
    def __init__(self): self.w = int((self.path / "w.txt").read_text())
    def predict(self, x: np.ndarray): return x * self.w
"""
    )
    assert runtime.predict({"x": np.array([1])}, {})["output-0"].tolist() == [7]


def test_a_class_of_no_base_class_will_do(load):
    runtime = load(
        """
import numpy as np
class Plain:
    batchable = True
    def __init__(self, k=1): self.k = k
    def predict(self, x: np.ndarray): return x * self.k
""",
        k=5,
    )
    assert runtime.batchable
    assert runtime.predict({"x": np.array([1])}, {})["output-0"].tolist() == [5]


def test_load_may_say_no(load, caplog):
    body = "    def predict(self, x: np.ndarray): return x\n"
    with pytest.raises(LoadError, match=r"M.load returned False"):
        load(HEAD + "class M(Model):\n    def load(self): return False\n" + body)
    with pytest.raises(LoadError, match=r"M\.load line 12: FileNotFoundError: .*nope"):
        load(HEAD + "class M(Model):\n    def load(self):\n        open('/nope')\n" + body)
    assert "Traceback" in caplog.text
    with pytest.raises(LoadError, match=r"M line 11: KeyError: 'x'"):
        load(HEAD + "class M(Model):\n    def __init__(self): {}['x']\n" + body)


def test_a_model_made_ready_by_init_is_not_loaded_again(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def __init__(self, name):
        super().__init__(name)
        self.loads = 0
        self.load()
    def load(self):
        self.loads += 1
        self.ready = True
    def predict(self, x: np.ndarray): return x
"""
    )
    assert runtime._model.instance.loads == 1


def test_tensors_are_declared_kserves_way_too(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def get_input_types(self): return [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    def predict(self, x: np.ndarray): return x
"""
    )
    assert runtime.inputs == (TensorSpec("x", "FP32", (-1,)),)
    with pytest.raises(LoadError, match=r"M.inputs has an entry that is no tensor"):
        load(
            HEAD
            + "class M(Model):\n    inputs = ['x']\n    def predict(self, x: np.ndarray): return x\n"
        )


def test_the_framework_is_cheap_to_import():
    assert framework.name == "custom"
    assert framework.preload == ()
    assert LoadOptions("m").options == {}
    assert json.dumps(list(framework.formats))
