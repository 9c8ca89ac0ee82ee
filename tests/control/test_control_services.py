"""The service controller over a real store, with a backend and files that do what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.control.control_world import ControlWorld
from tests.control.control_world import sklearn_service as manifest

from penstock.backends.base import Phase
from penstock.control.revisions import REVISION, from_object
from penstock.control.settings import ControlSettings
from penstock.domain.annotations import RESTARTED_AT
from penstock.errors import NotFound, Unavailable
from penstock.store.base import Key, Kind
from penstock.store.sqlite import SqliteStore

ISVC = Kind("penstock.dev", "InferenceService")
GRACE_S = 300.0


class World(ControlWorld):
    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store, settings=ControlSettings(cores=4, scale_to_zero_grace_s=GRACE_S))

    async def get(self, name: str = "iris") -> dict[str, Any]:
        return await self.store.get(Key(ISVC, "default", name))

    async def ready(
        self, name: str = "iris", status: str = "True", reason: str | None = None
    ) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            obj = await self.get(name)
            shown = obj.get("status", {})
            c = next((c for c in shown.get("conditions", ()) if c["type"] == "Ready"), None)
            if c is None or shown["observedGeneration"] != obj["metadata"]["generation"]:
                return None
            return c if c["status"] == status and reason in (None, c.get("reason")) else None

        return await self.until(look)

    async def revisions(self, name: str = "iris") -> list[str]:
        listing = await self.store.list(
            REVISION, namespace="default", labels={"penstock.dev/service": name}
        )
        return [o["metadata"]["name"] for o in listing.items]

    async def events(self, name: str = "iris") -> list[str]:
        events = await self.store.events(about=Key(ISVC, "default", name))
        return [e["reason"] for e in events]

    def routed(self, name: str = "iris") -> list[str]:
        route = self.plane.routes.get(f"default/{name}")
        return [r.id for t in route.targets for r in t.replicas] if route is not None else []


@pytest.fixture
async def world() -> AsyncIterator[World]:
    store = await SqliteStore.in_memory()
    w = World(store)
    await w.plane.start()
    yield w
    await w.plane.close()
    await store.close()


async def test_from_a_manifest_to_a_ready_service(world: World) -> None:
    await world.apply(manifest(minReplicas=2))
    await world.ready()
    await world.until(lambda: len(world.routed()) == 2)
    assert await world.revisions() == ["iris-00001"]
    (obj,) = (await world.store.list(REVISION)).items
    kept = from_object(obj)
    assert kept.ready_at is not None
    assert kept.revision.framework == "sklearn"
    spec = world.backend.specs[world.routed()[0]]
    assert spec.models[0].path == "/models/sha256:models/iris"
    assert spec.threads == 2
    status = (await world.get())["status"]
    assert status["components"]["predictor"]["latestReadyRevision"] == "iris-00001"
    assert status["url"] == "http://127.0.0.1:8080/serving/default/iris"
    assert await world.events() == ["RevisionCreated", "RevisionReady", "Ready"]


async def test_a_settled_service_is_looked_at_no_more_and_writes_nothing_more(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.settled()
    version = world.store.version
    looks = world.plane.loop.looks
    world.plane.loop.enqueue(("default", "iris"))
    await world.settled()
    assert world.store.version == version
    assert world.plane.loop.looks == looks + 1


async def test_a_change_serves_when_ready_and_the_old_replicas_are_drained(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    (old,) = world.routed()
    world.backend.behave = lambda replica_id, spec: Phase.STARTING
    await world.apply(manifest(uri="models/other"))
    new = await world.until(
        lambda: next((i for i in world.backend.started if "iris-00002" in i), None)
    )
    assert world.routed() == [old]
    assert world.backend.stopped == []
    world.backend.set(new, Phase.READY)
    await world.ready()
    assert world.routed() == [new]
    await world.until(lambda: world.backend.stopped == [old])


async def test_a_change_of_scale_is_no_new_revision(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.apply(manifest(minReplicas=3))
    await world.until(lambda: len(world.routed()) == 3)
    assert await world.revisions() == ["iris-00001"]
    assert world.files.fetched == ["models/iris"]


async def test_a_broken_revision_leaves_the_old_one_serving_and_a_good_one_follows(
    world: World,
) -> None:
    await world.apply(manifest())
    await world.ready()
    (old,) = world.routed()
    world.backend.behave = lambda replica_id, spec: Phase.FAILED
    await world.apply(manifest(uri="models/broken"))
    condition = await world.ready(status="False", reason="ModelLoadFailed")
    assert "EOFError: the file is empty" in condition["message"]
    assert "iris-00001 keeps serving" in condition["message"]
    assert world.routed() == [old]
    failure = (await world.get())["status"]["modelStatus"]["lastFailureInfo"]
    assert failure["modelRevisionName"] == "iris-00002"

    world.backend.behave = lambda replica_id, spec: Phase.READY
    await world.apply(manifest(uri="models/good"))
    await world.ready()
    assert "iris-00003" in world.routed()[0]
    await world.until(lambda: len(world.backend.replicas) == 1)


async def test_files_that_are_not_there_yet_are_tried_again_and_the_reason_is_said(
    world: World,
) -> None:
    world.files.by_uri["models/iris"] = NotFound("There is nothing at models/iris.")
    await world.apply(manifest())
    condition = await world.ready(status="False", reason="FetchFailed")
    assert condition["message"] == "There is nothing at models/iris."
    route = world.plane.routes.get("default/iris")
    assert route is not None
    assert "nothing at models/iris" in route.message
    del world.files.by_uri["models/iris"]
    await world.clock.advance(1.0)
    await world.ready()
    assert world.files.fetched == ["models/iris"] * 2


async def test_progress_of_a_fetch_is_in_the_status(world: World) -> None:
    gate = world.files.by_uri["models/iris"] = asyncio.Event()
    await world.apply(manifest())

    async def progress() -> bool:
        conditions = (await world.get()).get("status", {}).get("conditions", ())
        return any("1.0 MB of 2.0 MB" in c.get("message", "") for c in conditions)

    await world.until(progress)
    gate.set()
    await world.ready()


async def test_a_manifest_that_changes_during_its_fetch_is_fetched_anew(world: World) -> None:
    world.files.by_uri["models/slow"] = asyncio.Event()
    await world.apply(manifest(uri="models/slow"))
    await world.until(lambda: world.files.fetched)
    await world.apply(manifest(uri="models/fast"))
    await world.ready()
    assert await world.revisions() == ["iris-00001"]
    assert world.backend.specs[world.routed()[0]].models[0].path.endswith("models/fast")


async def test_files_that_changed_become_a_revision_only_when_asked_for(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    world.files.by_uri["models/iris"] = "sha256:retrained"
    world.plane.loop.enqueue(("default", "iris"))
    await world.settled()
    assert await world.revisions() == ["iris-00001"]
    world.plane.services.refresh(("default", "iris"))
    await world.until(lambda: any("iris-00002" in i for i in world.routed()))
    world.plane.services.refresh(("default", "iris"))  # nothing changed since
    await world.settled()
    assert await world.revisions() == ["iris-00001", "iris-00002"]


async def test_a_refresh_that_fails_touches_nothing_that_runs(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    (old,) = world.routed()
    world.files.by_uri["models/iris"] = NotFound("There is nothing at models/iris.")
    world.plane.services.refresh(("default", "iris"))
    await world.settled()
    await world.until(lambda: _has(world, "RefreshFailed"))
    assert world.routed() == [old]
    await world.ready()


async def _has(world: World, reason: str) -> bool:
    return reason in await world.events()


async def test_a_restart_mark_makes_a_revision_of_the_same_files(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.apply(manifest(annotations={RESTARTED_AT: "2026-01-01T00:00:00Z"}))
    await world.until(lambda: any("iris-00002" in i for i in world.routed()))


async def test_deleting_stops_everything_and_leaves_nothing(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.store.delete(Key(ISVC, "default", "iris"))
    await world.until(lambda: not world.backend.replicas)
    await world.until(lambda: world.plane.routes.get("default/iris") is None)
    await world.settled()
    assert await world.revisions() == []
    assert world.files.pinned == set()


async def test_deleted_and_applied_again_at_once_is_another_service(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    (old,) = world.routed()
    await world.store.delete(Key(ISVC, "default", "iris"))
    await world.apply(manifest(uri="models/other"))
    await world.ready()
    (new,) = world.routed()
    assert new != old
    await world.until(lambda: list(world.backend.replicas) == [new])
    assert await world.revisions() == ["iris-00001"]


async def test_a_new_control_plane_finds_everything_as_it_was(world: World) -> None:
    await world.apply(manifest(minReplicas=2))
    await world.ready()
    await world.until(lambda: len(world.routed()) == 2)
    before = (world.routed(), list(world.backend.started), await world.events())
    await world.restart()
    await world.settled()
    assert (world.routed(), list(world.backend.started), await world.events()) == before
    assert world.backend.stopped == []


async def test_what_was_deleted_while_nobody_looked_is_stopped(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.plane.close()
    await world.store.delete(Key(ISVC, "default", "iris"))
    assert world.backend.replicas
    await world.restart()
    await world.until(lambda: not world.backend.replicas)


async def test_after_the_node_was_killed_everything_starts_again_without_a_new_revision(
    world: World,
) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.plane.close()
    world.backend.lose_all()
    await world.restart()
    await world.until(lambda: len(world.routed()) == 1)
    assert await world.revisions() == ["iris-00001"]
    assert world.files.fetched == ["models/iris"]


async def test_files_that_are_gone_from_the_cache_are_fetched_again(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.plane.close()
    world.backend.lose_all()
    world.files.missing.add("/models/sha256:models/iris")
    await world.restart()
    await world.settled()
    await world.clock.advance(2.0)
    await world.until(lambda: len(world.routed()) == 1)
    assert world.files.fetched == ["models/iris"] * 2
    assert await world.revisions() == ["iris-00001"]


async def test_while_the_backend_is_away_nothing_is_decided_and_then_all_is_done(
    world: World,
) -> None:
    world.backend.away = True
    await world.apply(manifest())
    await world.until(lambda: world.plane.loop.failed)
    world.backend.away = False
    await world.clock.advance(5.0)
    await world.ready()


async def test_a_replica_that_dies_leaves_the_route_and_is_told_of(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    (id_,) = world.routed()
    world.backend.set(id_, Phase.BACKOFF, restarts=1, reason="OutOfMemory", message="used 600 MB")
    condition = await world.ready(status="False", reason="RuntimeUnhealthy")
    assert "used 600 MB" in condition["message"]
    assert world.routed() == []
    world.backend.set(id_, Phase.READY, restarts=1)
    await world.ready()
    assert world.routed() == [id_]
    assert "ReplicaEnded" in await world.events()


async def test_only_the_last_ten_revisions_are_kept(world: World) -> None:
    for i in range(13):
        await world.apply(manifest(uri=f"models/{i}"))
        await world.until(lambda i=i: any(f"iris-{i + 1:05d}" in r for r in world.routed()))
    await world.settled()
    names = await world.revisions()
    assert names == [f"iris-{n:05d}" for n in range(4, 14)]
    assert len(world.files.pinned) == 10


async def test_no_runtime_for_the_format_is_said_and_one_that_is_applied_later_is_used(
    world: World,
) -> None:
    obj = manifest()
    obj["spec"]["predictor"] = {
        "model": {"modelFormat": {"name": "ours"}, "storageUri": "models/ours"}
    }
    await world.apply(obj)
    condition = await world.ready(status="False", reason="NoSupportingRuntime")
    assert "ours" in condition["message"]
    assert world.files.fetched == []


async def test_a_container_is_refused_where_containers_cannot_run(world: World) -> None:
    obj = manifest()
    obj["spec"]["predictor"] = {"containers": [{"name": "kserve-container", "image": "me/mine:1"}]}
    await world.apply(obj)
    condition = await world.ready(status="False", reason="InvalidPredictorSpec")
    assert "me/mine:1" in condition["message"]
    assert world.backend.started == []


async def test_a_secret_that_is_missing_is_said_and_found_when_it_is_applied(world: World) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    obj = manifest()
    obj["spec"]["predictor"]["sklearn"]["env"] = env
    await world.apply(obj)
    condition = await world.ready(status="False", reason="InvalidPredictorSpec")
    assert "Secret s" in condition["message"]
    await world.store.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "namespace": "default"},
            "data": {"k": "aHVzaA=="},
        }
    )
    await world.ready()
    assert world.backend.specs[world.routed()[0]].env == {"TOKEN": "hush"}
    revision = (await world.store.list(REVISION)).items[0]
    assert "hush" not in str(revision)
    assert "hush" not in str(await world.store.events())


async def test_a_secret_of_another_namespace_is_none(world: World) -> None:
    await world.store.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "namespace": "other"},
            "data": {"k": "aHVzaA=="},
        }
    )
    obj = manifest()
    obj["spec"]["predictor"]["sklearn"]["env"] = [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    ]
    await world.apply(obj)
    await world.ready(status="False", reason="InvalidPredictorSpec")


# -- sleep ------------------------------------------------------------------------------------------


async def test_an_unused_service_falls_asleep_and_a_request_wakes_it(world: World) -> None:
    await world.apply(manifest(minReplicas=0))
    await world.ready()
    (first,) = world.routed()
    await world.clock.advance(GRACE_S / 2)
    world.plane.services.wake("default", "iris")  # used
    await world.clock.advance(GRACE_S / 2 + 1)
    await world.settled()
    assert world.routed() == [first]
    await world.clock.advance(GRACE_S)
    await world.ready(reason="Asleep")
    await world.until(lambda: not world.backend.replicas)
    route = world.plane.routes.get("default/iris")
    assert route is not None
    assert [t.revision for t in route.targets] == ["iris-00001"]

    world.plane.services.wake("default", "iris")
    await world.until(lambda: world.routed())
    world.plane.services.wake("default", "nobody")  # a stale gateway
    assert await world.revisions() == ["iris-00001"]


async def test_a_service_is_unloaded_on_request_if_it_may_sleep(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    route = world.plane.routes.get("default/iris")
    assert route is not None
    assert not route.may_sleep
    world.plane.services.sleep(("default", "iris"))
    await world.settled()
    assert world.routed(), "it keeps a replica by its manifest"
    await world.apply(manifest(minReplicas=0))
    await world.until(
        lambda: (r := world.plane.routes.get("default/iris")) is not None and r.may_sleep
    )
    world.plane.services.sleep(("default", "nobody"))
    world.plane.services.sleep(("default", "iris"))
    await world.ready(reason="Asleep")
    await world.until(lambda: not world.backend.replicas)
    assert "Unloaded" in {e["reason"] for e in await world.store.events()}
    world.plane.services.wake("default", "iris")
    await world.until(lambda: world.routed())


async def test_two_dialects_share_the_names_and_the_older_manifest_has_it(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    kserve = {**manifest(uri="models/theirs"), "apiVersion": "serving.kserve.io/v1beta1"}
    await world.store.create(kserve)
    await world.settled()
    assert world.files.fetched == ["models/iris"]
    events = await world.store.events(
        about=Key(Kind("serving.kserve.io", "InferenceService"), "default", "iris")
    )
    assert [e["reason"] for e in events] == ["NameTaken"]
    await world.store.delete(Key(ISVC, "default", "iris"))
    await world.until(lambda: "models/theirs" in world.files.fetched)


async def test_a_stopped_service_stops_and_comes_back(world: World) -> None:
    await world.apply(manifest())
    await world.ready()
    await world.apply(manifest(annotations={"serving.kserve.io/stop": "true"}))
    await world.ready(status="False", reason="Stopped")
    await world.until(lambda: not world.backend.replicas)
    await world.apply(manifest())
    await world.ready()
    assert await world.revisions() == ["iris-00001"]


async def test_a_start_that_is_refused_once_is_tried_again(world: World) -> None:
    start = world.backend.start
    tries = 0

    async def flaky(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("too busy")
        return await start(*args)

    world.backend.start = flaky  # type: ignore[method-assign]
    await world.apply(manifest())
    await world.until(lambda: tries)
    await world.settled()
    await world.clock.advance(1.0)
    await world.ready()


async def test_applying_the_same_again_gives_replicas_that_gave_up_another_chance(
    world: World,
) -> None:
    world.backend.behave = lambda replica_id, spec: Phase.FAILED
    await world.apply(manifest())
    await world.ready(status="False", reason="ModelLoadFailed")
    world.backend.behave = lambda replica_id, spec: Phase.READY  # the missing package was installed
    world.plane.services.refresh(("default", "iris"))
    await world.ready()
    assert await world.revisions() == ["iris-00001"]


async def test_ready_is_said_only_when_gateways_know_the_route(
    world: World, tmp_path: Path
) -> None:
    await world.plane.routes.serve(tmp_path / "routes.sock")
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "routes.sock"))
    applied = asyncio.Event()
    held: list[int] = []

    async def gateway() -> None:
        while line := await reader.readline():
            held.append(json.loads(line)["sequence"])
            if applied.is_set():
                writer.write(b'{"ack":%d}\n' % held[-1])

    reading = asyncio.create_task(gateway())
    world.plane.services._settings = replace(world.plane.settings, ready_applied_s=60.0)
    await world.apply(manifest())
    await world.until(world.routed)
    await asyncio.sleep(0.05)
    conditions = (await world.get()).get("status", {}).get("conditions", ())
    assert "True" not in [c["status"] for c in conditions if c["type"] == "Ready"]
    applied.set()
    writer.write(b'{"ack":%d}\n' % held[-1])
    await world.ready()
    reading.cancel()
    writer.close()
