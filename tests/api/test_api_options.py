"""How a write is done: strictly or not, for show or for good; and what a deletion takes along."""

from __future__ import annotations

from typing import Any

import pytest
from api_harness import ISVC, Api, isvc

from penstock.api.admission import dropping

JSON = {"content-type": "application/json"}


def with_unknown() -> dict[str, Any]:
    obj = isvc()
    obj["spec"]["predictor"]["minReplicaz"] = 1
    obj["spec"]["predictor"]["sklearn"]["env"] = [{"name": "A", "value": "1", "x.y": 2}]
    obj["metadata"]["lables"] = {"a": "b"}
    return obj


# -- unknown fields -----------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [{}, {"fieldValidation": "Strict"}, {"fieldValidation": ""}])
async def test_unknown_fields_are_refused_unless_asked_otherwise(
    api: Api, query: dict[str, str]
) -> None:
    answer = await api.client.post(ISVC, json=with_unknown(), params=query)
    assert answer.status_code == 422
    fields = {c["field"] for c in answer.json()["details"]["causes"]}
    assert {"spec.predictor.minReplicaz", "metadata.lables"} <= fields


async def test_unknown_fields_are_left_out_with_a_warning_each(api: Api) -> None:
    answer = await api.client.post(ISVC, json=with_unknown(), params={"fieldValidation": "Warn"})
    assert answer.status_code == 201, answer.text
    warnings = answer.headers.get_list("warning")
    assert len(warnings) == 3
    assert any('unknown field \\"spec.predictor.minReplicaz\\"' in w for w in warnings)
    stored = answer.json()
    assert "minReplicaz" not in stored["spec"]["predictor"]
    assert stored["spec"]["predictor"]["sklearn"]["env"] == [{"name": "A", "value": "1"}]
    assert "lables" not in stored["metadata"]


async def test_unknown_fields_are_left_out_in_silence(api: Api) -> None:
    answer = await api.client.post(ISVC, json=with_unknown(), params={"fieldValidation": "Ignore"})
    assert answer.status_code == 201
    assert "warning" not in answer.headers


async def test_what_is_wrong_is_refused_however_unknown_fields_are_taken(api: Api) -> None:
    obj = with_unknown()
    obj["spec"]["predictor"]["minReplicas"] = -1
    answer = await api.client.post(ISVC, json=obj, params={"fieldValidation": "Ignore"})
    assert answer.status_code == 422
    assert "minReplicas" in answer.text


async def test_a_validation_that_there_is_not(api: Api) -> None:
    answer = await api.client.post(ISVC, json=isvc(), params={"fieldValidation": "Lax"})
    assert answer.status_code == 422
    assert 'Unsupported value: "Lax"' in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"metadata":{"name":"a","name":"b"}}', "application/json"),
        (b"metadata:\n  name: a\n  name: b\n", "application/yaml"),
    ],
)
async def test_a_field_that_is_there_twice_is_refused(api: Api, body: bytes, kind: str) -> None:
    answer = await api.client.post(ISVC, content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert 'duplicate field "name"' in answer.json()["message"]


def test_dropping_follows_a_problems_path() -> None:
    obj = {"spec": {"a": [{"b": 1, "c.d": 2}], "x": 1}}
    assert dropping(obj, 'spec.a[0]["c.d"]') == {"spec": {"a": [{"b": 1}], "x": 1}}
    assert dropping(obj, "spec.x") == {"spec": {"a": [{"b": 1, "c.d": 2}]}}
    assert dropping(obj, "spec.none[3].x") == obj


# -- status -------------------------------------------------------------------------------------------


async def test_a_status_can_be_written_and_the_platform_says_what_is_true(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    ready = await api.ready()
    lie = {**ready, "status": {**ready["status"], "url": "http://elsewhere"}}
    lie["spec"] = {"ignored": True}
    lie["metadata"] = {**ready["metadata"], "labels": {"ignored": "too"}}
    answer = await api.client.put(f"{ISVC}/iris/status", json=lie, params={"fieldManager": "m"})
    assert answer.status_code == 200, answer.text
    written = answer.json()
    assert written["status"]["url"] == "http://elsewhere"
    assert written["spec"] == ready["spec"]
    assert "labels" not in written["metadata"]
    assert written["metadata"]["generation"] == ready["metadata"]["generation"]
    (entry,) = (e for e in written["metadata"]["managedFields"] if e["manager"] == "m")
    assert entry["subresource"] == "status"
    assert entry["fieldsV1"] == {"f:status": {"f:url": {}}}

    async def corrected() -> bool:
        obj = (await api.client.get(f"{ISVC}/iris")).json()
        return bool(obj["status"]["url"] == ready["status"]["url"])

    await api.until(corrected)
    stale = await api.client.put(f"{ISVC}/iris/status", json=lie)
    assert stale.status_code == 409


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("merge-patch+json", {"status": {"mine": {"a": 1}}}),
        ("json-patch+json", [{"op": "add", "path": "/status", "value": {"mine": {"a": 1}}}]),
        ("apply-patch+yaml", {"metadata": {"name": "q"}, "status": {"mine": {"a": 1}}}),
    ],
)
async def test_a_status_can_be_patched(api: Api, kind: str, patch: Any) -> None:
    # A kind whose status changes with nothing here but this.
    quotas = "/api/v1/namespaces/default/resourcequotas"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "3"}},
    }
    made = await api.client.post(quotas, json=quota)
    assert made.status_code == 201, made.text
    answer = await api.client.request(
        "PATCH",
        f"{quotas}/q/status",
        json=patch,
        params={"fieldManager": "m"},
        headers={"content-type": f"application/{kind}"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"]["mine"] == {"a": 1}
    assert answer.json()["spec"] == quota["spec"]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (7, "status: must be a map"),
        ({"conditions": {}}, "status.conditions: must be a list"),
        ({"conditions": ["x"]}, "status.conditions[0]: must be a map"),
        ({"conditions": [{"type": "Ready", "status": True}]}, "must be True, False or Unknown"),
        ({"conditions": [{"status": "True"}]}, "status.conditions[0].type"),
        (
            {"conditions": [{"type": "A", "status": "True"}, {"type": "A", "status": "True"}]},
            "there is a condition A already",
        ),
        (
            {"conditions": [{"type": "A", "status": "True", "message": 7}]},
            "conditions[0].message: must be text",
        ),
        ({"observedGeneration": -1}, "observedGeneration"),
    ],
)
async def test_a_status_that_nobody_could_read_is_refused(api: Api, status: Any, says: str) -> None:
    await api.client.post(ISVC, json=isvc())
    answer = await api.client.put(f"{ISVC}/iris/status", json={**isvc(), "status": status})
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["message"]


