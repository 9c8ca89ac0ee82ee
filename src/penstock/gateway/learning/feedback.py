"""Feedback at the gateway: a reward for an answer, credited to the arms that gave it.

`POST /feedback` and `/v2/models/NAME/feedback` take `{"id": ..., "reward": ...}`; Seldon's
`/api/v1.0/feedback` takes its Feedback message, whose response or request has the id as `meta.puid`. An id of
ours says all that has to be known (see `request_ids`). One that a client chose is known to the gateway that
answered, which is asked for it if it is another. The control plane counts, each request once, and the
feedback is answered when it has.

Whose service has no bandit never comes here: its feedback goes to the model process. A graph that hands
Seldon's feedback on to its units (`service.graph.feedback`) gets it once its bandits have had their part.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, quote

import msgspec

from penstock.domain.bandit import problem_with_reward
from penstock.domain.learning import Credit, Outcome, Reward, parse_key
from penstock.domain.routes import Address
from penstock.errors import Conflict, InvalidInput, NotFound, PenstockError, Unavailable
from penstock.gateway.learning.request_ids import PREFIX, Issued
from penstock.gateway.proxy import internal, refuse
from penstock.gateway.seldon.errors import seldon_answer
from penstock.http.client import UpstreamError, fetch
from penstock.http.head import JSON_TYPE
from penstock.protocols import seldon
from penstock.protocols.content_coding import plain_body
from penstock.protocols.seldon_forms import decode_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.gateway.gateway import Gateway
    from penstock.gateway.learning.bandits import Bandits, Learner
    from penstock.gateway.resolve import Plan
    from penstock.gateway.table import Service

#: Paths of a service, or of nobody's, that take feedback.
SELDON_PATHS: Final = frozenset({"/api/v1.0/feedback", "/api/v0.1/feedback"})
PATHS: Final = SELDON_PATHS | {"/feedback"}
#: Where a gateway is asked, on its private socket, for an id that a client chose.
KNOWN_PATH: Final = "/feedback/known"
#: How long another gateway may take to say whether it knows an id, seconds.
ASK_S: Final = 1.0


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """A feedback in our own shape."""

    id: str
    reward: float
    #: What would have been right; not looked at here.
    truth: Any = None
    #: Whose request it was, for an id that the client chose.
    model: str = ""
    namespace: str = "default"


_decode = msgspec.json.Decoder(_Body).decode


class Given(NamedTuple):
    """What a feedback says."""

    id: str
    reward: float
    #: `NAMESPACE/NAME`, or empty: the id has to say it.
    service: str


class Credited(NamedTuple):
    """What it was credited to."""

    learner: Learner
    arm: str
    features: tuple[float, ...]


def is_feedback(path: str) -> bool:
    """Whether a path below a service takes feedback."""
    return path in PATHS or (
        path.startswith("/v2/models/") and path.count("/") == 4 and path.endswith("/feedback")
    )


def handle(exchange: Any, gateway: Gateway, plan: Plan) -> None:
    """Take a feedback whose body is here; `plan.service` is None where no service was named."""
    call = _Call(exchange, gateway, plan)
    exchange.on_abort = call.forget
    try:
        call.begin()
    except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
        call.fail(exc if isinstance(exc, PenstockError) else internal(exc))


class _Call:
    """One feedback between its arrival and its answer."""

    def __init__(self, exchange: Any, gateway: Gateway, plan: Plan) -> None:
        self._exchange = exchange
        self._gateway = gateway
        self._plan = plan
        self._seldon = plan.own.rstrip("/") in SELDON_PATHS
        self._service = service = plan.service
        #: Hands Seldon's feedback on to the units of a graph, and answers it.
        self._walk: Callable[[Any, Plan, Service], None] | None = None
        if self._seldon and service is not None and service.graph is not None:
            self._walk = getattr(service.graph, "feedback", None)
        self._over = False
        self._task: asyncio.Task[None] | None = None
        self._given = Given("", 0.0, "")
        self._credits: list[Credited] = []

    def forget(self) -> None:
        """The client is gone; what was handed on is counted all the same."""
        self._over = True
        if self._task is not None:
            self._task.cancel()

    def begin(self) -> None:
        """Read it, and find out whose answer it is about. Raises what is wrong with it."""
        given = self._given = read(self._exchange, self._seldon, self._service)
        if not self._gateway.learns:
            raise self._unheard()
        bandits = self._gateway.bandits
        issued = bandits.ids.read(given.id)
        if issued is None and not given.id.startswith(PREFIX):
            own = bandits.known(given.service, given.id)
            if own is None:
                if not given.service or not given.id:
                    raise _unknown(given)
                self._task = self._gateway.spawn(self._ask(bandits))
                return
            issued = bandits.ids.read(own)
        self._credit(bandits, issued)

    def _unheard(self) -> PenstockError:
        """No bandit or arm here is what the id says."""
        return self._gateway.table.unknown(_unknown(self._given))

    async def _ask(self, bandits: Bandits) -> None:
        """Ask the other gateways for an id that a client chose."""
        try:
            own = await ask_siblings(bandits, self._given.service, self._given.id)
            self._credit(bandits, bandits.ids.read(own) if own is not None else None)
        except Exception as exc:  # noqa: BLE001 - the request's border, as in `handle`
            self.fail(exc if isinstance(exc, PenstockError) else internal(exc))

    def _credit(self, bandits: Bandits, issued: Issued | None) -> None:
        given = self._given
        if issued is None:
            raise _unknown(given)
        if not issued.chosen:
            raise NotFound(
                f"The request {given.id} was answered by a revision that is being rolled out,"
                " which was no arm of a bandit then.",
                hint="Answers that may be rewarded have x-penstock-arm.",
            )
        found = [(c, bandits.find(c.key, c.arm)) for c in issued.chosen]
        credits = self._credits = [
            Credited(*f, _fitting(c.features, f[0])) for c, f in found if f is not None
        ]
        if not credits:
            raise self._unheard()
        service = self._service
        own = service.learner if service is not None else None
        if own is not None and all(c.learner.key != own.key for c in credits):
            raise NotFound(f"The request {given.id} was not one of {given.service}.")
        if service is None and given.service and not self._said_rightly():
            raise NotFound(f"The request {given.id} was not one of {given.service}.")
        window_s = min(c.learner.bandit.window_s for c in credits)
        for credit in credits:
            problem = problem_with_reward(credit.learner.bandit, given.reward)
            if problem:
                raise InvalidInput(f"reward: {problem}.")
        reward = Reward(
            issued.number,
            _attempt(),
            issued.at + window_s,
            given.reward,
            tuple(Credit(c.learner.key, c.arm, c.features) for c in credits),
        )
        if reward.expires <= bandits.now():
            self._ended(Outcome.LATE)
            return
        bandits.reward(reward, self._ended)

    def _said_rightly(self) -> bool:
        """Whether the body's `model` can have given this answer."""
        namespace, _, name = self._given.service.partition("/")
        said = self._gateway.table.get(namespace, name)
        if said is None:
            return False
        if said.graph is not None:
            return True  # the arms may be those of any service behind it
        keys = (parse_key(c.learner.key) for c in self._credits)
        return any(k[:2] == (said.namespace, said.name) for k in keys)

    # -- ends -------------------------------------------------------------------------------------

    def _ended(self, outcome: Outcome | None) -> None:
        given = self._given
        self._count(outcome.value if outcome is not None else "unanswered")
        if outcome is Outcome.COUNTED:
            self._answer()
        elif outcome is Outcome.DOUBLE:
            self._say(
                Conflict(f"The request {given.id} has had its reward; it was not counted again.")
            )
        elif outcome is Outcome.LATE:
            window_s = min(c.learner.bandit.window_s for c in self._credits)
            self._say(
                NotFound(
                    f"The reward for {given.id} came too late: rewards are taken for {window_s:g} s"
                    " after the answer."
                )
            )
        else:
            self._say(
                Unavailable(
                    "The control plane did not say that it kept the reward.",
                    hint="Send it again: it is counted once.",
                    retry_after_s=1,
                )
            )

    def _answer(self) -> None:
        if self._over:
            return
        if self._handed_on():
            return
        self._over = True
        given = self._given
        if self._seldon:
            document: dict[str, Any] = {"meta": {"puid": given.id}}
        else:
            document = {
                "id": given.id,
                "reward": given.reward,
                "credited": [_told(c) for c in self._credits],
            }
        self._exchange.send(200, JSON_TYPE, msgspec.json.encode(document))

    def fail(self, exc: PenstockError) -> None:
        """Answer what is wrong."""
        self._count("unknown" if isinstance(exc, NotFound) else "refused")
        if not (isinstance(exc, NotFound) and self._handed_on()):
            self._say(exc)

    def _handed_on(self) -> bool:
        walk, service = self._walk, self._service
        if self._over or walk is None or service is None:
            return False
        self._over = True
        self._exchange.on_abort = None
        walk(self._exchange, self._plan, service)
        return True

    def _say(self, exc: PenstockError) -> None:
        if self._over:
            return
        self._over = True
        if self._seldon:
            self._exchange.send(*seldon_answer(exc))
        else:
            refuse(self._exchange, exc)

    def _count(self, outcome: str) -> None:
        if self._gateway.learns:
            name = self._given.service
            if self._credits:
                name = "/".join(parse_key(self._credits[0].learner.key)[:2])
            elif self._service is None:
                name = ""  # whatever somebody sends is no label
            namespace, _, service = name.partition("/")
            self._gateway.bandits.feedbacks.labels(namespace, service, outcome).inc()


