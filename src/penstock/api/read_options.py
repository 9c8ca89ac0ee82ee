"""What the query of a list or a watch says: from which version, how much, for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.api.wire import ApiError, invalid
from penstock.errors import InvalidInput

MAX_LIMIT = 5000
MAX_TIMEOUT_S = 86_400
EXACT, NOT_OLDER = "Exact", "NotOlderThan"


@dataclass(frozen=True, slots=True)
class ListOptions:
    """`version`: exactly this one; `at_least`: any that is not older."""

    version: int | None = None
    at_least: int | None = None
    limit: int | None = None
    continue_: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> ListOptions:
        """InvalidInput, or ApiError 422 for what does not go together."""
        version = version_of(query)
        match = query.get("resourceVersionMatch", "")
        limit = number(query, "limit", MAX_LIMIT) or None
        continue_ = query.get("continue", "")
        if query.get("sendInitialEvents"):
            raise _refused(
                "sendInitialEvents", "Forbidden: sendInitialEvents is forbidden for list"
            )
        if match and match not in (EXACT, NOT_OLDER):
            raise _refused(
                "resourceVersionMatch",
                f'Unsupported value: "{match[:40]}": supported values: "Exact", "NotOlderThan"',
            )
        if match and not query.get("resourceVersion"):
            raise _refused(
                "resourceVersionMatch", "Forbidden: it is forbidden unless resourceVersion is given"
            )
        if match and continue_:
            raise _refused(
                "resourceVersionMatch", "Forbidden: it is forbidden when continue is given"
            )
        if match == EXACT and version == 0:
            raise _refused("resourceVersionMatch", 'Forbidden: "Exact" is forbidden for version 0')
        if continue_ and version:
            raise InvalidInput("resourceVersion is not allowed together with continue.")
        # Kubernetes' rule for clients older than resourceVersionMatch: with a limit, exactly that version.
        exact = match == EXACT or (not match and version and limit)
        return cls(
            version if exact else None,
            None if exact else version,
            limit,
            continue_,
        )

    def check_reached(self, newest: int) -> None:
        """ApiError 504 when a version is wanted that there is not yet."""
        if self.at_least is not None and self.at_least > newest:
            raise ApiError(
                504,
                f"Too large resource version: {self.at_least}, current: {newest}",
                details={
                    "causes": [
                        {
                            "reason": "ResourceVersionTooLarge",
                            "message": "Too large resource version",
                        }
                    ],
                    "retryAfterSeconds": 1,
                },
            )


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """`since` None: from now on. `initial`: first all there is, as ADDED. `timeout_s` None: long."""

    since: int | None
    initial: bool
    bookmarks: bool
    timeout_s: float | None

    @classmethod
    def read(cls, query: Mapping[str, str]) -> WatchOptions:
        """InvalidInput, or ApiError 422 for what does not go together."""
        version = version_of(query)
        bookmarks = flag(query, "allowWatchBookmarks") or False
        send = flag(query, "sendInitialEvents")
        match = query.get("resourceVersionMatch", "")
        if send is None and match:
            raise _refused(
                "resourceVersionMatch",
                "Forbidden: it is forbidden for watch unless sendInitialEvents is given",
            )
        if send is not None and match != NOT_OLDER:
            raise _refused(
                "resourceVersionMatch", "Forbidden: it must be NotOlderThan with sendInitialEvents"
            )
        seconds = number(query, "timeoutSeconds", MAX_TIMEOUT_S)
        return cls(
            (version or None) if not send else None,
            not version if send is None else send,
            bookmarks,
            float(seconds) if seconds else None,
        )


def is_watch(query: Mapping[str, str]) -> bool:
    return flag(query, "watch") or False


def version_of(query: Mapping[str, str]) -> int | None:
    """The resourceVersion; 0 is any. InvalidInput for what is none."""
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidInput(f"resourceVersion {text[:40]!r} is no version.")
    return int(text)


def number(query: Mapping[str, str], name: str, most: int) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > most:
        raise InvalidInput(f"{name} is {text[:40]!r}; a whole number up to {most} is expected.")
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool | None:
    text = query.get(name)
    if text is None or text in ("true", "1"):
        return None if text is None else True
    if text in ("false", "0", ""):
        return False
    raise InvalidInput(f"{name} is {text[:40]!r}; true or false is expected.")


def _refused(field: str, message: str) -> ApiError:
    return invalid("ListOptions", "meta.k8s.io", "", [(field, message)])
