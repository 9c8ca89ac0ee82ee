"""The nodes of a predictor's graph as a tree that has been checked, each with its place in the manifest.

`children` nest, so each node is read by itself and its problems are moved to where it stands. What Seldon
finds out at run time, or never, is told here: a router without branches, children that nobody chooses among,
a class for a node that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.dialects.schema import nearest, read
from penstock.dialects.seldon.v1_fields import PredictiveUnit
from penstock.dialects.seldon.v1_servers import (
    BUILTIN,
    PARAMETERS,
    POLICIES,
    SERVERS,
    implementation_of,
    implementation_problem,
    typed_parameters,
)
from penstock.domain.graph import Verb
from penstock.errors import FieldProblem

#: Type -> what a node of it is asked.
TYPES: Final[Mapping[str, Verb]] = {
    "MODEL": Verb.PREDICT,
    "TRANSFORMER": Verb.TRANSFORM_INPUT,
    "OUTPUT_TRANSFORMER": Verb.TRANSFORM_OUTPUT,
    "ROUTER": Verb.ROUTE,
    "COMBINER": Verb.AGGREGATE,
}
#: The methods that a node may have besides.
METHODS: Final[Mapping[str, Verb]] = {
    "TRANSFORM_INPUT": Verb.TRANSFORM_INPUT,
    "TRANSFORM_OUTPUT": Verb.TRANSFORM_OUTPUT,
    "ROUTE": Verb.ROUTE,
    "AGGREGATE": Verb.AGGREGATE,
    "SEND_FEEDBACK": Verb.SEND_FEEDBACK,
}
#: How deep a graph may be, and how many nodes a predictor may have.
MOST_DEPTH: Final = 32
MOST_NODES: Final = 64


@dataclass(slots=True)
class Node:
    """One node."""

    given: Mapping[str, Any]
    #: Its path in the manifest.
    at: str
    name: str
    implementation: str
    #: What it is asked.
    verbs: frozenset[Verb]
    children: list[Node] = field(default_factory=list)

    @property
    def needs_process(self) -> bool:
        return self.implementation not in BUILTIN

    @property
    def is_class(self) -> bool:
        """A class of the user's own."""
        return not self.implementation


def means_graph(graph: Any) -> bool:
    """Whether a predictor's graph is more than one model. Also of what is no valid graph."""
    if not isinstance(graph, Mapping):
        return False
    return bool(
        graph.get("children")
        or graph.get("implementation") in BUILTIN
        or graph.get("type") not in (None, "MODEL", "UNKNOWN_TYPE")
        or any(m != "TRANSFORM_INPUT" for m in graph.get("methods") or ())
    )


def tree(
    graph: Mapping[str, Any],
    at: str,
    problems: list[FieldProblem],
    known: Mapping[str, str] | None = None,
) -> Node | None:
    """The checked tree of a predictor whose root was read. None when it cannot be made.

    `known` are the implementations of nodes that their containers' images tell.
    """
    seen: dict[str, str] = {}
    root = _node(graph, at, seen, 0, problems, known or {})
    if len(seen) > MOST_NODES:
        problems.append(FieldProblem(at, f"{len(seen)} nodes; at most {MOST_NODES} are possible"))
    return root


def nodes(root: Node) -> list[Node]:
    """The node and all below it, parents first."""
    found = [root]
    for child in root.children:
        found += nodes(child)
    return found


def _node(
    given: Mapping[str, Any],
    at: str,
    seen: dict[str, str],
    depth: int,
    problems: list[FieldProblem],
    known: Mapping[str, str],
) -> Node | None:
    def wrong(part: str, message: str) -> None:
        problems.append(FieldProblem(f"{at}{part}", message))

    if depth > MOST_DEPTH:
        wrong("", f"the graph is more than {MOST_DEPTH} deep")
        return None
    name = given["name"]
    if name in seen:
        wrong(".name", f"is the name of another node, {seen[name]}")
    seen[name] = at
    if any(c in name for c in ".:/"):
        wrong(".name", "may not contain '.', ':' or '/'")
    implementation = implementation_of(given)
    if not implementation and not given.get("modelUri"):
        implementation = known.get(name, "")
    problem = implementation_problem(implementation)
    if problem is not None:
        wrong(".implementation", problem)
    verbs = _verbs(given, implementation, wrong)
    node = Node(given, at, name, implementation, verbs)
    if depth:
        _not_below(given, wrong)
    for i, child in enumerate(given.get("children") or ()):
        here = f"{at}.children[{i}]"
        parsed, found = read(PredictiveUnit, child)
        problems += [FieldProblem(f"{here}.{p.path}", p.message, p.unknown) for p in found]
        if parsed is None:
            continue
        below = _node(child, here, seen, depth + 1, problems, known)
        if below is not None:
            node.children.append(below)
    _shape(node, len(given.get("children") or ()), wrong)
    _parts(node, problems, wrong)
    return node


