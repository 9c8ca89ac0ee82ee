"""Secrets in KServe's shapes, read into `Credentials`.

A Secret's kind shows in its keys, never in `type` (KServe's are all Opaque). Everything here is pure; what
is half there or not honoured here is refused by name, because a model that loads with other credentials
than somebody wrote down is worse than one that does not load.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from penstock.errors import Forbidden, InvalidInput, NotFound, Unsupported
from penstock.storage.credentials import (
    AzureCredentials,
    Credentials,
    GcsCredentials,
    HdfsCredentials,
    HubCredentials,
    MlflowCredentials,
    S3Credentials,
    WebCredentials,
)

#: The Secret that a manifest's `storage.key` looks into.
STORAGE_CONFIG: Final = "storage-config"
_PREFIXES: Final = ("serving.kserve.io/", "serving.kubeflow.org/", "penstock.dev/")
_GCS_FILE: Final = "gcloud-application-credentials.json"
_EMPTY: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A Kubernetes Secret, decoded."""

    name: str
    namespace: str = "default"
    data: Mapping[str, bytes] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Secret({self.namespace}/{self.name}: {', '.join(sorted(self.data))})"

    @staticmethod
    def from_object(obj: Mapping[str, Any]) -> Secret:
        """From a manifest: `data` in base64, `stringData` as it is (and stronger)."""
        meta = obj.get("metadata") or {}
        name = str(meta.get("name", ""))
        data: dict[str, bytes] = {}
        for key, value in (obj.get("data") or {}).items():
            try:
                data[key] = base64.b64decode(value, validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise InvalidInput(
                    f"Secret {name}: data.{key} is not base64.",
                    hint="Put plain text under stringData.",
                ) from None
        for key, value in (obj.get("stringData") or {}).items():
            data[key] = str(value).encode()
        return Secret(
            name, str(meta.get("namespace") or "default"), data, dict(meta.get("annotations") or {})
        )

    def text(self, *keys: str) -> str:
        """The first of `keys` that is there and not empty, as text without a last newline; or ''."""
        for key in keys:
            if self.data.get(key):
                try:
                    return self.data[key].decode().rstrip("\r\n")
                except UnicodeDecodeError:
                    raise InvalidInput(f"Secret {self.name}: {key} is not UTF-8 text.") from None
        return ""


def select_secrets(
    secrets: Iterable[Secret],
    *,
    namespace: str,
    named: str | None = None,
    account: Mapping[str, Any] | None = None,
) -> tuple[Secret, ...]:
    """Those a service may use: the one it names, else those its ServiceAccount object lists.

    NotFound when the named one is not there; Forbidden when given one of another namespace, which only a
    programming mistake does.
    """
    by_name = {}
    for s in secrets:
        if s.namespace != namespace:
            raise Forbidden(f"Secret {s.namespace}/{s.name} is not for services in {namespace}.")
        by_name[s.name] = s
    if named is not None:
        if named not in by_name:
            raise NotFound(f"There is no Secret {named!r} in namespace {namespace}.")
        return (by_name[named],)
    listed = [str(ref.get("name", "")) for ref in ((account or {}).get("secrets") or [])]
    # As in KServe a listed Secret that does not exist is no mistake: token Secrets come and go.
    return tuple(by_name[n] for n in listed if n in by_name)


def from_secrets(
    secrets: Iterable[Secret],
    *,
    named: bool = False,
    account_annotations: Mapping[str, str] = _EMPTY,
) -> Credentials:
    """Credentials out of `secrets`, the first of each kind winning.

    `named`: the manifest names these itself, so one that is of no known kind is InvalidInput; a service
    account may list others (image pull Secrets). `account_annotations` are the service account's: KServe
    reads the S3 ones (endpoint, region, anonymous) from there, too.
    """
    result = Credentials()
    for secret in secrets:
        found = _read(secret)
        if named and found == Credentials():
            raise InvalidInput(
                f"Secret {secret.name} has no key that storage credentials are known by "
                f"(it has {', '.join(sorted(secret.data)) or 'none'}).",
                hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
                f"{_GCS_FILE}; AZURE_STORAGE_ACCESS_KEY or AZURE_CLIENT_ID, AZURE_TENANT_ID and "
                "AZURE_CLIENT_SECRET; https-host and headers; HF_TOKEN; HDFS_NAMENODE; "
                "MLFLOW_TRACKING_URI.",
            )
        result = result.or_else(found)
    if result.s3 is None:
        s3 = _s3(Secret("of the service account", annotations=account_annotations))
        if s3 != S3Credentials():
            result = result.or_else(Credentials(s3=s3))
    return result


def _read(secret: Secret) -> Credentials:
    has = secret.data.keys()
    s3 = gcs = azure = hdfs = hub = None
    web: tuple[WebCredentials, ...] = ()
    if has & {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "awsAccessKeyID",
        "awsSecretAccessKey",
    } or any(p + "s3-endpoint" in secret.annotations for p in _PREFIXES):
        s3 = _s3(secret)
    if _GCS_FILE in has:
        gcs = GcsCredentials(
            _google_key(secret), endpoint=_annotation(secret, "gcs-endpoint", "GCS_ENDPOINT")
        )
    if any(k.startswith(("AZ_", "AZURE_")) for k in has):
        azure = _azure(secret)
    if has & {"HDFS_NAMENODE", "HDFS_ROOTPATH", "KERBEROS_PRINCIPAL"}:
        hdfs = _hdfs(secret)
    if "HF_TOKEN" in has:
        hub = HubCredentials(secret.text("HF_TOKEN"), secret.text("HF_ENDPOINT"))
    if "https-host" in has:
        web = (
            WebCredentials(
                secret.text("https-host"), _headers(secret.text("headers"), secret.name, "headers")
            ),
        )
    mlflow = None
    if "MLFLOW_TRACKING_URI" in has:
        mlflow = MlflowCredentials(
            tracking_uri=secret.text("MLFLOW_TRACKING_URI").rstrip("/"),
            token=secret.text("MLFLOW_TRACKING_TOKEN"),
            username=secret.text("MLFLOW_TRACKING_USERNAME"),
            password=secret.text("MLFLOW_TRACKING_PASSWORD"),
            ca_pem=secret.text("MLFLOW_TRACKING_SERVER_CERT"),
        )
    return Credentials(s3, gcs, azure, hdfs, hub, web, mlflow)


def _annotation(secret: Secret, name: str, *keys: str) -> str:
    for prefix in _PREFIXES:
        value = secret.annotations.get(prefix + name)
        if value:
            return value
    return secret.text(*keys)


def _flag(text: str, where: str, default: bool) -> bool:
    value = text.strip().lower()
    if value in ("", "1", "true", "yes", "0", "false", "no"):
        return default if not value else value in ("1", "true", "yes")
    raise InvalidInput(f"{where} is {text!r}; it is 1 or 0, true or false.")


def _s3(secret: Secret) -> S3Credentials:
    where = f"Secret {secret.name}"
    key = secret.text("AWS_ACCESS_KEY_ID", "awsAccessKeyID")
    value = secret.text("AWS_SECRET_ACCESS_KEY", "awsSecretAccessKey")
    if bool(key) != bool(value):
        raise InvalidInput(
            f"{where} has {'AWS_ACCESS_KEY_ID' if key else 'AWS_SECRET_ACCESS_KEY'} "
            f"and not {'AWS_SECRET_ACCESS_KEY' if key else 'AWS_ACCESS_KEY_ID'}."
        )
    for name in ("s3-cabundle", "s3-cabundle-configmap"):
        if _annotation(secret, name):
            raise Unsupported(
                f"{where}: the annotation {name} names a file of a container there is none of here.",
                hint="Put the certificate itself into the Secret, as cabundle.crt.",
            )
    if _flag(_annotation(secret, "s3-useaccelerate", "S3_USE_ACCELERATE"), where, False):
        raise Unsupported(f"{where}: S3 transfer acceleration (s3-useaccelerate) is not served.")
    https = _flag(_annotation(secret, "s3-usehttps", "S3_USE_HTTPS"), f"{where}: s3-usehttps", True)
    return S3Credentials(
        access_key_id=key,
        secret_access_key=value,
        session_token=secret.text("AWS_SESSION_TOKEN"),
        endpoint=_endpoint(
            _annotation(secret, "s3-endpoint", "AWS_ENDPOINT_URL", "S3_ENDPOINT"), https
        ),
        region=_annotation(secret, "s3-region", "AWS_DEFAULT_REGION", "AWS_REGION"),
        verify_tls=_flag(
            _annotation(secret, "s3-verifyssl", "S3_VERIFY_SSL"), f"{where}: s3-verifyssl", True
        ),
        ca_pem=secret.text("cabundle.crt", "ca.crt"),
        virtual_host=_flag(
            _annotation(secret, "s3-usevirtualbucket", "S3_USER_VIRTUAL_BUCKET"),
            f"{where}: s3-usevirtualbucket",
            False,
        ),
        anonymous=_flag(
            _annotation(secret, "s3-useanoncredential", "awsAnonymousCredential"),
            f"{where}: s3-useanoncredential",
            False,
        ),
    )


def _endpoint(host: str, https: bool = True) -> str:
    if not host or "://" in host:
        return host.rstrip("/")
    return f"{'https' if https else 'http'}://{host.rstrip('/')}"


def _google_key(secret: Secret) -> str:
    text = secret.text(_GCS_FILE)
    try:
        key = json.loads(text)
        kind = key["type"]
    except (ValueError, KeyError, TypeError):
        raise InvalidInput(f"Secret {secret.name}: {_GCS_FILE} is no Google key in JSON.") from None
    # The other kinds name files to read and programs to run on the machine that uses them.
    if kind not in ("service_account", "authorized_user"):
        raise Unsupported(
            f"Secret {secret.name}: {_GCS_FILE} is of type {kind!r}; "
            "from a Secret only service_account and authorized_user are taken."
        )
    return text


def _azure(secret: Secret) -> AzureCredentials:
    parts = _connection_string(secret.text("AZURE_STORAGE_CONNECTION_STRING"), secret.name)
    found = AzureCredentials(
        account=secret.text(
            "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT", "AZURE_ACCOUNT_NAME"
        )
        or parts.get("AccountName", ""),
        access_key=secret.text(
            "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"
        )
        or parts.get("AccountKey", ""),
        sas_token=(
            secret.text("AZURE_STORAGE_SAS_TOKEN") or parts.get("SharedAccessSignature", "")
        ).removeprefix("?"),
        bearer_token=secret.text("AZURE_ACCESS_TOKEN"),
        tenant_id=secret.text("AZURE_TENANT_ID", "AZ_TENANT_ID"),
        client_id=secret.text("AZURE_CLIENT_ID", "AZ_CLIENT_ID"),
        client_secret=secret.text("AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET"),
        endpoint=_endpoint(
            secret.text("AZURE_SERVICE_URL", "AZURE_STORAGE_ENDPOINT")
            or parts.get("BlobEndpoint", "")
        ),
    )
    client = {
        "AZURE_TENANT_ID": found.tenant_id,
        "AZURE_CLIENT_ID": found.client_id,
        "AZURE_CLIENT_SECRET": found.client_secret,
    }
    if any(client.values()) and not all(client.values()):
        missing = ", ".join(k for k, v in client.items() if not v)
        raise InvalidInput(f"Secret {secret.name}: an Azure client needs {missing}, too.")
    return found


def _connection_string(text: str, name: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for piece in filter(None, text.split(";")):
        key, equals, value = piece.partition("=")
        if not equals:
            raise InvalidInput(
                f"Secret {name}: AZURE_STORAGE_CONNECTION_STRING is not KEY=VALUE;..."
            )
        parts[key.strip()] = value.strip()
    if "AccountName" in parts and "BlobEndpoint" not in parts and "EndpointSuffix" in parts:
        parts["BlobEndpoint"] = f"https://{parts['AccountName']}.blob.{parts['EndpointSuffix']}"
    return parts


def _hdfs(secret: Secret) -> HdfsCredentials:
    if secret.data.get("KERBEROS_PRINCIPAL") or secret.data.get("KERBEROS_KEYTAB"):
        raise Unsupported(
            f"Secret {secret.name}: Kerberos keytabs are not served.",
            hint="Use a delegation token (HDFS_DELEGATION_TOKEN) or an HttpFS gateway.",
        )
    threads = secret.text("N_THREADS")
    if threads and not threads.isdigit():
        raise InvalidInput(f"Secret {secret.name}: N_THREADS is {threads!r}, not a number.")
    cert, key = secret.text("TLS_CERT"), secret.text("TLS_KEY")
    if bool(cert) != bool(key):
        raise InvalidInput(f"Secret {secret.name}: TLS_CERT and TLS_KEY go together.")
    return HdfsCredentials(
        namenode=secret.text("HDFS_NAMENODE").rstrip("/"),
        root_path=secret.text("HDFS_ROOTPATH"),
        user=secret.text("HDFS_USER"),
        proxy_user=secret.text("USER_PROXY"),
        password=secret.text("HDFS_PASSWORD"),
        delegation_token=secret.text("HDFS_DELEGATION_TOKEN"),
        headers=_headers(secret.text("HEADERS"), secret.name, "HEADERS"),
        verify_tls=not _flag(
            secret.text("TLS_SKIP_VERIFY"), f"Secret {secret.name}: TLS_SKIP_VERIFY", False
        ),
        ca_pem=secret.text("TLS_CA"),
        cert_pem=cert,
        key_pem=key,
    )


_HEADER_NAME: Final = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")


def _headers(text: str, name: str, key: str) -> Mapping[str, str]:
    """KServe's form is a JSON object; `Name: value` lines are read as well."""
    if not text:
        return {}
    headers: dict[str, str] = {}
    if text.lstrip().startswith("{"):
        try:
            headers = {str(k): str(v) for k, v in json.loads(text).items()}
        except (ValueError, AttributeError):
            raise InvalidInput(f"Secret {name}: {key} is no JSON object of headers.") from None
    else:
        for line in filter(None, (raw.strip() for raw in text.splitlines())):
            field_name, _, value = line.partition(":")
            headers[field_name.strip()] = value.strip()
    for field_name, value in headers.items():
        if not _HEADER_NAME.match(field_name) or any(c in value for c in "\r\n\0"):
            raise InvalidInput(f"Secret {name}: {key} has a header that cannot be sent.")
    return headers


_JSON_KEYS: Final = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
    "endpoint_url": "AWS_ENDPOINT_URL",
    "region": "AWS_DEFAULT_REGION",
    "verify_ssl": "S3_VERIFY_SSL",
    "anonymous": "awsAnonymousCredential",
    "certificate": "cabundle.crt",
}


def from_storage_config(
    secret: Secret | None,
    *,
    uri: str,
    key: str | None,
    path: str | None,
    parameters: Mapping[str, str],
) -> tuple[str, Credentials]:
    """KServe's `storage{key, path, parameters}` with its `storage-config` Secret: a URI and credentials.

    Each key of the Secret holds one JSON object (`type`, `bucket`, `access_key_id`, ...), `parameters`
    stand over it. Without `key` it is `default_TYPE` where parameters say the type, else `default`. `uri`,
    when it has a scheme, is what is fetched and the rest is credentials only.
    """
    config: dict[str, str] = {}
    wanted = key or (f"default_{parameters['type']}" if "type" in parameters else "default")
    if secret is not None and wanted in secret.data:
        try:
            config = {str(k): _plain(v) for k, v in json.loads(secret.data[wanted]).items()}
        except (ValueError, AttributeError):
            raise InvalidInput(f"Secret {secret.name}: {wanted} is no JSON object.") from None
    elif key is not None:
        have = ", ".join(sorted(secret.data)) if secret is not None else ""
        raise NotFound(
            f"storage.key: there is no {key!r} in the Secret {STORAGE_CONFIG}.",
            hint=f"It has {have}." if have else f"There is no Secret {STORAGE_CONFIG} here.",
        )
    config.update({k: _plain(v) for k, v in parameters.items()})
    kind = config.get("type", "")
    if "cabundle_configmap" in config:
        raise Unsupported(
            "storage: cabundle_configmap is not served.", hint="Put the PEM text under certificate."
        )
    if "://" not in uri:
        uri = _assemble(kind, config, path if path is not None else uri)
    data = {_JSON_KEYS.get(k, k): v.encode() for k, v in config.items() if v}
    name = f"{STORAGE_CONFIG}, {wanted}"
    for file_key in {"TLS_CERT", "TLS_KEY", "TLS_CA", "KERBEROS_KEYTAB"} & data.keys():
        try:  # KServe wants files in base64 here
            data[file_key] = base64.b64decode(data[file_key], validate=True)
        except binascii.Error:
            raise InvalidInput(f"Secret {name}: {file_key} is not base64.") from None
    return uri, _read(Secret(name, secret.namespace if secret else "default", data))


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _assemble(kind: str, config: Mapping[str, str], path: str) -> str:
    path = path.lstrip("/")
    bucket = config.get("bucket") or config.get("default_bucket", "")
    if kind in ("s3", "gs", "gcs", "az", "azure"):
        if not bucket:
            raise InvalidInput(f"storage: type {kind} needs a bucket, in the key or in parameters.")
        return f"{kind}://{bucket}/{path}"
    if kind in ("hdfs", "webhdfs"):
        return f"{kind}://{path}"
    if kind == "pvc":
        return f"pvc://{config.get('name', '')}/{path}"
    raise InvalidInput(
        f"storage: {kind!r} is no known type."
        if kind
        else "storage: neither key nor parameters say the type.",
        hint="Known are s3, gs, az, hdfs, webhdfs and pvc.",
    )
