"""Secrets, service accounts and namespaces."""

# ruff: noqa: E501 - a row of a table reads better in one line

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import problems_of, warnings_of

from penstock import dialects
from penstock.domain.secrets import Namespace, Secret, ServiceAccount
from penstock.errors import InvalidManifest


def secret(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, **fields}


def test_a_secrets_values_are_decoded_and_plain_text_wins() -> None:
    manifest = secret(
        data={"a": "aGVs\nbG8=", "b": "eA=="},
        stringData={"b": "plain ü"},
        metadata={"name": "s3", "annotations": {"serving.kserve.io/s3-endpoint": "minio:9000"}},
    )
    found = dialects.translate(manifest).object
    assert found == Secret(
        "default",
        "s3",
        data={"a": b"hello", "b": "plain ü".encode()},
        annotations={"serving.kserve.io/s3-endpoint": "minio:9000"},
    )


def test_admission_keeps_a_secret_as_kubernetes_does() -> None:
    dialect = dialects.find("v1", "Secret")
    manifest = secret(data={"a": "eA=="}, stringData={"b": "y"})
    kept = dialect.admit(manifest)
    assert kept["data"] == {"a": "eA==", "b": "eQ=="}
    assert kept["type"] == "Opaque"
    assert "stringData" not in kept
    assert "stringData" in manifest
    assert dialect.translate(kept).object.data == dialect.translate(manifest).object.data


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"data": {"a": "no base64!"}}, "data.a: is no base64; plain text belongs in stringData"),
        ({"data": {"a/b": "eA=="}}, "data[\"a/b\"]: 'a/b' is no key of a Secret: letters, digits, '-', '_' and '.'"),
        ({"stringData": {"a": "x" * 2_000_000}}, "data: 2000000 bytes; at most 1048576 fit"),
        ({"dta": {}}, "dta: unknown field, did you mean data?"),
        ({"metadata": {"name": "A"}}, "metadata.name: 'A' is no DNS name: lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit"),
    ],
)  # fmt: skip
def test_problems_of_secrets(fields: dict[str, Any], problem: str) -> None:
    assert problems_of(secret(**fields)) == [problem]


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        (secret(), secret(type="Opaque"), []),
        (secret(type="a"), secret(type="b"), ["type"]),
        (
            secret(immutable=True, data={"a": "eA=="}),
            secret(immutable=True, stringData={"a": "x"}),
            [],
        ),
        (
            secret(immutable=True, data={"a": "eA=="}),
            secret(immutable=True, data={"a": "eQ=="}),
            ["data"],
        ),
        (secret(immutable=True), secret(), ["immutable"]),
    ],
)
def test_updates_of_secrets(old: dict[str, Any], new: dict[str, Any], fields: list[str]) -> None:
    dialect = dialects.find("v1", "Secret")
    if not fields:
        dialect.check_update(old, new)
        return
    with pytest.raises(InvalidManifest) as caught:
        dialect.check_update(old, new)
    assert [p.path for p in caught.value.problems] == fields


def test_a_service_account_names_secrets() -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "sa", "namespace": "team"},
        "secrets": [{"name": "s3"}, {"name": "gs"}],
        "imagePullSecrets": [{"name": "x"}],
    }
    assert dialects.translate(manifest).object == ServiceAccount("team", "sa", ("s3", "gs"))
    assert [w.partition(":")[0] for w in warnings_of(manifest)] == ["imagePullSecrets"]
    manifest["secrets"] = [{}]
    assert problems_of(manifest) == ["secrets[0].name: is required"]


def test_a_namespace() -> None:
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "team", "labels": {"a": "b"}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }
    assert dialects.translate(manifest).object == Namespace("team", {"a": "b"})
    manifest["metadata"] = {"name": "a.b"}
    assert problems_of(manifest)[0].startswith("metadata.name: 'a.b' is no DNS label")


def test_secret_fields_are_named_for_whoever_shows_objects() -> None:
    assert dialects.find("v1", "Secret").secret_fields == ("data", "stringData")