async def test_a_status_of_another_object_or_of_none(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    other = await api.client.put(f"{ISVC}/iris/status", json={**isvc("b"), "status": {}})
    assert other.status_code == 400
    none = await api.client.put(f"{ISVC}/none/status", json={**isvc("none"), "status": {}})
    assert none.status_code == 404
    secrets = "/api/v1/namespaces/default/secrets"
    await api.client.post(
        secrets, json={"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    )
    assert (await api.client.get(f"{secrets}/s/status")).status_code == 404
    assert (await api.client.delete(f"{ISVC}/iris/status")).status_code == 405


async def test_a_dry_run_writes_no_status(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    ready = await api.ready()
    answer = await api.client.put(
        f"{ISVC}/iris/status",
        json={**isvc(), "status": {"url": "http://x"}},
        params={"dryRun": "All"},
    )
    assert answer.json()["status"] == {"url": "http://x"}
    assert (await api.client.get(f"{ISVC}/iris")).json() == ready


# -- deletions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"{ISVC}/iris", ISVC])
@pytest.mark.parametrize("where", ["query", "body"])
async def test_a_dry_deletion_deletes_nothing(api: Api, path: str, where: str) -> None:
    await api.client.post(ISVC, json=isvc())
    said: dict[str, Any] = {"params": {"dryRun": "All"}}
    if where == "body":
        said = {"json": {"kind": "DeleteOptions", "dryRun": ["All"]}}
    answer = await api.client.request("DELETE", path, **said)
    assert answer.status_code == 200
    assert (await api.client.get(f"{ISVC}/iris")).status_code == 200


@pytest.mark.parametrize("path", [f"{ISVC}/iris", ISVC])
async def test_the_policy_may_be_in_the_query_and_counts_for_many(api: Api, path: str) -> None:
    await api.client.post(ISVC, json=isvc(finalizers=["example.org/hold"]))
    await api.client.delete(path, params={"propagationPolicy": "Foreground"})
    held = (await api.client.get(f"{ISVC}/iris")).json()["metadata"]
    assert "foregroundDeletion" in held["finalizers"] or "example.org/hold" in held["finalizers"]
    assert held["deletionTimestamp"]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ({"propagationPolicy": "Sideways"}, {}),
        ({"dryRun": "Some"}, {}),
        ({}, {"dryRun": ["Some"]}),
        ({}, {"dryRun": "All"}),
        ({}, {"propagationPolicy": 7}),
        ({}, {"preconditions": 7}),
        ({}, {"kind": "Secret"}),
        ({}, []),
    ],
)
async def test_options_of_a_deletion_that_cannot_be(
    api: Api, query: dict[str, str], body: Any
) -> None:
    await api.client.post(ISVC, json=isvc())
    answer = await api.client.request("DELETE", f"{ISVC}/iris", params=query, json=body)
    assert answer.status_code == 400, answer.text
    assert (await api.client.get(f"{ISVC}/iris")).status_code == 200


async def test_a_deletion_of_a_version_that_is_not_the_newest(api: Api) -> None:
    created = (await api.client.post(ISVC, json=isvc())).json()
    await api.ready()
    version = created["metadata"]["resourceVersion"]
    answer = await api.client.request(
        "DELETE", f"{ISVC}/iris", json={"preconditions": {"resourceVersion": version}}
    )
    assert answer.status_code == 409


# -- names --------------------------------------------------------------------------------------------


async def test_a_dry_run_shows_the_name_that_would_be_made(api: Api) -> None:
    obj = isvc()
    obj["metadata"] = {"generateName": "iris-"}
    answer = await api.client.post(ISVC, json=obj, params={"dryRun": "All"})
    assert answer.json()["metadata"]["name"].startswith("iris-")
    assert (await api.client.get(ISVC)).json()["items"] == []


async def test_a_made_name_that_is_taken_is_made_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.store import objects

    letters = iter("aaaaaaaaaabbbbb")
    monkeypatch.setattr(objects.secrets, "choice", lambda _: next(letters))
    obj = isvc()
    obj["metadata"] = {"generateName": "iris-"}
    names = [(await api.client.post(ISVC, json=obj)).json()["metadata"]["name"] for _ in range(2)]
    assert names == ["iris-aaaaa", "iris-bbbbb"]
