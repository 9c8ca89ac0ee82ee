"""Hugging Face pipelines answer what `transformers.pipeline` answers; models are tiny and random."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from penstock import runtimes
from penstock.errors import InvalidInput, LoadError
from penstock.protocols import v1
from penstock.runtimes.base import TensorSpec

runtimes.prepare_environment(runtimes.find("huggingface"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, GPT2Config, PreTrainedTokenizerFast

pytestmark = pytest.mark.filterwarnings("ignore::Warning:transformers")

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "good",
    "bad",
    "film",
    "the",
    "a",
    "is",
    "very",
]
BERT = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}
TEXTS = ["the film is good", "a very bad film"]
MASKED = ["the film is [MASK]", "a [MASK] film"]

CLASSES = {
    "text-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "fill-mask": "BertForMaskedLM",
    "feature-extraction": "BertModel",
    "text-generation": "GPT2LMHeadModel",
}


def tokenizer():
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    out = {}
    for task, name in CLASSES.items():
        if task == "text-generation":
            config = GPT2Config(
                vocab_size=len(WORDS),
                n_embd=16,
                n_layer=1,
                n_head=2,
                n_positions=32,
                bos_token_id=2,
                eos_token_id=3,
                pad_token_id=0,
            )
        else:
            config = BertConfig(**BERT)
        out[task] = tmp_path_factory.mktemp(task)
        getattr(transformers, name)(config).save_pretrained(out[task])
        tokenizer().save_pretrained(out[task])
    return out


def column(texts):
    return np.array([t.encode() for t in texts], dtype=object)


def approximately(value):
    """JSON values with floats compared as the pipeline's own FP32."""
    return json.loads(json.dumps(value, default=float))


@pytest.mark.parametrize("task", CLASSES)
def test_answers_are_the_pipelines(task, folders, load):
    runtime = load("huggingface", folders[task])
    texts = MASKED if task == "fill-mask" else TEXTS
    keywords = (
        {"max_new_tokens": 3, "do_sample": False, "return_full_text": False}
        if task == "text-generation"
        else {}
    )
    want = transformers.pipeline(task, model=str(folders[task]), device="cpu")(texts, **keywords)
    have = runtime.predict({"any": column(texts)}, {**keywords, "content_type": "hg_json"})[
        "output"
    ]
    assert have.shape == (2,)
    assert have.tolist() == approximately(want)
    json.dumps(have.tolist())  # nothing of numpy's is left in it
    # One text gives the row that it gives among others.
    one = runtime.predict({"any": column(texts[:1])}, keywords)["output"]
    assert one.tolist() == approximately(want[:1])
    assert runtime.platform == f"huggingface_{task}"
    assert runtime.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert runtime.outputs == (TensorSpec("output", "BYTES", (-1,)),)
    assert runtime.predict(runtime.example(), {})["output"].shape == (1,)


def test_an_answer_is_json_in_v1(folders, load):
    runtime = load("huggingface", folders["text-classification"])
    decoded = v1.decode_arrays(json.dumps({"instances": TEXTS}).encode(), runtime.inputs)
    answer = runtime.predict(decoded.named(runtime.inputs), decoded.parameters)
    predictions = json.loads(v1.encode_predictions(answer))["predictions"]
    assert [sorted(p) for p in predictions] == [["label", "score"]] * 2


def test_parameters_of_the_request_and_of_the_manifest(folders, load):
    path = folders["text-classification"]
    runtime = load("huggingface", path, parameters={"top_k": 2})
    assert [len(r) for r in runtime.predict({"": column(TEXTS)}, {})["output"]] == [2, 2]
    assert [len(r) for r in runtime.predict({"": column(TEXTS)}, {"top_k": 1})["output"]] == [1, 1]
    with pytest.raises(InvalidInput, match="refused the parameters 'function_to_apply'"):
        runtime.predict({"": column(TEXTS)}, {"function_to_apply": "nonsense"})
    with pytest.raises(LoadError, match="has no parameters 'max_new_tokens'"):
        load("huggingface", path, parameters={"max_new_tokens": 2})


