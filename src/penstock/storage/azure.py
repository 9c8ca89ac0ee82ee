"""`az://CONTAINER/PATH`, `abfss://CONTAINER@ACCOUNT...` and blobs' own https URLs: Azure Blob Storage.

As with S3, obstore is told everything, so that no AZURE_* variable of this process gets into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from penstock.errors import InvalidInput
from penstock.storage.credentials import AzureCredentials
from penstock.storage.objects import ObjectSource, client_options
from penstock.storage.ranged import refuse_endpoint
from penstock.storage.settings import Settings
from penstock.storage.uris import Location, redact

if TYPE_CHECKING:
    from obstore.store import AzureConfig


class AzureSource(ObjectSource):
    """One container."""

    def __init__(
        self, location: Location, credentials: AzureCredentials | None, settings: Settings
    ) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore

        super().__init__(location.uri, location.root, location.path, settings)
        c = credentials or AzureCredentials()
        account = location.detail or c.account
        if not account:
            raise InvalidInput(
                f"{self.shown} does not say whose container it is.",
                hint="Write https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH, "
                "or put AZURE_STORAGE_ACCOUNT into the Secret.",
            )
        own_url = location.detail and location.uri.startswith("https://")
        host_url = f"https://{urlsplit(location.uri).netloc}" if own_url else ""
        # Keys are for one account: nobody else's URL gets a signature made with them.
        if c.account and c.account != account:
            c = AzureCredentials()
        endpoint = c.endpoint or host_url or f"https://{account}.blob.core.windows.net"
        host = urlsplit(endpoint).hostname
        if not endpoint.startswith(("http://", "https://")) or not host:
            raise InvalidInput(f"The Azure endpoint {redact(endpoint)} is no http or https URL.")
        if c.endpoint:
            refuse_endpoint(host, self.shown, settings)
        self.identity = f"az:{endpoint}/{account}/{location.root}/{location.path}"
        config: AzureConfig = {
            "account_name": account,
            "endpoint": endpoint,
            "use_emulator": False,
            "use_azure_cli": False,
            "use_fabric_endpoint": False,
            "skip_signature": False,
        }
        if location.query:
            config["sas_key"] = location.query
            config["credential_type"] = "sas_token"
        elif c.sas_token:
            config["sas_key"] = c.sas_token
            config["credential_type"] = "sas_token"
        elif c.access_key:
            config["account_key"] = c.access_key
            config["credential_type"] = "access_key"
        elif c.bearer_token:
            config["token"] = c.bearer_token
            config["credential_type"] = "bearer_token"
        elif c.client_secret:
            config["tenant_id"] = c.tenant_id
            config["client_id"] = c.client_id
            config["client_secret"] = c.client_secret
            config["credential_type"] = "client_secret"
            config["authority_host"] = "https://login.microsoftonline.com"
        elif not c.ambient:
            config["skip_signature"] = True
        self._signed = not config["skip_signature"]
        try:
            self.store = AzureStore(
                location.root,
                config=config,
                client_options=client_options(settings, endpoint, verify=True, ca_pem=""),
                retry_config={"max_retries": 0},
            )
        except (BaseError, OSError, ValueError, TypeError) as error:
            raise self._error(error) from error

    def _hint(self) -> str:
        if self._signed:
            return "Check the key or the signature, and its rights on the container."
        return (
            "The request had no key: give the service a Secret with AZURE_STORAGE_ACCESS_KEY, "
            "or use a URL with a shared access signature."
        )
