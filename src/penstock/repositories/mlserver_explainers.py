"""MLServer's Alibi runtime in a `model-settings.json`: which explainer it selects here, and whose answers.

`explainer_type` and `init_parameters` choose one of Penstock's explainers and its settings; `infer_uri` names
the model that is explained, which is one of the same repository and is asked within the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from penstock.domain import explainers
from penstock.domain.process import ServedModel
from penstock.errors import FieldProblem
from penstock.repositories.base import Notes

FRAMEWORK: Final = "explainer"
#: Where the runtime asks for answers.
_INFER: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/[^/]+)?/infer/?$")
_KNOWN: Final = (
    "explainer_type", "infer_uri", "init_parameters", "infer_output", "explainer_batch", "ssl_verify_path",
)  # fmt: skip
#: Arguments of Alibi's classes -> settings here.
_ARGUMENTS: Final[Mapping[str, str]] = {
    "segmentation_fn": "segmentation", "n_segments": "segments",
}  # fmt: skip
#: An argument that has further ones.
_NESTED: Final = "segmentation_kwargs"


def options_of(extra: Any, shown: str, notes: Notes) -> dict[str, Any]:
    """The options of the explainer that `parameters.extra` asks for; what is wrong goes to `notes`."""
    at = "parameters.extra"
    if not isinstance(extra, Mapping):
        notes.refuse(shown, f"{at}: an object is expected, with explainer_type")
        return {}
    for key in extra.keys() - set(_KNOWN):
        notes.refuse(shown, f"{at}.{key}: is not read; known are {', '.join(_KNOWN)}")
    named = str(extra.get("explainer_type") or "")
    kind = explainers.find(named)
    if kind is None:
        notes.refuse(shown, f"{at}.explainer_type: {explainers.unknown(named)}")
        return {}
    given = extra.get("init_parameters") or {}
    if not isinstance(given, Mapping):
        notes.refuse(shown, f"{at}.init_parameters: an object is expected")
        return {}
    ignored: list[FieldProblem] = []
    config, wrong = explainers.read(kind, dict(_arguments(given)), f"{at}.init_parameters", ignored)
    for problem in wrong:
        notes.refuse(shown, str(problem))
    for problem in ignored:
        notes.warn(shown, str(problem))
    for key in ("explainer_batch", "ssl_verify_path"):
        if extra.get(key):
            notes.warn(shown, f"{at}.{key}: has no effect here")
    if extra.get("infer_output"):
        config["output_name"] = str(extra["infer_output"])
    options: dict[str, Any] = {"type": kind.name, "config": config}
    if kind.looks_inside:
        return options  # the model is among its files
    found = _INFER.search(str(extra.get("infer_uri") or ""))
    if found is None:
        notes.refuse(shown, f"{at}.infer_uri: .../v2/models/MODEL/infer is expected")
        return options
    return {**options, "predictor": found[1]}


def check(models: Iterable[ServedModel], notes: Notes) -> None:
    """Refuse explainers of models that are not in the repository."""
    found = {m.name: m for m in models}
    for model in found.values():
        asked = model.options.get("predictor") if model.framework == FRAMEWORK else None
        if asked is not None and (asked not in found or asked == model.name):
            others = ", ".join(n for n in found if n != model.name) or "no other"
            notes.refuse(
                model.name,
                f"parameters.extra.infer_uri: the repository has no model {asked}, it has {others}; a "
                "service elsewhere is explained by a Model with an explainer block",
            )


def _arguments(given: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Arguments of Alibi's classes by our settings' names; those that are None are its defaults."""
    for key, value in given.items():
        if key == _NESTED and isinstance(value, Mapping):
            yield from _arguments(value)
        elif value is not None:
            yield _ARGUMENTS.get(key, key), value
