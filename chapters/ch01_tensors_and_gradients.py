"""Chapter 1. Tensors and gradients: a number, its gradient, and the graph in between.

Result: gradient 12, gradient of a gradient 18; takes 0.1 times as long as chapter 7.
With --quick: gradient 12, gradient of a gradient 18.
"""

# %% [markdown]
# # 1. Tensors and gradients
#
# A model has numbers that training may change, its **parameters**, and a number that says how wrong
# it is, its **loss**. The **gradient** of the loss is its slope: how fast the loss grows when a
# parameter grows. The smallest example: $\text{loss} = w^2$. At $w = 3$ the loss is 9; at
# $w = 3.01$ it is 9.0601. It grew about six times as much as $w$ did: the gradient is 6. To make
# the loss smaller, move $w$ the other way. That is how every network in this course learns.
#
# **What you will learn:** to find a gradient by hand and by trial; to find it for any formula, in
# fewer than forty lines of Python; to do so with arrays; to check it. **You need:** derivatives,
# and Python.

# %%
import timeit

import numpy as np

import minidl
from minidl.chapter import Chapter
from minidl.inspect import GradcheckError, gradcheck, graph, plots, record_lines

chapter = Chapter(__doc__)

# %% [markdown]
# ## 1. By hand, and by trial
# A line predicts $y$ from $x$: its prediction is $p = w x + b$, its error $e = p - y$. The loss for
# one point is the squared error, $L = e^2$. With the point $x = 3$, $y = 5$, and the guess $w = 2$,
# $b = 1$:
#
# $$p = 2 \cdot 3 + 1 = 7, \quad e = 7 - 5 = 2, \quad L = 2 \cdot 2 = 4$$
#
# The **chain rule** says: the slope of several steps in a row is the product of their slopes. So go
# backward, from the loss to the parameters:
#
# * $dL/de = 2 e = 4$;
# * $dL/db = 4 \cdot 1 = 4$: the error grows as fast as $b$ does;
# * $dL/dw = 4 x = 12$: the error grows $x = 3$ times as fast as $w$ does.
#
# Without any rule: move $w$ a little in both directions and see how the loss changes. This **finite
# difference**, $(f(w + h) - f(w - h)) / 2h$, runs the model twice per parameter: fine for a check,
# hopeless for a million parameters. And it is never exact. If $h$ is too large, the curve bends in
# between; if it is too small, the difference of two nearly equal numbers is rounding noise.
# **Predict, then run:** which $h$ is best for numbers of 16 digits?


# %%
def squared_error(w, b, x, y):
    return (w * x + b - y) ** 2


slope = (squared_error(2.001, 1, 3, 5) - squared_error(1.999, 1, 3, 5)) / 0.002
print(f"d loss / d w: by hand 12, by finite differences {slope:.6f}")
assert abs(slope - 12) < 1e-6
steps = np.logspace(-15, 0, 61)  # below, the slope of exp at 1, which is e
errors = np.abs((np.exp(1 + steps) - np.exp(1 - steps)) / (2 * steps) - np.e) / np.e

# %% tags=["hide-input"]
figure, axes = plots.subplots(figsize=(6.6, 4))
axes.loglog(steps, errors + 1e-17, ".-", color=plots.COLOURS[0])
axes.text(1e-11, 3e-3, "rounding", ha="center"), axes.text(1, 1e-8, "the curve bends", ha="right")
axes.set(title="The slope of exp at 1, in float64", xlabel="step h", ylabel="relative error")
chapter.keep(figure, "differences", "the error is smallest near h = 1e-5; to the left it grows")

# %% [markdown]
# ## 2. Fewer than forty lines that differentiate any formula
# Every formula consists of small steps whose slopes we know. So each number remembers what it was
# computed from, and the slope of that one step with respect to each input: the **computational
# graph**. Walking through it backward and multiplying slopes is **backpropagation**; doing so for
# whatever a program computes, without deriving a formula, is **automatic differentiation**.
#
# A number used twice receives two contributions, which add up: hence `+=` below. It must have
# received all of them before it passes any on: hence an order in which every number comes after its
# inputs, a **topological order**. `recursive_order` finds it in five lines. But Python allows only
# about 1,000 nested calls, and a sum of 20,000 numbers is a chain of 20,000 steps. So
# `inputs_first` keeps a stack of what is still to be done. Each number comes off it twice: the
# first time it is put back, with its inputs on top; the second time its inputs are done, and it
# joins the order.


