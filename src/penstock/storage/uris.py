"""Storage URIs: which kind of place each one names, and how to show one without its secrets.

Spellings are KServe's, plus the ones that the Hadoop and Azure tools use for the same places. A name
without a scheme is a file, relative to the folder the caller says (`penstock serve`'s).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from penstock.errors import InvalidInput, Unsupported


class Kind(StrEnum):
    """The kinds of place there are; one source file each."""

    FILE = "file"
    PVC = "pvc"
    WEB = "http"
    S3 = "s3"
    GCS = "gs"
    AZURE = "az"
    HDFS = "webhdfs"
    HUB = "hf"
    MLFLOW = "mlflow"
    BENTOML = "bentoml"


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed URI. `root` is the bucket, container, claim, host or repository; `path` is below it."""

    kind: Kind
    #: As given, secrets and all; show `redact(uri)` only.
    uri: str
    root: str = ""
    path: str = ""
    #: Azure: the storage account. Hub: the revision.
    detail: str = ""
    #: Azure: everything after `?` of a blob's URL, a shared access signature.
    query: str = ""
    #: HDFS: https between here and the name node.
    secure: bool = False

    def __repr__(self) -> str:
        return f"Location({redact(self.uri)!r})"


_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_BLOB_HOST: Final = re.compile(
    r"^([a-z0-9-]+)\.(?:blob\.core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)"
    r"|z[0-9]{1,2}\.blob\.storage\.azure\.net)$"
)
_FILE_SHARE_HOST: Final = re.compile(r"\.file\.(?:core\.windows\.net|storage\.azure\.net)$")
#: Kinds whose URIs have a colon only: `models:/iris/3`.
_COLON: Final = re.compile(r"^(models|runs|mlflow-artifacts|bentoml):(?=.)")
_KINDS: Final = {
    "file": Kind.FILE,
    "pvc": Kind.PVC,
    "http": Kind.WEB,
    "https": Kind.WEB,
    "s3": Kind.S3,
    "s3a": Kind.S3,
    "s3n": Kind.S3,
    "gs": Kind.GCS,
    "gcs": Kind.GCS,
    "az": Kind.AZURE,
    "azure": Kind.AZURE,
    "abfs": Kind.AZURE,
    "abfss": Kind.AZURE,
    "wasb": Kind.AZURE,
    "wasbs": Kind.AZURE,
    "hdfs": Kind.HDFS,
    "webhdfs": Kind.HDFS,
    "swebhdfs": Kind.HDFS,
    "hf": Kind.HUB,
}
#: Understood, and deliberately not served: what to do instead.
_ELSEWHERE: Final = {
    "oci": "Copy the model's files out of the image into a bucket or a folder.",
    "oci+native": "Copy the model's files out of the image into a bucket or a folder.",
    "oci+fetch": "Copy the model's files out of the image into a bucket or a folder.",
    "ms": "Use the model's repository on Hugging Face (hf://), or download it into a bucket.",
    "modelscope": "Use the model's repository on Hugging Face (hf://), or download it into a bucket.",
    "git": "Clone it into a folder, or use the host's archive download by https.",
    "ftp": "Use https.",
}
SCHEMES: Final = tuple(sorted(_KINDS))


def parse(uri: str, base_dir: Path | str | None = None) -> Location:
    """Which place `uri` names. InvalidInput says what is wrong with it, Unsupported what to use instead.

    Object names are taken as they are written, without percent-decoding, as each store's own tools do;
    only http(s) URLs are URLs.
    """
    if not uri or uri != uri.strip() or any(ord(c) < 32 or ord(c) == 127 for c in uri):
        raise InvalidInput(
            f"The storage URI {uri!r} is empty, has white space around it or control characters in it."
        )
    short = _COLON.match(uri)
    if short is not None:
        return _bentoml(uri) if short[1] == "bentoml" else _mlflow(uri, short[1])
    match = _SCHEME.match(uri)
    if match is None:
        if "://" in uri:
            raise InvalidInput(f"{redact(uri)} is not a URI: what is before :// is no scheme.")
        return Location(Kind.FILE, uri, path=_absolute(uri, base_dir, uri))
    scheme = match[1].lower()
    rest = uri[match.end() :]
    if scheme in _ELSEWHERE:
        raise Unsupported(
            f"{redact(uri)}: {scheme}:// is not a place models are fetched from here.",
            hint=_ELSEWHERE[scheme],
        )
    kind = _KINDS.get(scheme)
    if kind is None:
        near = get_close_matches(scheme, SCHEMES, n=1, cutoff=0.5)
        raise InvalidInput(
            f"{redact(uri)}: {scheme}:// is not known. "
            f"Known are {', '.join(s + '://' for s in SCHEMES)}, and paths without a scheme.",
            hint=f"Did you mean {near[0]}://?" if near else None,
        )
    if kind is Kind.FILE:
        path = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
        return Location(kind, uri, path=_absolute(path, base_dir, uri))
    if kind is Kind.WEB:
        return _web(uri)
    if kind is Kind.HUB:
        return _hub(uri, rest)
    root, _, path = rest.partition("/")
    if not root:
        raise InvalidInput(f"{redact(uri)}: nothing is named between {scheme}:// and the path.")
    if kind is Kind.PVC:
        if root in (".", ".."):
            raise InvalidInput(f"{uri}: {root} is not the name of a claim.")
        return Location(kind, uri, root, path)
    if kind is Kind.AZURE:
        return _azure(uri, scheme, root, path)
    if kind is Kind.HDFS:
        return Location(kind, uri, root, path, secure=scheme == "swebhdfs")
    return Location(kind, uri, root, path)


