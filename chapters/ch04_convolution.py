"""Chapter 4. Convolution: the same small question at every position of an image.

What you will learn: what a convolution computes, by hand, as loops, as one matrix product, and as
the layer `Conv2d`; what different kernels respond to; why it needs so few weights; how padding and
stride change the size; where its gradients come from; and how much of the image one output of a
deep layer sees.

    python chapters/ch04_convolution.py               # built-in toy images, offline

You need: chapter 1 for gradients; chapter 2 for linear layers.

What to expect: three figures within seconds. As a matrix product, a convolution is a thousand times
faster than as loops; `Conv2d` is several times faster again.

Result: receptive field 18 pixels; about 2 s on 2 cores.
With --quick: receptive field 18 pixels; about 2 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np

import minidl
from minidl import Tensor, nn
from minidl import functional as F
from minidl.data import load_toy10
from minidl.inspect import plots
from minidl.training import Output

# %% Options
plt = plots.pyplot()
sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--seed", type=int, default=0, help="seed for weights and gradients")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="fewer images; takes seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch04"), help="folder for the figures")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.seed < 0:
    parser.error("expected --seed >= 0")
started = time.perf_counter()
try:
    minidl.zeros(1, device=args.device)  # fail early: no GPU, or a full disk
    args.out.mkdir(parents=True, exist_ok=True)
    toy = load_toy10(train=10, test=100)[1]
except (OSError, ValueError, RuntimeError) as error:
    parser.error(str(error))
rng = minidl.manual_seed(args.seed)


def tensor(array, **options):
    return Tensor(np.ascontiguousarray(array, np.float32), device=args.device, **options)


def keep(figure, name):
    try:
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
    except OSError as error:  # for example, the disk is full
        print("no figure:", error)


# %% 1. By hand
# A kernel is a small image of weights. Lay it on the image, multiply the numbers that lie on top of
# each other and add the products: one number. Move the kernel on by one pixel, and repeat until the
# whole image is covered:
#
#     out[y, x] = sum over i, j of kernel[i, j] * image[y + i, x + j]
#
# Take an image that is dark (0) on the left and bright (1) on the right. This kernel subtracts a
# window's left column from its right one: its output is large where the image gets brighter to the
# right, and 0 elsewhere. Work out one window by hand.
image = np.array([[0, 0, 1, 1]] * 4, float)  # (h, w) = (4, 4)
kernel = np.array([[-1, 1], [-1, 1]], float)  # (k_h, k_w) = (2, 2)
by_hand = [[0, 2, 0], [0, 2, 0], [0, 2, 0]]

figure, panels = plt.subplots(1, 3, figsize=(8, 3.2), layout="constrained")
for axes, numbers, title in zip(
    panels, (image, kernel, np.array(by_hand)), ("image", "kernel", "output"), strict=True
):
    axes.imshow(numbers, cmap="RdBu_r", vmin=-3, vmax=3)
    axes.set(xticks=[], yticks=[], title=f"{title}, {len(numbers)} x {len(numbers)}")
    for (row, column), number in np.ndenumerate(numbers):
        axes.text(column, row, f"{number:g}", ha="center", va="center", size=15)
panels[0].add_patch(plt.Rectangle((0.5, -0.5), 2, 2, fill=False, lw=3))  # this window ...
panels[2].add_patch(plt.Rectangle((0.5, -0.5), 1, 1, fill=False, lw=3))  # ... makes this number
figure.suptitle("The framed window: -1 * 0 + 1 * 1 - 1 * 0 + 1 * 1 = 2")
keep(figure, "by_hand")


# %% 2. As loops
# Real images have channels (red, green, blue), and a layer has many kernels, each with as many
# channels as the image: a kernel sums over all input channels c and makes one output channel d.
# With a bias b:
#
#     out[n, d, y, x] = b[d] + sum over c, i, j of weight[d, c, i, j] * x[n, c, y + i, x + j]
def convolve_loops(images, weight, bias):
    n, c, h, w = images.shape
    d, _, k_h, k_w = weight.shape
    out = np.zeros((n, d, h - k_h + 1, w - k_w + 1))
    for image, channel, row, column in np.ndindex(out.shape):
        total = bias[channel]
        for k, i, j in np.ndindex(c, k_h, k_w):
            total += weight[channel, k, i, j] * images[image, k, row + i, column + j]
        out[image, channel, row, column] = total
    return out


assert convolve_loops(image[None, None], kernel[None, None], [0])[0, 0].tolist() == by_hand


# %% 3. As columns
# Python's loops take all the time, yet the arithmetic is that of a linear layer: a window's pixels,
# written as one row, times a kernel's weights, written as one column. So copy all windows into one
# tall matrix, and let a single matrix product do the work. This is called im2col, "image to
# columns".
def columns_of(images, k_h, k_w):
    windows = np.lib.stride_tricks.sliding_window_view(images, (k_h, k_w), axis=(2, 3))
    n, c, out_h, out_w, _, _ = windows.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * out_h * out_w, c * k_h * k_w)


def convolve_columns(images, weight, bias):
    n, _, h, w = images.shape
    d, _, k_h, k_w = weight.shape
    rows = columns_of(images, k_h, k_w) @ weight.reshape(d, -1).T + bias  # (n * out_h * out_w, d)
    return rows.reshape(n, h - k_h + 1, w - k_w + 1, d).transpose(0, 3, 1, 2)


print("the first three windows of the 4 x 4 image, as rows:")
print(columns_of(image[None, None], 2, 2)[:3])
assert convolve_columns(image[None, None], kernel[None, None], [0])[0, 0].tolist() == by_hand

# %% 4. As a layer
# `Conv2d` holds the weights and the bias as parameters, checks shapes, and has gradients. It either
# computes the same product on all cores, a few images at a time so that their columns fit in the
# processor's cache, or uses a faster algorithm with the same result (see minidl/backends/cpu/).
# Run this file with MINIDL_KERNELS=plain, and a breakpoint in `functional.conv2d` or in
# minidl/backends/convolution.py stops at exactly the product above.
layer = nn.Conv2d(3, 16, 3, rng=rng).to(args.device)
weight, bias = layer.weight.numpy(), layer.bias.numpy()  # (16, 3, 3, 3), (16,)
colours = toy.images.astype(np.float32) / 255  # (n, 3, 32, 32), 0 <= x <= 1
one, many = colours[:1], colours[:16] if args.quick else colours


def milliseconds(function, images, repeats):
    """Return the result, and the shortest time per image."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function(images)
        times.append(time.perf_counter() - began)
    return result, 1e3 * min(times) / len(images)


