"""Chapter 6. Kinds of pooling: beyond maximum and average.

Result: shift after max 0.46 to 0.50, shift after max blurred 0.28 to 0.31, salt left by max 1.55 to
1.75; takes 0.04 times as long as chapter 7.
With --quick: shift after max 0.46 to 0.50, shift after max blurred 0.28 to 0.31, salt left by max
1.55 to 1.75.
"""

# %% [markdown]
# # 6. Kinds of pooling
#
# Max pooling says *whether* a feature is in a window, average pooling *how much* of it. Other kinds
# weigh the pixels differently, choose one at random, move the windows, or pool over something other
# than windows. For the window 1, 2, 3, 4: min 1, average 2.5, GeM 2.92, mixed 3.25, max 4. Each
# kind has its use, and none is free: what keeps a lone response also keeps a wrong pixel.
#
# **What you will learn:** what each kind computes, by hand and in a line of NumPy; where its
# gradient goes; what shifts and noise do to it; and which kind to choose. **You need:** chapter 5.

# %%
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minidl import functional as F
from minidl import nn
from minidl.chapter import Chapter
from minidl.data import load_toy10
from minidl.inspect import plots, pooling_effects

chapter = Chapter(__doc__)
tensor, kinds = chapter.tensor, {}
toy = chapter.load(load_toy10, train=10, test=100 if chapter.quick else 1000)[1]
greys = toy.images.mean(1, keepdims=True, dtype=np.float32) / 255  # (n, 1, 32, 32), 0 to 1
window = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])  # (1, 1, 2, 2)


def agree(name, by_hand, array, result):
    assert np.allclose(result.numpy(), array, atol=1e-5), (name, array, result)
    if by_hand is not None:
        assert np.array_equal(np.round(array, 2).squeeze(), by_hand), (name, array)
        print(f"{name:18} by hand, in NumPy and in minidl: {by_hand}")


def kind(name, by_hand, formula, operation):
    """Compare three ways to pool: by hand, NumPy on w, each window's four pixels, and minidl."""
    for x, number in ((window, by_hand), (greys, None)):
        w = np.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
        agree(name, number, formula(w), operation(tensor(x)))
    kinds[name] = operation


# %% [markdown]
# ## 1. A fixed formula for each window
# Let $w$ be the pixels of a window, here 1, 2, 3, 4. Section 7 says what each kind is for. To
# change these numbers and see each kind's outputs and gradients, open chapters/site/explorer.html.
#
# * **Min pooling**, $\min(w)$: the smallest pixel, 1.
# * **LP pooling**, $(\sum w^p)^{1/p}$: for $p = 2$ the length of $w$, $\sqrt{1+4+9+16} = 5.48$.
# * **GeM pooling** (generalised mean), $\text{mean}(w^p)^{1/p}$: the mean for $p = 1$, nearly the
#   maximum for large $p$. $p = 3$ gives $(100 / 4)^{1/3} = 2.92$. Often over the whole image.
# * **Mixed pooling**, $a \max(w) + (1 - a)\,\text{mean}(w)$. $a = 1/2$ gives (4 + 2.5) / 2 = 3.25.
# * **Softmax pooling**, $\sum s w$ with $s = \text{softmax}(b w)$: brighter pixels weigh more, and
#   all get a gradient. $b = \ln(2)$: the weights are 2, 4, 8 and 16 of 30, so 98 / 30 = 3.27.
#
# **Predict, then run:** make all four pixels 5. Which kind (these, max, average) does not give 5?

# %%
kind("max", 4, lambda w: w.max(0), lambda x: F.max_pool2d(x, 2))
kind("average", 2.5, lambda w: w.mean(0), lambda x: F.avg_pool2d(x, 2))
kind("min", 1, lambda w: w.min(0), lambda x: F.min_pool2d(x, 2))
kind("LP p=2", 5.48, lambda w: (w**2).sum(0) ** 0.5, lambda x: F.lp_pool2d(x, 2, 2))
kind("GeM p=3", 2.92, lambda w: (w**3).mean(0) ** (1 / 3), lambda x: F.gem_pool2d(x, 3.0, 2))
kind("mixed", 3.25, lambda w: (w.max(0) + w.mean(0)) / 2, lambda x: F.mixed_pool2d(x, 2))
soft = nn.SoftmaxPool2d(2, beta=np.log(2)).to(chapter.device)
kind("softmax", 3.27, lambda w: (2**w * w).sum(0) / (2**w).sum(0), soft)
fives = {name: pool(tensor(np.full((1, 1, 2, 2), 5))).item() for name, pool in kinds.items()}
print("four pixels of 5:", ", ".join(f"{name} {value:.3g}" for name, value in fives.items()))

