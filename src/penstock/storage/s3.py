"""`s3://`: Amazon S3 and every store that speaks its protocol.

obstore reads AWS_* variables for whatever it is not told, so it is told everything: otherwise a service's
own key would go out with this process's session token, or to its endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock.errors import InvalidInput
from penstock.storage.credentials import S3Credentials
from penstock.storage.objects import ObjectSource, client_options
from penstock.storage.ranged import refuse_endpoint
from penstock.storage.settings import Settings
from penstock.storage.uris import Location, redact

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential


class S3Source(ObjectSource):
    """One bucket."""

    def __init__(
        self, location: Location, credentials: S3Credentials | None, settings: Settings
    ) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        super().__init__(location.uri, location.root, location.path, settings)
        c = credentials or S3Credentials()
        region = c.region or "us-east-1"
        endpoint = c.endpoint or f"https://s3.{region}.amazonaws.com"
        host = urlsplit(endpoint).hostname
        if not endpoint.startswith(("http://", "https://")) or not host:
            raise InvalidInput(f"The S3 endpoint {redact(endpoint)} is no http or https URL.")
        if c.endpoint:
            refuse_endpoint(host, self.shown, settings)
        self.identity = f"s3:{endpoint}/{location.root}/{location.path}"
        if c.virtual_host:
            scheme, _, rest = endpoint.partition("://")
            endpoint = f"{scheme}://{location.root}.{rest}"
        keyed = bool(c.access_key_id) and not c.anonymous
        self._signed = keyed or (c.ambient and not c.anonymous)
        config: S3Config = {
            "endpoint": endpoint,
            "aws_endpoint_url_s3": endpoint,
            "region": region,
            "virtual_hosted_style_request": c.virtual_host,
            "skip_signature": not self._signed,
            "request_payer": False,
            "s3_express": False,
        }

        def own_keys() -> S3Credential:
            return {
                "access_key_id": c.access_key_id,
                "secret_access_key": c.secret_access_key,
                "token": c.session_token or None,
                "expires_at": None,
            }

        provider: Any = own_keys if keyed else None
        try:
            self.store = S3Store(
                location.root,
                config=config,
                client_options=client_options(
                    settings, endpoint, verify=c.verify_tls, ca_pem=c.ca_pem
                ),
                retry_config={"max_retries": 0},
                credential_provider=provider,
            )
        except (BaseError, OSError, ValueError, TypeError) as error:
            raise self._error(error) from error

    def _hint(self) -> str:
        if self._signed:
            return "Check the key, its rights on the bucket, and the region."
        return (
            "The request had no key: give the service a Secret with AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY."
        )
