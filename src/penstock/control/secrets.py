"""Secrets for a service, from its own namespace only.

Values go into one replica's environment or one fetch's credentials; nothing here keeps or logs them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.domain.secrets import Secret
from penstock.domain.service import EnvVar
from penstock.errors import InvalidInput, NotFound
from penstock.store.base import Key, Kind, Object, Store

SECRET = Kind("", "Secret")
SERVICE_ACCOUNT = Kind("", "ServiceAccount")


def secret_of(obj: Object) -> Secret:
    """The domain's Secret of a stored one. Raises InvalidInput on values that are no base64."""
    meta = obj["metadata"]
    data: dict[str, bytes] = {}
    raw: Mapping[str, Any] = obj.get("data") or {}
    for key, value in raw.items():
        try:
            data[key] = base64.b64decode(value or "", validate=True)
        except (binascii.Error, ValueError) as exc:
            raise InvalidInput(
                f"Secret {meta.get('namespace')}/{meta['name']}: the value of {key} is no base64."
            ) from exc
    return Secret(
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        type=obj.get("type", "Opaque"),
        data=data,
        annotations=meta.get("annotations") or {},
        immutable=bool(obj.get("immutable", False)),
    )


async def find_secret(store: Store, namespace: str, name: str) -> Secret | None:
    """A Secret of `namespace`, or None."""
    try:
        return secret_of(await store.get(Key(SECRET, namespace, name)))
    except NotFound:
        return None


async def secrets_of_account(
    store: Store, namespace: str, account: str | None, *, default: str = "default"
) -> list[Secret]:
    """The Secrets that a service account lists. Naming one that does not exist raises NotFound."""
    try:
        obj = await store.get(Key(SERVICE_ACCOUNT, namespace, account or default))
    except NotFound:
        if account is None:
            return []
        raise NotFound(
            f"There is no ServiceAccount {account} in namespace {namespace}.",
            hint="Apply it, or take serviceAccountName out.",
        ) from None
    found = []
    for entry in obj.get("secrets") or ():
        secret = await find_secret(store, namespace, str(entry.get("name", "")))
        if secret is not None:
            found.append(secret)
    return found


async def environment(store: Store, namespace: str, env: Iterable[EnvVar]) -> dict[str, str]:
    """Names to values; a reference into a missing Secret or key raises NotFound."""
    out: dict[str, str] = {}
    known: dict[str, Secret] = {}
    for var in env:
        if var.secret_name is None:
            out[var.name] = var.value or ""
            continue
        secret = known.get(var.secret_name) or await find_secret(store, namespace, var.secret_name)
        if secret is None:
            raise NotFound(
                f"The environment variable {var.name} refers to Secret {var.secret_name}, "
                f"which does not exist in namespace {namespace}."
            )
        known[var.secret_name] = secret
        try:
            value = secret.text(var.secret_key or "")
        except UnicodeDecodeError:
            raise InvalidInput(
                f"The environment variable {var.name} refers to {var.secret_name}/{var.secret_key}, "
                "which is no text."
            ) from None
        if value is None:
            raise NotFound(
                f"The environment variable {var.name} refers to the key {var.secret_key} of Secret "
                f"{var.secret_name}, which has no such key."
            )
        out[var.name] = value
    return out
