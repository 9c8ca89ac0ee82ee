"""Commands that are pointed at a place which is none of theirs say so, and what to say instead."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator

import pytest

from penstock.cli import main
from penstock.cli.exits import UNREACHABLE, USAGE


class _Gateway(http.server.BaseHTTPRequestHandler):
    """Answers as an inference port does: there is no API."""

    def do_GET(self) -> None:
        body = b'{"error":"No such path."}' if self.path != "/html/api" else b"<html>"
        self.send_response(200 if self.path == "/html/api" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gateway)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join(10)
    server.server_close()


def said(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["penstock", *args])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capfd.readouterr().err


@pytest.mark.parametrize("path", ["", "/html"])
def test_the_inference_port_is_no_control_api(
    port: int, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = f"http://127.0.0.1:{port}{path}"
    code, err = said(capfd, "get", "isvc", "--server", server)
    assert (code, err) == (
        UNREACHABLE,
        f"error: What answers at {server} is no control API. `penstock serve` says where that is, "
        "on its line 'control'; the port is 8090 if not given.\n",
    )


@pytest.mark.parametrize("command", [("top", "--once"), ("events",)])
def test_nor_for_commands_that_ask_for_no_kind(
    port: int, command: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    _, err = said(capfd, *command, "--server", f"http://127.0.0.1:{port}")
    assert "the server answered 404. Is --server the control API?" in err


def test_a_server_without_tls_is_asked_without(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    code, err = said(capfd, "get", "isvc", "--server", f"https://127.0.0.1:{port}")
    assert (code, err) == (
        UNREACHABLE,
        f"error: What answers at https://127.0.0.1:{port} speaks no TLS. Say http://127.0.0.1:{port}.\n",
    )


def test_a_manifest_is_no_url(capfd: pytest.CaptureFixture[str]) -> None:
    """What is applied is looked at before: kubectl would fetch it."""
    code, err = said(capfd, "apply", "-f", "https://example.org/a b.yaml")
    assert code == USAGE
    assert "is a URL" in err
    assert "curl -sSL 'https://example.org/a b.yaml' | penstock apply -f -" in err
