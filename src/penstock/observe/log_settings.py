"""What a process logs, as Triton's logging extension has it: kinds of lines that are on or off.

Kinds are switched by a filter on the root logger's handlers, since they are independent of each other:
warnings may be off while information is on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from penstock.errors import InvalidInput, Unsupported

_FLAGS: Final = ("log_info", "log_warning", "log_error")
_VERBOSE: Final = "log_verbose_level"
#: What cannot be changed, and what to say to whoever asks.
_FIXED: Final[dict[str, tuple[Any, str]]] = {
    "log_file": ("", "Lines go to stderr, and with the platform into `penstock logs`."),
    "log_format": ("default", "Lines have one format."),
}


class LogSettings:
    """The settings of this process. `fixed` says why nothing may be changed; empty: it may."""

    def __init__(self, fixed: str = "") -> None:
        self._fixed = fixed
        root = logging.getLogger()
        self._on = {
            "log_info": root.isEnabledFor(logging.INFO),
            "log_warning": root.isEnabledFor(logging.WARNING),
            "log_error": root.isEnabledFor(logging.ERROR),
        }
        self._verbose = 1 if root.isEnabledFor(logging.DEBUG) else 0

    def settings(self) -> dict[str, Any]:
        """All settings, by Triton's names."""
        return {
            "log_file": "",
            **self._on,
            _VERBOSE: self._verbose,
            "log_format": "default",
        }

    def change(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Change some, all or none of them; the settings after it. Raises InvalidInput, Unsupported."""
        present = self.settings()
        for name, value in wanted.items():
            if name not in present:
                raise InvalidInput(
                    f"There is no log setting {name!r}.", hint=f"There are {', '.join(present)}."
                )
            if name in _FLAGS and type(value) is not bool:
                raise InvalidInput(f"{name} is true or false.")
            if name == _VERBOSE and (type(value) is not int or value < 0):
                raise InvalidInput(f"{name} is a whole number, 0 or more.")
            if name in _FIXED and value != _FIXED[name][0]:
                raise Unsupported(f"{name} cannot be changed.", hint=_FIXED[name][1])
            if self._fixed and value != present[name]:
                raise Unsupported(f"{name} cannot be changed here.", hint=self._fixed)
        changed = {name: value for name, value in wanted.items() if value != present[name]}
        if changed:
            self._verbose = changed.get(_VERBOSE, self._verbose)
            self._on.update({name: changed[name] for name in _FLAGS if name in changed})
            self._apply()
        return self.settings()

    def _apply(self) -> None:
        levels = [
            (self._verbose > 0, logging.DEBUG),
            (self._on["log_info"], logging.INFO),
            (self._on["log_warning"], logging.WARNING),
            (self._on["log_error"], logging.ERROR),
        ]
        root = logging.getLogger()
        root.setLevel(next((level for on, level in levels if on), logging.CRITICAL + 1))
        for handler in root.handlers:
            if self._passes not in handler.filters:
                handler.addFilter(self._passes)

    def _passes(self, record: logging.LogRecord) -> bool:
        level = record.levelno
        if level >= logging.ERROR:
            return self._on["log_error"]
        if level >= logging.WARNING:
            return self._on["log_warning"]
        return self._on["log_info"] if level >= logging.INFO else self._verbose > 0
