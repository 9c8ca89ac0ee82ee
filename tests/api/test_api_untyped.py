"""A body without a content type: taken from programs, not from pages."""

from __future__ import annotations

import msgspec
import pytest
from api_harness import ISVC, Api, isvc


async def test_a_program_may_leave_the_type_out(api: Api) -> None:
    answer = await api.client.post(ISVC, content=msgspec.json.encode(isvc()))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("header", ["origin", "sec-fetch-site"])
async def test_a_page_may_not(api: Api, header: str) -> None:
    own = str(api.client.base_url).rstrip("/")
    said = {header: own if header == "origin" else "cross-site"}
    answer = await api.client.post(ISVC, content=msgspec.json.encode(isvc()), headers=said)
    assert answer.status_code == 415
    assert (await api.client.get(ISVC)).json()["items"] == []
