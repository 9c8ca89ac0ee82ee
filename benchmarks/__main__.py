"""`make bench`: every row, or some of them (`python -m benchmarks --only iris-32,many`)."""

from __future__ import annotations

import argparse
import shutil
import sys

from benchmarks.report import keep, machine, table
from benchmarks.rows import ROWS, SLOW


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"comma-separated: {', '.join(ROWS)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load, seconds")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [n for n in ROWS if n not in SLOW]
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    for program in ("wrk", "nginx", "h2load"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed: apt-get install wrk nginx-light nghttp2-client")
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += ROWS[name](options.seconds)
    keep(rows, partial=bool(options.only))
    print(table(rows))
    print(f"\n{machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
