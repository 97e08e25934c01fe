"""Chapter 15. Where is what: pool the features of a box, and find objects.

Result: align at half 35 to 70 %, pool at half 25 to 60 %; takes 2.8 times as long as chapter 7.
With --quick: align at half 0 to 30 %, pool at half 0 to 30 %.
"""

# %% [markdown]
# # 15. Regions
#
# A classifier says what an image shows; a **detector** says what and where: a box, a class and a
# score for each object. The features of the whole image are computed once, and each box that may
# hold an object, a **proposal**, is a window over them, of any size and at any place, pooled to a
# fixed size for a linear layer. If its edges lie between two pixels, one rounds or interpolates.
#
# **What you will learn:** pooling of regions by hand; a small detector; how detectors are scored,
# and what rounding costs. **You need:** chapters 5 to 7.

# %%
import time

import numpy as np

from minidl import Tensor, nn, no_grad, optim, training
from minidl import functional as F
from minidl.chapter import Chapter, Runs
from minidl.data import Normalize, load_toy_scenes
from minidl.inspect import plots

chapter = Chapter(
    __doc__,
    device=(["cpu"], "where to compute"),
    examples=({"toy": 600, "quick": 48}, "training images"),
    epochs=({"toy": 10, "quick": 1}, "passes over them"),
    seeds=({"toy": 3, "quick": 2}, "runs of each detector, the first with --seed"),
)
n, STRIDE = chapter.examples, 4
train, test = chapter.load(load_toy_scenes, train=n, test=max(8, n // 4))
train, normalize = train.take([len(b) > 0 for b in train.boxes]), Normalize.fit(train.images)
pixels, test_pixels = normalize(train.images), normalize(test.images)

# %% [markdown]
# ## 1. By hand
# **RoI pooling** rounds a box to whole pixels of the features, cuts it into bins, and takes the
# maximum of each. **RoI align** rounds nothing: it takes the mean of samples in each bin, each
# interpolated between four pixels. **Predict, then run:** a box lies at 8 places, a pixel apart,
# over features with one value for 4 x 4 pixels. How many different results does each give?


# %%
def align(image, box, size):  # the mean of 2 x 2 samples in each bin
    (h, w), (x1, y1, x2, y2) = image.shape, np.asarray(box) - 0.5  # centres are at whole numbers
    out = np.zeros((size, size))
    for i, j, a, b in np.ndindex(size, size, 2, 2):
        y = np.clip(y1 + (y2 - y1) * (i + (a + 0.5) / 2) / size, 0, h - 1)
        x = np.clip(x1 + (x2 - x1) * (j + (b + 0.5) / 2) / size, 0, w - 1)
        near = [np.maximum(1 - abs(p - np.arange(n)), 0) for p, n in ((y, h), (x, w))]
        out[i, j] += near[0] @ image @ near[1] / 4
    return out


features = Tensor(np.random.default_rng(0).standard_normal((1, 1, 48 // STRIDE, 48 // STRIDE)))
moved = [np.array([[0, 8 + k, 8, 24 + k, 24]]) for k in range(8)]
options = {"sampling_ratio": 2, "aligned": True}
pooled = [F.roi_pool2d(features, b, 3, 1 / STRIDE).numpy() for b in moved]
aligned = [F.roi_align2d(features, b, 3, 1 / STRIDE, **options).numpy() for b in moved]
assert np.allclose(aligned[3][0, 0], align(features.numpy()[0, 0], moved[3][0, 1:] / STRIDE, 3))
counts = [len({p.tobytes() for p in found}) for found in (pooled, aligned)]
print(f"different results at 8 places: pooled {counts[0]}, aligned {counts[1]}")

# %% [markdown]
# ## 2. A detector
# Proposals are squares of three sizes in a grid. For each one, the head says which class it holds,
# or none, and how to move and stretch it: $(dx/w, dy/h, \log(s_x), \log(s_y))$. A proposal is
# trained to be an object's if their **intersection over union** (IoU), the area that both share
# divided by the area that either covers, is at least a half. In training, boxes near objects are
# added, such as appear in a test when the boxes that the head moved are pooled once more.


# %%
class Detector(nn.Module):
    def __init__(self, kind, seed):
        rng = np.random.default_rng((seed, 0))
        layers = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 48)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, rng=rng), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] * (outputs < 48)
        self.features = nn.Sequential(*layers)
        pools = {"pool": nn.RoIPool2d(4, 1 / STRIDE)}
        pools["align"] = nn.RoIAlign2d(4, 1 / STRIDE, **options)
        self.pool, self.hidden = pools[kind], nn.Linear(48 * 16, 64, rng=rng)
        self.outputs = nn.Linear(64, len(train.classes) + 4, rng=rng)

    def forward(self, features, boxes):
        """Return scores (k, classes) and moves (k, 4) of boxes (k, 5)."""
        hidden = F.relu(self.hidden(self.pool(features, boxes).flatten(1)))
        outputs = self.outputs(hidden)
        return outputs[:, :-4], outputs[:, -4:]


def middle(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(boxes[:, 2:] - boxes[:, :2], 1)


def apply(boxes, moves):
    (centre, size), moves = middle(boxes), np.clip(moves, -2, 2)
    centre, size = centre + moves[:, :2] * size, size * np.exp(moves[:, 2:])
    return np.clip(np.concatenate([centre - size / 2, centre + size / 2], 1), 0, 48)


grid = np.array([[x, y, x, y] for y in range(3, 48, 6) for x in range(3, 48, 6)], np.float32)
grid = np.concatenate([grid + np.float32([-s, -s, s, s]) / 2 for s in (10, 15, 22)])


def examples(index, rng, count=24):
    """Return boxes of one training image, half of them objects' if possible; classes, moves."""
    objects, labels = train.boxes[index], train.labels[index]
    near = np.repeat(objects, 4, 0)
    near = near + rng.normal(0, 0.12, near.shape) * np.tile(middle(near)[1], 2)
    boxes = np.concatenate([grid, near]).astype(np.float32)
    iou = training.box_iou(boxes, objects)
    best, value = iou.argmax(1), iou.max(1)
    right, wrong = (rng.permutation(np.flatnonzero(m)) for m in (value >= 0.5, value < 0.5))
    chosen = np.concatenate([right[: count // 2], wrong])[:count]
    boxes, best, is_object = boxes[chosen], best[chosen], value[chosen] >= 0.5
    (centre, size), (wanted, target) = middle(boxes), middle(objects[best])
    moves = np.concatenate([(wanted - centre) / size, np.log(target / size)], 1)
    return boxes, np.where(is_object, labels[best], 0), moves


# %% [markdown]
# ## 3. Detections and their score
# Boxes that overlap a better one of the same class are dropped: **non-maximum suppression**. Then
# take the detections of a class, the best score first. One is right if its IoU with an object that
# no earlier one has found is at least 0.5, or 0.75. Precision is the share of right ones so far,
# recall the share of objects found. **Average precision** is the mean precision over all recalls.


# %%
def suppress(boxes, scores, limit=0.5):
    kept, order, iou = [], np.argsort(-scores), training.box_iou(boxes, boxes)
    while len(order):
        kept.append(order[0])
        order = order[1:][iou[order[0], order[1:]] < limit]
    return kept


def detect(model, images):  # boxes, classes and scores for each image
    found = []
    with no_grad():
        maps = model.features(Tensor(images))
        for i in range(len(images)):
            boxes = grid
            for _ in range(2):  # move the boxes, and pool again where they are now
                index = np.full((len(boxes), 1), i, np.float32)
                logits, moves = model(maps, np.concatenate([index, boxes], 1))
                scores = F.softmax(logits).numpy()[:, 1:]
                best = np.argsort(-scores.max(1))[:48]
                boxes = apply(boxes, moves.numpy())[best].astype(np.float32)
            scores, parts = scores[best], []
            for k in range(scores.shape[1]):
                kept = [j for j in suppress(boxes, scores[:, k]) if scores[j, k] > 0.02]
                parts.append((boxes[kept], np.full(len(kept), k + 1), scores[kept, k]))
            found.append(tuple(map(np.concatenate, zip(*parts, strict=True))))
    return found


def run(kind, seed):
    model, rng = Detector(kind, seed), np.random.default_rng((seed, 1))
    adam, started = optim.Adam(model.parameters(), lr=2e-3), time.perf_counter()
    for _ in range(chapter.epochs):
        for batch in np.array_split(rng.permutation(len(pixels)), len(pixels) // 16):
            drawn = [examples(i, rng) for i in batch]
            boxes = [np.insert(boxes, 0, i, 1) for i, (boxes, _, _) in enumerate(drawn)]
            labels, moves = (np.concatenate([d[part] for d in drawn]) for part in (1, 2))
            logits, found = model(model.features(Tensor(pixels[batch])), np.concatenate(boxes))
            right = np.flatnonzero(labels)
            loss = F.cross_entropy(logits, labels)
            loss = loss + F.l1_loss(found[right], moves[right].astype(np.float32))
            adam.zero_grad()
            loss.backward()
            adam.step()
    seconds, trained[kind] = time.perf_counter() - started, model.eval()
    found, objects = detect(model, test_pixels), list(zip(test.boxes, test.labels, strict=True))
    scores = [100 * training.mean_average_precision(found, objects, t) for t in (0.5, 0.75)]
    return dict(zip(MEASURED, (*scores, seconds), strict=True))


MEASURED, trained = ("at half", "at three quarters", "seconds"), {}

# %% [markdown]
# ## 4. What rounding costs
# Both detectors see the same boxes and batches, from the same first weights.

# %%
settings = {n: getattr(chapter, n) for n in ("examples", "epochs")}
source, path = [Detector, examples, suppress, detect, run], chapter.out / "runs.csv"
runs = chapter.load(Runs, path, settings, ("kind", "seed"), MEASURED, functions=source)
seeds, kinds = range(chapter.seed, chapter.seed + chapter.seeds), ("pool", "align")
with chapter.interruptible("run the same command to resume"):
    runs.complete([(kind, seed) for seed in seeds for kind in kinds], run)
values = {(k, m): np.array([runs[k, s][m] for s in seeds]) for k in kinds for m in MEASURED}
print("\n| regions | mAP at 0.5, % | mAP at 0.75, % | s of training |\n| --- | --- | --- | --- |")
for m in MEASURED:
    values["align - pool", m] = values["align", m] - values["pool", m]  # seed by seed
for kind in (*kinds, "align - pool"):
    found = [values[kind, m] for m in MEASURED]
    cells = [f"{v.mean():.1f} +- {v.std(ddof=1):.1f}" for v in found]
    print(f"| {kind} | {' | '.join(cells)} |")


# %% tags=["hide-input"]
def draw_detections():
    "align" in trained or run("align", seeds[-1])  # if all runs were finished before
    figure, axes = plots.subplots(2, 4, figsize=(9, 5), subplot_kw={"xticks": [], "yticks": []})
    for i, (ax, found) in enumerate(
        zip(axes.flat, detect(trained["align"], test_pixels[:8]), strict=True)
    ):
        ax.imshow(test.images[i].transpose(1, 2, 0), extent=(0, 48, 48, 0))
        objects = (test.boxes[i], test.labels[i], np.ones(len(test.labels[i])))
        for parts, colour in ((objects, "white"), (found, plots.COLOURS[1])):
            for (x1, y1, x2, y2), label, score in zip(*parts, strict=True):
                if score >= 0.7:
                    xs, ys = [x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1]
                    ax.plot(xs, ys, color=colour, linewidth=1, scalex=False, scaley=False)
                    ax.text(x1, y1 - 1, train.classes[label], size=9, color=colour)
    return figure


chapter.keep(
    draw_detections,
    "detections",
    "white: objects; coloured: detections. Which are near an object, but do not fit it?",
)
halves = [f"{kind} at half {values[kind, 'at half'].mean():.1f}%" for kind in kinds]
chapter.result(", ".join(halves))

# %% [markdown]
# ## What comes next
# Exercises: chapters/exercises/ch15_regions.py; `python -m pytest chapters/exercises -k ch15`.
#
# 1. `overlap`: the intersection over union of two boxes.
# 2. `rounded_bins`: which pixels each bin of RoI pooling covers, along one axis.
# 3. `average_precision`: of detections that are right or wrong, from the best score on.
#
# **Change this and explain:** set `STRIDE` to 2, with one `MaxPool2d` less. Which of the two
# detectors gains more? Which of the two scores, at 0.5 or at 0.75, and why?
#
# **Further reading:** Girshick, [Fast R-CNN](https://arxiv.org/abs/1504.08083) (2015); He et al.,
# [Mask R-CNN](https://arxiv.org/abs/1703.06870) (2017).
