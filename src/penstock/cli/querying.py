"""`penstock query`: one payload to many services at once, and what each answered."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlsplit

from penstock.cli import payloads
from penstock.cli.client import Client, Kinds
from penstock.cli.exits import FAILED, UNREACHABLE, USAGE, CliError
from penstock.cli.getting import find
from penstock.cli.output import say, table

HEADERS = ("MODEL", "STATUS", "MS", "ANSWER")
#: Characters of an answer in the table.
_WIDEST = 60


def query(
    client: Client,
    names: list[str],
    file: str,
    *,
    selector: str,
    namespace: str,
    timeout_s: float,
    output: str,
) -> None:
    """Ask the services of these names, or those that the selector takes. Fails when none answers."""
    if bool(names) == bool(selector):
        raise CliError("Give the names of services, or a selector with -l.", USAGE)
    document = _payload(file)
    if names:
        document["models"] = [n.rpartition("/")[2] for n in names]
    else:
        document["selector"] = selector
    document["timeout"] = timeout_s
    url = _gateway(client, namespace, document.get("models", []))
    answer = _post(f"{url}/serving/{quote(namespace, safe='')}/v2/query", document, timeout_s)
    results = answer["results"]
    if output == "json":
        say(json.dumps(answer, indent=2))
    elif not results:
        say(f"No service in {namespace} has these labels.")
    else:
        rows = [
            (r["model"], str(r["status"]), f"{r['seconds'] * 1000:.1f}", _shown(r)) for r in results
        ]
        say(table(HEADERS, rows))
    if results and all(r["status"] >= 400 for r in results):
        raise CliError("None of them answered.", FAILED)


def _payload(file: str) -> dict[str, Any]:
    document = payloads.parse(payloads.read(file), file)
    if not isinstance(document, dict) or not {"inputs", "instances"} & document.keys():
        raise CliError(f"{file}: a payload is a JSON object with `inputs` or `instances`.", USAGE)
    return document


def _gateway(client: Client, namespace: str, names: list[str]) -> str:
    """Where the gateways listen, as the status of any service says."""
    kinds = Kinds(client).services()
    for name in names:
        try:
            _, obj = find(client, kinds, namespace, name)
        except CliError:
            continue  # the answer will say that there is none
        if url := _base(obj):
            return url
    for kind in kinds:
        for obj in client.get(kind.path(namespace))["items"]:
            if url := _base(obj):
                return url
    raise CliError(f"No service in {namespace} has an address yet.", FAILED)


def _base(obj: dict[str, Any]) -> str:
    parts = urlsplit((obj.get("status") or {}).get("url") or "")
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def _post(url: str, document: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    body = json.dumps(document).encode()
    headers = {"content-type": "application/json"}
    status, text, _ = payloads.post(url, body, headers, timeout_s)
    try:
        answer = json.loads(text)
    except ValueError as exc:
        raise CliError(f"The gateway's answer is no JSON: {exc}.", UNREACHABLE) from exc
    if status != 200:
        raise CliError(f"{status}: {answer.get('error', answer)}", FAILED)
    found: dict[str, Any] = answer
    return found


def _shown(result: dict[str, Any]) -> str:
    for field in ("error", "predictions", "outputs", "answer"):
        if field in result:
            value = result[field]
            if field == "outputs":
                value = {o["name"]: o.get("data") for o in value}
            text = value if isinstance(value, str) else json.dumps(value)
            return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
    return ""
