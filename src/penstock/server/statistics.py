"""What is counted about a model: Triton's statistics per version, and the process's metrics.

The batcher reports each call once (`called`), so the cost per request is a few additions. Metrics are sums
over versions, statistics are kept per version, as Triton's extension has them.
"""

from __future__ import annotations

import time
from typing import Any, Final

from penstock.observe.metrics import BATCH_ROWS, LATENCY_S, Counter, Histogram, Registry
from penstock.server.batching import Pending
from penstock.server.execution import Call, WrongRows

#: Batch sizes that are listed one by one; any further size only counts in the totals.
BATCH_SIZES: Final = 128


class Metrics:
    """The families a model process writes; `labels` are namespace, service and revision."""

    def __init__(self, registry: Registry, *, namespace: str, service: str, revision: str) -> None:
        self.registry = registry
        self._labels = (namespace, service, revision)
        names = ("namespace", "service", "revision", "model")
        self._requests = registry.counter(
            "penstock_requests_total",
            "Requests answered by a model process.",
            (*names, "protocol", "status"),
        )
        self._request_seconds = registry.histogram(
            "penstock_request_seconds",
            "From a whole request to its whole response, in the model process.",
            (*names, "protocol"),
            LATENCY_S,
        )
        self._queue_seconds = registry.histogram(
            "penstock_queue_seconds", "Time a request waited for its call.", names, LATENCY_S
        )
        self._predict_seconds = registry.histogram(
            "penstock_predict_seconds", "Duration of a call of the model.", names, LATENCY_S
        )
        self._batch_rows = registry.histogram(
            "penstock_batch_rows", "Rows in a call of the model.", names, BATCH_ROWS
        )
        self._load_seconds = registry.histogram(
            "penstock_model_load_seconds", "Duration of a load, probe included.", names, LATENCY_S
        )
        self.memory = registry.gauge(
            "penstock_process_private_bytes",
            "Private memory of the model process.",
            ("namespace", "service", "revision", "replica"),
        )

    def requests(self, model: str, protocol: str, status: int) -> Counter:
        counter: Counter = self._requests.labels(*self._labels, model, protocol, str(status))
        return counter

    def request_seconds(self, model: str, protocol: str) -> Histogram:
        histogram: Histogram = self._request_seconds.labels(*self._labels, model, protocol)
        return histogram

    def queue_seconds(self, model: str) -> Histogram:
        histogram: Histogram = self._queue_seconds.labels(*self._labels, model)
        return histogram

    def predict_seconds(self, model: str) -> Histogram:
        histogram: Histogram = self._predict_seconds.labels(*self._labels, model)
        return histogram

    def batch_rows(self, model: str) -> Histogram:
        histogram: Histogram = self._batch_rows.labels(*self._labels, model)
        return histogram

    def load_seconds(self, model: str) -> Histogram:
        histogram: Histogram = self._load_seconds.labels(*self._labels, model)
        return histogram


class Duration:
    """How many, and how long together. Nanoseconds on the wire, seconds here."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, count: int, seconds: float) -> None:
        self.count += count
        self.seconds += seconds

    def document(self) -> dict[str, int]:
        return {"count": self.count, "ns": int(self.seconds * 1e9)}


class Batches:
    """Calls of one batch size."""

    __slots__ = ("infer", "input")

    def __init__(self) -> None:
        self.input = Duration()
        self.infer = Duration()


class Statistics:
    """Triton's statistics of one version of one model. Is told by the batcher (`batching.Observer`)."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self._queue_seconds = metrics.queue_seconds(model)
        self._predict_seconds = metrics.predict_seconds(model)
        self._batch_rows = metrics.batch_rows(model)
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.input = Duration()
        self.infer = Duration()
        #: Rows answered, and calls made for them.
        self.rows = 0
        self.calls = 0
        self.last_s = 0.0
        self._batches: dict[int, Batches] = {}

    def called(self, call: Call, members: list[Pending]) -> None:
        """A call of the model ended."""
        started, ended = call.started, call.ended
        count = 0
        observe = self._queue_seconds.observe
        arrived = 0.0
        for pending in members:
            if pending.done is None:  # counted when it was dropped
                continue
            count += 1
            arrived += pending.arrived
            observe(started - pending.arrived)
        infer_s = ended - call.joined
        self._predict_seconds.observe(infer_s)
        rows = call.rows if call.rows >= 0 else 1
        self._batch_rows.observe(rows)
        if call.error is not None:
            if len(members) == 1 or isinstance(call.error, WrongRows):
                self.fail.add(count, ended * count - arrived)
            return
        input_s = call.joined - started
        self.success.add(count, ended * count - arrived)
        self.queue.add(count, started * count - arrived)
        # As Triton counts: each member spent the whole call's time.
        self.input.add(count, input_s * count)
        self.infer.add(count, infer_s * count)
        self.rows += rows
        self.calls += 1
        self.last_s = time.time()
        batches = self._batches.get(rows)
        if batches is None:
            if len(self._batches) >= BATCH_SIZES:
                return
            batches = self._batches[rows] = Batches()
        batches.input.add(1, input_s)
        batches.infer.add(1, infer_s)

    def dropped(self, pending: Pending) -> None:
        """A request left without an answer of the model: cancelled, or out of time."""
        self.fail.add(1, time.perf_counter() - pending.arrived)

    def document(self, name: str, version: str) -> dict[str, Any]:
        """One element of `model_stats`."""
        nothing = {"count": 0, "ns": 0}
        return {
            "name": name,
            "version": version,
            "last_inference": int(self.last_s * 1000),
            "inference_count": self.rows,
            "execution_count": self.calls,
            "inference_stats": {
                "success": self.success.document(),
                "fail": self.fail.document(),
                "queue": self.queue.document(),
                "compute_input": self.input.document(),
                "compute_infer": self.infer.document(),
                "compute_output": {"count": self.success.count, "ns": 0},
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": b.input.document(),
                    "compute_infer": b.infer.document(),
                    "compute_output": {"count": b.infer.count, "ns": 0},
                }
                for size, b in sorted(self._batches.items())
            ],
            "memory_usage": [],
        }
