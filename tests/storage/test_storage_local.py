"""Files on this machine: copied, because a running revision must not change under its replicas."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.errors import Forbidden, LoadError, NotFound, Unsupported
from penstock.storage import Settings, fetch, local
from penstock.storage.cache import Fetched


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "iris"
    (folder / "1").mkdir(parents=True)
    (folder / "model.joblib").write_bytes(b"one")
    (folder / "1" / "data.bin").write_bytes(b"x" * 10_000_000)
    for file in (folder / "model.joblib", folder / "1" / "data.bin"):
        age(file)
    return folder


def age(file: Path) -> None:
    """Kernels stamp files by a coarse clock; wait until this one would stamp a change differently."""
    while True:
        probe = file.with_name(".probe")
        probe.write_bytes(b"")
        later = probe.stat().st_ctime_ns
        probe.unlink()
        if later - file.stat().st_ctime_ns > 60_000_000:
            return


@pytest.fixture
def bring(cache: Any, settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    async def bring(uri: str | Path, settings: Settings = settings) -> Fetched:
        return await fetch(str(uri), cache=cache, settings=settings, base_dir=tmp_path)

    return bring


async def test_a_relative_path_is_below_the_base(bring: Any, model: Path) -> None:
    """`models/iris` is where `penstock serve` was started."""
    found = await bring("models/iris")
    assert found.files == ("1/data.bin", "model.joblib")
    assert (found.path / "model.joblib").read_bytes() == b"one"
    assert (await bring(model)).digest == found.digest
    assert (await bring(f"file://{model}")).digest == found.digest


async def test_a_file_written_in_place_does_not_change_what_runs(bring: Any, model: Path) -> None:
    """`joblib.dump` truncates the old inode: a link to it would change under the replicas."""
    first = await bring("models/iris")
    with open(model / "model.joblib", "r+b") as f:
        f.write(b"TWO")
    second = await bring("models/iris")
    assert (first.path / "model.joblib").read_bytes() == b"one"
    assert (second.path / "model.joblib").read_bytes() == b"TWO"
    assert first.digest != second.digest


async def test_an_unchanged_folder_is_not_read_again(bring: Any, model: Path, cache: Any) -> None:
    """Sizes, times and inodes tell."""
    first = await bring("models/iris")
    assert (await bring("models/iris"), cache.begun) == (first, 1)
    os.utime(model / "model.joblib", ns=(1, 1))
    assert (await bring("models/iris"), cache.begun) == (first, 2)


async def test_what_was_written_just_now_is_read_again(
    bring: Any, model: Path, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes within a tick of the clock differ in their bytes alone."""
    (model / "model.joblib").write_bytes(b"two")
    now = (model / "model.joblib").stat().st_ctime_ns
    monkeypatch.setattr(local, "time", SimpleNamespace(time_ns=lambda: now + 1))
    await bring("models/iris")
    await bring("models/iris")
    assert cache.begun == 2


async def test_the_same_content_by_two_paths_is_one_model(
    bring: Any, model: Path, tmp_path: Path, cache: Any
) -> None:
    """A digest is of names and bytes."""
    os.rename(model, tmp_path / "elsewhere")
    (tmp_path / "models" / "iris").symlink_to(tmp_path / "elsewhere")
    await bring("models/iris")
    await bring("elsewhere")
    assert cache.usage().models == 1


async def test_the_copy_is_read_only(bring: Any, model: Path) -> None:
    """A replica that writes into its model is told so, unless it is root."""
    found = await bring("models/iris")
    assert found.path.stat().st_mode & 0o777 == 0o555
    assert (found.path / "1/data.bin").stat().st_mode & 0o777 == 0o444


