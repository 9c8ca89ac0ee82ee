"""The metrics' text, held to prometheus_client's own writer for any snapshot."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from penstock.observe.metrics import render

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
TEXT = st.text(st.sampled_from('ab \\"\n{}=,é'), max_size=6)
NUMBERS = st.one_of(
    st.integers(0, 10**12), st.floats(-1e12, 1e12), st.sampled_from([math.inf, -math.inf, 1e-9])
)


@st.composite
def family(draw):
    kind = draw(st.sampled_from(["counter", "gauge", "histogram"]))
    labels = draw(st.lists(NAMES.filter(lambda n: n != "le"), max_size=3, unique=True))
    bounds = draw(st.lists(st.floats(-1, 1e9), min_size=1, max_size=4, unique=True).map(sorted))
    if kind == "histogram":
        counts = st.lists(st.integers(0, 9), min_size=len(bounds) + 1, max_size=len(bounds) + 1)
        value = st.tuples(counts, NUMBERS).map(list)
    else:
        value = NUMBERS
    keys = draw(st.lists(st.tuples(*[TEXT] * len(labels)), max_size=3, unique=True))
    return {
        "kind": kind,
        "help": draw(TEXT),
        "labels": labels,
        "bounds": bounds if kind == "histogram" else None,
        "samples": [[list(key), draw(value)] for key in keys],
    }


class Theirs(Collector):
    def __init__(self, snapshot):
        self.snapshot = snapshot

    def describe(self):
        return ()

    def collect(self):
        for name, f in sorted(self.snapshot.items()):
            if f["kind"] == "histogram":
                metric = HistogramMetricFamily(name, f["help"], labels=f["labels"])
                for labels, (counts, total) in f["samples"]:
                    running = 0
                    buckets = []
                    for bound, n in zip([*f["bounds"], math.inf], counts, strict=True):
                        running += n
                        text = "+Inf" if bound == math.inf else repr(float(bound))
                        buckets.append((text, running))
                    metric.add_metric(labels, buckets, total)
            else:
                kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
                metric = kinds[f["kind"]](name, f["help"], labels=f["labels"])
                for labels, value in f["samples"]:
                    metric.add_metric(labels, value)
            yield metric


@given(st.dictionaries(NAMES.map(lambda n: f"m_{n}"), family(), max_size=3))
def test_the_text_is_what_prometheus_client_writes(snapshot):
    """Byte for byte: names, escapes, order of labels, numbers, buckets, sums."""
    registry = CollectorRegistry()
    registry.register(Theirs(snapshot))
    assert render(snapshot) == generate_latest(registry)
