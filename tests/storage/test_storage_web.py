"""http(s): ranges, redirects, names, headers and everything that servers do on bad days."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from storage_fakes import File, Files, serving

from penstock.errors import Forbidden, LoadError, NotFound, PenstockError, Unauthorized, Unavailable
from penstock.storage import Credentials, Settings, WebCredentials, fetch, ranged
from penstock.storage.cache import Fetched

BIG = os.urandom(1024) * 12 * 1024


@pytest.fixture
def bring(web: Files, cache: Any, settings: Settings) -> Any:
    async def bring(path: str, **more: Any) -> Fetched:
        uri = path if "://" in path else web.url + path
        more.setdefault("settings", settings)
        return await fetch(uri, cache=cache, **more)

    return bring


def read(found: Fetched) -> dict[str, bytes]:
    return {name: (found.path / name).read_bytes() for name in found.files}


def tar(mode: str, **members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)
    return out.getvalue()


async def test_a_file_comes_with_one_request_and_is_not_fetched_again(
    web: Files, bring: Any, cache: Any
) -> None:
    """The ETag tells; the second GET is dropped at its head."""
    web.files["/m/model.onnx"] = File(BIG)
    found = await bring("/m/model.onnx")
    assert read(found) == {"model.onnx": BIG}
    assert len(web.seen) == 1
    assert (await bring("/m/model.onnx"), cache.begun) == (found, 1)


@pytest.mark.parametrize(
    ("path", "file", "files"),
    [
        ("/m.zip", File(zipped(a=b"1")), {"a": b"1"}),
        ("/m.tar", File(tar("w", a=b"1")), {"a": b"1"}),
        ("/m.tar.gz", File(tar("w:gz", a=b"1")), {"a": b"1"}),
        ("/m.tgz?v=1", File(tar("w:gz", a=b"1"), "application/x-gzip"), {"a": b"1"}),
        ("/m.tar.bz2", File(tar("w:bz2", a=b"1")), {"a": b"1"}),
        ("/m.tar.xz", File(tar("w:xz", a=b"1")), {"a": b"1"}),
        ("/download", File(zipped(a=b"1"), "application/zip"), {"a": b"1"}),
        ("/download", File(tar("w", a=b"1"), "application/x-tar"), {"a": b"1"}),
        ("/download", File(tar("w:gz", a=b"1"), "application/gzip; q=1"), {"a": b"1"}),
        ("/download", File(b"plain", "text/plain"), {"download": b"plain"}),
        (
            "/get?id=1",
            File(zipped(a=b"1"), headers={"content-disposition": 'attachment; filename="m.zip"'}),
            {"a": b"1"},
        ),
        (
            "/get?id=1",
            File(b"x", headers={"content-disposition": "attachment; filename*=UTF-8''m%20x.bin"}),
            {"m x.bin": b"x"},
        ),
        (
            "/get",
            File(b"x", headers={"content-disposition": 'attachment; filename="../../etc/passwd"'}),
            {"passwd": b"x"},
        ),
        ("/", File(b"x"), {"model": b"x"}),
        ("/a%20b.bin", File(b"x"), {"a b.bin": b"x"}),
        # A gzipped pickle and torch's zip are models, not archives.
        (
            "/m.pkl.gz",
            File(b"\x1f\x8bnot really", "application/gzip"),
            {"m.pkl.gz": b"\x1f\x8bnot really"},
        ),
        ("/m.pt", File(zipped(a=b"1"), "application/zip"), {"m.pt": zipped(a=b"1")}),
        # Some servers label a gzipped tar by its inside and its encoding.
        (
            "/m.tar.gz",
            File(tar("w:gz", a=b"1"), "application/x-tar", headers={"content-encoding": "gzip"}),
            {"a": b"1"},
        ),
        ("/m.tar", File(tar("w:gz", a=b"1")), {"a": b"1"}),
    ],
)
async def test_names_and_archives(
    web: Files, bring: Any, path: str, file: File, files: dict[str, bytes]
) -> None:
    """By the name, by Content-Disposition, by the type where the name says nothing."""
    web.files[path] = file
    assert read(await bring(path)) == files


async def test_a_body_that_breaks_off_is_resumed_from_there(web: Files, bring: Any) -> None:
    """Each next request asks for the rest only, of the same object."""
    web.files["/m.bin"] = File(BIG, breaks=[5_000_000, 3_000_000])
    found = await bring("/m.bin")
    assert read(found) == {"m.bin": BIG}
    ranges = [s.range for s in web.seen]
    assert ranges[0] is None
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in ranges[1:] if r]
    assert len(starts) == 2
    assert 0 < starts[0] <= 5_000_000
    assert starts[0] < starts[1] <= 8_000_000
    assert all(
        s.headers.get("if-range") == '"' + s.headers["if-range"].strip('"') + '"'
        for s in web.seen[1:]
    )


async def test_a_server_without_ranges_is_read_again_from_the_start(web: Files, bring: Any) -> None:
    """It answers 200 to a range; what is known already is skipped."""
    web.files["/m.bin"] = File(BIG, breaks=[5_000_000], ranges=False)
    assert read(await bring("/m.bin")) == {"m.bin": BIG}
    assert len(web.seen) == 2


async def test_a_server_without_validators_is_never_resumed(
    web: Files, bring: Any, cache: Any
) -> None:
    """Two halves might be of two files. Nor is such a file taken for known."""
    web.files["/m.bin"] = File(BIG, etag="", breaks=[5_000_000])
    assert read(await bring("/m.bin")) == {"m.bin": BIG}
    assert [s.range for s in web.seen] == [None, None]
    await bring("/m.bin")
    assert cache.begun == 2


async def test_what_has_no_validator_starts_anew_also_after_a_cancelled_try(
    web: Files, bring: Any
) -> None:
    """The part of the last try may be of another file with the same length."""
    file = web.files["/m.bin"] = File(BIG, etag="", stall_after=6_000_000)
    assert isinstance(file, File)
    arrived = asyncio.Event()
    task = asyncio.create_task(bring("/m.bin", progress=lambda done, *_: done and arrived.set()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    file.go.set()
    web.files["/m.bin"] = File(BIG[::-1], etag="")
    assert read(await bring("/m.bin")) == {"m.bin": BIG[::-1]}


@pytest.mark.parametrize("after", [0, 5_000_000])
async def test_a_file_that_changes_between_two_tries_is_listed_again(
    web: Files, bring: Any, after: int
) -> None:
    """Never the first half of one and the second of another."""
    old, new = File(BIG, breaks=[after]), File(BIG[::-1])

    def handle(request: Any) -> None:
        web.files["/m.bin"] = new if web.seen else old
        web.handle(request)

    with serving(handle) as url:
        assert read(await bring(f"{url}/m.bin")) == {"m.bin": new.data}
        web.seen.clear()
        assert read(await bring(f"{url}/m.bin")) == {"m.bin": old.data}


async def test_a_body_without_length_is_taken(web: Files, bring: Any) -> None:
    """Chunked: its end is its end."""
    web.files["/m.bin"] = File(BIG, lengthless=True)
    totals: list[int | None] = []
    found = await bring("/m.bin", progress=lambda done, total, _: totals.append(total))
    assert read(found) == {"m.bin": BIG}
    assert totals[-1] == len(BIG)


async def test_transient_answers_are_tried_again(web: Files, bring: Any) -> None:
    """503 twice, then the file."""
    web.files["/m.bin"] = File(b"x", first=[503, 429])
    assert read(await bring("/m.bin")) == {"m.bin": b"x"}


@pytest.mark.parametrize(
    ("found", "error", "says"),
    [
        (404, NotFound, "nothing at"),
        (410, NotFound, "nothing at"),
        (401, Unauthorized, "https-host"),
        (403, Forbidden, "expired"),
        (400, LoadError, "400"),
        (503, Unavailable, ": answered 503 (3 tries)"),
        ("http://127.0.0.1:1/x", Unavailable, "tries"),
        ("ftp://host/x", LoadError, "redirects to what is no http address (ftp)"),
        ("file:///etc/passwd", LoadError, "redirects to what is no http address (file)"),
        ("/loop", LoadError, "more than 10 times"),
        ("http://169.254.169.254/latest/meta-data", Forbidden, "link-local"),
        ("http://[fe80::1]/x", Forbidden, "link-local"),
        ("http://[::ffff:169.254.169.254]/x", Forbidden, "link-local"),
        ("http://metadata.google.internal/x", Forbidden, "own credentials"),
        (File(b"x", headers={"content-encoding": "br"}), LoadError, "br-encoded"),
        (File(b"not a zip", headers={"content-disposition": "filename=a.zip"}), LoadError, "zip"),
    ],
)
async def test_bad_answers(
    web: Files, bring: Any, found: Any, error: type[PenstockError], says: str
) -> None:
    """Each with its own error, the URL, and no secret of it; and nothing is left behind."""
    web.files["/x?token=t0ps3cret"] = found
    web.files["/loop"] = "/loop"
    with pytest.raises(error) as caught:
        await bring(web.url.replace("//", "//me:passw0rd@") + "/x?token=t0ps3cret")
    assert says in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert "t0ps3cret" not in str(caught.value)
    assert "passw0rd" not in str(caught.value)


async def test_headers_go_to_their_host_and_not_where_it_redirects(
    web: Files, bring: Any, cache: Any
) -> None:
    """A presigned redirect to another host must not learn the first one's token."""
    elsewhere = Files()
    with serving(elsewhere.handle) as elsewhere.url:
        elsewhere.files["/real"] = File(b"x")
        web.files["/m.bin"] = f"{elsewhere.url}/real"
        host = web.url.removeprefix("http://")
        credentials = Credentials(web=(WebCredentials(host, {"x-token": "t"}),))
        await bring(web.url.replace("//", "//me:pw@") + "/m.bin", credentials=credentials)
        assert web.seen[0].headers["x-token"] == "t"
        assert web.seen[0].headers["authorization"].startswith("Basic ")
        assert "x-token" not in elsewhere.seen[0].headers
        assert "authorization" not in elsewhere.seen[0].headers


