"""Who owns a field, and what an apply may change: Kubernetes' server-side apply."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from api_harness import ISVC, Api, isvc

from penstock.api import field_sets, ownership
from penstock.store.base import Key, Kind

APPLY = "application/apply-patch+yaml"
MERGE = {"content-type": "application/merge-patch+json"}
URI = ("f:spec", "f:predictor", "f:sklearn", "f:storageUri")
MIN = ("f:spec", "f:predictor", "f:minReplicas")


async def apply(
    api: Api, manager: str, obj: dict[str, Any], path: str = f"{ISVC}/iris", **query: Any
) -> httpx.Response:
    return await api.client.patch(
        path, params={"fieldManager": manager, **query}, json=obj, headers={"content-type": APPLY}
    )


async def merge(api: Api, manager: str, patch: dict[str, Any]) -> httpx.Response:
    return await api.client.patch(
        f"{ISVC}/iris", params={"fieldManager": manager}, json=patch, headers=MERGE
    )


def partial(**predictor: Any) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "iris"},
        "spec": {"predictor": predictor},
    }


def owned(obj: dict[str, Any], manager: str) -> set[tuple[str, ...]]:
    """What a manager has, by whatever operation."""
    found: set[tuple[str, ...]] = set()
    for entry in obj["metadata"].get("managedFields", ()):
        if entry["manager"] == manager:
            found |= field_sets.decoded(entry["fieldsV1"])
    return found


async def test_each_writer_owns_what_it_wrote(api: Api) -> None:
    created = await api.client.post(
        ISVC, json=isvc(labels={"a": "1"}), params={"fieldManager": "m"}
    )
    (entry,) = created.json()["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("m", "Update")
    assert entry["apiVersion"] == "penstock.dev/v1alpha1"
    assert entry["fieldsV1"] == {
        "f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {"f:predictor": {"f:sklearn": {"f:storageUri": {}}}},
    }
    other = await merge(api, "n", {"spec": {"predictor": {"minReplicas": 2}}})
    assert owned(other.json(), "n") == {MIN}
    assert URI in owned(other.json(), "m")


async def test_who_says_no_name_is_known_by_its_program(api: Api) -> None:
    created = await api.client.post(ISVC, json=isvc(), headers={"user-agent": "tool/1.0 (linux)"})
    assert created.json()["metadata"]["managedFields"][0]["manager"] == "tool"


async def test_an_apply_lays_its_fields_over_those_of_others(api: Api) -> None:
    await apply(api, "team", isvc(labels={"a": "1"}))
    await merge(api, "label", {"metadata": {"labels": {"b": "2"}}})
    scaled = await apply(api, "scaler", partial(minReplicas=2))
    assert scaled.status_code == 200, scaled.text
    stored = scaled.json()
    assert stored["spec"]["predictor"] == {
        "sklearn": {"storageUri": "models/iris"},
        "minReplicas": 2,
    }
    assert stored["metadata"]["labels"] == {"a": "1", "b": "2"}
    assert owned(stored, "scaler") == {MIN}


async def test_what_an_owner_no_longer_applies_goes_unless_another_owns_it_too(api: Api) -> None:
    await apply(api, "team", isvc(labels={"a": "1", "b": "2"}))
    await apply(
        api, "other", {**partial(), "metadata": {"name": "iris", "labels": {"b": "2"}}, "spec": {}}
    )
    again = await apply(api, "team", isvc())
    assert again.json()["metadata"]["labels"] == {"b": "2"}
    last = await apply(api, "other", {**partial(minReplicas=1)})
    assert "labels" not in last.json()["metadata"]


async def test_a_field_of_another_owner_is_a_conflict_that_names_it(api: Api) -> None:
    await apply(api, "team", {**isvc(), "spec": {"predictor": {
        "minReplicas": 1, "sklearn": {"storageUri": "models/iris"}}}})  # fmt: skip
    clash = await apply(api, "other", partial(minReplicas=3))
    assert clash.status_code == 409
    said = clash.json()
    assert said["reason"] == "Conflict"
    assert said["message"] == (
        'Apply failed with 1 conflict: conflict with "team": .spec.predictor.minReplicas'
    )
    assert said["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "team"',
            "field": ".spec.predictor.minReplicas",
        }
    ]
    same = await apply(api, "other", partial(minReplicas=1))
    assert same.status_code == 200
    assert MIN in owned(same.json(), "team")
    assert MIN in owned(same.json(), "other")


async def test_every_conflict_is_told_at_once(api: Api) -> None:
    await api.client.post(ISVC, json=isvc(labels={"a": "1"}), params={"fieldManager": "m"})
    obj = isvc(uri="models/other", labels={"a": "2"})
    said = (await apply(api, "other", obj)).json()
    assert said["message"].startswith('Apply failed with 2 conflicts: conflicts with "m" using')
    assert {c["field"] for c in said["details"]["causes"]} == {
        ".metadata.labels.a",
        ".spec.predictor.sklearn.storageUri",
    }


async def test_force_takes_the_field_from_its_owner(api: Api) -> None:
    await apply(api, "team", isvc())
    taken = await apply(api, "other", isvc(uri="models/other"), force="true")
    assert taken.status_code == 200
    assert URI in owned(taken.json(), "other")
    assert URI not in owned(taken.json(), "team")
    back = await apply(api, "team", isvc())
    assert back.status_code == 409


async def test_an_update_takes_what_it_changes_and_no_more(api: Api) -> None:
    await apply(api, "team", isvc(labels={"a": "1", "b": "2"}))
    now = (await merge(api, "edit", {"metadata": {"labels": {"a": "9", "b": None}}})).json()
    assert owned(now, "edit") == {("f:metadata", "f:labels", "f:a")}
    assert owned(now, "team") == {URI}
    assert (await apply(api, "team", isvc(labels={"a": "1"}))).status_code == 409


async def test_applying_the_same_again_writes_nothing(api: Api) -> None:
    await apply(api, "team", isvc())
    await api.ready()
    before = (await api.client.get(f"{ISVC}/iris")).json()["metadata"]
    again = await apply(api, "team", isvc())
    assert again.headers["penstock-result"] == "unchanged"
    assert again.json()["metadata"] == before


async def test_entries_of_keyed_lists_have_owners_of_their_own(api: Api) -> None:
    def env(**values: str) -> dict[str, Any]:
        listed = [{"name": k, "value": v} for k, v in values.items()]
        return partial(sklearn={"storageUri": "models/iris", "env": listed})

    def values(answer: httpx.Response) -> dict[str, str]:
        assert answer.status_code == 200, answer.text
        listed = answer.json()["spec"]["predictor"]["sklearn"].get("env", ())
        return {e["name"]: e["value"] for e in listed}

    await apply(api, "team", env(A="1"))
    assert values(await apply(api, "other", env(B="2"))) == {"A": "1", "B": "2"}
    assert values(await apply(api, "team", env(C="3"))) == {"B": "2", "C": "3"}
    clash = await apply(api, "team", env(B="4"))
    assert clash.json()["details"]["causes"][0]["field"] == (
        '.spec.predictor.sklearn.env[name="B"].value'
    )


async def test_finalizers_are_a_set(api: Api) -> None:
    await apply(api, "a", isvc(finalizers=["example.org/a"]))
    both = await apply(api, "b", isvc(finalizers=["example.org/b"]))
    assert both.json()["metadata"]["finalizers"] == ["example.org/a", "example.org/b"]
    left = await apply(api, "a", isvc())
    assert left.json()["metadata"]["finalizers"] == ["example.org/b"]


async def test_what_was_there_before_owners_were_counted_is_nobodys_to_drop(api: Api) -> None:
    await api.client.post(ISVC, json=isvc(labels={"a": "1"}))
    reset = {"metadata": {"managedFields": [{}]}}
    assert "managedFields" not in (await merge(api, "m", reset)).json()["metadata"]
    clash = await apply(api, "team", isvc(uri="models/other"))
    assert '"before-first-apply" using penstock.dev/v1alpha1' in clash.json()["message"]
    now = (await apply(api, "team", isvc(uri="models/other"), force="true")).json()
    assert now["metadata"]["labels"] == {"a": "1"}
    assert ("f:metadata", "f:labels", "f:a") in owned(now, "before-first-apply")


async def test_owners_can_be_rewritten_as_kubectl_does_when_it_moves_to_the_server(
    api: Api,
) -> None:
    created = (await api.client.post(ISVC, json=isvc(), params={"fieldManager": "m"})).json()
    entry = {**created["metadata"]["managedFields"][0], "manager": "kubectl", "operation": "Apply"}
    answer = await api.client.patch(
        f"{ISVC}/iris",
        json=[{"op": "replace", "path": "/metadata/managedFields", "value": [entry]}],
        headers={"content-type": "application/json-patch+json"},
    )
    assert answer.status_code == 200, answer.text
    (now,) = answer.json()["metadata"]["managedFields"]
    assert (now["manager"], now["operation"]) == ("kubectl", "Apply")


async def test_what_kubectl_applied_on_its_own_side_is_its_own(api: Api) -> None:
    note = (
        '{"metadata":{"name":"iris"},"spec":{"predictor":{"sklearn":{"storageUri":"models/iris"}}}}'
    )
    key = "kubectl.kubernetes.io/last-applied-configuration"
    obj = isvc(annotations={key: note})
    await api.client.post(ISVC, json=obj, params={"fieldManager": "kubectl-client-side-apply"})
    moved = await apply(api, "kubectl", isvc(uri="models/other"))
    assert moved.status_code == 200, moved.text
    assert "models/other" in moved.json()["metadata"]["annotations"][key]
    clash = await apply(api, "someone", isvc(uri="models/third"))
    assert clash.status_code == 409


async def test_many_updaters_are_put_together(api: Api) -> None:
    await api.client.post(ISVC, json=isvc(), params={"fieldManager": "m"})
    for i in range(14):
        answer = await merge(api, f"w{i:02}", {"metadata": {"labels": {f"l{i}": "x"}}})
    entries = answer.json()["metadata"]["managedFields"]
    assert len(entries) == ownership.MAX_UPDATERS
    fields = set().union(*(field_sets.decoded(e["fieldsV1"]) for e in entries))
    assert len(fields) == 15
    assert "ancient-changes" in {e["manager"] for e in entries}


async def test_penstocks_own_apply_means_the_whole_manifest(api: Api) -> None:
    await apply(api, "penstock", isvc())
    await merge(api, "edit", {"spec": {"predictor": {"minReplicas": 2}}})
    now = (await apply(api, "penstock", isvc())).json()
    assert now["spec"] == isvc()["spec"]
    assert owned(now, "edit") == set()
    assert owned(now, "penstock") == {URI}


async def test_scale_is_an_owner_by_its_subresource(api: Api) -> None:
    await apply(api, "team", isvc())
    await api.client.put(
        f"{ISVC}/iris/scale", json={"spec": {"replicas": 2}}, params={"fieldManager": "hpa"}
    )
    stored = (await api.client.get(f"{ISVC}/iris")).json()
    (entry,) = (e for e in stored["metadata"]["managedFields"] if e["manager"] == "hpa")
    assert entry["subresource"] == "scale"
    clash = await apply(api, "team", partial(minReplicas=1, sklearn={"storageUri": "models/iris"}))
    assert '"hpa" with subresource "scale" using' in clash.json()["message"]


async def test_a_secrets_text_is_owned_as_the_data_it_becomes(api: Api) -> None:
    path = "/api/v1/namespaces/default/secrets/s"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    made = await apply(api, "a", {**secret, "stringData": {"pw": "x1"}}, path)
    assert made.status_code == 201, made.text
    assert owned(made.json(), "a") == {("f:data", "f:pw")}
    assert "x1" not in made.text
    clash = await apply(api, "b", {**secret, "stringData": {"pw": "x2"}}, path)
    assert clash.status_code == 409
    more = await apply(api, "b", {**secret, "stringData": {"user": "me"}}, path)
    assert more.json()["data"] == {"pw": "", "user": ""}
    obj = await api.plane.store.get(Key(Kind("", "Secret"), "default", "s"))
    assert {k: base64.b64decode(v) for k, v in obj["data"].items()} == {"pw": b"x1", "user": b"me"}


async def test_an_apply_in_another_version_replaces_all_of_it(api: Api) -> None:
    path = "/apis/serving.kubeflow.org/{}/namespaces/default/inferenceservices/iris"
    old = {
        "apiVersion": "serving.kubeflow.org/v1alpha2",
        "kind": "InferenceService",
        "metadata": {"name": "iris"},
        "spec": {"default": {"predictor": {"sklearn": {"storageUri": "models/iris"}}}},
    }
    assert (await apply(api, "a", old, path.format("v1alpha2"))).status_code == 201
    new = {**isvc(), "apiVersion": "serving.kubeflow.org/v1beta1"}
    answer = await apply(api, "b", new, path.format("v1beta1"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"] == new["spec"]
    assert "replaced as a whole" in answer.headers["warning"]


@pytest.mark.parametrize(
    ("query", "obj", "status", "says"),
    [
        ({}, isvc(), 422, "fieldManager: Required value"),
        ({"fieldManager": "x" * 129}, isvc(), 422, "at most 128"),
        ({"fieldManager": "a\tb"}, isvc(), 422, "printable"),
        ({"fieldManager": "a", "force": "yes"}, isvc(), 400, "force"),
        ({"fieldManager": "a"}, isvc(managedFields=[{"manager": "b"}]), 400, "must be nil"),
        ({"fieldManager": "a"}, isvc(managedFields="x"), 400, "must be nil"),
        ({"fieldManager": "a"}, isvc(resourceVersion="1"), 409, "modified"),
        ({"fieldManager": "a"}, {**isvc(), "spec": {"predictor": {"sklern": {}}}}, 422, "sklern"),
        ({"fieldManager": "a"}, partial(sklearn={"env": [{"value": "x"}]}), 422, "env[0].name"),
        ({"fieldManager": "a"}, partial(sklearn={"env": 7}), 422, "must be a list"),
        ({"fieldManager": "a"}, partial(sklearn=[]), 422, "must be a map"),
        ({"fieldManager": "a"}, {**isvc(), "spec": None}, 422, "spec"),
    ],
)
async def test_applies_that_cannot_be(
    api: Api, query: dict[str, str], obj: dict[str, Any], status: int, says: str
) -> None:
    await api.client.post(ISVC, json=isvc())
    await api.ready()
    answer = await api.client.patch(
        f"{ISVC}/iris", params=query, json=obj, headers={"content-type": APPLY}
    )
    assert answer.status_code == status, answer.text
    assert says in answer.json()["message"]


async def test_a_field_that_is_left_out_has_no_owner(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its being left out once more is no change, however much later that is."""
    obj = {**isvc(), "spec": {"predictor": {**isvc()["spec"]["predictor"], "minReplicaz": 1}}}
    answer = await apply(api, "a", obj, fieldValidation="Warn")
    assert answer.status_code == 201, answer.text
    assert owned(answer.json(), "a") == {URI}
    monkeypatch.setattr(ownership, "_now", lambda: "2100-01-01T00:00:00Z")
    again = await apply(api, "a", obj, fieldValidation="Warn")
    assert again.headers["penstock-result"] == "unchanged"


