"""Where the first NaN or infinity was born: every operation looked at, forward and backward."""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from minidl.autograd import Found, Node, set_watcher
from minidl.backends import Array
from minidl.tensor import Tensor

_NO_LINE = "  (run forward under detect_anomaly too, to learn the line)"
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


@contextlib.contextmanager
def detect_anomaly(allow_inf: bool = False) -> Iterator[None]:
    """Stop at the first operation, or gradient of one, that makes a NaN or an infinity.

    The error names the operation, the line of your code that asked for it, where in the result the
    bad number stands, and what the inputs held there. Run the forward pass inside the `with` block
    too: a gradient is traced to the line where its operation ran. Every result that this thread
    computes is looked at, so this is for finding faults, not for training.

    Args:
        allow_inf: let infinities pass, such as those of a mask before a softmax; stop at NaN only.

    Raises:
        FloatingPointError: inside the block, at the operation that made the number, or that got it
            with data which no operation made.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor([4.0, 0.0], requires_grad=True)
        >>> with detect_anomaly(), np.errstate(divide="ignore"):
        ...     y = x.sqrt()
        ...     y.sum().backward()
        Traceback (most recent call last):
        FloatingPointError: the gradient of 'sqrt' for input 0 has 1 inf among 2 numbers ...
    """
    with set_watcher(_NumberCheck(allow_inf)):
        yield


class _NumberCheck:
    """The `Watcher` that looks for bad numbers."""

    def __init__(self, allow_inf: bool) -> None:
        self._allow_inf = allow_inf

    def made(self, op: str, result: Tensor, inputs: Sequence[Tensor | None]) -> None:
        """Look at what an operation made; note on its node where the user asked for it."""
        line = _line_of_user()
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
                    f"detect_anomaly made it: it came with the data or parameters\n{line}"
                )
        raise FloatingPointError(
            f"{op!r} made {self._words(result, bad)} from inputs without any"
            f"{_values_at(bad, result, inputs)}\n{line}"
        )

    def arrived(self, tensor: Tensor, gradient: Tensor) -> None:
        """Look at a tensor's gradient, added up from those that rules returned."""
        bad = self._find(gradient)
        if bad is not None:
            node = tensor.node
            whose = "of a leaf" if node is None else f"of the result of {node.op!r}"
            line = "" if node is None else f"\n{node.line or _NO_LINE}"
            raise FloatingPointError(
                f"the gradient {whose} has {self._words(gradient, bad)}, though no rule made it: "
                f"backward was given it, a hook made it, or it is too large a sum{line}"
            )

    def differentiated(self, node: Node, found: Found) -> None:
        """Look at the gradients that a rule returned."""
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
        """Return where the bad numbers of a tensor are, as NumPy bools; None if there are none."""
        if x.dtype.kind != "f":
            return None
        xp = x.backend.xp
        bad = xp.isnan(x.data) if self._allow_inf else ~xp.isfinite(x.data)
        return x.backend.to_numpy(bad) if bad.any() else None

    def _words(self, x: Tensor, bad: Array) -> str:
        values = x.numpy()
        kinds = {"NaN": np.isnan(values), "inf": values == np.inf, "-inf": values == -np.inf}
        counts = [f"{mask.sum()} {kind}" for kind, mask in kinds.items() if (mask & bad).any()]
        at = f", the first at {_first(bad)}" if x.ndim else ""
        return f"{' and '.join(counts)} among {x.size} numbers (shape {x.shape}{at})"


def _first(bad: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _values_at(bad: Array, result: Tensor, inputs: Sequence[Tensor | None]) -> str:
    """Say what the inputs hold where the first bad number stands, if they are of that shape."""
    words = [
        f"input {place} is {x.numpy()[_first(bad)]:.6g}"
        for place, x in enumerate(inputs)
        if x is not None and x.shape == result.shape
    ]
    return f"; there, {' and '.join(words)}" if words else ""


def _line_of_user() -> str:
    """Return the innermost line outside of minidl that led here, as in a traceback."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(path, line, frame.f_globals).strip()
    return f'  File "{path}", line {line}, in {frame.f_code.co_name}\n    {text}'
