"""`/api/v1.0/doc/`: every path that is described is answered, and none that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from graph_units import Chooses, Plus, Sums
from openapi_spec_validator import validate
from seldon_platform import Doubler, deployed, deployment, node, parameter, serving

from penstock.domain.routes import Replica, Route, Target
from penstock.protocols.seldon_openapi import OPERATIONS, Operation
from penstock.runtimes.base import LoadOptions
from penstock.runtimes.seldon_python import load
from penstock.server.application import _PATHS
from penstock.server.seldon import SeldonPredict, SeldonVerb

HERE = Path(__file__).parent
ROW = {"data": {"ndarray": [[1.0, 0.0]]}}
BODIES: dict[str, Any] = {
    "SeldonMessage": ROW,
    "SeldonMessageList": {"seldonMessages": [ROW, ROW]},
    "Feedback": {"reward": 1.0, "response": ROW},
}


async def document(client: httpx.AsyncClient, prefix: str) -> dict[str, Any]:
    answer = await client.get(f"{prefix}/api/v1.0/doc/seldon.json")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    validate(found)
    return found


async def held_to(client: httpx.AsyncClient, prefix: str, name: str) -> set[str]:
    """Ask all that Seldon has: what is described answers, the rest does not. The POST paths described."""
    found = await document(client, prefix)
    base = httpx.URL(f"http://h{prefix}/api/v1.0/doc/seldon.json").join(found["servers"][0]["url"])
    assert base.path == f"{prefix}/"
    for operation in OPERATIONS:
        described = operation.method in found["paths"].get(operation.path, {})
        status = await asked(client, prefix, name, operation)
        if operation.path == "/live":
            assert status == 200  # two rows: it is text of a graph, JSON of a process
        elif described:
            assert status == 200, operation
        else:
            assert status in (404, 405, 501), operation
    return {path for path, methods in found["paths"].items() if "post" in methods}


async def asked(client: httpx.AsyncClient, prefix: str, name: str, operation: Operation) -> int:
    url = prefix + operation.path.replace("{name}", name)
    if operation.method == "get":
        answer = await client.get(url)
        kind = answer.headers["content-type"].partition(";")[0]
        if answer.status_code == 200 and operation.path != "/live":
            assert kind == (operation.text or "application/json"), operation
    else:
        answer = await client.post(url, json=BODIES[operation.takes])
    return answer.status_code


CALLS = {
    f"{path}"
    for path in (
        "/api/v1.0/predictions", "/api/v0.1/predictions", "/predict",
        "/api/v1.0/feedback", "/api/v0.1/feedback", "/send-feedback",
    )
}  # fmt: skip
EXPLAINS = {"/api/v1.0/explain", "/api/v0.1/explain"}


async def test_a_graph_answers_what_its_document_says(tmp_path: Path) -> None:
    graph = node("t", "TRANSFORMER", "Plus", children=[node("m", "MODEL", "Plus")])
    async with deployed(tmp_path, deployment(graph)) as d:
        assert await held_to(d.client, d.prefix, "t") == CALLS
        assert await held_to(d.client, "/serving/default/dep@main", "m") == CALLS


async def test_a_graph_with_an_explainer_has_its_call(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    np.save(tmp_path / "e" / "train.npy", np.array([[0.0, 1.0], [1.0, 0.0]]))
    weighs = node("m", "MODEL", "Weighs", parameters=[parameter("weights", "1 2")])
    graph = {
        **node("t", "TRANSFORMER", "Plus", children=[weighs]),
        "predictor": {"explainer": {"type": "KernelShap", "modelUri": str(tmp_path / "e")}},
    }
    async with deployed(tmp_path, deployment(graph)) as d:
        assert await held_to(d.client, d.prefix, "t") == CALLS | EXPLAINS
        at = "/seldon/default/dep-explainer/main"
        assert await held_to(d.client, at, "dep") == EXPLAINS


async def test_the_service_of_each_unit_answers_what_its_class_has(tmp_path: Path) -> None:
    """A part of a graph is a service like any other; a model with arrays predicts and counts rewards."""
    graph = node(
        "router", "ROUTER", "Chooses",
        children=[
            node("sum", "COMBINER", "Sums", children=[node("a", "MODEL", "Plus")]),
            node("b", "MODEL", implementation="SKLEARN_SERVER", modelUri="x"),
        ],
    )  # fmt: skip
    feedback = {p for p in CALLS if "feedback" in p}
    async with deployed(tmp_path, deployment(graph)) as d:
        wanted = {
            "router": {"/route", *feedback},
            "sum": {"/aggregate", *feedback},
            "a": {"/transform-input", "/transform-output", *CALLS},
            "b": CALLS,
        }
        for part, calls in wanted.items():
            at = f"/seldon/default/dep-main-{part}"
            assert await held_to(d.client, at, f"dep-main-{part}") == calls, part


async def test_a_service_with_an_explainer_has_its_call(tmp_path: Path) -> None:
    """The process does not know of it: the gateway says so."""
    graph = node("t", "TRANSFORMER", "Plus", children=[node("m", "MODEL", "Plus")])
    async with deployed(tmp_path, deployment(graph)) as d:
        served = d.parts["dep-main-m"]
        replica = Replica("m-0", f"unix:{served.socket}")
        for component in ("predictor", "explainer"):
            targets = (Target(f"one-{component}", 100, (replica,)),)
            d.put(Route("default", "one", targets, component=component))
        for version in ("v1.0", "v0.1"):
            url = f"/seldon/default/one/api/{version}/doc/seldon.json"
            found = (await d.client.get(url)).json()
            assert set(found["paths"]) > EXPLAINS | CALLS
            validate(found)
        answer = await d.client.post("/seldon/default/one/api/v1.0/doc/seldon.json")
        assert answer.status_code == 405


async def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    graph = node("t", "TRANSFORMER", "Plus", children=[node("m", "MODEL", "Plus")])
    async with deployed(tmp_path, deployment(graph)) as d:
        for prefix in (d.prefix, "/seldon/default/dep-main-m"):
            for path in ("/api/v1.0/doc/", "/api/v1.0/doc", "/api/v0.1/doc/"):
                answer = await d.client.get(prefix + path)
                assert answer.status_code == 200
                assert "default-src 'none'" in answer.headers["content-security-policy"]
                assert "//" not in answer.text.replace("<!--", ""), "no address of another server"


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if "explain" not in o.path], ids=str)
def test_each_row_is_a_path_of_a_process(operation: Operation) -> None:
    found = _PATHS.find(operation.path.replace("{name}", "m").rstrip("/"))
    assert found is not None


def test_each_path_of_a_process_has_a_row() -> None:
    """Of those that are Seldon's own: whatever is routed to its calls and pages."""
    told = {o.path.replace("{name}", "m").rstrip("/") for o in OPERATIONS}
    spelled = [
        *(f"{v}/{end}" for v in ("/api/v1.0", "/api/v0.1") for end in _ENDS),
        *(f"/{end}" for end in _ENDS),
    ]
    routed = set()
    for path in spelled:
        found = _PATHS.find(path)
        if found and (found[0] in (SeldonPredict, SeldonVerb) or found[0] == ("GET", "_seldon")):
            routed.add(path)
    assert routed <= told
    assert len(routed) > 20