async def test_a_map_in_the_place_of_anothers_word_is_a_conflict(api: Api) -> None:
    """And so is a word in the place of a map."""
    path = "/api/v1/namespaces/default/resourcequotas/q"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}}
    made = await apply(api, "a", {**quota, "spec": {"hard": {"pods": "3"}}}, path)
    assert made.status_code == 201, made.text
    for hard in ({"pods": {"x": "1"}}, "3"):
        answer = await apply(api, "b", {**quota, "spec": {"hard": hard}}, path)
        assert answer.status_code in (409, 422), answer.text


async def test_only_an_apply_can_be_forced(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    answer = await api.client.patch(
        f"{ISVC}/iris", params={"force": "true"}, json={}, headers=MERGE
    )
    assert answer.status_code == 422
    assert "non-apply" in answer.json()["message"]


def test_fields_go_to_the_wire_and_back() -> None:
    obj = isvc(labels={"a.b/c": "1"}, finalizers=["x"], ownerReferences=[{"uid": "u", "name": "n"}])
    fields = field_sets.leaves_of(obj).keys()
    tree = field_sets.encoded(fields)
    assert tree["f:metadata"]["f:finalizers"] == {'v:"x"': {}}
    assert tree["f:metadata"]["f:ownerReferences"]['k:{"uid":"u"}'] == {
        ".": {},
        "f:uid": {},
        "f:name": {},
    }
    assert field_sets.decoded(tree) == frozenset(fields)


def test_a_list_with_two_entries_of_one_key_is_one_field() -> None:
    leaves = field_sets.leaves_of({"env": [{"name": "a"}, {"name": "a"}]})
    assert leaves.keys() == {("f:env",)}
    assert field_sets.merged([{"name": "a"}, {"name": "a"}], [{"name": "b"}], "env") == [
        {"name": "b"}
    ]


def test_entries_keep_their_order_or_take_the_appliers() -> None:
    live = [{"name": n} for n in "abc"]

    def order(*names: str) -> str:
        applied = [{"name": n} for n in names]
        return "".join(e["name"] for e in field_sets.merged(live, applied, "env"))

    assert order("a", "c", "d") == "abcd"
    assert order("c", "a") == "cab"
