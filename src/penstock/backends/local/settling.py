"""Before the first fork: the zygote's memory put in order, so that its children write to few of its pages.

What a child writes to, it has a copy of. It writes more than it means to: a reference taken is a write to
the object, a look-up of a method that is not in the interpreter's cache is a write to the name that came in
and to the one that went out, and new objects go into whatever holes the imports have left. So the names go
out of the cache, the holes are filled, the code that children run is moved to pages of its own, and a
rehearsal of a child's life then fills the caches with what is wanted. Measured with scikit-learn: 9.8 MB of
private memory in a child without it, 6.0 with it. Nothing here changes what the program does, and it is left
out where the interpreter or the C library is not one that it knows.
"""

from __future__ import annotations

import array
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, FunctionType
from typing import Any, Final

#: CPython's allocator hands out pools of this size, for objects of one size class each; bytes.
_POOL: Final = 16384
#: Before the first object of a pool, bytes.
_POOL_HEADER: Final = 48
_LARGEST_SMALL: Final = 512
#: Objects after which a size class is given up: its holes are not what they were taken for.
_MOST_OBJECTS: Final = 300_000
#: The same for blocks of the C library.
_MOST_BLOCKS: Final = 100_000
_LARGEST_HOLE: Final = 100_000
#: They keep tables of code objects by identity.
_LEFT_ALONE: Final = ("torch", "tensorflow", "keras", "jax")

#: Code that ran less often takes the interpreter's general ways, on which every name is written to.
_ROUNDS: Final = 16

#: What fills the holes, for as long as the process lives.
_fillings: list[object] = []


def settle(rehearse: Callable[[], None]) -> None:
    """Run `rehearse` and put in order what it shows to be used; once, and right before the first fork.

    `rehearse` is called a dozen times, and does what a child will do, as far as it leaves nothing behind.
    """
    used = _called(rehearse)
    known = sys.implementation.name == "cpython" and sys.version_info < (3, 14)
    if known:
        gc.collect()
        _fill_c_heap()
        _fill_pools()
        _move_together(used)
        if sys.version_info < (3, 12):  # later on names are immortal: nothing is written to them
            sys._clear_type_cache()
    for _ in range(_ROUNDS):
        rehearse()
    gc.collect()
    if known:
        _fill_c_heap()
        _fill_pools()


def _called(work: Callable[[], None]) -> set[int]:
    """Ids of the code of every Python function that `work` runs, and of those that run in a fork's child."""
    seen: set[int] = set()
    add = seen.add

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            add(id(frame.f_code))

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
        # Ids are addresses, and a child has the same ones.
        read, write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                sys.setprofile(None)
                with os.fdopen(write, "wb") as pipe:
                    pipe.write(array.array("Q", seen).tobytes())
            finally:
                os._exit(0)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        data = told.read()
    os.waitpid(pid, 0)
    return seen.union(array.array("Q", data))


def _move_together(used: set[int]) -> None:
    """Give the functions of `used` equal code objects that lie side by side: a call writes to its code."""
    holds: dict[int, bool] = {}

    def wanted(code: CodeType) -> bool:
        found = holds.get(id(code))
        if found is None:
            inner = [c for c in code.co_consts if type(c) is CodeType]
            found = holds[id(code)] = id(code) in used or any(wanted(c) for c in inner)
        return found

    moved: dict[int, CodeType] = {}
    old: list[CodeType] = []  # kept: no new holes
    _fillings.append(old)

    def move(code: CodeType) -> CodeType:
        fresh = moved.get(id(code))
        if fresh is None:
            constants = tuple(
                move(c) if type(c) is CodeType and wanted(c) else c for c in code.co_consts
            )
            # The name as well: what is made of the code, a function or a generator, takes a reference.
            fresh = moved[id(code)] = code.replace(
                co_consts=constants, co_qualname=_copy(code.co_qualname)
            )
            old.append(code)
        return fresh

    names: dict[str, str] = {}
    for function in gc.get_objects():
        if type(function) is not FunctionType:
            continue
        top = (function.__module__ or "").partition(".")[0]
        if top not in _LEFT_ALONE and wanted(function.__code__):
            function.__code__ = move(function.__code__)
            name = function.__globals__.get("__name__")
            if type(name) is str:  # what a new function takes as its module
                if name not in names:
                    names[name] = _copy(name)
                function.__globals__["__name__"] = names[name]


def _copy(text: str) -> str:
    """An equal string in new memory."""
    return "".join((text[:1], text[1:]))


def _fill_pools() -> None:
    """Fill what is free in the pools of small objects that are in use."""
    for size in range(16, _LARGEST_SMALL + 1, 16):
        kept: list[object] = []
        row = 0
        last = 0
        whole = min(20, (_POOL - _POOL_HEADER) // size - 1)
        while row < whole:
            if len(kept) > _MOST_OBJECTS:
                kept.clear()
                break
            filling = _filling(size)
            address = id(filling)
            kept.append(filling)
            # A pool of which nothing was used is handed out from its start, one after the other.
            if address % _POOL == _POOL_HEADER:
                row = 1
            elif row and address == last + size:
                row += 1
            else:
                row = 0
            last = address
        else:
            del kept[-row:]
        _fillings.append(kept)


_EMPTY_BYTES: Final = sys.getsizeof(b"")


def _filling(size: int) -> object:
    """An object of `size` bytes, a multiple of 16, that no free list of the interpreter's provides."""
    if size == 16:
        return object()
    if size == 32:
        return complex(1.0, size)
    return bytes(size - _EMPTY_BYTES)


class _Info(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _fill_c_heap() -> None:
    """Take every free block of the C library's heap below its top, the large ones first."""
    libc = ctypes.CDLL(None)
    info = getattr(libc, "mallinfo2", None)
    if info is None:
        return  # not glibc, or one before 2.33
    info.restype = _Info
    take = libc.malloc
    take.restype = ctypes.c_void_p
    take.argtypes = [ctypes.c_size_t]
    free = libc.free
    free.argtypes = [ctypes.c_void_p]
    left = _MOST_BLOCKS
    for size in _sizes():
        while left:
            left -= 1
            top = info().keepcost
            block = take(size)
            if info().keepcost != top:
                free(block)  # from the top: there is no hole of this size any more
                break


def _sizes() -> Iterable[int]:
    size = _LARGEST_HOLE
    while size > 1040:
        yield size
        size = size * 9 // 10 // 16 * 16
    yield from range(1032, 23, -16)
