"""What a user's transformer extends: code before and after a predictor that runs elsewhere.

    class Scale(penstock.Transformer):
        def preprocess(self, payload, headers=None):
            return {"instances": [[v / 16 for v in row] for row in payload["instances"]]}

Between the two the request goes to the predictor of the same service. Whatever `preprocess` returns decides
how: V1's dict as V1, an `InferRequest`, arrays or a data frame as V2 with binary tensors. `postprocess` gets
the predictor's answer, a dict or an `InferResponse`.
"""

from __future__ import annotations

from typing import Any

from penstock.sdk.model import Model
from penstock.sdk.predictor import Predictor


class Transformer(Model):
    """Every method may be `async def`. `predict` may be overridden: to ask twice, or not at all."""

    #: The predictor behind it: `await self.predictor(payload)`, or `self.predictor.ask(payload)` in code
    #: that is not async. Set before `__init__` runs.
    predictor: Predictor
    #: KServe's name for where it is, for code that prints it.
    predictor_host: str = ""

    async def predict(self, payload: Any, headers: Any = None) -> Any:
        """The predictor's answer to what `preprocess` returned."""
        return await self.predictor(payload, headers)
