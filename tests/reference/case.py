"""What one stored comparison with PyTorch is: a call, and where its inputs are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One call: `op(*inputs, *arguments, **constants, **options)`.

    Attributes:
        op: a function of minidl.functional or of minidl, or a method of Tensor.
        inputs: shapes of the arrays that are differentiated.
        options: arguments given by name.
        constants: arrays that are not differentiated, such as labels.
        arguments: arguments given by place, after the inputs.
        domain: what inputs are drawn from: one of those that `draw` knows.
        second: compare gradients of the gradients as well.
    """

    op: str
    inputs: list[tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    arguments: tuple[Any, ...] = field(default=(), kw_only=True)
    domain: str = field(default="normal", kw_only=True)
    second: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """What the case is called, in tests and in the file."""
        words = [self.op, " ".join("x".join(map(str, shape)) or "()" for shape in self.inputs)]
        words += [_text(value) for value in self.arguments]
        words += [f"{name}={value}" for name, value in self.options.items()]
        words += [f"{name}{list(value.shape)}" for name, value in self.constants.items()]
        return " ".join(words if self.domain == "normal" else [*words, self.domain])


def _text(value: Any) -> str:
    """Write an argument as one writes it: a slice as `1:3`."""
    if isinstance(value, slice):
        parts = ["" if part is None else str(part) for part in (value.start, value.stop)]
        return ":".join(parts if value.step is None else [*parts, str(value.step)])
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    return "..." if value is Ellipsis else str(value)


def draw(domain: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw numbers, in float64.

    All are multiples of 1 / 1024, which float32 holds as exactly as float64 does: both dtypes then
    compute from the same numbers. They also compress well.
    """
    size = int(np.prod(shape))
    if domain == "normal":
        values = rng.normal(size=shape)
    elif domain == "positive":  # for logarithms, roots and powers
        values = rng.uniform(0.5, 2.5, shape)
    elif domain == "shares":  # for probabilities
        values = rng.uniform(0, 1, shape)
    elif domain == "distinct":  # far enough apart that no rounding changes which is largest
        values = (rng.permutation(size) - size / 2).reshape(shape) / 4
    elif domain == "negative":  # as above; zeros of a padding would be larger than all of them
        values = (rng.permutation(size) - size - 1.0).reshape(shape) / 4
    elif domain == "whole":  # ties, zeros, and ends of ranges
        values = rng.integers(-2, 3, shape).astype(np.float64)
    elif domain == "counts":  # zeros as bases and as exponents
        values = rng.integers(0, 3, shape).astype(np.float64)
    elif domain == "wide":  # of either sign, from 0.001 to 100
        values = rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-3, 2, shape)
    elif domain == "far":  # exp of these overflows
        values = 1000 + rng.normal(size=shape)
    else:
        raise ValueError(f"no domain {domain!r}")
    return np.round(values * 1024) / 1024
