"""Models' files for controllers: `penstock.storage` with the credentials that one service may use.

Credentials come from the Secrets of the service's own namespace: the one its manifest names, those of its
service account, or the shared `storage-config`. The environment of this process is used only where the
operator allows it (a laptop, where both are the same person). Files are pinned in the cache per revision,
so that nothing evicts what runs or may be rolled back to.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from penstock import storage
from penstock.control.models.fetches import Files
from penstock.control.secrets import SECRET, SERVICE_ACCOUNT
from penstock.domain.local_model import LocalModel
from penstock.domain.service import Component, Storage
from penstock.errors import NotFound, TooLarge
from penstock.store.base import Key, Object, Store

#: Seconds for which the environment's credentials are not read anew: a thousand fetches come at once.
OWN_S = 1.0
#: Pins of revisions have this before them.
_REVISION = "revision:"
#: And those of models that are fetched ahead.
_KEPT = "kept:"


@dataclass(frozen=True, slots=True)
class NoFiles:
    """A model that needs none: a class in an installed package."""

    path: str = ""
    digest: str = ""
    size_bytes: int = 0


class CachedFiles:
    """Fetches into one cache."""

    def __init__(
        self,
        store: Store,
        cache: storage.Cache,
        *,
        base_dir: Path,
        settings: storage.Settings | None = None,
        environment: bool = False,
    ) -> None:
        self._store = store
        self._cache = cache
        self._base_dir = base_dir
        self._settings = settings or storage.Settings()
        #: This process's own credentials may be used for services.
        self._environment = environment
        #: Pins of revisions that were found to be needed at the start, until the others were looked through.
        self._retained: set[str] = set()
        #: When they were read, and what was.
        self._read: tuple[float, storage.Credentials] | None = None

    def uri(self, component: Component) -> str:
        """For people: without signatures and passwords."""
        s = _storage_of(component)
        return storage.redact(s.uri) if s.uri else (s.path or s.key or "no files")

    async def fetch(
        self,
        namespace: str,
        component: Component,
        progress: storage.Progress,
        *,
        revision: str,
    ) -> Files:
        """Raises what `storage.fetch` raises, and NotFound for a Secret that is named and missing."""
        s = _storage_of(component)
        if not s.uri and not s.path and not s.key:
            return NoFiles()
        return await self._fetch(namespace, s, f"{_REVISION}{revision}", progress)

    async def release(self, revision: str) -> None:
        await asyncio.to_thread(self._cache.unpin, f"{_REVISION}{revision}")

    async def keep(self, model: LocalModel) -> Files:
        """Fetch a model ahead of services, and keep it until `drop`. Raises as `fetch` does.

        Secrets are those of the model's namespace; of `default` for one that is for all namespaces.
        """
        if model.size_bytes > self._cache.max_bytes:
            raise TooLarge(
                f"The model's size ({model.size_bytes} bytes) is more than the cache may hold "
                f"({self._cache.max_bytes}).",
            )
        return await self._fetch(
            model.namespace or "default", model.storage, f"{_KEPT}{model.key}", None
        )

    async def _fetch(
        self,
        namespace: str,
        where: Storage,
        pin: str,
        progress: storage.Progress | None,
    ) -> Files:
        uri, credentials = await self._open(namespace, where)
        if self._environment:
            credentials = credentials.or_else(await self._own())
        return await storage.fetch(
            uri,
            cache=self._cache,
            credentials=credentials,
            progress=progress,
            base_dir=self._base_dir,
            settings=self._settings,
            pin=pin,
        )

    async def _own(self) -> storage.Credentials:
        """The environment's credentials, read again as soon as people could have changed them."""
        now = time.monotonic()
        if self._read is None or now - self._read[0] > OWN_S:
            own = await asyncio.to_thread(storage.from_environment, os.environ)
            self._read = now, own
        return self._read[1]

    async def drop(self, key: str) -> None:
        """What was kept may go."""
        await asyncio.to_thread(self._cache.unpin, f"{_KEPT}{key}")

    async def retain_kept(self, keys: Iterable[str]) -> None:
        """Only these are kept: drop what a crash left behind."""
        wanted = {f"{_KEPT}{key}" for key in keys}
        # What revisions need was sorted out a moment ago, as a rule, and need not be read again.
        retained, self._retained = self._retained, set()
        await asyncio.to_thread(self._unpin_others, _KEPT, wanted | retained)

    def _unpin_others(self, prefix: str, known: set[str]) -> None:
        for pin in self._cache.pins_beside(known):
            if pin.owner.startswith(prefix):
                self._cache.unpin(pin.owner)

    async def retain(self, revisions: Iterable[str]) -> None:
        """Release what no revision needs: pins that a crash left behind. Nothing is being fetched."""
        self._retained = {f"{_REVISION}{r}" for r in revisions}
        await asyncio.to_thread(self._unpin_others, _REVISION, self._retained)

    def present(self, path: str) -> bool:
        return not path or os.path.isdir(path)

    async def _open(self, namespace: str, s: Storage) -> tuple[str, storage.Credentials]:
        account_name = s.service_account
        account = await self._get_object(Key(SERVICE_ACCOUNT, namespace, account_name or "default"))
        if account is None and account_name is not None:
            raise NotFound(
                f"There is no ServiceAccount {account_name} in namespace {namespace}.",
                hint="Apply it, or take serviceAccountName out.",
            )
        names = [s.secret] if s.secret else [str(r.get("name", "")) for r in _secrets_of(account)]
        secrets = []
        for name in names:
            obj = await self._get_object(Key(SECRET, namespace, name))
            if obj is not None:
                secrets.append(storage.Secret.from_object(obj))
        chosen = storage.select_secrets(
            secrets, namespace=namespace, named=s.secret, account=account
        )
        annotations = ((account or {}).get("metadata") or {}).get("annotations") or {}
        credentials = storage.from_secrets(
            chosen, named=s.secret is not None, account_annotations=annotations
        )
        if s.key is None and not s.parameters and s.uri:
            return s.uri, credentials
        config = await self._get_object(Key(SECRET, namespace, storage.STORAGE_CONFIG))
        uri, configured = storage.from_storage_config(
            storage.Secret.from_object(config) if config is not None else None,
            uri=s.uri,
            key=s.key,
            path=s.path,
            parameters=s.parameters,
        )
        return uri, configured.or_else(credentials)

    async def _get_object(self, key: Key) -> Object | None:
        try:
            return await self._store.get(key)
        except NotFound:
            return None


def _storage_of(component: Component) -> Storage:
    model = component.model
    assert model is not None  # noqa: S101 - only models have files
    return model.storage


def _secrets_of(account: Object | None) -> list[dict[str, object]]:
    return (account or {}).get("secrets") or []
