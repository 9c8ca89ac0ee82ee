"""Classes for Seldon's Python wrapper on a model process: the answers are those of the real wrapper."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from seldon_oracle import HERE, oracle

from penstock.errors import LoadError
from penstock.runtimes.base import LoadOptions
from penstock.runtimes.seldon_python import load

sys.path.insert(0, str(HERE.parent / "server"))
from server_client import Served, serving

ROWS = {"data": {"names": ["a", "b"], "ndarray": [[1, 2], [3, 4]]}}
TENSOR = {"data": {"tensor": {"shape": [2, 2], "values": [1.5, 2, 3, 4]}}}
FULL_META = {
    "puid": "p",
    "tags": {"up": 2},
    "metrics": [{"type": "COUNTER", "key": "u", "value": 1}],
    "routing": {"r": 1},
    "requestPath": {"r": "image"},
}

#: class, path, body: answered alike, but for what `known` says.
ALIKE: list[tuple[str, str, Any]] = [
    ("Doubler", "/predict", ROWS),
    ("Doubler", "/predict", {**ROWS, "meta": FULL_META}),
    ("Doubler", "/predict", TENSOR),
    ("Doubler", "/api/v1.0/predictions", {"data": {"ndarray": [1.5, 2]}}),
    ("Doubler", "/predict", {"data": {"ndarray": [["a", 1]]}}),
    ("Doubler", "/predict", {"strData": "hello"}),
    ("Doubler", "/predict", {"binData": "aGVsbG8="}),
    ("Doubler", "/predict", {"jsonData": {"a": [1, {"b": None}]}}),
    ("Doubler", "/transform-input", {**ROWS, "meta": FULL_META}),
    ("Doubler", "/transform-output", ROWS),
    ("Doubler", "/route", ROWS),
    ("Doubler", "/aggregate", {"seldonMessages": [ROWS, ROWS]}),
    (
        "Doubler",
        "/aggregate",
        {
            "seldonMessages": [
                {**ROWS, "meta": {"tags": {"a": 1}, "puid": "q"}},
                {**ROWS, "meta": {"tags": {"b": 1}, "puid": "z"}},
            ]
        },
    ),
    ("Doubler", "/health/status", None),
    ("Doubler", "/health/ping", None),
    ("Bare", "/predict", TENSOR),
    ("Named", "/predict", ROWS),
    ("Named", "/transform-input", ROWS),
    ("Raw", "/predict", ROWS),
    ("Raw", "/aggregate", {"seldonMessages": [ROWS, ROWS, ROWS]}),
    ("Tuned", "/predict", ROWS),
    ("RawOrNot", "/predict", ROWS),
    ("RawOrNot", "/predict", {"strData": "x"}),
    ("RawCounts", "/health/status", None),
    ("Bare", "/health/status", None),
    ("Mixed", "/predict", ROWS),
    ("Mixed", "/predict", TENSOR),
    ("Mixed", "/transform-input", TENSOR),
    ("Mixed", "/transform-output", ROWS),
    ("Told", "/predict", {**ROWS, "meta": FULL_META}),
]
#: Answered with the same status, text and reason.
REFUSED: list[tuple[str, str, Any]] = [
    ("Refuses", "/predict", {"data": {"ndarray": [[403]]}}),
    ("Refuses", "/predict", {"data": {"ndarray": [[400]]}}),
    ("Refuses", "/predict", {"data": {"ndarray": [[503]]}}),
    ("Refuses", "/health/status", None),
    ("RawFails", "/predict", ROWS),
]


@asynccontextmanager
async def unit(
    tmp_path: Path, cls: str, parameters: dict[str, Any] | None = None
) -> AsyncIterator[Served]:
    options = {"class": f"seldon_units.py:{cls}", "unit": "node", "parameters": parameters or {}}

    def make() -> Any:
        return load(HERE, LoadOptions("m", options=options))

    async with serving(tmp_path, {"m": make}) as served:
        yield served


def _meta(body: Any) -> Any:
    return body.get("meta") if isinstance(body, dict) else None


@pytest.fixture(scope="module")
def answers() -> list[tuple[int, Any]]:
    # `load` is called by the wrapper's server, not by its application.
    return oracle([r for r in ALIKE if r[0] != "Tuned"])


@pytest.mark.timeout(300)
async def test_answers_are_the_real_wrappers(
    tmp_path: Path, answers: list[tuple[int, Any]]
) -> None:
    """Data, names, kinds, tags and metrics. Ours have a puid and a place in requestPath besides."""
    for number, ((cls, path, body), (status, expected)) in enumerate(
        zip([r for r in ALIKE if r[0] != "Tuned"], answers, strict=True)
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with unit(folder, cls) as s:
            answer = await (s.client.get(path) if body is None else s.client.post(path, json=body))
            assert answer.status_code == status == 200, (path, body, answer.text)
            ours = answer.json() if answer.text[:1] == "{" else answer.text
            if isinstance(expected, dict):
                ours_meta, real_meta = dict(_meta(ours) or {}), dict(_meta(expected) or {})
                if "puid" not in real_meta:
                    ours_meta.pop("puid", None)
                if path in ("/predict", "/api/v1.0/predictions"):
                    assert ours_meta["requestPath"].pop("m") == "penstock"
                    if not ours_meta["requestPath"]:
                        del ours_meta["requestPath"]
                ours["meta"], expected["meta"] = ours_meta, real_meta
                for document in (ours, expected):
                    if isinstance(document.get("data"), dict):
                        document["data"].setdefault("names", [])
            assert ours == expected, (cls, path, body)


@pytest.mark.timeout(300)
async def test_refusals_are_the_classes_own(tmp_path: Path) -> None:
    """Status, text and reason of Seldon's exception and of a raw method's failure."""
    for number, (case, (status, expected)) in enumerate(zip(REFUSED, oracle(REFUSED), strict=True)):
        cls, path, body = case
        folder = tmp_path / str(number)
        folder.mkdir()
        async with unit(folder, cls) as s:
            answer = await (s.client.get(path) if body is None else s.client.post(path, json=body))
        assert answer.status_code == status, (case, answer.text)
        ours = answer.json()["status"]
        assert (ours["code"], ours["status"]) == (status, "FAILURE")
        for key in ("info", "reason"):
            assert ours[key] == expected["status"][key], case


@pytest.mark.parametrize("cls", ["RawCounts", "RawWild"])
async def test_metrics_of_a_raw_method_are_exported_once(tmp_path: Path, cls: str) -> None:
    """Its own, not those that came with the request, nor what is no number."""
    async with unit(tmp_path, cls) as s:
        for _ in range(2):
            await s.client.post("/predict", json={**ROWS, "meta": FULL_META})
        text = (await s.client.get("/metrics")).text
    (own,) = [x for x in text.splitlines() if x.startswith("penstock_unit_counter_total{")]
    assert 'key="raw"' in own
    assert own.endswith(" 6.0")


async def test_days_are_text(tmp_path: Path) -> None:
    async with unit(tmp_path, "Days") as s:
        answer = await s.client.post("/predict", json=TENSOR)
        assert answer.json()["data"]["ndarray"] == ["2020-01-31", "NaT"]
        answer = await s.client.post("/transform-input", json=TENSOR)
        assert answer.status_code == 500
        assert "complex128" in answer.json()["status"]["info"]


@pytest.mark.parametrize("what", ["inputs", "outputs", "versions", "custom", "platform"])
async def test_metadata_that_is_none_is_refused(tmp_path: Path, what: str) -> None:
    async with unit(tmp_path, "Described", {"what": what}) as s:
        answer = await s.client.get("/metadata")
        assert answer.status_code == 500
        assert f"init_metadata's {what} is no" in answer.json()["status"]["info"]


async def test_typed_parameters_go_to_the_constructor(tmp_path: Path) -> None:
    given = {"scale": 2.5, "shift": 1, "label": "big", "loud": True}
    async with unit(tmp_path, "Tuned", given) as s:
        answer = (await s.client.post("/predict", json=ROWS)).json()
    assert answer["data"]["ndarray"] == [[3.5, 6.0], [8.5, 11.0]]
    assert answer["meta"]["tags"] == {"label": "big", "loud": True}


async def test_feedback_reaches_the_class(tmp_path: Path) -> None:
    feedback = {
        "request": ROWS,
        "response": {"data": {"ndarray": [[1]]}, "meta": {"routing": {"node": 1}}},
        "reward": 0.5,
        "truth": {"data": {"ndarray": [[9]]}},
    }
    async with unit(tmp_path, "Doubler") as s:
        for path in ("/api/v1.0/feedback", "/send-feedback"):
            answer = await s.client.post(path, json=feedback)
            assert answer.status_code == 200, answer.text
        runtime: Any = s.repository.get("m").runtime
        assert runtime._instance.learned == ([[1, 2], [3, 4]], ["a", "b"], 0.5, [[9]], 1)
        text = (await s.client.get("/metrics")).text
        (line,) = [x for x in text.splitlines() if x.startswith("penstock_feedback_total{")]
        assert line.endswith(" 2.0")


async def test_metrics_of_the_class_are_exported(tmp_path: Path) -> None:
    async with unit(tmp_path, "Doubler") as s:
        for _ in range(3):
            await s.client.post("/predict", json=ROWS)
        text = (await s.client.get("/metrics")).text
    own = {x for x in text.splitlines() if x.startswith("penstock_unit_")}
    labels = 'model="m",namespace="default",revision="r1",service="svc"'
    assert f'penstock_unit_counter_total{{key="calls",{labels},tags=""}} 3.0' in own
    assert f'penstock_unit_gauge{{key="level",{labels},tags="a=b,method=predict"}} 22.5' in own
    assert f'penstock_unit_timer_seconds_sum{{key="took",{labels},tags=""}} 0.0606' in own


async def test_series_of_a_class_are_bounded(tmp_path: Path) -> None:
    """A tag with a value per request ends in one series without a name."""
    async with unit(tmp_path, "Doubler") as s:
        metrics = s.app.metrics
        for i in range(1000):
            metrics.of_user("m", [{"type": "COUNTER", "key": "k", "value": 1, "tags": {"id": i}}])
        family = metrics.registry.families["penstock_unit_counter_total"]
        assert len(family.children) <= 201
        assert sum(c.value for c in family.children.values()) == 1000


async def test_v1_and_v2_clients_reach_a_class(tmp_path: Path) -> None:
    async with unit(tmp_path, "Doubler") as s:
        answer = await s.client.post("/v1/models/m:predict", json={"instances": [[1, 2]]})
        assert answer.json() == {"predictions": [[2, 4]]}
        answer = await s.v2([[1, 2]])
        assert answer.json()["outputs"][0]["data"] == [2, 4]


async def test_tensors_pass_in_binary(tmp_path: Path) -> None:
    """As the gateway's graphs send them: V2's binary body, what is no tensor in a parameter."""
    import msgspec
    import numpy as np

    from penstock.protocols.infer import InferRequest
    from penstock.protocols.seldon_message import SeldonMessage, about
    from penstock.protocols.v2_client import decode_response, encode_request

    message = SeldonMessage(np.ones((2, 2)), "ndarray", ["a", "b"], {"tags": {"x": 1}})
    length, pieces = encode_request(
        InferRequest(
            {"any": message.value}, parameters={"seldon": about(message)}, binary_output=True
        )
    )
    async with unit(tmp_path, "Doubler") as s:
        answer = await s.client.post(
            "/transform-input",
            content=b"".join(bytes(p) for p in pieces),
            headers={"inference-header-content-length": str(length)},
        )
        assert answer.status_code == 200, answer.text
        response = decode_response(
            answer.content, int(answer.headers["inference-header-content-length"])
        )
    assert response.outputs["output-0"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    known = msgspec.json.decode(response.parameters["seldon"])
    assert known["meta"]["tags"] == {"x": 1, "mine": 1}
    assert known["names"] == ["t:0", "t:1"]


@pytest.mark.parametrize(
    ("cls", "path", "body", "status", "said"),
    [
        ("Doubler", "/predict", {}, 400, "one of data"),
        ("Doubler", "/predict", {"data": {}}, 400, "ndarray, tensor"),
        ("Doubler", "/predict", {"data": {"ndarray": [[1, 2], [3]]}}, 400, "ragged"),
        (
            "Doubler",
            "/predict",
            {"data": {"ndarray": ["x" * 20_000] + [""] * 4_000}},
            413,
            "4001 texts",
        ),
        ("Doubler", "/predict", {"customData": {}}, 400, "customData"),
        ("Doubler", "/predict", {**ROWS, "strData": "x"}, 400, "not data and strData"),
        ("Doubler", "/predict", {**ROWS, "meta": {"tags": 1}}, 400, "meta.tags"),
        ("Doubler", "/predict", {"binData": "%"}, 400, "base64"),
        ("Doubler", "/aggregate", {"seldonMessages": []}, 400, "one SeldonMessage or more"),
        ("Doubler", "/aggregate", ROWS, 400, "one SeldonMessage or more"),
        ("Doubler", "/send-feedback", {"reward": "x"}, 400, "reward"),
        ("Doubler", "/send-feedback", {"reward": 1, "truth": 3}, 400, "truth"),
        ("Bare", "/route", ROWS, 501, "no route"),
        ("Broken", "/predict", ROWS, 500, "failed in predict: ValueError"),
        ("Broken", "/route", ROWS, 500, "whole number"),
        ("Broken", "/transform-input", ROWS, 500, "different lengths"),
        ("Broken", "/transform-output", ROWS, 500, "answered a object"),
    ],
)
async def test_what_is_wrong_is_said(
    tmp_path: Path, cls: str, path: str, body: Any, status: int, said: str
) -> None:
    async with unit(tmp_path, cls) as s:
        answer = await s.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    failure = answer.json()["status"]
    assert failure["status"] == "FAILURE"
    assert said in failure["info"]
    assert "secret" not in answer.text


async def test_forms_hold_messages(tmp_path: Path) -> None:
    async with unit(tmp_path, "Doubler") as s:
        answer = await s.client.post("/predict", files={"strData": (None, "hi")})
        assert answer.json()["strData"] == "hi"
        answer = await s.client.post("/predict", files={"binData": ("f", b"\x01\x02")})
        assert answer.json()["binData"] == "AQI="
        answer = await s.client.post("/predict", data={"json": '{"strData": "form"}'})
        assert answer.json()["strData"] == "form"
        answer = await s.client.post("/predict", files={"data": (None, "{")})
        assert answer.status_code == 400


async def test_a_query_holds_a_message(tmp_path: Path) -> None:
    """Of the wrapper's own paths, by GET and by POST, as Seldon's wrapper has it."""
    async with unit(tmp_path, "Doubler") as s:
        asked = {"json": '{"data": {"ndarray": [[1, 2]]}}'}
        for path, expected in (
            ("/predict", [[2, 4]]),
            ("/transform-input", [[2, 3]]),
            ("/transform-output", [[0, 1]]),
            ("/route", [[1]]),
        ):
            for answer in (
                await s.client.get(path, params=asked),
                await s.client.post(path, params=asked),
            ):
                assert answer.status_code == 200, answer.text
                assert answer.json()["data"]["ndarray"] == expected
        rewarded = await s.client.get("/send-feedback", params={"json": '{"reward": 1}'})
        assert rewarded.status_code == 200
        assert (await s.client.get("/predict")).status_code == 405
        assert (await s.client.get("/api/v1.0/predictions", params=asked)).status_code == 405
        assert (await s.client.get("/predict", params={"json": "{"})).status_code == 400
        many = "&".join(f"a{i}=1" for i in range(100))
        assert (await s.client.get(f"/predict?{many}&json=1")).status_code == 400
        # A body is what counts where there is one, and `json` need not be a form's first field.
        answer = await s.client.post("/predict", params=asked, json={"strData": "body"})
        assert answer.json()["strData"] == "body"
        answer = await s.client.post("/predict", data={"a": "1", "json": '{"strData": "form"}'})
        assert answer.json()["strData"] == "form"


async def test_metadata_and_health(tmp_path: Path) -> None:
    async with unit(tmp_path, "Doubler") as s:
        for path in ("/metadata", "/api/v1.0/metadata", "/api/v1.0/metadata/m"):
            assert (await s.client.get(path)).json()["name"] == "doubler"
        assert (await s.client.get("/api/v1.0/metadata/other")).status_code == 404
        assert (await s.client.get("/live")).status_code == 200
        assert (await s.client.get("/ready")).status_code == 200


def test_a_class_without_its_types_method_is_refused() -> None:
    options = {"class": "seldon_units.py:Bare", "methods": ["route"]}
    with pytest.raises(LoadError, match="no route, which its place"):
        load(HERE, LoadOptions("m", options=options))


def test_a_parameter_that_the_constructor_does_not_take_is_refused() -> None:
    options = {"class": "seldon_units.py:Tuned", "parameters": {"scal": 1.0}}
    with pytest.raises(LoadError, match="scal"):
        load(HERE, LoadOptions("m", options=options))


def test_model_name_is_a_file_with_a_class_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "Other.py").write_text(
        "class Other:\n    def predict(self, X, names):\n        return X\n"
    )
    (tmp_path / "MyModel.py").write_text(
        "from seldon_core.user_model import SeldonComponent, SeldonResponse\n"
        "class MyModel(SeldonComponent):\n"
        "    def predict(self, X, names):\n"
        "        return SeldonResponse(X, tags={'t': 1})\n"
    )
    assert load(tmp_path, LoadOptions("m", options={"class": "MyModel"})).verbs == {"predict"}
    with pytest.raises(LoadError) as caught:
        load(tmp_path, LoadOptions("m", options={"class": "MyModle"}))
    assert str(caught.value) == (
        "MODEL_NAME says MyModle, and the model's folder has no MyModle.py. It has MyModel.py, Other.py."
    )
    (tmp_path / ".s2i").mkdir()
    (tmp_path / ".s2i" / "environment").write_text("MODEL_NAME=MyModel\nSERVICE_TYPE=MODEL\n")
    assert load(tmp_path, LoadOptions("m")).verbs == {"predict"}


async def test_numbers_of_numpys_are_numbers(tmp_path: Path) -> None:
    async with unit(tmp_path, "Numpy") as s:
        answer = (await s.client.post("/predict", json=ROWS)).json()
    assert answer["jsonData"] == {"a": 1.5, "b": [1, 2], "c": {"d": True}}
    assert answer["meta"]["tags"] == {"f": 0.5, "i": 3, "l": [1.0, 2.0]}
    assert [m["key"] for m in answer["meta"]["metrics"]] == ["level"]


async def test_one_number_is_an_array_of_it(tmp_path: Path) -> None:
    """Whatever was asked: an array without a dimension could not be handed on."""
    async with unit(tmp_path, "One") as s:
        for message in (ROWS, TENSOR, {"strData": "x"}):
            data = (await s.client.post("/predict", json=message)).json()["data"]
            assert data.get("ndarray", [5.0]) == [5.0]
            assert data.get("tensor", {"shape": [1], "values": [5.0]})["shape"] == [1]


async def test_what_is_no_number_is_spelled_in_tensors(tmp_path: Path) -> None:
    """As protobuf's JSON has it, both ways; Seldon's clients read no null there."""
    values = ["NaN", "Infinity", "-Infinity", 1.0]
    async with unit(tmp_path, "Doubler") as s:
        message = {"data": {"tensor": {"shape": [1, 4], "values": values}}}
        answer = await s.client.post("/predict", json=message)
        assert answer.status_code == 200, answer.text
        found = answer.json()["data"]["tensor"]["values"]
        assert found == ["NaN", "Infinity", "-Infinity", 2.0]
        message = {"data": {"tensor": {"shape": [1, 1], "values": ["nan"]}}}
        assert (await s.client.post("/predict", json=message)).status_code == 400
