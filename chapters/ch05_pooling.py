"""Chapter 5. Pooling: maximum and average, one number for each window of an image.

Result: noise left by average 0.45 to 0.60, noise left by max 0.90 to 1.10, lone pixel left by
average 0.25, lone pixel left by max 1, shift with max 0.46 to 0.51, shift with blur 0.27 to 0.32;
takes 0.1 times as long as chapter 7.
With --quick: noise left by average 0.45 to 0.60, lone pixel left by max 1.
"""

# %% [markdown]
# # 5. Pooling: maximum and average
#
# **Pooling** replaces each window of an image with one number: its largest value (**max pooling**)
# or its mean (**average pooling**). The window 1, 3, 5, 7 becomes 7, or 4. Nothing is learned.
# Windows of 2 x 2 pixels, side by side, leave a quarter of the numbers: the next layer has a
# quarter of the work, and its kernels see twice as far. Max says *whether* something is there,
# average *how much* of it.
#
# **What you will learn:** both kinds by hand, as loops and as operations; two common bugs; where
# gradients go; and, measured, what a shift and noise change. **You need:** chapters 1 and 4.

# %%
from functools import partial

import numpy as np

from minidl import functional as F
from minidl.chapter import Chapter, sliding_window
from minidl.data import load_toy10
from minidl.inspect import plots

chapter = Chapter(__doc__)
toy = chapter.load(load_toy10, train=10, test=100 if chapter.quick else 1000)[1]
greys = toy.images.mean(1, dtype=np.float32, keepdims=True) / 255  # (n, 1, 32, 32), 0 <= x <= 1
grid = list(toy.labels).index(toy.classes.index("grid"))  # an image of thin bright lines
pools = {"max": F.max_pool2d, "average": F.avg_pool2d}

# %% [markdown]
# ## 1. By hand
# A window of $p \times p$ pixels moves over the image $I$ in steps of $s$ pixels, its stride. Each
# channel is pooled on its own. With $a$ and $b$ from 0 to $p - 1$, the output $O$ is:
#
# * max pooling: $O_{i,j} = \max_{a,b} I_{si+a,\,sj+b}$
# * average pooling: $O_{i,j} = \operatorname{mean}_{a,b} I_{si+a,\,sj+b}$
#
# **Predict, then run:** what do both kinds make of `by_hand`, for $p = s = 2$? And of windows in
# which 0 to 4 pixels are 1, the others 0?

# %%
by_hand = np.array([[1, 3, 2, 0], [5, 7, 1, 0], [4, 0, 8, 6], [2, 3, 6, 5]], float)
lit, lone = chapter.tensor(np.tri(5, 4, -1).reshape(5, 1, 2, 2)), {}
for name, pool in pools.items():
    out, bright = (pool(x, 2).numpy() for x in (chapter.tensor(by_hand[None, None]), lit))
    print(f"{name}: {out.ravel().tolist()}; of 0 to 4 bright pixels {bright.ravel().tolist()}")
    assert out.ravel().tolist() == ([7, 2, 4, 8] if name == "max" else [4, 0.75, 2.25, 6.25])
    lone[name] = bright[1].item()
movie = sliding_window(by_hand, pools, (2, 1))
chapter.play(*movie, "pooling", "the framed window makes the framed outputs: 4, then 9 of them")

# %% [markdown]
# ## 2. Window, stride and output size
# The window sets how many pixels one output sees, the stride how far apart the outputs are. Over
# $m$ pixels, there are $\lfloor (m - p) / s \rfloor + 1$ outputs; with `ceil_mode` the quotient is
# rounded up, so the last window may hang over the edge. Padding adds pixels that never win a
# maximum: windows of 3 with padding 1 and stride 1 are centred on each pixel and keep the size.
# **Predict, then run:** which windows skip pixels? (chapters/site/explorer.html slides any window.)

# %%
tiles, geometries = {}, ((2, 2), (3, 2), (3, 1), (2, 3))
for size, stride in geometries:
    out, windows = (12 - size) // stride + 1, np.zeros((12, 12))
    for i, j in np.ndindex(out, out):
        windows[i * stride : i * stride + size, j * stride : j * stride + size] += 1
    print(title := f"window {size}, stride {stride}: {(windows == 0).sum()} pixels in no window")
    tiles[title.replace(": ", ":\n")] = np.where(windows, windows, np.nan)
figure = plots.images(tiles, columns=4, label="windows per pixel", cmap="viridis", vmin=1, vmax=9)
chapter.keep(figure, "windows", "white pixels are in no window: at an edge, or skipped by a stride")

# %% [markdown]
# ## 3. Loops first, then the operation


