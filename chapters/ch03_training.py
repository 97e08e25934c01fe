"""Chapter 3. Training: batches, epochs, what is learnt and what is only remembered.

What you will learn: why one trains in batches, and what a batch's gradient is worth; what an epoch
is; how to see under- and overfitting; four optimisers side by side; and how good a network without
convolutions gets at pictures: the baseline that chapter 6 has to beat.

    python chapters/ch03_training.py                    # embedded toy pictures, offline
    python chapters/ch03_training.py --data cifar10     # the real ones (170 MB, downloaded once)

You need: chapters 1 and 2.

What to expect: the baseline learns its own pictures by heart, and gets two thirds of the others
right (64 to 65 % from three seeds). Before it come twenty short trainings, one for each optimiser
and rate.

Result: test accuracy 62 to 68 %, training accuracy 98 to 100 %; about 40 s on 2 cores.
With --quick: test accuracy 14 to 32 %, training accuracy 45 to 80 %; about 4 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import minidl
from minidl import Tensor, nn, optim
from minidl.data import DataLoader, Normalize, load_cifar10, load_toy10
from minidl.functional import cross_entropy
from minidl.inspect import plots
from minidl.training import accuracy

# %% What can be chosen
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", choices=["toy", "cifar10"], default="toy", help="which pictures")
parser.add_argument("--data-dir", type=Path, help="where CIFAR-10 is, as archive or folder")
parser.add_argument("--epochs", type=int, help="passes over the data for the baseline (15)")
parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="few pictures, few epochs: seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch03"), help="folder for the pictures")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.epochs is None:
    args.epochs = 3 if args.quick else 15
if args.seed < 0 or args.epochs < 1:
    parser.error("wants --seed from 0 and --epochs from 1")
if args.data_dir and args.data != "cifar10":
    parser.error("--data-dir goes with --data cifar10")
started = time.perf_counter()
try:
    minidl.zeros(1, device=args.device)  # a missing GPU, or a full disk, is better known now
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data == "cifar10":
        train, test = load_cifar10(args.data_dir, download=args.data_dir is None)
    else:
        train, test = load_toy10()
except (OSError, ValueError, RuntimeError) as error:
    parser.error(str(error))
if args.quick:
    train, test = train.first(1000), test.first(500)
normalize = Normalize.fit(train.images)  # mean 0, standard deviation 1 in each colour
rng = minidl.manual_seed(args.seed)


def keep(figure, name):
    print("picture:", plots.save(figure, args.out / f"{name}.png").resolve())


# %% 1. The network: a multilayer perceptron (MLP)
# A picture of 3 x 32 x 32 pixels, written as one row of 3,072 numbers; a hidden layer as in chapter
# 2; a score for each class. What is where in the picture is not built in: exchange two pixels in
# all pictures, and it would learn just as well.
def mlp(hidden, seed=args.seed):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Flatten(),  # (n, 3072)
        nn.Linear(3 * 32 * 32, hidden, rng=rng),
        nn.ReLU(),
        nn.Linear(hidden, 10, rng=rng),
    ).to(args.device)


# %% 2. Batches, by hand
# With 10 pictures and batches of 4, an epoch, one pass over the data, has 3 steps: 4, 4 and 2
# pictures. A batch's loss is the mean over its pictures, so its gradient is the mean of theirs; and
# the gradient of all 10 is the mean of the batches', weighted by their sizes: (4, 4, 2) / 10.
ten = Tensor(normalize(train.images[:10])), Tensor(train.labels[:10])
model = mlp(16).to("cpu")
weight = model[1].weight


def gradient(chosen):
    """Return the gradient of the first layer's weights from some of the ten pictures."""
    model.zero_grad()
    cross_entropy(model(ten[0][chosen]), ten[1][chosen]).backward()
    return weight.grad.numpy().copy()


by_batches = np.zeros(weight.shape)
for chosen in (slice(0, 4), slice(4, 8), slice(8, 10)):
    by_batches += gradient(chosen) * (chosen.stop - chosen.start) / 10
np.testing.assert_allclose(by_batches, gradient(slice(0, 10)), atol=1e-5)
sizes = [len(y) for _, y in DataLoader(train.images[:10], train.labels[:10], batch_size=4)]
assert sizes == [4, 4, 2]

# %% Why batches: one at a time is slow, all at once is wasteful
# One picture's gradient is a noisy guess of the gradient of all. The mean of B independent guesses
# is off by 1 / sqrt(B) as much. So four times the batch costs up to four times the work, for half
# the noise. Small batches, though, leave the processor idle: the time per picture falls until it is
# busy. In between, tens or hundreds, is where one trains.
images = Tensor(normalize(train.images[:1000]), device=args.device)
labels = Tensor(train.labels[:1000], device=args.device)
model = mlp(16)


