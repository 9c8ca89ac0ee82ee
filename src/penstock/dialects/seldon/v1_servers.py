"""What may stand in a node of a SeldonDeployment's graph: servers, built-in units, classes of one's own.

A prepackaged server is a framework here and its parameters are options. A class for Seldon's Python wrapper
is a model of the format `seldon`; its parameters go to its constructor. Built-in units need no process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from penstock.dialects.schema import nearest
from penstock.dialects.seldon.v1_fields import PARAMETER_TYPES
from penstock.domain.bandit import PolicyName
from penstock.errors import FieldProblem


class Server(NamedTuple):
    """A prepackaged server: the block it is, and what its parameters mean."""

    block: str
    #: Parameter -> option of the runtime; None: known, without effect.
    parameters: Mapping[str, str | None]


SERVERS: Final[Mapping[str, Server]] = {
    "SKLEARN_SERVER": Server("sklearn", {"method": "method"}),
    "XGBOOST_SERVER": Server("xgboost", {}),
    "MLFLOW_SERVER": Server("mlflow", {"xtype": None}),
    "TENSORFLOW_SERVER": Server(
        "tensorflow",
        {
            "signature_name": "signature",
            "model_name": "model_name",
            "model_input": None,
            "model_output": None,
        },
    ),
    "TRITON_SERVER": Server("triton", {}),
    "HUGGINGFACE_SERVER": Server(
        "huggingface",
        {
            "task": "task",
            "pretrained_model": "pretrained_model",
            "device": "device",
            "batch_size": "batchSize",
        },
    ),
}
#: Units that run in the gateways, and the type that each is.
BUILTIN: Final[Mapping[str, str]] = {
    "SIMPLE_MODEL": "MODEL",
    "SIMPLE_ROUTER": "ROUTER",
    "RANDOM_ABTEST": "ROUTER",
    "AVERAGE_COMBINER": "COMBINER",
    "EPSILON_GREEDY": "ROUTER",
    "THOMPSON_SAMPLING": "ROUTER",
}
#: Built-in routers that learn from feedback, and what they are.
POLICIES: Final[Mapping[str, PolicyName]] = {
    "EPSILON_GREEDY": PolicyName.EPSILON_GREEDY,
    "THOMPSON_SAMPLING": PolicyName.THOMPSON,
}
#: Seldon's own images of them, without a tag: an image that is known by what it does.
_POLICY_IMAGES: Final = {
    "mab_epsilon_greedy": "EPSILON_GREEDY",
    "mab_thompson_sampling": "THOMPSON_SAMPLING",
}
_LEARNING: Final = frozenset(
    ("n_branches", "epsilon", "seed", "branch_names", "best_branch", "verbose", "history")
)
#: Parameters of built-in units. `best_branch`, `verbose` and `history` are Seldon's; nothing depends on them
#: here, where what was learned is kept and can be looked at.
PARAMETERS: Final[Mapping[str, frozenset[str]]] = {
    "RANDOM_ABTEST": frozenset(("ratioA",)),
    "EPSILON_GREEDY": _LEARNING,
    "THOMPSON_SAMPLING": _LEARNING - {"epsilon", "best_branch"},
}
#: Known to Seldon, and why they are not here.
OTHER_SERVERS: Final[Mapping[str, str]] = {"TEMPO_SERVER": "Tempo's pipelines are not supported"}
UNKNOWN: Final = "UNKNOWN_IMPLEMENTATION"

#: The block of a class of one's own, and its format.
UNIT_BLOCK: Final = "model"
UNIT_FORMAT: Final = "seldon"
#: The parameter, and the variable of the container, that name the class.
MODEL_NAME: Final = "MODEL_NAME"
#: Why there are no images, and what to do.
NO_IMAGES: Final = (
    "images are not run here; put the folder of the unit's Python class into modelUri of its node in the"
    " graph, its name into the variable MODEL_NAME, and leave the image out"
)


def policy_of_image(image: Any) -> str:
    """The built-in router that does what one of Seldon's images does; empty for any other image."""
    repository, _, name = str(image or "").lower().partition("@")[0].rpartition("/")
    if repository.rpartition("/")[2] != "seldonio":
        return ""
    return _POLICY_IMAGES.get(name.partition(":")[0], "")


def implementation_of(node: Mapping[str, Any]) -> str:
    """The node's implementation; empty for a class of one's own."""
    name = node.get("implementation") or ""
    return "" if name == UNKNOWN else str(name)


def implementation_problem(name: str) -> str | None:
    """What is wrong with an implementation's name."""
    if not name or name in SERVERS or name in BUILTIN:
        return None
    if name in OTHER_SERVERS:
        return OTHER_SERVERS[name]
    known = [*SERVERS, *BUILTIN]
    near = nearest(name, known)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
    return f"unknown server; {hint}"


def typed_parameters(
    given: Sequence[Mapping[str, Any]], at: str, problems: list[FieldProblem]
) -> dict[str, Any]:
    """Parameters as values of their types; what is none of its type is a problem."""
    found: dict[str, Any] = {}
    for i, parameter in enumerate(given):
        name = parameter["name"]
        here = f"{at}[{i}]"
        if name in found:
            problems.append(FieldProblem(f"{here}.name", "is the name of another"))
        try:
            found[name] = PARAMETER_TYPES[parameter["type"]](parameter["value"])
        except (ValueError, KeyError):
            problems.append(FieldProblem(f"{here}.value", f"is no {parameter['type']}"))
    return found
