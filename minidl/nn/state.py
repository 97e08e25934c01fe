"""Details behind `Module`: the arguments in its repr, and which saved arrays fit it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minidl.tensor import Tensor


def fitting_arrays(
    who: str, own: Mapping[str, Tensor], state: Mapping[str, Any], strict: bool
) -> dict[str, np.ndarray[Any, Any]]:
    """Return saved arrays under the module's own names, for `Module.load_state_dict`.

    Args:
        who: the module's class, for the message.
        own: its tensors by dotted name.
        state: the saved arrays, by dotted name.
        strict: whether all names must match.

    Raises:
        ValueError: something does not fit; the message lists every problem.
    """
    arrays = {
        name: value.numpy() if isinstance(value, Tensor) else np.asarray(value)
        for name, value in state.items()
    }
    if all(n.startswith("module.") for n in arrays) and not any(n in arrays for n in own):
        arrays = {n.removeprefix("module."): array for n, array in arrays.items()}
    needed = [n for n in own if not n.endswith("num_batches_tracked")]
    problems = [f"{n}: missing" for n in needed if n not in arrays] if strict else []
    problems += [f"{n}: not expected" for n in arrays if n not in own] if strict else []
    both = {name: (arrays[name], own[name]) for name in arrays if name in own}
    problems += [
        f"{name}: got shape {array.shape}, expected {tensor.shape}"
        for name, (array, tensor) in both.items()
        if array.shape != tensor.shape
    ]
    problems += [
        f"{name}: got dtype {array.dtype}, expected {tensor.dtype}"
        for name, (array, tensor) in both.items()
        if not np.can_cast(array.dtype, tensor.dtype, "same_kind")
    ]
    first: dict[int, str] = {}
    shared = []
    for name, (array, tensor) in both.items():
        other = first.setdefault(id(tensor), name)
        if problems or other == name:
            continue
        coarser = min(array.dtype, arrays[other].dtype, key=lambda dtype: dtype.itemsize)
        mine, theirs = array.astype(coarser), arrays[other].astype(coarser)
        if not np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f"):
            shared.append(f"{name}: got values that differ from {other}, but the tensor is shared")
    problems += shared
    if problems:
        raise ValueError(
            f"{who}.load_state_dict: the state does not fit; was it saved from another network?\n  "
            + "\n  ".join(problems)
        )
    return arrays


def shown_arguments(make: Callable[..., Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a constructor's arguments that differ from their defaults, formatted as in a call.

    Args:
        make: the constructor.
        values: the attributes set from its arguments, by name.
    """
    for name, argument in inspect.signature(make).parameters.items():
        if name not in values:
            continue
        value = values[name]
        if argument.default is None and isinstance(value, Tensor):
            yield f"{name}=Tensor{value.shape}"
            continue
        if isinstance(argument.default, bool) and not isinstance(value, bool):
            value = value is not None  # bias=True became a Parameter, bias=False None
        if argument.default is inspect.Parameter.empty:
            yield repr(value)
        elif repr(value) != repr(argument.default):  # `!=` of arrays would give an array
            yield f"{name}={value!r}"
