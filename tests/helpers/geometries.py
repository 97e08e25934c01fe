"""Random windows and images for tests of the convolution kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minidl.backends import Windows


@st.composite
def geometries(draw: Any, padding: int = 3, both: bool = True) -> Windows:
    """Draw windows of up to 4x4 taps that fit the padded image.

    Args:
        draw: given by hypothesis.
        padding: the most on each side.
        both: whether a stride and a dilation can be larger than 1 at the same time.
    """
    pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
    k, stride, dilation = draw(pair), draw(pair), draw(pair)
    if not both and draw(st.booleans()):
        stride = (1, 1)
    elif not both:
        dilation = (1, 1)
    sides = {side: draw(st.integers(0, padding)) for side in ("top", "bottom", "left", "right")}
    spans = [dilation[i] * (k[i] - 1) + 1 for i in (0, 1)]
    least_h = max(1, spans[0] - sides["top"] - sides["bottom"])
    least_w = max(1, spans[1] - sides["left"] - sides["right"])
    in_h, in_w = (draw(st.integers(least, least + 6)) for least in (least_h, least_w))
    return Windows(in_h, in_w, *k, *stride, *dilation, **sides)


def drawn(*shape: int, seed: int, channels_last: bool = False) -> np.ndarray:
    """Return normally distributed float64 values, on request with channels last in memory."""
    numbers = np.random.default_rng(seed).standard_normal(shape)
    if channels_last:
        return np.ascontiguousarray(np.moveaxis(numbers, 1, -1)).transpose(0, 3, 1, 2)
    return numbers
