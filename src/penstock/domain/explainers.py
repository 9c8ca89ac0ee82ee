"""The explainers that need no code: their types, by which names manifests know them, and their settings.

Names of Alibi and Seldon select ours. The settings of a type are what may stand in the `config` of a
manifest, so that a typo is found when it is applied; what they do is told in `penstock.explain`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from penstock.errors import FieldProblem


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of `config`: its kind, and what may be said."""

    #: `number`, `whole`, `flag`, `text`, `texts`, `numbers`, `class` (a number or a text), `ranges` (a
    #: feature's name to [least, most]), `array` (a number, or lists of them).
    kind: str
    choices: tuple[str, ...] = ()
    #: Bounds of a number, and of how many `numbers` there are.
    least: float | None = None
    most: float | None = None
    #: The bounds themselves are out.
    open: bool = False
    #: Alibi has it, here it changes nothing: why. Dialects warn of it, and it is not read.
    without_effect: str = ""


@dataclass(frozen=True, slots=True)
class ExplainerType:
    """One algorithm."""

    name: str
    settings: Mapping[str, Setting]
    #: Other names of it, of Alibi, KFServing and Seldon.
    aliases: tuple[str, ...] = ()
    #: It looks into the model, so the explainer's files are the model's.
    looks_inside: bool = False
    #: Other names of settings.
    renamed: Mapping[str, str] = field(default_factory=dict)
    #: It cannot do without files: rows of training data, or the model.
    needs_files: bool = True


_SHARE: Final = Setting("number", least=0, most=1, open=True)
_COUNT: Final = Setting("whole", least=1, most=1_000_000)
_OUTPUT: Final = Setting("text", choices=("auto", "label", "scores", "positive"))
_COMMON: Final[Mapping[str, Setting]] = {
    "seed": Setting("whole", least=0),
    #: Which of the predictor's outputs is read; the first one otherwise.
    "output_name": Setting("text"),
    "class_names": Setting("texts"),
}
_CACHE: Final = Setting("whole", without_effect="no samples are cached here")
_NO_PROGRESS: Final = "progress is not printed here"
_ANCHORS: Final[Mapping[str, Setting]] = {
    **_COMMON,
    "output": _OUTPUT,
    "coverage_samples": Setting("whole", least=100, most=1_000_000),
    "stop_on_first": Setting("flag"),
    "binary_cache_size": _CACHE,
    "cache_margin": _CACHE,
    "max_samples_start": Setting("whole", without_effect="how long to look is told by delta here"),
    "n_covered_ex": Setting("whole", without_effect="explanations here have no example rows"),
    "verbose": Setting("flag", without_effect=_NO_PROGRESS),
    "verbose_every": Setting("whole", without_effect=_NO_PROGRESS),
    "threshold": _SHARE,
    "delta": _SHARE,
    "epsilon": Setting("number", least=0, most=1),
    "beam_size": Setting("whole", least=1, most=100),
    "batch_size": Setting("whole", least=1, most=10_000),
    "max_anchor_size": Setting("whole", least=1, most=1000),
    "max_samples": Setting("whole", least=100, most=1_000_000),
}
_TRAINING: Final[Mapping[str, Setting]] = {
    "feature_names": Setting("texts"),
    #: Columns of the training data that are left out, such as the target.
    "drop": Setting("texts"),
}
_ANCHOR_NAMES: Final[Mapping[str, str]] = {
    "tau": "epsilon", "sample_proba": "sample_prob", "p_sample": "sample_prob",
}  # fmt: skip

