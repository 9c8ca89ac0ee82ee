"""The `penstock` command: one file per group of verbs.

`app` has the commands with their options, and imports a command's body when it runs. `main` is where every
command ends: errors become one clear line on stderr and an exit code (`exits`), an interrupt ends quietly
with 130.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `penstock` command."""
    from penstock.cli.exits import INTERRUPTED, CliError

    try:
        from penstock.cli.app import only

        only(sys.argv[1:])()
    except CliError as exc:
        sys.stdout.flush()
        sys.stderr.write(f"error: {exc.message}\n")
        for line in exc.lines:
            sys.stderr.write(f"  {line}\n")
        sys.exit(exc.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
