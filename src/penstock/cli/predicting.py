"""`penstock predict`: one request to a service, through the gateway, as any client would send it."""

from __future__ import annotations

import json
import sys
import time
from typing import Any
from urllib.parse import quote

from penstock.cli import payloads
from penstock.cli.client import Client, Kinds
from penstock.cli.exits import FAILED, NOT_FOUND, USAGE, CliError
from penstock.cli.getting import find
from penstock.cli.output import note
from penstock.domain.headers import REVISION


def predict(
    client: Client,
    name: str,
    file: str,
    *,
    namespace: str,
    protocol: str | None,
    model: str | None,
    binary: bool,
    timeout_s: float,
    verbose: bool,
) -> None:
    """Send a payload and print the answer. CliError with the server's own words when it is refused."""
    payload = payloads.read(file)
    document = _parse(payload, file)
    protocol = protocol or detect(document)
    if binary and protocol != "v2":
        raise CliError("--binary is for V2 payloads.", USAGE)
    name = name.rpartition("/")[2]
    kind, obj = find(client, Kinds(client).services(), namespace, name)
    url = (obj.get("status") or {}).get("url")
    if not url:
        raise CliError(
            f"{kind.singular} {name} has no address yet; `penstock describe isvc {name}` says why."
        )
    model = quote(model or name, safe="")
    headers = {
        "content-type": "application/json",
        "x-request-timeout-ms": str(int(timeout_s * 1000)),
    }
    path = f"/v1/models/{model}:predict" if protocol == "v1" else f"/v2/models/{model}/infer"
    body = payload
    if binary:
        body, length = to_binary(document)
        headers["content-type"] = "application/octet-stream"
        headers["inference-header-content-length"] = str(length)
    start = time.perf_counter()
    status, answer, fields = payloads.post(url + path, body, headers, timeout_s)
    took_ms = (time.perf_counter() - start) * 1000
    if verbose:
        note(f"{status} from {fields.get(REVISION) or 'the gateway'} in {took_ms:.1f} ms")
    if status >= 400:
        code = NOT_FOUND if status == 404 else FAILED
        raise CliError(f"{status}: {_error_of(answer)}", code)
    _print(answer)


def _parse(payload: bytes, file: str) -> dict[str, Any]:
    document = payloads.parse(payload, file)
    if not isinstance(document, dict):
        raise CliError(f"{file}: a payload is a JSON object, with `inputs` or `instances`.", USAGE)
    return document


def detect(document: dict[str, Any]) -> str:
    """`v1` or `v2`: V2's inputs are tensors with a datatype. CliError when it is neither."""
    if "instances" in document:
        return "v1"
    inputs = document.get("inputs")
    if (
        isinstance(inputs, list)
        and inputs
        and all(isinstance(i, dict) and "datatype" in i for i in inputs)
    ):
        return "v2"
    if "inputs" in document:
        return "v1"
    raise CliError(
        "The payload has neither `instances` (V1) nor `inputs` (V2). Say --v1 or --v2 to send it as it is.",
        USAGE,
    )


def to_binary(document: dict[str, Any]) -> tuple[bytes, int]:
    """A V2 JSON request with its tensors as binary, and the length of its JSON part."""
    import msgspec

    from penstock.errors import PenstockError
    from penstock.protocols import binary_tensors, json_tensors

    inputs, parts = [], []
    for tensor in document["inputs"]:
        try:
            values = json_tensors.from_json(
                str(tensor["name"]),
                str(tensor["datatype"]),
                tensor["shape"],
                msgspec.json.encode(tensor["data"]),
            )
            data = bytes(
                binary_tensors.to_binary(str(tensor["name"]), str(tensor["datatype"]), values)
            )
        except KeyError as exc:
            raise CliError(f"An input has no {exc.args[0]}.", USAGE) from exc
        except PenstockError as exc:
            raise CliError(str(exc), USAGE) from exc
        parameters = {**(tensor.get("parameters") or {}), "binary_data_size": len(data)}
        rest = {k: v for k, v in tensor.items() if k != "data"}
        inputs.append({**rest, "parameters": parameters})
        parts.append(data)
    head = json.dumps({**document, "inputs": inputs}).encode()
    return b"".join([head, *parts]), len(head)


def _error_of(answer: bytes) -> str:
    try:
        document = json.loads(answer)
    except ValueError:
        return answer.decode("utf-8", "replace").strip()
    if isinstance(document, dict) and "error" in document:
        return str(document["error"])
    return json.dumps(document)


def _print(answer: bytes) -> None:
    if sys.stdout.isatty():
        try:
            answer = json.dumps(json.loads(answer), indent=2, ensure_ascii=False).encode()
        except ValueError:
            pass
    sys.stdout.buffer.write(answer.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()