TYPES: Final[Mapping[str, ExplainerType]] = {
    t.name: t
    for t in (
        ExplainerType(
            "AnchorTabular",
            {
                **_ANCHORS,
                **_TRAINING,
                "discretizer": Setting("text", choices=("quartile", "decile")),
            },
            renamed=_ANCHOR_NAMES,
        ),
        ExplainerType(
            "AnchorText",
            {
                **_ANCHORS,
                "use_unk": Setting("flag"),
                "sample_prob": _SHARE,
                "mask": Setting("text"),
                "top_n": _COUNT,
                "use_similarity_proba": Setting(
                    "flag",
                    without_effect="the more similar of vectors.txt's words are drawn more often",
                ),
                "temperature": Setting("number", least=0, open=True),
            },
            renamed=_ANCHOR_NAMES,
            needs_files=False,
        ),
        ExplainerType(
            "AnchorImages",
            {
                **_ANCHORS,
                "image_shape": Setting("numbers", least=2, most=3),
                "channels": Setting("text", choices=("first", "last")),
                "segmentation": Setting("text", choices=("slic", "grid")),
                "segments": Setting("whole", least=2, most=500),
                "compactness": Setting("number", least=0),
                "sample_prob": _SHARE,
                "background": Setting("number"),
            },
            aliases=("AnchorImage",),
            renamed=_ANCHOR_NAMES,
            needs_files=False,
        ),
        ExplainerType(
            "KernelShap",
            {
                **_COMMON,
                **_TRAINING,
                "link": Setting("text", choices=("identity", "logit")),
                "output": Setting("text", choices=("auto", "values")),
                "nsamples": replace(_COUNT, choices=("auto",)),
                "background": Setting("whole", least=1, most=10_000),
            },
        ),
        ExplainerType(
            "TreeShap",
            {
                **_COMMON,
                **_TRAINING,
                "model_output": Setting("text", choices=("raw", "probability")),
            },
            looks_inside=True,
        ),
        ExplainerType(
            "IntegratedGradients",
            {
                **_COMMON,
                # The only way there is here, and Alibi's own default.
                "method": Setting("text", choices=("gausslegendre",)),
                "n_steps": Setting("whole", least=1, most=10_000),
                "baseline": Setting("array"),
                "target": Setting("whole", least=0),
                "internal_batch_size": Setting("whole", least=1, most=10_000),
            },
            looks_inside=True,
            renamed={"steps": "n_steps"},
        ),
        ExplainerType(
            "Counterfactuals",
            {
                **_COMMON,
                **_TRAINING,
                "output": _OUTPUT,
                "target_class": Setting("class"),
                "immutable": Setting("texts"),
                "feature_range": Setting("ranges"),
                "samples": Setting("whole", least=10, most=100_000),
            },
            aliases=("Counterfactual",),
        ),
    )
}
#: Types that others have and we do not.
ABSENT: Final = ("Contrastive", "ALE", "CEM", "SquareAttack", "LimeImages")


def find(name: str) -> ExplainerType | None:
    """The type that `name` means, whatever the case of its letters; None: there is none."""
    wanted = name.replace("_", "").lower()
    for t in TYPES.values():
        if wanted in (t.name.lower(), *(a.lower() for a in t.aliases)):
            return t
    return None


