"""KServe's rule for runtimes, case by case."""

from __future__ import annotations

import random

import pytest

from penstock.domain.builtin_runtimes import ALIASES, BUILT_IN, FRAMEWORKS, frameworks_of_image
from penstock.domain.runtime_selection import RuntimeNotSelected, candidates_for, select
from penstock.domain.service import Model, ModelFormat, Protocol, Storage
from penstock.domain.serving_runtime import ServingRuntime, SupportedFormat
from penstock.domain.status import FailureReason


def model(
    name: str = "sklearn",
    version: str | None = None,
    *,
    runtime: str | None = None,
    protocol: Protocol | None = None,
) -> Model:
    return Model(ModelFormat(name, version), Storage("x"), runtime=runtime, protocol=protocol)


def runtime(
    name: str,
    *formats: SupportedFormat,
    namespace: str = "",
    protocols: tuple[Protocol, ...] = (Protocol.V1, Protocol.V2),
    disabled: bool = False,
    multi_model: bool = False,
    multi_node: bool = False,
    created: float = 0.0,
    framework: str = "sklearn",
) -> ServingRuntime:
    return ServingRuntime(
        name,
        namespace,
        formats or (sklearn(),),
        protocols,
        disabled,
        multi_model,
        multi_node,
        created,
        {f.name: framework for f in formats or (sklearn(),)} if framework else {},
    )


def sklearn(
    version: str | None = "1", *, auto: bool = True, priority: int | None = None
) -> SupportedFormat:
    return SupportedFormat("sklearn", version, auto, priority)


def order(wanted: Model, *runtimes: ServingRuntime) -> list[str]:
    """Names of the candidates, whatever the order they are given in."""
    found = [r.name for r in candidates_for(wanted, runtimes)]
    for _ in range(5):
        shuffled = random.sample(runtimes, len(runtimes))
        assert [r.name for r in candidates_for(wanted, shuffled)] == found
    return found


# --- what is shipped


@pytest.mark.parametrize(
    ("format_", "name", "framework"),
    [
        ("sklearn", "penstock-sklearnserver", "sklearn"),
        ("xgboost", "penstock-xgboostserver", "xgboost"),
        ("lightgbm", "penstock-lightgbmserver", "lightgbm"),
        ("catboost", "penstock-catboostserver", "catboost"),
        ("onnx", "penstock-onnxserver", "onnx"),
        ("pytorch", "penstock-pytorchserver", "torch"),
        ("tensorflow", "penstock-tensorflowserver", "tensorflow"),
        ("mlflow", "penstock-mlflowserver", "mlflow"),
        ("huggingface", "penstock-huggingfaceserver", "huggingface"),
        ("python", "penstock-pythonserver", "custom"),
        ("custom", "penstock-pythonserver", "custom"),
    ],
)
def test_each_format_has_a_built_in_runtime(format_: str, name: str, framework: str) -> None:
    for protocol in (None, Protocol.V1, Protocol.V2):
        selection = select(model(format_, protocol=protocol))
        assert (selection.runtime.name, selection.framework) == (name, framework)


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_kserves_shipped_names_run_their_formats_here(name: str) -> None:
    for f in ALIASES[name].formats:
        selection = select(model(f.name, f.version, runtime=name))
        assert selection.runtime.name == name
        assert selection.framework in FRAMEWORKS | {"triton"}


def test_kserves_names_are_never_selected_by_themselves() -> None:
    assert all(not f.auto_select for r in ALIASES.values() for f in r.formats)
    assert not {r.name for r in BUILT_IN} & set(ALIASES)


@pytest.mark.parametrize("format_", ["pmml", "paddle", "tensorrt", "openvino", "autogluon"])
def test_formats_without_a_runtime_here(format_: str) -> None:
    with pytest.raises(RuntimeNotSelected) as caught:
        select(model(format_))
    assert caught.value.failure is FailureReason.NO_SUPPORTING_RUNTIME
    assert caught.value.message.startswith(
        f"No runtime found to support specified framework/version: {format_}"
    )
    assert "sklearn" in (caught.value.hint or "")


def test_a_version_that_none_lists_is_told_with_those_that_are() -> None:
    with pytest.raises(RuntimeNotSelected, match="sklearn:7") as caught:
        select(model(version="7"))
    assert "sklearn:0, sklearn:1" in (caught.value.hint or "")


