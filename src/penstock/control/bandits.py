"""Keeps what bandits have learned, and tells the gateways.

Each gateway sends rewards in batches, one at a time. A batch is written to the store, then the gateway that
sent it hears of the arms that changed and of what became of each reward, in this order: a client whose
feedback is answered is served by what it taught, at that gateway. The others are told a moment later, changes
gathered. Requests per arm come as sums since a gateway began; they are written every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from penstock.control.clock import Clock
from penstock.domain.bandit import Arm
from penstock.domain.learning import (
    Credited,
    Feedback,
    Learned,
    Outcome,
    Pulls,
    bandit_key,
    parse_key,
)
from penstock.domain.status import ArmStatus
from penstock.errors import PenstockError
from penstock.observe.metrics import Registry
from penstock.store.learned import LearnedStore

log = logging.getLogger(__name__)

#: How long changes are gathered before every gateway is told, seconds.
GATHER_S: Final = 0.05
#: How often requests per arm are written, and old ones added up, seconds.
WRITE_EVERY_S: Final = 2.0
FOLD_EVERY_S: Final = 600.0
#: How often the status of a service or graph may change because its bandit learned, seconds.
STATUS_EVERY_S: Final = 10.0
#: Batches of rewards that may be under way; each gateway has one.
MOST_UNDER_WAY: Final = 256

#: (gateway's number, or None for all; messages)
Say = Callable[[int | None, Iterable[Learned | Credited]], None]


#: (namespace, name, uid, names of arms by step) -> what was learned of them. See `BanditKeeper.status`.
Arms = Callable[[str, str, str, Mapping[str, Collection[str]]], tuple[ArmStatus, ...]]


class BanditKeeper:
    """What is known of all bandits. `load` once, `run` until cancelled, `close` once."""

    def __init__(
        self,
        store: LearnedStore | None,
        *,
        say: Say,
        clock: Clock,
        uid_of: Callable[[tuple[str, str]], str | None],
        on_change: Callable[[tuple[str, str]], None] = lambda key: None,
    ) -> None:
        self._store = store
        self._say = say
        self._clock = clock
        self._on_change = on_change
        #: The uid of the service or graph that has a name now, if there is one.
        self._uid_of = uid_of
        self._arms: dict[str, dict[str, Arm]] = {}
        #: Pulls by (key, arm) and gateway's epoch.
        self._pulls: dict[tuple[str, str], dict[str, int]] = {}
        self._unwritten: dict[str, dict[tuple[str, str], int]] = {}
        #: Gateways that were heard since this process began; the others' counts may be added up.
        self._epochs: set[str] = set()
        self._untold: dict[tuple[str, str], None] = {}
        self._changed: set[tuple[str, str]] = set()
        self._telling: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Read what was kept; what is of no service any more is dropped."""
        if self._store is None:
            self._store = await LearnedStore.in_memory()
        found, pulls = await self._store.load()
        gone = {key for key in found if self._is_over(key)}
        if gone:
            await self._store.forget(gone)
        self._arms = {key: arms for key, arms in found.items() if key not in gone}
        self._pulls = {pair: counts for pair, counts in pulls.items() if pair[0] not in gone}

    async def close(self) -> None:
        """Write what is not written yet, and close the store."""
        if self._telling is not None:
            self._telling.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._store is not None:
            try:
                await self._write()
            except PenstockError as exc:
                log.warning("the bandits' requests cannot be kept: %s", exc)
            await self._store.close()

    async def run(self) -> None:
        """Write requests per arm, and have statuses follow, for ever. Cancelled from outside."""
        folded = told = self._clock.monotonic()
        while True:
            await self._clock.sleep(WRITE_EVERY_S)
            now = self._clock.monotonic()
            try:
                await self._write()
                if now - told >= STATUS_EVERY_S:
                    await self._forget_others()
                if now - folded >= FOLD_EVERY_S and self._store is not None:
                    folded = now
                    await self._store.fold(self._epochs, self._clock.now())
            except PenstockError as exc:
                log.warning("what bandits gave out cannot be kept: %s", exc)
            if now - told >= STATUS_EVERY_S:
                told = now
                changed, self._changed = self._changed, set()
                for key in changed:
                    self._on_change(key)

    # -- what is known ------------------------------------------------------------------------------

    def of(self, namespace: str, name: str, uid: str) -> dict[str, tuple[Arm, ...]]:
        """Arms by step (empty: the service's own bandit), in the order of their names."""
        own = bandit_key(namespace, name, uid)
        found = {}
        for key, arms in self._arms.items():
            if key.startswith(own) and key[len(own) : len(own) + 1] in ("", "#"):
                found[key[len(own) + 1 :]] = tuple(arms[n] for n in sorted(arms))
        return found

    def status(
        self, namespace: str, name: str, uid: str, arms: Mapping[str, Collection[str]]
    ) -> tuple[ArmStatus, ...]:
        """The same, for a status. What is not among `arms` (by step) is no arm any more, and forgotten."""
        gone = [
            (bandit_key(namespace, name, uid, step), arm.name)
            for step, known in self.of(namespace, name, uid).items()
            for arm in known
            if arm.name not in arms.get(step, ())
        ]
        if gone:
            self._drop(gone)
        return tuple(
            ArmStatus(arm.name, arm.pulls, arm.rewards, arm.mean, step)
            for step, known in sorted(self.of(namespace, name, uid).items())
            for arm in known
        )

    def _drop(self, gone: list[tuple[str, str]]) -> None:
        for key, name in gone:
            self._pulls.pop((key, name), None)
            known = self._arms[key]
            del known[name]
            if not known:
                del self._arms[key]
            for counts in self._unwritten.values():
                counts.pop((key, name), None)
        self._spawn(self._forget_arms(gone))

    async def _forget_arms(self, gone: list[tuple[str, str]]) -> None:
        if self._store is None:
            return
        try:
            await self._store.forget_arms(gone)
        except PenstockError as exc:
            log.warning("arms that are no more stay in the file: %s", exc)

    def all(self) -> tuple[Learned, ...]:
        """Everything, for a gateway that connects."""
        return tuple(Learned(key, tuple(arms.values())) for key, arms in self._arms.items())

    async def forget(self, namespace: str, name: str) -> None:
        """A service or graph was deleted."""
        await self._forget_keys([k for k in self._arms if parse_key(k)[:2] == (namespace, name)])

    async def _forget_keys(self, gone: list[str]) -> None:
        for key in gone:
            for arm in self._arms.pop(key):
                self._pulls.pop((key, arm), None)
        for counts in self._unwritten.values():
            for pair in [p for p in counts if p[0] in gone]:
                del counts[pair]
        if gone and self._store is not None:
            await self._store.forget(gone)

    async def _forget_others(self) -> None:
        """Drop what is of no service any more: what was on its way when that was deleted, or replaced."""
        await self._forget_keys([key for key in self._arms if self._is_over(key)])

    def _is_over(self, key: str) -> bool:
        """Whether its service or graph is not there any more; another one may have the name."""
        namespace, name, uid, _ = parse_key(key)
        return self._uid_of((namespace, name)) != uid

    def forget_soon(self, key: tuple[str, str]) -> None:
        """`forget` in a task of its own. No-op where nothing was learned."""
        if any(parse_key(k)[:2] == key for k in self._arms):
            self._spawn(self._forget(key))

    async def _forget(self, key: tuple[str, str]) -> None:
        try:
            await self.forget(*key)
        except PenstockError as exc:
            log.warning("what was learned of %s/%s stays in the file: %s", *key, exc)

    # -- what gateways say --------------------------------------------------------------------------

    def rewarded(self, gateway: int, message: Feedback) -> None:
        """A gateway has rewards."""
        if len(self._tasks) >= MOST_UNDER_WAY:
            failed = tuple((r.attempt, Outcome.FAILED) for r in message.rewards)
            self._say(gateway, (Credited(failed),))
            return
        self._spawn(self._credit(gateway, message))

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _credit(self, gateway: int, message: Feedback) -> None:
        store = self._store
        assert store is not None  # noqa: S101 - loaded before gateways are let in
        try:
            credited = await store.credit(message.rewards, self._clock.now())
        except PenstockError as exc:
            log.warning("rewards cannot be kept: %s", exc)
            failed = tuple((r.attempt, Outcome.FAILED) for r in message.rewards)
            self._say(gateway, (Credited(failed),))
            return
        changed: dict[str, list[Arm]] = {}
        for key, arm in credited.arms:
            old = self._arms.setdefault(key, {}).get(arm.name)
            if old is not None and old.rewards > arm.rewards:
                continue  # a batch that was written later was heard of first
            arm.pulls = old.pulls if old is not None else 0
            self._arms[key][arm.name] = arm
            changed.setdefault(key, []).append(arm)
            self._untold[key, arm.name] = None
            self._changed.add(parse_key(key)[:2])
        told = [Learned(key, tuple(arms)) for key, arms in changed.items()]
        self._say(gateway, (*told, Credited(credited.outcomes)))
        if self._untold and self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(GATHER_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        changed: dict[str, list[Arm]] = {}
        for key, name in self._untold:
            arm = self._arms.get(key, {}).get(name)
            if arm is not None:
                changed.setdefault(key, []).append(arm)
        self._untold.clear()
        self._say(None, [Learned(key, tuple(arms)) for key, arms in changed.items()])

    def pulled(self, message: Pulls) -> None:
        """What a gateway gave to arms since it began."""
        self._epochs.add(message.epoch)
        unwritten = self._unwritten.setdefault(message.epoch, {})
        for key, name, count in message.counts:
            by_epoch = self._pulls.setdefault((key, name), {})
            if by_epoch.get(message.epoch, -1) >= count:
                continue
            by_epoch[message.epoch] = count
            unwritten[key, name] = count
            arm = self._arms.setdefault(key, {}).setdefault(name, Arm(name))
            arm.pulls = sum(by_epoch.values())
            self._changed.add(parse_key(key)[:2])

    async def _write(self) -> None:
        if self._store is None:
            return
        unwritten, self._unwritten = self._unwritten, {}
        for epoch, counts in unwritten.items():
            rows = [(key, arm, count) for (key, arm), count in counts.items()]
            if rows:
                await self._store.pulled(epoch, rows, self._clock.now())

    # -- metrics ------------------------------------------------------------------------------------

    def metrics(self, registry: Registry) -> Callable[[], None]:
        """Families of the bandits in `registry`; call what this returns to bring them up to date."""
        labels = ("namespace", "service", "step", "arm")
        pulls = registry.counter(
            "penstock_bandit_pulls",
            "Requests that bandits gave to arms, over all restarts.",
            labels,
        )
        rewards = registry.counter(
            "penstock_bandit_rewards", "Rewards that were counted for arms.", labels
        )
        total = registry.gauge("penstock_bandit_reward_sum", "Sum of an arm's rewards.", labels)
        squares = registry.gauge(
            "penstock_bandit_reward_squares", "Sum of the squares of an arm's rewards.", labels
        )

        def refresh() -> None:
            for family in (pulls, rewards, total, squares):
                family.children.clear()
            for key, arms in self._arms.items():
                namespace, name, _, step = parse_key(key)
                for arm in arms.values():
                    where = (namespace, name, step, arm.name)
                    pulls.labels(*where).inc(arm.pulls)
                    rewards.labels(*where).inc(arm.rewards)
                    total.labels(*where).set(arm.total)
                    squares.labels(*where).set(arm.squares)

        return refresh
