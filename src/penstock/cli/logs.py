"""`penstock logs`."""

from __future__ import annotations

import sys

from penstock.cli.client import Client, Kinds
from penstock.cli.exits import USAGE, CliError
from penstock.cli.getting import Object, find, split_names
from penstock.cli.output import note


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
    if "/" in name:
        ((kind, (one,)),) = split_names(name, [])
        candidates = kinds.named(kind)
    else:
        candidates, one = kinds.services(), name
    served, obj = find(client, candidates, namespace, one)
    if not served.is_service and served.kind != "Replica":
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
    is_empty = True
    for piece in client.stream(served.path(namespace, one, "logs"), query=query):
        is_empty = False
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    if is_empty and not follow:
        note(_why_none(one, obj))


def _why_none(name: str, obj: Object) -> str:
    """Why there is nothing to show; a graph names those that have logs."""
    from penstock import dialects  # most logs have lines, and are shown sooner without

    known = {(d.api_version, d.kind) for d in dialects.all_dialects()}
    if (obj["apiVersion"], obj["kind"]) in known and dialects.of(obj).means_graph(obj):
        means = dialects.translate(obj).object
        graph = getattr(means, "graph", means)
        asked = [one for _, one in (*graph.services(), *graph.graphs())]
        return f"{name} has no process, and so no logs; it asks {', '.join(asked) or 'no service'}."
    return f"There are no logs of {name}: nothing runs for it, or it wrote nothing."
