"""An image cut into a few dozen patches that belong together: simple linear iterative clustering (SLIC).

R. Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", TPAMI 2012: k-means
over colour and place, from centres on a grid, where `compactness` weighs place against colour (eq. 3). Large
images are clustered on a coarser raster. Patches are not made connected afterwards: what explains an image
may well be two spots.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from penstock.explain.base import Floats

_ROUNDS: Final = 10
#: Pixels that are clustered; larger images are looked at with a stride.
_MAX_PIXELS: Final = 128 * 128

Segments = npt.NDArray[np.int64]


def grid(height: int, width: int, wanted: int) -> Segments:
    """`[height, width]` patch numbers of a plain grid of about `wanted` patches."""
    rows = max(1, min(height, round((wanted * height / width) ** 0.5)))
    columns = max(1, min(width, round(wanted / rows)))
    ys = np.minimum(np.arange(height) * rows // height, rows - 1)
    xs = np.minimum(np.arange(width) * columns // width, columns - 1)
    return np.asarray(ys[:, None] * columns + xs[None, :], dtype=np.int64)


def slic(image: Floats, wanted: int, *, compactness: float = 0.2) -> Segments:
    """`[height, width]` patch numbers 0..k-1, k about `wanted`, of an image `[height, width, channels]`.

    Colours are scaled to 0..1 over the image; `compactness` 1 is near a grid, 0 looks at colour alone.
    """
    height, width, _ = image.shape
    stride = max(1, int(np.ceil((height * width / _MAX_PIXELS) ** 0.5)))
    small = image[::stride, ::stride].astype(np.float64)
    low, high = small.min(), small.max()
    small = (small - low) / (high - low if high > low else 1.0)
    start = grid(small.shape[0], small.shape[1], wanted)
    side = (small.shape[0] * small.shape[1] / (start.max() + 1)) ** 0.5
    ys, xs = np.indices(small.shape[:2])
    place = np.stack([ys, xs], axis=-1) * (compactness / side)
    pixels = np.concatenate([small, place], axis=-1).reshape(-1, small.shape[2] + 2)
    labels = start.reshape(-1)
    for _ in range(_ROUNDS):
        count = int(labels.max()) + 1
        size = np.maximum(np.bincount(labels, minlength=count), 1)
        centres = np.stack(
            [np.bincount(labels, weights=column, minlength=count) / size for column in pixels.T], 1
        )
        distance = (centres**2).sum(1) - 2 * pixels @ centres.T  # |p|^2 is the same for all centres
        new = np.argmin(distance, axis=1)
        if np.array_equal(new, labels):
            break
        labels = new
    _, labels = np.unique(labels, return_inverse=True)
    coarse = labels.reshape(small.shape[:2])
    rows = np.minimum(np.arange(height) // stride, coarse.shape[0] - 1)
    columns = np.minimum(np.arange(width) // stride, coarse.shape[1] - 1)
    return np.asarray(coarse[rows[:, None], columns[None, :]], dtype=np.int64)
