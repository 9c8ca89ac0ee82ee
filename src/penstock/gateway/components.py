"""Which component of a service a request goes to: its transformer, its predictor, or its explainer.

A client names a service and gets the component that its route names as the entry; what asks for an
explanation goes to the explainer, where there is one (else to the entry, whose model may explain by itself or
says that it cannot). Components reach each other, through these gateways too, at
`/serving/NAMESPACE/NAME/components/ROLE/...` or with the header `x-penstock-component: ROLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.domain.headers import REVISION
from penstock.domain.routes import EXPLAINER, ROLES
from penstock.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from penstock.gateway.table import Service, Table
    from penstock.http.head import RequestHead

COMPONENT_HEADER: Final = b"x-penstock-component"
REVISION_HEADER: Final = REVISION.encode()
_PREFIX: Final = "/components/"


def split(path: str) -> tuple[str, str]:
    """`/components/ROLE/rest` -> (role, `/rest`); ("", path) for any other path."""
    if not path.startswith(_PREFIX):
        return "", path
    role, _, rest = path[len(_PREFIX) :].partition("/")
    return role, "/" + rest


def reached(
    head: RequestHead,
    service: Service,
    table: Table,
    *,
    path: str = "",
    role: str = "",
    flow: str = "",
) -> Service:
    """The component that answers. `service` is what the address names; `role` what its path asks for.

    `flow` is the part of a graph, or the predictor, whose explainer is meant; empty: any.
    """
    if service.route.explainers and not flow:
        flow = (head.get(REVISION_HEADER) or b"").decode("latin-1").strip()
    asked = role or (head.get(COMPONENT_HEADER) or b"").decode("latin-1").strip().lower()
    if asked:
        found = table.component(service, asked, flow) if asked in ROLES else None
        if found is None:
            raise NotFound(
                f"{service.key} has no component {asked}.",
                hint=f"It has {', '.join(r for r in ROLES if table.component(service, r))}.",
            )
        return found
    if explains(path):
        found = table.component(service, EXPLAINER, flow)
        if found is not None:
            return found
    entry = service.route.entry
    if not entry:
        return service
    found = table.component(service, entry)
    if found is None:
        raise Unavailable(f"The {entry} of {service.key} is not known here yet.", retry_after_s=1)
    if head.method in ("GET", "HEAD") and asks_ready(path) and cannot_answer(service):
        return service  # a transformer that is up says nothing of the predictor behind it
    return found


def asks_ready(path: str) -> bool:
    """`/v2/models/NAME[/versions/V]/ready`, `/v2/health/ready` and `/v1/models/NAME`."""
    path = path.rstrip("/")
    if path.startswith("/v2/"):
        return path.endswith("/ready")
    return path.startswith("/v1/models/") and path.count("/") == 3 and ":" not in path


def cannot_answer(service: Service) -> bool:
    """Whether a component has no replica and it is known why."""
    return bool(service.route.message) and not any(t.replicas for t in service.targets)


def explains(path: str) -> bool:
    """`/v1/models/NAME:explain` and `/v2/models/NAME[/versions/V]/explain`."""
    if path.startswith("/v1/models/"):
        return path.endswith(":explain")
    return path.startswith("/v2/models/") and path.rstrip("/").endswith("/explain")
