"""Requests for a service with a bandit: who gets them, and the id by which their answer can be rewarded.

What is different from any other request is where it goes (`aim`), and that an answer says the arm
(`x-penstock-arm`) and an id: `x-request-id`, V2's `id`, Seldon's `meta.puid`. A client that gave an id of its
own gets that one back, and ours as `x-penstock-feedback`; both can be rewarded, ours at any gateway and after
any restart, the client's where it is remembered.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.headers import ANY
from penstock.domain.routes import PREDICTOR
from penstock.gateway.choosing import PREFER_HEADER, REVISION_HEADER
from penstock.gateway.grpc.forward import GrpcForward, answer_of
from penstock.gateway.learning.features import features_of
from penstock.gateway.learning.request_ids import Choice
from penstock.gateway.learning.trial import trial_of
from penstock.gateway.proxy import Forward, render_fields
from penstock.gateway.sticky import answer_lines, preferred
from penstock.gateway.through import ANSWERED_HEADER
from penstock.protocols.grpc.wire import frame, peek_strings, varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.gateway.gateway import Gateway
    from penstock.gateway.learning.bandits import Bandits, Learner
    from penstock.gateway.learning.trial import Trial
    from penstock.gateway.table import Service, Target
    from penstock.http.head import RequestHead, ResponseHead

_PREDICTS: Final = "predicts"
_FIELDS: Final = "learned-fields"
#: How paths end that ask for a prediction.
_ENDS: Final = (
    "/infer", ":predict", "/predictions", "/invocations", "/generate", "/generate_stream", "/completions",
    "/embeddings", "/rerank", ":classify", ":regress", "/ModelInfer",
)  # fmt: skip
_REVISION_LINE: Final = b"\r\n%b: " % REVISION_HEADER
_PREFER_LINE: Final = b"\r\n%b: " % PREFER_HEADER
_SELDON: Final = (b"POST /api/v1.0/predictions ", b"POST /api/v0.1/predictions ")


def equip(service: Service, bandits: Bandits) -> None:
    """Have a service's requests learn."""
    from penstock.domain.learning import bandit_key

    service.forward = LearnedForward
    service.call = LearnedCall
    route = service.route
    if route.component != PREDICTOR:  # it has the predictor's learner
        return
    assert route.bandit is not None  # noqa: S101 - the table has looked
    key = bandit_key(route.namespace, route.name, route.uid)
    service.learner = bandits.learner(key, route.bandit)
    service.trial = trial_of(service)
    service.learner.retain([t.revision for t in service.targets])


