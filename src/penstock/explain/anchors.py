"""The search for an anchor: a few conditions that, while they hold, keep the model's answer as it is.

M. T. Ribeiro, S. Singh and C. Guestrin, "Anchors: High-Precision Model-Agnostic Explanations", AAAI 2018.
An anchor A is a set of conditions with precision prec(A) = P(model answers the same | A) of at least tau
(eq. 2, and with probability 1 - delta eq. 3), and of those the one with the largest coverage P(A) (eq. 4).
The beam search is their algorithm 2; which candidates stay in the beam is told by `kl_lucb`.

What a condition is, and what a row looks like in which it holds, is a `Space`: `anchors_tabular`,
`anchors_text`, `anchors_images`. Rows drawn for one candidate are not used again for a larger one: that
would be cheaper, but the candidate was chosen because of them, and the bound would not hold any more. Where
conditions hold independently of each other (`Independent`), candidates of one size share their first rows
instead: in rows of what they were grown from, each holds by chance in many, and those are rows of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil, log
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np

from penstock.explain.base import Array, Bools
from penstock.explain.kl_lucb import Arms, More, Toss, exploration, leaders

#: Conditions by number, in growing order.
Conditions: TypeAlias = tuple[int, ...]
#: Candidates, and for each what it was grown from, by which condition.
Grown: TypeAlias = Mapping[Conditions, Sequence[tuple[Conditions, int]]]
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


@runtime_checkable
class Independent(Space, Protocol):
    """A space whose conditions hold independently: of rows of D(z | A), those in which c holds are rows of
    D(z | A and c).
    """

    def holds(self, rows: Array) -> Bools:
        """`[rows, conditions]`: which conditions hold in rows that `draw` answered."""
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

    def candidates(self, beam: Sequence[Conditions]) -> Grown:
        """Every extension of the beam by one condition that could still be the best."""
        floor = -1.0 if self.best is None else self.best.coverage
        found: dict[Conditions, list[tuple[Conditions, int]]] = {}
        for base in beam:
            for new in range(len(self.space.held)):
                if new in base or self.space.implied(base, new):
                    continue
                found.setdefault(tuple(sorted((*base, new))), []).append((base, new))
        return {
            c: grown
            for c, grown in found.items()
            if c not in self.seen and self.coverage(c) > floor
        }

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
    def left(self) -> int:
        """Rows that the search may ask for yet; a tenth, or ten batches, are for `measured`."""
        s = self.settings
        return s.max_samples - min(10 * s.batch, s.max_samples // 10) - self.spent

    def more(self, grown: Grown, arms: Arms, toss: Toss, batch: int) -> More:
        """More tosses for some of the candidates: each by itself, or together where that takes fewer rows."""
        candidates = list(grown)
        space = self.space
        extensions: dict[Conditions, list[tuple[int, int]]] = {}
        for arm, candidate in enumerate(candidates):
            for base, new in grown[candidate]:
                extensions.setdefault(base, []).append((arm, new))
        drawn = dict.fromkeys(extensions, 0)

        def more(which: Sequence[int]) -> int:
            each = max(1, self.left // len(which))
            alone = sum(min(each, max(batch, int(arms.tosses[arm]) // 2)) for arm in which)
            bases = sorted(
                {grown[candidates[arm]][0][0] for arm in which if grown[candidates[arm]]}
            )
            if isinstance(space, Independent) and bases:
                rows = ceil(batch / max(float(np.mean(space.held)), 1e-3))
                most = max(1, self.left // len(bases))
                counts = [min(most, max(rows, drawn[base] // 2)) for base in bases]
                if sum(counts) < alone:
                    for base, n in zip(bases, counts, strict=True):
                        drawn[base] += n
                        self.share(space, base, n, extensions[base], arms)
                    return sum(counts)
            return arms.toss(toss, which, batch, most=each)

        return more

    def share(
        self,
        space: Independent,
        base: Conditions,
        count: int,
        extensions: Sequence[tuple[int, int]],
        arms: Arms,
    ) -> None:
        """Draws rows of `base`; each is a toss of every arm whose condition holds in it."""
        which, conditions = (list(part) for part in zip(*extensions, strict=True))
        for start in range(0, count, self.together):
            rows = space.draw([base], [min(self.together, count - start)])
            same = self.same(rows)
            self.spent += len(rows)
            held = space.holds(rows)[:, conditions]
            arms.tosses[which] += held.sum(0)
            arms.heads[which] += held[same].sum(0)

    def level(self, grown: Grown) -> list[Conditions]:
        """Chooses the beam among the candidates and checks each of it."""
        s = self.settings
        candidates = list(grown)
        arms = Arms.fresh(len(candidates))
        toss = self.toss(candidates)
        few = isinstance(self.space, Independent) or len(candidates) * s.batch <= 2000
        first = s.batch if few else min(s.batch, s.first)
        self.more(grown, arms, toss, first)(range(len(candidates)))
        # A choice among candidates that are nearly alike matters little: it gets a small part.
        chosen = leaders(
            arms, self.more(grown, arms, toss, s.batch), wanted=s.beam, epsilon=s.epsilon,
            delta=s.delta, most=max(0, min(s.max_samples // 20, self.left)),
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
            if not open_ or self.left < len(open_):
                break
            arms.toss(toss, open_, s.batch, most=self.left // len(open_))
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
        self.level({(): ()})
        if self.best:
            return self.best  # whatever is changed, the answer stays
        conditions = len(self.space.held)
        size = min(conditions, self.settings.max_size or conditions)
        beam = nothing
        for _ in range(size):
            candidates = self.candidates(beam)
            if not candidates or self.left < self.least(len(candidates)):
                break
            beam = self.level(candidates)
            if self.settings.stop_on_first and self.found:
                break
        if self.best is not None:
            return self.best
        assert self.closest is not None  # noqa: S101 the empty anchor was checked
        return self.measured(self.closest)

    def least(self, candidates: int) -> float:
        """Rows without which no candidate can be accepted, though each kept its answer: KL(1, q) = -log q."""
        low = self.settings.threshold - _SLACK
        beta = exploration(candidates, 1, self.settings.delta)
        return beta / -log(low) if low > 0 else 1.0

    def measured(self, found: Anchor) -> Anchor:
        """The same, told by rows of its own: the closest of many was lucky with those it was chosen by."""
        s = self.settings
        rows = min(10 * s.batch, s.max_samples - self.spent)
        if rows < min(s.batch, s.max_samples // 20):
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
