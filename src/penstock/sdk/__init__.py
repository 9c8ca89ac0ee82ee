"""What a user's own model file stands on. `penstock.Model` is `penstock.sdk.Model`.

Nothing of the server is imported here, so a model file can be tested by itself.
"""

from penstock.errors import InvalidInput, NotFound, Unavailable
from penstock.protocols.infer import InferInput, InferRequest, InferResponse, RequestedOutput
from penstock.runtimes.base import CallContext, RawReply, RawRequest, TensorSpec
from penstock.sdk.model import Model

__all__ = [
    "CallContext",
    "InferInput",
    "InferRequest",
    "InferResponse",
    "InvalidInput",
    "Model",
    "NotFound",
    "RawReply",
    "RawRequest",
    "RequestedOutput",
    "TensorSpec",
    "Unavailable",
]
