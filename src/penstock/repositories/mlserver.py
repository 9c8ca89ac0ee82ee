"""MLServer's folders: `settings.json` for the server, a `model-settings.json` beside each model.

`implementation` says the runtime: MLServer's own ones are frameworks here, any other class is a custom
runtime and runs as it is where the package `mlserver` is installed (`penstock.runtimes.mlserver_python`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from penstock.domain.declared import Declared, DeclaredTensor
from penstock.domain.process import ServedModel
from penstock.domain.service import Batching, VersionPolicy
from penstock.errors import LoadError
from penstock.repositories import mlserver_explainers
from penstock.repositories.base import Found, Notes, has, inside, read_config

SETTINGS: Final = "settings.json"
MODEL_SETTINGS: Final = "model-settings.json"
#: Where a container has the model's files.
_MOUNT: Final = "/mnt/models"
CUSTOM: Final = "mlserver_python"
#: Folders between a repository's root and a model's.
_DEEPEST: Final = 8

IMPLEMENTATIONS: Final[Mapping[str, str]] = {
    "mlserver_sklearn.SKLearnModel": "sklearn",
    "mlserver_sklearn.sklearn.SKLearnModel": "sklearn",
    "mlserver_xgboost.XGBoostModel": "xgboost",
    "mlserver_xgboost.xgboost.XGBoostModel": "xgboost",
    "mlserver_lightgbm.LightGBMModel": "lightgbm",
    "mlserver_lightgbm.lightgbm.LightGBMModel": "lightgbm",
    "mlserver_catboost.CatboostModel": "catboost",
    "mlserver_catboost.catboost.CatboostModel": "catboost",
    "mlserver_mlflow.MLflowRuntime": "mlflow",
    "mlserver_mlflow.runtime.MLflowRuntime": "mlflow",
    "mlserver_huggingface.HuggingFaceRuntime": "huggingface",
    "mlserver_huggingface.runtime.HuggingFaceRuntime": "huggingface",
    "mlserver_alibi_explain.AlibiExplainRuntime": mlserver_explainers.FRAMEWORK,
    "mlserver_alibi_explain.runtime.AlibiExplainRuntime": mlserver_explainers.FRAMEWORK,
}
_NOT_HERE: Final = {
    "mlserver_alibi_detect": "detectors are not supported",
    "mlserver_mllib": "Spark's models are not supported",
}
#: `parameters.extra` of the Hugging Face runtime -> option here.
_HUGGINGFACE: Final = {"task": "task", "device": "device", "batch_size": "batchSize"}

REFUSED: Final = "refused"
NO_EFFECT: Final = "no effect"
_SERVER: Final = "is about MLServer's program; it has no effect here"
#: Field -> what becomes of it, and why; fields that are not here are read.
TABLE: Final[Mapping[str, tuple[str, str]]] = {
    "parallel_workers": (NO_EFFECT, "one process runs per replica"),
    "warm_workers": (NO_EFFECT, "one process runs per replica"),
    "cache_enabled": (NO_EFFECT, "answers are not cached"),
    "platform": (NO_EFFECT, "the metadata tells the platform that runs the model"),
    "versions": (NO_EFFECT, "the versions are those that are there"),
    "parameters.environment_path": (
        REFUSED,
        "environments of a model's own are not supported; install its packages beside the platform",
    ),
    "parameters.environment_tarball": (
        REFUSED,
        "environments of a model's own are not supported; install its packages beside the platform",
    ),
    "parameters.inference_pool_gid": (NO_EFFECT, "the models of one service share one process"),
    "parameters.autogenerate_inference_pool_gid": (
        NO_EFFECT,
        "the models of one service share one process",
    ),
    "parameters.format": (NO_EFFECT, "the file itself says its format"),
}
_READ: Final = (
    "name",
    "implementation",
    "inputs",
    "outputs",
    "max_batch_size",
    "max_batch_time",
    "parameters",
)
_READ_PARAMETERS: Final = ("uri", "version", "extra", "content_type")
_MODEL_FIELDS: Final = (*_READ, *(f for f in TABLE if "." not in f))
_PARAMETER_FIELDS: Final = (
    *_READ_PARAMETERS,
    *(f.removeprefix("parameters.") for f in TABLE if "." in f),
)
_SERVER_FIELDS: Final = (
    "debug", "parallel_workers", "parallel_workers_timeout", "environments_dir",
    "model_repository_implementation", "model_repository_implementation_args", "model_repository_root",
    "load_models_at_startup", "server_name", "server_version", "extensions", "host", "http_port",
    "root_path", "grpc_port", "grpc_max_message_length", "cors_settings", "metrics_endpoint",
    "metrics_port", "metrics_rest_server_prefix", "metrics_dir", "use_structured_logging",
    "logging_settings", "kafka_enabled", "kafka_servers", "kafka_topic_input", "kafka_topic_output",
    "tracing_server", "cache_enabled", "cache_size", "gzip_enabled",
)  # fmt: skip


def is_repository(path: Path) -> bool:
    """A folder with a `model-settings.json`, or with folders that have one."""
    return has(path, MODEL_SETTINGS)


def read(path: Path, *, name: str = "") -> Found:
    """The models in the tree at `path`. One at the root that has no name of its own is served as `name`.

    LoadError when there is none, or with every file and field that cannot be served.
    """
    if not path.is_dir():
        raise LoadError(f"{path.name} is no folder; MLServer's models are in one.")
    notes = Notes()
    load = _server(path, notes)
    models: dict[str, list[tuple[str, ServedModel]]] = {}
    for file in _files(path):
        shown = str(file.relative_to(path))
        fallback = name if file.parent == path and name else file.parent.name
        model = _model(path, file, shown, fallback, notes)
        if model is not None:
            models.setdefault(model.name, []).append((shown, replace(model, load=load)))
    found = [_one(given, notes) for given in models.values()]
    mlserver_explainers.check(found, notes)
    if not found and not notes.problems:
        raise LoadError(f"There is no {MODEL_SETTINGS} in the folder or below it.")
    return notes.found(found)


def place(path: Path) -> Path:
    """Where the files of the one model at `path` are, by the `uri` of its settings. LoadError."""
    file = path / MODEL_SETTINGS
    if not file.is_file():
        return path
    notes = Notes()
    parameters = _json(file, MODEL_SETTINGS, notes).get("parameters")
    uri = parameters.get("uri") if isinstance(parameters, dict) else None
    found = _place(path, path, uri, MODEL_SETTINGS, notes)
    notes.found([])
    return found or path


def _files(root: Path) -> list[Path]:
    found = [
        p
        for p in root.rglob(MODEL_SETTINGS)
        if p.is_file() and len(p.relative_to(root).parts) <= _DEEPEST
    ]
    return sorted(found)


def _server(root: Path, notes: Notes) -> bool:
    """Whether models are loaded at the start, by `settings.json`."""
    file = root / SETTINGS
    if not file.is_file():
        return True
    given = _json(file, SETTINGS, notes)
    for field in given:
        if field not in _SERVER_FIELDS:
            _unknown(SETTINGS, field, _SERVER_FIELDS, notes)
        elif field == "kafka_enabled":
            if given[field]:
                notes.refuse(SETTINGS, "kafka_enabled: requests are not read from Kafka")
        elif field != "load_models_at_startup" and not field.startswith("kafka_"):
            notes.warn(SETTINGS, f"{field}: {_SERVER}")
    return given.get("load_models_at_startup", True) is not False


def _json(file: Path, shown: str, notes: Notes) -> dict[str, Any]:
    try:
        value = json.loads(read_config(file, shown))
    except LoadError as error:
        notes.problems.append(error.message)
        return {}
    except (ValueError, RecursionError) as error:
        notes.refuse(shown, f"is no JSON: {error}")
        return {}
    if not isinstance(value, dict):
        notes.refuse(shown, "is no JSON object")
        return {}
    return value


def _unknown(shown: str, field: str, known: tuple[str, ...], notes: Notes) -> None:
    near = get_close_matches(field.rpartition(".")[2], known, n=1)
    notes.warn(shown, f"{field}: unknown field{f', did you mean {near[0]}?' if near else ''}")


def _model(root: Path, file: Path, shown: str, fallback: str, notes: Notes) -> ServedModel | None:
    before = len(notes.problems)
    given = _json(file, shown, notes)
    if len(notes.problems) > before:
        return None
    parameters = given.get("parameters") or {}
    if not isinstance(parameters, dict):
        notes.refuse(shown, "parameters: an object is expected")
        return None
    _check(given, parameters, shown, notes)
    implementation = given.get("implementation")
    if not isinstance(implementation, str) or "." not in implementation:
        notes.refuse(
            shown,
            "implementation: a class is expected, such as "
            + ", ".join(i for i in IMPLEMENTATIONS if i.count(".") == 1),
        )
        return None
    package = implementation.partition(".")[0]
    if package in _NOT_HERE:
        notes.refuse(shown, f"implementation: {_NOT_HERE[package]}")
        return None
    framework = IMPLEMENTATIONS.get(implementation, CUSTOM)
    path = _place(root, file.parent, parameters.get("uri"), shown, notes)
    extra = parameters.get("extra") or {}
    options: dict[str, Any] = {}
    if framework == CUSTOM:
        options = {"settings": given, "folder": str(file.parent), "root": str(root)}
        path = file.parent
    elif framework == mlserver_explainers.FRAMEWORK:
        options = mlserver_explainers.options_of(extra, shown, notes)
    elif framework == "huggingface":
        options = _huggingface(extra, shown, notes)
    elif framework == "sklearn" and isinstance(extra, dict) and set(extra) == {"predict_fn"}:
        options = {"method": extra["predict_fn"]}
    elif extra:
        notes.refuse(shown, f"parameters.extra: is not read for {framework}")
    if path is None:
        return None
    declared = _declared(given, shown, notes)
    name = given.get("name") or fallback
    return ServedModel(
        name=str(name),
        framework=framework,
        path=str(path),
        options=options,
        versions=VersionPolicy(),
        version=str(parameters.get("version") or ""),
        batching=_batching(given, shown, notes),
        declared=declared if declared != Declared(held=False) else None,
    )


def _check(
    given: Mapping[str, Any], parameters: Mapping[str, Any], shown: str, notes: Notes
) -> None:
    named = {**given, **{f"parameters.{k}": v for k, v in parameters.items()}}
    for field, value in named.items():
        known = _PARAMETER_FIELDS if field.startswith("parameters.") else _MODEL_FIELDS
        row = TABLE.get(field)
        if row is None:
            if field.rpartition(".")[2] not in known:
                _unknown(shown, field, known, notes)
            continue
        effect, why = row
        if value in (None, "", False, 0, [], {}):
            continue
        (notes.refuse if effect == REFUSED else notes.warn)(shown, f"{field}: {why}")


def _place(root: Path, folder: Path, uri: Any, shown: str, notes: Notes) -> Path | None:
    """The model's file or folder."""
    if uri is None or uri == "":
        return folder
    if not isinstance(uri, str) or "://" in uri.removeprefix("file://"):
        notes.refuse(
            shown, "parameters.uri: a path is expected; where files come from is storageUri's"
        )
        return None
    text = uri.removeprefix("file://")
    if text == _MOUNT or text.startswith(_MOUNT + "/"):
        path = root / text[len(_MOUNT) :].strip("/")
    else:
        path = folder / text
    if not inside(root, path):
        notes.refuse(shown, f"parameters.uri: {uri} is not in the repository")
        return None
    if not path.exists():
        notes.refuse(shown, f"parameters.uri: there is no {uri}")
        return None
    return path


