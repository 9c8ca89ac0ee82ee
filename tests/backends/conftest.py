"""The fixtures of `backend_harness`."""

from backend_harness import _toys_can_be_imported, data_dir, make_rig, rig, start_node, unix_pair

__all__ = ["_toys_can_be_imported", "data_dir", "make_rig", "rig", "start_node", "unix_pair"]
