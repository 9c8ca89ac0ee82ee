"""`penstock serve` with options: manifests at the start, sleep and waking, signals."""

from __future__ import annotations

import concurrent.futures
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from platform_harness import Platform, alive, manifest, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[Platform]:
    (folder / "sleepy.json").write_text(manifest("sleepy", minReplicas=0))
    p = Platform(folder, "-f", "sleepy.json", "--sleep-after", "4s")
    p.data = folder / "serve-data"
    p.start()
    yield p
    p.stop()


def _running(platform: Platform) -> int:
    return sum(r["status"]["phase"] not in ("Stopped", "Draining") for r in platform.replicas())


def test_manifests_are_applied_at_the_start_and_an_unused_service_sleeps(
    platform: Platform,
) -> None:
    until(lambda: "sleepy" in platform.run("get", "isvc", "-o", "name"), "the manifest")
    platform.run("wait", "sleepy", "--timeout=30s")
    until(lambda: _running(platform) == 0, "sleep")
    shown = json.loads(platform.run("get", "isvc", "sleepy", "-o", "json"))["status"]
    assert shown["modelStatus"]["states"]["activeModelState"] == "Standby"
    assert platform.run("get", "isvc", "sleepy").split().count("True") == 1  # still Ready


def test_requests_wake_it_and_all_of_them_are_answered(platform: Platform) -> None:
    until(lambda: _running(platform) == 0, "sleep")

    def ask(_: int) -> int:
        url = f"{platform.http}/v1/models/sleepy:predict"
        return httpx.post(url, json=V1, timeout=30).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {200}
    assert _running(platform) == 1


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read"), ("a: [1", "bad.yaml:1")], ids=["absent", "no YAML"]
)
def test_a_manifest_that_cannot_be_read_is_refused_before_anything_starts(
    platform: Platform, text: str | None, said: str
) -> None:
    if text is not None:
        (platform.folder / "bad.yaml").write_text(text)
    options = ("--data-dir", "other-data", "--http-port", "0", "--api-port", "0")
    code = 1 if text is not None else 2
    assert said in platform.run("serve", "-f", "bad.yaml", *options, code=code)
    assert not (platform.folder / "other-data").exists()


def test_ctrl_c_ends_everything_with_exit_code_0(platform: Platform) -> None:
    assert platform.process is not None
    pids = platform.descendants()
    platform.process.send_signal(signal.SIGINT)
    assert platform.process.wait(90) == 0
    assert not any(alive(p) for p in pids)
    assert platform.process.stdout is not None
    assert "Traceback" not in platform.process.stdout.read()
