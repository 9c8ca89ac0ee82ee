"""`python -m penstock.server --spec FILE`: a model process outside of a zygote."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import msgspec

from penstock.domain.process import decode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m penstock.server", description=__doc__)
    parser.add_argument("--spec", required=True, type=Path, help="a ProcessSpec as JSON")
    parser.add_argument("--status-fd", type=int, default=None, help="where to write status lines")
    options = parser.parse_args(argv)
    try:
        spec = decode(options.spec.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        parser.error(f"{options.spec}: {error}")
    os.environ.update(spec.env)
    # Numeric libraries read their number of threads when they are loaded, so that comes first.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if spec.threads:
            os.environ[name] = str(spec.threads)
    from penstock.server.process import main as serve

    return serve(spec, options.status_fd)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread that hangs in a model would keep the interpreter from ending.
    os._exit(code)
