"""The `penstock` command: one file per group of verbs."""


def main() -> None:
    """Entry point of the `penstock` command."""
    raise SystemExit("not yet")
