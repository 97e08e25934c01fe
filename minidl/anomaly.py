"""Find the operation, forward or backward, that produced the first NaN or infinity."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Sequence

import numpy as np

from minidl.autograd import Found, Node, Watcher, set_watcher
from minidl.backends import Array
from minidl.context import Block
from minidl.tensor import Tensor

_NO_LINE = "  (run the forward pass under detect_anomaly too, to see the line)"
# NumPy stands between where `without_underflow` decorates a function.
_LIBRARIES = tuple(os.path.dirname(os.path.abspath(f)) + os.sep for f in (__file__, np.__file__))


def detect_anomaly(allow_inf: bool = False) -> Block[Watcher | None]:
    """Stop at the first operation, or gradient of one, that produces a NaN or an infinity.

    The error names the operation, the line of your code that ran it, the index of the bad value in
    the result, and the inputs' values there. Run the forward pass inside the `with` block too: a
    gradient is traced to the line where its operation ran. Every result that this thread or task
    computes is checked, so use this for debugging, not for training. With any kernels (see
    `minidl.set_kernels`), a NaN or an infinity in a pixel reaches only those outputs of a
    convolution whose windows contain it.

    Args:
        allow_inf: ignore infinities, such as those of a mask before a softmax; stop only at NaN.

    Raises:
        FloatingPointError: inside the block, at the operation that produced the value, or that
            received it from the data or parameters.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor([4.0, 0.0], requires_grad=True)
        >>> with detect_anomaly(), np.errstate(divide="ignore"):
        ...     y = x.sqrt()
        ...     y.sum().backward()
        Traceback (most recent call last):
        FloatingPointError: the gradient of 'sqrt' for input 0 has 1 inf among 2 values ...
    """
    return set_watcher(_NumberCheck(allow_inf))


class _NumberCheck:
    """The `Watcher` that looks for NaNs and infinities."""

    def __init__(self, allow_inf: bool) -> None:
        self._allow_inf = allow_inf

    def made(self, op: str, result: Tensor, inputs: Sequence[Tensor | None]) -> None:
        """Check an operation's result; note on its node which line of the user's code ran it."""
        line = line_of_user()
        if result.node is not None:
            result.node.line = line
        bad = self._find(result)
        if bad is None:
            return
        for place, x in enumerate(inputs):
            came = None if x is None else self._find(x)
            if x is not None and came is not None:
                raise FloatingPointError(
                    f"input {place} of {op!r} has {self._words(x, came)}; no operation under "
                    f"detect_anomaly produced it: it came with the data or parameters\n{line}"
                )
        raise FloatingPointError(
            f"{op!r} produced {self._words(result, bad)} from inputs without any"
            f"{_values_at(bad, result, inputs)}\n{line}"
        )

    def arrived(self, tensor: Tensor, gradient: Tensor) -> None:
        """Check a tensor's gradient, the sum of those that rules returned."""
        bad = self._find(gradient)
        if bad is not None:
            node = tensor.node
            whose = "of a leaf" if node is None else f"of the result of {node.op!r}"
            line = "" if node is None else f"\n{node.line or _NO_LINE}"
            raise FloatingPointError(
                f"the gradient {whose} has {self._words(gradient, bad)}, though no rule produced "
                f"it: it was passed to backward, a hook returned it, or a sum overflowed{line}"
            )

    def differentiated(self, node: Node, found: Found) -> None:
        """Check the gradients that a rule returned."""
        places = iter(enumerate(node.inputs))
        for x, dx in found:
            place = next(i for i, other in places if other is x)
            bad = self._find(dx)
            if bad is not None:
                raise FloatingPointError(
                    f"the gradient of {node.op!r} for input {place} has {self._words(dx, bad)}"
                    f"{_values_at(bad, dx, node.inputs)}\n{node.line or _NO_LINE}"
                )

    def _find(self, x: Tensor) -> Array | None:
        """Return a NumPy mask of a tensor's bad values; None if there are none."""
        if x.dtype.kind != "f":
            return None
        xp = x.backend.xp
        bad = xp.isnan(x.array) if self._allow_inf else ~xp.isfinite(x.array)
        return x.backend.to_numpy(bad) if bad.any() else None

    def _words(self, x: Tensor, bad: Array) -> str:
        values = x.numpy()
        kinds = {"NaN": np.isnan(values), "inf": values == np.inf, "-inf": values == -np.inf}
        counts = [f"{mask.sum()} {kind}" for kind, mask in kinds.items() if (mask & bad).any()]
        at = f", the first at {_first(bad)}" if x.ndim else ""
        return f"{' and '.join(counts)} among {x.size} values (shape {x.shape}{at})"


def _first(bad: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _values_at(bad: Array, result: Tensor, inputs: Sequence[Tensor | None]) -> str:
    """Describe the inputs of the result's shape at the index of the first bad value."""
    words = [
        f"input {place} is {x.numpy()[_first(bad)]:.6g}"
        for place, x in enumerate(inputs)
        if x is not None and x.shape == result.shape
    ]
    return f"; there, {' and '.join(words)}" if words else ""


def line_of_user() -> str:
    """Return the innermost line outside minidl that led here, as in a traceback.

    Example:
        >>> print(line_of_user().split(", ")[1])
        line 1
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(path, line, frame.f_globals).strip()
    return f'  File "{path}", line {line}, in {frame.f_code.co_name}\n    {text}'
