"""Loading a model as a model process does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import runtimes
from penstock.runtimes.base import LoadOptions, Runtime

# Before a test module imports a framework itself.
for name in ("sklearn", "onnx", "tensorflow", "mlflow"):
    runtimes.prepare_environment(runtimes.find(name))


@pytest.fixture(scope="session")
def load() -> Callable[..., Runtime]:
    """`load(framework, path, threads=1, **options)`."""

    def load(framework: str, path: Path, threads: int = 1, **options: Any) -> Runtime:
        runtime = runtimes.find(framework).load(
            path, LoadOptions(name="m", threads=threads, options=options)
        )
        assert isinstance(runtime, Runtime)
        return runtime

    return load