def _fitting(features: tuple[float, ...], learner: Learner) -> tuple[float, ...]:
    """Features that the bandit takes today; of another number of them nothing can be learned any more."""
    return features if len(features) == learner.bandit.dimensions else ()


def _told(credit: Credited) -> dict[str, str]:
    namespace, name, _, step = parse_key(credit.learner.key)
    told = {"namespace": namespace, "name": name, "arm": credit.arm}
    return {**told, "step": step} if step else told


def _attempt() -> int:
    return int.from_bytes(os.urandom(7), "little")


def _unknown(given: Given) -> NotFound:
    hint = "It is the x-request-id of an answer that has x-penstock-arm."
    if given.id and not given.service and not given.id.startswith(PREFIX):
        hint = "For an id of your own, say whose it is: `model`, or /v2/models/NAME/feedback."
    return NotFound(f"There is no request {given.id or 'without an id'} to reward.", hint=hint)


def read(exchange: Any, is_seldon: bool, service: Service | None) -> Given:
    """What a feedback says. InvalidInput."""
    head = exchange.head
    body = plain_body(head, exchange.body)
    name = f"{service.namespace}/{service.name}" if service is not None else ""
    if is_seldon:
        message = decode_body(body, head.get(b"content-type"))
        return Given(_puid(message, head), seldon.reward_of(message), name)
    try:
        found = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise InvalidInput(
            f"The body is no feedback: {exc}.", hint='It looks like {"id": "...", "reward": 1}.'
        ) from None
    if not name and found.model:
        name = f"{found.namespace}/{found.model}"
    return Given(found.id, found.reward, name)


