"""Chapter 12. The same code on a GPU: what moves, what waits, what is faster and by how much.

What you will learn: where an array lives and what it costs to move it; why work for a GPU is
*queued*, and who waits for it; when launching takes longer than the arithmetic; how to time a GPU.

    python chapters/ch12_gpu.py                  # compare CPU and GPU; without a GPU, the CPU half
    python chapters/ch12_gpu.py --device cpu     # only the CPU half

What to expect on 2 cores without a GPU: what is missing and how to fix it, then 10 to 30 s of
measuring (longer on a busy machine), and 0.2 to 0.8 ms per image, the least for large batches. No
GPU has run this chapter yet. Its GPU half was tested with minidl's CUDA kernels built for the CPU,
which shows that it runs but says nothing about speed: you will be the first to see its numbers.

Result: equal losses 10; about 12 s on 2 cores.
With --quick: equal losses 4; about 4 s.
"""

import argparse
import itertools
import runpy
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

import minidl
from minidl import Tensor, optim
from minidl.data import DataLoader, Normalize, load_toy10
from minidl.functional import cross_entropy
from minidl.inspect import graph, plots
from minidl.training import Output

# %% Options
plt = plots.pyplot()
sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--seed", type=int, default=0, help="for weights and batches")
parser.add_argument("--device", choices=["cpu", "cuda"], help="cuda if it works (default), or cpu")
parser.add_argument("--quick", action="store_true", help="two batch sizes: takes seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch12"), help="folder for the figure")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.seed < 0:
    parser.error("expected --seed >= 0")
try:
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = load_toy10()[0].first(256 if args.quick else 2048)
except (OSError, ValueError) as error:
    parser.error(str(error))
sizes = [16, 64] if args.quick else [16, 32, 64, 128, 256, 512]
steps, rounds = (2, 2) if args.quick else (5, 3)


def keep(figure, name):
    try:
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
    except OSError as error:  # for example, the disk is full
        print("no figure:", error)


# %% What this machine has, as printed by `python -m minidl`
print("$ python -m minidl")
runpy.run_module("minidl", run_name="__main__")
devices = ["cpu"]
if args.device != "cpu":
    try:
        minidl.zeros(1, device="cuda")  # starts CuPy and tries a kernel
        devices.append("cuda")
    except RuntimeError as error:
        print(f"\nNo usable GPU; running only the CPU half: {error}.")

# %% What moves
# An array lives in the memory of the host or of the GPU, and the results of operations on it stay
# there: the data decides where code runs. `model.to("cuda")` moves the weights once; batches are
# moved one by one, over a bus many times slower than the GPU's own memory. Nothing moves
# implicitly: mixing a CPU tensor and a GPU tensor is an error, not a hidden copy.
normalize = Normalize.fit(pictures.images)
images = normalize(pictures.images[:64])
weights = sum(p.size for p in minidl.models.cifar10_cnn().parameters())
print(f"\nWhat moves: {weights:,} weights, {weights * 4 / 1e3:.0f} kB, once; 64 images,")
print(f"{images.nbytes / 1e3:.0f} kB (a quarter of that as pixels), in each step")
for device in devices:
    for _ in range(3):  # only the last one counts: the first allocates memory
        started = perf_counter()
        x = Tensor(images, device=device)
        x[0, 0, 0, 0].item()  # once this is read, x has arrived
        arrived = perf_counter()
        x.numpy()
        there, back = 1e3 * (arrived - started), 1e3 * (perf_counter() - arrived)
    print(f"64 images to a tensor on {device}: {there:.2f} ms; back to NumPy: {back:.2f} ms")


# %% The step to measure: chapter 7's network, unchanged
def trainer(device, wrapped=lambda step: step):
    """Return a training step on a device, for a network initialised from the seed."""
    model = minidl.models.cifar10_cnn(rng=np.random.default_rng(args.seed)).to(device)
    adam = optim.Adam(model.parameters())

    def step(images, labels):
        loss = cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss

    return wrapped(step)


def batches(device, prefetch=0):
    """Return batches of 64 images, shuffled with the seed."""
    options = {"shuffle": True, "rng": np.random.default_rng(args.seed), "transform": normalize}
    options |= {"device": device, "prefetch": prefetch}
    return DataLoader(pictures.images, pictures.labels, **options)


# %% The same seed, the same losses
# NumPy draws weights and batch orders on the host, whatever the device. On the same device, the
# losses are bit-identical; on another they differ by rounding, because sums run in another order.
losses = []
for device in ["cpu", *devices]:
    step = trainer(device)
    losses.append([step(*batch).item() for batch in itertools.islice(batches(device), 10)])
    apart = np.abs(np.subtract(losses[-1], losses[0])).max()
    assert apart <= (0 if device == "cpu" else 1e-2), f"losses on {device} differ by {apart}"
print(f"\nThe same seed, twice on the CPU: {len(losses[0])} equal losses, to {losses[0][-1]:.4f}")
if "cuda" in devices:
    print(f"and on the GPU: they differ by at most {apart:.1e}")

