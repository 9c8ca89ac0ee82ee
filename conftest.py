"""What every test shares: the same generated examples in every run, and signals as at a terminal.

A run tells whether the tree is sound, so it must not depend on luck. `pytest --hypothesis-profile=search`
looks for examples that nobody has seen yet.
"""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

# No deadlines: a machine that is busy makes examples slowly, which is no fault of the test.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True, print_blob=True)
settings.load_profile("same")

# A job in the background of a script ignores Ctrl-C, and so would every process that a test starts there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_new_context = httpx._transports.default.create_ssl_context
_contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}


def _shared_context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    """One context for all clients that trust whom this machine trusts.

    Each client reads all authorities, also one that speaks no TLS: that was a fifth of the tests' computing.
    """
    if verify is not True or cert is not None:
        return _new_context(verify=verify, cert=cert, trust_env=trust_env)
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR") if trust_env else ()
    key = tuple(os.environ.get(name) for name in names)
    if key not in _contexts:
        _contexts[key] = _new_context(trust_env=trust_env)
    return _contexts[key]


httpx._transports.default.create_ssl_context = _shared_context

#: Files of tests by their seconds, the longest first, see longest_files.py beside it.
_LONGEST = Path(__file__).parent / "tests" / "longest_files.txt"


def pytest_configure(config: pytest.Config) -> None:
    # xdist would begin with the files that have most tests; those with few long ones would come last.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, long files begin first, so that no process is left with one at the end."""
    if not hasattr(config, "workerinput"):
        return
    seconds: dict[str, float] = {}
    for line in _LONGEST.read_text().splitlines():
        took, _, path = line.partition(" ")
        seconds[path] = float(took)
    items.sort(key=lambda item: -seconds.get(item.nodeid.partition("::")[0], 0.0))
