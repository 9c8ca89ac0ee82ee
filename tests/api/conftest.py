"""Fixtures of this folder; what tests import by name is in `api_harness`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "control")]

from api_harness import api  # noqa: E402
from kubectl_harness import kubectl  # noqa: E402

__all__ = ["api", "kubectl"]
