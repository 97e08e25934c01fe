"""What an optimiser asks of a backend: one parameter's step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Array: TypeAlias = Any


@dataclass(frozen=True)
class Update:
    """One parameter's part in a step of an optimiser.

    Attributes:
        p: the parameter, which is written to.
        g: its gradient.
        count: adds to the number of steps done.
        for_kernel: returns the arrays that the rule's kernel keeps for the parameter, and what
            gives the kernel's numbers for the step that `count` says.
        plain: does the step without a kernel, after it was counted.
    """

    p: Array
    g: Array
    count: Callable[[int], None]
    for_kernel: Callable[[], tuple[Sequence[Array], Callable[[], Sequence[float]]]]
    plain: Callable[[], None]