class Learned:
    """What all kinds of request do here beyond plain ones."""

    choice: Choice | None
    #: Our id, where it had to be known before the answer.
    own_id: str
    #: The arm is chosen already, of a component in front of them.
    _aimed = False
    #: Whether it is the turn of a revision that is rolled out; None: nobody has asked. Found out once, or
    #: requests that wait for an arm would use up turns.
    _its_turn: bool | None = None
    exchange: Any
    plan: Any
    service: Service
    target: Target | None
    _gateway: Gateway

    def aim(self) -> Target | None:
        """The arm that the bandit chooses among those that can answer now."""
        service = self.service
        if service.route.component != PREDICTOR:
            return self._aim_before(service)
        self.choice = None
        self.own_id = ""
        learner: Learner | None = service.learner
        plan = self.plan
        if learner is None or (plan.wanted and not plan.soft) or not self.predicts():
            return super().aim()  # type: ignore[misc,no-any-return]
        if plan.wanted == ANY:  # an explanation's, by shares
            return super().aim()  # type: ignore[misc,no-any-return]
        if plan.wanted:
            preferred = service.named(plan.wanted)
            if preferred is not None and preferred.pick() is not None:
                return preferred
        return self._chosen(learner, service, awake=True)

    def _aim_before(self, service: Service) -> Target | None:
        """A target of the component; once, which of the predictor's arms it shall ask."""
        learner: Learner | None = service.learner
        plan = self.plan
        if not self._aimed:
            self._aimed = True
            self.choice = None
            self.own_id = ""
            predictor = self._gateway.table.component(service, PREDICTOR)
            # What names a revision, by the client's wish or by a rule, is not the bandit's.
            told = _REVISION_LINE in plan.head or _PREFER_LINE in plan.head
            if learner is not None and predictor is not None and not told and self.predicts():
                # Where all sleep, one of them is waited for.
                arm = self._chosen(learner, predictor, awake=False)
                if arm is not None:
                    self.plan = copy(plan)
                    line = b"%b: %b\r\n\r\n" % (PREFER_HEADER, arm.revision.encode())
                    self.plan.head = plan.head[:-2] + line
        return super().aim()  # type: ignore[misc,no-any-return]

    def _chosen(self, learner: Learner, predictor: Service, *, awake: bool) -> Target | None:
        """The revision that is rolled out, or an arm: one that can answer now, or, if not `awake`, any."""
        trial: Trial | None = predictor.trial
        if trial is not None and self._is_tried(trial, learner, predictor):
            return trial.target
        arms = predictor.weighted if trial is None else trial.arms
        free = [t for t in arms if t.pick() is not None]
        if not free and not awake:
            free = arms
        return self._arm(learner, predictor, free) if free else None

    def _is_tried(self, trial: Trial, learner: Learner, predictor: Service) -> bool:
        """Whether the revision that is rolled out gets this: in its turn, or from who stays with it."""
        new = trial.target
        if self._its_turn is None:
            if learner.bandit.header:  # a malformed one is refused, whoever's turn it is
                features_of(learner.bandit, self.exchange, self.plan)
            sticky = predictor.route.sticky
            kept = preferred(self.exchange.head, predictor, sticky) if sticky is not None else ""
            self._its_turn = kept == new.revision if kept else trial.next()
        if new.pick() is None or not (self._its_turn or trial.arms_are_gone()):
            return False
        self.choice = Choice(learner.key, "")
        return True

    def _arm(self, learner: Learner, predictor: Service, arms: list[Target]) -> Target:
        """The one of some arms that gets this request: the client's own, or the bandit's choice."""
        features = features_of(learner.bandit, self.exchange, self.plan)
        arm = None
        sticky = predictor.route.sticky
        if sticky is not None:
            kept = preferred(self.exchange.head, predictor, sticky)
            arm = next((t for t in arms if t.revision == kept), None)
        if arm is None:
            names = [t.revision for t in arms]
            arm = arms[learner.choose(names, [t.weight for t in arms], features)]
        learner.pulled(arm.revision)
        if features or not learner.bandit.dimensions:
            self.choice = Choice(learner.key, arm.revision, features)
        return arm

    def heard(self, head: ResponseHead) -> Choice | None:
        """What an answer is to be rewarded for: the arm that did answer, where a component asked it."""
        choice = self.choice
        service = self.service
        if choice is None or service.route.component == PREDICTOR:
            return choice
        answered = (head.get(ANSWERED_HEADER) or b"").decode("latin-1")
        if not answered:
            return None  # the component answered by itself
        predictor = self._gateway.table.component(service, PREDICTOR)
        trial: Trial | None = predictor.trial if predictor is not None else None
        if trial is not None and answered == trial.target.revision:
            choice = Choice(choice.key, "")
        elif answered != choice.arm:
            if answered not in service.learner.arms:
                return None
            choice = choice._replace(arm=answered)
        sticky = predictor.route.sticky if predictor is not None else None
        if sticky is not None and self.target is not None:
            self.target = self.target.with_lines(answer_lines(answered, service.name))
        return choice

    def predicts(self) -> bool:
        """Whether this asks for a prediction."""
        head: RequestHead = self.exchange.head
        known: bool | None = head.memo.get(_PREDICTS)
        if known is None:
            known = head.method == "POST" and head.path.rstrip("/").endswith(_ENDS)
            head.memo[_PREDICTS] = known
        return known


class LearnedForward(Learned, Forward):
    """A request over HTTP."""

    def aim(self) -> Target | None:
        target = super().aim()
        choice = self.choice
        if choice is None or not self.plan.head.startswith(_SELDON):
            return target
        if self.service.route.component != PREDICTOR:
            return target  # which arm answers is known when it has
        if self.exchange.head.get(b"seldon-puid") is None:
            self.own_id = _new_id(self.service, choice)
            self.plan = copy(self.plan)
            line = b"seldon-puid: %b\r\n\r\n" % self.own_id.encode()
            self.plan.head = self.plan.head[:-2] + line
        return target

    def on_response(self, head: ResponseHead, body: Any) -> None:
        choice = self.heard(head) if 200 <= head.status < 300 else None
        if choice is None:
            super().on_response(head, body)
            return
        target = self.target
        assert target is not None  # noqa: S101 - a response comes from a replica of a target
        own = self.own_id or _new_id(self.service, choice)
        bandits = self.service.learner.owner
        request = self.exchange.head
        fields = _plain_fields(head)
        puid = head.get(b"seldon-puid")
        if puid is not None and puid != own.encode():
            bandits.know(_name(self.service), puid.decode("latin-1"), own)
        if body is not None and self.plan.protocol == "v2":
            kind = head.get(b"content-type") or b""
            json_length = head.get(b"inference-header-content-length")
            body, fields, chosen = with_id(body, fields, kind, json_length, own)
            if chosen:
                bandits.know(_name(self.service), chosen, own)
        fields += target.lines + id_lines(request, bandits, _name(self.service), choice.arm, own)
        if body is not None:
            self.exchange.send(head.status, fields, body)
            self._finish(head.status)
            return
        self._started = True
        self.exchange.on_drain = self._resume_upstream
        length = head.content_length if head.content_length >= 0 else None
        self.exchange.start(head.status, fields, length=length)


