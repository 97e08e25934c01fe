"""Chapter 2. Linear models: what a weighted sum can learn, and what it cannot.

Result: blobs with a line 92 to 98 %, XOR with a line 30 to 70 %, XOR with a hidden layer 98 to
100 %; takes 0.2 times as long as chapter 7.
With --quick: blobs with a line 92 to 98 %, XOR with a line 30 to 70 %, XOR with a hidden layer 95
to 100 %.
"""

# %% [markdown]
# # 2. Linear models
#
# A linear model multiplies each input by a **weight**, adds the products, and adds a constant, the
# **bias**. With weights 2 and 1 and the bias -2, the point (1, 3) gets
# $2 \cdot 1 + 1 \cdot 3 - 2 = 3$, and the point (0, 1) gets -1. Call it class 1 if the sum is
# positive: then a straight line, where the sum is 0, separates the classes. Where no line can, a
# second layer helps, if there is a bend, a nonlinear function, between the two.
#
# **What you will learn:** a linear layer, its loss and gradient descent, by hand and with minidl;
# how long a step may be; softmax and cross-entropy; what hidden layers do. **You need:** chapter 1.

# %%
import timeit

import numpy as np

import minidl
from minidl import nn, optim
from minidl.chapter import Chapter
from minidl.functional import cross_entropy, mse_loss, softmax
from minidl.inspect import plots
from minidl.training import accuracy

chapter = Chapter(__doc__, epochs=({"full": 1000, "quick": 200}, "steps for each model"))
rng, tensor = chapter.rng, chapter.tensor

# %% [markdown]
# ## 1. By hand, and as a layer
# Three points, (1, 1), (2, 3), (3, 2), and a line that predicts $w x + b$. The loss $L$ is the
# **mean squared error** of $n$ points, with errors $e$; its derivatives are means as well:
#
# $$L = \frac{1}{n} \sum e^2, \quad e = w x + b - y$$
# $$dL/dw = \frac{2}{n} \sum e x, \quad dL/db = \frac{2}{n} \sum e$$
#
# At $w = b = 0$ the errors are -1, -3, -2: the loss is 14/3, and the gradient is -26/3 for $w$ and
# -4 for $b$. As a layer: `Linear(features, outputs)` holds a weight (outputs, features) and a bias
# (outputs,), and computes `x @ weight.T + bias` for all rows of `x`. **Predict, then run:** how
# many times faster is that than Python loops?

# %%
xs, ys = np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 3.0, 2.0])


def gradient_by_loops(rows, targets, weight, bias):
    n, loss, of_weight, of_bias = len(rows), 0.0, [0.0] * len(weight), 0.0
    for row, target in zip(rows, targets, strict=True):
        error = bias + sum(w * x for w, x in zip(weight, row, strict=True)) - target
        loss += error**2 / n
        of_bias += 2 * error / n
        for k, x in enumerate(row):
            of_weight[k] += 2 * error * x / n
    return loss, *of_weight, of_bias


np.testing.assert_allclose(gradient_by_loops(xs, ys, [0.0], 0.0), (14 / 3, -26 / 3, -4))
n, features = (500, 10) if chapter.quick else (5000, 20)
rows, targets = rng.standard_normal((n, features)), rng.standard_normal(n)
model = nn.Linear(features, 1).to(chapter.device)


def gradient_by_layer():
    model.zero_grad()  # otherwise backward adds to the last gradient
    loss = mse_loss(model(tensor(rows)), tensor(targets[:, None]))
    loss.backward()
    return loss.item(), *model.weight.grad.numpy()[0], model.bias.grad.item()


began = chapter.seconds
by_loops = gradient_by_loops(rows, targets, model.weight.numpy()[0], model.bias.item())
slow = chapter.seconds - began
np.testing.assert_allclose(gradient_by_layer(), by_loops, rtol=1e-3, atol=1e-4)
fast = min(timeit.repeat(gradient_by_layer, number=1, repeat=20))
print(f"gradient over {n:,} points: loops {slow:.3f} s, Linear {slow / fast:.0f} times faster")

# %% [markdown]
# ## 2. How long may a step be?
# One weight first. The loss $c w^2 / 2$ is a valley with its minimum at 0; its slope is $c w$, and
# its second derivative $c$ says how strongly it curves. A step of gradient descent (`optim.SGD`)
# with the learning rate $\eta$ (`lr` in code) is
#
# $$w \leftarrow w - \eta c w = (1 - \eta c) w$$
#
# so each step multiplies the distance to the minimum by $1 - \eta c$. Beyond $\eta = 2/c$, steps
# lead farther away: descent **diverges**. **Predict, then run:** what do $\eta c = 0.5$, 1.9 and
# 2.1 do?
#
# With several parameters, the valley curves differently in each direction. The second derivatives
# with respect to all pairs of parameters form a matrix, the **Hessian**. Along its eigenvectors,
# descent works as for one weight, with the eigenvalue as $c$. So the largest eigenvalue sets the
# limit for $\eta$, and the smallest decides how long descent takes.


