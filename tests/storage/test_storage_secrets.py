"""Secrets in KServe's shapes, and the environment, as credentials; and that nothing is ever printed."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Forbidden, InvalidInput, NotFound, PenstockError, Unsupported
from penstock.storage import (
    AzureCredentials,
    Credentials,
    GcsCredentials,
    HdfsCredentials,
    HubCredentials,
    S3Credentials,
    Secret,
    WebCredentials,
    from_environment,
    from_secrets,
    from_storage_config,
    select_secrets,
)

GOOGLE_KEY = json.dumps(
    {"type": "service_account", "private_key": "PRIVATE", "client_email": "a@b"}
)


def secret(
    data: dict[str, str], annotations: dict[str, str] | None = None, name: str = "mine"
) -> Secret:
    return Secret(name, "ns", {k: v.encode() for k, v in data.items()}, annotations or {})


KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "value"}


@pytest.mark.parametrize(
    ("data", "annotations", "expected"),
    [
        (KEYS, {}, Credentials(s3=S3Credentials("key", "value"))),
        (
            {"awsAccessKeyID": "key\n", "awsSecretAccessKey": "value\n"},
            {
                "serving.kserve.io/s3-endpoint": "minio:9000",
                "serving.kserve.io/s3-usehttps": "0",
                "serving.kserve.io/s3-region": "eu-west-1",
                "serving.kserve.io/s3-verifyssl": "0",
                "serving.kserve.io/s3-usevirtualbucket": "true",
            },
            Credentials(
                s3=S3Credentials(
                    "key",
                    "value",
                    endpoint="http://minio:9000",
                    region="eu-west-1",
                    verify_tls=False,
                    virtual_host=True,
                )
            ),
        ),
        (
            KEYS,
            {"serving.kubeflow.org/s3-endpoint": "s3.example.com"},
            Credentials(s3=S3Credentials("key", "value", endpoint="https://s3.example.com")),
        ),
        (
            {},
            {
                "serving.kserve.io/s3-endpoint": "http://s3.local/",
                "serving.kserve.io/s3-useanoncredential": "true",
            },
            Credentials(s3=S3Credentials(endpoint="http://s3.local", anonymous=True)),
        ),
        (
            {**KEYS, "AWS_SESSION_TOKEN": "t", "cabundle.crt": "PEM"},
            {},
            Credentials(s3=S3Credentials("key", "value", "t", ca_pem="PEM")),
        ),
        (
            {"gcloud-application-credentials.json": GOOGLE_KEY},
            {},
            Credentials(gcs=GcsCredentials(GOOGLE_KEY)),
        ),
        (
            {
                "AZ_TENANT_ID": "t",
                "AZ_CLIENT_ID": "c",
                "AZ_CLIENT_SECRET": "s",
                "AZ_SUBSCRIPTION_ID": "x",
            },
            {},
            Credentials(azure=AzureCredentials(tenant_id="t", client_id="c", client_secret="s")),
        ),
        (
            {"AZURE_STORAGE_ACCESS_KEY": "k", "AZURE_STORAGE_ACCOUNT": "acc"},
            {},
            Credentials(azure=AzureCredentials("acc", "k")),
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=acc;"
                "AccountKey=a2V5PT0=;EndpointSuffix=core.windows.net"
            },
            {},
            Credentials(
                azure=AzureCredentials(
                    "acc", "a2V5PT0=", endpoint="https://acc.blob.core.windows.net"
                )
            ),
        ),
        (
            {"AZURE_STORAGE_SAS_TOKEN": "?sv=1"},
            {},
            Credentials(azure=AzureCredentials(sas_token="sv=1")),
        ),
        (
            {"https-host": "example.com", "headers": '{"Authorization": "Bearer x"}'},
            {},
            Credentials(web=(WebCredentials("example.com", {"Authorization": "Bearer x"}),)),
        ),
        (
            {"https-host": "example.com", "headers": "A: 1\nB:2\n"},
            {},
            Credentials(web=(WebCredentials("example.com", {"A": "1", "B": "2"}),)),
        ),
        ({"HF_TOKEN": "hf_x\n"}, {}, Credentials(hub=HubCredentials("hf_x"))),
        (
            {
                "HDFS_NAMENODE": "https://node:9871/",
                "USER_PROXY": "me",
                "HDFS_ROOTPATH": "/models",
                "TLS_SKIP_VERIFY": "true",
                "HEADERS": '{"x": "y"}',
                "N_THREADS": "2",
            },
            {},
            Credentials(
                hdfs=HdfsCredentials(
                    namenode="https://node:9871",
                    root_path="/models",
                    proxy_user="me",
                    headers={"x": "y"},
                    verify_tls=False,
                )
            ),
        ),
        ({".dockerconfigjson": "{}"}, {}, Credentials()),
    ],
)
def test_kinds_show_in_the_keys(
    data: dict[str, str], annotations: dict[str, str], expected: Credentials
) -> None:
    """Each Secret that KServe's documentation has, and the usual others."""
    assert from_secrets([secret(data, annotations)]) == expected


