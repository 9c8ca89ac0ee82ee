"""One body of tests over every kind of store, each against a server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from storage_fakes import File, Hub, NameNode, Repository, serving
from storage_servers import (
    AzurePlace,
    GcsPlace,
    Place,
    S3Place,
    azurite,
    gcs_emulator,
    has_npm,
    moto,
    names,
)

from penstock.errors import Forbidden, LoadError, NotFound, Unauthorized
from penstock.storage import Credentials, HdfsCredentials, HubCredentials, Settings, fetch
from penstock.storage.cache import Fetched
from penstock.storage.download import Meter, download
from penstock.storage.fetching import open_source
from penstock.storage.source import Changed
from penstock.storage.uris import parse

BIG = os.urandom(1024) * 5 * 1024  # 5 MiB: more than one chunk


class HdfsPlace(Place):
    scheme = "webhdfs"

    def __init__(self, node: NameNode) -> None:
        self.node = node
        self.root = names()
        node.user = "me"
        self.credentials = Credentials(hdfs=HdfsCredentials(namenode=node.url, user="me"))
        self.strangers = Credentials(hdfs=HdfsCredentials(namenode=node.url, user="you"))

    def put(self, path: str, data: bytes) -> None:
        self.node.put(f"{self.root}/{path}", data)

    def uri(self, path: str) -> str:
        return f"hdfs://{self.root}/{path}"


@pytest.fixture(
    scope="module",
    params=[
        "s3",
        pytest.param(
            "az",
            marks=[
                pytest.mark.skipif(not has_npm(), reason="Azurite needs npm"),
                pytest.mark.timeout(400),  # the first time npm installs it
            ],
        ),
        "gs",
        "webhdfs",
    ],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Place]:
    cwd = tmp_path_factory.mktemp(request.param)
    if request.param == "s3":
        with moto(cwd) as url, closing(S3Place(url)) as place:
            yield place
    elif request.param == "az":
        with azurite(cwd) as url:
            yield AzurePlace(url)
    elif request.param == "gs":
        with gcs_emulator(cwd) as url:
            yield GcsPlace(url)
    else:
        node = NameNode()
        with serving(node.handle) as node.url:
            yield HdfsPlace(node)


@pytest.fixture
def bring(place: Place, cache: Any, settings: Settings) -> Any:
    async def bring(path: str, **more: Any) -> Fetched:
        more.setdefault("credentials", place.credentials)
        return await fetch(place.uri(path), cache=cache, settings=settings, **more)

    return bring


def read(found: Fetched) -> dict[str, bytes]:
    return {name: (found.path / name).read_bytes() for name in found.files}


async def test_a_prefix_brings_everything_below_it_and_nothing_beside_it(
    place: Place, bring: Any
) -> None:
    """`models/iris` is a folder, not the beginning of `models/iris2`."""
    place.put("models/iris/model.joblib", b"iris")
    place.put("models/iris/1/weights.bin", BIG)
    place.put("models/iris2/other.joblib", b"other")
    found = await bring("models/iris")
    assert read(found) == {"model.joblib": b"iris", "1/weights.bin": BIG}
    assert found.size_bytes == 4 + len(BIG)
    assert found.digest.startswith("sha256:")
    assert (await bring("models/iris/")).digest == found.digest


async def test_one_object_is_a_folder_with_that_file(place: Place, bring: Any) -> None:
    """A URI may name a file; its neighbours stay where they are."""
    place.put("single/model.onnx", BIG)
    place.put("single/readme.txt", b"no")
    assert read(await bring("single/model.onnx")) == {"model.onnx": BIG}


async def test_names_with_odd_characters_survive(place: Place, bring: Any) -> None:
    """Spaces, percent signs, plus, and letters beyond ASCII are names like any other."""
    name = "a b%20+ä/c=d&e.txt"
    place.put(f"odd/{name}", b"1")
    assert read(await bring("odd")) == {name: b"1"}


async def test_empty_files_are_files(place: Place, bring: Any) -> None:
    """A package's __init__.py is empty, and missed when it is not there."""
    place.put("package/__init__.py", b"")
    place.put("package/model.py", b"x = 1")
    assert read(await bring("package")) == {"__init__.py": b"", "model.py": b"x = 1"}


