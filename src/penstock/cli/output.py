"""What goes to the terminal: aligned tables, ages, sizes, and a status line while something takes time."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

#: Colours of words that say how something is.
_GOOD, _BAD, _WAIT = "32", "31", "33"
_COLOURS = {
    "True": _GOOD,
    "Ready": _GOOD,
    "Loaded": _GOOD,
    "False": _BAD,
    "Failed": _BAD,
    "Warning": _BAD,
    "FailedToLoad": _BAD,
    "Unknown": _WAIT,
    "BackOff": _WAIT,
    "Starting": _WAIT,
    "Draining": _WAIT,
}


def colourful(stream: Any = None) -> bool:
    """Colours are for terminals, and for those who have not said no."""
    stream = stream or sys.stdout
    return (
        bool(stream.isatty()) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    )


def say(text: str = "") -> None:
    """To stdout, and at once: who reads it from a pipe may wait for this line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """To stderr: what is no part of the answer."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, with_headers: bool = True
) -> str:
    """Columns with three spaces between them; words like True and Failed in colour on a terminal."""
    lines = [list(headers)] if with_headers else []
    lines += [[clean(c) for c in row] for row in rows]
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    colours = colourful()
    out = []
    for line in lines:
        cells = []
        for i, cell in enumerate(line):
            padded = cell if i == len(line) - 1 else cell.ljust(widths[i])
            colour = _COLOURS.get(cell) if colours else None
            cells.append(f"\033[{colour}m{padded}\033[0m" if colour else padded)
        out.append("   ".join(cells).rstrip())
    return "\n".join(out)


def clean(text: str) -> str:
    """No control characters: what a model's error says must not drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def age(timestamp: str | None, now: float | None = None) -> str:
    """`12s`, `5m`, `3h`, `9d` since a Kubernetes time."""
    if not timestamp:
        return "-"
    try:
        then = datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return "?"
    return duration((time.time() if now is None else now) - then)


def duration(seconds: float) -> str:
    seconds = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size(n: float | None) -> str:
    """Bytes for people."""
    if n is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def seconds(text: str) -> float:
    """`30s`, `2m`, `1h`, `500ms`, `1m30s`, or a number of seconds. ValueError."""
    import re

    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"{text!r} is no duration; examples: 30s, 2m, 1m30s")
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(n) * factor[u] for n, u in parts)


def documents(items: Any, format_: str) -> str:
    """JSON or YAML of a document."""
    if format_ == "json":
        return json.dumps(items, indent=2, ensure_ascii=False)
    import yaml

    return yaml.safe_dump(items, sort_keys=False, allow_unicode=True).rstrip("\n")


class StatusLine:
    """One line on stderr that is rewritten on a terminal, and printed once per change elsewhere."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._last = ""

    def count(self, done: int, total: int, text: str) -> None:
        """`show` what counts: where lines stay, a tenth of `total` makes a new one."""
        if self._tty or total < 20 or done == total or done % (total // 10) == 0:
            self.show(text)

    def show(self, text: str) -> None:
        text = clean(text)
        if text == self._last:
            return
        self._last = text
        if self._tty:
            width = _columns()
            shown = text if len(text) < width else text[: width - 2] + "…"
            sys.stderr.write(f"\r\033[K{shown}")
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._tty and self._last:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        self._last = ""


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
