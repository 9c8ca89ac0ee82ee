"""Pipelines in Python: the same manifest as in YAML, with names that the editor knows, and a picture.

    from penstock.graph import Pipeline

    triage = Pipeline("triage")
    boxes = triage.step("detect")
    kind = triage.step("classify", model="resnet", inputs=[boxes["boxes"].named("input-0")])
    triage.answer(kind)
    triage.write("triage.yaml")      # and `penstock apply -f triage.yaml`

What `step` takes is what a step has in a manifest, in Python's spelling (`on_failure`, `triggers_join`).
Mistakes are found by `manifest()`, with the same words as when the manifest is applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import yaml

if TYPE_CHECKING:
    from penstock.domain.graph import Graph

__all__ = ["Pipeline", "Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """What a step answers, or one tensor of it, or the request: an input for other steps."""

    step: str
    tensor: str = ""
    name: str = ""
    key: str = ""
    side: str = ""

    def __getitem__(self, tensor: str) -> Value:
        """One tensor, or one key of a JSON object."""
        return replace(self, tensor=tensor)

    def __iter__(self) -> NoReturn:
        """TypeError. Python would ask `__getitem__` for 0, 1, 2 ... and never end."""
        raise TypeError(
            f"what {self.step} answers is one value, not several; name a tensor: value['boxes']"
        )

    def named(self, name: str) -> Value:
        """The tensor under another name. ValueError when this is no single tensor."""
        if not self.tensor:
            raise ValueError("name one tensor: value['boxes'].named('input-0')")
        return replace(self, name=name)

    def under(self, key: str) -> Value:
        """Under this key where values are combined into an object."""
        return replace(self, key=key)

    @property
    def given(self) -> Value:
        """What the step was given instead of what it answers."""
        return replace(self, side="inputs")

    def written(self) -> str | dict[str, str]:
        """As a manifest has it."""
        source = f"{self.step}.{self.tensor}" if self.tensor else self.step
        more = {"as": self.name, "key": self.key, "side": self.side}
        said = {k: v for k, v in more.items() if v}
        return {"from": source, **said} if said else source


Input: TypeAlias = Value | str


@dataclass(slots=True)
class Pipeline:
    """A pipeline that is being put together."""

    name: str
    namespace: str = "default"
    #: Of the spec, e.g. `timeout="2s"`, `headers=["authorization"]`, `max_revisits=3`.
    spec: dict[str, Any] = field(default_factory=dict)
    _steps: list[dict[str, Any]] = field(default_factory=list, init=False)
    _output: Any = field(default=None, init=False)

    @property
    def request(self) -> Value:
        """What the client sends."""
        return Value("request")

    def step(
        self,
        name: str,
        *,
        model: str | None = None,
        inputs: Input | Sequence[Input] = (),
        triggers: Input | Sequence[Input] = (),
        **more: Any,
    ) -> Value:
        """Add a step. Without a model it calls the service of its own name. One input needs no list."""
        step: dict[str, Any] = {"name": name}
        if model is not None:
            step["model"] = model
        if inputs:
            step["inputs"] = [_written(i) for i in _listed(inputs)]
        if triggers:
            step["triggers"] = [_written(t) for t in _listed(triggers)]
        step.update({_camel(k): v for k, v in more.items() if v is not None})
        self._steps.append(step)
        return Value(name)

    def join(self, name: str, inputs: Input | Sequence[Input], **more: Any) -> Value:
        """A step that only puts its inputs together (`join="outer"`, `combine="object"`)."""
        return self.step(name, inputs=inputs, join_only=True, **more)

    def switch(
        self, name: str, cases: dict[str, str], *, otherwise: str | None = None, **more: Any
    ) -> Value:
        """The step of the first GJSON path that exists runs: `{"inputs.#(name==x)": "step-x"}`."""
        listed: list[dict[str, str]] = [{"when": w, "step": s} for w, s in cases.items()]
        if otherwise is not None:
            listed.append({"step": otherwise})
        return self.step(name, switch=listed, **more)

    def split(self, name: str, shares: dict[str, float], **more: Any) -> Value:
        """One of the steps runs, by weights in percent."""
        return self.step(name, split=[{"step": s, "weight": w} for s, w in shares.items()], **more)

    def answer(
        self,
        *values: Input,
        join: str | None = None,
        combine: str | None = None,
        window: str | None = None,
    ) -> None:
        """What the client gets."""
        listed = [_written(v) for v in values]
        said = {"join": join, "combine": combine, "window": window}
        more = {k: v for k, v in said.items() if v is not None}
        self._output = {"from": listed, **more} if more else listed

    def listens_to(self, *values: Input, **more: Any) -> None:
        """Run beside other pipelines' requests, too: `PIPELINE[/STEP][.TENSOR]` (`join="outer"`)."""
        listed = [_written(v) for v in values]
        self.spec["listens_to"] = {"from": listed, **{_camel(k): v for k, v in more.items()}}

    def manifest(self) -> dict[str, Any]:
        """The checked manifest. Raises InvalidManifest with every problem and its path."""
        made = self._manifest()
        self._graph(made)
        return made

    def graph(self) -> Graph:
        """The domain's graph. Raises InvalidManifest."""
        return self._graph(self._manifest())

    def yaml(self) -> str:
        """The manifest as YAML. Raises InvalidManifest."""
        return yaml.safe_dump(self.manifest(), sort_keys=False)

    def write(self, path: str | Path) -> None:
        """Write the manifest to a file. Raises InvalidManifest."""
        Path(path).write_text(self.yaml())

    def draw(self) -> str:
        """The picture, as text. Raises InvalidManifest."""
        from penstock.graphs import drawing
        from penstock.graphs.layout import layout

        graph = self.graph()
        return drawing.draw(layout(graph.flows[0], title=self.name, external=graph.external))

    def svg(self) -> str:
        """The picture, as SVG; a notebook shows it by itself. Raises InvalidManifest."""
        from penstock.graphs import svg
        from penstock.graphs.layout import layout

        graph = self.graph()
        return svg.draw([layout(graph.flows[0], title=self.name, external=graph.external)])

    def _repr_svg_(self) -> str:
        return self.svg()

    def _manifest(self) -> dict[str, Any]:
        spec: dict[str, Any] = {
            **{_camel(k): v for k, v in self.spec.items()},
            "steps": self._steps,
        }
        if self._output is not None:
            spec["output"] = self._output
        return {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }

    def _graph(self, manifest: dict[str, Any]) -> Graph:
        from penstock import dialects

        found: Graph = dialects.translate(manifest).object
        return found


def _listed(given: Input | Sequence[Input]) -> Sequence[Input]:
    return [given] if isinstance(given, Value | str) else given


def _written(value: Input) -> Any:
    return value.written() if isinstance(value, Value) else value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(w.capitalize() for w in rest)
