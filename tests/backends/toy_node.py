"""`penstock serve` with toys: `toy_node.py DATA_DIR [CONTROL] [GATEWAYS]`; what it says goes to stdout."""

import asyncio
import logging
import sys
from pathlib import Path

from penstock.backends.local.config import NodeConfig
from penstock.backends.local.node import run_node
from penstock.backends.local.zygotes import ZygotePolicy
from penstock.errors import PenstockError

HERE = Path(__file__).parent


def main():
    data_dir = Path(sys.argv[1])
    mode = sys.argv[2] if len(sys.argv) > 2 else f"run:{data_dir}/toy.pids"
    logging.basicConfig(level=logging.INFO)
    program = (sys.executable, str(HERE / "toy_program.py"), mode)
    config = NodeConfig(
        data_dir=data_dir,
        listen_http="127.0.0.1:0",
        listen_api="127.0.0.1:0",
        gateways=1,
        warm=("",),
        grace_s=60.0,
        control_argv=program,
        gateway_argv=program,
        zygotes=ZygotePolicy(arguments=("--entry=toy_replica:main",)),
    )
    try:
        code = asyncio.run(run_node(config, on_ready=lambda s: print("ready", s.http, flush=True)))
    except PenstockError as e:
        print(f"{e.reason}: {e}", flush=True)
        code = 3
    print("exit", code, flush=True)
    sys.exit(code)


main()
