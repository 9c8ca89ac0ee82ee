"""Where replicas run: `base` is the contract, `local` keeps it with processes of this machine."""
