"""Anchors for images: the patches that decide, whatever the rest of the picture shows.

Conditions are "this superpixel is as it is". A row from D(z | A) keeps the patches of A and, with
probability `sample_prob`, paints each other one in its own mean colour, or in `background` (section "Anchors
for images" of the paper, which puts in another picture; a plain colour needs none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.anchors import Conditions, Settings, search
from penstock.explain.anchors_tabular import report
from penstock.explain.base import Array, Ask, Bools, Explainer, Explanation, dtype_of
from penstock.explain.labels import Labelled, class_name, plain
from penstock.explain.painting import Painter
from penstock.explain.superpixels import Segments, grid, slic

#: Numbers of an image, 2,000 x 2,000 pixels in three colours: hundreds of images like it are asked for.
MAX_NUMBERS: Final = 12_000_000
MAX_CHANNELS: Final = 512
#: Bytes of painted images that exist at a time: about what is asked for in one request.
_CHUNK_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class PatchSpace:
    """The patches of one image; a row is a bool per patch, painted only when it is asked for."""

    patches: int
    random: np.random.Generator
    sample_prob: float
    held: Bools

    def draw(self, anchors: Sequence[Conditions], counts: Sequence[int]) -> Array:
        kept = self.random.random((int(np.sum(counts)), self.patches)) >= self.sample_prob
        start = 0
        for anchor, count in zip(anchors, counts, strict=True):
            kept[start : start + count, list(anchor)] = True
            start += count
        return kept

    def implied(self, anchor: Conditions, condition: int) -> bool:
        return False

    def holds(self, rows: Array) -> Bools:
        return rows


class AnchorImages(Explainer):
    """Anchors of an image classifier."""

    kind = "AnchorImages"
    takes = "image"

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        image_shape: Sequence[int] | None = None,
        channels: str = "last",
        segmentation: str = "slic",
        segments: int = 25,
        compactness: float = 0.2,
        sample_prob: float = 0.5,
        background: float | None = None,
        classes: Sequence[str] = (),
        output: str = "auto",
    ) -> None:
        self.settings = settings or Settings()
        if image_shape and len(image_shape) not in (2, 3):
            raise InvalidInput(
                f"image_shape has {len(image_shape)} numbers; height and width, or three with the channels,"
                " are expected"
            )
        self.image_shape = tuple(image_shape) if image_shape else None
        self.channels = channels
        self.segmentation = segmentation
        self.segments = segments
        self.compactness = compactness
        self.sample_prob = sample_prob
        self.background = background
        self.classes = classes
        self.output = output

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            **self.settings.reported, "segmentation": self.segmentation, "segments": self.segments,
            "sample_prob": self.sample_prob, "background": self.background, "output": self.output,
        }  # fmt: skip

    def image(self, instance: Array) -> Array:
        """`instance` as `[height, width, channels]`, a view. InvalidInput when it is no image."""
        try:
            pixels = np.asarray(instance)
            # Whole numbers of JSON are numbers all the same: the mean of a patch of 0 and 1 is neither.
            if pixels.dtype.kind not in "fiub" or pixels.dtype == np.int64:
                pixels = pixels.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            raise InvalidInput(
                "an instance is an image of numbers; this one holds something else"
            ) from None
        if pixels.size > MAX_NUMBERS:
            raise InvalidInput(
                f"the image has {pixels.size} numbers; {MAX_NUMBERS} can be explained"
            )
        if self.image_shape is not None:
            if pixels.size != int(np.prod(self.image_shape)):
                raise InvalidInput(
                    f"an image of the shape {list(self.image_shape)} is expected; this one has "
                    f"{pixels.size} numbers"
                )
            pixels = pixels.reshape(self.image_shape)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        elif pixels.ndim == 3 and self.channels == "first":
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.ndim != 3 or 0 in pixels.shape:
            raise InvalidInput(
                f"an image is [height, width] or [height, width, channels]; this one has the shape "
                f"{list(np.shape(instance))}. Flat pixels need image_shape in the explainer's config"
            )
        if pixels.shape[2] > MAX_CHANNELS:
            raise InvalidInput(
                f"the image has {pixels.shape[2]} channels, which is more than {MAX_CHANNELS}; "
                "channels: first or last says which axis they are on"
            )
        if not bool(np.all(np.isfinite(pixels))):
            raise InvalidInput("an image may hold neither NaN nor infinity")
        return pixels

    def cut(self, image: Array) -> Segments:
        if self.segmentation == "grid":
            return grid(image.shape[0], image.shape[1], self.segments)
        return slic(image.astype(np.float64), self.segments, compactness=self.compactness)

    def painted(self, image: Array, patches: Segments) -> Array:
        """The image without its details: each patch in one colour. InvalidInput: `background` is none."""
        if self.background is not None:
            blank = np.full((1, 1, 1), self.background)
            return np.broadcast_to(_as_taken(blank, image.dtype, "background"), image.shape)
        count = int(patches.max()) + 1
        size = np.bincount(patches.reshape(-1), minlength=count)
        out = np.empty_like(image)
        for c in range(image.shape[2]):
            total = np.bincount(
                patches.reshape(-1), weights=image[:, :, c].reshape(-1), minlength=count
            )
            mean = total / size
            out[:, :, c] = (np.rint(mean) if image.dtype.kind in "iub" else mean).astype(
                image.dtype
            )[patches]
        return out

    def check(self, instance: Array, ask: Ask) -> None:
        image = _as_taken(self.image(instance), dtype_of(ask), "the image")
        if self._first(instance):
            image = np.moveaxis(image, -1, 0)
        Labelled(ask, self.output).labels(image.reshape(1, *np.shape(instance)))

    def _first(self, instance: Array) -> bool:
        """Whether colours are on the first axis: as the image is given, unless it is flat."""
        return self.channels == "first" and len(self.image_shape or np.shape(instance)) == 3

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        image = self.image(instance)
        shape = np.shape(instance)
        first = self._first(instance)
        patches = self.cut(image)
        # What is sent hundreds of times is in the model's own numbers, which may be an eighth of JSON's.
        image = _as_taken(image, dtype_of(ask), "the image")
        blank = self.painted(image, patches)
        model = Labelled(ask, self.output)
        count = int(patches.max()) + 1

        def given(pixels: Array) -> Array:
            return np.moveaxis(pixels, -1, 0) if first else pixels

        numbers = np.broadcast_to(patches[..., None], image.shape)
        painter = Painter(given(image), given(blank), given(numbers))

        def rows(kept: Bools) -> Array:
            return painter.paint(kept).reshape(len(kept), *shape)

        label = model.labels(rows(np.ones((1, count), dtype=np.bool_)))[0]
        chunk = max(1, _CHUNK_BYTES // max(1, image.nbytes))

        def same(kept: Array) -> Bools:
            parts = [
                model.same(rows(kept[i : i + chunk]), label) for i in range(0, len(kept), chunk)
            ]
            return np.concatenate(parts)

        random = np.random.default_rng(self.settings.seed)
        held = random.random((count, self.settings.coverage_samples)) >= self.sample_prob
        space = PatchSpace(count, random, self.sample_prob, held)
        anchor = search(space, same, self.settings.within(image.nbytes))
        shown = np.isin(patches, anchor.conditions)
        return Explanation(
            self.kind,
            {
                "anchor": list(anchor.conditions),
                "mask": shown.astype(np.uint8).tolist(),
                "segments": patches.tolist(),
                **report(anchor, model),
                "prediction": plain(label),
                "prediction_name": class_name(label, self.classes),
            },
            self.params,
        )


def _as_taken(pixels: Array, dtype: np.dtype[Any] | None, what: str) -> Array:
    """`pixels` in the model's own numbers. InvalidInput when they cannot be said in those."""
    if dtype is None or dtype == pixels.dtype or dtype.kind not in "fiub":
        return pixels
    with np.errstate(over="ignore", invalid="ignore"):
        taken = pixels.astype(dtype)
    unlike = ~np.isfinite(taken) if dtype.kind == "f" else taken.astype(np.float64) != pixels
    if bool(np.any(unlike)):
        value = pixels[unlike].flat[0]
        raise InvalidInput(f"the model takes numbers of {dtype.name}; {what} has {value:g}")
    return taken
