"""Words that may stand for another one: from a list, or as neighbours in a table of word vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from penstock.errors import LoadError
from penstock.explain.base import Array, Floats

#: Words of a vector file that are read.
_MAX_WORDS: Final = 200_000


class Similar:
    """For each word, others in its place and how probable each is. A word that nobody knows stays."""

    def __init__(
        self,
        listed: Mapping[str, Sequence[str]] | None = None,
        vectors: Mapping[str, Floats] | None = None,
        *,
        top_n: int = 50,
        temperature: float = 0.4,
    ) -> None:
        self._listed = {k.lower(): tuple(v) for k, v in (listed or {}).items()}
        self._top_n = top_n
        self._temperature = temperature
        self._vocabulary: list[str] = list(vectors or {})
        self._index = {w.lower(): i for i, w in enumerate(self._vocabulary)}
        self._matrix: Floats | None = None
        if vectors:
            matrix = np.stack([np.asarray(v, dtype=np.float64) for v in vectors.values()])
            norms = np.linalg.norm(matrix, axis=1, keepdims=True)
            self._matrix = matrix / np.where(norms == 0, 1, norms)

    def to(self, word: str) -> tuple[Sequence[str], Array]:
        """Words for `word`'s place and their probabilities, which sum to 1; none known: two empties."""
        key = word.lower()
        listed = self._listed.get(key)
        if listed:
            return listed, np.full(len(listed), 1 / len(listed))
        at = self._index.get(key)
        if at is None or self._matrix is None:
            return (), np.empty(0)
        near = self._matrix @ self._matrix[at]
        near[at] = -np.inf
        count = min(self._top_n, len(near) - 1)
        if count < 1:
            return (), np.empty(0)
        best = np.argpartition(-near, count - 1)[:count]
        weights = np.exp((near[best] - near[best].max()) / self._temperature)
        return [self._vocabulary[i] for i in best], weights / weights.sum()


def read_similar(folder: Path, *, top_n: int, temperature: float) -> Similar | None:
    """`similar.json` ({word: [words]}) and `vectors.txt` (a word and its numbers a line); None: neither."""
    listed: dict[str, list[str]] = {}
    vectors: dict[str, Floats] = {}
    file = folder / "similar.json"
    if file.is_file():
        try:
            listed = msgspec.json.decode(file.read_bytes(), type=dict[str, list[str]])
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise LoadError(f"similar.json is no object of words to lists of words: {e}") from None
    file = folder / "vectors.txt"
    if file.is_file():
        vectors = _read_vectors(file)
    if not listed and not vectors:
        return None
    return Similar(listed, vectors, top_n=top_n, temperature=temperature)


def _read_vectors(file: Path) -> dict[str, Floats]:
    vectors: dict[str, Floats] = {}
    width = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, *numbers = line.split() if line.strip() else ("",)
            if not word or (number == 1 and len(numbers) == 1):  # word2vec's first line: counts
                continue
            try:
                values = np.array(numbers, dtype=np.float64)
            except ValueError:
                raise LoadError(
                    f"vectors.txt, line {number}: a word and its numbers are expected"
                ) from None
            if not bool(np.all(np.isfinite(values))):
                raise LoadError(f"vectors.txt, line {number}: holds NaN or infinity")
            width = width or len(values)
            if len(values) != width:
                raise LoadError(
                    f"vectors.txt, line {number}: {len(values)} numbers, the first word has {width}"
                )
            vectors[word] = values
            if len(vectors) >= _MAX_WORDS:
                break
    return vectors
