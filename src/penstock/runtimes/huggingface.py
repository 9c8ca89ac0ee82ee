"""Hugging Face pipelines over text, from a local folder; nothing is fetched from a hub.

Rows are texts, answers are what the pipeline answers for each: JSON-able objects. The task is read off the
model's `config.json` unless the option `task` names it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.runtimes import accelerators
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, Framework, LoadOptions, Runtime, TensorSpec
from penstock.runtimes.blame import passed_through, raised_in
from penstock.runtimes.loading import (
    ARROW_ENV,
    first_line,
    known_options,
    opening,
    option,
    require,
)
from penstock.runtimes.objects import row_objects
from penstock.runtimes.torch import set_threads

#: Tasks that take a text, and the parameters that a request may set for each.
TASKS: Final[Mapping[str, frozenset[str]]] = {
    "text-classification": frozenset(("top_k", "function_to_apply")),
    "token-classification": frozenset(("aggregation_strategy", "ignore_labels", "stride")),
    "fill-mask": frozenset(("top_k", "targets")),
    "feature-extraction": frozenset(),
    "zero-shot-classification": frozenset(
        ("candidate_labels", "multi_label", "hypothesis_template")
    ),
    "text-generation": frozenset(
        (
            "max_new_tokens", "min_new_tokens", "max_length", "temperature", "top_k", "top_p",
            "do_sample", "num_beams", "repetition_penalty", "num_return_sequences",
            "return_full_text",
        )
    ),
    "text2text-generation": frozenset(("max_new_tokens", "max_length", "do_sample", "num_beams")),
    "summarization": frozenset(("max_new_tokens", "max_length", "min_length", "do_sample")),
    "translation": frozenset(("max_new_tokens", "max_length", "src_lang", "tgt_lang")),
}  # fmt: skip
_ALIASES: Final = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
_ARCHITECTURES: Final = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForMaskedLM", "fill-mask"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("ForConditionalGeneration", "text2text-generation"),
)
_TOKENIZERS: Final = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
)
#: Of transformers' own formats; a checkpoint in pieces has these endings too.
_WEIGHTS: Final = ("*.safetensors", "*.bin")
_GENERATES: Final = frozenset(("text-generation", "text2text-generation", "summarization"))
OPTIONS: Final = ("task", "device", "batchSize", "parameters", "pooling", "trustRemoteCode")
_INPUT: Final = "text"
_OUTPUT: Final = "output"


class HuggingfaceRuntime(Runtime):
    """One pipeline. With the option `pooling`, feature extraction answers one FP32 vector a row."""

    def __init__(
        self,
        pipeline: Any,
        task: str,
        defaults: Mapping[str, Any],
        batch_size: int,
        pooling: str | None,
    ) -> None:
        self._pipeline = pipeline
        self._task = task
        self._allowed = TASKS[task]
        self._defaults = dict(defaults)
        self._batch_size = batch_size
        self._pooling = pooling
        self.platform = f"huggingface_{task}"
        self.inputs = (TensorSpec(_INPUT, "BYTES", (-1,)),)
        self._probe = np.array([self._sample()], dtype=object)
        self.outputs = (TensorSpec(_OUTPUT, "BYTES", (-1,)),)
        if pooling:
            width = getattr(pipeline.model.config, "hidden_size", -1)
            self.outputs = (TensorSpec(_OUTPUT, "FP32", (-1, int(width))),)

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        name, array = given.only(inputs)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise InvalidInput(
                f"{given.shown(name)} has shape {list(array.shape)}; one text a row is expected: [-1]."
            )
        texts: list[str] = given.text(name, array).tolist()
        if not texts:
            raise InvalidInput("The request has no rows; at least one is needed.")
        asked = {k: v for k, v in parameters.items() if k in self._allowed}
        keywords = {**self._defaults, **asked}
        if array is self._probe and self._task in _GENERATES:
            keywords["max_new_tokens"] = 1  # readiness needs no essay
        if self._task == "zero-shot-classification" and not keywords.get("candidate_labels"):
            raise InvalidInput("The parameter 'candidate_labels' is needed: a list of labels.")
        try:
            answer = self._pipeline(texts, batch_size=self._batch_size, **keywords)
        except Exception as e:
            raise self._blamed(e, texts, asked) from e
        rows = _rows(answer, len(texts))
        if len(rows) != len(texts):
            raise ModelError(f"The pipeline answered {len(rows)} rows for {len(texts)} texts.")
        if self._pooling:
            return {_OUTPUT: np.stack([_pooled(r, self._pooling) for r in rows])}
        return {_OUTPUT: row_objects(rows)}

    def example(self) -> Arrays | None:
        if self._task == "zero-shot-classification" and not self._defaults.get("candidate_labels"):
            return None
        return {_INPUT: self._probe}

    def _sample(self) -> str:
        if self._task == "fill-mask":
            mask: str = self._pipeline.tokenizer.mask_token
            return f"text {mask}"
        return "text"

    def _blamed(self, e: Exception, texts: list[str], asked: Mapping[str, Any]) -> Exception:
        """The exception as the caller's fault where it is: too long a text, no mask, a bad parameter."""
        if type(e).__name__ == "PipelineException":
            return InvalidInput(f"The model refused the input: {first_line(e)}")
        longest = self._pipeline.model.config
        limit = min(
            getattr(longest, "max_position_embeddings", None) or 1 << 30,
            self._pipeline.tokenizer.model_max_length,
        )
        for i, text in enumerate(texts):
            tokens = len(self._pipeline.tokenizer(text)["input_ids"])
            if tokens > limit:
                return InvalidInput(
                    f"The text of row {i} has {tokens} tokens; the model takes {limit} at most."
                )
        if asked and (
            raised_in(e, ("transformers", "torch")) or passed_through(e, "_sanitize_parameters")
        ):
            return InvalidInput(
                f"The model refused the parameters {given.listed(asked)}: {first_line(e)}"
            )
        return e


