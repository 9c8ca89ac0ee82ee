"""A control plane or gateway without a purpose: `toy_program.py [MODE] --status-fd=N`."""

import json
import os
import signal
import sys


def main():
    mode, _, argument = sys.argv[1].partition(":")
    status_fd = int(sys.argv[-1].partition("=")[2])
    if mode == "fail":
        print("address already in use", file=sys.stderr)
        sys.exit(int(argument or 1))
    if mode == "slow":  # never ready
        signal.pause()
    with open(argument, "a") as f:
        f.write(f"{os.getpid()}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.write(status_fd, json.dumps({"event": "ready"}).encode() + b"\n")
    while True:
        signal.pause()


main()
