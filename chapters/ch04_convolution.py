"""Chapter 4. Convolution: the same small question at every position of an image.

Result: receptive field 18 pixels, parameters 448; takes 0.1 times as long as chapter 7.
With --quick: receptive field 18 pixels, parameters 448.
"""

# %% [markdown]
# # 4. Convolution
#
# A **kernel** is a small image of weights. Lay it on an image, multiply the numbers that lie on top
# of each other and add the products: one number. Move the kernel on by one pixel, and repeat until
# it has been everywhere. This **convolution** asks one small question, such as "does it get
# brighter to the right here?", at every position, and needs only the kernel's few weights for it.
#
# **What you will learn:** convolution by hand, as loops, as one matrix product and as the layer
# `Conv2d`; what kernels respond to; why few weights are enough; padding and stride; the gradients;
# how much of the image one output of a deep layer sees. **You need:** chapters 1 and 2.

# %%
import numpy as np

import minidl
from minidl import functional as F
from minidl import nn
from minidl.chapter import Chapter, shortest, sliding_window
from minidl.data import load_toy10
from minidl.inspect import plots

chapter = Chapter(__doc__)
rng, tensor = chapter.rng, chapter.tensor

# %% [markdown]
# ## 1. By hand
# The output $O$ of a kernel $K$ over an image $I$, in row $y$ and column $x$:
#
# $$O_{y,x} = \sum_{i,j} K_{i,j} I_{y+i,\,x+j}$$
#
# The image is a bright square (1) on a dark ground (0). The kernel subtracts a window's left column
# from its right column. In the second window, $-1 \cdot 0 + 1 \cdot 0 - 1 \cdot 1 + 1 \cdot 1 = 0$.
#
# **Predict, then run:** where is the output positive, where is it negative?

# %%
image = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])  # (h, w) = (4, 4)
kernel = np.array([[-1, 1], [-1, 1]])  # (k_h, k_w) = (2, 2)
by_hand = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])

# %% tags=["hide-input"]
movie = sliding_window(image, {"output": lambda *_: tensor(by_hand[None, None])}, kernel=kernel)
chapter.play(*movie, "convolution", "the framed output is the sum of weights times framed pixels")

# %% tags=["hide-input"]
figure, panels = plots.subplots(3, 3, figsize=(9, 5.4))
for number, axes in enumerate(panels.flat):
    movie[1](number, axes, 9)
chapter.keep(figure, "by_hand", "positive (red) where it gets brighter, negative (blue) darker")

# %% [markdown]
# In mathematics, a convolution first turns the kernel by 180 degrees: $I_{y-i,\,x-j}$. This one,
# without the turn, is strictly a **cross-correlation**. Learned weights would simply come out
# turned, so every framework leaves the turn out and keeps the shorter name.
#
# ## 2. As loops
# Real images have **channels** (red, green, blue), and a layer has many kernels, each with as many
# channels as the image: a kernel sums over all input channels $c$ and makes one output channel $d$,
# its **feature map**. For image $n$, with weights $W$ and a bias $b$:
#
# $$O_{n,d,y,x} = b_d + \sum_{c,i,j} W_{d,c,i,j} I_{n,c,y+i,\,x+j}$$


# %%
def convolve_loops(images, weight, bias):
    (n, c, h, w), (d, _, k_h, k_w) = images.shape, weight.shape
    out = np.zeros((n, d, h - k_h + 1, w - k_w + 1))
    for picture, channel, row, column in np.ndindex(out.shape):
        total = bias[channel]
        for k, i, j in np.ndindex(c, k_h, k_w):
            total += weight[channel, k, i, j] * images[picture, k, row + i, column + j]
        out[picture, channel, row, column] = total
    return out


# %% [markdown]
# ## 3. As a matrix product
# Python's loops take all the time, yet the arithmetic is that of a linear layer: copy each window
# into a row of one tall matrix, and multiply it by the kernels, one in each column. This trick is
# called **im2col**, "image to columns", as it comes from programs that store matrices the other way
# round: there, each window is a column. Here, examples are rows as in chapter 2.


# %%
def columns_of(images, k_h, k_w):
    windows = np.lib.stride_tricks.sliding_window_view(images, (k_h, k_w), axis=(2, 3))
    n, c, out_h, out_w, _, _ = windows.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * out_h * out_w, c * k_h * k_w)


def convolve_columns(images, weight, bias):
    (n, _, h, w), (d, _, k_h, k_w) = images.shape, weight.shape
    rows = columns_of(images, k_h, k_w) @ weight.reshape(d, -1).T + bias  # (n * out_h * out_w, d)
    return rows.reshape(n, h - k_h + 1, w - k_w + 1, d).transpose(0, 3, 1, 2)


