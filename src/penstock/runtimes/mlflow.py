"""MLflow models of any flavour, through their `python_function` face.

The model's signature says what it takes: named columns become a data frame of the right dtypes, tensors stay
arrays. The rules for values are MLflow's (integers become doubles, never the reverse; columns the model
does not name are dropped), checked here first, since MLflow's own messages repeat the caller's data.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.runtimes import frames
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, Framework, LoadOptions, Runtime, TensorSpec
from penstock.runtimes.blame import INPUT_CHECKS, raised_in
from penstock.runtimes.loading import (
    ARROW_ENV,
    first_line,
    import_if_installed,
    known_options,
    opening,
    option,
    require,
)
from penstock.runtimes.objects import row_objects

log = logging.getLogger(__name__)

#: V2's datatypes of MLflow's column types. Dates are ISO text; what is nested is JSON text.
_DATATYPES: Final = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
}
_OUTPUT: Final = "predict"
OPTIONS: Final = ("batchable",)


class MlflowRuntime(Runtime):
    """A loaded `PyFuncModel`. Several answers to a row are several outputs, named as the model names them."""

    platform = "mlflow_pyfunc"

    def __init__(self, model: Any, folder: Path, batchable: bool | None = None) -> None:
        import mlflow

        self._model = model
        # MLflow's server never puts requests together, so code of a user's own need not bear it.
        flavour = model.metadata.flavors.get("python_function", {})
        own = flavour.get("loader_module") == "mlflow.pyfunc.model"
        self.batchable = not own if batchable is None else batchable
        self._error = mlflow.exceptions.MlflowException
        signature = model.metadata.signature
        fields = list(signature.inputs.inputs) if signature and signature.inputs else []
        answers = list(signature.outputs.inputs) if signature and signature.outputs else []
        self._params = (
            frozenset(p.name for p in signature.params.params)
            if (signature and signature.params)
            else frozenset[str]()
        )
        self._columns: tuple[_Column, ...] = ()
        self._tensors = bool(fields) and hasattr(fields[0], "shape")
        self._list = False
        if self._tensors:
            self.inputs = tuple(_tensor(f, f"input-{i}") for i, f in enumerate(fields))
        elif len(fields) == 1 and fields[0].name is None:
            # From a type hint, list[str] and its kin: the model takes a plain list.
            self._list = True
            self.inputs = (_Column(fields[0], "input-0").spec,)
        else:
            self._columns = tuple(_Column(f, f"column-{i}") for i, f in enumerate(fields))
            self.inputs = tuple(c.spec for c in self._columns)
        self.outputs = tuple(_output(f, i) for i, f in enumerate(answers))
        self._answer_names = [f.name for f in answers if f.name is not None]
        self._example = self._stored(folder) or self._made_up()

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        data = self._data(inputs)
        params = self._parameters(parameters)
        try:
            answer = (
                self._model.predict(data, params=params) if params else self._model.predict(data)
            )
        except self._error as e:
            if e.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise InvalidInput(f"The model refused the input: {_said(e)}") from e
            raise
        except (ValueError, TypeError) as e:
            if raised_in(e, INPUT_CHECKS):
                raise InvalidInput(f"The model refused the input: {first_line(e)}") from e
            raise
        return self._outputs(answer)

    def example(self) -> Arrays | None:
        return self._example

    def _data(self, inputs: Arrays) -> Any:
        if self._columns:
            return self._frame(inputs)
        if self._tensors:
            if len(self.inputs) == 1 and len(inputs) == 1:
                (array,) = inputs.values()
                array = given.conform(array, self.inputs[0])
            else:
                arrays = given.by_name(inputs, self.inputs)
                return dict(zip((s.name for s in self.inputs), arrays, strict=True))
            named = self._model.metadata.signature.inputs.inputs[0].name
            return {named: array} if named else array
        if self._list:
            _, array = given.only(inputs)
            if array.ndim == 2 and array.shape[1] == 1:
                array = array[:, 0]
            return given.conform(array, self.inputs[0]).tolist()
        # No signature: one nameless array, or one matrix, as it came; else columns.
        if len(inputs) == 1:
            name, array = given.only(inputs)
            if array.ndim != 1 or name in ("", "input-0"):
                return given.decoded(name, array)
        return frames.frame(inputs, list(inputs))

    def _frame(self, inputs: Arrays) -> Any:
        import pandas as pd

        names = [c.spec.name for c in self._columns]
        if len(inputs) == 1:
            name, array = next(iter(inputs.items()))
            if name not in names and array.ndim == 2:
                given.width(name, array, len(names))
                inputs = {n: array[:, i] for i, n in enumerate(names)}
        missing = [c.spec.name for c in self._columns if c.required and c.spec.name not in inputs]
        if missing:
            unknown = [n for n in inputs if n not in names]
            raise InvalidInput(given.names_differ("columns", names, unknown, missing))
        rows = {n: len(inputs[n]) if inputs[n].ndim else -1 for n in names if n in inputs}
        if len(set(rows.values())) > 1 or -1 in rows.values():
            raise InvalidInput(f"Columns differ in their number of rows: {rows}.")
        return pd.DataFrame(
            {
                c.spec.name: c.values(inputs[c.spec.name])
                for c in self._columns
                if c.spec.name in inputs
            }
        )

    def _parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the request's parameters that the signature has; V1 may nest them in `params`."""
        nested = parameters.get("params")
        every = {**parameters, **nested} if isinstance(nested, Mapping) else parameters
        return {k: v for k, v in every.items() if k in self._params}

    def _outputs(self, answer: Any) -> dict[str, Array]:
        if hasattr(answer, "columns") and hasattr(answer, "to_numpy"):
            return {str(c): _array(answer[c].to_numpy()) for c in answer.columns}
        if isinstance(answer, Mapping):
            return {str(k): _value(v) for k, v in answer.items()}
        if isinstance(answer, (list, tuple)) and answer and isinstance(answer[0], Mapping):
            names = self._answer_names
            if names and all(isinstance(a, Mapping) and set(a) == set(names) for a in answer):
                return {n: _values([a[n] for a in answer]) for n in names}
            return {_OUTPUT: row_objects(answer)}
        name = self._answer_names[0] if len(self._answer_names) == 1 else _OUTPUT
        return {name: _values(answer)}

    def _stored(self, folder: Path) -> dict[str, Array] | None:
        """The first row of the example that was saved with the model, where it is a table or a tensor."""
        if self._model.metadata.saved_input_example_info is None:
            return None
        try:
            saved = self._model.metadata.load_input_example(str(folder))
        except (self._error, OSError, ValueError, TypeError) as e:
            log.warning("the saved input example cannot be read: %s", first_line(e))
            return None
        if hasattr(saved, "columns") and hasattr(saved, "iloc"):
            return {
                str(c): np.asarray(saved[c].iloc[:1].tolist(), dtype=_kind(saved[c].iloc[0]))
                for c in saved.columns
            }
        if isinstance(saved, np.ndarray) and saved.ndim and len(self.inputs) <= 1:
            return {self.inputs[0].name if self.inputs else "input-0": saved[:1]}
        return None

    def _made_up(self) -> dict[str, Array] | None:
        if not self.inputs:
            return None
        if self._tensors or self._list:
            return given.zeros(self.inputs)
        if any(c.nested for c in self._columns):
            return None
        return {
            c.spec.name: np.array(["1970-01-01"], dtype=object)
            if c.kind == "datetime"
            else np.zeros(1, given.DTYPES[c.spec.datatype])
            if c.spec.datatype != "BYTES"
            else np.array(["text"], dtype=object)
            for c in self._columns
        }

    def try_example(self) -> None:
        """Keep the example only if the model can answer it: it was made up, so a refusal proves nothing."""
        if self._example is None:
            return
        try:
            answer = self.predict(self._example, {})
        except Exception:  # a user's own predict may raise anything at a made-up row
            log.exception("the example cannot be answered, so readiness is not probed")
            self._example = None
            return
        if not self.outputs or {s.name for s in self.outputs} != set(answer):
            self.outputs = tuple(
                TensorSpec(n, given.datatype_of(a.dtype), (-1, *a.shape[1:]))
                for n, a in answer.items()
                if a.ndim
            )


