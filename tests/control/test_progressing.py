"""Progressive delivery through the controllers: steps, rollback, promotion, and a restart in between."""

from __future__ import annotations

from typing import Any

import pytest
from test_control_services import World, manifest, world

from penstock.backends.base import Phase
from penstock.control.rollouts.counting import count_of, problem_of, reading_of
from penstock.control.rollouts.evidence import Tally
from penstock.control.rollouts.progress import CRASHES
from penstock.domain.annotations import PROMOTED
from penstock.domain.traffic import GaugeLimit, MetricLimit

__all__ = ["world"]

POLICY = {"steps": [10, 50], "hold": "30s", "minRequests": 20, "limits": {"errorRate": 0.02}}


class Counted:
    """What gateways counted, as a test says."""

    def __init__(self, w: World) -> None:
        self.by: dict[tuple[str, str], float] = {}
        self.world = w
        self.install()

    def install(self) -> None:
        self.world.plane.services.progressing._total = self.total  # type: ignore[method-assign]

    async def total(self) -> dict[str, Any]:
        samples = [
            [["default", "iris", "predictor", revision, "v1", status], value]
            for (revision, status), value in self.by.items()
        ]
        return {"penstock_gateway_requests": {"samples": samples}}

    def add(self, revision: str, good: int, bad: int = 0) -> None:
        for status, n in (("200", good), ("500", bad)):
            key = (f"iris-{revision}", status)
            self.by[key] = self.by.get(key, 0) + n


def rolling(uri: str, policy: Any = POLICY, **annotations: str) -> dict[str, Any]:
    obj = manifest(uri=uri, annotations=annotations)
    obj["spec"]["rollout"] = policy
    return obj


def shares(w: World) -> dict[str, int]:
    route = w.plane.routes.get("default/iris")
    assert route is not None
    return {t.revision[-1]: t.weight for t in route.targets}


async def at_first_step(w: World) -> Counted:
    counted = Counted(w)
    await rolls_out(w)
    return counted


async def rolls_out(w: World, policy: Any = POLICY) -> None:
    """A first revision, and a second one at its first step, of which the first counts are taken."""
    await w.apply(rolling("models/a", policy))
    await w.ready()
    assert shares(w) == {"1": 100}
    await w.apply(rolling("models/b", policy))
    await w.until(lambda: shares(w) == {"2": 10, "1": 90})
    await w.settled()
    await w.plane.services.progressing.tick()


async def step(w: World, counted: Counted, good: int, bad: int = 0) -> None:
    counted.add("00002", good, bad)
    counted.add("00001", good)
    await w.clock.advance(31)
    await w.plane.services.progressing.tick()


async def test_a_harmless_revision_goes_up_and_takes_all(world: World) -> None:
    counted = await at_first_step(world)
    await step(world, counted, 30)
    await world.until(lambda: shares(world) == {"2": 50, "1": 50})
    await world.settled()
    await step(world, counted, 30)
    await world.until(lambda: shares(world) == {"2": 100})
    await world.settled()
    events = await world.events()
    assert "RolloutStep" in events
    assert "RolloutDone" in events


async def test_too_few_requests_hold_the_step(world: World) -> None:
    counted = await at_first_step(world)
    await step(world, counted, 5)
    await world.settled()
    assert shares(world) == {"2": 10, "1": 90}


async def test_a_revision_that_errors_is_given_up_and_says_why_also_after_a_restart(
    world: World,
) -> None:
    counted = await at_first_step(world)
    await step(world, counted, 5, bad=20)
    await world.until(lambda: shares(world) == {"2": 0, "1": 100})
    await world.settled()
    assert "RolledBack" in await world.events()
    ready = await world.ready()
    assert "was given up" in ready["message"]
    assert "of its requests failed" in ready["message"]
    await world.restart()
    counted.install()
    await world.settled()
    assert shares(world) == {"2": 0, "1": 100}
    # The next change is tried from the first step again.
    await world.apply(rolling("models/c"))
    await world.until(lambda: shares(world) == {"3": 10, "1": 90})


