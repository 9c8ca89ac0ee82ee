"""Ensembles of a Triton repository, held against the models beside them before anything is started.

An ensemble has no files of its own: its steps are other models of the repository, run in one process, each
tensor made by one of them or given by the request. What Triton would refuse when it loads is refused here,
with the file and the field, and so is a step that no model stands behind.
`penstock.runtimes.triton_ensemble` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from penstock.repositories.base import Notes

PLATFORM: Final = "ensemble"
FRAMEWORK: Final = "triton_ensemble"


@dataclass(frozen=True, slots=True)
class Configured:
    """A model of the repository: its configuration file as it is shown, and what is in it."""

    shown: str
    config: Mapping[str, Any]

    @property
    def is_ensemble(self) -> bool:
        return self.config.get("platform") == PLATFORM

    def tensors(self, which: str) -> dict[str, Mapping[str, Any]]:
        """`input` or `output` by name; empty where the model's own files tell."""
        return {str(t.get("name")): t for t in self.config.get(which, ())}


def steps_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An ensemble's steps, as its configuration lists them."""
    return list((config.get("ensemble_scheduling") or {}).get("step") or ())


def check(models: Mapping[str, Configured], notes: Notes) -> None:
    """Note what is wrong with the ensembles among the models."""
    ensembles = {n: m for n, m in models.items() if m.is_ensemble}
    for model in ensembles.values():
        _check(model, models, notes)
    called = {
        name: [s for step in steps_of(m.config) if (s := str(step.get("model_name"))) in ensembles]
        for name, m in ensembles.items()
    }
    circle = _circle(called)
    if circle:
        where = f"{ensembles[circle[0]].shown}: ensemble_scheduling"
        notes.refuse(where, f"ensembles call each other in a circle: {', '.join(circle)}")


def _check(model: Configured, models: Mapping[str, Configured], notes: Notes) -> None:
    config = model.config
    place = f"{model.shown}: ensemble_scheduling"
    steps = steps_of(config)
    if not steps:
        notes.refuse(place, "step: at least one is required")
    if config.get("dynamic_batching") is not None:
        notes.refuse(f"{model.shown}: dynamic_batching", "an ensemble's models batch, it does not")
    inputs = model.tensors("input")
    outputs = model.tensors("output")
    for which, given in (("input", inputs), ("output", outputs)):
        if not given:
            notes.refuse(f"{model.shown}: {which}", "at least one is required")
    made: dict[str, int | None] = dict.fromkeys(inputs)
    types = {n: t.get("data_type") for n, t in inputs.items()}
    for i, step in enumerate(steps):
        at = f"{place}.step[{i}]"
        behind = _behind(step, at, models, notes)
        for key, tensor in (step.get("output_map") or {}).items():
            if tensor in made:
                by = "an input" if made[tensor] is None else f"made by step[{made[tensor]}]"
                notes.refuse(f"{at}.output_map", f"{tensor!r} is {by} already")
            made[tensor] = i
            _known(key, behind, "output", f"{at}.output_map", notes)
            if behind is not None and key in behind.tensors("output"):
                types[tensor] = behind.tensors("output")[key].get("data_type")
    needs: dict[int, list[int]] = {}
    for i, step in enumerate(steps):
        at = f"{place}.step[{i}].input_map"
        behind = models.get(str(step.get("model_name")))
        needs[i] = []
        for key, tensor in (step.get("input_map") or {}).items():
            if tensor not in made:
                notes.refuse(at, f"{tensor!r} is neither an input nor made by a step")
                continue
            maker = made[tensor]
            if maker is not None:
                needs[i].append(maker)
            _known(key, behind, "input", at, notes)
            _same(key, tensor, types.get(tensor), behind, at, notes)
        if behind is not None:
            for key, taken in behind.tensors("input").items():
                if key not in (step.get("input_map") or {}) and not taken.get("optional"):
                    notes.refuse(at, f"the model's input {key!r} is not mapped")
    for name, tensor in outputs.items():
        if made.get(name) is None:
            notes.refuse(f"{model.shown}: output", f"{name!r} is made by no step")
        elif types.get(name) not in (None, tensor.get("data_type")):
            said = tensor.get("data_type")
            notes.refuse(f"{model.shown}: output", f"{name!r} is {types[name]}, not {said}")
    circle = _circle(needs)
    if circle:
        told = ", ".join(f"step[{i}]" for i in circle)
        notes.refuse(place, f"steps wait for each other in a circle: {told}")


def _behind(
    step: Mapping[str, Any], at: str, models: Mapping[str, Configured], notes: Notes
) -> Configured | None:
    """The model that a step calls."""
    name = step.get("model_name")
    if not name:
        notes.refuse(f"{at}.model_name", "is required")
        return None
    if step.get("model_namespace"):
        notes.refuse(f"{at}.model_namespace", "models are found by their names; take it out")
    if int(step.get("model_version", -1)) < -1:
        notes.refuse(f"{at}.model_version", "-1, for the newest, or a version's number is expected")
    for field in ("input_map", "output_map"):
        if not step.get(field):
            notes.refuse(f"{at}.{field}", "at least one entry is required")
    if name not in models:
        known = ", ".join(models) or "none"
        notes.refuse(f"{at}.model_name", f"there is no model {name!r} beside it; there are {known}")
    return models.get(str(name))


def _known(key: str, model: Configured | None, which: str, at: str, notes: Notes) -> None:
    known = model.tensors(which) if model is not None else {}
    if known and key not in known:
        notes.refuse(at, f"the model has no {which} {key!r}; it has {', '.join(known)}")


def _same(
    key: str, tensor: str, said: Any, model: Configured | None, at: str, notes: Notes
) -> None:
    wanted = model.tensors("input").get(key, {}).get("data_type") if model is not None else None
    if said and wanted and said != wanted:
        notes.refuse(at, f"{tensor!r} is {said}, and the model's input {key!r} takes {wanted}")


def _circle(needs: Mapping[Any, list[Any]]) -> list[Any]:
    """What waits for itself, in order; empty when nothing does."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        found: list[Any] = list(error.args[1])
        return found
    return []
