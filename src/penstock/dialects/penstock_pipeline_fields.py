"""The fields of Penstock's Pipeline, penstock.dev/v1alpha1, with the short ways to write them.

An input is a text or a map, one of several may stand without its list: what is short is made whole before it
is validated, so `penstock_pipeline` reads one form.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from penstock.dialects.bandit_fields import BanditFields
from penstock.dialects.metadata import ObjectMeta
from penstock.dialects.schema import Spec

Seconds = str | float | int
JoinName = Literal["inner", "outer", "any"]
CombineName = Literal["merge", "first", "last", "list", "object"]


def _listed(given: Any) -> Any:
    return given if given is None or isinstance(given, list) else [given]


class TensorFields(Spec):
    name: Annotated[str, Field(min_length=1)]
    datatype: str | None = None
    shape: list[Annotated[int, Field(ge=-1)]] | None = None


class InputFields(Spec):
    """`from` with what else there is to say; a text is its `from`."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"from": given} if isinstance(given, str) else given

    from_: Annotated[str, Field(alias="from")]
    #: The tensor's new name.
    as_: Annotated[str | None, Field(alias="as")] = None
    #: Its key where values are combined into an object.
    key: str | None = None
    #: What the step was given instead of what it answered.
    side: Literal["inputs", "outputs"] | None = None


class WhenFields(Spec):
    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given

    #: GJSON path that has to exist.
    path: str
    #: Whose answer is looked at; the request, or the step's first input without it.
    step: str | None = None
    #: The path may not exist.
    negate: bool | None = None


class CaseFields(Spec):
    #: GJSON path on the chooser's input; without it the case always holds.
    when: str | None = None
    step: str


class ShareFields(Spec):
    step: str
    weight: Annotated[float, Field(ge=0, le=100)]


class RouterFields(Spec):
    """The service's answer is the number of a step in `steps`; -1 all of them, -2 none."""

    model: str
    steps: Annotated[list[str], Field(min_length=1)]


class BatchFields(Spec):
    size: Annotated[int, Field(ge=1)]
    window: Seconds | None = None


class StepFields(Spec):
    name: Annotated[str, Field(min_length=1)]
    #: What it does; one of these at most. Without any it calls the service of its own name.
    model: str | None = None
    url: str | None = None
    pipeline: str | None = None
    switch: Annotated[list[CaseFields], Field(min_length=1)] | None = None
    split: Annotated[list[ShareFields], Field(min_length=1)] | None = None
    #: Rewards say which branch of `split` is taken.
    bandit: BanditFields | None = None
    router: RouterFields | None = None
    builtin: Literal["average", "simple-model"] | None = None
    #: It only hands its input on.
    join_only: bool | None = None
    namespace: str | None = None
    #: The model's name on the wire, where it is not the service's.
    model_name: str | None = None
    revision: str | None = None
    verb: Literal["predict", "explain"] | None = None
    protocol: Literal["v1", "v2"] | None = None
    inputs: list[InputFields] | None = None
    join: JoinName | None = None
    window: Seconds | None = None
    combine: CombineName | None = None
    triggers: list[InputFields] | None = None
    triggers_join: JoinName | None = None
    when: Annotated[list[WhenFields] | None, BeforeValidator(_listed)] = None
    on_failure: Literal["fail", "skip", "answer"] | None = None
    timeout: Seconds | None = None
    batch: BatchFields | None = None
    predictions_as_instances: bool | None = None
    #: Tensors that the model is known to take and to give.
    takes: list[TensorFields] | None = None
    gives: list[TensorFields] | None = None


class OutputFields(Spec):
    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = [given]
        return {"from": given} if isinstance(given, list) else given

    from_: Annotated[list[InputFields], Field(alias="from", min_length=1)]
    join: JoinName | None = None
    window: Seconds | None = None
    combine: CombineName | None = None


class ListenFields(Spec):
    """Values of other pipelines' requests: `PIPELINE[/STEP][.TENSOR]`."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        given = [given] if isinstance(given, str) else given
        return {"from": given} if isinstance(given, list) else given

    from_: Annotated[list[InputFields], Field(alias="from", min_length=1)]
    join: JoinName | None = None
    window: Seconds | None = None
    #: Values that have to be there, too.
    triggers: list[InputFields] | None = None
    triggers_join: JoinName | None = None


class RequestFields(Spec):
    tensors: list[TensorFields]


class PipelineSpec(Spec):
    steps: Annotated[list[StepFields], Field(min_length=1)]
    output: OutputFields | None = None
    #: It runs beside other pipelines' requests, too, on their values.
    listens_to: ListenFields | None = None
    #: Tensors that a request is known to bring.
    request: RequestFields | None = None
    timeout: Seconds | None = None
    #: Request headers that go along to every step: names, or regular expressions.
    headers: list[str] | None = None
    #: Cycles are allowed, and a step may run this often again.
    max_revisits: Annotated[int, Field(ge=0)] | None = None
    #: Calls of one request at a time.
    max_parallel: Annotated[int, Field(ge=1, le=1000)] | None = None


class Pipeline(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: PipelineSpec
    status: dict[str, Any] | None = None
