"""Whose fault an exception is: a framework's own check of its input, or the model's code.

Frameworks raise plain ValueError for both. The frame that raised tells them apart: in the framework's own
code it is a check of the input, in a user's transformer it is a fault of the model.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

#: A ValueError or TypeError that is raised inside one of these is about what it was given.
INPUT_CHECKS: Final = frozenset(
    ("sklearn", "scipy", "pandas", "numpy", "xgboost", "lightgbm", "catboost")
)


def raised_in(e: BaseException, packages: Container[str]) -> bool:
    """Whether the innermost Python frame of `e` belongs to one of `packages` (top-level names)."""
    tb = e.__traceback__
    if tb is None:
        return False
    while tb.tb_next is not None:
        tb = tb.tb_next
    module = tb.tb_frame.f_globals.get("__name__", "")
    return str(module).partition(".")[0] in packages


def passed_through(e: BaseException, function: str) -> bool:
    """Whether a function of that name is among the frames of `e`."""
    tb = e.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code.co_name == function:
            return True
        tb = tb.tb_next
    return False
