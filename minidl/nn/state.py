"""Details behind `Module`: the arguments in its repr, and which saved arrays fit it."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl.backends import asarray
from minidl.tensor import Tensor

WRAPPERS = ("module.", "_orig_mod.")  # prefixes that PyTorch's DataParallel and compile add


class IncompatibleKeys(NamedTuple):
    """The names that only a module or only a state has, as `load_state_dict` returns them.

    Attributes:
        missing_keys: the module's names that the state lacks.
        unexpected_keys: the state's names that the module lacks.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


def fitting_arrays(
    who: str, own: Mapping[str, Tensor], state: Mapping[str, Any], strict: bool
) -> tuple[dict[str, np.ndarray[Any, Any]], IncompatibleKeys]:
    """Return saved arrays under the module's own names, and the names that do not fit.

    Args:
        who: the module's class, for the message.
        own: its tensors by dotted name.
        state: the saved arrays, by dotted name.
        strict: whether all names must match; otherwise warn if none does, or if more would match
            without a common prefix.

    Raises:
        TypeError: the state is not a mapping, or a name is not a string.
        ValueError: something does not fit; the message lists every problem.
    """
    if not (isinstance(state, Mapping) and all(isinstance(n, str) for n in state)):
        raise TypeError(f"{who}.load_state_dict: got {type(state).__name__}, expected named arrays")
    arrays = {n: x.numpy() if isinstance(x, Tensor) else x for n, x in state.items()}
    for wrapper in (*WRAPPERS, *WRAPPERS):  # one may be inside the other
        if all(n.startswith(wrapper) for n in arrays) and not any(n in arrays for n in own):
            arrays = {n.removeprefix(wrapper): array for n, array in arrays.items()}
    missing = [n for n in own if n not in arrays and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in arrays if n not in own]
    problems = [f"{n}: missing" for n in missing] if strict else []
    problems += [f"{n}: not expected" for n in unexpected] if strict else []
    both: dict[str, tuple[Any, Tensor]] = {}
    for name in [n for n in arrays if n in own]:
        try:
            both[name] = asarray(name, arrays[name]), own[name]
        except (TypeError, ValueError) as error:
            problems.append(str(error))
    problems += _misfits(both)
    hint = _prefix_hint(arrays, own) if missing and unexpected else ""
    if problems:
        raise ValueError(
            f"{who}.load_state_dict: the state does not fit; "
            + "\n  ".join([hint or "was it saved from another network?", *problems])
        )
    if hint or not (both or arrays.keys() == own.keys()):
        warnings.warn(
            f"{who}.load_state_dict: loaded only {len(both)} of {len(own)} tensors; "
            f"{hint or 'was the state saved from another network?'} Missing names include "
            f"{missing[:3]}, unexpected ones {unexpected[:3]}",
            stacklevel=3,
        )
    return {name: array for name, (array, _) in both.items()}, IncompatibleKeys(missing, unexpected)


def _misfits(pairs: Mapping[str, tuple[np.ndarray[Any, Any], Tensor]]) -> list[str]:
    """Return the reasons why saved arrays do not fit the tensors of the same names."""
    problems: list[str] = []
    first: dict[int, tuple[str, np.ndarray[Any, Any]]] = {}
    for name, (array, tensor) in pairs.items():
        if array.shape != tensor.shape:
            problems.append(f"{name}: got shape {array.shape}, expected {tensor.shape}")
        elif not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            problems.append(f"{name}: got dtype {array.dtype}, expected {tensor.dtype}")
        else:
            other, theirs = first.setdefault(id(tensor), (name, array))
            coarser = min(array.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
            mine, theirs = (a.astype(coarser, copy=False) for a in (array, theirs))
            is_float = coarser.kind == "f"
            if other != name and not np.array_equal(mine, theirs, equal_nan=is_float):
                words = f"{name}: got values that differ from {other}, but the tensor is shared"
                problems.append(words)
    return problems


def _prefix_hint(given: Iterable[str], own: Iterable[str]) -> str:
    """Say how to remove a prefix if more names would fit without it; otherwise return ""."""
    fitting = len(set(given) & set(own))
    strip = "load {{n.removeprefix({0!r}): a for n, a in state.items()}}."
    for names, others, words in (
        (given, set(own), f"the state's names start with {{0!r}}: {strip}"),
        (own, set(given), "the module's names start with {0!r}: load the state into that part."),
    ):
        tails = [(n[: i + 1], n[i + 1 :]) for n in names for i, c in enumerate(n) if c == "."]
        found = Counter(head for head, tail in tails if tail in others).most_common(1)
        if found and found[0][1] > fitting:
            return words.format(found[0][0])
    return ""


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
