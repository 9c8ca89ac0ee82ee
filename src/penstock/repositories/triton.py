"""Triton's model repository: `MODEL/config.pbtxt` and numbered version folders.

A folder of models, or one model's folder, becomes the models that a process is told to serve. `platform` or
`backend` says the framework; Triton's Python models run as they are (`penstock.runtimes.triton_python`).
What a configuration asks for that is not done here is refused with the file and the field, or is told as
being without effect; see TABLE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from penstock.domain.declared import Declared, DeclaredTensor
from penstock.domain.process import ServedModel
from penstock.domain.service import Batching, VersionPolicy
from penstock.errors import LoadError
from penstock.repositories import triton_ensembles as ensembles
from penstock.repositories.base import Found, Notes, has, inside, read_config, versions_in
from penstock.repositories.text_format import BadText, parse
from penstock.repositories.triton_ensembles import Configured
from penstock.repositories.triton_labels import classes_of
from penstock.repositories.triton_schema import DATATYPES, MODEL_CONFIG

CONFIG: Final = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class _Backend:
    framework: str
    #: The model's file, or folder, in a version's folder.
    file: str


BACKENDS: Final[Mapping[str, _Backend]] = {
    "onnxruntime": _Backend("onnx", "model.onnx"),
    "pytorch": _Backend("torch", "model.pt"),
    "tensorflow": _Backend("tensorflow", "model.savedmodel"),
    "python": _Backend("triton_python", "model.py"),
}
PLATFORMS: Final[Mapping[str, str]] = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
}
_KNOWN: Final = f"known are {', '.join(BACKENDS)}"
_OTHER_BACKENDS: Final = {
    "tensorrt": "TensorRT engines are not supported; export the model to ONNX",
    "openvino": "OpenVINO is not supported; export the model to ONNX",
    "fil": "the FIL backend is not supported; serve the booster's own file as xgboost or lightgbm",
    "dali": "DALI pipelines are not supported",
    "vllm": "large language models are not supported",
    "tensorrtllm": "large language models are not supported",
    "identity": "Triton's own test backend is not supported",
    "repeat": "Triton's own test backend is not supported",
    "square": "Triton's own test backend is not supported",
}
_OTHER_PLATFORMS: Final = {
    "tensorrt_plan": _OTHER_BACKENDS["tensorrt"],
    "tensorflow_graphdef": "frozen graphs are not supported; write a SavedModel",
}

REFUSED: Final = "refused"
NO_EFFECT: Final = "no effect"
#: Field of the configuration -> what becomes of it, and why; fields that are not here are read.
TABLE: Final[Mapping[str, tuple[str, str]]] = {
    "sequence_batching": (REFUSED, "models that keep state from request to request are not supported"),
    "batch_input": (REFUSED, "inputs made from the batch are not supported"),
    "batch_output": (REFUSED, "outputs scattered over the batch are not supported"),
    "model_operations": (REFUSED, "libraries of operations are not loaded into the model's process"),
    "model_repository_agents": (REFUSED, "agents are not supported"),
    "input.allow_ragged_batch": (REFUSED, "requests of unequal shapes are never joined; take it out"),
    "input.is_shape_tensor": (REFUSED, "is for TensorRT"),
    "output.is_shape_tensor": (REFUSED, "is for TensorRT"),
    "input.is_non_linear_format_io": (REFUSED, "is for TensorRT"),
    "output.is_non_linear_format_io": (REFUSED, "is for TensorRT"),
    "ensemble_scheduling.max_inflight_requests": (NO_EFFECT, "the platform bounds what is under way"),
    "runtime": (NO_EFFECT, "the framework installed here runs the model"),
    "cc_model_filenames": (NO_EFFECT, "one file serves every device"),
    "input.format": (NO_EFFECT, "tells of a layout; nothing is transposed, at Triton neither"),
    "optimization": (NO_EFFECT, "the framework decides on its own optimizations"),
    "response_cache": (NO_EFFECT, "answers are not cached"),
    "model_warmup": (NO_EFFECT, "a model is ready when it has answered a request"),
    "metric_tags": (NO_EFFECT, "metrics have the labels of the platform"),
    "model_metrics": (NO_EFFECT, "histograms have the buckets of the platform"),
    "instance_group": (NO_EFFECT, "one instance runs per replica; the manifest says how many"),
    "dynamic_batching.preferred_batch_size": (NO_EFFECT, "an idle model runs at once"),
    "dynamic_batching.preserve_ordering": (NO_EFFECT, "each answer goes to its own request"),
    "dynamic_batching.priority_levels": (NO_EFFECT, "requests are taken in their order"),
    "dynamic_batching.default_priority_level": (NO_EFFECT, "requests are taken in their order"),
    "dynamic_batching.default_queue_policy": (NO_EFFECT, "the platform bounds queue and time"),
    "dynamic_batching.priority_queue_policy": (NO_EFFECT, "requests are taken in their order"),
}  # fmt: skip

_INDEXED: Final = re.compile(r".+__([0-9]+)")


def is_repository(path: Path) -> bool:
    """A model's folder with its `config.pbtxt`, or a folder of such folders."""
    return has(path, CONFIG)


