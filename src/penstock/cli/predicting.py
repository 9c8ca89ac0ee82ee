"""`penstock predict`: one request to a service, through the gateway, as any client would send it."""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from penstock.cli.client import Client, Kinds
from penstock.cli.exits import FAILED, NOT_FOUND, UNREACHABLE, USAGE, CliError
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
    payload = _read(file)
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
    status, answer, revision = _post(url + path, body, headers, timeout_s)
    took_ms = (time.perf_counter() - start) * 1000
    if verbose:
        note(f"{status} from {revision or 'the gateway'} in {took_ms:.1f} ms")
    if status >= 400:
        code = NOT_FOUND if status == 404 else FAILED
        raise CliError(f"{status}: {_error_of(answer)}", code)
    _print(answer)


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise CliError(f"{file} cannot be read: {exc.strerror}.", USAGE) from exc


def _parse(payload: bytes, file: str) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except ValueError as exc:
        raise CliError(f"{file} is no JSON: {exc}.", USAGE) from exc
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


def _post(
    url: str, body: bytes, headers: dict[str, str], timeout_s: float
) -> tuple[int, bytes, str]:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    # The gateway keeps the deadline; a little longer here, so that its answer is what is seen.
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s + 5)
    try:
        connection.request("POST", parts.path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.getheader(REVISION, "") or ""
    except (OSError, http.client.HTTPException) as exc:
        raise CliError(
            f"The gateway at {parts.netloc} cannot be reached: {exc}.", UNREACHABLE
        ) from exc
    finally:
        connection.close()


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
