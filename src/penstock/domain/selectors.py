"""Label and field selectors, as Kubernetes' list and watch calls take them.

`app=iris,tier!=test,env in (dev, prod),!legacy` selects by labels, equality and sets;
`metadata.name=iris,metadata.namespace!=kube` by fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.domain.names import key_problem, label_value_problem
from penstock.errors import InvalidInput

_SET = re.compile(r"\s*(?P<key>[^\s,!=()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)\s*")
_EQUALITY = re.compile(r"\s*(?P<key>[^\s,!=()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s,()=!]*)\s*")
_EXISTS = re.compile(r"\s*(?P<op>!?)\s*(?P<key>[^\s,!=()]+)\s*")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: `op` is `in`, `notin`, `exists` or `absent`; equality is a set of one."""

    key: str
    op: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.op == "exists":
            return self.key in labels
        if self.op == "absent":
            return self.key not in labels
        # An absent key satisfies `!=` and `notin`, as Kubernetes has it.
        found = labels.get(self.key)
        return (found in self.values) if self.op == "in" else (found not in self.values)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none selects everything."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """InvalidInput names the term that is wrong."""
        terms: list[Requirement] = []
        position = 0
        while text[position:].strip():
            match = _SET.match(text, position)
            if match:
                values = frozenset(v.strip() for v in match["values"].split(","))
                term = Requirement(match["key"], match["op"], values)
            elif match := _EQUALITY.match(text, position):
                op = "notin" if match["op"] == "!=" else "in"
                term = Requirement(match["key"], op, frozenset((match["value"],)))
            elif match := _EXISTS.match(text, position):
                term = Requirement(match["key"], "absent" if match["op"] else "exists")
            else:
                raise _bad(text, position)
            position = match.end()
            if position < len(text):
                if text[position] != ",":
                    raise _bad(text, match.start())
                position += 1
                if not text[position:].strip():
                    raise _bad(text, position - 1)
            problem = key_problem(term.key) or next(
                (p for p in map(label_value_problem, sorted(term.values)) if p), None
            )
            if problem:
                raise InvalidInput(f"labelSelector {text!r}: {problem}.")
            terms.append(term)
        return cls(tuple(terms))

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> LabelSelector:
        """Every label of `labels`, by equality."""
        return cls(tuple(Requirement(k, "in", frozenset((v,))) for k, v in labels.items()))

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)


#: The fields that can be selected by, as for any custom resource in Kubernetes.
FIELDS = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """(field, equal?, value) terms over `FIELDS`; all must hold."""

    terms: tuple[tuple[str, bool, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> FieldSelector:
        """InvalidInput for a field that cannot be selected by."""
        terms = []
        for part in filter(None, (p.strip() for p in text.split(","))):
            match = _EQUALITY.fullmatch(part)
            if match is None:
                raise InvalidInput(f"fieldSelector {text!r}: {part!r} is no FIELD=VALUE.")
            if match["key"] not in FIELDS:
                raise InvalidInput(
                    f"fieldSelector {text!r}: {match['key']!r} cannot be selected by.",
                    hint=f"Possible are {' and '.join(FIELDS)}.",
                )
            terms.append((match["key"], match["op"] != "!=", match["value"]))
        return cls(tuple(terms))

    def matches(self, namespace: str, name: str) -> bool:
        values = {"metadata.name": name, "metadata.namespace": namespace}
        return all((values[field] == value) is equal for field, equal, value in self.terms)

    def __bool__(self) -> bool:
        return bool(self.terms)


def _bad(text: str, position: int) -> InvalidInput:
    return InvalidInput(
        f"labelSelector {text!r} cannot be read from {text[position:]!r} on.",
        hint="Terms are key=value, key!=value, key in (a, b), key notin (a, b), key and !key.",
    )