# %% [markdown]
# ## 2. Learned
# $p$, $a$ and $b$ above can be parameters (`nn.GeMPool2d` has $p$). Two kinds have weights $v$:
#
# * **Gated pooling**: mixed, and each window sets its own $a = \sigma(\sum v w)$ ($\sigma$:
#   sigmoid). $v = 1, -1, -1, 1$ gives $\sigma(1 - 2 - 3 + 4) = \sigma(0) = 1/2$, hence 3.25.
# * **Attention pooling**: the mean of a whole image, weighted by the softmax of a score $v \cdot x$
#   of pixel $x$, with all channels. Let a second channel mark the third pixel, 0, 0, 1, 0. Then
#   $v = 0, \ln(3)$ gives weights 1, 1, 3 and 1 of 6; the first channel: (1 + 2 + 9 + 4)/6 = 2.67.


# %%
def gated_mean(w):
    a = 1 / (1 + np.exp(-(w[0] - w[1] - w[2] + w[3])))
    return a * w.max(0) + (1 - a) * w.mean(0)


v = tensor([[[[1, -1], [-1, 1]]]])
kind("gated", 3.25, gated_mean, lambda x: F.gated_pool2d(x, v))
pixels, score = np.array([[1.0, 2, 3, 4], [0, 0, 1, 0]]), np.array([0, np.log(3)])
weights = np.exp(score @ pixels)
pooled = F.attention_pool2d(tensor(pixels.reshape(1, 2, 2, 2)), tensor(score))
agree("attention", [2.67, 0.5], pixels @ weights / weights.sum(), pooled)

# %% [markdown]
# ## 3. Random
# * **Stochastic pooling**: in training one pixel, drawn with probability $w / \sum w$: 1, 2, 3 or 4
#   with 0.1, 0.2, 0.3 or 0.4. In evaluation the expected value, (1 + 4 + 9 + 16) / 10 = 3.
# * **Fractional max pooling**: windows of two sizes in random order, for any ratio. 5 pixels to 3:
#   sizes 1 2 2, 2 1 2 or 2 2 1. With $u$ drawn from 0 to 1, window $i$ starts at
#   $\lfloor 5(i + u)/3 \rfloor - \lfloor 5u/3 \rfloor$; so 1 2 3 4 5 becomes 1 3 5, 2 3 5 or 2 4 5.

# %%
kind("stochastic", 3, lambda w: (w * w).sum(0) / w.sum(0), nn.StochasticPool2d(2).eval())
kinds["stochastic drawn"] = nn.StochasticPool2d(2)
first, second = (np.random.default_rng(chapter.seed) for _ in range(2))
drawn = first.random((10_000, 1, 1, 1), np.float32) * 10
drawn = 1 + sum(drawn >= running for running in (1, 3, 6))  # sums of the first 1, 2, 3 pixels
pooled = F.stochastic_pool2d(tensor(np.repeat(window, 10_000, 0)), 2, rng=second)
assert np.array_equal(pooled.numpy(), drawn)
print("stochastic, drawn: shares of 1, 2, 3, 4:", np.bincount(drawn.ravel())[1:] / len(drawn))
row, by_hand = np.arange(1.0, 6), [[1, 3, 5], [2, 3, 5], [2, 4, 5]]
for u, maxima in zip((0, 0.8, 0.4), by_hand, strict=True):
    starts = np.floor(5 / 3 * (np.arange(3) + u)) - np.floor(5 / 3 * u)
    assert np.maximum.reduceat(row, starts.astype(int)).tolist() == maxima
many = tensor(np.tile(row, (300, 1, 1, 1)))
pooled = F.fractional_max_pool2d(many, output_size=(1, 3), overlapping=False).numpy()
assert np.unique(pooled.reshape(-1, 3), axis=0).tolist() == by_hand

