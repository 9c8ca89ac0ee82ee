"""KServe's LocalModelCache, LocalModelNamespaceCache and LocalModelNodeGroup, serving.kserve.io/v1alpha1.

A cached model is fetched into the machine's model cache when it is applied, and kept there for as long as the
object exists: a service with the same `storageUri` starts without a download. Node groups name the nodes of a
cluster; this machine is in all of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.pod import CLUSTER, Loose
from penstock.dialects.schema import Spec, read
from penstock.dialects.support import Table, no_effect
from penstock.domain.local_model import LocalModel
from penstock.domain.names import subdomain_problem
from penstock.domain.quantity import parse_quantity
from penstock.domain.service import EMPTY, Storage
from penstock.errors import FieldProblem

API_VERSION = "serving.kserve.io/v1alpha1"


class StorageFields(Spec):
    key: str | None = None
    parameters: dict[str, str] | None = None


class LocalModelSpec(Spec):
    source_model_uri: Annotated[str, Field(min_length=1)]
    model_size: Any
    node_groups: Annotated[list[str], Field(min_length=1)] | None = None
    node_group: str | None = None
    service_account_name: str | None = None
    storage: StorageFields | None = None


class LocalModelCache(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: LocalModelSpec
    status: Loose | None = None


class NodeGroupSpec(Spec):
    storage_limit: Any = None
    persistent_volume_spec: Loose | None = None
    persistent_volume_claim_spec: Loose | None = None


class LocalModelNodeGroup(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: NodeGroupSpec
    status: Loose | None = None


TABLE = Table((no_effect("spec.{nodeGroups,nodeGroup}", "this machine is the only node"),))
GROUP_TABLE = Table(
    (
        no_effect("spec.{persistentVolumeSpec,persistentVolumeClaimSpec}", CLUSTER),
        no_effect("spec.storageLimit", "the cache has a limit of its own"),
    )
)


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """LocalModelCache or LocalModelNamespaceCache -> `LocalModel`."""
    unsupported, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(LocalModelCache, manifest)
    if parsed is None:
        refuse(manifest, problems + unsupported)
    namespaced = parsed.kind != "LocalModelCache"
    problems = check_metadata(
        parsed.metadata, name_problem=subdomain_problem, namespaced=namespaced
    )
    problems += unsupported
    spec = parsed.spec
    size = 0
    try:
        size = int(parse_quantity(spec.model_size))
    except ValueError as exc:
        problems.append(FieldProblem("spec.modelSize", str(exc)))
    if size < 0:
        problems.append(FieldProblem("spec.modelSize", "must not be negative"))
    if problems:
        refuse(manifest, problems)
    given = spec.storage or StorageFields()
    return Translation(
        LocalModel(
            namespace=(parsed.metadata.namespace or DEFAULT_NAMESPACE) if namespaced else "",
            name=parsed.metadata.name or "",
            storage=Storage(
                uri=spec.source_model_uri,
                key=given.key,
                parameters=given.parameters or EMPTY,
                service_account=spec.service_account_name,
            ),
            size_bytes=size,
        ),
        tuple(warnings),
    )


def check_update(old: Manifest, new: Manifest) -> list[FieldProblem]:
    """KServe's rule: where the model comes from stays."""
    before = (old.get("spec") or {}).get("sourceModelUri")
    after = (new.get("spec") or {}).get("sourceModelUri")
    if before is None or before == after:
        return []
    message = f"cannot change from {before}; delete the cache and apply it again"
    return [FieldProblem("spec.sourceModelUri", message)]


def translate_group(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """LocalModelNodeGroup -> its name: nothing more of it has a meaning on one machine."""
    unsupported, warnings = GROUP_TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(LocalModelNodeGroup, manifest)
    if parsed is None:
        refuse(manifest, problems + unsupported)
    problems = check_metadata(parsed.metadata, name_problem=subdomain_problem, namespaced=False)
    if problems + unsupported:
        refuse(manifest, problems + unsupported)
    return Translation(parsed.metadata.name or "", tuple(warnings))


def _cache(kind: str, *, namespaced: bool, short: tuple[str, ...]) -> Dialect:
    return Dialect(
        api_version=API_VERSION,
        kind=kind,
        plural=kind.lower() + "s",
        singular=kind.lower(),
        short_names=short,
        namespaced=namespaced,
        model=LocalModelCache,
        table=TABLE,
        translator=translate,
        update_check=check_update,
    )


DIALECTS = (
    _cache("LocalModelCache", namespaced=False, short=("lmc",)),
    _cache("LocalModelNamespaceCache", namespaced=True, short=("lmnc",)),
    Dialect(
        api_version=API_VERSION,
        kind="LocalModelNodeGroup",
        plural="localmodelnodegroups",
        singular="localmodelnodegroup",
        short_names=(),
        namespaced=False,
        model=LocalModelNodeGroup,
        table=GROUP_TABLE,
        translator=translate_group,
    ),
)
