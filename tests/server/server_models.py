"""Small runtimes with a known answer, for the tests of the model process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.domain.process import ServedModel
from penstock.observe.metrics import Registry
from penstock.runtimes.base import Arrays, Framework, LoadOptions, Runtime, TensorSpec
from penstock.server.statistics import Metrics


class Doubler(Runtime):
    """Answers twice its input `x`, and remembers how many rows each call had."""

    platform = "test_doubler"
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs = (TensorSpec("y", "FP32", (-1, 2)),)

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.threads: set[str] = set()
        self.closed = 0

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        self.threads.add(threading.current_thread().name)
        (x,) = inputs.values()
        self.calls.append(len(x))
        return {"y": x * 2}

    def example(self) -> Arrays | None:
        return {"x": np.ones((1, 2), np.float32)}

    def close(self) -> None:
        self.closed += 1


class Gated(Doubler):
    """A doubler whose calls wait until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        self.entered.release()
        self.gate.acquire()
        return super().predict(inputs, parameters)

    def example(self) -> Arrays | None:
        return None


class Function(Runtime):
    """A runtime around a function of the test's."""

    platform = "test_function"

    def __init__(
        self,
        function: Callable[[Arrays, Mapping[str, Any]], Any],
        *,
        example: Arrays | None = None,
        batchable: bool = True,
        reentrant: bool = False,
    ) -> None:
        self.function = function
        self.batchable = batchable
        self.reentrant = reentrant
        self._example = example

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        answer: Arrays = self.function(inputs, parameters)
        return answer

    def example(self) -> Arrays | None:
        return self._example


def framework(load: Callable[[Path, LoadOptions], Any], **fields: Any) -> Framework:
    return Framework(name="test", extra="test", preload=(), load=load, **fields)


def served(name: str, path: Path | str, **fields: Any) -> ServedModel:
    return ServedModel(name=name, framework="test", path=str(path), **fields)


def metrics() -> Metrics:
    return Metrics(Registry(), namespace="default", service="iris", revision="1")


def rows(*values: float) -> dict[str, np.ndarray]:
    """One input `x` with a row for each value."""
    return {"x": np.array([[v, v] for v in values], np.float32)}


def not_hung(message: str) -> None:
    raise AssertionError(message)
