"""Chapter 14. What does pooling throw away, and how does a network get it back?

Result: skips 68 to 81 %, coarse 59 to 72 %; takes 3.5 times as long as chapter 7.
With --quick: skips 2 to 80 %, coarse 2 to 80 %.
"""

# %% [markdown]
# # 14. Segmentation
#
# A classifier says *what* is in an image, and pooling helps it to forget *where*. **Semantic
# segmentation** asks for both: a class for every pixel. Then what pooling throws away is part of
# the answer, and people say that pooling hurts. But without it, the same convolutions see only a
# few pixels around each one. So networks pool, and then try to get the places back.
#
# **What you will learn:** how much a perfect answer loses by pooling, and what each of seven ways
# gives back, at what cost. **You need:** chapters 4 to 8.

# %%
import time
import zlib

import numpy as np

import minidl
from minidl import functional as F
from minidl import nn, optim, training
from minidl.chapter import Chapter, Runs
from minidl.data import DataLoader, Normalize, load_scene_folder, load_toy_scenes
from minidl.inspect import plots, summary

chapter = Chapter(
    __doc__,
    data=("toy", "toy, or a folder with images/a.jpg and masks/a.png of the same names"),
    all_classes=(False, "tell the toy shapes apart; needs 10 times the --epochs"),
    size=(32, "height and width of the images"),
    examples=({"toy": 640, "quick": 64}, "training images"),
    epochs=({"toy": 4, "quick": 1}, "passes over them"),
    batch_size=(32, "images per step"),
    lr=(1e-2, "Adam's largest learning rate"),
    seeds=({"toy": 3, "quick": 2}, "runs of each network, the first with --seed"),
)
if chapter.data == "toy":
    train, test = load_toy_scenes(train=chapter.examples, test=200, size=chapter.size)