def slope_and_time(chosen):
    """Return the gradient from some pictures, as one row, and the seconds that it took."""
    model.zero_grad()
    began = time.perf_counter()
    cross_entropy(model(images[chosen]), labels[chosen]).backward()
    gradient = model[1].weight.grad.numpy().ravel()
    return gradient, time.perf_counter() - began


truth, _ = slope_and_time(np.arange(1000))
batch_sizes, noise, cost = [1, 4, 16, 64, 256], [], []
for size in batch_sizes:
    drawn = [slope_and_time(rng.choice(1000, size, replace=True)) for _ in range(20)]
    errors = [np.linalg.norm(g - truth) / np.linalg.norm(truth) for g, _ in drawn]
    noise.append(np.sqrt(np.mean(np.square(errors))))
    cost.append(1e6 * min(seconds for _, seconds in drawn) / size)
print("batch size:           ", *(f"{size:8}" for size in batch_sizes))
print("error / gradient:     ", *(f"{error:8.1f}" for error in noise))
print("µs per picture:       ", *(f"{us:8.1f}" for us in cost))
print(f"in batches of 256, a picture is {cost[0] / cost[-1]:.0f} times faster than alone")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.loglog(batch_sizes, noise, "o-", color=plots.COLOURS[0], label="measured")
by_rule = noise[0] / np.sqrt(batch_sizes)
left.loglog(batch_sizes, by_rule, "--", color="black", label="1 / sqrt(batch size)")
left.set(title="What a batch's gradient is worth", ylabel="error of the gradient / its length")
left.set_yticks([1, 2, 5, 10, 20], [1, 2, 5, 10, 20])
left.legend()
right.loglog(batch_sizes, cost, "o-", color=plots.COLOURS[1])
right.set(title="What it costs", ylabel="time per picture (µs)")
right.set_yticks([5, 10, 50, 100, 500], [5, 10, 50, 100, 500])
for axes in (left, right):
    axes.set(xlabel="batch size (pictures)")
    axes.set_xticks(batch_sizes, batch_sizes)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
keep(figure, "batches")


# %% 3. The training loop
# An epoch: every picture once, in a new order. Then measure, on the pictures that it learns from
# and on others. Whatever later chapters train, they train in this loop.
def measure(model, part):
    """Return mean loss and accuracy on a part of the data, without recording anything."""
    model.eval()
    found, losses = [], 0.0
    batches = DataLoader(part.images, part.labels, batch_size=500, transform=normalize)
    with minidl.no_grad():
        for images, labels in batches:
            scores = model(images.to(args.device))
            losses += cross_entropy(scores, labels.to(args.device)).item() * len(labels)
            found.append(scores.numpy().argmax(1))
    model.train()
    return losses / len(part.labels), accuracy(np.concatenate(found), part.labels)


def fit(model, optimizer, train, epochs, title):
    """Train; return loss and accuracy after each epoch."""
    batches = DataLoader(
        train.images,
        train.labels,
        shuffle=True,
        transform=normalize,
        rng=np.random.default_rng(args.seed),  # all fits see the same batches
        device=args.device,
    )
    history = {n: [] for n in ("train_loss", "test_loss", "train_accuracy", "test_accuracy")}
    for _ in tqdm(range(epochs), title, disable=not sys.stderr.isatty()):
        for images, labels in batches:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not math.isfinite(loss.item()):
            sys.exit(f"{title}: the loss is {loss.item()}: try a smaller learning rate")
        (a, b), (c, d) = measure(model, train), measure(model, test)
        for name, value in zip(history, (a, c, b, d), strict=True):
            history[name].append(value)
    print(f"{title}: {b:.1%} of its own pictures, {d:.1%} of the test pictures")
    return history


# %% 4. Underfitting and overfitting
# A net that is too small cannot even learn its own pictures: underfitting. A net that has more
# weights than it has seen facts learns them by heart: its loss on them goes to 0, while on others
# it first falls and then *rises*, surer and surer of wrong answers: overfitting. The gap between
# the two curves shows it; stop where the test loss is lowest, or, better, get more data.
few = train.first(500 if args.quick else 2000)
rounds = 10 if args.quick else 30
cases = {
    "3 hidden numbers: underfitting": mlp(3),
    "256 hidden numbers: overfitting": mlp(256),
}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for axes, (title, model) in zip(panels, cases.items(), strict=True):
    history = fit(model, optim.Adam(model.parameters()), few, rounds, title)
    losses = history["test_loss"]
    epochs = range(1, rounds + 1)
    axes.plot(epochs, history["train_loss"], color=plots.COLOURS[0], label="its own pictures")
    axes.plot(epochs, losses, color=plots.COLOURS[1], label="test pictures")
    axes.axhline(math.log(10), color="#999999", ls=":", label="guessing: ln 10 = 2.30")
    best = int(np.argmin(losses))
    axes.plot(best + 1, losses[best], "v", color="black", label=f"lowest: epoch {best + 1}")
    axes.set(title=title, xlabel="epoch", ylim=(0, 3.2))
    axes.legend(fontsize=8, loc=(0.45, 0.17)), axes.grid(alpha=0.3)
