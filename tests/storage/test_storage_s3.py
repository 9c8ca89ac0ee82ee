"""S3's own matters: whose key goes out, to whom, and what a refusal says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import httpx
import pytest
from storage_fakes import Seen, answer, serving
from storage_servers import S3Place, moto

from penstock.errors import Forbidden, InvalidInput, NotFound, Unauthorized, Unavailable
from penstock.storage import Credentials, S3Credentials, Settings, fetch
from penstock.storage.fetching import open_source
from penstock.storage.uris import parse


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def guarded(server: str) -> Iterator[tuple[S3Place, dict[str, S3Credentials]]]:
    """A bucket that may be read by `reader`, listed only by `lister`, and by `nobody` not at all."""
    place = S3Place(server)
    place.put("m/model.bin", b"x" * 1000)
    iam: Any = boto3.client(
        "iam",
        endpoint_url=server,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    users = {}
    for name, actions in {
        "reader": ["s3:ListBucket", "s3:GetObject"],
        "lister": ["s3:ListBucket"],
        "nobody": ["s3:DeleteBucket"],
    }.items():
        user = f"{name}-{place.bucket}"
        iam.create_user(UserName=user)
        statement = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
        document = json.dumps({"Version": "2012-10-17", "Statement": statement})
        iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=document)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        users[name] = S3Credentials(key["AccessKeyId"], key["SecretAccessKey"], endpoint=server)
    httpx.post(f"{server}/moto-api/reset-auth", content=b"0")
    yield place, users
    httpx.post(f"{server}/moto-api/reset-auth", content=b"Infinity")


async def test_rights_are_the_stores(guarded: Any, cache: Any, settings: Settings) -> None:
    """Also when the cache has it: who may only list gets nothing, as from the store itself."""
    place, users = guarded

    async def bring(who: S3Credentials | None, path: str = "m") -> Any:
        return await fetch(
            place.uri(path), cache=cache, settings=settings, credentials=Credentials(s3=who)
        )

    with pytest.raises(Forbidden, match="rights on the bucket"):
        await bring(users["nobody"])
    found = await bring(users["reader"])
    assert found.files == ("model.bin",)
    for stranger in (users["nobody"], users["lister"]):
        with pytest.raises(Forbidden):
            await bring(stranger)
    assert await bring(users["reader"]) == found
    wrong = replace(users["reader"], secret_access_key="wrong" * 8)
    with pytest.raises((Unauthorized, Forbidden)) as caught:
        await bring(wrong)
    assert "wrongwrong" not in str(caught.value)
    with pytest.raises((Unauthorized, Forbidden)):
        await bring(replace(users["reader"], access_key_id="AKIANOBODY"))
    with pytest.raises(NotFound):
        await bring(users["reader"], "nothing")


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Seen]]]:
    """Answers everything with 403 and remembers who asked how."""
    seen: list[Seen] = []

    def handle(request: Any) -> None:
        seen.append(Seen(request.path, {k.lower(): v for k, v in request.headers.items()}))
        answer(request, 403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")

    with serving(handle) as url:
        yield url, seen


async def ask(listener: Any, cache: Any, settings: Settings, who: S3Credentials) -> dict[str, str]:
    url, seen = listener
    credentials = Credentials(s3=replace(who, endpoint=url))
    with pytest.raises(Forbidden) as caught:
        await fetch("s3://bucket/m", cache=cache, settings=settings, credentials=credentials)
    assert "AccessDenied: no" in str(caught.value)
    assert seen
    headers: dict[str, str] = seen[0].headers
    return headers


async def test_the_process_environment_stays_out(
    listener: Any, cache: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, session token, endpoint, region, signing: all are the service's or nobody's."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "MINE",
        "AWS_SECRET_ACCESS_KEY": "mine",
        "AWS_SESSION_TOKEN": "MYTOKEN",
        "AWS_REGION": "mine-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_REQUEST_PAYER": "true",
    }.items():
        monkeypatch.setenv(name, value)
    headers = await ask(listener, cache, settings, S3Credentials("THEIRS", "theirs"))
    assert "THEIRS" in headers["authorization"]
    assert "us-east-1" in headers["authorization"]
    assert "x-amz-security-token" not in headers
    assert "x-amz-request-payer" not in headers
    for anonymous in (S3Credentials(), S3Credentials("A", "B", anonymous=True)):
        listener[1].clear()
        assert "authorization" not in await ask(listener, cache, settings, anonymous)


async def test_a_session_token_goes_along(listener: Any, cache: Any, settings: Settings) -> None:
    """Temporary keys are three."""
    headers = await ask(listener, cache, settings, S3Credentials("A", "B", "TOKEN", region="r-1"))
    assert headers["x-amz-security-token"] == "TOKEN"
    assert "r-1" in headers["authorization"]


async def test_endpoints(cache: Any, settings: Settings) -> None:
    """Nonsense and metadata services are refused; one that is down is worth another try."""

    async def bring(endpoint: str) -> None:
        credentials = Credentials(s3=S3Credentials("a", "b", endpoint=endpoint))
        await fetch("s3://bucket/m", cache=cache, settings=settings, credentials=credentials)

    for nonsense in ("ftp://x", "http://", "minio:9000"):
        with pytest.raises(InvalidInput, match="no http or https URL"):
            await bring(nonsense)
    for metadata in (
        "http://169.254.169.254",
        "http://[fd00:ec2::254]",
        "http://metadata.google.internal",
    ):
        with pytest.raises(Forbidden):
            await bring(metadata)
    with pytest.raises(Unavailable, match=r"s3://bucket/m.*3 tries"):
        await bring("http://127.0.0.1:1")


async def test_objects_that_can_be_no_files_are_refused(
    server: str, cache: Any, settings: Settings
) -> None:
    """A bucket takes any key; a folder does not."""
    place = S3Place(server)
    place.put("a/x", b"1")
    place.put("a/x/y", b"1")
    place.put("b//y", b"1")
    for path, message in (
        ("a/", "a disk a name is a file or a folder"),
        ("b", "empty path segment"),
    ):
        with pytest.raises(Exception, match=message):
            await fetch(
                place.uri(path), cache=cache, settings=settings, credentials=place.credentials
            )


async def test_folder_markers_are_no_files(server: str, cache: Any, settings: Settings) -> None:
    """Consoles and Hadoop leave empty objects where folders are."""
    place = S3Place(server)
    for marker in ("m/", "m", "m/1/", "m/1", "m/1_$folder$"):
        place.put(marker, b"")
    place.put("m/1/model.bin", b"x")
    found = await fetch(
        place.uri("m"), cache=cache, settings=settings, credentials=place.credentials
    )
    assert found.files == ("1/model.bin",)


async def test_more_objects_than_a_page_holds_are_listed(
    server: str, cache: Any, settings: Settings
) -> None:
    """Amazon's hold a thousand, this server's ten."""
    place = S3Place(server)
    for i in range(35):
        place.put(f"many/{i}", b"")
    with pytest.raises(Exception, match="more than 34 files"):
        await fetch(
            place.uri("many"),
            cache=cache,
            settings=replace(settings, max_files=34),
            credentials=place.credentials,
        )
    source = open_source(parse(place.uri("many")), place.credentials, settings)
    try:
        assert len((await source.list()).entries) == 35
    finally:
        await source.close()
