"""Threads of the numeric libraries: a process's share of the cores, and no more.

BLAS pools and the frameworks' own are set once. OpenMP counts per calling thread, so each thread that calls
a model sets it for itself.
"""

from __future__ import annotations

import os
import sys
from math import ceil
from typing import Final

from threadpoolctl import ThreadpoolController

from penstock.domain.process import ProcessSpec
from penstock.runtimes.base import Framework

#: Read by the libraries when they are loaded.
POOL_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def share(spec: ProcessSpec) -> int:
    """Threads for `spec`: as it says, else the cores this process may use, at least one."""
    if spec.threads > 0:
        return spec.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if spec.cpu_limit:
        cores = min(cores or 1, ceil(spec.cpu_limit))
    return max(1, cores or 1)


class _Loaded:
    """The numeric libraries in this process and their switches.

    Looking for them costs 40 ms and, in a fork, 5 MB of private memory; a zygote has looked before it forks,
    and its children find all that their framework has loaded.
    """

    def __init__(self) -> None:
        self._controller: ThreadpoolController | None = None
        self._modules: frozenset[str] = frozenset()

    def look(self) -> ThreadpoolController:
        # Before the look: what is imported during it in another thread may be missing from it.
        modules = frozenset(sys.modules)
        controller = self._controller = ThreadpoolController()
        self._modules = modules
        return controller

    def libraries(self, framework: Framework) -> ThreadpoolController:
        """Those that `framework` calls, as far as its packages are imported."""
        known = self._controller
        if known is not None and framework.preload and self._modules.issuperset(framework.preload):
            return known
        return self.look()


_loaded = _Loaded()


def find_libraries() -> None:
    """For zygotes, when their framework is imported: look once for all children."""
    libraries = _loaded.look()
    for api in ("openmp", "blas"):
        set_threads(libraries, api, 1)


def set_threads(libraries: ThreadpoolController, api: str, threads: int) -> None:
    """Set the libraries of one kind. Not by `limit`, which first asks each for all it knows of itself."""
    for library in libraries.lib_controllers:
        if library.user_api == api:
            library.set_num_threads(threads)


class Pools:
    """Sets `threads` for every library, where it differs from the one thread a zygote holds them to."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._blas_done = False
        self._done: set[str] = set()
        # For what is loaded from now on.
        for name in POOL_VARIABLES:
            if os.environ.get(name) != str(threads):
                os.environ[name] = str(threads)

    def prepare_thread(self, framework: Framework) -> None:
        """To be called in each thread that will call a model, after the framework's packages are there."""
        if self.threads > 1:
            libraries = _loaded.libraries(framework)
            set_threads(libraries, "openmp", self.threads)
            if not self._blas_done:
                self._blas_done = True
                set_threads(libraries, "blas", self.threads)
        if framework.set_threads is not None and framework.name not in self._done:
            self._done.add(framework.name)
            framework.set_threads(self.threads)