class _Column:
    """One column of a signature and how its values are made."""

    def __init__(self, field: Any, fallback: str) -> None:
        name = field.name if field.name is not None else fallback
        self.kind = getattr(field.type, "name", None)
        self.nested = self.kind not in _DATATYPES
        self.required = bool(getattr(field, "required", True))
        datatype = _DATATYPES.get(str(self.kind), "BYTES")
        self.spec = TensorSpec(str(name), datatype, (-1,), strict=not self.nested)

    def values(self, array: Array) -> Any:
        import pandas as pd

        name = self.spec.name
        if self.nested:
            return [_parsed(name, v) for v in array.tolist()]
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise InvalidInput(
                f"Column {name!r} has shape {list(array.shape)}; [-1] or [-1, 1] is expected."
            )
        if self.kind == "binary":
            return [v.encode() if isinstance(v, str) else v for v in array.tolist()]
        if self.spec.datatype == "BYTES":
            texts = frames.series(given.decoded(name, array))
            kinds = (str, datetime.datetime) if self.kind == "datetime" else (str,)
            if not all(v is None or isinstance(v, kinds) for v in texts.tolist() if v == v):
                raise InvalidInput(f"Column {name!r} has values that are no text.")
            if self.kind == "datetime":
                try:
                    return pd.to_datetime(texts)
                except (ValueError, TypeError) as e:
                    raise InvalidInput(f"Column {name!r} has values that are no dates.") from e
            return texts
        if array.dtype.kind == "O" and self.spec.datatype.startswith("FP"):
            array = given.numeric(name, array)
        return given.cast(name, array, given.DTYPES[self.spec.datatype])


