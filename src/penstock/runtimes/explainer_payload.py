"""What an explainer is asked about: instances, and what the request calls their features.

Rows come as V1's `instances`, with `names` where Seldon's message had them, as V2's one tensor, or as V2's
inputs of a feature each, for models that take those. What is wrong with one of several instances is told with
its number, counted from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.base import Array, Explainer
from penstock.protocols.infer import InferRequest
from penstock.protocols.text_arrays import array_of

#: Instances in one request: each may cost thousands of predictions.
MAX_INSTANCES: Final = 64


@dataclass(frozen=True, slots=True)
class Given:
    """Instances, each without its batch axis."""

    instances: Sequence[Array]
    #: Of their features, in order; empty: the request has none.
    names: Sequence[str] = ()
    #: Each feature came under its name: it is the name that counts, not the place.
    by_name: bool = False


def read(payload: Any, takes: str) -> Given:
    """The instances of a request. InvalidInput when there are none."""
    if isinstance(payload, bytes):
        raise InvalidInput("a JSON body is expected")
    if isinstance(payload, InferRequest):
        return _counted(_of_tensors(payload, takes))
    given = payload.get("instances", payload.get("inputs"))
    if given is None:
        raise InvalidInput("the request has neither 'instances' nor 'inputs'")
    if not isinstance(given, list):
        raise InvalidInput("'instances' is a list, with one instance or more")
    names = payload.get("names") or ()
    if names and (type(names) is not list or any(type(n) is not str for n in names)):
        raise InvalidInput("'names' is no list of strings")
    _counted(Given(given))
    instances = []
    for index, value in enumerate(given):
        with numbered(index, len(given)):
            instances.append(_value(value))
    return Given(instances, names if takes == "matrix" else ())


@contextmanager
def numbered(index: int, count: int) -> Iterator[None]:
    """What is said against an instance says which one it is, where there are several."""
    try:
        yield
    except InvalidInput as e:
        if count > 1:
            e.message = f"instance {index}: {e.message}"
        raise


def _counted(given: Given) -> Given:
    count = len(given.instances)
    if not count:
        raise InvalidInput("the request has no instance to explain")
    if count > MAX_INSTANCES:
        raise InvalidInput(f"{count} instances; {MAX_INSTANCES} are explained at a time")
    return given


def _of_tensors(request: InferRequest, takes: str) -> Given:
    if len(request.inputs) > 1 and takes == "matrix":
        return _of_columns(request)
    if len(request.inputs) != 1:
        raise InvalidInput(f"one input is expected, the request has {len(request.inputs)}")
    (rows,) = request.inputs.values()
    if takes == "text":
        rows = rows.reshape(-1)
    return Given([rows[i] for i in range(len(rows))] if rows.ndim else [])


def _of_columns(request: InferRequest) -> Given:
    columns = []
    rows = None
    for name, array in request.inputs.items():
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise InvalidInput(
                f"input '{name}' has the shape {list(array.shape)}; of several inputs, each is one feature"
            )
        if array.dtype.kind not in "fiub":
            raise InvalidInput(f"input '{name}' holds no numbers")
        rows = len(array) if rows is None else rows
        if len(array) != rows:
            raise InvalidInput(f"input '{name}' has {len(array)} rows, the first input {rows}")
        columns.append(array.astype(np.float64))
    return Given(list(np.stack(columns, axis=1)), tuple(request.inputs), by_name=True)


def _value(value: Any) -> Array:
    """An instance of V1's JSON: a row, an image, or a text (perhaps in a list of its own)."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        text = np.empty((), dtype=object)
        text[()] = value
        return text
    if isinstance(value, dict):
        raise InvalidInput("an instance is a row, an image or a text, not an object")
    try:
        return array_of(value) if isinstance(value, list) else np.asarray(value)
    except (ValueError, OverflowError):
        raise InvalidInput("an instance is ragged: its rows have different lengths") from None


def called(
    given: Given, explainer: Explainer, declared: Callable[[], Sequence[str]]
) -> tuple[Given, Explainer]:
    """The instances in the order of the explainer's features, and the explainer with names for those.

    `declared` are the names of the predictor's inputs. A model that takes a feature an input is asked by
    name; any other takes numbers by their place, whatever they are called. So names in another order than
    that of the explainer's features are followed where the model follows them, and refused where it does not:
    the explanation would be of another prediction than the same message gets.
    """
    names = given.names
    if not names:
        return given, explainer
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise InvalidInput(f"two features have the name {twice!r}")
    order = explainer.names
    if list(order) == list(names):
        return given, explainer
    inputs = declared()
    if len(inputs) > 1 and set(inputs) == set(names):
        order = order if set(order) == set(names) else inputs
        given = replace(given, by_name=True)
    if given.by_name:
        return _ordered(given, order), explainer if explainer.names else explainer.called(order)
    if any(instance.ndim != 1 for instance in given.instances):
        return given, explainer  # no rows: what is wrong with that, the explainer says
    if not order:
        _check_width(given)
        return given, explainer.called(names)
    places = {name: i for i, name in enumerate(order, 1)}
    for place, name in enumerate(names, 1):
        if places.get(name, place) != place:
            raise InvalidInput(
                f"'{name}' is number {place} of the names, but the explainer's feature {places[name]}.",
                hint=f"Send features in the order {', '.join(order)}.",
            )
    return given, explainer


def _ordered(given: Given, order: Sequence[str]) -> Given:
    names = list(given.names)
    if not order:
        raise InvalidInput(
            "several inputs are told apart by their names, and the explainer knows none for its features.",
            hint="Send one input of rows, or give feature_names in explainer.json.",
        )
    missing = [n for n in order if n not in names]
    unknown = [n for n in names if n not in order]
    if missing or unknown:
        said = [f"'{n}' is missing" for n in missing[:1]] + [f"'{n}' is none" for n in unknown[:1]]
        raise InvalidInput(f"the inputs are not the explainer's features: {', '.join(said)}")
    _check_width(given)
    places = [names.index(n) for n in order]
    return Given([i[places] for i in given.instances], tuple(order))


def _check_width(given: Given) -> None:
    for index, instance in enumerate(given.instances):
        if instance.shape != (len(given.names),):
            with numbered(index, len(given.instances)):
                raise InvalidInput(
                    f"there are {len(given.names)} names, and an instance of the shape {list(instance.shape)}"
                )