def _huggingface(extra: Any, shown: str, notes: Notes) -> dict[str, Any]:
    if not isinstance(extra, dict):
        notes.refuse(shown, "parameters.extra: an object is expected")
        return {}
    options: dict[str, Any] = {}
    for field, value in extra.items():
        at = f"parameters.extra.{field}"
        if field in _HUGGINGFACE:
            options[_HUGGINGFACE[field]] = value
        elif field in ("pretrained_model", "pretrained_tokenizer"):
            notes.refuse(shown, f"{at}: models of the hub are fetched by storageUri: hf://{value}")
        else:
            notes.refuse(shown, f"{at}: is not read; known are {', '.join(_HUGGINGFACE)}")
    return options


def _batching(given: Mapping[str, Any], shown: str, notes: Notes) -> Batching | None:
    size, time_s = given.get("max_batch_size", 0), given.get("max_batch_time", 0.0)
    for field, value, kinds in (
        ("max_batch_size", size, int),
        ("max_batch_time", time_s, (int, float)),
    ):
        if not isinstance(value, kinds) or isinstance(value, bool) or value < 0:
            notes.refuse(shown, f"{field}: a number that is not negative is expected")
            return None
    if size < 2 or not time_s:
        return None
    return Batching(max_batch_size=size, max_latency_s=float(time_s))