def test_a_protocol_that_none_speaks_is_told() -> None:
    with pytest.raises(RuntimeNotSelected, match="grpc-v1") as caught:
        select(model(protocol=Protocol.GRPC_V1))
    assert "do not speak grpc-v1" in (caught.value.hint or "")


# --- the rule


def test_who_is_kept() -> None:
    assert order(
        model(),
        runtime("good"),
        runtime("any-protocol", protocols=()),
        runtime("disabled", disabled=True),
        runtime("multi-model", multi_model=True),
        runtime("multi-node", multi_node=True),
        runtime("v2-only", protocols=(Protocol.V2,)),
        runtime("not-auto", sklearn(auto=False)),
        runtime("other", SupportedFormat("onnx", "1", True)),
    ) == ["any-protocol", "good"]


def test_an_unversioned_model_matches_every_version_and_a_version_only_itself() -> None:
    runtimes = (
        runtime("zero", sklearn("0")),
        runtime("one", sklearn("1")),
        runtime("none", sklearn(None)),
    )
    assert order(model(), *runtimes) == ["none", "one", "zero"]
    assert order(model(version="1"), *runtimes) == ["one"]
    assert order(model(version="1.0"), *runtimes) == []


def test_only_entries_with_auto_select_count() -> None:
    mixed = runtime("mixed", sklearn("0", auto=False), sklearn("1"))
    assert order(model(version="1"), mixed) == ["mixed"]
    assert order(model(version="0"), mixed) == []
    assert select(model(version="0", runtime="mixed"), [mixed]).runtime.name == "mixed"


def test_the_namespaces_runtimes_come_before_the_clusters() -> None:
    assert order(
        model(),
        runtime("cluster", sklearn(priority=9)),
        runtime("mine", sklearn(priority=1), namespace="ns"),
        runtime("mine-low", namespace="ns"),
    ) == ["mine", "mine-low", "cluster"]


def test_priority_decides_then_protocol_then_age_then_name() -> None:
    assert order(
        model(protocol=Protocol.V2),
        runtime("no-priority"),
        runtime("p1", sklearn(priority=1)),
        runtime("p2", sklearn(priority=2)),
        runtime("p2-v2", sklearn(priority=2), protocols=(Protocol.V2,)),
        runtime("p2-new", sklearn(priority=2), created=50.0),
        runtime("p2-old", sklearn(priority=2), created=10.0),
        runtime("p2-v2-new", sklearn(priority=2), protocols=(Protocol.V2,), created=99.0),
        runtime("p2-any", sklearn(priority=2), protocols=()),
    ) == ["p2-any", "p2-new", "p2-old", "p2", "p2-v2-new", "p2-v2", "p1", "no-priority"]


def test_the_priority_is_that_of_the_first_entry_of_the_name() -> None:
    assert order(
        model(version="1"),
        runtime("first-low", sklearn("0", priority=1), sklearn("1", priority=9)),
        runtime("plain", sklearn("1", priority=2)),
    ) == ["plain", "first-low"]


def test_kserves_own_example_of_mlserver_and_sklearnserver() -> None:
    """sklearn runs on sklearnserver, and with protocol v2 on mlserver although both speak it."""
    runtimes = [
        runtime("kserve-sklearnserver", sklearn(priority=1)),
        runtime(
            "kserve-mlserver",
            sklearn("0", priority=2),
            sklearn("1", priority=2),
            protocols=(Protocol.V2,),
        ),
    ]
    assert select(model(), runtimes).runtime.name == "kserve-sklearnserver"
    assert select(model(protocol=Protocol.V2), runtimes).runtime.name == "kserve-mlserver"


# --- named


def test_a_named_runtime_is_looked_up_in_the_namespace_first() -> None:
    runtimes = [runtime("mine", framework="onnx"), runtime("mine", namespace="ns")]
    assert select(model(runtime="mine"), runtimes).framework == "sklearn"


def test_a_users_runtime_hides_the_built_in_and_the_alias_of_its_name() -> None:
    for name in ("penstock-sklearnserver", "kserve-sklearnserver"):
        with pytest.raises(RuntimeNotSelected) as caught:
            select(model(runtime=name), [runtime(name, disabled=True)])
        assert caught.value.failure is FailureReason.RUNTIME_DISABLED
    with pytest.raises(RuntimeNotSelected):
        select(model(), [runtime("penstock-sklearnserver", disabled=True)])


