"""Figures behind the claims: one command, peers beside us on the same machine in the same run."""
