"""What is wrong with a JSON text, in words for the caller who sent it; never with the caller's data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer

#: All that msgspec raises for a text that is not what it should be.
JSON_FAULTS: Final = (msgspec.MsgspecError, ValueError, RecursionError)

_NOT_JSON = re.compile(rb"(?:NaN|Infinity|nan|inf)\b")
#: What editors and shells on Windows begin a file with.
_MARKS: Final = ((b"\xef\xbb\xbf", "UTF-8"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_PLACE = re.compile(r"\(byte (\d+)\)")


def json_fault(error: Exception, body: Buffer) -> InvalidInput:
    """The error to answer for a JSON text that msgspec refused."""
    if isinstance(error, RecursionError):
        return InvalidInput("the JSON is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("the body is no UTF-8 text")
    if isinstance(error, msgspec.ValidationError):
        return InvalidInput(f"the request does not fit the protocol: {error}")
    if not len(body):
        return InvalidInput("the body is empty; JSON is expected")
    for mark, name in _MARKS:
        if bytes(body[: len(mark)]) == mark:
            return InvalidInput(
                f"the body is no JSON: it begins with the byte order mark of {name}.",
                hint="Send UTF-8 without one.",
            )
    place = _PLACE.search(str(error))
    at = int(place[1]) if place else 0
    if place and _NOT_JSON.search(bytes(body[max(0, at - 2) : at + 12])):
        return InvalidInput(
            "the body is no JSON: JSON has no NaN and no Infinity.",
            hint="Send such values in a binary tensor.",
        )
    return InvalidInput(f"the body is no JSON: {error}")
