"""Files of an explainer: as spreadsheets and numpy write them, and as they are broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import LoadError
from penstock.explain.registry import build

ROWS = "a,b\n1,2\n2,3\n4,1\n"


def made(folder: Path, name: str, content: bytes, **config: Any) -> Any:
    (folder / name).write_bytes(content)
    kind = "AnchorText" if config else "AnchorTabular"
    return build(kind, config, folder, lambda: None)


def saved(array: Any, *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def zipped(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert made(tmp_path, "train.csv", b"\xef\xbb\xbf" + ROWS.encode()).training.names == ("a", "b")


def test_an_archive_may_have_the_other_ending(tmp_path: Path) -> None:
    found = made(tmp_path, "train.npy", zipped(X=np.ones((3, 2))))
    assert found.training.rows.shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.csv", b"pr\xe9,b\n1,2\n2,3\n", "UTF-8"),
        ("train.csv", ROWS.replace(",", ";").encode(), "commas"),
        ("train.csv", b"a,a\n1,2\n2,3\n", "two features of the name 'a'"),
        ("train.csv", b'a,b\n1,"' + b"2" * 140_000 + b'"\n', "no CSV"),
        ("train.csv", b"\n", "empty"),
        ("train.npy", b"", "No data left"),
        ("train.npy", saved(np.ones((3, 2)) + 1j), "complex128"),
        ("train.npy", saved(np.array([["a"]])), "numbers are"),
        ("train.npy", saved(np.array([[1, "a"]], dtype=object), pickled=True), "cannot be read"),
        ("train.npy", saved(np.ones((3, 0))), "no columns"),
        ("train.npy", saved(np.ones(3)), "rows and columns"),
        ("train.npz", b"PK\x03\x04junk", "cannot be read"),
        ("train.npz", zipped(), "cannot be read"),
        ("explainer.json", b'{"class_names": ["\xff"]}', "explainer.json"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(LoadError) as caught:
        made(tmp_path, name, content)
    assert said in str(caught.value)


def test_a_category_under_a_number_that_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(ROWS)
    with pytest.raises(LoadError, match="no column"):
        made(tmp_path, "explainer.json", '{"categorical_names": {"²": ["x"]}}'.encode())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("similar.json", b'{"a": ["\xff"]}', "similar.json"),
        ("vectors.txt", b"a 1 2\nb nan 2\n", "line 2"),
        ("vectors.txt", b"a 1 2\nb 1\n", "line 2"),
    ],
)
def test_words_that_cannot_be_read_are_told(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(LoadError, match=said):
        made(tmp_path, name, content, use_unk=False)


def test_a_number_of_samples_may_be_left_to_the_explainer(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(ROWS)
    assert (
        build("KernelShap", {"nsamples": "auto"}, tmp_path, lambda: None).params["nsamples"]
        == "auto"
    )
