"""Batch steps: rows of several requests in one call, each request with its own rows back.

Seldon's batch steps hold a half batch for ever and answer only the request that filled it. Here a batch goes
when it has its rows, or when its first request has waited for the window; answers are cut along the first
axis. Requests whose tensors do not go together (other names, datatypes or row shapes) are in batches of
their own. A request that is cancelled leaves its batch whole; the call itself ends when nobody wants it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import PenstockError
from penstock.graphs.calls import Caller, Context, Done, Outcome, Under
from penstock.graphs.values import Failure, Tensors, Value, tensors_of
from penstock.protocols.classification import LABELS_HEADER

if TYPE_CHECKING:
    import asyncio

    from penstock.domain.graph import Call, CallUrl
    from penstock.graphs.program import CompiledStep


class Batches:
    """Batches that are being filled, of one graph. `caller` is asked for whole batches."""

    def __init__(self, caller: Caller, loop: asyncio.AbstractEventLoop) -> None:
        self.caller = caller
        self.loop = loop
        self.open: dict[tuple[Any, ...], _Batch] = {}

    def call(
        self,
        step: CompiledStep,
        action: Call | CallUrl,
        value: Value,
        context: Context,
        done: Done,
    ) -> Under:
        """Ask for a value as a part of a batch."""
        batch = step.step.batch
        assert batch is not None  # noqa: S101 - only batch steps come here
        try:
            tensors = tensors_of(value)
        except PenstockError:
            return self.caller.call(action, value, context, done)
        rows = {a.shape[0] if a.ndim else -1 for a in tensors.arrays.values()}
        if len(rows) != 1 or -1 in rows or tensors.parameters:
            # No rows to put together, or said in a way that others did not.
            return self.caller.call(action, value, context, done)
        shapes = tuple(
            (n, str(a.dtype), a.shape[1:], tensors.datatypes.get(n, ""))
            for n, a in tensors.arrays.items()
        )
        key = (step.path, shapes, LABELS_HEADER in context.headers)
        gathering = self.open.get(key)
        if gathering is None:
            gathering = self.open[key] = _Batch(self, key, action)
            gathering.timer = self.loop.call_later(batch.window_s, gathering.go)
        member = _Member(gathering, tensors, rows.pop(), context, done)
        gathering.members.append(member)
        gathering.rows += member.rows
        if gathering.rows >= batch.size:
            # Not from within this call: `done` may not be called before it returns.
            gathering.timer.cancel()
            del self.open[key]
            self.loop.call_soon(gathering.go)
        return member


class _Member:
    """One request's part of a batch."""

    __slots__ = ("batch", "context", "done", "over", "rows", "tensors")

    def __init__(
        self, batch: _Batch, tensors: Tensors, rows: int, context: Context, done: Done
    ) -> None:
        self.batch = batch
        self.tensors = tensors
        self.rows = rows
        self.context = context
        self.done = done
        self.over = False

    def answer(self, outcome: Outcome) -> None:
        if not self.over:
            self.over = True
            self.done(outcome)

    def cancel(self) -> None:
        self.over = True
        self.batch.left()


class _Batch:
    __slots__ = ("_key", "_owner", "action", "members", "rows", "timer", "under")

    timer: asyncio.TimerHandle

    def __init__(self, owner: Batches, key: tuple[Any, ...], action: Call | CallUrl) -> None:
        self._owner = owner
        self._key = key
        self.action = action
        self.members: list[_Member] = []
        self.rows = 0
        self.under: Under | None = None

    def left(self) -> None:
        """A member does not want its part any more."""
        if self.under is not None and all(m.over for m in self.members):
            self.under.cancel()

    def go(self) -> None:
        """Ask for what is here."""
        if self._owner.open.get(self._key) is self:
            del self._owner.open[self._key]
        self.members = [m for m in self.members if not m.over]
        if not self.members:
            return
        first = self.members[0].tensors
        context = self.members[0].context
        last = max(m.context.deadline for m in self.members)
        shared = Context(
            context.namespace, last, context.headers, context.request_id, context.depth
        )
        arrays = {
            name: np.concatenate([m.tensors.arrays[name] for m in self.members])
            if len(self.members) > 1
            else array
            for name, array in first.arrays.items()
        }
        batch = Tensors(arrays, first.datatypes, first.id)
        self.under = self._owner.caller.call(self.action, batch, shared, self._answered)

    def _answered(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            for member in self.members:
                member.answer(_own(outcome))
            return
        rows = sum(m.rows for m in self.members)
        try:
            tensors = tensors_of(outcome)
        except PenstockError as exc:
            self._refuse(str(exc))
            return
        if any(not a.ndim or a.shape[0] != rows for a in tensors.arrays.values()):
            self._refuse(f"a batch of {rows} rows was answered with another number of rows")
            return
        at = 0
        for member in self.members:
            part = slice(at, at + member.rows)
            at += member.rows
            member.answer(
                Tensors(
                    {n: a[part] for n, a in tensors.arrays.items()},
                    tensors.datatypes,
                    member.tensors.id,
                    tensors.parameters,
                    tensors.said,
                )
            )

    def _refuse(self, why: str) -> None:
        for member in self.members:
            member.answer(Failure(500, why, reason="ModelError"))


def _own(failure: Failure) -> Failure:
    """A failure that one request may put its step's name on."""
    return Failure(
        failure.status,
        failure.message,
        body=failure.body,
        reason=failure.reason,
        retry_after_s=failure.retry_after_s,
    )
