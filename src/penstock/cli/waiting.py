"""Waiting for objects to be so: Ready, any other condition, or gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from penstock.cli.client import Client, Served
from penstock.cli.exits import FAILED, TIMED_OUT, UNREACHABLE, CliError
from penstock.cli.output import StatusLine

#: What was applied unchanged is tried again; for so long, seconds, its old failure is not believed.
TRIED_AGAIN_S = 3.0

#: A control plane that is being replaced is waited for so long, seconds.
AWAY_S = 20.0

#: Transition states that no waiting ends; somebody has to change something.
_HOPELESS = frozenset({"BlockedByFailedLoad", "InvalidSpec"})


@dataclass(frozen=True, slots=True)
class Target:
    """One object to wait for."""

    kind: Served
    namespace: str
    name: str
    #: The one object that is meant; empty: whichever has the name.
    uid: str = ""

    @property
    def shown(self) -> str:
        return f"{self.kind.singular}/{self.name}"


def condition_of(obj: dict[str, Any], type_: str) -> dict[str, Any]:
    """A condition, as far as it speaks of the newest manifest."""
    status = obj.get("status") or {}
    observed = status.get("observedGeneration")
    if observed is not None and observed < obj["metadata"].get("generation", 0):
        return {"type": type_, "status": "Unknown", "message": "waiting to be looked at"}
    for c in status.get("conditions") or ():
        if str(c.get("type", "")).lower() == type_.lower():
            return dict(c)
    return {"type": type_, "status": "Unknown", "message": "waiting to be looked at"}


def wait_for_condition(
    client: Client,
    targets: Iterable[Target],
    type_: str,
    status: str,
    timeout_s: float,
    *,
    give_up: bool = False,
    tried_again: bool = False,
    on_met: Callable[[Target], None] = lambda target: None,
) -> None:
    """Until each target's condition has the status. CliError: TIMED_OUT, or FAILED when gone or hopeless.

    `give_up`: do not wait for a target that is blocked by something that only a change can help; the others
    are waited for, and all that failed are named. With `tried_again` the platform has just been told to try
    once more, so it has a moment for it.
    """
    waiting = {
        (t.kind.path(t.namespace), t.namespace if t.kind.namespaced else "", t.name): t
        for t in targets
    }
    total = len(waiting)
    messages: dict[str, str] = {}
    failed: dict[str, str] = {}
    line = StatusLine()
    away_since: float | None = None
    began = time.monotonic()
    deadline = began + timeout_s
    patient_until = began + TRIED_AGAIN_S if tried_again else began
    try:
        while waiting:
            path, _, _ = next(iter(waiting))
            try:
                _watch_one_path(
                    client,
                    path,
                    waiting,
                    messages,
                    failed,
                    lambda obj: condition_of(obj, type_),
                    status,
                    deadline,
                    give_up,
                    patient_until,
                    on_met,
                    line,
                    total,
                )
            except CliError as exc:
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if exc.code != UNREACHABLE or now > min(away_since + AWAY_S, deadline):
                    raise
                line.show("the control plane does not answer; trying again")
                time.sleep(0.2)
            else:
                away_since = None
    except TimeoutError:
        line.clear()
        late = [t.shown for t in waiting.values()]
        said = [
            f"{name}: {m}" for name, m in (messages | failed).items() if name in [*late, *failed]
        ]
        raise CliError(
            f"{_names(late)} not {type_}={status} after {timeout_s:g} s.",
            TIMED_OUT,
            lines=said[:20],
        ) from None
    finally:
        line.clear()
    if len(failed) == 1:
        raise CliError(next(iter(failed.values())), FAILED)
    if failed:
        raise CliError(
            f"{len(failed)} of {total} failed.", FAILED, lines=list(failed.values())[:20]
        )


def _watch_one_path(
    client: Client,
    path: str,
    waiting: dict[tuple[str, str, str], Target],
    messages: dict[str, str],
    failed: dict[str, str],
    condition: Callable[[dict[str, Any]], dict[str, Any]],
    status: str,
    deadline: float,
    give_up: bool,
    patient_until: float,
    on_met: Callable[[Target], None],
    line: StatusLine,
    total: int,
) -> None:
    mine = [key for key in waiting if key[0] == path]
    if len(mine) == 1:
        # One object: a missing one is an error at once instead of an endless wait.
        client.get(waiting[mine[0]].kind.path(mine[0][1], mine[0][2]))
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    query = {"watch": "1", "timeoutSeconds": str(int(left) + 1)}
    if len(mine) == 1:
        # A watch begins with all that there is, which may be ten thousand.
        query["fieldSelector"] = f"metadata.name={mine[0][2]}"
    events = client.lines(path, query=query, timeout_s=left)
    for event in events:
        obj = event.get("object") or {}
        meta = obj.get("metadata") or {}
        key = (path, meta.get("namespace", ""), meta.get("name", ""))
        target = waiting.get(key)
        if event.get("type") == "ERROR":
            return  # the watch is opened anew
        if target is not None:
            c = condition(obj)
            message = str(c.get("message") or c.get("reason") or "")
            if event.get("type") == "DELETED":
                del waiting[key]
                failed[target.shown] = f"{target.shown} was deleted."
            elif c.get("status", "").lower() == status.lower():
                del waiting[key]
                messages.pop(target.shown, None)
                on_met(target)
            elif give_up and _is_hopeless(obj) and time.monotonic() < patient_until:
                time.sleep(0.1)
                return  # the watch is opened anew, and begins with what is so then
            elif give_up and _is_hopeless(obj):
                del waiting[key]
                failed[target.shown] = f"{target.shown} is not ready: {message}"
            else:
                messages[target.shown] = message
            if total == 1 and waiting:
                line.show(f"{target.shown}: {message}" if message else f"{target.shown}: waiting")
            elif total > 1:
                line.show(f"{total - len(waiting) - len(failed)} of {total} ready")
        if not any(key[0] == path for key in waiting):
            return
        if time.monotonic() > deadline:
            raise TimeoutError
    if time.monotonic() > deadline:
        raise TimeoutError


def _is_hopeless(obj: dict[str, Any]) -> bool:
    status = obj.get("status") or {}
    if status.get("observedGeneration") != obj["metadata"].get("generation"):
        return False
    return (status.get("modelStatus") or {}).get("transitionStatus") in _HOPELESS


def wait_for_deletion(client: Client, targets: Iterable[Target], timeout_s: float) -> None:
    """Until the targets are gone, and what ran for them too. CliError TIMED_OUT."""
    deadline = time.monotonic() + timeout_s
    for t in targets:
        while _exists(client, t):
            if time.monotonic() > deadline:
                raise CliError(f"{t.shown} is still there after {timeout_s:g} s.", TIMED_OUT)
            time.sleep(0.1)


def _exists(client: Client, t: Target) -> bool:
    from penstock.cli.client import ApiFailure

    try:
        found = client.get(t.kind.path(t.namespace if t.kind.namespaced else None, t.name))
    except ApiFailure as exc:
        if exc.status != 404:
            raise
    else:
        # Somebody may have made another one of the same name meanwhile.
        return t.uid in ("", found["metadata"]["uid"])
    if not t.kind.is_service:
        return False
    replicas = client.get(
        f"/apis/penstock.dev/v1alpha1/namespaces/{t.namespace}/replicas",
        labelSelector=f"penstock.dev/service={t.name}",
    )
    return any(r["status"]["phase"] != "Stopped" for r in replicas["items"])


def _names(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown} are"