def read(path: Path, *, name: str = "") -> Found:
    """The models at `path`; one model's folder is served as `name`, unless its configuration has another.

    LoadError when there is none, or with every file and field that cannot be served.
    """
    if not path.is_dir():
        raise LoadError(f"{path.name} is no folder; a model repository is.")
    notes = Notes()
    models: list[ServedModel] = []
    configured: dict[str, Configured] = {}
    if (path / CONFIG).is_file() or _backend_of(path) is not None:
        models += _model(path, name or path.name, CONFIG, notes, configured, own_name=True)
        ensembles.check(configured, notes)
        return notes.found(_with_classes(models, configured, notes))
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    for folder in folders:
        if (folder / CONFIG).is_file() or _backend_of(folder) is not None:
            models += _model(folder, folder.name, f"{folder.name}/{CONFIG}", notes, configured)
    if not models and not notes.problems:
        names = ", ".join(p.name for p in sorted(path.iterdir())) or "nothing"
        raise LoadError(
            f"There is no model in the repository: neither {CONFIG} nor a numbered folder with "
            f"{', '.join(b.file for b in BACKENDS.values())} in one. Found: {names}."
        )
    ensembles.check(configured, notes)
    # The models that ensembles are made of come first: one of them says what the process is forked from.
    models.sort(key=lambda m: m.framework == ensembles.FRAMEWORK)
    return notes.found(_with_classes(models, configured, notes))


def _with_classes(
    models: list[ServedModel], configured: Mapping[str, Configured], notes: Notes
) -> list[ServedModel]:
    return [replace(m, classes=classes_of(m.name, Path(m.path), configured, notes)) for m in models]


def config_of(text: str) -> dict[str, Any]:
    """A `config.pbtxt` as a dict. BadText names the line and the field."""
    return parse(text, MODEL_CONFIG)


def _backend_of(folder: Path) -> str | None:
    """The backend that a version's files are for."""
    for version in reversed(versions_in(folder)):
        for name, backend in BACKENDS.items():
            if (version / backend.file).exists():
                return name
    return None


