"""Archives that an enemy packed, and those that a friend did."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import threading
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from penstock.errors import LoadError, PenstockError, TooLarge
from penstock.storage import Settings
from penstock.storage.archive import unpack
from penstock.storage.packing import Packing, packing_of

SETTINGS = Settings(unpack_floor_bytes=1_000_000)


def run(
    data: bytes,
    packing: Packing,
    where: Path,
    settings: Settings = SETTINGS,
    most_bytes: int = 10**9,
    stop: threading.Event | None = None,
) -> dict[str, bytes]:
    archive = where / "archive"
    archive.write_bytes(data)
    out = where / "out"
    found = unpack(
        archive,
        packing,
        out,
        shown="s3://b/m",
        settings=settings,
        most_bytes=most_bytes,
        stop=stop or threading.Event(),
    )
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}
    assert on_disk == set(found)
    assert not any(p.is_symlink() for p in out.rglob("*"))
    return {name: (out / name).read_bytes() for name in found}


def tar_of(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                t.addfile(info, io.BytesIO(member[1]))
            else:
                t.addfile(member)
    return out.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], **more: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **more) as z:
        for name, data in members:
            z.writestr(name, data)
    return out.getvalue()


def zip_special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


MODES = [
    (Packing.TAR, "w"),
    (Packing.TAR_GZ, "w:gz"),
    (Packing.TAR_BZ2, "w:bz2"),
    (Packing.TAR_XZ, "w:xz"),
]
BIG = os.urandom(1_200_000)


@pytest.mark.parametrize(("packing", "mode"), MODES)
def test_tars(tmp_path: Path, packing: Packing, mode: str) -> None:
    """Files large and empty, folders, long names, links inside: all as plain files."""
    long = "d" * 120 + "/" + "n" * 200
    data = tar_of(
        special("./", tarfile.DIRTYPE),
        special("./1/", tarfile.DIRTYPE),
        ("./1/model.onnx", BIG),
        ("empty", b""),
        (long, b"long"),
        ("ümlaut", b"u"),
        special("latest", tarfile.SYMTYPE, "1/model.onnx"),
        special("1/hard", tarfile.LNKTYPE, "1/model.onnx"),
        special("1/twice", tarfile.SYMTYPE, "../latest"),
        mode=mode,
    )
    files = run(data, packing, tmp_path)
    assert files == {
        "1/model.onnx": BIG,
        "empty": b"",
        long: b"long",
        "ümlaut": b"u",
        "latest": BIG,
        "1/hard": BIG,
        "1/twice": BIG,
    }


def test_zips(tmp_path: Path) -> None:
    """Stored and deflated, folders, and symbolic links as Info-ZIP keeps them."""
    data = zip_of(
        ("1/", b""),
        ("1/model.onnx", BIG),
        ("empty", b""),
        ("ümlaut", b"u"),
        (zip_special("latest", stat.S_IFLNK | 0o777), b"1/model.onnx"),
        compression=zipfile.ZIP_DEFLATED,
    )
    assert run(data, Packing.ZIP, tmp_path) == {
        "1/model.onnx": BIG,
        "empty": b"",
        "ümlaut": b"u",
        "latest": BIG,
    }


def test_two_gzip_members_are_one_file(tmp_path: Path) -> None:
    """pigz and `cat a.gz b.gz` make them, and zeros may pad the end."""
    plain = tar_of(("a", BIG))
    data = gzip.compress(plain[:1_000_000]) + gzip.compress(plain[1_000_000:]) + b"\0" * 100
    assert run(data, Packing.TAR_GZ, tmp_path) == {"a": BIG}


def test_permissions_are_not_the_archives(tmp_path: Path) -> None:
    """No setuid, no other owner, no unreadable file."""
    info = tarfile.TarInfo("a")
    info.mode, info.uid, info.size = 0o4000, 12345, 0
    run(tar_of(info), Packing.TAR, tmp_path)
    status = (tmp_path / "out/a").stat()
    assert status.st_mode & 0o7000 == 0
    assert status.st_mode & 0o400
    assert status.st_uid == os.geteuid()


def null_name() -> bytes:
    return zip_of(("aXb", b"x")).replace(b"aXb", b"a\0b")


def huge_pax_header() -> bytes:
    """A header block that says its names are 8 GiB long, made of zeros that deflate to nothing much."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = 8 << 30
    head = info.tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(head + b"\0" * (64 << 20), 9)


