"""Predictions as CloudEvents, written and read by the `cloudevents` package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_http_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from server_client import Served, error_of, serving
from server_models import Doubler
from test_server_payloads import model

from penstock.protocols.cloudevents import decode_event
from penstock.runtimes.base import CallContext, RawReply, StreamReply

PATH = "/v1/models/m:predict"
BODY = {"instances": [[1.0, 2.0]]}
EVENT = {
    "specversion": "1.0",
    "id": "42",
    "source": "/shop",
    "type": "shop.asked",
    "tenant": "blue",
}
MODES = pytest.mark.parametrize("write", [to_binary_event, to_structured_event])


def event(data: Any = BODY, **attributes: Any) -> CloudEvent:
    return CloudEvent(
        attributes={**EVENT, "datacontenttype": "application/json", **attributes}, data=data
    )


async def post(s: Served, message: HTTPMessage, path: str = PATH) -> Any:
    return await s.client.post(path, headers=message.headers, content=message.body)


def read(response: Any) -> BaseCloudEvent:
    assert response.status_code == 200, response.text
    return from_http_event(HTTPMessage(dict(response.headers), response.content), JSONFormat())


@MODES
async def test_an_event_is_answered_by_an_event_of_its_mode(tmp_path: Path, write: Any) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        response = await post(s, write(event(), JSONFormat()))
        structured = write is to_structured_event
        assert response.headers["content-type"].startswith(
            "application/cloudevents+json" if structured else "application/json"
        )
        answer = read(response)
        assert answer.get_data() == {"predictions": [[2.0, 4.0]]}
        assert answer.get_type() == "io.kserve.inference.response"
        assert answer.get_source() == "io.kserve.inference.m"
        assert answer.get_id() not in ("", "42")
        assert answer.get_time() is not None
        assert answer.get_extension("tenant") is None
        # An ordinary request on the same server stays one.
        plain = await s.v1([[1.0, 2.0]])
        assert plain.json() == {"predictions": [[2.0, 4.0]]}
        assert not any(name.startswith("ce-") for name in plain.headers)


async def test_v2_takes_events_too(tmp_path: Path) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    async with serving(tmp_path, {"m": Doubler}) as s:
        message = to_structured_event(event({"inputs": [tensor]}), JSONFormat())
        answer = read(await post(s, message, "/v2/models/m/infer"))
        data: Any = answer.get_data()
        assert data["outputs"][0]["data"] == [2.0, 4.0]


@MODES
async def test_the_environment_says_type_and_source_and_merges(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CE_TYPE", "shop.answered")
    monkeypatch.setenv("CE_SOURCE", "/models/ü 100%")
    monkeypatch.setenv("CE_MERGE", "true")
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = read(await post(s, write(event(), JSONFormat())))
        assert answer.get_type() == "shop.answered"
        assert answer.get_source() == "/models/ü 100%"
        assert answer.get_extension("tenant") == "blue"
        assert answer.get_id() != "42"


async def test_a_models_own_bodies_and_streams(tmp_path: Path) -> None:
    async def raw(payload: Any, context: CallContext) -> Any:
        return RawReply(b"\x00\x01", "application/x-bits")

    async def stream(payload: Any, context: CallContext) -> Any:
        async def chunks() -> Any:
            yield b"a"
            yield b"b"

        return StreamReply(chunks(), "text/plain")

    async with serving(tmp_path, model(raw)) as s:
        body = (await post(s, to_structured_event(event(), JSONFormat()))).json()
        assert body["data_base64"] == "AAE="
        assert body["datacontenttype"] == "application/x-bits"
    async with serving(tmp_path, model(stream)) as s:
        response = await post(s, to_binary_event(event(), JSONFormat()))
        assert response.text == "ab"
        assert response.headers["ce-source"] == "io.kserve.inference.m"
        response = await post(s, to_structured_event(event(), JSONFormat()))
        assert response.status_code == 501
        assert "binary mode" in error_of(response)


CE = {f"ce-{k}": v for k, v in EVENT.items()} | {"content-type": "application/json"}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        ({k: v for k, v in CE.items() if k != "ce-id"}, BODY, "lacks id"),
        ({**CE, "ce-type": ""}, BODY, "lacks type"),
        ({**CE, "ce-specversion": "2.0"}, BODY, "2.0 is not served"),
        ({**CE, "ce-some_name": "x"}, BODY, "'some_name'"),
        ({**CE, "ce-tenant": "a%0Ab"}, BODY, "control characters"),
        ({**CE, "ce-tenant": "a" * 5000}, BODY, "over 4096 characters"),
        (CE, {"nothing": 1}, "neither 'instances' nor 'inputs'"),
        (STRUCTURED, [1], "is a JSON object"),
        (STRUCTURED, {**EVENT, "id": None, "data": BODY}, "lacks id"),
        (STRUCTURED, {**EVENT, "tenant": [1], "data": BODY}, "attribute tenant"),
        (STRUCTURED, {**EVENT, "Tenant": "x", "data": BODY}, "'Tenant'"),
        (STRUCTURED, {**EVENT, "data": BODY, "data_base64": ""}, "both 'data'"),
        (STRUCTURED, {**EVENT, "data_base64": "?"}, "no base64"),
        (STRUCTURED, {**EVENT, "data_base64": 1}, "no base64"),
        (STRUCTURED, EVENT, ""),
        ({"content-type": "application/cloudevents-batch+json"}, [EVENT], "one event a request"),
        ({"content-type": "application/cloudevents+avro"}, BODY, "avro is not served"),
    ],
)
async def test_bad_events_are_refused(
    tmp_path: Path, headers: dict[str, str], body: Any, says: str
) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        response = await s.client.post(PATH, headers=headers, content=json.dumps(body))
        assert response.status_code == 400
        assert says in error_of(response)
        assert (await s.v1([[1.0, 2.0]])).status_code == 200
        broken = await s.client.post(PATH, headers=STRUCTURED, content=b'{"id": ')
        assert broken.status_code == 400


def test_text_and_base64_data() -> None:
    def structured(**fields: Any) -> Any:
        body = json.dumps({**EVENT, **fields}).encode()
        return decode_event([(b"content-type", b"application/cloudevents+json")], body)

    assert structured(data="a,b", datacontenttype="text/csv").data == b"a,b"
    assert structured(data="a").data == b'"a"'
    assert structured(data_base64="AAE=", datacontenttype="x/y").data == b"\x00\x01"
    assert structured(flag=True, n=3).attributes["flag"] == "true"
