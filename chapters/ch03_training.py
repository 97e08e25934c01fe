"""Chapter 3. Training: what is learned, what is only memorised, and how to tell.

Result: test accuracy 58 to 69 %, training accuracy 85 to 100 %; takes 1.4 times as long as
chapter 7.
With --quick: test accuracy 30 to 52 %, training accuracy 42 to 68 %.
"""

# %% [markdown]
# # 3. Training: what is learned and what is only memorised
#
# Show a network 2,000 images often enough, and it gets every one of them right. Of new images it
# gets four in ten. Training makes the first number large; we want the second. So keep some images
# apart and never train on them: they tell when to stop, which network to take, and how good it is.
#
# **What you will learn:** why there are three sets of images, and why we train in batches; how to
# see whether a network learns too little or memorises; what four optimisers do; how far a network
# without convolutions gets: the baseline that chapter 7 has to beat. **You need:** chapters 1, 2.

# %%
import time

import numpy as np

from minidl import manual_seed, nn, optim
from minidl.chapter import IMAGES, Chapter
from minidl.data import DataLoader, Normalize
from minidl.functional import cross_entropy
from minidl.inspect import plots
from minidl.training import History, evaluate

chapter = Chapter(
    __doc__,
    **IMAGES,  # --data, --data-dir
    epochs=({"toy": 15, "quick": 2}, "passes over the training images for the baseline"),
)
train, validation, test = chapter.images()

# %% [markdown]
# ## 1. Three sets of images, split once
# - The weights are trained on the **training set**.
# - What training does not set, we choose on the **validation set**: **hyperparameters**, such as
#   the number of epochs or hidden units.
# - The finished network is measured on the **test set**, once, at the end.
#
# Why not choose on the test set? The best of twenty networks is partly the luckiest, and measured
# again on the images that chose it, it is just as lucky. How well a network does on images that
# decided nothing is its **generalisation**. Ours is a **multilayer perceptron** (MLP): pixels as a
# row of numbers, a hidden layer, a score for each class. It does not know which pixels are
# neighbours.

# %%
normalize = Normalize.fit(train.images)  # mean 0, standard deviation 1 per colour


def loader(part, **how):
    """Return batches of 64 images."""
    return DataLoader(part.images, part.labels, transform=normalize, device=chapter.device, **how)


