"""`penstock logs`."""

from __future__ import annotations

import sys

from penstock.cli.client import Client, Kinds
from penstock.cli.exits import USAGE, CliError
from penstock.cli.getting import find, split_names


def logs(
    client: Client,
    name: str,
    *,
    namespace: str,
    follow: bool,
    tail: int | None,
    previous: bool,
    revision: str | None,
    component: str | None,
) -> None:
    """Print what a service's replicas (or one replica, `replica/ID`) wrote."""
    kinds = Kinds(client)
    word = name if "/" in name else f"isvc/{name}"
    ((kind, (one,)),) = split_names(word, [])
    served, _ = find(client, kinds.named(kind), namespace, one)
    if served.kind not in ("InferenceService", "Replica"):
        raise CliError(f"A {served.singular} has no logs.", USAGE)
    query: dict[str, str] = {}
    if follow:
        query["follow"] = "1"
    if tail is not None:
        query["tail"] = str(tail)
    if previous:
        query["previous"] = "1"
    if revision:
        query["revision"] = revision
    if component:
        query["component"] = component
    for piece in client.stream(served.path(namespace, one, "logs"), query=query):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
