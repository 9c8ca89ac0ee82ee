"""MLflow's registry: a real tracking server, its database, and a folder of runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.ports import spare_port

from penstock.errors import Forbidden, InvalidInput, NotFound, Unauthorized, Unsupported
from penstock.storage import (
    Cache,
    Credentials,
    MlflowCredentials,
    Settings,
    fetch,
    from_environment,
)
from penstock.storage.secrets import Secret, from_secrets
from penstock.storage.uris import Kind, parse

#: Logs and registers a model by MLflow's own client, in a process of its own.
REGISTER = """
import os, sys, warnings
warnings.simplefilter("ignore")
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("e")
for i in (1, 2):
    with mlflow.start_run() as run:
        mlflow.set_tag("i", i)
        info = mlflow.pyfunc.log_model(
            name="model", python_model=lambda x: [i], registered_model_name="price",
            pip_requirements=[],
        )
        mlflow.log_text("plain", "notes/a.txt")
client = mlflow.MlflowClient()
client.set_registered_model_alias("price", "champion", 1)
print("RUN", run.info.run_id, info.model_id)
"""


@dataclass(frozen=True)
class Registry:
    uri: str
    run: str
    model_id: str
    database: Path


def quiet() -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = spare_port()
    database = folder / "mlflow.db"
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
         "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
         "--artifacts-destination", str(folder / "artifacts")],
        cwd=folder,
        env=quiet(),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    log.close()
    uri = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 180
        while True:
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < until, "the server does not answer"
            try:
                if httpx.get(f"{uri}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        said = register(uri, folder)
        yield Registry(uri, said[1], said[2], database)
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait(10)


def register(uri: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", REGISTER, uri],
        cwd=folder,
        env=quiet(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("RUN")).split()


def by(uri: str, **fields: str) -> Credentials:
    return Credentials(mlflow=MlflowCredentials(tracking_uri=uri, **fields))


async def files(uri: str, cache: Cache, settings: Settings, credentials: Credentials) -> set[str]:
    found = await fetch(uri, cache=cache, credentials=credentials, settings=settings)
    root = Path(str(found.path))
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


@pytest.mark.timeout(300)
async def test_every_way_to_name_a_registered_model(registry, cache, settings):
    credentials = by(registry.uri)
    digests = {}
    for uri in (
        "models:/price/1",
        "models:/price@champion",
        "models:/price/2",
        "models:/price/latest",
        f"models:/{registry.model_id}",
        f"runs:/{registry.run}/model",
    ):
        found = await fetch(uri, cache=cache, credentials=credentials, settings=settings)
        assert (Path(str(found.path)) / "MLmodel").is_file(), uri
        digests[uri] = found.digest
    assert digests["models:/price/1"] == digests["models:/price@champion"]
    second = {
        v for k, v in digests.items() if k not in ("models:/price/1", "models:/price@champion")
    }
    assert len(second) == 1
    assert second != {digests["models:/price/1"]}


@pytest.mark.timeout(300)
async def test_artifacts_of_a_run(registry, cache, settings):
    credentials = by(registry.uri)
    assert await files(f"runs:/{registry.run}/notes", cache, settings, credentials) == {"a.txt"}
    found = httpx.get(
        f"{registry.uri}/api/2.0/mlflow/runs/get", params={"run_id": registry.run}
    ).json()
    place = found["run"]["info"]["artifact_uri"]
    assert place.startswith("mlflow-artifacts:")
    assert "notes/a.txt" in await files(place, cache, settings, credentials)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("models:/price/9", NotFound),
        ("models:/price@nobody", NotFound),
        ("models:/rent/1", NotFound),
        ("models:/rent/latest", NotFound),
        ("models:/price/champion", InvalidInput),
        ("models:/price", InvalidInput),
        ("models:/price/Production", NotFound),
        ("runs:/0123/model", NotFound),
        ("mlflow-artifacts:/none/there", NotFound),
    ],
)
async def test_what_is_not_there_is_named(registry, cache, settings, uri, error):
    with pytest.raises(error) as told:
        await files(uri, cache, settings, by(registry.uri))
    assert uri in str(told.value)


@pytest.mark.timeout(300)
async def test_a_laptops_database_is_read_without_a_server(registry, cache, settings, tmp_path):
    said = register(f"sqlite:///{tmp_path}/own.db", tmp_path)
    environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/own.db"}
    credentials = from_environment(environ, home=tmp_path, dmi=tmp_path)
    for uri in ("models:/price@champion", "models:/price/latest", f"runs:/{said[1]}/model"):
        assert "MLmodel" in await files(uri, cache, settings, credentials)
    with pytest.raises(NotFound, match="has no version 9 of price"):
        await files("models:/price/9", cache, settings, credentials)
    # What a database says of a server's artifacts can only be had from the server.
    environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{registry.database}"}
    other = from_environment(environ, home=tmp_path, dmi=tmp_path)
    with pytest.raises(Unsupported, match="mlflow-artifacts: are a tracking server's"):
        await files("models:/price/1", cache, settings, other)


async def test_a_folder_of_runs(cache, settings, tmp_path):
    def put(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    put("mlruns/models/price/version-3/meta.yaml", f"source: file://{tmp_path}/files\n")
    put("mlruns/models/price/version-1/meta.yaml", "source: models:/m-" + "a" * 32)
    put("mlruns/models/price/aliases/best", "3")
    put("mlruns/0/models/m-" + "a" * 32 + "/meta.yaml", f"artifact_location: {tmp_path}/files\n")
    put("mlruns/0/beef/meta.yaml", f"artifact_uri: file://{tmp_path}/run\n")
    put("files/MLmodel", "x")
    put("run/model/MLmodel", "y")
    environ = {"MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlruns"}
    credentials = from_environment(environ, home=tmp_path, dmi=tmp_path)
    for uri in ("models:/price/3", "models:/price@best", "models:/price/1", "runs:/beef/model"):
        assert await files(uri, cache, settings, credentials) == {"MLmodel"}
    for uri in ("models:/price/2", "models:/pr*/3", "models:/../3", "runs:/../x"):
        with pytest.raises(NotFound):
            await files(uri, cache, settings, credentials)


async def test_a_secret_names_a_server_and_no_file_of_this_machine(cache, settings, tmp_path):
    def secret(uri: str, **more: str) -> Credentials:
        data = {"MLFLOW_TRACKING_URI": uri, **more}
        return from_secrets([Secret("s", data={k: v.encode() for k, v in data.items()})])

    for uri in ("/etc", "file:///etc", "sqlite:////etc/passwd"):
        with pytest.raises(Forbidden, match="a Secret may name a tracking server"):
            await files("models:/m/1", cache, settings, secret(uri))
    with pytest.raises(InvalidInput, match="nothing says where that is"):
        await files("models:/m/1", cache, settings, Credentials())
    with pytest.raises(Unsupported, match="Databricks"):
        await files("models:/m/1", cache, settings, secret("databricks"))
    held = secret("https://u:pass@host", MLFLOW_TRACKING_TOKEN="s3cr3t").mlflow
    assert held is not None
    assert held.token == "s3cr3t"
    assert "s3cr3t" not in repr(held)
    assert "pass" not in repr(held)


async def test_credentials_go_to_the_tracking_server_only(web, cache, settings):
    path = "/api/2.0/mlflow/model-versions/get-download-uri?name=m&version=1"
    web.files[path] = 401
    with pytest.raises(Unauthorized, match="MLFLOW_TRACKING_TOKEN"):
        await files("models:/m/1", cache, settings, by(web.url, token="tok"))
    assert web.seen[-1].headers["authorization"] == "Bearer tok"
    # Another name of the same host is another host.
    web.files[path] = web.url.replace("127.0.0.1", "localhost") + "/elsewhere"
    with pytest.raises(NotFound):
        await files("models:/m/1", cache, settings, by(web.url, username="u", password="p"))
    assert web.seen[-2].headers["authorization"] == "Basic dTpw"
    assert "authorization" not in web.seen[-1].headers


def test_uris_with_a_colon_only():
    assert parse("models:/a/1").kind is Kind.MLFLOW
    assert parse("runs:/a/b").path == "a/b"
    assert parse("bentoml:iris:latest").path == "latest"
    assert parse("bentoml:iris").root == "iris"
    assert parse("models/iris", "/base").kind is Kind.FILE
    for uri in ("models:/", "models://a/1", "bentoml:../x:1", "bentoml:a:b/c"):
        with pytest.raises(InvalidInput):
            parse(uri)


async def test_bentomls_store(cache, settings, tmp_path):
    from dataclasses import replace

    folder = tmp_path / "bento" / "models" / "iris" / "abc"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("module: bentoml.sklearn")
    (folder.parent / "latest").write_text("abc")
    mine = replace(settings, bentoml_home=tmp_path / "bento")
    assert await files("bentoml:iris:latest", cache, mine, Credentials()) == {"model.yaml"}
    assert await files("bentoml:iris:abc", cache, mine, Credentials()) == {"model.yaml"}
    with pytest.raises(NotFound):
        await files("bentoml:iris:xyz", cache, mine, Credentials())
    with pytest.raises(NotFound):
        await files("bentoml:other:latest", cache, mine, Credentials())


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
async def test_an_exported_model_of_bentomls_is_an_archive(cache, settings, tmp_path, mode):
    import tarfile

    (tmp_path / "model.yaml").write_text("module: bentoml.sklearn")
    with tarfile.open(tmp_path / "iris.bentomodel", mode) as archive:
        archive.add(tmp_path / "model.yaml", "model.yaml")
    found = await files(str(tmp_path / "iris.bentomodel"), cache, settings, Credentials())
    assert found == {"model.yaml"}
