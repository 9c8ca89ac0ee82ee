"""`penstock kubeconfig`: what kubectl and its like need to talk to this platform."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from penstock.cli import places
from penstock.cli.exits import FAILED, USAGE, CliError
from penstock.cli.output import note, say

NAME = "penstock"
_LISTS = ("clusters", "users", "contexts")


def document(server: str, token: str | None, namespace: str) -> dict[str, Any]:
    """A configuration with one cluster, one user and one context, all called penstock.

    The user is there without a token too: some clients refuse a context that has none.
    """
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {"server": server}}],
        "users": [{"name": NAME, "user": {"token": token} if token else {}}],
        "contexts": [
            {"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": namespace}}
        ],
        "current-context": NAME,
    }


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the entries of `new`, which take the place of those of the same name."""
    result = {**old, "current-context": new["current-context"]}
    for key in ("apiVersion", "kind"):
        result.setdefault(key, new[key])
    for key in _LISTS:
        names = {entry["name"] for entry in new[key]}
        kept = [
            e for e in old.get(key) or () if not (isinstance(e, dict) and e.get("name") in names)
        ]
        result[key] = [*kept, *new[key]]
    return result


def kubeconfig(
    server: str | None,
    token_file: Path | None,
    *,
    namespace: str,
    merge: bool,
    output: Path | None,
) -> None:
    """Print the configuration, write it to `output`, or merge it into the one that kubectl reads."""
    if merge and output is not None:
        raise CliError("--merge and -o exclude each other.", USAGE)
    address = places.server(server)
    config = document(address, _token(token_file), namespace)
    if config["users"][0]["user"] and address.startswith("http://"):
        note(
            "kubectl sends no token over plain http: put TLS in front, or let it through a tunnel."
        )
    if merge:
        file = _default_file()
        config = merged(_read(file), config)
    elif output is None:
        say(_text(config).rstrip("\n"))
        return
    else:
        file = output
    _write(file, _text(config))
    note(f"{file}: the context {NAME} is there, and the current one.")


def _token(file: Path | None) -> str | None:
    found = places.token_file(file)
    if found is None:
        return None
    try:
        return found.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise CliError(f"The token file {found} cannot be read: {exc.strerror}.") from exc


def _default_file() -> Path:
    """The first file of $KUBECONFIG, else ~/.kube/config."""
    listed = [p for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    return Path(listed[0]) if listed else Path.home() / ".kube" / "config"


def _read(file: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise CliError(f"{file} cannot be read: {str(exc).splitlines()[0]}.", FAILED) from exc
    if config is None:
        return {}
    lists = [config.get(k) or [] for k in _LISTS] if isinstance(config, dict) else [None]
    if not all(isinstance(entries, list) for entries in lists):
        raise CliError(f"{file} is no kubeconfig; it is left as it is.", FAILED)
    return dict(config)


def _text(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False)


def _write(file: Path, text: str) -> None:
    """Whole or not at all, and readable for its owner only: it may hold tokens."""
    target = file.resolve()  # a link stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise CliError(f"{file} cannot be written: {exc.strerror}.") from exc