TAR_REFUSALS: list[tuple[Any, str]] = [
    (lambda: tar_of(("../evil", b"x")), "path below"),
    (lambda: tar_of(("a/../../evil", b"x")), "path below"),
    (lambda: tar_of(("/etc/evil", b"x")), "no file name"),
    (lambda: tar_of(("./../evil", b"x")), "path below"),
    (lambda: tar_of(("..\\evil", b"x")), "backslash"),
    (lambda: tar_of(("a//b", b"x")), "path below"),
    (lambda: tar_of(("a", b"1"), ("a", b"2")), "two members"),
    (lambda: tar_of(("a", b"1"), ("./a", b"2")), "two members"),
    (lambda: tar_of(("a", b"1"), ("a/b", b"2")), "file and a folder"),
    (lambda: tar_of(("a/b", b"1"), ("a", b"2")), "two members"),
    (lambda: tar_of(("a", b"1"), special("a", tarfile.DIRTYPE)), "file and a folder"),
    (lambda: tar_of(special("l", tarfile.SYMTYPE, "/etc/passwd")), "link out of it"),
    (lambda: tar_of(special("d/l", tarfile.SYMTYPE, "../../x")), "link out of it"),
    (lambda: tar_of(special("l", tarfile.LNKTYPE, "../x")), "link out of it"),
    (lambda: tar_of(special("l", tarfile.SYMTYPE, "nowhere")), "is no file in it"),
    (lambda: tar_of(("d/f", b"x"), special("l", tarfile.SYMTYPE, "d")), "is no file in it"),
    (
        lambda: tar_of(special("a", tarfile.SYMTYPE, "b"), special("b", tarfile.SYMTYPE, "a")),
        "is no file in it",
    ),
    # The classic: a link to a folder outside, then a file through it.
    (lambda: tar_of(special("d", tarfile.SYMTYPE, "/tmp"), ("d/evil", b"x")), "link out of it"),
    (
        lambda: tar_of(("e/f", b"x"), special("d", tarfile.SYMTYPE, "e"), ("d/evil", b"x")),
        "file and a folder",
    ),
    (lambda: tar_of(special("p", tarfile.FIFOTYPE)), "device or a pipe"),
    (lambda: tar_of(special("c", tarfile.CHRTYPE)), "device or a pipe"),
    (lambda: tar_of(special("b", tarfile.BLKTYPE)), "device or a pipe"),
    (lambda: tar_of(), "no file in it"),
    (lambda: tar_of(special("d", tarfile.DIRTYPE)), "no file in it"),
    (lambda: b"", "no tar file"),
    (lambda: b"this is no tar" * 100, "no tar file"),
    (lambda: tar_of(("a", BIG))[:1_000_000], "no tar file"),
    (lambda: tar_of(("a", b"x" * 512), ("b", b"y"))[:1024], "before its end"),
    (lambda: tar_of(("a", b"x" * 512), ("b", b"y"))[: 1024 + 100], "before its end"),
]
GZ_REFUSALS: list[tuple[Any, str]] = [
    (lambda: b"<!DOCTYPE html>\n<p>Log in", "it is a web page, perhaps one to log in"),
    (lambda: b"\x1f\x8b\x08", "cut short"),
    (lambda: tar_of(("a", BIG), mode="w:gz")[:-9], "cut short"),
    (lambda: tar_of(("a", BIG), mode="w:gz")[:2000], "cut short"),
    (lambda: tar_of(("a", BIG)), "no tar.gz"),
    (lambda: tar_of(("a", BIG), mode="w:gz")[:-8] + b"\0" * 8, "no tar.gz"),
    (huge_pax_header, "longer than any header"),
]
ZIP_REFUSALS: list[tuple[Any, str]] = [
    (lambda: zip_of(("../evil", b"x")), "path below"),
    (lambda: zip_of(("/etc/evil", b"x")), "no file name"),
    (lambda: zip_of(("a/../../evil", b"x")), "path below"),
    (lambda: zip_of(("a\\..\\evil", b"x")), "backslash"),
    (lambda: zip_of(("a", b"1"), ("a/b", b"2")), "file and a folder"),
    (lambda: zip_of((zip_special("l", stat.S_IFLNK), b"/etc/passwd")), "link out of it"),
    (lambda: zip_of((zip_special("l", stat.S_IFLNK), b"../x")), "link out of it"),
    (lambda: zip_of((zip_special("l", stat.S_IFLNK), b"x" * 5000)), "link of 5000 bytes"),
    (lambda: zip_of((zip_special("p", stat.S_IFIFO), b"")), "device or a pipe"),
    (null_name, "zero byte"),
    (lambda: b"", "no zip file"),
    (lambda: b"PK\x03\x04 not really", "no zip file"),
    (lambda: b"\n<HTML>", "it is a web page, perhaps one to log in"),
    (lambda: zip_of(("a", BIG))[:-30], "no zip file"),
    (lambda: zip_of(("a", b"right" * 100)).replace(b"right", b"wrong"), "damaged"),
    (lambda: zip_of(), "no file in it"),
]


