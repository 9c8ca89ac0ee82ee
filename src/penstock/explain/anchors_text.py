"""Anchors for texts: the words that decide, whatever stands in the places of the others.

Words are found by a regular expression, so no language model is needed. A row from D(z | A) keeps the
words of A and changes each other one with probability `sample_prob`: to a mask (`use_unk`), or to a word
that is similar to it, chosen in proportion to its similarity (section "Anchors for text" of the paper, whose
perturbation uses embeddings the same way).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.anchors import Conditions, Settings, search
from penstock.explain.anchors_tabular import report
from penstock.explain.base import Array, Ask, Bools, Explainer, Explanation
from penstock.explain.labels import Labelled, plain
from penstock.explain.words import Similar

_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")
_COVERAGE_ROWS: Final = 10_000
#: Words of a text that are looked at; each is a condition, and the search is quadratic in them.
MAX_WORDS: Final = 500


@dataclass(slots=True)
class TextSpace:
    """The words of one text."""

    #: What stands before each word, and after the last: one more than words.
    gaps: Sequence[str]
    words: Sequence[str]
    random: np.random.Generator
    sample_prob: float
    #: What may stand in a word's place and how probably; None: the mask does.
    choices: Sequence[tuple[Sequence[str], Array]] | None
    mask: str
    held: Bools

    def draw(self, anchors: Sequence[Conditions], counts: Sequence[int]) -> Array:
        kept = self.random.random((int(np.sum(counts)), len(self.words))) >= self.sample_prob
        start = 0
        for anchor, count in zip(anchors, counts, strict=True):
            kept[start : start + count, list(anchor)] = True
            start += count
        return self.texts(kept)

    def texts(self, kept: Bools) -> Array:
        """A text per row of `kept`, in which words that are not kept are replaced."""
        gaps, words = self.gaps, self.words
        columns: list[list[str]] = []
        for i, word in enumerate(words):
            column = [gaps[i] + word] * len(kept)
            lost = np.flatnonzero(~kept[:, i])
            if self.choices is None:
                masked = gaps[i] + self.mask
                for row in lost:
                    column[row] = masked
            elif self.choices[i][0]:
                others, weights = self.choices[i]
                picked = self.random.choice(len(others), len(lost), p=weights)
                for row, pick in zip(lost, picked, strict=True):
                    column[row] = gaps[i] + others[pick]
            columns.append(column)
        out = np.empty(len(kept), dtype=object)
        last = gaps[-1]
        out[:] = ["".join(parts) + last for parts in zip(*columns, strict=True)]
        return out

    def implied(self, anchor: Conditions, condition: int) -> bool:
        return False


class AnchorText(Explainer):
    """Anchors of a text classifier."""

    kind = "AnchorText"
    takes = "text"

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        use_unk: bool = True,
        sample_prob: float = 0.5,
        mask: str = "UNK",
        similar: Similar | None = None,
        classes: Sequence[str] = (),
        output: str = "auto",
    ) -> None:
        if not use_unk and similar is None:
            raise InvalidInput(
                "use_unk is false, and there are no similar words to put in.",
                hint="Give similar.json or vectors.txt in the explainer's storageUri.",
            )
        if not 0 < sample_prob < 1:
            raise InvalidInput(f"sample_prob is {sample_prob}; it has to be between 0 and 1")
        self.settings = settings or Settings()
        self.use_unk = use_unk
        self.sample_prob = sample_prob
        self.mask = mask
        self.similar = similar
        self.classes = classes
        self.output = output

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            **self.settings.reported, "use_unk": self.use_unk, "sample_prob": self.sample_prob,
            "output": self.output,
        }  # fmt: skip

    def space(self, text: str) -> TextSpace:
        """The words of `text`. InvalidInput where it has none, or too many."""
        spans = [m.span() for m in _WORD.finditer(text)]
        if not spans:
            raise InvalidInput("the text has no words to explain")
        if len(spans) > MAX_WORDS:
            raise InvalidInput(f"the text has {len(spans)} words; {MAX_WORDS} can be explained")
        words = [text[a:b] for a, b in spans]
        ends = [0, *(b for _, b in spans)]
        starts = [*(a for a, _ in spans), len(text)]
        gaps = [text[e:s] for e, s in zip(ends, starts, strict=True)]
        choices = None
        if not self.use_unk and self.similar is not None:
            choices = [self.similar.to(word) for word in words]
        random = np.random.default_rng(self.settings.seed)
        held = random.random((len(words), _COVERAGE_ROWS)) >= self.sample_prob
        return TextSpace(gaps, words, random, self.sample_prob, choices, self.mask, held)

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        text = plain(np.asarray(instance, dtype=object).reshape(-1)[0]) if np.size(instance) else ""
        if not isinstance(text, str):
            raise InvalidInput(f"an instance is a text; this one is a {type(text).__name__}")
        space = self.space(text)
        model = Labelled(ask, self.output)
        row = np.empty(1, dtype=object)
        row[0] = text
        label = model.labels(row)[0]
        anchor = search(space, lambda drawn: model.same(drawn, label), self.settings)
        name = plain(label)
        if isinstance(name, int) and 0 <= name < len(self.classes):
            name = self.classes[name]
        at = np.cumsum(
            [0] + [len(g) + len(w) for g, w in zip(space.gaps, space.words, strict=False)]
        )
        return Explanation(
            self.kind,
            {
                "anchor": [space.words[i] for i in anchor.conditions],
                "positions": [int(at[i]) + len(space.gaps[i]) for i in anchor.conditions],
                **report(anchor, model),
                "prediction": plain(label),
                "prediction_name": str(name),
                "instance": text,
            },
            self.params,
        )
