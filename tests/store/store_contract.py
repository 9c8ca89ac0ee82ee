"""What every store must do. Implementations run it by subclassing `StoreContract`, with a `store` fixture.

The store of the fixture keeps at least 1,000 changes and has the clock of `clock`.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.domain.selectors import FieldSelector, LabelSelector
from penstock.errors import Conflict, InvalidInput, NotFound, TooLarge
from penstock.store.base import EVENT, Change, ChangeType, Expired, Key, Kind, Object, Store

SERVICE = Kind("penstock.dev", "InferenceService")
RUNTIME = Kind("penstock.dev", "ClusterServingRuntime")


class Clock:
    """Unix seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def service(name: str = "iris", namespace: str = "default", **metadata: Any) -> Object:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"predictor": {"sklearn": {"storageUri": "models/iris"}}},
    }


def runtime(name: str) -> Object:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ClusterServingRuntime",
        "metadata": {"name": name},
        "spec": {"framework": "sklearn"},
    }


def key(name: str = "iris", namespace: str = "default") -> Key:
    return Key(SERVICE, namespace, name)


async def take(watch: AsyncIterator[Change], count: int) -> list[Change]:
    return [await asyncio.wait_for(anext(watch), 10) for _ in range(count)]


def names(objects: list[Object]) -> list[str]:
    return [o["metadata"]["name"] for o in objects]


