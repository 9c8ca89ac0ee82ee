"""A graph's step that calls a service with a bandit: the graph's answer has the id that can be rewarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.gateway.graphs.calls import StepForward
from penstock.gateway.learning.forward import Learned

if TYPE_CHECKING:
    from penstock.gateway.learning.request_ids import Choice
    from penstock.graphs.calls import Context
    from penstock.http.head import ResponseHead


class LearnedStep(Learned, StepForward):
    """A step's call between its start and the end of its answer."""

    def __init__(
        self, gateway: Any, plan: Any, service: Any, request: Any, context: Context, tell: Any
    ) -> None:
        super().__init__(gateway, plan, service, request, context, tell)
        self._context = context
        self.choice: Choice | None = None

    def predicts(self) -> bool:
        """A step has no path that a client wrote."""
        return True

    def on_response(self, head: ResponseHead, body: Any) -> None:
        choice = self.heard(head) if 200 <= head.status < 300 else None
        if choice is not None:
            self._context.chose(choice)
        super().on_response(head, body)
