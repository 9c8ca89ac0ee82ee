"""Ready means that a prediction was answered: the one that is tried before anybody else's.

A runtime that knows its inputs makes up one row (`example`), and the model has to answer it. The same call
tells the executor how long a call takes, so that the first request already runs in the right place.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from penstock.errors import LoadError, PenstockError
from penstock.protocols.infer import InferRequest
from penstock.runtimes.base import (
    Arrays,
    CallContext,
    PayloadRuntime,
    Runtime,
    StreamReply,
    rows_of,
)
from penstock.server.execution import checked
from penstock.server.workers import OffLoop

log = logging.getLogger(__name__)

ANSWERED: Final = "answered"
NOT_TRIED: Final = "not-tried"
#: The first call pays for things that no later one does; only if it was shorter is there a second one.
TWICE_BELOW_S: Final = 0.05


class ProbeFailed(LoadError):
    """The model was loaded, and did not answer its example."""

    reason = "ProbeFailed"


@dataclass(frozen=True, slots=True)
class Probed:
    """How a probe went; `seconds` of a call with `nbytes` of input, None when none was made."""

    outcome: str
    seconds: float | None = None
    nbytes: int = 0


async def probe_arrays(name: str, runtime: Runtime, timeout_s: float, off_loop: OffLoop) -> Probed:
    """Let `runtime` answer its own example, off the loop. Raises ProbeFailed."""
    try:
        async with asyncio.timeout(timeout_s):
            if inspect.iscoroutinefunction(runtime.predict):
                return await _probe_awaited(name, runtime)
            return await off_loop(lambda: _try(name, runtime))
    except TimeoutError:
        raise _late(name, timeout_s) from None


async def probe_payload(
    name: str,
    runtime: PayloadRuntime,
    run: Callable[[Callable[[], Any]], Awaitable[Any]],
    timeout_s: float,
) -> str:
    """Let `runtime` answer its own example. Raises ProbeFailed."""
    example = runtime.example()
    if example is None:
        return NOT_TRIED
    context = CallContext(protocol="v2" if isinstance(example, InferRequest) else "v1", run=run)
    try:
        async with asyncio.timeout(timeout_s):
            reply = await runtime.call(example, context)
            if isinstance(reply, StreamReply):
                async for _ in reply.chunks:
                    break
    except TimeoutError:
        raise _late(name, timeout_s) from None
    except Exception as error:
        raise _failed(name, error) from error
    return ANSWERED


async def _probe_awaited(name: str, runtime: Runtime) -> Probed:
    try:
        example = runtime.example()
        if example is None:
            return Probed(NOT_TRIED)
        began = perf_counter()
        predict: Callable[..., Awaitable[Any]] = runtime.predict  # type: ignore[assignment]
        checked(name, await predict(example, {}), _expected_rows(runtime, example))
    except Exception as error:
        raise _failed(name, error) from error
    return Probed(ANSWERED, perf_counter() - began, _size(example))


def _try(name: str, runtime: Runtime) -> Probed:
    try:
        example = runtime.example()
        if example is None:
            return Probed(NOT_TRIED)
        rows = _expected_rows(runtime, example)
        began = perf_counter()
        checked(name, runtime.predict(example, {}), rows)
        seconds = perf_counter() - began
        if seconds < TWICE_BELOW_S:
            began = perf_counter()
            runtime.predict(example, {})
            seconds = min(seconds, perf_counter() - began)
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error
    return Probed(ANSWERED, seconds, _size(example))


def _expected_rows(runtime: Runtime, example: Arrays) -> int:
    return rows_of(example) if runtime.batchable else -1


def _size(example: Arrays) -> int:
    return sum(a.nbytes for a in example.values())


def _failed(name: str, error: BaseException) -> ProbeFailed:
    if isinstance(error, PenstockError):
        said = str(error)
    else:
        log.error("model %s raised for its probe", name, exc_info=error)
        first = (str(error).strip().splitlines() or [""])[0]
        said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return ProbeFailed(f"Model {name} was loaded, and did not answer its probe: {said}")


def _late(name: str, timeout_s: float) -> ProbeFailed:
    return ProbeFailed(
        f"Model {name} was loaded, and did not answer its probe within {timeout_s:g} s."
    )
