"""How a new revision's replicas take the place of the old ones: KServe's `deploymentStrategy`.

Rolling is what is so anyway: the new ones come up beside the old and take over when they are ready.
`Recreate` ends the old ones first, for what cannot run twice: a model that needs the machine's only device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.dialects.schema import path
from penstock.errors import FieldProblem

At = tuple[int | str, ...]


def recreates(
    given: Mapping[str, Any] | None, at: At
) -> tuple[bool, list[FieldProblem], list[FieldProblem]]:
    """Whether old replicas end first; problems; warnings. `given` is apps/v1's DeploymentStrategy."""
    strategy = given or {}
    kind, rolling = strategy.get("type") or "RollingUpdate", strategy.get("rollingUpdate")
    problems = [
        FieldProblem(path((*at, name)), "unknown field", unknown=True)
        for name in strategy
        if name not in ("type", "rollingUpdate")
    ]
    if kind not in ("Recreate", "RollingUpdate"):
        problems.append(FieldProblem(path((*at, "type")), "must be one of Recreate, RollingUpdate"))
    if kind == "Recreate" and rolling is not None:
        problems.append(
            FieldProblem(path((*at, "rollingUpdate")), "may not be given with type Recreate")
        )
    warnings = []
    if kind == "RollingUpdate" and rolling:
        said = "all replicas of a new revision come up beside the old ones, then take over"
        warnings.append(FieldProblem(path((*at, "rollingUpdate")), said))
    return kind == "Recreate", problems, warnings