def _mlflow(uri: str, scheme: str) -> Location:
    rest = uri.partition(":")[2]
    path = rest.strip("/")
    if not path or (scheme != "mlflow-artifacts" and rest.startswith("//")):
        raise InvalidInput(
            f"{redact(uri)} is not models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH "
            "or mlflow-artifacts:/PATH."
        )
    return Location(Kind.MLFLOW, uri, scheme, path)


_TAG: Final = re.compile(r"[a-z0-9]([-._a-z0-9]{0,62}[a-z0-9])?")


def _bentoml(uri: str) -> Location:
    name, _, version = uri.partition(":")[2].partition(":")
    if not _TAG.fullmatch(name) or not _TAG.fullmatch(version or "latest"):
        raise InvalidInput(f"{uri} is not bentoml:NAME:VERSION or bentoml:NAME:latest.")
    return Location(Kind.BENTOML, uri, name, version or "latest")


def _absolute(path: str, base_dir: Path | str | None, uri: str) -> str:
    if not path:
        raise InvalidInput(f"{uri!r} names no file.")
    if path.startswith("~"):
        raise InvalidInput(f"{uri}: ~ is not expanded here.", hint="Write the whole path.")
    p = Path(path)
    if p.is_absolute():
        return str(p)
    if base_dir is None:
        raise InvalidInput(
            f"{uri} is a relative path, and there is no folder it is relative to.",
            hint="Write the whole path.",
        )
    return str(Path(base_dir).absolute() / p)


def _web(uri: str) -> Location:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInput(f"{redact(uri)} is not a URL: {error}.") from None
    if not host:
        raise InvalidInput(f"{redact(uri)} has no host.")
    if _FILE_SHARE_HOST.search(host):
        raise Unsupported(
            f"{redact(uri)}: Azure file shares are not a place models are fetched from here.",
            hint="Mount the share and use a path, or copy the model into a blob container.",
        )
    blob = _BLOB_HOST.match(host)
    if blob is None:
        return Location(Kind.WEB, uri, host)
    container, _, path = unquote(parts.path.lstrip("/")).partition("/")
    if not container:
        raise InvalidInput(f"{redact(uri)} names no container.")
    return Location(Kind.AZURE, uri, container, path, detail=blob[1], query=parts.query)


def _azure(uri: str, scheme: str, root: str, path: str) -> Location:
    container, at, host = root.partition("@")
    account = host.split(".", 1)[0] if at else ""
    if not container or (at and not account):
        raise InvalidInput(
            f"{redact(uri)} is not {scheme}://CONTAINER/PATH "
            f"or {scheme}://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH."
        )
    return Location(Kind.AZURE, uri, container, path, detail=account)


_REPOSITORY: Final = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9_][\w.-]{0,95})?$")
_REVISION: Final = re.compile(r"^[\w./-]{1,200}$")


def _hub(uri: str, rest: str) -> Location:
    name, colon, revision = rest.rstrip("/").partition(":")
    if not _REPOSITORY.match(name) or ".." in name or "--" in name:
        raise InvalidInput(
            f"{uri} is not hf://ORGANISATION/MODEL or hf://ORGANISATION/MODEL:REVISION."
        )
    if colon and (not _REVISION.match(revision) or ".." in revision):
        raise InvalidInput(f"{uri}: {revision!r} is not the name of a revision.")
    return Location(Kind.HUB, uri, name, detail=revision)


_QUERY_VALUE: Final = re.compile(r"([?&][^=&\s\"'<>]{1,100}=)[^&\s\"'<>]+")
_USER_INFO: Final = re.compile(r"(://)[^/@\s\"'<>]+@")


def redact(text: str) -> str:
    """`text` with user names, passwords and query values of every URL in it replaced by `***`.

    Query values go as a whole: signatures and tokens have too many names to list.
    """
    # abfss://container@account is a place and no password; real user info has none of these schemes.
    if text.startswith(("abfs://", "abfss://", "wasb://", "wasbs://")):
        return _QUERY_VALUE.sub(r"\1***", text)
    return _QUERY_VALUE.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))
