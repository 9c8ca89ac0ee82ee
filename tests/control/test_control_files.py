"""Fetches beside the loop, and models' files with the credentials of one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from control_fakes import FakeClock, FakeFetched, drain_ready

from penstock import dialects, storage
from penstock.control.files import write_atomic
from penstock.control.loop import Backoff
from penstock.control.models.fetches import Fetches, Files
from penstock.control.models.model_files import CachedFiles, NoFiles
from penstock.control.plan import FetchPhase, FetchState
from penstock.control.process_spec import threads_for
from penstock.domain.service import Service
from penstock.errors import LoadError, NotFound
from penstock.store.sqlite import SqliteStore

KEY = ("default", "iris")


class Jobs:
    """Fetches that end when a test says so."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Future[str]] = []
        self.progress: storage.Progress | None = None

    async def job(self, progress: storage.Progress) -> Files:
        self.progress = progress
        gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        return FakeFetched(await gate)


async def test_a_failed_fetch_is_tried_again_with_back_off_until_it_is_here() -> None:
    clock = FakeClock()
    jobs = Jobs()
    told: list[tuple[str, str]] = []
    fetches = Fetches(told.append, clock=clock, backoff=Backoff(1.0, 8.0))
    assert isinstance(fetches.want(KEY, "a", "u", jobs.job), FetchState)
    await drain_ready()
    for i, delay in enumerate((1.0, 2.0, 4.0)):
        jobs.gates[i].set_exception(LoadError(f"failure {i}"))
        await drain_ready()
        state = fetches.want(KEY, "a", "u", jobs.job)
        assert isinstance(state, FetchState)
        assert (state.phase, state.message) == (FetchPhase.FAILED, f"failure {i}")
        await clock.advance(delay - 0.1)
        assert len(jobs.gates) == i + 1
        await clock.advance(0.1)
        assert len(jobs.gates) == i + 2
        state = fetches.want(KEY, "a", "u", jobs.job)
        assert isinstance(state, FetchState)
        # Until there is something better the last failure is what is known.
        assert (state.phase, state.message) == (FetchPhase.RUNNING, f"failure {i}")
    jobs.gates[3].set_result("sha256:x")
    await drain_ready()
    assert isinstance(fetches.want(KEY, "a", "u", jobs.job), FakeFetched)
    assert len(told) == 4
    await fetches.close()


async def test_wanting_something_else_cancels_the_old_fetch() -> None:
    jobs = Jobs()
    fetches = Fetches(lambda key: None, clock=FakeClock())
    fetches.want(KEY, "a", "u", jobs.job)
    await drain_ready()
    fetches.want(KEY, "b", "u", jobs.job)
    await drain_ready()
    assert jobs.gates[0].cancelled()
    assert not jobs.gates[1].done()
    await fetches.close()
    assert jobs.gates[1].cancelled()


async def test_a_fetch_that_waits_for_its_next_try_can_be_hurried() -> None:
    jobs = Jobs()
    fetches = Fetches(lambda key: None, clock=FakeClock())
    fetches.want(KEY, "a", "u", jobs.job)
    await drain_ready()
    jobs.gates[0].set_exception(NotFound("nothing"))
    await drain_ready()
    fetches.hurry(KEY)
    fetches.hurry(("default", "nobody"))
    await drain_ready()
    assert len(jobs.gates) == 2
    await fetches.close()


async def test_only_so_many_run_at_a_time_and_progress_is_told_now_and_then() -> None:
    clock = FakeClock()
    jobs = Jobs()
    told: list[Any] = []
    fetches = Fetches(told.append, clock=clock, concurrency=2)
    for i in range(5):
        fetches.want(("default", str(i)), "a", "u", jobs.job)
    await drain_ready()
    assert len(jobs.gates) == 2
    assert jobs.progress is not None
    for n in range(100):
        jobs.progress(n, 1000, None)
    await drain_ready()
    assert len(told) == 1
    state = fetches.state(("default", "1"))
    assert state is not None
    assert (state.done_bytes, state.total_bytes) == (99, 1000)
    jobs.gates[0].set_result("sha256:x")
    await drain_ready()
    assert len(jobs.gates) == 3
    await fetches.close()


async def test_a_fault_of_our_own_in_a_fetch_is_logged_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(progress: Any) -> Files:
        raise ZeroDivisionError("inside")

    fetches = Fetches(lambda key: None, clock=FakeClock())
    fetches.want(KEY, "a", "u", broken)
    await drain_ready()
    state = fetches.state(KEY)
    assert state is not None
    assert state.phase is FetchPhase.FAILED
    assert "inside" not in state.message
    assert "inside" in caplog.text
    await fetches.close()


# -- files of models ----------------------------------------------------------------------------------


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    s = await SqliteStore.in_memory()
    yield s
    await s.close()


def service(uri: str | None = "models/iris", **predictor: Any) -> Service:
    block = {"storageUri": uri} if uri is not None else {}
    manifest = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "iris", "namespace": "team"},
        "spec": {"predictor": {"sklearn": {**block, **predictor.pop("block", {})}, **predictor}},
    }
    found = dialects.translate(manifest).object
    assert isinstance(found, Service)
    return found


