"""What every test shares: generated examples are the same in every run, unless others are asked for.

A run tells whether the tree is sound, so it must not depend on luck. `pytest --hypothesis-profile=search`
looks for examples that nobody has seen yet.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A machine that is busy makes examples slowly; that is no fault of the test.
_ANYWHERE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("same", derandomize=True, print_blob=True, **_ANYWHERE)
settings.register_profile("search", **_ANYWHERE)
settings.load_profile("same")
