"""What a service says about its requests beyond percents: copies to try a revision on, and stickiness."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shadow:
    """The newest revision gets copies of requests instead of requests; its answers are dropped."""

    #: Of a hundred requests, how many are copied.
    percent: int = 100


@dataclass(frozen=True, slots=True)
class Sticky:
    """A client stays with one revision for as long as that has a share."""

    #: By the hash of this request header, lower case; empty: by a cookie that the first answer sets.
    header: str = ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """All of it. None is: not wanted."""

    shadow: Shadow | None = None
    sticky: Sticky | None = None