def _declared(given: Mapping[str, Any], shown: str, notes: Notes) -> Declared:
    sides: dict[str, tuple[DeclaredTensor, ...]] = {}
    for side in ("inputs", "outputs"):
        tensors: list[DeclaredTensor] = []
        listed = given.get(side) or []
        for i, tensor in enumerate(listed if isinstance(listed, list) else [None]):
            try:
                name, datatype = str(tensor["name"]), str(tensor["datatype"])
                shape = tuple(int(n) for n in tensor["shape"])
                kind = _content_type(tensor, f"{side}[{i}].", shown, notes)
                tensors.append(DeclaredTensor(name, datatype, shape, content_type=kind))
            except (KeyError, TypeError, ValueError):
                notes.refuse(shown, f"{side}[{i}]: name, datatype and shape are expected")
        sides[side] = tuple(tensors)
    whole = _content_type(given, "", shown, notes)
    return Declared(sides["inputs"], sides["outputs"], held=False, content_type=whole)


def _content_type(given: Mapping[str, Any], at: str, shown: str, notes: Notes) -> str:
    parameters = given.get("parameters") or {}
    kind = parameters.get("content_type") if isinstance(parameters, dict) else None
    if kind is None:
        return ""
    if not isinstance(kind, str):
        notes.refuse(shown, f"{at}parameters.content_type: a text is expected")
        return ""
    return kind


def _one(given: list[tuple[str, ServedModel]], notes: Notes) -> ServedModel:
    """One model of all the versions that have its name."""
    first = given[0][1]
    if len(given) == 1:
        return first
    folders = {Path(m.path).name: m for _, m in given}
    parents = {Path(m.path).parent for _, m in given}
    plain = [replace(m, path="", version="") for _, m in given]
    alike = first.framework != CUSTOM and all(m == plain[0] for m in plain)
    numbered = all(v == m.version and v.isdigit() for v, m in folders.items())
    if len(parents) != 1 or len(folders) != len(given) or not numbered or not alike:
        for shown, model in given[1:]:
            notes.refuse(
                shown,
                f"name: {model.name!r} is there already; versions of a model are folders named 1, 2, ... "
                "with that parameters.version, alike but for their files",
            )
        return first
    parent = str(parents.pop())
    return replace(first, path=parent, version="", versions=VersionPolicy(latest=None, all=True))
