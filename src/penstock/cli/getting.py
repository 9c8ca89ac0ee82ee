"""`penstock get`, `describe` and `events`."""

from __future__ import annotations

from typing import Any

from penstock.cli.client import ApiFailure, Client, Kinds, Served
from penstock.cli.columns import columns_of
from penstock.cli.exits import NOT_FOUND, USAGE, CliError
from penstock.cli.output import age, documents, note, say, size, table

Object = dict[str, Any]


def split_names(kind: str, names: list[str]) -> list[tuple[str, list[str]]]:
    """`isvc a b`, `isvc/a`, `isvc,secrets` as (kind, names) pairs."""
    if "/" in kind:
        pairs: dict[str, list[str]] = {}
        for word in (kind, *names):
            k, slash, name = word.partition("/")
            if not slash or not k or not name:
                raise CliError(f"{word!r}: after KIND/NAME come only others of that form.", USAGE)
            pairs.setdefault(k, []).append(name)
        return list(pairs.items())
    kinds = kind.split(",")
    if len(kinds) > 1 and names:
        raise CliError("Several kinds and names do not go together; use KIND/NAME.", USAGE)
    return [(k, list(names)) for k in kinds]


def find(client: Client, kinds: list[Served], namespace: str, name: str) -> tuple[Served, Object]:
    """The object of that name, of the first of the kinds that has it. CliError NOT_FOUND."""
    missing: ApiFailure | None = None
    for kind in kinds:
        try:
            return kind, client.get(kind.path(namespace, name))
        except ApiFailure as exc:
            if exc.status != 404:
                raise
            missing = missing or exc
    where = f" in namespace {namespace}" if kinds[0].namespaced else ""
    raise CliError(f"There is no {kinds[0].singular} {name}{where}.", NOT_FOUND) from missing


def get(
    client: Client,
    kind: str,
    names: list[str],
    *,
    namespace: str,
    all_namespaces: bool,
    selector: str,
    output: str,
    watch: bool,
) -> None:
    found = Kinds(client)
    pairs = split_names(kind, names)
    scope = None if all_namespaces else namespace
    query = {"labelSelector": selector} if selector else {}
    everything: list[Object] = []
    for word, wanted in pairs:
        served = found.named(word)
        if wanted:
            items = [find(client, served, namespace, n)[1] for n in wanted]
        else:
            items = [o for s in served for o in items_of(client, s, scope, query)]
        everything += items
        if output in ("", "wide"):
            _print_table(served, items, output == "wide", all_namespaces, several=len(pairs) > 1)
            if not items and not watch:
                where = "" if all_namespaces or not served[0].namespaced else f" in {namespace}"
                note(f"There are no {served[0].plural}{where}.")
    if output in ("json", "yaml"):
        everything = [_without_owners(o) for o in everything]
        single = len(everything) == 1 and names
        shown = (
            everything[0] if single else {"apiVersion": "v1", "kind": "List", "items": everything}
        )
        say(documents(shown, output))
    elif output == "name":
        for obj in everything:
            say(_qualified(obj))
    if watch:
        _watch(client, found.named(pairs[0][0]), pairs[0][1], scope, query, output, all_namespaces)


