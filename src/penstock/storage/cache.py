"""Models on this machine's disk, by digest of their content; shared, bounded, safe against kills.

```
ROOT/lock                    held for moments: looking up, pinning, making room, moving in
ROOT/content/HEX/files/...   a model, read-only; HEX is its digest, so it never changes
ROOT/content/HEX/manifest.json   sizes, times and digests; its own time is when it was last asked for
ROOT/sources/KEY.json        which digest a listing (URI, sizes, ETags) led to
ROOT/partial/KEY/            a download on its way, or one that was killed and will be resumed
ROOT/locks/KEY               held while KEY is downloaded: other processes wait, and then find it
ROOT/pins/*.json             who needs which digest; survives restarts
```

A model enters by one rename of a folder whose every file has been synced, so it is there whole or not at
all. What is pinned (by a revision) is never evicted, nor what was asked for within `grace_s`; the rest goes
least recently used first when a newcomer needs the room.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.errors import LoadError, NotFound, Unavailable
from penstock.storage.locks import locked, release, try_lock
from penstock.storage.settings import GIB, MIB
from penstock.storage.tree import (
    Manifest,
    bytes_below,
    differs,
    remove,
    sync,
    write_atomically,
)

log = logging.getLogger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: Kept free on the disk whatever the cache's own bound: logs and the store live there, too.
_SPARE_BYTES: Final = 64 * MIB
_MAX_SOURCES: Final = 4096


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model on this disk. `path` is a folder, also for a URI of one file; nothing in it ever changes."""

    path: Path
    #: `sha256:` and 64 hexadecimal digits, of names and bytes.
    digest: str
    size_bytes: int
    #: Paths below `path`, sorted.
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """`owner` needs `digest`."""

    owner: str
    digest: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What the cache holds. Bytes are of files' lengths; `partial` is reserved by downloads."""

    models: int
    content_bytes: int
    pinned_bytes: int
    partial_bytes: int
    max_bytes: int


