"""Which files are archives to be unpacked, and of which kind.

By the name; by the media type where the name ends in nothing known; and for exported models of BentoML's,
whose name does not say, by the first bytes.
"""

from __future__ import annotations

import zlib
from enum import StrEnum
from typing import Final


class Packing(StrEnum):
    """The archives that are unpacked."""

    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_BZ2 = "tar.bz2"
    TAR_XZ = "tar.xz"
    ZIP = "zip"


_SUFFIXES: Final = {
    ".tar": Packing.TAR,
    ".tar.gz": Packing.TAR_GZ,
    ".tgz": Packing.TAR_GZ,
    ".tar.bz2": Packing.TAR_BZ2,
    ".tbz2": Packing.TAR_BZ2,
    ".tar.xz": Packing.TAR_XZ,
    ".txz": Packing.TAR_XZ,
    ".zip": Packing.ZIP,
}
_MEDIA_TYPES: Final = {
    "application/x-tar": Packing.TAR,
    "application/x-gtar": Packing.TAR,
    "application/zip": Packing.ZIP,
    "application/x-zip-compressed": Packing.ZIP,
    "application/zip-compressed": Packing.ZIP,
}
_GZIP_TYPES: Final = frozenset(
    ("application/gzip", "application/x-gzip", "application/x-gtar-compressed", "application/x-tgz")
)
#: How an exported model of BentoML's is packed, which its name does not say.
_MAGIC: Final = (
    (b"\x1f\x8b", Packing.TAR_GZ),
    (b"\xfd7zXZ\x00", Packing.TAR_XZ),
    (b"BZh", Packing.TAR_BZ2),
    (b"PK\x03\x04", Packing.ZIP),
)


def packing_of(name: str, media_type: str, head: bytes) -> Packing | None:
    """How a file is packed: by its name; by its media type where the name ends in nothing known.

    `head` is its first bytes (512 or more where there are as many): servers call a gzipped tar a tar and
    say gzip of anything. None: it is a file to be kept as it is, `model.joblib.gz` and torch's
    zip-in-all-but-name files included.
    """
    lower = name.lower()
    if lower.endswith(".bentomodel"):
        return next((p for magic, p in _MAGIC if head.startswith(magic)), Packing.TAR)
    by_name = next((p for s, p in _SUFFIXES.items() if lower.endswith(s)), None)
    media = media_type.partition(";")[0].strip().lower()
    packing = by_name
    if packing is None and "." not in lower.rpartition("/")[2].lstrip("."):
        packing = _MEDIA_TYPES.get(media)
        if packing is None and media in _GZIP_TYPES:
            packing = Packing.TAR_GZ if _holds_tar(head) else None
    if packing is Packing.TAR and head.startswith(b"\x1f\x8b"):
        return Packing.TAR_GZ
    return packing


def _holds_tar(head: bytes) -> bool:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 512)[257:262] == b"ustar"
    except zlib.error:
        return False