# %%
def recursive_order(number, order):
    if number not in order:
        for x in number.inputs:
            recursive_order(x, order)
        order.append(number)


def inputs_first(last):
    order, seen, stack = [], set(), [(last, False)]
    while stack:
        number, inputs_are_done = stack.pop()
        if inputs_are_done:
            order.append(number)
        elif number not in seen:
            seen.add(number)
            stack += [(number, True), *((x, False) for x in reversed(number.inputs))]
    return order


class Number:
    def __init__(self, value, inputs=(), slopes=()):
        self.value, self.inputs, self.slopes, self.grad = value, inputs, slopes, 0.0

    def __add__(self, other):
        other = other if isinstance(other, Number) else Number(other)
        return Number(self.value + other.value, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Number) else Number(other)
        return Number(self.value * other.value, (self, other), (other.value, self.value))

    def __pow__(self, k):
        return Number(self.value**k, (self,), (k * self.value ** (k - 1),))

    __radd__, __rmul__ = __add__, __mul__  # for `2 * x`, Python calls x.__rmul__(2)
    __neg__ = lambda self: self * -1
    __sub__ = lambda self, other: self + -other
    __rsub__ = lambda self, other: -self + other
    __truediv__ = lambda self, other: self * other**-1

    def backward(self):
        self.grad = 1.0
        for number in reversed(inputs_first(self)):
            for x, slope in zip(number.inputs, number.slopes, strict=True):
                x.grad += number.grad * slope


w, b = Number(2.0), Number(1.0)
loss = squared_error(w, b, 3.0, 5.0)  # the function from above, unchanged
recursive_order(loss, order := [])
assert order == inputs_first(loss)
loss.backward()
print(f"our own class: loss {loss.value:g}, gradients {w.grad:g} and {b.grad:g}")
assert (loss.value, w.grad, b.grad) == (4, 12, 4)

x = Number(3.0)
(2 * x - x / 2 + (1 - x) * -x).backward()
assert x.grad == 6.5  # the slope of x**2 + x / 2 is 2 x + 1 / 2

# %% [markdown]
# ## 3. minidl: the same idea
# `Tensor` is our `Number`; `requires_grad` marks the tensors whose gradient we want. `graph` draws
# the steps: read the values downward, and the gradients upward, as `backward` computes them. The
# square of the error $e$ is computed as $e \cdot e$: hence a `mul` with two arrows from $e$, whose
# slopes add up. **Predict, then run:** which slopes stand at the arrows from $w$ to the loss?

# %%
w, b = (chapter.tensor(value, requires_grad=True) for value in (2.0, 1.0))
x, y = chapter.tensor(3.0), chapter.tensor(5.0)
with record_lines():
    loss = squared_error(w, b, x, y)
steps = graph(loss, names={"w": w, "b": b, "x": x, "y": y})
chapter.keep(steps.draw, "graph", "multiplied from w down, the slopes 3 * 1 * 1 * (2 + 2) give 12")

# %%
chapter.explore(steps, "graph", "point at a box, then click it: its rule, its gradient as a sum")
loss.backward()
gradient = w.grad.item()
assert (loss.item(), gradient, b.grad.item()) == (4, 12, 4)

# %% [markdown]
# ## 4. With arrays, and down the slope
# One node can hold a whole array: `w * x` multiplies all points at once, in compiled code, and the
# gradient of $w$ is the sum over all points. **Predict, then run:** how many times faster is that
# for 20,000 points: 10, 100 or 1,000 times?
#
# Step against the gradient again and again, and the loss falls: **gradient descent**. How far to
# step for a gradient of 1 is the **learning rate**, here 0.3. The points were made with $w = 0.7$
# and $b = -0.2$, plus noise: no line has a loss of 0.