def test_several_texts_in_one_pass(folders, load):
    one = load("huggingface", folders["text-classification"])
    two = load("huggingface", folders["text-classification"], batchSize=2)
    a = one.predict({"": column(TEXTS)}, {})["output"]
    b = two.predict({"": column(TEXTS)}, {})["output"]
    assert [r["label"] for r in a] == [r["label"] for r in b]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings(pooling, folders, load):
    runtime = load("huggingface", folders["feature-extraction"], pooling=pooling)
    have = runtime.predict({"": column(TEXTS)}, {})["output"]
    own = transformers.pipeline(
        "feature-extraction", model=str(folders["feature-extraction"]), device="cpu"
    )
    tokens = [np.asarray(r[0], np.float32) for r in own(TEXTS)]
    want = [t[0] if pooling == "cls" else t.mean(axis=0) for t in tokens]
    assert have.dtype == np.float32
    np.testing.assert_array_equal(have, want)
    assert runtime.outputs == (TensorSpec("output", "FP32", (-1, 16)),)


def test_zero_shot_classification(folders, load):
    runtime = load("huggingface", folders["text-classification"], task="zero-shot-classification")
    assert runtime.example() is None
    answer = runtime.predict({"": column(TEXTS[:1])}, {"candidate_labels": ["good", "bad"]})
    assert sorted(answer["output"][0]["labels"]) == ["bad", "good"]
    with pytest.raises(InvalidInput, match="'candidate_labels' is needed"):
        runtime.predict({"": column(TEXTS)}, {})


@pytest.mark.parametrize(
    ("task", "array", "message"),
    [
        ("text-classification", np.ones(2), "expects text"),
        ("text-classification", column([]), "no rows"),
        ("text-classification", column(TEXTS).reshape(1, 2), "one text a row"),
        ("text-classification", np.array([b"\xff"], dtype=object), "no UTF-8"),
        ("text-classification", column(["good " * 40]), "row 0 has 42 tokens; the model takes 32"),
        ("fill-mask", column(["no mask"]), "No mask_token"),
    ],
)
def test_input_that_does_not_fit_is_refused(task, array, message, folders, load):
    runtime = load("huggingface", folders[task])
    with pytest.raises(InvalidInput, match=message) as e:
        runtime.predict({"x": array}, {})
    assert "\n" not in e.value.message
    assert runtime.predict(runtime.example(), {})["output"].shape == (1,)


#: What a clone of a model has that was made without Git LFS.
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def copy(folder, to, leave_out=(), **changes):
    to.mkdir()
    for file in folder.iterdir():
        if file.name not in leave_out:
            (to / file.name).write_bytes(changes.get(file.stem, file.read_bytes()))
    return to


@pytest.mark.parametrize(
    ("leave_out", "changes", "options", "message"),
    [
        (("config.json",), {}, {}, "no config.json in the model's folder. Found: 'model.safetensors'"),
        ((), {"config": b"{"}, {}, "config.json is no JSON object"),
        ((), {"config": b'{"architectures": ["Odd"]}'}, {}, "The task of a Odd is not known"),
        (("model.safetensors",), {}, {}, "There are no weights in the model's folder"),
        ((), {"model": b"junk"}, {}, "folder cannot be loaded as a Hugging Face model for text-class"),
        ((), {"model": LFS}, {}, "model.safetensors is a Git LFS pointer, .*Run 'git lfs pull'"),
        (("tokenizer.json", "tokenizer_config.json"), {}, {}, "There is no tokenizer in the model's folder"),
        ((), {}, {"task": "image-classification"}, "The task 'image-classification' is not served"),
        ((), {}, {"pooling": "max"}, "'pooling' is 'mean' or 'cls'"),
        ((), {}, {"batchSize": 0}, "'batchSize' has to be 1 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why_in_one_line(
    leave_out, changes, options, message, folders, tmp_path, load
):
    path = copy(folders["text-classification"], tmp_path / "m", leave_out, **changes)
    with pytest.raises(LoadError, match=message) as e:
        load("huggingface", path, **options)
    assert "\n" not in str(e.value)


def test_code_in_the_folder_is_not_run_unless_trusted(folders, tmp_path, load):
    config = json.loads((folders["text-classification"] / "config.json").read_text())
    config["model_type"] = "odd"
    config["auto_map"] = {"AutoConfig": "odd.OddConfig", "AutoModel": "odd.Odd"}
    path = copy(folders["text-classification"], tmp_path / "m", config=json.dumps(config).encode())
    (path / "odd.py").write_text("raise SystemExit('code ran')")
    with pytest.raises(LoadError):
        load("huggingface", path)
