"""What node and zygote say to each other: one message per datagram of a SOCK_SEQPACKET pair.

The replica's spec is not in them: it travels as a descriptor, so it may have any size and the zygote, which
lives long, never holds a replica's secrets.
"""

from __future__ import annotations

import os
from typing import Any, Final, TypeAlias

import msgspec

#: Bytes of one message; what is larger is refused by the sender.
MAX_MESSAGE: Final = 64 * 1024


class ForkMessage(msgspec.Struct, frozen=True, tag="fork"):
    """Node to zygote, with three descriptors: spec, log, status."""

    id: int
    name: str
    limits: dict[str, Any]


class SignalMessage(msgspec.Struct, frozen=True, tag="signal"):
    """Node to zygote: signal the process group of a child, if it still lives."""

    pid: int
    number: int


class ReadyMessage(msgspec.Struct, frozen=True, tag="ready"):
    """Zygote to node, once: everything is imported."""

    load_s: float
    threads: int


class FailedMessage(msgspec.Struct, frozen=True, tag="failed"):
    """Zygote to node, once and last: the framework cannot be imported."""

    reason: str
    message: str


class ForkedMessage(msgspec.Struct, frozen=True, tag="forked"):
    """Zygote to node: request `id` is process `pid`; -1 when the kernel refused, as `message` says."""

    id: int
    pid: int
    message: str = ""


class EndedMessage(msgspec.Struct, frozen=True, tag="ended"):
    """Zygote to node: a child ended, with wait(2)'s status word."""

    pid: int
    status: int


ToZygote: TypeAlias = ForkMessage | SignalMessage
FromZygote: TypeAlias = ReadyMessage | FailedMessage | ForkedMessage | EndedMessage


def spec_file(spec: bytes) -> int:
    """A descriptor with `spec` in it, for the child to read: not a file, so no secret reaches a disk."""
    fd = os.memfd_create("penstock-spec", os.MFD_CLOEXEC)
    try:
        view = memoryview(spec)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
