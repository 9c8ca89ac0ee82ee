"""The repository: versions, loads that swap without a gap, loads that fail, and what ready means."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_models import Doubler, Function, Gated, framework, metrics, not_hung, rows, served

from penstock.domain.process import ServedModel
from penstock.domain.service import VersionPolicy
from penstock.errors import LoadError, NotFound, Unavailable, Unsupported
from penstock.runtimes.base import Arrays, LoadOptions, Runtime
from penstock.server.probe import ProbeFailed
from penstock.server.repository import (
    Limits,
    Repository,
    State,
    refuse_parameters,
)
from penstock.server.versions import choose


def repository(
    *models: ServedModel,
    load: Callable[[Path, LoadOptions], Any] = lambda path, options: Doubler(),
    timeout_s: float = 10,
    **fields: Any,
) -> Repository:
    return Repository(
        models,
        metrics=metrics(),
        hung=not_hung,
        find=lambda name: framework(load, **fields),
        limits=Limits(timeout_s=timeout_s),
    )


async def ask(repo: Repository, name: str, value: float, version: str | None = None) -> Arrays:
    loaded = repo.get(name, version)
    assert loaded.batcher is not None
    answer: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()

    def done(outputs: Arrays | None, error: Exception | None) -> None:
        if error is not None:
            answer.set_exception(error)
        elif outputs is not None:
            answer.set_result(outputs)

    loaded.batcher.submit(rows(value), {}, done)
    return await asyncio.wait_for(answer, 10)


def versions(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "model").write_text("x")
    return folder


# -- which versions


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VersionPolicy(), ["10"]),
        (VersionPolicy(latest=2), ["9", "10"]),
        (VersionPolicy(latest=9), ["1", "9", "10"]),
        (VersionPolicy(all=True), ["1", "9", "10"]),
        (VersionPolicy(specific=("9", "1")), ["1", "9"]),
    ],
)
def test_versions_are_numbered_folders_chosen_by_policy(
    tmp_path: Path, policy: VersionPolicy, expected: list[str]
) -> None:
    versions(tmp_path, "9", "10", "1", "notes")
    (tmp_path / "11").write_text("a file is no version")
    chosen = choose(tmp_path, policy)
    assert list(chosen) == expected
    assert all(path == tmp_path / version for version, path in chosen.items())


def test_a_label_is_for_a_version_that_is_served(tmp_path: Path) -> None:
    versions(tmp_path, "1", "2")
    assert list(choose(tmp_path, VersionPolicy(labels=(("stable", "2"),)))) == ["2"]
    with pytest.raises(LoadError, match="The label stable is for version 1, which is not served"):
        choose(tmp_path, VersionPolicy(labels=(("stable", "1"),)))


def test_a_folder_without_numbers_and_a_file_are_version_1(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_text("x")
    assert choose(tmp_path, VersionPolicy()) == {"1": tmp_path}
    assert choose(tmp_path / "model.joblib", VersionPolicy()) == {"1": tmp_path / "model.joblib"}


@pytest.mark.parametrize("what", ["missing", "empty", "version"])
def test_what_is_not_there_is_a_load_error_that_says_what(tmp_path: Path, what: str) -> None:
    policy = VersionPolicy()
    path = tmp_path
    if what == "missing":
        path = tmp_path / "nowhere"
    elif what == "version":
        versions(tmp_path, "1", "2")
        policy = VersionPolicy(specific=("3",))
    with pytest.raises(LoadError) as refused:
        choose(path, policy)
    assert ("no version 3" if what == "version" else str(path)) in str(refused.value)


# -- loading


async def test_a_loaded_model_has_answered_its_probe(tmp_path: Path) -> None:
    model = Doubler()
    repo = repository(served("m", tmp_path / "f"), load=lambda p, o: model)
    (tmp_path / "f").write_text("x")
    assert not repo.ready
    await repo.load_all()
    assert repo.ready
    assert repo.get("m").probe == "answered"
    assert model.calls
    assert (await ask(repo, "m", 3))["y"][0, 0] == 6


async def test_the_probe_decides_where_the_first_request_runs(tmp_path: Path) -> None:
    model = Doubler()
    (tmp_path / "f").write_text("x")
    repo = repository(served("m", tmp_path), load=lambda p, o: model)
    await repo.load_all()
    model.threads.clear()
    await ask(repo, "m", 1)
    assert model.threads == {"MainThread"}


async def test_a_model_without_an_example_is_ready_and_says_not_tried(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    repo = repository(served("m", tmp_path), load=lambda p, o: Function(lambda x, _: x))
    await repo.load_all()
    assert repo.get("m").probe == "not-tried"


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        (lambda x, _: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x, _: None, "NoneType where named arrays"),
        (lambda x, _: {"y": np.zeros(5)}, "5 rows in output 'y' for 1 row"),
        (lambda x, _: exit(2), "SystemExit"),
    ],
)
async def test_a_model_that_does_not_answer_its_probe_is_not_ready(
    tmp_path: Path, predict: Any, said: str
) -> None:
    (tmp_path / "f").write_text("x")
    closed: list[bool] = []

    class Broken(Function):
        def close(self) -> None:
            closed.append(True)

    repo = repository(served("m", tmp_path), load=lambda p, o: Broken(predict, example=rows(1)))
    with pytest.raises(ProbeFailed) as failed:
        await repo.load_all()
    assert said in str(failed.value)
    assert failed.value.reason == "ProbeFailed"
    assert closed == [True]
    assert not repo.ready
    with pytest.raises(Unavailable, match="not ready"):
        repo.get("m")


async def test_a_probe_that_hangs_fails_at_the_time_limit(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    gate = threading.Event()
    model = Function(lambda x, _: {"y": x["x"], "g": np.array([gate.wait(10)])}, example=rows(1))
    repo = repository(served("m", tmp_path), load=lambda p, o: model, timeout_s=0.05)
    with pytest.raises(ProbeFailed, match=r"within 0\.05 s"):
        await repo.load_all()
    gate.set()


async def test_the_loop_turns_while_a_model_loads(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    entered, gate = threading.Event(), threading.Event()

    def load(path: Path, options: LoadOptions) -> Runtime:
        entered.set()
        assert gate.wait(10)
        return Doubler()

    repo = repository(served("m", tmp_path), load=load)
    loading = asyncio.create_task(repo.load_all())
    assert await asyncio.to_thread(entered.wait, 10)
    assert not repo.ready
    assert [(i.version, i.state) for i in repo.index()] == [("1", State.LOADING)]
    with pytest.raises(Unavailable, match="being loaded"):
        repo.get("m")
    gate.set()
    await loading
    assert repo.ready


async def test_a_framework_may_insist_on_the_main_thread(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    threads: list[threading.Thread] = []

    def load(path: Path, options: LoadOptions) -> Runtime:
        threads.append(threading.current_thread())
        return Doubler()

    await repository(served("m", tmp_path), load=load, main_thread=True).load_all()
    await repository(served("m", tmp_path), load=load).load_all()
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


async def test_what_is_said_without_a_cause_has_no_traceback(tmp_path: Path, caplog: Any) -> None:
    """It would be of this program, and tell nothing to who reads a model's log."""
    (tmp_path / "f").write_text("x")

    def load(path: Path, options: LoadOptions) -> Runtime:
        raise LoadError("no model file")

    with pytest.raises(LoadError):
        await repository(served("m", tmp_path), load=load).load_all()
    assert "no model file" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (LoadError("no pickle"), "no pickle"),
        (RuntimeError("line one\nline two"), "RuntimeError: line one"),
        (SystemExit(4), "SystemExit: 4"),
    ],
)
async def test_a_load_that_raises_is_one_line_and_a_traceback_in_the_log(
    tmp_path: Path, raised: BaseException, said: str, caplog: Any
) -> None:
    (tmp_path / "f").write_text("x")

    def load(path: Path, options: LoadOptions) -> Runtime:
        try:
            raise KeyError("in the model's code")
        except KeyError as error:
            raise raised from error

    repo = repository(served("m", tmp_path), load=load)
    with pytest.raises(LoadError) as failed:
        await repo.load_all()
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)
    assert "Traceback" in caplog.text
    assert "in the model's code" in caplog.text
    (line,) = repo.index()
    assert line.state is State.UNAVAILABLE
    assert said in line.reason


