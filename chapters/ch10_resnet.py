"""Chapter 10. Residual networks: why depth fails without shortcuts, and how they are trained.

    python chapters/ch10_resnet.py --data cifar10     # real images (170 MB, downloaded once)

Result: test accuracy 95 to 100 %, plain gradients 300 to 1,500 times, residual gradients 1 to 8
times; takes 1.0 times as long as chapter 7.
With --quick: test accuracy 2 to 30 %.
"""

# %% [markdown]
# # 10. Residual networks
#
# On its way back through a network, a gradient is multiplied by some factor at every layer. If each
# of 54 layers multiplies it by 1.13, it is $1.13^{54} = 735$ times as large at the first layer; by
# 0.88, a thousandth. No learning rate suits both ends. The remedy is one plus sign: let a block of
# layers compute $x + f(x)$ instead of $f(x)$. Now its slope is $1 + f'(x)$: the gradient also flows
# past the block, unchanged. So networks of a hundred layers became trainable (He et al., 2015).
#
# **What you will learn:** four ideas, one per section: shortcuts, batch normalisation, data
# augmentation and the one-cycle schedule; then all four at work. **You need:** chapters 4 and 7.

# %%
import math

import numpy as np

import minidl
from minidl import models, nn, optim
from minidl.chapter import IMAGES, Chapter
from minidl.data import Compose, Cutout, DataLoader, Normalize, RandomCrop, RandomHorizontalFlip
from minidl.functional import cross_entropy
from minidl.inspect import plots
from minidl.training import evaluate, fit, save_weights

chapter = Chapter(
    __doc__,
    **IMAGES,  # --data, --data-dir
    epochs=({"toy": 4, "cifar10": 10, "quick": 1}, "passes over the training images"),
    blocks=({"toy": 1, "cifar10": 3, "quick": 1}, "blocks per stage of the network to train"),
    batch_size=(128, "images per step"),
    lr=(0.4, "peak of the schedule"),
)
train, validation, test = chapter.images()
if chapter.quick:
    train, validation, test = train.first(512), validation.first(128), test.first(128)
normalize = Normalize.fit(train.images)
print(f"{len(train.labels):,} training images, {len(validation.labels):,} validation images")

# %% [markdown]
# ## 1. Shortcuts
# Here $f$ is two convolutions, with batch normalisation (section 2) and ReLU. A plain network
# passes on $\max(0, f(x))$, a **residual block** $\max(0, x + f(x))$.

# %% tags=["hide-input"]
steps = ["x", "convolution", "batch norm", "ReLU", "convolution", "batch norm", "+", "ReLU"]
figure, axes = plots.subplots(figsize=(3.6, 4.4))
for y, step in enumerate(steps):
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": plots.COLOURS[0]}
    axes.text(0, -y, step, ha="center", va="center", size=11, bbox=box)
    if y:
        axes.annotate("", (0, 0.3 - y), (0, 0.7 - y), arrowprops={"arrowstyle": "->"})
bend = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.55", "linewidth": 2.5}
axes.annotate("", (0.12, -6), (0.12, 0), arrowprops=bend | {"color": plots.COLOURS[1]})
axes.text(1.05, -3, "shortcut", color=plots.COLOURS[1], rotation=-90, va="center", size=11)
axes.set(xlim=(-1, 1.4), ylim=(0.5 - len(steps), 0.5))
axes.set_axis_off()
chapter.keep(
    figure, "block", "x goes through f, and past it to the +; a plain block has no shortcut"
)

# %% [markdown]
# Two untrained networks with the same weights. **Predict, then run:** in which is the gradient of
# the first convolution larger?

# %%
depth = 2 if chapter.quick else 9  # blocks in each of three stages
layers = 6 * depth + 2
sample = minidl.Tensor(normalize(train.images[:32]), device=chapter.device)
labels = minidl.Tensor(train.labels[:32], device=chapter.device)
deep, norms, ratios = {}, {}, {}
for name in ("plain", "residual"):
    weights = np.random.default_rng(chapter.seed)
    net = models.CifarResNet(depth, shortcut=name == "residual", rng=weights).to(chapter.device)
    cross_entropy(net(sample), labels).backward()
    found = [gradient for key, gradient in net.named_gradients() if "conv" in key]
    norms[name] = [float(np.linalg.norm(gradient.numpy())) for gradient in found]
    first, last = norms[name][0], norms[name][-1]
    deep[name], ratios[name] = net, first / last
    print(f"{layers} layers, {name}: gradient of the first convolution {first:.3g}, ", end="")
    print(f"of the last {last:.3g}: {first / last:.3g} times as large")

