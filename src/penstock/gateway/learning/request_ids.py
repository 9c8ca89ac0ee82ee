"""Request ids that say what was chosen, so that any gateway can credit the arm without asking another.

An id names when the request was answered, which bandits chose which arms for it, and by what features; it is
signed with a key of the data folder, so that nobody can credit what was never chosen. Names are in it as
short hashes: whoever reads it knows the bandits and arms that there are.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from base64 import urlsafe_b64decode
from binascii import Error as NoBase64
from binascii import b2a_base64
from collections.abc import Sequence
from hmac import compare_digest
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
_MOST_NUMBER: Final = (1 << 64) - 1
_HALF: Final = 1 << 63
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
#: Most characters: eight choices with all the features they may have.
MOST_CHARACTERS: Final = 2048


class Choice(NamedTuple):
    """What a bandit chose for a request."""

    key: str
    #: Empty: none of them, the request was a revision's that is being rolled out.
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
        #: Hashes of the key, to be copied: making one costs more than hashing an id with it.
        self._keyed = hashlib.blake2b(key=key, digest_size=_MAC_BYTES)
        #: Numbers go on from a place of this process's own: the system is not asked for each.
        self._number = int.from_bytes(os.urandom(8), "little")
        self._hashes: dict[tuple[str, str], bytes] = {}

    def make(self, choices: Sequence[Choice], now: float) -> str:
        """An id for a request that these choices were made for."""
        number = self._number = (self._number + 1) & _MOST_NUMBER
        if len(choices) > MOST_CHOICES:
            choices = choices[:MOST_CHOICES]
        said = _HEAD.pack(int(now), number - _HALF, len(choices))
        for choice in choices:
            names = self._hashes.get((choice.key, choice.arm))
            if names is None:
                if len(self._hashes) >= 4096:
                    self._hashes.clear()
                names = key_hash(choice.key) + arm_hash(choice.arm)
                self._hashes[choice.key, choice.arm] = names
            said += names
            features = choice.features
            said += (
                struct.pack(f"<B{len(features)}f", len(features), *features) if features else b"\0"
            )
        return PREFIX + _encoded(said + self._mac(said)).decode()

    def read(self, text: str) -> Issued | None:
        """What an id says; None for what is none, or is not of this key."""
        if not text.startswith(PREFIX) or len(text) > MOST_CHARACTERS:
            return None
        try:
            encoded = text[len(PREFIX) :].encode("ascii")
            raw = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        except (NoBase64, ValueError):
            return None
        if _encoded(raw) != encoded:  # decoding passes over what is no base64, and over spare bits
            return None
        said, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(said) < _HEAD.size or not compare_digest(mac, self._mac(said)):
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
        keyed = self._keyed.copy()
        keyed.update(said)
        return keyed.digest()


def _encoded(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_URL_SAFE)


def read_key(path: Path | None) -> bytes:
    """The key in a file, made by whoever comes first. Without a file: one for this process alone."""
    if path is None:
        return os.urandom(32)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    fd, own = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # for this user alone
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
        os.unlink(own)
    return path.read_bytes()
