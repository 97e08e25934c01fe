"""Chapter 13. Many processes: one training step, shared among ranks.

    mpiexec -n 2 python chapters/ch13_many_processes.py  # or plain python: it starts 2 ranks itself

Result: equal digits 10 to 16, small batches 75 to 97 %, large batches 25 to 62 %, scaled rate 5 to
50 %, warm-up 52 to 88 %, least gain 8 to 70 points; takes 0.9 times as long as chapter 7.
With --quick: equal digits 10 to 16, small batches 2 to 60 %, large batches 2 to 60 %.
"""

# %% [markdown]
# # 13. Many processes
#
# The loss of a batch is a mean, so its gradient is a mean too: that of 64 images is the mean of the
# gradients of two halves. Two processes with the same weights can each take one half, average their
# gradients, and make the same step: **data parallelism**. But the exchange costs time, and with a
# thousand processes the batch grows, which changes how training behaves.
#
# **What you will learn:** what each process computes, and why the result is that of one process;
# when more processes help; what breaks as batches grow. **You need:** chapter 7, and MPI (`pip
# install -e '.[mpi]'` in a clone). Without MPI, the chapter skips what needs two processes.

# %%
import itertools
import json
import subprocess
import sys
import time

import numpy as np

import minidl
from minidl import distributed, nn, optim, training
from minidl.chapter import Chapter
from minidl.data import DataLoader, Normalize, load_toy10
from minidl.distributed import mpi
from minidl.functional import cross_entropy
from minidl.inspect import plots, summary

chapter = Chapter(
    __doc__,
    device=(["cpu"], "where to compute"),
    epochs=({"toy": 6, "quick": 1}, "passes over the images in section 4"),
    lr=(0.015, "SGD's learning rate for batches of 32 images"),
    ranks_only=(False, "end after section 2: for the ranks that the chapter starts"),
)
images, test = (part.first(650 if chapter.quick else 4096) for part in chapter.load(load_toy10))
labels, normalize = images.labels, Normalize.fit(images.images)
world, pixels, test_pixels = chapter.world, normalize(images.images), normalize(test.images)

# %% [markdown]
# ## 1. The mean of means
# Suppose that one process takes 40 of 65 images, and another the other 25. **Predict, then run:**
# by how much does the mean of their gradients differ from the gradient of all 65 images? And the
# mean weighted by the numbers of images?

# %%
model, x = minidl.models.cifar10_cnn(), minidl.Tensor(pixels[:65].astype(np.float64))
model.to(dtype="float64")


def gradient(first, last):
    """Return the gradient of the mean loss of some images, as one vector."""
    model.zero_grad()
    cross_entropy(model(x[first:last]), labels[first:last]).backward()
    return np.concatenate([g.numpy().ravel() for _, g in model.named_gradients()])


whole, one, other = gradient(0, 65), gradient(0, 40), gradient(40, 65)
means = {"mean": (one + other) / 2, "weighted mean": (40 * one + 25 * other) / 65}
for name, found in means.items():
    apart = np.linalg.norm(found - whole) / np.linalg.norm(whole)
    print(f"{name} of the gradients: differs by {apart:.1e} of the whole batch's norm")

# %% [markdown]
# ## 2. The same with processes
# `mpiexec -n 2 python train.py` starts the same program twice. Each process has a number, its
# **rank**: 0 or 1. An **all-reduce** gives each process the sum of all their arrays. Here
# `DataLoader` gives each rank its share of every batch, `world.mean` weights the ranks' losses, and
# `DataParallel` all-reduces gradients of late layers while `backward` computes those of early ones.


# %%
def train(world, dtype):
    """Return the losses of ten steps, and the fastest step's seconds: all, and spent waiting."""
    model = minidl.models.cifar10_cnn(rng=np.random.default_rng(chapter.seed)).to(dtype=dtype)
    parallel, adam = distributed.DataParallel(model, world), optim.Adam(model.parameters())
    batches = DataLoader(pixels[:650].astype(dtype), labels[:650], batch_size=65, world=world)
    losses, times = [], []
    for x, y in batches:
        started, waited = time.perf_counter(), parallel.waited
        loss = world.mean(cross_entropy(model(x), y), len(y))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        times.append((time.perf_counter() - started, parallel.waited - waited))
    return losses, *min(times)


