"""Chapter 8. Does pooling help, which kind, and how much? A controlled experiment.

Result: max pooling 66 to 75 %, no pooling 56 to 66 %; takes 2.6 times as long as chapter 7.
With --quick: max pooling 5 to 30 %, no pooling 5 to 30 %.
"""

# %% [markdown]
# # 8. Pooling experiments
#
# Train one network twice with different seeds, and its accuracy differs by a percentage point or
# two. So if network A beats network B by a point, another seed might turn the order around. A
# **controlled experiment** changes one thing at a time and keeps everything else the same, even the
# initial weights and the order of the images; and it repeats each run with several seeds: a
# difference counts only if it is larger than the spread over the seeds.
#
# **What you will learn:** how to compare networks so that the result means something; what pooling
# does for accuracy, for cost, and against overfitting. **You need:** chapters 5 to 7.

# %%
import math
import time
import zlib
from typing import NamedTuple

import numpy as np

from minidl import nn, optim, training
from minidl.chapter import IMAGES, Chapter, Runs
from minidl.data import DataLoader, Normalize
from minidl.functional import cross_entropy
from minidl.inspect import plots, summary

chapter = Chapter(
    __doc__,
    **IMAGES,  # --data, --data-dir
    examples=({"toy": 2000, "cifar10": 10_000, "quick": 96}, "training images"),
    epochs=({"toy": 4, "cifar10": 2, "quick": 1}, "passes over them"),
    batch_size=({"toy": 16, "cifar10": 32}, "images per step"),
    lr=(1e-3, "Adam's learning rate"),
    seeds=({"toy": 3, "quick": 2}, "runs of each network, the first with --seed"),
)
if chapter.seeds < 2:
    chapter.error(f"got --seeds {chapter.seeds}, expected >= 2: one run has no spread")
train, _, test = chapter.images()  # nothing is chosen here, so no validation set is needed
train, test = train.first(chapter.examples), test.first(100 if chapter.quick else 10_000)
normalize = Normalize.fit(train.images)

# %% [markdown]
# ## 1. The networks
# Two convolutions, each followed by the pooling under test, and a linear layer. Starting from max
# pooling with 2 x 2 windows and stride 2, either the kind or the window and stride are changed.
# `strided` has no pooling: its convolutions skip pixels. One thing cannot stay the same: where more
# pixels are left, the linear layer needs more parameters.


# %%
class Net(NamedTuple):
    kind: str
    window: int = 2
    stride: int = 2

    def __str__(self) -> str:
        size = f" {self.window}x{self.window} / {self.stride}"
        return self.kind + size * (self.kind != "none")


def network(net: Net, seed: int) -> nn.Sequential:
    kind, window, stride = net
    weights, draws = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    pool = {
        "max": lambda: nn.MaxPool2d(window, stride),
        "average": lambda: nn.AvgPool2d(window, stride),
        "LP": lambda: nn.LPPool2d(2, window, stride),
        "stochastic": lambda: nn.StochasticPool2d(window, stride, rng=draws),
        "mixed": lambda: nn.MixedPool2d(window, stride, alpha=0.5),
        "GeM": lambda: nn.GeMPool2d(3.0, window, stride),  # its power is learned
    }
    step = stride if kind == "strided" else 1
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16)):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride=step, padding=1, rng=weights))
        layers.append(nn.ReLU())  # before pooling: stochastic and GeM need values >= 0
        if kind in pool:
            layers.append(pool[kind]())
    layers.append(nn.Flatten())
    features = summary(nn.Sequential(*layers), (3, 32, 32)).layers[-1].output_shape[0]
    return nn.Sequential(*layers, nn.Linear(features, 10, rng=weights))


KINDS = ("max", "average", "LP", "stochastic", "mixed", "GeM")
none, usual = Net("none"), Net("max")
kinds = [none, Net("strided", 3), *map(Net, KINDS)]
windows = [Net("max", w, s) for w, s in ((2, 1), (2, 2), (2, 3), (3, 2), (3, 3))]
dense, nets = windows[0], list(dict.fromkeys(kinds + windows))  # each once

