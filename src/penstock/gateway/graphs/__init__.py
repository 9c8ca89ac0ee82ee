"""Graphs in a gateway: requests for one run here, its steps are forwarded from here."""
