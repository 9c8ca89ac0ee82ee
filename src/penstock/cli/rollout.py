"""`penstock rollout`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from penstock.cli.client import Client, Kinds, Served
from penstock.cli.exits import FAILED, CliError
from penstock.cli.getting import find
from penstock.cli.output import age, say, size, table
from penstock.cli.waiting import Target, wait_for_condition


def _service(client: Client, namespace: str, name: str) -> tuple[Served, dict[str, Any]]:
    name = name.rpartition("/")[2]
    return find(client, Kinds(client).named("isvc"), namespace, name)


def status(client: Client, name: str, *, namespace: str, wait: bool, timeout_s: float) -> None:
    """How the newest manifest stands; waits for it unless told not to."""
    kind, obj = _service(client, namespace, name)
    if wait:
        target = Target(kind, namespace, obj["metadata"]["name"])
        wait_for_condition(client, [target], "Ready", "True", timeout_s, give_up=True)
        kind, obj = _service(client, namespace, name)
    shown = obj.get("status") or {}
    predictor = (shown.get("components") or {}).get("predictor") or {}
    condition: dict[str, Any] = next(
        (c for c in shown.get("conditions") or () if c["type"] == "Ready"), {}
    )
    for t in predictor.get("traffic") or ():
        say(f"{t['revisionName']} takes {t['percent']}%")
    created = predictor.get("latestCreatedRevision")
    if created and created != predictor.get("latestReadyRevision"):
        say(f"{created} is next")
    message = condition.get("message") or condition.get("reason") or ""
    if condition.get("status") == "False":
        raise CliError(f"{obj['metadata']['name']} is not ready: {message}", FAILED)
    say(f"{obj['metadata']['name']} is {'ready' if condition.get('status') == 'True' else 'coming up'}"
        + (f": {message}" if message else ""))  # fmt: skip


def history(client: Client, name: str, *, namespace: str) -> None:
    """The revisions that are kept."""
    _, obj = _service(client, namespace, name)
    service = obj["metadata"]["name"]
    revisions = client.get(
        f"/apis/penstock.dev/v1alpha1/namespaces/{namespace}/revisions",
        labelSelector=f"penstock.dev/service={service}",
    )["items"]
    rows = [
        (
            str(r["spec"]["number"]),
            r["metadata"]["name"],
            "True" if (r.get("status") or {}).get("readyAt") else "False",
            r["spec"].get("uri", ""),
            size(r["spec"].get("sizeBytes")),
            age(r["metadata"].get("creationTimestamp")),
        )
        for r in revisions
    ]
    say(table(("NUMBER", "NAME", "WAS READY", "FROM", "SIZE", "AGE"), rows))


def restart(client: Client, name: str, *, namespace: str) -> None:
    """A new revision of the same manifest: files are fetched again, replicas replaced one for one."""
    kind, obj = _service(client, namespace, name)
    mark = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    patch = {"metadata": {"annotations": {"penstock.dev/restartedAt": mark}}}
    client.call(
        "PATCH",
        kind.path(namespace, obj["metadata"]["name"]),
        body=json.dumps(patch).encode(),
        content_type="application/merge-patch+json",
    )
    say(f"{kind.singular}.{kind.group}/{obj['metadata']['name']} restarted")


def refuse(verb: str) -> None:
    """Promotion and rollback need traffic that can be divided, which this version cannot do yet."""
    raise CliError(
        f"rollout {verb} is not possible in this version: all traffic goes to the newest ready revision. "
        "To go back, apply the earlier manifest.",
        FAILED,
    )
