"""`penstock apply`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TypeAlias

from penstock.cli.client import ApiFailure, Client, Kinds
from penstock.cli.documents import Manifest, read
from penstock.cli.exits import FAILED, CliError
from penstock.cli.output import StatusLine, note, say
from penstock.cli.waiting import Target, wait_for_condition
from penstock.domain.status import STOPPED

#: Manifests that are on their way to the server at a time.
AT_ONCE = 8
#: Target, `created`, `configured` or `unchanged`, and warnings.
Applied: TypeAlias = tuple[Target, str, tuple[str, ...]]
#: What others refer to, or are held to, comes first.
_ORDER = {
    "Namespace": 0,
    "Secret": 1,
    "ServiceAccount": 2,
    "ClusterServingRuntime": 3,
    "ClusterStorageContainer": 3,
    "PriorityClass": 3,
    "ResourceQuota": 3,
    "Server": 3,
    "ServingRuntime": 3,
}
_LAST = 9


def apply(
    client: Client,
    names: list[str],
    *,
    namespace: str | None,
    wait: bool,
    timeout_s: float,
    dry_run: bool,
) -> None:
    """Apply every manifest; say what became of each, and every mistake with its line.

    All manifests are tried; CliError afterwards if one was refused.
    """
    manifests = read(names)
    kinds = Kinds(client)
    failures: list[CliError] = []
    services: list[Target] = []
    unchanged = False
    line = StatusLine()
    applied = _apply_all(client, kinds, manifests, namespace, dry_run)
    for i, (manifest, outcome) in enumerate(applied):
        if len(manifests) > 50:
            line.count(i + 1, len(manifests), f"applying {i + 1} of {len(manifests)}")
        try:
            target, what, warnings = outcome()
        except ApiFailure as exc:
            line.clear()
            _report(manifest, exc)
            failures.append(exc)
            continue
        except CliError as exc:
            if exc.code != FAILED:
                raise
            line.clear()
            note(f"error: {exc.message}")
            failures.append(exc)
            continue
        line.clear()
        say(f"{_qualified(target)} {what}{' (dry run)' if dry_run else ''}")
        for warning in warnings:
            path, _, text = warning.partition(": ")
            note(f"warning: {manifest.where(path)}: {path}: {text}")
        if target.kind.is_service:
            services.append(target)
            unchanged |= what == "unchanged"
    if failures:
        codes = {f.code for f in failures}
        raise CliError(
            f"{len(failures)} of {len(manifests)} manifests were refused.",
            codes.pop() if len(codes) == 1 else FAILED,
        )
    if wait and services and not dry_run:
        wait_for_condition(
            client,
            services,
            "Ready",
            "True",
            timeout_s,
            give_up=True,
            tried_again=unchanged,
            on_met=_met,
        )


def _apply_all(
    client: Client,
    kinds: Kinds,
    manifests: list[Manifest],
    namespace: str | None,
    dry_run: bool,
) -> Iterator[tuple[Manifest, Callable[[], Applied]]]:
    """Each manifest and what became of it, in order; some are on their way at a time.

    What others refer to is there before they are sent; of two manifests of one object the later is sent last.
    """
    ranked = sorted(zip(_ranks(manifests), manifests, strict=True), key=lambda r: r[0])
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        try:
            for _, same in groupby(ranked, key=lambda r: r[0]):
                group = [
                    (m, pool.submit(_apply_one, client, kinds, m, namespace, dry_run))
                    for _, m in same
                ]
                for manifest, future in group:
                    yield manifest, future.result
        finally:
            # Somebody gave up: what was not sent is not sent any more.
            pool.shutdown(wait=False, cancel_futures=True)


def _ranks(manifests: list[Manifest]) -> Iterator[tuple[int, int]]:
    """For each: its kind's place, and how many manifests of the same object came before it."""
    before: Counter[str] = Counter()
    for manifest in manifests:
        document, kind = manifest.document, _kind(manifest)
        metadata = document.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        # Whatever stands there: what is wrong with it is said when it is sent.
        same = repr((kind, metadata.get("namespace"), metadata.get("name")))
        yield _ORDER.get(kind, _LAST), before[same]
        before[same] += 1


