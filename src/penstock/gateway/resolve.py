"""From a request head to a plan: which service, which path there, which bytes to send ahead of the body.

Addresses of a service, all equivalent: `/v1/models/NAME...` and `/v2/models/NAME/...` (namespace
`default`), `/serving/NAMESPACE/NAME/...` (Seldon V1: `/seldon/...`), any path with Seldon's header
`seldon-model: NAME`, and any path under `Host: NAME.NAMESPACE.DOMAIN` or
`Host: NAME-NAMESPACE.DOMAIN` where such a service exists. One revision of it, whatever its share, is at
`/serving/NAMESPACE/NAME@latest/...` and `latest-NAME` as the host's name (`latest`, `previous` or `prev`, in
the path also a revision's name), or anywhere with the header `x-penstock-revision`. `components` says which
component of the service it is that answers, `choosing` which of its revisions. A plan depends on
nothing but the head's bytes and the table, so it is made once per distinct head and kept in its memo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.domain.routes import EXPLAINER, STOPPED
from penstock.errors import NotFound, PenstockError, Unsupported
from penstock.gateway import components
from penstock.gateway.choosing import LATEST, PREVIOUS, TAGS, choose
from penstock.protocols.deadlines import requested_timeout_s

if TYPE_CHECKING:
    from penstock.gateway.table import Service, Table
    from penstock.http.head import RequestHead

#: Headers that belong to one connection (RFC 9110, 7.6.1) or that this gateway answers itself.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization",
        b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect", b"host", b"content-length",
    }
)  # fmt: skip

DEFAULT_NAMESPACE: Final = "default"
#: A caller that would wait longer has mistaken the unit.
MOST_TIMEOUT_S: Final = 86_400

#: Calls about a service that the gateway answers (see `repository`).
LOAD: Final = "load"
UNLOAD: Final = "unload"
STATISTICS: Final = "stats"
FEEDBACK: Final = "feedback"
EXPLAIN: Final = "explain"
DOCUMENT: Final = "document"
#: What follows a namespace where many models are asked.
_QUERY: Final = ["v2", "query"]
_REPOSITORY: Final = "/v2/repository/models/"
#: Seldon V1's call of an explainer, and what the name of an explainer's deployment ends with.
EXPLAIN_PATHS: Final = frozenset(("/api/v1.0/explain", "/api/v0.1/explain"))
_DEPLOYMENT: Final = "-explainer"
#: Where Seldon V1 describes its calls.
SELDON_DOCUMENTS: Final = frozenset(("/api/v1.0/doc/seldon.json", "/api/v0.1/doc/seldon.json"))
#: Seldon's address of a pipeline.
_PIPELINES: Final = "/v2/pipelines/"


class Plan:
    """What to do with every request whose head has these bytes."""

    __slots__ = ("head", "own", "protocol", "service", "soft", "timeout_s", "verb", "wanted")

    def __init__(
        self,
        service: Service | None,
        head: bytes,
        protocol: str,
        timeout_s: float,
        own: str = "",
        wanted: str = "",
        soft: bool = False,
        verb: str = "",
    ) -> None:
        #: None when the gateway answers by itself (`own` is the path).
        self.service = service
        #: The head for the model process, complete but for a chunked body's framing.
        self.head = head
        self.protocol = protocol
        self.timeout_s = timeout_s
        self.own = own
        #: The tag or name of the one revision that shall answer; empty: any, by the shares.
        self.wanted = wanted
        #: Another one may answer when that one cannot.
        self.soft = soft
        #: The gateway answers this call about the service by itself (`own` is the path).
        self.verb = verb


def plan(head: RequestHead, table: Table) -> Plan:
    """The plan for a head; NotFound for a service that does not exist, InvalidInput for a bad header."""
    path = head.path
    if path.startswith(("/serving/", "/seldon/")):
        parts = path.split("/", 4)
        if path.startswith("/seldon/") and parts[3:4] == ["api"] and not table.get(parts[2], "api"):
            # Seldon's clients leave the namespace out where they know none.
            parts = f"/seldon/{DEFAULT_NAMESPACE}{path[7:]}".split("/", 4)
        if len(parts) < 4 or not parts[2] or not parts[3]:
            raise NotFound(
                "No such path.",
                hint="Services are at /serving/NAMESPACE/NAME/v2/models/NAME/infer.",
            )
        if len(parts) == 5 and parts[3:] == _QUERY:
            return Plan(None, b"", "v2", 0, own=path)
        name, _, tag = parts[3].partition("@")
        service = table.get(parts[2], name)
        rest = "/" + (parts[4] if len(parts) == 5 else "")
        if service is None and path.startswith("/seldon/"):
            explained = _seldon_explainer(parts, table)
            if explained is not None:
                service, rest, tag = explained
        if service is None:
            raise unknown_service(name, parts[2], table)
        role, path = components.split(rest)
        if service.route.experiment is not None and (role or tag):
            # A component or a revision is the service's own, whoever has its requests.
            service = table.by_key(f"{parts[2]}/{name}") or service
        return make(head, service, path, table, tag, role)
    named = head.get(b"seldon-model")
    if named is not None:
        return make(head, by_header(named, table, namespace_of(head)), path, table)
    service, tag = by_host(head, table)
    if service is not None:
        return make(head, service, path, table, tag)
    name = model_in(path)
    if name:
        namespace = namespace_of(head)
        service = table.get(namespace, name) or suffixed(name, namespace, table)
        if (
            path.startswith(_PIPELINES)
            and service is not None
            and service.graph is None
            and not _stopped(service)
        ):
            raise NotFound(f"There is no pipeline {name} in namespace {namespace}.")
        if service is not None:
            return make(head, service, path, table)
        if path.rstrip("/") != "/v2/models/stats":  # of all; a model of that name comes first
            raise unknown_model(name, namespace, table)
    return Plan(None, b"", protocol_of(path), 0, own=path)


def _seldon_explainer(parts: list[str], table: Table) -> tuple[Service, str, str] | None:
    """Whose explainer `/seldon[/NAMESPACE]/NAME-explainer/PREDICTOR/...` is, its path, and the predictor.

    The explainer of a graph, or of one of several predictors, asks that one alone; the only explainer of a
    service asks the service.
    """
    rest = parts[4] if len(parts) == 5 else ""
    first, _, after = rest.partition("/")
    for namespace, name, predictor, path in (
        (parts[2], parts[3], first, after),
        (DEFAULT_NAMESPACE, parts[2], parts[3], rest),
    ):
        service = table.get(namespace, name.removesuffix(_DEPLOYMENT))
        if not name.endswith(_DEPLOYMENT) or service is None:
            continue
        if service.route.explainers:
            explainer = dict(service.route.explainers).get(predictor)
            if explainer is None:
                continue
            predictor = predictor if explainer else _main(service)
        elif service.route.graph is None:
            predictor = ""
        if table.component(service, EXPLAINER, predictor) is None:
            continue
        # The explainer's deployment has one model, under a name that is made of the deployment's.
        model = model_in(f"/{path}")
        if model:
            path = path.replace(f"/models/{model}", f"/models/{service.name}", 1)
        return service, f"/components/explainer/{path}", predictor
    return None


def _main(service: Service) -> str:
    """The tag of the predictor that others are tried beside: they have their own names only."""
    return LATEST if service.named(LATEST) is not None else PREVIOUS


def namespace_of(head: RequestHead) -> str:
    """The namespace that the header `penstock-namespace` names, or `default`."""
    value = head.get(b"penstock-namespace")
    return DEFAULT_NAMESPACE if value is None else value.decode("latin-1").strip()


def by_header(value: bytes, table: Table, namespace: str) -> Service:
    """The service that Seldon's header `seldon-model` names, whatever the path and Host say."""
    name = value.decode("latin-1").strip()
    service = table.get(namespace, name) or suffixed(name, namespace, table)
    if service is not None:
        return service
    raise unknown_service(name, namespace, table)


