"""What all tests have in common: `ordinary_rights`, for what root would be allowed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Set for the process that runs one test for another, which root runs.
_WITHOUT = "PENSTOCK_TEST_WITHOUT_ROOT_RIGHTS"
#: What lets root read and write where the mode says no.
_RIGHTS = "-dac_override,-dac_read_search"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "ordinary_rights: run without root's right to read and write everything"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Root runs a test marked so in a process of its own, which has given up that right."""
    if pyfuncitem.get_closest_marker("ordinary_rights") is None or os.geteuid() != 0:
        return None
    if os.environ.get(_WITHOUT):
        return None
    done = subprocess.run(
        [
            "setpriv", f"--bounding-set={_RIGHTS}", f"--inh-caps={_RIGHTS}", "--",
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid,
        ],
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, _WITHOUT: "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"without root's rights:\n{done.stdout}\n{done.stderr}", pytrace=False)
    return True
