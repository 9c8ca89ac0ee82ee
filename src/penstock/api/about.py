"""What the server says about itself: health, metrics, version, discovery, OpenAPI."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from penstock.api import aggregated, discovery, openapi, openapi_protobuf
from penstock.api.wire import ApiError, json_response
from penstock.control.plane import ControlPlane
from penstock.errors import Unavailable


class About:
    """One handler a path."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(self, request: Request) -> Response:
        if not self._plane.started.is_set():
            raise Unavailable("The control plane is starting.", retry_after_s=1)
        return PlainTextResponse("ok")

    async def metrics(self, request: Request) -> Response:
        return Response(
            await self._plane.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def metrics_json(self, request: Request) -> Response:
        return json_response(await self._plane.metrics.total())

    async def version(self, request: Request) -> Response:
        return json_response(discovery.version())

    async def openapi_v2(self, request: Request) -> Response:
        if openapi_protobuf.is_wanted(request.headers.get("accept", "")):
            return Response(openapi_protobuf.document(), media_type=openapi_protobuf.MEDIA_TYPE)
        return json_response(openapi.v2())

    async def openapi_v3(self, request: Request) -> Response:
        path = request.path_params.get("path")
        if path is None:
            return json_response(openapi.index())
        document = openapi.v3(path)
        if document is None:
            raise ApiError(404, f"There is no OpenAPI document {path}.")
        return json_response(document)

    async def core_versions(self, request: Request) -> Response:
        return _aggregated(request, core=True) or json_response(discovery.core_versions())

    async def core_resources(self, request: Request) -> Response:
        return json_response(discovery.resource_list("", "v1"))

    async def groups(self, request: Request) -> Response:
        return _aggregated(request, core=False) or json_response(discovery.groups())

    async def group(self, request: Request) -> Response:
        return json_response(discovery.group(request.path_params["group"]))

    async def group_resources(self, request: Request) -> Response:
        params = request.path_params
        return json_response(discovery.resource_list(params["group"], params["version"]))


def _aggregated(request: Request, *, core: bool) -> Response | None:
    """All of discovery at once, for clients that would rather have that."""
    version = aggregated.wanted(request.headers.get("accept", ""))
    if version is None:
        return None
    body, tag = aggregated.document(version, core=core)
    headers = {"etag": tag, "vary": "accept"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    headers["content-type"] = aggregated.media_type(version)
    return Response(body, headers=headers)
