"""How much each feature adds to a prediction: Shapley values by weighted least squares, KernelSHAP.

S. Lundberg and S.-I. Lee, "A Unified Approach to Interpreting Model Predictions", NIPS 2017. Theorem 2: the
Shapley values of v(S) = E[f(x_S, X_rest)], X from a background set, are the solution of a regression of v on
coalitions, weighted by (M - 1) / (C(M, |S|) |S| (M - |S|)), under the condition that they add up to
f(x) - E[f(X)] (local accuracy). With few features every coalition is asked for and the values are exact;
with many, sizes are taken from both ends while whole ones can be paid for, and the rest is drawn in
complementary pairs (the paired sampling of Covert and Lee, "Improving KernelSHAP", AISTATS 2021, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import comb
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, ModelError
from penstock.explain.base import Array, Ask, Bools, Explanation, Floats
from penstock.explain.labels import Labelled, to_scores
from penstock.explain.training import TableExplainer, Training

LINKS: Final = ("identity", "logit")
#: Rows of the background; a larger training set is summed up by a sample.
MAX_BACKGROUND: Final = 100
#: Rows in one call of the model.
_CHUNK: Final = 20_000
_CHUNK_BYTES: Final = 16 * 1024 * 1024
#: Features that values are told of, at most; those that the background has like the row do not count.
MAX_FEATURES: Final = 3000
#: Coalitions times features: what the regression holds in memory, several times over.
_MAX_CELLS: Final = 25_000_000


class KernelShap(TableExplainer):
    """Shapley values against a background set `[rows, features]`."""

    kind = "KernelShap"

    def __init__(
        self,
        training: Training,
        *,
        samples: int | None = None,
        background: int = MAX_BACKGROUND,
        link: str = "identity",
        output: str = "auto",
        seed: int = 0,
    ) -> None:
        if link not in LINKS:
            raise InvalidInput(f"link is {link!r}; one of {', '.join(LINKS)} is expected")
        super().__init__(training)
        self.samples = samples
        self.link = link
        self.output = output
        self.seed = seed
        rows = training.rows
        if len(rows) > background:
            random = np.random.default_rng(seed)
            rows = rows[np.sort(random.choice(len(rows), background, replace=False))]
        self.background = rows

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            "link": self.link, "background_rows": len(self.background),
            "nsamples": self.samples or "auto", "seed": self.seed,
        }  # fmt: skip

    def check(self, instance: Array, ask: Ask) -> None:
        row = self.training.check(instance)
        self._varying(row)
        self._link(to_scores(Labelled(ask).raw(row[None]), self.output))

    def _varying(self, row: Floats) -> Array:
        """The features that the background has otherwise. InvalidInput: too many."""
        varying = np.flatnonzero(np.any(self.background != row, axis=0))
        if len(varying) > MAX_FEATURES:
            raise InvalidInput(
                f"the row differs from the background in {len(varying)} features; values of {MAX_FEATURES}"
                " can be told"
            )
        return varying

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        row = self.training.check(instance)
        varying = self._varying(row)
        model = Labelled(ask)
        answers = to_scores(model.raw(np.vstack([row[None], self.background])), self.output)
        own = self._link(answers[:1])[0]
        # What E[f] is made of: the mean is taken before the link, as the link's argument is a probability.
        base = self._link(answers[1:].mean(0, keepdims=True))[0]
        values = np.zeros((self.training.features, len(own)))
        exact = True
        if len(varying) == 1:
            values[varying[0]] = own - base
        elif len(varying) > 1:
            budget = self.samples or 2 * len(varying) + 2048
            budget = min(budget, _MAX_CELLS // len(varying))
            kept, weights, exact = coalitions(
                len(varying), budget, np.random.default_rng(self.seed)
            )
            means = self._means(kept, varying, row, model, len(own))
            values[varying] = solve(kept, weights, self._link(means) - base, own - base)
        return Explanation(
            self.kind,
            {
                # [output][feature], as Alibi and shap have it
                "shap_values": values.T.tolist(),
                "expected_value": base.tolist(),
                "raw_prediction": own.tolist(),
                "feature_names": list(self.training.names),
                "exact": exact,
                "instance": row.tolist(),
                "samples": model.rows,
                "predictor_calls": model.calls,
            },
            self.params,
        )

    def _means(
        self, kept: Bools, varying: Array, row: Floats, model: Labelled, outputs: int
    ) -> Floats:
        """v(S) of each coalition: the mean answer over the background with S's features as in `row`."""
        background = self.background
        rows_at_once = min(_CHUNK, _CHUNK_BYTES // background[0].nbytes)
        per_call = max(1, rows_at_once // len(background))
        means: list[Floats] = []
        for start in range(0, len(kept), per_call):
            part = kept[start : start + per_call]
            rows = np.repeat(background[None], len(part), axis=0)
            rows[:, :, varying] = np.where(
                part[:, None, :], row[varying], background[None][:, :, varying]
            )
            answer = to_scores(model.raw(rows.reshape(-1, rows.shape[2])), "values")
            if answer.shape[1] != outputs:
                raise ModelError(
                    f"the model answered {answer.shape[1]} numbers per row where it was {outputs} before"
                )
            means.append(answer.reshape(len(part), len(background), -1).mean(1))
        return np.concatenate(means)

    def _link(self, values: Floats) -> Floats:
        if self.link == "identity":
            return values
        if not bool(np.all((values >= 0) & (values <= 1))):
            raise InvalidInput(
                "link is logit, but the model answers numbers that are no probabilities"
            )
        clipped = np.clip(values, 1e-7, 1 - 1e-7)
        return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float64)


def coalitions(
    features: int, budget: int, random: np.random.Generator
) -> tuple[Bools, Floats, bool]:
    """Coalitions `[n, features]`, their weights, and whether these are all there are (but none and all)."""
    sizes = np.arange(1, features)
    # The kernel's weight of a whole size, each coalition's weight times how many there are.
    whole = (features - 1) / (sizes * (features - sizes))
    whole = whole / whole.sum()
    chosen: list[Bools] = []
    weights: list[Floats] = []
    left = budget
    open_ = dict(zip(sizes.tolist(), whole.tolist(), strict=True))
    for size in range(1, features // 2 + 1):
        pair = sorted({size, features - size})
        cost = sum(comb(features, s) for s in pair)
        if cost > left:
            break
        for s in pair:
            count = comb(features, s)
            block = np.zeros((count, features), dtype=np.bool_)
            for i, members in enumerate(combinations(range(features), s)):
                block[i, list(members)] = True
            chosen.append(block)
            weights.append(np.full(count, open_.pop(s) / count))
        left -= cost
    if not open_:
        return np.concatenate(chosen), np.concatenate(weights), True
    sampled = max(1, left // 2)
    remaining = np.array(list(open_), dtype=np.int64)
    share = np.array(list(open_.values()))
    drawn = random.choice(remaining, sampled, p=share / share.sum())
    # The first `size` places of a random order are a random coalition of that size.
    ranks = np.argsort(np.argsort(random.random((sampled, features)), axis=1), axis=1)
    block = ranks < drawn[:, None]
    chosen += [block, ~block]
    weights.append(np.full(2 * sampled, share.sum() / (2 * sampled)))
    return np.concatenate(chosen), np.concatenate(weights), False


def solve(kept: Bools, weights: Floats, values: Floats, total: Floats) -> Floats:
    """`[features, outputs]` that fit `values` `[n, outputs]` best and add up to `total`.

    The sum is built in by writing the last feature as what the others leave (section 4.1 of the paper).
    """
    x = kept.astype(np.float64)
    target = values - x[:, -1:] * total
    design = x[:, :-1] - x[:, -1:]
    root = np.sqrt(weights)[:, None]
    first, *_ = np.linalg.lstsq(design * root, target * root, rcond=None)
    if not bool(np.all(np.isfinite(first))):
        raise ModelError("the model's answers are not finite")
    return np.vstack([first, total - first.sum(0)])