def unknown(name: str) -> str:
    """What is said of a type that there is not."""
    if name in ABSENT:
        return f"{name} is not supported; there are {', '.join(TYPES)}"
    near = difflib.get_close_matches(name, TYPES, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"there is no explainer {name!r}: {guess}there are {', '.join(TYPES)}"


def read(
    kind: ExplainerType,
    config: Mapping[str, Any],
    path: str = "",
    warnings: list[FieldProblem] | None = None,
) -> tuple[dict[str, Any], list[FieldProblem]]:
    """The settings in `config` under their own names, and what is wrong with it.

    Values may be texts, as Alibi's `config` in KServe has them: "0.95", "True", "a, b". `warnings` gets what
    is of Alibi and has no effect.
    """
    values: dict[str, Any] = {}
    problems: list[FieldProblem] = []
    for key, value in config.items():
        given = str(key)
        where = f"{path}.{given}" if path else given
        name = kind.renamed.get(given, given)
        setting = kind.settings.get(name)
        if setting is None:
            known = [n for n, s in kind.settings.items() if not s.without_effect]
            near = difflib.get_close_matches(given, known, n=1)
            guess = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            problems.append(FieldProblem(where, f"{kind.name} has no such setting; {guess}"))
            continue
        try:
            read = _read(setting, value)
        except ValueError as e:
            problems.append(FieldProblem(where, str(e)))
            continue
        if not setting.without_effect:
            values[name] = read
        elif warnings is not None:
            warnings.append(FieldProblem(where, f"has no effect: {setting.without_effect}"))
    return values, problems


def _read(setting: Setting, value: Any) -> Any:
    kind = setting.kind
    if kind in _READERS:
        return _READERS[kind](value)
    if kind == "flag":
        read = {"true": True, "false": False}.get(str(value).lower())
        if read is None:
            raise ValueError(f"has to be true or false, not {value!r}")
        return read
    if kind in ("texts", "numbers"):
        return _listed(setting, value)
    if kind == "text":
        if not isinstance(value, str) or (setting.choices and value not in setting.choices):
            wanted = f"one of {', '.join(setting.choices)}" if setting.choices else "a text"
            raise ValueError(f"has to be {wanted}, not {value!r}")
        return value
    if isinstance(value, str) and value in setting.choices:
        return value
    number = _number(value)
    if not _finite(number):
        raise ValueError(f"has to be a number, not {value!r}")
    if kind == "whole":
        if number != int(number):
            raise ValueError(f"has to be a whole number, not {value!r}")
        number = int(number)
    low, high = setting.least, setting.most
    if (low is not None and (number < low or (setting.open and number == low))) or (
        high is not None and (number > high or (setting.open and number == high))
    ):
        word = "above" if setting.open else "at least"
        bounds = [f"{word} {low:g}"] if low is not None else []
        bounds += [f"{'below' if setting.open else 'at most'} {high:g}"] if high is not None else []
        raise ValueError(f"has to be {' and '.join(bounds)}, not {value!r}")
    return number


def _class(value: Any) -> Any:
    """A label: a number where it can be one, else a text."""
    found = _number(value)
    if isinstance(found, str | bool) or _finite(found):
        return found
    raise ValueError(f"has to be a class's number or name, not {value!r}")


def _array(value: Any) -> Any:
    """A number, or lists of numbers that are all of one length on each level."""
    if isinstance(value, list | tuple):
        items = [_array(v) for v in value]
        if not items or len({_shape(v) for v in items}) > 1:
            raise ValueError("has to be a number, or numbers of the instance's shape")
        return items
    number = _number(value)
    if not _finite(number):
        raise ValueError(f"has to be a number, or numbers of the instance's shape, not {value!r}")
    return number


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *_shape(value[0])) if isinstance(value, list) else ()


def _ranges(value: Any) -> dict[str, list[float]]:
    """Of features by name, the least and the most they may become."""
    if not isinstance(value, Mapping):
        raise ValueError('has to be an object such as {"age": [18, 99]}')
    found: dict[str, list[float]] = {}
    for name, pair in value.items():
        ends = list(pair) if isinstance(pair, list | tuple) else []
        if len(ends) != 2 or not all(map(_finite, ends)) or ends[0] > ends[1]:
            raise ValueError(f"{name} has to be [least, most], not {pair!r}")
        found[str(name)] = [float(e) for e in ends]
    return found


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "class": _class, "array": _array, "ranges": _ranges,
}  # fmt: skip


def _finite(number: Any) -> bool:
    """Whether it is a number that any algorithm can work with."""
    return (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and -sys.float_info.max <= number <= sys.float_info.max
    )


def _listed(setting: Setting, value: Any) -> list[Any]:
    kind = setting.kind
    items = [v.strip() for v in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError(f"has to be a list, not {value!r}")
    if kind == "texts":
        if not all(isinstance(v, str) for v in items):
            raise ValueError("has to be a list of texts")
        return list(items)
    numbers = [_number(v) for v in items]
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in numbers):
        raise ValueError("has to be a list of whole numbers above 0")
    if setting.least is not None and len(numbers) < setting.least:
        raise ValueError(f"has to have at least {setting.least:g} numbers")
    if setting.most is not None and len(numbers) > setting.most:
        raise ValueError(f"has to have at most {setting.most:g} numbers")
    return numbers


def _number(value: Any) -> Any:
    """A number that is written as a text; the value itself when it is none."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
