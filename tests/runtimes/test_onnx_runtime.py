"""ONNX models answer what the session answers; what the graph declares is what is checked."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes.base import TensorSpec

X, Y = load_iris(return_X_y=True)
X32 = X.astype(np.float32)


def write(path, inputs, outputs, nodes, init=()):
    """A model of `nodes` at `path`."""

    def value(name, kind, shape):
        return h.make_tensor_value_info(name, kind, shape)

    graph = h.make_graph(
        nodes, "g", [value(*i) for i in inputs], [value(*o) for o in outputs], list(init)
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path / "model.onnx")
    return path


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """A classifier: labels and a plain matrix of probabilities."""
    path = tmp_path_factory.mktemp("forest")
    model = RandomForestClassifier(10, random_state=0).fit(X32, Y)
    proto = to_onnx(model, X32[:1], options={"zipmap": False}, target_opset=17)
    (path / "model.onnx").write_bytes(proto.SerializeToString())
    return path


def session(path):
    one_thread = onnxruntime.SessionOptions()  # more add up in another order
    one_thread.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path / "model.onnx"), one_thread, providers=["CPUExecutionProvider"]
    )


def test_answers_are_the_sessions(forest, load):
    runtime = load("onnx", forest)
    for x in (X32, X32[:1]):
        have = runtime.predict({"X": x}, {})
        want = session(forest).run(None, {"X": x})
        assert list(have) == ["label", "probabilities"]
        for a, b in zip(have.values(), want, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_metadata_and_example(forest, load):
    runtime = load("onnx", forest)
    assert runtime.inputs == (TensorSpec("X", "FP32", (-1, 4)),)
    assert runtime.outputs[0].datatype == "INT64"
    assert runtime.outputs[1] == TensorSpec("probabilities", "FP32", (-1, 3))
    assert runtime.batchable
    assert runtime.reentrant
    assert runtime.example()["X"].shape == (1, 4)
    runtime.predict(runtime.example(), {})


def test_json_numbers_become_what_the_graph_declares(forest, load):
    """FP64 and integers are made FP32; an input without a name is the only one."""
    runtime = load("onnx", forest)
    want = runtime.predict({"X": X32[:2]}, {})["label"]
    assert runtime.predict({"": X[:2]}, {})["label"].tolist() == want.tolist()
    assert runtime.predict({"X": np.ones((1, 4), np.int64)}, {})["label"].shape == (1,)
    rows = np.array([[1, 2.5, 3, 4]], dtype=object)
    with pytest.raises(InvalidInput, match=r"BYTES \(text\); the model expects FP32"):
        runtime.predict({"X": rows}, {})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Missing inputs: 'X'"),
        ({"x": X32}, "Missing inputs: 'X'. Unknown inputs: 'x'. The model's inputs are 'X'."),
        ({"X": X32, "Z": X32}, "Unknown inputs: 'Z'"),
        ({"X": X32[:, :3]}, "Input 'X' has shape [150, 3]; the model expects [-1, 4]."),
        ({"X": X32[0]}, "Input 'X' has shape [4]; the model expects [-1, 4]."),
        ({"X": np.array([["a"] * 4], dtype=object)}, "the model expects FP32"),
        ({"X": np.full((1, 4), 1e300)}, "out of the range of FP32"),
    ],
)
def test_input_that_does_not_fit_is_refused(inputs, message, forest, load):
    runtime = load("onnx", forest)
    with pytest.raises(InvalidInput) as e:
        runtime.predict(inputs, {})
    assert message in e.value.message
    assert runtime.predict({"X": X32[:1]}, {})["label"].tolist() == [0]


def test_several_inputs_with_text(tmp_path, load):
    write(
        tmp_path,
        [("a", T.FLOAT, ["N", 3]), ("s", T.STRING, ["N"])],
        [("b", T.FLOAT, ["N", 3]), ("t", T.STRING, ["N"])],
        [h.make_node("Relu", ["a"], ["b"]), h.make_node("Identity", ["s"], ["t"])],
    )
    runtime = load("onnx", tmp_path)
    assert runtime.inputs[1] == TensorSpec("s", "BYTES", (-1,))
    a = np.array([[1, -1, 0], [2, 3, -4]], np.float32)
    s = np.array(["ä".encode(), b""], dtype=object)
    have = runtime.predict({"s": s, "a": a}, {})
    assert have["t"].tolist() == ["ä", ""]
    assert have["b"].tolist() == np.maximum(a, 0).tolist()
    with pytest.raises(InvalidInput, match=r"agree on the size of 'N': 'a' has 2, 's' has 1"):
        runtime.predict({"a": a, "s": s[:1]}, {})
    with pytest.raises(InvalidInput, match="Input 's' has datatype FP32; the model expects text"):
        runtime.predict({"a": a, "s": a[:, 0]}, {})
    with pytest.raises(InvalidInput, match="no UTF-8"):
        runtime.predict({"a": a, "s": np.array([b"\xff", b""], dtype=object)}, {})


@pytest.mark.parametrize(
    ("rows_in", "rows_out", "batchable"),
    [("N", "N", True), (1, 1, False), (4, 4, False), ("N", "M", False), (None, None, True)],
)
def test_batchable_only_when_the_first_axis_is_open_throughout(
    rows_in, rows_out, batchable, tmp_path, load
):
    write(
        tmp_path,
        [("a", T.FLOAT, [rows_in, 2])],
        [("b", T.FLOAT, [rows_out, 2])],
        [h.make_node("Relu", ["a"], ["b"])],
    )
    assert load("onnx", tmp_path).batchable is batchable


def test_a_zip_map_is_one_object_per_row(tmp_path, load):
    model = RandomForestClassifier(3, random_state=0).fit(X32, Y)
    proto = to_onnx(model, X32[:1], target_opset=17)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    runtime = load("onnx", tmp_path)
    have = runtime.predict({"X": X32[:2]}, {})["output_probability"]
    want = model.predict_proba(X32[:2])
    assert [list(row) for row in have] == [["0", "1", "2"]] * 2
    np.testing.assert_allclose([list(row.values()) for row in have], want, atol=1e-6)
    assert runtime.outputs[1] == TensorSpec("output_probability", "BYTES", (-1,))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (T.BOOL, bool), (T.UINT8, np.uint8), (T.INT8, np.int8), (T.INT32, np.int32),
        (T.INT64, np.int64), (T.FLOAT16, np.float16), (T.DOUBLE, np.float64),
    ],
)  # fmt: skip
def test_every_datatype_passes_through(kind, dtype, tmp_path, load):
    write(
        tmp_path,
        [("a", kind, ["N", 2])],
        [("b", kind, ["N", 2])],
        [h.make_node("Identity", ["a"], ["b"])],
    )
    x = np.array([[0, 1], [1, 0]], dtype)
    have = load("onnx", tmp_path).predict({"a": x}, {})["b"]
    assert have.dtype == dtype
    assert have.tolist() == x.tolist()


@pytest.mark.parametrize(
    ("kind", "array", "ok"),
    [
        (T.UINT8, np.array([0, 255]), True),
        (T.UINT8, np.array([0, 256]), False),
        (T.UINT8, np.array([-1, 0]), False),
        (T.INT32, np.array([2**31, 0]), False),
        (T.INT64, np.array([1.0, 2.0]), False),
        (T.BOOL, np.array([0, 1]), False),
        (T.FLOAT, np.array([True, False]), True),
        (T.FLOAT16, np.array([65504.0, 1]), True),
        (T.FLOAT16, np.array([70000.0, 1]), False),
        (T.FLOAT16, np.array([65504, 1]), True),
        (T.FLOAT16, np.array([70000, 1]), False),
        (T.FLOAT16, np.array([70000, 1], np.uint32), False),
        (T.FLOAT16, np.array([np.inf, 1]), True),
        (T.INT64, np.array([2**64 - 1, 0], np.uint64), False),
    ],
)
def test_numbers_are_converted_when_nothing_is_lost(kind, array, ok, tmp_path, load):
    write(
        tmp_path,
        [("a", kind, ["N"])],
        [("b", kind, ["N"])],
        [h.make_node("Identity", ["a"], ["b"])],
    )
    runtime = load("onnx", tmp_path)
    if ok:
        assert runtime.predict({"a": array}, {})["b"].tolist() == array.tolist()
    else:
        with pytest.raises(InvalidInput, match="Input 'a' has"):
            runtime.predict({"a": array}, {})


def test_sizes_that_only_a_kernel_can_judge(tmp_path, load):
    """Open axes that do not fit each other are the request's fault, and the log stays quiet."""
    write(
        tmp_path,
        [("a", T.FLOAT, ["N", "K"]), ("b", T.FLOAT, ["L", "M"])],
        [("c", T.FLOAT, ["N", "M"])],
        [h.make_node("MatMul", ["a", "b"], ["c"])],
    )
    runtime = load("onnx", tmp_path)
    assert runtime.example() is None
    one = np.ones((2, 3), np.float32)
    assert runtime.predict({"a": one, "b": one.T}, {})["c"].shape == (2, 2)
    with pytest.raises(InvalidInput, match="The model refused the input"):
        runtime.predict({"a": one, "b": one}, {})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "^model.onnx is empty.$"),
        (
            b"junk",
            "^model.onnx cannot be loaded as an ONNX model: it is no ONNX file, or is cut short$",
        ),
        (
            b"<!DOCTYPE html><p>Log in",
            "^model.onnx is a web page, not a model. What the URI names is",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            "is a Git LFS pointer.*git lfs pull",
        ),
        (None, "no model file in .*one of '?\\*.onnx"),
    ],
)
def test_what_cannot_be_loaded_says_why(data, message, tmp_path, load):
    if data is not None:
        (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(LoadError, match=message):
        load("onnx", tmp_path)


IDENTITY = [h.make_node("Identity", ["a"], ["b"])]
ENDS = ([("a", T.FLOAT, [None])], [("b", T.FLOAT, [None])])


@pytest.mark.parametrize(
    ("nodes", "change", "message"),
    [
        (IDENTITY, {"opset": 99}, r"it is of opset 99, and ONNX Runtime here takes \d+ at most"),
        (IDENTITY, {"ir_version": 99}, r"Unsupported model IR version: 99, max supported IR version: \d+"),
        ([h.make_node("Odd", ["a"], ["b"], domain="my.ops")], {}, r"my.ops:Odd\(-1\) is not a registered"),
    ],
)  # fmt: skip
def test_what_onnx_runtime_says_of_a_file_comes_first(nodes, change, message, tmp_path, load):
    """Neither its source's lines nor the path in the cache stand before the reason."""
    write(tmp_path, *ENDS, IDENTITY)
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.node[0].CopyFrom(nodes[0])
    model.opset_import[0].version = change.get("opset", model.opset_import[0].version)
    model.opset_import.append(h.make_opsetid("my.ops", 1))
    model.ir_version = change.get("ir_version", model.ir_version)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(LoadError, match=message) as e:
        load("onnx", tmp_path)
    assert "onnxruntime_src" not in str(e.value)
    assert str(tmp_path) not in str(e.value)


def test_bfloat16_is_float32_on_both_sides(tmp_path, load):
    """numpy has no type for it; what comes out is what went in, to the last of its bits."""
    write(
        tmp_path,
        [("a", T.BFLOAT16, [None, 2]), ("n", T.FLOAT, [None, 2])],
        [("b", T.BFLOAT16, [None, 2]), ("f", T.FLOAT, [None, 2])],
        [h.make_node("Identity", ["a"], ["b"]), h.make_node("Cast", ["a"], ["c"], to=T.FLOAT),
         h.make_node("Add", ["c", "n"], ["f"])],
    )  # fmt: skip
    runtime = load("onnx", tmp_path)
    assert [s.datatype for s in (*runtime.inputs, *runtime.outputs)] == [
        "BF16",
        "FP32",
        "BF16",
        "FP32",
    ]
    a = np.array([[1.0, -2.5], [np.inf, 3.140625], [1e-40, 2**127]], np.float32)
    out = runtime.predict({"a": a, "n": np.ones_like(a)}, {})
    np.testing.assert_array_equal(out["b"][:2], a[:2])
    assert out["b"].dtype == np.float32
    np.testing.assert_allclose(out["b"][2], a[2], rtol=2**-8, atol=1e-41)
    np.testing.assert_array_equal(out["f"][:2], a[:2] + 1)
    none = np.empty((0, 2), np.float32)
    assert runtime.predict({"a": none, "n": none}, {})["b"].shape == (0, 2)


def test_a_truncated_model(forest, tmp_path, load):
    data = (forest / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(LoadError, match=r"model\.onnx cannot be loaded"):
        load("onnx", tmp_path)


def test_providers_can_be_chosen(forest, load):
    assert load("onnx", forest, providers=["CPUExecutionProvider"])
    with pytest.raises(LoadError, match="no provider 'TensorrtExecutionProvider' here"):
        load("onnx", forest, providers=["TensorrtExecutionProvider"])


def test_threads_are_the_replicas_share(forest, load):
    options = load("onnx", forest, threads=2)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