def measure(world):
    """Return the number of ranks, losses, times of a step, and of all-reduces by their bytes."""
    sums = {}
    for size in [4**power for power in range(1, 10 if chapter.quick else 13)]:
        for _ in range(10):
            world.barrier()
            started = time.perf_counter()
            world.all_reduce(np.ones(size // 4, np.float32))
            sums[size] = min(time.perf_counter() - started, sums.get(size, np.inf))
    return world.size, train(world, "float64")[0], *train(world, "float32")[1:], sums


# %% [markdown]
# Started by `mpiexec`, this chapter measures in its own ranks; started by `python`, it calls
# `mpiexec` to start itself twice more. **Predict, then run:** 1 and 2 ranks add up 65 images in
# different orders. To how many digits do their float64 losses agree after ten steps of Adam?

# %%
runs, file = [], chapter.out / "ranks.json"
if world.rank == 0 and not chapter.ranks_only:
    runs.append(measure(distributed.World()))  # a world of this process only
if world.size > 1:
    runs.append(measure(world))
    if world.rank == 0:
        file.write_text(json.dumps(runs[-1]), encoding="utf-8")
    if world.rank or chapter.ranks_only:  # what follows needs one process
        sys.exit()
elif mpi.module() and mpi.mpiexec() and "__file__" in globals():
    command = [mpi.mpiexec(), "-n", "2", sys.executable, __file__, *sys.argv[1:], "--ranks-only"]
    if subprocess.run(command, timeout=300, stdout=subprocess.DEVNULL).returncode == 0:
        runs.append(json.loads(file.read_text(encoding="utf-8")))
else:
    print(f"There is no MPI, or this is a notebook: one process only. For MPI, {mpi.INSTALL}")
for count, losses, seconds, waited, _ in runs:
    times = f"{1e3 * seconds:.1f} ms per step, {1e3 * waited:.1f} of it waiting for sums"
    print(f"{count} ranks: {times}; the tenth loss is {losses[-1]:.15f}")
digits = -np.log10(max(abs(np.divide(runs[-1][1], runs[0][1]) - 1).max(), 1e-16))

# %% [markdown]
# ## 3. When do more ranks help?
# A message of $n$ bytes takes about $a + b n$ seconds: $a$ is the **latency**, $1 / b$ the
# **bandwidth**. Two ways to all-reduce over $p$ ranks (Thakur et al., 2005; Patarasuk and Yuan,
# 2009):
#
# * ring: each rank passes on pieces of $n / p$ bytes, $2 (p - 1)$ times: $2 (p - 1) (a + b n / p)$
# * tree: all $n$ bytes go up a binary tree, and down again: $2 \log_2(p) (a + b n)$
#
# A ring sends fewer bytes; a tree pays fewer latencies. Section 2's all-reduces give this machine's
# $a$ and $b$. **Weak scaling** keeps the number of images per rank, here 32; **strong scaling**
# divides a fixed batch, here of 4,096. Efficiency is the fraction of its time that a rank computes,
# if no all-reduce overlaps with it. **Predict, then run:** which scales better, chapter 7's network
# or ResNet-50, which has 200 times as many weights?

# %%
ways = {
    "ring": lambda p, n, a, b: 2 * (p - 1) * (a + b * n / p),
    "tree": lambda p, n, a, b: 2 * np.ceil(np.log2(p)) * (a + b * n),
}
count, _, seconds, waited, sums = runs[-1]
a, b = 50e-6, 1 / 1.25e9  # assumed, if nothing was measured: 10 Gbit/s Ethernet
if count > 1:  # least squares of relative errors, or the largest arrays would decide alone
    ring, tests = ways["ring"], [(int(n), t) for n, t in sums.items()]
    rows = [[ring(count, n, 1, 0) / t, ring(count, n, 0, 1) / t] for n, t in tests]
    a, b = np.maximum(np.linalg.lstsq(rows, np.ones(len(rows)))[0], 1e-12)
net, image = summary(minidl.models.cifar10_cnn(), (3, 32, 32)), (seconds - waited) * count / 65
large = 4 * 25_557_032, image * 4_089_184_256 / net.multiply_adds
nets = {"chapter 7": (4 * net.parameters, image), "ResNet-50": large}  # bytes, s per image
speed = f"latency {1e6 * a:.0f} us, {1e-9 / b:.2f} GB/s"
print(f"{speed} {'measured' if count > 1 else 'assumed'}; efficiency with 2, 16, 256, 4096 ranks:")
ranks, shown = [2**power for power in range(13)], {"weak scaling": {}, "strong scaling": {}}
for kind, net, way in itertools.product(shown, nets, ways):
    size, cost = nets[net]
    work = {p: cost * (32 if kind == "weak scaling" else 4096 / p) for p in ranks}
    curve = {p: 100 * t / (t + ways[way](p, size, a, b)) for p, t in work.items()}
    shown[kind][f"{net}, {way}"] = curve
    print(f"{kind:14} {net} {way}", *(f"{curve[p]:4.0f}%" for p in (2, 16, 256, 4096)))
look = {"xlabel": f"ranks ({speed})", "xscale": "log", "ylabel": "efficiency (%)"}
chapter.keep(
    *(plots.side_by_side(shown, **look), "efficiency"),
    "with many ranks, a tree suits the few bytes of chapter 7's network, and a ring the many of "
    "ResNet-50, which loses less because it computes more per byte",
)

# %% [markdown]
# ## 4. What breaks as batches grow
# With 32 images on each of 16 ranks, a batch has 512. Ranks do not change the mathematics, so one
# process can show the effect. An epoch then has 16 times fewer steps. But the gradient of 512
# images is less noisy, so let each step go 16 times as far: the **linear scaling rule**. At first,
# such steps are too large, so a **warm-up** raises the rate over two epochs (Goyal et al., 2017).
# Here all rates also decay linearly towards 0. **Predict, then run:** with batches of 512 images,
# which rule loses the least accuracy? And with 1,024?

# %%
halved = [x.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5)) for x in (pixels, test_pixels)]  # faster


