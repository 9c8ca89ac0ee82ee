"""The users' serving runtimes that a namespace's services may choose among."""

from __future__ import annotations

import logging

from penstock import dialects
from penstock.domain.serving_runtime import ServingRuntime
from penstock.errors import InvalidManifest
from penstock.store.base import Kind, Store

log = logging.getLogger(__name__)

GROUPS = ("penstock.dev", "serving.kserve.io")
NAMESPACED = (
    *(Kind(group, "ServingRuntime") for group in GROUPS),
    # Seldon's name for a runtime that models may be pinned to.
    Kind("mlops.seldon.io", "Server"),
)
CLUSTER = tuple(Kind(group, "ClusterServingRuntime") for group in GROUPS)
KINDS = frozenset(NAMESPACED + CLUSTER)


async def runtimes_for(store: Store, namespace: str) -> list[ServingRuntime]:
    """Those of the namespace and of the cluster, in every dialect."""
    found: list[ServingRuntime] = []
    for kind in (*NAMESPACED, *CLUSTER):
        listing = await store.list(kind, namespace=namespace if kind in NAMESPACED else None)
        for obj in listing.items:
            dialect = dialects.find(obj["apiVersion"], obj["kind"])
            try:
                found.append(dialect.translate(obj).object)
            except InvalidManifest as exc:
                log.warning("a stored runtime cannot be read any more and is left out: %s", exc)
    return found
