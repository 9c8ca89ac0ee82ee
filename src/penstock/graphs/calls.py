"""How steps reach services: the one thing that the executor does not do itself.

A `Caller` is the gateway's way of forwarding (`penstock.gateway.graphs.calls`), or a stand-in in a test. It
answers by a plain call, once, never from within `call` itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from penstock.graphs.values import Failure, Value

if TYPE_CHECKING:
    from penstock.domain.graph import Call, CallUrl

#: What a call ends with.
Outcome: TypeAlias = Value | Failure
Done: TypeAlias = Callable[[Outcome], None]


class Context:
    """What all calls of one request share."""

    __slots__ = ("choices", "client", "deadline", "depth", "headers", "namespace", "request_id")

    def __init__(
        self,
        namespace: str,
        deadline: float,
        headers: bytes = b"",
        request_id: str = "",
        depth: int = 0,
    ) -> None:
        self.namespace = namespace
        #: Time of the loop's clock when nobody waits any more.
        self.deadline = deadline
        #: Header lines that go along.
        self.headers = headers
        self.request_id = request_id
        #: How many graphs called each other, as services, until this one.
        self.depth = depth
        #: What bandits chose for this request, in the graphs inside of this one, too; None: nobody asks.
        self.choices: list[Any] | None = None
        #: The client's exchange, where a bandit may look at its head.
        self.client: Any = None

    def chose(self, choice: Any) -> None:
        """A bandit chose for this request (see `penstock.gateway.learning.request_ids`)."""
        if self.choices is None:
            self.choices = []
        self.choices.append(choice)


class Under(Protocol):
    """A call under way."""

    def cancel(self) -> None:
        """Nobody wants the answer any more; `done` is not called. No-op when it is over."""


class Caller(Protocol):
    """Calls services for graphs."""

    def call(self, action: Call | CallUrl, value: Value, context: Context, done: Done) -> Under:
        """Ask; `done` gets the answer's value (status 2xx) or a `Failure`."""