async def test_versions_are_served_side_by_side(tmp_path: Path) -> None:
    versions(tmp_path, "1", "2", "3")

    def load(path: Path, options: LoadOptions) -> Runtime:
        factor = int(path.name)
        assert options.version == path.name
        return Function(lambda x, _: {"y": x["x"] * factor})

    repo = repository(served("m", tmp_path, versions=VersionPolicy(latest=2)), load=load)
    await repo.load_all()
    assert (await ask(repo, "m", 1))["y"][0, 0] == 3
    assert (await ask(repo, "m", 1, "2"))["y"][0, 0] == 2
    with pytest.raises(NotFound, match="no version 1"):
        repo.get("m", "1")
    assert list(repo.versions("m")) == ["2", "3"]


async def test_a_reload_takes_over_only_when_it_has_loaded(tmp_path: Path) -> None:
    versions(tmp_path, "1")
    gate = threading.Event()
    loaded: list[Doubler] = []

    def load(path: Path, options: LoadOptions) -> Runtime:
        if loaded:
            assert gate.wait(10)
        loaded.append(Doubler())
        return loaded[-1]

    repo = repository(served("m", tmp_path), load=load)
    await repo.load_all()
    versions(tmp_path, "2")
    before = repo.generation
    loading = asyncio.create_task(repo.load("m"))
    await asyncio.sleep(0)
    assert (await ask(repo, "m", 1))["y"][0, 0] == 2  # the old one serves
    assert repo.get("m").version == "1"
    assert repo.generation == before
    gate.set()
    await loading
    assert repo.get("m").version == "2"
    assert repo.generation > before
    await repo.close()
    assert [d.closed for d in loaded] == [1, 1]


