"""Ask PyTorch for the answers that the tests compare with, and store them: one `.npz` per family.

Run it from the repository's root with torch==2.13.0 and torchvision==0.29.1 installed:

    python -m tests.reference.make
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .case import Case, draw
from .cases import (
    CLIPPING,
    FAMILIES,
    GROUP_LR,
    HERE,
    MAX_NORM,
    OPTIMISERS,
    PARAMETERS,
    STEPS,
    slope,
)

Arrays = dict[str, np.ndarray]


def _pick(x: torch.Tensor, index: Any) -> torch.Tensor:
    """Select as NumPy does, which PyTorch does not where a slice runs backwards."""
    places = np.arange(x.numel()).reshape(x.shape)[index]
    return x.flatten()[torch.tensor(places.copy())]


def _insert(x: torch.Tensor, axis: int | tuple[int, ...]) -> torch.Tensor:
    for place in axis if isinstance(axis, tuple) else (axis,):
        x = x.unsqueeze(place)
    return x


RUNNING = ("running_mean", "running_var")

# Operations whose names or arguments differ by more than the names of arguments below.
SPECIAL: dict[str, Callable[..., torch.Tensor]] = {
    "__getitem__": _pick,
    "batch_norm": lambda *inputs, **options: batch_norm(*inputs, **options),
    "broadcast_to": torch.broadcast_to,
    "clip": torch.clamp,
    "concatenate": lambda *xs, dim=0: torch.cat(xs, dim),
    "copy": torch.clone,
    "deform_conv2d": lambda *xs, **options: deform_conv2d(*xs, **options),
    "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
    "embedding": lambda weight, indices, **options: F.embedding(indices, weight, **options),
    "expand_dims": _insert,
    "global_avg_pool2d": lambda x, keepdim=False: (
        F.adaptive_avg_pool2d(x, 1) if keepdim else F.adaptive_avg_pool2d(x, 1).flatten(1)
    ),
    "group_norm": lambda x, weight=None, bias=None, **options: F.group_norm(
        x, weight=weight, bias=bias, **options
    ),
    "layer_norm": lambda x, weight=None, bias=None, **options: F.layer_norm(
        x, weight=weight, bias=bias, **options
    ),
    "global_avg_pool1d": lambda x, keepdim=False: x.mean(2, keepdim),
    "global_max_pool1d": lambda x, keepdim=False: (
        F.adaptive_max_pool1d(x, 1) if keepdim else F.adaptive_max_pool1d(x, 1).flatten(1)
    ),
    "global_max_pool2d": lambda x, keepdim=False: (
        F.adaptive_max_pool2d(x, 1) if keepdim else F.adaptive_max_pool2d(x, 1).flatten(1)
    ),
    "index_add": lambda x, source, dim, index: x.index_add(dim, index, source),
    "log_softmax": functools.partial(F.log_softmax, dim=-1),
    "max": lambda x, dim=(), keepdim=False: x.amax(dim, keepdim),
    "maximum": lambda a, b: torch.maximum(a, torch.as_tensor(b, dtype=a.dtype)),
    "mean": lambda x, dim=None, keepdim=False: x.mean(dim, keepdim),
    "min": lambda x, dim=(), keepdim=False: x.amin(dim, keepdim),
    "minimum": lambda a, b: torch.minimum(a, torch.as_tensor(b, dtype=a.dtype)),
    "norm": lambda x, p=2, dim=None, keepdim=False: torch.linalg.vector_norm(x, p, dim, keepdim),
    "pad": lambda *inputs, **options: pad(*inputs, **options),
    "prod": lambda x, dim=(), keepdim=False: prod(x, dim, keepdim),
    "scatter_add": lambda x, source, dim, index: x.scatter_add(dim, index, source),
    "roi_align2d": lambda x, **options: vision().roi_align(x, **options),
    "roi_pool2d": lambda x, **options: vision().roi_pool(x, **options),
    "softmax": functools.partial(F.softmax, dim=-1),
    # Beyond its threshold, 20, PyTorch replaces softplus by a line; minidl has no need of that.
    "softplus": functools.partial(F.softplus, threshold=700),
    "sort": lambda x, **options: torch.sort(x, **options).values,
    "stack": lambda *xs, dim=0: torch.stack(xs, dim),
    "std": lambda x, dim=None, keepdim=False, ddof=0: x.std(dim, correction=ddof, keepdim=keepdim),
    "sum": lambda x, dim=None, keepdim=False: x.sum(dim, keepdim),
    "swapped": lambda x: x.mT,
    "topk": lambda x, **options: torch.topk(x, **options).values,
    "transpose": lambda x, *axes: x.permute(axes or tuple(range(x.ndim))[::-1]),
    "var": lambda x, dim=None, keepdim=False, ddof=0: x.var(dim, correction=ddof, keepdim=keepdim),
    "where": lambda *xs, condition: torch.where(condition, *xs),
}


def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
    relu: bool = False,
    **options: Any,
) -> torch.Tensor:
    out = F.batch_norm(x, **dict.fromkeys(RUNNING) | options, weight=weight, bias=bias)
    out = out if added is None else out + added
    return F.relu(out) if relu else out


def pad(
    x: torch.Tensor, widths: list[tuple[int, int]], value: float = 0.0, mode: str = "constant"
) -> torch.Tensor:
    """Pad all axes with a constant; otherwise the axes after the first two."""
    if mode == "constant":
        return F.pad(x, sum(reversed(widths), ()), value=value)
    names = {"edge": "replicate", "wrap": "circular"}
    return F.pad(x, sum(reversed(widths[2:]), ()), mode=names.get(mode, mode))


def prod(x: torch.Tensor, dim: Any, keepdim: bool) -> torch.Tensor:
    if isinstance(dim, int):
        return x.prod(dim, keepdim)
    for axis in dim or range(x.ndim):
        x = x.prod(axis, keepdim=True)
    return x if keepdim else x.squeeze(dim or tuple(range(x.ndim)))


def conv2d_relu(*inputs: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.relu(F.conv2d(*inputs, **options))


def conv2d_relu_max_pool2d(*inputs: torch.Tensor, **options: Any) -> torch.Tensor:
    names = {"pool_size": "kernel_size", "ceil_mode": "ceil_mode"}
    names |= {f"pool_{name}": name for name in ("stride", "padding", "dilation")}
    pool = {new: options.pop(old) for old, new in names.items() if old in options}
    return F.max_pool2d(F.relu(F.conv2d(*inputs, **options)), **{"kernel_size": 2} | pool)


def gru(
    x: torch.Tensor, h0: torch.Tensor, *weights: torch.Tensor, reverse: bool = False
) -> torch.Tensor:
    options = (len(weights) == 4, 1, 0.0, False, False, False)
    out, _ = torch._VF.gru(x.flip(0) if reverse else x, h0[None], weights, *options)
    return out.flip(0) if reverse else out


def lstm(
    x: torch.Tensor,
    h0: torch.Tensor,
    c0: torch.Tensor,
    *weights: torch.Tensor,
    reverse: bool = False,
) -> torch.Tensor:
    """Run PyTorch's LSTM step by step, because it returns only the last cell state."""
    state, states = (h0[None], c0[None]), []
    for step in x.flip(0) if reverse else x:
        options = (len(weights) == 4, 1, 0.0, False, False, False)
        _, *state = torch._VF.lstm(step[None], state, weights, *options)
        states.append(torch.cat(list(state)))
    return torch.stack(states[::-1] if reverse else states, 1)


