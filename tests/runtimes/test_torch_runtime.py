"""PyTorch models answer what the module answers, from each of the three kinds of file."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_models
from torch.export import Dim
from torch_models import Fails, Net, Pair, Words

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes.base import TensorSpec

torch.manual_seed(0)
torch.set_num_threads(1)
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
NET = Net().eval()
SOURCE = Path(inspect.getfile(torch_models)).read_text()


def script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(path / "model.pt")
    return path


def export(module, args, shapes, path, kwargs=None):
    program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    torch.export.save(program, path / "model.pt2")
    return path


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    return script(NET, tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    rows = Dim("rows")
    return export(NET, (torch.zeros(2, 4),), ({0: rows},), tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("state")
    torch.save(NET.state_dict(), path / "model.pt")
    (path / "net.py").write_text(SOURCE)
    return path


OPTIONS = {"saved": {"modelClassName": "Net"}}


@pytest.fixture(params=["scripted", "exported", "saved"])
def runtime(request, load):
    return load("torch", request.getfixturevalue(request.param), **OPTIONS.get(request.param, {}))


@pytest.mark.filterwarnings("error")
def test_answers_are_the_modules(runtime):
    with torch.inference_mode():
        want = NET(torch.from_numpy(X)).numpy()
    for x in (X, X.astype(np.float64)):
        have = runtime.predict({"x": x}, {})
        assert list(have) == ["output-0"]
        assert have["output-0"].dtype == np.float32
        np.testing.assert_array_equal(have["output-0"], want)
    read_only = np.frombuffer(X.tobytes(), np.float32).reshape(X.shape)
    np.testing.assert_array_equal(runtime.predict({"x": read_only}, {})["output-0"], want)
    reversed_rows = runtime.predict({"x": X[::-1]}, {})["output-0"]
    np.testing.assert_array_equal(reversed_rows, want[::-1])


def test_whole_numbers_of_json_become_floats(runtime):
    with torch.inference_mode():
        want = NET(torch.ones(1, 4)).numpy()
    for _ in range(2):
        have = runtime.predict({"x": np.ones((1, 4), np.int64)}, {})["output-0"]
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 5), np.float32),
        np.zeros((2, 3), np.int64),
        np.array([["a"] * 4], dtype=object),
        np.full((1, 4), 1e300),
    ],
)
def test_input_that_does_not_fit_is_refused(runtime, array):
    with pytest.raises(InvalidInput) as e:
        runtime.predict({"x": array}, {})
    assert "\n" not in e.value.message
    assert runtime.predict({"x": X}, {})["output-0"].shape == (5, 3)


def test_an_exported_program_declares_itself(exported, load):
    runtime = load("torch", exported)
    assert runtime.platform == "pytorch_exported"
    assert runtime.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert runtime.outputs == (TensorSpec("output-0", "FP32", (-1, 3)),)
    assert runtime.batchable
    assert runtime.example()["x"].shape == (1, 4)
    with pytest.raises(InvalidInput, match=r"shape \[2, 5\]; the model expects \[-1, 4\]"):
        runtime.predict({"x": np.zeros((2, 5), np.float32)}, {})
    with pytest.raises(InvalidInput, match="Unknown inputs: 'y'"):
        runtime.predict({"y": X}, {})


def test_a_program_of_fixed_size_is_not_batched(tmp_path, load):
    runtime = load("torch", export(NET, (torch.zeros(2, 4),), None, tmp_path))
    assert runtime.inputs == (TensorSpec("x", "FP32", (2, 4)),)
    assert not runtime.batchable
    assert runtime.predict({"x": X[:2]}, {})["output-0"].shape == (2, 3)
    with pytest.raises(InvalidInput, match=r"the model expects \[2, 4\]"):
        runtime.predict({"x": X}, {})


@pytest.mark.parametrize("how", ["script", "keyword", "class"])
def test_several_inputs_and_named_outputs(how, tmp_path, load):
    module = Pair().eval()
    options = {}
    if how == "script":
        script(module, tmp_path)
    elif how == "keyword":
        rows = Dim("rows")
        shapes = {"x": {0: rows}, "y": {0: rows}}
        export(module, (torch.zeros(2, 4),), shapes, tmp_path, {"y": torch.ones(2, 4)})
    else:
        torch.save({"epoch": 1, "state_dict": module.state_dict()}, tmp_path / "model.pth")
        (tmp_path / "net.py").write_text(SOURCE)
        options = {"modelClassName": "Pair", "modelClassFile": "net.py"}
    runtime = load("torch", tmp_path, **options)
    have = runtime.predict({"y": X, "x": X * 2}, {})
    assert list(have) == ["sum", "product"]
    np.testing.assert_array_equal(have["sum"], X * 2 + X)
    np.testing.assert_array_equal(have["product"], X * 2 * X)
    with pytest.raises(InvalidInput, match="Missing inputs: 'y'"):
        runtime.predict({"x": X}, {})
    with pytest.raises(InvalidInput, match=r"Unknown inputs: 'z'. The model's inputs are 'x', 'y'"):
        runtime.predict({"x": X, "y": X, "z": X}, {})
    with pytest.raises(InvalidInput):
        runtime.predict({"x": X, "y": X[:2]}, {})


def test_triton_s_positional_names(tmp_path, load):
    runtime = load("torch", script(Pair().eval(), tmp_path))
    have = runtime.predict({"INPUT__1": X, "INPUT__0": X * 3}, {})
    np.testing.assert_array_equal(have["sum"], X * 3 + X)


def test_token_ids_stay_integers(tmp_path, load):
    module = Words().eval()
    runtime = load("torch", script(module, tmp_path))
    ids = np.array([[1, 2, 3]])
    with torch.inference_mode():
        want = module(torch.from_numpy(ids)).numpy()
    np.testing.assert_array_equal(runtime.predict({"": ids}, {})["output-0"], want)
    with pytest.raises(InvalidInput, match="out of range"):
        runtime.predict({"": np.array([[99]])}, {})
    np.testing.assert_array_equal(runtime.predict({"": ids}, {})["output-0"], want)


def test_half_precision(tmp_path, load):
    for dtype, wire in ((torch.float16, np.float16), (torch.bfloat16, np.float32)):
        module = Net().eval().to(dtype)
        runtime = load("torch", script(module, tmp_path))
        with torch.inference_mode():
            want = module(torch.from_numpy(X).to(dtype)).float().numpy()
        have = runtime.predict({"x": X}, {})["output-0"]
        assert have.dtype == wire
        np.testing.assert_array_equal(have.astype(np.float32), want)


class Mixed(torch.nn.Module):
    """One output in the parameters' dtype, one in FP32."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2).to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.linear(x.to(torch.bfloat16))
        return y, y.float()


