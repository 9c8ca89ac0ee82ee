"""Which of the predictor's revisions a request shall reach, told from the gateway through a component.

A gateway chooses before the transformer (an address of one revision, a rule, a client that stays, a bandit)
and says so in the request's head; it is wanted again when the predictor is asked. The user's code between the
two need not know of it: what a request was told goes along with all that is asked on its behalf, in whichever
thread, and who answered goes back in the answer's head.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

from penstock.domain.headers import ANSWERED, ANY, PREFER, REVISION

_passage: ContextVar[Passage | None] = ContextVar("penstock_passage", default=None)


class Passage:
    """One request through a component."""

    __slots__ = ("_told", "answered", "stays", "wanted")

    def __init__(self, wanted: Mapping[str, str], *, stays: bool = False) -> None:
        #: All questions shall go to the revision that answers the first.
        self.stays = stays
        self._told = dict(wanted)
        #: Fields for the predictor's gateway.
        self.wanted: dict[str, str] = {}
        #: The revision that answered last.
        self.answered = ""
        self.anew()

    def heard(self, revision: str) -> None:
        """The predictor answered."""
        self.answered = revision
        if self.stays and revision and self.wanted.get(PREFER) == ANY:
            self.wanted[PREFER] = revision

    def anew(self) -> None:
        """Ask as if nothing had been answered: the revision that did is gone."""
        self.answered = ""
        self.wanted = dict(self._told) or ({PREFER: ANY} if self.stays else {})

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is asked in here is asked on behalf of this request."""
        token = _passage.set(self)
        try:
            yield
        finally:
            _passage.reset(token)

    def along(
        self, run: Callable[[Callable[[], Any]], Awaitable[Any]]
    ) -> Callable[[Callable[[], Any]], Awaitable[Any]]:
        """`run`, which calls something in a thread, with this request known there."""
        return lambda call: run(partial(copy_context().run, call))


def told(headers: Mapping[str, str]) -> dict[str, str]:
    """What a request's head (names in lower case) says of revisions."""
    if PREFER not in headers and REVISION not in headers:  # nearly always
        return {}
    return {name: headers[name] for name in (REVISION, PREFER) if headers.get(name)}


def current() -> Passage | None:
    """The request on whose behalf this code runs, if it was told anything."""
    return _passage.get()


__all__ = ["ANSWERED", "ANY", "PREFER", "REVISION", "Passage", "current", "told"]
