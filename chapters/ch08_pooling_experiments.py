"""Chapter 8. Does pooling help, which kind, and how much? A controlled experiment.

What you will learn: how to compare networks so that the result means something. One thing is
changed at a time; everything else, including the initial weights and the batches, stays the same.
Each net is trained with several seeds, and a difference counts only if it is larger than the spread
over the seeds.

    python chapters/ch08_pooling_experiments.py                 # built-in toy images, offline
    python chapters/ch08_pooling_experiments.py --data cifar10  # the real images
    python chapters/ch08_pooling_experiments.py --full          # every combination of the options

You can stop it at any time: run the same command again to resume.

What to expect on 2 cores: toy images, 51 runs in one and a half to four minutes. Max and LP pooling
(both 71 % test accuracy) beat no pooling (61 %) with a fourteenth of the parameters and a third of
the multiply-adds; average pooling (56 %) and strided convolution (50 %) are worse; stochastic,
mixed and GeM pooling do not differ significantly from no pooling. Windows of 3 and strides of 1
have higher means, but within the spread; a stride of 3 is worse. Four epochs are too few for global
average heads (21 to 32 %).

CIFAR-10, 2 epochs of 10,000 images, ten minutes: max and LP pooling (49 and 50 %) do not differ
significantly from no pooling (50 %); the other kinds and strided convolution are worse; max pooling
with stride 1, which keeps nearly all pixels and costs as much as no pooling, is best (52 %).

Result: best of 17 nets, max pooling 66 to 75 %, no pooling 56 to 66 %; about 90 s on 2 cores.
With --quick: best of 17 nets, max pooling 5 to 30 %, no pooling 5 to 30 %; about 10 s.
"""

import argparse
import csv
import hashlib
import inspect
import io
import math
import os
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import minidl
from minidl import nn, optim
from minidl.data import DataLoader, Normalize, load_cifar10, load_toy10
from minidl.functional import cross_entropy
from minidl.inspect import plots, summary
from minidl.training import Output, accuracy, macro_scores

# %% Options
plt = plots.pyplot()
# Print in any encoding, and go on when nobody reads.
sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--data", choices=["toy", "cifar10"], default="toy", help="which images")
parser.add_argument("--data-dir", type=Path, help="CIFAR-10 archive or folder")
parser.add_argument("--images", type=int, help="training images (toy: 2000, cifar10: 10000)")
parser.add_argument("--epochs", type=int, help="passes over the data (toy: 4, cifar10: 2)")
parser.add_argument("--batch-size", type=int, help="images per step (toy: 16, cifar10: 32)")
parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
parser.add_argument("--seed", type=int, default=0, help="first seed")
parser.add_argument("--seeds", type=int, help="number of seeds, >= 2 (3, quick: 2)")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device to run on")
parser.add_argument("--full", action="store_true", help="every combination: 78 nets instead of 17")
parser.add_argument("--quick", action="store_true", help="few images, one epoch: takes seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch08"), help="folder for the results")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
usual = {"images": 2000, "epochs": 4, "batch_size": 16, "seeds": 3}
if args.data == "cifar10":
    usual |= {"images": 10_000, "epochs": 2, "batch_size": 32}
if args.quick:
    usual |= {"images": 96, "epochs": 1, "seeds": 2}
for name, value in usual.items():
    if getattr(args, name) is None:
        setattr(args, name, value)
if min(args.images, args.epochs, args.batch_size) < 1 or not 0 < args.lr < math.inf:
    parser.error("expected --images, --epochs and --batch-size >= 1, --lr > 0")
if args.seed < 0 or args.seeds < 2:
    parser.error("expected --seed >= 0 and --seeds >= 2: one run has no spread")
if args.data_dir and args.data != "cifar10":
    parser.error("--data-dir goes with --data cifar10")


def keep(figure: plt.Figure, name: str) -> None:
    try:
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
    except OSError as error:  # for example, the disk is full
        print("no figure:", error)


# %% The data
try:
    minidl.zeros(1, device=args.device)  # fail early if there is no GPU or the disk is full
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data == "cifar10":
        train, test = load_cifar10(args.data_dir, download=args.data_dir is None)
    else:
        train, test = load_toy10()
except (OSError, ValueError, RuntimeError) as error:
    parser.error(str(error))
train, test = train.first(args.images), test.first(100 if args.quick else len(test.labels))
normalize = Normalize.fit(train.images)


# %% The networks: two convolutions, each followed by the pooling under test, and a linear layer
class Variant(NamedTuple):
    """One net of the experiment: its name, and everything in which it differs."""

    kind: str
    window: int
    stride: int
    head: str

    def __str__(self) -> str:
        size = "" if self.kind == "none" else f" {self.window}x{self.window} / {self.stride}"
        return f"{self.kind}{size}, {self.head}"