def _verbs(given: Mapping[str, Any], implementation: str, wrong: Any) -> frozenset[Verb]:
    kind = given.get("type")
    kind = None if kind == "UNKNOWN_TYPE" else kind
    own = BUILTIN.get(implementation) or ("MODEL" if implementation in SERVERS else None)
    if own is not None and kind is not None and kind != own:
        wrong(".type", f"must be {own}: {implementation} is one")
    found = set()
    methods = given.get("methods") or ()
    for i, method in enumerate(methods):
        verb = METHODS.get(method)
        if verb is None:
            near = nearest(str(method), list(METHODS))
            hint = f"did you mean {near}?" if near else f"known are {', '.join(METHODS)}"
            wrong(f".methods[{i}]", f"unknown method; {hint}")
            continue
        found.add(verb)
    kind = kind or own or (None if found else "MODEL")
    if kind is not None:
        found.add(TYPES[kind])
        if kind == "MODEL":
            # A model's input is transformed by predicting.
            found.discard(Verb.TRANSFORM_INPUT)
    if own is not None and found - {TYPES[own], Verb.SEND_FEEDBACK}:
        wrong(".methods", f"{implementation} has no other methods than a {own}'s")
    return frozenset(found)


def _not_below(given: Mapping[str, Any], wrong: Any) -> None:
    """What the table says of a root."""
    if given.get("logger"):
        wrong(".logger", "logging of payloads is not supported yet")


def _shape(node: Node, count: int, wrong: Any) -> None:
    """How many children there may be."""
    routes, aggregates = Verb.ROUTE in node.verbs, Verb.AGGREGATE in node.verbs
    if routes and not count:
        wrong(".children", "a router needs children to choose among")
    if aggregates and not count:
        wrong(".children", "a combiner needs children whose answers it combines")
    if routes and aggregates:
        wrong(".methods", "one node cannot both choose a child and combine all of them")
    if count > 1 and not routes and not aggregates:
        wrong(
            ".children",
            f"{count} children, and nobody chooses one or combines them; put a ROUTER or a COMBINER"
            " above them",
        )
    if node.implementation == "RANDOM_ABTEST" and count != 2:
        wrong(".children", f"RANDOM_ABTEST has two children, not {count}")


def _parts(node: Node, problems: list[FieldProblem], wrong: Any) -> None:
    """Parameters, files and methods that do not fit what the node is."""
    given = node.given
    parameters = given.get("parameters") or ()
    if node.implementation in BUILTIN:
        values = typed_parameters(parameters, f"{node.at}.parameters", problems)
        allowed = sorted(PARAMETERS.get(node.implementation, ()))
        for i, parameter in enumerate(parameters):
            if parameter["name"] not in allowed:
                shown = ", ".join(allowed) or "none"
                wrong(
                    f".parameters[{i}].name",
                    f"unknown parameter of {node.implementation}; known are {shown}",
                )
        for name in ("ratioA", "epsilon"):
            share = values.get(name, 0.5)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                wrong(".parameters", f"{name} is a number between 0 and 1")
        if node.implementation in POLICIES:
            _arms(values, len(given.get("children") or ()), wrong)
        if given.get("modelUri"):
            wrong(".modelUri", f"{node.implementation} has no files")
    elif node.is_class and not node.verbs - {Verb.SEND_FEEDBACK}:
        wrong(".methods", "the node would be asked nothing but feedback; give it a type")


def _arms(values: Mapping[str, Any], count: int, wrong: Any) -> None:
    """Number and names of the children that a router which learns chooses among."""
    if values.get("n_branches", count) != count:
        wrong(".parameters", f"n_branches is {values['n_branches']}, the node has {count} children")
    names = str(values.get("branch_names") or "")
    found = names.split(":")
    if names and (len(found) != count or len(set(found)) != count or not all(found)):
        wrong(".parameters", f"branch_names needs {count} different names with ':' between them")
