"""Every row of every support table does what it says, at every path it has; and no known field is ignored.

The cases are made from the tables and the models, so a row that matches nothing fails here.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
from dialect_manifests import KSERVE, OWN, isvc, problems_of, valid, with_field

from penstock import dialects
from penstock.dialects.base import Dialect
from penstock.dialects.support import Effect, Row, Table, no_effect, refused
from penstock.errors import InvalidManifest

BASES: dict[str, dict[str, Any]] = {
    "ServingRuntime": {
        "metadata": {"name": "r"},
        "spec": {"containers": [{"name": "kserve-container", "image": "x"}]},
    },
    "ClusterServingRuntime": {
        "metadata": {"name": "r"},
        "spec": {"containers": [{"name": "kserve-container", "image": "x"}]},
    },
    "ServiceAccount": {"metadata": {"name": "a"}},
    "LocalModelCache": {
        "metadata": {"name": "l"},
        "spec": {"sourceModelUri": "x", "modelSize": "1Gi"},
    },
    "LocalModelNamespaceCache": {
        "metadata": {"name": "l"},
        "spec": {"sourceModelUri": "x", "modelSize": "1Gi"},
    },
    "LocalModelNodeGroup": {"metadata": {"name": "g"}, "spec": {}},
    "ClusterStorageContainer": {
        "metadata": {"name": "c"},
        "spec": {"container": {}, "supportedUriFormats": [{"prefix": "gs://"}]},
    },
    "Experiment": {
        "metadata": {"name": "e"},
        "spec": {"candidates": [{"name": "a", "weight": 1}]},
    },
    "InferenceGraph": {
        "metadata": {"name": "g"},
        "spec": {"nodes": {"root": {"routerType": "Sequence", "steps": [{"serviceName": "a"}]}}},
    },
    "Pipeline": {"metadata": {"name": "p"}, "spec": {"steps": [{"name": "a"}]}},
    "ResourceQuota": {"metadata": {"name": "q"}, "spec": {"hard": {"cpu": 1}}},
    "Model": {"metadata": {"name": "m"}, "spec": {"storageUri": "x", "requirements": ["sklearn"]}},
    "Server": {"metadata": {"name": "s"}, "spec": {"serverConfig": "mlserver"}},
    "SeldonDeployment": {
        "metadata": {"name": "iris"},
        "spec": {
            "predictors": [
                {
                    "name": "default",
                    "graph": {
                        "name": "classifier",
                        "implementation": "SKLEARN_SERVER",
                        "modelUri": "x",
                    },
                }
            ]
        },
    },
}


def base(dialect: Dialect, field: str) -> dict[str, Any]:
    """A valid manifest that has the block which `field` is in."""
    if dialect.kind != "InferenceService":
        return {
            "apiVersion": dialect.api_version,
            "kind": dialect.kind,
            **copy.deepcopy(BASES[dialect.kind]),
        }
    parts = field.split(".")
    if parts[1] in ("transformer", "explainer"):
        return around(dialect, parts)
    block = parts[2] if len(parts) > 3 else "sklearn"
    if block in ("batcher", "env"):
        block = "sklearn"
    manifest = isvc({block: {"storageUri": "x"}}, api_version=dialect.api_version)
    if block == "model":
        manifest["spec"]["predictor"]["model"]["modelFormat"] = {"name": "sklearn"}
    return manifest


def around(dialect: Dialect, parts: list[str]) -> dict[str, Any]:
    """The same with a transformer or an explainer that has the block."""
    manifest = isvc({"sklearn": {"storageUri": "x"}}, api_version=dialect.api_version)
    block = parts[2] if len(parts) > 3 else "alibi"
    if parts[1] == "transformer" and block not in ("python", "custom"):
        block = "python"
    types = {"alibi": "AnchorText", "anchors": "AnchorText", "shap": "KernelShap"}
    component: dict[str, Any] = {block: {"storageUri": "x"}}
    if block in types:
        component[block]["type"] = types[block]
    if f"spec.{parts[1]}.{block}" not in known_fields(dialect):
        component = {"containers": [{"name": "kserve-container", "image": "x"}]}
    manifest["spec"][parts[1]] = component
    return manifest


def cases() -> list[Any]:
    return [
        pytest.param(dialect, row, field, id=f"{dialect.api_version}:{field}")
        for dialect in dialects.all_dialects()
        # The older group has the same functions.
        if dialect.group != "serving.kubeflow.org"
        for row in dialect.table.rows
        for field in row.paths()
        # Not the rows about blocks that only Penstock's own dialect has.
        if field in known_fields(dialect)
    ]


@cache
def known_fields(dialect: Dialect) -> set[str]:
    return {s.path.replace("[]", ".*") for s in dialect.supported()}


@pytest.mark.parametrize(("dialect", "row", "field"), cases())
def test_each_row_is_told_with_its_path_and_message(dialect: Dialect, row: Row, field: str) -> None:
    start = base(dialect, field)
    dialect.translate(start)  # is good without the field
    manifest, path = with_field(copy.deepcopy(start), dialect.model, field)
    if row.effect is Effect.REFUSED:
        with pytest.raises(InvalidManifest) as caught:
            dialect.translate(manifest)
        assert (path, row.message) in {(p.path, p.message) for p in caught.value.problems}
    else:
        warnings = {(w.path, w.message) for w in dialect.translate(manifest).warnings}
        assert (path, row.message) in warnings


def test_every_row_is_about_a_field_that_some_dialect_knows() -> None:
    everything = set().union(*map(known_fields, dialects.all_dialects()))
    for dialect in dialects.all_dialects():
        fields = [p for row in dialect.table.rows for p in row.paths()]
        assert len(fields) == len(set(fields))
        assert set(fields) <= everything


def test_rows_for_processes_only_are_silent_where_containers_run() -> None:
    manifest = isvc(
        {
            "nodeSelector": {"a": "b"},
            "volumes": [{"name": "v"}],
            "sklearn": {"storageUri": "x", "image": "mine", "volumeMounts": [{"name": "v"}]},
        }
    )
    dialect = dialects.find(KSERVE, "InferenceService")
    with pytest.raises(InvalidManifest):
        dialect.translate(manifest)
    assert dialect.translate(manifest, runs_containers=True).warnings == ()


def test_harmless_values_are_as_good_as_absent() -> None:
    harmless = isvc(
        {
            "canaryTrafficPercent": 100,
            "hostNetwork": False,
            "volumes": [],
            "logger": None,
            "maxReplicas": 1,
            "sklearn": {
                "storageUri": "x",
                "confidential": {"enabled": False},
                "envFrom": [],
                "resources": {"limits": {"nvidia.com/gpu": 0}},
            },
        }
    )
    translation = dialects.translate(harmless)
    assert translation.warnings == ()
    assert translation.object.predictor.resources.gpu is None


def test_a_harmless_value_is_compared_with_its_type() -> None:
    table = Table((refused("a", "no", harmless=(False,)), no_effect("b", "no", harmless=(1,))))
    assert table.check({"a": False, "b": 1}, runs_containers=False) == ([], [])
    problems, warnings = table.check({"a": 0, "b": True}, runs_containers=False)
    assert [p.path for p in problems] == ["a"]
    assert [w.path for w in warnings] == ["b"]


def test_tables_survive_any_shape_of_manifest() -> None:
    table = dialects.find(KSERVE, "InferenceService").table
    for shape in ({}, {"spec": None}, {"spec": []}, {"spec": {"predictor": 7}}, {"spec": {1: 2}}):
        table.check(shape, runs_containers=False)


def test_the_list_of_supported_fields_has_each_known_field_once() -> None:
    for dialect in dialects.all_dialects():
        listed = [s.path for s in dialect.supported()]
        assert len(listed) == len(set(listed))
        assert "metadata.name" in listed
        assert {s.effect for s in dialect.supported()} <= {None, Effect.REFUSED, Effect.NO_EFFECT}
    own = {s.path: s for s in dialects.find(OWN, "InferenceService").supported()}
    assert own["spec.predictor.sklearn.storageUri"].effect is None
    assert own["spec.predictor"].required
    assert own["spec.predictor.logger"].effect is Effect.REFUSED
    assert own["spec.predictor.tolerations"].effect is Effect.NO_EFFECT


#: Fields of pods and containers that are read, or whose meaning is kept otherwise.
READ_IN_COMPONENT = {
    "containers", "serviceAccountName", "serviceAccount", "minReplicas",
    "containerConcurrency", "timeout", "canaryTrafficPercent", "batcher", "labels", "annotations", "name",
    "priority", "priorityClassName", "preemptionPolicy", "deploymentStrategy",
    "storageUris", "model", "scaleTarget", "scaleMetric", "scaleMetricType", "maxReplicas", "scaling",
}  # fmt: skip
READ_IN_BLOCK = {
    "args", "env", "resources", "storageUri", "storage", "runtimeVersion", "protocolVersion",
    "modelFormat", "runtime", "options", "versionPolicy", "modelClassName", "modelClassKwargs", "class",
}  # fmt: skip


def test_no_field_is_known_and_neither_read_nor_told_about() -> None:
    """A new field in the models must be read by the dialect or get a row; this list is the proof."""
    from penstock.dialects.kserve.fields import BLOCKS

    dialect = dialects.find(OWN, "InferenceService")
    rows = {p for row in dialect.table.rows for p in row.paths()}
    for support in dialect.supported():
        parts = support.path.split(".")
        if parts[:2] != ["spec", "predictor"] or len(parts) < 3:
            continue
        if len(parts) == 3 and support.path not in rows:
            assert parts[2] in READ_IN_COMPONENT | set(BLOCKS), support.path
        if len(parts) == 4 and parts[2] in {*BLOCKS, "model"} and support.path not in rows:
            assert parts[3].removesuffix("[]") in READ_IN_BLOCK, support.path


def test_valid_values_are_valid() -> None:
    """The maker of values itself: each known field of the dialect alone is well-typed."""
    for dialect in (
        dialects.find(KSERVE, "InferenceService"),
        dialects.find(OWN, "InferenceService"),
    ):
        predictor = (
            dialect.model.model_fields["spec"].annotation.model_fields["predictor"].annotation
        )
        for name, info in predictor.model_fields.items():
            field = info.alias or name
            manifest = isvc({"sklearn": {"storageUri": "x"}}, api_version=dialect.api_version)
            manifest["spec"]["predictor"][field] = valid(info.annotation)
            assert not [p for p in problems_of(manifest) if "must be a" in p]
