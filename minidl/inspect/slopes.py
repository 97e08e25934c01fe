"""Numeric slopes of a random projection of a function's outputs."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl import nn
from minidl.autograd import no_grad, set_recording
from minidl.derivatives import grad
from minidl.random import generator
from minidl.tensor import Tensor

Direction: TypeAlias = NDArray[Any] | tuple[int, ...]
"""The index of the one element to move, or how far to move each."""

STEP = 1e-5  # with smaller ones, rounding costs more than it gains
FINER = tuple(0.25**i for i in range(10))  # fractions of it, for when one step does not decide
FINEST = tuple(0.25**i for i in range(10, 15))  # and for a pole or the domain's edge nearby
EPS = float(np.finfo(np.float64).eps)
KINK = 1e-2  # the two sides of a smooth function differ by less, relative to their size
TINY = 1e-3  # smaller values may need steps in proportion to them
CLEAR = 1e-6  # largest rounding error, relative to a slope, for a finer step to count


@dataclass(frozen=True)
class Slope:
    """The result of the differences in one direction.

    Attributes:
        value: the slope.
        agrees: whether the gradient's slope is the same, up to rounding.
        kink: whether there is no slope: the two sides differ however small the step.
        edge: whether a kink is there because the function or its slope is infinite or undefined.
    """

    value: float
    agrees: bool
    kink: bool
    edge: bool = False


EDGE = Slope(math.nan, agrees=False, kink=True, edge=True)


@dataclass(frozen=True)
class Sides:
    """Slopes to the right and to the left, weighted and summed over all outputs.

    Attributes:
        right: along the direction.
        left: against it.
        size: sum of the absolute values of the terms of both.
        gap: sum of the absolute differences between the two, output by output.
        noise: possible rounding error in them, from the last digits of what changed.
    """

    right: float
    left: float
    size: float
    gap: float
    noise: float


@dataclass(frozen=True)
class Slack:
    """How far two slopes may differ, relative to the larger, or to `floor` if both are less."""

    relative: float
    floor: float


class WeightedFunction:
    """`sum(weight * output)` over all outputs of `call()`, which reads the tensors in `leaves`.

    Attributes:
        leaves: tensors that can be moved, by name; float64.
        outputs: their values when nothing is moved.
        weights: random, of either sign, and none so small that it would hide an error.
    """

    def __init__(
        self,
        call: Callable[[], list[Tensor]],
        leaves: dict[str, Tensor],
        rng: np.random.Generator,
    ) -> None:
        self._call, self.leaves = call, leaves
        self.outputs = self._values()
        if not all(np.isfinite(y).all() for y in self.outputs):
            raise ValueError("gradcheck: the function returns NaN or infinity at these inputs")
        again = self._values()
        if not all(np.array_equal(a, b) for a, b in zip(self.outputs, again, strict=True)):
            raise ValueError(
                "gradcheck: two calls with the same inputs differ; does the function draw its "
                "own random numbers, or keep state between calls?"
            )
        # Relative to the outputs' size, so that tiny outputs are checked like any others.
        scale = max((float(np.abs(y).max(initial=0)) for y in self.outputs), default=0) or 1.0
        scale = max(scale, 1e-290)  # its inverse, and gradients times that, are finite
        self.weights = [
            rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1, 1], y.shape) / scale
            for y in self.outputs
        ]

    def _values(self) -> list[NDArray[Any]]:
        with no_grad():
            return [y.numpy() for y in self._call()]

    def gradients(self) -> list[NDArray[Any]]:
        """Return the gradient of each leaf, by the gradient rules."""
        with set_recording(True):
            outputs = self._call()
        seeds = [Tensor(w, device=y.device) for w, y in zip(self.weights, outputs, strict=True)]
        leaves = list(self.leaves.values())
        found = [g.numpy() for g in _gradients(outputs, leaves, seeds)]
        if not all(np.array_equal(s.numpy(), w) for s, w in zip(seeds, self.weights, strict=True)):
            raise ValueError("gradcheck: a gradient rule modified the gradient that it was given")
        return found

    def of_gradients(self, rng: np.random.Generator) -> WeightedFunction:
        """Return the function whose outputs are the gradients of this one.

        It depends on the gradient of the output as well as on the inputs.
        """
        names = [f"gradient of output {i}" for i in range(len(self.weights))]
        names = names if len(names) > 1 else ["gradient of output"]
        device = next(iter(self.leaves.values())).device
        seeds = [Tensor(w, device=device, requires_grad=True) for w in self.weights]
        leaves = list(self.leaves.values())

        def call() -> list[Tensor]:
            with set_recording(True):
                return _gradients(self._call(), leaves, seeds, create_graph=True)

        return WeightedFunction(call, self.leaves | dict(zip(names, seeds, strict=True)), rng)

    def compare(self, leaf: Tensor, direction: Direction, wanted: float, slack: Slack) -> Slope:
        """Compare the gradient's slope in a direction with differences, finer if they disagree.

        The two sides of a smooth function converge as the step gets smaller; at a kink they do
        not. A slope that is 0 because large values cancel is 0 only up to rounding, in gradient
        and differences alike: the differences then do not even agree with each other.
        """
        size = abs(float(leaf.numpy()[direction])) if isinstance(direction, tuple) else 1.0
        near = [size * part for part in FINER] if 0 < size < TINY else FINEST
        stages: list[list[Sides]] = [[], []]
        for parts, tried in zip((FINER, near), stages, strict=True):
            for part in parts:
                tried.append(self._sides(leaf, direction, part))
                slope = _decided(tried, wanted, slack, part == 1)
                if slope is not None:
                    return slope
        last = stages[0][-1]
        if not math.isfinite(last.size):
            return _at_edge(stages[0][-3:], wanted)
        finite = [sides for sides in stages[0] if math.isfinite(sides.size)]
        values = [(sides.right + sides.left) / 2 for sides in finite]
        if math.isinf(wanted) and abs(values[-1]) > 10 * abs(values[0]):  # the slope diverges, too
            return EDGE
        off = [
            abs(v - wanted) - KINK * abs(v) - s.noise for v, s in zip(values, finite, strict=True)
        ]
        if len(finite) < len(FINER) and min(off) <= 0:  # an edge leaves too few steps to tell
            return EDGE
        gaps, first = [sides.gap for sides in finite], values[:3]
        # A jump with its middle here, such as that of abs(x)'s slope at 0, has one height always.
        heights = [abs(v) * part for v, part in zip(values, FINER, strict=False)]
        leaps = len(finite) == len(FINER) and max(heights) < 1.001 * min(heights)
        if leaps or (gaps[-1] > 10 * gaps[0] and last.noise < gaps[-1]):  # or a pole in between
            return EDGE
        # At a minimum with slope 0, such as 0 of x * x, the two sides have opposite slopes.
        flat = gaps[-1] < 1e-3 * gaps[0]
        if flat and abs(values[-1] - wanted) <= slack.relative * last.size + last.noise:
            return Slope(values[-1], agrees=True, kink=False)
        coherent = max(first) - min(first) <= 0.05 * abs(first[0]) > 0
        if not coherent and max(abs(values[0] - wanted), gaps[0]) <= self._rounding(leaf):
            return Slope(values[0], agrees=True, kink=False)
        kink = min(gaps[-3:]) > max(gaps[0] / 4, 10 * last.noise)
        possible = abs(wanted) <= 2 * last.size + slack.relative * slack.floor
        return Slope(values[gaps.index(min(gaps))], agrees=False, kink=kink and possible)

    def _sides(self, leaf: Tensor, direction: Direction, part: float) -> Sides:
        """Move a leaf by a fraction of the step, to either side, and back."""
        point, ends = leaf.numpy(), []
        place = direction if isinstance(direction, tuple) else ...
        # In proportion to large values, whose last digits are coarse.
        step = STEP * part * max(1.0, float(np.abs(point[place]).max()))
        moves: list[float] = []
        for signed in (step, -step):
            moved = point.copy()
            moved[place] += signed * (1 if isinstance(direction, tuple) else direction)
            # The sum is rounded, so one element's step may be slightly longer or shorter.
            one = isinstance(direction, tuple)
            moves.append(abs(float((moved - point)[place])) if one else step)
            leaf.data = moved
            ends.append(self._values())
        leaf.data = point
        right = left = size = gap = noise = 0.0
        for w, y, above, below in zip(self.weights, self.outputs, *ends, strict=True):
            up, down = w * (above - y) / moves[0], w * (y - below) / moves[1]
            right, left = right + float(up.sum()), left + float(down.sum())
            size += float((np.abs(up) + np.abs(down)).sum())
            gap += float(np.abs(up - down).sum())
            noise += 8 * EPS / step * float(np.abs(w * y)[above != below].sum())
        return Sides(right, left, size, gap, noise)

    def _rounding(self, leaf: Tensor) -> float:
        """Return the largest slope that rounding may give where the true one cancels to 0.

        Values that cancel inside are not visible; those of inputs and outputs stand in for them.
        """
        finite = np.abs(leaf.numpy())
        top = float(finite[np.isfinite(finite)].max(initial=0))
        pairs = zip(self.weights, self.outputs, strict=True)
        sizes = (norm(w * np.maximum(np.abs(y), top)) for w, y in pairs)
        return 64 * EPS * sum(sizes) / (STEP * max(1.0, top))


def norm(array: NDArray[Any]) -> float:
    """Return the 2-norm of an array's finite elements, without overflow."""
    return math.hypot(*array[np.isfinite(array)].tolist())


