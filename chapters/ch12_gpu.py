"""Chapter 12. The same code on a GPU: what moves, what waits, and when it is faster.

Result: equal losses 10; takes 0.2 times as long as chapter 7.
With --quick: equal losses 4.
"""

# %% [markdown]
# # 12. The same code on a GPU
#
# Ask a GPU for a matrix product, and the call returns before the product exists: the work is only
# *queued*. Python runs ahead, asking for more, until it reads a value; then it waits for everything
# that it has asked for. Such calls are **asynchronous**. If each call asks for much work and values
# are read rarely, the GPU is always busy. If each asks for little, asking takes most of the time,
# and a CPU may be faster.
#
# **What you will learn:** where an array lives and what it costs to move it; who waits for whom;
# how to time a GPU; when it does not help. **You need:** chapter 7. And a GPU: without one, the
# chapter says what is missing, and runs only the parts that need none. No GPU has run it yet: it
# was tested with minidl's CUDA kernels built for a CPU, which says nothing about speed.

# %%
import contextlib
import io
import itertools
import runpy
import time

import numpy as np

import minidl
from minidl import Tensor, optim
from minidl.chapter import Chapter
from minidl.data import DataLoader, Normalize, load_toy10
from minidl.functional import cross_entropy
from minidl.inspect import graph, plots

chapter = Chapter(__doc__, device=(["cpu", "cuda"], "cuda: end if there is no usable GPU"))
pictures = chapter.load(load_toy10)[0].first(256 if chapter.quick else 1024)
normalize = Normalize.fit(pictures.images)

with contextlib.redirect_stdout(io.StringIO()) as report:
    runpy.run_module("minidl", run_name="__main__")
lines = [line for line in report.getvalue().splitlines() if not line.startswith("mpiexec")]
print("$ python -m minidl", *lines, sep="\n")  # mpiexec's folder is of no use to other readers
devices = ["cpu"]
try:
    minidl.zeros(1, device="cuda")  # starts CuPy and tries a kernel
    devices.append("cuda")
except RuntimeError as error:
    print(f"\nNo usable GPU, so only what needs none: {error}.")

# %% [markdown]
# ## 1. What moves
# An array lives in the CPU's memory or in the GPU's, and so do the results of operations on it: the
# data decides where code runs. `model.to("cuda")` moves the weights once; batches are moved one by
# one, over a bus that is many times slower than the GPU's own memory. Nothing moves implicitly:
# adding a CPU tensor to a GPU tensor is an error.
#
# **Predict, then run:** which is more, all weights of chapter 7's network or a batch of 64 images?

# %%
images = normalize(pictures.images[:64])
weights = sum(p.size for p in minidl.models.cifar10_cnn().parameters())
print(f"{weights:,} weights: {weights * 4 / 1e3:.0f} kB, once")
print(f"64 images: {images.nbytes / 1e3:.0f} kB in each step (a quarter of that as pixels)")
for device in devices[1:]:
    for _ in range(3):  # only the last one counts: the first allocates memory
        started = time.perf_counter()
        x = Tensor(images, device=device)
        x[0, 0, 0, 0].item()  # once this is read, x has arrived
        arrived = time.perf_counter()
        x.numpy()
        there, back = 1e3 * (arrived - started), 1e3 * (time.perf_counter() - arrived)
    print(f"64 images to the GPU: {there:.2f} ms; back to NumPy: {back:.2f} ms")

# %% [markdown]
# ## 2. The same seed, the same losses
# Chapter 7's network and training step, unchanged. NumPy draws weights and batch orders on the CPU,
# wherever they go. On the same device, losses are equal to the last bit; on another they differ by
# rounding, because sums run in another order.


