"""Which place a URI names, and that none is shown with its secrets."""

from __future__ import annotations

import pytest

from penstock.errors import InvalidInput, Unsupported
from penstock.storage import redact
from penstock.storage.uris import Kind, parse


@pytest.mark.parametrize(
    ("uri", "kind", "root", "path", "detail"),
    [
        ("models/iris", Kind.FILE, "", "/base/models/iris", ""),
        ("/models/iris", Kind.FILE, "", "/models/iris", ""),
        ("file:///models/a b%20", Kind.FILE, "", "/models/a b%20", ""),
        ("file://localhost/models", Kind.FILE, "", "/models", ""),
        ("file://models/iris", Kind.FILE, "", "/base/models/iris", ""),
        ("pvc://claim/a/b", Kind.PVC, "claim", "a/b", ""),
        ("pvc://claim", Kind.PVC, "claim", "", ""),
        ("http://host:8000/a?b=c", Kind.WEB, "host", "", ""),
        ("s3://bucket/a/b", Kind.S3, "bucket", "a/b", ""),
        ("S3://bucket/a?b#c%20", Kind.S3, "bucket", "a?b#c%20", ""),
        ("s3a://bucket", Kind.S3, "bucket", "", ""),
        ("gs://bucket/a/", Kind.GCS, "bucket", "a/", ""),
        ("az://container/a", Kind.AZURE, "container", "a", ""),
        ("abfss://c@account.dfs.core.windows.net/a/b", Kind.AZURE, "c", "a/b", "account"),
        ("wasbs://c@account.blob.core.windows.net/a", Kind.AZURE, "c", "a", "account"),
        ("https://account.blob.core.windows.net/c/a%20b", Kind.AZURE, "c", "a b", "account"),
        ("https://account.z12.blob.storage.azure.net/c/a", Kind.AZURE, "c", "a", "account"),
        ("hdfs://user/me/model", Kind.HDFS, "user", "me/model", ""),
        ("webhdfs://node:9870/me", Kind.HDFS, "node:9870", "me", ""),
        ("hf://org/model", Kind.HUB, "org/model", "", ""),
        ("hf://org/model:refs/pr/1", Kind.HUB, "org/model", "", "refs/pr/1"),
        ("hf://gpt2:main", Kind.HUB, "gpt2", "", "main"),
    ],
)
def test_spellings(uri: str, kind: Kind, root: str, path: str, detail: str) -> None:
    """Each spelling that users of KServe, Hadoop and Azure know."""
    found = parse(uri, "/base")
    assert (found.kind, found.root, found.path, found.detail) == (kind, root, path, detail)


def test_a_blobs_signature_is_kept_apart() -> None:
    """It is a credential, not a part of the name."""
    found = parse("https://account.blob.core.windows.net/c/a?sv=1&sig=abc")
    assert (found.path, found.query) == ("a", "sv=1&sig=abc")
    assert "abc" not in repr(found)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "empty"),
        (" s3://a/b", "white space"),
        ("s3://a/b\n", "white space"),
        ("s3://a/\x00", "control characters"),
        ("s4://bucket/x", "Did you mean s3://"),
        ("htps://host/x", "Did you mean https://"),
        ("://x", "no scheme"),
        ("s3://", "nothing is named"),
        ("s3:///key", "nothing is named"),
        ("gs://", "nothing is named"),
        ("pvc://../x", "not the name of a claim"),
        ("~/models", "~ is not expanded"),
        ("file://", "names no file"),
        ("http://", "no host"),
        ("http://host:port/x", "not a URL"),
        ("http://[::1/x", "not a URL"),
        ("https://account.blob.core.windows.net/", "no container"),
        ("abfss://@account.dfs.core.windows.net/x", "CONTAINER@ACCOUNT"),
        ("abfss://c@/x", "CONTAINER@ACCOUNT"),
        ("hf://", "ORGANISATION/MODEL"),
        ("hf://a/b/c", "ORGANISATION/MODEL"),
        ("hf://../b", "ORGANISATION/MODEL"),
        ("hf://a/b:", "name of a revision"),
        ("hf://a/b:../../x", "name of a revision"),
    ],
)
def test_nonsense_is_refused_with_what_is_wrong(uri: str, message: str) -> None:
    """InvalidInput: it will never work."""
    with pytest.raises(InvalidInput, match="(?s)" + message.replace("~", "\\~")):
        parse(uri, "/base")


def test_a_relative_path_needs_a_folder_to_be_relative_to() -> None:
    """A control plane that has none says so."""
    with pytest.raises(InvalidInput, match="relative"):
        parse("models/iris")


@pytest.mark.parametrize(
    "uri",
    [
        "oci://a/b",
        "ms://a/b",
        "git://a/b",
        "ftp://a/b",
        "https://acc.file.core.windows.net/share/x",
    ],
)
def test_known_places_that_are_not_served_say_what_to_use(uri: str) -> None:
    """Unsupported, with a way out."""
    with pytest.raises(Unsupported) as caught:
        parse(uri)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host/a", "http://***@host/a"),
        ("https://host/a?X-Amz-Signature=abc&v=2", "https://host/a?X-Amz-Signature=***&v=***"),
        ("see https://a:b@h/x?sig=q, thrice", "see https://***@h/x?sig=*** thrice"),
        ("abfss://c@account.dfs.core.windows.net/a", "abfss://c@account.dfs.core.windows.net/a"),
        ("s3://bucket/a b", "s3://bucket/a b"),
        ("models/iris", "models/iris"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    """User names, passwords and query values are nobody's business."""
    assert redact(text) == shown
