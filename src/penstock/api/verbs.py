"""Which method on which resource is which verb, and how its answer is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from penstock.api import (
    pods,
    reviews,
    scale,
    streams,
    tables,
)
from penstock.api.admission import parse, parse_any, warning_headers
from penstock.api.deletions import DeleteOptions, Deletions
from penstock.api.kinds import POD, READINGS, REPLICA, Resource
from penstock.api.objects import PATCHES, Objects, Written, list_of
from penstock.api.paths import Target
from penstock.api.paths import parse as parse_path
from penstock.api.read_options import ListOptions, WatchOptions, is_watch, number
from penstock.api.readings import Readings
from penstock.api.redaction import redact
from penstock.api.selections import Selection
from penstock.api.statuses import Statuses
from penstock.api.wire import ApiError, json_response, missing
from penstock.api.write_options import WriteOptions
from penstock.control.plane import ControlPlane
from penstock.domain.selectors import FieldSelector
from penstock.errors import InvalidInput
from penstock.store.base import Expired, Listing, Object, Watch

_APPLY = "application/apply-patch+yaml"
#: What Kubernetes lets clients do inside of a container.
_INTO_PODS = ("attach", "exec", "portforward", "proxy", "eviction", "binding")
_STRATEGIC = "application/strategic-merge-patch+json"


class Verbs:
    """`resource` for every path of an object or a list, `review` for reviews."""

    def __init__(self, plane: ControlPlane, stop: asyncio.Event) -> None:
        self._plane = plane
        self.store = plane.store
        self._stop = stop
        self._objects = Objects(plane)
        self.readings = Readings(plane)
        self._statuses = Statuses(self._objects, plane.store)
        self._deletions = Deletions(self._objects, plane.store)

    # -- objects -----------------------------------------------------------------------------------

    async def resource(self, request: Request) -> Response:
        target = parse_path(request.url.path)
        if target.below is not None:
            return await self._below(request, target)
        if target.resource in READINGS and request.method not in ("GET", "HEAD"):
            raise ApiError(
                405, f"{target.resource.plural} are made by the platform and cannot be written."
            )
        if request.method in ("GET", "HEAD"):  # a watch takes for ever
            return await self._target(request, target)
        with self._plane.loop.giving_way():
            return await self._target(request, target)

    async def _target(self, request: Request, target: Target) -> Response:
        if target.name is None:
            return await self._collection(request, target)
        return await self._object(request, target, target.name)

    async def _collection(self, request: Request, target: Target) -> Response:
        query = request.query_params
        if request.method == "POST":
            if target.namespace is None:
                raise _not_allowed(request)
            written = await self._objects.create(
                target.resource, target.namespace, await _document(request), _options(request)
            )
            return _written(written, 201)
        selection = Selection.read(query, target.resource)
        if request.method == "DELETE":
            options = DeleteOptions.read(query, await _document(request, empty=True))
            listed = await self._deletions.delete_many(
                target.resource, target.namespace, selection, options
            )
            return json_response(listed)
        if request.method != "GET":
            raise _not_allowed(request)
        if is_watch(query):
            return self._watch(request, target, selection)
        wanted = ListOptions.read(query)
        document = await self.listed(target.resource, target.namespace, selection, wanted)
        wanted.check_reached(int(document["metadata"]["resourceVersion"]))
        return _shown(request, target, document)

    async def listed(
        self,
        resource: Resource,
        namespace: str | None,
        selection: Selection,
        options: ListOptions,
    ) -> dict[str, Any]:
        if resource not in READINGS:
            return await self._objects.list(
                resource,
                namespace,
                selection,
                limit=options.limit,
                continue_=options.continue_,
                version=options.version,
            )
        if options.continue_:
            raise InvalidInput("The continue token is none that a list has given.")
        listing = await self.readings.list(resource, namespace, selection)
        if options.version not in (None, listing.version):
            raise Expired(f"version {options.version} of {resource.plural} is not kept")
        return list_of(resource, listing)

    def _watch(self, request: Request, target: Target, selection: Selection) -> Response:
        resource, namespace = target.resource, target.namespace
        source = _Source(self, resource, namespace, selection)
        options = WatchOptions.read(request.query_params)
        return StreamingResponse(
            streams.watch(
                source,
                resource,
                # Of a kind that has no namespaces all are meant.
                namespace if resource.namespaced else None,
                selection,
                options,
                self._stop,
                _shape(request, target),
            ),
            media_type="application/json",
        )

    async def _object(self, request: Request, target: Target, name: str) -> Response:
        resource, namespace = target.resource, target.namespace or ""
        if request.method == "GET":
            if is_watch(request.query_params):
                fields = FieldSelector((("metadata.name", True, name),))
                return self._watch(request, target, Selection(fields=fields))
            return _shown(request, target, await self._get(resource, namespace, name))
        if request.method == "PUT":
            document = await _document(request)
            return _written(
                await self._objects.replace(resource, namespace, name, document, _options(request))
            )
        if request.method == "PATCH":
            kind = _kind_of_patch(request)
            if kind == _APPLY:
                options = _options(request, applies=True)
                document = await _document(request)
                written = await self._objects.apply(resource, namespace, name, document, options)
                return _written(written, 201 if written.what == "created" else 200)
            patch = await _patch(request, resource, kind)
            return _written(
                await self._objects.patch(resource, namespace, name, kind, patch, _options(request))
            )
        if request.method == "DELETE":
            document = await _document(request, empty=True)
            deletion = DeleteOptions.read(request.query_params, document)
            return json_response(await self._deletions.delete(resource, namespace, name, deletion))
        raise _not_allowed(request)

    async def _get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        if resource not in READINGS:
            return await self._objects.get(resource, namespace, name)
        named = Selection(fields=FieldSelector((("metadata.name", True, name),)))
        listing = await self.readings.list(resource, namespace or None, named)
        if not listing.items:
            raise missing(resource, namespace, name)
        return listing.items[0]

    async def _below(self, request: Request, target: Target) -> Response:
        name = target.name or ""
        namespace = target.namespace or ""
        if target.below == "scale" and scale.can_scale(target.resource):
            return await self._scale(request, target.resource, namespace, name)
        if target.below == "status" and target.resource.has_status:
            return await self._status(request, target.resource, namespace, name)
        if target.resource is POD and target.below in _INTO_PODS:
            raise ApiError(
                405,
                f"{target.below} is not possible: a replica here is a process, not a container.",
            )
        if request.method != "GET":
            raise _not_allowed(request)
        if target.below == "logs" and (target.resource.is_service or target.resource is REPLICA):
            return await self._logs(request, target, namespace, name)
        if target.below == "log" and target.resource is POD:
            return await self._logs(request, target, namespace, name)
        raise ApiError(404, f"There is no {target.below} below {target.resource.plural}.")

    async def _status(
        self, request: Request, resource: Resource, namespace: str, name: str
    ) -> Response:
        if request.method == "GET":
            return json_response(await self._objects.get(resource, namespace, name))
        kind = _kind_of_patch(request)
        applies = request.method == "PATCH" and kind == _APPLY
        if request.method == "PUT" or applies:
            document = await _document(request)

            def make(stored: Object) -> tuple[Mapping[str, Any], bool]:
                return document, applies

        elif request.method == "PATCH":
            patch = await _patch(request, resource, kind)

            def make(stored: Object) -> tuple[Mapping[str, Any], bool]:
                shown = redact(stored, resource.dialect)
                patched = PATCHES[kind](shown, patch)
                if not isinstance(patched, dict):
                    raise InvalidInput("What the patch makes is no object.")
                return patched, False

        else:
            raise _not_allowed(request)
        options = _options(request, applies=applies)
        return _written(await self._statuses.write(resource, namespace, name, make, options))

    async def _scale(
        self, request: Request, resource: Resource, namespace: str, name: str
    ) -> Response:
        now = scale.scale_of(resource, await self._objects.get(resource, namespace, name))
        if request.method == "GET":
            return json_response(now)
        if request.method == "PUT":
            wanted = await _document(request)
        elif request.method == "PATCH":
            kind = _kind_of_patch(request)
            patch = await _patch(request, resource, kind)
            wanted = PATCHES[kind](now, patch)
            given = patch.get("metadata") if isinstance(patch, dict) else None
            if not (isinstance(given, dict) and given.get("resourceVersion")):
                wanted = {"spec": wanted.get("spec")} if isinstance(wanted, dict) else wanted
        else:
            raise _not_allowed(request)
        changed = scale.as_patch(resource, name, wanted)
        written = await self._objects.patch(
            resource,
            namespace,
            name,
            "application/merge-patch+json",
            changed,
            _options(request),
            subresource="scale",
        )
        return json_response(scale.scale_of(resource, written.object))

    async def review(self, request: Request) -> Response:
        return json_response(reviews.answer(request.url.path, await _document(request)), 201)

    async def _logs(self, request: Request, target: Target, namespace: str, name: str) -> Response:
        query = request.query_params
        tail = number(query, "tail", 1_000_000)
        if tail is None:
            tail = number(query, "tailLines", 1_000_000)
        if target.resource in (REPLICA, POD):
            replica = self.readings.replica(target.resource, namespace, name)
            if target.resource is POD:
                pods.check_log_options(query, replica)
            ids = [name]
        else:
            await self._objects.get(target.resource, namespace, name)
            ids = self._replicas_for_logs((namespace, name), query)
        return StreamingResponse(
            streams.logs(
                self._plane.backend,
                ids,
                tail=tail,
                follow=query.get("follow") in ("1", "true"),
                prefix=len(ids) > 1 or query.get("prefix") in ("1", "true"),
                stop=self._stop,
                limit_bytes=number(query, "limitBytes", 1 << 40),
            ),
            media_type="text/plain; charset=utf-8",
        )

    def _replicas_for_logs(self, key: tuple[str, str], query: Mapping[str, str]) -> list[str]:
        replicas = self._plane.replicas.of(key)
        component = query.get("component")
        if component:
            replicas = tuple(r for r in replicas if r.component == component)
        revision = query.get("revision")
        newest = max((r.revision for r in replicas), default="")
        if revision:
            replicas = tuple(r for r in replicas if r.revision == revision)
        elif query.get("previous") in ("1", "true"):
            replicas = tuple(r for r in replicas if r.revision != newest)
        return [r.id for r in replicas]


class _Source:
    """One kind's objects in one place, for a watch."""

    def __init__(
        self, verbs: Verbs, resource: Resource, namespace: str | None, selection: Selection
    ) -> None:
        self._verbs = verbs
        self._about = (resource, namespace, selection)

    async def list(self) -> Listing:
        document = await self._verbs.listed(*self._about, ListOptions())
        return Listing(document["items"], int(document["metadata"]["resourceVersion"]))

    def watch(self, since: int) -> Watch:
        resource = self._about[0]
        if resource in READINGS:
            return self._verbs.readings.watch(resource, since)
        return self._verbs.store.watch(resource.stored, since=since)


