"""How autoscaling is said beside KServe's own fields: Knative's annotations, and Penstock's `scaling` block.

KServe hands annotations of `autoscaling.knative.dev/` on to Knative's autoscaler. Those whose meaning is kept
here are read; the others are warned about by `kserve.annotations`. A field of the manifest goes before an
annotation, as at KServe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.dialects.schema import Spec, path
from penstock.errors import FieldProblem

KNATIVE = "autoscaling.knative.dev/"
#: Bounds of Knative's: an average over less is noise, over more is history.
SHORTEST_WINDOW_S = 6.0
LONGEST_WINDOW_S = 3600.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h)")


class ScalingBlock(Spec):
    """`spec.predictor.scaling` of Penstock's own dialect. Durations: `90s`, `1m30s`, or seconds."""

    window: str | float | None = None
    panic_window: str | float | None = None
    scale_down_delay: str | float | None = None
    scale_to_zero_grace: str | float | None = None


@dataclass
class Said:
    """What annotations or a block say; None where they say nothing."""

    low: int | None = None
    high: int | None = None
    target: float | None = None
    metric: str | None = None
    window_s: float | None = None
    panic_window_s: float | None = None
    scale_down_delay_s: float | None = None
    scale_to_zero_grace_s: float | None = None
    #: Percent of the window, where the panic window is said that way.
    panic_percent: float | None = None


def seconds(value: Any) -> float:
    """`90s`, `1m30s`, `500ms`, or a number of seconds; ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        text = str(value).strip()
        if text == "0":
            return 0.0
        parts = _PART.findall(text)
        if not parts or "".join(a + b for a, b in parts) != text or len(text) > 32:
            raise ValueError("must be a duration, such as 90s or 5m")
        number = sum(float(a) * _UNITS[b] for a, b in parts)
    if not 0 <= number <= 86400 * 365:
        raise ValueError("must be a duration of at most a year, and not negative")
    return number


def _window(value: Any) -> float:
    found = seconds(value)
    if not SHORTEST_WINDOW_S <= found <= LONGEST_WINDOW_S:
        raise ValueError("must be 6s to 1h")
    return found


def _panic_window(value: Any) -> float:
    found = seconds(value)
    if not 1.0 <= found <= LONGEST_WINDOW_S:
        raise ValueError("must be 1s to 1h, and not longer than the window")
    return found


def _delay(value: Any) -> float:
    found = seconds(value)
    if found > 3600:
        raise ValueError("must be at most 1h")
    return found


def _count(value: Any) -> int:
    if not re.fullmatch(r"\d{1,6}", str(value)):
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def _target(value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 1e9:
        raise ValueError("must be a number of 0.01 or more")
    return number


def _metric(value: Any) -> str:
    if value not in ("concurrency", "rps", "cpu", "memory"):
        raise ValueError("must be concurrency, rps, cpu or memory")
    return str(value)


def _percent(value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 100:
        raise ValueError("must be 1 to 100 percent")
    return number


#: Annotation below KNATIVE -> attribute of `Said`, and how it is read. Both spellings are Knative's.
_READ: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "min-scale": ("low", _count),
    "minScale": ("low", _count),
    "max-scale": ("high", _count),
    "maxScale": ("high", _count),
    "target": ("target", _target),
    "metric": ("metric", _metric),
    "window": ("window_s", _window),
    "panic-window-percentage": ("panic_percent", _percent),
    "panicWindowPercentage": ("panic_percent", _percent),
    "scale-down-delay": ("scale_down_delay_s", _delay),
    "scaleDownDelay": ("scale_down_delay_s", _delay),
    "scale-to-zero-pod-retention-period": ("scale_to_zero_grace_s", _delay),
    "scaleToZeroPodRetentionPeriod": ("scale_to_zero_grace_s", _delay),
}
#: Its value is the autoscaler's name, and there is one here.
_HARMLESS = frozenset(("class",))
_BLOCK: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "window": ("window_s", _window),
    "panic_window": ("panic_window_s", _panic_window),
    "scale_down_delay": ("scale_down_delay_s", _delay),
    "scale_to_zero_grace": ("scale_to_zero_grace_s", seconds),
}


def is_read(annotation: str) -> bool:
    """An annotation of Knative's that has its meaning here."""
    name = annotation.removeprefix(KNATIVE)
    return name in _READ or name in _HARMLESS


def read_annotations(
    annotations: Mapping[str, str], at: tuple[int | str, ...], said: Said
) -> list[FieldProblem]:
    """Read Knative's annotations into `said`; what is wrong with them."""
    problems = []
    for key, value in annotations.items():
        if key.startswith(KNATIVE) and (found := _READ.get(key.removeprefix(KNATIVE))):
            attribute, read = found
            try:
                setattr(said, attribute, read(value))
            except ValueError as exc:
                problems.append(FieldProblem(path((*at, key)), str(exc)))
    return problems


def read_block(block: ScalingBlock, at: tuple[int | str, ...], said: Said) -> list[FieldProblem]:
    """Read the `scaling` block into `said`, over what annotations said; what is wrong with it."""
    problems = []
    for attribute, (into, read) in _BLOCK.items():
        value = getattr(block, attribute)
        if value is None:
            continue
        name = ScalingBlock.model_fields[attribute].alias or attribute
        try:
            setattr(said, into, read(value))
        except ValueError as exc:
            problems.append(FieldProblem(path((*at, name)), str(exc)))
    window_s = said.window_s or 60.0
    if block.panic_window is not None and (said.panic_window_s or 0) > window_s and not problems:
        problems.append(
            FieldProblem(
                path((*at, "panicWindow")), f"must not be longer than window ({window_s:g} s)"
            )
        )
    return problems
