"""The real wrapper of Seldon's own package, in its own environment: what it answers to requests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.peers import environment

HERE = Path(__file__).resolve().parent

_PROGRAM = """
import json, logging, sys
logging.disable(50)
sys.path.insert(0, sys.argv[1])
import seldon_units
from seldon_core.metrics import SeldonMetrics
from seldon_core.wrapper import get_rest_microservice
out = []
for cls, path, body in json.load(sys.stdin):
    app = get_rest_microservice(getattr(seldon_units, cls)(), SeldonMetrics())
    app.testing = True
    client = app.test_client()
    answer = client.post(path, json=body) if body is not None else client.get(path)
    text = answer.get_data(as_text=True)
    out.append([answer.status_code, json.loads(text) if text[:1] in '{[' else text])
print(json.dumps(out))
"""


def oracle(requests: list[tuple[str, str, Any]]) -> list[tuple[int, Any]]:
    """(status, body) for each (class of seldon_units, path, JSON body or None for GET)."""
    done = subprocess.run(
        [environment("seldon") / "python", "-W", "ignore", "-c", _PROGRAM, str(HERE)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [(status, body) for status, body in json.loads(done.stdout.splitlines()[-1])]
