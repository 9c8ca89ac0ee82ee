"""What opens a place: one small type per kind of store, and the set of them that one service may use.

A `Credentials` is made by pure functions from a service's own Secrets (`secrets`) or from an environment
(`environment`), and says everything a source may use: a source never looks into the environment by itself,
so a service cannot borrow the control plane's identity. Nothing here shows a value when printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

_NONE: Mapping[str, str] = MappingProxyType({})


class _Silent:
    """Prints which fields are set, never what is in them: an endpoint may hold a password, too."""

    __slots__ = ()

    def __repr__(self) -> str:
        own: Any = self
        names = [f.name for f in fields(own) if getattr(own, f.name) not in ({}, f.default)]
        return f"{type(self).__name__}({', '.join(f'{n}=***' for n in names)})"


@dataclass(frozen=True, slots=True, repr=False)
class S3Credentials(_Silent):
    """S3 and everything that speaks its protocol."""

    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    #: URL with its scheme; empty is AWS itself in `region`.
    endpoint: str = ""
    region: str = ""
    #: False accepts any certificate.
    verify_tls: bool = True
    #: PEM, trusted beside the system's certificates.
    ca_pem: str = ""
    #: Bucket in the host name, not in the path.
    virtual_host: bool = False
    #: Send no signature, whatever keys there are.
    anonymous: bool = False
    #: Without keys: this process's own identity (web identity, container or instance role).
    ambient: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class GcsCredentials(_Silent):
    """Google Cloud Storage."""

    #: A service account's or an authorised user's key, JSON text.
    key_json: str = ""
    endpoint: str = ""
    #: Without a key: Google's application default credentials of this process.
    ambient: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class AzureCredentials(_Silent):
    """Azure Blob Storage. One of key, shared access signature, bearer token, or the three of a client."""

    account: str = ""
    access_key: str = ""
    sas_token: str = ""
    bearer_token: str = ""
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = ""
    endpoint: str = ""
    #: Without any: this process's own identity (workload identity, managed identity).
    ambient: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class HdfsCredentials(_Silent):
    """WebHDFS or HttpFS."""

    #: URL of the name node; with it, all of a URI after the scheme is the path, as KServe has it.
    namenode: str = ""
    root_path: str = ""
    user: str = ""
    #: The user in whose name `user` acts.
    proxy_user: str = ""
    password: str = ""
    delegation_token: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    verify_tls: bool = True
    ca_pem: str = ""
    cert_pem: str = ""
    key_pem: str = ""
    kerberos_principal: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class HubCredentials(_Silent):
    """The Hugging Face hub, or a mirror of it."""

    token: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class MlflowCredentials(_Silent):
    """A tracking store of MLflow's: where it is, and who asks."""

    tracking_uri: str = ""
    token: str = ""
    username: str = ""
    password: str = ""
    ca_pem: str = ""
    #: It may be a file of this machine: said by who started this process.
    local: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class WebCredentials(_Silent):
    """Headers for one host, sent to it and to nobody it redirects to."""

    #: Host name, with `:port` where the port is not the scheme's own.
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What one service may open. The default opens public places only."""

    s3: S3Credentials | None = None
    gcs: GcsCredentials | None = None
    azure: AzureCredentials | None = None
    hdfs: HdfsCredentials | None = None
    hub: HubCredentials | None = None
    web: tuple[WebCredentials, ...] = ()
    mlflow: MlflowCredentials | None = None

    def __repr__(self) -> str:
        held: list[Any] = [getattr(self, f.name) for f in fields(self)]
        return f"Credentials({', '.join(repr(h) for h in held if h)})"

    def or_else(self, other: Credentials) -> Credentials:
        """These; per kind of place the other's where there are none."""
        return Credentials(
            s3=self.s3 or other.s3,
            gcs=self.gcs or other.gcs,
            azure=self.azure or other.azure,
            hdfs=self.hdfs or other.hdfs,
            hub=self.hub or other.hub,
            web=self.web + other.web,
            mlflow=self.mlflow or other.mlflow,
        )

    def headers_for(self, host: str) -> Mapping[str, str]:
        """Headers for `host` (with its port where given); empty when there are none."""
        for w in self.web:
            if w.host.lower() == host.lower():
                return w.headers
        return _NONE
