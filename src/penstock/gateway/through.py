"""Requests that reach the predictor through a transformer, where the client stays with one of its revisions.

The predictor's gateway tells the transformer which revision answered, and the transformer's process tells us
(`penstock.sdk.passing`), so that the client can be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.domain.headers import ANSWERED
from penstock.gateway.grpc.forward import GrpcForward
from penstock.gateway.proxy import Forward
from penstock.gateway.sticky import answer_lines

if TYPE_CHECKING:
    from penstock.gateway.table import Service, Target
    from penstock.http.head import ResponseHead

ANSWERED_HEADER: Final = ANSWERED.encode()


class Through:
    """What requests over HTTP and gRPC have in common here."""

    service: Service
    target: Target | None

    def on_response(self, head: ResponseHead, body: Any) -> None:
        answered = head.get(ANSWERED_HEADER)
        if answered is not None and self.target is not None:
            lines = answer_lines(answered.decode("latin-1"), self.service.name)
            self.target = self.target.with_lines(lines)
        super().on_response(head, body)  # type: ignore[misc]


class ThroughForward(Through, Forward):
    """A request over HTTP."""


class ThroughCall(Through, GrpcForward):
    """A gRPC call."""


def equip(service: Service, predictor: Service) -> None:
    """Have a component's answers tell clients where they stay, if the predictor's clients stay somewhere."""
    sticky = predictor.route.sticky
    if sticky is not None and not sticky.header:
        service.forward = ThroughForward
        service.call = ThroughCall


__all__ = ["ANSWERED_HEADER", "Through", "equip"]