def suffixed(name: str, namespace: str, table: Table) -> Service | None:
    """What Seldon's `NAME.pipeline` or `NAME.experiment` is, if there is one of that kind."""
    if name.endswith(".pipeline"):
        service = table.get(namespace, name.removesuffix(".pipeline"))
        if service is not None and (service.graph is not None or _stopped(service)):
            return service
    if name.endswith(".experiment"):
        service = table.by_key(f"{namespace}/{name.removesuffix('.experiment')}")
        if service is not None and (service.route.experiment is not None or _stopped(service)):
            return service
    return None


def _stopped(service: Service) -> bool:
    """Whether it is stopped on request: its route does not say what it is when it is not."""
    return service.route.message == STOPPED


def unknown_service(name: str, namespace: str, table: Table) -> PenstockError:
    return table.unknown(
        NotFound(
            f"There is no service {name} in namespace {namespace}.",
            hint=f"`penstock get isvc -n {namespace}` lists them.",
        )
    )


def unknown_model(name: str, namespace: str, table: Table) -> PenstockError:
    """The same, said as other servers say it."""
    return table.unknown(
        NotFound(
            f"Model with name {name} does not exist.",
            hint=f"No service in {namespace} serves it; `penstock get isvc -A` lists all.",
        )
    )


def model_in(path: str) -> str:
    """The model's name in a V1 or V2 path, or an empty string."""
    if path.startswith(("/v2/models/", "/v1/models/")):
        rest = path[11:]
    elif path.startswith("/v2/repository/models/"):
        rest = path[22:]
    elif path.startswith(_PIPELINES):
        rest = path[len(_PIPELINES) :]
    else:
        return ""
    for i, c in enumerate(rest):
        if c in "/:":
            return rest[:i]
    return rest


def protocol_of(path: str) -> str:
    """`v1`, `v2` or `other`, for metrics."""
    if path.startswith("/v2"):
        return "v2"
    return "v1" if path.startswith("/v1") else "other"


