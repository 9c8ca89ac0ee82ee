"""Keeps the number of replicas of every service that may change it, once a second.

Remembers each service's policy and state, asks `autoscale.decide` with what `loads` measured, and enqueues
the services whose number changed. What is remembered can be lost: a new control plane begins with the
replicas it finds, and takes none away before it has listened for a whole window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from penstock.control.clock import Clock
from penstock.control.placement.preemption import Holder
from penstock.control.scaling.autoscale import Policy, Signal, State, decide, policy_of
from penstock.control.scaling.loads import Loads
from penstock.domain.priority import Rank
from penstock.domain.routes import Load
from penstock.domain.service import ScaleMetric, Scaling

ServiceKey = tuple[str, str]

TICK_S = 1.0
#: What was taken from a service stays taken for this long: else it would be back at once.
HOLD_S = 30.0
#: Ticks between two clean-ups.
PRUNE_EVERY = 60


class Scaler:
    """The wanted number of replicas by service."""

    def __init__(
        self,
        enqueue: Callable[[ServiceKey], None],
        *,
        clock: Clock,
        zero_grace_s: float,
        gateways: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._enqueue = enqueue
        self._clock = clock
        self._zero_grace_s = zero_grace_s
        #: (gateways that should be connected, those that are).
        self._gateways = gateways
        self.loads = Loads(clock)
        self._scalings: dict[ServiceKey, Scaling] = {}
        self._policies: dict[ServiceKey, Policy] = {}
        self._states: dict[ServiceKey, State] = {}
        #: Those that requests waited for before they were first asked about.
        self._early: set[ServiceKey] = set()
        #: Those whose number a tick may change: of ten thousand services most are asleep, or fixed.
        self._moving: set[ServiceKey] = set()
        self._ranks: dict[ServiceKey, Rank] = {}
        #: The most replicas of those that others had to take from, and until when.
        self._held: dict[ServiceKey, tuple[int, float]] = {}

    def want(
        self,
        key: ServiceKey,
        scaling: Scaling,
        *,
        running: int,
        proven: bool,
        rank: Rank = Rank(),  # noqa: B008 - frozen
    ) -> int:
        """How many replicas the revision that serves should have.

        `running` is how many there are and `proven` whether any revision was ever ready; both matter for
        a service that is seen for the first time.
        """
        self._ranks[key] = rank
        if self._scalings.get(key) != scaling:
            policy = policy_of(scaling, zero_grace_s=self._zero_grace_s)
            self._scalings[key] = scaling
            self._policies[key] = policy
            self._moving.add(key)
            self.loads.keep(key, policy.window_s)
        policy = self._policies[key]
        state = self._states.get(key)
        if state is None:
            least = max(policy.low, int(key in self._early))
            self._early.discard(key)
            first = min(policy.high, max(least, running if proven else 1))
            if first:
                self.loads.touch(key)
            state = self._become(key, State(first))
        low, high = policy.low, self._most(key, policy)
        if not low <= state.replicas <= high:
            state = self._become(key, replace(state, replicas=min(high, max(low, state.replicas))))
        return state.replicas

    def _become(self, key: ServiceKey, state: State) -> State:
        self._states[key] = state
        self._moving.add(key)
        return state

    def _most(self, key: ServiceKey, policy: Policy) -> int:
        """The most replicas it may have now: fewer than the manifest says while others go first."""
        held = self._held.get(key)
        if held is None:
            return policy.high
        most, until = held
        if self._clock.monotonic() >= until:
            del self._held[key]
            return policy.high
        return max(policy.low, min(policy.high, most))

    def wake(self, key: ServiceKey, waiting: int) -> bool:
        """Requests wait and there is no replica. True when the wanted number changed."""
        self.loads.touch(key)
        policy, state = self._policies.get(key), self._states.get(key)
        if policy is None or state is None:
            self._early.add(key)  # a control plane that has just started has not looked at it yet
            return False
        if state.replicas or not self._most(key, policy):
            return False
        signal = Signal(in_flight=max(1, waiting), waiting=max(1, waiting))
        self._become(key, decide(policy, signal, state, now=self._clock.monotonic()))
        return True

    def heard(self, gateway: int, load: Load) -> None:
        """A gateway's message."""
        self.loads.take(gateway, load)
        for service in load.services:
            namespace, _, name = service.key.partition("/")
            if (namespace, name) in self._states:
                self._moving.add((namespace, name))

    def put_to_sleep(self, key: ServiceKey) -> bool:
        """Take a service's last replica now, if it may have none and nothing is under way there."""
        policy, state = self._policies.get(key), self._states.get(key)
        if policy is None or state is None or policy.low or not state.replicas:
            return False
        if any(self.loads.under_way(key)):
            return False
        self._become(key, State(0))
        self._enqueue(key)
        return True

    def take(self, key: ServiceKey, count: int) -> bool:
        """Take replicas for somebody of a higher rank, for a while; never below the least.

        True when there are fewer now. Requests that find none wait in their line meanwhile.
        """
        policy, state = self._policies.get(key), self._states.get(key)
        if policy is None or state is None:
            return False
        left = max(policy.low, state.replicas - count)
        if left >= state.replicas:
            return False
        self._held[key] = (left, self._clock.monotonic() + HOLD_S)
        self._become(key, State(left))
        self._enqueue(key)
        return True

    def rank(self, key: ServiceKey) -> Rank:
        """How much a component matters."""
        return self._ranks.get(key, Rank())

    def wanted(self, key: ServiceKey) -> int | None:
        """How many replicas it is meant to have; None when it was never seen."""
        state = self._states.get(key)
        return state.replicas if state is not None else None

    def holders(self) -> list[Holder]:
        """Who has replicas, and what may be taken from them."""
        return [
            Holder(
                key,
                self.rank(key).value,
                state.replicas,
                self._policies[key].low,
                used_at=self.loads.used_at(key),
                busy=any(self.loads.under_way(key)),
            )
            for key, state in self._states.items()
            if state.replicas
        ]

    def sleepers(self) -> list[ServiceKey]:
        """Those that have replicas and could do without: the lowest rank first, then the least used."""
        return sorted(
            (k for k, s in self._states.items() if s.replicas and not self._policies[k].low),
            key=lambda k: (self.rank(k).value, self.loads.used_at(k)),
        )

    def forget(self, key: ServiceKey) -> None:
        """The service is gone."""
        for by_key in (self._scalings, self._policies, self._states, self._ranks, self._held):
            by_key.pop(key, None)
        self._moving.discard(key)
        self._early.discard(key)
        self.loads.forget(key)

    def tick(self) -> None:
        """Decide for every service whose number may change."""
        now = self._clock.monotonic()
        heard = self.loads.heard(*self._gateways())
        for key in tuple(self._moving):
            policy, state = self._policies[key], self._states.get(key)
            if state is None or (policy.fixed and policy.low):
                self._moving.discard(key)
                continue
            signal = self._signal(key, policy, heard)
            new = decide(policy, signal, state, now=now)
            if new.replicas > (most := self._most(key, policy)):
                new = replace(new, replicas=most)
            if not (new.replicas or signal.in_flight or signal.waiting or key in self._held):
                # Asleep: a request that wakes it is heard of.
                self._moving.discard(key)
            if new is not state:
                self._states[key] = new
                if new.replicas != state.replicas:
                    self._enqueue(key)

    def _signal(self, key: ServiceKey, policy: Policy, heard: bool) -> Signal:
        in_flight, waiting = self.loads.under_way(key)
        stable = panic = 0.0
        if not policy.fixed:
            long = self.loads.average(key, policy.window_s)
            short = self.loads.average(key, policy.panic_window_s)
            if policy.metric is ScaleMetric.RPS:
                stable, panic = long.rps, short.rps
            else:
                stable, panic = long.concurrency, short.concurrency
        return Signal(
            stable=stable,
            panic=panic,
            in_flight=in_flight,
            waiting=waiting,
            idle_s=self.loads.idle_s(key),
            covered_s=self.loads.covered_s,
            heard=heard,
        )

    async def run(self) -> None:
        """Tick for ever. Cancelled from outside."""
        ticks = 0
        while True:
            await self._clock.sleep(TICK_S)
            self.tick()
            ticks += 1
            if ticks % PRUNE_EVERY == 0:
                self.loads.prune()
