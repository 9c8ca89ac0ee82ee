"""Request ids that say what was chosen, so that any gateway can credit the arm without asking another.

An id names when the request was answered, which bandits chose which arms for it, and by what features; it is
signed with a key of the data folder, so that nobody can credit what was never chosen. Names are in it as
short hashes: whoever reads it knows the bandits and arms that there are.
"""

from __future__ import annotations

import hashlib
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NoBase64
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

#: What an id of ours begins with.
PREFIX: Final = "fb1"
#: Choices that fit into one id.
MOST_CHOICES: Final = 8
_MAC_BYTES: Final = 10
_KEY_BYTES: Final = 6
_ARM_BYTES: Final = 4
_HEAD: Final = struct.Struct("<IqB")
#: Most characters: eight choices with all the features they may have.
MOST_CHARACTERS: Final = 2048


class Choice(NamedTuple):
    """What a bandit chose for a request."""

    key: str
    arm: str
    features: tuple[float, ...] = ()


class Chosen(NamedTuple):
    """A choice as an id has it."""

    key: bytes
    arm: bytes
    features: tuple[float, ...]


class Issued(NamedTuple):
    """What an id says."""

    #: Unix seconds of the answer.
    at: int
    #: The request's own number.
    number: int
    chosen: tuple[Chosen, ...]


def key_hash(key: str) -> bytes:
    """How an id names a bandit."""
    return hashlib.blake2b(key.encode(), digest_size=_KEY_BYTES).digest()


def arm_hash(arm: str) -> bytes:
    """How an id names an arm."""
    return hashlib.blake2b(arm.encode(), digest_size=_ARM_BYTES).digest()


def rounded(features: Sequence[float]) -> tuple[float, ...]:
    """Features as an id can hold them: what is chosen by is what is learned from."""
    form = f"<{len(features)}f"
    return struct.unpack(form, struct.pack(form, *features))


class RequestIds:
    """Makes and reads ids, with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._hashes: dict[tuple[str, str], bytes] = {}

    def make(self, choices: Sequence[Choice], now: float) -> str:
        """An id for a request that these choices were made for."""
        number = int.from_bytes(os.urandom(8), "little", signed=True)
        parts = [_HEAD.pack(int(now), number, min(len(choices), MOST_CHOICES))]
        for choice in choices[:MOST_CHOICES]:
            names = self._hashes.get((choice.key, choice.arm))
            if names is None:
                if len(self._hashes) >= 4096:
                    self._hashes.clear()
                names = key_hash(choice.key) + arm_hash(choice.arm)
                self._hashes[choice.key, choice.arm] = names
            features = choice.features
            parts.append(names + struct.pack(f"<B{len(features)}f", len(features), *features))
        said = b"".join(parts)
        return PREFIX + urlsafe_b64encode(said + self._mac(said)).rstrip(b"=").decode()

    def read(self, text: str) -> Issued | None:
        """What an id says; None for what is none, or is not of this key."""
        if not text.startswith(PREFIX) or len(text) > MOST_CHARACTERS:
            return None
        try:
            encoded = text[len(PREFIX) :].encode("ascii")
            raw = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        except (NoBase64, ValueError):
            return None
        said, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(said) < _HEAD.size or not _same(mac, self._mac(said)):
            return None
        # From here on it is one that `make` made.
        at, number, count = _HEAD.unpack_from(said)
        position = _HEAD.size
        chosen = []
        for _ in range(count):
            key = said[position : position + _KEY_BYTES]
            position += _KEY_BYTES
            arm = said[position : position + _ARM_BYTES]
            position += _ARM_BYTES
            dimensions = said[position]
            features = struct.unpack_from(f"<{dimensions}f", said, position + 1)
            position += 1 + 4 * dimensions
            chosen.append(Chosen(key, arm, features))
        return Issued(at, number, tuple(chosen))

    def _mac(self, said: bytes) -> bytes:
        return hashlib.blake2b(said, key=self._key, digest_size=_MAC_BYTES).digest()


def _same(a: bytes, b: bytes) -> bool:
    """Equal, in a time that does not tell where they differ."""
    difference = len(a) ^ len(b)
    for x, y in zip(a, b, strict=False):
        difference |= x ^ y
    return not difference


def read_key(path: Path | None) -> bytes:
    """The key in a file, made by whoever comes first. Without a file: one for this process alone."""
    if path is None:
        return os.urandom(32)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    own = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(own, path)  # whole, or there already
        except FileExistsError:
            pass
    finally:
        own.unlink()
    return path.read_bytes()
