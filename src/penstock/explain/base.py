"""What all explainers share: how they read numbers, what they answer, and the face that a model has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidInput

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

#: Many rows to what the model says about each: `[n, ...]` to `[n]` (labels, values) or `[n, k]` (a number
#: per class). One call is one batch; whoever implements it splits what is too large for one request.
#: Raises PenstockError when the model is not to be reached or answers nonsense.
Ask: TypeAlias = Callable[[Array], Array]


def dtype_of(ask: Ask) -> np.dtype[Any] | None:
    """The numbers that the model takes, where `ask` says it (as `ask.dtype`)."""
    found: np.dtype[Any] | None = getattr(ask, "dtype", None)
    return found


def numbers(instance: Array, what: str = "a row of numbers") -> Floats:
    """`instance` as float64; InvalidInput, which says that it is to be `what`, when it cannot be."""
    given = np.asarray(instance)
    # numpy would read numbers in texts, which no model does.
    texts = given.dtype.kind in "SU" or (
        given.dtype == object and any(isinstance(v, str | bytes) for v in given.ravel().tolist())
    )
    try:
        if not texts:
            return given.astype(np.float64)
    except (TypeError, ValueError, OverflowError):  # a whole number may be beyond any float
        pass
    raise InvalidInput(f"an instance is {what}; this one holds something else")


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the model answered what it did for one instance.

    `data` can be written as JSON: numbers, texts, lists, dicts. What is in it depends on the algorithm.
    """

    #: The algorithm, by the name that manifests use (`AnchorTabular`).
    kind: str
    data: Mapping[str, Any]
    #: The settings that the explanation was made with.
    params: Mapping[str, Any] = field(default_factory=dict)


class Explainer(ABC):
    """One configured algorithm. `explain` may be called from several threads at once."""

    kind: ClassVar[str]
    #: What an instance is: `matrix` rows of numbers, `text`, or `image`.
    takes: ClassVar[str] = "matrix"
    #: The features' names that it was made with; empty: nobody named them.
    names: Sequence[str] = ()

    def check(self, instance: Array, ask: Ask) -> None:
        """What `explain` would say against the instance before it searches, with a question or two.

        Of several instances each is checked before the first is explained, which may take minutes.
        """

    @abstractmethod
    def explain(self, instance: Array, ask: Ask) -> Explanation:
        """Explain one instance, without its batch axis.

        Raises InvalidInput when the instance is at fault, ModelError when the model's answers are, and what
        `ask` raises.
        """

    def called(self, names: Sequence[str]) -> Self:
        """The same explainer, whose features have other names. InvalidInput when they cannot have those."""
        found = copy(self)
        found.names = tuple(names)
        return found

    @property
    def params(self) -> Mapping[str, Any]:
        """The settings, as they are reported."""
        return {}
