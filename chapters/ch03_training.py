"""Chapter 3. Training: batches, epochs, what is learned and what is only memorised.

What you will learn: why we train in batches, and how accurate a batch's gradient is; what an epoch
is; how to see under- and overfitting; four optimisers side by side; and how well a network without
convolutions does on images: the baseline that chapter 7 has to beat.

    python chapters/ch03_training.py                    # built-in toy images, offline
    python chapters/ch03_training.py --data cifar10     # CIFAR-10 (170 MB, downloaded once)

You need: chapters 1 and 2.

What to expect: the baseline memorises the training images, and gets two thirds of the test images
right (64 to 65 % over three seeds). Before that, the chapter makes twenty short training runs, one
for each optimiser and learning rate.

Result: test accuracy 62 to 68 %, training accuracy 98 to 100 %; about 40 s on 2 cores.
With --quick: test accuracy 14 to 32 %, training accuracy 45 to 80 %; about 4 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import minidl
from minidl import Tensor, nn, optim
from minidl.data import DataLoader, Normalize, load_cifar10, load_toy10
from minidl.functional import cross_entropy
from minidl.inspect import plots
from minidl.training import Output, accuracy

# %% Options
plt = plots.pyplot()
# Print in any encoding, and go on when nobody reads.
sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--data", choices=["toy", "cifar10"], default="toy", help="which images")
parser.add_argument("--data-dir", type=Path, help="CIFAR-10, as an archive or a folder")
parser.add_argument("--epochs", type=int, help="passes over the data for the baseline (15)")
parser.add_argument("--seed", type=int, default=0, help="seed for weights and batches")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="few images and epochs; takes seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch03"), help="folder for the figures")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.epochs is None:
    args.epochs = 3 if args.quick else 15
if args.seed < 0 or args.epochs < 1:
    parser.error("expected --seed >= 0 and --epochs >= 1")
if args.data_dir and args.data != "cifar10":
    parser.error("--data-dir goes with --data cifar10")
started = time.perf_counter()
try:
    minidl.zeros(1, device=args.device)  # fail early: no GPU, or a full disk
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data == "cifar10":
        train, test = load_cifar10(args.data_dir, download=args.data_dir is None)
    else:
        train, test = load_toy10()
except (OSError, ValueError, RuntimeError) as error:
    parser.error(str(error))
if args.quick:
    train, test = train.first(1000), test.first(500)
normalize = Normalize.fit(train.images)  # mean 0, standard deviation 1 per colour
rng = minidl.manual_seed(args.seed)


def keep(figure, name):
    try:
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
    except OSError as error:  # for example, the disk is full
        print("no figure:", error)


# %% 1. The network: a multilayer perceptron (MLP)
# An image of 3 x 32 x 32 pixels, flattened to a row of 3,072 numbers; a hidden layer as in chapter
# 2; a score for each class. The network does not know which pixels are neighbours: swap the same
# two pixels in all images, and it learns just as well.
def mlp(hidden, seed=args.seed):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Flatten(),  # (n, 3072)
        nn.Linear(3 * 32 * 32, hidden, rng=rng),
        nn.ReLU(),
        nn.Linear(hidden, 10, rng=rng),
    ).to(args.device)


# %% 2. Batches, by hand
# With 10 images and batches of 4, an epoch (one pass over the data) has 3 steps: 4, 4 and 2 images.
# A batch's loss is the mean over its images, so its gradient is the mean of their gradients; and
# the gradient of all 10 is the mean of the batch gradients, weighted by size: (4, 4, 2) / 10.
ten = Tensor(normalize(train.images[:10])), Tensor(train.labels[:10])
model = mlp(16).to("cpu")
weight = model[1].weight


def gradient(chosen):
    """Return the gradient of the first layer's weights on some of the ten images."""
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
# One image's gradient is a noisy estimate of the gradient of all. The error of the mean of B
# independent estimates is smaller by a factor of sqrt(B). So a batch four times as large costs up
# to four times the work and halves the noise. But small batches leave the processor idle: the time
# per image falls until it is busy. Batches of tens or hundreds are the usual compromise.
images = Tensor(normalize(train.images[:1000]), device=args.device)
labels = Tensor(train.labels[:1000], device=args.device)
model = mlp(16)


def slope_and_time(chosen):
    """Return the gradient on some images, as one row, and how many seconds it took."""
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
print("us per image:         ", *(f"{us:8.1f}" for us in cost))
print(f"per image, batches of 256 are {cost[0] / cost[-1]:.0f} times faster than single images")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.loglog(batch_sizes, noise, "o-", color=plots.COLOURS[0], label="measured")
by_rule = noise[0] / np.sqrt(batch_sizes)
left.loglog(batch_sizes, by_rule, "--", color="black", label="1 / sqrt(batch size)")
left.set(title="Error of a batch's gradient", ylabel="error of the gradient / its length")
left.set_yticks([1, 2, 5, 10, 20], [1, 2, 5, 10, 20])
left.legend()
right.loglog(batch_sizes, cost, "o-", color=plots.COLOURS[1])
right.set(title="Cost", ylabel="time per image (µs)")
right.set_yticks([5, 10, 50, 100, 500], [5, 10, 50, 100, 500])
for axes in (left, right):
    axes.set(xlabel="batch size (images)")
    axes.set_xticks(batch_sizes, batch_sizes)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
