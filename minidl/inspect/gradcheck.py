"""Check gradients against central differences: a wrong one cannot pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl.inspect.diagnosis import diagnose
from minidl.inspect.slopes import Slack, WeightedFunction, norm, weighted
from minidl.inspect.text import aligned
from minidl.random import streams_kept

Place: TypeAlias = tuple[int, ...] | None
"""Index of an element; None for a random direction."""

DIRECTIONS = 3  # number of random ones that a fast check tries
SAMPLE = 256  # elements that a fast check compares one by one to find the cause


class GradcheckError(AssertionError):
    """A gradient is wrong; `report` holds the values, the message shows them as a table."""

    def __init__(self, message: str, report: GradcheckReport) -> None:
        super().__init__(message, report)
        self.report = report

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class InputCheck:
    """The result for one input or one parameter.

    Attributes:
        name: of the argument, of the parameter, or `gradient of output` at order 2.
        order: 1 for the gradient, 2 for the gradient of the gradients.
        checked: number of elements, or random directions, that were compared.
        wrong: number of them that are off.
        kinks: where the function is not differentiable: its slopes to the two sides differ, or one
            side is outside its domain. None means a random direction.
        edges: the kinks next to which the function is infinite or undefined. Nothing can be
            compared there, except that the slope on the other side, if any, does not contradict.
        worst: where the error is largest; None for a random direction, or if nothing was compared.
        analytic: the gradient there, by the gradient rules.
        numeric: the gradient there, by differences.
        error: `abs(analytic - numeric)` over the larger of the two.
        diagnosis: the likely mistake, or "".
    """

    name: str
    order: int
    checked: int
    wrong: int
    kinks: tuple[Place, ...]
    worst: Place
    analytic: float
    numeric: float
    error: float
    diagnosis: str
    edges: tuple[Place, ...] = ()


@dataclass(frozen=True, repr=False)
class GradcheckReport:
    """All results, shown as a table."""

    checks: tuple[InputCheck, ...]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        rows = [("order", "input", "off", "worst at", "analytic", "numeric", "error", "")]
        for c in self.checks:
            more = f" and {len(c.kinks) - 1} more" if len(c.kinks) > 1 else ""
            kinks = f"not differentiable at {_words(c.kinks[0])}{more}" if c.kinks else ""
            nearby = ", ".join(map(_words, c.edges[:3]))
            edges = f"not checkable, infinite or undefined next to {nearby}" if c.edges else ""
            remarks = "; ".join(words for words in (c.diagnosis, kinks, edges) if words)
            numbers = (_words(c.worst), f"{c.analytic:.6g}", f"{c.numeric:.6g}", f"{c.error:.1e}")
            numbers = numbers if c.checked else ("", "", "", "")
            rows.append((str(c.order), c.name, f"{c.wrong} of {c.checked}", *numbers, remarks))
        return "\n".join(aligned(rows, right=(0, 2, 4, 5, 6)))


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    order: Literal[1, 2] = 1,
    fast: bool = False,
    rtol: float = 1e-7,
    seed: int = 0,
) -> GradcheckReport:
    """Compare the gradients of a function, or network, with central differences, in float64.

    In float64, convolutions never share values between pixels: see `functional.conv2d`.

    The function is reduced to one number, `sum(weight * output)`, with random weights: weights of
    one would hide errors that cancel in a sum. Each element x of each input is moved, and
    `(f(x + h) - f(x - h)) / 2h` compared with its gradient. If they disagree, smaller steps
    decide. If the slopes to the two sides differ however small the step is (ReLU at 0, a tie
    in a maximum), the function has no gradient there: this is reported, but is not a failure.
    Near a pole or the edge of the domain, steps that give NaN or infinity are skipped, and smaller
    ones used; if none can be compared, the report says "not checkable".

    Args:
        fn: takes the inputs, returns one tensor or several. It may draw from minidl's seeded stream
            (dropout): every call gets the same random numbers. A module is checked with its
            parameters. Tensors that a function finds elsewhere, such as a lambda's `model`, are not
            checked: pass them among the inputs.
        inputs: arguments of `fn`, one or a list. Tensors and arrays of floats are checked, also in
            lists and dicts, and so are the parameters of modules; all as float64 copies, so nothing
            of yours is changed. Anything else, such as labels, is passed on as it is.
        order: 2 also checks the gradient of the gradients, with respect to the inputs and to the
            gradient of the output.
        fast: compare along a few random directions instead of every element: a few calls for each
            input, whatever its size. Single elements are compared only to find the cause of an
            error. A small error in one element among many can stay hidden.
        rtol: largest error, >= 0, relative to the larger of the two values or, if that is far
            smaller than others in the same input, to a hundredth of the largest. The possible
            rounding error of a difference is added: outputs of 1e6 that change by 1 are known to
            1e-5 of it, not better.
        seed: of the random weights and directions.

    Returns:
        The table of the comparisons.

    Raises:
        GradcheckError: a gradient is wrong; the message is the table, with the likely cause.
        TypeError: no input or output can be differentiated, or an output is not float64.
        ValueError: an output is not finite, or two calls with the same inputs differ.

    Source: on the errors of differences, W. Press et al., Numerical Recipes (2007), section 5.7.

    Example:
        >>> import minidl
        >>> from minidl import functional as F
        >>> report = gradcheck(F.relu, minidl.Tensor([-1.0, 0.0, 2.0]))
        >>> report.checks[0].checked, report.checks[0].kinks
        (2, ((1,),))
    """
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"gradcheck: got order={order!r}, expected 1 or 2")
    if not rtol >= 0:
        raise ValueError(f"gradcheck: got rtol={rtol!r}, expected a number >= 0")
    rng = np.random.default_rng(seed)
    checks: list[InputCheck] = []
    with streams_kept(), np.errstate(all="ignore"):  # NaNs are reported in the table
        function = weighted(fn, inputs, rng)
        for place in range(1, order + 1):
            function = function if place == 1 else function.of_gradients(rng)
            gradients = zip(function.leaves, function.gradients(), strict=True)
            for name, gradient in gradients:
                if fast:
                    found = _check_directions(function, place, name, gradient, rtol, rng)
                else:
                    found = _check_elements(function, place, name, gradient, rtol)
                checks.append(found)
            report = GradcheckReport(tuple(checks))
            wrong = [c.name for c in checks if c.wrong]
            if wrong:
                raise GradcheckError(
                    f"gradcheck: wrong gradient of {' and of '.join(wrong)}\n{report}", report
                )
    return report


def _check_elements(
    function: WeightedFunction,
    order: int,
    name: str,
    gradient: NDArray[Any],
    rtol: float,
    places: Sequence[tuple[int, ...]] | None = None,
) -> InputCheck:
    """Compare element by element: all of them, or those at `places`."""
    numeric = np.full(gradient.shape, np.nan)
    off = np.zeros(gradient.shape, np.bool_)
    kinks: list[Place] = []
    edges: list[Place] = []
    slack = Slack(rtol, _floor(gradient))
    for place in np.ndindex(gradient.shape) if places is None else places:
        slope = function.compare(function.leaves[name], place, float(gradient[place]), slack)
        if slope.kink:
            kinks.append(place)
            edges += [place] * slope.edge
        else:
            numeric[place], off[place] = slope.value, not slope.agrees
    known = ~np.isnan(numeric)
    if not known.any():
        nothing = (None, 0.0, 0.0, 0.0, "")
        return InputCheck(name, order, 0, 0, tuple(kinks), *nothing, tuple(edges))
    errors = np.where(off if off.any() else known, np.abs(gradient - numeric), -1)
    errors[np.isnan(errors)] = np.inf
    worst = np.unravel_index(int(np.argmax(errors)), errors.shape)
    a, n = float(gradient[worst]), float(numeric[worst])
    words = diagnose(gradient, numeric, off, _sizes(gradient, function)) if off.any() else ""
    counts = (int(known.sum()), int(off.sum()), tuple(kinks), tuple(int(i) for i in worst))
    return InputCheck(name, order, *counts, a, n, _error(a, n), words, tuple(edges))


def _check_directions(
    function: WeightedFunction,
    order: int,
    name: str,
    gradient: NDArray[Any],
    rtol: float,
    rng: np.random.Generator,
) -> InputCheck:
    """Compare along random directions; if that fails, compare some elements to find the cause."""
    off, kinks, edges, worst = 0, 0, 0, (0.0, 0.0)
    for _ in range(DIRECTIONS if gradient.size else 0):
        signs = rng.choice([-1, 1], gradient.shape)
        direction = np.asarray(rng.uniform(0.5, 1.5, gradient.shape) * signs)
        wanted = float((gradient * direction).sum())
        slack = Slack(rtol, norm(gradient) / 100)
        slope = function.compare(function.leaves[name], direction, wanted, slack)
        kinks, off = kinks + slope.kink, off + (not slope.agrees and not slope.kink)
        edges += slope.edge
        if not slope.kink and _error(wanted, slope.value) >= _error(*worst):
            worst = (wanted, slope.value)
    if off or edges:  # if some elements are at an edge, others can still be compared
        count = min(SAMPLE, gradient.size)
        sample = rng.choice(gradient.size, count, replace=False)
        places = [tuple(map(int, np.unravel_index(i, gradient.shape))) for i in np.sort(sample)]
        found = _check_elements(function, order, name, gradient, rtol, places)
        if found.wrong or edges or count == gradient.size:
            return found
    checked = DIRECTIONS * bool(gradient.size) - kinks
    return InputCheck(name, order, checked, off, (None,) * kinks, None, *worst, _error(*worst), "")


def _words(place: Place) -> str:
    return "a direction" if place is None else str(place)


def _floor(gradient: NDArray[Any]) -> float:
    """Return the floor that errors of smaller values are relative to: 1/100 of the largest."""
    finite = np.abs(gradient[np.isfinite(gradient)])
    return float(finite.max(initial=0)) / 100


def _error(a: float, b: float) -> float:
    larger = max(abs(a), abs(b))
    return abs(a - b) / larger if larger else 0.0


def _sizes(gradient: NDArray[Any], function: WeightedFunction) -> dict[int, str]:
    """Return the sizes that a mean in this function may divide by, and what they count."""
    sizes: dict[int, str] = {}
    arrays = [*(("an output", y) for y in function.outputs), ("the input", gradient)]
    for what, array in arrays:
        shape = array.shape
        sizes.setdefault(math.prod(shape), f"the size of {what}")
        for axis, size in enumerate(shape):
            sizes.setdefault(size, f"the length of axis {axis} of {what}")
        sizes.setdefault(math.prod(shape[2:]), f"the pixels of {what}")
        sizes.setdefault(math.prod(shape[:1] + shape[2:]), f"the size of one channel of {what}")
        sizes.setdefault(math.prod(shape[1:]), f"the size of one example of {what}")
    return sizes
