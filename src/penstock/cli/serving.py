"""`penstock serve`: the whole platform on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from pathlib import Path

from penstock.backends.local.config import NodeConfig
from penstock.backends.local.node import Serving, run_node
from penstock.backends.local.policy import ReplicaPolicy
from penstock.backends.local.replicas import ReplicasPolicy
from penstock.cli import places
from penstock.cli.exits import REFUSED, USAGE, CliError
from penstock.cli.output import colourful, note, say
from penstock.errors import Conflict, NotFound, PenstockError

DEFAULT_HTTP_PORT = 8080
DEFAULT_GRPC_PORT = 8081


def serve(
    *,
    files: list[str],
    data_dir: Path | None,
    model_dir: Path,
    pvc_root: Path | None,
    host: str,
    http_port: int,
    grpc_port: int | None,
    api_port: int,
    gateways: int | None,
    warm: list[str],
    insecure: bool,
    token_file: Path | None,
    log_level: str,
    devices: str,
    control_options: list[str],
    allow_shared_memory: bool,
    tls: tuple[Path, Path] | None,
) -> int:
    """Run the node; the exit code. `files` are applied once it is up."""
    # At the terminal only what matters; the processes' own logs are in files.
    logging.basicConfig(
        level=logging.DEBUG if log_level == "DEBUG" else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for option, path in (("--model-dir", model_dir), ("--pvc-root", pvc_root)):
        if path is not None and not path.is_dir():
            raise CliError(f"{option} {path}: there is no such folder.", USAGE)
    if named := [name for name in files if name != "-"]:
        from penstock.cli.documents import read

        read(named)  # before anything starts: a name may be misspelt, or a file not to be parsed
    folder = places.data_dir(data_dir).absolute()
    token = places.token_file(token_file)
    config = NodeConfig(
        data_dir=folder,
        model_dir=model_dir.absolute(),
        listen_http=_address(host, http_port),
        listen_grpc=_address(host, _grpc_port(grpc_port, http_port)),
        listen_api=_address(host, api_port),
        warm=_warm(warm),
        insecure=insecure,
        token_file=token,
        log_level=log_level.upper(),
        devices=devices,
        control_options=(
            *control_options,
            *([f"--pvc-root={pvc_root.absolute()}"] if pvc_root is not None else []),
            *(["--inference-scheme=https"] if tls else []),
        ),
        gateway_options=(f"--tls-cert={tls[0].absolute()}", f"--tls-key={tls[1].absolute()}")
        if tls
        else (),
        replicas=ReplicasPolicy(ReplicaPolicy(shared_memory=allow_shared_memory)),
        **({"gateways": gateways} if gateways is not None else {}),  # type: ignore[arg-type]
    )

    def on_ready(serving: Serving) -> None:
        _announce(serving, folder, "https" if tls else "http")
        if files:
            # Beside the node's loop: the client is plain blocking code.
            threading.Thread(
                target=_apply, args=(files, serving.api, token), name="apply", daemon=True
            ).start()

    try:
        return asyncio.run(run_node(config, on_ready=on_ready))
    except Conflict as exc:
        raise CliError(str(exc), REFUSED) from exc
    except PenstockError as exc:
        raise CliError(str(exc)) from exc


#: What `--warm` is where nobody says it.
WARM = "sklearn"


def _warm(words: list[str]) -> tuple[str, ...]:
    """The frameworks that `--warm` names; CliError for one that is none, or is not installed."""
    names = tuple(dict.fromkeys(w.strip() for word in words for w in word.split(",") if w.strip()))
    if names == (WARM,):
        return names
    # Brings numpy, which the node has no use for otherwise.
    from penstock import runtimes

    for name in names:
        try:
            framework = runtimes.find(name)
        except NotFound as exc:
            raise CliError(f"--warm {name}: {exc}", USAGE) from exc
        if not runtimes.installed(framework):
            raise CliError(
                f"--warm {name}: what it needs is not installed. "
                f"Install it with: pip install 'penstock[{framework.extra}]'",
                USAGE,
            )
    return names


def _grpc_port(asked: int | None, http_port: int) -> int:
    """Beside the usual HTTP port the usual one; a node that was moved aside takes a free one."""
    if asked is not None:
        return asked
    return DEFAULT_GRPC_PORT if http_port == DEFAULT_HTTP_PORT else 0


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _announce(serving: Serving, folder: Path, scheme: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if colourful() else ("", "")
    say(f"{bold}Penstock serves.{plain}  Ctrl-C ends it.")
    say(f"  inference  {scheme}://{serving.http}")
    say(f"  gRPC       {serving.grpc}")
    say(f"  control    http://{serving.api}")
    say(f"  data       {folder}")
    if serving.api != "127.0.0.1:8090":
        say(f"  For commands in another terminal: export PENSTOCK_SERVER=http://{serving.api}")
    sys.stdout.flush()


def _apply(files: list[str], api: str, token_file: Path | None) -> None:
    from penstock.cli.applying import apply
    from penstock.cli.client import Client

    try:
        apply(
            Client(f"http://{_reachable(api)}", token_file),
            files,
            namespace=None,
            wait=True,
            timeout_s=600.0,
            dry_run=False,
        )
    except CliError as exc:
        note(f"error: {exc.message}")
        for line in exc.lines:
            note(f"  {line}")


def _reachable(address: str) -> str:
    """An address to connect to, for one that is listened on everywhere."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]", "") else address  # noqa: S104