keep(figure, "batches")


# %% 3. The training loop
# An epoch visits every image once, in a new order. After each one, measure the network on training
# and test images. All later chapters train with this loop.
def measure(model, part):
    """Return mean loss and accuracy on a part of the data, without recording a graph."""
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
        rng=np.random.default_rng(args.seed),  # every fit gets the same batches
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
    print(f"{title}: accuracy {b:.1%} on training images, {d:.1%} on test images")
    return history


# %% 4. Underfitting and overfitting
# A network that is too small cannot even learn the training images: underfitting. A network with
# more weights than training examples memorises them: its training loss goes to 0, while its test
# loss first falls and then *rises*, as it grows more certain of wrong answers: overfitting. The gap
# between the two curves shows it; stop where the test loss is lowest, or better, get more data.
few = train.first(500 if args.quick else 2000)
rounds = 10 if args.quick else 30
cases = {
    "3 hidden units: underfitting": mlp(3),
    "256 hidden units: overfitting": mlp(256),
}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for axes, (title, model) in zip(panels, cases.items(), strict=True):
    history = fit(model, optim.Adam(model.parameters()), few, rounds, title)
    losses = history["test_loss"]
    epochs = range(1, rounds + 1)
    axes.plot(epochs, history["train_loss"], color=plots.COLOURS[0], label="training images")
    axes.plot(epochs, losses, color=plots.COLOURS[1], label="test images")
    axes.axhline(math.log(10), color="#999999", ls=":", label="guessing: ln 10 = 2.30")
    best = int(np.argmin(losses))
    axes.plot(best + 1, losses[best], "v", color="black", label=f"lowest: epoch {best + 1}")
    axes.set(title=title, xlabel="epoch", ylim=(0, 3.2))
    axes.legend(fontsize=8, loc=(0.45, 0.17)), axes.grid(alpha=0.3)
panels[0].set_ylabel("cross-entropy")
figure.suptitle(f"Two networks, trained on {len(few.labels):,} images")
keep(figure, "fitting")

# %% 5. Optimisers side by side
# All of them move against the gradient g. They differ in how they use earlier gradients:
#
#     SGD            w -= lr * g
#     momentum       v = 0.9 v + g;                        w -= lr * v         keeps going
#     RMSprop        s = 0.99 s + 0.01 g**2;               w -= lr * g / sqrt(s)
#     Adam           both: w -= lr * m / sqrt(s), m a mean of g, both corrected for starting at 0
#
# Dividing by sqrt(s) gives every weight steps of about lr, however small its gradient. An optimiser
# is only as good as its learning rate, so each gets five to choose from; with one rate for all we
# would compare rates, not optimisers.
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
        model = mlp(64)  # the same initial weights
        history = fit(model, build(model.parameters(), lr), few, 5, f"{name}, lr {lr:g}")
        runs.append((history["train_loss"][-1], lr, history["train_loss"]))
    final, lr, losses = min(runs)
    left.plot(range(1, 6), losses, "o-", color=colour, label=f"{name}, lr {lr:g}")
    right.semilogx([lr for _, lr, _ in runs], [loss for loss, *_ in runs], "o-", color=colour)
left.set(xlabel="epoch", ylabel="cross-entropy on training images", title="With the best rate")
right.set(xlabel="learning rate", title="After epoch 5, with each rate", ylim=(0, 3.5))
left.set_xticks(range(1, 6)), left.legend(), left.grid(alpha=0.3), right.grid(alpha=0.3)
keep(figure, "optimisers")

# Momentum and Adam end at about the same loss, plain SGD behind them. A good rate for one optimiser
# can be a hundred times too large for another, so compare and tune with several rates.

# %% 6. The baseline
model = mlp(256)
adam = optim.Adam(model.parameters(), lr=3e-4)
history = fit(model, adam, train, args.epochs, f"baseline, {len(train.labels):,} images")
keep(plots.training_curves(history), "baseline")

# The first layer's weights can be drawn as images: what each hidden unit responds to. They show
# strokes, rings and dots, each in one position: to this network, a star further left is a different
# star.
first_layer = model[1].weight.numpy().reshape(-1, 3, 32, 32)
largest = np.argsort(-np.abs(first_layer).sum((1, 2, 3)))[:32]
keep(plots.kernels(first_layer[largest], "What 32 of 256 hidden units respond to"), "weights")

# %% The result
weights = sum(p.size for p in model.parameters())
print(f"the baseline has {weights:,} parameters")
print(
    f"result: test accuracy {history['test_accuracy'][-1]:.1%} after {args.epochs} epochs, "
    f"training accuracy {history['train_accuracy'][-1]:.1%}; {time.perf_counter() - started:.0f} s"
)
plots.show()

# %% What comes next
# Chapter 4 asks the same small question at every position of an image: convolution. With it,
# chapter 7 reaches 97 % and more where this network stops at two thirds, with a sixth of the
# parameters. The optimisers are in minidl/optim/rules.py: an update of a few lines each.
#
# Fill in chapters/exercises/ch03_training.py; `pytest chapters/exercises -k ch03` tells you which
# answers are right and which are not yet.
#
# 1. `batches`: one epoch of shuffled batches: every image exactly once, the last batch smaller.
# 2. `adam_step`: one update of Adam, with its bias correction.
# 3. `stopping`: early stopping: which epoch was best, and after which one training ends.