# %% [markdown]
# ## 2. One run
# With the same seed, all nets start from the same kernels and see the same batches. The accuracy is
# measured on the test images, after training: no epoch, rate or net is chosen on them. How far it
# lies below the accuracy on the training images is the **generalisation gap**: large if a net
# memorises.


# %%
def run(net: Net, seed: int) -> dict[str, float]:
    model = network(net, seed).to(chapter.device)
    options = {"batch_size": chapter.batch_size, "transform": normalize, "device": chapter.device}
    order = np.random.default_rng((seed, 2))
    batches = DataLoader(train.images, train.labels, shuffle=True, rng=order, **options)
    adam = optim.Adam(model.parameters(), lr=chapter.lr)
    started = time.perf_counter()
    for _ in range(chapter.epochs):
        for images, labels in batches:
            loss = cross_entropy(model(images), labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"the loss of {net} is {loss.item()}")
    seconds = (time.perf_counter() - started) / chapter.epochs
    options["batch_size"] = 250
    shares = []
    for part in (test, train):
        scores = training.predict(model, DataLoader(part.images, part.labels, **options))
        shares.append(100 * training.accuracy(scores.argmax(1), part.labels))
    return dict(zip(MEASURED, (*shares, shares[1] - shares[0], seconds), strict=True))


MEASURED = ("accuracy", "training accuracy", "gap", "seconds")

# %% [markdown]
# ## 3. All runs
# `Runs` keeps each finished run in a file, with all that it depends on: the settings, the pixels,
# the source of the two functions above. Stop at any time: the same command continues.
#
# **Predict, then run:** which is best: max pooling, average pooling, or none? Which overfits most?

# %%
names = ("data", "epochs", "batch_size", "lr", "device")
settings = {name: getattr(chapter, name) for name in names}
settings["pixels"] = f"{zlib.crc32(train.images.tobytes() + test.images.tobytes()):08x}"
path = chapter.out / "runs.csv"
runs = chapter.load(Runs, path, settings, ("net", "seed"), MEASURED, functions=[network, run])
seeds = range(chapter.seed, chapter.seed + chapter.seeds)
print(f"{len(nets)} nets, {len(train.labels):,} training and {len(test.labels):,} test images")
with chapter.interruptible("run the same command to resume"):
    runs.complete([(net, seed) for seed in seeds for net in nets], run)

# %% [markdown]
# ## 4. Mean and spread over the seeds
# A net's time is the shortest over the seeds: other programs on the machine can only make a run
# longer.


# %%
values = {(n, m): np.array([runs[n, s][m] for s in seeds]) for n in nets for m in MEASURED}
mean = {key: found.mean() for key, found in values.items()}
spread = {key: found.std(ddof=1) for key, found in values.items()}
sizes = {net: summary(network(net, 0), (3, 32, 32)) for net in nets}
print("\n| net | test, % | training, % | gap, % | s per epoch | parameters | multiply-adds |")
print("| --- " * 7 + "|")
for net in nets:
    cells = [f"{mean[net, m]:.1f} +- {spread[net, m]:.1f}" for m in MEASURED[:3]]
    cells += [f"{values[net, 'seconds'].min():.2f}", f"{sizes[net].parameters:,}"]
    print(f"| {net} | {' | '.join(cells)} | {sizes[net].multiply_adds:,} |")

# %% [markdown]
# ## 5. Conclusions
# A difference counts if the bars from mean - spread to mean + spread do not touch. Two equally good
# nets are called different by chance in 8 of 100 comparisons with 3 seeds, in 2 of 100 with 5. So
# if all nets were equally good, about two of the 25 comparisons below would still find differences.


