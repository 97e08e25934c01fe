"""Gradients of fused kernels that can be differentiated again: through the same steps, composed.

A fused kernel computes its gradient with arrays, which is fast but not recorded. If it has to be
recorded (`create_graph=True`), the operation runs again as a composition of small operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minidl.autograd import Gradients, propagate, state, watcher
from minidl.tensor import Tensor


def may_use_kernel(x: Tensor) -> bool:
    """Return whether a fused kernel may replace the composed form: not while steps are watched."""
    return x.backend.fuses and watcher() is None


def composed_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], gradient: Tensor
) -> Gradients:
    """Return recorded gradients of `function(*inputs)`, for a gradient of its output.

    It is called on aliases: an input may be computed from another one, whose gradient must not
    include that path, and an input's hooks must not run here.
    """
    aliases = [None if x is None else x.reshape(x.shape) for x in inputs]
    wanted = [alias for alias in aliases if alias is not None and alias.requires_grad]
    out = function(*aliases)
    found = dict.fromkeys(map(id, wanted))
    for tensor, slope in propagate([out], [gradient], True, True, state(), wanted):
        if id(tensor) in found:
            found[id(tensor)] = slope
    return [None if alias is None else found.get(id(alias)) for alias in aliases]