def accuracy(rule, size, seed):
    """Train a small network with batches of one size; return its accuracy on test images in %."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, rng=rng), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, rng=rng), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 4 * 4, 10, rng=rng)),
    )
    batches = DataLoader(halved[0], labels, batch_size=size, shuffle=True, rng=rng)
    peak = chapter.lr * (1 if rule == "fixed rate" else size / 32)
    sgd = optim.SGD(model.parameters(), chapter.lr, momentum=0.9)
    steps, rise = chapter.epochs * len(batches), 2 * len(batches) if rule == "warm-up" else 1
    for step, (x, y) in enumerate(batch for _ in range(chapter.epochs) for batch in batches):
        rate = chapter.lr + (peak - chapter.lr) * min(1, (step + 1) / rise)
        sgd.param_groups[0]["lr"] = rate * (1 - step / steps)
        loss = cross_entropy(model(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    scores = training.predict(model, DataLoader(halved[1], test.labels, batch_size=250))
    return 100 * training.accuracy(scores.argmax(1), test.labels)


shown, rules = {}, ("fixed rate", "scaled rate", "warm-up")
for seed in (chapter.seed, chapter.seed + 1):
    usual = {32: accuracy("fixed rate", 32, seed)}  # the same for all rules
    panel = shown[f"seed {seed}"] = {rule: usual.copy() for rule in rules}
    for rule, size in itertools.product(rules, (512,) if chapter.quick else (128, 512, 1024)):
        panel[rule][size] = accuracy(rule, size, seed)
        print(f"seed {seed}, {size} images, {rule}: {panel[rule][size]:.1f}%", flush=True)
figure = plots.side_by_side(shown, xlabel="batch size (images)", ylabel="test accuracy (%)")
chapter.keep(figure, "batch_size", "warm-up keeps most accuracy at 512 images, no rule at 1,024")
large = np.array([[panel[rule][512] for rule in rules] for panel in shown.values()])
small = np.mean([panel["warm-up"][32] for panel in shown.values()])
text = "equal digits {:.0f}, small batches {:.1f}%, large batches {:.1f}%, scaled rate {:.1f}%, "
text = (text + "warm-up {:.1f}%").format(digits, small, *large.mean(0))
chapter.result(f"{text}, least gain {(large[:, 2] - large[:, :2].max(1)).min():.1f} points")

# %% [markdown]
# ## What comes next
# Section 2's loop of five lines trains your own network on many machines. Fill in
# chapters/exercises/ch13_many_processes.py; `python -m pytest chapters/exercises -k ch13` (after
# `pip install -e '.[test]'`) tells you which answers are right and which are not there yet.
#
# 1. `whole_mean`: the mean of means of uneven shares, some of them empty.
# 2. `ring_pieces`: which piece each rank sends in each step of an all-reduce around a ring.
# 3. `best_ranks`: the number of ranks with which a step takes the least time.
#
# **Change this and explain:** divide `image` by 1,000, as on a GPU: which curves fall?
# **Further reading:** [Goyal et al. (2017)](https://arxiv.org/abs/1706.02677); [Thakur et al.
# (2005)](https://doi.org/10.1177/1094342005051521); [Patarasuk and Yuan
# (2009)](https://doi.org/10.1016/j.jpdc.2008.09.002); [Li et al., PyTorch
# Distributed (2020)](https://arxiv.org/abs/2006.15704).
