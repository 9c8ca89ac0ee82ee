"""`penstock graph` and `penstock bandit`: what services are made of and have learned, to look at."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.options import (
    Namespace,
    Server,
    ServiceName,
    Timeout,
    TokenFile,
    client,
    one_of,
    seconds,
)

graph_app = typer.Typer(
    help="Graphs: pictures with what their steps did.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
bandit_app = typer.Typer(
    help="Bandits: what was learned from rewards.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@bandit_app.command("show")
def bandit_show(
    name: ServiceName,
    output: Annotated[str, typer.Option("-o", "--output", help="text or json.")] = "text",
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Show the arms of a service's or graph's bandit: requests, rewards, mean reward."""
    from penstock.cli import bandits

    bandits.show(
        client(server, token_file),
        name,
        namespace=namespace,
        output=one_of(output, ("text", "json"), "-o"),
    )


@graph_app.command("show")
def graph_show(
    name: Annotated[str, typer.Argument(help="InferenceGraph or Pipeline.")] = "",
    file: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--file",
            help="Draw a file's graphs, which need not be applied; - is standard input.",
        ),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="text or svg.")] = "text",
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Draw a graph, with how often its steps ran and how long they take."""
    from penstock.cli import graphs
    from penstock.cli.exits import USAGE, CliError

    if output not in ("text", "svg"):
        raise CliError(f"-o is text or svg, not {output}.", USAGE)
    if bool(name) == (file is not None):
        raise CliError("Give the name of a graph, or a file with -f.", USAGE)
    if file is not None:
        graphs.show_file(file, output)
    else:
        graphs.show(client(server, token_file), name, namespace=namespace, output=output)


@graph_app.command("inspect")
def graph_inspect(
    name: Annotated[str, typer.Argument(help="InferenceGraph, Pipeline or SeldonDeployment.")],
    file: Annotated[
        str, typer.Option("-f", "--file", help="The request's JSON; - is standard input.")
    ],
    elements: Annotated[
        int,
        typer.Option("--elements", min=2, max=10_000, help="Elements to show of each tensor."),
    ] = 64,
    timeout: Timeout = "60s",
    output: Annotated[str, typer.Option("-o", "--output", help="text or json.")] = "text",
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Send one request and show what each step was given and answered."""
    from penstock.cli import inspecting

    inspecting.inspect(
        client(server, token_file),
        name,
        file,
        namespace=namespace,
        elements=elements,
        timeout_s=seconds(timeout),
        output=one_of(output, ("text", "json"), "-o"),
    )
