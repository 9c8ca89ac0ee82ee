"""A predict that never returns, under load: it costs who was sent to that process, and nobody after them."""

from __future__ import annotations

import json

import httpx
import pytest
from fault_load import CLIENTS, Book, load
from platform_harness import Platform, manifest, until

TIMEOUT_S = 2


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_predict_that_hangs_costs_what_was_sent_there(
    platform: Platform, book: Book, replicas: int
) -> None:
    """Until the time limit nobody can know; after it the gateways choose others, or wait for the new one."""
    name = f"hanging-{replicas}"
    obj = json.loads(manifest(name))
    obj["spec"]["predictor"] = {
        "python": {"storageUri": "models/hanging"},
        "timeout": TIMEOUT_S,
        "minReplicas": replicas,
    }
    platform.run("apply", "-f", "-", "--wait", stdin=json.dumps(obj))
    url = f"{platform.http}/v1/models/{name}:predict"
    with load(platform, name) as seen:
        answer = httpx.post(url, json={"instances": ["hang"]}, timeout=30)
        assert answer.status_code == 504
        until(
            lambda: any(
                r["status"].get("reason") == "Unresponsive" and r["status"]["phase"] == "Ready"
                for r in platform.replicas()
                if r["spec"]["service"] == name
            ),
            "another process",
        )
    book.note(
        f"a predict that never returns, in one of {replicas}"
        if replicas > 1
        else "a predict that never returns, in the only replica",
        seen,
        f"{CLIENTS}: those that waited behind it in that process",
        "until the time limit it might still answer; requests after it go elsewhere or wait",
    )
    assert seen.failed <= CLIENTS, seen
    assert set(seen.counts) <= {"200", "502", "504"}, seen
    platform.run("delete", "isvc", name)
