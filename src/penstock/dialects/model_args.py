"""Arguments of KServe's model servers, read as what they mean here.

Manifests pass flags such as `--model_name=iris` or `--model_id=org/model` to the server's program. There is
no such program here; the flags that mean something are translated, those about the program itself have no
effect and say so, and any other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.dialects.schema import nearest, path
from penstock.errors import FieldProblem

_PROGRAM = "is about KServe's server program; it has no effect here"
_THREADS = "threads follow the replica's share of the cores"

#: Flags about the server's program: known, without effect.
_NO_EFFECT = {
    "http_port": _PROGRAM,
    "grpc_port": _PROGRAM,
    "workers": "one process runs per replica; set minReplicas",
    "max_threads": _THREADS,
    "max_asyncio_workers": _THREADS,
    "nthread": _THREADS,
    "enable_grpc": _PROGRAM,
    "enable_docs_url": _PROGRAM,
    "enable_latency_logging": _PROGRAM,
    "configure_logging": _PROGRAM,
    "log_config_file": _PROGRAM,
    "access_log_format": _PROGRAM,
    "event_loop": _PROGRAM,
    "grpc_max_send_message_length": _PROGRAM,
    "grpc_max_receive_message_length": _PROGRAM,
    "enable_predictor_health_check": _PROGRAM,
    "disable_log_requests": _PROGRAM,
    "disable_log_stats": _PROGRAM,
}
_TRITON = "is about Triton's program; it has no effect here"
_TRITON_WITHOUT_EFFECT = dict.fromkeys(
    (
        *("log_verbose", "log_info", "log_warning", "log_error"),
        *("allow_http", "allow_grpc", "allow_metrics"),
    ),
    _TRITON,
)
_WITHOUT_VALUE = frozenset(("disable_log_requests", "disable_log_stats", "trust_remote_code"))
#: KServe's names of tasks, where transformers has another one.
_TASKS = {"sequence_classification": "text-classification"}
#: Flags of KServe's Hugging Face server that are options of the runtime here: option and value.
_HUGGINGFACE_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "task": ("task", lambda text: _TASKS.get(text, text.replace("_", "-"))),
    "trust_remote_code": ("trustRemoteCode", lambda text: text != "false"),
}


@dataclass(slots=True)
class Arguments:
    """What the flags said."""

    options: dict[str, Any] = field(default_factory=dict)
    served_name: str | None = None
    uri: str | None = None
    problems: list[FieldProblem] = field(default_factory=list)
    warnings: list[FieldProblem] = field(default_factory=list)


def read_args(format_: str, args: Sequence[str], at: tuple[int | str, ...]) -> Arguments:
    """Translate `args` of a model of `format_`. Both `--a=b` and `--a b`; `-` and `_` are the same."""
    found = Arguments()
    without_effect = {**_NO_EFFECT, **(_TRITON_WITHOUT_EFFECT if format_ == "triton" else {})}
    model_id: str | None = None
    revision: str | None = None
    for i, name, value in _flags(args):
        here = path((*at, i))
        if name == "model_name" and value:
            found.served_name = value
        elif name == "model_dir":
            if value not in ("/mnt/models", "/mnt/models/"):
                found.problems.append(
                    FieldProblem(here, "the model is where its storage is; use storageUri")
                )
        elif format_ == "huggingface" and name == "model_id" and value:
            model_id = value
        elif format_ == "huggingface" and name == "model_revision" and value:
            revision = value
        elif format_ == "huggingface" and name == "backend":
            if value not in ("huggingface", "auto"):
                found.problems.append(FieldProblem(here, f"the backend {value} is not supported"))
        elif format_ == "huggingface" and name == "task" and value == "text_embedding":
            # KServe's embeddings are normalised; those of the runtime's own pooling are not.
            message = (
                "text_embedding is not supported; use feature-extraction with the option pooling"
            )
            found.problems.append(FieldProblem(here, message))
        elif format_ == "huggingface" and name in _HUGGINGFACE_OPTIONS:
            option, read = _HUGGINGFACE_OPTIONS[name]
            found.options[option] = read(value or "")
        elif name in without_effect:
            found.warnings.append(FieldProblem(here, f"--{name} {without_effect[name]}"))
        else:
            known = ["model_name", "model_dir", *without_effect]
            if format_ == "huggingface":
                known += ["model_id", "model_revision", "backend", *_HUGGINGFACE_OPTIONS]
            near = nearest(name, known) if name else None
            hint = f", did you mean --{near}?" if near else ""
            what = f"--{name}" if name else "an argument that is no flag"
            found.problems.append(FieldProblem(here, f"{what} is not supported{hint}"))
    if model_id is not None:
        found.uri = f"hf://{model_id}" + (f":{revision}" if revision else "")
    return found


def _flags(args: Sequence[str]) -> list[tuple[int, str, str | None]]:
    """(index, name with `_`, value) per flag; the name is empty for a value that belongs to no flag."""
    flags: list[tuple[int, str, str | None]] = []
    expects_value = False
    for i, argument in enumerate(args):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            flags.append((i, name, value if equals else None))
            expects_value = not equals and name not in _WITHOUT_VALUE
        elif expects_value and flags:
            index, name, _ = flags[-1]
            flags[-1] = (index, name, argument)
            expects_value = False
        else:
            flags.append((i, "", argument))
    return flags
