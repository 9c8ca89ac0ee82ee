"""`penstock graph inspect`: one request to a graph, and what passed each of its steps."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from penstock.cli import payloads
from penstock.cli.client import Client
from penstock.cli.exits import FAILED, CliError
from penstock.cli.graphs import find_graph
from penstock.cli.output import clean, say

#: Characters of a value in a line.
_WIDEST = 100


def inspect(
    client: Client,
    name: str,
    file: str,
    *,
    namespace: str,
    elements: int,
    timeout_s: float,
    output: str,
) -> None:
    """Send a payload and print what each step was given and answered. Fails when the graph did."""
    name = name.rpartition("/")[2]
    payload = payloads.parse(payloads.read(file), file)
    kind, obj = find_graph(client, namespace, name)
    url = (obj.get("status") or {}).get("url")
    if not url:
        raise CliError(f"{kind.singular} {name} has no address yet; is it ready?")
    document = _post(url + _path(name, payload), payload, elements, timeout_s)
    if output == "json":
        say(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(document)
    status = document["answer"]["status"]
    if status >= 400:
        raise CliError(f"{document['graph']} answered {status}.", FAILED)


def _path(name: str, payload: Any) -> str:
    """Where a client of the payload's protocol would send it."""
    quoted = quote(name, safe="")
    keys = payload.keys() if isinstance(payload, dict) else ()
    if "inputs" in keys and "instances" not in keys:
        inputs = payload["inputs"]
        if isinstance(inputs, list) and all(isinstance(i, dict) and "name" in i for i in inputs):
            return f"/v2/models/{quoted}/infer"
    if {"data", "strData", "binData", "jsonData"} & set(keys):
        return "/api/v1.0/predictions"
    return f"/v1/models/{quoted}:predict"


def _post(url: str, payload: Any, elements: int, timeout_s: float) -> dict[str, Any]:
    headers = {
        "content-type": "application/json",
        "x-penstock-inspect": str(max(2, elements)),
        "x-request-timeout-ms": str(int(timeout_s * 1000)),
    }
    status, text, _ = payloads.post(url, json.dumps(payload).encode(), headers, timeout_s)
    try:
        document = json.loads(text)
    except ValueError:
        document = text.decode("utf-8", "replace")
    if not isinstance(document, dict) or "answer" not in document:
        # It was refused before it came to a step.
        said = document.get("error", document) if isinstance(document, dict) else document
        raise CliError(f"{status}: {said}", FAILED)
    return document


def _line(text: str) -> None:
    """What steps answered is anybody's: it must not drive the terminal."""
    say(clean(text))


def _print(document: dict[str, Any]) -> None:
    answer = document["answer"]
    _line(f"{document['graph']} answered {answer['status']} in {document['ms']:.1f} ms")
    _values("request", document["request"])
    for step in document["steps"]:
        target = step.get("target", "")
        where = f" ({target})" if target and target != step["step"].rpartition(".")[2] else ""
        _line("")
        inside = f"{step['within']}/" if "within" in step else ""
        _line(
            f"{inside}{step['step']}{where}: {step['outcome']}, {step['ms']:.1f} ms{_branch(step)}"
        )
        if step.get("detail"):
            _line(f"  {step['detail']}")
        for side in ("given", "gave"):
            if side in step:
                _values(side, step[side])
    _line("")
    _values("answer", answer)


def _branch(step: dict[str, Any]) -> str:
    if "branch" not in step:
        return ""
    taken = ", ".join(map(str, step["branch"])) or "none"
    return f", branch {taken}"


def _values(side: str, told: dict[str, Any]) -> None:
    """A value's lines: one for each tensor, one for a body."""
    for member in told.get("members", ()):
        _values(f"{side} {member['key']}", member)
    for tensor in told.get("tensors", ()):
        shape = ",".join(map(str, tensor["shape"]))
        about = f"{tensor['name']} {tensor['datatype']}[{shape}]"
        more = f" and {tensor['more']} more" if "more" in tensor else ""
        text = json.dumps(tensor["data"], ensure_ascii=False)
        _line(f"  {side}  {about} {_short(text)}{more}")
    status = f"{told['status']} " if told.get("status", 200) != 200 else ""
    if "json" in told:
        _line(f"  {side}  {status}{_short(json.dumps(told['json'], ensure_ascii=False))}")
    elif "text" in told:
        _line(f"  {side}  {status}{_short(told['text'])}")
    elif "bytes" in told:
        _line(f"  {side}  {status}{told['bytes']} bytes of {told['content_type']}")
    elif "left_out" in told:
        _line(f"  {side}  left out: the values before are too many")


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