def test_bfloat16_outputs_are_called_that_declared_or_not(tmp_path, load):
    """An exported program shows it at its load, TorchScript in its first answer."""
    module = Mixed().eval()
    with torch.inference_mode():
        want = module(torch.from_numpy(X))[0].float().numpy()
    runtime = load("torch", script(module, tmp_path))
    assert runtime.datatypes == {}
    have = runtime.predict({"x": X}, {})
    assert runtime.datatypes == {"output-0": "BF16"}
    np.testing.assert_array_equal(have["output-0"], want)
    (tmp_path / "exported").mkdir()
    file = export(module, (torch.zeros(2, 4),), ({0: Dim("rows")},), tmp_path / "exported")
    runtime = load("torch", file)
    assert [o.datatype for o in runtime.outputs] == ["BF16", "FP32"]
    assert runtime.datatypes == {"output-0": "BF16"}


def test_declared_by_options(scripted, load):
    declared = [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}]
    runtime = load("torch", scripted, inputs=declared, outputs=["scores"], batchable=False)
    assert runtime.inputs == (TensorSpec("features", "FP32", (-1, 4)),)
    assert list(runtime.predict({"features": X}, {})) == ["scores"]
    assert not runtime.batchable
    with pytest.raises(InvalidInput, match=r"'features' has shape \[4\]"):
        runtime.predict({"features": X[0]}, {})


