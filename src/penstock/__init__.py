"""Penstock puts machine-learning models live.

What a user's own model file needs is exported here and nothing else; importing this package imports
no framework and starts nothing.
"""

from penstock._version import __version__

__all__ = ["__version__"]
