"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import completing

if TYPE_CHECKING:
    from penstock.cli.client import Client

Server = Annotated[
    str | None,
    typer.Option(
        "--server", help="Control API; else $PENSTOCK_SERVER, else http://127.0.0.1:8090."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with the API's token; else $PENSTOCK_TOKEN_FILE."),
]
Namespace = Annotated[
    str,
    typer.Option("--namespace", "-n", help="Namespace.", autocompletion=completing.namespaces),
]
Names = Annotated[list[str] | None, typer.Argument(help="Names.", autocompletion=completing.names)]
ServiceName = Annotated[str, typer.Argument(help="Service.", autocompletion=completing.services)]
MaybeNamespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace for manifests that name none."),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long to wait: 30s, 2m, 1m30s.")]
Files = Annotated[
    list[str], typer.Option("--filename", "-f", help="File, folder, or - for stdin; repeatable.")
]
SharedMemory = Annotated[
    bool,
    typer.Option(
        "--allow-shared-memory",
        help="Clients may pass tensors in system shared memory. Whoever may call a model may then read"
        " and write every shared memory object of this user.",
    ),
]


def client(server: str | None, token_file: Path | None) -> Client:
    """The control API that a command talks to."""
    from penstock.cli.client import Client

    return Client(server, token_file)


def size(text: str) -> int:
    """An option's number of bytes, as Kubernetes writes it. BadParameter."""
    from penstock.domain.quantity import parse_quantity

    try:
        size = int(parse_quantity(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--memory-budget") from exc
    if size <= 0:
        raise typer.BadParameter("must be more than 0", param_hint="--memory-budget")
    return size


def seconds(text: str) -> float:
    """An option's length of time: 30s, 2m, 1m30s. BadParameter."""
    from penstock.cli import output

    try:
        return output.seconds(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def one_of(value: str, allowed: tuple[str, ...], option: str) -> str:
    """An option's value, which is one of a few. BadParameter."""
    if value not in allowed:
        shown = ", ".join(a for a in allowed if a)
        raise typer.BadParameter(f"{value!r} is none of {shown}", param_hint=option)
    return value