with minidl.no_grad():
    loops, slow = milliseconds(lambda x: convolve_loops(x, weight, bias), one, 1)
    columns, medium = milliseconds(lambda x: convolve_columns(x, weight, bias), many, 5)
    layers, fast = milliseconds(lambda x: layer(tensor(x)).numpy(), many, 20)
np.testing.assert_allclose(columns[:1], loops, atol=1e-5)
np.testing.assert_allclose(layers, columns, atol=1e-5)
print("per 32 x 32 image, 3 channels to 16, 3 x 3 kernels; all three give the same result:")
print(f"  loops {slow:.0f} ms, columns {medium:.3f} ms, Conv2d {fast:.3f} ms")

# %% 5. What a kernel responds to
# These kernels are chosen by hand; a network learns its own by gradient descent (chapter 7 shows
# some).
kernels = {
    "brighter to the right": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "brighter downward": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "spots": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    "mean (blur)": [[1 / 9] * 3] * 3,
}
shown = [list(toy.labels).index(toy.classes.index(name)) for name in ("star", "grid")]
greys = colours[shown].mean(1, keepdims=True)  # (2, 1, 32, 32)
maps = F.conv2d(tensor(greys), tensor(np.array(list(kernels.values()))[:, None])).numpy()
figure, panels = plt.subplots(2, 5, figsize=(11, 4.6), layout="constrained")
for row, (grey, found) in enumerate(zip(greys, maps, strict=True)):
    panels[row, 0].imshow(grey[0], cmap="gray", vmin=0, vmax=1)
    panels[row, 0].set_ylabel(("star", "grid")[row])
    for axes, response in zip(panels[row, 1:], found, strict=True):
        most = max(1, np.abs(response).max())
        drawn = axes.imshow(response, cmap="RdBu_r", vmin=-most, vmax=most)
        figure.colorbar(drawn, ax=axes, shrink=0.8)
for axes, title in zip(panels[0], ("image", *kernels), strict=True):
    axes.set_title(title)
for axes in panels.flat:
    axes.set(xticks=[], yticks=[])
figure.suptitle(
    "Feature maps: red where the window resembles the kernel, blue where it resembles its negative"
)
keep(figure, "what_kernels_see")

# A convolution asks the same question everywhere: shift the image, and the output shifts with it.
# (A linear layer has to learn the same thing again for every position.)
moved = np.roll(greys, 5, axis=3)
moved_maps = F.conv2d(tensor(moved), tensor(np.array(list(kernels.values()))[:, None])).numpy()
np.testing.assert_allclose(moved_maps[..., 5:], maps[..., :-5], atol=1e-5)
dense = 3 * 32 * 32 * 16 * 30 * 30
shared = sum(p.size for p in layer.parameters())  # 16 * 3 * 3 * 3 weights, 16 biases
print(
    f"weights from a 3 x 32 x 32 image to 16 x 30 x 30 outputs: Linear {dense:,}, Conv2d {shared}"
)

# %% 6. Padding and stride
# A window of k pixels has m - k + 1 positions in m pixels. Padding adds p zeros on each side; a
# stride of s moves the window s pixels at a time:
#
#     out = floor((m + 2p - k) / s) + 1
for k, p, s in np.ndindex(5, 3, 3):
    k, s = k + 1, s + 1
    size = math.floor((32 + 2 * p - k) / s) + 1
    assert nn.Conv2d(3, 1, k, stride=s, padding=p, rng=rng)(Tensor(one)).shape == (1, 1, size, size)
