"""Kubernetes' own kinds that serving needs: Secret, ServiceAccount and Namespace, version v1."""

from __future__ import annotations

import base64
import binascii
from types import MappingProxyType
from typing import Any

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.pod import Loose
from penstock.dialects.schema import Spec, path, read
from penstock.dialects.support import Table, no_effect
from penstock.domain.names import label_problem, secret_key_problem, subdomain_problem
from penstock.domain.secrets import Namespace, Secret, ServiceAccount
from penstock.errors import FieldProblem

#: Kubernetes' limit for all values of a Secret.
MAX_SECRET_BYTES = 1024 * 1024


class SecretManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    type: str | None = None
    data: dict[str, str] | None = None
    string_data: dict[str, str] | None = None
    immutable: bool | None = None


class ObjectReference(Spec):
    name: str | None = None
    kind: str | None = None
    namespace: str | None = None
    api_version: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    field_path: str | None = None


class ServiceAccountManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    secrets: list[ObjectReference] | None = None
    image_pull_secrets: list[ObjectReference] | None = None
    automount_service_account_token: bool | None = None


class NamespaceManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: Loose | None = None
    status: Loose | None = None


NO_TABLE = Table(())
ACCOUNT_TABLE = Table(
    (
        no_effect(
            "{imagePullSecrets,automountServiceAccountToken}",
            "is for a cluster; replicas are processes of this machine",
        ),
    )
)


def translate_secret(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """Secret -> `domain.Secret`. No problem ever shows a value."""
    parsed, problems = read(SecretManifest, manifest)
    if parsed is None:
        refuse(manifest, problems)
    problems = check_metadata(parsed.metadata, name_problem=subdomain_problem, namespaced=True)
    values: dict[str, bytes] = {}
    for key, encoded in (parsed.data or {}).items():
        try:
            values[key] = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            problems.append(
                FieldProblem(path(("data", key)), "is no base64; plain text belongs in stringData")
            )
    values.update({k: v.encode() for k, v in (parsed.string_data or {}).items()})
    for where, keys in (("data", parsed.data), ("stringData", parsed.string_data)):
        for key in keys or ():
            problem = secret_key_problem(key)
            if problem:
                problems.append(FieldProblem(path((where, key)), problem))
    size = sum(map(len, values.values()))
    if size > MAX_SECRET_BYTES:
        problems.append(FieldProblem("data", f"{size} bytes; at most {MAX_SECRET_BYTES} fit"))
    if problems:
        refuse(manifest, problems)
    return Translation(
        Secret(
            namespace=parsed.metadata.namespace or DEFAULT_NAMESPACE,
            name=parsed.metadata.name or "",
            type=parsed.type or "Opaque",
            data=MappingProxyType(values),
            annotations=MappingProxyType(dict(parsed.metadata.annotations or {})),
            immutable=bool(parsed.immutable),
        )
    )


def admit_secret(manifest: Manifest) -> dict[str, Any]:
    """stringData goes into data, as Kubernetes keeps it; the type is Opaque unless said."""
    kept = {k: v for k, v in manifest.items() if k != "stringData"}
    texts = manifest.get("stringData") or {}
    encoded = {k: base64.b64encode(v.encode()).decode() for k, v in texts.items()}
    if encoded:
        kept["data"] = {**(manifest.get("data") or {}), **encoded}
    kept.setdefault("type", "Opaque")
    return kept


def check_secret_update(old: Manifest, new: Manifest) -> list[FieldProblem]:
    """The type stays; an immutable Secret stays as it is."""
    problems = []
    if (old.get("type") or "Opaque") != (new.get("type") or "Opaque"):
        problems.append(FieldProblem("type", "cannot be changed"))
    if old.get("immutable"):
        if not new.get("immutable"):
            problems.append(FieldProblem("immutable", "cannot be taken back"))
        if (old.get("data") or {}) != (admit_secret(new).get("data") or {}):
            problems.append(FieldProblem("data", "cannot be changed: the Secret is immutable"))
    return problems


def translate_account(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """ServiceAccount -> `domain.ServiceAccount`."""
    _, warnings = ACCOUNT_TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(ServiceAccountManifest, manifest)
    if parsed is None:
        refuse(manifest, problems)
    problems = check_metadata(parsed.metadata, name_problem=subdomain_problem, namespaced=True)
    names = []
    for i, reference in enumerate(parsed.secrets or ()):
        if not reference.name:
            problems.append(FieldProblem(path(("secrets", i, "name")), "is required"))
        else:
            names.append(reference.name)
    if problems:
        refuse(manifest, problems)
    return Translation(
        ServiceAccount(
            namespace=parsed.metadata.namespace or DEFAULT_NAMESPACE,
            name=parsed.metadata.name or "",
            secrets=tuple(names),
            annotations=MappingProxyType(dict(parsed.metadata.annotations or {})),
        ),
        tuple(warnings),
    )


def translate_namespace(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """Namespace -> `domain.Namespace`."""
    parsed, problems = read(NamespaceManifest, manifest)
    if parsed is None:
        refuse(manifest, problems)
    problems = check_metadata(parsed.metadata, name_problem=label_problem, namespaced=False)
    if problems:
        refuse(manifest, problems)
    return Translation(
        Namespace(
            name=parsed.metadata.name or "",
            labels=MappingProxyType(dict(parsed.metadata.labels or {})),
            annotations=MappingProxyType(dict(parsed.metadata.annotations or {})),
        )
    )


DIALECTS = (
    Dialect(
        api_version="v1",
        kind="Secret",
        plural="secrets",
        singular="secret",
        short_names=(),
        namespaced=True,
        model=SecretManifest,
        table=NO_TABLE,
        translator=translate_secret,
        update_check=check_secret_update,
        admission=admit_secret,
        secret_fields=("data", "stringData"),
    ),
    Dialect(
        api_version="v1",
        kind="ServiceAccount",
        plural="serviceaccounts",
        singular="serviceaccount",
        short_names=("sa",),
        namespaced=True,
        model=ServiceAccountManifest,
        table=ACCOUNT_TABLE,
        translator=translate_account,
    ),
    Dialect(
        api_version="v1",
        kind="Namespace",
        plural="namespaces",
        singular="namespace",
        short_names=("ns",),
        namespaced=False,
        model=NamespaceManifest,
        table=NO_TABLE,
        translator=translate_namespace,
    ),
)
