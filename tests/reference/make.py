"""Ask PyTorch for the answers that the tests compare with, and store them: one `.npz` per family.

Run it from the repository's root with torch==2.13.0 installed:

    python -m tests.reference.make
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .cases import (
    CLIPPING,
    FAMILIES,
    GROUP_LR,
    HERE,
    MAX_NORM,
    OPTIMISERS,
    PARAMETERS,
    STEPS,
    Case,
    slope,
)

Arrays = dict[str, np.ndarray]
NAMES = {"axis": "dim"}  # where minidl calls an argument otherwise


def operation(case: Case, rng: np.random.Generator) -> Arrays:
    """Draw a case's inputs; return them, the output, and all gradients for a drawn upstream."""
    arrays = {f"input {i}": rng.normal(size=shape) for i, shape in enumerate(case.inputs)}
    inputs = [torch.tensor(a, requires_grad=True) for a in arrays.values()]
    options: dict[str, Any] = {NAMES.get(name, name): v for name, v in case.options.items()}
    options |= {name: torch.tensor(value) for name, value in case.constants.items()}
    if case.op == "global_avg_pool2d":
        output = torch.nn.functional.adaptive_avg_pool2d(*inputs, 1).flatten(1)
    elif case.op == "max_pool2d":
        output, places = torch.nn.functional.max_pool2d(*inputs, **options, return_indices=True)
        arrays["places"] = places.numpy()
    else:
        output = getattr(torch.nn.functional, case.op)(*inputs, **options)
    upstream = rng.normal(size=tuple(output.shape))
    arrays |= {"output": output.detach().numpy(), "upstream": upstream}
    gradients = torch.autograd.grad(output, inputs, torch.tensor(upstream))
    return arrays | {f"gradient {i}": g.numpy() for i, g in enumerate(gradients)}


def operations(family: str) -> Arrays:
    """Return all answers of one family, each named `case/what`."""
    rng = np.random.default_rng(0)
    answers = {case.name: operation(case, rng) for case in FAMILIES[family]}
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
