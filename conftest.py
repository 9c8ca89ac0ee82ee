"""What every test shares: generated examples are the same in every run, unless others are asked for.

A run tells whether the tree is sound, so it must not depend on luck. `pytest --hypothesis-profile=search`
looks for examples that nobody has seen yet.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadlines: a machine that is busy makes examples slowly, which is no fault of the test.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True, print_blob=True)
settings.load_profile("same")
