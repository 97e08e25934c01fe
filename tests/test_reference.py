"""Every operation against PyTorch's answers, which are stored in `reference/`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl import functional as F

from .helpers.op_table import batch_norm, deform_conv2d, joined_batch_norm
from .helpers.public import public_names
from .reference.cases import FAMILIES, HERE, Case, load

CASES = [(family, case) for family, cases in FAMILIES.items() for case in cases]

Arrays = dict[str, np.ndarray]
STORED: dict[tuple[str, str], Arrays] = {}  # by family and name of the case
for _family in FAMILIES:
    for _key, _array in load(_family).items():
        _name, _, _what = _key.rpartition("/")
        STORED.setdefault((_family, _name), {})[_what] = _array

# Functions that do not take the inputs one by one, and first.
SPECIAL: dict[str, Callable[..., Tensor]] = {
    "batch_norm": lambda x, weight=None, bias=None, added=None, relu=False, **options: (
        joined_batch_norm(x, weight, bias, added, relu, **options)
        if relu or added is not None
        else batch_norm(x, weight, bias, **options)
    ),
    "concatenate": lambda *xs, **options: minidl.concatenate(xs, **options),
    "deform_conv2d": deform_conv2d,
    "einsum": lambda *xs, subscripts: minidl.einsum(subscripts, *xs),
    "embedding": lambda weight, **options: F.embedding(weight=weight, **options),
    "group_norm": lambda x, weight=None, bias=None, **options: F.group_norm(
        x, weight=weight, bias=bias, **options
    ),
    "layer_norm": lambda x, weight=None, bias=None, **options: F.layer_norm(
        x, weight=weight, bias=bias, **options
    ),
    "index_add": lambda x, source, axis, index: minidl.index_add(x, axis, index, source),
    "scatter_add": lambda x, source, axis, index: minidl.scatter_add(x, axis, index, source),
    "sort": lambda x, **options: minidl.sort(x, **options)[0],
    "stack": lambda *xs, **options: minidl.stack(xs, **options),
    "topk": lambda x, **options: minidl.topk(x, **options)[0],
    "where": lambda *xs, condition: minidl.where(condition, *xs),
}


def function(op: str) -> Callable[..., Any]:
    """Return minidl's function, or else method, of this name."""
    if op in SPECIAL:
        return SPECIAL[op]
    owner = next(owner for owner in (F, minidl, Tensor) if hasattr(owner, op))
    return getattr(owner, op)


def run(case: Case, stored: Arrays, dtype: Any, device: str) -> dict[str, Tensor]:
    """Compute with minidl what is stored of a case."""

    def tensors(what: str) -> list[Tensor]:
        arrays = (stored[f"{what} {i}"] for i in range(len(case.inputs)))
        return [Tensor(array, dtype, device) for array in arrays]

    inputs = [x.requires_grad_() for x in tensors("input")]
    constants = {name: Tensor(value, device=device) for name, value in case.constants.items()}
    output = function(case.op)(*inputs, *case.arguments, **constants, **case.options)
    found = {"output": output}
    upstream = Tensor(stored["upstream"], dtype, device, requires_grad=case.second)
    gradients = minidl.grad(output, inputs, [upstream], create_graph=case.second)
    found |= {f"gradient {i}": g for i, g in enumerate(gradients)}
    if case.second:
        total = sum((g * v).sum() for g, v in zip(gradients, tensors("v"), strict=True))
        # The gradient of a linear function does not depend on its inputs: add 0 that does.
        total = total + sum((x * 0).sum() for x in [*inputs, upstream])
        *seconds, found["second gradient upstream"] = minidl.grad(total, [*inputs, upstream])
        found |= {f"second gradient {i}": g for i, g in enumerate(seconds)}
    return found


def compared(stored: Arrays) -> list[str]:
    """Return what of a case is an answer: not input, upstream, `v` or place."""
    return [what for what in stored if what == "output" or "gradient" in what]


OPERATIONS = list(dict.fromkeys((family, case.op) for family, case in CASES))


@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-10), (np.float32, 1e-5)], ids=str)
@pytest.mark.parametrize(("family", "op"), OPERATIONS)
def test_operation_equals_pytorch(family, op, dtype, tol, device):
    """In all its cases: most take less time than pytest needs for a test of their own."""
    for case in (case for case in FAMILIES[family] if case.op == op):
        minidl.manual_seed(0)
        try:
            compare(family, case, dtype, tol, device)
        except BaseException as error:
            error.add_note(f"in the case {case.name!r}")
            raise


