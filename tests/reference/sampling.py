"""Cases of resampling, of pooling of regions, and of deformable convolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case


def _interpolate() -> list[Case]:
    grid: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((2, 2, 3, 4), {"scale_factor": 2}),
        ((2, 2, 3, 4), {"scale_factor": (1.5, 2.3)}),
        ((1, 2, 5, 7), {"scale_factor": 0.4}),  # its scale, not out / in, says where pixels lie
        ((1, 2, 5, 7), {"size": (3, 5)}),
        ((1, 2, 5, 7), {"size": (11, 4)}),
        ((1, 2, 5, 7), {"size": (5, 14)}),
        ((1, 2, 6, 7), {"size": 1}),
        ((1, 1, 1, 3), {"size": (4, 4)}),
        ((1, 1, 4, 33), {"scale_factor": (1, 2)}),  # more than one block of rows
    ]
    cases = []
    for mode, corners in (
        ("nearest", None),
        ("bilinear", None),
        ("bilinear", True),
        ("bicubic", False),
        ("bicubic", True),
    ):
        for shape, options in grid:
            options = (
                options | {"mode": mode} | ({} if corners is None else {"align_corners": corners})
            )
            cases.append(Case("interpolate", [shape], options, second="size" in options))
    return cases


BOXES = np.array(
    [
        [0, 0, 0, 4, 3],
        [1, 1.25, 0.5, 4.75, 4],
        [1, -3, 2, 2.25, 9],
        [0, 7, 1, 6.5, 5],  # x2 < x1
        [0, 9, 12, 15, 14],  # outside
        [1, 2.5, 3.5, 2.75, 3.75],  # less than a pixel
    ]
)


def _regions() -> list[Case]:
    shape, boxes = (2, 2, 6, 8), {"boxes": BOXES}
    pooled: list[dict[str, Any]] = [
        {"output_size": 2},
        {"output_size": (3, 1), "spatial_scale": 0.5},
        {"output_size": (1, 7), "spatial_scale": 1.5},
    ]
    cases = [Case("roi_pool2d", [shape], o, boxes, domain="distinct") for o in pooled]
    cases.append(Case("roi_pool2d", [shape], {"output_size": (4, 3)}, boxes, domain="whole"))
    aligned = [o | {"sampling_ratio": r} for o, r in zip(pooled, (2, 1, 3), strict=True)]
    for options in aligned:
        cases.append(Case("roi_align2d", [shape], options, boxes))
        cases.append(Case("roi_align2d", [shape], options | {"aligned": True}, boxes))
    cases.append(Case("roi_align2d", [shape], pooled[0], boxes))
    upright = {"boxes": BOXES[[0, 1, 2, 4, 5]]}
    cases.append(Case("roi_align2d", [shape], pooled[2] | {"aligned": True}, upright))
    return cases


def _deform_conv2d() -> list[Case]:
    """Cases of `deform_conv2d`: images, offset, weight, bias, and a mask if there are five inputs.

    Offsets are mostly smaller than a pixel, and some reach beyond the images.
    """
    grid: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([(2, 2, 5, 4), (2, 12, 4, 4), (3, 2, 2, 3), (3,)], {"padding": (0, 1)}),
        ([(2, 2, 5, 4), (2, 12, 4, 4), (3, 2, 2, 3), (3,), (2, 6, 4, 4)], {"padding": (0, 1)}),
        ([(1, 4, 5, 5), (1, 36, 3, 3), (4, 2, 3, 3), (4,), (1, 18, 3, 3)], {}),
        (
            [(1, 4, 6, 5), (1, 32, 3, 5), (2, 4, 2, 2), (2,), (1, 16, 3, 5)],
            {"stride": (2, 1), "padding": 1, "dilation": (3, 2)},
        ),
        ([(2, 2, 1, 3), (2, 4, 1, 3), (4, 1, 1, 1), (4,)], {}),
    ]
    return [Case("deform_conv2d", shapes, options) for shapes, options in grid]


SAMPLING = _interpolate() + _regions() + _deform_conv2d()
