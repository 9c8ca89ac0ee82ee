"""kubectl looks at what is there."""

from __future__ import annotations

import asyncio

from api_harness import ISVC, Api, isvc
from kubectl_harness import Kubectl


async def test_get_prints_the_columns_of_kserve(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    head, row = (await kubectl("get", "inferenceservices")).words
    assert head == [
        "NAME", "URL", "READY", "PREV", "LATEST", "PREVROLLEDOUTREVISION", "LATESTREADYREVISION",
        "AGE",
    ]  # fmt: skip
    assert row[:5] == [
        "iris",
        "http://127.0.0.1:8080/serving/default/iris",
        "True",
        "100",
        "iris-00001",
    ]
    wide = (await kubectl("get", "isvc", "iris", "-o", "wide")).words
    assert wide[0][-2:] == ["REPLICAS", "MESSAGE"]
    assert wide[1][-1] == "1/1"
    everywhere = (await kubectl("get", "isvc", "-A")).words
    assert everywhere[1][:2] == ["default", "iris"]


async def test_get_prints_the_columns_of_seldons_model(api: Api, kubectl: Kubectl) -> None:
    model = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "roses"},
        "spec": {"storageUri": "models/iris", "requirements": ["sklearn"], "replicas": 2},
    }
    path = "/apis/mlops.seldon.io/v1alpha1/namespaces/default/models"
    assert (await api.client.post(path, json=model)).status_code == 201
    await kubectl("wait", "--for=condition=ready", "model/roses", "--timeout=30s")
    head, *_ = (await kubectl("get", "mlm")).out.splitlines()
    assert [h.strip() for h in head.split("  ") if h] == [
        "NAME", "READY", "DESIRED REPLICAS", "AVAILABLE REPLICAS", "AGE",
    ]  # fmt: skip
    _, row = (await kubectl("get", "mlm", "-o", "wide")).words
    assert row[:4] == ["roses", "True", "2", "2"]
    assert "http://127.0.0.1:8080/serving/default/roses" in row


async def test_get_prints_the_conditions_of_seldons_pipelines_and_experiments(
    api: Api, kubectl: Kubectl
) -> None:
    pipeline = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "chain"},
        "spec": {"steps": [{"name": "gone"}]},
    }
    trial = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "trial"},
        "spec": {"candidates": [{"name": "gone", "weight": 1}]},
    }
    folder = "/apis/mlops.seldon.io/v1alpha1/namespaces/default"
    for plural, manifest in (("pipelines", pipeline), ("experiments", trial)):
        assert (await api.client.post(f"{folder}/{plural}", json=manifest)).status_code == 201
    for name, conditions in (
        ("mlp/chain", {"MODELS READY": "False", "PIPELINE READY": "True"}),
        ("mlx/trial", {"CANDIDATES READY": "False", "EXPERIMENT READY": "False"}),
    ):
        await kubectl("wait", "--for=condition=ready=false", name, "--timeout=30s")
        head, row = (await kubectl("get", name, "-o", "wide")).out.splitlines()
        for column, expected in conditions.items():
            assert row[head.index(column) :].split()[0] == expected


async def test_get_in_other_shapes(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc(labels={"team": "a"}))
    name = await kubectl("get", "isvc", "-o", "name")
    assert name.out == "inferenceservice.penstock.dev/iris\n"
    uri = await kubectl("get", "isvc/iris", "-o", "jsonpath={.spec.predictor.sklearn.storageUri}")
    assert uri.out == "models/iris"
    for shape in ("yaml", "json"):
        assert "models/iris" in (await kubectl("get", "isvc", "iris", "-o", shape)).out
    assert "iris" in (await kubectl("get", "isvc", "-l", "team=a", "--show-labels")).out
    assert "No resources found" in (await kubectl("get", "isvc", "-l", "team=b")).err
    fields = await kubectl("get", "isvc", "--field-selector", "metadata.name!=iris")
    assert "No resources found" in fields.err
    missing = await kubectl("get", "isvc", "none", fails=True)
    assert (
        missing.err.splitlines()[-1]
        == 'Error from server (NotFound): inferenceservices.penstock.dev "none" not found'
    )


async def test_get_pages(api: Api, kubectl: Kubectl) -> None:
    for i in range(5):
        await api.client.post(ISVC, json=isvc(f"iris-{i}"))
    listed = await kubectl("get", "isvc", "--chunk-size=2", "--no-headers")
    assert [row[0] for row in listed.words] == [f"iris-{i}" for i in range(5)]


async def test_watch_shows_what_changes(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    process = await kubectl.start("get", "isvc", "-w", "-o", "name")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"inferenceservice.penstock.dev/iris\n"
            await api.client.post(ISVC, json=isvc("second"))
            while b"second" not in await process.stdout.readline():
                pass
    finally:
        process.kill()
        await process.communicate()


async def test_watch_as_a_table(api: Api, kubectl: Kubectl) -> None:
    process = await kubectl.start("get", "isvc", "--watch-only")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            made = 0
            while process.stdout.at_eof() is False:
                await api.client.post(ISVC, json=isvc(f"iris-{made}"))
                made += 1
                try:
                    line = await asyncio.wait_for(process.stdout.readline(), 0.5)
                except TimeoutError:
                    continue
                assert line.split()[:3] == [b"NAME", b"URL", b"READY"]
                break
    finally:
        process.kill()
        await process.communicate()


async def test_describe_shows_events(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    told = (await kubectl("describe", "isvc", "iris")).out
    assert "Storage Uri:" in told
    assert "RevisionReady" in told
    head, *rows = (await kubectl("get", "events")).words
    assert head == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert any(row[1:4] == ["Normal", "Ready", "inferenceservice/iris"] for row in rows)


async def test_every_kind_has_a_table(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    assert (await kubectl("get", "namespaces")).words[1][:2] == ["default", "Active"]
    assert (await kubectl("get", "revisions")).words[1][:2] == ["iris-00001", "iris"]
    assert (await kubectl("get", "replicas")).words[1][1:3] == ["Ready", "0"]
    assert "iris" in (await kubectl("get", "all")).out


async def test_wait_for_a_condition(api: Api, kubectl: Kubectl) -> None:
    await api.client.post(ISVC, json=isvc())
    done = await kubectl("wait", "--for=condition=Ready", "isvc/iris", "--timeout=20s")
    assert done.out == "inferenceservice.penstock.dev/iris condition met\n"
    late = await kubectl("wait", "--for=condition=Absent", "isvc/iris", "--timeout=1s", fails=True)
    assert "timed out" in late.err