# %% [markdown]
# ## 4. Other windows: regions, channels, blurred, convolved
# * **Global pooling**: the window is the whole image: average 2.5, one number for each channel.
# * **Adaptive pooling**: the output's size is given. Window $i$ of $k$, over $n$ pixels, starts at
#   $\lfloor in/k \rfloor$ and ends before $\lceil (i + 1) n/k \rceil$. 1, 2, 3, 4, 5 to two: 3, 5.
# * **Pyramid pooling**: adaptive to several sizes, side by side. To 1 x 1 and 2 x 2: 4, 1, 2, 3, 4.
# * **Channel pooling** (maxout): the maximum of groups of channels. 1, 2, 3, 4 in pairs: 2, 4.
# * **Blur pooling**: a mean with weights 1, 3, 3, 1 (of 8) along both axes, at every second pixel.
#   A bright pixel that moves *glides* from one output to the next.
# * Convolution and pooling in one, a maximum of outputs (`nn.ConvPool2d`): a kernel's best match.
#   The kernel -1, 1 in two rows, over rows of 0, 0, 1, gives 0 and 2, so 2.

# %%
agree("global average", 2.5, window.mean((2, 3)), F.global_avg_pool2d(tensor(window)))
halves = np.array([row[0:3].max(), row[2:5].max()])  # 5 / 2, rounded up and down
agree("adaptive max", [3, 5], halves, F.adaptive_max_pool1d(tensor(row[None, None]), 2))
pyramid = F.spatial_pyramid_pool2d(tensor(window), (1, 2))
agree("pyramid 1, 2", [4, 1, 2, 3, 4], np.append(window.max(), window), pyramid)
pairs = window.reshape(1, 2, 2).max(2)
agree("channel max", [2, 4], pairs, F.channel_max_pool(tensor(window.reshape(1, 4)), 2))
step, kernel = np.tile([0.0, 0, 1], (1, 1, 3, 1)), np.tile([-1.0, 1], (1, 1, 2, 1))
best = (sliding_window_view(step, (2, 2), (2, 3)) * kernel).sum((4, 5)).max((2, 3), keepdims=True)
agree("conv and max", 2, best, F.conv_pool2d(tensor(step), tensor(kernel)))
lone = 8.0 * np.eye(8)[2:5]  # in each row, a pixel further right
padded = np.pad(lone, ((0, 0), (1, 2)), "reflect")
blurred = sliding_window_view(padded, 4, 1)[:, ::2] @ np.array([1, 3, 3, 1]) / 8
moving = tensor(np.tile(lone[:, None, None], (8, 1)))
agree("blur", [[1, 3, 0, 0], [0, 3, 1, 0], [0, 1, 3, 0]], blurred, F.blur_pool2d(moving)[:, 0, 0])
print("max of the same, which jumps:", F.max_pool2d(moving, 2).numpy()[:, 0, 0].tolist())

# %% [markdown]
# ## 5. Where the gradient goes
# The output's gradient with respect to the four pixels 1, 2, 3, 4. **Predict, then run:** which
# kinds give something to every pixel? Can it be negative: does a brighter pixel ever lower the
# output?

# %% tags=["hide-input"]
figure = plots.pooling_shares(tensor(window), kinds)
chapter.keep(figure, "gradients", "max: all to one pixel; blue: a brighter pixel lowers the output")

# %% [markdown]
# ## 6. Shift, noise, a lone pixel, and what is lost
# Measured as in chapter 5. shift: the change if the image moves by one pixel (1.4: another image).
# noise, salt: the part of it that is left (no pooling: 1). lone: what is left of a lone bright
# pixel. lost: the error after **unpooling**, here by repeating each output over its window.
# (`max_unpool2d` puts a maximum back in its place, with 0 elsewhere: 4 becomes 0, 0, 0, 4.)
# **Predict, then run:** which kind keeps a lone pixel, but not salt?

# %%
values, indices = F.max_pool2d(tensor(window), 2, return_indices=True)
assert F.max_unpool2d(values, indices, 2).numpy().ravel().tolist() == [0, 0, 0, 4]
del kinds["gated"]  # its weights are to be learned
kinds["LP p=2"] = lambda x: F.lp_pool2d(x, 2, 2) / 2  # a grey area keeps its value
kinds["softmax"] = lambda x: F.softmax_pool2d(x, 2, beta=10.0)  # for pixels from 0 to 1
kinds |= {"blur": F.blur_pool2d, "max blurred": F.max_blur_pool2d}  # maxima, stride 1, then blur
kinds |= {"every 2nd pixel": lambda x: F.max_pool2d(x, 1, 2)}  # no pooling, only stride
m = {}
print("2 x 2, stride 2    shift  noise   salt   lone   lost")
for name, pool in kinds.items():
    m[name] = pooling_effects(pool, tensor(greys), np.random.default_rng(chapter.seed))
    print(f"{name:17}" + "".join(f"{value:7.2f}" for value in m[name].values()))

