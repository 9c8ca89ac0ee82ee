"""Which steps of a graph cannot work with the models that they name, as far as those say what they take.

A model's own metadata is believed where its framework holds requests to it (`HOLDS`): ONNX, TensorFlow,
PyTorch and Triton's Python models take exactly the tensors that they declare. Others take a matrix of any
name, or decide in their own code, and of these only what they answer is looked at. Found is what fails for
every request: a tensor that no answer has, a name that is not taken, a datatype or a shape that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from penstock.domain.graph import (
    Answers,
    Call,
    Combine,
    Flow,
    Graph,
    Inputs,
    Join,
    Side,
    Source,
    Step,
    Tensor,
    Verb,
)
from penstock.domain.graph_check import GraphProblem

#: V2's platforms whose models take the tensors that they declare and no others: all that begin so, and
#: Triton's Python models, whose metadata does not tell which inputs may be left out.
HOLDS: Final = ("onnx_", "tensorflow_", "pytorch_")
TRITON: Final = "python"
#: Of these, whose inputs may be of any rank, and whose answers' sizes are those of one answer.
ANY_RANK: Final = "tensorflow_"
ONE_ANSWER: Final = "pytorch_"
#: V1's nameless rows get these, whatever a model calls its tensors.
NAMELESS: Final = frozenset(("input-0", "output-0"))
#: Kinds of numbers, and which of them become which without a loss.
_KINDS: Final = {"BOOL": "b", "BYTES": "t", "INT": "i", "UINT": "u", "FP": "f", "BF": "f"}
_CASTS: Final = frozenset(("ii", "iu", "ui", "uu", "if", "uf", "ff", "bf", "bi", "bu", "bb", "tt"))


class Declared(msgspec.Struct, frozen=True):
    """What a model says of itself in V2's metadata."""

    platform: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    @property
    def holds(self) -> bool:
        """Its inputs are those that it declares."""
        return bool(self.inputs) and (self.platform == TRITON or self.platform.startswith(HOLDS))


#: By (namespace, service).
Known = Mapping[tuple[str, str], Declared]


def mismatches(graph: Graph, known: Known) -> list[GraphProblem]:
    """Every step that fails for every request. Graphs whose steps hand on JSON as it came have none."""
    if graph.answers not in (Answers.PENSTOCK, Answers.SELDON_V2):
        return []
    return [p for flow in graph.flows for p in _flow(graph, flow, known)]


def _flow(graph: Graph, flow: Flow, known: Known) -> Iterator[GraphProblem]:
    models = {s.name: _model(graph, s, known) for s in flow.steps}
    for step in flow.steps:
        for part, inputs in (("inputs", step.inputs), ("triggers", step.triggers)):
            for i, source in enumerate(inputs.sources if inputs is not None else ()):
                yield from _absent(flow, step.name, part, i, source, models)
        model = models[step.name]
        if model is not None and model.holds:
            yield from _taken(flow, step, model, models)
    for i, source in enumerate(flow.output.sources):
        yield from _absent(flow, "", "output", i, source, models)


def _model(graph: Graph, step: Step, known: Known) -> Declared | None:
    action = step.action
    if not isinstance(action, Call) or action.verb is not Verb.PREDICT or action.revision:
        return None
    return known.get((action.namespace or graph.namespace, action.service))


def _outputs(source: Source, models: Mapping[str, Declared | None]) -> tuple[Tensor, ...]:
    """What the source's step is known to answer; empty when that is not known."""
    model = models.get(source.step) if source.side is Side.OUTPUTS else None
    return model.outputs if model is not None else ()


def _absent(
    flow: Flow,
    step: str,
    part: str,
    index: int,
    source: Source,
    models: Mapping[str, Declared | None],
) -> Iterator[GraphProblem]:
    """A tensor that the other step never answers."""
    answered = [t.name for t in _outputs(source, models)]
    wanted = [source.tensor] if source.tensor else [old for old, _ in source.renames]
    for name in wanted:
        if answered and name not in answered and name not in NAMELESS:
            said = f"{source.step!r} answers no tensor {name!r}; it answers {', '.join(answered)}"
            yield GraphProblem(said, flow.name, step, part, index)


def _taken(
    flow: Flow, step: Step, model: Declared, models: Mapping[str, Declared | None]
) -> Iterator[GraphProblem]:
    """What a model that holds requests to its declaration is given."""
    declared = {t.name: t for t in model.inputs}
    takes = f"{step.name!r} takes {', '.join(declared)}"
    given: set[str] = set()
    everything = bool(step.inputs.sources)
    for i, source in enumerate(step.inputs.sources):
        tensors = _given(source, models)
        if tensors is None:
            everything = False
            continue
        for name, tensor in tensors.items():
            given.add(name)
            wanted = declared.get(name)
            if wanted is None:
                if name not in NAMELESS:
                    said = f"there is no input {name!r}; {takes}"
                    yield GraphProblem(said, flow.name, step.name, "inputs", i)
            elif tensor is not None and (said := _unfit(tensor, wanted, name, model)):
                yield GraphProblem(said, flow.name, step.name, "inputs", i)
    missing = [n for n in declared if n not in given]
    if everything and missing and _joins_all(step.inputs) and model.platform != TRITON:
        if given <= NAMELESS and len(declared) == 1:
            return
        said = f"{step.name!r} also needs {', '.join(missing)}"
        yield GraphProblem(said, flow.name, step.name, "inputs", 0)


def _joins_all(inputs: Inputs) -> bool:
    return inputs.join is Join.INNER and inputs.combine is Combine.MERGE


def _given(
    source: Source, models: Mapping[str, Declared | None]
) -> dict[str, Tensor | None] | None:
    """Tensors that a source gives, by the names that they have then; None when that is not known."""
    tensors = {t.name: t for t in _outputs(source, models)}
    model = models.get(source.step)
    if model is None or not model.holds or model.platform.startswith(ONE_ANSWER):
        tensors = {n: Tensor(n, t.datatype) for n, t in tensors.items()}
    if source.tensor:
        return {source.rename or source.tensor: tensors.get(source.tensor)}
    if not tensors:
        return None
    renames = dict(source.renames)
    return {renames.get(name, name): tensor for name, tensor in tensors.items()}


def _unfit(given: Tensor, wanted: Tensor, name: str, model: Declared) -> str:
    """Why the one cannot be the other, or an empty string."""
    if given.datatype and wanted.datatype:
        pair = _kind(given.datatype) + _kind(wanted.datatype)
        if pair not in _CASTS:
            return f"{given.name!r} is {given.datatype}, the input {name!r} takes {wanted.datatype}"
    if given.shape is None or wanted.shape is None:
        return ""
    one, other = list(given.shape), list(wanted.shape)
    if len(one) != len(other) and model.platform.startswith(ANY_RANK):
        return ""
    if len(one) == len(other) and all(
        a == b or a < 0 or b < 0 for a, b in zip(one, other, strict=True)
    ):
        return ""
    return f"{given.name!r} has shape {one}, the input {name!r} takes {other}"


def _kind(datatype: str) -> str:
    return _KINDS.get(datatype.rstrip("0123456789"), "?")
