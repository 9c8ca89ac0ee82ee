"""A new revision is bad: never up, crashing, dragging, leaking. What it costs, and who stays untouched."""

from __future__ import annotations

import json

import pytest
from fault_load import CLIENTS, Book, Seen, load
from platform_harness import Platform, manifest, until


def service(name: str, model: str, **spec: object) -> str:
    obj = json.loads(manifest(name))
    block: dict[str, object] = {"storageUri": f"models/{model}"}
    if limits := spec.pop("limits", None):
        block["resources"] = {"limits": limits}
    obj["spec"] = {"predictor": {"python": block}, **spec}
    return json.dumps(obj)


def replicas_of(platform: Platform, name: str) -> list[dict[str, dict[str, object]]]:
    return [r for r in platform.replicas() if r["spec"]["service"] == name]


def conditions(platform: Platform, name: str) -> str:
    return json.dumps((platform.service(name).get("status") or {}).get("conditions"))


def test_a_revision_that_never_becomes_ready_costs_nothing(platform: Platform, book: Book) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=service("never", "good"))
    with load(platform, "never") as seen:
        platform.run("apply", "-f", "-", stdin=service("never", "never"))
        until(lambda: len(replicas_of(platform, "never")) == 2, "the new replica")
        until(lambda: "never-00002: 0 of 1" in conditions(platform, "never"), "the wait for it")
        before = seen.answered
        until(lambda: seen.answered > before + 500, "requests meanwhile")
    book.note(
        "a new revision that never becomes ready",
        seen,
        "none",
        "it gets requests only once a prediction was answered",
    )
    assert set(seen.counts) == {"200"}, seen
    assert {revision for revision, _ in seen.by_revision} == {"never-00001"}
    platform.run("delete", "isvc", "never")


#: Ends of a process that are evidence enough, and some that happen while it is looked at.
CRASHES = 6
ROLLOUT = {"steps": [20], "hold": "120s", "minRequests": 1000, "limits": {"p99": "150ms"}}


@pytest.mark.parametrize(
    ("model", "fault", "bound", "why"),
    [
        (
            "crashing",
            "a new revision that crashes on its third request, with 20% of them",
            "what it was sent, while the evidence is gathered",
            "that it crashes can only be seen on requests; the stable revision's are untouched",
        ),
        (
            "dragging",
            "a new revision that answers in 300 ms, with 20% of the requests",
            "none",
            "slow answers are answers; it is taken back for its latency",
        ),
        (
            "leaking",
            "a new revision that leaks memory up to its limit, with 20% of the requests",
            "what it was sent, each time it is ended",
            "a model may have acted on a request that it was sent; it is taken back after three ends",
        ),
    ],
)
def test_a_bad_revision_is_taken_back_and_only_its_own_requests_suffer(
    platform: Platform, book: Book, model: str, fault: str, bound: str, why: str
) -> None:
    spec: dict[str, object] = {"rollout": ROLLOUT}
    if model == "leaking":
        spec["limits"] = {"memory": "100Mi"}
    platform.run("apply", "-f", "-", "--wait", stdin=service(model, "good", **spec))
    new = f"{model}-00002"
    with load(platform, model) as seen:
        platform.run("apply", "-f", "-", stdin=service(model, model, **spec))
        until(lambda: "was given up" in conditions(platform, model), "the rollback")
        until(lambda: percent(platform, model, new) == 0, "all for the stable one")
        after = Seen(seen.counts.copy())
        before = seen.answered
        until(lambda: seen.answered > before + 100, "requests afterwards")
    book.note(fault, seen, bound, why)
    stable = {k for k in seen.by_revision if k[0] not in ("", new)}
    assert stable == {(f"{model}-00001", "200")}, seen.by_revision
    # Connections to a process that ended: 502, without the name of who would have answered.
    assert seen.failed == seen.by_revision["", "502"] <= CRASHES * CLIENTS, seen
    assert seen.failed - after.failed <= CLIENTS, "only what was under way when it went"
    if model == "dragging":
        assert not seen.failed, seen
    if model == "leaking":
        assert "OutOfMemory" in platform.run("events", model)
    assert "RolledBack" in platform.run("events", model)
    platform.run("delete", "isvc", model)


def percent(platform: Platform, name: str, revision: str) -> int:
    predictor = platform.service(name)["status"]["components"]["predictor"]
    return sum(t["percent"] for t in predictor["traffic"] if t["revisionName"] == revision)


def test_a_leaking_revision_is_ended_by_its_limit_and_says_so(
    platform: Platform, book: Book
) -> None:
    """1 MiB a request: the process is killed at its limit, and the one after it goes on."""
    limits = {"memory": "200Mi"}
    platform.run("apply", "-f", "-", "--wait", stdin=service("leak", "leaking", limits=limits))

    def ended() -> bool:
        return [r["status"].get("reason") for r in replicas_of(platform, "leak")] == ["OutOfMemory"]

    with load(platform, "leak") as seen:
        until(ended, "its end")
    book.note(
        "a revision that leaks memory, at its limit",
        seen,
        f"{CLIENTS}: those under way in the process that is ended",
        "a model may have acted on a request that it was sent",
    )
    assert seen.failed <= CLIENTS * max(1, restarts(platform, "leak")), seen
    assert "OutOfMemory" in platform.run("get", "replicas")
    assert "memory limit" in platform.run(
        "events", "leak"
    ) or "its limit is 200 MiB" in platform.run("events", "leak")
    platform.run("delete", "isvc", "leak")


def restarts(platform: Platform, name: str) -> int:
    return sum(int(str(r["status"]["restarts"])) for r in replicas_of(platform, name))
