"""What the query of a write says about how it is done: who writes, for show or for good, how strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.api.wire import ApiError, invalid
from penstock.errors import InvalidInput

#: As Kubernetes has it.
MAX_MANAGER = 128
STRICT, WARN, IGNORE = "Strict", "Warn", "Ignore"


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """`validation` is what becomes of unknown fields: refused, dropped with a warning, or dropped."""

    manager: str
    dry_run: bool = False
    force: bool = False
    validation: str = STRICT

    @classmethod
    def read(
        cls, query: Mapping[str, str], user_agent: str, *, applies: bool = False
    ) -> WriteOptions:
        """InvalidInput, or ApiError 422 as Kubernetes answers for its own options."""
        manager = query.get("fieldManager", "")
        if len(manager) > MAX_MANAGER or not manager.isprintable():
            raise _refused(
                "fieldManager", f"must be printable and at most {MAX_MANAGER} characters"
            )
        if applies and not manager:
            raise _refused("fieldManager", "Required value: is required for apply patch")
        force = query.get("force", "")
        if force not in ("", "true", "false", "1", "0"):
            raise InvalidInput(f"force is {force!r}; true or false is possible.")
        if force in ("true", "1") and not applies:
            raise _refused("force", "Forbidden: may not be specified for non-apply patch")
        validation = query.get("fieldValidation", "") or STRICT
        if validation not in (STRICT, WARN, IGNORE):
            raise _refused(
                "fieldValidation",
                f'Unsupported value: "{validation[:40]}": supported values: "", "Ignore", "Strict", "Warn"',
            )
        return cls(
            # Whoever does not say it is known by its program.
            manager or _program(user_agent),
            is_dry(query),
            force in ("true", "1"),
            validation,
        )


def is_dry(query: Mapping[str, str]) -> bool:
    """InvalidInput for a dryRun that there is not."""
    value = query.get("dryRun", "")
    if value not in ("", "All"):
        raise InvalidInput(f"dryRun is {value!r}; only All is possible.")
    return value == "All"


def _program(user_agent: str) -> str:
    name = user_agent.partition("/")[0]
    return "".join(c for c in name if c.isprintable())[:MAX_MANAGER].strip() or "unknown"


def _refused(field: str, message: str) -> ApiError:
    return invalid("WriteOptions", "meta.k8s.io", "", [(field, message)])
