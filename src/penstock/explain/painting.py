"""Hundreds of pictures of one image, each with other patches painted over, as fast as memory is.

Where a patch is painted over, the bits in which the image and the painting differ are flipped, and nowhere
else. Which those are is one number per run of a patch, repeated over the run, so a picture costs three passes
over its bytes. (`np.where` with a mask of pixels takes fifty times as long: it looks at each pixel's channels
in a loop of its own.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.explain.base import Array, Bools


class Painter:
    """Pictures of `image`, in which patches look as they do in `painted`.

    All three have one shape; `patches` numbers them from 0.
    """

    def __init__(self, image: Array, painted: Array, patches: Array) -> None:
        self._shape = image.shape
        self._dtype = image.dtype
        bits = np.dtype(f"u{image.dtype.itemsize}")
        self._image = np.ascontiguousarray(image).reshape(-1).view(bits)
        self._flips = self._image ^ np.ascontiguousarray(painted).reshape(-1).view(bits)
        numbers = patches.reshape(-1)
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        self._runs = numbers[starts]
        self._lengths = np.diff(starts, append=numbers.size)
        self._room: np.ndarray[Any, Any] = np.empty((0, numbers.size), dtype=bits)

    def paint(self, kept: Bools) -> Array:
        """`[n, *shape]` for `kept` `[n, patches]`.

        It is overwritten by the next call: fresh memory would cost as much as the painting.
        """
        if len(self._room) < len(kept):
            self._room = np.empty((len(kept), self._image.size), dtype=self._image.dtype)
        out = self._room[: len(kept)]
        every_bit = ~out.dtype.type(0)
        for patches, picture in zip(kept, out, strict=True):
            flipped = np.where(patches, out.dtype.type(0), every_bit)
            np.bitwise_and(np.repeat(flipped[self._runs], self._lengths), self._flips, out=picture)
            np.bitwise_xor(picture, self._image, out=picture)
        return out.view(self._dtype).reshape(len(kept), *self._shape)