def compare(family: str, case: Case, dtype: Any, tol: float, device: str) -> None:
    stored = STORED[family, case.name]
    found = run(case, stored, dtype, device)
    assert set(found) >= set(compared(stored))
    for what, tensor in found.items():
        # What is not stored is a second gradient of 0.
        wanted = stored[what] if "second" not in what else stored.get(what, np.zeros(tensor.shape))
        assert tensor.dtype == dtype, what
        assert tensor.shape == wanted.shape, what
        least = tol
        if device == "cuda":  # whose sums, in another order, are of numbers up to the largest
            least *= max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=tol, atol=least, err_msg=what)


WITH_PLACES = [
    pytest.param(family, case, id=case.name)
    for family, case in CASES
    if "places" in STORED[family, case.name]
]


@pytest.mark.parametrize(("family", "case"), WITH_PLACES)
def test_winners_stand_at_pytorch_s_places(family, case, device):
    stored = STORED[family, case.name]
    x = Tensor(stored["input 0"], device=device)
    _, places = getattr(F, case.op)(x, **case.options, **case.constants, return_indices=True)
    assert np.array_equal(places.numpy(), stored["places"])


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_cases_are_the_listed_ones(family):
    names = [case.name for case in FAMILIES[family]]
    assert len(set(names)) == len(names)
    assert {name for stored_family, name in STORED if stored_family == family} == set(names)


def test_there_are_many_comparisons_in_small_files():
    """Each stored output, gradient and second gradient counts once, whatever it is run on."""
    answers = [stored[what] for stored in STORED.values() for what in compared(stored)]
    assert len(answers) >= 400
    assert all(answer.dtype == np.float64 for answer in answers)
    assert all(np.isfinite(answer).all() for answer in answers)
    assert sum(path.stat().st_size for path in HERE.glob("*.npz")) < 3e6


# Kinds of pooling and of losses, which are compared with literal loops.
NOT_IN_PYTORCH = {
    "attention_pool1d",
    "attention_pool2d",
    "blur_pool2d",
    "channel_avg_pool",
    "channel_max_pool",
    "conv_pool2d",
    "dice_loss",
    "focal_loss",
    "gated_pool2d",
    "gem_pool1d",
    "pending_batch_norm",
    "pending_conv2d",
    "gem_pool2d",
    "masked_attention_pool1d",
    "masked_avg_pool1d",
    "masked_max_pool1d",
    "max_blur_pool2d",
    "min_pool1d",
    "min_pool2d",
    "mixed_pool1d",
    "mixed_pool2d",
    "pixel_cross_entropy",
    "sigmoid_focal_loss",
    "softmax_pool1d",
    "softmax_pool2d",
    "spatial_pyramid_pool2d",
    "stochastic_pool1d",
    "stochastic_pool2d",
}


def test_every_deterministic_function_has_a_case():
    ops = {case.op for family, case in CASES if family != "tensor"}
    assert ops == public_names(F) - {"dropout"} - NOT_IN_PYTORCH


# Of Tensor's methods and the functions of arrays, those that have no gradient to compare: they keep
# the graph, guide Python's operators, change the dtype, repeat `__getitem__`, or make new tensors.
GRAPH = {"__init__", "__reduce__", "backward", "detach", "seed_gradient", "to", "to_"}
OPERATORS = {"__iadd__", "__iter__"}
CREATION = {"arange", "from_dlpack", "full", "ones", "rand", "randn", "zeros"}


def test_every_differentiable_method_and_function_of_arrays_has_a_case():
    """Names that stand for one function, such as `__add__` and `__radd__`, are one operation."""
    methods = {f.__name__ for f in vars(Tensor).values() if inspect.isfunction(f)}
    values = {name: getattr(minidl, name) for name in public_names(minidl)}
    functions = {name: f for name, f in values.items() if inspect.isfunction(f)}
    listed = {n for n, f in functions.items() if f.__module__.startswith("minidl.tensor.")}
    wanted = (methods - GRAPH - OPERATORS) | (listed - CREATION)
    assert {case.op for case in FAMILIES["tensor"]} == wanted
