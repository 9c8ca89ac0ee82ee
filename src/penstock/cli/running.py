"""`penstock run`."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from penstock.cli.exits import NOT_FOUND, REFUSED, USAGE, CliError
from penstock.cli.output import say
from penstock.domain.routes import Address
from penstock.errors import NotFound, PenstockError
from penstock.server import run as model_process


def run(
    model: str,
    *,
    framework: str | None,
    name: str | None,
    options: list[str],
    host: str,
    port: int,
    grpc_port: int | None,
    threads: int,
    allow_shared_memory: bool,
    predictor: str | None,
    log_level: str,
) -> int:
    """Serve until Ctrl-C; the exit code."""
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        framework = model_process.framework_of(model, framework, predictor)
        models = model_process.served_models(model, framework=framework, name=name)

        def listening(address: Address) -> None:
            base = f"http://{address.host}:{address.port}"
            for served in models:
                say(f"{served.name} ({served.framework}) at {base}; Ctrl-C ends it.")
                say(f"  {base}/v1/models/{served.name}:predict")
                say(f"  {base}/v2/models/{served.name}/infer")
            if grpc_port is not None:
                say(f"  gRPC at {address.host}:{grpc_port}")

        return model_process.run(
            model,
            framework=framework,
            name=name,
            options=parse_options(options),
            host=host,
            port=port,
            grpc_port=grpc_port,
            threads=threads,
            allow_shared_memory=allow_shared_memory,
            predictor=predictor,
            on_listening=listening,
            on_ready=lambda: say("ready"),
        )
    except NotFound as exc:
        raise CliError(str(exc), NOT_FOUND) from exc
    except PenstockError as exc:
        raise CliError(str(exc)) from exc
    except OSError as exc:  # what a model raises is a LoadError, or its log's: this is a port
        # Only the text of the event loop's error says which of the two it was.
        is_grpc = f", {grpc_port})" in str(exc)
        place, option = (grpc_port, "--grpc-port") if is_grpc else (port, "--port")
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror
        raise CliError(
            f"{host}:{place} cannot be listened on: {reason}. "
            f"Choose another address with --host or {option}.",
            REFUSED,
        ) from exc


def parse_options(options: list[str]) -> dict[str, Any]:
    """`method=predict_proba`, `scale=2.5`: values are JSON where they can be, else text."""
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise CliError(f"--option {option}: NAME=VALUE is expected.", USAGE)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
