"""Penstock puts machine-learning models live.

What a user's own model file or client needs is exported here and nothing else; importing this package imports
no framework and starts nothing. The names are looked up when they are first used.
"""

from penstock._version import __version__

TYPE_CHECKING = False  # as type checkers know it, without the cost of importing typing
if TYPE_CHECKING:
    from penstock.errors import InvalidInput
    from penstock.protocols.infer import InferRequest, InferResponse
    from penstock.runtimes.base import RawReply, RawRequest, TensorSpec
    from penstock.sdk.client import AsyncClient, Client
    from penstock.sdk.explainer import Explainer
    from penstock.sdk.model import Model
    from penstock.sdk.transformer import Transformer

__all__ = [
    "AsyncClient",
    "Client",
    "Explainer",
    "InferRequest",
    "InferResponse",
    "InvalidInput",
    "Model",
    "RawReply",
    "RawRequest",
    "TensorSpec",
    "Transformer",
    "__version__",
]

_LAZY = {
    "AsyncClient": "penstock.sdk.client",
    "Client": "penstock.sdk.client",
    "Explainer": "penstock.sdk.explainer",
    "InferRequest": "penstock.protocols.infer",
    "InferResponse": "penstock.protocols.infer",
    "InvalidInput": "penstock.errors",
    "Model": "penstock.sdk.model",
    "RawReply": "penstock.runtimes.base",
    "RawRequest": "penstock.runtimes.base",
    "TensorSpec": "penstock.runtimes.base",
    "Transformer": "penstock.sdk.transformer",
}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
