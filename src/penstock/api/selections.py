"""Which objects of a kind are wanted: `labelSelector` and `fieldSelector` of a list or a watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.api.kinds import DEVICE, EVENT, POD, REPLICA, SERVICE, Resource
from penstock.domain.selectors import FieldSelector, LabelSelector
from penstock.errors import InvalidInput

#: Fields beside name and namespace that objects which are not stored can be selected by, as kubectl does.
FIELDS: Mapping[str, tuple[str, ...]] = {
    EVENT.kind: (
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.kind",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    REPLICA.kind: ("status.phase", "spec.service", "spec.revision", "spec.component"),
    POD.kind: ("status.phase", "spec.nodeName"),
    DEVICE.kind: (),
    SERVICE.kind: (),
}
_ALWAYS = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class Term:
    """One field that must be, or must not be, a value."""

    path: tuple[str, ...]
    equal: bool
    value: str

    def holds(self, obj: Mapping[str, Any]) -> bool:
        found: Any = obj
        for name in self.path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return (("" if found is None else found) == self.value) is self.equal


@dataclass(frozen=True, slots=True)
class Selection:
    """`fields` never change in an object's life; labels and `terms` may."""

    labels: LabelSelector = LabelSelector()  # noqa: RUF009 - frozen
    fields: FieldSelector = FieldSelector()  # noqa: RUF009 - frozen
    terms: tuple[Term, ...] = ()

    @classmethod
    def read(cls, query: Mapping[str, str], resource: Resource) -> Selection:
        """InvalidInput for what is no selector, or for a field that cannot be selected by."""
        labels = LabelSelector.parse(query.get("labelSelector", ""))
        text = query.get("fieldSelector", "")
        possible = FIELDS.get(resource.kind) if resource.dialect is None else None
        if possible is None:
            return cls(labels, FieldSelector.parse(text))
        return cls(labels, terms=tuple(_terms(text, (*_ALWAYS, *possible))))

    @property
    def moves(self) -> bool:
        """An object may come into the selection, or leave it."""
        return bool(self.labels) or bool(self.terms)

    def may_pick(self, obj: Mapping[str, Any]) -> bool:
        """By what never changes."""
        meta = obj["metadata"]
        return self.fields.matches(meta.get("namespace", ""), meta.get("name", ""))

    def picks(self, obj: Mapping[str, Any]) -> bool:
        return (
            self.may_pick(obj)
            and self.labels.matches(obj["metadata"].get("labels") or {})
            and all(term.holds(obj) for term in self.terms)
        )


def _terms(text: str, possible: tuple[str, ...]) -> list[Term]:
    terms = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        field, sign, value = part.partition("!=")
        if not sign:
            field, sign, value = part.partition("=")
            value = value.removeprefix("=")
        field = field.strip()
        if not sign or field not in possible:
            raise InvalidInput(
                f"fieldSelector {text!r}: {part!r} is not understood.",
                hint=f"Possible are {', '.join(possible)} with =, == or !=.",
            )
        path = ("source", "component") if field == "source" else tuple(field.split("."))
        terms.append(Term(path, "!=" not in part, value.strip()))
    return terms
