"""Each command against a real API: what it says, and its exit code."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_harness import Penstock, ServerThread

from penstock.backends.base import Phase
from penstock.cli import deleting
from penstock.cli.client import Client
from penstock.cli.waiting import Target

IRIS = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata:
  name: iris
spec:
  predictor:
    sklearn:
      storageUri: models/iris
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("iris.yaml").write_text(IRIS)


def test_apply_get_describe_delete(penstock: Penstock) -> None:
    ran = penstock("apply", "-f", "iris.yaml", "--wait")
    assert (ran.code, ran.out) == (
        0,
        "inferenceservice.penstock.dev/iris created\ninferenceservice.penstock.dev/iris ready\n",
    )
    again = penstock("apply", "-f", "iris.yaml")
    assert again.out == "inferenceservice.penstock.dev/iris unchanged\n"
    header, row = penstock("get", "isvc").out.splitlines()
    assert header.split()[:4] == ["NAME", "READY", "REVISION", "REPLICAS"]
    assert row.split()[:4] == ["iris", "True", "iris-00001", "1/1"]
    described = penstock("describe", "isvc/iris").out
    for word in ("Conditions:", "Revisions:", "Replicas:", "Events:", "RevisionReady", "100%"):
        assert word in described
    assert penstock("delete", "isvc", "iris").out == "inferenceservice.penstock.dev/iris deleted\n"
    ran = penstock("get", "isvc", "iris")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == "error: There is no inferenceservice iris in namespace default.\n"


def test_a_graph_is_described_without_what_another_of_its_name_had(penstock: Penstock) -> None:
    graph = (
        "apiVersion: penstock.dev/v1alpha1\nkind: Pipeline\nmetadata: {name: g}\n"
        "spec: {steps: [{name: s, model: nowhere}]}\n"
    )
    Path("g.yaml").write_text(graph)
    penstock("apply", "-f", "g.yaml")
    assert penstock("wait", "pipeline/g", "--for=condition=Ready=False", "--timeout=20s").code == 0
    described = penstock("describe", "pipeline", "g").out
    assert "Events:" in described
    assert described.count("nowhere does not exist") == 2
    assert "Model:" not in described
    penstock("delete", "pipeline", "g")
    Path("g.yaml").write_text(graph.replace("nowhere", "iris"))
    penstock("apply", "-f", "iris.yaml", "-f", "g.yaml", "--wait")
    described = penstock("describe", "pipeline", "g").out
    assert "nowhere" not in described
    assert "All services that the graph names are ready." in described


def test_every_mistake_is_said_with_file_and_line(penstock: Penstock) -> None:
    bad = IRIS.replace("sklearn:", "sklern:").replace(
        "  predictor:\n", "  predictor:\n    minReplicas: -1\n"
    )
    Path("all.yaml").write_text(IRIS.replace("iris\n", "good\n", 1) + "---\n" + bad)
    ran = penstock("apply", "-f", "all.yaml")
    assert ran.code == 1
    assert "good created" in ran.out
    errors = [line for line in ran.err.splitlines() if line.startswith("error: all.yaml:")]
    assert any(
        line.startswith("error: all.yaml:16: spec.predictor.minReplicas:") for line in errors
    )
    assert any(
        line.startswith("error: all.yaml:17: spec.predictor.sklern:") and "sklearn" in line
        for line in errors
    )
    assert "1 of 2 manifests were refused" in ran.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "x.yaml:1: "),
        ("kind: InferenceService\n", "x.yaml:1: apiVersion is missing"),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: x}\n", "v1 Node is not served"),
        (IRIS.replace("v1alpha1", "v1"), "is known as penstock.dev/v1alpha1"),
        (IRIS.replace("InferenceService", "InferenceServise"), "Did you mean InferenceService?"),
        (IRIS + "spec: {}\n", "x.yaml:9: 'spec' is given twice"),
        (IRIS.replace("  name: iris\n", "  labels: {a: b}\n"), "metadata.name is missing"),
        (IRIS.replace("name: iris", "name: 123"), "x.yaml:4: metadata.name is a number to YAML"),
        (IRIS.replace("name: iris", "name: on"), "metadata.name is true or false to YAML"),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
            "apps/v1 Deployment is not served. It is for a cluster and has no part in serving here",
        ),
        (
            "apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata: {name: x}\n",
            "VirtualService is not served. It is for a cluster",
        ),
        ("apiVersion: a.org/v1\nkind: Deployment\nmetadata: {name: x}\n", "is not served.\n"),
        ("- a\n- b\n", "x.yaml:1: a manifest is a map, not a list"),
    ],
)
def test_files_that_are_no_manifests(penstock: Penstock, text: str, says: str) -> None:
    Path("x.yaml").write_text(text)
    ran = penstock("apply", "-f", "x.yaml")
    assert ran.code == 1
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_files_folders_stdin_and_lists(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("d/sub").mkdir(parents=True)
    Path("d/a.yaml").write_text(IRIS.replace("iris\n", "a\n", 1))
    Path("d/sub/b.json").write_text(json.dumps(yaml.safe_load(IRIS.replace("iris\n", "b\n", 1))))
    Path("d/notes.txt").write_text("no manifest")
    Path("list.yaml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n- "
        + IRIS.replace("iris\n", "c\n", 1).replace("\n", "\n  ").rstrip()
    )
    ran = penstock("apply", "-f", "d", "-f", "list.yaml")
    assert [line.split("/")[1] for line in ran.out.splitlines()] == [
        "a created",
        "b created",
        "c created",
    ]
    read, write = os.pipe()
    os.write(write, IRIS.encode())
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert "iris created" in penstock("apply", "-f", "-").out
    assert penstock("apply", "-f", "nothing.yaml").code == 2
    Path("empty").mkdir()
    assert penstock("apply", "-f", "empty").code == 2


def test_a_dry_run_changes_nothing(penstock: Penstock) -> None:
    assert "created (dry run)" in penstock("apply", "-f", "iris.yaml", "--dry-run").out
    assert penstock("get", "isvc", "iris").code == 4


def test_waiting_ends_when_nothing_but_a_change_can_help(penstock: Penstock) -> None:
    penstock.server.api.backend.behave = lambda replica_id, spec: Phase.FAILED
    ran = penstock("apply", "-f", "iris.yaml", "--wait", "--timeout", "20s")
    assert ran.code == 1
    assert "EOFError: the file is empty" in ran.err


def test_what_is_applied_unchanged_is_tried_again_before_its_failure_is_believed(
    penstock: Penstock,
) -> None:
    """The file was mended, the manifest is the same: the old failure is no answer."""
    backend = penstock.server.api.backend
    backend.behave = lambda replica_id, spec: Phase.FAILED
    assert penstock("apply", "-f", "iris.yaml", "--wait", "--timeout", "20s").code == 1
    assert penstock("apply", "-f", "iris.yaml", "--wait", "--timeout", "20s").code == 1
    backend.behave = lambda replica_id, spec: Phase.READY
    ran = penstock("apply", "-f", "iris.yaml", "--wait", "--timeout", "20s")
    assert "iris unchanged" in ran.out
    assert "iris ready" in ran.out


def test_waiting_ends_with_its_time_and_says_what_it_waited_for(penstock: Penstock) -> None:
    penstock.server.api.backend.behave = lambda replica_id, spec: Phase.STARTING
    penstock("apply", "-f", "iris.yaml")
    ran = penstock("wait", "iris", "--for=condition=Ready", "--timeout=300ms")
    assert ran.code == 5
    assert "0 of 1 replicas are ready" in ran.err


def test_wait_for_a_condition_and_for_the_end(penstock: Penstock) -> None:
    penstock("apply", "-f", "iris.yaml")
    assert penstock("wait", "isvc", "iris").out == "inferenceservice/iris condition met\n"
    assert penstock("wait", "isvc/iris", "--for", "condition=PredictorReady=True").code == 0
    assert penstock("wait", "nobody").code == 4
    assert penstock("wait", "iris", "--for", "jam").code == 2
    assert penstock("wait", "iris", "--timeout", "soon").code == 2
    assert penstock("wait", "iris", "--for", "delete", "--timeout", "0.2s").code == 5
    penstock("delete", "isvc/iris")
    assert penstock("wait", "iris", "--for", "delete").code == 0


def test_output_for_programs(penstock: Penstock) -> None:
    penstock("apply", "-f", "iris.yaml", "--wait")
    one = json.loads(penstock("get", "isvc", "iris", "-o", "json").out)
    assert one["kind"] == "InferenceService"
    assert one["spec"]["predictor"]["sklearn"]["storageUri"] == "models/iris"
    many = yaml.safe_load(penstock("get", "isvc", "-o", "yaml").out)
    assert (many["kind"], len(many["items"])) == ("List", 1)
    assert penstock("get", "isvc", "-o", "name").out == "inferenceservice.penstock.dev/iris\n"
    assert "penstock-sklearnserver" in penstock("get", "isvc", "-o", "wide").out
    assert penstock("get", "isvc", "-o", "xml").code == 2
    assert "RUNTIME" in penstock("get", "revisions").out
    assert "Ready" in penstock("get", "replicas").out
    assert "penstock.dev/service" in penstock("get", "revisions", "-o", "json").out


def test_a_wrong_kind_suggests_the_right_one(penstock: Penstock) -> None:
    ran = penstock("get", "isv")
    assert (ran.code, ran.err) == (1, "error: There is no kind 'isv'. Did you mean isvc?\n")


def test_a_name_in_the_place_of_a_kind_is_told_where_names_go(penstock: Penstock) -> None:
    ran = penstock("get", "zzz-9")
    assert ran.code == 1
    assert "A service of that name: `penstock get isvc zzz-9`. There are " in ran.err


def test_namespaces_and_selectors(penstock: Penstock) -> None:
    Path("team.yaml").write_text(IRIS.replace("  name: iris", "  name: iris\n  labels: {tier: b}"))
    penstock("apply", "-f", "team.yaml", "-n", "team")
    assert penstock("get", "isvc").err == "There are no inferenceservices in default.\n"
    assert "team" in penstock("get", "isvc", "-A").out
    assert "iris" in penstock("get", "isvc", "-n", "team", "-l", "tier=b").out
    assert "iris" not in penstock("get", "isvc", "-n", "team", "-l", "tier!=b").out
    other = IRIS.replace("  name: iris", "  name: iris\n  namespace: other")
    Path("other.yaml").write_text(other)
    ran = penstock("apply", "-f", "other.yaml", "-n", "team")
    assert ran.code == 1
    assert "the namespace is other, but -n says team" in ran.err


def test_delete_by_file_by_all_and_what_is_not_there(penstock: Penstock) -> None:
    penstock("apply", "-f", "iris.yaml")
    assert penstock("delete", "-f", "iris.yaml").code == 0
    assert penstock("delete", "-f", "iris.yaml").code == 4
    assert penstock("delete", "-f", "iris.yaml", "--ignore-not-found").code == 0
    penstock("apply", "-f", "iris.yaml")
    assert penstock("delete", "isvc").code == 2
    assert "iris deleted" in penstock("delete", "isvc", "--all").out
    assert penstock("delete").code == 2


def test_what_is_made_anew_under_the_name_was_not_deleted(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another terminal applied it again: the deletion has not to wait for the end of that one."""
    penstock("apply", "-f", "iris.yaml")
    wait = deleting.wait_for_deletion

    def made_anew_first(client: Client, targets: list[Target], timeout_s: float) -> None:
        (target,) = targets
        body = json.dumps(yaml.safe_load(IRIS)).encode()
        client.call("POST", target.kind.path("default"), body=body)
        wait(client, targets, timeout_s)

    monkeypatch.setattr(deleting, "wait_for_deletion", made_anew_first)
    ran = penstock("delete", "isvc", "iris", "--timeout", "3s")
    assert (ran.code, ran.err) == (0, "")
    assert penstock("get", "isvc", "iris").code == 0


