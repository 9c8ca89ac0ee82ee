"""scikit-learn, and everything that is called like it: joblib, pickle and skops files.

What a model wants is read off the fitted estimator: a matrix of so many features, a data frame with named
columns, or a list of texts. Input that does not fit is refused before the model sees it.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.runtimes import frames
from penstock.runtimes import inputs as given
from penstock.runtimes.base import (
    ASKED,
    Array,
    Arrays,
    Framework,
    LoadOptions,
    Runtime,
    TensorSpec,
)
from penstock.runtimes.blame import INPUT_CHECKS, raised_in
from penstock.runtimes.loading import (
    ARROW_ENV,
    PICKLES,
    choice,
    first_line,
    known_options,
    model_file,
    opening,
    option,
    require,
    suffix_of,
)

log = logging.getLogger(__name__)


SUFFIXES: Final = (*PICKLES, ".skops")
METHODS: Final = (
    "predict",
    "predict_proba",
    "decision_function",
    "transform",
    "score_samples",
    "predict_log_proba",
)


class SklearnRuntime(Runtime):
    """One fitted estimator and the method of it that answers requests.

    The only output has the method's name; a V2 request may ask for other methods' by theirs. A multi-output
    `predict_proba` answers one output per target, `predict_proba_0` and so on.
    """

    def __init__(self, model: Any, method: str, platform: str) -> None:
        from penstock.runtimes.sklearn_linear import shortcut

        self.platform = platform
        self._model = self.native = model
        self._method = method
        self._call: Callable[[Any], Any] = getattr(model, method)
        self._columns = _names(model)
        self._features = _features(model)
        self._texts = _is_vectorizer(_first_step(model))
        self._fast = shortcut(model, method) if self._features else None
        self.inputs = self._declared_inputs()
        self._example: Arrays | None = self._made_up()
        self._learn_outputs()

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        if parameters:
            asked = parameters.get(ASKED)
            if type(asked) is tuple:  # made here: what a client sends is none
                return self._asked(inputs, asked)
        if len(inputs) == 1 and not self._texts:
            (x,) = inputs.values()
            if x.ndim == 2 and x.shape[1] == self._features and x.shape[0]:
                if self._fast is not None:
                    y = self._fast(x)
                    if y is not None:
                        return {self._method: y}
                if self._columns is None and x.dtype.kind in "fiub":
                    return self._answer(x)
        return self._answer(self._accept(inputs))

    def on_demand(self) -> frozenset[str]:
        return self._others

    @cached_property
    def _others(self) -> frozenset[str]:
        # Not at load: asking a model costs a forked process memory, which few requests ever need.
        return frozenset(
            m for m in METHODS if m != self._method and callable(getattr(self._model, m, None))
        )

    def _asked(self, inputs: Arrays, names: Sequence[str]) -> Arrays:
        """The answers of several methods to the same rows."""
        for name in names:
            if name != self._method and name not in self.on_demand():
                known = given.listed([self._method, *sorted(self.on_demand())])
                raise InvalidInput(f"The model has no output {str(name)[:80]!r}; it has {known}.")
        x = self._accept(inputs)
        found: dict[str, Array] = {}
        for name in names:
            found |= self._answer(x, name)
        return found

    def example(self) -> Arrays | None:
        return self._example

    def _accept(self, inputs: Arrays) -> Any:
        """What the model is to be called with; InvalidInput when it cannot be made of `inputs`."""
        if self._columns is not None:
            return frames.frame(inputs, self._columns)
        name, array = given.only(inputs)
        if self._texts:
            if array.ndim == 2 and array.shape[1] == 1:
                array = array[:, 0]
            if array.ndim != 1:
                raise InvalidInput(
                    f"{given.shown(name)} has shape {list(array.shape)}; the model expects one text a "
                    "row: [-1]."
                )
            if array.shape[0] == 0:
                raise InvalidInput("The request has no rows; at least one is needed.")
            return given.text(name, array)
        array = given.width(name, array, self._features)
        return given.decoded(name, array)

    def _answer(self, x: Any, method: str = "") -> Arrays:
        method = method or self._method
        try:
            y = self._call(x) if method == self._method else getattr(self._model, method)(x)
        except (ValueError, TypeError) as e:
            if "Buffer dtype mismatch" in str(e) and x.dtype != np.float64:
                # KMeans and its kin, trained on doubles, cannot take single floats.
                return self._answer(x.astype(np.float64), method)
            if raised_in(e, INPUT_CHECKS):
                raise InvalidInput(f"The model refused the input: {first_line(e)}") from e
            raise
        if type(y) is np.ndarray and y.dtype.kind in "fiub":
            return {method: y}
        if isinstance(y, list) and y and all(isinstance(part, np.ndarray) for part in y):
            return {f"{method}_{i}": part for i, part in enumerate(y)}
        return {method: _dense(y)}

    def _declared_inputs(self) -> tuple[TensorSpec, ...]:
        if self._texts:
            return (TensorSpec("input-0", "BYTES", (-1,)),)
        if self._columns is not None:
            samples = frames.samples(self._model)
            return tuple(
                frames.column(name, samples.get(i)) for i, name in enumerate(self._columns)
            )
        if self._features is None:
            return ()
        # A matrix for a ColumnTransformer may have text in it.
        strict = not frames.samples(self._model)
        return (TensorSpec("input-0", "FP64", (-1, self._features), strict),)

    def _made_up(self) -> Arrays | None:
        if self._texts:
            return {"input-0": np.array(["text"], dtype=object)}
        if self._features is None:
            return None
        samples = frames.samples(self._model)
        row = [samples.get(i, 0.0) for i in range(self._features)]
        if self._columns is not None:
            return {
                name: np.array([value], dtype=object if isinstance(value, str) else None)
                for name, value in zip(self._columns, row, strict=True)
            }
        if any(isinstance(value, str) for value in row):
            return {"input-0": np.array([row], dtype=object)}
        return {"input-0": np.array([row], dtype=np.float64)}

    def _learn_outputs(self) -> None:
        """Declare the outputs as the example's answer shows them."""
        if self._example is None:
            return
        try:
            answer = self.predict(self._example, {})
            self.outputs = tuple(
                TensorSpec(name, given.datatype_of(a.dtype), (-1, *a.shape[1:]))
                for name, a in answer.items()
            )
        except InvalidInput as e:
            # A row of zeros need not be a valid one; then nothing is known, and nothing is probed.
            log.info("no example can be made up for %s: %s", type(self._model).__name__, e)
            self._example = None
        except Exception:  # the model's own fault: the readiness probe will meet and report it
            log.exception("the made-up example fails")


