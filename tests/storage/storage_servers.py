"""The servers that storage is tested against: real ones as child processes, and two fakes.

moto (S3), Azurite (Azure), gcp-storage-emulator (Cloud Storage) are other people's; no package has an HDFS
name node or a Hugging Face hub, so those two are played by `storage_fakes`. A `Place` is one server with a
bucket, seen as files that can be put and taken away.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from penstock.storage import Credentials

REPOSITORY = Path(__file__).resolve().parents[2]
AZURITE = REPOSITORY / ".venvs" / "azurite"
AZURITE_VERSION = "3.37.0"


@contextmanager
def server_process(
    command: list[str], ready: str, *, cwd: Path, wait_s: float = 60, **variables: str
) -> Iterator[str]:
    """Run a server until the block ends; the first group of the line that matches `ready`."""
    if setpriv := shutil.which("setpriv"):  # it also ends when this process is killed
        command = [setpriv, "--pdeathsig", "KILL", *command]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AZURE_"))}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**environment, "PYTHONUNBUFFERED": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    found: list[str] = []
    seen: list[str] = []
    is_up = threading.Event()
    reader = threading.Thread(target=_follow, args=(process.stdout, ready, seen, found, is_up))
    reader.start()
    try:
        assert is_up.wait(wait_s), f"{command} did not come up: {''.join(seen)}"
        assert found, f"{command} ended: {''.join(seen)}"
        yield found[0]
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _follow(
    out: IO[str], ready: str, seen: list[str], found: list[str], is_up: threading.Event
) -> None:
    for line in out:
        if not found:
            seen.append(line)
            if match := re.search(ready, line):
                found.append(match[1])
                is_up.set()
    is_up.set()


class Place:
    """A bucket of one server. `credentials` open it, `strangers` do not (None: it checks nobody)."""

    scheme: str
    credentials: Credentials
    strangers: Credentials | None = None

    def put(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def uri(self, path: str) -> str:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of connections: an open socket that is collected later fails somebody else's test."""


def names() -> str:
    return f"bucket-{uuid.uuid4().hex[:12]}"


class S3Place(Place):
    scheme = "s3"

    def __init__(self, endpoint: str) -> None:
        import boto3

        from penstock.storage import S3Credentials

        self.endpoint = endpoint
        self.bucket = names()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=self.bucket)
        self.credentials = Credentials(
            s3=S3Credentials(access_key_id="key", secret_access_key="secret", endpoint=endpoint)
        )

    def put(self, path: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=path, Body=data)

    def uri(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"

    def close(self) -> None:
        self.client.close()


class AzurePlace(Place):
    scheme = "az"
    account = "devstoreaccount1"
    #: Azurite's own, printed in its manual.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, endpoint: str) -> None:
        from obstore.store import AzureStore

        from penstock.storage import AzureCredentials

        self.endpoint = f"{endpoint}/{self.account}"
        self.container = names()
        # obstore writes blobs and makes no containers; that is one signed request.
        _create_container(self.endpoint, self.account, self.key, self.container)
        self.store = AzureStore(
            self.container,
            account_name=self.account,
            account_key=self.key,
            endpoint=self.endpoint,
            client_options={"allow_http": True},
        )
        self.credentials = Credentials(
            azure=AzureCredentials(
                account=self.account, access_key=self.key, endpoint=self.endpoint
            )
        )
        wrong = "A" * 86 + "=="
        self.strangers = Credentials(
            azure=AzureCredentials(account=self.account, access_key=wrong, endpoint=self.endpoint)
        )

    def put(self, path: str, data: bytes) -> None:
        self.store.put(path, data)

    def uri(self, path: str) -> str:
        return f"az://{self.container}/{path}"


def _create_container(endpoint: str, account: str, key: str, container: str) -> None:
    import base64
    import hashlib
    import hmac
    from email.utils import formatdate

    import httpx

    date, version = formatdate(usegmt=True), "2021-08-06"
    canonical = (
        f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n"
        f"/{account}/{account}/{container}\nrestype:container"
    )
    signature = hmac.new(base64.b64decode(key), canonical.encode(), hashlib.sha256).digest()
    answer = httpx.put(
        f"{endpoint}/{container}?restype=container",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "content-length": "0",
            "authorization": f"SharedKey {account}:{base64.b64encode(signature).decode()}",
        },
    )
    assert answer.status_code == 201, answer.text


class GcsPlace(Place):
    scheme = "gs"

    def __init__(self, endpoint: str) -> None:
        import httpx

        from penstock.storage import GcsCredentials

        self.endpoint = endpoint
        self.bucket = names()
        httpx.post(
            f"{endpoint}/storage/v1/b?project=test", json={"name": self.bucket}
        ).raise_for_status()
        self.credentials = Credentials(gcs=GcsCredentials(endpoint=endpoint))

    def put(self, path: str, data: bytes) -> None:
        import httpx

        # As the Google client does it; the emulator cannot take an empty body any other way.
        meta = json.dumps({"name": path}).encode()
        body = (
            b"--b\r\ncontent-type: application/json\r\n\r\n" + meta
            + b"\r\n--b\r\ncontent-type: application/octet-stream\r\n\r\n" + data + b"\r\n--b--\r\n"
        )  # fmt: skip
        httpx.post(
            f"{self.endpoint}/upload/storage/v1/b/{self.bucket}/o?uploadType=multipart",
            content=body,
            headers={"content-type": "multipart/related; boundary=b"},
        ).raise_for_status()

    def uri(self, path: str) -> str:
        return f"gs://{self.bucket}/{path}"


@contextmanager
def moto(cwd: Path) -> Iterator[str]:
    """An S3 server that lists ten objects a page; its URL."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with server_process(
        command, r"Running on (http://\S+)", cwd=cwd, MOTO_S3_DEFAULT_MAX_KEYS="10"
    ) as url:
        yield url


@contextmanager
def gcs_emulator(cwd: Path) -> Iterator[str]:
    """A Cloud Storage server; its URL."""
    program = (
        "import gcp_storage_emulator.server as s; s = s.create_server('127.0.0.1', 0, in_memory=True);"
        "s.start(); print('listens on http://127.0.0.1:%d' % s._api._httpd.server_port);"
        "import threading; threading.Event().wait()"
    )
    with server_process(
        [sys.executable, "-c", program], r"listens on (http://\S+)", cwd=cwd
    ) as url:
        yield url


@contextmanager
def azurite(cwd: Path) -> Iterator[str]:
    """An Azure Blob server; its URL. Installed from npm on first use."""
    command = [
        str(install_azurite()),
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--blobPort",
        "0",
    ]
    with server_process(command, r"successfully listens on (http://\S+)", cwd=cwd) as url:
        yield url


def has_npm() -> bool:
    return shutil.which("npm") is not None or _azurite_program().exists()


def _azurite_program() -> Path:
    return AZURITE / "node_modules" / ".bin" / "azurite-blob"


def install_azurite() -> Path:
    """Azurite's program, below .venvs; one process installs it, the others wait."""
    AZURITE.mkdir(parents=True, exist_ok=True)
    with open(AZURITE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _azurite_program().exists():
            npm = shutil.which("npm")
            assert npm is not None
            subprocess.run(
                [
                    npm, "install", "--prefix", str(AZURITE), "--no-audit", "--no-fund", "--omit=dev",
                    "--ignore-scripts", f"azurite@{AZURITE_VERSION}",
                ],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=300,
            )  # fmt: skip
    return _azurite_program()