def test_logs_and_events(penstock: Penstock) -> None:
    penstock("apply", "-f", "iris.yaml", "--wait")
    assert penstock("logs", "iris", "--tail", "1").code == 0
    events = penstock("events", "iris").out
    assert "RevisionReady" in events
    assert penstock("events", "nobody").err == "There are no events.\n"
    assert penstock("logs", "nobody").code == 4
    ran = penstock("logs", "iris", "--previous")  # there is one revision only
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("There are no logs of iris: ")
    Path("g.yaml").write_text(
        "apiVersion: penstock.dev/v1alpha1\nkind: Pipeline\nmetadata: {name: g}\n"
        "spec: {steps: [{name: s, model: iris}]}\n"
    )
    penstock("apply", "-f", "g.yaml")
    ran = penstock("logs", "g")
    assert (ran.code, ran.err) == (0, "g has no process, and so no logs; it asks iris.\n")


def test_rollouts(penstock: Penstock) -> None:
    penstock("apply", "-f", "iris.yaml", "--wait")
    assert "iris-00001 takes 100%" in penstock("rollout", "status", "iris").out
    ran = penstock("rollout", "rollback", "iris")
    assert (ran.code, ran.out) == (1, "")
    assert "no earlier revision of its predictor" in ran.err
    assert "restarted" in penstock("rollout", "restart", "iris").out
    assert "iris-00002 takes 100%" in penstock("rollout", "status", "isvc/iris").out
    assert len(penstock("rollout", "history", "iris").out.splitlines()) == 3
    assert "iris-00001 takes all" in penstock("rollout", "rollback", "iris").out
    penstock("wait", "--for", "condition=Ready", "isvc/iris")
    assert "iris-00001 takes 100%" in penstock("rollout", "status", "iris").out
    assert "iris-00002 takes all" in penstock("rollout", "promote", "iris").out
    assert (
        "iris-00002 takes all" in penstock("rollout", "rollback", "iris", "--to-revision", "2").out
    )
    ran = penstock("rollout", "rollback", "iris", "--to-revision", "9")
    assert ran.code == 1
    assert "no revision 9" in ran.err