# %%
def compare(title: str, others: list[Net], reference: Net, measure: str = "accuracy") -> None:
    """Print for each network whether it differs from the reference by more than the spread."""
    at = f"{mean[reference, measure]:.1f} +- {spread[reference, measure]:.1f}"
    print(f"\n{title} {measure.capitalize()} compared with {reference} ({at} %):")
    for net in others:
        points = mean[net, measure] - mean[reference, measure]
        verdict = f"{'higher' if points > 0 else 'lower'} by {abs(points):.1f} points"
        if abs(points) <= spread[net, measure] + spread[reference, measure]:
            verdict = f"no difference beyond the spread ({points:+.1f} points)"
        print(f"  {net}: {verdict}")


compare("Does pooling help?", kinds[1:], none)
print(f"  {usual} needs {sizes[usual].parameters / sizes[none].parameters:.0%} of the parameters")
compare("Is another kind better?", [net for net in kinds if net not in (none, usual)], usual)
compare("Which window and stride?", [net for net in windows if net != usual], usual)
compare("Does pooling prevent overfitting?", [*kinds[1:], dense], none, "gap")
fits = [f"{mean[net, 'training accuracy']:.0f}%" for net in (dense, none)]
print(f"  {dense} fits {fits[0]} of the training images (none: {fits[1]}), with", end=" ")
print(f"{mean[dense, 'gap'] / mean[none, 'gap']:.0%} of its gap")

# %% [markdown]
# With 2,000 toy images, max and LP pooling beat no pooling by 10 points, with a fourteenth of the
# parameters. Pooling reduces overfitting but does not prevent it. Fewer weights are one reason, and
# most of these nets have not yet learned all training images. But max pooling with stride 1, which
# saves hardly any weights and fits as well as no pooling, nearly halves the gap: *whether* a
# feature is there generalises better than exactly *where*.


# %% tags=["hide-input"]
def draw_accuracy():
    figure, ax = plots.subplots(figsize=(7, 5.5))
    for row, net in enumerate(nets):
        tested, fitted = mean[net, "accuracy"], mean[net, "training accuracy"]
        ax.plot([tested, fitted], [row, row], ":", color="#999999")
        ax.plot(values[net, "accuracy"], [row] * len(seeds), "o", color="#999999", markersize=4)
        ax.plot(fitted, row, "s", color=plots.COLOURS[1])
        look = {"fmt": "D", "color": plots.COLOURS[0], "capsize": 4}
        ax.errorbar(tested, row, xerr=spread[net, "accuracy"], **look)
    ax.set_yticks(range(len(nets)), list(map(str, nets)))
    ax.set(xlabel="accuracy (%)", ylim=(len(nets) - 0.5, -0.5))
    ax.set_title("Squares: training images. Diamonds: test images (grey: runs)", size=11)
    return figure


chapter.keep(
    draw_accuracy,
    "accuracy",
    "bars that do not touch differ by more than the spread; the longer the dotted line, the more a "
    "network has memorised, and without pooling (top) it is longest",
)
best = mean[usual, "accuracy"], mean[none, "accuracy"]
chapter.result("max pooling {:.1f}%, no pooling {:.1f}%".format(*best))

# %% [markdown]
# ## What comes next
# Chapter 9 pools over sentences instead of images. Fill in
# chapters/exercises/ch08_pooling_experiments.py; `python -m pytest chapters/exercises -k ch08`
# (after `pip install -e '.[test]'`, the README's second command) tells you which answers are right
# and which are not there yet.
#
# 1. `cost`: count the parameters and multiply-adds of a convolution by hand.
# 2. `mean_and_spread`: mean and sample standard deviation over seeds, and whether two nets differ.
# 3. `paired`: mean and spread of the differences, seed by seed. Which conclusions change?
#
# **Change this and explain:** replace `nn.Flatten()` by `nn.GlobalAvgPool()`, with max pooling:
# after 4 epochs it seems bad; with `--epochs 30 --lr 1e-2`, its 1,562 parameters get over 90 %. Are
# 4 epochs for all networks a fair comparison?
#
# **Further reading:** Springenberg et al., [Striving for simplicity: the all convolutional
# net](https://arxiv.org/abs/1412.6806) (2014): strided convolutions instead of pooling.
