"""A function to be moved: its outputs weighted to one number, and the slopes of that."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from minidl import nn
from minidl.autograd import no_grad, set_recording
from minidl.derivatives import grad
from minidl.random import generator
from minidl.tensor import Tensor

Array = np.ndarray[Any, Any]
Direction: TypeAlias = Array | tuple[int, ...]
"""The index of the one element to move, or how far to move each."""

STEP = 1e-5  # of smaller ones, rounding takes more than it gives
FINER = tuple(0.25**i for i in range(7))  # parts of it, for where one step does not decide
EPS = float(np.finfo(np.float64).eps)
KINK = 1e-2  # the two sides of a smooth function are closer, relative to their size


@dataclass(frozen=True)
class Slope:
    """What differences say about one direction.

    Attributes:
        value: the slope.
        agrees: whether the gradient's slope is the same, but for rounding.
        kink: whether there is none: the two sides differ, and the gradient lies between them.
    """

    value: float
    agrees: bool
    kink: bool


@dataclass(frozen=True)
class Slack:
    """How far two slopes may differ: a part of the larger one, plus a number."""

    relative: float
    absolute: float


class WeightedFunction:
    """`sum(weight * output)` over all outputs of `call()`, which reads the tensors in `leaves`.

    Attributes:
        leaves: what can be moved, by name; float64.
        outputs: their values where nothing is moved.
        weights: random ones, of either sign, and none so small that it would hide an error.
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
            raise ValueError("gradcheck: the function gives NaN or infinity at these inputs")
        again = self._values()
        if not all(np.array_equal(a, b) for a, b in zip(self.outputs, again, strict=True)):
            raise ValueError(
                "gradcheck: two calls with the same inputs differ; does the function draw random "
                "numbers of its own, or keep something from call to call?"
            )
        self.weights = [
            rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1, 1], y.shape) for y in self.outputs
        ]
        top = max(float(np.abs(x.numpy()).max(initial=0)) for x in leaves.values())
        pairs = zip(self.weights, self.outputs, strict=True)
        self._size = sum(float(np.linalg.norm(w * np.maximum(np.abs(y), top))) for w, y in pairs)

    def _values(self) -> list[Array]:
        with no_grad():
            return [y.numpy() for y in self._call()]

    def gradients(self) -> list[Array]:
        """Return what the gradient rules say, for each leaf."""
        with set_recording(True):
            outputs = self._call()
        seeds = [Tensor(w, device=y.device) for w, y in zip(self.weights, outputs, strict=True)]
        leaves = list(self.leaves.values())
        found = [g.numpy() for g in grad(outputs, leaves, seeds, materialize_grads=True)]
        if not all(np.array_equal(s.numpy(), w) for s, w in zip(seeds, self.weights, strict=True)):
            raise ValueError("gradcheck: a gradient rule changed the gradient that it was given")
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
                outputs = self._call()
                return grad(outputs, leaves, seeds, create_graph=True, materialize_grads=True)

        return WeightedFunction(call, self.leaves | dict(zip(names, seeds, strict=True)), rng)

    def compare(self, leaf: Tensor, direction: Direction, wanted: float, slack: Slack) -> Slope:
        """Compare the gradient's slope in a direction with differences, finer where they disagree.

        The two sides of a smooth function come together as the step gets smaller; at a kink they
        do not.
        """
        gaps: list[float] = []  # how far the two sides are apart
        values: list[float] = []
        for part in FINER:
            right, left, noise = self._slopes(leaf, direction, part)
            values.append((right + left) / 2)
            gaps.append(abs(right - left) if math.isfinite(right - left) else math.inf)
            # Richardson's extrapolation: the error that grows with the step's square cancels.
            better = values[-1] + (values[-1] - values[-2]) / 15 if len(values) > 1 else values[0]
            smooth = gaps[-1] <= KINK * (abs(right) + abs(left)) + 10 * noise
            for value in (values[-1], better) if smooth else ():
                allowed = slack.relative * max(abs(wanted), abs(value)) + slack.absolute + noise
                if abs(value - wanted) <= allowed:
                    return Slope(value, agrees=True, kink=False)
        if math.isinf(gaps[-1]):  # one side lies outside of the function's domain
            return Slope(math.nan, agrees=False, kink=True)
        sides_differ = min(gaps[-3:]) > max(gaps[0] / 4, 10 * noise)
        slack_here = slack.relative * max(abs(right), abs(left)) + slack.absolute + noise
        between = min(left, right) - slack_here <= wanted <= max(left, right) + slack_here
        best = values[gaps.index(min(gaps))]
        return Slope(best, agrees=False, kink=sides_differ and between)

    def _slopes(self, leaf: Tensor, direction: Direction, part: float) -> list[float]:
        """Return the slopes to the right and left, and what rounding may have done to them."""
        point, ends = leaf.numpy(), []
        place = direction if isinstance(direction, tuple) else ...
        # In proportion to large numbers, whose own last digits are coarse.
        step = STEP * part * max(1.0, float(np.abs(point[place]).max()))
        for signed in (step, -step):
            moved = point.copy()
            moved[place] += signed * (1 if isinstance(direction, tuple) else direction)
            leaf.data = moved
            ends.append(self._values())
        leaf.data = point
        right = left = size = 0.0
        for w, y, above, below in zip(self.weights, self.outputs, *ends, strict=True):
            right += float((w * (above - y)).sum()) / step
            left += float((w * (y - below)).sum()) / step
            size += float(np.abs(w * y)[above != below].sum())
        # Of what changed, the last digits; of what cancels inside, which no output shows, those of
        # the inputs and outputs as they are.
        return [right, left, max(EPS * size / step, 8 * EPS * self._size * part / step)]


