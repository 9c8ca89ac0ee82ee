"""What is counted about a model: Triton's statistics per version, and the process's metrics.

The batcher reports each call once (`called`), so the cost per request is a few additions. Metrics are sums
over versions, statistics are kept per version, as Triton's extension has them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.observe.metrics import (
    BATCH_ROWS,
    LATENCY_S,
    Counter,
    Family,
    Histogram,
    Registry,
    Snapshot,
)
from penstock.protocols.documents import BatchStats, ModelStats
from penstock.server.execution import Call, WrongRows
from penstock.server.own_metrics import OwnMetrics
from penstock.server.pending import Pending

#: Batch sizes that are listed one by one; any further size only counts in the totals.
BATCH_SIZES: Final = 128
#: Series of metrics of users' classes in one process; what is beyond is counted in one without a name.
MOST_USER_SERIES: Final = 200
_USER_FAMILIES: Final = {
    "COUNTER": ("penstock_unit_counter_total", "Counters of users' classes (Seldon V1)."),
    "GAUGE": ("penstock_unit_gauge", "Gauges of users' classes (Seldon V1)."),
    "TIMER": ("penstock_unit_timer_seconds", "Timers of users' classes (Seldon V1)."),
}


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
        self._feedbacks = registry.counter(
            "penstock_feedback_total", "Feedback messages (Seldon V1).", names
        )
        self._rewards = registry.gauge(
            "penstock_feedback_reward", "Rewards of feedback messages, added up.", names
        )
        self._own = OwnMetrics(self._labels)
        self._user_values: dict[tuple[str, ...], Any] = {}
        self.memory = registry.gauge(
            "penstock_process_private_bytes",
            "Private memory of the model process.",
            ("namespace", "service", "revision", "replica"),
        )

    def snapshot(self) -> Snapshot:
        """All of the process's: the platform's, and what the model's own code counts."""
        return {**self.registry.snapshot(), **self._own.snapshot()}

    def feedback(self, model: str, reward: float) -> None:
        """Count a feedback message."""
        self._feedbacks.labels(*self._labels, model).inc()
        self._rewards.labels(*self._labels, model).inc(reward)

    def of_user(self, model: str, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Take in what a user's class counts: Seldon's COUNTER, GAUGE and TIMER (milliseconds).

        Their tags are one label, and a process keeps `MOST_USER_SERIES` of them: a class that puts a
        request's id into a tag costs its own detail, not the memory of everybody.
        """
        for metric in metrics:
            kind = metric["type"]
            tags = metric.get("tags") or {}
            said = ",".join(f"{k}={tags[k]}" for k in sorted(tags))[:200]
            key = (kind, model, str(metric["key"])[:100], said)
            child = self._user_values.get(key)
            if child is None:
                if len(self._user_values) >= MOST_USER_SERIES:
                    key = (kind, model, "", "")
                    child = self._user_values.get(key)
                if child is None:
                    child = self._user_family(kind).labels(*self._labels, *key[1:])
                    self._user_values[key] = child
            value = float(metric["value"])
            if kind == "TIMER":
                child.observe(value / 1000)
            elif kind == "GAUGE":
                child.set(value)
            elif value >= 0:
                child.inc(value)

    def _user_family(self, kind: str) -> Family:
        """The family of a kind of users' metrics; most processes have none."""
        name, help_ = _USER_FAMILIES[kind]
        found = self.registry.families.get(name)
        if found is not None:
            return found
        names = ("namespace", "service", "revision", "model", "key", "tags")
        if kind == "TIMER":
            return self.registry.histogram(name, help_, names, LATENCY_S)
        return (self.registry.gauge if kind == "GAUGE" else self.registry.counter)(
            name, help_, names
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


class Statistics:
    """Triton's statistics of one version of one model. Is told by the batcher (`batching.Observer`)."""

    def __init__(self, model: str, version: str, metrics: Metrics) -> None:
        self._queue_seconds = metrics.queue_seconds(model)
        self._predict_seconds = metrics.predict_seconds(model)
        self._batch_rows = metrics.batch_rows(model)
        self._stats = ModelStats(model, version)
        self._batches: dict[int, BatchStats] = {}

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
        whole = int((ended * count - arrived) * 1e9)
        stats = self._stats.inference_stats
        if call.error is not None:
            # The members of a batch are tried again one by one, and counted then.
            if len(members) == 1 or isinstance(call.error, WrongRows):
                stats.fail.add(whole, count)
            return
        input_ns = int((call.joined - started) * 1e9)
        infer_ns = int(infer_s * 1e9)
        stats.success.add(whole, count)
        stats.queue.add(int((started * count - arrived) * 1e9), count)
        # As Triton counts: each member spent the whole call's time.
        stats.compute_input.add(input_ns * count, count)
        stats.compute_infer.add(infer_ns * count, count)
        self._called(rows, input_ns, infer_ns)

    def answered(self, seconds: float, error: bool) -> None:
        """A payload model answered one request; it is called once for each."""
        ns = int(seconds * 1e9)
        self._predict_seconds.observe(seconds)
        stats = self._stats.inference_stats
        if error:
            stats.fail.add(ns)
            return
        stats.success.add(ns)
        stats.compute_infer.add(ns)
        self._called(1, 0, ns)

    def dropped(self, pending: Pending) -> None:
        """A request left without an answer of the model: cancelled, or out of time."""
        self._stats.inference_stats.fail.add(int((time.perf_counter() - pending.arrived) * 1e9))

    def _called(self, rows: int, input_ns: int, infer_ns: int) -> None:
        stats = self._stats
        stats.inference_count += rows
        stats.execution_count += 1
        stats.last_inference = int(time.time() * 1000)
        batch = self._batches.get(rows)
        if batch is None:
            if len(self._batches) >= BATCH_SIZES:
                return
            batch = self._batches[rows] = BatchStats(rows)
        batch.compute_input.add(input_ns)
        batch.compute_infer.add(infer_ns)

    def document(self) -> ModelStats:
        """What is known so far, in Triton's shape. Encoding is not told apart from the rest: 0 ns."""
        stats = self._stats
        stats.inference_stats.compute_output.count = stats.inference_stats.success.count
        stats.batch_stats = [batch for _, batch in sorted(self._batches.items())]
        for batch in stats.batch_stats:
            batch.compute_output.count = batch.compute_infer.count
        return stats
