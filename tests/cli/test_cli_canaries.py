"""`penstock rollout` on services with named canaries, against a real API."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from cli_harness import Penstock

from penstock.backends.base import Phase
from penstock.domain.annotations import PINNED


def manifest(**canaries: int) -> str:
    spec = {
        "predictor": {"minReplicas": 2, "sklearn": {"storageUri": "models/iris"}},
        "canary": [
            {
                "predictor": {"name": name, "sklearn": {"storageUri": f"models/{name}"}},
                "trafficPercent": percent,
            }
            for name, percent in canaries.items()
        ],
    }
    return yaml.safe_dump(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "iris"},
            "spec": spec,
        }
    )


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def apply(penstock: Penstock, **canaries: int) -> None:
    Path("iris.yaml").write_text(manifest(**canaries))
    assert penstock("apply", "-f", "iris.yaml", "--wait").code == 0


def spec(penstock: Penstock) -> dict:
    return yaml.safe_load(penstock("get", "isvc", "iris", "-o", "yaml").out)["spec"]


def test_one_canary_is_promoted_without_saying_which(penstock: Penstock) -> None:
    apply(penstock, v2=20)
    ran = penstock("rollout", "promote", "iris")
    assert ran.out == "inferenceservice.penstock.dev/iris promoted: v2 takes all requests\n"
    assert spec(penstock) == {
        "predictor": {"name": "v2", "minReplicas": 2, "sklearn": {"storageUri": "models/v2"}}
    }
    history = penstock("rollout", "history", "iris").out
    assert "iris-v2-00001" in history


def test_of_several_one_has_to_be_named(penstock: Penstock) -> None:
    apply(penstock, v2=20, v3=10)
    ran = penstock("rollout", "promote", "iris")
    assert (ran.code, ran.err) == (
        1,
        "error: iris has several canaries; say --canary v2 or v3.\n",
    )
    ran = penstock("rollout", "promote", "iris", "--canary", "v9")
    assert "iris has no canary v9; it has v2 and v3" in ran.err
    assert penstock("rollout", "promote", "iris", "--canary", "v3").code == 0
    after = spec(penstock)
    assert after["predictor"]["name"] == "v3"
    assert [e["predictor"]["name"] for e in after["canary"]] == ["v2"]


def test_rollback_takes_one_or_all_out(penstock: Penstock) -> None:
    apply(penstock, v2=20, v3=10, v4=5)
    assert "without v3" in penstock("rollout", "rollback", "iris", "--canary", "v3").out
    assert [e["predictor"]["name"] for e in spec(penstock)["canary"]] == ["v2", "v4"]
    assert "without v2 and v4" in penstock("rollout", "rollback", "iris").out
    assert "canary" not in spec(penstock)


def test_weights_are_set_and_checked(penstock: Penstock) -> None:
    apply(penstock, v2=20, v3=10)
    ran = penstock("rollout", "weight", "iris", "v2=50", "v3=0")
    assert ran.out == ("inferenceservice.penstock.dev/iris changed: v2 takes 50%, v3 takes 0%\n")
    assert [e["trafficPercent"] for e in spec(penstock)["canary"]] == [50, 0]
    for wrong, why in (
        ("v2", "is no share"),
        ("v2=x", "is no share"),
        ("v2=101", "is no share"),
        ("v9=1", "has no canary v9"),
    ):
        ran = penstock("rollout", "weight", "iris", wrong)
        assert ran.code == 1
        assert why in ran.err
    ran = penstock("rollout", "weight", "iris", "v2=90", "v3=20")
    assert ran.code != 0
    assert "more than 100" in ran.err


def test_status_tells_shares_and_a_canary_that_is_not_ready(penstock: Penstock) -> None:
    penstock.server.api.backend.behave = lambda replica_id, spec: (
        Phase.FAILED if "v2" in spec.revision else Phase.READY
    )
    apply(penstock, v2=20)
    out = penstock("rollout", "status", "iris").out
    assert "iris-00001 takes 100%" in out
    assert "canary v2: " in out
    assert "iris is ready" in out


def test_a_number_that_several_revisions_have_needs_a_name(penstock: Penstock) -> None:
    apply(penstock, v2=20)
    penstock("rollout", "promote", "iris")
    ran = penstock("rollout", "rollback", "iris", "--to-revision", "1")
    assert "several revisions 1; say iris-00001 or iris-v2-00001" in ran.err
    assert penstock("rollout", "rollback", "iris", "--to-revision", "iris-00001").code == 0


def learning(penstock: Penstock, uri: str) -> None:
    """A bandit's two arms; the predictor's changes go up in steps."""
    obj = yaml.safe_load(manifest(v2=50))
    obj["spec"]["predictor"]["sklearn"]["storageUri"] = uri
    obj["spec"] |= {"traffic": {"bandit": "ucb1"}, "rollout": {"steps": [10]}}
    Path("iris.yaml").write_text(yaml.safe_dump(obj))
    ran = penstock("apply", "-f", "iris.yaml", "--wait")
    assert ran.code == 0, ran.err


def shares(penstock: Penstock) -> dict[str, int]:
    obj = yaml.safe_load(penstock("get", "isvc", "iris", "-o", "yaml").out)
    traffic = obj["status"]["components"]["predictor"]["traffic"]
    return {t["revisionName"]: t["percent"] for t in traffic}


def wait_for(penstock: Penstock, expected: dict[str, int]) -> None:
    until = time.monotonic() + 20
    while shares(penstock) != expected:
        assert time.monotonic() < until, shares(penstock)
        time.sleep(0.02)


def test_beside_a_bandit_the_newest_is_promoted_or_given_up_and_the_arms_stay(
    penstock: Penstock,
) -> None:
    learning(penstock, "models/a")
    ran = penstock("rollout", "rollback", "iris")
    assert ran.err == "error: iris has no earlier revision of its predictor that is kept.\n"
    learning(penstock, "models/b")
    wait_for(penstock, {"iris-00002": 10, "iris-00001": 45, "iris-v2-00001": 45})
    assert "iris-00002 is given up, the arms stay" in penstock("rollout", "rollback", "iris").out
    wait_for(penstock, {"iris-00002": 0, "iris-00001": 50, "iris-v2-00001": 50})
    assert "iris-00002 was given up by the annotation" in penstock("rollout", "status", "iris").out
    ran = penstock("rollout", "promote", "iris")
    assert ran.out.endswith("promoted: iris-00002 takes the predictor's place among the arms\n")
    wait_for(penstock, {"iris-00002": 50, "iris-v2-00001": 50})
    # After that, too: the one before starts again, and takes its place when it answers.
    penstock("rollout", "rollback", "iris")
    wait_for(penstock, {"iris-00002": 0, "iris-00001": 50, "iris-v2-00001": 50})
    # An apply that does not speak of it leaves it so; the next change is tried as any.
    learning(penstock, "models/c")
    wait_for(penstock, {"iris-00003": 10, "iris-00001": 45, "iris-v2-00001": 45})
    assert penstock("rollout", "promote", "iris", "--canary", "v2").code == 0
    assert spec(penstock)["predictor"]["name"] == "v2"


def test_a_pin_outlives_an_apply(penstock: Penstock) -> None:
    """The manifest's file does not know of it."""
    apply(penstock)
    changed = yaml.safe_load(manifest())
    for uri in ("models/b", "models/c"):
        changed["spec"]["predictor"]["sklearn"]["storageUri"] = uri
        Path("iris.yaml").write_text(yaml.safe_dump(changed))
        if uri == "models/c":
            assert penstock("rollout", "rollback", "iris").code == 0
            wait_for(penstock, {"iris-00001": 100})
        assert penstock("apply", "-f", "iris.yaml").code == 0
        if uri == "models/b":
            wait_for(penstock, {"iris-00002": 100})
    wait_for_revision(penstock, "iris-00003")
    assert shares(penstock) == {"iris-00001": 100}
    assert penstock("rollout", "promote", "iris").code == 0
    wait_for(penstock, {"iris-00003": 100})
    # One that the file had goes with its line.
    changed["metadata"]["annotations"] = {PINNED: "iris-00001"}
    for revision in ("iris-00001", "iris-00003"):
        Path("iris.yaml").write_text(yaml.safe_dump(changed))
        assert penstock("apply", "-f", "iris.yaml").code == 0
        wait_for(penstock, {revision: 100})
        changed["metadata"].pop("annotations", None)


def wait_for_revision(penstock: Penstock, name: str) -> None:
    until = time.monotonic() + 20
    while name not in penstock("rollout", "history", "iris").out:
        assert time.monotonic() < until
        time.sleep(0.02)
