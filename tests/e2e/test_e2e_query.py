"""One question to many services through the real processes: HTTP, the Python client, the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from platform_harness import Platform, manifest

from penstock import Client
from penstock.errors import Conflict, InvalidInput, NotFound

ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture(scope="module")
def fleet(platform: Platform) -> Iterator[Platform]:
    """Two services and a sleeping one, labelled; and one with a bandit."""
    documents = []
    for name, labels in (
        ("one", {"team": "red"}),
        ("two", {"team": "red"}),
        ("idle", {"team": "blue"}),
    ):
        obj = yaml.safe_load(manifest(name, "models/other" if name == "two" else "models/iris"))
        obj["metadata"]["labels"] = labels
        if name == "idle":
            obj["spec"]["predictor"]["minReplicas"] = 0
        if name == "two":
            obj["spec"]["traffic"] = {"bandit": "thompson"}
        documents.append(obj)
    platform.run("apply", "-f", "-", "--wait", stdin=yaml.safe_dump_all(documents))
    yield platform
    platform.run("delete", "isvc", "one", "two", "idle")


def test_the_client_asks_by_names_and_by_labels(fleet: Platform) -> None:
    with Client(fleet.http) as client:
        rows = np.array([ROW])
        results = client.query(["two", "one", "nobody"], inputs={"x": rows})
        assert [(r.model, r.status) for r in results] == [
            ("two", 200),
            ("one", 200),
            ("nobody", 404),
        ]
        alone = client.infer("one", {"x": rows}).outputs
        assert {n: a.tolist() for n, a in results[1].outputs.items()} == {
            n: a.tolist() for n, a in alone.items()
        }
        red = client.query(selector="team=red", instances=[ROW])
        assert [(r.model, r.predictions) for r in red] == [("one", [0]), ("two", [0])]
        assert client.query(selector="team=green", instances=[ROW]) == []
        # One that may sleep is woken, whatever it was doing.
        (idle,) = client.query(["idle"], instances=[ROW])
        assert idle.predictions == [0]
        with pytest.raises(InvalidInput):
            client.query(selector="a=b=c", instances=[ROW])
    with Client(fleet.http, namespace="default") as client:
        assert client.query(["one"], instances=[ROW])[0].ok


def test_the_client_rewards_what_a_bandit_chose(fleet: Platform) -> None:
    with Client(fleet.http) as client:
        (result,) = client.query(["two"], instances=[ROW])
        assert result.arm == "two-00001"
        client.feedback(result.id, 1.0)
        with pytest.raises(Conflict):
            client.feedback(result.id, 1.0)
        with pytest.raises(NotFound):
            client.feedback("nobodys", 1.0, model="two")
        with pytest.raises(InvalidInput):
            client.feedback(client.infer("two", {"x": np.array([ROW])}).id or "", 7.0)


def test_the_command_shows_who_said_what(fleet: Platform, folder: Path) -> None:
    (folder / "row.json").write_text(json.dumps({"instances": [ROW]}))
    shown = fleet.run("query", "one", "two", "nobody", "-f", "row.json")
    lines = {line.split()[0]: line.split() for line in shown.splitlines()}
    assert lines["one"][1:2] + lines["one"][3:] == ["200", "[0]"]
    assert lines["nobody"][1] == "404"
    found = json.loads(fleet.run("query", "-l", "team=red", "-f", "row.json", "-o", "json"))
    assert [r["model"] for r in found["results"]] == ["one", "two"]
    fleet.run("query", "nobody", "-f", "row.json", code=1)
    assert "selector" in fleet.run("query", "-f", "row.json", code=2)
