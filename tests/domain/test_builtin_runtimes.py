"""The catalogue of built-in runtimes and the frameworks that there really are name each other."""

from __future__ import annotations

from penstock import repositories, runtimes
from penstock.domain.builtin_runtimes import ALIASES, BUILT_IN, FRAMEWORKS, REPOSITORIES

#: Models of another framework, which are only imported for in a zygote of their own.
_ZYGOTES = {"skops"}


def test_every_framework_has_a_built_in_runtime_and_no_runtime_lacks_its_framework() -> None:
    assert frozenset(runtimes.names()) - _ZYGOTES == FRAMEWORKS


def test_every_format_is_one_that_its_framework_reads() -> None:
    for runtime in (*BUILT_IN, *ALIASES.values()):
        for format_, framework in runtime.frameworks.items():
            if framework in _KINDS:
                continue  # what runs the models is read in the repository
            assert format_ in runtimes.find(framework).formats, (runtime.name, format_)


_KINDS = {kind for formats in REPOSITORIES.values() for kind in formats}


def test_every_kind_of_repository_has_a_reader() -> None:
    assert set(repositories.KINDS) == _KINDS
