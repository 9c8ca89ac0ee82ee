"""Drives the unit calls of Seldon's own client; run by the interpreter of an environment that has it.

Arguments: host:port of REST and of gRPC. Prints JSON: call -> whether it succeeded, and the answer's rows.
"""

import json
import sys

import numpy as np
from seldon_core.seldon_client import SeldonClient

rows = np.array([[1.0, 2.0]])
told = {}
for transport, endpoint in (("rest", sys.argv[1]), ("grpc", sys.argv[2])):
    client = SeldonClient(microservice_endpoint=endpoint, transport=transport)
    for method in ("predict", "transform-input", "transform-output", "route"):
        found = client.microservice(data=rows, method=method, payload_type="tensor")
        told[f"{transport} {method}"] = [found.success, list(found.response.data.tensor.values)]
    found = client.microservice(
        datas=[rows, rows], method="aggregate", ndatas=2, payload_type="tensor"
    )
    told[f"{transport} aggregate"] = [found.success, list(found.response.data.tensor.values)]
    asked = client.microservice(data=rows, method="predict").request
    found = client.microservice_feedback(prediction_request=asked, reward=0.5)
    told[f"{transport} feedback"] = [found.success, found.msg]
print(json.dumps(told))
