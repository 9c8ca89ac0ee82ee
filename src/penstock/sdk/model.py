"""The class a user's own model extends, by KServe's method names.

Three kinds of `predict` are told apart by their annotations:

* `predict(self, payload)`: the request as its protocol has it, V1's JSON object or V2's `InferRequest`.
* `predict(self, request: RawRequest)`: the request unread, any bytes of any content type; answered by bytes,
  text, or a `RawReply` with a content type of its own.
* `predict(self, x: np.ndarray, text: list[str], temperature: float = 1.0)`: tensors by parameter name,
  whatever the protocol. What is returned becomes the outputs. With `batchable = True` rows of several
  requests share one call.

A class that extends nothing and has a `predict` is served by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from penstock.runtimes.base import TensorSpec


class Model:
    """A model of one's own. Every method may be `async def`; `predict` may be a generator (V1 streams).

    Options of the manifest arrive as keyword arguments of `__init__`, those it takes; a class without its
    own `__init__` finds them in `self.options`.
    """

    #: Rows along axis 0 are independent: requests may share one call. For a `predict` that takes tensors.
    batchable: ClassVar[bool] = False
    #: `predict` may run in several threads at once.
    reentrant: ClassVar[bool] = False
    #: V2's metadata: `TensorSpec`s or (name, datatype, shape) tuples; -1 in a shape is any size.
    inputs: Sequence[TensorSpec | tuple[str, str, Sequence[int]]] = ()
    outputs: Sequence[TensorSpec | tuple[str, str, Sequence[int]]] = ()

    #: The served name.
    name: str = ""
    #: The folder with the model's files; set before `__init__` runs.
    path: Path = Path()
    #: The manifest's options.
    options: Mapping[str, Any] = {}
    #: Set by `load`; a model that is not ready after `load` is not served.
    ready: bool = False

    def __init__(self, name: str = "", **options: Any) -> None:
        if name:
            self.name = name
        if options:
            self.options = options

    def load(self) -> Any:
        """Open what `predict` needs, from `self.path`. Raising, or returning False, fails the load."""
        self.ready = True
        return True

    def preprocess(self, payload: Any, headers: Any = None) -> Any:
        """The request to what `predict` takes."""
        return payload

    def predict(self, payload: Any, headers: Any = None) -> Any:
        """Answer one request. See the module's documentation for what it may take.

        Returns V1's body as a dict, rows as a list, array or data frame, an `InferResponse`, `str` or
        `bytes` for a body of one's own, or a generator of those for a stream.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict")

    def postprocess(self, result: Any, headers: Any = None) -> Any:
        """What `predict` returned to what is sent."""
        return result

    def example(self) -> Any:
        """A request that the model can answer, for the readiness probe; None: do not try.

        V1's dict, an `InferRequest`, or for a `predict` that takes tensors a dict of arrays.
        """
        return None

    def close(self) -> Any:
        """Release what garbage collection does not."""
