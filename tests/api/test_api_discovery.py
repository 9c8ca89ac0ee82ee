"""Discovery in one answer, and reviews of what one may do."""

from __future__ import annotations

import pytest
from api_harness import ISVC, Api, isvc

V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
BETA = V2.replace("v=v2;", "v=v2beta1;")


@pytest.mark.parametrize("path", ["/api", "/apis"])
async def test_aggregated_discovery_says_what_the_lists_say(api: Api, path: str) -> None:
    answer = await api.client.get(path, headers={"accept": f"{V2},{BETA},application/json"})
    assert answer.headers["content-type"] == V2
    document = answer.json()
    assert document["kind"] == "APIGroupDiscoveryList"
    assert document["apiVersion"] == "apidiscovery.k8s.io/v2"
    for group in document["items"]:
        name = group["metadata"].get("name", "")
        for version in group["versions"]:
            front = f"/apis/{name}" if name else "/api"
            listed = (await api.client.get(f"{front}/{version['version']}")).json()["resources"]
            plain = {r["name"]: r for r in listed}
            told = {}
            for r in version["resources"]:
                assert r["responseKind"]["kind"] == plain[r["resource"]]["kind"]
                assert (r["scope"] == "Namespaced") is plain[r["resource"]]["namespaced"]
                told[r["resource"]] = r["verbs"]
                for below in r.get("subresources", ()):
                    told[f"{r['resource']}/{below['subresource']}"] = below["verbs"]
            assert told == {n: r["verbs"] for n, r in plain.items()}


async def test_the_older_version_and_an_entity_tag(api: Api) -> None:
    answer = await api.client.get("/apis", headers={"accept": f"{BETA},application/json"})
    assert answer.json()["apiVersion"] == "apidiscovery.k8s.io/v2beta1"
    tag = {"accept": BETA, "if-none-match": answer.headers["etag"]}
    assert (await api.client.get("/apis", headers=tag)).status_code == 304


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", f"application/json,{V2}"])
async def test_who_would_rather_have_the_plain_lists_gets_them(api: Api, accept: str) -> None:
    answer = await api.client.get("/apis", headers={"accept": accept})
    assert answer.json()["kind"] == "APIGroupList"


async def test_a_short_name_means_one_group(api: Api) -> None:
    document = (await api.client.get("/apis", headers={"accept": V2})).json()
    owners = [
        group["metadata"]["name"]
        for group in document["items"]
        for version in group["versions"]
        for r in version["resources"]
        if "isvc" in r.get("shortNames", ())
    ]
    assert set(owners) == {"penstock.dev"}


async def test_a_review_of_oneself(api: Api) -> None:
    answer = await api.client.post(
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        json={"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"},
    )
    assert answer.status_code == 201
    assert answer.json()["status"]["userInfo"]["username"] == "penstock"


async def test_metadata_alone(api: Api) -> None:
    await api.client.post(ISVC, json=isvc(labels={"a": "b"}))
    kind = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"
    listed = await api.client.get(ISVC, headers={"accept": kind.format("List")})
    document = listed.json()
    assert document["kind"] == "PartialObjectMetadataList"
    assert document["metadata"]["resourceVersion"]
    (item,) = document["items"]
    assert item.keys() == {"kind", "apiVersion", "metadata"}
    assert item["metadata"]["labels"] == {"a": "b"}
    one = await api.client.get(f"{ISVC}/iris", headers={"accept": kind.format("")})
    assert (one.json()["kind"], one.json()["metadata"]["name"]) == ("PartialObjectMetadata", "iris")
    params = {"watch": "1", "timeoutSeconds": "1"}
    watched = await api.client.get(ISVC, params=params, headers={"accept": kind.format("")})
    assert '"kind":"PartialObjectMetadata"' in watched.text
    assert "storageUri" not in watched.text.replace("f:storageUri", "")


async def test_an_unknown_shape_is_the_object(api: Api) -> None:
    await api.client.post(ISVC, json=isvc())
    odd = {"accept": "application/json;as=Poem;g=meta.k8s.io;v=v1"}
    assert (await api.client.get(f"{ISVC}/iris", headers=odd)).json()["kind"] == "InferenceService"