@pytest.mark.parametrize(
    ("data", "annotations", "error", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "k"}, {}, InvalidInput, "not AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "k"}, {}, InvalidInput, "not AWS_ACCESS_KEY_ID"),
        (
            KEYS,
            {"serving.kserve.io/s3-usehttps": "perhaps"},
            InvalidInput,
            "s3-usehttps is 'perhaps'",
        ),
        (KEYS, {"serving.kserve.io/s3-cabundle": "/x.crt"}, Unsupported, r"cabundle\.crt"),
        (KEYS, {"serving.kserve.io/s3-cabundle-configmap": "x"}, Unsupported, r"cabundle\.crt"),
        (KEYS, {"serving.kserve.io/s3-useaccelerate": "1"}, Unsupported, "acceleration"),
        ({"gcloud-application-credentials.json": "{"}, {}, InvalidInput, "no Google key"),
        ({"gcloud-application-credentials.json": "[]"}, {}, InvalidInput, "no Google key"),
        (
            {"gcloud-application-credentials.json": '{"type": "external_account"}'},
            {},
            Unsupported,
            "external_account",
        ),
        ({"AZ_CLIENT_ID": "x"}, {}, InvalidInput, "AZURE_TENANT_ID, AZURE_CLIENT_SECRET"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "hello"}, {}, InvalidInput, "KEY=VALUE"),
        ({"https-host": "h", "headers": "{1}"}, {}, InvalidInput, "no JSON object"),
        ({"https-host": "h", "headers": '{"a b": "c"}'}, {}, InvalidInput, "cannot be sent"),
        (
            {"https-host": "h", "headers": '{"a": "c\\r\\nd: e"}'},
            {},
            InvalidInput,
            "cannot be sent",
        ),
        ({"HDFS_NAMENODE": "x", "KERBEROS_PRINCIPAL": "x"}, {}, Unsupported, "Kerberos"),
        ({"HDFS_NAMENODE": "x", "N_THREADS": "many"}, {}, InvalidInput, "N_THREADS"),
        ({"HDFS_NAMENODE": "x", "TLS_CERT": "x"}, {}, InvalidInput, "go together"),
    ],
)
def test_what_is_half_there_or_not_honoured_is_refused(
    data: dict[str, str], annotations: dict[str, str], error: type[PenstockError], message: str
) -> None:
    """By the Secret's name and the key's, never with a value."""
    with pytest.raises(error, match=message) as caught:
        from_secrets([secret(data, annotations)])
    assert "mine" in str(caught.value)


def test_a_named_secret_of_no_known_kind_is_refused() -> None:
    """A service account's list may hold others; one that a manifest names must be of use."""
    odd = secret({"password": "x"})
    assert from_secrets([odd]) == Credentials()
    with pytest.raises(InvalidInput, match="it has password"):
        from_secrets([odd], named=True)


def test_the_first_of_a_kind_wins_and_the_accounts_annotations_come_last() -> None:
    """As KServe goes through a service account."""
    first = secret(KEYS)
    second = secret({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "HF_TOKEN": "t"})
    found = from_secrets([first, second])
    assert found.s3 == S3Credentials("key", "value")
    assert found.hub == HubCredentials("t")
    annotations = {
        "serving.kserve.io/s3-endpoint": "minio",
        "serving.kserve.io/s3-useanoncredential": "1",
    }
    found = from_secrets([], account_annotations=annotations)
    assert found.s3 == S3Credentials(endpoint="https://minio", anonymous=True)
    assert from_secrets([first], account_annotations=annotations).s3 == S3Credentials(
        "key", "value"
    )


def test_manifests_are_decoded() -> None:
    """`data` in base64, `stringData` over it."""
    found = Secret.from_object(
        {
            "metadata": {"name": "s", "namespace": "ns", "annotations": {"a": "b"}},
            "data": {"A": base64.b64encode(b"1").decode(), "B": base64.b64encode(b"1").decode()},
            "stringData": {"B": "2"},
        }
    )
    assert found == Secret("s", "ns", {"A": b"1", "B": b"2"}, {"a": "b"})
    with pytest.raises(InvalidInput, match=r"data\.A is not base64"):
        Secret.from_object({"metadata": {"name": "s"}, "data": {"A": "not base64!"}})
    with pytest.raises(InvalidInput, match="HF_TOKEN is not UTF-8"):
        from_secrets([Secret("s", data={"HF_TOKEN": b"\xff"})])


