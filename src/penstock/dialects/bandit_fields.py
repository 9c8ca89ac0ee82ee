"""How a manifest says that a splitter learns: a policy's name, or a block with its settings.

Penstock's own dialect has it as `spec.traffic.bandit` and, in a Pipeline, as `bandit` beside `split`.
Manifests of every other dialect say the same in the annotation `penstock.dev/bandit`, as a name or as JSON or
YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from pydantic import Field, model_validator

from penstock.dialects.scaling_fields import seconds
from penstock.dialects.schema import Spec, path, read
from penstock.domain.assembly import Assembly
from penstock.domain.bandit import MOST_FEATURES, MOST_VALUE, Bandit, PolicyName
from penstock.domain.graph import Graph, Splitter
from penstock.domain.service import Service
from penstock.domain.traffic import Traffic
from penstock.errors import FieldProblem

ANNOTATION: Final = "penstock.dev/bandit"
#: Longest time that ids of rewarded requests are kept.
LONGEST_WINDOW_S: Final = 7 * 86_400.0
#: Characters of the annotation.
_MOST: Final = 4096


class RewardFields(Spec):
    """The range of rewards."""

    min: Annotated[float, Field(ge=-MOST_VALUE, le=MOST_VALUE)] | None = None
    max: Annotated[float, Field(ge=-MOST_VALUE, le=MOST_VALUE)] | None = None


class ContextFields(Spec):
    """Where LinUCB's features are: one of `header` and `tensor`."""

    features: Annotated[int, Field(ge=1, le=MOST_FEATURES)]
    #: A request header with the numbers, commas between them.
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None
    #: An input; the first numbers of its first row.
    tensor: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> ContextFields:
        if (self.header is None) == (self.tensor is None):
            raise ValueError("has to have one of `header` and `tensor`")
        return self


class BanditFields(Spec):
    """A policy and its settings; a text is the policy's name."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"policy": given} if isinstance(given, str) else given

    policy: Literal["epsilon-greedy", "ucb1", "thompson", "thompson-normal", "linucb"]
    #: Epsilon-greedy: the share of requests that any arm may get, 0.1 if not given.
    epsilon: Annotated[float, Field(ge=0, le=1)] | None = None
    #: Epsilon-greedy: the share shrinks, min(1, decay * arms / rewards).
    decay: Annotated[float, Field(gt=0, le=1e9)] | None = None
    #: UCB1 and LinUCB: how wide the confidence bound is, 1 if not given.
    exploration: Annotated[float, Field(ge=0, le=1000)] | None = None
    rewards: RewardFields | None = None
    context: ContextFields | None = None
    #: How long after an answer its reward is taken, 24h if not given.
    window: str | float | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> BanditFields:
        greedy = self.policy == "epsilon-greedy"
        if (self.epsilon is not None or self.decay is not None) and not greedy:
            raise ValueError("has `epsilon` or `decay`, which epsilon-greedy alone has")
        if self.epsilon is not None and self.decay is not None:
            raise ValueError(
                "has `epsilon` and `decay`: one of them says how often any arm is tried"
            )
        if self.exploration is not None and self.policy not in ("ucb1", "linucb"):
            raise ValueError("has `exploration`, which ucb1 and linucb alone have")
        if (self.context is None) == (self.policy == "linucb"):
            raise ValueError("has to have `context` when the policy is linucb, and then only")
        limits = self.rewards or RewardFields()
        least, most = limits.min or 0.0, 1.0 if limits.max is None else limits.max
        if least >= most:
            raise ValueError(f"has rewards from {least:g} to {most:g}; the second has to be more")
        if self.window is not None and not 0 < seconds(self.window) <= LONGEST_WINDOW_S:
            raise ValueError("has a `window` that is not between 0 and 7 days (168h)")
        return self

    def bandit(self) -> Bandit:
        """The domain's word for it."""
        plain = Bandit(PolicyName(self.policy))
        limits = self.rewards or RewardFields()
        context = self.context
        return Bandit(
            plain.policy,
            epsilon=plain.epsilon if self.epsilon is None else self.epsilon,
            decay=self.decay or 0.0,
            exploration=plain.exploration if self.exploration is None else self.exploration,
            least=plain.least if limits.min is None else limits.min,
            most=plain.most if limits.max is None else limits.max,
            features=context.features if context is not None else 0,
            header=(context.header or "").lower() if context is not None else "",
            tensor=(context.tensor or "") if context is not None else "",
            window_s=plain.window_s if self.window is None else seconds(self.window),
            seed=self.seed,
        )