async def test_links_are_followed(bring: Any, model: Path, tmp_path: Path) -> None:
    """Hugging Face's own cache is links to blobs; the copy holds their bytes."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "w.bin").symlink_to(model / "model.joblib")
    (snapshot / "sub").symlink_to(model / "1")
    found = await bring("snapshot")
    assert found.files == ("sub/data.bin", "w.bin")
    assert not (found.path / "w.bin").is_symlink()


def broken_link(folder: Path) -> None:
    (folder / "l").symlink_to("nowhere")


def circle(folder: Path) -> None:
    (folder / "l").symlink_to(folder)


def self_link(folder: Path) -> None:
    (folder / "l").symlink_to("l")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "l")


def unix_socket(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # for the length of the name
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind("l")
    finally:
        os.chdir(here)


def device(folder: Path) -> None:
    (folder / "l").symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken_link, "link to nothing"),
        (circle, "a folder it is in"),
        (self_link, "circle|link to nothing"),
        (pipe, "not a file"),
        (unix_socket, "not a file"),
        (device, "not a file"),
    ],
)
async def test_what_is_no_model_is_refused(
    bring: Any, model: Path, make: Callable[[Path], None], message: str
) -> None:
    """Named, and without hanging on a pipe."""
    make(model)
    with pytest.raises(LoadError, match=message):
        await bring("models/iris")


async def test_nothing_and_empty(bring: Any, tmp_path: Path, model: Path) -> None:
    """Both are NotFound, with the path that was looked at."""
    with pytest.raises(NotFound, match="nope"):
        await bring("models/nope")
    with pytest.raises(NotFound, match=r"nope/iris \(there is no [^ ]*nope\)"):
        await bring(str(tmp_path / "nope" / "iris"))
    with pytest.raises(NotFound, match=r"model\.joblib"):
        await bring("models/iris/model.joblib/x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="empty folder"):
        await bring("empty")


@pytest.mark.ordinary_rights
async def test_unreadable_files_are_said(bring: Any, model: Path) -> None:
    """With the user id that may not."""
    (model / "model.joblib").chmod(0)
    with pytest.raises(Forbidden, match="user id"):
        await bring("models/iris")


async def test_files_stay_within_the_roots(
    bring: Any, model: Path, tmp_path: Path, settings: Settings
) -> None:
    """An operator's bound holds for the path, for .., and for links anywhere in the folder."""
    bounded = replace(settings, file_roots=(tmp_path / "models",))
    secret = tmp_path / "secret"
    secret.write_text("s")
    assert (await bring("models/iris", bounded)).files
    for uri in ("secret", "models/../secret", secret):
        with pytest.raises(Forbidden):
            await bring(uri, bounded)
    (model / "leak").symlink_to(secret)
    with pytest.raises(Forbidden):
        await bring("models/iris", bounded)


async def test_claims_are_folders_below_their_root(
    bring: Any, tmp_path: Path, settings: Settings
) -> None:
    """pvc:// stays in its claim, whatever the path or a link says."""
    with pytest.raises(Unsupported, match="no claims"):
        await bring("pvc://team-a/iris")
    bounded = replace(settings, pvc_root=tmp_path / "claims")
    a, b = tmp_path / "claims/team-a", tmp_path / "claims/team-b"
    (a / "iris").mkdir(parents=True)
    b.mkdir()
    (a / "iris/m.bin").write_bytes(b"a")
    (b / "m.bin").write_bytes(b"b")
    assert (await bring("pvc://team-a/iris", bounded)).files == ("m.bin",)
    with pytest.raises(NotFound, match="no claim 'team-c'"):
        await bring("pvc://team-c/iris", bounded)
    with pytest.raises(Forbidden):
        await bring("pvc://team-a/../team-b", bounded)
    (a / "iris/neighbour").symlink_to(b / "m.bin")
    with pytest.raises(Forbidden):
        await bring("pvc://team-a/iris", bounded)


async def test_a_folder_with_too_many_files_is_refused(
    bring: Any, model: Path, settings: Settings
) -> None:
    """The root of a disk, given by mistake, ends soon."""
    with pytest.raises(LoadError, match="more than 1 files"):
        await bring("models/iris", replace(settings, max_files=1))


async def test_a_name_that_is_no_text_is_refused(bring: Any, model: Path) -> None:
    """Names go into JSON, logs and URLs."""
    with open(os.fsencode(model) + b"/\xff", "wb"):
        pass
    with pytest.raises(LoadError, match="UTF-8"):
        await bring("models/iris")
