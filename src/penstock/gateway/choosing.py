"""Which revision shall answer a request: what it asks for, what a rule says, what it stays with.

In this order: the address or the header `x-penstock-revision` names one, and only that one answers; a rule of
the service fits the request's headers; the client stays with one (`sticky`). The last two are preferences:
where such a revision has no replica that answers, the shares decide, as for everybody else. All of it depends
on the head and the route alone, so it is found once per distinct head and kept in its plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.domain.headers import ANY, PREFER, REVISION
from penstock.domain.patterns import MOST_VALUE
from penstock.errors import NotFound, PenstockError
from penstock.gateway.inspected import refuse_inspection
from penstock.gateway.sticky import preferred

if TYPE_CHECKING:
    from penstock.domain.routes import HeaderTest, Rule
    from penstock.gateway.table import Service, Table
    from penstock.http.head import RequestHead

LATEST: Final = "latest"
PREVIOUS: Final = "previous"
#: Names of revisions by the place they have; Knative says `prev`.
TAGS: Final = {LATEST: LATEST, PREVIOUS: PREVIOUS, "prev": PREVIOUS}
REVISION_HEADER: Final = REVISION.encode()
PREFER_HEADER: Final = PREFER.encode()


class Choice(NamedTuple):
    """The revision or tag wanted; empty: any, by the shares."""

    wanted: str = ""
    #: Another one may answer when that one cannot.
    soft: bool = False
    #: A header field that takes the place of the client's: what the predictor shall be asked for.
    passed_on: tuple[bytes, bytes] | None = None


class Matcher:
    """A route's rules, ready to be matched."""

    __slots__ = ("_rules",)

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = tuple(
            (tuple((t.header.encode("latin-1"), _tester(t)) for t in rule.tests), rule.to)
            for rule in rules
        )

    def match(self, head: RequestHead) -> str:
        """What the first rule that fits this head leads to, or an empty string."""
        for tests, to in self._rules:
            for header, passes in tests:
                value = head.get(header)
                if value is None or not passes(value.decode("latin-1")):
                    break
            else:
                return TAGS.get(to, to)
        return ""


def _tester(test: HeaderTest) -> Callable[[str], bool]:
    wanted = test.value
    if test.kind == "exact":
        return lambda value: value == wanted
    if test.kind == "prefix":
        return lambda value: value.startswith(wanted)
    pattern = re.compile(wanted)
    return lambda value: len(value) <= MOST_VALUE and pattern.fullmatch(value) is not None


def choose(
    head: RequestHead, service: Service, named: Service, table: Table, tag: str = ""
) -> Choice:
    """The choice for a head. `named` is the predictor of the service, `service` the component that answers.

    A component in front of the predictor is told what to ask it for: revisions, rules and stickiness are the
    predictor's. NotFound for a revision that is asked for and not there (Unavailable while it may be there
    all the same), InvalidInput for steps.
    """
    if service.graph is None:
        refuse_inspection(head, named)
    if service is not named:
        asked = (head.get(REVISION_HEADER) or b"").decode("latin-1").strip()
        if any(t.revision == (tag or asked) for t in service.targets):
            # The component's own: not to be asked of the predictor, too.
            return Choice(tag or asked, passed_on=(REVISION_HEADER, b"") if asked else None)
        wanted = revision_asked(head, named, table, tag)
        if wanted:
            return Choice(passed_on=(REVISION_HEADER, wanted.encode("latin-1")))
        wanted = _liked(head, named)
        if wanted and named.named(wanted) is not None:
            return Choice(passed_on=(PREFER_HEADER, wanted.encode("latin-1")))
        sticky = named.route.sticky
        if sticky is not None and not sticky.header and named.learner is None:
            return Choice(passed_on=(PREFER_HEADER, ANY.encode()))
        return Choice()
    wanted = revision_asked(head, service, table, tag)
    if wanted:
        return Choice(wanted)
    told = head.get(PREFER_HEADER)
    wanted = told.decode("latin-1") if told is not None else _liked(head, service)
    return Choice(wanted, soft=True)


def _liked(head: RequestHead, predictor: Service) -> str:
    """What the first rule that fits leads to, or the revision that the client stays with; empty: any."""
    wanted = predictor.matcher.match(head) if predictor.matcher is not None else ""
    sticky = predictor.route.sticky
    # With a bandit, who stays is looked at where arms are chosen.
    if not wanted and sticky is not None and predictor.learner is None:
        return preferred(head, predictor, sticky)
    return wanted


def revision_asked(head: RequestHead, service: Service, table: Table, tag: str = "") -> str:
    """Tag or name of the revision that the address or the head asks for; an error for one not there."""
    asked = head.get(REVISION_HEADER)
    wanted = tag or (asked.decode("latin-1").strip() if asked is not None else "")
    if not wanted:
        return ""
    wanted = TAGS.get(wanted, wanted)
    if service.targets and service.named(wanted) is None:
        raise unknown_revision(service, wanted, table)
    return wanted


def unknown_revision(service: Service, wanted: str, table: Table) -> PenstockError:
    """There is none of that name or tag, as far as this gateway knows."""
    names = [n for t in service.targets for n in (t.revision, *t.tags)]
    return table.unknown(
        NotFound(
            f"{service.key} has no revision {wanted} that takes requests.",
            hint=f"There is {', '.join(names) or 'none'}.",
        )
    )
