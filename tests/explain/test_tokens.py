"""Where words are, in scripts with and without spaces."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.explain.anchors import Settings
from penstock.explain.anchors_text import AnchorText
from penstock.explain.tokens import spans_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  It's\tgreat, isn’t it?! ", ["It's", "great", "isn’t", "it"]),
        ("12.5 a_b", ["12", "5", "a_b"]),
        ("यह हिन्दी अच्छी है", ["यह", "हिन्दी", "अच्छी", "है"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("酒店很好 good", ["酒", "店", "很", "好", "good"]),
        ("このホテルは最高", ["この", "ホテル", "は", "最", "高"]),
        ("서울 호텔", ["서울", "호텔"]),
        ("nice 😀❤\ufe0f day", ["nice", "😀", "❤\ufe0f", "day"]),
        ("... !", []),
    ],
)
def test_words_of(text: str, words: list[str]) -> None:
    assert [text[a:b] for a, b in spans_of(text)] == words


def test_a_chinese_text_is_explained_by_its_character() -> None:
    text = np.empty((), dtype=object)
    text[()] = "這家酒店很好"
    found = AnchorText().explain(text, lambda t: np.array([int("好" in v) for v in t]))
    assert found.data["anchor"] == ["好"]
    assert found.data["positions"] == [5]


def test_long_gaps_do_not_fill_the_memory() -> None:
    """Two words and 90,000 signs: thousands of texts like it never exist at a time."""
    text = np.empty((), dtype=object)
    text[()] = "good" + "." * 90_000 + "word"
    largest = 0

    def spy(texts: np.ndarray) -> np.ndarray:
        nonlocal largest
        largest = max(largest, sum(map(len, texts)))
        return np.array([int(v.startswith("good")) for v in texts])

    found = AnchorText(Settings(max_samples=4000)).explain(text, spy)
    assert found.data["anchor"] == ["good"]
    assert largest < 32 * 1024 * 1024
