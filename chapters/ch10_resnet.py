"""Chapter 10. Residual networks: why depth fails without shortcuts, and how they are trained.

What you will learn: how large gradients are in 56 layers with and without shortcuts; how batch
normalisation keeps activations in bounds; how augmentation varies the training images; how a
one-cycle schedule speeds up training; and all four at work in ResNet-20.

    python chapters/ch10_resnet.py                    # built-in toy images, offline
    python chapters/ch10_resnet.py --data cifar10     # real images (170 MB, downloaded once)

What to expect with 56 untrained layers on CIFAR-10, seed 0: without shortcuts, the first layer's
gradient is 663 times as large as the last one's; with them, 3.7 times. Without batch normalisation,
the activations' standard deviation at the end is 18,000; with it, 2.7. ResNet-20 then classifies 98
to 99.6 % of the toy images correctly after three epochs; while the learning rate is high, its test
accuracy jumps up and down.

Result: test accuracy 95 to 100 %; about 70 s on 2 cores.
With --quick: test accuracy 2 to 25 %; about 4 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np

import minidl
from minidl import models, nn, optim
from minidl.data import (
    Compose,
    Cutout,
    DataLoader,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    load_cifar10,
    load_toy10,
)
from minidl.functional import cross_entropy
from minidl.inspect import plots
from minidl.training import Output, fit, save_weights

# %% Options
plt = plots.pyplot()
sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--data", choices=["toy", "cifar10"], default="toy", help="which images")
parser.add_argument("--data-dir", type=Path, help="CIFAR-10 archive or folder")
parser.add_argument("--epochs", type=int, help="passes over the data (toy: 3, cifar10: 10)")
parser.add_argument("--batch-size", type=int, default=128, help="images per step")
parser.add_argument("--lr", type=float, default=0.4, help="peak of the schedule")
parser.add_argument("--seed", type=int, default=0, help="for weights, batches and augmentation")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device to run on")
parser.add_argument("--quick", action="store_true", help="few images, small nets: takes seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch10"), help="folder for the results")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.epochs is None:
    args.epochs = 1 if args.quick else 10 if args.data == "cifar10" else 3
if min(args.epochs, args.batch_size) < 1 or args.seed < 0 or not 0 < args.lr < math.inf:
    parser.error("expected --epochs and --batch-size >= 1, --seed >= 0, --lr > 0")
if args.data_dir and args.data != "cifar10":
    parser.error("--data-dir goes with --data cifar10")

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
if args.quick:
    train, test = train.first(512), test.first(128)
normalize = Normalize.fit(train.images)
print(f"{len(train.labels):,} training images, {len(test.labels):,} test images")


def picture(figure: plt.Figure, name: str) -> None:
    """Save a figure and print where."""
    try:
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
    except OSError as error:  # for example, the disk is full
        print("no figure:", error)


# %% Depth without shortcuts
# A block computes f(x), two convolutions with batch normalisation. A plain network passes on f(x);
# a residual network passes on relu(x + f(x)), so that the gradient also flows past every block
# unchanged. Two networks with the same weights, one backward pass each:
depth = 2 if args.quick else 9  # blocks in each of three stages: 6 * depth + 2 layers
layers = 6 * depth + 2
sample = minidl.Tensor(normalize(train.images[:32]), device=args.device)
labels = minidl.Tensor(train.labels[:32], device=args.device)
deep = {
    name: models.CifarResNet(depth, shortcut=shortcut, rng=np.random.default_rng(args.seed))
    for name, shortcut in {"plain": False, "residual": True}.items()
}
ratios = {}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for (name, net), axes in zip(deep.items(), panels, strict=True):
    net.to(args.device)
    cross_entropy(net(sample), labels).backward()
    norms = [
        float(np.linalg.norm(gradient.numpy()))
        for parameter, gradient in net.named_gradients()
        if gradient is not None and "conv" in parameter
    ]
    ratios[name] = norms[0] / norms[-1]
    print(f"{layers} layers, {name}: gradient of the first convolution {norms[0]:.3g}, ", end="")
    print(f"of the last {norms[-1]:.3g}: {ratios[name]:.3g} times as large")
    axes.semilogy(range(1, len(norms) + 1), norms, "o", markersize=3)
    axes.set(xlabel="convolution, counted from the input", title=f"{layers} layers, {name}")
panels[0].set_ylabel("norm of the weight gradient")
picture(figure, "gradients")

# No learning rate suits layers whose gradients differ by orders of magnitude: one that is right for
# the last layer is too large for the first. Now train both networks for a few steps:
steps = 4 if args.quick else 40
race: dict[str, list[float]] = {name: [] for name in deep}
for name, net in deep.items():
    sgd = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    rng = np.random.default_rng(args.seed)
    batches = DataLoader(
        *train[:2], batch_size=32, shuffle=True, transform=normalize, rng=rng, device=args.device
    )
    for _, (images, truth) in zip(range(steps), batches, strict=False):
        loss = cross_entropy(net(images), truth)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        race[name].append(loss.item())
    print(f"{name}, {steps} steps: loss {race[name][0]:.2f} at first, ", end="")
    print(f"{np.mean(race[name][-5:]):.2f} at the end")
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (name, losses), colour in zip(race.items(), plots.COLOURS, strict=False):
    axes.plot(losses, color=colour, alpha=0.3)
    smooth = [np.mean(losses[max(0, i - 7) : i + 1]) for i in range(steps)]
    axes.plot(smooth, color=colour, label=f"{name}, mean of the last 8")
axes.set(xlabel="step", ylabel="loss", title=f"{layers} layers, {steps} steps of 32 images")
axes.axhline(math.log(10), color="gray", linestyle=":", label="guessing")
axes.legend()
picture(figure, "race")

# %% Batch normalisation
# An untrained batch norm in evaluation mode divides by 1 and adds 0: it changes nothing. So one
# network shows both cases: with batch norm in training mode, without in evaluation mode.
fresh = models.CifarResNet(depth, rng=np.random.default_rng(args.seed)).to(args.device)
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
spreads: dict[str, list[float]] = {"without batch norm": [], "with batch norm": []}
for name, spread in spreads.items():
    fresh.train(name == "with batch norm")

    def note(module: nn.Module, inputs: tuple[object, ...], output: minidl.Tensor) -> None:
        """Record the standard deviation of a block's output."""
        if isinstance(module, models.BasicBlock):
            spread.append(float(output.numpy().std()))  # noqa: B023 - called in this iteration only

    with minidl.no_grad(), nn.observe(note):
        fresh(sample)
    axes.semilogy(range(1, len(spread) + 1), spread, "o-", label=name, markersize=3)
    print(f"{name}: standard deviation after the last block {spread[-1]:.3g}")
