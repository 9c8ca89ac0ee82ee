"""Requests made up from the published OpenAPI: none is answered 5xx, and none stops the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from api_harness import ISVC, isvc, serve
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import validate
from schemathesis import GenerationMode

from penstock.api import openapi

#: Cases of each operation. By hand, and then of all groups: PENSTOCK_FUZZ_EXAMPLES=200.
EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "0"))
GROUPS = tuple(openapi.index()["paths"])
#: These have every kind of operation.
FUZZED = GROUPS if EXAMPLES else ("apis/serving.kserve.io/v1beta1", "api/v1")


pytestmark = pytest.mark.timeout(3600 if EXAMPLES else 120)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An API of its own, on a thread, because the cases are made and sent without a loop."""
    found: list[str] = []
    started, ended = threading.Event(), threading.Event()

    async def run() -> None:
        async for api in serve():
            found.append(str(api.client.base_url).rstrip("/"))
            await api.client.post(ISVC, json=isvc())
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert started.wait(30)
        yield found[0]
    finally:
        ended.set()
        thread.join(30)


@pytest.mark.parametrize("group", GROUPS)
def test_the_published_documents_are_openapi(group: str) -> None:
    validate(json.loads(json.dumps(openapi.v3(group))))


def test_the_published_swagger_is_swagger() -> None:
    validate(json.loads(json.dumps(openapi.v2())))


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("group", FUZZED)
def test_no_request_is_a_fault_of_the_servers(
    server: str, group: str, mode: GenerationMode
) -> None:
    document = json.loads(json.dumps(openapi.v3(group)))
    schema = schemathesis.openapi.from_dict(document)
    with httpx.Client(base_url=server, timeout=20) as client:
        for found in schema.get_all_operations():
            operation = found.ok()
            # Wrong queries of single objects have little to be wrong in.
            if (
                EXAMPLES
                or mode is GenerationMode.POSITIVE
                or "{name}" not in operation.path
                or (operation.method != "get")
            ):
                _fuzz(client, operation, mode)
        assert client.get("/readyz").text == "ok"


def _fuzz(client: httpx.Client, operation: Any, mode: GenerationMode) -> None:
    @settings(
        max_examples=EXAMPLES or 2,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        said = case.as_transport_kwargs(base_url=str(client.base_url))
        query = dict(said.get("params") or {})
        # What goes on is not waited for.
        query.pop("watch", None)
        query.pop("follow", None)
        # One name is there, so that more than 404 is seen.
        url = said["url"] if len(said["url"]) % 3 else _known(operation, said["url"])
        answer = client.request(
            said["method"],
            url,
            params=query,
            headers={k: v for k, v in said["headers"].items() if _can_be_sent(v)},
            content=_body(said),
        )
        assert answer.status_code < 500 or answer.status_code == 504, (
            url,
            query,
            said,
            answer.text,
        )
        if answer.status_code >= 400 and answer.headers.get("content-type") == "application/json":
            status = answer.json()
            assert (status["kind"], status["code"]) == ("Status", answer.status_code)

    # What has no body and no number in its query cannot be asked wrongly.
    with contextlib.suppress(Unsatisfiable):
        send()


def _known(operation: Any, url: str) -> str:
    head = url.partition("/api")[0]
    return head + operation.path.replace("{namespace}", "default").replace("{name}", "iris")


def _can_be_sent(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


def _body(said: dict[str, Any]) -> bytes | None:
    if said.get("json") is not None:
        return json.dumps(said["json"]).encode()
    data = said.get("data")
    if data is None:
        return None
    return data if isinstance(data, bytes) else str(data).encode()
