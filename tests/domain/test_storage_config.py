"""KServe's storage block becomes a URI once the secret is known."""

from __future__ import annotations

import pytest

from penstock.domain.secrets import Secret
from penstock.domain.service import Storage
from penstock.domain.storage_config import complete
from penstock.errors import InvalidInput


@pytest.mark.parametrize(
    ("storage", "entry", "uri"),
    [
        (Storage("", path="m/iris"), {"type": "s3", "bucket": "b"}, "s3://b/m/iris"),
        (Storage("", path="/m/"), {"type": "gs", "bucket": "b"}, "gs://b/m"),
        (
            Storage("", path="m", parameters={"bucket": "mine"}),
            {"type": "s3", "bucket": "theirs"},
            "s3://mine/m",
        ),
        (Storage("", path="m", parameters={"type": "s3", "bucket": "b"}), {}, "s3://b/m"),
        (Storage("", path="user/m"), {"type": "hdfs", "namenode": "n"}, "hdfs://user/m"),
        (Storage("", path=""), {"type": "s3", "bucket": "b"}, "s3://b"),
    ],
)
def test_uris(storage: Storage, entry: dict[str, str], uri: str) -> None:
    assert complete(storage, entry).uri == uri


@pytest.mark.parametrize("entry", [{}, {"type": "ftp"}, {"type": "s3"}])
def test_what_is_said_nowhere(entry: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        complete(Storage("", path="m"), entry)


def test_a_secrets_values_do_not_show() -> None:
    secret = Secret("default", "s", data={"password": b"hunter2"})
    assert "hunter2" not in repr(secret)
    assert secret.text("password") == "hunter2"
    assert secret.text("none") is None