def test_a_named_runtime_need_not_be_selected_automatically_nor_speak_the_default() -> None:
    named = runtime("v2-only", sklearn(auto=False), protocols=(Protocol.V2,))
    assert select(model(runtime="v2-only"), [named]).runtime is named


@pytest.mark.parametrize(
    ("wanted", "failure", "message"),
    [
        (
            model(runtime="gone"),
            FailureReason.RUNTIME_NOT_RECOGNIZED,
            "Waiting for runtime to become available: there is no runtime 'gone'",
        ),
        (
            model(runtime="off"),
            FailureReason.RUNTIME_DISABLED,
            "Specified runtime is disabled: off",
        ),
        (
            model(runtime="on", protocol=Protocol.GRPC_V2),
            FailureReason.NO_SUPPORTING_RUNTIME,
            "Specified runtime does not support specified protocol version: on speaks v1, v2, not grpc-v2",
        ),
        (
            model("onnx", runtime="on"),
            FailureReason.NO_SUPPORTING_RUNTIME,
            "Specified runtime does not support specified framework/version: on runs sklearn:1, not onnx",
        ),
        (
            model(version="0", runtime="on"),
            FailureReason.NO_SUPPORTING_RUNTIME,
            "Specified runtime does not support specified framework/version: on runs sklearn:1, not "
            "sklearn:0",
        ),
    ],
)
def test_why_a_named_runtime_cannot_be_used(
    wanted: Model, failure: FailureReason, message: str
) -> None:
    with pytest.raises(RuntimeNotSelected) as caught:
        select(wanted, [runtime("on"), runtime("off", disabled=True)])
    assert caught.value.failure is failure
    assert message in caught.value.message


# --- runtimes that are only a container


def test_a_runtime_that_is_only_a_container_needs_a_backend_that_runs_it() -> None:
    only = runtime("theirs", sklearn(priority=5), framework="")
    with pytest.raises(RuntimeNotSelected, match="containers cannot be run here") as caught:
        select(model(), [only])
    assert caught.value.failure is FailureReason.NO_SUPPORTING_RUNTIME
    selection = select(model(), [only], runs_containers=True)
    assert (selection.runtime, selection.framework) == (only, "")


@pytest.mark.parametrize(
    ("image", "format_", "framework"),
    [
        ("kserve/sklearnserver:v0.15.0", "sklearn", "sklearn"),
        ("docker.io/kserve/sklearnserver@sha256:abc", "sklearn", "sklearn"),
        ("docker.io/seldonio/mlserver:1.5.0", "mlflow", "mlflow"),
        ("nvcr.io/nvidia/tritonserver:23.05-py3", "pytorch", "torch"),
        ("tensorflow/serving:2.6.2", "tensorflow", "tensorflow"),
        ("ghcr.io/kserve/xgbserver", "xgboost", "xgboost"),
    ],
)
def test_images_of_known_servers(image: str, format_: str, framework: str) -> None:
    assert frameworks_of_image(image)[format_] == framework


@pytest.mark.parametrize(
    "image", ["", "mine/sklearnserver:1", "localhost:5000/kserve/sklearnserver", "kserve/unknown"]
)
def test_images_of_unknown_servers(image: str) -> None:
    assert not frameworks_of_image(image)


@pytest.mark.parametrize(
    ("format_", "said"),
    [
        ("sklean", "Did you mean sklearn? Formats with a runtime are "),
        ("SKLearn", "Did you mean sklearn? "),
        ("scikit-learn", "Did you mean sklearn? "),
        ("torch", "Did you mean pytorch? "),
        ("zzz", "zzz over v1. Formats with a runtime are "),
    ],
)
def test_an_unknown_format_is_told_the_nearest_and_all_there_are(format_: str, said: str) -> None:
    with pytest.raises(RuntimeNotSelected) as refused:
        select(model(format_), [])
    assert said in str(refused.value)
    assert "sklearn, " in str(refused.value)


def test_an_unknown_runtime_is_told_the_nearest_and_all_there_are() -> None:
    with pytest.raises(RuntimeNotSelected) as refused:
        select(model("sklearn", runtime="kserve-sklearnservr"), [])
    assert "Did you mean kserve-sklearnserver? Built in are " in str(refused.value)