_ENDS = (
    "predictions", "predict", "feedback", "send-feedback", "transform-input", "transform-output",
    "route", "aggregate", "health/status", "health/ping", "metadata", "metadata/m", "status/m", "doc",
    "doc/seldon.json",
)  # fmt: skip


def test_units_are_what_the_tests_say() -> None:
    """The classes above have the methods that the documents are held to."""
    for cls, verbs in (
        (Chooses, {"route", "send-feedback"}),
        (Sums, {"aggregate"}),
        (Plus, {"predict", "transform-input", "transform-output", "send-feedback"}),
    ):
        options = {"class": f"graph_units.py:{cls.__name__}"}
        assert load(HERE, LoadOptions("m", options=options)).verbs == verbs


async def test_a_model_is_known_by_its_nodes_name(tmp_path: Path) -> None:
    """A deployment of one model: its clients ask by the name in the graph."""
    async with serving(tmp_path, {"m": Doubler}, env={"PREDICTIVE_UNIT_ID": "classifier"}) as s:
        for path in ("metadata/classifier", "metadata/m", "status/classifier"):
            assert (await s.client.get(f"/api/v1.0/{path}")).status_code == 200, path
        for path in ("metadata/other", "status/other"):
            assert (await s.client.get(f"/api/v1.0/{path}")).status_code == 404, path