def test_a_service_sees_the_secrets_it_names_or_its_account_lists() -> None:
    """And no other, and none of another namespace."""
    a, b, c = (secret({"HF_TOKEN": n}, name=n) for n in "abc")
    account = {"secrets": [{"name": "b"}, {"name": "gone"}]}
    assert select_secrets([a, b, c], namespace="ns", account=account) == (b,)
    assert select_secrets([a, b, c], namespace="ns", named="c", account=account) == (c,)
    assert select_secrets([a, b, c], namespace="ns") == ()
    with pytest.raises(NotFound, match="no Secret 'd'"):
        select_secrets([a, b, c], namespace="ns", named="d")
    with pytest.raises(Forbidden, match="ns/a"):
        select_secrets([a], namespace="other", named="a")


def config(**keys: Any) -> Secret:
    return Secret("storage-config", "ns", {k: json.dumps(v).encode() for k, v in keys.items()})


MINIO = {
    "type": "s3",
    "access_key_id": "key",
    "secret_access_key": "value",
    "endpoint_url": "http://minio:9000",
    "bucket": "models",
    "region": "us-south",
    "verify_ssl": False,
}


@pytest.mark.parametrize(
    ("secret_", "given", "uri", "bucket_kind"),
    [
        (config(minio=MINIO), {"key": "minio", "path": "a/b"}, "s3://models/a/b", "s3"),
        (
            config(minio=MINIO),
            {"key": "minio", "path": "/a", "parameters": {"bucket": "x"}},
            "s3://x/a",
            "s3",
        ),
        (config(default=MINIO), {"path": "a"}, "s3://models/a", "s3"),
        (
            config(default_s3=MINIO),
            {"path": "a", "parameters": {"type": "s3"}},
            "s3://models/a",
            "s3",
        ),
        (config(minio=MINIO), {"key": "minio", "uri": "s3://other/z"}, "s3://other/z", "s3"),
        (
            config(h={"type": "hdfs", "HDFS_NAMENODE": "http://n:1"}),
            {"key": "h", "path": "/user/m"},
            "hdfs://user/m",
            "hdfs",
        ),
        (None, {"path": "a", "parameters": {"type": "gs", "bucket": "b"}}, "gs://b/a", ""),
    ],
)
def test_storage_blocks(
    secret_: Secret | None, given: dict[str, Any], uri: str, bucket_kind: str
) -> None:
    """KServe's `storage{key, path, parameters}` over its `storage-config` Secret."""
    given = {"uri": "", "key": None, "path": None, "parameters": {}, **given}
    found, credentials = from_storage_config(secret_, **given)
    assert found == uri
    if bucket_kind == "s3":
        assert credentials.s3 == S3Credentials(
            "key", "value", endpoint="http://minio:9000", region="us-south", verify_tls=False
        )
    if bucket_kind == "hdfs":
        assert credentials.hdfs == HdfsCredentials(namenode="http://n:1")


@pytest.mark.parametrize(
    ("secret_", "given", "error", "message"),
    [
        (config(a=MINIO), {"key": "b"}, NotFound, "It has a"),
        (None, {"key": "b"}, NotFound, "no Secret storage-config"),
        (config(a=[1]), {"key": "a"}, InvalidInput, "no JSON object"),
        (config(a={"type": "s3"}), {"key": "a", "path": "x"}, InvalidInput, "needs a bucket"),
        (
            config(a={"type": "nfs"}),
            {"key": "a", "path": "x"},
            InvalidInput,
            "'nfs' is no known type",
        ),
        (config(a={}), {"key": "a", "path": "x"}, InvalidInput, "say the type"),
        (config(a={**MINIO, "cabundle_configmap": "x"}), {"key": "a"}, Unsupported, "certificate"),
        (
            config(a={"type": "hdfs", "HDFS_NAMENODE": "x", "TLS_CA": "%"}),
            {"key": "a", "path": "x"},
            InvalidInput,
            "base64",
        ),
    ],
)
def test_bad_storage_blocks(
    secret_: Secret | None, given: dict[str, Any], error: type[PenstockError], message: str
) -> None:
    """Each says which part is wrong."""
    given = {"uri": "", "key": None, "path": "", "parameters": {}, **given}
    with pytest.raises(error, match=message):
        from_storage_config(secret_, **given)