else:
    whole = chapter.load(load_scene_folder, chapter.data, chapter.size)
    train, test = chapter.load(whole.split, len(whole.images) * 4 // 5)
test = test.first(20 if chapter.quick else len(test.images))
images, ignored, shown = (train.images, test.images), 255, slice(8)
masks, classes = (train.masks, test.masks), len(train.classes)
if chapter.data == "toy" and not chapter.all_classes:
    masks, classes = [(found > 0).astype(np.uint8) for found in masks], 2
normalize = Normalize.fit(images[0])

# %% [markdown]
# ## 1. Scenes
# `toy_scenes` draws figures of five shapes that cover one another. Rectangles and bars are painted
# in the same way but belong to the background, so a pixel's colour does not tell its class. Here,
# all figures are one class, which takes minutes to learn; `--all-classes` keeps the shapes apart.

# %% tags=["hide-input"]
colours = np.random.default_rng(1).integers(80, 256, (256, 3), np.uint8)
colours[0] = 0
rows = {"image": images[1][shown].transpose(0, 2, 3, 1), "mask": colours[masks[1][shown]]}
chapter.keep(
    *(lambda: plots.image_rows(rows), "scenes"),
    "the mask leaves out holes, and what covers a figure; rectangles are black like the ground",
)

# %% [markdown]
# ## 2. What pooling throws away, before any learning
# **mIoU** is the mean over the classes of the pixels that mask and prediction share, divided by the
# pixels that either has; **boundary F1** asks how much of the outlines is found within 1 pixel.
# Suppose a network were perfect, but answered after pooling: for each cell of 2 x 2, 4 x 4 or 8 x 8
# pixels, the share of each class. Enlarge that, and take the largest share. **Predict, then run:**
# how much mIoU do two poolings of 2 x 2 cost? Does bilinear or nearest give back more of it?


# %%
def scores(predicted):
    given, measures = (predicted, masks[1], classes), (training.mean_iou, training.boundary_f1)
    return [100 * f(*given, ignore_index=ignored) for f in measures]


shares = chapter.tensor(masks[1][:, None] == np.arange(classes)[:, None, None])
for cell in (2, 4, 8):
    for mode in ("nearest", "bilinear"):
        large = F.interpolate(F.avg_pool2d(shares, cell), chapter.size, mode=mode)
        miou, outline = scores(large.numpy().argmax(1))
        print(f"perfect in cells of {cell} x {cell}, {mode}: mIoU {miou:.1f}%, F1 {outline:.1f}%")

# %% [markdown]
# ## 3. One encoder, nine ways
# The **encoder** has three blocks of convolutions, with a max pool after the first two. What turns
# its features into a map of the image's size is the **decoder**. `coarse` enlarges scores at a
# quarter of the size; `pyramid` first adds means over large regions, which tell each pixel what is
# elsewhere (pyramid pooling). Five others go back in two steps, each followed by a convolution:
# by interpolation, nearest or bilinear; by transposed convolution; by unpooling, which puts each
# value where its maximum was; or with **skip connections**: features from before the pool beside
# the enlarged ones, as in U-Net. Two do not pool: `no pooling`, and `dilated`, whose nine weights
# spread over 3 x 3, 5 x 5 and 9 x 9 pixels (**dilated convolution**). `1 x 1` sees colours only.

# %%
STEPS = ("nearest", "bilinear", "transposed", "unpooling", "skips")
WHOLE = ("no pooling", "dilated", "1 x 1")
KINDS = ("coarse", "pyramid", *STEPS, *WHOLE)
MEASURED = ("mIoU", "boundary F1", "seconds")


def block(inputs, outputs, rng, dilation=1, count=2, size=3):
    options = {"padding": "same", "dilation": dilation, "bias": False, "rng": rng}
    layers = []
    for channels in (inputs, *[outputs] * (count - 1)):
        layers += [
            nn.Conv2d(channels, outputs, size, **options),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class Net(nn.Module):
    def __init__(self, kind, seed, c=8):
        rng, self.kind = np.random.default_rng((seed, 0)), kind
        sizes, steps = (3, c, 2 * c, 4 * c), (1, 2, 4) if kind == "dilated" else (1, 1, 1)
        shape = [{"dilation": step, "size": 1 if kind == "1 x 1" else 3} for step in steps]
        blocks = [block(*sizes[i : i + 2], rng, count=1 + (i > 0), **shape[i]) for i in range(3)]
        self.encoder = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d(2, return_indices=kind == "unpooling")
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for channels in (2 * c, c) if kind in STEPS else ():
            one = nn.Conv2d(2 * channels, channels, 1, rng=rng)
            if kind == "transposed":
                one = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2, rng=rng)
            self.up.append(one)
            joined = channels * (1 + (kind == "skips"))
            self.decoder.append(block(joined, channels, rng, count=1))
        grids = range(4 if kind == "pyramid" else 0)
        self.means = nn.ModuleList([nn.Conv2d(4 * c, c, 1, rng=rng) for _ in grids])
        ends = c if kind in STEPS else 4 * c + c * len(self.means)
        self.head = nn.Conv2d(ends, classes, 1, rng=rng)

    def forward(self, x):
        kept, size = [], x.shape[2:]
        for number, layers in enumerate(self.encoder):
            x = layers(x)
            if number < 2 and self.kind not in WHOLE:
                before, x = x, self.pool(x)
                x, places = x if self.kind == "unpooling" else (x, None)
                kept.append((before, places))
        around = [conv(F.adaptive_avg_pool2d(x, n + 1)) for n, conv in enumerate(self.means)]
        around = [F.interpolate(F.relu(mean), x.shape[2:], mode="bilinear") for mean in around]
        x = minidl.concatenate([x, *around], 1) if around else x
        for up, convolve, (before, places) in zip(self.up, self.decoder, kept[::-1], strict=False):
            x = up(x)
            if self.kind == "unpooling":
                x = F.max_unpool2d(x, places, 2, output_size=before.shape[2:])
            elif self.kind != "transposed":
                mode = "bilinear" if self.kind == "bilinear" else "nearest"
                x = F.interpolate(x, before.shape[2:], mode=mode)
            x = convolve(minidl.concatenate([x, before], 1) if self.kind == "skips" else x)
        x = self.head(x)
        return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear")


# %% [markdown]
# ## 4. All runs
# With one seed, all nets see the same batches. In the table, `sees` is the receptive field of the
# encoder in pixels, and kB the memory of all layers' outputs for one image. **Predict, then run:**
# which has the best mIoU: skips, no pooling or dilation? Which costs most?


# %%
def run(kind, seed):
    model = Net(kind, seed).to(chapter.device)
    options = {"transform": normalize, "device": chapter.device, "batch_size": chapter.batch_size}
    order = np.random.default_rng((seed, 1))
    batches = DataLoader(images[0], masks[0], shuffle=True, rng=order, **options)
    adam = optim.Adam(model.parameters(), lr=chapter.lr)
    schedule = optim.OneCycleLR(adam, chapter.lr, chapter.epochs * len(batches))
    started = time.perf_counter()
    for _ in range(chapter.epochs):
        for pixels, labels in batches:
            loss = F.cross_entropy(model(pixels), labels, ignore_index=ignored)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    seconds = (time.perf_counter() - started) / chapter.epochs
    predicted = training.predict(model, DataLoader(images[1], masks[1], **options)).argmax(1)
    if seed == chapter.seed:
        np.save(chapter.out / f"{kind}.npy", predicted[shown])
    return dict(zip(MEASURED, (*scores(predicted), seconds), strict=True))


names = "data", "all_classes", "size", "epochs", "batch_size", "lr", "device"
settings = {name: getattr(chapter, name) for name in names}
settings["pixels"] = f"{zlib.crc32(images[0].tobytes() + images[1].tobytes()):08x}"
keys, code = ("net", "seed"), [block, Net, run]
runs = chapter.load(Runs, chapter.out / "runs.csv", settings, keys, MEASURED, functions=code)
seeds = range(chapter.seed, chapter.seed + chapter.seeds)
with chapter.interruptible("run the same command to resume"):
    runs.complete([(kind, seed) for seed in seeds for kind in KINDS], run)
values = {(k, m): np.array([runs[k, s][m] for s in seeds]) for k in KINDS for m in MEASURED}
mean = {key: found.mean() for key, found in values.items()}
spread = {key: found.std(ddof=1) if len(found) > 1 else 0.0 for key, found in values.items()}
costs = {kind: summary(Net(kind, 0), images[0].shape[1:]) for kind in KINDS}
print("\n| net | mIoU, % | boundary F1, % | parameters | multiply-adds | sees | kB | s per epoch |")
print("| --- " * 8 + "|")
for kind, cost in costs.items():
    cells = [f"{mean[kind, m]:.1f} +- {spread[kind, m]:.1f}" for m in MEASURED[:2]]
    encoded = [layer for layer in cost.layers if layer.name.startswith("encoder.2")]
    cells += [f"{cost.parameters:,}", f"{cost.multiply_adds:,}", encoded[-1].receptive_field[0]]
    cells += [f"{cost.memory / 1024:,.0f}", f"{values[kind, 'seconds'].min():.2f}"]
    print(f"| {kind} | {' | '.join(map(str, cells))} |")
print("Points of difference (in brackets if the bars, mean +- spread, touch):")
for net, other in [("skips", "no pooling"), *[(net, "nearest") for net in STEPS[1:]]]:
    found = []
    for m in MEASURED[:2]:
        points, bars = mean[net, m] - mean[other, m], spread[net, m] + spread[other, m]
        found.append(f"{m} {points:+.1f}" if abs(points) > bars else f"({m} {points:+.1f})")
    print(f"  {net} against {other}: {', '.join(found)}")
rows |= {kind: colours[np.load(chapter.out / f"{kind}.npy")] for kind in KINDS}
chapter.keep(
    *(lambda: plots.image_rows(rows), "predictions"),
    "coarse answers are blobs without holes; skips and nets without pooling follow the outlines",
)
chapter.result(f"skips {mean['skips', 'mIoU']:.1f}%, coarse {mean['coarse', 'mIoU']:.1f}%")

# %% [markdown]
# ## What surprised
# Does pooling hurt? Without a way back, by 8 points of mIoU: `coarse` loses even to `1 x 1`, which
# sees no shapes. But skips get all of it back, for a quarter of the multiply-adds of `no pooling`.
# Learned kernels and kept places get back a third; smooth interpolation, and means over regions,
# nothing. Seeing far (`dilated`) adds little here; with `--all-classes` it may count for more.

# %% [markdown]
# ## What comes next
# Fill in chapters/exercises/ch14_segmentation.py; `python -m pytest chapters/exercises -k ch14`
# (after `pip install -e '.[test]'`, the README's second command) tells you what is right.
#
# 1. `iou`: the intersection over union of one class.
# 2. `unpool`: each maximum back where it was.
# 3. `transposed`: a transposed convolution in one dimension, by loops.
#
# **Change this and explain:** train with `--epochs 1`. Who wins when time is short?
#
# **Further reading:** Ronneberger et al., [U-Net](https://arxiv.org/abs/1505.04597) (2015); Yu and
# Koltun, [Dilated convolutions](https://arxiv.org/abs/1511.07122) (2015).
