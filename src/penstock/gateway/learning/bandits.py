"""Bandits in a gateway: what is known of their arms, who gets the next request, and rewards on their way.

Made with the first route or graph that has a bandit; a gateway without one never loads it. A `Learner` is one
bandit's choice. Rewards are handed to the control plane in batches, one at a time: it answers when they are
kept, and only then is the feedback answered. While it is away rewards wait, as many as `MOST_WAITING`, each
no longer than `WAIT_S`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from penstock.domain.bandit import MOST_ARMS, Arm, Bandit, Policy
from penstock.domain.learning import (
    Credited,
    Feedback,
    Learned,
    Outcome,
    Pulls,
    Reward,
    parse_key,
)
from penstock.errors import Unavailable
from penstock.gateway.learning.request_ids import Choice, RequestIds, arm_hash, key_hash

if TYPE_CHECKING:
    from penstock.domain.routes import FromGateway
    from penstock.observe.metrics import Registry

logger = logging.getLogger(__name__)

#: Rewards that may wait for the control plane, and how long each, seconds.
MOST_WAITING: Final = 10_000
WAIT_S: Final = 5.0
#: Bytes of one message with rewards or requests per arm; the control plane takes lines of 64 KiB.
MESSAGE_BYTES: Final = 48 * 1024
#: How often requests per arm are told, seconds.
TELL_S: Final = 1.0
#: Ids that clients chose, and which request each was.
MOST_KNOWN: Final = 100_000
#: Characters of an id that a client may choose, if it is to be known.
MOST_ID: Final = 256

_encode = msgspec.json.encode


class Learner:
    """One bandit: its policy, and what this gateway knows of its arms."""

    __slots__ = ("_names", "_seen", "arms", "bandit", "counters", "key", "owner", "policy")

    def __init__(self, owner: Bandits, key: str, bandit: Bandit) -> None:
        self.owner = owner
        self.key = key
        self.bandit = bandit
        self.policy = Policy(bandit)
        self.arms: dict[str, Arm] = {}
        #: Metric children by arm.
        self.counters: dict[str, object] = {}

    def arm(self, name: str) -> Arm:
        """What is known of an arm."""
        found = self.arms.get(name)
        if found is None:
            found = self.arms[name] = Arm(name)
        return found

    def retain(self, names: Sequence[str]) -> None:
        """Know these arms, so that ids that name them are known after a restart; of others, not too many."""
        for name in names:
            self.arm(name)
        surplus = max(0, len(self.arms) - MOST_ARMS)
        for name in [n for n in self.arms if n not in names][:surplus]:
            del self.arms[name]

    def choose(
        self, names: Sequence[str], weights: Sequence[float], features: Sequence[float] = ()
    ) -> int:
        """The position of the arm that gets a request. Without its features, LinUCB's goes by weights."""
        known = self.arms
        arms = [known[name] if name in known else self.arm(name) for name in names]
        if self.bandit.dimensions and not features:
            # By weights: the one that is behind its share most.
            return min(range(len(arms)), key=lambda i: arms[i].pulls / weights[i])
        return self.policy.choose(arms, features, weights)

    def pulled(self, name: str) -> None:
        """An arm got a request."""
        self.arm(name).pulls += 1
        self.owner.pulled(self.key, name)

    def learned(self, arms: Sequence[Arm]) -> None:
        """The control plane's word on some arms."""
        for new in arms:
            old = self.arms.get(new.name)
            # Requests of this gateway's own may not have been told yet.
            pulls = new.pulls if old is None else max(old.pulls, new.pulls)
            self.arms[new.name] = Arm(
                new.name, pulls, new.rewards, new.total, new.squares, new.products, new.response
            )