# %%
def pool_by_loops(image, size, stride, reduce):
    out = np.zeros([(m - size) // stride + 1 for m in image.shape])
    for i, j in np.ndindex(out.shape):
        top, left = i * stride, j * stride
        out[i, j] = reduce(image[top : top + size, left : left + size])
    return out


x = chapter.tensor(greys[:64])
for (name, pool), reduce in zip(pools.items(), (np.max, np.mean), strict=True):
    for size, stride in geometries:
        by_loops = pool_by_loops(greys[0, 0], size, stride, reduce)
        assert np.allclose(pool(x, size, stride).numpy()[0, 0], by_loops, atol=1e-6)
    start = chapter.seconds
    loops = [pool_by_loops(image, 2, 2, reduce) for image in greys[:64, 0]]
    middle = chapter.seconds
    pool(x, 2).numpy()
    faster = (middle - start) / (chapter.seconds - middle)
    print(f"{name}: equal to the loops, and {faster:,.0f} times faster")

# %% [markdown]
# ## 4. Spot the bug
# Both functions below have a common bug. **Predict, then run:** what is wrong, and which small
# image shows it?


# %%
def broken_start(image, size, stride):
    out = np.zeros([(m - size) // stride + 1 for m in image.shape])
    for i, j in np.ndindex(out.shape):
        out[i, j] = image[i : i + size, j : j + size].max()
    return out


def broken_mean(image, size, stride):
    out = np.zeros([(m - size) // stride + 1 for m in image.shape], int)
    for i, j in np.ndindex(out.shape):
        top, left = i * stride, j * stride
        out[i, j] = image[top : top + size, left : left + size].mean()
    return out


# %% [markdown]
# The first starts window $i$ at pixel $i$ instead of $s i$. With stride 1 it is correct, and the
# shape is always right. The second stores means in an integer array; for pixels from 0 to 255 the
# error is below 1, so nobody notices. A bright last pixel and a mean below 1 find them:

# %%
for name, pool, image, right in (
    ("broken_start", broken_start, np.diag([0, 0, 0, 4]), 4),
    ("max by loops", partial(pool_by_loops, reduce=np.max), np.diag([0, 0, 0, 4]), 4),
    ("broken_mean", broken_mean, np.diag([0, 1]), 0.25),
    ("mean by loops", partial(pool_by_loops, reduce=np.mean), np.diag([0, 1]), 0.25),
):
    last = pool(image, 2, 2)[-1, -1]
    print(f"{name:13} {last:4g}, expected {right:4g}; by_hand: {pool(by_hand, 2, 2).ravel()}")
    assert (last == right) != name.startswith("broken")

# %% [markdown]
# ## 5. Where the gradient goes
# Raise one pixel a little: its window's maximum follows only if this pixel is the largest, the mean
# follows by $1 / p^2$ of the change. So, with $g$ the gradient with respect to an output:
#
# * max pooling: the largest pixel gets $g$, the others 0 (among equals, the first gets $g$);
# * average pooling: each of the $p^2$ pixels gets $g / p^2$.
#
# A pixel in several windows gets the sum. **Predict, then run:** all 64 outputs of 16 x 16 pixels
# get gradient 1. For each kind: how many pixels get a part, how much each, and what is the sum?

# %%
movie = sliding_window(by_hand, pools, (2, 1), backwards=True)
chapter.play(*movie, "pooling_gradient", "max sends 1 to one pixel, average a quarter to all four")

# %%
part = greys[grid : grid + 1, :, 8:24, 8:24]
tiles = {"16 x 16 pixels": part[0, 0]}
for name, pool in pools.items():
    x = chapter.tensor(part, requires_grad=True)
    pool(x, 2).sum().backward()
    tiles[f"gradient of {name}"] = back = x.grad.numpy()[0, 0]
    print(f"{name}: {(back > 0).sum()} of 256 pixels get {back.max():g}; the sum is {back.sum():g}")
figure = plots.images(tiles, columns=3, label="brightness; gradient")
chapter.keep(figure, "gradients", "one scale: max is 1 (white) or 0, average 1/4 (grey) everywhere")

# %% [markdown]
# ## 6. Shift the image: does the output change?
# **Invariance** to a shift means that the output stays the same; equivariance, that it shifts too.
# Pooling is equivariant to shifts by its stride: whole windows move. Max pooling is often said to
# be invariant to small shifts, too. Move a crop of 24 x 24 pixels over each image: by how many
# standard deviations does the output change? (Unrelated images: 1.4.) **Predict, then run:** a
# shift by one pixel changes the images by 0.57. By how much does it change their 2 x 2 maxima?


# %%
def error(found, right):
    return float(np.sqrt(np.mean((found - right) ** 2)) / right.std())


for pool in pools.values():  # equivariant: a shift by the stride shifts the output by one
    still, shifted = (pool(chapter.tensor(greys[:, :, :, s : s + 28]), 2).numpy() for s in (0, 2))
    assert (still[..., 1:] == shifted[..., :-1]).all()
moved, crops = {}, [chapter.tensor(greys[:, :, 4:28, 4 - shift : 28 - shift]) for shift in range(4)]
for name, pool in {
    "no pooling": lambda x: x,
    "max 2 x 2": lambda x: F.max_pool2d(x, 2),
    "average 2 x 2": lambda x: F.avg_pool2d(x, 2),
    "max, blurred": F.max_blur_pool2d,  # weighted means of 4 x 4 maxima: chapter 6
    "average 4 x 4, stride 2": lambda x: F.avg_pool2d(x, 4, 2),
}.items():
    moved[name] = dict(enumerate(error(pool(x).numpy(), pool(crops[0]).numpy()) for x in crops))
none, largest, _, blurred, _ = (changes[1] for changes in moved.values())
print(f"2 x 2 max pooling hardly helps against a shift by one pixel: {none:.2f} to {largest:.2f}.")
print(f"Blurring does: {blurred:.2f}. Many articles say that max pooling does.")
look = {"xlabel": "shift (pixels)", "ylabel": "change (standard deviations)"}
figure = plots.side_by_side({"": moved}, **look)
chapter.keep(figure, "shift", "max 2 x 2 is just below no pooling; wide means are far below")

# %% [markdown]
# ## 7. Noise: whether, or how much
# Gaussian noise changes every pixel a little; salt noise sets a few pixels to white. Noise left is
# the error after pooling divided by that before. The mean of four halves independent noise. Half of
# max pooling's squared error is an upward bias: a window's brightest pixel is likely to be one that
# noise made brighter. Lost is the difference to the image if each output fills its window again.
# **Predict, then run:** can more noise come out than went in?

# %%
noisy = {"Gaussian": np.maximum(greys + chapter.rng.normal(0, 0.1, greys.shape), 0)}
noisy["salt"] = np.where(chapter.rng.random(greys.shape) < 0.02, 1, greys)
tiles, left = {}, {}
for noise, images in {"no": greys, **noisy}.items():
    tiles[f"{noise} noise"] = images[grid, 0]
    for name, pool in pools.items():
        clean, out = (pool(chapter.tensor(x), 2).numpy() for x in (greys, images))
        back = np.kron(out, np.ones((1, 1, 2, 2)))
        if noise in noisy:
            left[name, noise] = error(out, clean) / error(images, greys)
            print(text := f"{name}: {left[name, noise]:.2f} of {noise} noise left")
        else:
            print(text := f"{name}: {error(back, greys):.2f} lost")
        tiles[text] = back[grid, 0]
figure = plots.images(tiles, columns=3)
chapter.keep(figure, "noise", "max widens lines and salt; average weakens them, and the noise")
print("Max says whether, average says how much. What saves a lone response lets salt through:")
for name in pools:
    print(f"  {name} leaves {lone[name]:g} of a lone pixel, {left[name, 'salt']:.2f} of salt noise")
chapter.result(
    f"noise left by average {left['average', 'Gaussian']:.2f}, noise left by max "
    f"{left['max', 'Gaussian']:.2f}, lone pixel left by average {lone['average']:g}, lone pixel "
    f"left by max {lone['max']:g}, shift with max {largest:.2f}, shift with blur {blurred:.2f}"
)

# %% [markdown]
# ## What comes next
# Chapter 6 has the other kinds; chapter 7 trains with max pooling, chapter 8 measures its effect.
# Fill in chapters/exercises/ch05_pooling.py; `python -m pytest chapters/exercises -k ch05` (after
# `pip install -e '.[test]'`, the README's second command) tells you which answers are right.
#
# 1. `max_pool_with_indices`: max pooling that also returns the index of each maximum.
# 2. `max_pool`: write the backward of max pooling; `gradcheck` tests it.
# 3. `avg_pool_padded`: average pooling with padding, where the padding does not count.
#
# **Change this and explain:** set 2 % of the pixels to 0 (pepper), not to 1. Which kind is better
# now, and why? Write `broken_start` for averages: does the bright corner still find the bug?
#
# **Further reading:** [CS231n](https://cs231n.github.io/convolutional-networks/#pool); [Boureau
# 2010](https://www.di.ens.fr/willow/pdfs/icml2010b.pdf), maximum against average; [Zhang
# 2019](https://arxiv.org/abs/1904.11486), why networks are not invariant to shifts.