def _model(
    folder: Path,
    name: str,
    shown: str,
    notes: Notes,
    configured: dict[str, Configured],
    *,
    own_name: bool = False,
) -> list[ServedModel]:
    config: dict[str, Any] = {}
    file = folder / CONFIG
    if file.is_file():
        try:
            config = config_of(read_config(file, shown))
        except BadText as error:
            notes.refuse(shown, error.message)
            return []
        except LoadError as error:
            notes.problems.append(error.message)
            return []
    said = config.get("name")
    if said and own_name:
        name = said
    elif said and said != name:
        notes.refuse(shown, f"name: {said!r} is not the folder's name, {name!r}")
    configured[name] = Configured(shown, config)
    if configured[name].is_ensemble:
        return [_ensemble(folder, name, config, shown, notes)]
    backend_name = _backend_name(folder, config, shown, notes)
    if backend_name is None:
        return []
    _check(config, shown, notes)
    backend = BACKENDS[backend_name]
    most = config.get("max_batch_size", 0)
    if most < 0:
        notes.refuse(shown, "max_batch_size: must not be negative")
    declared = Declared(
        inputs=_tensors(config.get("input", []), most, f"{shown}: input", notes),
        outputs=_tensors(config.get("output", []), most, f"{shown}: output", notes),
        max_rows=most,
    )
    filename = config.get("default_model_filename") or backend.file
    versions = versions_in(folder)
    if not versions:
        notes.refuse(shown, "there is no version: a folder with a number for its name is expected")
        return []
    for version in versions:
        if not inside(version, version / filename):
            notes.refuse(
                shown, f"default_model_filename: {filename!r} leads out of the version's folder"
            )
            return []
    options: dict[str, Any] = {"file": filename}
    if backend.framework == "torch":
        options |= _torch_options(declared)
    elif backend.framework == "triton_python":
        options["config"] = _whole(config, name, backend_name)
        declared = Declared()
    return [
        ServedModel(
            name=name,
            framework=backend.framework,
            path=str(folder),
            options=options,
            versions=_versions(config.get("version_policy")),
            batching=_batching(config, most) if file.is_file() else None,
            declared=declared if declared != Declared() else None,
        )
    ]


def _ensemble(
    folder: Path, name: str, config: dict[str, Any], shown: str, notes: Notes
) -> ServedModel:
    """An ensemble has no files, so its numbered folders may be left out."""
    _check(config, shown, notes)
    if config.get("backend"):
        notes.refuse(shown, "backend: an ensemble has none")
    most = config.get("max_batch_size", 0)
    if most < 0:
        notes.refuse(shown, "max_batch_size: must not be negative")
    for which in ("input", "output"):
        _tensors(config.get(which, []), most, f"{shown}: {which}", notes)
    return ServedModel(
        name=name,
        framework=ensembles.FRAMEWORK,
        path=str(folder),
        options={"config": _whole(config, name, "")},
        versions=_versions(config.get("version_policy"))
        if versions_in(folder)
        else VersionPolicy(),
    )


def _backend_name(folder: Path, config: Mapping[str, Any], shown: str, notes: Notes) -> str | None:
    platform = config.get("platform") or ""
    backend = config.get("backend") or ""
    if platform in _OTHER_PLATFORMS:
        notes.refuse(shown, f"platform: {_OTHER_PLATFORMS[platform]}")
        return None
    if platform and platform not in PLATFORMS:
        known = ", ".join((*PLATFORMS, ensembles.PLATFORM))
        notes.refuse(shown, f"platform: {platform!r} is unknown; known are {known}")
        return None
    if backend and backend not in BACKENDS:
        why = _OTHER_BACKENDS.get(backend) or f"{backend!r} is unknown; {_KNOWN}"
        notes.refuse(shown, f"backend: {why}")
        return None
    chosen = backend or PLATFORMS.get(platform) or _backend_of(folder)
    if chosen is None:
        filename = config.get("default_model_filename", "")
        suffix = Path(filename).suffix
        chosen = next((n for n, b in BACKENDS.items() if suffix == Path(b.file).suffix), None)
    if chosen is None:
        notes.refuse(shown, f"neither backend nor platform says what runs the model; {_KNOWN}")
    elif platform and backend and PLATFORMS[platform] != backend:
        notes.refuse(shown, f"platform {platform!r} is not of the backend {backend!r}")
        return None
    return chosen


