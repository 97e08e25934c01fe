"""Chapter 5. Pooling: one number for each window, and what it keeps and throws away.

What you will learn: max and average pooling by hand, as loops and as operations; the output size;
two common bugs, and the tests that catch them; where the gradient goes; and, measured for nine
kinds, how much a shift changes the output, how much noise passes, and how much detail is lost.

    python chapters/ch05_pooling.py               # built-in toy images, offline

What to expect: nine figures and a table. The operations are hundreds of times faster than loops. On
these images, average pooling keeps half of the noise, but only a quarter of a lone bright pixel;
max pooling keeps both in full.

Result: noise left by average 0.45 to 0.60, noise left by max 0.90 to 1.10, lone pixel left by
average 0.25, lone pixel left by max 1; about 10 s on 2 cores.
With --quick: noise left by average 0.45 to 0.60, noise left by max 0.90 to 1.10, lone pixel left by
average 0.25, lone pixel left by max 1; about 6 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np

import minidl
from minidl import functional as F
from minidl.data import load_toy10
from minidl.inspect import plots
from minidl.training import Output

# %% Options
plt = plots.pyplot()
sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--seed", type=int, default=0, help="seed for noise and random pooling")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="fewer images; takes seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch05"), help="folder for the figures")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.seed < 0:
    parser.error("expected --seed >= 0")
started = time.perf_counter()
try:
    minidl.zeros(1, device=args.device)  # fail early: no GPU, or a full disk
    args.out.mkdir(parents=True, exist_ok=True)
    toy = load_toy10(train=10, test=100 if args.quick else 1000)[1]
except (OSError, ValueError, RuntimeError) as error:
    parser.error(str(error))
rng = minidl.manual_seed(args.seed)


def tensor(array, **options):
    return minidl.Tensor(np.ascontiguousarray(array, np.float32), device=args.device, **options)


def keep(figure, name):
    try:
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
    except OSError as error:  # for example, the disk is full
        print("no figure:", error)


def gallery(name, tiles, size, rows=1, title="", label="", **options):
    """Save images side by side on one scale; those named "the image" in grey, 0 to 1."""
    figure, panels = plt.subplots(rows, len(tiles) // rows, figsize=size, layout="constrained")
    greyscale = {"cmap": "gray", "vmin": 0, "vmax": 1}
    for axes, (text, tile) in zip(panels.flat, tiles.items(), strict=True):
        look = options if options and not text.startswith("the image") else greyscale
        drawn = axes.imshow(tile, **look)
        axes.set_title(text, size=9)
        axes.set(xticks=[], yticks=[])
    if label:
        figure.colorbar(drawn, ax=panels, label=label, shrink=0.75)
    figure.suptitle(title)
    keep(figure, name)


colours = toy.images.astype(np.float32) / 255  # (n, 3, 32, 32), 0 <= x <= 1
greys = colours.mean(1, keepdims=True)  # (n, 1, 32, 32)
grid = list(toy.labels).index(toy.classes.index("grid"))  # the first image of a grid: thin lines
sample = greys[grid : grid + 1]  # (1, 1, 32, 32)

# %% 1. By hand
# Divide the image into windows of 2 x 2 pixels and replace each by one number: its maximum or its
# mean. Cover the right half with your hand and work out the first window: 1, 2, 5, 6.
by_hand = np.arange(1.0, 17.0).reshape(4, 4)
largest = F.max_pool2d(tensor(by_hand[None, None]), 2).numpy()[0, 0]
means = F.avg_pool2d(tensor(by_hand[None, None]), 2).numpy()[0, 0]
print(f"max {largest.tolist()}, mean {means.tolist()}")
assert largest.tolist() == [[6, 8], [14, 16]]
assert means.tolist() == [[3.5, 5.5], [11.5, 13.5]]

figure, panels = plt.subplots(1, 3, figsize=(8, 3.2), layout="constrained")
titles = ("4 x 4 pixels", "max of each window", "mean of each window")
for axes, numbers, title in zip(panels, (by_hand, largest, means), titles, strict=True):
    half = len(numbers) // 2  # a window's pixels and its output share a colour
    windows = np.kron([[0, 1], [2, 3]], np.ones((half, half)))
    axes.imshow(windows, cmap="Pastel1", vmin=0, vmax=8)
    axes.set(xticks=[], yticks=[], title=title)
    for (row, column), number in np.ndenumerate(numbers):
        axes.text(column, row, f"{number:g}", ha="center", va="center", size=15)
figure.suptitle("2 x 2 windows with stride 2")
keep(figure, "by_hand")


# %% 2. The output size
# Over m pixels, windows of p pixels with stride s give floor((m - p) / s) + 1 outputs. Padding adds
# pixels on both sides; ceil_mode rounds up, so the last window may extend past the edge.
def size_out(m, p, s, padding=0, ceil_mode=False):
    steps = (m + 2 * padding - p) / s
    if not ceil_mode:
        return math.floor(steps) + 1
    out = math.ceil(steps) + 1
    return out if (out - 1) * s < m + padding else out - 1  # no window of padding only


checked = 0
for m in range(4, 12):
    for p, s, padding, up in np.ndindex(4, 4, 3, 2):
        p, s = p + 1, s + 1
        if padding <= p // 2:
            pooled = F.max_pool2d(tensor(np.zeros((1, 1, m, m))), p, s, padding, ceil_mode=bool(up))
            assert pooled.shape[2] == size_out(m, p, s, padding, up), (m, p, s, padding, up)
            checked += 1
print(f"output sizes: the formula holds for all {checked} geometries tested")

cases = [(2, 2, 0, 0), (2, 2, 0, 1), (3, 2, 0, 0), (3, 2, 1, 0), (3, 1, 0, 0), (2, 3, 0, 0)]
figure, panels = plt.subplots(3, 2, figsize=(10, 6.6), layout="constrained")
for axes, (p, s, padding, up) in zip(panels.flat, cases, strict=True):
    starts = np.arange(size_out(7, p, s, padding, up)) * s - padding
    heights = 1.4 + 0.55 * (np.arange(len(starts)) % 3)
    hues = [plots.COLOURS[i % 3] for i in range(len(starts))]
    axes.barh(heights, p - 0.16, 0.2, starts + 0.08, color=hues)
    for pixel in range(-padding, 7 + padding):
        seen, real = any((starts <= pixel) & (pixel < starts + p)), 0 <= pixel < 7
        fill, line = "#cccccc" if seen and real else "white", "-" if real else ":"
        axes.barh(0.5, 1, 1, pixel, color=fill, edgecolor="black", linestyle=line)
        axes.text(pixel + 0.5, 0.5, f"{pixel}" if real else "pad", ha="center", va="center")
    words = f"p = {p}, s = {s}" + f", padding {padding}" * bool(padding) + ", ceil_mode" * up
    room = "7" + f" + {2 * padding}" * bool(padding) + f" - {p}"
    rounding = "ceil" if up else "floor"
    axes.set_title(f"{words}:  {rounding}(({room}) / {s}) + 1 = {len(starts)}", size=10)
    axes.set(xlim=(-1.3, 8.3), ylim=(-0.2, 3))
    axes.set_axis_off()
figure.suptitle("Windows (bars) over a row of m = 7 pixels (boxes; white: in no window)")
keep(figure, "output_size")


# %% 3. Loops first, then the fast version
def pool_by_loops(images, size, stride, reduce):
    n, c, h, w = images.shape
    out = np.zeros((n, c, (h - size) // stride + 1, (w - size) // stride + 1), np.float32)
    for image, channel, i, j in np.ndindex(out.shape):
        top, left = i * stride, j * stride
        window = images[image, channel, top : top + size, left : left + size]
        out[image, channel, i, j] = reduce(window)
    return out


def milliseconds(function, *inputs, repeats=5):
    """Return the time of the fastest run, including the wait for the device."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*inputs).numpy()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