def annotated(manifest: Mapping[str, Any], means: Any) -> tuple[Any, list[FieldProblem]]:
    """What a manifest means, with the bandit that its annotation asks for, and what is wrong with that."""
    meta = manifest.get("metadata")
    notes = meta.get("annotations") if isinstance(meta, Mapping) else None
    text = notes.get(ANNOTATION) if isinstance(notes, Mapping) else None
    if text is None:
        return means, []
    at = ("metadata", "annotations", ANNOTATION)
    fields, problems = _read(text, at)
    if fields is None:
        return means, problems
    try:
        return with_bandit(means, fields.bandit()), []
    except ValueError as exc:
        return means, [FieldProblem(path(at), str(exc))]


def _read(text: Any, at: tuple[str, ...]) -> tuple[BanditFields | None, list[FieldProblem]]:
    try:
        given = yaml.safe_load(text) if len(str(text)) <= _MOST else None
    except (yaml.YAMLError, RecursionError):
        given = None
    if isinstance(given, str):
        given = {"policy": given}
    if not isinstance(given, dict):
        said = 'has to be a policy\'s name, or JSON such as {"policy": "ucb1"}'
        return None, [FieldProblem(path(at), said)]
    fields, problems = read(BanditFields, given)
    return fields, [FieldProblem(f"{path(at)}.{p.path}".rstrip("."), p.message) for p in problems]


def with_bandit(means: Any, bandit: Bandit) -> Any:
    """A service, or every splitter of a graph, with this bandit. ValueError where there can be none."""
    if isinstance(means, Service):
        traffic = replace(means.traffic, bandit=bandit)
        for problem in problems_of(means, traffic):
            raise ValueError(problem)
        return replace(means, traffic=traffic)
    if isinstance(means, Assembly):
        return replace(means, graph=_learning(means.graph, bandit))
    if isinstance(means, Graph):
        return _learning(means, bandit)
    raise ValueError("has no meaning for this kind")


def problems_of(service: Service, traffic: Traffic) -> list[str]:
    """Why a service cannot have a bandit."""
    found = []
    if traffic.sticky is not None and traffic.sticky.header:
        found.append(
            f"cannot keep clients by the hash of {traffic.sticky.header}, which knows nothing of rewards;"
            " with `sticky: {}` a client is told its arm, and keeps it"
        )
    return found


def _learning(graph: Graph, bandit: Bandit) -> Graph:
    flows = []
    count = 0
    for flow in graph.flows:
        steps = []
        for step in flow.steps:
            action = step.action
            if isinstance(action, Splitter) and action.bandit is None:
                arms = [
                    next(
                        (s.name for s in flow.steps for g in s.gates
                         if (g.chooser, g.branch) == (step.name, branch)),
                        str(branch),
                    )
                    for branch in range(len(action.weights))
                ]  # fmt: skip
                if len(set(arms)) != len(arms):
                    arms = [str(i) for i in range(len(arms))]
                action = msgspec.structs.replace(action, bandit=bandit, arms=tuple(arms))
                step = msgspec.structs.replace(step, action=action)
                count += 1
            steps.append(step)
        flows.append(msgspec.structs.replace(flow, steps=tuple(steps)))
    if not count:
        raise ValueError("the graph has no splitter that could learn")
    return msgspec.structs.replace(graph, flows=tuple(flows))
