"""What every storage test has: a cache of its own, quick settings, and none of the machine's credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_fakes import Files, serving

from penstock.storage import Cache, Settings


@pytest.fixture(autouse=True)
def _nobodys_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test opens places with what it says, never with the developer's own keys."""
    import os

    for name in os.environ:
        if name.startswith(
            ("AWS_", "AZURE_", "GOOGLE_", "HF_", "STORAGE_EMULATOR", "HDFS_", "S3_")
        ):
            monkeypatch.delenv(name)
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


class CountingCache(Cache):
    """Counts the downloads that were begun."""

    begun = 0

    def begin(self, key: str, expected_bytes: int, shown: str, *, fresh: bool) -> Path:
        self.begun += 1
        return super().begin(key, expected_bytes, shown, fresh=fresh)


@pytest.fixture
def cache(tmp_path: Path) -> CountingCache:
    return CountingCache(tmp_path / "cache", 100_000_000, grace_s=0)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        deadline_s=60, idle_s=10, connect_s=5, attempts=3, backoff_s=0.001, backoff_max_s=0.01
    )


@pytest.fixture
def web() -> Iterator[Files]:
    """A web server without TLS."""
    files = Files()
    with serving(files.handle) as files.url:
        yield files
