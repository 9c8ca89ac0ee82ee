"""What every test shares: the same generated examples in every run, and signals as at a terminal.

A run tells whether the tree is sound, so it must not depend on luck. `pytest --hypothesis-profile=search`
looks for examples that nobody has seen yet.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: a machine that is busy makes examples slowly, which is no fault of the test.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True, print_blob=True)
settings.load_profile("same")

# A job in the background of a script ignores Ctrl-C, and so would every process that a test starts there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
