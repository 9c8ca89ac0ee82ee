"""Whether the present manifest is what runs, and the sentence that says so, for one workload."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.backends.base import WAITING_FOR_DEVICE, WAITING_FOR_TURN, Phase, ReplicaStatus
from penstock.control.plan.lines import Line
from penstock.control.plan.observed import Observed, ready_of
from penstock.control.plan.roles import RolePlan
from penstock.control.plan.words import one_line, sentence
from penstock.control.rollouts.rollout import LATEST, PREVIOUS
from penstock.domain import status
from penstock.domain.annotations import GIVEN_UP, PINNED
from penstock.domain.status import Failure, FailureReason, ModelState, Transition, Truth


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of the present manifest: is it what runs?"""

    ready: Truth
    reason: str
    message: str
    transition: Transition
    target: ModelState
    failure: Failure | None = None


#: A condition's reason.
WAITING = WAITING_FOR_DEVICE
STOPPED = Judgement(
    Truth.FALSE,
    status.STOPPED.reason,
    status.STOPPED.message,
    Transition.UP_TO_DATE,
    ModelState.PENDING,
)


def failure_of(replicas: list[ReplicaStatus]) -> Failure | None:
    """The failure of a revision's replicas that says most: cannot load, then ended and waits."""
    for phase in (Phase.FAILED, Phase.BACKOFF):
        for r in sorted(replicas, key=lambda r: r.id):
            if r.phase is phase:
                load = r.reason in ("ModelLoadFailed", "ProbeFailed")
                return Failure(
                    reason=FailureReason.MODEL_LOAD_FAILED
                    if load
                    else FailureReason.RUNTIME_UNHEALTHY,
                    message=one_line(r.message or r.reason),
                    revision=r.revision,
                    location=r.id,
                    exit_code=r.exit_code,
                )
    return None


def waiting_of(replicas: list[ReplicaStatus]) -> ReplicaStatus | None:
    """One of those that find no device."""
    found = (r for r in replicas if r.phase is Phase.WAITING and r.reason != WAITING_FOR_TURN)
    return min(found, key=lambda r: r.id, default=None)


def judge(o: Observed, role: RolePlan, line: Line) -> Judgement:
    """Look at one workload of a role."""
    if o.service.stopped:
        return STOPPED
    names = "" if line.replaces else role.names
    keeps = f" {names} keep{'' if ' and ' in names else 's'} serving." if names else ""
    return _not_yet(line, keeps) or _coming(role, line, keeps) or _serving(o, role, line)


def _not_yet(line: Line, keeps: str) -> Judgement | None:
    """The manifest is no revision yet."""
    problem, fetch = line.seen.problem, line.seen.fetch
    if problem is not None:
        return Judgement(
            Truth.FALSE,
            problem.reason.value,
            sentence(problem.message) + keeps,
            problem.transition,
            ModelState.FAILED,
            Failure(problem.reason, one_line(problem.message)),
        )
    if line.seen.current:
        return None
    if fetch is not None and fetch.message and not fetch.done_bytes:
        return Judgement(
            Truth.FALSE,
            "FetchFailed",
            sentence(one_line(fetch.message)) + keeps,
            Transition.BLOCKED,
            ModelState.FAILED,
            Failure(FailureReason.MODEL_LOAD_FAILED, one_line(fetch.message)),
        )
    what = f": {fetch.progress}" if fetch is not None and fetch.progress else ""
    return Judgement(
        Truth.UNKNOWN,
        "Fetching",
        f"The model is being fetched{what}.{keeps}",
        Transition.IN_PROGRESS,
        ModelState.PENDING,
    )


