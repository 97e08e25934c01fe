"""Time poolings of windows of few, many and all pixels, minidl against PyTorch.

python -m tests.benchmarks.pooling --peers torch
"""

from __future__ import annotations

from .contest import main
from .ops import contest

IMAGES, PHOTOS, SOUND = (64, 32, 30, 30), (2, 4, 224, 224), (16, 32, 16_000)

CONTESTS = {
    "max 2": contest("max_pool2d(2)", lambda f, x: f.max_pool2d(x, 2), IMAGES),
    "max 3/2": contest("max_pool2d(3, 2)", lambda f, x: f.max_pool2d(x, 3, 2), IMAGES),
    "avg 3/2": contest("avg_pool2d(3, 2)", lambda f, x: f.avg_pool2d(x, 3, 2), IMAGES),
    "lp 2": contest("lp_pool2d(2, 2)", lambda f, x: f.lp_pool2d(x, 2, 2), IMAGES),
    "max all": contest("max_pool2d(224)", lambda f, x: f.max_pool2d(x, 224), PHOTOS),
    "avg all": contest("avg_pool2d(224)", lambda f, x: f.avg_pool2d(x, 224), PHOTOS),
    "max 31/1": contest("max_pool2d(31, 1, 15)", lambda f, x: f.max_pool2d(x, 31, 1, 15), PHOTOS),
    "avg 31/1": contest("avg_pool2d(31, 1, 15)", lambda f, x: f.avg_pool2d(x, 31, 1, 15), PHOTOS),
    "max1d all": contest("max_pool1d(16000)", lambda f, x: f.max_pool1d(x, 16_000), SOUND),
    "avg1d all": contest("avg_pool1d(16000)", lambda f, x: f.avg_pool1d(x, 16_000), SOUND),
    "max1d 4000": contest("max_pool1d(4000)", lambda f, x: f.max_pool1d(x, 4000), SOUND),
    "max1d 500/1": contest("max_pool1d(500, 1)", lambda f, x: f.max_pool1d(x, 500, 1), SOUND),
    "avg1d 500/1": contest("avg_pool1d(500, 1)", lambda f, x: f.avg_pool1d(x, 500, 1), SOUND),
    "adaptive": contest("adaptive_avg(7)", lambda f, x: f.adaptive_avg_pool2d(x, 7), IMAGES),
    "larger": contest("adaptive_avg(50)", lambda f, x: f.adaptive_avg_pool2d(x, 50), IMAGES),
}

if __name__ == "__main__":
    main("tests.benchmarks.pooling", __doc__.split("\n")[0], CONTESTS)