print("the first three windows, one in each row:", *columns_of(image[None, None], 2, 2)[:3])
for convolve in (convolve_loops, convolve_columns):
    assert (convolve(image[None, None], kernel[None, None], [0])[0, 0] == by_hand).all()

# %% [markdown]
# ## 4. As a layer
# `Conv2d` holds weights and bias, checks shapes, and has gradients. It computes the same product on
# all cores, or uses a faster algorithm with the same result. **Predict, then run:** how many times
# faster than the loops is the product, and how many times is `Conv2d`?

# %%
toy = chapter.load(load_toy10, train=10, test=100)[1]
layer = nn.Conv2d(3, 16, 3, rng=rng).to(chapter.device)
weight, bias = layer.weight.numpy(), layer.bias.numpy()  # (16, 3, 3, 3), (16,)
images = toy.images[: 16 if chapter.quick else 100].astype(np.float32) / 255  # (n, 3, 32, 32)
with minidl.no_grad():
    loops, slow = shortest(lambda: convolve_loops(images[:1], weight, bias), 1)
    product, medium = shortest(lambda: convolve_columns(images, weight, bias))
    layers, fast = shortest(lambda: layer(tensor(images)).numpy(), 20)
np.testing.assert_allclose(product[:1], loops, atol=1e-5)
np.testing.assert_allclose(layers, product, atol=1e-5)
product_gain, layer_gain = slow * len(images) / medium, slow * len(images) / fast
print(f"product {product_gain:,.0f} times, Conv2d {layer_gain:,.0f} times faster than loops")

# %% [markdown]
# ## 5. What a kernel responds to
# These kernels are chosen by hand; a network learns its own by gradient descent (chapter 7). Shift
# the image, and the output shifts with it: **equivariance**. What is learned at one position is
# found everywhere, with one set of weights: **weight sharing**. A linear layer learns it again for
# each position. (An output that a shift leaves unchanged is another matter: chapter 5.) **Predict,
# then run:** which of the four kernels do not give 0 where the image is plain?

# %%
kernels = {
    "brighter to the right": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "brighter downward": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "spots": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    "mean (blur)": [[1 / 9] * 3] * 3,
}
stacked = tensor(np.array(list(kernels.values()))[:, None])  # (4, 1, 3, 3)
shown = [list(toy.labels).index(toy.classes.index(name)) for name in ("star", "grid")]
greys = toy.images[shown].mean(1, keepdims=True) / 255  # (2, 1, 32, 32)
maps = F.conv2d(tensor(greys), stacked).numpy()  # (2, 4, 30, 30)
moved_maps = F.conv2d(tensor(np.roll(greys, 5, axis=3)), stacked).numpy()
np.testing.assert_allclose(moved_maps[..., 5:], maps[..., :-5], atol=1e-5)
shared = sum(p.size for p in layer.parameters())  # 16 * 3 * 3 * 3 weights, 16 biases
print(f"16 maps of 30 x 30: Conv2d {shared}, Linear {3 * 32 * 32 * 16 * 30 * 30:,} weights")

# %% tags=["hide-input"]
figure, panels = plots.subplots(3, 5, figsize=(9, 5.6))
drawn = zip(panels[:, 1:].flat, [*kernels.values(), *maps[0], *maps[1]], strict=True)
for title, (axes, values) in zip([*kernels, *[""] * 8], drawn, strict=True):
    plots.draw_pixels(axes, values, title, signed=True)
for axes, values in zip(panels[:, 0], [np.ones((1, 1)), *greys[:, 0]], strict=True):
    axes.imshow(values, cmap="gray", vmin=0, vmax=1), axes.set_axis_off()
chapter.keep(figure, "what_kernels_see", "red where a window is like the kernel, blue its negative")

# %% [markdown]
# ## 6. Padding, stride, and kernels of one pixel
# A window of $k$ pixels has $m - k + 1$ positions in $m$ pixels. **Padding** adds $p$ zeros on each
# side; a **stride** of $s$ moves the window by $s$ pixels: $\lfloor (m + 2p - k) / s \rfloor + 1$
# positions. A **1 x 1 convolution** sees one pixel, but all of its channels: a linear layer, the
# same for each pixel, that changes the number of channels (chapter 10).

# %%
for k, p, s in [(3, 0, 1), (3, 1, 1), (3, 1, 2), (2, 0, 2), (5, 2, 3), (4, 1, 3)]:
    out = nn.Conv2d(3, 1, k, stride=s, padding=p)(minidl.zeros((1, 3, 32, 32)))
    assert out.shape[2] == (32 + 2 * p - k) // s + 1
    print(f"32 pixels, kernel {k}, padding {p}, stride {s}: {out.shape[2]} pixels")
