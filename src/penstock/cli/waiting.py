"""Waiting for objects to be so: Ready, any other condition, or gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from penstock.cli.client import ApiFailure, Client, Served
from penstock.cli.exits import FAILED, TIMED_OUT, UNREACHABLE, CliError
from penstock.cli.output import StatusLine, note
from penstock.domain.annotations import stops
from penstock.domain.status import STOPPED

#: What was applied unchanged is tried again; for so long, seconds, its old failure is not believed.
TRIED_AGAIN_S = 3.0

#: A control plane that is being replaced is waited for so long, seconds.
AWAY_S = 20.0

#: What was deleted ends within some ten milliseconds, or has requests to finish: seconds between looks,
#: the first and the longest.
FIRST_LOOK_S = 0.01
LOOK_S = 0.1

#: Transition states that no waiting ends; somebody has to change something.
_HOPELESS = frozenset({"BlockedByFailedLoad", "InvalidSpec"})

#: Seconds in which a graph has heard of services that were waited for with it.
DOUBTS_S = 1.0

#: Reasons of a Ready graph that somebody should look at.
_DOUBTFUL = frozenset({"AnswersWithout", "ServicesNotUpToDate"})


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


_NOT_YET = "waiting to be looked at"


def condition_of(obj: dict[str, Any], type_: str) -> dict[str, Any]:
    """A condition, as far as it speaks of the newest manifest."""
    status = obj.get("status") or {}
    observed = status.get("observedGeneration")
    if observed is not None and observed < obj["metadata"].get("generation", 0):
        return {"type": type_, "status": "Unknown", "message": _NOT_YET}
    for c in status.get("conditions") or ():
        if str(c.get("type", "")).lower() == type_.lower():
            return dict(c)
    known = sorted({str(c.get("type", "")) for c in status.get("conditions") or ()})
    message = f"it has no such condition, only {', '.join(known)}" if known else _NOT_YET
    return {"type": type_, "status": "Unknown", "message": message}


def wait_for_condition(
    client: Client,
    targets: Iterable[Target],
    type_: str,
    status: str,
    timeout_s: float,
    *,
    give_up: bool = False,
    tried_again: bool = False,
    on_met: Callable[[Target, str], None] = lambda target, reason: None,
) -> None:
    """Until each target's condition has the status. CliError: TIMED_OUT, or FAILED when gone or hopeless.

    `give_up`: do not wait for a target that is blocked by something that only a change can help, nor for one
    that is stopped as it was asked to; the others are waited for, and all that failed are named. With
    `tried_again` the platform has just been told to try once more, so it has a moment for it. `on_met` hears
    of each that is as it was asked for, and the condition's reason.
    """
    wait = _Wait(client, targets, type_, status, timeout_s, on_met)
    wait.gives_up = give_up
    if tried_again:
        wait.patient_until += TRIED_AGAIN_S
    wait.run()


#: Path of the collection, namespace, name.
_Key = tuple[str, str, str]


class _Wait:
    """What is waited for, and what is known of it."""

    gives_up = False

    def __init__(
        self,
        client: Client,
        targets: Iterable[Target],
        type_: str,
        status: str,
        timeout_s: float,
        on_met: Callable[[Target, str], None],
    ) -> None:
        self._client = client
        self._waiting: dict[_Key, Target] = {
            (t.kind.path(t.namespace), t.namespace if t.kind.namespaced else "", t.name): t
            for t in targets
        }
        self._total = len(self._waiting)
        self._type = type_
        self._status = status
        self._timeout_s = timeout_s
        self._on_met = on_met
        #: Why those that are waited for are not so yet.
        self._messages: dict[str, str] = {}
        #: Why others never will be.
        self._failed: list[str] = []
        #: What is Ready, but not all that it names.
        self._doubtful: list[Target] = []
        self._line = StatusLine()
        #: Until then, what looks hopeless is looked at again.
        self._begun = self.patient_until = time.monotonic()
        self._deadline = self.patient_until + timeout_s

    def run(self) -> None:
        """As `wait_for_condition` says."""
        away_since: float | None = None
        try:
            while self._waiting:
                try:
                    self._watch(next(iter(self._waiting))[0])
                except CliError as exc:
                    now = time.monotonic()
                    away_since = now if away_since is None else away_since
                    if exc.code != UNREACHABLE or now > min(away_since + AWAY_S, self._deadline):
                        raise
                    self._line.show("the control plane does not answer; trying again")
                    time.sleep(0.2)
                else:
                    away_since = None
        except TimeoutError:
            self._line.clear()
            late = [t.shown for t in self._waiting.values()]
            said = [f"{name}: {self._messages[name]}" for name in late if name in self._messages]
            raise CliError(
                f"{_names(late)} not {self._type}={self._status} after {self._timeout_s:g} s.",
                TIMED_OUT,
                lines=_some([*said, *self._failed]),
            ) from None
        finally:
            self._line.clear()
            self._tell_doubts()
        if len(self._failed) == 1:
            raise CliError(self._failed[0], FAILED)
        if self._failed:
            raise CliError(
                f"{len(self._failed)} of {self._total} failed.", FAILED, lines=_some(self._failed)
            )

    def _tell_doubts(self) -> None:
        """At the end: what it lacks may have come up meanwhile, and the graph hears of it in a moment."""
        until = time.monotonic() + (DOUBTS_S if self._total > 1 else 0)
        for target in self._doubtful:
            path = target.kind.path(target.namespace, target.name)
            with contextlib.suppress(CliError):
                c = condition_of(self._client.get(path), self._type)
                while c.get("reason") in _DOUBTFUL and time.monotonic() < until:
                    time.sleep(LOOK_S)
                    c = condition_of(self._client.get(path), self._type)
                if c.get("reason") in _DOUBTFUL:
                    note(f"warning: {target.shown}: {c.get('message', '')}")

    def _watch(self, path: str) -> None:
        """Look at one kind's events until nothing of it is waited for, or the watch has to be opened anew."""
        mine = [key for key in self._waiting if key[0] == path]
        if len(mine) == 1:
            # One object: a missing one is an error at once instead of an endless wait.
            try:
                self._client.get(self._waiting[mine[0]].kind.path(mine[0][1], mine[0][2]))
            except ApiFailure as exc:
                if exc.status != 404 or self._total == 1:
                    raise
                # The others' fates are told, too.
                self._give_up(mine[0], "does not exist.")
                return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        query = {"watch": "1", "timeoutSeconds": str(int(left) + 1)}
        if len(mine) == 1:
            # A watch begins with all that there is, which may be ten thousand.
            query["fieldSelector"] = f"metadata.name={mine[0][2]}"
        for event in self._client.lines(path, query=query, timeout_s=left):
            obj = event.get("object") or {}
            meta = obj.get("metadata") or {}
            key = (path, meta.get("namespace", ""), meta.get("name", ""))
            if event.get("type") == "ERROR":
                return
            if key in self._waiting and not self._goes_on(key, event, obj):
                return
            if not any(k[0] == path for k in self._waiting):
                return
            if time.monotonic() > self._deadline:
                raise TimeoutError
        if time.monotonic() > self._deadline:
            raise TimeoutError

    def _goes_on(self, key: _Key, event: dict[str, Any], obj: dict[str, Any]) -> bool:
        """Take in what became of a target; False: the watch is to be opened anew, to see what is so then."""
        target = self._waiting[key]
        c = condition_of(obj, self._type)
        message = str(c.get("message") or c.get("reason") or "")
        stopped = self.gives_up and c.get("reason") == STOPPED.reason
        if event.get("type") == "DELETED":
            self._give_up(key, "was deleted.")
        elif stopped or c.get("status", "").lower() == self._status.lower():
            if (
                self.gives_up
                and stops(obj["metadata"].get("annotations") or {}) != stopped
                and time.monotonic() < self._begun + TRIED_AGAIN_S
            ):
                # An annotation makes no new generation: this may be from before it was changed.
                time.sleep(0.1)
                return False
            del self._waiting[key]
            if c.get("reason") in _DOUBTFUL:
                self._doubtful.append(target)
            self._on_met(target, c.get("reason", ""))
        elif self.gives_up and _is_hopeless(obj):
            if time.monotonic() < self.patient_until:
                time.sleep(0.1)
                return False
            self._give_up(key, f"is not ready: {message}")
        else:
            self._messages[target.shown] = message
        if self._total == 1 and self._waiting:
            self._line.show(f"{target.shown}: {message or 'waiting'}")
        elif self._total > 1:
            met = self._total - len(self._waiting) - len(self._failed)
            self._line.count(met, self._total, f"{met} of {self._total} ready")
        return True

    def _give_up(self, key: _Key, why: str) -> None:
        self._failed.append(f"{self._waiting.pop(key).shown} {why}")


def _is_hopeless(obj: dict[str, Any]) -> bool:
    status = obj.get("status") or {}
    if status.get("observedGeneration") != obj["metadata"].get("generation"):
        return False
    beside = (status.get("penstock") or {}).get("components") or {}
    components = (status.get("modelStatus") or {}, *beside.values())
    return any(c.get("transitionStatus") in _HOPELESS for c in components)


def wait_for_deletion(client: Client, targets: Iterable[Target], timeout_s: float) -> None:
    """Until the targets are gone, and what ran for them too. CliError TIMED_OUT."""
    deadline = time.monotonic() + timeout_s
    for t in targets:
        pause_s = FIRST_LOOK_S
        while _exists(client, t):
            if time.monotonic() > deadline:
                raise CliError(f"{t.shown} is still there after {timeout_s:g} s.", TIMED_OUT)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_S)


def _exists(client: Client, t: Target) -> bool:
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


#: So many of those that failed are told of, a line each.
_TOLD = 20


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _TOLD
    return lines if more <= 1 else [*lines[:_TOLD], f"and {more} more"]


def _names(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown} are"
