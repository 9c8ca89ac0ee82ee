"""Routes: the message from control plane to gateways, and what gateways say back.

A control plane serves a Unix socket; each gateway connects and reads newline-delimited JSON. The first
message is a `Snapshot` of all routes; after it `Put` and `Remove`, one per changed service, so that the
cost of a change does not depend on how many services there are. Every message carries the table's
sequence number. A gateway that loses the channel keeps the table it has and reconnects; the control plane
also keeps the newest snapshot in a file so that a gateway started meanwhile can serve.

In the other direction a gateway sends `Wake` when a request waits for a sleeping service, `Sleep` when
somebody asks that a service be unloaded, and each second its `Load`. What both say about bandits, which have
no part in the sequence, is in `domain.learning`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from penstock.domain.annotations import STOP
from penstock.domain.bandit import Bandit
from penstock.domain.experiment import Experiment
from penstock.domain.graph import Graph
from penstock.domain.learning import Credited, Feedback, Learned, Pulls

#: The component whose route has the service's own key.
PREDICTOR = "predictor"
EXPLAINER = "explainer"
#: The components that a service may have.
ROLES = (PREDICTOR, "transformer", EXPLAINER)
#: Why something that is stopped on request cannot answer.
STOPPED: Final = f"it is stopped (annotation {STOP})"


def route_key(namespace: str, service: str, component: str) -> str:
    """`namespace/service` for the predictor, `namespace/service/component` for others."""
    key = f"{namespace}/{service}"
    return key if component == PREDICTOR else f"{key}/{component}"


class Replica(msgspec.Struct, frozen=True):
    """One address of a revision. `unix:/path.sock` or `tcp:host:port`."""

    id: str
    address: str


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """A revision that takes a share of a route's requests; `weight` is relative to the other targets."""

    revision: str
    weight: int
    replicas: tuple[Replica, ...] = ()
    #: Requests sent to one replica at a time; 0 is no limit.
    concurrency: int = 0
    #: Named address of this target besides its share (`latest`, `previous`), if any.
    tags: tuple[str, ...] = ()


class Shadow(msgspec.Struct, frozen=True):
    """Copies of requests to one revision; answers are dropped."""

    revision: str
    percent: int


class Sticky(msgspec.Struct, frozen=True):
    """A client stays with a revision: by a header's hash, or (empty) by cookie and `x-penstock-route`."""

    header: str = ""


class HeaderTest(msgspec.Struct, frozen=True, array_like=True):
    """What one request header (lower case) has to be. `kind` is exact, prefix or regex (of all of it)."""

    header: str
    kind: str
    value: str


class Rule(msgspec.Struct, frozen=True):
    """Requests whose headers pass every test prefer the target with that revision or tag."""

    tests: tuple[HeaderTest, ...]
    to: str


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """How requests for one component of a service find a replica.

    The predictor's route stands for the service: its key is the service's, and it says which component gets
    a client's requests.
    """

    namespace: str
    name: str
    targets: tuple[Target, ...] = ()
    #: Names of models this service answers for, besides its own.
    models: tuple[str, ...] = ()
    #: Seconds a request may take, waiting included.
    timeout_s: float = 60.0
    #: Requests that may wait for a replica, and their bytes; beyond: 503 with Retry-After.
    max_waiting: int = 1024
    max_waiting_bytes: int = 64 * 1024 * 1024
    shadow: Shadow | None = None
    sticky: Sticky | None = None
    #: The first that fits decides, before stickiness and shares.
    rules: tuple[Rule, ...] = ()
    #: It may have no replica, and then a request wakes it.
    may_sleep: bool = False
    #: Why nothing can answer, when nothing can (first line of the failure); empty when all is well.
    message: str = ""
    #: Requests run this graph in the gateway; there are no targets then.
    graph: Graph | None = None
    #: Requests go to one of several services instead; there are no targets then.
    experiment: Experiment | None = None
    #: Which component of the service the targets are: predictor, transformer or explainer.
    component: str = PREDICTOR
    #: On the predictor's route: the component that clients' requests go to, if that is another one.
    entry: str = ""
    #: A service under whose address this one is reached, too, by its own name in the path.
    parent: str = ""
    #: The manifest's labels, by which a query of many models selects.
    labels: tuple[tuple[str, str], ...] = ()
    #: Who gets a request is learned from rewards; the targets with a weight are the arms.
    bandit: Bandit | None = None
    #: Beside a bandit: a revision that is being rolled out. It is no arm, and gets just its weight's part.
    trial: str = ""
    #: The manifest's, where something is learned that a later service of this name shall not have.
    uid: str = ""
    #: Of several predictors with explainers: a predictor's name, and the service that explains it alone;
    #: empty: the component does, which is the first predictor's.
    explainers: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        return route_key(self.namespace, self.name, self.component)


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """The whole table."""

    sequence: int
    routes: tuple[Route, ...]
    learned: tuple[Learned, ...] = ()


class Put(msgspec.Struct, frozen=True, tag="put"):
    """One route that is new or changed."""

    sequence: int
    route: Route


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """One route that is gone."""

    sequence: int
    key: str


class Wake(msgspec.Struct, frozen=True, tag="wake"):
    """From a gateway: requests wait for a service that has no replica."""

    key: str
    waiting: int = 1


class Sleep(msgspec.Struct, frozen=True, tag="sleep"):
    """From a gateway: somebody asked that a service's replicas go; said again until they are gone."""

    key: str


class ServiceLoad(msgspec.Struct, frozen=True):
    """What one service had to do at one gateway since that gateway's last `Load`."""

    key: str
    #: Seconds that its requests were under way, added up; over the period: requests at a time.
    request_s: float
    #: Requests that ended.
    requests: int
    #: Under way now, and those of them that wait for a replica.
    in_flight: int = 0
    waiting: int = 0


class Load(msgspec.Struct, frozen=True, tag="load"):
    """From a gateway, each second: the services that had requests. One that is left out had none."""

    #: Seconds that this message covers; 0 when it goes on with the one before.
    seconds: float
    services: tuple[ServiceLoad, ...] = ()


TableMessage: TypeAlias = Snapshot | Put | Remove
ToGateway: TypeAlias = TableMessage | Learned | Credited
FromGateway: TypeAlias = Wake | Sleep | Load | Feedback | Pulls


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed replica address: a Unix path, or a host and port."""

    path: str | None = None
    host: str | None = None
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """`unix:/path` or `tcp:host:port`; ValueError on anything else."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(path=rest)
        if kind == "tcp":
            host, _, port = rest.rpartition(":")
            if host and port.isdigit():
                return cls(host=host.strip("[]"), port=int(port))
        raise ValueError(f"{text!r} is no address: unix:/path or tcp:host:port is expected")