def by_host(head: RequestHead, table: Table) -> tuple[Service | None, str]:
    """The service that the Host header names, if there is one of that name, and the tag before it."""
    host = head.get(b"host")
    if host is None or b"." not in host:
        return None, ""
    labels = host.decode("latin-1").lower().split(":", 1)[0].split(".")
    first = labels[0]
    if first.isdigit():
        return None, ""
    service = _named_by(first, labels[1], table)
    if service is None:
        tag, _, rest = first.partition("-")
        if rest and tag in TAGS:
            return _named_by(rest, labels[1], table), tag
    return service, ""


def _named_by(first: str, second: str, table: Table) -> Service | None:
    """NAME.NAMESPACE or NAME-NAMESPACE."""
    service = table.get(second, first)
    if service is None and "-" in first:
        # Both may hold dashes, so each cut is tried; the longest name wins.
        cut = first.rfind("-")
        while cut > 0 and service is None:
            service = table.get(first[cut + 1 :], first[:cut])
            cut = first.rfind("-", 0, cut)
    return service


def make(
    head: RequestHead,
    named: Service,
    path: str,
    table: Table,
    tag: str = "",
    role: str = "",
    *,
    plain: bool = False,
) -> Plan:
    """The plan for a head, when it is known which service is meant.

    `plain`: for a process, whatever the gateway answers of it by itself.
    """
    if path == "/v2/logging" and head.method == "POST":
        # One replica would change, and the others not.
        raise Unsupported(
            "Log settings of a service are not changed by a request.",
            hint="The variable PENSTOCK_LOG_LEVEL in its manifest sets the level.",
        )
    named = table.child(named, model_in(path)) or named
    verb = "" if plain else _verb(path, named, table, tag, role)
    service = (
        named if verb else components.reached(head, named, table, path=path, role=role, flow=tag)
    )
    timeout_s = service.route.timeout_s
    asked_s = requested_timeout_s(head, MOST_TIMEOUT_S)
    if asked_s is not None:
        timeout_s = min(timeout_s, asked_s)
    if verb:
        own = f"/components/{role}{path}" if verb == DOCUMENT and role else path
        return Plan(service, b"", protocol_of(path), timeout_s, own, tag, verb=verb)
    if service.route.graph is not None and service.graph is not None and head.method == "POST":
        service.graph.check(path)
    choice = choose(head, service, named, table, tag)
    head_bytes = render(head, service, path, choice.passed_on)
    own = path if service.graph is not None else ""
    return Plan(
        service,
        head_bytes,
        protocol_of(path),
        timeout_s,
        own,
        wanted=choice.wanted,
        soft=choice.soft,
    )


def _verb(path: str, service: Service, table: Table, tag: str, role: str) -> str:
    """What the gateway shall do itself, if this is a call that one replica cannot answer for all."""
    if path.startswith(_REPOSITORY):
        verb = path.rstrip("/").rpartition("/")[2]
        return verb if verb in (LOAD, UNLOAD) else ""
    if path.startswith("/v2/models/") and path.rstrip("/").endswith("/stats"):
        # A sleeping service is woken like by any request; one replica answers for itself.
        return STATISTICS if sum(len(t.replicas) for t in service.targets) > 1 else ""
    if (
        path.endswith("/feedback")
        and role != EXPLAINER
        and (service.learner is not None or service.route.graph is not None)
    ):
        return FEEDBACK
    if path.rstrip("/") in EXPLAIN_PATHS and table.component(service, EXPLAINER, tag) is not None:
        return EXPLAIN
    if path in SELDON_DOCUMENTS and (role == EXPLAINER or (not role and service.graph is None)):
        # Its process does not know of an explainer.
        return DOCUMENT if table.component(service, EXPLAINER, tag) is not None else ""
    return ""


def render(
    head: RequestHead, service: Service, path: str, more: tuple[bytes, bytes] | None = None
) -> bytes:
    """The head to send on: same method and fields, less those of the client's own connection.

    `more` is a field that takes the place of the client's.
    """
    named = set()
    connection = head.get(b"connection")
    if connection is not None:
        named = {token.strip().lower() for token in connection.split(b",")}
    target = path + ("?" + head.query if head.query else "")
    lines = [
        f"{head.method} {target} HTTP/1.1\r\nhost: {service.name}.{service.namespace}\r\n".encode(
            "latin-1"
        )
    ]
    for name, value in head.headers:
        if name not in HOP_BY_HOP and name not in named and (more is None or name != more[0]):
            lines.append(b"%b: %b\r\n" % (name, value))
    if more is not None:
        lines.append(b"%b: %b\r\n" % more)
    if head.content_length < 0:
        lines.append(b"transfer-encoding: chunked\r\n")
    elif head.content_length or head.method in ("POST", "PUT", "PATCH"):
        lines.append(b"content-length: %d\r\n" % head.content_length)
    lines.append(b"\r\n")
    return b"".join(lines)