axes.set(xlabel="block", ylabel="standard deviation", title="Output of each block")
axes.legend()
picture(figure, "batch_norm")

# Every block adds to its input, so without normalisation activations grow with depth, and so do
# gradients. Batch norm keeps f(x) equally large in every block, whatever the input.

# %% Augmentation: the network never sees the same image twice
# Images are shifted by up to 4 pixels and mirrored half of the time. Cutout is shown as well; it
# helps in long training and is not used below.
rng = minidl.manual_seed(args.seed)
augment = Compose(RandomCrop(padding=4, rng=rng), RandomHorizontalFlip(rng=rng))
same = train.images[:1].repeat(5, axis=0)
shown = np.concatenate([same[:1], augment(same), Cutout(12, rng=rng)(same[:4])])
captions = ["as stored", *["crop, flip"] * 5, *["cutout"] * 4]
picture(plots.images(shown, captions, "One image, augmented"), "augmentation")

# %% ResNet-20, with a one-cycle schedule
# The learning rate rises to its peak in the first 30 % of the steps, then falls to almost 0: large
# steps while the weights are far from a minimum, small ones to settle into it.
rng = minidl.manual_seed(args.seed)
model = models.resnet20(len(train.classes), rng=rng).to(args.device)
options = {"batch_size": args.batch_size, "device": args.device}
augment = Compose(RandomCrop(padding=4, rng=rng), RandomHorizontalFlip(rng=rng), normalize)
train_batches = DataLoader(*train[:2], shuffle=True, rng=rng, transform=augment, **options)
test_batches = DataLoader(*test[:2], transform=normalize, **options)
sgd = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
total = max(args.epochs * len(train_batches), 2)
schedule = optim.OneCycleLR(sgd, max_lr=args.lr, total_steps=total, pct_start=0.3)

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot([schedule.rate(step, args.lr) for step in range(total)])
axes.set(xlabel="step", ylabel="learning rate", title="One cycle")
picture(figure, "one_cycle")

started = time.perf_counter()
try:
    history = fit(
        model, cross_entropy, sgd, train_batches, test_batches, args.epochs, schedule=schedule
    )
except KeyboardInterrupt:
    sys.exit(130)
seconds = time.perf_counter() - started
measured = {name: values for name, values in history.items() if name.startswith(("train", "test"))}
weights = save_weights(model.state_dict(), args.out / "weights.npz")
picture(plots.training_curves(measured), "curves")
print("weights:", weights.resolve())

# %% The result
print(
    f"result: test accuracy {history['validation_accuracy'][-1]:.2%} after epoch {args.epochs}, "
    f"{seconds:.0f} s; gradient of the first of {layers} layers: {ratios['plain']:.0f} times the "
    f"last without shortcuts, {ratios['residual']:.1f} times with them"
)
plots.show()

# %% What comes next
# Chapter 11 takes a trained network and fine-tunes it for another task. The blocks are in
# minidl/models/resnet.py, schedules in minidl/optim/schedules.py, augmentation in
# minidl/data/augment.py.
#
# Fill in chapters/exercises/ch10_resnet.py; `pytest chapters/exercises -k ch10` tells you which
# answers are right and which are not there yet.
#
# 1. `batch_norm`: normalise each channel over the batch and all pixels, then scale and shift.
# 2. `residual_block`: two convolutions and a shortcut, with the ReLUs in the right places.
# 3. `learning_rate`: linear warm-up, then a half cosine down to zero.