def _check(config: Mapping[str, Any], shown: str, notes: Notes) -> None:
    """Hold the configuration against TABLE."""
    for path, (effect, why) in TABLE.items():
        head, _, tail = path.partition(".")
        value = config.get(head)
        if value is None:
            continue
        places = [(head, value)]
        if tail:
            several = value if isinstance(value, list) else [value]
            places = [
                (f"{head}[{i}].{tail}" if isinstance(value, list) else path, v[tail])
                for i, v in enumerate(several)
                if v.get(tail)
            ]
        for place, given in places:
            if _harmless(head, given) or given == "FORMAT_NONE":
                continue
            note = notes.refuse if effect == REFUSED else notes.warn
            note(shown, f"{place}: {why}")


def _harmless(field: str, value: Any) -> bool:
    if field == "instance_group":
        return all(g.get("count", 1) == 1 and g.get("kind") != "KIND_GPU" for g in value)
    if field == "response_cache":
        return not value.get("enable")
    return not value


def _tensors(
    given: list[dict[str, Any]], most: int, where: str, notes: Notes
) -> tuple[DeclaredTensor, ...]:
    found: list[DeclaredTensor] = []
    for i, tensor in enumerate(given):
        at = f"{where}[{i}]"
        name = tensor.get("name", "")
        datatype = DATATYPES.get(tensor.get("data_type", ""))
        dims = tensor.get("dims")
        if not name:
            notes.refuse(at, "name is required")
        if datatype is None:
            notes.refuse(at, "data_type is required")
        if not dims:
            notes.refuse(at, "dims is required")
        if not name or datatype is None or not dims:
            continue
        if any(d < 1 and d != -1 for d in dims):
            notes.refuse(at, f"dims: {dims} has a size that is neither -1 nor above 0")
            continue
        batch = (-1,) if most > 0 else ()
        shape = tensor.get("reshape")
        found.append(
            DeclaredTensor(
                name,
                datatype,
                (*batch, *dims),
                model_shape=None if shape is None else (*batch, *shape.get("shape", [])),
                optional=bool(tensor.get("optional")),
            )
        )
    return tuple(found)


def _torch_options(declared: Declared) -> dict[str, Any]:
    """TorchScript has no names for its outputs and is called by position."""
    options: dict[str, Any] = {}
    inputs = [*declared.inputs]
    if all(_INDEXED.fullmatch(t.name) for t in inputs):
        inputs.sort(key=_position)
    outputs = [*declared.outputs]
    if all(_INDEXED.fullmatch(t.name) for t in outputs):
        outputs.sort(key=_position)
    if inputs:
        options["inputs"] = [
            {"name": t.name, "datatype": t.datatype, "shape": list(t.model_shape or t.shape)}
            for t in inputs
        ]
    if outputs:
        options["outputs"] = [t.name for t in outputs]
    options["batchable"] = declared.max_rows > 0
    return options


def _position(tensor: DeclaredTensor) -> int:
    match = _INDEXED.fullmatch(tensor.name)
    return int(match[1]) if match else 0


def _versions(given: Mapping[str, Any] | None) -> VersionPolicy:
    if not given:
        return VersionPolicy()
    if "all" in given:
        return VersionPolicy(latest=None, all=True)
    if "specific" in given:
        chosen = tuple(str(v) for v in given["specific"].get("versions", ()))
        return VersionPolicy(latest=None, specific=chosen)
    return VersionPolicy(latest=given.get("latest", {}).get("num_versions", 1))


def _batching(config: Mapping[str, Any], most: int) -> Batching:
    """Requests share a call where the configuration has `dynamic_batching`, and nowhere else."""
    dynamic = config.get("dynamic_batching")
    if most < 2 or dynamic is None:
        return Batching(max_batch_size=1)
    delay_s = dynamic.get("max_queue_delay_microseconds", 0) / 1e6
    return Batching(max_batch_size=most, max_latency_s=delay_s)


def _whole(config: dict[str, Any], name: str, backend: str) -> dict[str, Any]:
    """The configuration as a Python model is given it: with the fields that Triton always has."""
    return {
        "name": name,
        "platform": config.get("platform", ""),
        "backend": backend,
        "max_batch_size": 0,
        "input": [],
        "output": [],
        "parameters": {},
        **{k: v for k, v in config.items() if k not in ("name", "platform", "backend")},
    }
