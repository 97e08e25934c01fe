"""Cases of resampling, of pooling of regions, and of deformable convolution."""

from __future__ import annotations

from typing import Any

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


SAMPLING = _interpolate()
