"""Whether a request wants to be shown what passes a graph's steps, and what a service without any says to it.

A plain service would leave the wish out, and whoever asked would look for steps in its answer. That is found
out where a head's plan is made, once for all requests whose heads are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from penstock.gateway.table import Service
    from penstock.http.head import RequestHead

INSPECT_HEADER: Final = b"x-penstock-inspect"
#: Where a query is the protocol's; a model's own paths have parameters of their own.
_INFER: Final = ("/infer", ":predict", ":explain", "/predictions")


def wants_values(head: RequestHead) -> str:
    """What a request says that asks for what passed its steps; empty for one that does not."""
    asked = head.get(INSPECT_HEADER)
    if asked is not None:
        said = asked.decode("latin-1").strip()
    elif head.query:
        fields = (f.partition("=") for f in head.query.split("&"))
        said = next((value for name, _, value in fields if name == "inspect"), "")
    else:
        return ""
    return "" if said in ("0", "false") else said


def refuse_inspection(head: RequestHead, service: Service) -> None:
    """InvalidInput when a service that is no graph is asked for its steps."""
    if not wants_values(head):
        return
    if head.get(INSPECT_HEADER) is None and not head.path.rstrip("/").endswith(_INFER):
        return
    raise InvalidInput(
        f"{service.key} is no graph: there are no steps to inspect.",
        hint="Leave out ?inspect and the header x-penstock-inspect.",
    )
