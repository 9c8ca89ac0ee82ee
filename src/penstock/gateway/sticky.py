"""Which revision a client stays with: by the hash of a header, or by what an earlier answer told it.

A head's bytes and the route decide, so the choice is made once per distinct head, in its plan. Hashing puts
every value at a place between 0 and 100, and the newest revision takes the places from 0 on: a share that
grows takes more clients and gives none back. It is a preference: a revision that has no share any more, or
no replica that answers, is not insisted on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from penstock.domain.routes import Sticky
    from penstock.gateway.table import Service
    from penstock.http.head import RequestHead

ROUTE_HEADER: Final = b"x-penstock-route"
COOKIE: Final = "penstock-route-"


def preferred(head: RequestHead, service: Service, sticky: Sticky) -> str:
    """The revision that the client of this head stays with; empty: any."""
    if sticky.header:
        value = head.get(sticky.header.encode("latin-1"))
        return _by_hash(value, service) if value is not None else ""
    told = head.get(ROUTE_HEADER)
    name = told.decode("latin-1") if told is not None else _cookie(head, COOKIE + service.name)
    if not name:
        return ""
    target = service.named(name)
    return target.revision if target is not None and target.weight > 0 else ""


def _by_hash(value: bytes, service: Service) -> str:
    total = sum(t.weight for t in service.weighted)
    if not total:
        return ""
    digest = hashlib.blake2b(value, digest_size=8, person=b"penstock-sticky"[:16]).digest()
    place = int.from_bytes(digest, "big") * total >> 64
    for target in service.weighted:
        place -= target.weight
        if place < 0:
            return target.revision
    return ""


def _cookie(head: RequestHead, name: str) -> str:
    for field, value in head.headers:
        if field == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, said = part.strip().partition("=")
                if key == name:
                    return said.strip('"')
    return ""


def answer_lines(revision: str, service_name: str) -> bytes:
    """What an answer tells the client, for its next request."""
    return (
        f"{ROUTE_HEADER.decode()}: {revision}\r\n"
        f"set-cookie: {COOKIE}{service_name}={revision}; Path=/; HttpOnly; SameSite=Lax\r\n"
    ).encode()
