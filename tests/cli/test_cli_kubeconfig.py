"""`penstock kubeconfig`: printed, written, merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.cli.exits import CliError
from penstock.cli.kubeconfig import kubeconfig

SERVER = "http://127.0.0.1:18090"


def run(**options: Any) -> None:
    given: dict[str, Any] = {
        "token_file": None,
        "namespace": "default",
        "merge": False,
        "output": None,
    }
    kubeconfig(SERVER, **(given | options))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration, with a cluster of theirs."""
    monkeypatch.delenv("PENSTOCK_TOKEN_FILE", raising=False)
    file = tmp_path / "kube" / "config"
    monkeypatch.setenv("KUBECONFIG", f"{file}:{tmp_path / 'other'}")
    return file


def test_a_printed_one_has_a_server_a_user_and_a_context(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(namespace="team")
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["clusters"] == [{"name": "penstock", "cluster": {"server": SERVER}}]
    assert config["users"] == [{"name": "penstock", "user": {}}]
    assert config["contexts"][0]["context"]["namespace"] == "team"
    assert not own.exists()


def test_the_token_goes_into_a_file_that_only_its_owner_reads(own: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    run(token_file=tmp_path / "token", output=tmp_path / "made")
    assert yaml.safe_load((tmp_path / "made").read_text())["users"][0]["user"] == {
        "token": "s3cret"
    }
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def test_merging_keeps_what_is_there_and_replaces_its_own(own: Path) -> None:
    run(merge=True)
    config = yaml.safe_load(own.read_text())
    config["clusters"].insert(0, {"name": "work", "cluster": {"server": "https://work"}})
    config["clusters"][1]["cluster"]["server"] = "http://old"
    config |= {"current-context": "work", "preferences": {"colors": True}}
    own.write_text(yaml.safe_dump(config))
    run(merge=True)
    config = yaml.safe_load(own.read_text())
    assert [c["cluster"]["server"] for c in config["clusters"]] == ["https://work", SERVER]
    assert config["current-context"] == "penstock"
    assert config["preferences"] == {"colors": True}
    assert len(list(own.parent.iterdir())) == 1


@pytest.mark.parametrize("text", ["- a list", "clusters: 7", "{", "text"])
def test_a_file_that_is_none_is_left_as_it_is(own: Path, text: str) -> None:
    own.parent.mkdir()
    own.write_text(text)
    with pytest.raises(CliError):
        run(merge=True)
    assert own.read_text() == text


def test_merge_and_output_exclude_each_other(own: Path, tmp_path: Path) -> None:
    with pytest.raises(CliError) as refused:
        run(merge=True, output=tmp_path / "x")
    assert refused.value.code == 2