def network(variant: Variant, seed: int) -> nn.Sequential:
    """Build a variant. With the same seed, all variants start from the same kernels."""
    kind, window, stride, head = variant
    weights, draws = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    step = stride if kind == "strided" else 1  # a convolution that skips pixels
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16)):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride=step, padding=1, rng=weights))
        layers.append(nn.ReLU())  # before pooling: stochastic and GeM need values >= 0
        if kind not in ("none", "strided"):
            pool = {
                "max": lambda: nn.MaxPool2d(window, stride),
                "average": lambda: nn.AvgPool2d(window, stride),
                "LP": lambda: nn.LPPool2d(2, window, stride),
                "stochastic": lambda: nn.StochasticPool2d(window, stride, rng=draws),
                "mixed": lambda: nn.MixedPool2d(window, stride, alpha=0.5),
                "GeM": lambda: nn.GeMPool2d(3.0, window, stride),  # its power is learned
            }
            layers.append(pool[kind]())
    # The head turns 16 maps into ten scores: from all their pixels, or only from their means.
    layers.append(nn.Flatten() if head == "flatten" else nn.GlobalAvgPool())
    features = summary(nn.Sequential(*layers), (3, 32, 32)).layers[-1].output_shape[0]
    return nn.Sequential(*layers, nn.Linear(features, 10, rng=weights))


# Starting from "max 2x2 / 2, flatten", one thing is changed at a time: the kind, the window and
# stride, or the head. "strided" has no pooling: its 3 x 3 convolutions have the stride instead. One
# thing cannot stay the same, as the table shows: a flatten head needs more parameters for more
# pixels.
def variant(kind: str, window: int = 2, stride: int = 2, head: str = "flatten") -> Variant:
    """Return a variant; without pooling, window and stride are those of the convolutions."""
    if kind == "none":
        window = stride = 1
    return Variant(kind, 3 if kind == "strided" else window, stride, head)


POOLS = ("max", "average", "LP", "stochastic", "mixed", "GeM")
HEADS = ("flatten", "global average")
questions = {
    "Which kind?": [variant(kind) for kind in ("none", "strided", *POOLS)],
    "Which window and stride?": [variant("max", w, s) for w in (2, 3) for s in (1, 2, 3)],
    "Which head?": [
        variant(kind, head=head) for kind in ("none", "strided", "max", "average") for head in HEADS
    ],
}
variants = [v for asked in questions.values() for v in asked]
if args.full:
    for h in HEADS:
        variants += [variant("strided", 3, stride, h) for stride in (2, 3)]
        variants += [variant(k, w, s, h) for k in POOLS for w in (2, 3) for s in (1, 2, 3)]
variants = list(dict.fromkeys(variants))  # without duplicates


