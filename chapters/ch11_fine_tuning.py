"""Chapter 11. Fine-tuning: adapt a pretrained network to a new task.

Result: new head 84 to 98 %, flat head 70 to 88 %, classic head 83 to 98 %, last stage 86 to 98 %,
all unfrozen 91 to 99 %, too fast 40 to 96 %, from scratch 45 to 75 %; takes 0.9 times as long as
chapter 7.
With --quick: new head 45 to 75 %, classic head 45 to 78 %, from scratch 22 to 46 %.
"""

# %% [markdown]
# # 11. Fine-tuning
# A network that was trained on many images knows edges, corners and textures, which other tasks
# need too. Keep all of it but the last layer, put a new one in its place, and train that on the few
# labelled images that you have; then, gently, the rest. This is **transfer learning**, its second
# step **fine-tuning**: with ten images per class, about 96 % where training from scratch gets 60 %.
#
# **What you will learn:** which weights transfer; what a new head on a frozen body achieves, and
# what pooling does for it; which layers to unfreeze when, and at which rates. **You need:**
# chapters 7 and 10. For other data (own images: a folder per class, only heads), with weights from
# torchvision or [Akamaster](https://github.com/akamaster/pytorch_resnet_cifar10):
#
# * `python chapters/ch11_fine_tuning.py --data cifar10 --weights resnet20-12fca82f.th`
# * `python chapters/ch11_fine_tuning.py --data folder --data-dir pets --weights resnet50.pth`

# %% tags=["hide-input"]
from pathlib import Path

import numpy as np

from minidl import data, models, nn, optim
from minidl.chapter import Chapter
from minidl.functional import cross_entropy
from minidl.inspect import plots
from minidl.training import accuracy, fit, load_weights, predict, save_weights

SMALL, LARGE = [f"resnet{n}" for n in (20, 32, 44, 56)], [f"resnet{n}" for n in (50, 34, 18)]
MODELS = {"toy": ["resnet8"], "cifar10": SMALL, "folder": LARGE}
chapter = Chapter(
    __doc__,
    data=([*MODELS], "which images"),
    data_dir=(Path, "folder of CIFAR-10, or of your own images"),
    model=({name: of[0] for name, of in MODELS.items()}, "network that the weights are for"),
    weights=(Path, "a .safetensors, .npz or PyTorch file"),
    labelled=({"toy": 40, "cifar10": 5000, "folder": 5000}, "labelled images"),
    epochs=({"toy": 40, "cifar10": 6, "folder": 6, "quick": 4}, "passes, for whole networks"),
)
toy, own, rng = chapter.data == "toy", chapter.data == "folder", chapter.rng
if chapter.model not in MODELS[chapter.data]:
    chapter.error(f"got --model {chapter.model}, expected one of {MODELS[chapter.data]}")
given = bool(chapter.weights), bool(chapter.data_dir)
if given not in {"toy": [(0, 0)], "cifar10": [(1, 0), (1, 1)], "folder": [(1, 1)]}[chapter.data]:
    chapter.error("--data cifar10 needs --weights, folder needs --data-dir too, toy takes neither")
normalize = data.Normalize((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))  # as published networks
SGD = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def build(count, state=None):
    net = models.CifarResNet(1, count, rng=rng) if toy else getattr(models, chapter.model)(count)
    if state is not None:
        net.load_state_dict(state)
    return net.to(chapter.device)


def batches(inputs, labels, size=50, **more):
    """Return batches of images, which are normalised, or of features."""
    more |= {"transform": normalize if inputs.dtype == np.uint8 else None, "world": chapter.world}
    return data.DataLoader(inputs, labels, batch_size=size, device=chapter.device, **more)


def learn(net, inputs, labels, optimizer, epochs, size=16 if toy else 64):
    """Train with rates that fall to 0 along a half cosine; return the seconds."""
    loader = batches(inputs, labels, size, shuffle=True, rng=rng)
    falling = optim.CosineAnnealingLR(optimizer, epochs * len(loader))
    options = {"epochs": epochs, "schedule": falling, "progress": False, "world": chapter.world}
    return sum(fit(net, cross_entropy, optimizer, loader, **options)["seconds"])


# %% [markdown]
# ## 1. A pretrained network, and a few labelled images
# It was trained elsewhere, for weeks on somebody's GPUs; or here, for half a minute, on six other
# classes. All that remains is a state dict: named arrays that fit a network of the same form.

