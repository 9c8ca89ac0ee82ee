"""Secrets for a service, from its own namespace only.

Values go into one replica's environment or one fetch's credentials; nothing here keeps or logs them.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock import dialects
from penstock.domain.secrets import Secret
from penstock.domain.service import EnvVar
from penstock.errors import InvalidInput, NotFound
from penstock.store.base import Key, Kind, Object, Store

SECRET = Kind("", "Secret")
SERVICE_ACCOUNT = Kind("", "ServiceAccount")


def secret_of(obj: Object) -> Secret:
    """The domain's Secret of a stored one."""
    found = dialects.find("v1", "Secret").translate(obj).object
    assert isinstance(found, Secret)  # noqa: S101 - what the dialect of Secrets makes
    return found


async def find_secret(store: Store, namespace: str, name: str) -> Secret | None:
    """A Secret of `namespace`, or None."""
    try:
        return secret_of(await store.get(Key(SECRET, namespace, name)))
    except NotFound:
        return None


async def environment(store: Store, namespace: str, env: Iterable[EnvVar]) -> dict[str, str]:
    """Names to values; a reference into a missing Secret or key raises NotFound."""
    out: dict[str, str] = {}
    known: dict[str, Secret] = {}
    for var in env:
        if var.secret_name is None:
            out[var.name] = var.value or ""
            continue
        secret = known.get(var.secret_name) or await find_secret(store, namespace, var.secret_name)
        if var.optional and (secret is None or secret.data.get(var.secret_key or "") is None):
            continue
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