def duplicate_zip() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        return zip_of(("a", b"1"), ("a", b"2"))


def encrypted_zip() -> bytes:
    data = bytearray(zip_of(("a", b"x")))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        where = data.index(signature) + at
        data[where : where + 2] = struct.pack("<H", 1)
    return bytes(data)


ZIP_REFUSALS += [(duplicate_zip, "two members"), (encrypted_zip, "encrypted")]


@pytest.mark.parametrize(
    ("packing", "make", "message"),
    [(Packing.TAR, *case) for case in TAR_REFUSALS]
    + [(Packing.TAR_GZ, *case) for case in GZ_REFUSALS]
    + [(Packing.ZIP, *case) for case in ZIP_REFUSALS],
)
def test_what_is_refused(
    tmp_path: Path, packing: Packing, make: Callable[[], bytes], message: str
) -> None:
    """LoadError that names the URI and the reason; nothing outside is touched."""
    with pytest.raises(LoadError, match=message) as caught:
        run(make(), packing, tmp_path)
    assert "s3://b/m" in str(caught.value)
    assert not (tmp_path / "evil").exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"archive", "out"}


BOMB = b"\0" * 100_000_000


@pytest.mark.parametrize(
    ("packing", "make"),
    [
        (Packing.TAR_GZ, lambda: tar_of(("zeros", BOMB), mode="w:gz")),
        (Packing.TAR_BZ2, lambda: tar_of(("zeros", BOMB), mode="w:bz2")),
        (Packing.ZIP, lambda: zip_of(("zeros", BOMB), compression=zipfile.ZIP_DEFLATED)),
        # Bytes that become no file are inflated like others.
        (Packing.TAR_GZ, lambda: gzip.compress(sparse_folder(100_000_000) + BOMB)),
    ],
)
def test_bombs_go_off_early(tmp_path: Path, packing: Packing, make: Callable[[], bytes]) -> None:
    """By ratio, and by total; no more is written than the bound."""
    data = make()
    with pytest.raises(TooLarge, match="a bomb does"):
        run(data, packing, tmp_path)
    written = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.name == "zeros")
    assert written < len(data) * SETTINGS.max_unpack_ratio + 2_000_000


def sparse_folder(size: int) -> bytes:
    info = special("folder", tarfile.DIRTYPE)
    info.size = size
    return info.tobuf()


def test_totals_and_counts_are_bounded(tmp_path: Path) -> None:
    """What fits no cache is not unpacked; a million empty files are not either."""
    with pytest.raises(TooLarge, match="1000 bytes"):
        run(tar_of(("a", b"x" * 1001)), Packing.TAR, tmp_path, most_bytes=1000)
    for packing, data in (
        (Packing.TAR, tar_of(*((f"f{i}", b"") for i in range(5)))),
        (Packing.ZIP, zip_of(*((f"f{i}", b"") for i in range(5)))),
        (Packing.ZIP, zip_of(*((f"f{i}", b"") for i in range(20)))),
    ):
        where = tmp_path / f"{packing}{len(data)}"
        where.mkdir()
        with pytest.raises(TooLarge, match="more than 4 files"):
            run(data, packing, where, replace(SETTINGS, max_files=4))