# %%
def descend(lr, steps):
    path = [np.zeros(2)]  # w and b
    for _ in range(steps):
        _, *gradient = gradient_by_loops(xs, ys, path[-1][:1], path[-1][1])
        path.append(path[-1] - lr * np.array(gradient))
    return np.array(path)


for rate in (0.5, 1.9, 2.1):
    print(f"lr * c = {rate}: w =", *(f"{(1 - rate) ** step:.2f}" for step in range(8)))
pair = tensor([0.0, 0.0], requires_grad=True)  # w and b
valley = ((pair[0] * tensor(xs[:, 0]) + pair[1] - tensor(ys)) ** 2).mean()
curvatures = np.linalg.eigvalsh(minidl.hessian(valley, pair).numpy())
limit = 2 / curvatures[1]
print(f"curvatures {curvatures[0]:.2f} and {curvatures[1]:.2f}: lr must stay below {limit:.3f}")
exact = np.polyfit(xs[:, 0], ys, 1)  # for a line there is a formula: w = 0.5, b = 1
np.testing.assert_allclose(descend(limit / 2, 400)[-1], exact, atol=1e-3)

# %% tags=["hide-input"]
rates = {"small": 0.1 * limit, "nearly too large": 0.95 * limit, "too large": 1.02 * limit}
w, b = np.meshgrid(np.linspace(-0.9, 2.4, 120), np.linspace(-0.7, 1.6, 120))
losses = np.mean((w[..., None] * xs[:, 0] + b[..., None] - ys) ** 2, axis=-1)
figure, panels = plots.subplots(1, 3, figsize=(9, 3.6), sharey=True)
for axes, (name, lr) in zip(panels, rates.items(), strict=True):
    axes.contourf(w, b, losses, [0, *0.2 * 2.0 ** np.arange(9)], cmap="Blues", vmax=40)
    axes.plot(*descend(lr, 60).T, ".-", color=plots.COLOURS[1], lw=0.8)
    axes.plot(*exact, "*", color="black", markersize=11)
    axes.set(xlim=(-0.9, 2.4), ylim=(-0.7, 1.6), xlabel="w", title=f"lr = {lr:.3f}: {name}")
panels[0].set_ylabel("b")
figure.suptitle("Sixty steps on the loss of three points (darker: larger; star: minimum)")
chapter.keep(figure, "descent", "short steps creep, long ones jump across the valley or leave it")

# %% [markdown]
# ## 3. Classes instead of numbers
# One output per class: a score $s$, or **logit**. **Softmax** turns scores into probabilities $p$,
# positive and with the sum 1. **Cross-entropy**, the mean of $-\log(p_t)$ over $n$ examples,
# measures how much the true class $t$ surprises the model:
#
# $$p_k = e^{s_k} / \sum_j e^{s_j}, \quad \text{cross-entropy} = -\frac{1}{n} \sum \log(p_t)$$
#
# Scores 2 and 0 give $p = e^2 / (e^2 + 1) = 0.88$ and 0.12. If the first class is true, the loss is
# 0.127; if the second is, 2.127. The derivative with respect to a score is $p$, minus 1 for the
# true class. **Predict, then run:** are the derivatives larger when the model is right, or wrong?

# %%
scores = tensor([[2.0, 0.0], [2.0, 0.0]], requires_grad=True)
loss = cross_entropy(scores, np.array([0, 1]))
powers = np.exp([2.0, 0.0])
np.testing.assert_allclose(loss.item(), -np.log(powers / powers.sum()).mean(), rtol=1e-5)
loss.backward()  # of the mean of two examples, hence `2 *`
print("d loss / d score:", *(f"{2 * slope:.2f}" for slope in scores.grad.numpy().ravel()))

# %% [markdown]
# ## 4. What a line cannot separate, and a hidden layer can
# A linear classifier predicts class 1 where one weighted sum is larger than another: its **decision
# boundary** is a straight line. That separates blobs. It cannot separate XOR, where the class says
# whether $x$ and $y$ have the same sign: the best line gets two thirds of this square right (it
# cuts off a corner), and the cross-entropy is lowest if the model predicts 1/2 everywhere.
#
# Two `Linear` layers in a row do not help: a weighted sum of weighted sums is a weighted sum. Put a
# nonlinearity in between, an **activation function**, here **ReLU**: $\max(0, x)$. The 16 numbers
# in between form a **hidden layer**; each is a **unit**: 0 on one side of a line of its own, rising
# on the other. It folds the plane along that line. Four folds are enough for XOR:
# $\left|x + y\right| - \left|x - y\right|$ is positive where the signs are equal, and
# $\left|x\right| = \max(0, x) + \max(0, -x)$. Training finds them more easily with 16 units to
# choose from. **Predict, then run:** how many points do the second and the third model get right?


