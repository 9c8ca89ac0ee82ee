"""Writing and reading objects by Kubernetes' conventions."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from api_harness import ISVC, Api, isvc


async def test_create_get_list_delete(api: Api) -> None:
    created = await api.client.post(ISVC, json=isvc())
    assert created.status_code == 201
    meta = created.json()["metadata"]
    assert (meta["namespace"], meta["generation"]) == ("default", 1)
    got = (await api.client.get(f"{ISVC}/iris")).json()
    assert got["spec"] == isvc()["spec"]
    listed = (await api.client.get(ISVC)).json()
    assert listed["kind"] == "InferenceServiceList"
    assert [o["metadata"]["name"] for o in listed["items"]] == ["iris"]
    everywhere = await api.client.get("/apis/penstock.dev/v1alpha1/inferenceservices")
    assert len(everywhere.json()["items"]) == 1
    gone = await api.client.delete(f"{ISVC}/iris")
    assert gone.json()["status"] == "Success"
    missing = await api.client.get(f"{ISVC}/iris")
    assert missing.status_code == 404
    assert missing.json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'inferenceservices.penstock.dev "iris" not found',
        "reason": "NotFound",
        "code": 404,
        "details": {"name": "iris", "group": "penstock.dev", "kind": "inferenceservices"},
    }


async def test_a_second_create_is_a_conflict(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    again = await api.client.post(ISVC, json=isvc())
    assert again.status_code == 409
    assert again.json()["reason"] == "AlreadyExists"


async def test_every_mistake_in_a_manifest_is_said_with_its_field(api: Api) -> None:
    obj = isvc()
    obj["spec"]["predictor"]["sklern"] = {}
    obj["spec"]["predictor"]["minReplicas"] = -1
    answer = await api.client.post(ISVC, json=obj)
    assert answer.status_code == 422
    status = answer.json()
    assert status["reason"] == "Invalid"
    causes = {c["field"]: c["message"] for c in status["details"]["causes"]}
    assert "did you mean sklearn?" in causes["spec.predictor.sklern"]
    assert "spec.predictor.minReplicas" in causes
    assert (await api.client.get(ISVC)).json()["items"] == []


async def test_status_and_owned_metadata_cannot_be_written(api: Api) -> None:
    obj = isvc()
    obj["status"] = {"url": "http://evil"}
    obj["metadata"] |= {
        "uid": "mine",
        "generation": 77,
        "creationTimestamp": "1999-01-01T00:00:00Z",
    }
    created = (await api.client.post(ISVC, json=obj)).json()
    assert "status" not in created
    assert created["metadata"]["uid"] != "mine"
    assert created["metadata"]["generation"] == 1


async def test_replace_is_a_compare_and_swap_when_it_names_a_version(api: Api) -> None:
    created = (await api.client.post(ISVC, json=isvc(labels={"a": "1"}))).json()
    await api.ready()
    stale = await api.client.put(f"{ISVC}/iris", json=created)
    assert stale.status_code == 409
    assert stale.json()["reason"] == "Conflict"
    del created["metadata"]["resourceVersion"]
    created["metadata"]["labels"] = {"a": "2"}
    forced = await api.client.put(f"{ISVC}/iris", json=created)
    assert forced.status_code == 200
    assert forced.json()["metadata"]["labels"] == {"a": "2"}
    assert forced.json()["metadata"]["generation"] == 1
    assert forced.json()["status"]["observedGeneration"] == 1


async def test_merge_patch(api: Api) -> None:
    await api.client.post(ISVC, json=isvc(labels={"a": "1", "b": "2"}))
    patch = {
        "metadata": {"labels": {"a": None, "c": "3"}},
        "spec": {"predictor": {"minReplicas": 2}},
    }
    answer = await api.client.patch(
        f"{ISVC}/iris", json=patch, headers={"content-type": "application/merge-patch+json"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["labels"] == {"b": "2", "c": "3"}
    assert answer.json()["metadata"]["generation"] == 2
    bad = await api.client.patch(
        f"{ISVC}/iris",
        json={"spec": {"predictor": {"minReplicas": "two"}}},
        headers={"content-type": "application/merge-patch+json"},
    )
    assert bad.status_code == 422
    other = await api.client.patch(
        f"{ISVC}/iris", json={}, headers={"content-type": "application/json-patch+json"}
    )
    assert other.status_code == 400


async def test_patches_from_many_writers_are_all_there(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    answers = await asyncio.gather(
        *(
            api.client.patch(
                f"{ISVC}/iris",
                json={"metadata": {"labels": {f"l{i}": "x"}}},
                headers={"content-type": "application/merge-patch+json"},
            )
            for i in range(8)
        )
    )
    assert {a.status_code for a in answers} == {200}
    labels = (await api.client.get(f"{ISVC}/iris")).json()["metadata"]["labels"]
    assert len(labels) == 8


async def test_apply_creates_configures_and_says_when_nothing_changed(api: Api) -> None:
    first = await api.apply(isvc())
    assert (first.status_code, first.headers["penstock-result"]) == (201, "created")
    await api.ready()
    again = await api.apply(isvc())
    assert (again.status_code, again.headers["penstock-result"]) == (200, "unchanged")
    changed = await api.apply(isvc(uri="models/other"))
    assert changed.headers["penstock-result"] == "configured"
    # What is applied is what is stored: fields that are no longer there are gone.
    labelled = await api.apply(isvc(uri="models/other", labels={"x": "y"}))
    assert labelled.json()["metadata"]["labels"] == {"x": "y"}
    assert "labels" not in (await api.apply(isvc(uri="models/other"))).json()["metadata"]


async def test_an_apply_keeps_the_mark_of_a_restart(api: Api) -> None:
    await api.apply(isvc())
    mark = {"metadata": {"annotations": {"penstock.dev/restartedAt": "2026-01-01T00:00:00Z"}}}
    await api.client.patch(
        f"{ISVC}/iris", json=mark, headers={"content-type": "application/merge-patch+json"}
    )
    again = await api.apply(isvc())
    assert again.headers["penstock-result"] == "unchanged"


async def test_dry_run_checks_everything_and_changes_nothing(api: Api) -> None:
    answer = await api.client.post(ISVC, json=isvc(), params={"dryRun": "All"})
    assert answer.status_code == 201
    assert (await api.client.get(f"{ISVC}/iris")).status_code == 404
    bad = isvc()
    bad["spec"] = {}
    assert (await api.client.post(ISVC, json=bad, params={"dryRun": "All"})).status_code == 422
    assert (await api.client.post(ISVC, json=isvc(), params={"dryRun": "Some"})).status_code == 400


@pytest.mark.parametrize(
    ("body", "content_type", "code", "says"),
    [
        (b"{", "application/json", 400, "cannot be read"),
        (b"[1]", "application/json", 400, "no object"),
        (b"a: [1", "application/yaml", 400, "cannot be read"),
        (b"a: &x [1]\nb: *x\n", "application/yaml", 400, "aliases"),
        (b"[" * 5000 + b"]" * 5000, "application/json", 400, ""),
        (b'{"a":' * 80 + b"1" + b"}" * 80, "application/json", 400, "deeper"),
        (b"\xff\xfe", "application/json", 400, "cannot be read"),
        (
            b'{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}',
            "application/json",
            400,
            "path",
        ),
        (b'{"metadata":{"name":"x","namespace":"other"}}', "application/json", 400, "namespace"),
        (b"{}", "application/json", 422, "metadata"),
        (b"{}", "text/plain", 415, "text/plain"),
        (b"x=1", "application/x-www-form-urlencoded", 415, "form"),
    ],
)
async def test_bodies_that_cannot_be_taken(
    api: Api, body: bytes, content_type: str, code: int, says: str
) -> None:
    answer = await api.client.post(ISVC, content=body, headers={"content-type": content_type})
    assert answer.status_code == code, answer.text
    assert answer.json()["kind"] == "Status"
    assert says in answer.json()["message"]
    assert (await api.client.get(ISVC)).status_code == 200


async def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(api: Api) -> None:
    big = b'{"metadata":{"name":"' + b"x" * (4 << 20) + b'"}}'
    known = await api.client.post(ISVC, content=big, headers={"content-type": "application/json"})
    assert known.status_code == 413

    async def chunks() -> Any:
        for i in range(0, len(big), 1 << 16):
            yield big[i : i + (1 << 16)]

    unknown = await api.client.post(
        ISVC, content=chunks(), headers={"content-type": "application/json"}
    )
    assert unknown.status_code == 413


async def test_paths_and_methods_that_are_none(api: Api) -> None:
    for path in (
        "/nothing",
        "/apis/penstock.dev/v1alpha1/namespaces/default/nothing",
        f"{ISVC}/a/b/c",
    ):
        answer = await api.client.get(path)
        assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound")
    answer = await api.client.post(f"{ISVC}/iris", json=isvc())
    assert (answer.status_code, answer.json()["reason"]) == (405, "MethodNotAllowed")
    assert (await api.client.post("/healthz", json={})).status_code == 404
    read_only = "/apis/penstock.dev/v1alpha1/namespaces/default/revisions"
    revision = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Revision",
        "metadata": {"name": "x"},
    }
    assert (await api.client.post(read_only, json=revision)).status_code == 405
    assert (await api.client.delete(f"{read_only}/x")).status_code == 405


async def test_fields_without_effect_come_back_as_warnings(api: Api) -> None:
    obj = isvc()
    obj["spec"]["predictor"]["nodeSelector"] = {"disk": "ssd"}
    answer = await api.client.post(ISVC, json=obj)
    assert answer.status_code == 201, answer.text
    (warning,) = answer.headers.get_list("warning")
    assert warning.startswith('299 - "spec.predictor.nodeSelector')


async def test_selectors_and_pages(api: Api) -> None:
    for i in range(5):
        await api.client.post(ISVC, json=isvc(f"m{i}", labels={"team": "a" if i < 3 else "b"}))
    chosen = (await api.client.get(ISVC, params={"labelSelector": "team in (b)"})).json()["items"]
    assert [o["metadata"]["name"] for o in chosen] == ["m3", "m4"]
    named = (await api.client.get(ISVC, params={"fieldSelector": "metadata.name=m1"})).json()[
        "items"
    ]
    assert [o["metadata"]["name"] for o in named] == ["m1"]
    seen = []
    params = {"limit": "2"}
    while True:
        page = (await api.client.get(ISVC, params=params)).json()
        seen += [o["metadata"]["name"] for o in page["items"]]
        if "continue" not in page["metadata"]:
            break
        params["continue"] = page["metadata"]["continue"]
    assert seen == ["m0", "m1", "m2", "m3", "m4"]
    assert (await api.client.get(ISVC, params={"labelSelector": "a=="})).status_code in (200, 400)
    assert (await api.client.get(ISVC, params={"limit": "x"})).status_code == 400
    assert (await api.client.get(ISVC, params={"continue": "x"})).status_code == 400


async def test_a_list_of_a_namespace_is_of_that_one(api: Api) -> None:
    for namespace in ("default", "team"):
        await api.client.post(ISVC.replace("default", namespace), json=isvc(namespace))
        await api.until(lambda: _pods(api, namespace))  # noqa: B023 - awaited here
    for plural in ("inferenceservices", "replicas"):
        base = "/apis/penstock.dev/v1alpha1"
        for namespace in ("default", "team", "none"):
            found = await api.client.get(f"{base}/namespaces/{namespace}/{plural}")
            expected = [] if namespace == "none" else [namespace]
            assert [o["metadata"]["namespace"] for o in found.json()["items"]] == expected
        assert len((await api.client.get(f"{base}/{plural}")).json()["items"]) == 2


async def _pods(api: Api, namespace: str) -> list[Any]:
    return list((await api.client.get(f"/api/v1/namespaces/{namespace}/pods")).json()["items"])


async def test_services_of_two_dialects_cannot_have_one_name(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    theirs = {**isvc(), "apiVersion": "serving.kserve.io/v1beta1"}
    answer = await api.apply(theirs)
    assert answer.status_code == 409
    assert "penstock.dev/v1alpha1" in answer.json()["message"]


async def test_delete_with_preconditions_and_of_a_selection(api: Api) -> None:
    for name in ("a", "b"):
        await api.client.post(ISVC, json=isvc(name, labels={"name": name}))
    wrong = await api.client.request(
        "DELETE", f"{ISVC}/a", json={"preconditions": {"uid": "another"}}
    )
    assert wrong.status_code == 409
    await api.client.request("DELETE", ISVC, params={"labelSelector": "name=a"})
    left = (await api.client.get(ISVC)).json()["items"]
    assert [o["metadata"]["name"] for o in left] == ["b"]


async def test_a_namespace_comes_with_its_first_object_and_goes_with_all_of_them(api: Api) -> None:
    path = ISVC.replace("default", "team")
    assert (await api.client.post(path, json=isvc())).status_code == 201
    names = [
        n["metadata"]["name"] for n in (await api.client.get("/api/v1/namespaces")).json()["items"]
    ]
    assert "team" in names
    assert (await api.client.delete("/api/v1/namespaces/default")).status_code in (403, 404)
    assert (await api.client.delete("/api/v1/namespaces/team")).status_code == 200
    assert (await api.client.get(path)).json()["items"] == []


async def test_generated_names(api: Api) -> None:
    obj = isvc()
    obj["metadata"] = {"generateName": "iris-"}
    names = {(await api.client.post(ISVC, json=obj)).json()["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(n.startswith("iris-") for n in names)


# -- secrets ------------------------------------------------------------------------------------------

SECRETS = "/api/v1/namespaces/default/secrets"


def secret(**data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3"},
        "stringData": data,
    }


async def stored(api: Api) -> dict[str, str]:
    from penstock.store.base import Key, Kind

    obj = await api.plane.store.get(Key(Kind("", "Secret"), "default", "s3"))
    return {k: base64.b64decode(v).decode() for k, v in obj["data"].items()}


async def test_a_secret_goes_in_and_never_comes_out(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    hushed = "hunter2-hunter2"
    answers = [
        await api.client.post(SECRETS, json=secret(PASSWORD=hushed)),
        await api.client.get(f"{SECRETS}/s3"),
        await api.client.get(SECRETS),
        await api.client.put(f"{SECRETS}/s3", json=secret(PASSWORD=hushed)),
        await api.apply(secret(PASSWORD=hushed)),
        await api.client.post(SECRETS, json=secret(PASSWORD=hushed)),
        await api.client.post(SECRETS, json={**secret(), "data": {"x": hushed}, "kimd": 1}),
    ]
    encoded = base64.b64encode(hushed.encode()).decode()
    for answer in answers:
        assert hushed not in answer.text
        assert encoded not in answer.text
    assert answers[1].json()["data"] == {"PASSWORD": ""}
    assert await stored(api) == {"PASSWORD": hushed}
    assert hushed not in caplog.text


async def test_what_came_out_redacted_can_be_sent_back_without_losing_a_value(api: Api) -> None:
    await api.client.post(SECRETS, json=secret(USER="me", PASSWORD="x1"))
    shown = (await api.client.get(f"{SECRETS}/s3")).json()
    shown["metadata"]["labels"] = {"team": "a"}
    shown["data"]["PASSWORD"] = base64.b64encode(b"x2").decode()
    answer = await api.client.put(f"{SECRETS}/s3", json=shown)
    assert answer.status_code == 200, answer.text
    assert await stored(api) == {"USER": "me", "PASSWORD": "x2"}
    assert answer.json()["metadata"]["labels"] == {"team": "a"}


async def test_a_watch_on_secrets_shows_no_value_either(api: Api) -> None:
    await api.client.post(SECRETS, json=secret(PASSWORD="hunter2-hunter2"))
    async with api.client.stream("GET", SECRETS, params={"watch": "1", "timeoutSeconds": "1"}) as r:
        text = (await r.aread()).decode()
    assert '"PASSWORD":""' in text