def _decided(tried: list[Sides], wanted: float, slack: Slack, coarsest: bool) -> Slope | None:
    """Return the slope if the steps tried so far agree on one; None if a finer step must decide."""
    sides = tried[-1]
    if not math.isfinite(sides.size):  # nothing can be compared with infinity
        return None
    values = [(s.right + s.left) / 2 for s in tried[-3:] if math.isfinite(s.size)]
    larger = max(abs(wanted) if math.isfinite(wanted) else 0.0, abs(values[-1]))
    # Richardson's extrapolation: the error term in the step's square cancels.
    better = values[-1] + (values[-1] - values[-2]) / 15 if len(values) > 1 else values[0]
    smooth = sides.gap <= KINK * max(sides.size, slack.floor) + 10 * sides.noise
    clear = coarsest or sides.noise <= CLEAR * max(larger, slack.floor)
    for value in (values[-1], better) if smooth and clear else ():
        if abs(value - wanted) <= slack.relative * (larger + slack.floor) + sides.noise:
            return Slope(value, agrees=True, kink=False)
    clear = sides.noise < 1e-3 * abs(values[-1])
    settled = max(values) - min(values) <= slack.relative * abs(values[-1]) + sides.noise
    # Next to an edge, coarser steps were not finite, so a difference could be noise.
    maybe = not math.isfinite(tried[0].size) and abs(values[-1] - wanted) <= 2 * sides.noise
    if smooth and clear and settled and not maybe and len(values) == 3:
        return Slope(values[-1], agrees=False, kink=False)  # the steps agree on another value
    return None