def test_get_with_watch_prints_what_changes(penstock: Penstock) -> None:
    penstock("apply", "-f", "iris.yaml", "--wait")
    api = penstock.server.api

    def end_soon() -> None:
        async def delete_and_stop() -> None:
            await api.client.delete(
                "/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices/iris"
            )

        penstock.server.on_loop(delete_and_stop())

    seen: list[str] = []

    def say(text: str) -> None:
        seen.append(text)
        if "(deleted)" in text:
            raise KeyboardInterrupt

    from penstock.cli import getting

    timer = threading.Timer(0.3, end_soon)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getting, "say", say)
        timer.start()
        ran = penstock("get", "isvc", "-w")
    timer.join()
    assert ran.code == 130  # an interrupt ends quietly
    assert ran.err == ""
    assert seen[0].startswith("NAME")
    assert seen[-1].startswith("iris")


def test_versions(penstock: Penstock) -> None:
    assert len(penstock("version").out.splitlines()) == 2


def test_usage(penstock: Penstock) -> None:
    assert penstock("nonsense").code == 2
    assert penstock("apply").code == 2
    assert penstock("--help").code == 0


def test_a_server_that_is_not_there(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SERVER", "http://127.0.0.1:9")
    ran = penstock("get", "isvc")
    assert ran.code == 6
    assert "penstock serve" in ran.err
    assert len(ran.err.splitlines()) == 1
    monkeypatch.setenv("PENSTOCK_SERVER", "nonsense")
    assert penstock("get", "isvc").code == 2


def test_a_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server: Any = ServerThread(token="0123456789abcdef")
    try:
        penstock = Penstock(server, capsys, monkeypatch)
        ran = penstock("get", "isvc")
        assert ran.code == 1
        assert "--token-file" in ran.err
        file = tmp_path / "token"
        file.write_text("0123456789abcdef\n")
        assert penstock("get", "isvc", "--token-file", str(file)).code == 0
        monkeypatch.setenv("PENSTOCK_TOKEN_FILE", str(file))
        assert penstock("get", "isvc").code == 0
        assert penstock("get", "isvc", "--token-file", "nothing").code == 1
    finally:
        server.close()


def test_many_manifests_are_on_their_way_at_a_time_and_told_in_order(penstock: Penstock) -> None:
    """Those that others refer to are there before anything else is sent; one that is refused stops none."""
    names = [f"iris-{i:02}" for i in range(40)]
    documents = [IRIS.replace("name: iris\n", f"name: {n}\n") for n in names]
    documents.insert(7, IRIS.replace("sklearn", "nonsense").replace("name: iris\n", "name: bad\n"))
    documents.append("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n")
    Path("all.yaml").write_text("---\n".join(documents))
    ran = penstock("apply", "-f", "all.yaml")
    assert ran.code == 1
    assert "1 of 42 manifests were refused" in ran.err
    said = ran.out.splitlines()
    assert said[0].startswith("secret/s ")
    assert [line.split("/")[1].split()[0] for line in said[1:]] == names


def test_a_quota_holds_for_the_services_beside_it(penstock: Penstock) -> None:
    names = [f"iris-{i}" for i in range(8)]
    quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {pods: '1'}}\n"
    documents = [IRIS.replace("name: iris\n", f"name: {n}\n") for n in names]
    for _ in range(2):
        Path("all.yaml").write_text("---\n".join([*documents, quota]))
        ran = penstock("apply", "-f", "all.yaml")
        assert ran.out.splitlines()[0] == "resourcequota/q created"
        assert len(ran.out.splitlines()) == 2, ran.out
        assert "7 of 9 manifests were refused" in ran.err
        assert penstock("delete", "-f", "all.yaml", "--ignore-not-found").code == 0


def test_of_two_manifests_of_one_object_the_later_is_what_stays(penstock: Penstock) -> None:
    documents = [
        IRIS.replace("name: iris\n", f"name: iris\n  labels: {{turn: '{i}'}}\n") for i in range(6)
    ]
    Path("all.yaml").write_text("---\n".join(documents))
    for _ in range(2):
        ran = penstock("apply", "-f", "all.yaml")
        assert ran.code == 0, ran.err
        got = json.loads(penstock("get", "isvc", "iris", "-o", "json").out)
        assert got["metadata"]["labels"] == {"turn": "5"}
