"""Triton's repositories, read: which models, by what framework, with which options."""

from __future__ import annotations

import pytest
from repository_folders import ADD_SUB, add_sub, write

from penstock import repositories
from penstock.domain.declared import Declared, DeclaredTensor
from penstock.domain.service import Batching, VersionPolicy
from penstock.errors import LoadError
from penstock.repositories import triton

DENSE = """
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } } ]
version_policy { specific { versions: [ 1, 3 ] } }
dynamic_batching { max_queue_delay_microseconds: 500 preferred_batch_size: [ 4 ] }
"""


def test_a_repository_of_several_models(tmp_path):
    root = write(
        add_sub(tmp_path),
        {
            "dense/config.pbtxt": DENSE,
            "dense/1/model.onnx": b"",
            "dense/3/model.onnx": b"",
            "bare/2/model.onnx": b"",
            "net/config.pbtxt": """
            backend: "pytorch"
            input [
              { name: "b__1" data_type: TYPE_FP32 dims: [ -1, 2 ] },
              { name: "a__0" data_type: TYPE_FP32 dims: [ -1, 2 ] }
            ]
            output [ { name: "out__0" data_type: TYPE_FP32 dims: [ -1 ] } ]
            """,
            "net/1/model.pt": b"",
            "notes/readme.txt": b"",
        },
    )
    found = repositories.read("triton", root)
    models = {m.name: m for m in found.models}
    assert list(models) == ["add_sub", "bare", "dense", "net"]
    dense = models["dense"]
    assert (dense.framework, dense.path) == ("onnx", str(root / "dense"))
    assert dense.options == {"file": "model.onnx"}
    assert dense.versions == VersionPolicy(latest=None, specific=("1", "3"))
    assert dense.batching == Batching(max_batch_size=8, max_latency_s=0.0005)
    assert dense.declared == Declared(
        inputs=(DeclaredTensor("x", "FP32", (-1, 4)),),
        outputs=(DeclaredTensor("y", "INT64", (-1, 1), model_shape=(-1,)),),
        max_rows=8,
    )
    # Without dynamic_batching no two requests share a call, at Triton neither.
    assert models["add_sub"].batching == Batching(max_batch_size=1)
    assert models["add_sub"].options["config"]["max_batch_size"] == 0
    # Without a configuration there is nothing to be held to.
    assert models["bare"].framework == "onnx"
    assert models["bare"].batching is None
    assert models["bare"].declared is None
    net = models["net"]
    assert net.framework == "torch"
    assert [i["name"] for i in net.options["inputs"]] == ["a__0", "b__1"]
    assert net.options["outputs"] == ["out__0"]
    assert net.options["batchable"] is False
    assert found.warnings == (
        "dense/config.pbtxt: dynamic_batching.preferred_batch_size: an idle model runs at once",
    )


def test_one_models_folder_has_the_name_it_says_or_is_given(tmp_path):
    root = write(tmp_path, {"1/model.py": ADD_SUB, "config.pbtxt": 'backend: "python"'})
    assert repositories.read("triton", root, name="mine").models[0].name == "mine"
    write(tmp_path, {"config.pbtxt": 'backend: "python" name: "said"'})
    assert repositories.read("triton", root, name="mine").models[0].name == "said"


def test_what_a_folder_is(tmp_path):
    assert repositories.detect(tmp_path) is None
    assert repositories.detect(add_sub(tmp_path / "many")) == "triton"
    assert repositories.detect(tmp_path / "many" / "add_sub") == "triton"
    assert repositories.detect(tmp_path / "many" / "add_sub" / "1" / "model.py") is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('name: "other"', "m/config.pbtxt: name: 'other' is not the folder's name, 'm'"),
        ('platform: "tensorrt_plan"', "platform: TensorRT engines are not supported; export"),
        ('platform: "onnx"', "platform: 'onnx' is unknown; known are onnxruntime_onnx"),
        ('backend: "fil"', "backend: the FIL backend is not supported; serve the booster's"),
        ('backend: "mine"', "backend: 'mine' is unknown; known are onnxruntime, pytorch"),
        ('backend: "python" platform: "onnxruntime_onnx"', "is not of the backend 'python'"),
        ("sequence_batching { }", ""),
        ("sequence_batching { direct { } }", "sequence_batching: models that keep state"),
        ('input { name: "x" data_type: TYPE_FP32 }', "input[0]: dims is required"),
        ('input { name: "x" dims: 3 }', "input[0]: data_type is required"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 0 }', "neither -1 nor above 0"),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true }',
            "input[0].allow_ragged_batch: requests of unequal shapes are never joined",
        ),
        ('default_model_filename: "../../x.py"', "leads out of the version's folder"),
        ("max_batch_size: -1", "max_batch_size: must not be negative"),
        ('model_operations { op_library_filename: "a.so" }', "model_operations: libraries"),
        ("nme: 3", "m/config.pbtxt: line 1: unknown field 'nme'; did you mean name?"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_place(tmp_path, config, message):
    root = write(tmp_path, {"m/config.pbtxt": config, "m/1/model.py": ADD_SUB})
    if not message:
        assert repositories.read("triton", root).models
        return
    with pytest.raises(LoadError) as told:
        repositories.read("triton", root)
    assert message in str(told.value)


def test_every_problem_of_every_model_is_told_at_once(tmp_path):
    root = write(
        tmp_path,
        {
            "a/config.pbtxt": 'backend: "dali"',
            "b/config.pbtxt": 'backend: "python"',
            "c/config.pbtxt": "max_batch_size: x",
        },
    )
    with pytest.raises(LoadError) as told:
        repositories.read("triton", root)
    text = str(told.value)
    assert "a/config.pbtxt: backend: DALI" in text
    assert "b/config.pbtxt: there is no version" in text
    assert "c/config.pbtxt: line 1: max_batch_size is a whole number" in text


def test_a_folder_without_models_says_what_was_looked_for(tmp_path):
    write(tmp_path, {"a/readme.txt": ""})
    with pytest.raises(LoadError, match=r"neither config\.pbtxt nor a numbered folder.*Found: a"):
        repositories.read("triton", tmp_path)


def test_every_field_of_the_table_is_a_field_of_triton():
    from penstock.repositories.triton_schema import MODEL_CONFIG

    for path in triton.TABLE:
        message = MODEL_CONFIG
        for part in path.split("."):
            assert part in message, path
            message = message[part].kind


def test_a_version_policy():
    assert triton._versions(None) == VersionPolicy()
    assert triton._versions({"latest": {"num_versions": 2}}) == VersionPolicy(latest=2)
    assert triton._versions({"all": {}}) == VersionPolicy(latest=None, all=True)
