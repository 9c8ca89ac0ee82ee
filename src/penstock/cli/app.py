"""The commands and their options. Bodies are imported when a command runs, so that `--help` is instant."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated

import typer
from typer.models import CommandInfo

from penstock.cli import completing, process_commands
from penstock.cli.options import (
    AllNamespaces,
    Files,
    MaybeNamespace,
    Names,
    Namespace,
    Server,
    ServiceName,
    Timeout,
    TokenFile,
    client,
    one_of,
    seconds,
)
from penstock.cli.rollout_app import rollout_app
from penstock.cli.show_apps import bandit_app, graph_app

app = typer.Typer(
    name="penstock",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would double the time of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from penstock._version import __version__
        from penstock.cli.output import say

        say(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def program(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show this program's version."
        ),
    ] = False,
) -> None:
    """Puts machine-learning models live: one manifest, an HTTP endpoint."""


app.add_typer(rollout_app, name="rollout")
app.add_typer(graph_app, name="graph")
app.add_typer(bandit_app, name="bandit")


app.command()(process_commands.serve)


@app.command()
def apply(
    files: Files,
    namespace: MaybeNamespace = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the services are ready.")
    ] = False,
    timeout: Timeout = "5m",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything on the server and change nothing.")
    ] = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Create or change what manifests describe."""
    from penstock.cli import applying

    applying.apply(
        client(server, token_file),
        files,
        namespace=namespace,
        wait=wait,
        timeout_s=seconds(timeout),
        dry_run=dry_run,
    )


@app.command()
def get(
    kind: Annotated[
        str,
        typer.Argument(
            help="isvc, revisions, replicas, devices, events, secrets, ...; KIND/NAME.",
            autocompletion=completing.kinds,
        ),
    ],
    names: Names = None,
    output: Annotated[str, typer.Option("--output", "-o", help="wide, json, yaml or name.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with what changes.")] = False,
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="Labels: app=iris,tier!=test.")
    ] = "",
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List objects, or show some."""
    format_ = one_of(output, ("", "table", "wide", "json", "yaml", "name"), "-o")
    from penstock.cli import getting

    getting.get(
        client(server, token_file),
        kind,
        names or [],
        namespace=namespace,
        all_namespaces=all_namespaces,
        selector=selector,
        output="" if format_ == "table" else format_,
        watch=watch,
    )


@app.command()
def describe(
    kind: Annotated[
        str, typer.Argument(help="KIND or KIND/NAME.", autocompletion=completing.kinds)
    ],
    names: Names = None,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Tell everything about an object: conditions, revisions, replicas, events."""
    from penstock.cli import getting

    getting.describe(client(server, token_file), kind, names or [], namespace=namespace)