async def test_a_restart_keeps_the_step(world: World) -> None:
    counted = await at_first_step(world)
    await step(world, counted, 30)
    await world.until(lambda: shares(world) == {"2": 50, "1": 50})
    await world.settled()
    await world.restart()
    counted.install()
    await world.settled()
    assert shares(world) == {"2": 50, "1": 50}


async def test_a_revision_whose_processes_end_again_and_again_is_given_up(world: World) -> None:
    await at_first_step(world)
    (new,) = [r for r in world.backend.replicas if "00002" in r]
    world.backend.set(new, Phase.BACKOFF, restarts=CRASHES, reason="Signal", message="SIGSEGV")
    await world.settled()
    await world.plane.services.progressing.tick()
    await world.until(lambda: shares(world) == {"2": 0, "1": 100})
    await world.settled()
    assert "RolledBack" in await world.events()


async def test_a_promotion_skips_the_steps(world: World) -> None:
    await at_first_step(world)
    await world.apply(rolling("models/b", **{PROMOTED: "iris-00002"}))
    await world.until(lambda: shares(world) == {"2": 100})


async def test_a_revision_that_never_becomes_ready_gets_nothing(world: World) -> None:
    Counted(world)
    await world.apply(rolling("models/a"))
    await world.ready()
    world.backend.behave = lambda replica_id, spec: Phase.FAILED
    await world.apply(rolling("models/b"))
    await world.ready(status="False")
    assert shares(world) == {"1": 100}


@pytest.mark.parametrize(("limit", "slow"), [(0.1, 7), (0.05, 9), (5.0, 0)])
def test_slow_requests_are_those_above_the_limit(limit: float, slow: int) -> None:
    total = {
        "penstock_gateway_requests": {
            "samples": [[["d", "s", "predictor", "r", "v1", "200"], 10.0]]
        },
        "penstock_gateway_request_seconds": {
            "bounds": [0.01, 0.05, 0.1, 1.0],
            "samples": [[["d", "s", "predictor", "r", "v1"], [[0, 1, 2, 6, 1], 3.0]]],
        },
    }
    assert count_of(total, ("d", "s"), "r", limit).slow == slow


def labelled(
    name: str, kind: str, value: Any, revision: str = "iris-00002", **more: Any
) -> dict[str, Any]:
    labels = ["namespace", "service", "revision", "model"]
    samples = [
        [["default", "iris", revision, "iris"], value],
        [["default", "other", revision, "iris"], value],
    ]
    return {name: {"kind": kind, "labels": labels, "samples": samples, **more}}


IRIS = (("default", "iris"), "iris-00002")

METRICS = {
    **labelled("low_total", "counter", 4.0),
    **labelled("rows", "counter", 40.0),
    **labelled("seconds", "histogram", [[5, 3, 2], 1.0], bounds=[0.1, 0.5]),
    **labelled("memory", "gauge", 7.0),
    "penstock_gateway_requests": {
        "samples": [[["default", "iris", "predictor", "iris-00002", "v1", "200"], 10.0]]
    },
}


@pytest.mark.parametrize(
    ("limit", "tally"),
    [
        (MetricLimit("low_total"), Tally(4, 10)),
        (MetricLimit("low"), Tally(4, 10)),
        (MetricLimit("low_total", per="rows_total"), Tally(4, 40)),
        (MetricLimit("seconds", above=0.1), Tally(5, 10)),
        (MetricLimit("seconds", above=0.3), Tally(2, 10)),
        (MetricLimit("seconds"), Tally()),
        (MetricLimit("memory"), Tally()),
        (MetricLimit("nobody"), Tally()),
        (MetricLimit("low_total", per="nobody"), Tally()),
        (MetricLimit("rows"), Tally(10, 10)),
        (MetricLimit("low_total", labels=(("model", "iris"),)), Tally(4, 10)),
        (MetricLimit("low_total", labels=(("model", "other"),)), Tally(0, 10)),
        (MetricLimit("low_total", labels=(("nothing", "iris"),)), Tally(0, 10)),
        (MetricLimit("low_total", per="rows", per_labels=(("model", "x"),)), Tally(0, 0)),
    ],
)
def test_what_a_metric_counts_of_a_revision(limit: MetricLimit, tally: Tally) -> None:
    assert count_of(METRICS, ("default", "iris"), "iris-00002", None, (limit,)).metrics == (tally,)


