"""Drives KServe's own clients; run by the interpreter of an environment that has them.

Arguments: HTTP port, gRPC port, the model's name. Prints [client, call, outcome] lines as JSON; an outcome is
the answer, or the error's text.
"""

import asyncio
import json
import sys
import warnings

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest  # noqa: E402
from kserve.inference_client import RESTConfig  # noqa: E402


def request(name):
    values = np.array([[1, 2], [3, 4]], np.float32)
    tensor = InferInput("x", [2, 2], "FP32")
    tensor.set_data_from_numpy(values, binary_data=False)
    return InferRequest(name, [tensor])


async def outcome(made):
    try:
        answer = await made
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    if hasattr(answer, "outputs"):
        return answer.outputs[0].as_numpy().tolist()
    return answer


async def main(http, grpc, name):
    base = f"http://127.0.0.1:{http}"
    found = []
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", retries=1))
    instances = {"instances": [[1, 2], [3, 4]]}
    for call, made in (
        ("infer", v1.infer(base, instances, name)),
        ("explain", v1.explain(base, name, instances)),
        ("is_server_live", v1.is_server_live(base)),
        ("is_model_ready", v1.is_model_ready(base, name)),
    ):
        found.append(("InferenceRESTClient (v1)", call, await outcome(made)))
    v2 = InferenceRESTClient(RESTConfig(protocol="v2", retries=1))
    for call, made in (
        ("infer", v2.infer(base, request(name), name)),
        ("is_server_ready", v2.is_server_ready(base)),
        ("is_server_live", v2.is_server_live(base)),
        ("is_model_ready", v2.is_model_ready(base, name)),
    ):
        found.append(("InferenceRESTClient (v2)", call, await outcome(made)))
    client = InferenceGRPCClient(f"127.0.0.1:{grpc}")
    for call, made in (
        ("infer", client.infer(request(name))),
        ("is_server_ready", client.is_server_ready()),
        ("is_server_live", client.is_server_live()),
        ("is_model_ready", client.is_model_ready(name)),
    ):
        found.append(("InferenceGRPCClient", call, await outcome(made)))
    await v1.close()
    await v2.close()
    await client.close()
    print(json.dumps(found))


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3]))