# %%
def trainer(device, wrapped=lambda step: step):
    """Return a training step on a device, for a network with weights from the seed."""
    model = minidl.models.cifar10_cnn(rng=np.random.default_rng(chapter.seed)).to(device)
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
    options = {"shuffle": True, "rng": np.random.default_rng(chapter.seed), "transform": normalize}
    options |= {"device": device, "prefetch": prefetch}
    return DataLoader(pictures.images, pictures.labels, **options)


losses = []
for device in ["cpu", *devices]:
    step = trainer(device)
    losses.append([step(*batch).item() for batch in itertools.islice(batches(device), 10)])
    apart = np.abs(np.subtract(losses[-1], losses[0])).max()
    assert apart <= (0 if device == "cpu" else 1e-2), f"losses on {device} differ by {apart}"
print(f"twice on the CPU: {len(losses[0])} equal losses, to {losses[0][-1]:.4f}")
if "cuda" in devices:
    print(f"and on the GPU: they differ by at most {apart:.1e}")

# %% [markdown]
# ## 3. What waits
# First a model, by hand. Python needs some time to ask for an operation: the **kernel launch**. The
# GPU starts the operation once it has been asked for and the one before it is done. Reading a
# value, such as `loss.item()`, `print(loss)`, `x.numpy()` or `if loss > 1`, is a
# **synchronisation**: Python waits for the whole queue.
#
# **Predict, then run:** in which of the four cases below is the GPU busy all the time? The numbers
# are invented, in microseconds: three steps of six operations each. ("Captured" steps ask for all
# their operations almost at once: section 4.)


# %%
def timeline(launch, work, read_each_step):
    """Return (start, length) of everything that Python does, and of all that the GPU does."""
    python, gpu, now, done = [], [], 0, 0
    for _ in range(3):
        for _ in range(6):
            python.append((now, launch))
            now += launch
            start = max(now, done)
            gpu.append((start, work))
            done = start + work
        if read_each_step:
            now = max(now, done) + 20  # wait, then print
    return python, gpu, max(now, done)


cases = {
    "small batch, loss read at the end": timeline(10, 4, False),
    "small batch, captured": timeline(1, 4, False),
    "large batch, loss read in each step": timeline(10, 25, True),
    "large batch, loss read at the end": timeline(10, 25, False),
}
for name, (_, gpu, end) in cases.items():
    print(f"{name:36}  {end:4} us, GPU busy {sum(work for _, work in gpu) / end:.0%}")

# %% tags=["hide-input"]
figure, panels = plots.subplots(4, 1, figsize=(8, 5), sharex=True)
for axes, (name, (python, gpu, _)) in zip(panels, cases.items(), strict=True):
    look = {"edgecolor": "white", "linewidth": 0.5}
    axes.broken_barh(python, (1.1, 0.8), color=plots.COLOURS[0], **look)
    axes.broken_barh(gpu, (0.1, 0.8), color=plots.COLOURS[1], hatch="//", **look)
    axes.set(title=name, yticks=[0.5, 1.5], yticklabels=["GPU", "Python"])
panels[-1].set_xlabel("time in the model (µs)")
chapter.keep(
    figure, "timeline", "gaps in a GPU's row: it waits for Python to ask, or to read and go on"
)

# %% [markdown]
# So read the loss now and then instead of in every step, and read a result before stopping a clock.
# While Python waits, it prepares no batch, unless a thread does: `prefetch=2`. Now measure it. On a
# CPU, the work is done when the call returns, so "queued" equals "done".

# %%
rounds = 2 if chapter.quick else 3
print("\nBatches of 64, ms per step:\n  device  loader      loss read      queued    done")
for device, prefetch, read in itertools.product(devices, (0, 2), ("each step", "at the end")):
    step, fastest = trainer(device), (np.inf, np.inf)
    for _ in range(rounds):  # the first also compiles kernels and allocates memory
        started = time.perf_counter()
        for batch in batches(device, prefetch):
            loss = step(*batch)
            if read == "each step":
                loss.item()
        asked = time.perf_counter() - started
        loss.item()
        fastest = min(fastest, (time.perf_counter() - started, asked))
    done, asked = (1e3 * seconds / len(batches(device)) for seconds in fastest)
    print(f"  {device:6}  prefetch={prefetch}  {read:10}  {asked:9.2f}  {done:6.2f}", flush=True)