panels[0].set_ylabel("cross-entropy")
figure.suptitle(f"Two nets, trained on {len(few.labels):,} pictures")
keep(figure, "fitting")

# %% 5. Optimisers side by side
# All move against the gradient g. They differ in what they make of earlier ones:
#
#     SGD            w -= lr * g
#     momentum       v = 0.9 v + g;                        w -= lr * v         keeps going
#     RMSprop        s = 0.99 s + 0.01 g**2;               w -= lr * g / sqrt(s)
#     Adam           both: m, a mean of g, over sqrt(s), with both corrected for starting at 0
#
# Dividing by sqrt(s) gives each weight steps of about lr, whatever the size of its gradient: small
# gradients move too. An optimiser is only as good as its learning rate, so each gets five to choose
# from; or the comparison would be of rates.
candidates = {
    "SGD": (lambda p, lr: optim.SGD(p, lr=lr), (0.3, 0.1, 0.03, 0.01, 0.003)),
    "momentum": (lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9), (0.1, 0.03, 0.01, 0.003, 0.001)),
    "RMSprop": (lambda p, lr: optim.RMSprop(p, lr=lr), (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)),
    "Adam": (lambda p, lr: optim.Adam(p, lr=lr), (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for (name, (build, rates)), colour in zip(candidates.items(), plots.COLOURS, strict=False):
    runs = []
    for lr in rates[1:3] if args.quick else rates:
        model = mlp(64)  # the same weights to start from
        history = fit(model, build(model.parameters(), lr), few, 5, f"{name}, lr {lr:g}")
        runs.append((history["train_loss"][-1], lr, history["train_loss"]))
    final, lr, losses = min(runs)
    left.plot(range(1, 6), losses, "o-", color=colour, label=f"{name}, lr {lr:g}")
    right.semilogx([lr for _, lr, _ in runs], [loss for loss, *_ in runs], "o-", color=colour)
left.set(xlabel="epoch", ylabel="cross-entropy on its own pictures", title="With the best rate")
right.set(xlabel="learning rate", title="After epoch 5, with each rate", ylim=(0, 3.5))
left.set_xticks(range(1, 6)), left.legend(), left.grid(alpha=0.3), right.grid(alpha=0.3)
keep(figure, "optimisers")

# Momentum and Adam end alike, plain SGD behind them; and a good rate for one is off by a factor of
# a hundred for another. So compare, or tune, with several rates.

# %% 6. The baseline
model = mlp(256)
adam = optim.Adam(model.parameters(), lr=3e-4)
history = fit(model, adam, train, args.epochs, f"baseline, {len(train.labels):,} pictures")
keep(plots.training_curves(history), "baseline")

# The first layer's weights are pictures themselves: what each hidden number looks for. They are
# strokes, rings and dots, each at one place: a star further left is another star to this net.
first_layer = model[1].weight.numpy().reshape(-1, 3, 32, 32)
largest = np.argsort(-np.abs(first_layer).sum((1, 2, 3)))[:32]
keep(plots.kernels(first_layer[largest], "What 32 of 256 hidden numbers look for"), "weights")

# %% The result
weights = sum(p.size for p in model.parameters())
print(f"the baseline has {weights:,} parameters")
print(
    f"result: test accuracy {history['test_accuracy'][-1]:.1%} after {args.epochs} epochs, "
    f"training accuracy {history['train_accuracy'][-1]:.1%}; {time.perf_counter() - started:.0f} s"
)
plots.show()

# %% What comes next
# Chapter 4 asks the same small question at every place of a picture: convolution. With it, chapter
# 6 gets 97 % and more where this net stops at two thirds, with a sixth of the parameters. The
# optimisers are minidl/optim/rules.py: an update of a few lines each.
#
# Fill in chapters/exercises/ch03_training.py; `pytest chapters/exercises -k ch03` says what is
# right and what is not yet.
#
# 1. `batches`: one epoch of shuffled batches, every picture exactly once, the smaller last one too.
# 2. `adam_step`: one update of Adam, with its bias correction.
# 3. `stopping`: early stopping: which epoch was best, and after which one training ends.
