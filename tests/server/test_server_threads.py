"""Threads of the numeric libraries are set without looking for the libraries again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from penstock.runtimes.base import Framework, LoadOptions, Runtime
from penstock.server import threads


def _load(path: object, options: LoadOptions) -> Runtime:
    raise NotImplementedError


def framework(*preload: str) -> Framework:
    return Framework(name="f", extra="", preload=preload, load=_load)  # type: ignore[arg-type]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts looks; puts back what was set."""
    for name in threads.POOL_VARIABLES:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    found: list[int] = []
    made = threads.ThreadpoolController

    def count() -> object:
        found.append(1)
        return made()

    monkeypatch.setattr(threads, "ThreadpoolController", count)
    monkeypatch.setattr(threads, "_loaded", threads._Loaded())
    with threadpool_limits(None):
        yield found


def blas_threads() -> set[int]:
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}


def test_what_a_zygote_has_found_its_children_set(looks: list[int]) -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    threads.find_libraries()
    pools = threads.Pools(2)
    pools.prepare_thread(framework("numpy"))
    pools.prepare_thread(framework("numpy"))
    assert blas_threads() == {2}
    assert len(looks) == 1


def test_a_framework_that_was_not_there_is_looked_for(looks: list[int]) -> None:
    threads.find_libraries()
    threads.Pools(2).prepare_thread(framework("numpy", "a_package_of_later"))
    assert len(looks) == 2


def test_one_thread_is_what_a_zygote_has_set_already(looks: list[int]) -> None:
    threads.Pools(1).prepare_thread(framework("numpy"))
    assert not looks
