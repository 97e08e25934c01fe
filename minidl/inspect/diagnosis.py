"""Guess the mistake behind a wrong gradient from its values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLOSE = 1e-4  # relative to the largest value: how well an explanation must fit


def diagnose(
    analytic: NDArray[Any], numeric: NDArray[Any], wrong: NDArray[Any], sizes: Mapping[int, str]
) -> str:
    """Name the likely mistake, or return "" if the values suggest none.

    Args:
        analytic: the gradient from the gradient rules.
        numeric: the right one, of the same shape, NaN where unknown.
        wrong: bools of that shape, True where the two differ.
        sizes: sizes that a mean may divide by, with what they count.
    """
    known = np.isfinite(numeric)
    a, n = analytic[known], numeric[known]
    if not np.isfinite(a).all():
        return "not finite: 0/0, inf - inf or log(0) in the rule?"
    if not a.any():
        return "all zero: detached?"
    if np.abs(a - n).max() < CLOSE * np.abs(n).max():
        return "nearly right: float32 inside, or a small constant misplaced?"
    if wrong.any() and not numeric[wrong].any():
        return "nonzero where it should be zero: mask forgotten, or does forward round?"
    explanations = [_factor(a, n, sizes)]
    if known.all():
        explanations += [_moved(analytic, numeric), _offset(analytic, numeric), _border(wrong)]
    explanations.append(_partial_factor(analytic[wrong], numeric[wrong]))
    return next((words for words in explanations if words), "")


def _ratio(a: NDArray[Any], n: NDArray[Any]) -> float | None:
    """Return r if `a` is r times `n` everywhere, else None."""
    if not n.any():
        return None
    r = float((a * n).sum() / (n * n).sum())
    return r if np.abs(a - r * n).max() <= CLOSE * np.abs(a).max() else None


def _factor(a: NDArray[Any], n: NDArray[Any], sizes: Mapping[int, str]) -> str:
    r = _ratio(a, n)
    if r is None:
        return ""
    if np.isclose(r, -1, rtol=CLOSE):
        return "exactly -1x: sign?"
    sign = "sign, and " if r < 0 else ""
    for size, what in sizes.items():
        if size > 2 and np.isclose(abs(r), size, rtol=CLOSE):
            return f"{sign}exactly {size}x: 1/N missing, N = {size}, {what}?"
        if size > 2 and np.isclose(abs(r), 1 / size, rtol=CLOSE):
            return f"{sign}exactly 1/{size}x: divided twice by N = {size}, {what}?"
    if np.isclose(abs(r), 2, rtol=CLOSE):
        mean = f" Or 1/N missing, N = 2, {sizes[2]}?" if 2 in sizes else ""
        return f"{sign}exactly 2x: added twice?{mean}"
    if np.isclose(abs(r), 0.5, rtol=CLOSE):
        return f"{sign}exactly half: used twice, added once?"
    return f"exactly {r:.6g}x everywhere: a constant factor?"


def _partial_factor(a: NDArray[Any], n: NDArray[Any]) -> str:
    if not a.any():
        return "zero where it is wrong: part of the gradient lost?"
    r = _ratio(a, n) if a.size > 1 else None
    return f"exactly {r:.6g}x where it is wrong" if r is not None else ""


def _moved(analytic: NDArray[Any], numeric: NDArray[Any]) -> str:
    """Check whether the right gradient is transposed, flipped or shifted in the wrong one."""
    atol = CLOSE * np.abs(numeric).max()
    for words, found, wanted in _moves(analytic, numeric):
        same_shape = found.shape == wanted.shape and found.any()
        if same_shape and np.allclose(found, wanted, rtol=CLOSE, atol=atol):
            return words
    return ""


def _moves(a: NDArray[Any], n: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    axes = range(n.ndim)
    for order in itertools.permutations(axes) if n.ndim <= 4 else ():
        yield f"transposed? right with its axes in the order {order}", a, n.transpose(order)
    for count in (1, 2):
        for flipped in itertools.combinations(axes, count):
            yield f"flipped along axes {flipped}?", a, np.flip(n, flipped)
    for axis in axes:
        ahead, behind = (np.moveaxis(x, axis, 0) for x in (a, n))
        if len(ahead) > 2:
            yield f"shifted by 1 along axis {axis}?", ahead[1:], behind[:-1]
            yield f"shifted by -1 along axis {axis}?", ahead[:-1], behind[1:]


def _border(wrong: NDArray[Any]) -> str:
    if wrong.ndim < 2 or min(wrong.shape[-2:]) < 3:
        return ""
    inside = wrong[..., 1:-1, 1:-1]
    around = wrong.size - inside.size
    if inside.any() or wrong.sum() < 0.9 * around:
        return ""
    return "right inside the border: gradient of the padded border lost?"


def _offset(analytic: NDArray[Any], numeric: NDArray[Any]) -> str:
    difference = analytic - numeric
    for axis in reversed(range(difference.ndim)):
        spread = np.ptp(difference, axis=axis)
        if difference.shape[axis] > 2 and spread.max() <= CLOSE * np.abs(difference).max():
            return f"off by a constant along axis {axis}: the gradient of a mean over it missing?"
    return ""
