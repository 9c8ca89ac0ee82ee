"""The small documents, field by field."""

import json

from penstock.protocols import documents as doc
from penstock.runtimes.base import TensorSpec


def test_server_metadata_names_its_extensions():
    assert json.loads(doc.server_metadata("penstock", "1.0")) == {
        "name": "penstock",
        "version": "1.0",
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository",
            "statistics",
        ],
    }


def test_health():
    assert json.loads(doc.live()) == {"live": True}
    assert json.loads(doc.live(False)) == {"live": False}
    assert [json.loads(doc.ready(v)) for v in (True, False)] == [{"ready": True}, {"ready": False}]
    assert json.loads(doc.model_ready("a", False)) == {"name": "a", "ready": False}
    assert json.loads(doc.models(["a", "b"])) == {"models": ["a", "b"]}
    assert json.loads(doc.ALIVE) == {"status": "alive"}


def test_model_metadata_has_the_models_own_tensors():
    document = json.loads(
        doc.model_metadata(
            "iris",
            ["1", "2"],
            "sklearn_joblib",
            [TensorSpec("x", "FP64", (-1, 4))],
            [TensorSpec("predict", "INT64", (-1,))],
        )
    )
    assert document == {
        "name": "iris",
        "versions": ["1", "2"],
        "platform": "sklearn_joblib",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [{"name": "predict", "datatype": "INT64", "shape": [-1]}],
    }
    assert "versions" not in json.loads(doc.model_metadata("iris", [""], "p", [], []))


def test_the_index_tells_state_and_reason():
    entries = [
        doc.IndexEntry("a", "1", "READY"),
        doc.IndexEntry("b", "", "UNAVAILABLE", "no such file"),
    ]
    assert json.loads(doc.repository_index(entries)) == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "b", "version": "", "state": "UNAVAILABLE", "reason": "no such file"},
    ]
    assert [e["name"] for e in json.loads(doc.repository_index(entries, only_ready=True))] == ["a"]
    assert json.loads(doc.loaded("a")) == {"name": "a", "load": True}
    assert json.loads(doc.unloaded("a")) == {"name": "a", "unload": True}


def test_statistics_have_tritons_shape():
    stats = doc.ModelStats("a", "1", 5, 3, 2)
    stats.inference_stats.success.add(1500)
    stats.inference_stats.queue.add(700, 2)
    stats.batch_stats.append(doc.BatchStats(2))
    (entry,) = json.loads(doc.statistics([stats]))["model_stats"]
    assert entry["name"] == "a"
    assert (entry["last_inference"], entry["inference_count"], entry["execution_count"]) == (
        5,
        3,
        2,
    )
    assert entry["inference_stats"]["success"] == {"count": 1, "ns": 1500}
    assert entry["inference_stats"]["queue"] == {"count": 2, "ns": 700}
    assert set(entry["inference_stats"]) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output",
    }  # fmt: skip
    assert entry["batch_stats"][0]["batch_size"] == 2
