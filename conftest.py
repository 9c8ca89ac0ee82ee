"""What every test shares: the same generated examples in every run, and signals as at a terminal.

A run tells whether the tree is sound, so it must not depend on luck. `pytest --hypothesis-profile=search`
looks for examples that nobody has seen yet.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# No deadlines: a machine that is busy makes examples slowly, which is no fault of the test.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True, print_blob=True)
settings.load_profile("same")

# A job in the background of a script ignores Ctrl-C, and so would every process that a test starts there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
