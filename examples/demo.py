"""The demo: train two models, serve them, apply eight lines of YAML, ask for predictions.

Everything goes through the public face: the `penstock` command and the inference port. With `--once` it
ends after the predictions, with exit status 0 only if every one of them was right.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from sklearn.datasets import load_digits, load_iris
from train import train

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PENSTOCK = [sys.executable, "-m", "penstock.cli"]


def say(text: str) -> None:
    print(text, flush=True)


def penstock(*args: str, server: str) -> None:
    """Run a penstock command, shown as a user would type it."""
    say(f"\n$ penstock {' '.join(args)}")
    subprocess.run([*PENSTOCK, *args], check=True, env={**os.environ, "PENSTOCK_SERVER": server})


def until_up(url: str, process: subprocess.Popen[bytes], timeout_s: float = 60) -> None:
    """Wait for the control API, or end with what the server said."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"penstock serve ended with status {process.returncode}; it says why above.")
        try:
            if httpx.get(f"{url}/readyz", timeout=1).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    sys.exit(f"penstock serve was not ready after {timeout_s:.0f} s.")


def ask_v1(base: str, name: str, rows: list[list[float]], expected: list[int]) -> bool:
    answer = httpx.post(f"{base}/v1/models/{name}:predict", json={"instances": rows}, timeout=30)
    say(f"  POST /v1/models/{name}:predict          {answer.status_code} {answer.text[:100]}")
    return answer.status_code == 200 and answer.json()["predictions"] == expected


def ask_v2(base: str, name: str, rows: list[list[float]], expected: list[int]) -> bool:
    body = {
        "inputs": [
            {
                "name": "input-0",
                "shape": [len(rows), len(rows[0])],
                "datatype": "FP64",
                "data": rows,
            }
        ]
    }
    answer = httpx.post(f"{base}/v2/models/{name}/infer", json=body, timeout=30)
    say(f"  POST /v2/models/{name}/infer            {answer.status_code} {answer.text[:140]}")
    return answer.status_code == 200 and answer.json()["outputs"][0]["data"] == expected


def predictions(base: str) -> bool:
    """Ask both models in both protocols about rows whose labels are known."""
    right = True
    for name, data in (("iris", load_iris()), ("digits", load_digits())):
        rows = [data.data[i].tolist() for i in (0, 60, 120)]
        expected = [int(data.target[i]) for i in (0, 60, 120)]
        say(f"\n{name}: three rows labelled {expected}")
        right &= ask_v1(base, name, rows, expected)
        right &= ask_v2(base, name, rows, expected)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the predictions")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--api-port", type=int, default=8090)
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".penstock" / "demo")
    options = parser.parse_args()

    for name, score in train(ROOT / "models").items():
        say(f"trained {name}: {score:.1%} right on rows it has not seen")

    say("\n$ penstock serve")
    server = subprocess.Popen(
        [
            *PENSTOCK,
            "serve",
            "--data-dir",
            str(options.data_dir),
            "--http-port",
            str(options.http_port),
            "--api-port",
            str(options.api_port),
        ],
        cwd=ROOT,
        start_new_session=True,  # Ctrl-C reaches this script, which then ends the server in order
    )
    api = f"http://127.0.0.1:{options.api_port}"
    base = f"http://127.0.0.1:{options.http_port}"
    try:
        until_up(api, server)
        manifests = [os.path.relpath(HERE / f"{n}.yaml") for n in ("iris", "digits")]
        say(f"\n$ cat {manifests[0]}\n{(HERE / 'iris.yaml').read_text().rstrip()}")
        penstock("apply", "-f", manifests[0], "-f", manifests[1], server=api)
        for name in ("iris", "digits"):
            penstock("wait", f"isvc/{name}", "--for=condition=Ready", "--timeout=60s", server=api)
        penstock("get", "isvc", server=api)
        right = predictions(base)
        say("\nEvery answer was right." if right else "\nAn answer was wrong.")
        if options.once or not right:
            return 0 if right else 1
        say(
            f"""
Try next, in another terminal:
  curl -s {base}/v2/models/iris | python3 -m json.tool
  curl -s {base}/v1/models/iris:predict -d '{{"instances": [[5.9, 3.0, 5.1, 1.8]]}}'
  {PENSTOCK[0]} -m penstock.cli top
  {PENSTOCK[0]} -m penstock.cli describe isvc iris
  {PENSTOCK[0]} -m penstock.cli logs iris
  curl -s {api}/metrics | grep penstock_gateway
Ctrl-C ends it."""
        )
        server.wait()
        return server.returncode
    except KeyboardInterrupt:
        say("\nending")
        return 0
    except subprocess.CalledProcessError as exc:
        return exc.returncode
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=40)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