batch = greys[:64]
for name, fast, reduce in (("max", F.max_pool2d, np.max), ("mean", F.avg_pool2d, np.mean)):
    start = time.perf_counter()
    slow_out = pool_by_loops(batch, 2, 2, reduce)
    slow = 1000 * (time.perf_counter() - start)
    quick = milliseconds(fast, tensor(batch), 2)
    assert np.allclose(fast(tensor(batch), 2).numpy(), slow_out, atol=1e-6)
    times = f"loops {slow:.1f} ms, fast {quick:.3f} ms, {slow / quick:,.0f} times faster"
    print(f"{name:4}: equal up to rounding; {times}")


# %% 4. Spot the bug
# Both bugs are common. Study the code before you read on: what is wrong, and which test shows it?
def broken_start(image, size, stride):
    h, w = image.shape
    out = np.zeros(((h - size) // stride + 1, (w - size) // stride + 1))
    for i, j in np.ndindex(out.shape):
        out[i, j] = image[i : i + size, j : j + size].max()
    return out


def broken_mean(image, size, stride):
    h, w = image.shape
    out = np.zeros(((h - size) // stride + 1, (w - size) // stride + 1), int)
    for i, j in np.ndindex(out.shape):
        top, left = i * stride, j * stride
        out[i, j] = image[top : top + size, left : left + size].mean()
    return out


# The first starts window i at pixel i instead of i * stride. With stride 1 it is correct, and the
# shape is always right. The second stores means in an integer array; for pixels from 0 to 255 the
# error is below 1, so nobody notices.
def sees_the_last_pixel(pool):
    """A bright pixel in the last corner must come out in the last corner."""
    corner = np.zeros((4, 4))
    corner[3, 3] = 4
    return pool(corner, 2, 2)[1, 1] > 0


def keeps_fractions(pool):
    """The mean of 0, 0, 0 and 1 is a quarter."""
    return abs(pool(np.diag([0.0, 1.0]), 2, 2)[0, 0] - 0.25) < 1e-6


def of_one_image(reduce):
    return lambda image, size, stride: pool_by_loops(image[None, None], size, stride, reduce)[0, 0]


for name, pool, test, expected in (
    ("broken_start", broken_start, sees_the_last_pixel, False),
    ("max by loops", of_one_image(np.max), sees_the_last_pixel, True),
    ("broken_mean", broken_mean, keeps_fractions, False),
    ("mean by loops", of_one_image(np.mean), keeps_fractions, True),
):
    passed = bool(test(pool))
    found = pool(by_hand, 2, 2).tolist()
    print(f"{name:13} gives {found}; {test.__name__}: {'passes' if passed else 'FAILS'}")
    assert passed == expected

# %% 5. Where the gradient goes
# Max pooling sends all of it to the largest pixel; the others get nothing. Average pooling sends an
# equal share to every pixel. The kinds in between give brighter pixels larger shares.
kinds = {
    "max": lambda x: F.max_pool2d(x, 2),
    "average": lambda x: F.avg_pool2d(x, 2),
    "min": lambda x: F.min_pool2d(x, 2),
    "2-norm / 2": lambda x: F.lp_pool2d(x, 2, 2) / 2,  # a uniform grey keeps its value
    "mixed 0.5": lambda x: F.mixed_pool2d(x, 2, alpha=0.5),
    "GeM p=3": lambda x: F.gem_pool2d(x, 3.0, 2),
    "softmax b=10": lambda x: F.softmax_pool2d(x, 2, beta=10.0),
    "stochastic": lambda x: F.stochastic_pool2d(x, 2, training=False),  # the expected value
    "max blurred": lambda x: F.max_blur_pool2d(x),
}
others = {  # other output size, random, or with weights: shown here, not compared below
    "stochastic drawn": lambda x: F.stochastic_pool2d(x, 2, rng=rng),
    "average blurred": lambda x: F.blur_pool2d(x),
    "gated": lambda x: F.gated_pool2d(x, tensor([[[[4, -4], [4, -4]]]])),
    "fractional 0.7": lambda x: F.fractional_max_pool2d(x, output_ratio=0.7, rng=rng),
    "adaptive max, 5 x 5": lambda x: F.adaptive_max_pool2d(x, 5),
    "pyramid 1 2 4": lambda x: F.spatial_pyramid_pool2d(x, (1, 2, 4)),
    "attention": lambda x: F.attention_pool2d(x, tensor([8])),
    "max, window 3": lambda x: F.max_pool2d(x, 3, 2, padding=1),
    "adaptive mean, 5 x 5": lambda x: F.adaptive_avg_pool2d(x, 5),
    "global max": F.global_max_pool2d,
    "global average": F.global_avg_pool2d,
}
part = sample[:, :, 8:24, 8:24]
tiles, reached = {"the image\n16 x 16 pixels": part[0, 0]}, {}
for name, pool in (kinds | others).items():
    x = tensor(part, requires_grad=True)
    pool(x).sum().backward()
    gradient = x.grad.numpy()[0, 0]
    gradient = gradient / np.abs(gradient).max()
    reached[name] = int((np.abs(gradient) > 1e-3).sum())
    tiles[f"{name}\n{reached[name]} of 256 pixels"] = gradient
title = "Gradient of the sum of all outputs, and how many pixels receive any"
label = "gradient (maximum of each panel = 1)"
gallery("gradients", tiles, (13, 6.6), 3, title, label, cmap="RdBu_r", vmin=-1, vmax=1)

# %% 6. Window and stride are independent
# The window sets how many pixels one output sees, the stride how far apart the outputs are. The
# gradient of sum pooling (average pooling without the division) counts the windows over each pixel.
tiles = {}
for size, stride in ((2, 2), (3, 2), (3, 1), (2, 3)):
    x = tensor(np.zeros((1, 1, 12, 12)), requires_grad=True)
    pooled = F.avg_pool2d(x, size, stride, divisor_override=1)
    pooled.sum().backward()
    seen = x.grad.numpy()[0, 0]
    text = f"window {size}, stride {stride}: 12 x 12 to {pooled.shape[2]} x {pooled.shape[3]}"
    text += f"\n{(seen == 0).sum()} of 144 pixels in no window"
    tiles[text] = np.where(seen == 0, np.nan, seen)
    print(text.replace("\n", ", "))
label = "windows over the pixel (white: 0)"
gallery("window_and_stride", tiles, (12, 3.5), label=label, cmap="viridis", vmin=1, vmax=9)


# %% 7. Shift the image: how much does the output change?
# Crop each image to 24 x 24 pixels, and move the crop by 0 to 3 pixels. The change is given in
# standard deviations of the output: 0 means no change, and about 1.4 is the change between two
# unrelated images. (Each output of the blurred kind sees 5 x 5 pixels, hence its smaller change.)
def change(pool, shift):
    before = pool(tensor(greys[:, :, 4:28, 4:28])).numpy()
    after = pool(tensor(greys[:, :, 4:28, 4 - shift : 28 - shift])).numpy()
    return float(np.sqrt(np.mean((after - before) ** 2)) / before.std())


no_pooling = {"every pixel": lambda x: x, "every 2nd pixel": lambda x: F.max_pool2d(x, 1, 2)}
moved = {name: [change(pool, s) for s in range(4)] for name, pool in (no_pooling | kinds).items()}
figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
table = np.array(list(moved.values()))
axes.imshow(table, cmap="Blues", vmin=0, vmax=1.5 * table.max(), aspect="auto")
for (row, column), value in np.ndenumerate(table):
    axes.text(column, row, f"{value:.2f}", ha="center", va="center")
axes.set_xticks(range(4))
axes.set_yticks(range(len(moved)), list(moved))
axes.set(xlabel="shift (pixels)", title="Change of the output (standard deviations), window 2")
keep(figure, "shift")

# A shift by the stride shifts the output by one, and changes nothing else: whole windows move.
for pool in (F.max_pool2d, F.avg_pool2d):
    still, shifted = (pool(tensor(sample[:, :, :, s : s + 28]), 2).numpy() for s in (0, 2))
    assert (still[..., 1:] == shifted[..., :-1]).all()

# %% 8. Noise
# Gaussian noise changes every pixel a little; salt noise sets a few pixels to white. The error is
# divided by the standard deviation of the clean output, then by the same ratio without pooling: 1
# means that all noise is left. The mean of four halves independent noise. Half of max pooling's
# squared error is an upward bias: a window's brightest pixel is likely to be one that noise made
# brighter.
gaussian = greys + rng.normal(0, 0.1, greys.shape)
salt = np.where(rng.random(greys.shape) < 0.02, 1, greys)


def noise_left(pool, noisy):
    clean = pool(tensor(greys)).numpy()
    error = pool(tensor(np.maximum(noisy, 0))).numpy() - clean
    return float(np.sqrt(np.mean(error**2)) / clean.std())


noises = {"Gaussian, standard deviation 0.1": gaussian, "salt on 2 % of pixels": salt}
left_over = {
    name: [noise_left(pool, n) / noise_left(lambda x: x, n) for n in noises.values()]
    for name, pool in kinds.items()
}
figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
for place, label in enumerate(noises):
    spots = np.arange(len(kinds)) + 0.4 * place - 0.2
    bars = axes.bar(spots, [v[place] for v in left_over.values()], 0.38, color=plots.COLOURS[place])
    bars.set_label(label)
    axes.bar_label(bars, fmt="%.2f", size=8, bbox={"color": "white", "pad": 0.5}, padding=2)
axes.axhline(1, color="black", linestyle=":", label="no pooling", zorder=0)
axes.set_xticks(range(len(kinds)), list(kinds), rotation=30, ha="right")
axes.set(ylabel="noise left (no pooling = 1)", title="Noise-to-signal ratio after 2 x 2 pooling")
axes.legend()
keep(figure, "noise")


# %% 9. Unpooling: what is lost
# Repeat each output over its window and compare with the image. Max pooling can also return the
# index of each maximum: `max_unpool2d` puts the maxima back there, and zeros elsewhere. (This
# measure is unfair to the blurred kind: its windows are centred half a pixel further right and down
# than the pixels over which its outputs are repeated.)
def way_back(pool, size=2):
    return np.kron(pool(tensor(greys)).numpy(), np.ones((1, 1, size, size)))


def error(back):
    return 100 * float(np.sqrt(np.mean((back - greys) ** 2)) / greys.std())


lost = {name: error(way_back(pool)) for name, pool in kinds.items()}
maxima, indices = F.max_pool2d(tensor(greys), 2, return_indices=True)
backs = {"max_unpool2d": F.max_unpool2d(maxima, indices, 2).numpy()}
backs |= {name: way_back(pool) for name, pool in kinds.items()}
for size in (4, 8):
    backs[f"max, window {size}"] = way_back(lambda x, k=size: F.max_pool2d(x, k), size)
    backs[f"average, window {size}"] = way_back(lambda x, k=size: F.avg_pool2d(x, k), size)
tiles = {"the image\n32 x 32 pixels": greys[grid, 0]}
tiles |= {f"{name}\nerror {error(back):.0f} %": back[grid, 0] for name, back in backs.items()}
title = "Unpooled outputs, and the error over all images (100 % = their standard deviation)"
gallery("lost", tiles, (11, 7.6), 3, title)

# The larger the window, the less a shift matters, and the more detail is lost.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
sizes = [1, 2, 4, 8]
for colour, name, kind in zip(
    plots.COLOURS, ("max", "average"), (F.max_pool2d, F.avg_pool2d), strict=False
):
    pools = [lambda x, k=k, kind=kind: kind(x, k) for k in sizes]
    for shift, line in ((1, "o-"), (3, "o--")):
        changes = [change(pool, shift) for pool in pools]
        left.plot(sizes, changes, line, color=colour, label=f"{name}, shifted by {shift}")
    errors = [error(way_back(pool, k)) for pool, k in zip(pools, sizes, strict=True)]
    right.plot(sizes, errors, "o-", color=colour, label=name)
left.set(title="Changed by a shift", ylabel="change of the output (standard deviations)")
right.set(title="Lost after unpooling", ylabel="error (% of the images' standard deviation)")
for axes in (left, right):
    axes.set(xlabel="window and stride (pixels)", xticks=sizes, ylim=0)
    axes.grid(alpha=0.3)
    axes.legend()
keep(figure, "size")

# %% 10. Images of any size, a vector of fixed size
for h, w in ((32, 32), (20, 28), (11, 32)):
    x = tensor(colours[:1, :, :h, :w])
    one, pyramid = F.global_avg_pool2d(x), F.spatial_pyramid_pool2d(x, (1, 2, 4))
    print(f"{h} x {w}: global {one.shape}, pyramid of 1, 4 and 16 windows {pyramid.shape}")
    assert (one.shape, pyramid.shape) == ((1, 3), (1, 63))

# %% 11. Across channels
# Four kernels detect an edge in four directions, 90 degrees apart. Their maximum detects an edge in
# any of these directions: rotate the image, and the output rotates with it, otherwise unchanged.
edge = np.array([[-1, 0, 1]] * 3) / 3
kernels = tensor(np.stack([np.rot90(edge, k) for k in range(4)])[:, None])
upright, turned = (
    F.relu(F.conv2d(tensor(x), kernels)) for x in (sample, np.rot90(sample, axes=(2, 3)))
)
alone = np.abs(np.rot90(upright.numpy(), axes=(2, 3)) - turned.numpy()).mean()
either = np.rot90(F.channel_max_pool(upright, 4).numpy(), axes=(2, 3))
together = np.abs(either - F.channel_max_pool(turned, 4).numpy()).mean()
print(f"rotated by 90 degrees: each channel changes by {alone:.3f}, the maximum by {together:.0e}")
assert together < 1e-6 < alone
tiles = {"the image": sample[0, 0]}
names = ("to the right", "upwards", "to the left", "downwards")
tiles |= {f"brighter {name}": edges for name, edges in zip(names, upright.numpy()[0], strict=True)}
tiles["max of the four"] = F.channel_max_pool(upright, 4).numpy()[0, 0]
tiles["mean of the four"] = F.channel_avg_pool(upright, 4).numpy()[0, 0]
strongest, label = upright.numpy().max(), "increase in brightness\nover 2 pixels"
gallery("channels", tiles, (13, 2.6), label=label, cmap="viridis", vmin=0, vmax=strongest)

# %% 12. Which kind to choose
# One more measurement, of what pooling is for in a network: passing on a feature that was found in
# one place only. How much of a single bright pixel on black passes, or of a dark one on white?
dots = np.zeros((16, 1, 32, 32))
dots[range(16), 0, 14 + np.arange(16) // 4, 14 + np.arange(16) % 4] = 1  # at 16 positions
measured = {
    name: {
        "shift": moved[name][1],
        "noise": left_over[name][0],
        "salt": left_over[name][1],
        "lost": lost[name] / 100,
        "bright": float(pool(tensor(dots)).numpy().max((1, 2, 3)).mean()),
        "dark": 1 - float(pool(tensor(1 - dots)).numpy().min((1, 2, 3)).mean()),
        "reached": reached[name] / 256,
        "ms": milliseconds(pool, tensor(np.repeat(batch, 16, 1))),
    }
    for name, pool in kinds.items()
}
columns = list(measured["max"])
print(f"\n{'window 2 x 2':17}" + "".join(f"{column:>10}" for column in columns))
for name, row in measured.items():
    print(f"{name:17}" + "".join(f"{value:10.2f}" for value in row.values()))
print("shift: change after a shift by 1 pixel; noise, salt: noise left, relative to no pooling;")
print("lost: error of unpooling; bright, dark: share of a lone pixel that is left; reached: share")
print("of pixels that get a gradient; ms: forward on 64 x 16 x 32 x 32 pixels. shift and lost are")
print("in standard deviations. Lower is better in the first four columns and ms, else higher.\n")

best_for: dict[str, list[str]] = {name: [] for name in kinds}
for column, sign, need in (
    ("shift", 1, "a shift must not matter"),
    ("noise", 1, "every pixel is noisy"),
    ("salt", 1, "a few pixels are far too bright"),
    ("lost", 1, "the output must still resemble the image"),
    ("bright", -1, "one strong response decides (after a ReLU)"),
    ("dark", -1, "one dark pixel decides"),
    ("reached", -1, "every pixel should get a gradient"),
    ("ms", 1, "speed matters most"),
):
    ranking = sorted(kinds, key=lambda name: sign * measured[name][column])
    value = measured[ranking[0]][column]
    tied = [n for n in ranking if abs(measured[n][column] - value) <= 0.02 * abs(value)]
    print(f"{need + ':':50} {' | '.join(tied)} ({value:.2f}); last: {ranking[-1]}")
    for name in tied:
        best_for[name].append(column)
for name, needs in best_for.items():
    print(f"choose {name:17} for: {', '.join(needs) or 'a compromise; it is never the best'}")

# %% The result
# No kind wins everywhere: one that passes a lone response also passes salt noise. Which one suits a
# network has to be tried: chapter 7 trains one with max pooling.
steady, sharp = measured["average"], measured["max"]
print(
    f"result: noise left by average {steady['noise']:.2f}, noise left by max {sharp['noise']:.2f}, "
    f"lone pixel left by average {steady['bright']:.2f}, "
    f"lone pixel left by max {sharp['bright']:.2f}; {time.perf_counter() - started:.0f} s"
)
plots.show()

# %% What comes next
# Chapter 7 combines convolution and pooling, and trains on images. Pooling is implemented in
# minidl/functional/pooling/basic.py. Run this file with MINIDL_KERNELS=plain, and a breakpoint in
# `max_pool2d` leads to the loop over the taps of a window, in minidl/backends/base.py.
#
# Fill in chapters/exercises/ch05_pooling.py; `pytest chapters/exercises -k ch05` tells you which
# answers are right and which are not yet.
#
# 1. `max_pool_with_indices`: max pooling that also returns the index of each maximum.
# 2. `max_pool`: write the backward of max pooling; `gradcheck` tests it.
# 3. `avg_pool_padded`: average pooling with padding, where the padding does not count.
#
# Also try this:
# - Go from mean to max: `gem_pool2d` with p from 1 to 20. For which p do "noise" and "bright" cross
#   those of "mixed 0.5" in the table?
# - Add pepper noise: 2 % of the pixels at 0. Which kind that removed salt noise is worst now, and
#   why?
# - Write `broken_start` for average pooling. Does `sees_the_last_pixel` catch it? Find a third bug
#   that passes both tests of section 4, and a test that catches it.