async def test_an_archive_is_unpacked(place: Place, bring: Any, tmp_path: Path) -> None:
    """One object called .zip is the files in it."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.zip", "w") as z:
        z.writestr("1/model.onnx", b"onnx")
    place.put("packed/m.zip", (tmp_path / "m.zip").read_bytes())
    assert read(await bring("packed/m.zip")) == {"1/model.onnx": b"onnx"}


async def test_a_second_fetch_downloads_nothing_and_a_change_is_another_model(
    place: Place, bring: Any, cache: Any
) -> None:
    """The listing decides; the old content stays what it was."""
    place.put("changing/model.bin", b"one")
    first = await bring("changing")
    again = await bring("changing")
    assert (again, cache.begun) == (first, 1)
    place.put("changing/model.bin", b"two")
    second = await bring("changing")
    assert second.digest != first.digest
    assert read(first) == {"model.bin": b"one"}
    assert read(second) == {"model.bin": b"two"}


async def test_what_is_not_there_is_said_with_what_was_looked_for(place: Place, bring: Any) -> None:
    """NotFound names both readings of the URI."""
    with pytest.raises(NotFound) as caught:
        await bring("no/such/model")
    assert place.uri("no/such/model") in str(caught.value)
    assert "no/such/model" in str(caught.value).replace(place.uri("no/such/model"), "")


async def test_wrong_credentials_are_refused_also_for_what_is_cached(
    place: Place, bring: Any
) -> None:
    """A cache is no way around a store's own access control."""
    if place.strangers is None:
        pytest.skip("this server checks nobody")
    place.put("private/model.bin", b"secret")
    with pytest.raises((Unauthorized, Forbidden)):
        await bring("private", credentials=place.strangers)
    await bring("private")
    with pytest.raises((Unauthorized, Forbidden)) as caught:
        await bring("private", credentials=place.strangers)
    assert place.uri("private") in str(caught.value)


async def test_many_callers_share_one_download(place: Place, bring: Any, cache: Any) -> None:
    """Ten services with one model are one download."""
    place.put("shared/model.bin", BIG)
    found = await asyncio.gather(*(bring("shared", pin=f"r{i}") for i in range(10)))
    assert len({f.digest for f in found}) == 1
    assert cache.begun == 1
    assert {p.owner for p in cache.pins()} >= {f"r{i}" for i in range(10)}


async def test_an_object_that_changes_after_it_was_listed_is_never_mixed(
    place: Place, settings: Settings, tmp_path: Path
) -> None:
    """Of the same length, so that only its version tells."""
    place.put("swapped/model.bin", b"a" * 1000)
    location = parse(place.uri("swapped/model.bin"))
    source = open_source(location, place.credentials, settings)
    try:
        listing = await source.list()
        place.put("swapped/model.bin", b"b" * 1000)
        with pytest.raises(Changed):
            await download(
                source,
                listing.entries[0],
                tmp_path / "part",
                settings=settings,
                meter=Meter(),
                most_bytes=10**6,
            )
        assert (tmp_path / "part").stat().st_size == 0
    finally:
        await source.close()


async def test_markers_of_folders_are_no_files(place: Place, bring: Any) -> None:
    """Consoles make empty objects that end in a slash."""
    if place.scheme not in ("s3", "gs"):
        pytest.skip("a name cannot end in a slash here")
    place.put("marked/", b"")
    place.put("marked/1/", b"")
    place.put("marked/1/model.bin", b"x")
    assert read(await bring("marked")) == {"1/model.bin": b"x"}


async def test_a_missing_bucket_is_said(place: Place, cache: Any, settings: Settings) -> None:
    """Its name is in the message."""
    uri = place.uri("x").replace(place.uri("").split("/")[2], "nobody-has-this")
    with pytest.raises(NotFound, match="nobody-has-this"):
        await fetch(uri, cache=cache, settings=settings, credentials=place.credentials)


