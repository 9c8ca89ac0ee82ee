"""From a URI to a verified local folder that never changes.

`fetch` lists what a URI names with the caller's own credentials, and only then looks into the cache: so a
cached model is given to nobody who could not have downloaded it. What is not there is downloaded (resumed,
if an earlier try was killed), unpacked when it is an archive, named by the digest of its contents, and
moved into the cache in one step. The next station is a replica's `ServedModel.path`.

One file per kind of place (`local`, `web`, `s3`, `azure`, `gcs`, `webhdfs`, `hub`) behind `source.Source`;
their libraries are imported on first use.
"""

from __future__ import annotations

from penstock.storage.cache import Cache, Pin, Usage
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
from penstock.storage.environment import from_environment
from penstock.storage.fetching import Fetched, Progress, fetch
from penstock.storage.secrets import (
    STORAGE_CONFIG,
    Secret,
    from_secrets,
    from_storage_config,
    select_secrets,
)
from penstock.storage.settings import Settings
from penstock.storage.uris import redact

__all__ = [
    "STORAGE_CONFIG",
    "AzureCredentials",
    "Cache",
    "Credentials",
    "Fetched",
    "GcsCredentials",
    "HdfsCredentials",
    "HubCredentials",
    "MlflowCredentials",
    "Pin",
    "Progress",
    "S3Credentials",
    "Secret",
    "Settings",
    "Usage",
    "WebCredentials",
    "fetch",
    "from_environment",
    "from_secrets",
    "from_storage_config",
    "redact",
    "select_secrets",
]
