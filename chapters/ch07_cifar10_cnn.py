"""Chapter 7. A convolutional network that classifies images into ten classes.

What you will learn: how convolution, pooling and linear layers form one network; how to train,
evaluate, inspect, save and reload it.

    python chapters/ch07_cifar10_cnn.py                    # built-in toy images, offline
    python chapters/ch07_cifar10_cnn.py --data cifar10     # CIFAR-10 (170 MB, downloaded once)

Ctrl-C stops training after the current step; the same command with --resume continues from there.

What to expect on 2 cores: toy images, 5 epochs, 15 to 30 s, 97 to 99 % accuracy on the test
images, depending on the seed. CIFAR-10, 10 epochs, two to five minutes, 69 to 71.5 %.

Result: test accuracy 96.5 to 99.5 %; about 16 s on 2 cores.
With --quick: test accuracy 10 to 25 %; about 4 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import minidl
from minidl import nn, optim
from minidl.data import DataLoader, Normalize, load_cifar10, load_toy10
from minidl.functional import cross_entropy
from minidl.inspect import grad_cam, gradient_flow, plots, saliency, summary
from minidl.training import (
    Output,
    confusion_matrix,
    fit,
    load_weights,
    overfit_one_batch,
    predict,
    save_weights,
)

# %% Options
sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--data", choices=["toy", "cifar10"], default="toy", help="which images")
parser.add_argument("--data-dir", type=Path, help="CIFAR-10, as an archive or a folder")
parser.add_argument("--epochs", type=int, help="passes over the data (toy: 5, cifar10: 10)")
parser.add_argument("--batch-size", type=int, default=64, help="images per step")
parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
parser.add_argument("--seed", type=int, default=0, help="seed for weights and batches")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="few images, one epoch; takes seconds")
parser.add_argument("--resume", action="store_true", help="continue a run that was stopped")
parser.add_argument("--out", type=Path, default=Path("out/ch07"), help="folder for the results")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.epochs is None:
    args.epochs = 1 if args.quick else 10 if args.data == "cifar10" else 5
if min(args.epochs, args.batch_size) < 1 or args.seed < 0 or not 0 < args.lr < math.inf:
    parser.error("expected --epochs and --batch-size >= 1, --seed >= 0, a finite --lr > 0")
if args.data_dir and args.data != "cifar10":
    parser.error("--data-dir goes with --data cifar10")

# %% The data: 32 x 32 pixels, three colours, ten classes
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
    train, test = train.first(1024), test.first(256)
print(f"{len(train.labels):,} training images, {len(test.labels):,} test images")
print("classes:", ", ".join(train.classes))

rng = minidl.manual_seed(args.seed)  # one stream: first the weights, then the batches
normalize = Normalize.fit(train.images)  # mean 0, standard deviation 1 per colour
options = {"batch_size": args.batch_size, "transform": normalize, "device": args.device}
train_batches = DataLoader(train.images, train.labels, shuffle=True, rng=rng, **options)
test_batches = DataLoader(test.images, test.labels, **options)

# %% The network
# A convolution looks for small patterns everywhere; ReLU keeps the positive responses; max pooling
# halves height and width and keeps the strongest response of each 2 x 2 window. Layer by layer,
# the receptive field grows. Two linear layers turn the features into class scores.
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, rng=rng),  # (n, 32, 30, 30)
    nn.ReLU(),
    nn.MaxPool2d(2),  # (n, 32, 15, 15)
    nn.Conv2d(32, 64, 3, rng=rng),  # (n, 64, 13, 13)
    nn.ReLU(),
    nn.MaxPool2d(2),  # (n, 64, 6, 6)
    nn.Conv2d(64, 64, 3, rng=rng),  # (n, 64, 4, 4)
    nn.ReLU(),
    nn.Flatten(),  # (n, 1024)
    nn.Linear(1024, 64, rng=rng),
    nn.ReLU(),
    nn.Linear(64, len(train.classes), rng=rng),  # (n, 10): one score per class
).to(args.device)
print(summary(model, (3, 32, 32)))

# The first linear layer has more than half of the parameters but does a seventieth of the work; the
# second convolution, whose few weights are used at every pixel, does two thirds of it.

# %% One step, written out
# Predict, measure the error (cross-entropy), and compute each weight's share of it: its gradient
# (backward). Training adds `adam.step()`, which moves every weight a little against its gradient,
# and repeats this for every batch.
few = minidl.Tensor(normalize(train.images[:64]), device=args.device)
few_labels = minidl.Tensor(train.labels[:64], device=args.device)


def compute_gradients():
    """Compute the gradients on one batch; return its loss."""
    model.zero_grad()
    loss = cross_entropy(model(few), few_labels)
    loss.backward()
    return loss.item()


print(f"guessing has loss ln {len(train.classes)} = {math.log(len(train.classes)):.3f}", end="; ")
print(f"the untrained network has loss {compute_gradients():.3f}")

# Can it memorise 64 images? If it cannot, there is a bug. (The weights are restored afterwards.)
losses = overfit_one_batch(model, (few, few_labels), steps=40)
print(f"overfitting one batch of 64 images: loss {losses[0]:.3f} to {losses[-1]:.3f} in 40 steps")

# %% Training
# Chapters 2 and 3 write this loop out. `fit` runs the same steps, prints a line after each epoch,
# warns of common problems, and saves everything that --resume needs.
adam = optim.Adam(model.parameters(), lr=args.lr)
run = args.out / f"run-{args.data}-seed{args.seed}"
started = time.perf_counter()
try:
    history = fit(
        *(model, cross_entropy, adam, train_batches, test_batches, args.epochs),
        checkpoint=run,
        resume=args.resume,
    )
except KeyboardInterrupt:
    print("to continue, run the same command with --resume")
    sys.exit(130)
except FloatingPointError as error:
    sys.exit(f"{error}\ntry a smaller --lr than {args.lr}")
except ValueError as error:
    if not args.resume:
        raise
    sys.exit(str(error))  # the checkpoint is damaged, or has other settings
weights = save_weights(model.state_dict(), args.out / "weights.npz")

# %% Inspecting the result and the network
scores = predict(model, test_batches)  # (n, 10)
matrix = confusion_matrix(scores.argmax(1), test.labels, len(test.classes))
compute_gradients()  # gradients again: does every layer still learn?
last_maps = model[7]  # the output of the last convolution, after ReLU
shown = minidl.Tensor(normalize(test.images[:8]), device=args.device)
names = [test.classes[guess] for guess in scores[:8].argmax(1)]
with minidl.no_grad():
    maps = model[:2](shown).numpy()[0]
responses = f"Responses of 32 kernels to a {test.classes[test.labels[0]]}"
try:
    for name, figure in {
        "curves": plots.training_curves(history),
        "confusion": plots.confusion_matrix(matrix, test.classes),
        "gradients": gradient_flow(model),
        "kernels": plots.kernels(model[0].weight.numpy()),
        "feature_maps": plots.feature_maps(maps, responses),
        "misclassified": plots.misclassified(test.images, scores, test.labels, test.classes),
        "grad_cam": plots.grad_cam(test.images[:8], grad_cam(model, last_maps, shown), names),
        "saliency": plots.saliency(test.images[:8], saliency(model, shown), names),
    }.items():
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
except (ImportError, OSError) as error:  # Matplotlib is missing, or the disk is full
    print("no figures:", error)

# %% Loading the saved weights into a new network
again = minidl.models.cifar10_cnn(len(train.classes))
again.load_state_dict(load_weights(weights))
with minidl.no_grad():
    guesses = again(minidl.Tensor(normalize(test.images[:10]))).numpy().argmax(1)
print("truth -> prediction:")
for guess, label in zip(guesses, test.labels[:10], strict=True):
    print(f"  {test.classes[label]} -> {test.classes[guess]}")
captions = [
    f"{test.classes[g]}" + ("" if g == y else f"\n(is {test.classes[y]})")
    for g, y in zip(guesses, test.labels[:10], strict=True)
]
try:
    figure = plots.images(test.images[:10], captions, "Predictions of the reloaded network")
    print("figure:", plots.save(figure, args.out / "predictions.png").resolve())
except (ImportError, OSError) as error:
    print("no figure:", error)
print("weights:", weights.resolve())

# %% The result
seconds = time.perf_counter() - started
final = history["validation_accuracy"][-1]
print(f"result: test accuracy {final:.2%} after epoch {args.epochs}, {seconds:.0f} s")
plots.show()

# %% What comes next
# Chapter 8 measures how much pooling helps a network like this one. Layers, losses and optimisers
# are in minidl/nn, minidl/functional and minidl/optim; the loop is in minidl/training/run.py. With
# MINIDL_KERNELS=plain no layers are fused: a breakpoint in `conv2d` or `max_pool2d` stops there.
#
# Fill in chapters/exercises/ch07_cifar10_cnn.py; `pytest chapters/exercises -k ch07` tells you
# which answers are right and which are not yet.
#
# 1. `normalize`: mean 0 and variance 1 per channel, using the training images' statistics for all.
# 2. `network`: build a CNN with two convolutions for images whose sides are multiples of 4.
# 3. `confusion_matrix`: count true against predicted classes, and compute each class's recall.
