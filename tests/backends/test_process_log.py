"""Logs: rotated by size, read from any point, followed across rotations."""

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.backends.local.logs import ProcessLog, tail_start


async def read(log, **how):
    return b"".join([x async for x in log.read(**how)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r1.log"


async def test_keeps_the_newest_and_no_more(path):
    """Two files of the size each; the newest lines are in them, whole and in order."""
    log = ProcessLog(path, max_bytes=1000)
    lines = [b"line %04d\n" % n for n in range(500)]
    for line in lines:
        log.write(line)
    kept = await read(log)
    assert b"".join(lines).endswith(kept)
    assert 1000 <= len(kept) <= 2000
    assert path.stat().st_size <= 1000
    assert sorted(p.name for p in path.parent.iterdir()) == ["r1.log", "r1.log.1"]


async def test_one_write_larger_than_the_limit_is_kept_whole(path):
    """Nothing is cut out of the middle of what was written."""
    log = ProcessLog(path, max_bytes=10)
    log.write(b"a" * 100)
    log.write(b"b" * 100)
    assert await read(log) == b"a" * 100 + b"b" * 100


async def test_goes_on_in_the_file_of_an_earlier_node(path):
    """The log is the replica's, not the node's."""
    ProcessLog(path).write(b"old\n")
    log = ProcessLog(path)
    log.write(b"new\n")
    assert await read(log) == b"old\nnew\n"


async def test_only_this_user_may_read_it(path):
    """Logs hold what models print: users' data, perhaps."""
    ProcessLog(path).write(b"x")
    assert path.stat().st_mode & 0o777 == 0o600


@given(
    st.lists(st.sampled_from([b"", b"a", b"bc", b"\n", b"d\n", b"\n\n"]), max_size=20), st.data()
)
def test_tail_is_the_last_lines_wherever_files_are_split(parts, data):
    """As `tail -n` of the files joined."""
    text = b"".join(parts)
    cut = data.draw(st.integers(0, len(text)))
    lines = data.draw(st.integers(0, 8))
    files = []
    for part in (text[:cut], text[cut:]):
        fd = os.memfd_create("part")
        os.write(fd, part)
        files.append(fd)
    try:
        index, offset = tail_start(files, lines)
        got = b"".join(
            os.pread(fd, 1000, offset if i == index else 0)
            for i, fd in enumerate(files)
            if i >= index
        )
    finally:
        for fd in files:
            os.close(fd)
    expected = text.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
        expected = [x + b"\n" for x in expected]
    else:
        expected = [x + b"\n" for x in expected[:-1]] + [expected[-1]]
    assert got == (b"".join(expected[-lines:]) if lines else b"")


async def test_a_follower_misses_nothing_across_rotations(path):
    """What was there, then what comes, in order, until the log is closed."""
    log = ProcessLog(path, max_bytes=200)
    log.write(b"line 0\n")
    got = []

    async def follow():
        async for chunk in log.read(tail=1, follow=True):
            got.append(chunk)  # noqa: PERF401 - it is looked at while it grows

    reader = asyncio.ensure_future(follow())
    while not got:
        await asyncio.sleep(0)
    lines = [b"line %d\n" % n for n in range(200)]
    for line in lines[1:]:
        log.write(line)
        await asyncio.sleep(0)
    log.close()
    await asyncio.wait_for(reader, 10)
    assert b"".join(got) == b"".join(lines)


async def test_a_follower_that_was_overtaken_goes_on_with_what_is_kept(path):
    """Slowness costs lines, never memory or an error."""
    log = ProcessLog(path, max_bytes=100)
    log.write(b"first\n")
    chunks = log.read(follow=True)
    assert await anext(chunks) == b"first\n"
    for n in range(100):
        log.write(b"line %d\n" % n)
    log.close()
    got = b"".join([x async for x in chunks])
    assert got.endswith(b"line 99\n")
    assert await read(log) == got or got.endswith(await read(log))


async def test_a_follower_may_be_there_before_the_first_line(path):
    """Following a replica that has not started yet."""
    log = ProcessLog(path)
    chunks = log.read(follow=True)
    first = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    log.write(b"hello\n")
    assert await asyncio.wait_for(first, 10) == b"hello\n"
    await chunks.aclose()
    assert await read(log) == b"hello\n"


TRACEBACK = """Traceback (most recent call last):
  File "model.py", line 3, in load
    raise RuntimeError("no weights")
RuntimeError: no weights
"""


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        ("", ""),
        ("2026-01-01 10:00:00 INFO penstock.server model iris is loaded in 0.010 s\n", ""),
        ("predicting 17\n", ""),
        ("2026-01-01 10:00:00,123 WARNING root something is odd\n", ""),
        ("10:00:00,123 ERROR root out of paper\n", "10:00:00,123 ERROR root out of paper"),
        (TRACEBACK, "RuntimeError: no weights"),
        ("10:00 ERROR x cannot be loaded\n" + TRACEBACK, "RuntimeError: no weights"),
        (TRACEBACK + "10:00 INFO x the next request was fine\n", ""),
        (TRACEBACK + "penstock: Exit\n", "RuntimeError: no weights"),
        ("sh: x: cannot open it\n", "sh: x: cannot open it"),
        ("terminate called after throwing\n  what():  bad shape\n", "what():  bad shape"),
        (
            "10:00 INFO fine\nFatal Python error: Segmentation fault\n\nStack:\n  File x\nmodules: y\n",
            "Fatal Python error: Segmentation fault",
        ),
    ],
)  # fmt: skip
def test_the_line_that_explains_an_ending(path, said, quoted):
    """The last words when they are an error; never what was said while all was well."""
    log = ProcessLog(path)
    log.write(said.encode())
    assert log.last_error() == quoted


def test_an_earlier_process_explains_nothing(path):
    """Last words are of the process that ended; bytes that are no text are no trouble."""
    log = ProcessLog(path)
    log.write(b"ValueError: old\n")
    log.forget_last()
    assert log.last_error() == ""
    log.write(b"error: caf\xe9")
    assert log.last_error() == "error: caf\N{REPLACEMENT CHARACTER}"


async def test_a_full_disk_loses_lines_and_nothing_else(path, caplog):
    """The write fails, is said once, and works again when there is room."""
    log = ProcessLog(path)
    log.write(b"before\n")
    good = log._fd
    log._fd = os.open("/dev/full", os.O_WRONLY)
    try:
        log.write(b"lost\n")
        log.write(b"lost\n")
        assert log.last_error() == ""
    finally:
        os.close(log._fd)
        log._fd = good
    log.write(b"after\n")
    assert await read(log) == b"before\nafter\n"
    assert caplog.text.count("No space left") == 1