def test_one_name_of_several_services_is_each_ones_own() -> None:
    """Families of models' own metrics have keys; a revision's is the one that has its samples."""
    mine = labelled("x", "counter", 3.0)["x"] | {"name": "low_total"}
    others = mine | {"labels": [*mine["labels"][:3], "class"], "kind": "gauge"}
    others = others | {"samples": [[["default", "else", "r", "a"], 9.0]], "processes": [1]}
    requests = {"penstock_gateway_requests": METRICS["penstock_gateway_requests"]}
    for total in ({"a": mine, "b": others, **requests}, {"a": others, "b": mine, **requests}):
        (tally,) = count_of(total, *IRIS, None, (MetricLimit("low_total"),)).metrics
        assert tally == Tally(3, 10)
        assert problem_of(total, *IRIS, "low_total", "counter") == ""
        assert reading_of(total, ("default", "else"), "r", GaugeLimit("low_total")) == 9.0


def test_why_a_metric_cannot_be_a_limit() -> None:
    assert problem_of(METRICS, *IRIS, "low_total", "counter") == ""
    assert problem_of(METRICS, *IRIS, "seconds", "histogram") == ""
    assert "is a gauge" in problem_of(METRICS, *IRIS, "memory", "counter")
    assert "is a counter" in problem_of(METRICS, *IRIS, "rows", "histogram")
    assert "nobody keeps" in problem_of(METRICS, *IRIS, "nobody", "counter")


async def test_a_metric_takes_a_revision_back_and_one_that_nobody_keeps_is_told(
    world: World,
) -> None:
    counted = Counted(world)
    low = {"iris-00001": 0, "iris-00002": 0}

    async def total() -> dict[str, Any]:
        samples = [[["default", "iris", r, "iris"], float(n)] for r, n in low.items()]
        labels = ["namespace", "service", "revision", "model"]
        family = {"kind": "counter", "labels": labels, "samples": samples}
        return {**await counted.total(), "low_confidence": family}

    world.plane.services.progressing._total = total  # type: ignore[method-assign]
    policy = {
        **POLICY,
        "limits": {
            "metrics": [
                {"name": "low_confidence_total", "against": "stable"},
                {"name": "nobody_counts", "max": 0.1},
            ]
        },
    }

    await rolls_out(world, policy)
    for turn in range(8):
        low["iris-00002"] += 10 if turn > 3 else 0
        counted.add("00002", 10)
        counted.add("00001", 50)
        await world.clock.advance(1)
        await world.plane.services.progressing.tick()
    await world.until(lambda: shares(world) == {"2": 0, "1": 100})
    await world.settled()
    assert "LimitWithoutEffect" in await world.events()
    message = (await world.ready())["message"]
    assert "of its requests counted in low_confidence_total, against the stable" in message


async def test_a_gauge_takes_a_revision_back_and_one_without_the_stable_side_is_told(
    world: World,
) -> None:
    counted = Counted(world)

    async def total() -> dict[str, Any]:
        labels = ["namespace", "service", "revision", "model"]
        of = {"iris-00001": 0.9, "iris-00002": 0.5}
        samples = [[["default", "iris", r, "iris"], value] for r, value in of.items()]
        accuracy = {"kind": "gauge", "labels": labels, "samples": samples, "processes": [1, 1]}
        only = {**accuracy, "samples": samples[1:], "processes": [1]}
        return {**await counted.total(), "accuracy": accuracy, "only_new": only}

    world.plane.services.progressing._total = total  # type: ignore[method-assign]
    gauges = [
        {"name": "accuracy", "against": "stable", "worse": "below", "every": "10s"},
        {"name": "only_new", "against": "stable"},
    ]
    policy = {**POLICY, "limits": {"gauges": gauges}}

    await rolls_out(world, policy)
    for _ in range(11):
        counted.add("00002", 10)
        counted.add("00001", 90)
        await world.clock.advance(10)
        await world.plane.services.progressing.tick()
    await world.until(lambda: shares(world) == {"2": 0, "1": 100})
    await world.settled()
    assert "LimitWithoutEffect" in await world.events()
    said = (await world.ready())["message"]
    assert "accuracy was below the stable revision's by more than 10% in" in said
