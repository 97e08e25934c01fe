"""Chapter 6. A convolutional network that tells ten kinds of pictures apart.

What you will learn: how convolution, pooling and linear layers become one network; how it is
trained, measured, looked into, saved and loaded again.

    python chapters/ch06_cifar10_cnn.py                    # embedded toy pictures, offline
    python chapters/ch06_cifar10_cnn.py --data cifar10     # the real ones (170 MB, downloaded once)

Ctrl-C stops it after the step that it is at; the same command with --resume goes on from there.

What to expect, on 2 cores: toy pictures, 5 epochs, 15 to 30 s, 97 to 99 % accuracy on the test
pictures, depending on the seed. CIFAR-10, 10 epochs, two to five minutes, 69 to 71.5 %.

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
    confusion_matrix,
    fit,
    load_weights,
    overfit_one_batch,
    predict,
    save_weights,
)

# %% What can be chosen
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", choices=["toy", "cifar10"], default="toy", help="which pictures")
parser.add_argument("--data-dir", type=Path, help="where CIFAR-10 is, as archive or folder")
parser.add_argument("--epochs", type=int, help="passes over the data (toy: 5, cifar10: 10)")
parser.add_argument("--batch-size", type=int, default=64, help="pictures per step")
parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="few pictures, one epoch: seconds")
parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
parser.add_argument("--out", type=Path, default=Path("out/ch06"), help="folder for the results")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.epochs is None:
    args.epochs = 1 if args.quick else 10 if args.data == "cifar10" else 5
if min(args.epochs, args.batch_size) < 1 or args.seed < 0 or not 0 < args.lr < math.inf:
    parser.error("wants --epochs and --batch-size from 1, --seed from 0, --lr above 0")
if args.data_dir and args.data != "cifar10":
    parser.error("--data-dir goes with --data cifar10")

# %% The data: 32 x 32 pixels, three colours, ten classes
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
    train, test = train.first(1024), test.first(256)
print(f"{len(train.labels):,} pictures to learn from, {len(test.labels):,} to be tested on")
print("classes:", ", ".join(train.classes))

rng = minidl.manual_seed(args.seed)  # one stream: first the weights are drawn, then the batches
normalize = Normalize.fit(train.images)  # mean 0, standard deviation 1 in each colour
options = {"batch_size": args.batch_size, "transform": normalize, "device": args.device}
train_batches = DataLoader(train.images, train.labels, shuffle=True, rng=rng, **options)
test_batches = DataLoader(test.images, test.labels, **options)

# %% The network
# A convolution looks for small patterns everywhere; ReLU keeps where it found them; max pooling
# halves the picture and keeps the strongest response of each 2 x 2 window. Layer by layer, a pixel
# of these feature maps has seen more of the picture. Two linear layers weigh the features.
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

# The first linear layer holds more than half of the parameters and does a seventieth of the work;
# the second convolution, whose few weights are used at every pixel, does two thirds of it.

# %% One step, written out
# Guess, measure how wrong (cross-entropy), ask each weight for its share of the blame (backward).
# Training adds `adam.step()`, which moves every weight a little against it, and does that again for
# each batch.
few = minidl.Tensor(normalize(train.images[:64]), device=args.device)
few_labels = minidl.Tensor(train.labels[:64], device=args.device)


def blame():
    """Leave the gradients of one batch in the network; return its loss."""
    model.zero_grad()
    loss = cross_entropy(model(few), few_labels)
    loss.backward()
    return loss.item()


print(f"a guess costs ln {len(train.classes)} = {math.log(len(train.classes)):.3f}", end="; ")
print(f"the untrained network's loss is {blame():.3f}")

# Can it learn 64 pictures by heart? What cannot has a mistake in it. (All is put back afterwards.)
by_heart = overfit_one_batch(model, (few, few_labels), steps=40)
print(f"64 pictures by heart: loss {by_heart[0]:.3f} to {by_heart[-1]:.3f} in 40 steps")

# %% Training
# Chapters 2 to 4 write this loop out. `fit` takes the same steps, prints a line after each epoch,
# warns of what usually goes wrong, and saves all that it takes to go on.
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
    print("to go on: the same command with --resume")
    sys.exit(130)
except FloatingPointError as error:
    sys.exit(f"{error}\ntry a smaller --lr than {args.lr}")
except ValueError as error:
    if not args.resume:
        raise
    sys.exit(str(error))  # what was saved is damaged, or of a run with other settings
weights = save_weights(model.state_dict(), args.out / "weights.npz")

# %% Looking at the result, and into the network
scores = predict(model, test_batches)  # (n, 10)
matrix = confusion_matrix(scores.argmax(1), test.labels, len(test.classes))
blame()  # gradients again: does every layer still learn?
last_maps = model[7]  # of the last convolution, after ReLU
shown = minidl.Tensor(normalize(test.images[:8]), device=args.device)
names = [test.classes[guess] for guess in scores[:8].argmax(1)]
with minidl.no_grad():
    maps = model[:2](shown).numpy()[0]
for name, figure in {
    "curves": plots.training_curves(history),
    "confusion": plots.confusion_matrix(matrix, test.classes),
    "gradients": gradient_flow(model),
    "kernels": plots.kernels(model[0].weight.numpy()),
    "feature_maps": plots.feature_maps(
        maps, f"What 32 kernels see in a {test.classes[test.labels[0]]}"
    ),
    "misclassified": plots.misclassified(test.images, scores, test.labels, test.classes),
    "grad_cam": plots.grad_cam(test.images[:8], grad_cam(model, last_maps, shown), names),
    "saliency": plots.saliency(test.images[:8], saliency(model, shown), names),
}.items():
    print("picture:", plots.save(figure, args.out / f"{name}.png").resolve())

# %% Saved, and loaded back into a new network that has never been trained
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
figure = plots.images(test.images[:10], captions, "Predictions of the reloaded network")
print("picture:", plots.save(figure, args.out / "predictions.png").resolve())
print("weights:", weights.resolve())

# %% The result
seconds = time.perf_counter() - started
final = history["test_accuracy"][-1]
print(f"result: test accuracy {final:.2%} after epoch {args.epochs}, {seconds:.0f} s")
plots.show()

# %% What comes next
# Chapter 7 asks by experiment what pooling does for a network such as this one. How layers, loss
# and optimiser are made is in minidl/nn, minidl/functional and minidl/optim; `fit` is in
# minidl/training/fit.py.
#
# Fill in chapters/exercises/ch06_cifar10_cnn.py; `pytest chapters/exercises -k ch06` says what is
# right and what is not yet.
#
# 1. `normalize`: mean 0 and variance 1 per channel, with the training pictures' statistics for all.
# 2. `network`: build a CNN of two convolutions for pictures of any (even) size.
# 3. `confusion_matrix`: count truth against guess, and read each class's recall off it.