def _coming(role: RolePlan, line: Line, keeps: str) -> Judgement | None:
    """The newest revision was never ready."""
    candidate = line.candidate
    if candidate is None:
        return None
    replicas = role.live.get(candidate.name, [])
    failure = failure_of(replicas)
    if failure is not None:
        return Judgement(
            Truth.FALSE,
            failure.reason.value,
            f"{candidate.name} is not ready: {sentence(failure.message)}{keeps}",
            Transition.BLOCKED,
            ModelState.FAILED,
            failure,
        )
    waiting = waiting_of(replicas)
    if waiting is not None:
        return Judgement(
            Truth.FALSE,
            WAITING,
            f"{candidate.name} waits for a device. {sentence(waiting.message)}{keeps}",
            Transition.IN_PROGRESS,
            ModelState.PENDING,
        )
    return Judgement(
        Truth.UNKNOWN,
        "Loading",
        f"{candidate.name}: {ready_of(replicas)} of {line.proving} replicas are ready.{keeps}",
        Transition.IN_PROGRESS,
        ModelState.LOADING,
    )


def _serving(o: Observed, role: RolePlan, line: Line) -> Judgement:
    shares = role.shares_of(line)
    replicas = role.replicas(shares)
    ready = ready_of(replicas)
    count = role.count(shares)
    target = Transition.UP_TO_DATE
    if not shares and role.pin is not None:
        said = f"{role.pin.name} is pinned, this one takes nothing."
        return Judgement(Truth.UNKNOWN, "Pinned", said, target, ModelState.STANDBY)
    if count == 0:
        said = "No replica runs; the first request starts one."
        return Judgement(Truth.TRUE, "Asleep", said, target, ModelState.STANDBY)
    failure = failure_of(replicas)
    if ready:
        said = " ".join(_remarks(o, role, line, ready, count))
        return Judgement(Truth.TRUE, "", said, target, ModelState.LOADED, failure)
    if failure is not None:
        said = f"No replica is ready: {sentence(failure.message)}"
        return Judgement(
            Truth.FALSE, failure.reason.value, said, target, ModelState.FAILED, failure
        )
    waiting = waiting_of(replicas)
    if waiting is not None:
        said = f"No replica has a device. {sentence(waiting.message)}"
        return Judgement(Truth.FALSE, WAITING, said, target, ModelState.PENDING)
    if line.scaling.min_replicas == 0:
        return Judgement(Truth.TRUE, "Waking", "A replica is starting.", target, ModelState.LOADING)
    said = f"None of {count} replicas is ready yet."
    return Judgement(Truth.FALSE, "Starting", said, target, ModelState.LOADING)


def _remarks(o: Observed, role: RolePlan, line: Line, ready: int, count: int) -> list[str]:
    """What is worth knowing of a workload that serves."""
    said = []
    if line is role.main:
        if role.pin is not None:
            said.append(f"Pinned to {role.pin.name} by the annotation {PINNED}.")
        elif (name := o.service.annotations.get(PINNED)) and role.role == "predictor":
            said.append(f"The pin to {name} has no effect: it is not kept, or was never ready.")
        elif line.latest is not None and line.latest.stage and line.latest.stage.back:
            said.append(f"{line.latest.name} was given up: {line.latest.stage.back}.")
        elif line.latest is not None and o.service.annotations.get(GIVEN_UP) == line.latest.name:
            said.append(f"{line.latest.name} was given up by the annotation {GIVEN_UP}.")
        if role.pin is None and len(role.percents) > 1:
            shares = sorted(role.percents.items(), key=lambda item: -item[1])
            said.append(", ".join(f"{name} takes {percent}%" for name, percent in shares) + ".")
        said += _rules_without_effect(o, role)
    if ready < count:
        waiting = waiting_of(role.replicas(role.shares_of(line)))
        why = f" {waiting.id} waits: {sentence(waiting.message)}" if waiting is not None else ""
        said.append(f"{ready} of {count} replicas are ready.{why}")
    return said


def _rules_without_effect(o: Observed, role: RolePlan) -> list[str]:
    """Rules that lead to a name that nobody has. What is latest or previous comes and goes."""
    if role.role != "predictor":
        return []
    names = {LATEST, PREVIOUS, *role.percents}
    names.update(line.workload.id.variant for line in role.lines if line.workload.wanted)
    unknown = dict.fromkeys(r.to for r in o.service.traffic.match if r.to not in names)
    return [f"The rule for {to} has no effect: there is no such revision." for to in unknown]
