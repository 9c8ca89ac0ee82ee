"""What a write costs goes by what it is about, however many there are: reads and commits, counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_harness import Api, isvc
from control_fakes import FakeBackend, FakeFiles

from penstock.api import admission, readings
from penstock.api.kinds import REPLICA, by_path
from penstock.api.objects import Objects
from penstock.api.selections import Selection
from penstock.api.write_options import WriteOptions
from penstock.control.plane import ControlPlane
from penstock.control.settings import ControlSettings
from penstock.store.sqlite import SqliteStore
from penstock.store.sqlite_threads import DatabaseThread

RESOURCE = by_path()["penstock.dev", "v1alpha1", "inferenceservices"]


class Counted:
    """What a store's threads were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.transactions = 0
        submit, run = DatabaseThread.submit, DatabaseThread._run

        def submitted(thread: Any, operation: Any) -> Any:
            self.asked += 1
            return submit(thread, operation)

        def ran(thread: Any, group: Any) -> None:
            self.transactions += 1
            run(thread, group)

        monkeypatch.setattr(DatabaseThread, "submit", submitted)
        monkeypatch.setattr(DatabaseThread, "_run", ran)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """One that was not started: nobody else asks the store for anything."""
    store = await SqliteStore.open(tmp_path / "store.db")
    yield ControlPlane(store, FakeBackend(), FakeFiles(), settings=ControlSettings(cores=2))
    await store.close()


async def apply(objects: Objects, name: str) -> str:
    options = WriteOptions.read({"fieldManager": "penstock"}, "", applies=True)
    return (await objects.apply(RESOURCE, "default", name, isvc(name), options)).what


async def test_an_apply_asks_the_store_three_times(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what there is, for quotas, and to keep it; whatever number of kinds and of services there are."""
    objects = Objects(plane)
    await apply(objects, "first")
    counted = Counted(monkeypatch)
    for i in range(30):
        before = counted.asked
        assert await apply(objects, f"s{i}") == "created"
        assert counted.asked - before == 3


async def test_services_that_come_at_once_share_commits(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(plane)
    await apply(objects, "first")
    counted = Counted(monkeypatch)
    await asyncio.gather(*(apply(objects, f"s{i}") for i in range(60)))
    # Two reads and a write each; one after another it would be 180.
    assert counted.transactions < 60


async def test_json_that_is_called_yaml_is_not_read_as_yaml(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the slow way")

    monkeypatch.setattr("yaml.load", load)
    assert (await api.apply(isvc())).status_code == 201


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'  {"a": [1, 2.5, null]}\n', {"a": [1, 2.5, None]}),
        (b"{a: 1, b: [c, d]}", {"a": 1, "b": ["c", "d"]}),  # YAML's own way of writing it
        (b"a: 1\n", {"a": 1}),
    ],
)
def test_what_begins_like_json_and_is_none_is_read_as_yaml(body: bytes, read: Any) -> None:
    assert admission.parse_any(body, "application/apply-patch+yaml") == read


async def test_a_services_replicas_are_rendered_alone(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        await api.apply(isvc(f"s{i}"))
    for i in range(20):
        await api.ready(f"s{i}")
    rendered = []
    render = readings.replica_object

    def counted(replica: Any, version: int) -> Any:
        rendered.append(replica.service)
        return render(replica, version)

    monkeypatch.setattr(readings, "replica_object", counted)
    found = readings.Readings(api.plane)
    selected = Selection.read({"labelSelector": "penstock.dev/service=s7"}, REPLICA)
    listing = await found.list(REPLICA, "default", selected)
    assert [o["spec"]["service"] for o in listing.items] == ["s7"]
    assert rendered == ["s7"]
    others = Selection.read({"labelSelector": "penstock.dev/service!=s7"}, REPLICA)
    assert len((await found.list(REPLICA, None, others)).items) == 19
    assert (await found.list(REPLICA, "elsewhere", Selection())).items == []