def load(path: Path, options: LoadOptions) -> Runtime:
    """The pipeline over the folder `path`.

    Options: `task`, `device`, `batchSize` (texts in one forward pass, 1), `parameters` (defaults for the
    task's own), `pooling` (`mean` or `cls`, for feature extraction), `trustRemoteCode` (false).
    """
    known_options(options, OPTIONS)
    folder = path.parent if path.name == "config.json" else path
    task = _task(folder, options)
    defaults = option(options, "parameters", dict, {})
    unknown = [k for k in defaults if k not in TASKS[task]]
    if unknown:
        raise LoadError(
            f"The task {task} has no parameters {given.listed(unknown)}.",
            hint=f"It has {given.listed(sorted(TASKS[task]), 20) or 'none'}.",
        )
    pooling = option(options, "pooling", str)
    if pooling is not None and (task != "feature-extraction" or pooling not in ("mean", "cls")):
        raise LoadError("The option 'pooling' is 'mean' or 'cls', for feature-extraction only.")
    batch_size = option(options, "batchSize", int, 1)
    if batch_size < 1:
        raise LoadError("The option 'batchSize' has to be 1 or more.")
    require(framework)
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # it prints into the log, and starts a thread
    # Without one, transformers makes an empty tokenizer and every word is unknown.
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise LoadError(
            f"There is no tokenizer in the model's folder: one of {', '.join(_TOKENIZERS)} is expected.",
            hint="Write it with tokenizer.save_pretrained(FOLDER).",
        )
    if not any(p for pattern in _WEIGHTS for p in folder.glob(pattern)):
        raise LoadError(
            f"There are no weights in the model's folder: {' or '.join(_WEIGHTS)} is expected.",
            hint="Write them with model.save_pretrained(FOLDER).",
        )
    device = accelerators.torch_device(torch, options, option(options, "device", str))
    with opening(folder, f"a Hugging Face model for {task}"):
        pipeline = transformers.pipeline(
            task,
            model=str(folder),
            device=device,
            trust_remote_code=option(options, "trustRemoteCode", bool, False),
        )
        if batch_size > 1 and pipeline.tokenizer.pad_token is None:
            raise LoadError("The option 'batchSize' needs a tokenizer with a padding token.")
        return HuggingfaceRuntime(pipeline, task, defaults, batch_size, pooling)


def _task(folder: Path, options: LoadOptions) -> str:
    file = folder / "config.json"
    if not file.is_file():
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        found = f"Found: {given.listed(names)}." if names else "The folder is empty."
        raise LoadError(f"There is no config.json in the model's folder. {found}")
    try:
        config = json.loads(file.read_bytes())
        architectures = config.get("architectures") or []
    except (ValueError, AttributeError) as e:
        raise LoadError(f"config.json is no JSON object: {first_line(e)}") from e
    named = option(options, "task", str)
    if named is not None:
        task = str(_ALIASES.get(named, named))
        if task not in TASKS:
            raise LoadError(
                f"The task {named!r} is not served.", hint=f"There are {given.listed(TASKS, 20)}."
            )
        return task
    for suffix, task in _ARCHITECTURES:
        if any(str(a).endswith(suffix) for a in architectures):
            return task
    if not architectures or all(str(a).endswith("Model") for a in architectures):
        return "feature-extraction"
    raise LoadError(
        f"The task of a {architectures[0]} is not known.",
        hint=f"Name it with the option 'task': {given.listed(TASKS, 20)}.",
    )


def _rows(answer: Any, count: int) -> list[Any]:
    """One element per text: pipelines unwrap a list of one, some of them."""
    if not isinstance(answer, list) or (count == 1 and len(answer) != 1):
        return [answer]
    return list(answer)


def _pooled(row: Any, how: str) -> Array:
    vectors = np.asarray(row, dtype=np.float32)
    vectors = vectors.reshape(-1, vectors.shape[-1])
    pooled: Array = vectors[0] if how == "cls" else vectors.mean(axis=0)
    return pooled


def warm() -> None:
    """Save, load and ask a tiny model: what that imports and builds (35 MB) is then shared."""
    import tokenizers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    words = tokenizers.models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="a")  # noqa: S106
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words),
        pad_token="[PAD]",  # noqa: S106
    )
    config = transformers.BertConfig(
        vocab_size=2,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformers.pipeline("text-classification", model=folder, device="cpu")(["a"])


framework = Framework(
    name="huggingface",
    extra="huggingface",
    preload=("transformers", "torch", "transformers.pipelines"),
    load=load,
    formats=("huggingface", "transformers"),
    uses_devices=True,
    set_threads=set_threads,
    warm=warm,
    env={
        **accelerators.TORCH_ENV,
        **ARROW_ENV,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    },
)
