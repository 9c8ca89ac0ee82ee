"""What a user's own explainer extends: an answer to `:explain`, with a predictor to ask.

    class Occlusion(penstock.Explainer):
        def explain(self, payload, headers=None):
            answers = self.predictor.ask({"instances": variants(payload)})
            return {"importance": compare(answers["predictions"])}

Explainers that need no code are chosen by their type in the manifest.
"""

from __future__ import annotations

from typing import Any

from penstock.sdk.transformer import Transformer


class Explainer(Transformer):
    """Every method may be `async def`. Ask for many rows at once: each question is one request."""

    def explain(self, payload: Any, headers: Any = None) -> Any:
        """Why the model answers `payload` as it does: anything that JSON can carry."""
        raise NotImplementedError(f"{type(self).__name__} has no explain")