# %% tags=["hide-input"]
look = {"xlabel": "convolution, counted from the image", "ylabel": "norm of the weight gradient"}
chapter.keep(
    *(lambda: plots.side_by_side({"": norms}, yscale="log", **look), "gradients"),
    "read from right to left, as the gradient goes: without shortcuts it grows from layer to layer "
    "towards the image; with them it stays about as large",
)

# %% [markdown]
# These are **exploding gradients**, on CIFAR-10 as well: in a plain layer, batch normalisation and
# ReLU multiply them by a little more than 1. With factors below 1 they would vanish (chapter 7).
#
# **Predict, then run:** a step of SGD is the gradient times the learning rate. What does a rate of
# 0.01 do to the first and to the last convolution of the plain network?

# %%
for name, net in deep.items():
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    sizes = [float(np.linalg.norm(conv.weight.numpy())) for conv in (convs[0], convs[-1])]
    moved = [0.01 * norms[name][i] / size for i, size in zip((0, -1), sizes, strict=True)]
    line = "{}: one step moves the first convolution by {:.2%} of its norm, the last by {:.3%}"
    print(line.format(name, *moved))

# %% [markdown]
# No learning rate suits both ends of the plain network. He et al. (2015) trained it on CIFAR-10:
# with 56 layers, even the training error ended above that with 20.
#
# ## 2. Batch normalisation
# **Batch normalisation** (Ioffe and Szegedy, 2015) uses each channel's mean $\mu$ and variance
# $\sigma^2$ to give it mean 0 and standard deviation 1, then lets training choose others, $\beta$
# and $\gamma$ ($\epsilon$ keeps the division finite):
#
# $$y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta$$
#
# It has two modes. In training, $\mu$ and $\sigma^2$ are those of the batch, over all its images
# and pixels, so an image's output depends on the other images of the batch. In evaluation
# (`model.eval()`), an answer must not depend on them: running averages from training take their
# place.