# %%
file = chapter.weights or chapter.out / "pretrained.safetensors"
if toy:
    train, test = chapter.load(data.load_toy10)
    new = ("cross", "star", "checks", "dots")
    old = [name for name in train.classes if name not in new]
    known, train, test = train.only(old), train.only(new), test.only(new)
    known = known.first(1600) if chapter.quick else known
    normalize = data.Normalize.fit(known.images)
    first = build(len(old))
    optimizer = optim.SGD(first.parameters(), lr=0.1, **SGD)
    learn(first, known.images, known.labels, optimizer, 1 if chapter.quick else 3, size=64)
    save_weights(first.state_dict(), file)
elif own:
    images = chapter.load(data.load_image_folder, chapter.data_dir)
    images = images.take(rng.permutation(len(images.labels)))
    test, train = chapter.load(images.split, len(images.labels) // 10 * 2)
else:
    train, test = chapter.load(data.load_cifar10, chapter.data_dir, download=not chapter.data_dir)
weights = chapter.load(load_weights, file)
outputs = len(old) if toy else 1000 if own else len(train.classes)
pretrained = chapter.load(build, outputs, weights)  # an error lists every array that does not fit
classes = len(train.classes)
train = train.few(max(1, chapter.labelled // classes))
test = test.first(400) if chapter.quick else test
print(f"{file}: {len(weights)} arrays, {sum(a.size for a in weights.values()):,} values")
print(f"{len(train.labels):,} training images, {len(test.labels):,} test images")
print("classes:", ", ".join(train.classes))

# %% [markdown]
# ## 2. What transfers
# The last layer, the **head**, knows only the old classes and is dropped. Everything before it, the
# **body**, turns an image into **features**: 64 values (ResNet-50: 2,048) that describe edges,
# corners and textures. To see them, project them onto the two directions in which they differ most,
# their first two **principal components**.
#
# **Predict, then run:** the body never saw these classes. Can it tell them apart?

# %%
body = pretrained.replace_head(nn.Sequential())  # an empty one returns its input
untrained = build(outputs).replace_head(nn.Sequential())
some, projected = test.first(200), {}
for name, net in (("an untrained body", untrained), ("the pretrained body", body)):
    features = predict(net, batches(some.images, some.labels))  # (n, channels)
    features -= features.mean(0)
    components = np.linalg.svd(features, full_matrices=False)[2][:2]  # (2, channels)
    projected[name] = features @ components.T  # (n, 2)

# %% tags=["hide-input"]
figure, panels = plots.subplots(1, 2, figsize=(9, 4))
for axes, (name, places) in zip(panels, projected.items(), strict=True):
    for label, title in enumerate(train.classes[:12]):
        look = {"marker": "os^Dv*"[label % 6], "color": plots.COLOURS[label % 6], "s": 18}
        axes.scatter(*places[some.labels == label].T, label=title, **look)
    axes.set(title=f"features of {name}", xlabel="first component", ylabel="second component")
panels[0].legend()
chapter.keep(figure, "features", "only the pretrained body puts each class in a place of its own")

# %% [markdown]
# ## 3. A new head on a frozen body
# A **frozen** body computes the same features for an image in every epoch. So they are computed
# once, and a head is trained on them in a second: a linear one, or the classic recipe, 1,024 hidden
# units with ReLU. The body ends with global average pooling, which makes 64 features of 64 maps of
# 8 x 8 pixels, for images of any size. A flat head, without pooling, gets all 4,096 values.
# **Predict, then run:** with 40 training images, does the flat head win, because it sees more?

# %%
results = {}  # for each strategy: accuracy, trained parameters, seconds, learning rates


def measure(name, net, images, trained, *how):
    found = predict(net, batches(images, test.labels)).argmax(1)
    results[name] = accuracy(found, test.labels), sum(p.size for p in trained), *how


def try_head(name, *layers, lr):
    head = nn.Sequential(*layers).to(chapter.device)
    before, after = (predict(body, batches(some.images, some.labels)) for some in (train, test))
    adam = optim.Adam(head.parameters(), lr=lr)
    seconds = learn(head, before, train.labels, adam, 60 if toy else 20)
    measure(name, head, after, head.parameters(), seconds, (0, 0, 0, lr))
    return head


body.requires_grad_(False)
width = body.num_features
linear = nn.Linear(width, classes, rng=rng)
try_head("new head", linear, lr=0.01)
hidden, out = nn.Linear(width, 1024, rng=rng), nn.Linear(1024, classes, rng=rng)
classic = try_head("classic head", hidden, nn.ReLU(), out, lr=0.001)
if not own:
    body.avgpool = nn.Flatten()
    try_head("flat head", nn.Linear(64 * width, classes, rng=rng), lr=0.001)
_ = save_weights(body.replace_head(classic).state_dict(), chapter.out / "classic_head.safetensors")

# %% [markdown]
# ## 4. Which layers to unfreeze, and at which rates
# Few images, or a similar task: only the head. More images, or a task further away: the last stage
# too, which knows most about the old task; then all. Train the head first, as above, because a
# random one's gradients would damage the body; then the body, at a tenth of the head's rate, for
# its weights are good already. Parameter groups give the optimiser a rate for each part. **Predict,
# then run:** what happens if every part gets 0.1, the rate of a new network?

# %%
RATES = {  # of stage 1, stage 2, stage 3, and the head; 0 is frozen
    "last stage": (0, 0, 0.01, 0.1),
    "all unfrozen": (0.01, 0.01, 0.01, 0.1),
    "too fast": (0.1, 0.1, 0.1, 0.1),
    "from scratch": (0.1, 0.1, 0.1, 0.1),
}


def parts(net):
    return nn.ModuleList([net.conv1, net.bn1, net.layer1]), net.layer2, net.layer3, net.linear


for name, rates in {} if own else RATES.items():  # a ResNet-50 needs more images, and a GPU
    net = build(classes)
    if name != "from scratch":
        net = build(outputs, weights).replace_head(classes)
        net.linear.load_state_dict(linear.state_dict())
    groups = []
    for part, rate in zip(parts(net), rates, strict=True):
        part.requires_grad_(rate > 0)  # batch norm's running averages change all the same
        groups += [{"params": list(part.parameters()), "lr": rate}] if rate else []
    optimizer = optim.SGD(groups, lr=0.1, **SGD)
    seconds = learn(net, train.images, train.labels, optimizer, chapter.epochs)
    trained = [p for p in net.parameters() if p.requires_grad]
    measure(name, net, test.images, trained, seconds, rates)
    if name == "all unfrozen":
        save_weights(net.state_dict(), chapter.out / "fine_tuned.safetensors")
print(f"{'strategy':14}{'trained':>12}{'seconds':>10}{'accuracy':>11}")
for name, (score, trained, seconds, _) in results.items():
    print(f"{name:14}{trained:12,}{seconds:10.1f}{score:11.2%}")

# %% tags=["hide-input"]
if not own:
    figure, axes = plots.subplots(figsize=(9, 4.4))
    table = np.array([rates for *_, rates in results.values()])
    axes.imshow(np.log10(table + 1e-4), cmap="Oranges", vmin=-4, vmax=0.5, aspect="auto")
    for (row, column), rate in np.ndenumerate(table):
        axes.text(column, row, f"rate {rate:g}" if rate else "frozen", ha="center", va="center")
    sizes = [sum(p.size for p in part.parameters()) for part in parts(net)]
    names = ("body: stage 1", "body: stage 2", "body: stage 3", "head")
    axes.set_xticks(range(4), [f"{names[n]}\n{sizes[n]:,} weights" for n in range(4)])
    axes.set_yticks(range(len(results)), [f"{n}: {100 * r[0]:.1f} %" for n, r in results.items()])
    axes.xaxis.tick_top()
    axes.axvline(2.5, color="black", lw=4)
    axes.set(title="image -> body, then pooling -> head", ylabel="strategy: test accuracy")
    chapter.keep(figure, "strategies", "low rates keep what the body knows, high ones lose a part")
chapter.result(", ".join(f"{name} {score:.2%}" for name, (score, *_) in results.items()))

# %% [markdown]
# ## What comes next
# Chapter 12 runs all this on a GPU. Fill in chapters/exercises/ch11_fine_tuning.py;
# `python -m pytest chapters/exercises -k ch11` (after `pip install -e '.[test]'`, the README's
# second command) tells you which answers are right and which are not there yet.
#
# 1. `freeze_all_but`: freeze a network except for its head; count the parameters that still learn.
# 2. `load_matching`: load the weights whose names and shapes fit, ignoring a `module.` prefix.
# 3. `two_rates`: parameter groups: a small learning rate for the body, a larger one for the head.
#
# **Change this and explain:** leave out the line with `linear.state_dict()`: training starts with
# a random head. Which strategy loses most, and why?
#
# **Further reading:** [Yosinski et al. 2014](https://arxiv.org/abs/1411.1792), which layers
# transfer; [Howard and Ruder 2018](https://arxiv.org/abs/1801.06146), rates per layer;
# [Kumar et al. 2022](https://arxiv.org/abs/2202.10054), why the head comes first.