def ignore(done: int, total: int | None, unpacked: object) -> None:
    return None


async def test_a_relative_uri_is_below_the_model_folder_and_its_files_are_pinned(
    store: SqliteStore, tmp_path: Path
) -> None:
    (tmp_path / "work" / "models" / "iris").mkdir(parents=True)
    (tmp_path / "work" / "models" / "iris" / "model.joblib").write_bytes(b"a model")
    cache = storage.Cache(tmp_path / "cache", 1 << 20)
    files = CachedFiles(store, cache, base_dir=tmp_path / "work")
    s = service()
    got = await files.fetch(s.namespace, s.predictor, ignore, revision="team/iris-00001/uid")
    assert (Path(str(got.path)) / "model.joblib").read_bytes() == b"a model"
    assert [p.owner for p in cache.pins()] == ["revision:team/iris-00001/uid"]
    await files.retain(["team/iris-00001/uid"])
    assert len(cache.pins()) == 1
    await files.retain([])
    assert cache.pins() == ()
    assert files.present(str(got.path))
    assert not files.present(str(tmp_path / "nothing"))
    assert files.uri(s.predictor) == "models/iris"


async def test_a_model_that_needs_no_files(store: SqliteStore, tmp_path: Path) -> None:
    manifest = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "mine", "namespace": "team"},
        "spec": {"predictor": {"python": {"class": "my_package.models:Mine"}}},
    }
    s = dialects.translate(manifest).object
    assert isinstance(s, Service)
    files = CachedFiles(store, storage.Cache(tmp_path / "cache"), base_dir=tmp_path)
    got = await files.fetch(s.namespace, s.predictor, ignore, revision="r")
    assert isinstance(got, NoFiles)
    assert files.present(str(got.path))


Used = list[tuple[str, storage.Credentials]]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    """What was fetched, with which credentials; nothing is."""
    found: Used = []

    async def fetch(uri: str, *, credentials: storage.Credentials, **more: Any) -> FakeFetched:
        found.append((uri, credentials))
        return FakeFetched("sha256:x")

    monkeypatch.setattr(storage, "fetch", fetch)
    return found


async def test_credentials_are_those_of_the_services_own_namespace(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: Used
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-this-process")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-this-process")
    for namespace, key in (("team", "of-team"), ("other", "of-other")):
        await store.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s3", "namespace": namespace},
                "data": _encoded(AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY="hush"),
            }
        )
        await store.create(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "sa", "namespace": namespace},
                "secrets": [{"name": "s3"}],
            }
        )
    cache = storage.Cache(tmp_path / "cache")
    strict = CachedFiles(store, cache, base_dir=tmp_path)
    laptop = CachedFiles(store, cache, base_dir=tmp_path, environment=True)

    await strict.fetch(
        "team", service("s3://b/m", serviceAccountName="sa").predictor, ignore, revision="r"
    )
    assert used[-1][1].s3 is not None
    assert used[-1][1].s3.access_key_id == "of-team"
    await strict.fetch("team", service("s3://b/m").predictor, ignore, revision="r")
    assert used[-1][1].s3 is None  # never this process's own, unless allowed
    await laptop.fetch("team", service("s3://b/m").predictor, ignore, revision="r")
    assert used[-1][1].s3 is not None
    assert used[-1][1].s3.access_key_id == "of-this-process"
    await laptop.fetch(
        "team", service("s3://b/m", serviceAccountName="sa").predictor, ignore, revision="r"
    )
    assert used[-1][1].s3 is not None
    assert used[-1][1].s3.access_key_id == "of-team"
    with pytest.raises(NotFound, match="ServiceAccount nobody"):
        await strict.fetch(
            "team", service("s3://b/m", serviceAccountName="nobody").predictor, ignore, revision="r"
        )


async def test_the_storage_block_reads_the_shared_secret(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: Used
) -> None:
    entry = '{"type":"s3","bucket":"ours","access_key_id":"id","secret_access_key":"hush"}'
    await store.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "storage-config", "namespace": "team"},
            "data": _encoded(minio=entry),
        }
    )
    files = CachedFiles(store, storage.Cache(tmp_path / "cache"), base_dir=tmp_path)
    s = service(None, block={"storage": {"key": "minio", "path": "models/iris"}})
    await files.fetch(s.namespace, s.predictor, ignore, revision="r")
    uri, credentials = used[-1]
    assert uri == "s3://ours/models/iris"
    assert credentials.s3 is not None
    assert credentials.s3.access_key_id == "id"


def _encoded(**values: str) -> dict[str, str]:
    import base64

    return {k: base64.b64encode(v.encode()).decode() for k, v in values.items()}


# -- small things -------------------------------------------------------------------------------------


def test_threads_are_a_share_of_the_cores() -> None:
    assert threads_for(8, 1, None) == 8
    assert threads_for(8, 3, None) == 2
    assert threads_for(2, 5, None) == 1
    assert threads_for(8, 1, 0.5) == 1
    assert threads_for(8, 1, 2.5) == 3
    assert threads_for(2, 1, 16.0) == 2


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nothing" / "f", b"x")
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path, b"x")  # cannot be renamed over: nothing half-written stays
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
