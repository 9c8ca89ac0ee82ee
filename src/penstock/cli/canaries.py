"""Named canaries on the command line: edits of `spec.canary` and `spec.predictor` in the manifest.

Each is one patch that first tests the spec it was made from: a change in between is refused, not lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from penstock.cli.client import Client, Kinds, Served
from penstock.cli.exits import FAILED, CliError
from penstock.cli.getting import find
from penstock.cli.output import say
from penstock.domain.annotations import PINNED


def names(obj: dict[str, Any]) -> list[str]:
    """Names of the canaries that a manifest has."""
    found = (obj.get("spec") or {}).get("canary")
    if not isinstance(found, list):  # older dialects have something else there
        return []
    return [str(e["predictor"].get("name")) for e in found]


def choose(service: str, known: Sequence[str], asked: str | None) -> str:
    """The canary that is meant."""
    if asked is None and len(known) == 1:
        return known[0]
    if asked is not None and asked in known:
        return asked
    have = " and ".join(known) or "none"
    if asked is None:
        raise CliError(
            f"{service} has several canaries; say --canary {' or '.join(known)}.", FAILED
        )
    raise CliError(f"{service} has no canary {asked}; it has {have}.", FAILED)


def promote(client: Client, kind: Served, namespace: str, obj: dict[str, Any], name: str) -> None:
    """Make a canary the predictor. Its processes carry on."""
    from penstock.dialects.kserve.canary import promoted

    _edit(client, kind, namespace, obj, promoted(obj["spec"], name))


def take_out(
    client: Client, kind: Served, namespace: str, obj: dict[str, Any], gone: Iterable[str]
) -> None:
    """Take canaries out; the predictor has their requests again."""
    from penstock.dialects.kserve.canary import without

    _edit(client, kind, namespace, obj, without(obj["spec"], gone))


def weight(client: Client, name: str, shares: Sequence[str], *, namespace: str) -> None:
    """`CANARY=PERCENT` for each of `shares`."""
    name = name.rpartition("/")[2]
    kind, obj = find(client, Kinds(client).services(), namespace, name)
    service = obj["metadata"]["name"]
    wanted: dict[str, int] = {}
    for share in shares:
        canary, _, percent = share.partition("=")
        if not percent.isdigit() or int(percent) > 100:
            raise CliError(f"{share!r} is no share; say CANARY=PERCENT, such as v2=20.", FAILED)
        wanted[choose(service, names(obj), canary)] = int(percent)
    spec = obj["spec"]
    entries = [
        {**e, "trafficPercent": wanted.get(e["predictor"]["name"], e["trafficPercent"])}
        for e in spec.get("canary") or ()
    ]
    _edit(client, kind, namespace, obj, {**spec, "canary": entries})
    told = ", ".join(f"{canary} takes {percent}%" for canary, percent in wanted.items())
    say(f"{kind.singular}.{kind.group}/{service} changed: {told}")


def _edit(
    client: Client, kind: Served, namespace: str, obj: dict[str, Any], spec: dict[str, Any]
) -> None:
    """Put `spec` in the place of the one that `obj` has, and take a pin away."""
    patch = [
        {"op": "test", "path": "/spec", "value": obj["spec"]},
        {"op": "replace", "path": "/spec", "value": spec},
    ]
    if PINNED in (obj["metadata"].get("annotations") or {}):
        patch.append({"op": "remove", "path": "/metadata/annotations/" + PINNED.replace("/", "~1")})
    client.call(
        "PATCH",
        kind.path(namespace, obj["metadata"]["name"]),
        body=json.dumps(patch).encode(),
        content_type="application/json-patch+json",
    )