async def test_a_host_without_port_in_the_secret_means_any_port(web: Files, bring: Any) -> None:
    """KServe's Secrets name the host alone."""
    web.files["/m.bin"] = File(b"x", need={"x-token": "t"})
    with pytest.raises(Unauthorized):
        await bring("/m.bin")
    credentials = Credentials(web=(WebCredentials("127.0.0.1", {"x-token": "t"}),))
    assert read(await bring("/m.bin", credentials=credentials)) == {"m.bin": b"x"}
    with pytest.raises(Unauthorized):
        await bring("/m.bin")


async def test_the_last_caller_who_leaves_ends_the_download(
    web: Files, bring: Any, cache: Any
) -> None:
    """One cancelled caller leaves the others whole; what has arrived is kept for the next."""
    file = web.files["/m.bin"] = File(BIG, stall_after=6_000_000)
    assert isinstance(file, File)
    arrived = [asyncio.Event(), asyncio.Event()]

    def caller(number: int) -> Any:
        def progress(done: int, total: int | None, _: object) -> None:
            if done >= 4_000_000:
                arrived[number].set()

        return asyncio.create_task(bring("/m.bin", progress=progress))

    one, two = caller(0), caller(1)
    for event in arrived:  # both have joined the one download
        await event.wait()
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert len(cache.jobs) == 1
    two.cancel()
    with pytest.raises(asyncio.CancelledError):
        await two
    assert not cache.jobs
    file.go.set()
    assert read(await bring("/m.bin")) == {"m.bin": BIG}
    last = web.seen[-1].range
    assert last is not None
    assert int(last.removeprefix("bytes=").rstrip("-")) >= 4_000_000


