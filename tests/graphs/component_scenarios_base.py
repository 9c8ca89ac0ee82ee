"""What a row about transformers and explainers is: manifests, one request, and what its answer has.

The rows of a system are data (`*_component_scenarios.py`), run on one platform by
tests/e2e/test_e2e_component_scenarios.py. Its models and classes are made by tests/e2e/component_models.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graph_scenarios import Refused, Row, System

Manifest = dict[str, Any]
KSERVE = "serving.kserve.io/v1beta1"
KFSERVING = "serving.kubeflow.org/v1alpha2"
OWN = "penstock.dev/v1alpha1"
#: One row of the table model: its first column alone decides.
ROW = [3.0, 0.0, 1.0]
INSTANCES = {"instances": [ROW]}
#: The mood model looks for `good`.
TEXT = "such a good film"

#: The pictures' model looks at the upper left quarter, which is white.
IMAGE = [[[float(y < 4 and x < 4)] * 3 for x in range(8)] for y in range(8)]


def tensor(*rows: list[float], name: str = "x") -> dict[str, Any]:
    """V2's request with one FP64 tensor."""
    data = [v for row in rows for v in row]
    shape = [len(rows), len(rows[0])]
    return {"inputs": [{"name": name, "shape": shape, "datatype": "FP64", "data": data}]}


@dataclass(frozen=True)
class Call:
    """One request. `path` has `{}` for the name of the row's service."""

    path: str
    #: None: GET.
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: `json`, or V2's tensors of the same body as `binary` or `grpc`.
    wire: str = "json"


@dataclass(frozen=True)
class Scenario:
    """One row. All of its manifests are applied before any row is asked."""

    name: str
    manifests: tuple[Manifest, ...]
    call: Call
    #: What is at a place of the answer, such as `data.anchor`: a value, or what it has to satisfy.
    answer: Mapping[str, Any]
    status: int = 200
    #: How the system itself differs.
    note: str = ""
    #: Text of the service's status, for one that cannot become ready.
    told: str = ""
    #: Run without the platform, by a test that names the row: what it needs takes long to start.
    alone: bool = False

    @property
    def service(self) -> str:
        """The name of what is asked: that of the last manifest."""
        name: str = self.manifests[-1]["metadata"]["name"]
        return name


def system(
    title: str,
    compared: str,
    scenarios: Iterable[Scenario],
    refused: Iterable[tuple[str, Manifest, str, str]],
    *,
    tests: str,
    place: int,
) -> System:
    """A system's part of the page. `refused`: what it is, its manifest, the field, and what is said of it."""
    return System(
        title=title,
        compared=compared,
        rows=tuple(Row(s.name, s.status, s.note) for s in scenarios),
        refused=tuple(Refused(what, field, said) for what, _, field, said in refused),
        tests=tests,
        place=place,
    )


def manifest(api_version: str, kind: str, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def isvc(name: str, spec: Manifest, api_version: str = OWN) -> Manifest:
    return manifest(api_version, "InferenceService", name, spec)


def only(feature: str) -> Any:
    """Of an anchor: that it is about this feature alone."""

    def satisfied(anchor: list[str]) -> bool:
        return len(anchor) == 1 and anchor[0].split()[0] == feature

    return satisfied


def in_upper_left(mask: list[list[int]]) -> bool:
    """Of the pixels of an image's anchor: that all are in that quarter, and most of it."""
    inside = sum(v for row in mask[:4] for v in row[:4])
    return inside >= 8 and inside == sum(map(sum, mask))


def all_of(feature: int) -> Any:
    """Of SHAP's values, of each class: that only this feature has a share."""

    def satisfied(shares: list[list[float]]) -> bool:
        shared = [[i for i, v in enumerate(row) if abs(v) > 1e-6] for row in shares]
        return bool(shared) and all(row == [feature] for row in shared)

    return satisfied
