"""What a shell offers when somebody presses Tab: kinds, and the names of what the server has.

Asked of the server each time, so it is never stale. A server that is away offers nothing and says nothing:
an error message in the middle of a command line helps nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    # Every command imports this file, and few complete anything.
    from penstock.cli.client import Client, Served

#: More than this is no help to choose from.
MOST = 200


def kinds(ctx: typer.Context, incomplete: str) -> list[str]:
    """Kinds by the word that people use: the first short name, else the plural."""

    def find(client: Client, known: list[Served]) -> list[str]:
        return [k.short_names[0] if k.short_names else k.plural for k in known]

    return _offered(ctx, incomplete, find)


def names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of objects of the kind that was given before."""
    kind = str(ctx.params.get("kind") or "").lower()

    def find(client: Client, known: list[Served]) -> list[str]:
        meant = [k for k in known if kind in (k.plural, k.singular, *k.short_names)]
        return _named(ctx, client, meant)

    return _offered(ctx, incomplete, find)


def services(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of services, of every kind that means one."""

    def find(client: Client, known: list[Served]) -> list[str]:
        return _named(ctx, client, [k for k in known if k.is_service])

    return _offered(ctx, incomplete, find)


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of namespaces."""

    def find(client: Client, known: list[Served]) -> list[str]:
        return _named(ctx, client, [k for k in known if k.plural == "namespaces"])

    return _offered(ctx, incomplete, find)


def _named(ctx: typer.Context, client: Client, kinds: list[Served]) -> list[str]:
    namespace = str(ctx.params.get("namespace") or "default")
    found = [client.get(k.path(namespace))["items"] for k in kinds]
    return [item["metadata"]["name"] for items in found for item in items]


def _offered(
    ctx: typer.Context, incomplete: str, find: Callable[[Client, list[Served]], list[str]]
) -> list[str]:
    from penstock.cli.client import Client, Kinds
    from penstock.cli.exits import CliError

    try:
        client = Client(ctx.params.get("server"), ctx.params.get("token_file"))
        found = find(client, Kinds(client).all)
    except CliError:
        return []
    return sorted({name for name in found if name.startswith(incomplete)})[:MOST]