async def test_a_failed_reload_keeps_the_old_one_and_says_so(tmp_path: Path) -> None:
    versions(tmp_path, "1")
    broken = False

    def load(path: Path, options: LoadOptions) -> Runtime:
        if broken:
            raise LoadError("the new file is broken")
        return Doubler()

    repo = repository(served("m", tmp_path), load=load)
    await repo.load_all()
    versions(tmp_path, "2")
    broken = True
    with pytest.raises(LoadError):
        await repo.load("m")
    assert repo.ready
    assert (await ask(repo, "m", 1))["y"][0, 0] == 2
    assert [(i.version, i.state) for i in repo.index()] == [
        ("1", State.READY),
        ("2", State.UNAVAILABLE),
    ]
    assert [i.version for i in repo.index(ready_only=True)] == ["1"]
    with pytest.raises(Unavailable, match="the new file is broken"):
        repo.get("m", "2")
    broken = False
    await repo.load("m")
    assert [(i.version, i.reason) for i in repo.index()] == [("2", "")]


async def test_one_bad_version_fails_the_load_of_all_of_them(tmp_path: Path) -> None:
    versions(tmp_path, "1", "2")
    good = Doubler()

    def load(path: Path, options: LoadOptions) -> Runtime:
        if path.name == "2":
            raise LoadError("broken")
        return good

    repo = repository(served("m", tmp_path, versions=VersionPolicy(all=True)), load=load)
    with pytest.raises(LoadError):
        await repo.load_all()
    assert repo.loaded() == []
    await repo.close()
    assert good.closed == 1


async def test_unloading_finishes_what_runs_and_then_closes(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    model = Gated()
    repo = repository(served("m", tmp_path), load=lambda p, o: model)
    await repo.load_all()
    asking = asyncio.create_task(ask(repo, "m", 4))
    assert await asyncio.to_thread(model.entered.acquire, timeout=10)
    await repo.unload("m")
    with pytest.raises(Unavailable, match="not ready"):
        repo.get("m")
    assert not repo.ready
    assert model.closed == 0
    model.gate.release()
    assert (await asking)["y"][0, 0] == 8
    await repo.close()
    assert model.closed == 1
    await repo.load("m")
    assert repo.ready


async def test_ready_with_no_model_at_all_is_false_unless_that_was_asked_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "f").write_text("x")
    assert not repository().ready
    repo = repository(served("m", tmp_path, load=False))
    await repo.load_all()
    assert repo.ready
    with pytest.raises(Unavailable, match="not loaded"):
        repo.get("m")
    await repo.load("m")
    assert repo.ready


async def test_unknown_models_are_not_found() -> None:
    repo = repository()
    for asked in (repo.load("x"), repo.unload("x")):
        with pytest.raises(NotFound):
            await asked
    with pytest.raises(NotFound, match="Model with name x does not exist"):
        repo.get("x")


def test_load_parameters_are_refused_by_name_not_ignored() -> None:
    refuse_parameters({})
    with pytest.raises(Unsupported, match="'config'"):
        refuse_parameters({"config": "{}"})