# Copies of what was given ---------------------------------------------------------------------


def weighted(fn: Callable[..., Any], inputs: Any, rng: np.random.Generator) -> WeightedFunction:
    """Return `fn` of float64 copies of its inputs, every call with the same random numbers."""
    arguments = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    leaves: dict[str, Tensor] = {}
    if isinstance(fn, nn.Module):
        fn = _copied(fn, "", leaves)
    for place, (name, value) in enumerate(zip(_names(fn, len(arguments)), arguments, strict=True)):
        if isinstance(value, nn.Module):
            arguments[place] = _copied(value, f"{name}.", leaves)
        elif getattr(getattr(value, "dtype", None), "kind", "") == "f":
            name = f"input {place}" if name in leaves else name
            arguments[place] = leaves[name] = Tensor(value, np.float64, requires_grad=True)
    if not leaves:
        raise TypeError("gradcheck: got no tensors or arrays of floats, and no modules, to check")
    state = generator().bit_generator.state

    def call() -> list[Tensor]:
        generator().bit_generator.state = state
        return _outputs(fn(*arguments))

    return WeightedFunction(call, leaves, rng)


def _copied(module: nn.Module, prefix: str, leaves: dict[str, Tensor]) -> nn.Module:
    """Copy a module in float64; add its parameters to `leaves`, frozen ones too."""
    module = copy.deepcopy(module).to(dtype=np.float64).requires_grad_()
    leaves.update((prefix + name, p) for name, p in module.named_parameters())
    return module


def _names(fn: Callable[..., Any], count: int) -> list[str]:
    """Return what the function calls its arguments."""
    try:
        known = inspect.signature(getattr(fn, "forward", fn)).parameters.values()
    except (TypeError, ValueError):  # some functions written in C
        known = {}.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in known if p.kind in positional]
    return [names[i] if i < len(names) else f"input {i}" for i in range(count)]


def _outputs(result: Any) -> list[Tensor]:
    """Return what can be differentiated of what the function returned."""
    listed = result if isinstance(result, (list, tuple)) else [result]
    outputs = [y for y in listed if isinstance(y, Tensor) and y.dtype.kind == "f"]
    if not outputs:
        kinds = [
            f"Tensor of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__ for y in listed
        ]
        raise TypeError(
            f"gradcheck: the function returned {', '.join(kinds) or 'nothing'}; wants a tensor of "
            "floats"
        )
    for y in outputs:
        if y.dtype != np.float64:
            raise TypeError(
                f"gradcheck: the function made {y.dtype} of float64 inputs; something in it does "
                "not keep the dtype"
            )
    return outputs


@contextlib.contextmanager
def random_stream_kept() -> Iterator[None]:
    """Leave minidl's stream of random numbers as it was."""
    state = generator().bit_generator.state
    try:
        yield
    finally:
        generator().bit_generator.state = state