def _met(target: Target, reason: str) -> None:
    say(f"{_qualified(target)} {'stopped' if reason == STOPPED.reason else 'ready'}")


def _kind(manifest: Manifest) -> str:
    return str(manifest.document.get("kind", ""))


def _qualified(target: Target) -> str:
    kind = target.kind
    front = f"{kind.singular}.{kind.group}" if kind.group else kind.singular
    return f"{front}/{target.name}"


def target_of(kinds: Kinds, manifest: Manifest, namespace: str | None) -> Target:
    """The object a manifest is about. CliError with the manifest's place when that cannot be told."""
    document = manifest.document
    where = f"{manifest.file}:{manifest.line}"
    for field in ("apiVersion", "kind"):
        _check_text(manifest, field, document.get(field))
    kind = kinds.of(document["apiVersion"], document["kind"])
    if kind is None:
        raise CliError(f"{where}: {_unknown_kind(kinds, document['apiVersion'], document['kind'])}")
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    _check_text(manifest, "metadata.name", metadata.get("name"))
    given = metadata.get("namespace")
    if given and namespace and given != namespace:
        raise CliError(
            f"{manifest.where('metadata.namespace')}: the namespace is {given}, but -n says {namespace}."
        )
    return Target(kind, str(given or namespace or "default"), metadata["name"])


def _check_text(manifest: Manifest, field: str, value: object) -> None:
    if value is None or value == "":
        raise CliError(f"{manifest.file}:{manifest.line}: {field} is missing.")
    if not isinstance(value, str):
        kind = {bool: "true or false", int: "a number", float: "a number", dict: "a map"}
        raise CliError(
            f"{manifest.where(field)}: {field} is {kind.get(type(value), 'a list')} to YAML, not text. "
            "Put it in quotes if it is meant as text."
        )


def _unknown_kind(kinds: Kinds, api_version: str, kind: str) -> str:
    same = [k for k in kinds.all if k.kind == kind]
    if same:
        versions = " and ".join(k.api_version for k in same)
        return f"apiVersion {api_version!r} is not served; {kind} is known as {versions}."
    import difflib

    near = difflib.get_close_matches(kind, [k.kind for k in kinds.all], n=1, cutoff=0.8)
    hint = f" Did you mean {near[0]}?" if near else ""
    if not near and _of_clusters(api_version):
        hint = " It is for a cluster and has no part in serving here; leave it out."
    return f"{api_version} {kind} is not served.{hint}"


#: Groups of Kubernetes' own kinds, and domains of those that come with a cluster beside a model server's.
_CLUSTERS = frozenset(("", "apps", "autoscaling", "batch", "policy"))
_CLUSTER_DOMAINS = (".k8s.io", ".istio.io", ".knative.dev", ".getambassador.io")


def _of_clusters(api_version: str) -> bool:
    """Whether peers' examples have objects of the version for their cluster's sake."""
    group = api_version.rpartition("/")[0]
    return group in _CLUSTERS or group.endswith(_CLUSTER_DOMAINS)


def _apply_one(
    client: Client, kinds: Kinds, manifest: Manifest, namespace: str | None, dry_run: bool
) -> Applied:
    target = target_of(kinds, manifest, namespace)
    query = {"fieldManager": "penstock"}
    if dry_run:
        query["dryRun"] = "All"
    answer = client.call(
        "PATCH",
        target.kind.path(target.namespace if target.kind.namespaced else None, target.name),
        query=query,
        body=_encode(manifest),
        content_type="application/apply-patch+yaml",
    )
    return target, answer.headers.get("penstock-result", "applied"), answer.warnings


def _encode(manifest: Manifest) -> bytes:
    """JSON is YAML; what YAML can say and JSON cannot has no place in a manifest."""
    try:
        return json.dumps(manifest.document, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise CliError(
            f"{manifest.file}:{manifest.line}: the manifest is not plain data: {exc}."
        ) from exc


def _report(manifest: Manifest, exc: ApiFailure) -> None:
    if not exc.causes:
        note(f"error: {manifest.file}:{manifest.line}: {exc.message}")
    for path, message in exc.causes:
        text = f"{path}: {message}" if path else message
        note(f"error: {manifest.where(path)}: {text}")
