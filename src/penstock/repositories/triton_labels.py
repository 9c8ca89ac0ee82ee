"""Names of classes beside a model of Triton's: the files that `label_filename` of an output names.

Line N is the name of class N, as in Triton; an empty line, and what comes after the last one, has none. Where
an ensemble names no file for an output, the model that makes the output gives its own. A reader of a
repository refuses a file that is not there or not text; a model process reads it when it loads the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from penstock.domain.declared import DeclaredClasses
from penstock.errors import LoadError
from penstock.repositories.base import Notes, inside, read_config
from penstock.repositories.triton_ensembles import Configured, steps_of

FIELD: Final = "label_filename"
#: Names of a hundred thousand classes; what is larger is another file.
MAX_LABEL_BYTES: Final = 4 << 20


def read_labels(file: Path, shown: str) -> tuple[str, ...]:
    """The names in a file, in the order of the classes. LoadError names it by `shown`."""
    if not file.is_file():
        raise LoadError(f"{shown} is not there, or is no file.")
    lines = read_config(file, shown, MAX_LABEL_BYTES).removeprefix("\ufeff").split("\n")
    if not lines[-1]:
        lines.pop()
    return tuple(line.removesuffix("\r") for line in lines)


def classes_of(
    name: str, folder: Path, models: Mapping[str, Configured], notes: Notes
) -> dict[str, DeclaredClasses]:
    """What the configuration of the model `name` says of its outputs' classes; `folder` is the model's."""
    model = models[name]
    batched = model.config.get("max_batch_size", 0) > 0
    # A Python model may set it itself, which is known when it runs.
    says = "max_batch_size" in model.config or model.config.get("backend") != "python"
    found = {}
    for i, tensor in enumerate(model.config.get("output") or ()):
        output = str(tensor.get("name"))
        file = tensor.get(FIELD) or ""
        if file:
            _check(folder, file, f"{model.shown}: output[{i}].{FIELD}", notes)
        elif model.is_ensemble:
            file = _of_maker(model, output, models, frozenset((name,)))
        if file or (says and not batched):
            found[output] = DeclaredClasses(file, batched or not says)
    return found


def _check(folder: Path, file: str, at: str, notes: Notes) -> None:
    if not inside(folder, folder / file):
        notes.refuse(at, f"{file!r} leads out of the model's folder")
        return
    try:
        read_labels(folder / file, file)
    except LoadError as error:
        notes.refuse(at, error.message.removesuffix("."))


def _of_maker(
    ensemble: Configured, output: str, models: Mapping[str, Configured], above: frozenset[str]
) -> str:
    """The file of the model whose output an ensemble's is, from a folder beside that model's on."""
    for step in steps_of(ensemble.config):
        maker = str(step.get("model_name"))
        behind = models.get(maker)
        if behind is None or maker in above:  # noted as a problem elsewhere
            continue
        for own, tensor in (step.get("output_map") or {}).items():
            if tensor != output:
                continue
            file = behind.tensors("output").get(own, {}).get(FIELD) or ""
            if file:
                return f"../{maker}/{file}"
            if behind.is_ensemble:
                return _of_maker(behind, own, models, above | {maker})
    return ""