class LearnedCall(Learned, GrpcForward):
    """A gRPC call."""

    def on_response(self, head: ResponseHead, body: Any) -> None:
        choice = self.heard(head) if body is not None else None
        if choice is None:
            super().on_response(head, body)
            return
        target = self.target
        assert target is not None  # noqa: S101 - a response comes from a replica of a target
        fields, trailers, status = answer_of(head, target.lines)
        if status == 200:
            own = _new_id(self.service, choice)
            bandits = self.service.learner.owner
            message = bytes(memoryview(body)[5:])
            chosen = peek_strings(message, (3,)).get(3, "")
            if chosen:
                bandits.know(_name(self.service), chosen, own)
            else:  # a message that another is put behind is both of them merged
                body = frame(message + b"\x1a" + varint(len(own)) + own.encode())
            request = self.exchange.head
            fields += id_lines(request, bandits, _name(self.service), choice.arm, own)
        self.exchange.send(200, fields, body if status == 200 else b"", trailers)
        self._finish(status)


def _name(service: Service) -> str:
    return f"{service.namespace}/{service.name}"


def _new_id(service: Service, choice: Choice) -> str:
    """An id of the choice; one of nothing where no arm was chosen."""
    bandits: Bandits = service.learner.owner
    return bandits.ids.make((choice,) if choice.arm else (), bandits.now())


def _plain_fields(head: ResponseHead) -> bytes:
    """The replica's header lines, less an id of its own."""
    fields: bytes | None = head.memo.get(_FIELDS)
    if fields is None:
        lines = render_fields(head, b"").split(b"\r\n")
        fields = b"\r\n".join(line for line in lines if not line.startswith(b"x-request-id:"))
        head.memo[_FIELDS] = fields
    return fields


def id_lines(request: RequestHead, bandits: Bandits, name: str, arm: str, own: str) -> bytes:
    """Header lines that tell arm (if it is one) and id; a client's own id is remembered and told back."""
    lines = b"x-penstock-arm: %b\r\n" % arm.encode() if arm else b""
    chosen = request.get(b"x-request-id")
    if not chosen:
        return b"%bx-request-id: %b\r\n" % (lines, own.encode())
    bandits.know(name, chosen.decode("latin-1"), own)
    return b"%bx-request-id: %b\r\nx-penstock-feedback: %b\r\n" % (lines, chosen, own.encode())


class _Identity(msgspec.Struct):
    """What of a V2 answer has to be known here."""

    id: str | msgspec.UnsetType | None = msgspec.UNSET


_identity = msgspec.json.Decoder(_Identity).decode


def with_id(
    body: Any, fields: bytes, kind: bytes, length: bytes | None, own: str
) -> tuple[Any, bytes, str]:
    """Body and header lines of a V2 answer that has an id, and the id that it had before.

    `kind` is its content type, `length` its `inference-header-content-length`.
    """
    size = int(length) if length is not None and length.isdigit() else len(body)
    if size > len(body) or (length is None and not kind.startswith(b"application/json")):
        return body, fields, ""
    text = body if size == len(body) else memoryview(body)[:size]
    try:
        found = _identity(text).id
    except msgspec.MsgspecError:
        return body, fields, ""
    if found is not msgspec.UNSET:
        return body, fields, found or ""
    if length is None and type(body) is bytes and body.startswith(b'{"'):
        return b'{"id":"%b",%b' % (own.encode(), body[1:]), fields, ""
    begin = bytes(text[:64]).lstrip()[1:].lstrip()
    if not begin or begin.startswith(b"}"):
        return body, fields, ""
    at = bytes(text[:64]).index(b"{") + 1
    more = b'"id":"%b",' % own.encode()
    view = memoryview(body)
    pieces: Sequence[Any] = (view[:at], more, view[at:])
    if length is not None:
        old = b"inference-header-content-length: %b\r\n" % length
        fields = fields.replace(
            old, b"inference-header-content-length: %d\r\n" % (size + len(more))
        )
    return pieces, fields, ""


__all__ = ["Learned", "LearnedCall", "LearnedForward", "equip", "id_lines", "with_id"]