def test_nothing_prints_its_values() -> None:
    """repr goes into logs and tracebacks."""
    found = from_secrets(
        [
            secret(
                {
                    **KEYS,
                    "AWS_ENDPOINT_URL": "http://u:t0p@h",
                    "HF_TOKEN": "t0p",
                    "https-host": "h",
                    "headers": '{"a": "t0p"}',
                    "AZURE_STORAGE_ACCESS_KEY": "t0p",
                    "HDFS_NAMENODE": "http://u:t0p@h",
                    "HEADERS": '{"a": "t0p"}',
                    "gcloud-application-credentials.json": GOOGLE_KEY,
                }
            )
        ]
    )
    for text in (repr(found), str(found), f"{found.s3}", repr(secret({"HF_TOKEN": "t0p"}))):
        assert "t0p" not in text
        assert "value" not in text
        assert "PRIVATE" not in text
    assert (
        repr(S3Credentials("a", "b")) == "S3Credentials(access_key_id=***, secret_access_key=***)"
    )


class TestEnvironment:
    """What opens places on a laptop, for those an operator lets use it."""

    def found(self, environ: dict[str, str], home: Path, **machine: str) -> Credentials:
        dmi = home / "dmi"
        dmi.mkdir(exist_ok=True)
        for name, text in machine.items():
            (dmi / name).write_text(text)
        return from_environment(environ, home=home, dmi=dmi)

    def test_an_empty_one_opens_public_places(self, tmp_path: Path) -> None:
        """Nothing is ambient on a machine of nobody's cloud."""
        found = self.found({}, tmp_path)
        assert found.s3 == S3Credentials()
        assert found.gcs == GcsCredentials()
        assert found.azure == AzureCredentials()
        assert found.hub == HubCredentials()

    def test_variables(self, tmp_path: Path) -> None:
        """Those of the vendors' own tools."""
        found = self.found(
            {
                **KEYS,
                "AWS_REGION": "eu-west-1",
                "AWS_ENDPOINT_URL_S3": "http://minio",
                "HF_TOKEN": "hf",
                "HF_ENDPOINT": "http://mirror/",
                "AZURE_STORAGE_ACCOUNT": "acc",
                "AZURE_STORAGE_ACCESS_KEY": "k",
                "STORAGE_EMULATOR_HOST": "localhost:1",
                "HDFS_NAMENODE": "http://n:1",
            },
            tmp_path,
        )
        assert found.s3 == S3Credentials(
            "key", "value", region="eu-west-1", endpoint="http://minio"
        )
        assert found.hub == HubCredentials("hf", "http://mirror")
        assert found.azure == AzureCredentials("acc", "k")
        assert found.gcs == GcsCredentials(endpoint="http://localhost:1")
        assert found.hdfs == HdfsCredentials(namenode="http://n:1")

    def test_half_a_key_is_left_alone_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A shell's mistake keeps no model in a folder from being served."""
        found = self.found({"AWS_ACCESS_KEY_ID": "key", "HF_TOKEN": "hf"}, tmp_path)
        assert (found.s3, found.hub) == (S3Credentials(), HubCredentials("hf"))
        assert "not AWS_SECRET_ACCESS_KEY" in caplog.text

    def test_files(self, tmp_path: Path) -> None:
        """~/.aws with profiles, the hub's login."""
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws/credentials").write_text(
            "[default]\naws_access_key_id=a\naws_secret_access_key=b\n"
            "[work]\naws_access_key_id=c\naws_secret_access_key=d\naws_session_token=e\n"
        )
        (tmp_path / ".aws/config").write_text("[default]\nregion=r1\n[profile work]\nregion=r2\n")
        (tmp_path / ".cache/huggingface").mkdir(parents=True)
        (tmp_path / ".cache/huggingface/token").write_text("hf\n")
        assert self.found({}, tmp_path).s3 == S3Credentials("a", "b", region="r1")
        work = self.found({"AWS_PROFILE": "work"}, tmp_path).s3
        assert work == S3Credentials("c", "d", "e", region="r2")
        assert self.found({}, tmp_path).hub == HubCredentials("hf")
        (tmp_path / ".aws/credentials").write_text("no ini")
        assert self.found({}, tmp_path).s3 == S3Credentials(region="r1")

    def test_the_machines_own_role(self, tmp_path: Path) -> None:
        """Only where there is one, so that nobody waits for a metadata service that is not there."""
        s3 = self.found({"AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}, tmp_path).s3
        assert s3 == S3Credentials(ambient=True)
        assert self.found({}, tmp_path, sys_vendor="Amazon EC2\n").s3 == S3Credentials(ambient=True)
        gcs = self.found({}, tmp_path, product_name="Google Compute Engine\n").gcs
        assert gcs == GcsCredentials(ambient=True)
        azure = self.found(
            {"AZURE_CLIENT_ID": "c", "AZURE_TENANT_ID": "t", "AZURE_FEDERATED_TOKEN_FILE": "/t"},
            tmp_path,
        ).azure
        assert azure == AzureCredentials(ambient=True)
