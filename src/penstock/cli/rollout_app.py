"""`penstock rollout`: its commands and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.options import Namespace, Server, ServiceName, Timeout, TokenFile, client, seconds

rollout_app = typer.Typer(
    help="How a change of a service goes: status, history, restart.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@rollout_app.command("status")
def rollout_status(
    name: ServiceName,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Wait until it is through.")
    ] = True,
    timeout: Timeout = "5m",
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Tell which revisions serve, and wait for the newest."""
    from penstock.cli import rollout

    rollout.status(
        client(server, token_file),
        name,
        namespace=namespace,
        wait=watch,
        timeout_s=seconds(timeout),
    )


@rollout_app.command("history")
def rollout_history(
    name: ServiceName,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List the revisions that are kept."""
    from penstock.cli import rollout

    rollout.history(client(server, token_file), name, namespace=namespace)


@rollout_app.command("restart")
def rollout_restart(
    name: ServiceName,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Make a new revision of the same manifest; its files are fetched again."""
    from penstock.cli import rollout

    rollout.restart(client(server, token_file), name, namespace=namespace)


@rollout_app.command("promote")
def rollout_promote(
    name: ServiceName,
    canary: Annotated[
        str | None, typer.Option(help="Named canary of the manifest; needless if there is one.")
    ] = None,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Give all requests to the newest revision, or to a named canary; ends what rollback pinned."""
    from penstock.cli import rollout

    rollout.promote(client(server, token_file), name, namespace=namespace, canary=canary)


@rollout_app.command("weight")
def rollout_weight(
    name: ServiceName,
    shares: Annotated[list[str], typer.Argument(help="CANARY=PERCENT, ...")],
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Set the percent of requests of named canaries; the predictor takes the rest."""
    from penstock.cli import canaries

    canaries.weight(client(server, token_file), name, shares, namespace=namespace)


@rollout_app.command("rollback")
def rollout_rollback(
    name: ServiceName,
    to_revision: Annotated[
        str | None, typer.Option(help="Number or name of a kept revision; the one before.")
    ] = None,
    canary: Annotated[
        str | None, typer.Option(help="Take this named canary out; without it, all of them.")
    ] = None,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Give all requests to an earlier revision, until promote; or take named canaries out."""
    from penstock.cli import rollout

    rollout.rollback(
        client(server, token_file), name, namespace=namespace, to=to_revision, canary=canary
    )
