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
        from penstock.cli import plain
        from penstock.cli.app import app

        call = plain.call_of(app, sys.argv[1:])
        if call is None:
            app()
        else:
            try:
                plain.run(call)
            except plain.BadParameter:
                app()  # it finds the same, and says it with the command's usage
    except CliError as exc:
        sys.stdout.flush()
        sys.stderr.write(f"error: {exc.message}\n")
        for line in exc.lines:
            sys.stderr.write(f"  {line}\n")
        sys.exit(exc.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
