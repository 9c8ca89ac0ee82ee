"""The row about manifests: what it takes to translate one, in each dialect."""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

from benchmarks.report import Row
from penstock import dialects

_SKLEARN = {"sklearn": {"storageUri": "gs://bucket/iris"}}
_SPECS: dict[tuple[str, str], Any] = {
    ("serving.kserve.io/v1beta1", "InferenceService"): {"predictor": _SKLEARN},
    ("penstock.dev/v1alpha1", "InferenceService"): {"predictor": _SKLEARN},
    ("serving.kubeflow.org/v1alpha2", "InferenceService"): {"default": {"predictor": _SKLEARN}},
    ("machinelearning.seldon.io/v1", "SeldonDeployment"): {
        "predictors": [
            {
                "name": "default",
                "graph": {
                    "name": "m",
                    "implementation": "SKLEARN_SERVER",
                    "modelUri": "gs://b/iris",
                },
            }
        ]
    },
    ("mlops.seldon.io/v1alpha1", "Model"): {
        "storageUri": "gs://b/iris",
        "requirements": ["sklearn"],
    },
}
_TIMES = 500


def manifests(seconds: float) -> list[Row]:
    """A manifest of each dialect to the domain's objects; `seconds` is not used."""
    raw: dict[str, float] = {}
    for (api_version, kind), spec in _SPECS.items():
        manifest = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": "iris"},
            "spec": spec,
        }
        dialects.translate(manifest)
        took = []
        for _ in range(_TIMES):
            began = perf_counter()
            dialects.translate(manifest)
            took.append(perf_counter() - began)
        raw[f"{api_version} {kind}"] = statistics.median(took)
    slowest = max(raw, key=lambda name: raw[name])
    return [
        Row(
            "a manifest translated",
            f"median {raw[slowest] * 1e6:.0f} us ({slowest}, the slowest of {len(raw)} dialects)",
            "",
            "under 1 ms",
            raw[slowest] < 0.001,
            raw,
        )
    ]