# -- small questions ----------------------------------------------------------------------------------


async def _document(request: Request, *, empty: bool = False) -> dict[str, Any]:
    body = await request.body()
    if not body and empty:
        return {}
    return parse(body, request.headers.get("content-type", "application/json"))


def _shape(request: Request, target: Target) -> Callable[[dict[str, Any]], Any]:
    """How objects are shown: as they are, their metadata alone, or as the Table that kubectl prints."""
    accept = request.headers.get("accept", "")
    if tables.is_metadata_wanted(accept):
        return tables.metadata_of
    if not tables.is_wanted(accept):
        return dict
    include = request.query_params.get("includeObject", "")
    if include not in tables.INCLUDES:
        raise InvalidInput(f"includeObject is {include!r}; Metadata, Object or None is possible.")
    return lambda obj: tables.table(target.resource, obj, include)


def _shown(request: Request, target: Target, document: dict[str, Any]) -> Response:
    return json_response(_shape(request, target)(document))


async def _patch(request: Request, resource: Resource, kind: str) -> Any:
    """The patch in a request's body. ApiError 415 for a kind of patch that is not served."""
    own = resource.group != ""
    if kind not in PATCHES or (own and kind == _STRATEGIC):
        possible = [k for k in (*PATCHES, "application/apply-patch+yaml") if k != _STRATEGIC]
        raise ApiError(
            415,
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(possible),
        )
    patch = parse_any(await request.body(), kind)
    if not isinstance(patch, list if kind == "application/json-patch+json" else dict):
        raise InvalidInput(f"The body is no {kind}.")
    return patch


def _kind_of_patch(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _options(request: Request, *, applies: bool = False) -> WriteOptions:
    agent = request.headers.get("user-agent", "")
    return WriteOptions.read(request.query_params, agent, applies=applies)


def _written(written: Written, code: int = 200) -> Response:
    response = json_response(written.object, code, {"penstock-result": written.what})
    for value in warning_headers(written.warnings):
        response.headers.append("warning", value)
    return response


def _not_allowed(request: Request) -> ApiError:
    return ApiError(405, f"{request.method} is not possible at {request.url.path}.")
