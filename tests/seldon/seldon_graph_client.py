"""Drives Seldon's own client at a gateway; run by the interpreter of an environment that has it.

Arguments: host:port of REST and of gRPC, a deployment with an explainer of its predictor `main`. Prints JSON:
what was asked -> whether it succeeded, and the answer.
"""

import json
import sys

import numpy as np
from seldon_core.seldon_client import SeldonClient

http, grpc, name = sys.argv[1:4]
row = np.array([[1.0, 5.0]])
told = {}


def client(transport, **more):
    return SeldonClient(
        deployment_name=name,
        namespace="default",
        gateway="ambassador",
        gateway_endpoint=http if transport == "rest" else grpc,
        transport=transport,
        client_return_type="dict",
        **more,
    )


for transport in ("rest", "grpc"):
    for what, payload in (
        ("ndarray", {"data": row, "payload_type": "ndarray"}),
        ("tensor", {"data": row, "payload_type": "tensor"}),
        ("strData", {"str_data": "text"}),
        ("binData", {"bin_data": b"\0bytes"}),
        ("jsonData", {"json_data": {"a": [1, None]}}),
        ("raw", {"raw_data": {"data": {"names": ["x", "y"], "ndarray": [[1.0, 5.0]]}}}),
    ):
        found = client(transport).predict(**payload)
        told[f"{transport} {what}"] = [found.success, found.response, found.msg]
for what, more in (
    ("explain", {"data": row}),
    ("explain tensor", {"data": row, "payload_type": "tensor"}),
):
    found = client("rest").explain(predictor="main", **more)
    told[what] = [found.success, found.response, found.msg]
print(json.dumps(told))