def load(path: Path, options: LoadOptions) -> Runtime:
    """The estimator in the one model file at `path`."""
    known_options(options, ("file", "method", "trusted"))
    choice(options, "method", METHODS, "predict")
    file = model_file(path, SUFFIXES, options)
    require(framework)
    if file.suffix.lower() == ".skops":
        model, platform = _load_skops(file, options), "sklearn_skops"
    else:
        model = load_pickle(file)
        platform = "sklearn_joblib" if suffix_of(file) == ".joblib" else "sklearn_pickle"
    return runtime_of(model, file, options, platform)


def runtime_of(model: Any, file: Path, options: LoadOptions, platform: str) -> Runtime:
    """The runtime of an estimator that was read from `file`."""
    method = choice(options, "method", METHODS, "predict")
    if not callable(getattr(model, method, None)):
        have = [m for m in METHODS if callable(getattr(model, m, None))]
        if not have:
            raise LoadError(
                f"{file.name} holds a {type(model).__name__}, which has no predict method."
            )
        raise LoadError(
            f"The {type(model).__name__} in {file.name} has no {method}.",
            hint=f"Choose another with the option 'method': {', '.join(have)}.",
        )
    _limit_jobs(model, options.threads)
    with opening(file, "a fitted scikit-learn model"):
        _check_fitted(model)
        return SklearnRuntime(model, method, platform)


def load_pickle(file: Path) -> Any:
    """What a joblib or pickle file holds. Its code runs here, in the model's own process only."""
    import joblib

    with opening(file, "a joblib or pickle file", _pickle_fault):
        return joblib.load(file)


def _pickle_fault(e: BaseException) -> str:
    """What unpickling raised, in the words of whoever wrote the file."""
    if isinstance(e, KeyError) and e.args and isinstance(e.args[0], int):
        return "it is no pickle, or is damaged"  # joblib looks its operations up by their byte
    if isinstance(e, EOFError):
        return "it is cut short"
    lacking = _LACKING.match(str(e)) if isinstance(e, AttributeError) else None
    if lacking is None:
        return first_line(e)
    name, module = (lacking["name"] or lacking["attribute"]), (lacking["of"] or lacking["module"])
    if module == "__main__" or repr(sys.modules["__main__"]).startswith(f"<module '{module}'"):
        return (
            f"it needs {name}, which was defined in the script or notebook that wrote it. Define {name} in a "
            "module that can be installed here, import it from there and write the file anew; or serve a "
            "class of your own"
        )
    return (
        f"it needs {name} of the module {module}, which the version that is installed here has not"
    )