async def test_a_stalled_server_is_left_and_asked_again(
    web: Files, bring: Any, settings: Settings
) -> None:
    """No byte for `idle_s`: the rest is fetched over another connection."""
    file = web.files["/m.bin"] = File(BIG, stall_after=6_000_000)
    assert isinstance(file, File)
    original = web.handle

    def handle(request: Any) -> None:
        if "range" in request.headers:
            file.go.set()
        original(request)

    with serving(handle) as url:
        found = await bring(f"{url}/m.bin", settings=replace(settings, idle_s=0.3))
    assert read(found) == {"m.bin": BIG}


async def test_beginning_anew_is_no_progress(web: Files, bring: Any) -> None:
    """A server that gives nothing to resume by and always breaks off at the same place is given up."""
    web.files["/m.bin"] = File(BIG, etag="", breaks=[1_000_000] * 50)
    with pytest.raises(Unavailable, match=r"/m\.bin: m\.bin: .* \(3 tries\)") as caught:
        await bring("/m.bin")
    assert str(caught.value).count("http://") == 1
    assert len(web.seen) < 10
    web.files["/m.bin"] = File(BIG, etag="", breaks=[1_000_000, 2_000_000, 3_000_000, 4_000_000])
    assert read(await bring("/m.bin")) == {"m.bin": BIG}  # each came further than the one before


