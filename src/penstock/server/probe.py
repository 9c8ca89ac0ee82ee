"""Ready means that a prediction was answered: the one that is tried before anybody else's.

A runtime that knows its inputs makes up one row (`example`), and the model has to answer it. The same call
tells the executor how long a call takes, so that the first request already runs in the right place.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
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


async def probe_arrays(name: str, runtime: Runtime, timeout_s: float) -> Probed:
    """Let `runtime` answer its own example, off the loop. Raises ProbeFailed."""
    if inspect.iscoroutinefunction(runtime.predict):
        return await _probe_awaited(name, runtime, timeout_s)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Probed] = loop.create_future()

    def settle(probed: Probed | None, error: ProbeFailed | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif probed is not None:
            future.set_result(probed)

    def run() -> None:
        probed: Probed | None = None
        failed: ProbeFailed | None = None
        try:
            probed = _try(name, runtime)
        except Exception as error:  # noqa: BLE001 the border between the platform and a user's model
            failed = _failed(name, error)
        except SystemExit as error:
            failed = _failed(name, error)
        try:
            loop.call_soon_threadsafe(settle, probed, failed)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, name="probe", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            return await future
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


async def _probe_awaited(name: str, runtime: Runtime, timeout_s: float) -> Probed:
    try:
        example = runtime.example()
        if example is None:
            return Probed(NOT_TRIED)
        began = perf_counter()
        predict: Callable[..., Awaitable[Any]] = runtime.predict  # type: ignore[assignment]
        async with asyncio.timeout(timeout_s):
            answer = await predict(example, {})
        checked(name, answer, _expected_rows(runtime, example))
    except TimeoutError:
        raise _late(name, timeout_s) from None
    except Exception as error:
        raise _failed(name, error) from error
    return Probed(ANSWERED, perf_counter() - began, _size(example))


def _try(name: str, runtime: Runtime) -> Probed:
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