mix = nn.Conv2d(3, 8, 1, bias=False, rng=rng)
per_pixel = np.einsum("dc, nchw -> ndhw", mix.weight.numpy()[:, :, 0, 0], images)
np.testing.assert_allclose(mix.to(chapter.device)(tensor(images)).numpy(), per_pixel, atol=1e-5)

# %% [markdown]
# ## 7. The gradients
# Section 3 computes $O = C W + b$ from the windows $C$. With $G = dL/dO$, the chain rule gives:
#
# * $dL/dW = C^T G$, and $dL/db$ is the sum of the rows of $G$;
# * $dL/dC = G W^T$, each number added back to the pixel that it was copied from.

# %%
x = tensor(images[:4], requires_grad=True)
out = layer(x)
g = rng.standard_normal(out.shape).astype(np.float32)  # as if it came from the layers above
out.backward(tensor(g))
rows = g.transpose(0, 2, 3, 1).reshape(-1, 16)  # (n * out_h * out_w, d)
of_weight = (columns_of(images[:4], 3, 3).T @ rows).T.reshape(16, 3, 3, 3)
of_columns = (rows @ weight.reshape(16, -1)).reshape(4, 30, 30, 3, 3, 3)  # n, y, x, c, i, j
of_images = np.zeros_like(images[:4])
for i, j in np.ndindex(3, 3):  # a pixel lies in nine windows: add up their gradients
    of_images[:, :, i : i + 30, j : j + 30] += of_columns[..., i, j].transpose(0, 3, 1, 2)
np.testing.assert_allclose(layer.weight.grad.numpy(), of_weight, rtol=1e-3, atol=1e-2)
np.testing.assert_allclose(x.grad.numpy(), of_images, atol=1e-4)

# %% [markdown]
# ## 8. How much of the image one output sees: the receptive field
# One output of a 3 x 3 convolution sees 3 x 3 pixels. The next layer looks at 3 x 3 of those, so at
# 5 x 5 pixels; and after 2 x 2 pooling (chapter 5), neighbouring outputs are 2 pixels apart. Let
# $r$ be the **receptive field** and $j$ that distance, the jump; both are 1 at first. Kernel $k$
# and stride $s$ change them:
#
# $$r \leftarrow r + (k - 1) j, \quad j \leftarrow j s$$
#
# An output sees the pixels for which its gradient is not 0. (Here all weights are 1: none cancel.)
# **Predict, then run:** what is $r$ after three 3 x 3 convolutions with two 2 x 2 poolings between?

# %%
stack = [("conv 3 x 3", 3, 1), ("pool 2 x 2", 2, 2)] * 2 + [("conv 3 x 3", 3, 1)]
fields, r, jump = {}, 1, 1
for depth, (name, k, s) in enumerate(stack, 1):
    r, jump = r + (k - 1) * jump, jump * s
    x = out = minidl.zeros((1, 1, 32, 32)).requires_grad_()
    for _, size, step in stack[:depth]:
        out = F.conv2d(out, minidl.ones((1, 1, size, size)), stride=step)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    seen = x.grad.numpy()[0, 0]
    assert (np.ptp(np.nonzero(seen), axis=1) + 1).tolist() == [r, r]
    fields[f"{depth}. {name}:\n{r} x {r} pixels"] = seen / seen.max()

# %% tags=["hide-input"]
figure, panels = plots.subplots(1, 5, figsize=(9, 2.4))
for axes, (title, seen) in zip(panels, fields.items(), strict=True):
    plots.draw_pixels(axes, seen, title)
chapter.keep(figure, "receptive_field", "what one output sees grows faster after each pooling")
chapter.result(f"receptive field {r} pixels, parameters {shared}")

# %% [markdown]
# ## What comes next
# Chapter 5 puts pooling between convolutions: it makes feature maps smaller and less sensitive to
# exact positions. With MINIDL_KERNELS=plain, a breakpoint in minidl/backends/convolution.py stops
# at section 3's product. Fill in chapters/exercises/ch04_convolution.py;
# `python -m pytest chapters/exercises -k ch04` (after `pip install -e '.[test]'`, the README's
# second command) tells you which answers are right and which are not there yet.
#
# 1. `columns`: all windows of a batch of images as rows of a matrix, for any stride.
# 2. `convolve_row`: write the backward of a convolution along a row; `gradcheck` tests it.
# 3. `receptive_field`: how many pixels one output sees through a stack of layers with strides.
#
# **Change this and explain:** make the centre of "spots" 9. What does its feature map look like
# now, and why? (What do its nine weights sum to?)
#
# **Further reading:** [CS231n](https://cs231n.github.io/convolutional-networks/);
# [LeCun et al. 1998](http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf); on 1 x 1 convolutions,
# [Lin et al. 2013](https://arxiv.org/abs/1312.4400); on padding and stride,
# [Dumoulin and Visin 2016](https://arxiv.org/abs/1603.07285).
