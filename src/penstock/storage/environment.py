"""Credentials of this process's own environment, for those who may use them.

On a laptop the person who starts Penstock and the person whose models it serves are one, so the
environment opens what it would open for the vendors' own tools. On a platform they are not, so nobody gets
these unless an operator says so: this function is the only place in the package that reads the
environment for credentials, and it is called, not implied.
"""

from __future__ import annotations

import configparser
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from penstock.errors import PenstockError
from penstock.storage.credentials import (
    AzureCredentials,
    Credentials,
    GcsCredentials,
    HubCredentials,
    S3Credentials,
)
from penstock.storage.secrets import Secret, from_secrets

log = logging.getLogger(__name__)

_ROLE_VARIABLES: Final = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def from_environment(
    environ: Mapping[str, str], *, home: Path | None = None, dmi: Path = Path("/sys/class/dmi/id")
) -> Credentials:
    """What `environ`, the vendors' files below `home`, and (ambient) the machine's own role open.

    `dmi` tells EC2 and Google machines, so that nobody else waits for a metadata service.
    """
    home = home if home is not None else Path(environ.get("HOME", "/nonexistent"))
    kept = {k: v.encode() for k, v in environ.items() if v and k.startswith(_PREFIXES)}
    if "AZURE_CLIENT_SECRET" not in kept:  # workload identity has the other two: ambient, below
        kept.pop("AZURE_CLIENT_ID", None)
        kept.pop("AZURE_TENANT_ID", None)
    try:
        found = from_secrets([Secret("(the environment)", data=kept)])
    except PenstockError as error:
        # Half a key in a shell must not keep models in folders from being served.
        log.warning("the environment's storage credentials are not used: %s", error)
        found = Credentials()
    return Credentials(
        s3=_s3(found.s3, environ, home, dmi),
        gcs=_gcs(environ, home, dmi),
        azure=_azure(found.azure, environ),
        hdfs=found.hdfs,
        hub=_hub(environ, home),
        web=(),
        mlflow=replace(found.mlflow, local=True) if found.mlflow is not None else None,
    )


_PREFIXES: Final = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION", "AWS_REGION", "S3_", "awsAnonymousCredential",
    "AZURE_STORAGE_", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "HDFS_", "USER_PROXY",
    "MLFLOW_TRACKING_",
)  # fmt: skip


def _s3(
    found: S3Credentials | None, environ: Mapping[str, str], home: Path, dmi: Path
) -> S3Credentials:
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    keys = _ini(
        Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws/credentials"), profile
    )
    config = _ini(
        Path(environ.get("AWS_CONFIG_FILE") or home / ".aws/config"), f"profile {profile}", profile
    )
    have = found or S3Credentials()
    if not have.access_key_id and keys.get("aws_access_key_id"):
        key, secret, token = (
            keys.get("aws_access_key_id", ""),
            keys.get("aws_secret_access_key", ""),
            keys.get("aws_session_token", ""),
        )
    else:
        key, secret, token = have.access_key_id, have.secret_access_key, have.session_token
    return S3Credentials(
        access_key_id=key,
        secret_access_key=secret,
        session_token=token,
        endpoint=have.endpoint
        or environ.get("AWS_ENDPOINT_URL_S3", "")
        or environ.get("AWS_ENDPOINT_URL", "")
        or config.get("endpoint_url", ""),
        region=have.region
        or environ.get("AWS_REGION", "")
        or environ.get("AWS_DEFAULT_REGION", "")
        or config.get("region", ""),
        verify_tls=have.verify_tls,
        virtual_host=have.virtual_host,
        anonymous=have.anonymous,
        ambient=not key
        and (
            any(environ.get(v) for v in _ROLE_VARIABLES)
            or "amazon" in _read(dmi / "sys_vendor").lower()
        ),
    )


def _gcs(environ: Mapping[str, str], home: Path, dmi: Path) -> GcsCredentials:
    named = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    own = Path(environ.get("CLOUDSDK_CONFIG") or home / ".config/gcloud")
    emulator = environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    return GcsCredentials(
        endpoint=emulator,
        ambient=not emulator
        and (
            bool(named)
            or (own / "application_default_credentials.json").exists()
            or "google" in _read(dmi / "product_name").lower()
        ),
    )


def _azure(found: AzureCredentials | None, environ: Mapping[str, str]) -> AzureCredentials:
    have = found or AzureCredentials()
    if have.access_key or have.sas_token or have.client_secret:
        return have
    ambient = any(
        environ.get(v)
        for v in ("AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "AZURE_MSI_ENDPOINT")
    )
    return AzureCredentials(account=have.account, endpoint=have.endpoint, ambient=ambient)


def _hub(environ: Mapping[str, str], home: Path) -> HubCredentials:
    cache = Path(environ.get("HF_HOME") or home / ".cache/huggingface")
    token = (
        environ.get("HF_TOKEN")
        or environ.get("HUGGING_FACE_HUB_TOKEN")
        or _read(Path(environ.get("HF_TOKEN_PATH") or cache / "token"))
    )
    return HubCredentials(token.strip(), environ.get("HF_ENDPOINT", "").rstrip("/"))


def _ini(path: Path, *sections: str) -> Mapping[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path)
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}  # the vendors' tools complain about it better than we could
    for section in sections:
        if parser.has_section(section):
            return dict(parser.items(section))
    return {}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
