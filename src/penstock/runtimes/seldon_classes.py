"""What Seldon's Python wrapper expects of a user's class, and the names such classes import from it.

The class is duck-typed: whichever of the methods it has, with or without `_raw`, `meta` and a base class of
Seldon's. Seldon calls a method a second time, without `meta`, when it raised TypeError, whatever the reason;
here the signature is read once. A class that imports `seldon_core` gets the few names that classes need from
a stand-in, unless the real package is installed.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, Final

#: Verb -> the method of the class that answers it.
METHODS: Final[Mapping[str, str]] = {
    "predict": "predict",
    "transform-input": "transform_input",
    "transform-output": "transform_output",
    "route": "route",
    "aggregate": "aggregate",
    "send-feedback": "send_feedback",
}
#: Verb -> what Seldon's metrics call it in the tag `method`.
METRIC_TAGS: Final[Mapping[str, str]] = {
    "predict": "predict",
    "transform-input": "inputtransform",
    "transform-output": "outputtransform",
    "route": "router",
    "aggregate": "aggregate",
    "send-feedback": "feedback",
}


class NotImplementedHere(Exception):
    """Seldon's base class has the method and does not implement it."""

    status_code = 400


def implements(cls: type, method: str) -> bool:
    """Whether the class has a method of its own: those of Seldon's base class raise."""
    found = getattr(cls, method, None)
    if not callable(found):
        return False
    module = getattr(found, "__module__", "") or ""
    return module.partition(".")[0] != "seldon_core" and module != __name__


class Method:
    """One of the user's methods and which of the optional arguments it takes."""

    __slots__ = ("_function", "_keywords", "_most")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._most = 1 << 10
        self._keywords: frozenset[str] | None = None
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            self._keywords = frozenset(
                p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            )
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            self._most = sum(
                p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters
            )

    def __call__(self, *arguments: Any, **offered: Any) -> Any:
        """Call it with as many arguments as it takes, and those of `offered` that it names."""
        taken = {k: v for k, v in offered.items() if self._keywords is None or k in self._keywords}
        return self._function(*arguments[: self._most], **taken)


class SeldonComponent:
    """Stands in for Seldon's base class: it has no method, so what a class lacks is known."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    def load(self) -> None:
        """Nothing to load."""


class SeldonResponse:
    """An answer with tags and metrics of its own."""

    def __init__(
        self,
        data: Any,
        tags: Mapping[str, Any] | None = None,
        metrics: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self.data = data
        self.tags = dict(tags or {})
        self.metrics = list(metrics or ())

    @classmethod
    def create(cls, data: Any) -> Any:
        return data if isinstance(data, cls) else cls(data)


class SeldonMicroserviceException(Exception):
    """An error that a class answers its caller: a message, a status of HTTP and a reason."""

    status_code = 400

    def __init__(
        self,
        message: str,
        status_code: int | None = None,
        payload: Any = None,
        reason: str = "MICROSERVICE_BAD_DATA",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.payload = payload
        self.reason = reason
        if status_code is not None:
            self.status_code = status_code


def _metric(kind: str) -> Callable[..., dict[str, Any]]:
    def create(key: str, value: float, tags: Mapping[str, str] | None = None) -> dict[str, Any]:
        made: dict[str, Any] = {"key": key, "type": kind, "value": value}
        if tags:
            made["tags"] = dict(tags)
        return made

    return create


def plain(value: Any) -> Any:
    """A value with Python's numbers and lists where it has numpy's."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def offer_seldon_core() -> None:
    """Make `import seldon_core` work where the package is not installed. No-op otherwise."""
    if "seldon_core" in sys.modules or importlib.util.find_spec("seldon_core") is not None:
        return
    contents: dict[str, dict[str, Any]] = {
        "seldon_core": {},
        "seldon_core.user_model": {
            "SeldonComponent": SeldonComponent,
            "SeldonResponse": SeldonResponse,
            "SeldonNotImplementedError": NotImplementedHere,
        },
        "seldon_core.flask_utils": {"SeldonMicroserviceException": SeldonMicroserviceException},
        "seldon_core.metrics": {
            "create_counter": _metric("COUNTER"),
            "create_gauge": _metric("GAUGE"),
            "create_timer": _metric("TIMER"),
        },
    }
    for name, members in contents.items():
        module = ModuleType(name, "Names that classes for Seldon's wrapper import.")
        vars(module).update(members)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["seldon_core"].__path__ = []