class Cache:
    """See the module. Every method blocks for file operations, briefly unless it says otherwise; any
    number of processes may have the same `root` open."""

    def __init__(
        self,
        root: Path | str,
        max_bytes: int = 50 * GIB,
        *,
        grace_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = Path(root).absolute()
        self.max_bytes = max_bytes
        self.grace_s = grace_s
        self._clock = clock
        self._content = self.root / "content"
        self._sources = self.root / "sources"
        self._partial = self.root / "partial"
        self._locks = self.root / "locks"
        self._pins = self.root / "pins"
        self._trash = self.root / "trash"
        self._manifests: dict[str, Manifest] = {}  # by HEX; immutable, so never stale
        self._made = False
        #: Downloads under way in this process, by key; `fetching` owns them.
        self.jobs: dict[str, Any] = {}

    def find(self, digest: str) -> Fetched | None:
        """The model of that digest, checked cheaply (sizes and times); None when it is not here."""
        with self._state():
            return self._find(_hex(digest))

    def pin(self, owner: str, digest: str) -> None:
        """Keep `digest` for `owner` (one digest an owner; the last stands). NotFound when it is not here."""
        with self._state():
            if not (self._content / _hex(digest)).is_dir():
                raise NotFound(f"There is no model {digest} in the cache to keep for {owner}.")
            self._pin(owner, digest)

    def unpin(self, owner: str) -> None:
        """`owner` needs nothing any more. No-op when it has no pin."""
        with self._state():
            self._pin_file(owner).unlink(missing_ok=True)

    def pins(self) -> tuple[Pin, ...]:
        """All pins, so that a control plane can let go of those whose revisions are no more."""
        with self._state():
            return tuple(Pin(o, d) for o, d in sorted(self._read_pins().items()))

    def pins_beside(self, owners: Iterable[str]) -> tuple[Pin, ...]:
        """Pins of others than `owners`: of ten thousand that are all known, none is read."""
        known = {self._pin_file(owner).name for owner in owners}
        with self._state():
            found = self._read_pins(without=known)
            return tuple(Pin(o, d) for o, d in sorted(found.items()))

    def verify(self, digest: str) -> str | None:
        """Read every byte of a model and compare: None when all is well, else what is wrong.

        Long: a second per gigabyte or so. Takes no lock.
        """
        name = _hex(digest)
        manifest = self._manifest(name)
        if manifest is None:
            return "it is not in the cache"
        if Manifest.of(manifest.files).digest != digest:
            return "its manifest has been changed"
        return differs(self._content / name / "files", manifest, deep=True)

    def discard(self, digest: str) -> None:
        """Forget a model, e.g. one that `verify` found broken. LoadError while it is pinned."""
        with self._state():
            owners = [o for o, d in self._read_pins().items() if d == digest]
            if owners:
                raise LoadError(f"The model {digest} is needed by {', '.join(sorted(owners))}.")
            self._evict(_hex(digest))

    def usage(self) -> Usage:
        """What is held now."""
        with self._state():
            pinned = {_hex(d) for d in self._read_pins().values()}
            sizes = {n: m.size_bytes for n in self._names() if (m := self._manifest(n)) is not None}
            return Usage(
                models=len(sizes),
                content_bytes=sum(sizes.values()),
                pinned_bytes=sum(s for n, s in sizes.items() if n in pinned),
                partial_bytes=sum(self._partials().values()),
                max_bytes=self.max_bytes,
            )

    # For `fetching`, which holds `lock_path(key)` throughout.

    def lock_path(self, key: str) -> Path:
        self._make()
        return self._locks / key

    def lookup(self, key: str, owners: Iterable[str] = ()) -> Fetched | None:
        """The model that a listing led to before, pinned for `owners`; None when it is not here whole."""
        with self._state():
            record = self._sources / f"{key}.json"
            try:
                digest = str(msgspec.json.decode(record.read_bytes())["digest"])
            except FileNotFoundError:
                return None
            except (msgspec.DecodeError, KeyError, TypeError):
                record.unlink(missing_ok=True)
                return None
            found = self._find(_hex(digest))
            if found is None:
                record.unlink(missing_ok=True)
                return None
            for owner in owners:
                self._pin(owner, digest)
            return found

    def begin(self, key: str, expected_bytes: int, shown: str, *, fresh: bool) -> Path:
        """A folder to download into, with room made for it; what a killed download left is still in it.

        `fresh` starts from nothing. LoadError when it can never fit, Unavailable when it does not now.
        """
        with self._state():
            folder = self._partial / key
            state = folder / "state.json"
            boot = _boot_id()
            if folder.exists():
                # After a crash of the machine a file may have its length without its bytes.
                try:
                    same = msgspec.json.decode(state.read_bytes())["boot"] == boot
                except (OSError, msgspec.DecodeError, KeyError, TypeError):
                    same = False
                if fresh or not same:
                    remove(folder)
            self._make_room(expected_bytes, shown, but=key)
            folder.mkdir(exist_ok=True)
            state.write_bytes(msgspec.json.encode({"boot": boot, "expected_bytes": expected_bytes}))
            os.utime(state, (self._clock(),) * 2)
            return folder

    def abandon(self, key: str) -> None:
        """Remove what a download left."""
        with self._state():
            remove(self._partial / key)

    def admit(
        self,
        key: str,
        files: Path,
        manifest: Manifest,
        shown: str,
        *,
        remember: bool,
        owners: Iterable[str] = (),
    ) -> Fetched:
        """Move the sealed folder `files` in under its digest, pinned for `owners`; ends `key`'s download.

        `remember`: the same listing leads here at once the next time.
        """
        with self._state():
            name = _hex(manifest.digest)
            target = self._content / name
            if self._find(name) is None:
                self._evict(name)  # there, and damaged
                self._make_room(manifest.size_bytes, shown, but=key)
                staged = files.parent
                (staged / "manifest.json").write_bytes(msgspec.json.encode(manifest))
                sync(staged / "manifest.json")
                sync(staged)
                staged.rename(target)
                sync(self._content)
            if remember:
                self._prune_sources()
                write_atomically(
                    self._sources / f"{key}.json",
                    msgspec.json.encode({"digest": manifest.digest, "uri": shown}),
                    durable=False,  # only a shortcut: `lookup` throws a torn one away
                )
            for owner in owners:
                self._pin(owner, manifest.digest)
            remove(self._partial / key)
            found = self._find(name)
            if found is None:
                raise Unavailable(f"{shown} was changed in the cache while it was moved in.")
            return found

    # Below here the state lock is held.

    def _state(self) -> Any:
        self._make()
        return locked(self.root / "lock")

    def _make(self) -> None:
        if not self._made:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (
                self._content, self._sources, self._partial, self._locks, self._pins, self._trash,
            ):  # fmt: skip
                folder.mkdir(exist_ok=True)
            self._made = True

    def _find(self, name: str) -> Fetched | None:
        manifest = self._manifest(name)
        if manifest is None:
            return None
        files = self._content / name / "files"
        wrong = differs(files, manifest)
        if wrong is not None:
            log.warning(
                "the model %s in the cache is damaged (%s): it is fetched again", name, wrong
            )
            return None
        now = self._clock()
        os.utime(self._content / name / "manifest.json", (now, now))
        return Fetched(
            files, manifest.digest, manifest.size_bytes, tuple(f.path for f in manifest.files)
        )

    def _manifest(self, name: str) -> Manifest | None:
        path = self._content / name / "manifest.json"
        known = self._manifests.get(name)
        if known is not None and path.exists():
            return known
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError):
            self._manifests.pop(name, None)
            return None
        if len(self._manifests) > 1000:
            self._manifests.clear()
        self._manifests[name] = manifest
        return manifest

    def _names(self) -> list[str]:
        return [p.name for p in self._content.iterdir()]

    def _pin_file(self, owner: str) -> Path:
        return self._pins / f"{hashlib.sha256(owner.encode()).hexdigest()[:40]}.json"

    def _pin(self, owner: str, digest: str) -> None:
        write_atomically(
            self._pin_file(owner), msgspec.json.encode({"owner": owner, "digest": digest})
        )

    def _read_pins(self, without: Collection[str] = ()) -> dict[str, str]:
        """Digests by owner, but for files of these names."""
        pins = {}
        for name in os.listdir(self._pins):
            if name.endswith(".json") and name not in without:
                pin = msgspec.json.decode((self._pins / name).read_bytes(), type=Pin)
                pins[pin.owner] = pin.digest
        return pins

    def _partials(self) -> dict[str, int]:
        sizes = {}
        for folder in self._partial.iterdir():
            try:
                expected = msgspec.json.decode((folder / "state.json").read_bytes())[
                    "expected_bytes"
                ]
            except (OSError, msgspec.DecodeError, KeyError, TypeError):
                expected = 0
            sizes[folder.name] = max(int(expected), bytes_below(folder))
        return sizes

    def _evict(self, name: str) -> None:
        path = self._content / name
        if path.exists():
            gone = self._trash / f"{name}-{os.urandom(4).hex()}"
            path.rename(gone)
            remove(gone)
        self._manifests.pop(name, None)

    def _make_room(self, needed: int, shown: str, *, but: str) -> None:
        for leftover in self._trash.iterdir():  # of somebody killed in the middle of `_evict`
            remove(leftover)
        if needed > self.max_bytes:
            raise LoadError(
                f"{shown} has {_size(needed)}, and the cache of models may hold {_size(self.max_bytes)}.",
                hint="Raise the cache's bound, or point the URI at the model alone.",
            )
        sizes = {n: m.size_bytes for n in self._names() if (m := self._manifest(n)) is not None}
        partials = self._partials()
        partials.pop(but, None)
        used = sum(sizes.values()) + sum(partials.values())
        arrived = bytes_below(self._partial / but)

        def lacking() -> bool:
            free = shutil.disk_usage(self.root).free
            return used + needed > self.max_bytes or free + arrived < needed + _spare(self.root)

        if not lacking():
            return
        for kind, name in self._victims(sizes, partials):
            if kind == "content":
                log.info("evicting the model %s (%s) for %s", name, _size(sizes[name]), shown)
                self._evict(name)
                used -= sizes[name]
            elif self._drop_partial(name):
                used -= partials[name]
            if not lacking():
                return
        if used + needed > self.max_bytes:
            raise Unavailable(
                f"There is no room for {shown} ({_size(needed)}): of {_size(self.max_bytes)} in the cache "
                f"{_size(used)} are in use by models that are served or on their way.",
                hint="Raise the cache's bound, or remove services.",
            )
        free = _size(shutil.disk_usage(self.root).free)
        raise Unavailable(
            f"The disk is full: {shown} needs {_size(needed)}, "
            f"and {free} are free where {self.root} is.",
            hint="Free some space; the fetch is tried again.",
        )

    def _victims(self, sizes: dict[str, int], partials: dict[str, int]) -> list[tuple[str, str]]:
        pinned = {_hex(d) for d in self._read_pins().values()}
        now = self._clock()
        before = now - self.grace_s

        def settled(at: float) -> bool:
            # A time to come is from before the clock was stepped back: it would protect for ever.
            return at <= before or at > now + self.grace_s

        aged: list[tuple[float, str, str]] = []
        for name in sizes.keys() - pinned:
            used_at = (self._content / name / "manifest.json").stat().st_mtime
            if settled(used_at):
                aged.append((used_at, "content", name))
        for key in partials:
            state = self._partial / key / "state.json"
            touched = state.stat().st_mtime if state.exists() else 0.0
            if settled(touched):
                aged.append((touched, "partial", key))
        return [(kind, name) for _, kind, name in sorted(aged)]

    def _drop_partial(self, key: str) -> bool:
        path = self._locks / key
        descriptor = try_lock(path)
        if descriptor is None:
            return False  # somebody is downloading it
        try:
            remove(self._partial / key)
        finally:
            release(path, descriptor)
        return True

    def _prune_sources(self) -> None:
        records = list(self._sources.glob("*.json"))
        if len(records) >= _MAX_SOURCES:
            records.sort(key=lambda p: p.stat().st_mtime)
            for path in records[: len(records) // 2]:
                path.unlink(missing_ok=True)


def _hex(digest: str) -> str:
    kind, _, name = digest.partition(":")
    if kind != "sha256" or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise NotFound(f"{digest!r} is not the digest of a model.")
    return name


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _spare(root: Path) -> int:
    return min(_SPARE_BYTES, shutil.disk_usage(root).total // 20)


def _size(n: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "bytes" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
