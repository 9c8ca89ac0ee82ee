from __future__ import annotations

import pytest
from store_contract import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
