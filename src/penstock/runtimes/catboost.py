"""CatBoost models (`.cbm`, its JSON, or a pickle), with categorical and text columns as strings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, Framework, LoadOptions, Runtime, TensorSpec
from penstock.runtimes.loading import (
    ARROW_ENV,
    PICKLES,
    choice,
    first_line,
    known_options,
    model_file,
    opening,
    require,
    suffix_of,
)

SUFFIXES: Final = (".cbm", ".json")
METHODS: Final = ("predict", "predict_proba", "predict_log_proba", "raw")
_CLASSIFIERS: Final = frozenset(
    ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy")
)  # fmt: skip


class CatboostRuntime(Runtime):
    """A CatBoost classifier (answers labels) or regressor (answers values)."""

    platform = "catboost_cbm"

    def __init__(self, model: Any, method: str, threads: int) -> None:
        import catboost

        self._model = self.native = model
        self._method = method
        self._error = catboost.CatBoostError
        self._threads = max(1, threads)
        self._names = tuple(model.feature_names_)
        self._words = frozenset(model.get_cat_feature_indices())
        self._texts = frozenset(model.get_text_feature_indices())
        if model.get_embedding_feature_indices():
            raise LoadError("Embedding columns of CatBoost models are not supported.")
        self._plain = not self._words and not self._texts
        self.inputs = self._declared_inputs()
        self._example = self._made_up()
        answer = self.predict(self._example, {})[method]
        self.outputs = (
            TensorSpec(method, given.datatype_of(answer.dtype), (-1, *answer.shape[1:])),
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        x = self._floats(inputs) if self._plain else self._rows(inputs)
        try:
            if self._method == "raw":
                y = self._model.predict(
                    x, prediction_type="RawFormulaVal", thread_count=self._threads
                )
            else:
                y = getattr(self._model, self._method)(x, thread_count=self._threads)
        except (self._error, ValueError, TypeError) as e:
            raise InvalidInput(f"The model refused the input: {_said(e)}") from e
        y = np.asarray(y)
        return {self._method: y.astype(object) if y.dtype.kind in "US" else y}

    def example(self) -> Arrays | None:
        return self._example

    def _floats(self, inputs: Arrays) -> Array:
        return given.matrix(inputs, len(self._names), self._names)

    def _rows(self, inputs: Arrays) -> Array:
        """One object matrix: text and whole numbers where the model has categories, else floats."""
        name, array = next(iter(inputs.items()), ("", np.zeros(0)))
        if len(inputs) == 1 and (name not in self._names or array.ndim == 2):
            array = given.decoded(name, given.width(name, array, len(self._names)))
            columns = [array[:, i] for i in range(len(self._names))]
        else:
            by_name = given.columns(inputs, self._names)
            columns = [given.decoded(n, by_name[n]) for n in self._names]
        out = np.empty((len(columns[0]), len(columns)), dtype=object)
        for i, (name, column) in enumerate(zip(self._names, columns, strict=True)):
            if i in self._words:
                out[:, i] = [_word(name, v) for v in column.tolist()]
            elif i in self._texts:
                out[:, i] = given.text(name, column)
            else:
                out[:, i] = given.numeric(name, column)
        return out

    def _declared_inputs(self) -> tuple[TensorSpec, ...]:
        if self._plain:
            return (TensorSpec("input-0", "FP32", (-1, len(self._names))),)
        text = self._words | self._texts
        return tuple(
            TensorSpec(n, "BYTES" if i in text else "FP32", (-1,), strict=i not in self._words)
            for i, n in enumerate(self._names)
        )

    def _made_up(self) -> dict[str, Array]:
        if self._plain:
            return {"input-0": np.zeros((1, len(self._names)), np.float32)}
        text = self._words | self._texts
        # Categories that training never saw are valid.
        return {
            n: np.array(["text"], dtype=object) if i in text else np.zeros(1)
            for i, n in enumerate(self._names)
        }


def load(path: Path, options: LoadOptions) -> Runtime:
    """The model, or the scikit-learn estimator around one, in the one model file at `path`."""
    known_options(options, ("file", "method"))
    file = model_file(path, (*SUFFIXES, *PICKLES), options)
    require(framework)
    import catboost

    if suffix_of(file) in PICKLES:
        from penstock.runtimes.sklearn import load_pickle, runtime_of

        model = load_pickle(file)
        if not isinstance(model, catboost.CatBoost):
            return runtime_of(model, file, options, "catboost_pickle")
        if not model.is_fitted():
            raise LoadError(f"The {type(model).__name__} in {file.name} is not fitted.")
    else:
        model = _read(file)
    method = choice(options, "method", METHODS, "predict")
    with opening(file, "a CatBoost model"):
        if method.startswith("predict_") and not hasattr(model, method):
            raise LoadError(
                f"The model in {file.name} is no classifier: it has no {method}.",
                hint="Choose 'predict' or 'raw' with the option 'method'.",
            )
        return CatboostRuntime(model, method, options.threads)


def _read(file: Path) -> Any:
    """The model in a file of CatBoost's own; a classifier if it was trained as one."""
    import catboost

    form = "json" if file.suffix.lower() == ".json" else "cbm"
    with opening(file, "a CatBoost model"):
        try:
            model = catboost.CatBoost().load_model(str(file), format=form)
            loss = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
            if loss in _CLASSIFIERS or len(model.classes_):
                model = catboost.CatBoostClassifier().load_model(str(file), format=form)
        except catboost.CatBoostError as e:
            raise LoadError(f"{file.name} cannot be loaded as a CatBoost model: {_said(e)}") from e
    return model


def _word(name: str, value: Any) -> str | int:
    """A category as CatBoost takes it; JSON and mixed matrices may have made a float of an integer."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (str, int)):
        return value
    raise InvalidInput(
        f"Column {name!r} is categorical: text or whole numbers are expected, not {value!r}."
    )


def _said(e: Exception) -> str:
    """CatBoost's sentence without its source file."""
    line = first_line(e)
    head, colon, rest = line.partition("cpp:")
    if not colon:
        head, colon, rest = line.partition(".h:")
    return rest.partition(": ")[2] or line if colon and head else line


framework = Framework(
    name="catboost",
    extra="catboost",
    preload=("catboost",),
    load=load,
    formats=("catboost",),
    env=ARROW_ENV,
)
