"""KServe's ClusterStorageContainer, serving.kserve.io/v1alpha1: a downloader of one's own for some URIs.

The platform fetches models itself, without a container. So an object for URIs that it knows is accepted and
has no effect; one for URIs that nothing here can fetch is refused, with those URIs' formats.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.metadata import ObjectMeta, check_metadata
from penstock.dialects.pod import Loose
from penstock.dialects.schema import Spec, read
from penstock.dialects.support import Table, no_effect
from penstock.domain.names import subdomain_problem
from penstock.errors import FieldProblem

#: What a URI may begin with that is fetched here.
FETCHED = (
    "gs://", "gcs://", "s3://", "s3a://", "http://", "https://", "hdfs://", "webhdfs://", "pvc://",
    "file://", "hf://", "az://", "abfs://", "abfss://", "wasb://", "wasbs://", "models:", "runs:",
    "mlflow-artifacts:",
)  # fmt: skip


class UriFormat(Spec):
    prefix: str | None = None
    regex: str | None = None


class StorageContainerSpec(Spec):
    container: Loose
    supported_uri_formats: Annotated[list[UriFormat], Field(min_length=1)]
    workload_type: Literal["initContainer", "localModelDownloadJob"] | None = None
    supports_multi_model_download: bool | None = None


class ClusterStorageContainer(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: StorageContainerSpec
    status: Loose | None = None
    #: KServe has it beside the spec.
    disabled: bool | None = None


TABLE = Table(
    (no_effect("spec.container", "models are fetched by the platform itself, without a container"),)
)


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """ClusterStorageContainer -> the formats it names."""
    unsupported, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(ClusterStorageContainer, manifest)
    if parsed is None:
        refuse(manifest, problems + unsupported)
    problems = check_metadata(parsed.metadata, name_problem=subdomain_problem, namespaced=False)
    problems += unsupported
    formats = []
    for i, given in enumerate(parsed.spec.supported_uri_formats):
        at = f"spec.supportedUriFormats[{i}]"
        if (given.prefix is None) == (given.regex is None):
            problems.append(FieldProblem(at, "must have either prefix or regex"))
            continue
        text = given.prefix if given.prefix is not None else given.regex or ""
        formats.append(text)
        if given.regex is not None:
            try:
                re.compile(given.regex)
            except re.error as exc:
                problems.append(FieldProblem(f"{at}.regex", f"is no regular expression: {exc}"))
                continue
        if parsed.disabled or runs_containers:
            continue
        known = re.sub(r"[\\^()?]", "", text)
        if not known.startswith(FETCHED):
            field = "prefix" if given.prefix is not None else "regex"
            problems.append(
                FieldProblem(
                    f"{at}.{field}",
                    "nothing here fetches such URIs, and a container cannot be run to do it; known are "
                    + ", ".join(FETCHED),
                )
            )
    if problems:
        refuse(manifest, problems)
    return Translation(tuple(formats), tuple(warnings))


DIALECT = Dialect(
    api_version="serving.kserve.io/v1alpha1",
    kind="ClusterStorageContainer",
    plural="clusterstoragecontainers",
    singular="clusterstoragecontainer",
    short_names=(),
    namespaced=False,
    model=ClusterStorageContainer,
    table=TABLE,
    translator=translate,
)