SPECIAL |= {"gru": gru, "lstm": lstm}


def vision() -> Any:
    """Return torchvision's operations."""
    from torchvision import ops

    return ops


def deform_conv2d(
    x: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mask: torch.Tensor | None = None,
    **geometry: Any,
) -> torch.Tensor:
    found: torch.Tensor = vision().deform_conv2d(x, offset, weight, bias, mask=mask, **geometry)
    return found


SPECIAL |= {"conv2d_relu": conv2d_relu, "conv2d_relu_max_pool2d": conv2d_relu_max_pool2d}
WITH_PLACES = {
    "max_pool1d",
    "max_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "fractional_max_pool2d",
}
NAMES = {"axis": "dim", "keepdims": "keepdim", "low": "min", "high": "max"}


def call(case: Case, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Call PyTorch's operation of the same meaning."""
    options: dict[str, Any] = {NAMES.get(name, name): v for name, v in case.options.items()}
    options |= {name: torch.tensor(value) for name, value in case.constants.items()}
    function = SPECIAL.get(case.op) or getattr(F, case.op, None) or getattr(torch.Tensor, case.op)
    return function(*inputs, *case.arguments, **options)


def operation(case: Case) -> Arrays:
    """Draw a case's inputs; return them, the output, and all gradients for a drawn upstream.

    For second gradients, `v` is drawn for each gradient `g`; they are those of the sum of all
    `g * v` with respect to the inputs and the upstream, and left out where they are 0.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))  # whatever other cases there are
    arrays = {f"input {i}": draw(case.domain, shape, rng) for i, shape in enumerate(case.inputs)}
    inputs = [torch.tensor(array, requires_grad=True) for array in arrays.values()]
    output = call(case, inputs)
    if case.op in WITH_PLACES:
        samples = {name: torch.tensor(value) for name, value in case.constants.items()}
        _, places = getattr(F, case.op)(*inputs, **case.options, **samples, return_indices=True)
        arrays["places"] = places.numpy()
    if case.op == "batch_norm" and case.constants:
        running = {name: torch.tensor(value) for name, value in case.constants.items()}
        batch_norm(inputs[0], **running, **case.options)
        arrays |= {f"new {name}": value.numpy() for name, value in running.items()}
    arrays["output"] = output.detach().numpy()
    arrays["upstream"] = draw("normal", tuple(output.shape), rng)
    upstream = torch.tensor(arrays["upstream"], requires_grad=True)
    gradients = torch.autograd.grad(output, inputs, upstream, create_graph=case.second)
    arrays |= {f"gradient {i}": g.detach().numpy() for i, g in enumerate(gradients)}
    if case.second:
        vs = [draw("normal", shape, rng) for shape in case.inputs]
        arrays |= {f"v {i}": v for i, v in enumerate(vs)}
        total = sum((g * torch.tensor(v)).sum() for g, v in zip(gradients, vs, strict=True))
        found = torch.autograd.grad(total, [*inputs, upstream], allow_unused=True)
        names = [*range(len(inputs)), "upstream"]
        arrays |= {
            f"second gradient {name}": g.numpy()
            for name, g in zip(names, found, strict=True)
            if g is not None and g.any()
        }
    return arrays


def operations(family: str) -> Arrays:
    """Return all answers of one family, each named `case/what`."""
    answers = {case.name: operation(case) for case in FAMILIES[family]}
    return {f"{name}/{what}": a for name, case in answers.items() for what, a in case.items()}


def optimisers() -> Arrays:
    """Return each rule's parameters after every step, `(STEPS, ...)`, and where they start."""
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape) for shape in PARAMETERS]
    found = {f"start/{i}": start for i, start in enumerate(starts)}
    for name, (rule, options) in OPTIMISERS.items():
        tensors = [torch.tensor(start, requires_grad=True) for start in starts]
        groups = [{"params": tensors[:1]}, {"params": tensors[1:], "lr": GROUP_LR}]
        optimiser = getattr(torch.optim, rule)(groups, **options)
        paths: list[list[np.ndarray]] = [[] for _ in tensors]
        for step in range(STEPS):
            for tensor in tensors:
                tensor.grad = slope(tensor.detach(), step)
            optimiser.step()
            for tensor, path in zip(tensors, paths, strict=True):
                path.append(tensor.detach().numpy().copy())
        found |= {f"{name}/{i}": np.array(path) for i, path in enumerate(paths)}
    for name, norm_type in CLIPPING.items():
        tensors = [torch.tensor(start, requires_grad=True) for start in starts]
        for tensor in tensors:
            tensor.grad = slope(tensor.detach(), 0)
        total = torch.nn.utils.clip_grad_norm_(tensors, MAX_NORM, norm_type)
        found[f"clip {name}/total"] = total.numpy()
        found |= {f"clip {name}/{i}": t.grad.numpy() for i, t in enumerate(tensors)}
    return found


def answers(family: str) -> Arrays:
    """Return what is to be stored for a family of operations, or for `"optim"`."""
    torch.set_num_threads(1)
    return optimisers() if family == "optim" else operations(family)


if __name__ == "__main__":
    for family in (*FAMILIES, "optim"):
        np.savez_compressed(HERE / f"{family}.npz", **answers(family))
        print(f"{family}.npz: {(HERE / f'{family}.npz').stat().st_size / 1000:.0f} kB")
