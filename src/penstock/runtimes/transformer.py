"""A user's class around a predictor (framework `transformer`): transformers, and explainers of one's own.

As `custom`, with two differences: the class finds its predictor (`self.predictor`), and a class that has no
`predict` of its own gets one that asks it. So a class with nothing but `preprocess` will do, whether it
extends `penstock.Transformer`, KServe's or KFServing's `Model`, or nothing.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from penstock.errors import LoadError
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes.base import (
    CallContext,
    Framework,
    LoadOptions,
    PayloadRuntime,
    RawReply,
    RawRequest,
    ResponseStream,
    StreamReply,
)
from penstock.runtimes.class_calls import ClassPayloadRuntime
from penstock.runtimes.kserve_classes import PACKAGES, asking
from penstock.runtimes.user_model import UserModel, definer, instantiate, load_here
from penstock.sdk import passing
from penstock.sdk.discovery import find_class
from penstock.sdk.explainer import Explainer
from penstock.sdk.predictor import Predictor
from penstock.sdk.transformer import Transformer

PLATFORM: Final = "python_transformer"
_METHODS: Final = ("predict", "preprocess", "postprocess", "explain")
#: Whose `predict` is none of the user's own.
_BASES: Final = PACKAGES | {"penstock", ""}


class TransformerRuntime(ClassPayloadRuntime):
    """The user's class with its predictor's connections."""

    platform = PLATFORM

    def __init__(self, model: UserModel, predictor: Predictor) -> None:
        super().__init__(model)
        self._predictor = predictor
        if model.explain is not None:
            self.about = {"explainer": model.class_name, "methods": ["explain"]}

    async def start(self) -> None:
        self._predictor.open()
        await super().start()

    async def call(
        self, payload: dict[str, Any] | bytes | InferRequest | RawRequest, context: CallContext
    ) -> InferResponse | RawReply | StreamReply | ResponseStream:
        wanted = passing.told(context.headers)
        if not wanted:
            return await super().call(payload, context)
        passage = passing.Passage(wanted)
        run = passage.along(context.run or self._in_thread)
        with passage.entered():
            reply = await super().call(payload, replace(context, run=run))
        if passage.answered:
            context.response_headers[passing.ANSWERED] = passage.answered
        return reply

    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            self._predictor.close()


def load(path: Path, options: LoadOptions) -> PayloadRuntime:
    """The class at `path`. Options: `class` says which; the others go to its `__init__`. LoadError."""
    wanted = dict(options.options)
    class_name = wanted.pop("class", None)
    if class_name is not None and not isinstance(class_name, str):
        raise LoadError("the option class is a text: Class, module:Class or file.py:Class")
    cls, folder = find_class(path, class_name, methods=_METHODS)
    if issubclass(cls, Explainer) and cls.explain is Explainer.explain:
        raise LoadError(f"{cls.__name__} has no explain of its own")
    predictor = Predictor(
        options.predictor, options.name, timeout_s=options.timeout_s, local=options.local
    )
    attributes = {"predictor": predictor, "predictor_host": predictor.host}
    instance = instantiate(asking(cls, predictor), options.name, folder, wanted, attributes)
    _connect(instance, predictor)
    model = UserModel(instance, options.name, folder, wanted)
    runtime = TransformerRuntime(model, predictor)
    if not inspect.iscoroutinefunction(getattr(instance, "load", None)):
        load_here(model)
    return runtime


def _connect(instance: Any, predictor: Predictor) -> None:
    """Gives an instance of a class that knows nothing of ours its predictor."""
    cls = type(instance)
    if issubclass(cls, Transformer):
        return
    for name, value in (("predictor", predictor), ("predictor_host", predictor.host)):
        if not getattr(instance, name, None):
            try:
                setattr(instance, name, value)
            except AttributeError:  # slots: then it has to take it in __init__
                pass
    if _own_predict(cls):
        return

    async def predict(payload: Any, headers: Any = None) -> Any:
        return await predictor(payload, headers)

    try:
        instance.predict = predict
    except AttributeError:
        raise LoadError(f"{cls.__name__} has no predict and takes none: it has __slots__") from None


def _own_predict(cls: type) -> bool:
    """Whether `predict` is the user's, not that of a class it extends."""
    return definer(cls, "predict").partition(".")[0] not in _BASES


framework = Framework(
    name="transformer",
    extra="",
    preload=(),
    load=load,
    formats=("transformer",),
)