# %% One run: train a variant from one seed, then measure it on the test set
def run(variant: Variant, seed: int, bar: tqdm) -> dict[str, float]:
    """Train and measure; with the same seed, all variants see the same batches."""
    model = network(variant, seed).to(args.device)
    size = summary(model, (3, 32, 32))
    options = {"batch_size": args.batch_size, "transform": normalize, "device": args.device}
    order = np.random.default_rng((seed, 2))
    batches = DataLoader(train.images, train.labels, shuffle=True, rng=order, **options)
    adam = optim.Adam(model.parameters(), lr=args.lr)
    started = time.perf_counter()
    for _ in range(args.epochs):
        for images, labels in batches:
            loss = cross_entropy(model(images), labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
            if not math.isfinite(loss.item()):
                sys.exit(f"the loss of {variant} is {loss.item()}: try a smaller --lr")
            bar.update()
    seconds = (time.perf_counter() - started) / args.epochs
    model.eval()
    with minidl.no_grad():
        scores = [model(x).numpy() for x, _ in DataLoader(test.images, test.labels, **options)]
    predicted = np.concatenate(scores).argmax(1)
    precision, recall, f1 = macro_scores(predicted, test.labels, 10)
    return {
        "accuracy": accuracy(predicted, test.labels),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "seconds": seconds,
    }


# %% All runs, each saved as soon as it is done
# Each row of the file records everything its values depend on, including the source of the
# functions above and the pixels. After a change, earlier rows stay in the file but no longer count.
code = hashlib.sha256((inspect.getsource(network) + inspect.getsource(run)).encode()).hexdigest()
settings = {
    "data": args.data,
    "images": len(train.labels),
    "pixels": f"{zlib.crc32(test.images.tobytes(), zlib.crc32(train.images.tobytes())):08x}",
    "epochs": args.epochs,
    "batch_size": args.batch_size,
    "lr": args.lr,
    "device": args.device,
    "minidl": minidl.__version__,
    "code": code[:8],
}
SHARES = ("accuracy", "precision", "recall", "f1")
COSTS = ("parameters", "multiply_adds", "seconds")
MEASURED = (*SHARES, *COSTS)
VARIED = ("kind", "window", "stride", "head", "seed")
COLUMNS = (*settings, *VARIED, *MEASURED)


def write(path: Path, text: str) -> None:
    """Write a temporary file, then rename it: the file is never half written."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)


file = args.out / "runs.csv"
kept: list[dict[str, str]] = []
if file.exists():
    try:
        with file.open(encoding="utf-8", newline="") as saved:
            kept = list(csv.DictReader(saved, strict=True))
        if any(tuple(row) != COLUMNS or None in row.values() for row in kept):
            raise ValueError("its columns differ")
    except (OSError, ValueError, csv.Error) as error:
        parser.error(f"{file} holds no runs of this chapter ({error}); choose another --out")


def identity(row: dict[str, object]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in COLUMNS if name not in MEASURED)


done = {identity(row): row for row in kept}
planned = {}
for seed in range(args.seed, args.seed + args.seeds):  # outer loop: finish whole comparisons first
    for v in variants:
        row = settings | dict(zip(VARIED, (*v, seed), strict=True))
        planned[identity(row)] = (v, seed, row)
to_do = {key: value for key, value in planned.items() if key not in done}
print(
    f"{len(variants)} nets, {args.seeds} seeds each; {len(train.labels):,} training images, "
    f"{len(test.labels):,} test images; {args.epochs} epochs, batch size {args.batch_size}"
)
print(f"{len(planned)} runs, {len(planned) - len(to_do)} of them already in {file}")
steps = len(to_do) * args.epochs * math.ceil(len(train.labels) / args.batch_size)
started = time.perf_counter()
try:
    with tqdm(total=steps, smoothing=0, unit="step", disable=not sys.stderr.isatty()) as bar:
        for count, (key, (v, seed, row)) in enumerate(to_do.items(), 1):
            bar.set_description(f"{v}, seed {seed}")
            row |= run(v, seed, bar)
            done[key] = {name: str(row[name]) for name in COLUMNS}
            text = io.StringIO()
            table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(done.values())
            write(file, text.getvalue())
            left = (time.perf_counter() - started) / count * (len(to_do) - count)
            bar.write(
                f"{count}/{len(to_do)}: {v}, seed {seed}: accuracy {row['accuracy']:.1%}, "
                f"{row['seconds']:.2f} s per epoch; about {left:.0f} s left"
            )
            sys.stdout.flush()
except KeyboardInterrupt:
    print(f"\nstopped; the finished runs are in {file}; run the same command to resume")
    sys.exit(130)


# %% Mean and spread over the seeds: the table
def values(v: Variant, measure: str = "accuracy") -> np.ndarray:
    """Return one value per seed, shares in percent."""
    rows = [done[key] for key, (planned_for, *_) in planned.items() if planned_for == v]
    return np.array([float(row[measure]) for row in rows]) * (100 if measure in SHARES else 1)


def mean(v: Variant, measure: str = "accuracy") -> float:
    return float(values(v, measure).mean())


def spread(v: Variant, measure: str = "accuracy") -> float:
    return float(values(v, measure).std(ddof=1))


heads = [*(f"{share}, %" for share in SHARES), "s per epoch", "parameters", "multiply-adds"]
lines = [
    ", ".join(f"{name} {value}" for name, value in settings.items()),
    f"\nMean +- standard deviation over {args.seeds} seeds; macro precision, recall and f1.\n",
    f"| net | {' | '.join(heads)} |",
    "| --- |" + " --- |" * len(heads),
]
for v in variants:
    cells = [f"{mean(v, share):.1f} +- {spread(v, share):.1f}" for share in SHARES]
    cells += [f"{mean(v, 'seconds'):.2f} +- {spread(v, 'seconds'):.2f}"]
    cells += [f"{mean(v, count):,.0f}" for count in ("parameters", "multiply_adds")]
    lines.append(f"| {v} | {' | '.join(cells)} |")
print("", *lines, "", sep="\n")
write(args.out / "table.md", "\n".join(lines) + "\n")
print(f"runs: {file.resolve()}\ntable: {(args.out / 'table.md').resolve()}")


# %% Conclusions
# A difference counts if the bars from mean - spread to mean + spread do not touch. Two equally good
# nets are called different by chance in 8 of 100 comparisons with 3 seeds, and in 2 of 100 with 5:
# use more seeds if there are many comparisons or much depends on one.
def compare(title: str, nets: list[Variant], reference: Variant) -> None:
    """Print for each net whether it differs from the reference by more than the spread."""
    print(f"{title} Compared with {reference} ({mean(reference):.1f} +- {spread(reference):.1f}%):")
    for v in nets:
        points = mean(v) - mean(reference)
        told = f"{'better' if points > 0 else 'worse'} by {abs(points):.1f} points"
        if abs(points) <= spread(v) + spread(reference):
            told = f"no difference beyond the spread ({points:+.1f} points)"
        print(f"  {v}: {told}")


kinds, windows, pairs = questions.values()
none, _, usual_net = kinds[:3]
flat, pooled = pairs[::2], pairs[1::2]
print("\nConclusions, from the accuracy")
compare("Does pooling help?", kinds[1:], none)
parts = [f"{mean(usual_net, cost) / mean(none, cost):.0%} of the {cost}" for cost in COSTS]
print(f"  {usual_net} needs {', '.join(parts).replace('_', '-')}")
for title, nets in (("Which kind?", kinds), ("Which window and stride?", windows)):
    best, *others = sorted(nets, key=mean, reverse=True)
    compare(title, others, best)
for with_flat, with_pooled in zip(flat, pooled, strict=True):
    compare("Which head?", [with_pooled], with_flat)
compare("Does pooling help when the head has few parameters anyway?", pooled[1:], pooled[0])

# %% Figures: grey dots are runs, blue bars show mean and spread
bars = {"fmt": "D", "color": plots.COLOURS[0], "capsize": 4, "markersize": 5}
figure, axes = plt.subplots(
    3, 1, figsize=(8, 8.5), sharex=True, layout="constrained", height_ratios=[8, 6, 8]
)
for axis, (title, nets) in zip(axes, questions.items(), strict=True):
    rows = range(len(nets))
    axis.plot([values(v) for v in nets], rows, "o", color="#999999", markersize=4, zorder=1)
    axis.errorbar(list(map(mean, nets)), rows, xerr=list(map(spread, nets)), **bars)
    axis.set_yticks(rows, list(map(str, nets)))
    axis.set(title=title, ylim=(len(nets) - 0.5, -0.5))
    axis.grid(alpha=0.3)
axes[-1].set_xlabel(f"accuracy (%): {args.seeds} seeds (grey), mean ± standard deviation (blue)")
keep(figure, "accuracy")

nets = list(dict.fromkeys([*kinds, *windows, *pairs]))
rows = range(len(nets))
figure, axes = plt.subplots(1, 3, figsize=(11, 6), sharey=True, layout="constrained")
seconds, times = [mean(v, "seconds") for v in nets], [spread(v, "seconds") for v in nets]
axes[0].errorbar(seconds, rows, xerr=times, **bars)
axes[0].set_yticks(rows, list(map(str, nets)))
axes[0].set(xlabel="seconds per epoch", xlim=(0, None), ylim=(len(nets) - 0.5, -0.5))
for axis, cost in zip(axes[1:], COSTS, strict=False):
    drawn = axis.barh(rows, [mean(v, cost) / 1000 for v in nets], 0.6, color=plots.COLOURS[1])
    axis.bar_label(drawn, fmt="{:,.1f}", padding=3)
    axis.set_xlabel(f"thousand {cost.replace('_', '-')}")
    axis.set_xlim(0, 1.4 * max(mean(v, cost) / 1000 for v in nets))  # room for the labels
for axis in axes:
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
keep(figure, "cost")

# %% The result
best = max(variants, key=mean)
print(
    f"result: best of {len(variants)} nets: {best}, with a mean accuracy of {mean(best):.1f}%; "
    f"max pooling {mean(usual_net):.1f}%, no pooling {mean(none):.1f}%"
)
plots.show()

# %% What comes next
# Chapter 9 pools over sentences instead of images.
#
# Fill in chapters/exercises/ch08_pooling_experiments.py; `pytest chapters/exercises -k ch08` tells
# you which answers are right and which are not there yet.
#
# 1. `cost`: count the parameters and multiply-adds of a convolution by hand.
# 2. `mean_and_spread`: mean and sample standard deviation over seeds, and whether two nets differ.
# 3. `paired`: mean and spread of the differences, seed by seed. The nets share their seeds: which
#    conclusions change?
#
# Things to try here:
# - Does pooling itself help, or only having fewer pixels? Add a kind "subsample", which keeps every
#   second pixel unchanged: `nn.MaxPool2d(1, stride)`.
# - All nets are trained with the same --lr. Try 3e-3: some no longer learn at all. Is one learning
#   rate for all a fair comparison? What would be fairer, and what would it cost?
