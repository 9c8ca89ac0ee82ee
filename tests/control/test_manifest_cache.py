"""The manifests in memory: what the watch says of an end is not undone by an answer that was under way."""

from __future__ import annotations

from typing import Any

from penstock.control.manifests import ManifestCache
from penstock.store.base import Change, ChangeType, Key, Kind

KIND = Kind("penstock.dev", "InferenceService")
NAME = ("default", "iris")


def service(version: int, uid: str = "a") -> dict[str, Any]:
    namespace, name = NAME
    meta = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": meta}


def deleted(version: int) -> Change:
    return Change(ChangeType.DELETED, Key(KIND, *NAME), service(version), version)


def test_a_write_of_our_own_is_known_before_the_watch_tells_it() -> None:
    cache = ManifestCache([KIND])
    cache.put(KIND, service(1))
    cache.wrote(KIND, service(2))
    assert cache.get(NAME) == (KIND, service(2))
    cache.wrote(KIND, service(1))
    assert cache.get(NAME) == (KIND, service(2))


def test_a_deletion_that_overtakes_the_answer_to_a_write_is_kept() -> None:
    cache = ManifestCache([KIND])
    cache.put(KIND, service(1))
    cache.take(deleted(3))
    cache.wrote(KIND, service(2))
    assert cache.get(NAME) is None
    cache.put(KIND, service(4, uid="b"))
    cache.wrote(KIND, service(5, uid="a"))
    assert cache.get(NAME) == (KIND, service(4, uid="b"))
