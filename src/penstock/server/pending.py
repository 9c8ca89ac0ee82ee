"""One request in front of a model: what it may share a call with, and how it gets its rows of the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.errors import InvalidInput, PenstockError
from penstock.runtimes.base import Arrays
from penstock.server.execution import Outputs

if TYPE_CHECKING:
    from penstock.server.batching import Batcher

log = logging.getLogger(__name__)

#: Takes the request's outputs, or the error that is its answer. Called once, in the loop, and must not raise.
Done: TypeAlias = Callable[[Outputs | None, PenstockError | None], None]


class Pending:
    """One request from `submit` until it is answered, cancelled or out of time."""

    __slots__ = (
        "arrays",
        "arrived",
        "batcher",
        "deadline",
        "done",
        "nbytes",
        "parameters",
        "queued",
        "rows",
    )

    def __init__(
        self,
        batcher: Batcher,
        arrays: Arrays,
        parameters: Mapping[str, Any],
        rows: int,
        nbytes: int,
        done: Done,
        arrived: float,
        deadline: float,
    ) -> None:
        self.batcher = batcher
        self.arrays = arrays
        self.parameters = parameters
        self.rows = rows
        self.nbytes = nbytes
        #: True while it waits, False once it is a member of a call.
        self.queued = True
        #: None once the request needs no answer any more.
        self.done: Done | None = done
        #: `perf_counter` seconds.
        self.arrived = arrived
        self.deadline = deadline

    def cancel(self) -> None:
        """Nobody waits for the answer any more: `done` will not be called. The batch stays whole."""
        if self.done is not None:
            self.done = None
            self.batcher.forget(self)


def describe(arrays: Arrays, parameters: Mapping[str, Any]) -> tuple[int, Hashable]:
    """Rows and the key of what may share a call; rows -1 and no key (None) when it must run alone."""
    rows = -1
    first = ""
    columns: list[tuple[str, Any, tuple[int, ...]]] = []
    for name, array in arrays.items():
        shape = array.shape
        if not shape:
            return -1, None
        if rows < 0:
            rows, first = shape[0], name
        elif shape[0] != rows:
            raise InvalidInput(
                f"Inputs differ in their number of rows: {first!r} has {rows}, {name!r} has {shape[0]}."
            )
        columns.append((name, array.dtype, shape[1:]))
    if not columns:
        return -1, None
    # Inputs are named, so their order does not matter to the model, nor to who may share a call.
    columns.sort(key=_name)
    if not parameters:
        return rows, columns[0] if len(columns) == 1 else tuple(columns)
    key = (tuple(columns), *sorted(parameters.items()))
    try:
        hash(key)
    except TypeError:
        return rows, None
    return rows, key


def _name(column: tuple[str, Any, tuple[int, ...]]) -> str:
    return column[0]


def share_out(members: list[Pending], outputs: Outputs) -> None:
    """Each member's rows, as views."""
    start = 0
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        for pending in members:
            end = start + pending.rows
            if pending.done is not None:
                answer(pending, {name: array[start:end]}, None)
            start = end
        return
    for pending in members:
        end = start + pending.rows
        if pending.done is not None:
            rows: Outputs = {n: a[start:end] for n, a in outputs.items()}
            answer(pending, rows, None)
        start = end


def answer(pending: Pending, outputs: Outputs | None, error: PenstockError | None) -> None:
    done = pending.done
    pending.done = None
    if done is None:
        return
    try:
        done(outputs, error)
    except Exception:
        # One caller's fault must not cost the others of its batch their answers.
        log.exception("a request's answer could not be handed over")
