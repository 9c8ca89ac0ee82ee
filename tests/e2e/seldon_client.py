"""Drives Seldon's own client; run by the interpreter of an environment that has it.

Arguments: host:port of the inference port, host:port of gRPC, a deployment's name. Prints JSON.
"""

import json
import sys

import numpy as np
from seldon_core.seldon_client import SeldonClient

http, grpc, name = sys.argv[1:4]
row = np.array([[2.0, 1.4, 0.55, 0.08]])
told = {}


def client(transport, **more):
    return SeldonClient(
        deployment_name=name,
        namespace=more.pop("namespace", "default"),
        gateway="istio" if more.pop("istio", False) else "ambassador",
        gateway_endpoint=http if transport == "rest" else grpc,
        transport=transport,
        client_return_type=more.pop("returns", "dict"),
    )


for transport in ("rest", "grpc"):
    for payload in ("ndarray", "tensor"):
        found = client(transport).predict(
            data=row, payload_type=payload, names=["a", "b", "c", "d"], meta={"t": 1}
        )
        told[f"{transport} {payload}"] = [found.success, found.response, found.msg]
    proto = client(transport, returns="proto")
    answer = proto.predict(data=row)
    fed = proto.feedback(
        prediction_request=answer.request, prediction_response=answer.response, reward=0.75
    )
    told[f"{transport} feedback"] = [fed.success, fed.msg]
    told[f"{transport} text"] = client(transport).predict(str_data="x").success

told["rest, no namespace"] = client("rest", namespace=None).predict(data=row).success
told["rest, istio"] = client("rest", istio=True).predict(data=row).success
told["grpc, no namespace"] = client("grpc", namespace=None).predict(data=row).success
print(json.dumps(told))