def _at_edge(tried: list[Sides], wanted: float) -> Slope:
    """Return the slope where one side is infinite or undefined: wrong only by the other side.

    One-sided slopes converge slowly, so they cannot prove a gradient right.
    """
    for side in ([s.right for s in tried], [s.left for s in tried]):
        if np.isfinite([*side, wanted]).all():
            noise = tried[-1].noise
            converge = abs(side[2] - side[1]) <= 0.75 * abs(side[1] - side[0]) + noise
            allowed = 10 * (max(side) - min(side) + noise) + KINK * abs(side[2])
            if converge and abs(wanted - side[2]) > allowed:
                return Slope(side[2], agrees=False, kink=False)
    return EDGE


def _gradients(
    outputs: list[Tensor], leaves: list[Tensor], seeds: list[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """Return gradients; zeros if no output depends on a leaf."""
    pairs = zip(outputs, seeds, strict=True)
    used = [(output, seed) for output, seed in pairs if output.requires_grad]
    ends, starts = [output for output, _ in used], [seed for _, seed in used]
    return grad(ends, leaves, starts, create_graph=create_graph, materialize_grads=True)


# Copies of the inputs --------------------------------------------------------------------------


def weighted(fn: Callable[..., Any], inputs: Any, rng: np.random.Generator) -> WeightedFunction:
    """Return `fn` on float64 copies of its inputs; every call gets the same random numbers."""
    if not callable(fn):
        raise TypeError(f"gradcheck: got a {type(fn).__name__}, expected a function or a module")
    given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    copies, state = _Copies(), generator().bit_generator.state
    function = copies.of_module("", fn) if isinstance(fn, nn.Module) else fn
    names = _names(fn, len(given))
    arguments = [copies.of(name, value) for name, value in zip(names, given, strict=True)]
    if not copies.leaves:
        raise TypeError(
            "gradcheck: got nothing to check, expected tensors or arrays of floats, or modules"
        )

    def call() -> list[Tensor]:
        generator().bit_generator.state = state
        return _outputs(function(*arguments))

    return WeightedFunction(call, copies.leaves, rng)


class _Copies:
    """Float64 copies of all that can be checked, named for messages; sharing is preserved."""

    def __init__(self) -> None:
        self.leaves: dict[str, Tensor] = {}
        self._memo: dict[int, Any] = {}

    def of(self, name: str, value: Any) -> Any:
        """Copy an argument: a tensor, an array, a module, or a list or dict of them."""
        if isinstance(value, nn.Module):
            return self.of_module(f"{name}.", value)
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(self.of(f"{name}[{i}]", item) for i, item in enumerate(value))
        if isinstance(value, dict):
            return {key: self.of(f"{name}[{key!r}]", item) for key, item in value.items()}
        if getattr(getattr(value, "dtype", None), "kind", "") != "f":
            return value
        name = f"input {name}" if name in self.leaves else name  # a parameter has that name too
        self.leaves[name] = Tensor(value, np.float64, requires_grad=True)
        return self.leaves[name]

    def of_module(self, prefix: str, module: nn.Module) -> nn.Module:
        """Copy a module; its parameters become leaves, frozen ones too, tied ones once."""
        module = copy.deepcopy(module, self._memo).to(dtype=np.float64).requires_grad_()
        known = {id(leaf) for leaf in self.leaves.values()}
        for name, p in module.named_parameters():
            if id(p) not in known:
                self.leaves[prefix + name] = p
        return module


def _names(fn: Callable[..., Any], count: int) -> list[str]:
    """Return the names of the function's parameters, one per argument."""
    try:
        known = inspect.signature(getattr(fn, "forward", fn)).parameters.values()
    except (TypeError, ValueError):  # some functions written in C
        known = {}.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in known if p.kind in positional]
    return [names[i] if i < len(names) else f"input {i}" for i in range(count)]


def _outputs(result: Any) -> list[Tensor]:
    """Return the differentiable outputs in the function's result."""
    listed = _flat(result)
    outputs = [y for y in listed if isinstance(y, Tensor) and y.dtype.kind == "f"]
    if not outputs:
        kinds = [
            f"Tensor of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__ for y in listed
        ]
        raise TypeError(
            f"gradcheck: the function returned {', '.join(kinds) or 'nothing'}, expected a "
            "tensor of floats"
        )
    for y in outputs:
        if y.dtype != np.float64:
            raise TypeError(
                f"gradcheck: the function returned {y.dtype} for float64 inputs; something in it "
                "changes the dtype"
            )
    return outputs


def _flat(result: Any) -> list[Any]:
    """Return the items of nested lists, tuples and dicts, in order."""
    if isinstance(result, dict):
        result = list(result.values())
    if not isinstance(result, (list, tuple)):
        return [result]
    return [y for item in result for y in _flat(item)]