print("sizes: a 3 x 3 kernel on 32 pixels gives 30; with padding 1, 32; with stride 2 too, 16")

# %% 7. The gradients
# Since out = columns @ weights + bias, chapter 1's rules give the gradients. Let g be the gradient
# with respect to the output, written as rows like the output itself:
#
#     gradient of the weights = columns.T @ g        gradient of the bias = g summed over rows
#     gradient of the columns = g @ weights.T, each added back to the pixel that it was copied from
x = tensor(colours[:4], requires_grad=True)
out = layer(x)
g = rng.standard_normal(out.shape).astype(np.float32)  # as if it came from the layers above
out.backward(tensor(g))
rows = g.transpose(0, 2, 3, 1).reshape(-1, 16)  # (n * out_h * out_w, d)
of_weight = (columns_of(colours[:4], 3, 3).T @ rows).T.reshape(16, 3, 3, 3)
of_columns = (rows @ weight.reshape(16, -1)).reshape(4, 30, 30, 3, 3, 3)  # n, y, x, c, i, j
of_images = np.zeros_like(colours[:4])
for i, j in np.ndindex(3, 3):  # a pixel lies in nine windows: add up their gradients
    of_images[:, :, i : i + 30, j : j + 30] += of_columns[..., i, j].transpose(0, 3, 1, 2)
np.testing.assert_allclose(layer.weight.grad.numpy(), of_weight, rtol=1e-3, atol=1e-2)
np.testing.assert_allclose(layer.bias.grad.numpy(), rows.sum(0), rtol=1e-3, atol=1e-2)
np.testing.assert_allclose(x.grad.numpy(), of_images, atol=1e-4)
print("gradients of weights, bias and images: minidl agrees with the calculation by hand")

# %% 8. How much of the image one output sees: the receptive field
# One output of a 3 x 3 convolution sees 3 x 3 pixels of the image. The next layer looks at 3 x 3 of
# those outputs, so at 5 x 5 pixels; and after a 2 x 2 pooling, neighbouring outputs are 2 pixels
# apart. Let r be the receptive field and jump the distance between neighbours, both 1 at first. A
# layer with kernel k and stride s updates them:
#
#     r = r + (k - 1) * jump        jump = jump * s
#
# The gradient checks this: an output sees the pixels where its gradient is not 0. With weights of
# 1, and average instead of max pooling, nothing cancels. These are chapter 7's layers.
stack = [("conv 3 x 3", 3, 1), ("pool 2 x 2", 2, 2), ("conv 3 x 3", 3, 1), ("pool 2 x 2", 2, 2)]
stack.append(("conv 3 x 3", 3, 1))
figure, panels = plt.subplots(1, 5, figsize=(12, 3.2), layout="constrained")
probe, r, jump = [], 1, 1
for axes, (name, k, s) in zip(panels, stack, strict=True):
    r, jump = r + (k - 1) * jump, jump * s
    probe.append(nn.Conv2d(1, 1, k, bias=False) if s == 1 else nn.AvgPool2d(k))
    x = minidl.zeros((1, 1, 32, 32))
    x.requires_grad = True
    for layer_ in probe:
        if isinstance(layer_, nn.Conv2d):
            nn.init.ones_(layer_.weight)
    out = nn.Sequential(*probe)(x)
    middle = out.shape[2] // 2
    out[0, 0, middle, middle].backward()
    seen = x.grad.numpy()[0, 0]
    assert (np.ptp(np.nonzero(seen), axis=1) + 1).tolist() == [r, r]
    drawn = axes.imshow(np.ma.masked_equal(seen / seen.max(), 0), cmap="Blues", vmin=0, vmax=1)
    axes.set(title=f"after {name}:\n{r} x {r} pixels", xticks=[0, 31], yticks=[0, 31])
figure.colorbar(drawn, ax=panels, label="gradient, relative to the largest", shrink=0.8)
figure.suptitle("What one output of each layer sees of a 32 x 32 image")
keep(figure, "receptive_field")

# %% The result
print(
    f"result: columns {slow / medium:.0f} times faster, "
    f"Conv2d {slow / fast:.0f} times faster, receptive field {r} pixels; "
    f"{time.perf_counter() - started:.0f} s"
)
plots.show()

# %% What comes next
# Chapter 5 adds pooling between convolutions: it makes feature maps smaller and less sensitive to
# exact positions. minidl's own version of sections 3 and 7, for any stride, padding and dilation,
# is in minidl/functional/convolution.py and minidl/backends/convolution.py.
#
# Fill in chapters/exercises/ch04_convolution.py; `pytest chapters/exercises -k ch04` tells you
# which answers are right and which are not yet.
#
# 1. `columns`: all windows of a batch of images as rows of a matrix, for any stride.
# 2. `convolve_row`: write the backward of a convolution along a row; `gradcheck` tests it.
# 3. `receptive_field`: how many pixels one output sees through a stack of layers with strides.
