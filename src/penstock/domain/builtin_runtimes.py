"""The runtimes that are there without anybody applying them, and KServe's shipped names for them.

One runtime per framework of `penstock.runtimes`, all selected automatically. KServe's own names
(`kserve-sklearnserver`, `kserve-mlserver`, ...) are accepted where a manifest says `runtime:` and run the
same format with the framework here; they are never selected by themselves, so that they cannot change what
a manifest without `runtime:` gets.
"""

from __future__ import annotations

from types import MappingProxyType

from penstock.domain.service import Protocol
from penstock.domain.serving_runtime import ServingRuntime, SupportedFormat

#: What every model process speaks.
PROTOCOLS = (Protocol.V1, Protocol.V2)

#: Runtime name -> (framework, {format: versions of the format it reads}).
_SHIPPED: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "penstock-sklearnserver": ("sklearn", {"sklearn": ("0", "1")}),
    "penstock-xgboostserver": ("xgboost", {"xgboost": ("1", "2", "3")}),
    "penstock-lightgbmserver": ("lightgbm", {"lightgbm": ("2", "3", "4")}),
    "penstock-catboostserver": ("catboost", {"catboost": ("0", "1")}),
    "penstock-onnxserver": ("onnx", {"onnx": ("1",)}),
    "penstock-pytorchserver": ("torch", {"pytorch": ("1", "2")}),
    "penstock-tensorflowserver": ("tensorflow", {"tensorflow": ("1", "2")}),
    "penstock-mlflowserver": ("mlflow", {"mlflow": ("1", "2", "3")}),
    "penstock-huggingfaceserver": ("huggingface", {"huggingface": ("1",)}),
    "penstock-pythonserver": ("custom", {"python": (), "custom": ()}),
    "penstock-seldonserver": ("seldon_python", {"seldon": ()}),
    "penstock-transformer": ("transformer", {"transformer": ()}),
    "penstock-explainer": ("explainer", {"explainer": ()}),
}

#: Formats that are whole repositories of another server's: what runs each model is read in the files.
REPOSITORIES: dict[str, dict[str, tuple[str, ...]]] = {
    "penstock-tritonserver": {"triton": ("2",)},
    "penstock-mlserver": {"mlserver": ("1",)},
    "penstock-bentomlserver": {"bentoml": ("1",)},
}

#: Frameworks that only a repository names.
_OF_REPOSITORIES = frozenset(("triton_python", "triton_ensemble", "mlserver_python"))

#: Every framework of `penstock.runtimes`.
FRAMEWORKS = frozenset(framework for framework, _ in _SHIPPED.values()) | _OF_REPOSITORIES

#: KServe 0.20's shipped ClusterServingRuntimes: format -> (framework here, versions it lists).
_KSERVE: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "kserve-sklearnserver": {"sklearn": ("sklearn", ("1",))},
    "kserve-xgbserver": {"xgboost": ("xgboost", ("2",))},
    "kserve-lgbserver": {"lightgbm": ("lightgbm", ("4",))},
    "kserve-predictiveserver": {
        "sklearn": ("sklearn", ("1",)),
        "xgboost": ("xgboost", ("2",)),
        "lightgbm": ("lightgbm", ("4",)),
    },
    "kserve-mlserver": {
        "sklearn": ("sklearn", ("0", "1")),
        "xgboost": ("xgboost", ("1", "2")),
        "lightgbm": ("lightgbm", ("3", "4")),
        "mlflow": ("mlflow", ("1", "2")),
    },
    "kserve-tensorflow-serving": {"tensorflow": ("tensorflow", ("1", "2"))},
    "kserve-tritonserver": {
        "triton": ("triton", ("2",)),
        "tensorflow": ("tensorflow", ("1", "2")),
        "onnx": ("onnx", ("1",)),
        "pytorch": ("torch", ("1",)),
    },
    "kserve-torchserve": {"pytorch": ("torch", ("1",))},
    "kserve-huggingfaceserver": {"huggingface": ("huggingface", ("1",))},
    "kserve-openvino": {
        "onnx": ("onnx", ("1",)),
        "tensorflow": ("tensorflow", ("1",)),
        "huggingface": ("huggingface", ("1",)),
    },
}

#: The repository part of container images whose work a framework here does: image -> KServe's runtime.
#: A runtime applied from KServe's own manifests is recognised by it.
KNOWN_IMAGES = MappingProxyType(
    {
        "kserve/sklearnserver": "kserve-sklearnserver",
        "kserve/xgbserver": "kserve-xgbserver",
        "kserve/lgbserver": "kserve-lgbserver",
        "kserve/predictiveserver": "kserve-predictiveserver",
        "kserve/huggingfaceserver": "kserve-huggingfaceserver",
        "seldonio/mlserver": "kserve-mlserver",
        "tensorflow/serving": "kserve-tensorflow-serving",
        "nvcr.io/nvidia/tritonserver": "kserve-tritonserver",
        "nvidia/tritonserver": "kserve-tritonserver",
        "pytorch/torchserve-kfs": "kserve-torchserve",
        "pytorch/torchserve": "kserve-torchserve",
        "openvino/model_server": "kserve-openvino",
    }
)


def _formats(
    versions: dict[str, tuple[str, ...]], *, auto_select: bool, priority: int | None
) -> tuple[SupportedFormat, ...]:
    return tuple(
        SupportedFormat(name, version, auto_select, priority)
        for name, known in versions.items()
        for version in (known or (None,))
    )


BUILT_IN: tuple[ServingRuntime, ...] = tuple(
    ServingRuntime(
        name=name,
        formats=_formats(versions, auto_select=True, priority=1),
        protocols=PROTOCOLS,
        frameworks=MappingProxyType(dict.fromkeys(versions, framework)),
        built_in=True,
    )
    for name, (framework, versions) in (
        *_SHIPPED.items(),
        *((name, (next(iter(formats)), formats)) for name, formats in REPOSITORIES.items()),
    )
)

ALIASES: MappingProxyType[str, ServingRuntime] = MappingProxyType(
    {
        name: ServingRuntime(
            name=name,
            formats=_formats(
                {f: versions for f, (_, versions) in formats.items()},
                auto_select=False,
                priority=None,
            ),
            protocols=PROTOCOLS,
            frameworks=MappingProxyType({f: framework for f, (framework, _) in formats.items()}),
            built_in=True,
        )
        for name, formats in _KSERVE.items()
    }
)


def frameworks_of_image(image: str) -> MappingProxyType[str, str]:
    """Format -> framework here for a container image of a known model server; empty for any other."""
    repository = image.partition("@")[0]
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    for registry in ("docker.io/", "index.docker.io/", "ghcr.io/", "quay.io/"):
        repository = repository.removeprefix(registry)
    alias = KNOWN_IMAGES.get(repository)
    return ALIASES[alias].frameworks if alias else MappingProxyType({})  # type: ignore[return-value]