def _puid(message: dict[str, Any], head: Any) -> str:
    """The id in a Feedback message: what the answer said, else what the request said."""
    for side in (message.get("response"), message.get("request")):
        meta = side.get("meta") if isinstance(side, dict) else None
        puid = meta.get("puid") if isinstance(meta, dict) else None
        if isinstance(puid, str) and puid:
            return puid
    value: bytes | None = head.get(b"seldon-puid")
    return value.decode("latin-1") if value is not None else ""


# -- ids that clients chose -------------------------------------------------------------------------------


async def ask_siblings(bandits: Bandits, service: str, chosen: str) -> str | None:
    """Our id of a request that a client calls `chosen`, if another gateway answered it.

    Unavailable where nobody knows it, and one did not say.
    """
    target = f"{KNOWN_PATH}?service={quote(service, safe='')}&id={quote(chosen, safe='')}"

    silent = []

    async def one(path: str) -> str | None:
        try:
            status, _, body = await fetch(Address(path=path), "GET", target, timeout_s=ASK_S)
        except TimeoutError:
            silent.append(path)
            return None
        except (UpstreamError, OSError):
            return None  # it ended, and what it knew with it
        return body.decode("ascii", "replace") if status == 200 else None

    answers = await asyncio.gather(*(one(str(path)) for path in bandits.siblings()))
    found = next((a for a in answers if a), None)
    if found is None and silent:
        raise Unavailable(
            f"Who answered the request {chosen} is not known: a gateway did not say in {ASK_S:g} s.",
            hint="Send it again.",
            retry_after_s=1,
        )
    return found


def answer_sibling(exchange: Any, gateway: Gateway) -> None:
    """Say which request of ours another gateway's client means."""
    query = parse_qs(exchange.head.query)
    service, chosen = (query.get(n, [""])[0] for n in ("service", "id"))
    own = gateway.bandits.known(service, chosen) if gateway.learns else None
    if own is None:
        refuse(exchange, NotFound("That id is not known here."))
    else:
        exchange.send(200, b"content-type: text/plain\r\n", own.encode("ascii"))
