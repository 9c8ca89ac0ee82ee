"""What `POST /v2/query` is asked: the question's body, whom it means, how long it may take.

Tensors and rows are not looked into: each model reads them, and says what is wrong with them for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from penstock.domain.selectors import LabelSelector
from penstock.errors import InvalidInput
from penstock.protocols.content_coding import plain_body
from penstock.protocols.deadlines import requested_timeout_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.gateway.gateway import Gateway
    from penstock.http.head import RequestHead

T = TypeVar("T")

#: Models of one query.
MOST_MODELS: Final = 1000
DEFAULT_TIMEOUT_S: Final = 60.0
MOST_TIMEOUT_S: Final = 3600.0
_EXAMPLE: Final = 'It looks like {"models": ["a", "b"], "instances": [[1.0, 2.0]]}.'
_encode: Final = msgspec.json.encode
_UNSET: Final = msgspec.UNSET


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """The question's body."""

    models: list[str] | msgspec.UnsetType = _UNSET
    #: V2's id, which every answer has again.
    id: str | msgspec.UnsetType = _UNSET
    #: Labels, as Kubernetes' list calls take them.
    selector: str | msgspec.UnsetType = _UNSET
    #: V2's input tensors, or V1's rows.
    inputs: msgspec.Raw | msgspec.UnsetType = _UNSET
    instances: msgspec.Raw | msgspec.UnsetType = _UNSET
    parameters: msgspec.Raw | msgspec.UnsetType = _UNSET
    #: V2's requested outputs.
    outputs: msgspec.Raw | msgspec.UnsetType = _UNSET
    #: Seconds that all of it may take.
    timeout: float | None = None


class _Binary(msgspec.Struct, frozen=True):
    """What in parameters asks for raw tensors."""

    binary_data: bool = False
    binary_data_output: bool = False


class _Output(msgspec.Struct):
    parameters: _Binary = _Binary()


_decode: Final = msgspec.json.Decoder(Query).decode
_binary: Final = msgspec.json.Decoder(_Binary).decode
_outputs: Final = msgspec.json.Decoder(list[_Output]).decode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read(exchange: Any) -> Query:
    try:
        query = _decode(plain_body(exchange.head, exchange.body))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        said = str(exc).removesuffix(".") if exchange.body else "it is empty"
        raise InvalidInput(f"The body is no query: {said}.", hint=_EXAMPLE) from None
    if (query.models is _UNSET) == (query.selector is _UNSET):
        raise InvalidInput("A query has either `models` or a `selector`.")
    if (query.inputs is _UNSET) == (query.instances is _UNSET):
        raise InvalidInput("A query has either `inputs` (V2) or `instances` (V1).")
    for field, first in (
        ("inputs", b"["),
        ("instances", b"["),
        ("parameters", b"{"),
        ("outputs", b"["),
    ):
        value = getattr(query, field)
        if value is not _UNSET and bytes(value)[:1] != first:
            kind = "a list" if first == b"[" else "an object"
            raise InvalidInput(f"`{field}` has to be {kind}.")
    if query.outputs is not _UNSET and query.inputs is _UNSET:
        raise InvalidInput("`outputs` are asked for beside `inputs` (V2).")
    if query.inputs is not _UNSET:
        _refuse_binary(query)
    elif query.parameters is not _UNSET and "instances" in _parsed(_members, query.parameters):
        raise InvalidInput("`parameters` stand beside `instances`, and cannot have that name.")
    return query


def _refuse_binary(query: Query) -> None:
    """One document has all answers, so none of them can be raw bytes behind it."""
    asked = []
    if query.parameters is not _UNSET:
        asked.append(_parsed(_binary, query.parameters).binary_data_output)
    if query.outputs is not _UNSET:
        asked += [o.parameters.binary_data for o in _parsed(_outputs, query.outputs)]
    if any(asked):
        raise InvalidInput(
            "A query's answers are JSON; binary outputs cannot be asked for.",
            hint="Leave out binary_data and binary_data_output.",
        )


def _parsed(decode: Callable[[bytes], T], raw: msgspec.Raw) -> T:
    try:
        return decode(bytes(raw))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"The body is no query: {exc}.") from None


def names_of(query: Query, namespace: str, gateway: Gateway) -> list[str]:
    if not isinstance(query.selector, str):
        assert query.models is not _UNSET  # noqa: S101 - `read` has looked
        names = list(dict.fromkeys(query.models))
        if not names:
            raise InvalidInput("`models` is empty.")
    else:
        selector = LabelSelector.parse(query.selector)
        services = gateway.table.services(namespace)
        names = sorted(s.name for s in services if selector.matches(dict(s.route.labels)))
    if len(names) > MOST_MODELS:
        raise InvalidInput(f"{len(names)} models are asked; at most {MOST_MODELS} can be at once.")
    return names


def timeout_of(query: Query, head: RequestHead) -> float:
    timeout_s = DEFAULT_TIMEOUT_S if query.timeout is None else query.timeout
    if not 0 < timeout_s <= MOST_TIMEOUT_S:
        raise InvalidInput(f"`timeout` is in seconds, more than 0 and at most {MOST_TIMEOUT_S:g}.")
    asked_s = requested_timeout_s(head)
    return timeout_s if asked_s is None else min(timeout_s, asked_s)


def body_of(query: Query) -> bytes:
    """The body that every model gets."""
    if query.inputs is not _UNSET:
        members = [b'"inputs":%b' % bytes(query.inputs)]
        if query.id is not _UNSET:
            members.append(b'"id":%b' % _encode(query.id))
        for name in ("parameters", "outputs"):
            value = getattr(query, name)
            if value is not _UNSET:
                members.append(b'"%b":%b' % (name.encode(), bytes(value)))
        return b"{%b}" % b",".join(members)
    assert query.instances is not _UNSET  # noqa: S101 - `read` has looked
    members = [b'"instances":%b' % bytes(query.instances)]
    if query.parameters is not _UNSET:
        inside = bytes(query.parameters)[1:-1].strip()
        members += [inside] if inside else []
    return b"{%b}" % b",".join(members)