@app.command()
def delete(
    kind: Annotated[
        str | None, typer.Argument(help="KIND or KIND/NAME.", autocompletion=completing.kinds)
    ] = None,
    names: Names = None,
    files: Annotated[
        list[str], typer.Option("--filename", "-f", help="Delete what these manifests describe.")
    ] = [],  # noqa: B006 - typer copies it
    everything: Annotated[
        bool, typer.Option("--all", help="All of the kind in the namespace.")
    ] = False,
    ignore_missing: Annotated[
        bool, typer.Option("--ignore-not-found", help="What is not there is no error.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until what ran for it has ended.")
    ] = True,
    timeout: Timeout = "1m",
    namespace: MaybeNamespace = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Delete objects and stop what runs for them."""
    from penstock.cli import deleting

    deleting.delete(
        client(server, token_file),
        kind,
        names or [],
        files=files,
        namespace=namespace,
        everything=everything,
        ignore_missing=ignore_missing,
        wait=wait,
        timeout_s=seconds(timeout),
    )


@app.command()
def logs(
    name: Annotated[
        str,
        typer.Argument(help="Service, or replica/ID.", autocompletion=completing.services),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written.")
    ] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of revisions before the newest.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Of one revision.")] = None,
    component: Annotated[
        str | None, typer.Option(help="predictor, transformer or explainer.")
    ] = None,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Show what a service's replicas wrote, across their restarts."""
    from penstock.cli import logs as body

    body.logs(
        client(server, token_file),
        name,
        namespace=namespace,
        follow=follow,
        tail=tail,
        previous=previous,
        revision=revision,
        component=component,
    )


@app.command()
def events(
    name: Annotated[str | None, typer.Argument(help="Only about this object.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="json or yaml.")] = "",
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Tell what happened, oldest first."""
    format_ = one_of(output, ("", "json", "yaml"), "-o")
    from penstock.cli import getting

    getting.events(
        client(server, token_file),
        name.rpartition("/")[2] if name else None,
        namespace=namespace,
        all_namespaces=all_namespaces,
        output=format_,
    )


@app.command()
def predict(
    name: ServiceName,
    file: Annotated[str, typer.Option("--filename", "-f", help="JSON payload, or - for stdin.")],
    v1: Annotated[bool, typer.Option("--v1", help="As V1: instances.")] = False,
    v2: Annotated[bool, typer.Option("--v2", help="As V2: tensors.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Model's name, where it is not the service's.")
    ] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Send the tensors as binary.")] = False,
    timeout: Timeout = "60s",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Who answered, and how fast.")
    ] = False,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Send a payload to a service and print the answer."""
    if v1 and v2:
        raise typer.BadParameter("give one of --v1 and --v2")
    from penstock.cli import predicting

    predicting.predict(
        client(server, token_file),
        name,
        file,
        namespace=namespace,
        protocol="v1" if v1 else "v2" if v2 else None,
        model=model,
        binary=binary,
        timeout_s=seconds(timeout),
        verbose=verbose,
    )


@app.command()
def query(
    names: Names = None,
    file: Annotated[
        str, typer.Option("--filename", "-f", help="JSON payload, or - for stdin.")
    ] = "-",
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="Services by label instead: team=red,!old.")
    ] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="text or json.")] = "text",
    timeout: Timeout = "60s",
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Send one payload to many services at once and print what each answered."""
    from penstock.cli import querying

    querying.query(
        client(server, token_file),
        names or [],
        file,
        selector=selector,
        namespace=namespace,
        timeout_s=seconds(timeout),
        output=one_of(output, ("text", "json"), "-o"),
    )


@app.command()
def wait(
    names: Annotated[
        list[str],
        typer.Argument(
            help="NAME (of a service), or KIND/NAME, or KIND NAME...",
            autocompletion=completing.services,
        ),
    ],
    for_: Annotated[
        str, typer.Option("--for", help="condition=TYPE[=STATUS], or delete.")
    ] = "condition=Ready",
    timeout: Timeout = "60s",
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Wait until objects are ready, have some condition, or are gone."""
    from penstock.cli import wait_command

    wait_command.wait(
        client(server, token_file), names, for_, timeout_s=seconds(timeout), namespace=namespace
    )


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="One table, then end.")] = False,
    interval: Annotated[str, typer.Option(help="Between two readings.")] = "2s",
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Show live what services do: rate, latency, errors, batches, memory."""
    from penstock.cli import top as body

    body.top(
        client(server, token_file),
        namespace=namespace,
        all_namespaces=all_namespaces,
        once=once,
        interval_s=max(0.2, seconds(interval)),
    )


app.command()(process_commands.run)


@app.command()
def kubeconfig(
    merge: Annotated[
        bool, typer.Option("--merge", help="Into $KUBECONFIG or ~/.kube/config, as the current.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")
    ] = None,
    namespace: Namespace = "default",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Print a configuration for kubectl and other clients of Kubernetes."""
    from penstock.cli.kubeconfig import kubeconfig as run

    run(server, token_file, namespace=namespace, merge=merge, output=output)


@app.command()
def version(server: Server = None, token_file: TokenFile = None) -> None:
    """Show the version of this program, and of the server if there is one."""
    from penstock._version import __version__
    from penstock.cli.exits import CliError
    from penstock.cli.output import say

    say(f"penstock {__version__}")
    try:
        found = client(server, token_file).get("/version")
    except CliError:
        return
    say(f"server   {found.get('penstock', '?')}")


def only(argv: Sequence[str]) -> typer.Typer:
    """The app with no more commands than `argv` (without the program's name) needs.

    Parsers of all of them take 15 ms to build. Whatever does not begin with a command gets the whole app:
    help, completion, a mistyped name.
    """
    word = argv[0] if argv else ""
    commands = [c for c in app.registered_commands if _name(c) == word]
    groups = [g for g in app.registered_groups if g.name == word]
    if not commands and not groups:
        return app
    part = copy(app)
    part.registered_commands, part.registered_groups = commands, groups
    return part


def _name(command: CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")