class TestHub:
    """Hugging Face: commits instead of objects' versions."""

    @pytest.fixture
    def hub(self) -> Iterator[Hub]:
        hub = Hub()
        with serving(hub.handle) as hub.url:
            yield hub

    async def fetch(
        self, hub: Hub, uri: str, cache: Any, settings: Settings, token: str = ""
    ) -> Fetched:
        credentials = Credentials(hub=HubCredentials(token, endpoint=hub.url))
        return await fetch(uri, cache=cache, settings=settings, credentials=credentials)

    async def test_a_repository_comes_whole(self, hub: Hub, cache: Any, settings: Settings) -> None:
        """Every file of the commit, LFS files checked by the digest the hub publishes."""
        files = {"config.json": b"{}", "onnx/model.onnx": BIG, "leer.txt": b""}
        hub.repositories["org/tiny"] = Repository(files, lfs={"onnx/model.onnx"})
        found = await self.fetch(hub, "hf://org/tiny", cache, settings)
        assert read(found) == files
        again = await self.fetch(hub, "hf://org/tiny:v1", cache, settings)
        assert (again, cache.begun) == (found, 1)

    async def test_bytes_that_differ_from_the_published_digest_are_refused(
        self, hub: Hub, cache: Any, settings: Settings
    ) -> None:
        """A broken mirror does not become a model."""
        hub.repositories["org/tiny"] = Repository(
            {"w.bin": b"right"}, lfs={"w.bin"}, instead={"w.bin": File(b"wrong")}
        )
        with pytest.raises(LoadError, match=r"w\.bin arrived with other bytes"):
            await self.fetch(hub, "hf://org/tiny", cache, settings)
        hub.repositories["org/tiny"].instead.clear()
        assert read(await self.fetch(hub, "hf://org/tiny", cache, settings)) == {"w.bin": b"right"}

    async def test_a_token_goes_to_the_hub_and_opens_private_repositories(
        self, hub: Hub, cache: Any, settings: Settings
    ) -> None:
        """Without it the answer says what may be the matter."""
        hub.repositories["org/private"] = Repository({"a": b"1"}, token="hf_secret")
        with pytest.raises(Unauthorized, match="HF_TOKEN"):
            await self.fetch(hub, "hf://org/private", cache, settings)
        found = await self.fetch(hub, "hf://org/private", cache, settings, token="hf_secret")
        assert read(found) == {"a": b"1"}
        with pytest.raises((NotFound, Unauthorized)) as caught:
            await self.fetch(hub, "hf://org/private", cache, settings, token="hf_other")
        assert "hf_other" not in str(caught.value)

    async def test_a_gated_model_in_the_cache_is_not_for_everybody(
        self, hub: Hub, cache: Any, settings: Settings
    ) -> None:
        """Its listing is public, its files are not."""
        hub.repositories["org/gated"] = Repository({"a": b"1"}, token="hf_ok", gated=True)
        await self.fetch(hub, "hf://org/gated", cache, settings, token="hf_ok")
        with pytest.raises(Unauthorized):
            await self.fetch(hub, "hf://org/gated", cache, settings)

    async def test_a_download_on_its_way_is_not_for_everybody_either(
        self, hub: Hub, cache: Any, settings: Settings
    ) -> None:
        """Who joins it proves the same rights as who began it."""
        stalling = File(BIG, stall_after=2_000_000)
        hub.repositories["org/gated"] = Repository(
            {"a": BIG}, token="hf_ok", gated=True, instead={"a": stalling}
        )
        task = asyncio.create_task(
            self.fetch(hub, "hf://org/gated", cache, settings, token="hf_ok")
        )
        await asyncio.to_thread(stalling.stalled.wait, 30)
        with pytest.raises(Unauthorized):
            await self.fetch(hub, "hf://org/gated", cache, settings)
        assert not task.done()
        stalling.go.set()
        assert read(await task) == {"a": BIG}

    async def test_what_is_not_there(self, hub: Hub, cache: Any, settings: Settings) -> None:
        """A repository and a revision are told apart."""
        hub.repositories["org/tiny"] = Repository({"a": b"1"})
        with pytest.raises(Unauthorized, match="no public repository org/none"):
            await self.fetch(hub, "hf://org/none", cache, settings)
        with pytest.raises(NotFound, match="no revision 'v9'"):
            await self.fetch(hub, "hf://org/tiny:v9", cache, settings)

    async def test_the_environments_token_is_not_used(
        self, hub: Hub, cache: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is this process's, not the service's."""
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        hub.repositories["org/tiny"] = Repository({"a": b"1"})
        await self.fetch(hub, "hf://org/tiny", cache, settings)
        assert hub.seen
        assert all("authorization" not in s.headers for s in hub.seen)
