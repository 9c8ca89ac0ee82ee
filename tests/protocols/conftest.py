"""Hypothesis without a clock: on a busy machine the first draw of a strategy can take a second."""

from hypothesis import HealthCheck, settings

settings.register_profile("no-clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-clock")