def _without_owners(obj: Object) -> Object:
    """Who owns which field is for programs; it would be most of what is shown."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    return {**obj, "metadata": metadata}


def items_of(
    client: Client, served: Served, scope: str | None, query: dict[str, str]
) -> list[Object]:
    """All pages of a listing; items know their kind."""
    items: list[Object] = []
    more = ""
    while True:
        page = {**query, "limit": "500", **({"continue": more} if more else {})}
        listed = client.get(served.path(scope), **page)
        items += [
            {"apiVersion": served.api_version, "kind": served.kind, **o} for o in listed["items"]
        ]
        more = listed["metadata"].get("continue", "")
        if not more:
            return items


def _qualified(obj: Object) -> str:
    group = obj["apiVersion"].rpartition("/")[0]
    kind = obj["kind"].lower()
    return (
        f"{kind}.{group}/{obj['metadata']['name']}"
        if group
        else f"{kind}/{obj['metadata']['name']}"
    )


def _print_table(
    served: list[Served], items: list[Object], wide: bool, all_namespaces: bool, *, several: bool
) -> None:
    if not items:
        return
    columns = columns_of(
        served[0].kind, wide=wide, all_namespaces=all_namespaces and served[0].namespaced
    )
    items = sorted(items, key=_order) if served[0].kind != "Event" else items
    say(table([c.header for c in columns], [[c.cell(o) for c in columns] for o in items]))
    if several:
        say()


def _order(obj: Object) -> tuple[str, str]:
    return (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def _watch(
    client: Client,
    served: list[Served],
    names: list[str],
    scope: str | None,
    query: dict[str, str],
    output: str,
    all_namespaces: bool,
) -> None:
    """Rows as they change, until interrupted. The first kind of the name is followed."""
    kind = served[0]
    columns = columns_of(kind.kind, wide=output == "wide", all_namespaces=all_namespaces)
    version = client.get(kind.path(scope), limit="1")["metadata"]["resourceVersion"]
    while True:
        events = client.lines(
            kind.path(scope), query={**query, "watch": "1", "resourceVersion": version}
        )
        for event in events:
            obj = event["object"]
            if event["type"] == "ERROR":
                version = client.get(kind.path(scope), limit="1")["metadata"]["resourceVersion"]
                break
            version = obj["metadata"]["resourceVersion"]
            if names and obj["metadata"]["name"] not in names:
                continue
            if output in ("json", "yaml"):
                say(documents(_without_owners(obj), output))
            elif output == "name":
                say(_qualified(obj))
            else:
                row = [c.cell(obj) for c in columns]
                if event["type"] == "DELETED":
                    row[-1] = "(deleted)"
                say(table([], [row], with_headers=False))


# -- describe ------------------------------------------------------------------------------------------


def describe(client: Client, kind: str, names: list[str], *, namespace: str) -> None:
    kinds = Kinds(client)
    first = True
    for word, wanted in split_names(kind, names):
        if not wanted:
            raise CliError("Say what to describe: KIND NAME.", USAGE)
        for name in wanted:
            served, obj = find(client, kinds.named(word), namespace, name)
            if not first:
                say()
            first = False
            say(description(client, served, obj))


def description(client: Client, served: Served, obj: Object) -> str:
    """An object for people: its conditions, revisions, replicas and events."""
    meta = obj["metadata"]
    namespace = meta.get("namespace", "")
    lines = [f"Name:        {meta['name']}"]
    if served.namespaced:
        lines.append(f"Namespace:   {namespace}")
    lines.append(f"API version: {obj.get('apiVersion', served.api_version)}")
    for title, key in (("Labels", "labels"), ("Annotations", "annotations")):
        for i, (k, v) in enumerate(sorted((meta.get(key) or {}).items())):
            front = f"{title}:" if i == 0 else ""
            lines.append(f"{front:<12} {k}={v}")
    lines.append(f"Age:         {age(meta.get('creationTimestamp'))}")
    status = obj.get("status") or {}
    if status.get("url"):
        lines.append(f"URL:         {status['url']}")
    if served.is_service:
        lines += _describe_service(client, meta["name"], namespace, status)
    elif obj.get("spec") or obj.get("data"):
        lines += [
            "",
            documents({k: obj[k] for k in ("spec", "data", "status") if obj.get(k)}, "yaml"),
        ]
    # By uid: not those of another object that had the name before.
    about = f"involvedObject.name={meta['name']},involvedObject.kind={served.kind}"
    events = client.get(
        f"/api/v1/namespaces/{namespace or 'default'}/events",
        fieldSelector=f"{about},involvedObject.uid={meta['uid']}" if meta.get("uid") else about,
    )["items"]
    if events:
        lines += ["", "Events:", _indent(_event_table(events[-20:]))]
    return "\n".join(lines)


def _describe_service(client: Client, name: str, namespace: str, status: Object) -> list[str]:
    lines: list[str] = []
    model = status.get("modelStatus") or {}
    states = model.get("states") or {}
    if model or not status:  # a graph has no model of its own
        lines.append(
            f"Model:       {states.get('activeModelState', '-')}"
            + (f", next {states['targetModelState']}" if model.get("transitionStatus") != "UpToDate"
               and states.get("targetModelState") else "")
        )  # fmt: skip
    runtime = status.get("clusterServingRuntimeName") or status.get("servingRuntimeName")
    if runtime:
        lines.append(f"Runtime:     {runtime}")
    failure = model.get("lastFailureInfo")
    if failure:
        lines.append(f"Failure:     {failure.get('reason')}: {failure.get('message')}")
    own = status.get("penstock") or {}
    for role, component in (own.get("components") or {}).items():
        if failure := component.get("lastFailureInfo"):
            lines.append(f"Failure:     {role}: {failure.get('reason')}: {failure.get('message')}")
    warnings = own.get("warnings") or ()
    lines += [f"Warning:     {warning}" for warning in warnings]
    conditions = status.get("conditions") or []
    if conditions:
        rows = [
            (
                c["type"],
                c["status"],
                age(c.get("lastTransitionTime")),
                c.get("reason", ""),
                c.get("message", ""),
            )
            for c in conditions
        ]
        lines += [
            "",
            "Conditions:",
            _indent(table(("TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"), rows)),
        ]
    label = f"penstock.dev/service={name}"
    base = f"/apis/penstock.dev/v1alpha1/namespaces/{namespace}"
    revisions = client.get(f"{base}/revisions", labelSelector=label)["items"]
    if revisions:
        serving = {
            t["revisionName"]: t["percent"]
            for t in ((status.get("components") or {}).get("predictor") or {}).get("traffic") or ()
        }
        rows = [
            (
                r["metadata"]["name"],
                f"{serving[r['metadata']['name']]}%" if r["metadata"]["name"] in serving else "-",
                r["spec"].get("uri", ""),
                size(r["spec"].get("sizeBytes")),
                age(r["metadata"].get("creationTimestamp")),
            )
            for r in revisions
        ]
        lines += [
            "",
            "Revisions:",
            _indent(table(("NAME", "TRAFFIC", "FROM", "SIZE", "AGE"), rows)),
        ]
    replicas = client.get(f"{base}/replicas", labelSelector=label)["items"]
    if replicas:
        columns = columns_of("Replica", wide=False, all_namespaces=False)
        rendered = table(
            [c.header for c in columns], [[c.cell(o) for c in columns] for o in replicas]
        )
        lines += ["", "Replicas:", _indent(rendered)]
    return lines


def _event_table(events: list[Object], *, all_namespaces: bool = False) -> str:
    columns = [
        c
        for c in columns_of("Event", wide=False, all_namespaces=all_namespaces)
        if all_namespaces or c.header != "OBJECT"
    ]
    return table([c.header for c in columns], [[c.cell(e) for c in columns] for e in events])


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def events(
    client: Client, name: str | None, *, namespace: str, all_namespaces: bool, output: str
) -> None:
    path = "/api/v1/events" if all_namespaces else f"/api/v1/namespaces/{namespace}/events"
    query = {"fieldSelector": f"involvedObject.name={name}"} if name else {}
    found = client.get(path, **query)["items"]
    if output in ("json", "yaml"):
        say(documents({"apiVersion": "v1", "kind": "List", "items": found}, output))
    elif found:
        columns = columns_of("Event", wide=False, all_namespaces=all_namespaces)
        say(table([c.header for c in columns], [[c.cell(e) for c in columns] for e in found]))
    else:
        note("There are no events.")
