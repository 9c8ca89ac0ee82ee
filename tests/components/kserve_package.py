"""Stand-ins for the packages `kserve` and `kfserving`: what classes use of them, as they have it."""

from __future__ import annotations

from pathlib import Path

KSERVE = """
import sys, types
import numpy as np

class _Tensor:
    def __init__(self, name, shape, datatype, data=None, parameters=None):
        self.name, self.shape, self.datatype = name, shape, datatype
        self._data, self.parameters = data, parameters or {}
    def as_numpy(self):
        kinds = {"FP64": np.float64, "INT64": np.int64, "BYTES": np.object_}
        return np.array(self._data, dtype=kinds[self.datatype]).reshape(self.shape)
    def set_data_from_numpy(self, array, binary_data=True):
        self._data = array
        self.parameters["binary_data_size"] = array.nbytes

class InferInput(_Tensor): pass
class InferOutput(_Tensor): pass

class InferRequest:
    def __init__(self, model_name, infer_inputs, request_id=None, parameters=None):
        self.id, self.model_name, self.inputs = request_id, model_name, infer_inputs
        self.parameters = parameters or {}

class InferResponse:
    def __init__(self, response_id, model_name, infer_outputs, parameters=None):
        self.id, self.model_name, self.outputs = response_id, model_name, infer_outputs
        self.parameters = parameters or {}

class Model:
    def __init__(self, name):
        self.name, self.ready = name, False
    def load(self):
        self.ready = True
        return True
    async def preprocess(self, payload, headers=None):
        return payload
    async def postprocess(self, result, headers=None, response_headers=None):
        return result
    async def predict(self, payload, headers=None):
        raise NotImplementedError("would ask predictor_host over HTTP")
    async def explain(self, payload, headers=None):
        raise NotImplementedError

errors = types.ModuleType("kserve.errors")
class InvalidInput(ValueError):
    def __init__(self, reason):
        self.reason = reason
errors.InvalidInput = InvalidInput
sys.modules["kserve.errors"] = errors
"""
#: The first name of the package, and its class until it had requests of its own.
KFSERVING = """
class KFModel:
    def __init__(self, name):
        self.name, self.ready = name, False
        self.predictor_host = self.explainer_host = None
        self.timeout = 600
    def load(self):
        self.ready = True
        return self.ready
    def preprocess(self, request):
        return request
    def postprocess(self, request):
        return request
    async def predict(self, request):
        raise NotImplementedError("would ask predictor_host over HTTP")
    async def explain(self, request):
        raise NotImplementedError("would ask explainer_host over HTTP")
"""


def write_packages(site: Path) -> None:
    """Make `site` a folder that both can be imported from."""
    for name, text in (("kserve", KSERVE), ("kfserving", KFSERVING)):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(text)
