"""The search for an anchor: a few conditions that, while they hold, keep the model's answer as it is.

M. T. Ribeiro, S. Singh and C. Guestrin, "Anchors: High-Precision Model-Agnostic Explanations", AAAI 2018.
An anchor A is a set of conditions with precision prec(A) = P(model answers the same | A) of at least tau
(eq. 2, and with probability 1 - delta eq. 3), and of those the one with the largest coverage P(A) (eq. 4).
The beam search is their algorithm 2; which candidates stay in the beam is told by `kl_lucb`.

What a condition is, and what a row looks like in which it holds, is a `Space`: `anchors_tabular`,
`anchors_text`, `anchors_images`. Rows drawn for one candidate are not used again for a larger one: that
would be cheaper, but the candidate was chosen because of them, and the bound would not hold any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from penstock.explain.base import Array, Bools
from penstock.explain.kl_lucb import Arms, Toss, exploration, leaders

#: Conditions by number, in growing order.
Conditions: TypeAlias = tuple[int, ...]
#: How far below tau the lower bound of an accepted anchor may be: the bound only meets its mean after
#: endless samples.
_SLACK: Final = 0.05
#: Rows that are drawn and asked for at a time, and their bytes: long texts in numbers are large.
_TOGETHER: Final = 5_000
_TOGETHER_BYTES: Final = 64 * 1024 * 1024
#: Bytes of rows that an explanation asks for in all, unless that would be too few rows to tell anything.
_MOST_BYTES: Final = 2 * 1024**3
_LEAST_ROWS: Final = 1_000


class Space(Protocol):
    """The conditions that hold for one instance, and rows like it in which some of them hold."""

    #: `[conditions, rows]`: in which rows of an unconditional sample each condition holds.
    held: Bools

    def draw(self, anchors: Sequence[Conditions], counts: Sequence[int]) -> Array:
        """Rows from D(z | A), `counts[i]` of them for `anchors[i]`, one after the other."""
        ...

    def implied(self, anchor: Conditions, condition: int) -> bool:
        """Whether `condition` holds wherever `anchor` does, so that it would add nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of an anchor and what may be spent on it."""

    #: tau: of rows in which the anchor holds, this share gets the same answer.
    threshold: float = 0.95
    #: Probability that an anchor is accepted whose precision is below the threshold less 0.05.
    delta: float = 0.1
    #: How exactly the best candidates are told from the rest.
    epsilon: float = 0.15
    beam: int = 4
    #: Rows per candidate and round; of a first look at many candidates, fewer (see `first`).
    batch: int = 100
    #: Most conditions in an anchor; None: as many as there are.
    max_size: int | None = None
    #: Rows that the model is asked for in all; then the best that was found is answered.
    max_samples: int = 50_000
    #: Rows that one candidate's precision is told by, at most.
    max_check: int = 5_000
    #: Rows of the first look at each candidate, where there are many.
    first: int = 20
    #: Rows that coverage is measured over, at most.
    coverage_samples: int = 10_000
    #: The first anchor that is found will do, though a larger one may cover more.
    stop_on_first: bool = False
    seed: int = 0

    def within(self, row_bytes: int) -> Settings:
        """The same for rows of so many bytes: with large ones, no more than can be sent in a while."""
        affordable = max(_LEAST_ROWS, _MOST_BYTES // max(1, row_bytes))
        if affordable >= self.max_samples:
            return self
        # A batch is a small part of what there is, or the first decisions would take it all.
        batch = min(self.batch, max(10, affordable // 50))
        return replace(self, max_samples=affordable, batch=batch)

    @property
    def reported(self) -> Mapping[str, Any]:
        return {
            "threshold": self.threshold, "delta": self.delta, "epsilon": self.epsilon,
            "beam_size": self.beam, "batch_size": self.batch, "seed": self.seed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Anchor:
    """The best that was found."""

    conditions: Conditions
    #: Share of drawn rows that kept their answer, and the lower end of its interval.
    precision: float
    precision_low: float
    #: Share of unconditional rows in which the conditions hold.
    coverage: float
    #: Whether the threshold was reached with the confidence asked for.
    met: bool
    #: Rows the precision rests on.
    samples: int


@dataclass(slots=True)
class _Search:
    space: Space
    same: Callable[[Array], Bools]
    settings: Settings
    #: Rows that are drawn at a time.
    together: int
    spent: int = 0
    best: Anchor | None = None
    closest: Anchor | None = None
    #: Candidates that were turned down: in a larger one with the same rows nothing would be new.
    seen: set[Conditions] = field(default_factory=set)

    def coverage(self, conditions: Conditions) -> float:
        if not conditions:
            return 1.0
        return float(np.mean(np.all(self.space.held[list(conditions)], axis=0)))

    def candidates(self, beam: Sequence[Conditions]) -> list[Conditions]:
        """Every extension of the beam by one condition that could still be the best."""
        floor = -1.0 if self.best is None else self.best.coverage
        found: dict[Conditions, None] = {}
        for base in beam:
            for new in range(len(self.space.held)):
                if new in base or self.space.implied(base, new):
                    continue
                found[tuple(sorted((*base, new)))] = None
        return [c for c in found if c not in self.seen and self.coverage(c) > floor]

    def toss(self, candidates: Sequence[Conditions]) -> Toss:
        def toss(which: Sequence[int], counts: Sequence[int]) -> list[int]:
            heads = [0] * len(which)
            pieces = [
                (place, min(self.together, n - start))
                for place, n in enumerate(counts)
                for start in range(0, n, self.together)
            ]
            for group in _groups(pieces, self.together):
                rows = self.space.draw(
                    [candidates[which[i]] for i, _ in group], [n for _, n in group]
                )
                same = self.same(rows)
                self.spent += len(rows)
                at = 0
                for place, n in group:
                    heads[place] += int(np.count_nonzero(same[at : at + n]))
                    at += n
            return heads

        return toss

    @property
    def found(self) -> bool:
        return self.best is not None

    @property
    def exhausted(self) -> bool:
        return self.spent >= self.settings.max_samples

    def level(self, candidates: Sequence[Conditions]) -> list[Conditions]:
        """Chooses the beam among `candidates` and checks each of it."""
        s = self.settings
        arms = Arms.fresh(len(candidates))
        toss = self.toss(candidates)
        first = s.batch if len(candidates) * s.batch <= 2000 else s.first
        first = max(4, min(first, (s.max_samples - self.spent) // len(candidates)))
        # A choice among candidates that are nearly alike matters little: it gets a small part.
        arms.toss(toss, range(len(candidates)), first)
        chosen = leaders(
            arms, toss, wanted=s.beam, epsilon=s.epsilon, delta=s.delta,
            batch=s.batch, max_tosses=s.max_samples // 20,
        )  # fmt: skip
        self.check(candidates, list(chosen.arms), arms, toss)
        self.seen.update(candidates)
        return [candidates[i] for i in chosen.arms]

    def check(
        self, candidates: Sequence[Conditions], which: list[int], arms: Arms, toss: Toss
    ) -> None:
        """Draws until each of `which` is above or below the threshold for sure, then keeps the best."""
        s = self.settings
        for t in count(1):
            beta = exploration(len(candidates), t, s.delta)
            means, low, high = arms.means, arms.lower(beta), arms.upper(beta)
            open_ = [
                i
                for i in which
                if arms.tosses[i] < s.max_check
                and (
                    (means[i] >= s.threshold and low[i] < s.threshold - _SLACK)
                    or (means[i] < s.threshold and high[i] >= s.threshold)
                )
            ]
            if not open_ or self.exhausted:
                break
            arms.toss(toss, open_, s.batch)
        for i in which:
            found = Anchor(
                candidates[i],
                float(means[i]),
                float(low[i]),
                self.coverage(candidates[i]),
                bool(means[i] >= s.threshold and low[i] >= s.threshold - _SLACK),
                int(arms.tosses[i]),
            )
            if found.met and (self.best is None or found.coverage > self.best.coverage):
                self.best = found
            if self.closest is None or found.precision_low > self.closest.precision_low:
                self.closest = found

    def run(self) -> Anchor:
        nothing: list[Conditions] = [()]
        self.level(nothing)
        if self.best:
            return self.best  # whatever is changed, the answer stays
        conditions = len(self.space.held)
        size = min(conditions, self.settings.max_size or conditions)
        beam = nothing
        for _ in range(size):
            candidates = self.candidates(beam)
            if not candidates or self.exhausted:
                break
            beam = self.level(candidates)
            if self.settings.stop_on_first and self.found:
                break
        if self.best is not None:
            return self.best
        assert self.closest is not None  # noqa: S101 the empty anchor was checked
        return self.measured(self.closest)

    def measured(self, found: Anchor) -> Anchor:
        """The same, told by rows of its own: the closest of many was lucky with those it was chosen by."""
        s = self.settings
        rows = min(10 * s.batch, s.max_samples - self.spent)
        if rows < s.batch:
            return found  # nothing is left
        arms = Arms.fresh(1)
        arms.toss(self.toss([found.conditions]), [0], rows)
        low = arms.lower(exploration(1, 1, s.delta))
        return replace(
            found, precision=float(arms.means[0]), precision_low=float(low[0]), samples=rows
        )


def _groups(pieces: Sequence[tuple[int, int]], together: int) -> list[list[tuple[int, int]]]:
    """Neighbours among `pieces` (a place, its rows), as many in one as make no more than `together` rows."""
    groups: list[list[tuple[int, int]]] = []
    total = together
    for piece in pieces:
        if total + piece[1] > together:
            groups.append([])
            total = 0
        groups[-1].append(piece)
        total += piece[1]
    return groups


def search(
    space: Space, same: Callable[[Array], Bools], settings: Settings, *, row_bytes: int = 1
) -> Anchor:
    """The anchor of an instance; `same` says of rows whether the model answers as for the instance.

    Where no anchor reaches the threshold within what may be spent, the one with the highest lower bound,
    with `met` false. `row_bytes` is the size of what `space` draws for a row.
    """
    together = max(1, min(_TOGETHER, _TOGETHER_BYTES // row_bytes))
    return _Search(space, same, settings, together).run()
