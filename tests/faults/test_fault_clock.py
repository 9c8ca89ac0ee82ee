"""The machine's clock is stepped back an hour, and forth again: only what people read may notice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fault_load import V1, Book, load
from platform_harness import Platform, manifest, until

#: Every Python process of the platform reads its wall clock through this.
STEP = """
import time

_real = time.time


def stepped():
    try:
        with open({file!r}) as f:
            return _real() + float(f.read() or 0)
    except (OSError, ValueError):
        return _real()


time.time = stepped
"""


@pytest.fixture(scope="module")
def stepping(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Platform, Path]]:
    """A platform, and the file with the seconds that its clock is off."""
    patch = tmp_path_factory.mktemp("clock")
    step = patch / "step"
    (patch / "sitecustomize.py").write_text(STEP.format(file=str(step)))
    paths = [str(patch), *filter(None, [os.environ.get("PYTHONPATH")])]
    p = Platform(folder, "--sleep-after", "2s", env={"PYTHONPATH": os.pathsep.join(paths)})
    p.data = tmp_path_factory.mktemp("data")
    p.start()
    yield p, step
    p.stop()


def test_a_step_back_costs_nothing_and_holds_nothing_up(
    stepping: tuple[Platform, Path], book: Book
) -> None:
    """Scaling to zero, waking, rolling out and restarting take their usual time an hour ago, too."""
    platform, step = stepping
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("sleepy", minReplicas=0))
    with load(platform, "iris") as seen:
        step.write_text("-3600")
        platform.run("apply", "-f", "-", "--wait", stdin=manifest("later"))
        # The new service's time is an hour before that of the first: the step was seen.
        times = [platform.service(n)["metadata"]["creationTimestamp"] for n in ("later", "iris")]
        assert times[0] < times[1], times
        until(lambda: not running(platform, "sleepy"), "sleep, two seconds after the last request")
        began = time.monotonic()
        url = f"{platform.http}/v1/models/sleepy:predict"
        assert httpx.post(url, json=V1, timeout=20).status_code == 200
        assert time.monotonic() - began < 15  # an hour, if the wall clock counted
        changed = json.loads(manifest("iris"))
        changed["spec"]["predictor"]["sklearn"]["env"] = [{"name": "A", "value": "b"}]
        platform.run("apply", "-f", "-", "--wait", stdin=json.dumps(changed))
        step.write_text("3600")
        before = seen.answered
        until(lambda: seen.answered > before + 200, "requests an hour ahead")
        assert running(platform, "iris")
    book.note(
        "clock stepped back an hour, then two ahead",
        f"{seen}; sleep, waking and a rollout take their usual time",
        "none",
        "every interval is measured on the monotonic clock",
    )
    assert set(seen.counts) == {"200"}, seen


def running(platform: Platform, name: str) -> list[str]:
    return [
        r["metadata"]["name"]
        for r in platform.replicas()
        if r["spec"]["service"] == name and r["status"]["phase"] in ("Starting", "Ready")
    ]