#: As pickle's newer protocols say it, and as its older ones do.
_LACKING: Final = re.compile(
    r"Can't get attribute '(?P<name>.{1,80}?)' on <module '(?P<of>.{1,80}?)'"
    r"|[Mm]odule '(?P<module>[^']{1,80})' has no attribute '(?P<attribute>[^']{1,80})'"
)


def _load_skops(file: Path, options: LoadOptions) -> Any:
    from skops import io

    trusted = option(options, "trusted", list, [])
    with opening(file, "a skops file"):
        untrusted = sorted(set(io.get_untrusted_types(file=file)) - set(trusted))
        if untrusted:
            raise LoadError(
                f"{file.name} has types that are not known to be safe: {', '.join(untrusted)}.",
                hint="List those you trust in the option 'trusted'.",
            )
        return io.load(file, trusted=trusted)


def _check_fitted(model: Any) -> None:
    # As scikit-learn sees it in the end; its own way there costs a forked process 0.2 MB.
    if not hasattr(model, "__sklearn_is_fitted__") and any(
        name.endswith("_") and not name.startswith("__") for name in getattr(model, "__dict__", ())
    ):
        return
    from sklearn.base import BaseEstimator
    from sklearn.utils.validation import check_is_fitted

    # A Pipeline asks its last step only, and that is the one which answers.
    if isinstance(model, BaseEstimator):
        check_is_fitted(model)


def _features(model: Any) -> int | None:
    n = getattr(model, "n_features_in_", None)
    return int(n) if isinstance(n, (int, np.integer)) else None


def _names(model: Any) -> tuple[str, ...] | None:
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else tuple(str(n) for n in names)


def _first_step(model: Any) -> Any:
    while True:
        steps = getattr(model, "steps", None)
        if not isinstance(steps, list) or not steps:
            return model
        model = steps[0][1]


def _is_vectorizer(step: Any) -> bool:
    return (
        callable(getattr(step, "build_analyzer", None)) and getattr(step, "input", "") == "content"
    )


def _limit_jobs(model: Any, threads: int) -> None:
    """Set `n_jobs` to this replica's share wherever training asked for more than one."""
    seen: set[int] = set()
    stack = [model]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (list, tuple)):
            stack += [
                part for part in item[:64] if hasattr(part, "__dict__") or type(part) is tuple
            ]
        elif hasattr(item, "get_params"):
            state = vars(item)
            if state.get("n_jobs") not in (None, 1):
                item.n_jobs = threads if threads > 1 else None
            stack += [
                v for v in state.values() if hasattr(v, "get_params") or type(v) in (list, tuple)
            ]


def _dense(y: Any) -> Array:
    """Anything an estimator answers as one array; text as an object array."""
    if hasattr(y, "toarray"):
        y = y.toarray()
    elif hasattr(y, "to_numpy"):
        y = y.to_numpy()
    array = np.asarray(y)
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype.kind not in "fiubO":
        raise ModelError(f"The model answered values of numpy's type {array.dtype}.")
    return array


def warm() -> None:
    """Keep and load small models: what is imported, built and learnt on first use is shared."""
    from penstock.runtimes import sklearn_linear

    sklearn_linear.learn()
    rehearse()


def rehearse() -> None:
    """Load and ask a small model, by the shortcut and by its own way."""
    import joblib

    model = _small_model()
    with tempfile.TemporaryDirectory(prefix="pen-") as folder:
        joblib.dump(model, Path(folder) / "model.joblib")
        load(Path(folder), LoadOptions(name="m"))
    model.predict(_POINTS)
    model.predict_proba(_POINTS)


_POINTS: Final = np.arange(12, dtype=np.float64).reshape(6, 2)


def _small_model() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(_POINTS, np.array([0, 0, 1, 1, 2, 2]))


framework = Framework(
    name="sklearn",
    extra="sklearn",
    preload=(
        "sklearn",
        "joblib",
        "pandas",
        "sklearn.linear_model",
        "sklearn.ensemble",
        "sklearn.pipeline",
        "sklearn.preprocessing",
        "sklearn.compose",
        "sklearn.impute",
        "sklearn.svm",
        "sklearn.neighbors",
        "sklearn.feature_extraction.text",
        "penstock.runtimes.sklearn_linear",
        "penstock.runtimes.frames",
    ),
    load=load,
    formats=("sklearn",),
    warm=warm,
    rehearse=rehearse,
    env=ARROW_ENV,
)
