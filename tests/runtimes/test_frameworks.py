"""Frameworks by name, by format, and by the files of a model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from penstock import runtimes
from penstock.errors import LoadError, NotFound
from penstock.runtimes.base import LoadOptions

FRAMEWORKS = (
    "sklearn", "skops", "xgboost", "lightgbm", "catboost", "onnx", "torch", "tensorflow", "mlflow",
    "huggingface", "triton_python", "triton_ensemble", "mlserver_python", "seldon_python", "custom",
    "transformer", "explainer",
)  # fmt: skip
#: Frameworks of no files that have a format of their own.
OWN_CODE = ("skops", "seldon_python", "triton_ensemble", "custom", "transformer", "explainer")


def test_every_framework_is_found_under_its_own_name():
    assert runtimes.names() == FRAMEWORKS
    for name in runtimes.names():
        found = runtimes.find(name)
        assert found.name == name
        assert callable(found.load)
        assert runtimes.installed(found)


def test_an_unknown_framework_is_answered_with_the_nearest():
    with pytest.raises(NotFound, match=r"no framework 'sklearm'. Did you mean 'sklearn'\?"):
        runtimes.find("sklearm")
    with pytest.raises(NotFound, match=r"There are sklearn, skops, xgboost"):
        runtimes.find("abacus")


@pytest.mark.parametrize(
    ("name", "version", "framework"),
    [
        ("sklearn", None, "sklearn"),
        ("sklearn", "1", "sklearn"),
        ("SKLearn", "0", "sklearn"),
        ("pytorch", "1", "torch"),
        ("tensorflow", "2", "tensorflow"),
        ("huggingface", None, "huggingface"),
        ("onnx", "1", "onnx"),
        ("mlflow", "2", "mlflow"),
        ("xgboost", "1", "xgboost"),
        ("lightgbm", "3", "lightgbm"),
        ("catboost", None, "catboost"),
    ],
)
def test_kserves_model_formats(name, version, framework):
    assert runtimes.for_format(name, version).name == framework


def test_an_unknown_format_is_answered_with_the_nearest():
    with pytest.raises(NotFound, match=r"model format 'lightgbn:3'. Did you mean 'lightgbm'\?"):
        runtimes.for_format("lightgbn", "3")
    with pytest.raises(NotFound, match="No framework serves the model format 'paddle'"):
        runtimes.for_format("paddle")


def test_a_missing_package_is_named_with_the_extra_that_has_it():
    found = dataclasses.replace(runtimes.find("lightgbm"), preload=("no_such_package.part",))
    assert not runtimes.installed(found)
    with pytest.raises(LoadError, match="need the package 'no_such_package'") as e:
        runtimes.require(found)
    assert "pip install 'penstock[lightgbm]'" in e.value.hint


def test_finding_a_framework_imports_none():
    """A zygote for one framework does not pay for the others; nor does the control plane."""
    code = (
        "import sys; from penstock import runtimes\n"
        "list(map(runtimes.find, runtimes.names())); runtimes.for_format('onnx')\n"
        "heavy = {'sklearn', 'pandas', 'scipy', 'xgboost', 'lightgbm', 'catboost', 'onnxruntime',"
        " 'torch', 'tensorflow', 'mlflow', 'transformers', 'joblib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [n for n in FRAMEWORKS if n not in OWN_CODE])
def test_a_path_that_is_not_there(name, tmp_path):
    with pytest.raises(LoadError, match=r"There is no|no config\.json"):
        runtimes.find(name).load(tmp_path / "gone", LoadOptions(name="m"))


@pytest.mark.parametrize("name", [n for n in FRAMEWORKS if n not in OWN_CODE])
def test_an_unknown_option_is_refused(name, tmp_path):
    with pytest.raises(LoadError, match="Unknown option 'no_such_option'"):
        runtimes.find(name).load(tmp_path, LoadOptions(name="m", options={"no_such_option": 1}))


UBJ = b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{"
FILES = [
    ({"model.joblib": b""}, "sklearn"),
    ({"iris.pkl": b""}, "sklearn"),
    ({"model.skops": b"", "README.md": b"", ".hidden": b""}, "sklearn"),
    ({"model.onnx": b""}, "onnx"),
    ({"model.onnx": b"", "model.onnx_data": b""}, "onnx"),
    ({"model.cbm": b"CBM1"}, "catboost"),
    ({"model.bst": b"CBM1"}, "catboost"),
    ({"model.ubj": b""}, "xgboost"),
    ({"model.bst": UBJ}, "xgboost"),
    ({"model.bst": b"binf\x00"}, "xgboost"),
    ({"model.model": UBJ}, "xgboost"),
    ({"model.json": b'{"learner":{"attributes":{}'}, "xgboost"),
    ({"model.json": b'{"oblivious_trees":[]'}, "catboost"),
    ({"model.bst": b"tree\nversion=v4\n"}, "lightgbm"),
    ({"model.txt": b"tree\nversion=v4\n", "notes.txt": b"hello"}, "lightgbm"),
    ({"model.pt": b""}, "torch"),
    ({"model.pt2": b""}, "torch"),
    ({"model.pth": b"", "net.py": b""}, "torch"),
    ({"saved_model.pb": b"", "variables/variables.index": b""}, "tensorflow"),
    ({"MLmodel": b"", "model.pkl": b"", "requirements.txt": b""}, "mlflow"),
    (
        {"config.json": json.dumps({"model_type": "bert"}).encode(), "model.safetensors": b""},
        "huggingface",
    ),
    ({"model.py": b""}, "custom"),
    ({"model.py": b"", "weights.pkl": b"", "data.onnx": b""}, "custom"),
    ({"1/model.onnx": b"", "2/model.joblib": b"", "10/model.pt2": b""}, "torch"),
]


def fill(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize(("files", "framework"), FILES)
def test_files_tell_their_framework(files, framework, tmp_path):
    fill(tmp_path, files)
    assert runtimes.detect(str(tmp_path)) == framework
    for mark in {"MLmodel", "saved_model.pb", "config.json"} & set(files):
        assert runtimes.detect(str(tmp_path / mark)) == framework
    if len(files) == 1 and "saved" not in next(iter(files)):
        assert runtimes.detect(str(tmp_path / next(iter(files)))) == framework


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "No model of a known framework is in the model's folder. The folder is empty."),
        ({"notes.md": b"", "data/x.csv": b""}, "Found: 'data/', 'notes.md'."),
        (
            {"a.onnx": b"", "b.pkl": b""},
            "for several frameworks .onnx: 'a.onnx'; sklearn: 'b.pkl'.. Say which one",
        ),
        ({"config.json": b'{"name": 1}'}, "Found: 'config.json'"),
        ({"model.txt": b"hello"}, "Found: 'model.txt'"),
    ],
)
def test_files_that_tell_nothing_are_listed(files, message, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    fill(folder, files)
    with pytest.raises(LoadError, match=message):
        runtimes.detect(str(folder))


def test_a_path_that_holds_nothing(tmp_path):
    with pytest.raises(LoadError, match="There is no model at"):
        runtimes.detect(str(tmp_path / "gone"))
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(LoadError, match=r"No framework is known for the file notes.md"):
        runtimes.detect(str(tmp_path / "notes.md"))
