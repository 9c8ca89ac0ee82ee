"""Request bodies that came compressed (RFC 9110, 8.4): gzip and deflate, as Triton's clients send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import Unsupported
from penstock.protocols.grpc.wire import decompress

if TYPE_CHECKING:
    from penstock.http.head import RequestHead
    from penstock.http.incoming import Buffer

#: Bytes of a compressed body that is read where everybody's requests pass.
MOST_INFLATED: Final = 32 * 1024 * 1024


def coding_of(head: RequestHead) -> bytes | None:
    """How the body is compressed; None when it is not. Unsupported."""
    coding = (head.get(b"content-encoding") or b"").lower()
    if coding in (b"", b"identity"):
        return None
    if coding in (b"gzip", b"deflate"):
        return coding
    raise Unsupported(
        "The request's body has a content-encoding that is not served.",
        hint="Use gzip or deflate, or send it as it is.",
    )


def plain_body(head: RequestHead, body: Buffer | None, most: int = MOST_INFLATED) -> Buffer:
    """The body as it was before it was compressed, if it was. InvalidInput, TooLarge, Unsupported."""
    coding = coding_of(head) if head.get(b"content-encoding") is not None else None
    return (body or b"") if coding is None else decompress(body or b"", coding, most)