def test_class_arguments(tmp_path, load):
    """KFServing's modelClassName and modelClassKwargs."""
    module = Net(hidden=3).eval()
    torch.save(module.state_dict(), tmp_path / "model.pt")
    (tmp_path / "net.py").write_text(SOURCE)
    runtime = load("torch", tmp_path, modelClassName="Net", modelClassKwargs={"hidden": 3})
    with torch.inference_mode():
        want = module(torch.from_numpy(X)).numpy()
    np.testing.assert_array_equal(runtime.predict({"": X}, {})["output-0"], want)


def test_a_fault_of_the_model_is_no_invalid_input(tmp_path, load):
    torch.save({}, tmp_path / "model.pt")
    (tmp_path / "net.py").write_text(SOURCE)
    runtime = load("torch", tmp_path, modelClassName="Fails")
    with pytest.raises(RuntimeError, match="a fault of the model's own"):
        runtime.predict({"x": np.ones((1, 4), np.float32)}, {})
    assert Fails.__name__ == "Fails"


def state(module=NET, source=SOURCE, name="model.pt"):
    def fill(folder):
        torch.save(module.state_dict(), folder / name)
        if source is not None:
            (folder / "net.py").write_text(source)

    return fill


@pytest.mark.parametrize(
    ("fill", "options", "message"),
    [
        (lambda f: (f / "model.pt").write_bytes(b""), {}, "model.pt is empty"),
        (lambda f: (f / "model.pt2").write_bytes(b"junk"), {}, "model.pt2 is no PyTorch file"),
        (lambda f: (f / "model.pt").write_bytes(b"junk"), {}, "model.pt is no PyTorch file"),
        (lambda f: (f / "model.pt").write_bytes(b"PK\3\4" + bytes(500)), {}, "model.pt is cut short"),
        (lambda f: (f / "a.txt").write_bytes(b"junk"), {}, "no model file in"),
        (state(source=None), {}, "needs its class in one .py file; found: none"),
        (state(), {}, "net.py has 4 module classes: .*'modelClassName'"),
        (state(), {"modelClassName": "Other"}, "no module class 'Other'; it has 'Net', 'Words'"),
        (state(), {"modelClassName": "Words"}, "model.pt do not fit the class Words: Missing .*table.weight"),
        (state(), {"modelClassName": "Net", "modelClassKwargs": {"hidden": 5}}, "mismatch.*modelClassKwargs"),
        (state(), {"modelClassName": "Net", "modelClassKwargs": {"size": 3}}, "cannot be made with"),
        (state(), {"modelClassName": "Net", "modelClassKwargs": [1]}, "has to be an object"),
        (state(), {"modelClassFile": "../net.py"}, "not in the folder"),
        (state(source="1 / 0"), {}, "net.py cannot be imported: ZeroDivisionError"),
        (state(source="import nothing_of_that_name"), {}, "net.py cannot be imported: ModuleNotFound"),
        (state(), {"modelClassName": "Net", "device": "abacus"}, "'device' cannot be 'abacus'"),
        (state(), {"inputs": [{"name": "x"}], "modelClassName": "Net"}, "needs name, datatype and"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why_in_one_line(fill, options, message, tmp_path, load):
    fill(tmp_path)
    with pytest.raises(LoadError, match=message) as e:
        load("torch", tmp_path, **options)
    assert "\n" not in str(e.value)


def test_a_whole_pickled_module_is_refused(tmp_path, load):
    torch.save(NET, tmp_path / "model.pt")
    (tmp_path / "net.py").write_text(SOURCE)
    with pytest.raises(LoadError, match="holds more than weights") as e:
        load("torch", tmp_path, modelClassName="Net")
    assert "state_dict()" in e.value.hint


@pytest.mark.parametrize("kind", ["scripted", "exported"])
def test_a_truncated_file(kind, request, tmp_path, load):
    file = next(request.getfixturevalue(kind).glob("model.*"))
    data = file.read_bytes()
    (tmp_path / file.name).write_bytes(data[: len(data) // 2])
    (tmp_path / "net.py").write_text(SOURCE)
    with pytest.raises(LoadError) as e:
        load("torch", tmp_path, modelClassName="Net")
    assert "\n" not in str(e.value)
