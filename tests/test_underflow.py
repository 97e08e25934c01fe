"""Underflow is harmless, even if NumPy is set to raise errors; other errors are raised."""

import warnings

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl import functional as F

from .helpers.op_table import OPS

RAISE = {"over": "ignore", "invalid": "ignore", "divide": "ignore", "under": "raise"}


def hostile(array, tiny, rng):
    """Make half of the values tiny, and some so negative that their exponential is 0."""
    factors = rng.choice([tiny, tiny, 1.0, -200.0], array.shape)
    return array * factors


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
@pytest.mark.parametrize("kernels", ["fast", "plain"])
def test_no_operation_or_gradient_raises_for_underflow(op, kernels):
    minidl.set_kernels(kernels)
    try:
        for case in op.cases:
            for dtype, tiny in ((np.float32, 1e-25), (np.float32, 1e-38), (np.float64, 1e-307)):
                rng = np.random.default_rng(0)
                arrays = [hostile(array, tiny, rng).astype(dtype) for array in case.arrays()]
                with np.errstate(all="ignore"):
                    options = {
                        name: value.astype(dtype)
                        if getattr(value, "dtype", 0) == np.float64
                        else value
                        for name, value in case.options.items()
                    }

                def run(arrays=arrays, options=options):
                    minidl.manual_seed(0)
                    result = op.fn(*(Tensor(a, requires_grad=True) for a in arrays), **options)
                    for y in result if isinstance(result, (list, tuple)) else [result]:
                        if isinstance(y, Tensor) and y.requires_grad:
                            y.backward(Tensor(np.full(y.shape, 0.37, y.dtype)), retain_graph=True)

                with np.errstate(all="ignore"):
                    try:
                        run()
                    except (ValueError, ZeroDivisionError):  # it refuses such values
                        continue
                with np.errstate(**RAISE):
                    run()
                    assert np.geterr() == RAISE
    finally:
        minidl.set_kernels("fast")


RULES = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "RMSprop": optim.RMSprop,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("size", [3, 300_000])
def test_no_rule_raises_for_underflow(rule, size):
    tiny = np.full(size, 1e-30, np.float32)
    parameters = [nn.Parameter(tiny), nn.Parameter(np.ones(size, np.float32))]
    stepper = rule(parameters)
    with np.errstate(all="raise"):
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = Tensor(tiny)
            optim.clip_grad_norm_(parameters, 1e-20)
            stepper.step()


def test_a_network_trains_where_all_errors_are_raised():
    minidl.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(36, 2), nn.Softmax()),
    )
    adam = optim.Adam(model.parameters())
    x = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32) * np.float32(1e-20)
    with np.errstate(all="raise"):
        for _ in range(3):
            adam.zero_grad()
            F.cross_entropy(model(Tensor(x)) * 300, np.arange(8) % 2).backward()
            adam.step()


@pytest.mark.parametrize(
    ("fn", "x", "message"),
    [
        (lambda x: x * 1e30, 1e30, "overflow"),
        (lambda x: x.exp(), 1e3, "overflow"),
        (lambda x: x.log(), -1.0, "invalid"),
        (lambda x: 1 / x, 0.0, "divide by zero"),
    ],
)
def test_other_errors_are_raised_as_numpy_raises_them(fn, x, message):
    tensor = Tensor(np.array([x, 1e-30], np.float32))  # the second alone would only underflow
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match=message):
        fn(tensor)
    with np.errstate(all="warn"), pytest.warns(RuntimeWarning, match=message):
        fn(tensor)


def test_underflow_raises_no_warning_that_is_an_error():
    x = Tensor(np.array([1e-30, -200.0, 0.0], np.float32), requires_grad=True)
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        (F.softmax(x, 0) * x * x + x.tanh()).sum().backward()


def test_numpys_own_underflow_is_raised_between_operations():
    x = Tensor(np.full(3, 1e-30, np.float32))
    with np.errstate(under="raise"):
        F.softmax(x, 0)
        with pytest.raises(FloatingPointError, match="underflow"):
            x.data * x.data
