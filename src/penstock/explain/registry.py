"""From a type, settings and a folder to an explainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from penstock.domain import explainers
from penstock.errors import InvalidInput, LoadError
from penstock.explain import files
from penstock.explain.anchors import Settings
from penstock.explain.base import Explainer
from penstock.explain.kernel_shap import MAX_BACKGROUND


@dataclass(frozen=True, slots=True)
class Sources:
    """What an explainer is made from."""

    folder: Path
    description: files.Description
    config: Mapping[str, Any]
    #: The model itself, for those that look inside: loads it when it is called.
    model: Callable[[], Any]


Make: TypeAlias = Callable[[Sources], Explainer]


def build(kind: str, config: Mapping[str, Any], path: Path, model: Callable[[], Any]) -> Explainer:
    """The explainer of the type `kind` with the files at `path`. LoadError says what is missing."""
    found = explainers.find(kind)
    if found is None:
        raise LoadError(explainers.unknown(kind))
    folder = files.folder_of(path)
    files.refuse_pickled(folder)
    description = files.describe(folder)
    settings, problems = explainers.read(found, {**description.config, **config})
    if problems:
        raise LoadError("; ".join(map(str, problems)))
    if "class_names" not in settings and description.class_names:
        settings["class_names"] = description.class_names
    try:
        return _MAKERS[found.name](Sources(folder, description, settings, model))
    except InvalidInput as e:  # settings that do not go together
        raise LoadError(e.message, hint=e.hint) from None


def _settings(config: Mapping[str, Any]) -> Settings:
    options = _picked(
        config, "threshold", "delta", "epsilon", "max_samples", "coverage_samples", "stop_on_first", "seed",
        beam="beam_size", batch="batch_size", max_size="max_anchor_size",
    )  # fmt: skip
    return Settings(**options)


def _picked(config: Mapping[str, Any], *names: str, **renamed: str) -> dict[str, Any]:
    """Those of `config` that are there, under our parameters' names."""
    wanted = {n: n for n in names} | renamed
    return {ours: config[theirs] for ours, theirs in wanted.items() if theirs in config}


def _anchor_tabular(s: Sources) -> Explainer:
    from penstock.explain.anchors_tabular import AnchorTabular

    rows = files.training(s.folder, s.description, s.config)
    return AnchorTabular(rows, _settings(s.config), **_picked(s.config, "discretizer", "output"))


def _anchor_text(s: Sources) -> Explainer:
    from penstock.explain.anchors_text import AnchorText
    from penstock.explain.words import read_similar

    c = s.config
    similar = None
    if not c.get("use_unk", True):
        similar = read_similar(
            s.folder, top_n=c.get("top_n", 50), temperature=c.get("temperature", 0.4)
        )
    return AnchorText(
        _settings(c),
        similar=similar,
        **_picked(c, "use_unk", "sample_prob", "mask", "output", classes="class_names"),
    )


def _anchor_images(s: Sources) -> Explainer:
    from penstock.explain.anchors_images import AnchorImages

    return AnchorImages(
        _settings(s.config),
        **_picked(
            s.config, "image_shape", "channels", "segmentation", "segments", "compactness",
            "sample_prob", "background", "output", classes="class_names",
        ),
    )  # fmt: skip


def _kernel_shap(s: Sources) -> Explainer:
    from penstock.explain.kernel_shap import KernelShap

    rows = files.training(s.folder, s.description, s.config)
    options = _picked(s.config, "link", "output", "seed", samples="nsamples")
    if options.get("samples") == "auto":
        del options["samples"]
    return KernelShap(rows, background=s.config.get("background", MAX_BACKGROUND), **options)


def _tree_shap(s: Sources) -> Explainer:
    from penstock.explain.tree_shap import TreeShap

    names: tuple[str, ...] = tuple(s.config.get("feature_names") or s.description.feature_names)
    background = None
    if s.config.get("model_output", "raw") != "raw":  # needs rows to compare with
        background = files.training(s.folder, s.description, s.config).rows[:MAX_BACKGROUND]
    return TreeShap(
        s.model(), names=names, background=background, **_picked(s.config, "model_output")
    )


def _integrated_gradients(s: Sources) -> Explainer:
    from penstock.explain.gradients import IntegratedGradients, differentiate

    options = _picked(s.config, "target", "baseline", steps="n_steps", batch="internal_batch_size")
    return IntegratedGradients(differentiate(s.model(), s.config.get("output_name")), **options)


def _counterfactuals(s: Sources) -> Explainer:
    from penstock.explain.counterfactuals import Counterfactuals

    rows = files.training(s.folder, s.description, s.config)
    return Counterfactuals(
        rows,
        **_picked(
            s.config,
            "target_class",
            "immutable",
            "samples",
            "output",
            "seed",
            ranges="feature_range",
        ),
    )


_MAKERS: Final[Mapping[str, Make]] = {
    "AnchorTabular": _anchor_tabular,
    "AnchorText": _anchor_text,
    "AnchorImages": _anchor_images,
    "KernelShap": _kernel_shap,
    "TreeShap": _tree_shap,
    "IntegratedGradients": _integrated_gradients,
    "Counterfactuals": _counterfactuals,
}
