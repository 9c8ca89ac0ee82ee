"""Models written to a folder as a user would, loaded as the model process does."""

import sys
import textwrap

import pytest

from penstock.runtimes.base import CallContext, LoadOptions
from penstock.runtimes.custom import framework
from penstock.sdk import discovery


@pytest.fixture(autouse=True)
def _clean_imports():
    """Each test is a process of its own as far as imports go."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    discovery._folders.clear()
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        if str(getattr(module, "__file__", "")).startswith("/tmp") or name.startswith(
            "penstock_model"
        ):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path):
    """Writes files of a model's folder: `folder(model="...", helper="...")`."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return tmp_path

    return write


@pytest.fixture
def load(folder):
    """The runtime of a model file's text."""

    def make(text, **options):
        return framework.load(folder(model=text), LoadOptions("m", options=options))

    return make


@pytest.fixture
def call():
    """Calls a payload runtime on V1 unless told otherwise."""

    async def make(runtime, payload, **context):
        return await runtime.call(payload, CallContext(**context))

    return make
