"""Graphs in the control plane: their routes, their status, and the services they bring along."""