def mlp(hidden, side=32):
    """Return a network for images shrunk to `side` x `side`; it gets the same weights each time."""
    manual_seed(chapter.seed)  # also for the order of the images, later
    shrink = nn.AvgPool2d(32 // side)  # means of blocks of pixels: chapter 5
    first, last = nn.Linear(3 * side**2, hidden), nn.Linear(hidden, 10)
    return nn.Sequential(shrink, nn.Flatten(), first, nn.ReLU(), last).to(chapter.device)


# %% [markdown]
# ## 2. Batches
# An **epoch** is one pass over the training set: 10 images in batches of 4 take 3 steps. A batch's
# loss is the mean over its images, so the gradient of all ten is the mean of the three gradients,
# weighted by size, (4, 4, 2) / 10. Each is a noisy estimate of the gradient of all images; the
# error of the mean of $B$ independent estimates is smaller by a factor of $\sqrt{B}$. But one image
# at a time wastes the processor, which then reads all weights to use each of them once.
#
# **Predict, then run:** from batches of 1 image to batches of 256, by what factor does the error
# fall, and by what factor the time per image? (Sizes take turns, and the least of 20 times counts:
# other work on the machine only makes a time longer, perhaps even the least.)

# %%
images, labels = next(iter(loader(train.first(1000), batch_size=1000)))
model = mlp(256)


def gradient(chosen):
    """Return the gradient of the first layer's weights on some of 1,000 images."""
    model.zero_grad()
    cross_entropy(model(images[chosen]), labels[chosen]).backward()
    return model[2].weight.grad.numpy()


by_batches = sum(gradient(part) * len(part) / 10 for part in np.split(np.arange(10), [4, 8]))
np.testing.assert_allclose(by_batches, gradient(np.arange(10)), atol=1e-5)
truth, sizes = gradient(np.arange(1000)), [1, 4, 16, 64, 256]
errors, seconds = np.empty((2, 20, len(sizes)))
for turn, i in np.ndindex(errors.shape):
    chosen, started = chapter.rng.choice(1000, sizes[i]), time.perf_counter()
    found = gradient(chosen)
    seconds[turn, i] = time.perf_counter() - started
    errors[turn, i] = np.linalg.norm(found - truth) / np.linalg.norm(truth)
noise = dict(zip(sizes, np.sqrt((errors**2).mean(0)), strict=True))
cost = dict(zip(sizes, 1e6 * seconds.min(0) / sizes, strict=True))
for n in sizes:
    print(f"batch of {n:3}: error / gradient {noise[n]:4.1f}, us per image {cost[n]:7.1f}")

# %% tags=["hide-input"]
errors = {"measured": noise, "1 / sqrt(batch size)": {n: noise[1] / n**0.5 for n in sizes}}
panels = {"Error / length of the gradient": errors, "Microseconds per image": {"measured": cost}}
log = {"xscale": "log", "yscale": "log", "xticks": sizes, "xticklabels": sizes}
figure = plots.side_by_side(panels, share_y=False, xlabel="batch size (images)", **log)
chapter.keep(figure, "batches", "the error follows the dashed line; the time per image falls too")

# %% [markdown]
# ## 3. The training loop
# After each epoch, `evaluate` measures loss and accuracy on training and validation set. At the
# end, the network gets back the weights of its lowest validation loss: **early stopping**.


# %%
def fit(model, optimizer, train, epochs):
    """Train; leave the best epoch's weights in the model; return the measurements."""
    history = History()
    for _ in range(epochs):
        for images, labels in loader(train, shuffle=True):
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seen = evaluate(model, cross_entropy, loader(train)).means("train")
        unseen = evaluate(model, cross_entropy, loader(validation)).means("validation")
        history.append(**seen, **unseen)
        if history.best_epoch() == history.epochs:  # by the validation loss
            best = model.state_dict()
    model.load_state_dict(best)
    return history


# %% [markdown]
# ## 4. Underfitting, about right, overfitting
# How much a network can represent is its **capacity**. Three networks, the same 2,000 images:
#
# - **Underfitting**: too little capacity or input. Both losses level off high, close together.
# - About right: the lowest validation loss of the three. Some gap between both losses is normal.
# - **Overfitting**: far more weights than images. The training loss goes to 0; the validation loss
#   falls, then *rises*, as the network grows surer of its wrong answers. What helps is called
#   **regularisation**: early stopping, dropout (chapter 9), more or altered images (chapter 10).
#
# **Predict, then run:** which has the lowest *training* loss, which the lowest *validation* loss?

# %%
few, rounds, panels = train.first(500 if chapter.quick else 2000), 5 if chapter.quick else 30, {}
kinds = ("Underfitting", 4, 4, 1e-2), ("About right", 64, 8, 2e-3), ("Overfitting", 256, 32, 1e-3)
for title, hidden, side, lr in kinds:  # with these rates, the validation loss ends its fall
    model = mlp(hidden, side)
    history = fit(model, optim.Adam(model.parameters(), lr=lr), few, rounds)
    losses = {"training": history["train_loss"], "validation": history["validation_loss"]}
    losses["lowest: stop here"] = {history.best_epoch(): min(losses["validation"])}
    panels[f"{title}\n{side} x {side} pixels, {hidden} hidden units"] = losses
    print(title, *(f"{name} loss {losses[name][-1]:.2f}" for name in ("training", "validation")))
figure = plots.side_by_side(panels, xlabel="epoch", ylabel="cross-entropy", ylim=(0, 3))
chapter.keep(figure, "fitting", "left, both level off high; right, validation turns upwards")

# %% [markdown]
# ## 5. Optimisers
# They move the weights $w$ against the gradient $g$, at the learning rate $\eta$, and use earlier
# gradients differently. $m$, $s$ and $v$ start at 0; $\epsilon = 10^{-8}$ keeps divisions finite:
#
# * SGD: $w \leftarrow w - \eta g$
# * momentum: $v \leftarrow 0.9 v + g$, then $w \leftarrow w - \eta v$
# * RMSprop: $s \leftarrow 0.99 s + 0.01 g^2$, then
#   $w \leftarrow w - \eta g / (\sqrt{s} + \epsilon)$
# * Adam: $m \leftarrow 0.9 m + 0.1 g$ and $s \leftarrow 0.999 s + 0.001 g^2$, then
#   $w \leftarrow w - \eta \hat m / (\sqrt{\hat s} + \epsilon)$, where in step $t$,
#   $\hat m = m / (1 - 0.9^t)$ and $\hat s = s / (1 - 0.999^t)$ correct for the start at 0
#
# Dividing by $\sqrt{s}$ gives every weight steps of about $\eta$, however small its gradient.
# **Momentum** in a long valley, $L = (x^2 + 100 y^2) / 2$: gradients across it change sign from
# step to step and cancel; those along it agree and add up, until steps are ten times as long (five
# times with the 0.8 in the picture).
#
# On images, we give each optimiser several learning rates: a single one would suit some and not
# others. **Predict, then run:** which optimisers get to about the same loss? Which needs the
# largest rate?


# %%
def path(momentum):
    """Return the points, as x and y, that 60 steps of SGD visit in the valley."""
    w, v, points = np.array([-10.0, 1.0]), 0, []
    for _ in range(60):
        points.append(w)
        v = momentum * v + [1, 100] * w  # the gradient
        w = w - 0.019 * v
    return np.transpose(points)


# %% tags=["hide-input"]
figure, axes = plots.subplots(figsize=(8, 3.6))
x, y = np.meshgrid(np.linspace(-11, 3, 99), np.linspace(-1.7, 1.7, 99))
axes.contour(x, y, x**2 + 100 * y**2, 12, colors="#cccccc")
axes.plot(*path(0), "o-", color=plots.COLOURS[0], label="SGD")
axes.plot(*path(0.8), "s--", color=plots.COLOURS[1], label="with momentum 0.8", mfc="none")
axes.plot(0, 0, "k*", ms=14, label="lowest"), axes.legend(), axes.set(xlabel="x", ylabel="y")
chapter.keep(figure, "momentum", "SGD creeps along the valley; momentum reaches the star")

# %%
final = {"SGD": {}, "momentum": {}, "RMSprop": {}, "Adam": {}}
rules = optim.SGD, lambda p, lr: optim.SGD(p, lr, momentum=0.9), optim.RMSprop, optim.Adam
for (name, losses), rule, largest in zip(final.items(), rules, (0.3, 0.1, 0.01, 0.01), strict=True):
    for lr in largest * np.array([0.3, 0.1] if chapter.quick else [1, 0.3, 0.1, 0.03, 0.01]):
        model = mlp(64)
        losses[lr] = fit(model, rule(model.parameters(), lr), few, 5)["train_loss"][-1]
    print(f"{name:8} loss {min(losses.values()):.2f} at rate {min(losses, key=losses.get):.2g}")
look = {"xlabel": "learning rate", "ylabel": "training loss", "xscale": "log"}
figure = plots.side_by_side({"": final}, **look)
chapter.keep(figure, "optimisers", "the best rates of two can differ by a factor of a hundred")

# %% [markdown]
# ## 6. The baseline: all is decided, so measure on the test set, once

# %%
model = mlp(256)
history = fit(model, optim.Adam(model.parameters(), lr=3e-4), train, chapter.epochs)
trained = history["train_accuracy"][history.best_epoch() - 1]
tested = evaluate(model, cross_entropy, loader(test)).means("test")["test_accuracy"]
chapter.keep(plots.training_curves(history), "baseline", "the curves part early: it memorises")

# %%
weight = model[2].weight.numpy()
strongest = weight[np.argsort(-np.abs(weight).sum(1))[:32]].reshape(-1, 3, 32, 32)
figure = plots.kernels(strongest, "What 32 of 256 hidden units respond to")
chapter.keep(figure, "weights", "strokes and rings, each learned at one position only")
chapter.result(f"test accuracy {tested:.1%}, training accuracy {trained:.1%}")

# %% [markdown]
# ## What comes next
# Chapter 4: convolution, the same small question at every position of an image. With it, chapter 7
# gets far beyond this baseline. Fill in chapters/exercises/ch03_training.py; `python -m pytest
# chapters/exercises -k ch03` (after `pip install -e '.[test]'`) tells you which answers are right
# and which are not there yet.
#
# 1. `batches`: one epoch of shuffled batches: every image exactly once, the last batch smaller.
# 2. `adam_step`: one update of Adam, with its bias correction.
# 3. `stopping`: early stopping: which epoch was best, and after which one training ends.
#
# **Change this and explain:** in section 4, train on `train` instead of `few`. When does the
# validation loss turn now, and why? **Further reading:** [Adam](https://arxiv.org/abs/1412.6980)
# (Kingma and Ba, 2014); [momentum](https://distill.pub/2017/momentum/) (Goh, 2017);
# [CS231n on training](https://cs231n.github.io/neural-networks-3/).