async def test_the_deadline_is_over_everything(web: Files, bring: Any, settings: Settings) -> None:
    """Unavailable, and the next try goes on."""
    file = web.files["/m.bin"] = File(BIG, stall_after=6_000_000)
    assert isinstance(file, File)
    with pytest.raises(Unavailable, match="goes on from there"):
        await bring("/m.bin", settings=replace(settings, deadline_s=0.5))
    file.go.set()
    assert read(await bring("/m.bin")) == {"m.bin": BIG}
    assert web.seen[-1].range is not None


async def test_certificates_are_read_once_for_all_downloads(
    web: Files, bring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them takes 70 ms of the loop, and 850 kB for each download under way."""
    web.files["/a.bin"] = web.files["/b.bin"] = File(b"x")
    ranged._trusting.cache_clear()
    made: list[ssl.SSLContext] = []
    make = httpx.create_ssl_context
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: made.append(make()) or made[-1])
    await bring("/a.bin")
    await bring("/b.bin")
    assert len(made) == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA, web: Files) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(web.handle, context) as url:
        yield url


async def test_tls_is_verified(
    secure: str, web: Files, bring: Any, settings: Settings, authority: trustme.CA, tmp_path: Path
) -> None:
    """An unknown authority is refused with what to do; a trusted one serves, resumed like any."""
    web.files["/m.bin"] = File(BIG, breaks=[5_000_000])
    with pytest.raises(LoadError, match="ca_file"):
        await bring(f"{secure}/m.bin")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trusting = replace(settings, ca_file=tmp_path / "ca.pem")
    assert read(await bring(f"{secure}/m.bin", settings=trusting)) == {"m.bin": BIG}
    # Another authority in the same file counts from then on; and a comment may be in any language.
    other = trustme.CA().cert_pem.bytes()
    (tmp_path / "ca.pem").write_bytes("# Zertifizierungsstelle für alle\n".encode() + other)
    with pytest.raises(LoadError, match="ca_file"):
        await bring(f"{secure}/m.bin", settings=trusting)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(LoadError, match="The trusted certificates cannot be read"):
        await bring(f"{secure}/m.bin", settings=replace(settings, ca_file=tmp_path / "none.pem"))
    web.files["/down"] = f"{web.url}/m.bin"
    with pytest.raises(LoadError, match="from https to http"):
        await bring(f"{secure}/down", settings=trusting)