# %%
def blobs(n):
    labels = np.arange(n) % 2
    return rng.standard_normal((n, 2)) * 0.6 + np.where(labels, 1, -1)[:, None] * (0.8, 0.6), labels


def xor(n):
    points = rng.uniform(-2, 2, (n, 2))
    return points, (points[:, 0] * points[:, 1] > 0).astype(int)


def train(model, points, labels):
    adam = optim.Adam(model.parameters(), lr=0.03)  # like SGD, with a step size for each weight
    for _ in range(chapter.epochs):  # forward, loss, clear the gradients, backward, update
        loss = cross_entropy(model(tensor(points)), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()


probability = lambda model, points: softmax(model(tensor(points)), 1).detach().numpy()[:, 1]
bent = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
tasks = {
    "blobs with a line": (blobs, nn.Linear(2, 2)),
    "XOR with a line": (xor, nn.Linear(2, 2)),
    "XOR with two layers": (xor, nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 2))),
    "XOR with a hidden layer": (xor, bent),
}
right = {}
for name, (points_of, model) in tasks.items():
    train(model.to(chapter.device), *points_of(200 if chapter.quick else 1000))
    points, labels = points_of(1000)  # new points, not the training points
    p = probability(model, points)
    right[name] = f"{100 * accuracy(p > 0.5, labels):.1f} %"
    print(f"{name}: {right[name]} right, probabilities {p.min():.2f} to {p.max():.2f}")

# %% tags=["hide-input"]
x, y = np.meshgrid(np.linspace(-2.2, 2.2, 150), np.linspace(-2.2, 2.2, 150))
places = np.stack([x.ravel(), y.ravel()], 1)
figure, panels = plots.subplots(2, 3, figsize=(9, 6.4))
for axes, (name, (points_of, model)) in zip(panels.flat[[0, 1, 2, 5]], tasks.items(), strict=True):
    shades = probability(model, places).reshape(x.shape)
    drawn = axes.contourf(x, y, shades, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.4)
    points, labels = points_of(300)
    for label, marker in enumerate("ox"):
        chosen, colour = points[labels == label].T, plots.COLOURS[label]
        axes.plot(*chosen, marker, color=colour, markersize=3, label=f"class {label}")
    axes.set(title=f"{name}\n{right[name]} right", xlabel="x", ylabel="y")
    axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
units = bent[0](tensor(places)).detach().numpy().T.reshape(16, *x.shape)
for unit in units:
    axes.contour(x, y, unit, [0], colors="black", linewidths=0.8)
panels[1, 0].plot(x[0], np.maximum(0, x[0]), color="black")
panels[1, 0].set(title="ReLU", xlabel="x", ylabel="max(0, x)")
panels[1, 1].contourf(x, y, np.maximum(0, units[0]), 10, cmap="Greys")
panels[1, 1].set(title="one hidden unit\n(white: 0)", xlabel="x", ylabel="y")
panels[0, 0].legend(loc="upper left")
figure.colorbar(drawn, ax=panels, label="probability of class 1")
look = "a line cannot bend, so XOR stays pale: 1/2 everywhere; 16 folds (black) turn the corners"
chapter.keep(figure, "where_a_line_stops", f"colours are predictions, markers the truth; {look}")

# %%
chapter.result(", ".join(f"{name} {share}" for name, share in right.items()))

# %% [markdown]
# ## What comes next
# Chapter 3 trains on images. Fill in chapters/exercises/ch02_linear_models.py; `python -m pytest
# chapters/exercises -k ch02` (after `pip install -e '.[test]'`, the README's second command) tells
# you which answers are right and which are not there yet.
#
# 1. `line_gradient`: the gradient of the mean squared error of a linear model, in NumPy.
# 2. `cross_entropy`: the mean cross-entropy of scores, without overflow at scores of 1,000.
# 3. `train_step`: clear the gradients, forward, backward, update, in the right order.
#
# **Change this and explain:** use 4 hidden units instead of 16, with `--seed` 0 to 4. How often
# does it still work, and where do the folds lie when it does not?
#
# **Further reading:** [CS231n](https://cs231n.github.io/linear-classify/) on linear classifiers;
# [Why momentum really works](https://distill.pub/2017/momentum/), on valleys and eigenvalues.