# %%
x = chapter.tensor(chapter.rng.normal(3, 2, (8, 4, 5, 5)))
norm = nn.BatchNorm2d(4).to(chapter.device)  # gamma 1, beta 0, running mean 0 and variance 1
mean, variance = (f(x.numpy(), axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
by_hand = (x.numpy() - mean) / np.sqrt(variance + 1e-5)
np.testing.assert_allclose(norm(x).numpy(), by_hand, atol=1e-5)
for mode in ("training", "evaluation"):
    norm.train(mode == "training")
    values = [norm(x[:count]).numpy()[0, 0, 0, 0] for count in (2, 8)]
    print("in {} mode, a pixel becomes {:.3f} among 2 images, {:.3f} among 8".format(mode, *values))

# Untrained batch norms in evaluation mode change nothing, so one residual network shows both cases.
fresh = models.CifarResNet(depth, rng=np.random.default_rng(chapter.seed)).to(chapter.device)
spreads: dict[str, list[float]] = {"without batch norm": [], "with batch norm": []}
for name, spread in spreads.items():
    fresh.train(name == "with batch norm")
    with minidl.no_grad():
        maps = fresh.relu(fresh.bn1(fresh.conv1(sample)))
        for block in [*fresh.layer1, *fresh.layer2, *fresh.layer3]:
            maps = block(maps)
            spread.append(float(maps.numpy().std()))
    print(f"{name}: standard deviation after the last block {spread[-1]:.3g}")

# %% tags=["hide-input"]
look = {"xlabel": "block", "ylabel": "standard deviation of its output", "yscale": "log"}
chapter.keep(
    *(lambda: plots.side_by_side({"": spreads}, **look), "batch_norm"),
    "without batch norm, outputs grow with every block; with it, much less",
)

# %% [markdown]
# ## 3. Augmentation
# **Data augmentation** changes the training images a little whenever they are used, in ways that
# keep their class: the network hardly ever sees the same image twice, so it is harder to memorise.
# Here: shifts by up to 4 pixels, and half of the images mirrored. (Cutout, which blanks a random
# square, helps in long training.)

# %%
same = train.images[:1].repeat(3, axis=0)
crop = RandomCrop(padding=4, rng=chapter.rng)
mirrored = RandomHorizontalFlip(1.0)(same)  # all of them
shown = np.concatenate([same[:1], crop(same), crop(mirrored), Cutout(12, rng=chapter.rng)(same)])
captions = ["as stored", *["shifted"] * 3, *["shifted, mirrored"] * 3, *["cutout"] * 3]
chapter.keep(
    *(lambda: plots.images(shown, captions, "One image, augmented"), "augmentation"),
    "still the same shape for us, but other numbers at most pixels; cutout changes one square only",
)

# %% [markdown]
# ## 4. The one-cycle schedule
# The learning rate rises to its peak in the first 30 % of the steps, then falls to almost 0: large
# steps while the weights are far from a minimum, small ones to settle into it (Smith and Topin,
# 2017). While the rate is high, the validation accuracy jumps up and down.

# %%
model = models.CifarResNet(chapter.blocks, len(train.classes), rng=chapter.rng).to(chapter.device)
weights = model.parameters()
sgd = optim.SGD(weights, chapter.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
total = max(chapter.epochs * math.ceil(len(train.labels) / chapter.batch_size), 2)
schedule = optim.OneCycleLR(sgd, max_lr=chapter.lr, total_steps=total, pct_start=0.3)
rates = {"one cycle": [schedule.rate(step, chapter.lr) for step in range(total)]}
chapter.keep(
    *(lambda: plots.side_by_side({"": rates}, xlabel="step", ylabel="learning rate"), "one_cycle"),
    "the rate rises to its peak, then falls to almost 0",
)

# %% [markdown]
# ## 5. All four at work
# **Predict, then run:** only the training images are augmented. Which accuracy will be higher in
# the last epoch, on the training or on the validation images?

# %%
augment = Compose(crop, RandomHorizontalFlip(rng=chapter.rng), normalize)
given = {"schedule": schedule, "world": chapter.world}  # `mpiexec` starts several processes
options = {"batch_size": chapter.batch_size, "device": chapter.device, "world": chapter.world}
batches = DataLoader(*train[:2], shuffle=True, rng=chapter.rng, transform=augment, **options)
held_out, last = (DataLoader(*p[:2], transform=normalize, **options) for p in (validation, test))
with chapter.interruptible("stopped: nothing was saved"):
    history = fit(model, cross_entropy, sgd, batches, held_out, chapter.epochs, **given)
save_weights(model.state_dict(), chapter.out / "weights.npz")
found = evaluate(model, cross_entropy, last)  # on the test set, once

# %% tags=["hide-input"]
figure = plots.training_curves(history)
figure.axes[0].set_yscale("log")
chapter.keep(figure, "curves", "losses are large while the rate is high, and settle as it falls")

gradients = "plain gradients {plain:,.1f} times, residual gradients {residual:.1f} times"
chapter.result(f"test accuracy {found.right / found.labels:.2%}, {gradients.format(**ratios)}")

# %% [markdown]
# ## What comes next
# Chapter 11 fine-tunes a trained network for another task. Fill in
# chapters/exercises/ch10_resnet.py; `python -m pytest chapters/exercises -k ch10` (after `pip
# install -e '.[test]'`, the README's second command) tells you which answers are right and which
# are not there yet.
#
# 1. `batch_norm`: normalise each channel over the batch and all pixels, then scale and shift.
# 2. `residual_block`: two convolutions and a shortcut, with the ReLUs in the right places.
# 3. `learning_rate`: linear warm-up, then a half cosine down to zero.
#
# **Change this and explain:** train with `augment = normalize` for three times as many epochs, and
# compare the gap between training and validation accuracy.
#
# **Further reading:** [He et al., Deep Residual Learning (2015)](https://arxiv.org/abs/1512.03385);
# [Ioffe and Szegedy, Batch Normalization (2015)](https://arxiv.org/abs/1502.03167); [Smith and
# Topin, Super-Convergence (2017)](https://arxiv.org/abs/1708.07120).
