"""How Seldon V2's pipelines refer to values, and what a tensorMap makes of them.

In a pipeline: `STEP[.inputs|outputs[.TENSOR]]`, the pipeline's own name for its request. Of other pipelines:
`PIPELINE[.step.STEP][.inputs|outputs[.TENSOR]]`. A side that is not said is the outputs, and of the pipeline
itself the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from penstock.dialects.schema import nearest
from penstock.domain.graph import Side, Source
from penstock.domain.names import service_problem

At = tuple[int | str, ...]


class Reference(NamedTuple):
    """Where a value is: `step` is empty for the request, and PIPELINE or PIPELINE.STEP for another's."""

    step: str
    side: Side
    tensor: str = ""


#: A text at a place in the manifest -> what it refers to; None when that is nothing, which is told.
Parse = Callable[[str, At], Reference | None]


class References:
    """The references of one pipeline. `wrong` is told what is wrong, and where."""

    def __init__(
        self, pipeline: str, steps: Sequence[str], wrong: Callable[[At, str], None]
    ) -> None:
        self._pipeline = pipeline
        self._steps = steps
        self._wrong = wrong

    def own(self, text: str, at: At) -> Reference | None:
        """A value of this pipeline."""
        step, _, rest = text.partition(".")
        mine = step == self._pipeline
        if not step or text.endswith("."):
            self._wrong(at, "is empty" if not text else f"{text}: STEP.outputs.TENSOR is expected")
            return None
        if not mine and step not in self._steps:
            near = nearest(step, [*self._steps, self._pipeline])
            known = ", ".join(self._steps[:8])
            itself = f"there is {known}, or {self._pipeline} itself"
            self._wrong(
                at, f"there is no step {step!r}; {f'did you mean {near}?' if near else itself}"
            )
            return None
        if not rest:
            return Reference("" if mine else step, Side.INPUTS if mine else Side.OUTPUTS)
        side, _, tensor = rest.partition(".")
        if not self._is_side(side, at, text):
            return None
        if mine and side == "outputs":
            self._wrong(at, f"{self._pipeline} is this pipeline: while it runs it has only inputs")
            return None
        return Reference("" if mine else step, Side(side), tensor)

    def external(self, text: str, at: At) -> Reference | None:
        """A value of another pipeline."""
        if not text or text.endswith("."):
            self._wrong(at, "is empty" if not text else f"{text}: PIPELINE.outputs is expected")
            return None
        source, _, rest = text.partition(".")
        if rest == "step" or rest.startswith("step."):
            step, _, rest = rest[5:].partition(".")
            if not step:
                self._wrong(at, f"{text}: PIPELINE.step.STEP is expected")
                return None
            source += f".{step}"
        for name in source.split("."):
            if problem := service_problem(name):
                self._wrong(at, problem)
                return None
        if not rest:
            return Reference(source, Side.OUTPUTS)
        side, _, tensor = rest.partition(".")
        return Reference(source, Side(side), tensor) if self._is_side(side, at, text) else None

    def sources(
        self,
        given: Sequence[str],
        at: At,
        parse: Parse,
        *,
        renames: Mapping[str, str] | None = None,
        renames_at: At = (),
        together: bool = False,
    ) -> tuple[Source, ...]:
        """`given` as sources, their tensors under the names of `renames`.

        `together`: all of them are joined, so that two may not have one name. Nothing given: the request.
        """
        found: list[Reference] = []
        for i, text in enumerate(given):
            reference = parse(text, (*at, i))
            if reference is None:
                continue
            if reference in found:
                self._wrong((*at, i), f"{text} is named twice")
            found.append(reference)
        if not given:
            found.append(Reference("", Side.INPUTS))
        new = self._renamed(renames or {}, found, renames_at, parse, together)
        return _as_sources(found, new) if given or new else ()

    def _renamed(
        self,
        given: Mapping[str, str],
        among: Sequence[Reference],
        at: At,
        parse: Parse,
        together: bool,
    ) -> dict[Reference, str]:
        """New names by tensor. One of nothing is told, and so is one of two that come `together`."""
        found: dict[Reference, str] = {}
        for text, new in given.items():
            here = (*at, text)
            reference = parse(text, here)
            if reference is None:
                continue
            if not reference.tensor:
                self._wrong(here, "names no tensor: STEP.outputs.TENSOR is expected")
            elif not new:
                self._wrong(here, "the tensor's new name is empty")
            elif reference not in among and reference._replace(tensor="") not in among:
                self._wrong(here, f"renames nothing: {text} is not among the inputs")
            elif together and new in found.values():
                self._wrong(here, f"a second tensor gets the name {new!r}")
            else:
                found[reference] = new
        return found

    def _is_side(self, side: str, at: At, text: str) -> bool:
        if side in ("inputs", "outputs"):
            return True
        near = nearest(side, ["inputs", "outputs"])
        hint = f", did you mean {near}?" if near else ""
        self._wrong(at, f"{text}: inputs or outputs is expected after the first dot{hint}")
        return False


def _as_sources(found: Sequence[Reference], renames: Mapping[Reference, str]) -> tuple[Source, ...]:
    """References as sources; a whole value brings the new names of its tensors."""

    def source(r: Reference) -> Source:
        if r.tensor:
            return Source(r.step, r.side, r.tensor, renames.get(r, ""))
        more: Any = (
            (t.tensor, new)
            for t, new in renames.items()
            if t._replace(tensor="") == r and t not in found
        )
        return Source(r.step, r.side, renames=tuple(more))

    return tuple(source(r) for r in found)