class StoreContract:
    # --- create and get

    async def test_a_created_object_gets_what_the_store_owns(self, store: Store) -> None:
        made = await store.create(service())
        metadata = made["metadata"]
        assert metadata["generation"] == 1
        assert metadata["creationTimestamp"] == "2023-11-14T22:13:20Z"
        assert isinstance(metadata["resourceVersion"], str)
        assert int(metadata["resourceVersion"]) > 0
        assert len(metadata["uid"]) == 36
        assert await store.get(key()) == made

    async def test_what_is_applied_is_kept_as_it_was(self, store: Store) -> None:
        given = service(annotations={"b": "2", "a": "1"}, managedFields=[{"manager": "kubectl"}])
        given["spec"] = {"z": [1, 2.5, None, True, "ü"], "a": {}, "big": 2**63}
        before = copy.deepcopy(given)
        await store.create(given)
        kept = await store.get(key())
        assert given == before
        assert kept["spec"] == before["spec"]
        assert list(kept["spec"]) == ["z", "a", "big"]
        assert kept["metadata"]["managedFields"] == [{"manager": "kubectl"}]
        assert list(kept["metadata"]["annotations"]) == ["b", "a"]

    async def test_a_users_status_uid_and_versions_are_not_taken(self, store: Store) -> None:
        given = service(uid="mine", resourceVersion="77", generation=9, deletionTimestamp="x")
        given["status"] = {"ready": True}
        made = await store.create(given)
        assert "status" not in made
        assert made["metadata"]["uid"] != "mine"
        assert made["metadata"]["generation"] == 1
        assert "deletionTimestamp" not in made["metadata"]

    async def test_creating_twice_is_a_conflict(self, store: Store) -> None:
        await store.create(service())
        with pytest.raises(Conflict, match="InferenceService default/iris already exists"):
            await store.create(service())

    async def test_the_same_name_in_another_namespace_or_kind_is_another_object(
        self, store: Store
    ) -> None:
        await store.create(service())
        await store.create(service(namespace="other"))
        await store.create(runtime("iris"))
        assert (await store.get(Key(RUNTIME, "", "iris")))["kind"] == "ClusterServingRuntime"

    async def test_a_missing_object_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="InferenceService default/iris does not exist"):
            await store.get(key())

    async def test_many_are_read_at_once_as_each_would_be(self, store: Store) -> None:
        a, b = await store.create(service("a")), await store.create(runtime("b"))
        of_b = Key(RUNTIME, "", "b")
        found = await store.get_many([of_b, key("missing"), key("a")])
        assert found == {of_b: b, key("a"): a}
        assert await store.get_many([]) == {}

    async def test_generate_name_makes_a_name(self, store: Store) -> None:
        given = service(generateName="job-")
        del given["metadata"]["name"]
        one, two = await store.create(given), await store.create(given)
        assert one["metadata"]["name"].startswith("job-")
        assert len(one["metadata"]["name"]) == len("job-") + 5
        assert one["metadata"]["name"] != two["metadata"]["name"]

    @pytest.mark.parametrize(
        "broken",
        [
            {},
            {"apiVersion": "v1", "kind": "Secret"},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": ""}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": 7}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": 7}},
            {"apiVersion": 1, "kind": "Secret", "metadata": {"name": "x"}},
            {"apiVersion": "v1", "metadata": {"name": "x"}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": object()},
        ],
    )
    async def test_what_is_no_object_is_refused(self, store: Store, broken: Any) -> None:
        with pytest.raises(InvalidInput):
            await store.create(broken)
        await store.create(service())

    async def test_an_object_of_megabytes_is_refused(self, store: Store) -> None:
        with pytest.raises(TooLarge, match="at most"):
            await store.create(service(annotations={"a": "x" * 3_000_000}))

    async def test_what_is_returned_is_the_callers_own(self, store: Store) -> None:
        made = await store.create(service())
        made["spec"]["predictor"]["sklearn"]["storageUri"] = "changed"
        got = await store.get(key())
        got["spec"].clear()
        listed = (await store.list(SERVICE)).items[0]
        assert listed["spec"]["predictor"]["sklearn"]["storageUri"] == "models/iris"

    # --- update

    async def test_an_update_replaces_and_a_new_spec_is_a_new_generation(
        self, store: Store
    ) -> None:
        made = await store.create(service())
        made["spec"]["predictor"]["sklearn"]["storageUri"] = "models/two"
        changed = await store.update(made)
        assert changed["metadata"]["generation"] == 2
        assert int(changed["metadata"]["resourceVersion"]) > int(
            made["metadata"]["resourceVersion"]
        )
        assert changed["metadata"]["uid"] == made["metadata"]["uid"]
        assert await store.get(key()) == changed

    async def test_new_labels_are_no_new_generation(self, store: Store) -> None:
        made = await store.create(service())
        made["metadata"]["labels"] = {"a": "b"}
        changed = await store.update(made)
        assert changed["metadata"]["generation"] == 1
        assert changed["metadata"]["labels"] == {"a": "b"}

    @pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0, False), (None, 0)])
    async def test_values_that_python_takes_for_equal_are_a_change(
        self, store: Store, before: Any, after: Any
    ) -> None:
        given = service()
        given["spec"] = {"value": before}
        made = await store.create(given)
        made["spec"] = {"value": after}
        assert (await store.update(made))["metadata"]["generation"] == 2

    async def test_an_update_that_changes_nothing_writes_nothing(self, store: Store) -> None:
        made = await store.create(service())
        shuffled = {k: made[k] for k in reversed(made)}
        assert await store.update(shuffled) == made
        assert (await store.list(SERVICE)).version == int(made["metadata"]["resourceVersion"])

    async def test_an_update_of_an_old_version_is_a_conflict(self, store: Store) -> None:
        made = await store.create(service())
        await store.update({**made, "spec": {"a": 1}})
        with pytest.raises(Conflict, match="changed meanwhile"):
            await store.update({**made, "spec": {"b": 1}})
        with pytest.raises(Conflict, match="changed meanwhile"):
            await store.update_status({**made, "status": {"b": 1}})
        assert (await store.get(key()))["spec"] == {"a": 1}

    async def test_an_update_without_a_version_is_refused(self, store: Store) -> None:
        await store.create(service())
        with pytest.raises(InvalidInput, match="resourceVersion"):
            await store.update(service())

    async def test_an_update_of_what_was_deleted_and_created_again_is_a_conflict(
        self, store: Store
    ) -> None:
        first = await store.create(service())
        await store.delete(key())
        second = await store.create(service())
        first["metadata"]["resourceVersion"] = second["metadata"]["resourceVersion"]
        with pytest.raises(Conflict, match="another object"):
            await store.update({**first, "spec": {}})

    async def test_an_update_of_a_missing_object_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound):
            await store.update(service(resourceVersion="1"))
        with pytest.raises(NotFound):
            await store.update_status(service(resourceVersion="1"))

    async def test_an_update_leaves_status_and_a_status_leaves_the_rest(self, store: Store) -> None:
        made = await store.create(service())
        made["status"] = {"ready": True}
        made["spec"] = {"not": "taken"}
        made["metadata"]["labels"] = {"not": "taken"}
        with_status = await store.update_status(made)
        assert with_status["status"] == {"ready": True}
        assert with_status["spec"] == service()["spec"]
        assert "labels" not in with_status["metadata"]
        assert with_status["metadata"]["generation"] == 1
        with_status["status"] = {"ready": False}
        with_status["spec"] = {"new": 1}
        updated = await store.update(with_status)
        assert updated["status"] == {"ready": True}
        assert updated["spec"] == {"new": 1}

    async def test_the_same_status_again_writes_nothing(self, store: Store) -> None:
        made = await store.create(service())
        first = await store.update_status({**made, "status": {"a": 1}})
        assert await store.update_status(first) == first

    async def test_an_update_cannot_change_what_the_store_owns(self, store: Store) -> None:
        made = await store.create(service())
        forged = copy.deepcopy(made)
        forged["metadata"] |= {
            "generation": 99,
            "creationTimestamp": "1970-01-01T00:00:00Z",
            "deletionTimestamp": "1970-01-01T00:00:00Z",
        }
        assert await store.update(forged) == made

    async def test_of_many_updates_of_one_version_one_wins(self, store: Store) -> None:
        made = await store.create(service())
        results = await asyncio.gather(
            *(store.update({**made, "spec": {"n": n}}) for n in range(20)), return_exceptions=True
        )
        won = [r for r in results if isinstance(r, dict)]
        assert len(won) == 1
        assert sum(isinstance(r, Conflict) for r in results) == 19
        assert await store.get(key()) == won[0]

    # --- delete

    async def test_delete_removes_and_returns_the_last_state(self, store: Store) -> None:
        made = await store.create(service())
        gone = await store.delete(key())
        assert gone["metadata"]["uid"] == made["metadata"]["uid"]
        with pytest.raises(NotFound):
            await store.get(key())
        with pytest.raises(NotFound):
            await store.delete(key())

    async def test_delete_of_an_old_version_is_a_conflict(self, store: Store) -> None:
        made = await store.create(service())
        old = made["metadata"]["resourceVersion"]
        new = (await store.update({**made, "spec": {}}))["metadata"]["resourceVersion"]
        with pytest.raises(Conflict):
            await store.delete(key(), version=old)
        await store.delete(key(), version=new)

    async def test_finalizers_hold_an_object_until_the_last_one_goes(
        self, store: Store, clock: Clock
    ) -> None:
        await store.create(service(finalizers=["penstock.dev/a", "penstock.dev/b"]))
        clock.now += 5
        marked = await store.delete(key())
        assert marked["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:25Z"
        assert marked["metadata"]["generation"] == 2
        assert await store.delete(key()) == marked
        marked["metadata"]["finalizers"] = ["penstock.dev/b"]
        marked = await store.update(marked)
        assert (await store.get(key()))["metadata"]["finalizers"] == ["penstock.dev/b"]
        marked["metadata"]["finalizers"] = []
        await store.update(marked)
        with pytest.raises(NotFound):
            await store.get(key())

    async def test_no_finalizer_is_added_to_what_is_being_deleted(self, store: Store) -> None:
        await store.create(service(finalizers=["penstock.dev/a"]))
        marked = await store.delete(key())
        marked["metadata"]["finalizers"].append("penstock.dev/late")
        with pytest.raises(InvalidInput, match="being deleted"):
            await store.update(marked)

    async def test_removing_finalizers_of_a_living_object_deletes_nothing(
        self, store: Store
    ) -> None:
        made = await store.create(service(finalizers=["penstock.dev/a"]))
        made["metadata"]["finalizers"] = []
        await store.update(made)
        await store.get(key())

    # --- list

    async def test_a_list_is_ordered_and_of_its_kind(self, store: Store) -> None:
        for namespace, name in (("b", "a"), ("a", "z"), ("a", "b"), ("b", "0")):
            await store.create(service(name, namespace))
        await store.create(runtime("r"))
        listing = await store.list(SERVICE)
        assert [(o["metadata"]["namespace"], o["metadata"]["name"]) for o in listing.items] == [
            ("a", "b"),
            ("a", "z"),
            ("b", "0"),
            ("b", "a"),
        ]
        assert names((await store.list(SERVICE, namespace="a")).items) == ["b", "z"]
        assert (await store.list(SERVICE, namespace="none")).items == []
        assert (await store.list(Kind("x", "Y"))).items == []
        assert names((await store.list(RUNTIME)).items) == ["r"]

    async def test_a_lists_version_is_where_a_watch_goes_on(self, store: Store) -> None:
        await store.create(service("a"))
        listing = await store.list(SERVICE)
        await store.create(service("b"))
        watch = store.watch(SERVICE, since=listing.version)
        (change,) = await take(watch, 1)
        assert change.key.name == "b"
        await watch.aclose()

    @pytest.mark.parametrize(
        ("selector", "expected"),
        [
            ("", ["a", "b", "c", "d"]),
            ("app=iris", ["a", "b"]),
            ("app==iris,tier=test", ["b"]),
            ("app!=iris", ["c", "d"]),
            ("app in (iris, digits)", ["a", "b", "c"]),
            ("app notin (iris)", ["c", "d"]),
            ("tier", ["b", "c"]),
            ("!tier", ["a", "d"]),
            ("tier,app=digits", ["c"]),
            ("app=none", []),
        ],
    )
    async def test_label_selectors(self, store: Store, selector: str, expected: list[str]) -> None:
        labels = {
            "a": {"app": "iris"},
            "b": {"app": "iris", "tier": "test"},
            "c": {"app": "digits", "tier": ""},
            "d": None,
        }
        for name, value in labels.items():
            await store.create(service(name, **({"labels": value} if value else {})))
        listing = await store.list(SERVICE, labels=LabelSelector.parse(selector))
        assert names(listing.items) == expected

    async def test_plain_labels_select_by_equality(self, store: Store) -> None:
        await store.create(service("a", labels={"x": "1", "y": "2"}))
        await store.create(service("b", labels={"x": "1"}))
        assert names((await store.list(SERVICE, labels={"x": "1", "y": "2"})).items) == ["a"]

    async def test_changed_labels_are_selected_by(self, store: Store) -> None:
        made = await store.create(service("a", labels={"x": "1"}))
        made["metadata"]["labels"] = {"x": "2"}
        await store.update(made)
        assert (await store.list(SERVICE, labels={"x": "1"})).items == []
        assert names((await store.list(SERVICE, labels={"x": "2"})).items) == ["a"]

    async def test_field_selectors(self, store: Store) -> None:
        for namespace in ("one", "two"):
            for name in ("a", "b"):
                await store.create(service(name, namespace))
        fields = FieldSelector.parse("metadata.name=a,metadata.namespace!=one")
        listing = await store.list(SERVICE, fields=fields)
        assert [o["metadata"]["namespace"] for o in listing.items] == ["two"]

    async def _pages(self, store: Store, **arguments: Any) -> list[list[str]]:
        pages, token = [], ""
        while True:
            listing = await store.list(SERVICE, continue_=token, **arguments)
            pages.append(names(listing.items))
            token = listing.continue_
            if not token:
                return pages

    async def test_pages_are_the_list_in_pieces(self, store: Store) -> None:
        for i in range(5):
            await store.create(service(f"s{i}"))
        assert await self._pages(store, limit=2) == [["s0", "s1"], ["s2", "s3"], ["s4"]]
        assert await self._pages(store, limit=5) == [["s0", "s1", "s2", "s3", "s4"]]
        assert await self._pages(store, limit=0) == [["s0", "s1", "s2", "s3", "s4"]]

    async def test_pages_of_a_selection(self, store: Store) -> None:
        for i in range(6):
            await store.create(service(f"s{i}", labels={"even": str(i % 2 == 0).lower()}))
        assert await self._pages(store, limit=2, labels={"even": "true"}) == [["s0", "s2"], ["s4"]]

    async def test_all_pages_are_of_the_first_ones_version(self, store: Store) -> None:
        """What is changed, deleted and created between pages does not show in them."""
        for i in range(6):
            await store.create(service(f"s{i}", labels={"old": "yes"}))
        first = await store.list(SERVICE, limit=2)
        assert names(first.items) == ["s0", "s1"]
        changed = await store.get(key("s2"))
        changed["metadata"]["labels"] = {"old": "no"}
        changed = await store.update({**changed, "spec": {"new": 1}})
        await store.update({**changed, "spec": {"new": 2}})
        await store.delete(key("s3"))
        await store.delete(key("s4"))
        await store.create(service("s4"))
        await store.create(service("s31"))
        await store.delete(key("s0"))
        second = await store.list(SERVICE, limit=10, continue_=first.continue_)
        assert names(second.items) == ["s2", "s3", "s4", "s5"]
        assert second.items[0]["spec"] == service()["spec"]
        assert all(o["metadata"]["labels"] == {"old": "yes"} for o in second.items)
        assert second.version == first.version
        assert second.continue_ == ""

    async def test_a_list_can_be_of_any_kept_version(self, store: Store) -> None:
        await store.create(service("a"))
        then = (await store.list(SERVICE)).version
        await store.create(service("b"))
        await store.delete(key("a"))
        old = await store.list(SERVICE, version=then)
        assert (names(old.items), old.version) == (["a"], then)
        assert names((await store.list(SERVICE)).items) == ["b"]
        paged = await store.list(SERVICE, version=then, limit=1)
        assert (names(paged.items), paged.continue_) == (["a"], "")
        with pytest.raises(Expired):
            await store.list(SERVICE, version=then + 1000)

    @pytest.mark.parametrize("token", ["x", "!", "e30=", "bnVsbA==", "WzEsMl0=", "WzEsMiwzXQ=="])
    async def test_a_token_that_no_list_gave_is_refused(self, store: Store, token: str) -> None:
        with pytest.raises(InvalidInput, match="continue token"):
            await store.list(SERVICE, continue_=token)

    async def test_kinds_are_those_of_which_there_is_an_object(self, store: Store) -> None:
        assert await store.kinds() == []
        await store.create(service())
        await store.create(runtime("r"))
        assert await store.kinds() == [RUNTIME, SERVICE]
        await store.delete(key())
        assert await store.kinds() == [RUNTIME]

    # --- watch

    async def test_a_watch_begins_with_what_exists_and_goes_on(self, store: Store) -> None:
        made = await store.create(service("a"))
        await store.create(runtime("r"))
        watch = store.watch(SERVICE)
        (first,) = await take(watch, 1)
        assert (first.type, first.key, first.object) == (ChangeType.ADDED, key("a"), made)
        waiting = asyncio.create_task(take(watch, 3))
        changed = await store.update({**made, "spec": {"a": 1}})
        await store.create(service("b"))
        await store.delete(key("a"))
        changes = await waiting
        assert [(c.type, c.key.name) for c in changes] == [
            (ChangeType.MODIFIED, "a"),
            (ChangeType.ADDED, "b"),
            (ChangeType.DELETED, "a"),
        ]
        assert changes[0].object == changed
        assert changes[2].object["spec"] == {"a": 1}
        versions = [c.version for c in changes]
        assert versions == sorted(versions)
        assert all(int(c.object["metadata"]["resourceVersion"]) == c.version for c in changes)
        await watch.aclose()

    async def test_a_watch_of_everything(self, store: Store) -> None:
        await store.create(service())
        await store.create(runtime("r"))
        watch = store.watch()
        assert {c.key.kind for c in await take(watch, 2)} == {SERVICE, RUNTIME}
        await watch.aclose()

    async def test_a_watch_resumes_from_any_kept_version(self, store: Store) -> None:
        versions = []
        for i in range(10):
            made = await store.create(service(f"s{i}"))
            versions.append(int(made["metadata"]["resourceVersion"]))
        for i, version in enumerate(versions[:-1]):
            watch = store.watch(SERVICE, since=version)
            assert [c.key.name for c in await take(watch, 9 - i)] == [
                f"s{n}" for n in range(i + 1, 10)
            ]
            await watch.aclose()

    async def test_a_version_of_the_future_has_expired(self, store: Store) -> None:
        """A client that saw another store's versions must list again, not wait for ever."""
        made = await store.create(service())
        watch = store.watch(SERVICE, since=int(made["metadata"]["resourceVersion"]) + 1000)
        with pytest.raises(Expired):
            await asyncio.wait_for(anext(watch), 10)

    async def test_the_end_of_the_last_finalizer_is_a_deletion(self, store: Store) -> None:
        await store.create(service(finalizers=["penstock.dev/a"]))
        marked = await store.delete(key())
        version = int(marked["metadata"]["resourceVersion"])
        marked["metadata"]["finalizers"] = []
        await store.update(marked)
        watch = store.watch(SERVICE, since=version)
        (change,) = await take(watch, 1)
        assert change.type is ChangeType.DELETED
        await watch.aclose()

    async def test_every_watch_gets_every_change_as_its_own_copy(self, store: Store) -> None:
        watches = [store.watch(SERVICE) for _ in range(5)]
        tasks = [asyncio.create_task(take(w, 200)) for w in watches]
        await asyncio.gather(*(store.create(service(f"s{i:03}")) for i in range(200)))
        results = await asyncio.gather(*tasks)
        assert all([c.version for c in r] == [c.version for c in results[0]] for r in results)
        assert results[0][0].object == results[1][0].object
        assert results[0][0].object is not results[1][0].object
        for watch in watches:
            await watch.aclose()

    async def test_a_watch_that_nobody_reads_holds_up_nobody(self, store: Store) -> None:
        watch = store.watch(SERVICE, since=(await store.list(SERVICE)).version)
        await asyncio.gather(*(store.create(service(f"s{i:03}")) for i in range(300)))
        assert len({c.key.name for c in await take(watch, 300)}) == 300
        await watch.aclose()

    async def test_a_watch_knows_how_far_it_has_come(self, store: Store) -> None:
        """Past changes of other kinds, too, but never past one that it still has to tell."""
        watch = store.watch(SERVICE, since=(await store.list(SERVICE)).version)
        await store.create(service("a"))
        await take(watch, 1)
        waiting = asyncio.ensure_future(anext(watch))
        other = await store.create(runtime("r"))
        async with asyncio.timeout(10):
            while watch.position < int(other["metadata"]["resourceVersion"]):
                await asyncio.sleep(0)
        assert not waiting.done()
        last = await store.create(service("b"))
        assert (await waiting).key.name == "b"
        assert watch.position < int(last["metadata"]["resourceVersion"])
        await watch.aclose()

    async def test_closing_the_store_ends_its_watches(self, store: Store) -> None:
        async def follow() -> list[Change]:
            return [change async for change in store.watch(SERVICE)]

        following = asyncio.create_task(follow())
        await store.create(service())
        await store.close()
        await asyncio.wait_for(following, 10)

    # --- events

    async def test_the_same_event_again_is_counted(self, store: Store, clock: Clock) -> None:
        made = await store.create(service())
        for _ in range(3):
            await store.record_event(
                key(), type_="Warning", reason="LoadFailed", message="no file in models/iris"
            )
            clock.now += 10
        (event,) = await store.events()
        assert event["count"] == 3
        assert event["apiVersion"] == "v1"
        assert event["kind"] == "Event"
        assert event["type"] == "Warning"
        assert event["reason"] == "LoadFailed"
        assert event["message"] == "no file in models/iris"
        assert event["firstTimestamp"] == "2023-11-14T22:13:20Z"
        assert event["lastTimestamp"] == "2023-11-14T22:13:40Z"
        assert event["involvedObject"] == {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "namespace": "default",
            "name": "iris",
            "uid": made["metadata"]["uid"],
        }
        assert event["metadata"]["namespace"] == "default"
        assert event["metadata"]["name"].startswith("iris.")

    async def test_events_are_found_by_object_and_namespace_oldest_first(
        self, store: Store, clock: Clock
    ) -> None:
        for about in (key("a"), key("b"), key("a", "other")):
            for reason in ("One", "Two"):
                await store.record_event(about, type_="Normal", reason=reason, message="m")
                clock.now += 1
        assert len(await store.events()) == 6
        assert [e["reason"] for e in await store.events(about=key("a"))] == ["One", "Two"]
        assert len(await store.events(namespace="default")) == 4
        await store.record_event(key("a"), type_="Normal", reason="One", message="m")
        assert [e["reason"] for e in await store.events(about=key("a"))] == ["Two", "One"]

    async def test_a_clock_that_is_stepped_back_loses_no_event(
        self, store: Store, clock: Clock
    ) -> None:
        for i in range(120):
            await store.record_event(key(), type_="Normal", reason="Before", message=f"m{i}")
        clock.now -= 3600
        await store.record_event(key(), type_="Normal", reason="After", message="m")
        events = await store.events()
        assert events[-1]["reason"] == "After"
        assert events[-1]["lastTimestamp"] == "2023-11-14T21:13:20Z"

    async def test_events_of_a_new_object_of_the_same_name_are_new(self, store: Store) -> None:
        for uid in ("first", "second"):
            await store.record_event(key(), type_="Normal", reason="R", message="m", uid=uid)
        assert [e["count"] for e in await store.events()] == [1, 1]

    async def test_one_objects_events_are_bounded(self, store: Store) -> None:
        await store.record_event(key("calm"), type_="Normal", reason="Ready", message="m")
        await asyncio.gather(
            *(
                store.record_event(key("wild"), type_="Warning", reason="R", message=f"m{i}")
                for i in range(150)
            )
        )
        wild = await store.events(about=key("wild"))
        assert len(wild) == 100
        assert "m149" in {e["message"] for e in wild}
        assert len(await store.events(about=key("calm"))) == 1

    async def test_events_are_watched_from_the_version_of_their_list(self, store: Store) -> None:
        await store.record_event(key("a"), type_="Normal", reason="One", message="m")
        listing = await store.list_events()
        assert [e["reason"] for e in listing.items] == ["One"]
        assert listing.items[0]["metadata"]["resourceVersion"] == str(listing.version)
        watch = store.watch_events(since=listing.version)
        for reason in ("Two", "One"):
            await store.record_event(key("a"), type_="Normal", reason=reason, message="m")
        added, counted = await take(watch, 2)
        assert (added.type, added.object["reason"]) == (ChangeType.ADDED, "Two")
        assert (counted.type, counted.object["count"]) == (ChangeType.MODIFIED, 2)
        assert counted.key == Key(EVENT, "default", listing.items[0]["metadata"]["name"])
        assert [added.version, counted.version] == [listing.version + 1, listing.version + 2]
        assert (await store.list_events()).version == counted.version
        assert (await store.list_events(namespace="other")).items == []
        await watch.aclose()

    async def test_events_that_are_pushed_out_are_told_as_deleted(self, store: Store) -> None:
        watch = store.watch_events(since=(await store.list_events()).version)
        for i in range(101):
            await store.record_event(key(), type_="Normal", reason="R", message=f"m{i}")
        *_, last, gone = await take(watch, 102)
        assert (last.type, last.object["message"]) == (ChangeType.ADDED, "m100")
        assert (gone.type, gone.object["message"]) == (ChangeType.DELETED, "m0")
        assert gone.version == (await store.list_events()).version
        await watch.aclose()

    async def test_events_that_were_changed_and_forgotten_have_expired(self, store: Store) -> None:
        await store.record_event(key(), type_="Normal", reason="R", message="m")
        for since in (-1, 1000):
            watch = store.watch_events(since=since)
            with pytest.raises(Expired):
                await asyncio.wait_for(anext(watch), 10)

    async def test_closing_the_store_ends_watches_of_events(self, store: Store) -> None:
        watch = store.watch_events(since=(await store.list_events()).version)
        following = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.wait_for(following, 10) is None
