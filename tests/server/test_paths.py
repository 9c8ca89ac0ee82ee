"""Paths by one expression: as if the patterns were tried one after the other."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from penstock.server.paths import Paths

ROWS = (
    (r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer", "infer"),
    (r"/v2/models/([^/]+)", "model"),
    (r"/v2/models/stats", "hidden by the one before"),
    (r"/(a|b)|/c/(d)?", "one of two"),
    (r"/", "root"),
    (r"/metrics\.json", "metrics"),
)
PIECES = (
    "/v2/models",
    "/stats",
    "/iris",
    "/versions",
    "/1",
    "/infer",
    "/a",
    "/c/",
    "d",
    "/",
    ".json",
)


@given(st.lists(st.sampled_from([*PIECES, "/metrics", "é", "\n"]), max_size=6).map("".join))
def test_the_first_pattern_that_is_the_whole_path(path: str) -> None:
    expected = None
    for pattern, name in ROWS:
        match = re.compile(pattern).fullmatch(path)
        if match is not None:
            expected = (name, match.groups())
            break
    assert Paths(ROWS).find(path) == expected


def test_groups_that_took_no_part_are_none() -> None:
    paths = Paths(ROWS)
    assert paths.find("/v2/models/iris/infer") == ("infer", ("iris", None))
    assert paths.find("/v2/models/iris/versions/3/infer") == ("infer", ("iris", "3"))
    assert paths.find("/v2/models/stats") == ("model", ("stats",))
    assert paths.find("/c/") == ("one of two", (None, None))
    assert paths.find("/c/d") == ("one of two", (None, "d"))
    assert paths.find("/") == ("root", ())
    assert paths.find("/metricsXjson") is None
    assert paths.find("") is None
