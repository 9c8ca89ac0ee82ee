"""kubectl and what runs: pods, logs, events, and what it asks of a cluster that is none."""

from __future__ import annotations

import asyncio

import pytest
from api_harness import ISVC, Api, isvc
from kubectl_harness import Kubectl

from penstock.backends.base import Phase

PODS = "/api/v1/namespaces/default/pods"
LABEL = "serving.kserve.io/inferenceservice=iris"


async def test_replicas_are_pods(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    (replica,) = api.backend.replicas
    head, row = (await kubectl("get", "pods", "-l", LABEL)).words
    assert head == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert row[:4] == [replica, "1/1", "Running", "0"]
    assert f"pod/{replica}" in (await kubectl("get", "all")).out
    told = (await kubectl("describe", "pod", replica)).out
    assert "kserve-container" in told
    assert "Ready          True" in told or "Ready             True" in told
    await kubectl("wait", "--for=condition=Ready", f"pod/{replica}", "--timeout=20s")
    api.backend.set(replica, Phase.BACKOFF, restarts=2, reason="Exit", message="it ended")

    async def backs_off() -> bool:
        return (await kubectl("get", "pods")).words[1][2:4] == ["CrashLoopBackOff", "2"]

    await api.until(backs_off)
    refused = await kubectl("delete", "pod", replica, fails=True)
    assert "made by the platform" in refused.err


async def test_logs_of_a_pod_and_of_a_service(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    (replica,) = api.backend.replicas
    assert (await kubectl("logs", replica)).out == "loading\nready\n"
    assert (await kubectl("logs", replica, "--tail=1")).out == "ready\n"
    assert (await kubectl("logs", "-l", LABEL, "--prefix")).out.endswith("ready\n")
    assert (
        await kubectl("logs", replica, "-c", "kserve-container", "--limit-bytes=4")
    ).out == "load"
    for flags, says in (
        (("-c", "other"), "container other is not valid"),
        (("--previous",), "previous terminated container"),
        (("--since=5s",), "without times"),
        (("--timestamps",), "without times"),
    ):
        assert says in (await kubectl("logs", replica, *flags, fails=True)).err
    # kubectl itself knows no logs of kinds that it does not know.
    await kubectl("logs", "isvc/iris", fails=True)
    missing = await kubectl("logs", "none", fails=True)
    assert 'pods "none" not found' in missing.err


async def test_no_way_into_a_process(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    (replica,) = api.backend.replicas
    refused = await kubectl("exec", replica, "--", "ls", fails=True)
    assert "a process, not a container" in refused.err
    for below in ("attach", "portforward", "proxy"):
        answer = await api.client.get(f"{PODS}/{replica}/{below}")
        assert answer.status_code == 405


@pytest.mark.parametrize("phase", list(Phase))
async def test_every_phase_is_a_pods(api: Api, phase: Phase) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    (replica,) = api.backend.replicas
    api.backend.set(replica, phase, exit_code=3, signal=9, message="why", reason="Exit")

    async def told() -> bool:
        pod = (await api.client.get(f"{PODS}/{replica}")).json()
        return pod.get("status", {}).get("message") == "why"

    await api.until(told)
    answer = await api.client.get(
        PODS, headers={"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    )
    assert len(answer.json()["rows"][0]["cells"]) == 7


async def test_events_as_they_happen(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc("old"))
    await api.ready("old")
    process = await kubectl.start("get", "events", "--watch-only", "--no-headers")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            made = 0
            while True:
                await api.client.post(ISVC, json=isvc(f"new-{made}"))
                made += 1
                try:
                    line = await asyncio.wait_for(process.stdout.readline(), 0.5)
                except TimeoutError:
                    continue
                assert b"inferenceservice/new-" in line
                break
    finally:
        process.kill()
        await process.communicate()


async def test_the_command_events(api: Api, kubectl: Kubectl) -> None:
    if kubectl.minor < 26:
        pytest.skip("this kubectl has no events")
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    told = await kubectl("events", "--for=inferenceservice.penstock.dev/iris")
    assert "RevisionReady" in told.out


async def test_what_it_asks_of_a_cluster(kubectl: Kubectl) -> None:
    told = await kubectl("cluster-info")
    assert "is running at" in told.out
    assert "No resources found" in (await kubectl("get", "services")).err
    nodes = await kubectl("get", "nodes", fails=True)
    assert "doesn't have a resource type" in nodes.err
    resources = (await kubectl("api-resources", "-o", "name")).out.split()
    assert {"pods", "inferenceservices.penstock.dev", "replicas.penstock.dev"} <= set(resources)


async def test_a_rollout_is_not_kubectls(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    for verb in ("status", "history", "restart", "undo"):
        refused = await kubectl("rollout", verb, "isvc/iris", fails=True)
        assert 'no kind "InferenceService" is registered' in refused.err


async def test_short_names_are_not_ambiguous(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    assert "could also match" not in (await kubectl("get", "isvc")).err


async def test_shapes_of_output(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc(labels={"team": "a"}))
    await api.ready()
    columns = await kubectl("get", "isvc", "-o", "custom-columns=N:.metadata.name,U:.status.url")
    assert columns.words == [["N", "U"], ["iris", "http://127.0.0.1:8080/serving/default/iris"]]
    template = await kubectl("get", "isvc", "-o", "go-template={{len .items}}")
    assert template.out == "1"
    by = await kubectl("get", "isvc", "--sort-by=.metadata.name", "-L", "team")
    assert by.words[1][-1] == "a"
    both = await kubectl("get", "isvc,replicas", "-o", "yaml")
    assert "kind: Replica" in both.out
    jsonpath = "{.status.conditions[?(@.type=='Ready')].status}"
    ready = await kubectl("get", "isvc", "iris", "-o", f"jsonpath={jsonpath}")
    assert ready.out == "True"