@pytest.mark.parametrize("packing", [Packing.ZIP, Packing.TAR_GZ])
def test_what_failed_holds_nothing(tmp_path: Path, packing: Packing) -> None:
    """The error outlives the try, its traceback too, and both perhaps until Python looks for cycles."""
    members = [(f"{i:04}", b"") for i in range(3000)]
    damaged = ("../evil", b"x")
    data = (
        zip_of(*members, damaged)
        if packing is Packing.ZIP
        else tar_of(*members, damaged, mode="w:gz")
    )
    with pytest.raises(LoadError, match="path below") as caught:
        run(data, packing, tmp_path)
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    targets = [local["target"] for local in frames if "target" in local]
    assert targets
    assert not any(target.files or target.folders for target in targets)
    assert not any(local.get("infos") for local in frames)


def test_a_zip_of_too_many_files_is_refused_before_any_is_unpacked(tmp_path: Path) -> None:
    few = Settings(max_files=4)
    with pytest.raises(TooLarge, match="more than 4 files"):
        run(zip_of(*[(str(i), b"x") for i in range(5)]), Packing.ZIP, tmp_path, settings=few)
    assert not list((tmp_path / "out").iterdir())
    folders = [(f"{i}/", b"") for i in range(4)]
    (tmp_path / "b").mkdir()
    assert run(zip_of(*folders, ("4/a", b"x")), Packing.ZIP, tmp_path / "b", settings=few)


def test_it_stops_when_told(tmp_path: Path) -> None:
    """A cancelled fetch does not unpack on."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedError):
        run(tar_of(("a", b"x")), Packing.TAR, tmp_path, stop=stop)


@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    position=st.floats(0, 1),
    value=st.integers(0, 255),
    cut=st.none() | st.floats(0, 1),
    which=st.sampled_from([Packing.TAR, Packing.TAR_GZ, Packing.ZIP, Packing.TAR_XZ]),
)
def test_damage_is_an_error_of_ours_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
    position: float,
    value: int,
    cut: float | None,
    which: Packing,
) -> None:
    """Any byte changed, cut anywhere: refused in our words, or unpacked below the folder."""
    members = [("1/a.bin", b"alpha" * 50), ("b", b""), ("c/d/e", b"x" * 700)]
    if which is Packing.ZIP:
        data = bytearray(zip_of(*members, compression=zipfile.ZIP_DEFLATED))
    else:
        data = bytearray(tar_of(*members, mode=dict(MODES)[which]))
    data[int(position * (len(data) - 1))] = value
    if cut is not None:
        del data[int(cut * len(data)) :]
    where = tmp_path_factory.mktemp("damage")
    try:
        run(bytes(data), which, where)
    except PenstockError:
        pass
    assert {p.name for p in where.iterdir()} <= {"archive", "out"}


@pytest.mark.parametrize(
    ("name", "media_type", "head", "packing"),
    [
        ("m.ZIP", "", b"", Packing.ZIP),
        ("m.tar.gz", "application/octet-stream", b"\x1f\x8b", Packing.TAR_GZ),
        ("m.joblib", "application/zip", b"PK", None),
        ("m.skops", "application/zip", b"PK", None),
        ("m.bin.gz", "application/gzip", b"\x1f\x8b", None),
        ("m", "application/gzip", gzip.compress(b"no tar", mtime=0), None),
        ("m", "application/gzip", gzip.compress(tar_of(("a", b"x")), mtime=0), Packing.TAR_GZ),
        ("m", "application/zip; charset=x", b"PK", Packing.ZIP),
        (".zip", "", b"PK", Packing.ZIP),
        ("m", "application/octet-stream", b"PK", None),
    ],
)
def test_what_is_taken_for_an_archive(
    name: str, media_type: str, head: bytes, packing: Packing | None
) -> None:
    """By name first; models that happen to be zips inside stay whole."""
    assert packing_of(name, media_type, head) is packing
