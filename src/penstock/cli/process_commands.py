"""`penstock serve` and `penstock run`: the commands that become servers, and their options.

The others (`app`) talk to a server and end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.options import SharedMemory, TokenFile, one_of, seconds, size


def serve(
    files: Annotated[
        list[str], typer.Option("--filename", "-f", help="Manifests to apply once it is up.")
    ] = [],  # noqa: B006 - typer copies it
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where everything is kept; else $PENSTOCK_DATA_DIR, else ~/.local/share/penstock."
        ),
    ] = None,
    model_dir: Annotated[
        Path, typer.Option(help="Folder that a relative storageUri is below.")
    ] = Path("."),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for inference; 0 takes a free one.")
    ] = 8080,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port for gRPC inference; if not given 8081, or a free one beside another --http-port.",
        ),
    ] = None,
    api_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port for control and metrics; 0 takes a free one."),
    ] = 8090,
    gateways: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Gateway processes; half the cores if not given."),
    ] = None,
    warm: Annotated[
        list[str],
        typer.Option(
            help="Frameworks to have ready before anybody asks: sklearn,xgboost; repeatable."
        ),
    ] = ["sklearn"],  # noqa: B006 - typer copies it
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines in without a token.")
    ] = False,
    token_file: TokenFile = None,
    sleep_after: Annotated[
        str,
        typer.Option(help="A service with minReplicas: 0 sleeps this long after its last request."),
    ] = "5m",
    cache_size: Annotated[
        float, typer.Option(min=0.01, help="Most that fetched models may take on the disk, GiB.")
    ] = 50.0,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Most memory that models may hold, such as 8Gi; over it idle services with "
            "minReplicas: 0 sleep. If not given, 80% of the machine's."
        ),
    ] = None,
    devices: Annotated[
        str,
        typer.Option(
            help="Accelerators: auto asks the driver, off has none, else a file that declares them "
            '(JSON: [{"id": "GPU-...", "memory": "16Gi"}, ...]).'
        ),
    ] = "auto",
    pvc_root: Annotated[
        Path | None,
        typer.Option(help="Folder that pvc://CLAIM/PATH is below, one folder per claim."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate chain (PEM) for the inference port; with --tls-key."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    allow_host: Annotated[
        list[str], typer.Option(help="Further Host names for the control API; repeatable.")
    ] = [],  # noqa: B006 - typer copies it
    allow_shared_memory: SharedMemory = False,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Run the platform on this machine until Ctrl-C."""
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    options = [f"--scale-to-zero-grace={seconds(sleep_after):g}", f"--cache-gib={cache_size:g}"]
    if memory_budget is not None:
        options.append(f"--memory-budget={size(memory_budget)}")
    options += [f"--allow-host={host_name}" for host_name in allow_host]
    level = one_of(log_level.upper(), ("DEBUG", "INFO", "WARNING", "ERROR"), "--log-level")
    from penstock.cli import serving

    code = serving.serve(
        files=files,
        data_dir=data_dir,
        model_dir=model_dir,
        pvc_root=pvc_root,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        api_port=api_port,
        gateways=gateways,
        warm=warm,
        insecure=insecure,
        token_file=token_file,
        log_level=level,
        devices=devices,
        control_options=options,
        allow_shared_memory=allow_shared_memory,
        tls=(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None,
    )
    raise typer.Exit(code)


def run(
    model: Annotated[str, typer.Argument(help="Model file or folder, or FILE.py[:Class].")],
    framework: Annotated[
        str | None, typer.Option(help="sklearn, onnx, ...; found out if not given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in URLs.")] = None,
    option: Annotated[
        list[str],
        typer.Option("--option", help="NAME=VALUE for the runtime (JSON values); repeatable."),
    ] = [],  # noqa: B006 - typer copies it
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    grpc_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port for gRPC; none if not given.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="For numeric libraries; 0: all cores.")] = 0,
    allow_shared_memory: SharedMemory = False,
    predictor: Annotated[
        str | None, typer.Option(help="What a transformer or an explainer asks: http://HOST:PORT.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Serve one model in one process, without the platform around it."""
    level = one_of(log_level.upper(), ("DEBUG", "INFO", "WARNING", "ERROR"), "--log-level")
    from penstock.cli import running

    raise typer.Exit(
        running.run(
            model,
            framework=framework,
            name=name,
            options=option,
            host=host,
            port=port,
            grpc_port=grpc_port,
            threads=threads,
            allow_shared_memory=allow_shared_memory,
            predictor=predictor,
            log_level=level,
        )
    )