# %%
points = 2_000 if chapter.quick else 20_000
xs = chapter.rng.uniform(-1, 1, points)
ys = 0.7 * xs - 0.2 + 0.1 * chapter.rng.standard_normal(points)
began = chapter.seconds
w, b = Number(2.0), Number(1.0)
sum(squared_error(w, b, x, y) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)).backward()
slow = chapter.seconds - began


def gradients(w, b):
    w, b = chapter.tensor(w, requires_grad=True), chapter.tensor(b, requires_grad=True)
    loss = squared_error(w, b, chapter.tensor(xs), chapter.tensor(ys)).mean()
    loss.backward()
    return loss.item(), w.grad.item(), b.grad.item()


np.testing.assert_allclose(gradients(2.0, 1.0)[1:], np.array([w.grad, b.grad]) / points, rtol=1e-4)
fast = min(timeit.repeat(lambda: gradients(2.0, 1.0), number=1, repeat=10))
print(f"{points:,} points: numbers {slow:.2f} s, arrays {slow / fast:.0f} times faster")
path, w, b = [], 2.0, 1.0
for _ in range(31):
    loss, of_w, of_b = gradients(w, b)
    path.append((loss, w, b))
    w, b = w - 0.3 * of_w, b - 0.3 * of_b
print(f"learned: w = {w:.2f}, b = {b:.2f}")

# %% tags=["hide-input"]
figure, (left, right) = plots.subplots(1, 2, figsize=(8, 3.8))
left.plot(xs[:200], ys[:200], ".", color="#999999")
right.semilogy([loss for loss, _, _ in path], ".-", color=plots.COLOURS[0])
for step, style in [(0, ":"), (1, "-."), (3, "--"), (30, "-")]:
    _, w, b = path[step]
    left.plot([-1, 1], [b - w, b + w], style, color=plots.COLOURS[1], lw=2, label=f"step {step}")
left.set(xlabel="x", ylabel="y", title="The line moves into the cloud"), left.legend()
right.set(xlabel="step", ylabel="loss (mean squared error)", title="The loss falls")
chapter.keep(figure, "descent", "the first steps are the longest: the slope shrinks toward 0")

# %% [markdown]
# ## 5. Checking a gradient, and a gradient of a gradient
# `gradcheck` compares gradients with finite differences. Below, `detach` hides one of the two uses
# of $x$ from the graph. **Predict, then run:** how wrong is the gradient of $x \cdot x$ then?
#
# The derivative of $x^3$ is $3 x^2$, that of $3 x^2$ is $6 x$: 27 and 18 at $x = 3$. With
# `create_graph`, gradients have a graph of their own; the slopes of our `Number` are plain numbers.

# %%
try:
    gradcheck(lambda x: x * x.detach(), chapter.tensor([1.0, 2.0, 3.0]))
except GradcheckError as error:
    print(error)  # the report even suggests a cause
x = chapter.tensor(3.0, requires_grad=True)
(first,) = minidl.grad(x**3, x, create_graph=True)
(second,) = minidl.grad(first, x)
assert (first.item(), second.item()) == (27, 18)
chapter.result(f"gradient {gradient:g}, gradient of a gradient {second.item():g}")

# %% [markdown]
# ## What comes next
# Chapter 2 finds a problem that no line solves. Read minidl/autograd.py: `propagate` is our
# `backward`. Fill in chapters/exercises/ch01_tensors_and_gradients.py; `python -m pytest
# chapters/exercises -k ch01` (after the README's second command) tells you which answers are right.
#
# 1. `slope`: the slope of a function by a central difference.
# 2. `backward`: the gradients of a scalar graph, from its list of steps.
# 3. `hypotenuse`: the backward of $\sqrt{a^2 + b^2}$, twice differentiable.
#
# **Change this and explain:** in section 4, use the learning rates 0.03 and 1.2. What do the two
# panels show for each, and why does the line never arrive with 1.2? (Chapter 2 has the answer.)
#
# **Further reading:** [micrograd](https://github.com/karpathy/micrograd), the same in 94 lines;
# [CS231n](https://cs231n.github.io/optimization-2/) on backpropagation.
