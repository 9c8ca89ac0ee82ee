"""`penstock delete`: by kind and name, or what manifests describe, last first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from typing import Any

from penstock.cli.applying import AT_ONCE, target_of
from penstock.cli.client import Answer, ApiFailure, Client, Kinds, Served
from penstock.cli.documents import read
from penstock.cli.exits import NOT_FOUND, USAGE, CliError
from penstock.cli.getting import find, items_of, split_names
from penstock.cli.output import say
from penstock.cli.waiting import Target, wait_for_deletion


def delete(
    client: Client,
    kind: str | None,
    names: list[str],
    *,
    files: list[str],
    namespace: str | None,
    everything: bool,
    ignore_missing: bool,
    wait: bool,
    timeout_s: float,
) -> None:
    kinds = Kinds(client)
    targets: list[Target] = []
    if files:
        if kind is not None or everything:
            raise CliError("Give either files or a KIND and names.", USAGE)
        targets = [target_of(kinds, m, namespace) for m in reversed(read(files))]
    elif kind is None:
        raise CliError("Say what to delete: KIND NAME, KIND/NAME, or -f FILE.", USAGE)
    else:
        for word, wanted in split_names(kind, names):
            served = kinds.named(word)
            if everything and not wanted:
                for s in served:
                    for obj in items_of(client, s, namespace or "default", {}):
                        meta = obj["metadata"]
                        targets.append(Target(s, meta.get("namespace", ""), meta["name"]))
            elif not wanted:
                raise CliError("Say which: KIND NAME, or --all.", USAGE)
            for name in wanted:
                targets.append(
                    _target_named(client, served, namespace or "default", name, ignore_missing)
                )
    deleted = []
    for t, outcome in _delete_all(client, targets):
        try:
            answer = outcome()
        except ApiFailure as exc:
            if exc.status == 404 and ignore_missing:
                deleted.append(t)  # what ran for it may still end
                continue
            raise
        deleted.append(replace(t, uid=_uid(answer.body)))
        front = f"{t.kind.singular}.{t.kind.group}" if t.kind.group else t.kind.singular
        say(f"{front}/{t.name} deleted")
    if wait:
        wait_for_deletion(client, deleted, timeout_s)


def _delete_all(
    client: Client, targets: list[Target]
) -> Iterator[tuple[Target, Callable[[], Answer]]]:
    """Each target and what became of it, in order; of one kind some are on their way at a time."""
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(targets) or 1)) as pool:
        try:
            for _, same in groupby(targets, key=lambda t: t.kind):
                group = [(t, pool.submit(_delete_one, client, t)) for t in same]
                for target, future in group:
                    yield target, future.result
        finally:
            # Somebody gave up: what was not sent is not sent any more.
            pool.shutdown(wait=False, cancel_futures=True)


def _delete_one(client: Client, t: Target) -> Answer:
    return client.call(
        "DELETE",
        t.kind.path(t.namespace if t.kind.namespaced else None, t.name),
        body=json.dumps({"kind": "DeleteOptions", "apiVersion": "v1"}).encode(),
    )


def _uid(answer: dict[str, Any]) -> str:
    """Of what was deleted: a status says it, or the object itself while it is held."""
    return str((answer.get("details") or answer.get("metadata") or {}).get("uid", ""))


def _target_named(
    client: Client, served: list[Served], namespace: str, name: str, ignore_missing: bool
) -> Target:
    if len(served) == 1:
        return Target(served[0], namespace, name)
    try:
        kind, _ = find(client, served, namespace, name)
    except CliError as exc:
        if not ignore_missing or exc.code != NOT_FOUND:
            raise
        kind = served[0]
    return Target(kind, namespace, name)
