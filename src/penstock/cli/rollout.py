"""`penstock rollout`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from penstock.cli import canaries
from penstock.cli.client import Client, Kinds, Served
from penstock.cli.exits import FAILED, CliError
from penstock.cli.getting import find
from penstock.cli.output import age, say, size, table
from penstock.cli.waiting import Target, wait_for_condition
from penstock.domain.annotations import GIVEN_UP, PINNED, PROMOTED, RESTARTED_AT


def _service(client: Client, namespace: str, name: str) -> tuple[Served, dict[str, Any]]:
    name = name.rpartition("/")[2]
    return find(client, Kinds(client).services(), namespace, name)


def _predictor(obj: dict[str, Any]) -> dict[str, Any]:
    components = (obj.get("status") or {}).get("components") or {}
    found: dict[str, Any] = components.get("predictor") or {}
    return found


def _revisions(client: Client, namespace: str, service: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(
        f"/apis/penstock.dev/v1alpha1/namespaces/{namespace}/revisions",
        labelSelector=f"penstock.dev/service={service}",
    )["items"]
    return items


def _of_predictor(client: Client, namespace: str, service: str) -> list[dict[str, Any]]:
    return [
        r
        for r in _revisions(client, namespace, service)
        if (r["spec"].get("component") or {}).get("role", "predictor") == "predictor"
    ]


def _in_steps(obj: dict[str, Any]) -> bool:
    """Whether a new revision gets its requests in steps."""
    return (obj.get("spec") or {}).get("rollout") is not None


def status(client: Client, name: str, *, namespace: str, wait: bool, timeout_s: float) -> None:
    """How the newest manifest stands; waits for it unless told not to."""
    kind, obj = _service(client, namespace, name)
    if wait:
        target = Target(kind, namespace, obj["metadata"]["name"])
        wait_for_condition(client, [target], "Ready", "True", timeout_s, give_up=True)
        kind, obj = _service(client, namespace, name)
    shown = obj.get("status") or {}
    predictor = _predictor(obj)
    condition: dict[str, Any] = next(
        (c for c in shown.get("conditions") or () if c["type"] == "Ready"), {}
    )
    for t in predictor.get("traffic") or ():
        say(f"{t['revisionName']} takes {t['percent']}%")
    created = predictor.get("latestCreatedRevision")
    if created and created != predictor.get("latestReadyRevision"):
        say(f"{created} is next")
    for c in shown.get("conditions") or ():
        if c["type"] == "CanaryPredictorReady" and c["status"] != "True":
            say(f"canary {c.get('message') or 'is not ready'}")
    message = condition.get("message") or condition.get("reason") or ""
    if condition.get("status") == "False":
        raise CliError(f"{obj['metadata']['name']} is not ready: {message}", FAILED)
    say(f"{obj['metadata']['name']} is {'ready' if condition.get('status') == 'True' else 'coming up'}"
        + (f": {message}" if message else ""))  # fmt: skip


def history(client: Client, name: str, *, namespace: str) -> None:
    """The revisions that are kept, of all components."""
    _, obj = _service(client, namespace, name)
    service = obj["metadata"]["name"]
    components = ((obj.get("status") or {}).get("components") or {}).values()
    serving = {t["revisionName"]: t["percent"] for c in components for t in c.get("traffic") or ()}
    rows = [
        (
            str(r["spec"]["number"]),
            r["metadata"]["name"],
            f"{serving[r['metadata']['name']]}%" if r["metadata"]["name"] in serving else "-",
            "True" if (r.get("status") or {}).get("readyAt") else "False",
            r["spec"].get("uri", ""),
            size(r["spec"].get("sizeBytes")),
            age(r["metadata"].get("creationTimestamp")),
        )
        for r in _revisions(client, namespace, service)
    ]
    say(table(("NUMBER", "NAME", "TRAFFIC", "WAS READY", "FROM", "SIZE", "AGE"), rows))


def restart(client: Client, name: str, *, namespace: str) -> None:
    """A new revision of the same manifest: files are fetched again, replicas replaced one for one."""
    kind, obj = _service(client, namespace, name)
    mark = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    patch = {"metadata": {"annotations": {RESTARTED_AT: mark}}}
    _patch(client, kind, namespace, obj["metadata"]["name"], patch)
    say(f"{kind.singular}.{kind.group}/{obj['metadata']['name']} restarted")


def promote(client: Client, name: str, *, namespace: str, canary: str | None = None) -> None:
    """All requests to the newest revision, or to a named canary.

    Takes `canaryTrafficPercent` and a pin away; a canary of the manifest becomes its predictor. Beside a
    bandit's arms the newest revision skips the steps of its rollout.
    """
    kind, obj = _service(client, namespace, name)
    service = obj["metadata"]["name"]
    names = canaries.names(obj)
    in_steps = _in_steps(obj)
    if canary is not None or (names and not in_steps):
        chosen = canaries.choose(service, names, canary)
        canaries.promote(client, kind, namespace, obj, chosen)
        say(f"{kind.singular}.{kind.group}/{service} promoted: {chosen} takes all requests")
        return
    latest = _predictor(obj).get("latestReadyRevision")
    if not latest:
        raise CliError(f"{service} has no revision that is ready.", FAILED)
    patch: dict[str, Any] = {"metadata": {"annotations": {PINNED: None}}}
    given = (obj.get("spec") or {}).get("predictor")
    if in_steps:
        patch["metadata"]["annotations"] |= {PROMOTED: latest, GIVEN_UP: None}
    if isinstance(given, dict) and "canaryTrafficPercent" in given:
        patch["spec"] = {"predictor": {"canaryTrafficPercent": None}}
    _patch(client, kind, namespace, service, patch)
    created = _predictor(obj).get("latestCreatedRevision") or latest
    takes = "all requests" if not names else "the predictor's place among the arms"
    say(f"{kind.singular}.{kind.group}/{service} promoted: {created} takes {takes}"
        + (" when it is ready" if created != latest else ""))  # fmt: skip


def rollback(
    client: Client, name: str, *, namespace: str, to: str | None, canary: str | None = None
) -> None:
    """All requests to a revision that is kept: the one before, or the one given by number or name.

    An annotation pins it; `promote` takes the pin away. Named canaries are taken out instead: all of them,
    or the one given. Beside a bandit's arms the newest revision is given up, and the arms stay.
    """
    kind, obj = _service(client, namespace, name)
    service = obj["metadata"]["name"]
    names = canaries.names(obj)
    if to is None and canary is None and names and _in_steps(obj):
        _give_up(client, kind, namespace, obj)
        return
    if to is None and (names or canary is not None):
        gone = names if canary is None else [canaries.choose(service, names, canary)]
        canaries.take_out(client, kind, namespace, obj, gone)
        say(f"{kind.singular}.{kind.group}/{service} rolled back: without {' and '.join(gone)}")
        return
    revisions = _of_predictor(client, namespace, service)
    predictor = _predictor(obj)
    serving = {t["revisionName"]: t["percent"] for t in predictor.get("traffic") or ()}
    found: dict[str, Any] | None
    if to is not None:
        matching = [r for r in revisions if to in (str(r["spec"]["number"]), r["metadata"]["name"])]
        if len(matching) > 1:
            named = " or ".join(r["metadata"]["name"] for r in matching)
            raise CliError(f"{service} has several revisions {to}; say {named}.", FAILED)
        found = matching[0] if matching else None
        if found is None:
            raise CliError(
                f"{service} has no revision {to}; `penstock rollout history {service}` lists them.",
                FAILED,
            )
    else:
        # In a canary the stable one; else the one that took all requests before.
        full = predictor.get("latestRolledoutRevision")
        wanted = full if serving.get(full) != 100 else predictor.get("previousRolledoutRevision")
        found = next((r for r in revisions if r["metadata"]["name"] == wanted), None)
        if found is None:
            raise CliError(
                f"{service} has no earlier revision of its predictor that is kept."
                " (A transformer or an explainer goes back when its manifest is applied as it was.)",
                FAILED,
            )
    target = found["metadata"]["name"]
    if not (found.get("status") or {}).get("readyAt"):
        raise CliError(f"{target} was never ready, so nothing is rolled back to it.", FAILED)
    _patch(client, kind, namespace, service, {"metadata": {"annotations": {PINNED: target}}})
    say(f"{kind.singular}.{kind.group}/{service} rolled back: {target} takes all requests; "
        f"`penstock rollout promote {service}` ends that")  # fmt: skip


def _give_up(client: Client, kind: Served, namespace: str, obj: dict[str, Any]) -> None:
    """The predictor's revision before takes the place of its newest one, among the arms of a bandit."""
    service = obj["metadata"]["name"]
    latest = _predictor(obj).get("latestReadyRevision")
    own = ((obj.get("spec") or {}).get("predictor") or {}).get("name")
    names = [
        r["metadata"]["name"]
        for r in _of_predictor(client, namespace, service)
        if (r["spec"].get("component") or {}).get("name") == own
        and (r.get("status") or {}).get("readyAt")
    ]
    if latest not in names or len(names) < 2:
        raise CliError(f"{service} has no earlier revision of its predictor that is kept.", FAILED)
    notes = {GIVEN_UP: latest, PROMOTED: None, PINNED: None}
    _patch(client, kind, namespace, service, {"metadata": {"annotations": notes}})
    say(f"{kind.singular}.{kind.group}/{service} rolled back: {latest} is given up, the arms stay; "
        f"`penstock rollout promote {service}` ends that")  # fmt: skip


def _patch(
    client: Client, kind: Served, namespace: str, service: str, patch: dict[str, Any]
) -> None:
    client.call(
        "PATCH",
        kind.path(namespace, service),
        body=json.dumps(patch).encode(),
        content_type="application/merge-patch+json",
    )
