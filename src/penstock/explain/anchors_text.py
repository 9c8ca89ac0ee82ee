"""Anchors for texts: the words that decide, whatever stands in the places of the others.

Words are found by `tokens`, so no language model is needed. A row from D(z | A) keeps the
words of A and changes each other one with probability `sample_prob`: to a mask (`use_unk`), or to a word
that is similar to it, chosen in proportion to its similarity (section "Anchors for text" of the paper, whose
perturbation uses embeddings the same way).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.anchors import Conditions, Settings, search
from penstock.explain.anchors_tabular import report
from penstock.explain.base import Array, Ask, Bools, Explainer, Explanation
from penstock.explain.labels import Labelled, class_name, plain
from penstock.explain.tokens import spans_of
from penstock.explain.words import Similar

#: Words of a text that are looked at; each is a condition, and the search is quadratic in them.
MAX_WORDS: Final = 500
#: Characters of a text, with all that stands between its words: thousands of texts like it are asked for.
MAX_CHARACTERS: Final = 100_000
#: Bytes of changed texts that exist at a time.
_CHUNK_BYTES: Final = 16 * 1024 * 1024
#: For a word in a drawn row: it stays. Other numbers are of what may stand in its place.
_KEPT: Final = -1


@dataclass(slots=True)
class TextSpace:
    """The words of one text; a row is a number per word, a text only when it is asked for."""

    #: What stands before each word, and after the last: one more than words.
    gaps: Sequence[str]
    words: Sequence[str]
    random: np.random.Generator
    sample_prob: float
    #: What may stand in each word's place, and how probably; nothing: the word stays.
    choices: Sequence[tuple[Sequence[str], Array]]
    held: Bools

    def draw(self, anchors: Sequence[Conditions], counts: Sequence[int]) -> Array:
        kept = self.random.random((int(np.sum(counts)), len(self.words))) >= self.sample_prob
        start = 0
        for anchor, count in zip(anchors, counts, strict=True):
            kept[start : start + count, list(anchor)] = True
            start += count
        picks = np.full(kept.shape, _KEPT, dtype=np.int32)
        for i, (others, weights) in enumerate(self.choices):
            lost = np.flatnonzero(~kept[:, i])
            if len(others) == 1:
                picks[lost, i] = 0
            elif others:
                picks[lost, i] = self.random.choice(len(others), len(lost), p=weights)
        return picks

    def texts(self, picks: Array) -> Array:
        """A text per row of `picks`, which says for each word what stands in its place."""
        columns: list[list[str]] = []
        for i, word in enumerate(self.words):
            others, _ = self.choices[i]
            # The word itself is the last, which is where _KEPT points.
            parts = [self.gaps[i] + other for other in (*others, word)]
            columns.append([parts[pick] for pick in picks[:, i].tolist()])
        out = np.empty(len(picks), dtype=object)
        last = self.gaps[-1]
        out[:] = ["".join(parts) + last for parts in zip(*columns, strict=True)]
        return out

    def implied(self, anchor: Conditions, condition: int) -> bool:
        return False

    def holds(self, rows: Array) -> Bools:
        return np.asarray(rows == _KEPT)


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

    def _text(self, instance: Array) -> str:
        """The text of an instance. InvalidInput when there is none, or several."""
        given = np.asarray(instance, dtype=object).reshape(-1)
        if len(given) != 1:
            raise InvalidInput(f"an instance is one text; this one has {len(given)} values")
        text = given[0]
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError:
                raise InvalidInput(
                    "an instance is a text in UTF-8; this one is other bytes"
                ) from None
        if not isinstance(text, str):
            raise InvalidInput(f"an instance is a text; this one is a {type(text).__name__}")
        return text

    def check(self, instance: Array, ask: Ask) -> None:
        text = self._text(instance)
        self._spans(text)
        Labelled(ask, self.output).labels(_row(text))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where the words of `text` are. InvalidInput where it has none, or too many."""
        if len(text) > MAX_CHARACTERS:
            raise InvalidInput(
                f"the text has {len(text)} characters; {MAX_CHARACTERS} can be explained"
            )
        spans = spans_of(text)
        if not spans:
            raise InvalidInput("the text has no words to explain")
        if len(spans) > MAX_WORDS:
            raise InvalidInput(f"the text has {len(spans)} words; {MAX_WORDS} can be explained")
        return spans

    def space(self, text: str) -> TextSpace:
        """The words of `text`, and what may be in their places."""
        spans = self._spans(text)
        words = [text[a:b] for a, b in spans]
        ends = [0, *(b for _, b in spans)]
        starts = [*(a for a, _ in spans), len(text)]
        gaps = [text[e:s] for e, s in zip(ends, starts, strict=True)]
        if self.use_unk or self.similar is None:
            choices: list[tuple[Sequence[str], Array]] = [((self.mask,), np.ones(1))] * len(words)
        else:
            choices = [self.similar.to(word) for word in words]
        random = np.random.default_rng(self.settings.seed)
        held = random.random((len(words), self.settings.coverage_samples)) >= self.sample_prob
        return TextSpace(gaps, words, random, self.sample_prob, choices, held)

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        text = self._text(instance)
        space = self.space(text)
        model = Labelled(ask, self.output)
        label = model.labels(_row(text))[0]
        size = len(text.encode("utf-8", "surrogatepass"))
        chunk = max(1, _CHUNK_BYTES // size)

        def same(picks: Array) -> Bools:
            parts = (picks[i : i + chunk] for i in range(0, len(picks), chunk))
            return np.concatenate([model.same(space.texts(part), label) for part in parts])

        anchor = search(space, same, self.settings.within(size))
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
                "prediction_name": class_name(label, self.classes),
                "instance": text,
            },
            self.params,
        )


def _row(text: str) -> Array:
    row = np.empty(1, dtype=object)
    row[0] = text
    return row