# %% What waits
# A GPU call returns as soon as the work is *queued*. Python runs ahead until it reads a result:
# `loss.item()`, `print(loss)`, `x.numpy()`, `if loss > 1`. Then it waits for all queued work. So
# read the loss now and then instead of in every step, and read a result before stopping the clock.
# While Python waits it prepares no batch, unless a thread does: `prefetch=2`. On the CPU, the work
# is done when the call returns, and with all cores busy a thread helps little.
print("\nWhat waits, batches of 64, ms per step:")
print("  device  loader      loss read      queued    done")
for device, prefetch, read in itertools.product(devices, (0, 2), ("each step", "at the end")):
    step, fastest = trainer(device), (np.inf, np.inf)
    for _ in range(rounds):  # the first also compiles kernels and allocates memory
        started = perf_counter()
        for batch in batches(device, prefetch):
            loss = step(*batch)
            if read == "each step":
                loss.item()
        asked = perf_counter() - started
        loss.item()
        fastest = min(fastest, (perf_counter() - started, asked))
    done, asked = (1e3 * seconds / len(batches(device)) for seconds in fastest)
    print(f"  {device:6}  prefetch={prefetch}  {read:10}  {asked:9.2f}  {done:6.2f}", flush=True)


# %% What is faster, and by how much
# A launch costs Python and the driver a few microseconds, however small the batch: a lower bound on
# the step time of a small network. `minidl.capture` records a step's launches in its third call and
# then replays them as one CUDA graph, without Python. No public function counts launches, so the
# table shows the operations recorded for backward. Counted with the kernels built for the CPU, a
# step needs 17 launches of minidl's own kernels, 14 matrix products and about 90 calls of CuPy
# functions, most of which launch a kernel: about 100 launches, for 16 images as for 64.
def milliseconds(step, batch):
    """Return the median time of a step; each round ends by reading a loss, and so waits."""
    times = []
    for count in (4, *[steps] * rounds):  # the first round compiles, allocates, records
        started = perf_counter()
        for _ in range(count):
            loss = step(*batch)
        loss.item()
        times.append((perf_counter() - started) / count)
    return 1e3 * np.median(times[1:])


ways = {"CPU": ("cpu", lambda step: step)}
if "cuda" in devices:
    ways |= {"GPU": ("cuda", lambda step: step), "GPU captured": ("cuda", minidl.capture)}
measured = {name: [] for name in ways}
print(f"\nA training step, ms; {minidl.get_num_threads()} threads; TF32: {minidl.get_tf32()}")
print("  batch  operations       CPU       GPU  GPU captured  CPU / GPU captured")
for size in sizes:
    chosen = np.random.default_rng(args.seed).integers(0, len(pictures.labels), size)
    for name, (device, wrapped) in ways.items():
        x = Tensor(normalize(pictures.images[chosen]), device=device)
        y = Tensor(pictures.labels[chosen], device=device)
        measured[name].append(milliseconds(trainer(device, wrapped), (x, y)))
    scores = minidl.models.cifar10_cnn().to(device)(x)
    count = sum(bool(node.op) for node in graph(cross_entropy(scores, y)).nodes)
    now = [times[-1] for times in measured.values()]
    cells = [f"{ms:.2f}" for ms in now] + ([f"{now[0] / now[2]:.1f}"] if now[1:] else ["-"] * 3)
    print("  {:5}  {:10}  {:>8}  {:>8}  {:>12}  {:>18}".format(size, count, *cells), flush=True)

# When a GPU does not help: if half the batch takes just as long, launches dominate. Then use larger
# batches, capture the step, or stay on the CPU, which may be as fast.

# %% The figure and the result
figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for (name, times), colour in zip(measured.items(), plots.COLOURS, strict=False):
    axes.plot(sizes, np.array(times) / sizes * 1e3, marker="o", color=colour, label=name)
axes.set(xscale="log", xlabel="batch size (images per step)", ylabel="time per image (µs)")
axes.set(title="Training chapter 7's network", xticks=sizes, xticklabels=sizes)
axes.set(yscale="log") if len(ways) > 1 else axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
axes.set_xticks([], minor=True)
axes.grid(alpha=0.3), axes.legend()
print()
keep(figure, "time_per_picture")
best = {name: 1e3 * min(np.array(times) / sizes) for name, times in measured.items()}
speeds = ", ".join(f"{name} {us:.0f} us per image" for name, us in best.items())
print(f"result: equal losses {len(losses[0])}, {speeds}")
plots.show()

# %% What comes next
# Run chapter 7 on real images with `--data cifar10 --device cuda`, or read how the GPU is used:
# minidl/backends/cuda/ (kernels.cu; deferred.py: what waits), and minidl/training/capture.py.
#
# Fill in chapters/exercises/ch12_gpu.py; `pytest chapters/exercises -k ch12` tells you which
# answers are right and which are not there yet.
#
# 1. `mean_loss`: the mean of a hundred losses on a device, waiting for it once.
# 2. `milliseconds`: time work on a device that only queues it: warm up, wait, start, wait, stop.
# 3. `break_even`: the smallest batch size for which a GPU, despite its launches, beats a CPU.
#
# Things to try here:
# - Call `minidl.set_tf32(True)` before the table. Which batch sizes gain? How far do the losses
#   drift from the CPU's? Why is it off by default?
# - Move uint8 pixels, a quarter of the bytes, and normalise them on the device (a uint8 tensor has
#   `.to(dtype=np.float32)`). Which rows of "What waits" change, and which do not?
# - Give the network a quarter of its kernels, then four times as many. Guess first: from which
#   batch size does the GPU's time grow with the batch? Where does `capture` still help?