class Waiting:
    """A reward whose answer somebody waits for."""

    __slots__ = ("done", "reward", "size", "timer")

    def __init__(self, reward: Reward, done: Callable[[Outcome | None], None]) -> None:
        self.reward = reward
        #: Gets what became of it; None when nobody said in time.
        self.done: Callable[[Outcome | None], None] | None = done
        self.size = len(_encode(reward))
        self.timer: asyncio.TimerHandle | None = None

    def answer(self, outcome: Outcome | None) -> None:
        done, self.done = self.done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(outcome)


class Bandits:
    """All bandits of a gateway."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        say: Callable[[FromGateway], None],
        *,
        key: bytes,
        siblings: Callable[[], Sequence[Path]] = tuple,
        registry: Registry,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._say = say
        self.now = now
        self.ids = RequestIds(key)
        #: Private sockets of the other gateways.
        self.siblings = siblings
        self.epoch = os.urandom(8).hex()
        self._learners: dict[str, Learner] = {}
        #: What was learned of bandits that have no learner here (yet).
        self._learned: dict[str, dict[str, Arm]] = {}
        self._keys: dict[bytes, str] = {}
        self._pulls: dict[tuple[str, str], int] = {}
        self._untold: set[tuple[str, str]] = set()
        self._queue: deque[Waiting] = deque()
        self._sent: dict[int, Waiting] = {}
        #: (namespace/service, id that a client chose) -> id of ours.
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()
        labels = ("namespace", "service", "step", "arm")
        self._requests = registry.counter(
            "penstock_bandit_requests", "Requests that a bandit gave to an arm.", labels
        )
        self.feedbacks = registry.counter(
            "penstock_bandit_feedback",
            "Feedback calls by what became of them.",
            ("namespace", "service", "outcome"),
        )
        self._timer: asyncio.TimerHandle | None = loop.call_later(TELL_S, self._tell)

    def close(self) -> None:
        """Nothing is told any more; who waits is told nothing."""
        if self._timer is not None:
            self._timer.cancel()
        for waiting in (*self._sent.values(), *self._queue):
            waiting.answer(None)

    # -- bandits ----------------------------------------------------------------------------------

    def learner(self, key: str, bandit: Bandit) -> Learner:
        """The learner of a bandit. What it knows outlives changes of its settings."""
        found = self._learners.get(key)
        if found is None or found.bandit != bandit:
            learner = Learner(self, key, bandit)
            if found is not None:
                learner.arms = found.arms
            else:
                self._forget_namesakes(key)
                learner.arms.update(self._learned.pop(key, {}))
            found = self._learners[key] = learner
            self._keys[key_hash(key)] = key
        return found

    def _forget_namesakes(self, key: str) -> None:
        """What was learned of an earlier service or graph of the same name."""
        namespace, name, uid, _ = parse_key(key)
        self._forget(lambda k: k[:2] == (namespace, name) and k[2] != uid)

    def _forget(self, which: Callable[[tuple[str, str, str, str]], bool]) -> None:
        for known in (self._learners, self._learned):
            for key in [k for k in known if which(parse_key(k))]:
                del known[key]
                self._keys.pop(key_hash(key), None)
        for pair in [p for p in self._pulls if which(parse_key(p[0]))]:
            del self._pulls[pair]
            self._untold.discard(pair)

    def forget(self, namespace: str, name: str) -> None:
        """A service or graph is gone."""
        self._forget(lambda k: k[:2] == (namespace, name))
        for family in (self._requests, self.feedbacks):
            for labels in [k for k in family.children if k[:2] == (namespace, name)]:
                family.remove(*labels)

    def find(self, key: bytes, arm: bytes) -> tuple[Learner, str] | None:
        """The learner and the arm that an id names, if they are still there."""
        learner = self._learners.get(self._keys.get(key, ""))
        if learner is None:
            return None
        for name in learner.arms:
            if arm_hash(name) == arm:
                return learner, name
        return None

    def pulled(self, key: str, arm: str) -> None:
        """An arm got a request: for what is told, and for the metrics."""
        pair = (key, arm)
        self._pulls[pair] = self._pulls.get(pair, 0) + 1
        self._untold.add(pair)
        learner = self._learners.get(key)
        if learner is None:
            return
        counter = learner.counters.get(arm)
        if counter is None:
            namespace, name, _, step = parse_key(key)
            counter = learner.counters[arm] = self._requests.labels(namespace, name, step, arm)
        counter.inc()  # type: ignore[attr-defined]

    # -- what the control plane says ---------------------------------------------------------------

    def learned(self, message: Learned) -> None:
        """What is known of a bandit's arms."""
        learner = self._learners.get(message.key)
        if learner is not None:
            learner.learned(message.arms)
        else:
            known = self._learned.setdefault(message.key, {})
            known.update((a.name, a) for a in message.arms)

    def connected(self, learned: Sequence[Learned]) -> None:
        """A whole table came: whoever said it may know nothing of what was told before."""
        for message in learned:
            self.learned(message)
        self._untold.update(self._pulls)
        if self._sent:
            self._say(Feedback(tuple(w.reward for w in self._sent.values())))

    def credited(self, message: Credited) -> None:
        """What became of the rewards that were sent."""
        for attempt, outcome in message.outcomes:
            waiting = self._sent.pop(attempt, None)
            if waiting is not None:
                waiting.answer(outcome)
        self._send()

    # -- rewards ----------------------------------------------------------------------------------

    def reward(self, reward: Reward, done: Callable[[Outcome | None], None]) -> None:
        """Have a reward counted. `done` hears once what became of it; Unavailable when too many wait."""
        if len(self._queue) >= MOST_WAITING:
            raise Unavailable("Too many rewards wait to be kept.", retry_after_s=1)
        waiting = Waiting(reward, done)
        waiting.timer = self._loop.call_later(WAIT_S, self._late, waiting)
        self._queue.append(waiting)
        self._send()

    def _late(self, waiting: Waiting) -> None:
        try:
            self._queue.remove(waiting)
        except ValueError:
            pass  # it was sent; whether it counts shows when it is asked for again
        waiting.answer(None)

    def _send(self) -> None:
        if self._sent or not self._queue:
            return
        size = 0
        while self._queue and size + self._queue[0].size <= MESSAGE_BYTES:
            waiting = self._queue.popleft()
            size += waiting.size
            self._sent[waiting.reward.attempt] = waiting
        self._say(Feedback(tuple(w.reward for w in self._sent.values())))

    def _tell(self) -> None:
        self._timer = self._loop.call_later(TELL_S, self._tell)
        untold = [(key, arm, self._pulls[key, arm]) for key, arm in self._untold]
        self._untold.clear()
        for counts in _lines(untold):
            self._say(Pulls(self.epoch, counts))
        # Sent, and not answered: the control plane may have ended before it could.
        if self._sent and all(w.done is None for w in self._sent.values()):
            self._sent.clear()
            self._send()

    # -- ids that clients chose ---------------------------------------------------------------------

    def know(self, service: str, chosen: str, own: str) -> None:
        """A client calls a request of `service` (`NAMESPACE/NAME`) by an id of its own."""
        if not chosen or len(chosen) > MOST_ID:
            return
        known = self._known
        known[service, chosen] = own
        known.move_to_end((service, chosen))
        if len(known) > MOST_KNOWN:
            known.popitem(last=False)

    def known(self, service: str, chosen: str) -> str | None:
        """Our id of the request that a client calls so, if this gateway answered it."""
        return self._known.get((service, chosen))


def _lines(untold: Iterable[tuple[str, str, int]]) -> Iterator[tuple[tuple[str, str, int], ...]]:
    """As many at a time as fit into one message."""
    line: list[tuple[str, str, int]] = []
    size = 0
    for count in untold:
        more = len(_encode(count)) + 1
        if line and size + more > MESSAGE_BYTES:
            yield tuple(line)
            line, size = [], 0
        line.append(count)
        size += more
    if line:
        yield tuple(line)


__all__ = ["Bandits", "Choice", "Learner"]
