"""A platform that other machines can reach keeps its user's files to itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from platform_harness import Platform


@pytest.fixture
def exposed(folder: Path, tmp_path: Path) -> Iterator[Platform]:
    p = Platform(folder, "--host", "0.0.0.0", "--insecure")
    p.data = tmp_path / "data"
    p.start()
    yield p
    p.stop()


def test_a_manifest_names_files_of_the_model_folder_only(exposed: Platform, tmp_path: Path) -> None:
    """Relative URIs work; an absolute one to elsewhere is refused and says where files may be."""
    manifest = (
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceService\nmetadata:\n  name: {name}\n"
        "spec:\n  predictor:\n    sklearn:\n      storageUri: {uri}\n"
    )
    (tmp_path / "in.yaml").write_text(manifest.format(name="inside", uri="models/iris"))
    (tmp_path / "out.yaml").write_text(manifest.format(name="outside", uri="file:///etc"))
    exposed.api = exposed.api.replace("0.0.0.0", "127.0.0.1")
    assert "inside ready" in exposed.run("apply", "-f", str(tmp_path / "in.yaml"), "--wait")
    text = exposed.run("apply", "-f", str(tmp_path / "out.yaml"), "--wait", "--timeout=20s", code=1)
    assert "file:///etc" in text or "/etc" in text