def load(path: Path, options: LoadOptions) -> Runtime:
    """The MLflow model in the folder `path` (the one with the file `MLmodel`).

    Options: `batchable`: whether requests may share a call; false where nothing is said for a class of the
    user's own, which MLflow's server asks for one request at a time.
    """
    known_options(options, OPTIONS)
    folder = path.parent if path.name == "MLmodel" else path
    if not (folder / "MLmodel").is_file():
        if not folder.is_dir():
            raise LoadError(f"There is no MLflow model at {path}.")
        found = given.listed(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise LoadError(f"There is no file MLmodel in the model's folder. Found: {found}.")
    require(framework)
    import mlflow.pyfunc

    with opening(folder / "MLmodel", "an MLflow model"):
        runtime = MlflowRuntime(
            mlflow.pyfunc.load_model(str(folder)), folder, option(options, "batchable", bool)
        )
        runtime.try_example()
    return runtime


def _tensor(field: Any, fallback: str) -> TensorSpec:
    shape = tuple(int(n) for n in field.shape)
    return TensorSpec(field.name or fallback, given.datatype_of(field.type), shape)


def _output(field: Any, index: int) -> TensorSpec:
    name = field.name if field.name is not None else (_OUTPUT if index == 0 else f"output-{index}")
    if hasattr(field, "shape"):
        return TensorSpec(name, given.datatype_of(field.type), tuple(int(n) for n in field.shape))
    return TensorSpec(name, _DATATYPES.get(getattr(field.type, "name", ""), "BYTES"), (-1,))


def _value(value: Any) -> Array:
    """One of several answers: a list of rows, or a single value, which has no rows."""
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        kind = None if isinstance(value, bool | int | float | np.number | np.bool_) else object
        return np.array(value, dtype=kind)
    return _values(value)


def _values(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return _array(value)
    if hasattr(value, "toarray"):
        return _array(value.toarray())
    if hasattr(value, "to_numpy"):
        return _array(value.to_numpy())
    if isinstance(value, (list, tuple)):
        if all(isinstance(v, (bool, np.bool_)) for v in value) or all(
            isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in value
        ):
            return _array(np.asarray(value))
        try:
            array = np.asarray(value)
        except ValueError:  # ragged
            return row_objects(value)
        return array if array.dtype.kind in "fiub" else row_objects(value)
    return row_objects([value])


def _array(array: Array) -> Array:
    kind = array.dtype.kind
    if kind in "fiub":
        return array
    if kind in "US":
        return array.astype(object)
    if kind == "M":
        return np.datetime_as_string(array).astype(object)
    if kind == "O":
        return row_objects(list(array)) if array.ndim == 1 else array
    raise ModelError(f"The model answered values of numpy's type {array.dtype}.")


def _kind(value: Any) -> Any:
    return object if isinstance(value, (str, bytes, list, dict)) or value is None else None


def _parsed(name: str, value: Any) -> Any:
    """A nested value: JSON text from a V2 tensor, or the list that V1 had."""
    if isinstance(value, (str, bytes)):
        try:
            return json.loads(value)
        except ValueError:
            raise InvalidInput(f"Column {name!r} has text that is no JSON.") from None
    return value


def _said(e: Exception) -> str:
    """MLflow's sentence, without the data that it repeats."""
    text = str(e)
    _, found, error = text.rpartition("Error: ")
    return " ".join((error if found else text.splitlines()[0]).split())[:300]


def warm() -> None:
    """Share the flavour that most models have, where it is installed."""
    # MLflow writes scikit-learn models as skops, whose import takes in all of scikit-learn: 2 s, 240 MB.
    import_if_installed("sklearn", "mlflow.sklearn", "skops.io")
    # At each load MLflow compares requirements with a table of installed packages: 1 s and 25 MB, once.
    from mlflow.utils import requirements_utils

    table = getattr(requirements_utils, "_init_packages_to_modules_map", None)
    if table is not None:
        table()


framework = Framework(
    name="mlflow",
    extra="mlflow",
    preload=("mlflow", "mlflow.pyfunc", "pandas"),
    load=load,
    formats=("mlflow",),
    uses_devices=True,
    warm=warm,
    # MLflow 3.2 and later report their use to a server unless told not to.
    env={**ARROW_ENV, "MLFLOW_DISABLE_TELEMETRY": "true"},
)
