"""Chapter 1. A number, its gradient, and the graph in between.

What you will learn: what a gradient is, by hand and by finite differences; how fewer than forty
lines of Python find it for any formula, by walking backward through a graph of small steps; how
minidl does the same with arrays, and why that is faster; how to check a gradient; what the gradient
of a gradient is for.

    python chapters/ch01_tensors_and_gradients.py

You need: what a derivative is, the chain rule, and Python.

What to expect: three figures within seconds. However the gradient is computed, the number is the
same. Arrays are thousands of times faster than single numbers, and the gain grows with the length
of the array.

Result: gradient 12, gradient of a gradient 18; about 3 s on 2 cores.
With --quick: gradient 12, gradient of a gradient 18; about 2 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np

import minidl
from minidl import Tensor, gradcheck
from minidl.inspect import GradcheckError, graph, plots
from minidl.training import Output

# %% Options
plt = plots.pyplot()
sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--seed", type=int, default=0, help="seed for the points")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="fewer points; takes seconds")
parser.add_argument("--out", type=Path, default=Path("out/ch01"), help="folder for the figures")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.seed < 0:
    parser.error("expected --seed >= 0")
started = time.perf_counter()
try:
    minidl.zeros(1, device=args.device)  # fail early: no GPU, or a full disk
    args.out.mkdir(parents=True, exist_ok=True)
except (OSError, RuntimeError) as error:
    parser.error(str(error))


def tensor(value, **options):
    """Make a float64 tensor: finite differences need the precision."""
    return Tensor(np.asarray(value, np.float64), device=args.device, **options)


def keep(figure, name):
    try:
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
    except OSError as error:  # for example, the disk is full
        print("no figure:", error)


# %% 1. By hand
# A model predicts y from x with a line: prediction = w * x + b. How wrong is it for one point? The
# loss, here the squared error, measures that. With x = 3, y = 5, and the guess w = 2, b = 1:
#
#     prediction = 2 * 3 + 1 = 7        error = 7 - 5 = 2        loss = 2**2 = 4
#
# The gradient says how fast the loss grows when w or b grows. Backward, by the chain rule:
#
#     d loss / d error = 2 * error = 4
#     d loss / d b     = 4 * 1 = 4      (the error grows as fast as b does)
#     d loss / d w     = 4 * x = 12     (the error grows x = 3 times as fast as w does)
def squared_error(w, b, x, y):
    return (w * x + b - y) ** 2


by_hand = {"w": 12, "b": 4}
assert squared_error(2, 1, 3, 5) == 4

# %% 2. By finite differences
# No rules needed: move w a little to both sides and see how the loss changes,
#
#     slope = (f(w + h) - f(w - h)) / 2h                                     (central difference)
h = 1e-3
slope = (squared_error(2 + h, 1, 3, 5) - squared_error(2 - h, 1, 3, 5)) / (2 * h)
print(f"d loss / d w: by hand {by_hand['w']}, by finite differences {slope:.6f}")
assert abs(slope - by_hand["w"]) < 1e-6

# How small should h be? If it is too large, the curve bends in between; if it is too small, the
# difference of two nearly equal numbers is rounding noise. So a finite difference is never exact,
# even at the best h. It also takes two runs of the model per weight: fine for a check, hopeless
# for a million weights.
steps = np.logspace(-15, 0, 61)
exact = math.exp(1)  # the slope of exp at 1
one_sided = np.abs((np.exp(1 + steps) - np.exp(1)) / steps - exact) / exact
central = np.abs((np.exp(1 + steps) - np.exp(1 - steps)) / (2 * steps) - exact) / exact
figure, axes = plt.subplots(figsize=(6.6, 4), layout="constrained")
axes.loglog(steps, one_sided + 1e-17, ".-", color=plots.COLOURS[1], label="(f(x + h) - f(x)) / h")
axes.loglog(
    steps, central + 1e-17, ".-", color=plots.COLOURS[0], label="(f(x + h) - f(x - h)) / 2h"
)
axes.text(1e-12, 3e-2, "rounding", ha="center")
axes.text(1, 1e-8, "the curve bends", ha="right")
axes.set(xlabel="step h", ylabel="relative error of the slope", ylim=(1e-13, 1))
axes.set_title("The slope of exp at 1 by finite differences, in float64")
axes.grid(alpha=0.3), axes.legend(loc="lower left")
keep(figure, "differences")
print(f"best central difference: h = {steps[central.argmin()]:.0e}, error {central.min():.0e}")


# %% 3. Fewer than forty lines that differentiate
# Every formula consists of small steps whose derivatives we know. So each number remembers what it
# was computed from, and the slope of that one step for each input. `backward` walks through the
# steps in reverse and multiplies slopes: the chain rule. A number used twice receives two
# contributions, which add up: hence `+=`. It must have received all of them before it passes any
# on: hence the order.
class Number:
    """A number that knows how it was computed."""

    def __init__(self, value, inputs=(), slopes=()):
        self.value, self.inputs, self.slopes = value, inputs, slopes
        self.grad = 0.0

    def __add__(self, other):
        other = other if isinstance(other, Number) else Number(other)
        return Number(self.value + other.value, (self, other), (1.0, 1.0))

    def __sub__(self, other):
        other = other if isinstance(other, Number) else Number(other)
        return Number(self.value - other.value, (self, other), (1.0, -1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Number) else Number(other)
        return Number(self.value * other.value, (self, other), (other.value, self.value))

    def __pow__(self, k):
        return Number(self.value**k, (self,), (k * self.value ** (k - 1),))

    def tanh(self):
        """Return the hyperbolic tangent; it lies between -1 and 1."""
        t = math.tanh(self.value)
        return Number(t, (self,), (1 - t**2,))

    def backward(self):
        """Add to `grad` of every number that this one was computed from."""
        order, seen, stack = [], set(), [(self, False)]
        while stack:  # depth first, with an explicit stack: long sums would exceed Python's
            number, inputs_are_done = stack.pop()
            if inputs_are_done:
                order.append(number)
            elif number not in seen:
                seen.add(number)
                stack += [(number, True), *((x, False) for x in number.inputs)]
        self.grad = 1.0
        for number in reversed(order):
            for x, slope in zip(number.inputs, number.slopes, strict=True):
                x.grad += number.grad * slope


w, b = Number(2.0), Number(1.0)
loss = squared_error(w, b, 3.0, 5.0)  # the function from above, unchanged
loss.backward()
assert (loss.value, w.grad, b.grad) == (4, 12, 4)
print(f"our own class: loss {loss.value:g}, gradients {w.grad:g} and {b.grad:g}")

x = Number(3.0)
(x * x + x).backward()  # x is used three times; the slope of x**2 + x is 2x + 1
assert x.grad == 7

# %% 4. minidl: the same idea
# `Tensor` is our `Number`; `requires_grad` marks the tensors whose gradient we want. Nothing else
# changes. Each small step is a node of the graph, which can be printed and drawn: read the values
# downward, in the order of computation, and the gradients upward, in the order of `backward`.
w, b = tensor(2.0, requires_grad=True), tensor(1.0, requires_grad=True)
x, y = tensor(3.0), tensor(5.0)
loss = squared_error(w, b, x, y)
loss.backward()
assert (loss.item(), w.grad.item(), b.grad.item()) == (4, 12, 4)
gradient = w.grad.item()

w.grad = b.grad = None  # otherwise the next backward adds to them, as our `+=` does
drawing = graph(squared_error(w, b, x, y), names={"w": w, "b": b, "x": x, "y": y})
print(drawing)
keep(drawing.draw(), "graph")

# %% 5. With arrays
# One node holds a whole array instead of one number: w * x multiplies all points at once, in
# compiled code. Every point uses w, so its gradient is the sum over all points.
rng = minidl.manual_seed(args.seed)
points = 2_000 if args.quick else 20_000
xs = rng.uniform(-1, 1, points)
ys = 0.7 * xs - 0.2 + 0.1 * rng.standard_normal(points)

began = time.perf_counter()
w, b, total = Number(2.0), Number(1.0), Number(0.0)
for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
    total = total + squared_error(w, b, x, y)
total.backward()
slow = time.perf_counter() - began

fast = math.inf
for _ in range(10):  # the fastest of ten; item() waits until a GPU has finished
    began = time.perf_counter()
    w_all, b_all = tensor(2.0, requires_grad=True), tensor(1.0, requires_grad=True)
    loss = squared_error(w_all, b_all, tensor(xs), tensor(ys)).sum()
    loss.backward()
    gradients = w_all.grad.item(), b_all.grad.item()
    fast = min(fast, time.perf_counter() - began)
np.testing.assert_allclose(gradients, (w.grad, b.grad), rtol=1e-9)
print(
    f"{points:,} points: numbers {slow * 1e3:.0f} ms, arrays {fast * 1e3:.2f} ms: equal gradients"
)

# %% 6. Gradient descent: what gradients are for
# Step against the gradient again and again, and the loss falls: that is training. The points were
# made with w = 0.7 and b = -0.2.
learned_w, learned_b = 2.0, 1.0
for _ in range(100):
    w, b = tensor(learned_w, requires_grad=True), tensor(learned_b, requires_grad=True)
    squared_error(w, b, tensor(xs), tensor(ys)).mean().backward()
    learned_w -= 0.3 * w.grad.item()
    learned_b -= 0.3 * b.grad.item()
print(f"learned: w = {learned_w:.2f}, b = {learned_b:.2f}")


# %% 7. Checking a gradient
# `gradcheck` compares every gradient of a function with central differences. Here is a correct
# function, and one that uses `detach` to hide one use of x from the graph.
def correct(x):
    return x * x


def forgetful(x):
    return x * x.detach()


print(gradcheck(correct, tensor([1.0, 2.0, 3.0])))
try:
    gradcheck(forgetful, tensor([1.0, 2.0, 3.0]))
except GradcheckError as error:
    print(error)  # the report even suggests a cause: half of the gradient is missing

# %% 8. A gradient of a gradient
# The derivative of x**3 is 3 x**2, and the derivative of that is 6 x: 27 and 18 at x = 3. Our
# `Number` stores its slopes as plain numbers, so it stops at the first derivative. minidl's rules
# compute with tensors: with `create_graph`, a gradient has its own graph and can be differentiated.
x = tensor(3.0, requires_grad=True)
(first,) = minidl.grad(x**3, x, create_graph=True)
(second,) = minidl.grad(first, x, create_graph=True)
(third,) = minidl.grad(second, x)
assert (first.item(), second.item(), third.item()) == (27, 18, 6)
derivatives = f"first {first.item():g}, second {second.item():g}, third {third.item():g}"
print(f"derivatives of x**3 at 3: {derivatives}")

# The second derivative says how the slope changes. tanh, which squashes values in a network, is
# steepest at 0 and flat far away from it: there, hardly any gradient passes.
x = tensor(np.linspace(-4, 4, 201), requires_grad=True)
curves = {"tanh(x)": x.tanh()}
(curves["first derivative, 1 - tanh(x)**2"],) = minidl.grad(
    curves["tanh(x)"].sum(), x, create_graph=True
)
slopes = curves["first derivative, 1 - tanh(x)**2"]
(curves["second derivative"],) = minidl.grad(slopes.sum(), x)
figure, axes = plt.subplots(figsize=(6.6, 4), layout="constrained")
for (name, values), colour in zip(curves.items(), plots.COLOURS, strict=False):
    axes.plot(x.numpy(), values.detach().numpy(), color=colour, label=name)
axes.set(
    ylim=(-1.1, 1.7),
    xlabel="x",
    ylabel="value",
    title="A function and its first two derivatives",
)
axes.grid(alpha=0.3), axes.legend(loc="upper left")
keep(figure, "derivatives")
np.testing.assert_allclose(
    slopes.detach().numpy(), 1 - np.tanh(x.detach().numpy()) ** 2, atol=1e-12
)

# %% The result
seconds = time.perf_counter() - started
print(
    f"result: gradient {gradient:g}, gradient of a gradient {second.item():g}, "
    f"arrays {slow / fast:.0f} times faster; {seconds:.0f} s"
)
plots.show()

# %% What comes next
# Chapter 2 fits lines to data, and finds a problem that no line solves. You can now read how minidl
# does all this, in minidl/autograd.py: `Node` is a step, `propagate` is our `backward`.
#
# Fill in chapters/exercises/ch01_tensors_and_gradients.py; `pytest chapters/exercises -k ch01`
# tells you which answers are right and which are not yet.
#
# 1. `slope`: the slope of a function by a central difference.
# 2. `backward`: the gradients of a scalar graph, from its list of steps; values that are used twice
#    get the sum.
# 3. `hypotenuse`: write the backward of sqrt(a**2 + b**2); `gradcheck` tests first and second
#    derivatives.