# %% tags=["hide-input"]
figure, axes = plots.subplots(figsize=(6, 4.6))
for name in [name for name in m if name != "every 2nd pixel"]:
    place = m[name]["lone"], m[name]["salt"]
    axes.plot(*place, "o", color=plots.COLOURS[0])
    axes.text(*place, f"  {name}  ", va="center", ha="right" if name[:3] == "max" else "left")
axes.set(xlabel="left of a lone pixel", ylabel="left of salt (no pooling: 1)", xlim=(-0.05, 1.5))
chapter.keep(figure, "measured", "further right is also higher: what saves a lone pixel saves salt")

# %% [markdown]
# ## 7. Which kind to choose

# %%
for need, choice, why in (
    ("image classification", "max", ("lone", "average")),
    ("noise on every pixel", "blur", ("noise", "max")),
    ("the image, but smaller", "average", ("lost", "max")),
    ("white specks, dark signals", "min", ("salt", "max")),
    ("shifts must not matter", "max blurred", ("shift", "max")),
    ("retrieval: comparing images", "GeM p=3", ("lone", "average")),
    ("energy, whatever the sign", "LP", "of p = 2: -3 and 3 count alike"),
    ("overfitting", "stochastic drawn", "its draws are noise to train with; gap: chapter 8"),
    ("a ratio such as 0.7", "fractional", "32 pixels become 22"),
    ("last layer", "global average", "64 x 8 x 8 to 10 classes: 650 weights, not 40,970"),
    ("images of any size", "adaptive, pyramid", "the number of outputs is fixed"),
    ("segmentation", "max with indices", "max_unpool2d puts them back; or do not pool"),
    ("learned, with much data", "gated, attention", "4 weights for a window; 1 for each channel"),
    ("variants of a feature", "channel max", "any of the kernels suffices"),
):
    if isinstance(why, tuple):
        why = f"{why[0]} {m[choice][why[0]]:.2f}, {why[1]} {m[why[1]][why[0]]:.2f}"
    print(f"{need:28} {choice:18} {why}")
print("What saves a lone response lets salt through: max says whether, average says how much.")
shifts = {name: round(m[name]["shift"], 2) for name in ("every 2nd pixel", "max", "max blurred")}
print("Against shifts, 2 x 2 max pooling hardly helps, but blurring does:", shifts)
chapter.result(
    f"shift after max {shifts['max']:.2f}, shift after max blurred {shifts['max blurred']:.2f}, "
    f"salt left by max {m['max']['salt']:.2f}"
)

# %% [markdown]
# ## What comes next
# Chapter 7 trains a network with max pooling; chapter 8 compares kinds by training. Now fill in
# chapters/exercises/ch06_kinds_of_pooling.py; `python -m pytest chapters/exercises -k ch06` (after
# `pip install -e '.[test]'`) tells you which answers are right and which are not there yet.
#
# 1. `gem_pool`: the generalised mean, with its gradient.
# 2. `stochastic_pool`: a random pixel in training, the mean of the draws in evaluation.
# 3. `blur_pool`: weights from Pascal's triangle, mirrored edges, every second pixel.
#
# **Change this and explain:** raise $p$ of GeM from 3 to 30. Which row of the table does it
# approach, and why?
#
# **Further reading:** mixed, gated: [Lee et al. 2016](https://arxiv.org/abs/1509.08985); GeM:
# [Radenovic et al. 2018](https://arxiv.org/abs/1711.02512); stochastic: [Zeiler and Fergus
# 2013](https://arxiv.org/abs/1301.3557); fractional: [Graham
# 2014](https://arxiv.org/abs/1412.6071); pyramid: [He et al.
# 2014](https://arxiv.org/abs/1406.4729); global average: [Lin et al.
# 2013](https://arxiv.org/abs/1312.4400); blur: [Zhang 2019](https://arxiv.org/abs/1904.11486).
