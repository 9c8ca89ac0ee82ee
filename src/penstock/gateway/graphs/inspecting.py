"""A graph's answer with what passed each step, for a request that asks to be told: `?inspect=1`, or a header.

The answer becomes a document that has the graph's own answer in it. Only the request that asked gets it, and
nothing of it is kept. A manifest whose steps' values are nobody's business says so in an annotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.annotations import INSPECT
from penstock.errors import Forbidden
from penstock.gateway.graphs.answers import steps_of
from penstock.graphs.inspection import FEW_ELEMENTS, MOST_BYTES, Inspector
from penstock.graphs.values import JSON
from penstock.http.head import JSON_TYPE

if TYPE_CHECKING:
    from penstock.domain.graph import Graph
    from penstock.graphs.execution import Execution

#: The parameter of a gRPC answer that has the document.
INSPECT_PARAMETER: Final = "penstock_inspect"


def inspector_for(asked: str, graph: Graph) -> Inspector:
    """What writes down a request's values. `asked` is what it said: how many elements, or yes. Forbidden."""
    if not graph.inspect:
        raise Forbidden(
            f"The values of {graph.key}'s steps are not shown.",
            hint=f'Its manifest has the annotation {INSPECT}: "false".',
        )
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0
    return Inspector(number if number > 1 else FEW_ELEMENTS)


def document_of(execution: Execution, given: Any, more: dict[str, Any]) -> bytes:
    """What passed, as JSON; `given` is what was written of the request."""
    ms, steps = steps_of(execution)
    told = {"graph": execution.program.key, "ms": ms, "request": given, "steps": steps, **more}
    return msgspec.json.encode(told)


def answer(
    execution: Execution, given: Any, status: int, headers: bytes, body: Any
) -> tuple[bytes, bytes]:
    """Header lines and body of the answer that tells what passed; the rest is the graph's own answer."""
    data = b"".join(body) if isinstance(body, list | tuple) else bytes(body)
    kept = []
    kind = b""
    binary = False
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-type":
            kind = value.strip()
        elif name == b"inference-header-content-length":
            binary = True
        elif line:
            kept.append(line + b"\r\n")
    told: dict[str, Any] = {"status": status}
    if binary or not kind.startswith((JSON, b"text/")) or len(data) > MOST_BYTES:
        told |= {"content_type": kind.decode("latin-1"), "bytes": len(data)}
    elif kind.startswith(JSON):
        told["json"] = msgspec.Raw(data)
    else:
        told["text"] = data.decode("utf-8", "replace")
    return JSON_TYPE + b"".join(kept), document_of(execution, given, {"answer": told})
