"""TensorFlow SavedModels: the signatures of one folder, with their named inputs and outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from penstock.errors import InvalidInput, LoadError
from penstock.protocols.tfserving import CLASSES, EXAMPLES_INPUT, SCORES, VALUES
from penstock.runtimes import accelerators
from penstock.runtimes import inputs as given
from penstock.runtimes.base import (
    Array,
    Arrays,
    Framework,
    LoadOptions,
    Runtime,
    Signature,
    TensorSpec,
)
from penstock.runtimes.loading import ARROW_ENV, known_options, opening, option, require

log = logging.getLogger(__name__)

_DEFAULT: Final = "serving_default"
_MARKERS: Final = ("saved_model.pb", "saved_model.pbtxt")
_DATATYPES: Final = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
}


class _Function:
    """One signature, callable with arrays."""

    def __init__(self, tf: Any, function: Any, name: str) -> None:
        self._tf = tf
        self.call = function
        _, keywords = function.structured_input_signature
        outputs = function.structured_outputs
        if not keywords:
            raise LoadError(f"The signature {name!r} takes no tensors.")
        inputs = tuple(_spec(n, t) for n, t in sorted(keywords.items()))
        self.signature = Signature(
            name,
            inputs,
            tuple(_spec(n, t) for n, t in outputs.items()),
            _method(inputs, outputs),
        )
        self._dtypes = [keywords[s.name].dtype for s in inputs]
        #: Tensors of any rank, which a shape cannot declare.
        self.any_rank = frozenset(n for n, t in keywords.items() if t.shape.rank is None)
        axes = [t.shape for t in (*keywords.values(), *outputs.values())]
        self.batchable = all(s.rank is None or (s.rank > 0 and s[0] is None) for s in axes)
        self._errors = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)

    def __call__(self, inputs: Arrays) -> Arrays:
        specs = self.signature.inputs
        arrays = self._any(inputs) if self.any_rank else given.by_name(inputs, specs, binary=True)
        constant = self._tf.constant
        tensors = {
            spec.name: constant(array, dtype=dtype)
            for spec, array, dtype in zip(specs, arrays, self._dtypes, strict=True)
        }
        try:
            answer = self.call(**tensors)
        except self._errors as e:
            raise InvalidInput(f"The model refused the input: {_said(e)}") from e
        return {n: _array(t) for n, t in answer.items()}

    def _any(self, inputs: Arrays) -> list[Array]:
        """As `by_name`, with the rank of the request where the signature leaves it open."""
        specs = []
        for spec in self.signature.inputs:
            array = inputs.get(spec.name)
            if array is None and len(inputs) == len(self.signature.inputs) == 1:
                array = next(iter(inputs.values()))
            if array is not None and spec.name in self.any_rank:
                spec = TensorSpec(spec.name, spec.datatype, array.shape)
            specs.append(spec)
        return given.by_name(inputs, specs, binary=True)


class TensorflowRuntime(Runtime):
    """A SavedModel's signatures, one of them for requests that name none.

    Batchable when axis 0 of every input and output of that one is open; then the others have to be, too.
    """

    platform = "tensorflow_savedmodel"
    reentrant = True

    def __init__(self, model: Any, name: str) -> None:
        import tensorflow as tf

        # The model owns the variables that the signatures' functions refer to.
        self._model = model
        self._default = _Function(tf, model.signatures[name], name)
        self.native = self._default.call
        self.inputs = self._default.signature.inputs
        self.outputs = self._default.signature.outputs
        self.batchable = self._default.batchable
        self._functions = {name: self._default, **self._others(tf)}
        self.signatures = {n: f.signature for n, f in self._functions.items()}
        self._example = None if self._default.any_rank else given.zeros(self.inputs)

    def _others(self, tf: Any) -> dict[str, _Function]:
        """The signatures that can be served beside the default one."""
        found: dict[str, _Function] = {}
        for name, function in sorted(self._model.signatures.items()):
            if name == self._default.signature.name:
                continue
            try:
                other = _Function(tf, function, name)
            except LoadError as error:
                log.info("the signature %s is not served: %s", name, error)
                continue
            if other.batchable or not self.batchable:
                found[name] = other
            else:
                log.info("the signature %s is not served beside one that has a batch axis", name)
        return found

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        if parameters:
            name = parameters.get("signature_name")
            if name:
                function = self._functions.get(name) if isinstance(name, str) else None
                if function is None:
                    raise InvalidInput(
                        "The model has no such signature.",
                        hint=f"Its signatures are {given.listed(self._functions)}.",
                    )
                return function(inputs)
        return self._default(inputs)

    def example(self) -> Arrays | None:
        return self._example


def _method(
    inputs: tuple[TensorSpec, ...], outputs: Mapping[str, Any]
) -> Literal["predict", "classify", "regress"]:
    """What a signature's tensors make it, as TensorFlow Serving checks it: what takes serialized examples
    has one input of text, and answers classes and scores, or values.
    """
    texts = len(inputs) == 1 and inputs[0].datatype == "BYTES" and len(inputs[0].shape) == 1
    if not texts or inputs[0].name != EXAMPLES_INPUT:
        return "predict"
    if outputs and set(outputs) <= {CLASSES, SCORES}:
        return "classify"
    (only,) = outputs if len(outputs) == 1 else ("",)
    if only == VALUES and outputs[only].dtype.name == "float32":
        return "regress"
    return "predict"


def load(path: Path, options: LoadOptions) -> Runtime:
    """The SavedModel in the folder `path`.

    Options: `signature`: which one, `serving_default` else; `file`: a folder inside of `path`.
    """
    known_options(options, ("signature", "file"))
    inner = option(options, "file", str)
    folder = _folder(path / inner if inner is not None else path)
    require(framework)
    import tensorflow as tf

    accelerators.tensorflow_devices(tf, options)
    with opening(folder, "a TensorFlow SavedModel"):
        model = tf.saved_model.load(str(folder))
        signatures = sorted(getattr(model, "signatures", {}))
        name = option(options, "signature", str)
        if name is None:
            name = signatures[0] if len(signatures) == 1 else _DEFAULT
        if name not in signatures:
            have = given.listed(signatures) or "none"
            hint = (
                "Choose one with the option 'signature'."
                if signatures
                else "Save it with signatures: model.export(FOLDER) does for Keras, and "
                "tf.saved_model.save(module, FOLDER, signatures=...) for others."
            )
            raise LoadError(f"The SavedModel has no signature {name!r}; it has {have}.", hint=hint)
        return TensorflowRuntime(model, name)


def _folder(path: Path) -> Path:
    if not path.exists():
        raise LoadError(f"There is no model at {path}.")
    folder = path.parent if path.name in _MARKERS else path
    if folder.is_dir() and any((folder / m).is_file() for m in _MARKERS):
        return folder
    if path.suffix in (".keras", ".h5") or any(folder.glob("*.keras")) or any(folder.glob("*.h5")):
        raise LoadError(
            "A Keras file is no SavedModel.", hint="Write one with model.export(FOLDER)."
        )
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else [path.name]
    found = f"Found: {given.listed(names)}." if names else "The folder is empty."
    raise LoadError(f"There is no saved_model.pb in the model's folder. {found}")


def _spec(name: str, tensor: Any) -> TensorSpec:
    datatype = _DATATYPES.get(tensor.dtype.name)
    if datatype is None:
        raise LoadError(f"Tensor {name!r} has type {tensor.dtype.name}, which is not served.")
    if tensor.shape.rank is None:
        return TensorSpec(name, datatype, (-1,))
    return TensorSpec(name, datatype, tuple(-1 if n is None else int(n) for n in tensor.shape))


def _array(tensor: Any) -> Array:
    value = tensor.numpy()
    if not isinstance(value, np.ndarray):  # a 0-d string tensor
        return np.array(value, dtype=object)
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value


def _said(e: Exception) -> str:
    """TensorFlow's sentence, without the graph's node names around it."""
    for line in str(e).splitlines():
        text = line.strip()
        if text and not text.startswith(
            ("Graph execution error", "Detected at", "<stack", "[[", "File ", "node:")
        ):
            return text.partition(" [Op:")[0][:300]
    return type(e).__name__


def set_threads(threads: int) -> None:
    """TensorFlow's pools; they are made with the first operation, and stay."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(max(1, threads))
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return  # the pools are there already


framework = Framework(
    name="tensorflow",
    extra="tensorflow",
    preload=("tensorflow", "tensorflow.python.saved_model.load"),
    load=load,
    formats=("tensorflow",),
    uses_devices=True,
    set_threads=set_threads,
    env={**ARROW_ENV, "TF_CPP_MIN_LOG_LEVEL": "2"},
)