# %% [markdown]
# ## 4. When a GPU does not help
# A launch takes a few microseconds, however small the batch: a lower bound on the time of a step.
# `minidl.capture` records a step's launches in its third call, and then replays them as one **CUDA
# graph**, without Python. A step has the operations counted below, and about 100 launches for any
# batch size (counted with the kernels built for the CPU).
#
# If half the batch takes just as long, launches dominate: use larger batches, capture the step, or
# stay on the CPU. **Predict, then run, on a GPU:** below which batch size does the CPU win?
# (Without one: chapter 3 shows how a CPU's time depends on the batch.)


# %%
def milliseconds(step, batch):
    """Return the least time of a step; each round ends by reading a loss, and so waits."""
    times = []
    for count in (4, *[2 if chapter.quick else 5] * rounds):  # the first round compiles, records
        started = time.perf_counter()
        for _ in range(count):
            loss = step(*batch)
        loss.item()
        times.append((time.perf_counter() - started) / count)
    return 1e3 * min(times[1:])


ways = {"CPU": ("cpu", lambda step: step)}
if "cuda" in devices:
    ways |= {"GPU": ("cuda", lambda step: step), "GPU captured": ("cuda", minidl.capture)}
measured = {name: {} for name in ways}
print(f"\nA training step, ms; {minidl.get_num_threads()} threads; TF32: {minidl.get_tf32()}")
print("  batch  operations", *(f"{name:>12}" for name in ways))
sizes = [64] if len(devices) == 1 else [16, 64] if chapter.quick else [16, 32, 64, 128, 256]
for size in sizes:
    chosen = np.random.default_rng(chapter.seed).integers(0, len(pictures.labels), size)
    for name, (device, wrapped) in ways.items():
        x = Tensor(normalize(pictures.images[chosen]), device=device)
        y = Tensor(pictures.labels[chosen], device=device)
        measured[name][size] = milliseconds(trainer(device, wrapped), (x, y))
    scores = minidl.models.cifar10_cnn().to(device)(x)
    count = sum(bool(node.op) for node in graph(cross_entropy(scores, y)).nodes)
    print(f"  {size:5}  {count:10}", *(f"{times[size]:12.2f}" for times in measured.values()))

if "cuda" in devices:
    figure = plots.side_by_side({"": measured}, xlabel="batch size (images)", ylabel="step (ms)")
    chapter.keep(figure, "step", "where a GPU's curve is level, launches take the time")
chapter.result(f"equal losses {len(losses[0])}")

# %% [markdown]
# ## What comes next
# Run chapter 7 on real images with `--data cifar10 --device cuda`, or read how the GPU is used:
# minidl/backends/cuda/, and minidl/training/capture.py. Fill in chapters/exercises/ch12_gpu.py;
# `python -m pytest chapters/exercises -k ch12` (after `pip install -e '.[test]'`) tells you which
# answers are right and which are not there yet.
#
# 1. `mean_loss`: the mean of a hundred losses on a device, waiting for it once.
# 2. `milliseconds`: time work on a device that only queues it: warm up, wait, start, wait, stop.
# 3. `break_even`: the smallest batch size for which a GPU, despite its launches, beats a CPU.
#
# **Change this and explain:** let the model's large batch take 9 us instead of 25. Which two cases
# become alike, and why? On a GPU: call `minidl.set_tf32(True)` first. Which batch sizes gain?
# **Further reading:** [the CUDA guide](https://docs.nvidia.com/cuda/cuda-c-programming-guide/);
# [Making deep learning go brrrr](https://horace.io/brrr_intro.html) (Horace He, 2022).
