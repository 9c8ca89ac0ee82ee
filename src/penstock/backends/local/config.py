"""What a node is told. One object, made by the command line, read in one place (`node`)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from penstock.backends.local.paths import Layout
from penstock.backends.local.ports import url
from penstock.backends.local.replicas import ReplicasPolicy
from penstock.backends.local.zygotes import ZygotePolicy


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Configuration of `penstock serve`."""

    data_dir: Path
    """Folder for everything that is kept: objects, logs, model cache, sockets. One node per folder."""

    model_dir: Path = field(default_factory=Path.cwd)
    """Relative storage URIs (`models/iris`) are resolved against it."""

    listen_http: str = "127.0.0.1:8080"
    """HOST:PORT of the inference port. Port 0 takes a free one."""

    listen_grpc: str = ""
    """HOST:PORT of the gRPC inference port; empty: none. Port 0 takes a free one."""

    listen_api: str = "127.0.0.1:8090"
    """HOST:PORT of the control API and metrics. Port 0 takes a free one."""

    gateways: int = field(default_factory=lambda: max(1, (os.cpu_count() or 1) // 2))
    """Gateway processes that share the inference port. Half the cores: models need the others."""

    warm: tuple[str, ...] = ("sklearn",)
    """Frameworks whose zygotes are started with the node and kept; others start when first wanted."""

    insecure: bool = False
    """Allow ports that other machines can reach without a token."""

    token_file: Path | None = None
    """File with the token that the control API asks for. None: no token, this machine only."""

    log_level: str = "INFO"
    """Of the processes the node starts; its own logging is its caller's."""

    grace_s: float = 30.0
    """Most seconds that gateways and replicas may take to drain; each gets its own share of it."""

    cgroup: str = "auto"
    """Where limits are held by cgroups: `auto` (a delegated cgroup v2 folder, if there is one), `off`, or
    folders: one of a v2 hierarchy, or v1 folders joined by commas (`.../memory/X,.../cpu/X`)."""

    devices: str = "auto"
    """Accelerators: `auto` asks the driver, `off` has none, else a file that declares them."""

    control_options: tuple[str, ...] = ()
    """More arguments for the control plane, e.g. `--cache-gib=20`."""

    gateway_options: tuple[str, ...] = ()
    """More arguments for each gateway, e.g. `--tls-cert=FILE`."""

    control_argv: tuple[str, ...] | None = None
    """Command of the control plane instead of `python -m penstock.api ...`; empty: none is started."""

    gateway_argv: tuple[str, ...] | None = None
    """Command of a gateway instead of `python -m penstock.gateway ...`; empty: none is started."""

    zygotes: ZygotePolicy = field(default_factory=ZygotePolicy)
    """How long zygotes may take, and their extra arguments."""

    replicas: ReplicasPolicy = field(default_factory=ReplicasPolicy)
    """How long replicas may take, and when they count as hung."""

    def control_command(
        self, layout: Layout, listen: str, http: str | None = None
    ) -> tuple[str, ...]:
        """Command of the control plane, without its status descriptor. `http` is where gateways listen."""
        if self.control_argv is not None:
            return self.control_argv
        argv = [
            *(sys.executable, "-m", "penstock.api"),
            *("--data-dir", str(layout.data_dir)),
            *("--listen", listen),
            *("--model-dir", str(self.model_dir)),
            *("--inference-url", url(http or self.listen_http)),
            *("--gateways", str(self.gateways)),
            *("--log-level", self.log_level),
        ]
        if self.insecure:
            argv.append("--insecure")
        if self.token_file is not None:
            argv += ("--token-file", str(self.token_file))
        return (*argv, *self.control_options)

    def gateway_command(
        self, layout: Layout, listen: str, number: int, grpc: str = ""
    ) -> tuple[str, ...]:
        """Command of gateway `number`, without its status descriptor. `grpc`: where it listens too."""
        if self.gateway_argv is not None:
            return self.gateway_argv
        return (
            *(sys.executable, "-m", "penstock.gateway"),
            *("--control", str(layout.routes_socket)),
            *("--snapshot", str(layout.routes_file)),
            *("--listen", listen),
            *(("--listen-grpc", grpc) if grpc else ()),
            *("--admin", str(layout.gateway_socket(number))),
            *("--feedback-key", str(layout.feedback_key)),
            *("--grace", f"{self.grace_s:g}"),
            *("--log-level", self.log_level),
            *(
                ("--shared-memory", str(layout.regions))
                if self.replicas.replica.shared_memory
                else ()
            ),
            *self.gateway_options,
        )
