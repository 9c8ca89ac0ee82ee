"""The standard library's hooks around a fork, kept from running when a zygote forks.

They mend what other threads of the parent may have left: locks that nobody holds any more in the child, a
list of threads that are not there. A zygote has one thread, so there is nothing to mend, and the mending
writes to a hundred pages (0.45 MB) of every child. A child registers them before its own code runs: its own
forks are as any process's. Seeding `random`, which is such a hook too, is done by `forked`.

`defer` has to come before anything that imports these modules. Hooks of other modules are let through.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

#: Modules whose hooks do nothing in the only thread of a process, and `random`.
_DEFERRED: Final = frozenset({"concurrent.futures.thread", "logging", "random", "threading"})

_register: Final[Any] = os.register_at_fork
_waiting: list[dict[str, Any]] = []


def defer() -> None:
    """Keep the hooks that the standard library registers from now on for `restore`."""
    os.register_at_fork = _note


def _note(**hooks: Any) -> None:
    # The module that calls: a hook itself may be a method of another's.
    if sys._getframe(1).f_globals.get("__name__") in _DEFERRED:
        _waiting.append(hooks)
    else:
        _register(**hooks)


def restore() -> None:
    """In a child: register what was kept. Hooks run as if they had been registered all along."""
    os.register_at_fork = _register
    for hooks in _waiting:
        _register(**hooks)
    _waiting.clear()
