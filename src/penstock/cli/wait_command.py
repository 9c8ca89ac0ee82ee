"""`penstock wait`."""

from __future__ import annotations

from penstock.cli.client import Client, Kinds
from penstock.cli.exits import USAGE, CliError
from penstock.cli.getting import find, split_names
from penstock.cli.output import say
from penstock.cli.waiting import Target, wait_for_condition, wait_for_deletion


def wait(client: Client, names: list[str], for_: str, *, timeout_s: float, namespace: str) -> None:
    """`names` as people write them: `iris`, `isvc/iris`, `isvc iris digits`."""
    kinds = Kinds(client)
    words = {w for k in kinds.all for w in (k.plural, k.singular, *k.short_names)}
    if len(names) > 1 and names[0].partition(".")[0].lower() in words:
        pairs = split_names(names[0], names[1:])
    else:
        pairs = split_names(*_slashed(names))
    deletion = for_ == "delete"
    targets = []
    for word, wanted in pairs:
        served = kinds.named(word)
        if not wanted:
            raise CliError("Say what to wait for: NAME, KIND/NAME, or KIND NAME.", USAGE)
        for name in wanted:
            if deletion:
                targets += [Target(k, namespace, name) for k in served]
            else:
                kind, _ = find(client, served, namespace, name)
                targets.append(Target(kind, namespace, name))
    if deletion:
        wait_for_deletion(client, targets, timeout_s)
        for shown in dict.fromkeys(t.shown for t in targets):
            say(f"{shown} is gone")
        return
    what, _, rest = for_.partition("=")
    if what != "condition" or not rest:
        raise CliError(f"--for={for_} is not understood: condition=TYPE[=STATUS] or delete.", USAGE)
    type_, _, status = rest.partition("=")
    wait_for_condition(
        client,
        targets,
        type_,
        status or "True",
        timeout_s,
        on_met=lambda t, _: say(f"{t.shown} condition met"),
    )


def _slashed(names: list[str]) -> tuple[str, list[str]]:
    full = [n if "/" in n else f"isvc/{n}" for n in names]
    return full[0], full[1:]
