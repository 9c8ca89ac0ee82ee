"""`hf://ORGANISATION/MODEL[:REVISION]`: a repository on the Hugging Face hub, or on a mirror of it.

huggingface_hub says what is in the repository and at which commit; the files come over our own ranged
client from that commit, so they land in the one cache, are resumed and checked like all others, and no
second cache grows in somebody's home.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from penstock.errors import (
    Forbidden,
    InvalidInput,
    LoadError,
    NotFound,
    PenstockError,
    Unauthorized,
)
from penstock.storage.credentials import HubCredentials
from penstock.storage.download import in_thread
from penstock.storage.ranged import RangedClient, refuse_endpoint, status_error
from penstock.storage.settings import Settings
from penstock.storage.source import (
    Changed,
    Entry,
    Listing,
    Source,
    Transient,
    check_entries,
    relative_path,
)
from penstock.storage.uris import Location, redact

_HUB: Final = "https://huggingface.co"


class HubSource(Source):
    """One repository at one revision."""

    def __init__(
        self, location: Location, credentials: HubCredentials | None, settings: Settings
    ) -> None:
        super().__init__(location.uri)
        c = credentials or HubCredentials()
        self._repository = location.root
        self._revision = location.detail or None
        self._token = c.token
        self._endpoint = c.endpoint.rstrip("/") or _HUB
        self._settings = settings
        parts = urlsplit(self._endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"HF_ENDPOINT {redact(self._endpoint)} is no http or https URL.")
        if c.endpoint:
            refuse_endpoint(parts.hostname, self.shown, settings)
        self.identity = f"hf:{self._endpoint}/{location.root}"
        try:
            import huggingface_hub  # noqa: F401 - its absence is said now, not in a thread
        except ImportError as error:
            raise LoadError(
                f"{self.shown}: hf:// needs the package huggingface_hub.",
                hint="pip install 'penstock[hub]'",
            ) from error

        def headers_for(asked: str) -> Mapping[str, str]:
            mine = bool(self._token) and asked.lower() == parts.netloc.lower()
            return {"authorization": f"Bearer {self._token}"} if mine else {}

        self._client = RangedClient(settings, headers_for)

    async def list(self) -> Listing:
        return await in_thread(self._list)

    def _list(self) -> Listing:
        import huggingface_hub
        from huggingface_hub import errors

        # token=False: not the one in this process's environment or home.
        api = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token or False)
        network: tuple[type[Exception], ...] = (OSError,)
        if isinstance(wire := getattr(errors, "HTTPError", None), type):
            network = (OSError, wire)
        try:
            info = api.model_info(
                self._repository,
                revision=self._revision,
                files_metadata=True,
                timeout=self._settings.idle_s,
            )
        except errors.HFValidationError as error:
            raise InvalidInput(f"{self.shown}: {error}.") from error
        except network as error:
            raise self._error(error) from error
        base = f"{self._endpoint}/{self._repository}/resolve/{quote(info.sha or 'main', safe='')}"
        entries = [
            Entry(
                relative_path(s.rfilename, self.shown),
                f"{base}/{quote(s.rfilename)}",
                s.size,
                (s.lfs.sha256 if s.lfs else None) or s.blob_id or info.sha,
                s.lfs.sha256 if s.lfs else None,
            )
            for s in info.siblings or ()
        ]
        if not entries:
            raise NotFound(f"There is no file in the repository {self.shown}.")
        return Listing(check_entries(entries, self.shown, self._settings.max_files))

    async def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        # The commit is in the URL, so the bytes cannot change under it and a range needs no condition.
        opened = await self._client.open(entry.key, self.shown, offset=offset)
        if entry.size_bytes is not None and opened.size_bytes not in (None, entry.size_bytes):
            await opened.response.aclose()
            raise Changed
        skip = offset if opened.response.status_code == 200 else 0
        async for chunk in self._client.read(opened, self.shown, skip):
            yield chunk

    async def close(self) -> None:
        await self._client.close()

    def _error(self, error: Exception) -> PenstockError | Transient:
        from huggingface_hub import errors

        response: Any = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(error, errors.RevisionNotFoundError):
            return NotFound(f"{self.shown}: the repository has no revision {self._revision!r}.")
        if isinstance(error, errors.GatedRepoError):
            return Forbidden(
                f"{self.shown} is gated.",
                hint="Accept its terms on the hub, and give the service a Secret with HF_TOKEN.",
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            # The hub answers 401 for what is not there, to those it does not know.
            if self._token:
                return NotFound(
                    f"There is no repository {self._repository} that this token may see."
                )
            return Unauthorized(
                f"There is no public repository {self._repository} on {self._endpoint}.",
                hint="Check the spelling; a private one needs a Secret with HF_TOKEN.",
            )
        if status is not None:
            return status_error(status, self.shown, getattr(response, "headers", {}))
        return Transient(f"{self.shown}: {redact(' '.join(str(error).split())[:300])}")
