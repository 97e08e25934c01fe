"""Every operation of minidl, declared once: how it is called, on what, and what it means.

`test_ops.py` takes each case below through value, gradient and gradient of the gradient, both float
dtypes, other memory orders, purity, and changes in place, on every device. A new operation needs a
row here, or a reason in `NOT_OPS`; without either a test fails.

A reference is a function of plain float64 arrays: NumPy's own, one of `formulas.py`, or, for a
layer, the function that the layer stands for.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl
from minidl import Tensor, nn
from minidl import functional as F

from . import formulas, pools, sampling
from .formulas import (
    avg_pool2d,
    conv1d,
    conv2d,
    conv2d_relu,
    conv2d_relu_max_pool2d,
    conv_transpose2d,
    dropout,
    max_pool2d,
)

# How a row is written -------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """An input to be drawn, in tenths, so that it looks well when printed."""

    domain: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    shape: tuple[int, ...]

    def array(self, seed: int) -> np.ndarray:
        return np.asarray(self.domain(np.random.default_rng(seed), self.shape), np.float64)


def numbers(*shape: int) -> Draw:
    """Any numbers but 0, where functions such as `abs` have a kink."""

    def domain(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        drawn = np.round(rng.normal(size=shape), 1)
        return np.where(drawn == 0, 0.1, drawn)

    return Draw(domain, shape)


def positive(*shape: int) -> Draw:
    """From 0.5 to 2."""
    return Draw(lambda rng, shape: np.round(rng.uniform(0.5, 2, shape), 1), shape)


def distinct(*shape: int) -> Draw:
    """A tenth apart: no small step changes which one is the largest."""
    return Draw(lambda rng, shape: rng.permutation(math.prod(shape)).reshape(shape) / 10, shape)


def between(*shape: int) -> Draw:
    """Halfway between two tenths: never equal to one of `numbers`."""
    return Draw(lambda rng, shape: np.round(rng.normal(size=shape), 1) + 0.05, shape)


def probabilities(*shape: int) -> Draw:
    """Positive numbers that add up to 1 along axis 1."""

    def domain(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        drawn = rng.uniform(0.5, 2, shape)
        return drawn / drawn.sum(1, keepdims=True)

    return Draw(domain, shape)


@dataclass(frozen=True)
class Constant:
    """Floats that no gradient is asked for, such as the weights of classes."""

    values: Any


@dataclass(frozen=True)
class Case:
    """One way to call an operation.

    Attributes:
        inputs: what gradients are asked for, by name: arrays, or what to draw them from.
        options: everything else. Arrays among them are moved to the device under test.
        call: how a person writes it, where the operation's own form does not say it.
        view: whether the result looks into the memory of the input.
        view_of_cupy: whether it does so with CuPy's arrays, though NumPy copies.
    """

    inputs: dict[str, Draw | np.ndarray]
    options: dict[str, Any]
    call: str = ""
    view: bool = False
    view_of_cupy: bool = False

    def arrays(self) -> list[np.ndarray]:
        return [
            value.array(seed) if isinstance(value, Draw) else value
            for seed, value in enumerate(self.inputs.values())
        ]


def case(
    call: str = "", *, view: bool = False, view_of_cupy: bool = False, **arguments: Any
) -> Case:
    """Sort arguments into inputs and options: whatever is drawn, or an array of floats, is one."""
    inputs = {
        name: value
        for name, value in arguments.items()
        if isinstance(value, Draw) or getattr(value, "dtype", None) == np.float64
    }
    options = {
        name: np.array(value.values, np.float64) if isinstance(value, Constant) else value
        for name, value in arguments.items()
        if name not in inputs
    }
    return Case(inputs, options, call, view, view_of_cupy)


@dataclass(frozen=True, repr=False)
class Op:
    """A public operation.

    Attributes:
        name: where it is found: `Tensor.sum`, `functional.relu`, `nn.Conv2d`, `minidl.where`.
        fn: called as `fn(*inputs, **options)`.
        reference: the same for plain float64 arrays.
        cases: the ways of calling it that are tested.
        call: how a person writes it, with options or `inputs` in braces; `name(inputs, options)`
            where not given.
        broadcasts: whether its two inputs may have any two shapes that NumPy can broadcast.
    """

    name: str
    fn: Callable[..., Tensor]
    reference: Callable[..., Any]
    cases: list[Case]
    call: str = ""
    broadcasts: bool = False

    def __repr__(self) -> str:
        return f"<{self.name}>"  # in pytest's tracebacks

    def written(self, of: Case) -> str:
        """Return the call of a case as a person writes it."""
        pieces = {name: repr(value) for name, value in of.options.items()}
        inputs = ", ".join(of.inputs)
        if of.call or self.call:
            return (of.call or self.call).format(inputs=inputs, **pieces)
        arguments = list(of.inputs)
        for name, piece in pieces.items():
            if not isinstance(of.options[name], np.ndarray):
                arguments.append(f"{name}={piece}")
            else:
                arguments.append(name if name == "target" else f"{name}={name}")
        group, _, name = self.name.rpartition(".")
        owner = f"{arguments.pop(0)}." if group == "Tensor" else ""
        return f"{owner}{name}({', '.join(arguments)})"


def method(name: str) -> Callable[..., Any]:
    """Return what calls a method of its first argument: a tensor, or in a reference an array."""
    return lambda x, **options: getattr(x, name)(**options)


def layer(*cases: Case) -> Op:
    """Return the row of a layer: each case's `module` does what `same_as` says, with its weights.

    The layer's parameters are inputs, so their gradients are checked as well.
    """

    def run(*tensors: Tensor, module: nn.Module, same_as: Any, **constants: Any) -> Tensor:
        twin = copy.deepcopy(module).to(tensors[0].device, tensors[0].dtype)
        names = [name for name, _ in module.named_parameters()]
        inputs = len(tensors) - len(names)
        vars(twin).update(zip(names, tensors[inputs:], strict=True))
        return twin(*tensors[:inputs], **constants)

    def reference(*arrays: Any, module: nn.Module, same_as: Any, **constants: Any) -> np.ndarray:
        return same_as(*map(Tensor, arrays), **constants).numpy()

    rows = []
    for given in cases:
        module = given.options["module"]
        parameters = {n: p.numpy().astype(float).round(1) for n, p in module.named_parameters()}
        arguments = [*given.inputs, *(name for name in given.options if name == "target")]
        call = f"{module}({', '.join(arguments)})".replace("{", "{{").replace("}", "}}")
        rows.append(Case(given.inputs | parameters, given.options, call, given.view))
    return Op(f"nn.{type(module).__name__}", run, reference, rows)


# What rows have in common ---------------------------------------------------------------------

ELEMENTS = [case(x=numbers(2, 3)), case(x=numbers()), case(x=numbers(0, 3))]
POSITIVE_ELEMENTS = [case(x=positive(2, 3)), case(x=positive(0, 3))]


def pairs(draw: Callable[..., Draw], second: Callable[..., Draw] | None = None) -> list[Case]:
    shapes = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (3,)), ((), (2,)), ((0, 3), (1,))]
    return [case(a=draw(*a), b=(second or draw)(*b)) for a, b in shapes]


def with_number(draw: Callable[..., Draw]) -> list[Case]:
    return [case(x=draw(2, 3), number=2.5), case(x=draw(0, 3), number=2)]


IMAGE = np.array([[[[1.0, 3, 2, 0], [4, 8, 1, 5], [7, 0, 6, 2], [1, 2, 3, 9]]]])
EDGE = np.array([[[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]]])  # Sobel's
ROWS = np.array([[1.0, 2, 3], [4, 5, 6]])
SCORES = np.array([[2.0, 1, 0], [0, 3, 0]])
SAMPLES = Constant([[[0.31, 0.83], [0.12, 0.64]]])
LABELS = np.array([0, 2])
CLASS_WEIGHTS = Constant([1, 0.5, 2])
SOFT = probabilities(2, 3)


def spread(x: np.ndarray, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> np.ndarray:
    return np.var(x, axis, keepdims=keepdims, ddof=ddof)


# The table ------------------------------------------------------------------------------------

ARITHMETIC = [
    Op("Tensor.__neg__", operator.neg, np.negative, ELEMENTS, "-x"),
    Op("Tensor.__add__", operator.add, np.add, pairs(numbers), "a + b", broadcasts=True),
    Op("Tensor.__sub__", operator.sub, np.subtract, pairs(numbers), "a - b", broadcasts=True),
    Op("Tensor.__mul__", operator.mul, np.multiply, pairs(numbers), "a * b", broadcasts=True),
    Op(
        "Tensor.__truediv__",
        operator.truediv,
        np.divide,
        pairs(numbers, positive),
        "a / b",
        broadcasts=True,
    ),
    Op(
        "Tensor.__pow__",
        lambda a, b: a**b,
        lambda a, b: a**b,
        [
            *pairs(positive, numbers),
            case("a**2", a=numbers(2, 3), b=2),
            case("a**3", a=numbers(2, 3), b=3),
            case("a**-1.0", a=positive(2, 3), b=-1.0),
            case("a**0.5", a=positive(2, 3), b=0.5),
        ],
        "a**b",
        broadcasts=True,
    ),
    *(
        Op(
            f"Tensor.__r{name}__",
            lambda x, number, fn=fn: fn(number, x),
            lambda x, number, fn=fn: fn(number, x),
            with_number(draw),
            call,
        )
        for name, fn, draw, call in [
            ("add", operator.add, numbers, "{number} + x"),
            ("sub", operator.sub, numbers, "{number} - x"),
            ("mul", operator.mul, numbers, "{number} * x"),
            ("truediv", operator.truediv, positive, "{number} / x"),
            ("pow", operator.pow, numbers, "{number}**x"),
        ]
    ),
    Op(
        "Tensor.__matmul__",
        operator.matmul,
        np.matmul,
        [
            case(a=ROWS, b=np.array([[1.0, 0], [0, 1], [2, -1]])),
            case(a=numbers(3), b=numbers(3)),
            case(a=numbers(3), b=numbers(3, 2)),
            case(a=numbers(2, 3), b=numbers(3)),
            case(a=numbers(2, 1, 2, 3), b=numbers(2, 3, 1)),
            case(a=numbers(3, 2, 3), b=numbers(3)),
            case(a=numbers(3), b=numbers(2, 3, 2)),
            case(a=numbers(0, 3), b=numbers(3, 2)),
            case(a=numbers(2, 0), b=numbers(0, 3)),
        ],
        "a @ b",
    ),
    Op(
        "Tensor.__rmatmul__",
        lambda x, array: array.astype(x.dtype) @ x,
        lambda x, array: array @ x,
        [case(x=numbers(3, 2), array=Constant(ROWS)), case(x=numbers(3, 0), array=Constant(ROWS))],
        "array @ x",
    ),
]

FUNCTIONS_OF_ONE_ELEMENT = [
    Op("Tensor.exp", Tensor.exp, np.exp, ELEMENTS),
    Op("Tensor.log", Tensor.log, np.log, POSITIVE_ELEMENTS),
    Op("Tensor.sqrt", Tensor.sqrt, np.sqrt, POSITIVE_ELEMENTS),
    Op("Tensor.tanh", Tensor.tanh, np.tanh, ELEMENTS),
    Op("Tensor.abs", Tensor.abs, np.abs, ELEMENTS),
    Op("minidl.sin", minidl.sin, np.sin, ELEMENTS),
    Op("minidl.cos", minidl.cos, np.cos, ELEMENTS),
    Op("minidl.erf", minidl.erf, formulas.erf, [*ELEMENTS, case(x=np.array([-3.5, 1.05, 7]))]),
    Op("Tensor.__abs__", abs, np.abs, ELEMENTS, "abs(x)"),
    Op(
        "Tensor.clip",
        Tensor.clip,
        lambda x, low=None, high=None: np.clip(x, low, high),
        [
            case(x=numbers(3, 4), low=-0.55, high=0.55),
            case(x=numbers(3, 4), low=0.25),
            case(x=numbers(3, 4), high=0.25),
            case(x=numbers(0, 3), low=-1, high=1),
        ],
    ),
]

REDUCTIONS = [
    Op(
        "Tensor.sum",
        Tensor.sum,
        np.sum,
        [
            case(x=ROWS),
            case(x=ROWS, axis=0),
            case(x=numbers(2, 3, 2), axis=(0, -1), keepdims=True),
            case(x=numbers()),
            case(x=numbers(0, 3)),
            case(x=numbers(0, 3), axis=0),
        ],
    ),
    Op(
        "Tensor.mean",
        Tensor.mean,
        np.mean,
        [
            case(x=ROWS),
            case(x=ROWS, axis=1),
            case(x=numbers(2, 3, 2), axis=(0, 2)),
            case(x=numbers(2, 3), axis=-1, keepdims=True),
            case(x=numbers(0, 3), axis=1),
        ],
    ),
    Op(
        "Tensor.var",
        Tensor.var,
        spread,
        [
            case(x=numbers(2, 3)),
            case(x=numbers(2, 3), axis=1, keepdims=True),
            case(x=numbers(2, 3), axis=(0, 1), ddof=1),
            case(x=numbers(0, 3), axis=1),
        ],
    ),
    Op(
        "Tensor.std",
        Tensor.std,
        lambda x, **options: np.sqrt(spread(x, **options)),
        [
            case(x=numbers(2, 3)),
            case(x=numbers(2, 3), axis=1, keepdims=True),
            case(x=numbers(3, 2), axis=0, ddof=1),
            case(x=numbers(0, 3), axis=1),
        ],
    ),
    Op(
        "Tensor.norm",
        Tensor.norm,
        formulas.norm,
        [
            case(x=ROWS),
            case(x=numbers(2, 3), axis=1, keepdims=True),
            case(x=numbers(2, 3, 2), p=3, axis=(0, 2)),
            case(x=numbers(2, 3), p=1, axis=0),
            case(x=distinct(2, 3), p=math.inf, axis=-1),
            case(x=numbers(0, 3)),
            case(x=numbers(0, 3), axis=1, p=1.5),
        ],
    ),
    *(
        Op(
            f"Tensor.{name}",
            method(name),
            method(name),
            [
                case(x=distinct(2, 3)),
                case(x=distinct(2, 3), axis=-1),
                case(x=distinct(2, 3, 2), axis=(0, 2)),
                case(x=distinct(2, 3), axis=1, keepdims=True),
                case(x=distinct(0, 3), axis=1),
            ],
        )
        for name in ("max", "min")
    ),
    Op(
        "minidl.prod",
        minidl.prod,
        np.prod,
        [
            case(x=ROWS),
            case(x=numbers(2, 3), axis=1),
            case(x=numbers(5, 2), axis=0, keepdims=True),
            case(x=numbers(2, 3, 2), axis=(0, -1)),
            case(x=np.array([[0.0, 2, 3], [0, 0, 4], [0, 0, 0]]), axis=1),
            case(view=True, x=numbers()),
            case(x=numbers(0, 3), axis=0),
            case(x=numbers(0, 3), axis=1),
        ],
    ),
    Op(
        "minidl.cumsum",
        minidl.cumsum,
        np.cumsum,
        [
            case(x=ROWS, axis=0),
            case(x=numbers(2, 3, 2), axis=1),
            case(x=numbers(2, 3), axis=-1),
            case(x=numbers(0, 3), axis=0),
        ],
    ),
]


def selections() -> list[Case]:
    """Every kind of index. Slices and numbers give views, except of a single element."""
    basic = {
        "x[1]": np.s_[1],
        "x[-1, 2:3]": np.s_[-1, 2:3],
        "x[1:, ::2]": np.s_[1:, ::2],
        "x[::-1]": np.s_[::-1],
        "x[None, :, None, 1]": np.s_[None, :, None, 1],
        "x[..., 1]": np.s_[..., 1],
        "x[()]": (),
        "x[1:1]": np.s_[1:1],
    }
    advanced = {
        "x[[0, 2, 0, 0]]": [0, 2, 0, 0],
        "x[[0, 1, 0], [2, 2, 2]]": ([0, 1, 0], [2, 2, 2]),
        "x[[[0], [2]], [1, 1, 3]]": ([[0], [2]], [1, 1, 3]),
        "x[1, [0, 0, 2]]": (1, [0, 0, 2]),
        "x[[True, False, True]]": [True, False, True],
        "x[eye(3, 4)]": np.eye(3, 4) > 0,
        "x[array([2, 2])]": np.array([2, 2]),
        "x[[]]": [],
    }
    return [
        *(case(call, view=True, x=numbers(3, 4), index=i) for call, i in basic.items()),
        *(case(call, x=numbers(3, 4), index=i) for call, i in advanced.items()),
        case("x[:, 1]", view=True, x=numbers(0, 3), index=np.s_[:, 1]),
        case("x[:, [0, 2]]", x=numbers(0, 3), index=np.s_[:, [0, 2]]),
        case("x[-1, 2]", view_of_cupy=True, x=numbers(3, 4), index=(-1, 2)),
        case(
            "x[[0, 1, 1], :, [1, 0, 0]]", x=numbers(2, 3, 2), index=np.s_[[0, 1, 1], :, [1, 0, 0]]
        ),
    ]


SHAPE_AND_SELECTION = [
    Op(
        "Tensor.reshape",
        lambda x, shape: x.reshape(*shape) if isinstance(shape, list) else x.reshape(shape),
        lambda x, shape: np.reshape(x, shape),
        [
            case("x.reshape(3, -1)", view=True, x=ROWS, shape=[3, -1]),
            case(view=True, x=numbers(2, 3, 2), shape=(4, 3)),
            case(view=True, x=numbers(0, 3), shape=(3, 0)),
        ],
        "x.reshape({shape})",
    ),
    Op(
        "Tensor.flatten",
        Tensor.flatten,
        lambda x, start_axis=0: x.reshape(*x.shape[:start_axis], math.prod(x.shape[start_axis:])),
        [
            case(view=True, x=numbers(2, 3)),
            case(view=True, x=numbers(2, 3, 2), start_axis=1),
            case(view=True, x=numbers()),
            case(view=True, x=numbers(0, 3, 2), start_axis=1),
        ],
    ),
    Op(
        "Tensor.transpose",
        lambda x, axes=(): x.transpose(*axes) if isinstance(axes, list) else x.transpose(axes),
        lambda x, axes=None: np.transpose(x, axes),
        [
            case("x.transpose()", view=True, x=ROWS),
            case("x.transpose(1, -1, 0)", view=True, x=numbers(2, 3, 2), axes=[1, -1, 0]),
            case(view=True, x=numbers(2, 3, 2), axes=(2, 0, 1)),
            case(view=True, x=numbers(0, 3), axes=(1, 0)),
        ],
        "x.transpose({axes})",
    ),
    Op(
        "Tensor.T",
        lambda x: x.T,
        np.transpose,
        [case(view=True, x=numbers(2, 3)), case(view=True, x=numbers(0, 3))],
        "x.T",
    ),
    Op(
        "Tensor.swapped",
        Tensor.swapped,
        lambda x: x.swapaxes(-1, -2),
        [case(view=True, x=numbers(2, 3, 2)), case(view=True, x=numbers(2, 0))],
    ),
    Op(
        "Tensor.squeeze",
        Tensor.squeeze,
        np.squeeze,
        [
            case(view=True, x=numbers(1, 3, 1)),
            case(view=True, x=numbers(1, 3, 1), axis=-1),
            case(view=True, x=numbers(1, 3, 1), axis=(0, 2)),
            case(view=True, x=numbers(1, 0)),
        ],
    ),
    Op(
        "Tensor.expand_dims",
        Tensor.expand_dims,
        np.expand_dims,
        [
            *(
                case(view=True, x=numbers(2, 3), axis=axis)
                for axis in (0, 1, -1, -3, (0, 1), [-1, 1])
            ),
            case(view=True, x=numbers(0, 3), axis=0),
        ],
    ),
    Op(
        "Tensor.broadcast_to",
        Tensor.broadcast_to,
        np.broadcast_to,
        [
            case(view=True, x=numbers(2, 1), shape=(2, 3)),
            case(view=True, x=numbers(3), shape=(2, 2, 3)),
            case(view=True, x=numbers(), shape=(2,)),
            case(view=True, x=numbers(1, 3), shape=(0, 3)),
            case(view=True, x=numbers(0, 1), shape=(0, 3)),
        ],
    ),
    Op("Tensor.__getitem__", lambda x, index: x[index], lambda x, index: x[index], selections()),
    Op(
        "Tensor.__iter__",
        lambda x: sum(row * (i + 1) for i, row in enumerate(x)),
        lambda x: sum(row * (i + 1) for i, row in enumerate(x)),
        [case(x=numbers(3, 2)), case(x=numbers(2, 0))],
        "sum(row * (i + 1) for i, row in enumerate(x))",
    ),
    Op("Tensor.copy", Tensor.copy, np.copy, ELEMENTS),
    Op(
        "Tensor.to",
        lambda x: x.to("guarded" if x.device == "cpu" else "cpu").to(x.device),
        np.copy,
        ELEMENTS,
        "x.to(elsewhere).to(x.device)",
    ),
]

ORDERING = [
    Op(
        "minidl.sort",
        lambda x, **options: minidl.sort(x, **options)[0],
        formulas.sort,
        [
            case(x=distinct(5)),
            case(x=distinct(2, 3, 2), axis=1),
            case(x=distinct(2, 4), axis=0, descending=True),
            case(x=distinct(2, 4), descending=True, stable=True),
            case(x=distinct(0, 3), axis=0),
        ],
        "sort(x, ...)[0]",
    ),
    Op(
        "minidl.topk",
        lambda x, **options: minidl.topk(x, **options)[0],
        formulas.topk,
        [
            case(x=distinct(5), k=2),
            case(x=distinct(2, 3, 2), k=2, axis=1),
            case(x=distinct(4, 2), k=3, axis=0, largest=False),
            case(x=distinct(2, 4), k=4),
            case(x=distinct(2, 4), k=0),
            case(x=distinct(0, 3), k=2),
        ],
        "topk(x, k={k}, ...)[0]",
    ),
]

SCATTERING = [
    Op(
        "minidl.index_add",
        lambda x, source, axis, index: minidl.index_add(x, axis, index, source),
        formulas.index_add,
        [
            case(x=numbers(4), source=numbers(3), axis=0, index=np.array([3, 0, 3])),
            case(x=numbers(2, 3), source=numbers(2, 4), axis=-1, index=np.array([2, 2, 0, 2])),
            case(x=numbers(2, 3, 2), source=numbers(2, 1, 2), axis=1, index=np.array([1])),
            case(x=numbers(3, 2), source=numbers(0, 2), axis=0, index=np.zeros(0, int)),
        ],
        "index_add(x, {axis}, {index}, source)",
    ),
    Op(
        "minidl.scatter_add",
        lambda x, source, axis, index: minidl.scatter_add(x, axis, index, source),
        formulas.scatter_add,
        [
            case(x=numbers(4), source=numbers(3), axis=0, index=np.array([3, 0, 3])),
            case(
                x=numbers(2, 3),
                source=numbers(2, 4),
                axis=-1,
                index=np.array([[2, 2, 0, 2], [0, 1, 1, 1]]),
            ),
            case(
                x=numbers(3, 3),
                source=numbers(4, 2),
                axis=0,
                index=np.array([[2, 1], [2, 0], [2, 0]]),
            ),
            case(x=numbers(3, 2), source=numbers(0, 2), axis=0, index=np.zeros((0, 2), int)),
        ],
        "scatter_add(x, {axis}, {index}, source)",
    ),
]

CHOOSING_AND_JOINING = [
    Op(
        "minidl.where",
        lambda a, b, condition: minidl.where(condition, a, b),
        lambda a, b, condition: np.where(condition, a, b),
        [
            case(condition=np.eye(2, 3) > 0, a=numbers(2, 3), b=numbers(2, 3)),
            case(condition=np.eye(2, 3) > 0, a=numbers(3), b=numbers(2, 1)),
            case(condition=np.array(True), a=numbers(2), b=numbers()),
            case(condition=np.zeros((0, 3), bool), a=numbers(3), b=numbers(0, 3)),
        ],
        "where(condition, a, b)",
    ),
    Op("minidl.maximum", minidl.maximum, np.maximum, pairs(numbers, between), broadcasts=True),
    Op("minidl.minimum", minidl.minimum, np.minimum, pairs(numbers, between), broadcasts=True),
    Op(
        "minidl.concatenate",
        lambda *tensors, axis=0: minidl.concatenate(tensors, axis),
        lambda *arrays, axis=0: np.concatenate(arrays, axis),
        [
            case(a=numbers(1, 3), b=numbers(0, 3), c=numbers(2, 3), axis=0),
            case(a=numbers(2, 1), b=numbers(2, 2), axis=1),
            case(a=numbers(2, 1), b=numbers(2, 2), axis=-1),
            case(a=numbers(0, 1), b=numbers(0, 2), axis=1),
        ],
        "concatenate([{inputs}], axis={axis})",
    ),
    Op(
        "minidl.stack",
        lambda *tensors, axis=0: minidl.stack(tensors, axis),
        lambda *arrays, axis=0: np.stack(arrays, axis),
        [
            *(case(a=numbers(2, 3), b=numbers(2, 3), axis=axis) for axis in (0, 1, 2, -1, -3)),
            case(a=numbers(0), b=numbers(0), axis=0),
        ],
        "stack([{inputs}], axis={axis})",
    ),
    Op(
        "minidl.pad",
        minidl.pad,
        formulas.pad,
        [
            case(x=ROWS, widths=[(1, 0), (0, 2)]),
            case(x=ROWS, widths=[(0, 1), (1, 1)], value=-1.5),
            case(x=numbers(), widths=[]),
            case(x=numbers(2, 0), widths=[(0, 0), (1, 1)]),
            *(
                case(x=numbers(3, 4), widths=[(2, 1), (0, 3)], mode=mode)
                for mode in ("reflect", "edge", "wrap")
            ),
            case(x=numbers(2, 3, 2), widths=[(0, 0), (3, 2), (1, 0)], mode="wrap"),
            case(x=numbers(2, 2), widths=[(0, 0), (3, 4)], mode="edge"),
            case(x=numbers(2, 0), widths=[(1, 1), (0, 0)], mode="reflect"),
        ],
    ),
    Op(
        "minidl.einsum",
        lambda *tensors, subscripts: minidl.einsum(subscripts, *tensors),
        lambda *arrays, subscripts: np.einsum(subscripts, *arrays),
        [
            case(
                view=text in ("ij->ji", "i...->...i"),
                view_of_cupy=text == "->",
                **{name: numbers(*shape) for name, shape in zip("abc", shapes, strict=False)},
                subscripts=text,
            )
            for text, *shapes in [
                ("ij,jk->ik", (2, 3), (3, 2)),
                ("ij,jk", (2, 3), (3, 2)),
                ("ba,bc", (2, 3), (2, 2)),
                ("ij->ji", (2, 3)),
                ("ij->", (2, 3)),
                ("ij->j", (2, 3)),
                ("ii->i", (3, 3)),
                ("ii", (3, 3)),
                ("iij->j", (2, 2, 3)),
                ("iji->ij", (2, 3, 2)),
                ("iii->i", (2, 2, 2)),
                ("i,i->", (3,), (3,)),
                ("i,i->i", (3,), (3,)),
                ("i,j->ij", (2,), (3,)),
                ("ij,kl->", (2, 3), (1, 2)),
                ("bij,bjk->bik", (2, 2, 3), (2, 3, 1)),
                ("...ij,...jk->...ik", (2, 2, 3), (2, 3, 1)),
                ("...ij,jk->...ik", (2, 1, 2, 3), (3, 2)),
                ("...i,...i->...", (2, 1, 3), (2, 3)),
                ("...,...", (2, 3), (3,)),
                ("...i->...", (2, 3)),
                ("i...->...i", (2, 3)),
                ("ij,jk,kl->il", (2, 3), (3, 2), (2, 2)),
                ("i,i,i->i", (3,), (3,), (3,)),
                ("ij,ij,j->", (2, 3), (2, 3), (3,)),
                (" i j , j k -> i k ", (2, 3), (3, 2)),
                (",i->i", (), (3,)),
                ("->", ()),
                ("ij,jk->ik", (0, 3), (3, 2)),
                ("ij,jk->ik", (2, 0), (0, 2)),
                ("nchw,dc->ndhw", (2, 2, 1, 3), (3, 2)),
            ]
        ],
        "einsum({subscripts}, {inputs})",
    ),
]

ACTIVATIONS = [
    Op("functional.relu", F.relu, lambda x: np.maximum(x, 0), ELEMENTS),
    Op(
        "functional.leaky_relu",
        F.leaky_relu,
        formulas.leaky_relu,
        [*ELEMENTS, case(x=numbers(2, 3), negative_slope=0.3)],
    ),
    Op("functional.elu", F.elu, formulas.elu, [*ELEMENTS, case(x=numbers(2, 3), alpha=0.5)]),
    Op("functional.sigmoid", F.sigmoid, formulas.sigmoid, ELEMENTS),
    Op(
        "functional.softplus",
        F.softplus,
        formulas.softplus,
        [*ELEMENTS, case(x=numbers(2, 3), beta=2.0)],
    ),
    Op("functional.silu", F.silu, lambda x: x * formulas.sigmoid(x), ELEMENTS),
    Op(
        "functional.gelu",
        F.gelu,
        formulas.gelu,
        [*ELEMENTS, case(x=numbers(2, 3), approximate="tanh")],
    ),
    *(
        Op(
            f"functional.{fn.__name__}",
            fn,
            reference,
            [
                case(x=SCORES),
                case(x=numbers(2, 3), axis=0),
                case(x=numbers(2, 3, 2), axis=1),
                case(x=numbers(0, 3)),
                case(x=numbers(3, 0), axis=0),
                case(x=numbers(3, 0), axis=1),
            ],
        )
        for fn, reference in [(F.softmax, formulas.softmax), (F.log_softmax, formulas.log_softmax)]
    ),
]

LINEAR_AND_DROPOUT = [
    Op(
        "functional.embedding",
        lambda weight, indices, **options: F.embedding(indices, weight, **options),
        lambda weight, indices, sparse=False: weight[indices],
        [
            case(weight=numbers(4, 2), indices=np.array([2, 0, 2])),
            case(weight=numbers(4, 2), indices=np.array([[2, 0], [2, 3]]), sparse=True),
            case(weight=numbers(3, 2), indices=np.array([[1, 1], [1, 0]])),
            case(weight=numbers(3, 2), indices=np.array(1)),
            case(weight=numbers(3, 2), indices=np.zeros((2, 0), np.int32)),
            case(weight=numbers(3, 0), indices=np.array([2, 1])),
        ],
        call="embedding(indices, {inputs})",
    ),
    Op(
        "functional.linear",
        F.linear,
        lambda x, weight, bias=0.0: np.einsum("...i,oi->...o", x, weight) + bias,
        [
            case(x=ROWS, weight=np.array([[1.0, 0, 2], [0, 1, -1]]), bias=np.array([10.0, 20])),
            case(x=numbers(3), weight=numbers(2, 3), bias=numbers(2)),
            case(x=numbers(2, 2, 3), weight=numbers(2, 3), bias=numbers(2)),
            case(x=numbers(4, 3), weight=numbers(2, 3)),
            case(x=numbers(4, 3), weight=numbers(1, 3), bias=numbers(1)),
            case(x=numbers(0, 3), weight=numbers(2, 3), bias=numbers(2)),
            case(x=numbers(0, 2, 3), weight=numbers(2, 3), bias=numbers(2)),
        ],
    ),
    Op(
        "functional.dropout",
        lambda x, p, seed: F.dropout(x, p, rng=np.random.default_rng(seed)),
        dropout,
        [case(x=numbers(3, 4), p=0.5, seed=0), case(x=numbers(0, 4), p=0.2, seed=0)],
        "dropout(x, p={p})",
    ),
]


def joined_conv2d(
    x: Tensor, weight: Any, bias: Any = None, added: Any = None, relu: bool = False, **geometry: Any
) -> Tensor:
    """Convolve, and do an addition and ReLU in the same pass."""
    out: Any = F.pending_conv2d(x, weight, bias, **geometry)
    out = out if added is None else out + added
    if relu:
        return out.joined_relu()
    out.settle()
    return out


CONVOLUTIONS = [
    Op(
        "functional.conv2d",
        F.conv2d,
        conv2d,
        [
            case(x=IMAGE, weight=EDGE, bias=np.array([100.0])),
            case(x=numbers(2, 2, 3, 4), weight=numbers(3, 2, 2, 2)),
            case(x=numbers(1, 1, 4, 5), weight=numbers(2, 1, 3, 2), stride=2, padding=1),
            case(
                x=numbers(1, 1, 4, 3),
                weight=numbers(1, 1, 2, 2),
                stride=(1, 2),
                padding=(0, 1),
                dilation=(2, 1),
            ),
            case(
                x=numbers(1, 2, 3, 3), weight=numbers(1, 2, 2, 3), bias=numbers(1), padding="same"
            ),
            case(x=numbers(1, 4, 2, 3), weight=numbers(2, 2, 2, 2), bias=numbers(2), groups=2),
            case(x=numbers(0, 2, 3, 3), weight=numbers(3, 2, 2, 2), bias=numbers(3)),
        ],
    ),
    Op(
        "functional.conv1d",
        F.conv1d,
        conv1d,
        [
            case(x=numbers(1, 1, 6), weight=numbers(1, 1, 3), bias=numbers(1)),
            case(x=numbers(2, 2, 5), weight=numbers(2, 2, 2), bias=numbers(2), stride=2, padding=1),
            case(x=numbers(1, 2, 5), weight=numbers(2, 1, 2), groups=2, dilation=2, padding="same"),
            case(x=numbers(0, 2, 5), weight=numbers(3, 2, 3)),
        ],
    ),
    Op(
        "functional.conv_transpose2d",
        F.conv_transpose2d,
        conv_transpose2d,
        [
            case(x=np.array([[[[1.0, 2], [3, 4]]]]), weight=EDGE, stride=2, padding=1),
            case(x=numbers(1, 2, 2, 3), weight=numbers(2, 1, 2, 2), bias=numbers(1)),
            case(
                x=numbers(1, 2, 2, 2),
                weight=numbers(2, 1, 3, 2),
                stride=(2, 1),
                padding=(1, 0),
                output_padding=(1, 0),
            ),
            case(
                x=numbers(1, 2, 2, 2),
                weight=numbers(2, 1, 2, 2),
                bias=numbers(2),
                groups=2,
                dilation=2,
            ),
            case(x=numbers(0, 3, 3, 3), weight=numbers(3, 2, 3, 2), bias=numbers(2)),
        ],
    ),
]

POOLING = [
    Op(
        "functional.max_pool2d",
        F.max_pool2d,
        max_pool2d,
        [
            case(x=IMAGE, kernel_size=2, stride=2),
            case(x=IMAGE, kernel_size=3, stride=1),
            case(x=distinct(1, 2, 3, 4), kernel_size=3, stride=2, padding=1),
            case(x=distinct(1, 1, 4, 5), kernel_size=2, stride=(1, 2), dilation=2, ceil_mode=True),
            case(x=distinct(0, 2, 4, 4), kernel_size=2),
        ],
    ),
    Op(
        "functional.conv2d_relu",
        F.conv2d_relu,
        conv2d_relu,
        [
            case(x=numbers(2, 2, 4, 5), weight=numbers(3, 2, 2, 3), bias=numbers(3)),
            case(x=numbers(2, 3, 5, 4), weight=numbers(2, 3, 3, 2), stride=(2, 1), padding=1),
            case(
                x=numbers(1, 4, 5, 5),
                weight=numbers(4, 2, 2, 2),
                bias=numbers(4),
                padding="same",
                dilation=2,
                groups=2,
            ),
            case(x=numbers(0, 2, 4, 4), weight=numbers(3, 2, 2, 2), bias=numbers(3)),
        ],
    ),
    Op(
        "functional.pending_conv2d",
        joined_conv2d,
        formulas.joined_conv2d,
        [
            case(x=numbers(2, 2, 3, 4), weight=numbers(3, 2, 2, 2), bias=numbers(3)),
            case(x=numbers(1, 4, 2, 3), weight=numbers(2, 2, 2, 2), groups=2, relu=True),
            case(
                x=numbers(2, 2, 3, 4),
                weight=numbers(3, 2, 2, 2),
                bias=numbers(3),
                padding="same",
                added=numbers(2, 3, 3, 4),
                relu=True,
            ),
            case(x=numbers(0, 2, 3, 3), weight=numbers(3, 2, 2, 2), bias=numbers(3)),
        ],
    ),
    Op(
        "functional.conv2d_relu_max_pool2d",
        F.conv2d_relu_max_pool2d,
        conv2d_relu_max_pool2d,
        [
            case(x=numbers(2, 2, 5, 6), weight=numbers(3, 2, 2, 3), bias=numbers(3)),
            case(x=numbers(1, 1, 7, 7), weight=numbers(2, 1, 2, 2), pool_size=3, pool_stride=2),
            case(
                x=numbers(1, 4, 5, 5),
                weight=numbers(4, 2, 3, 3),
                bias=numbers(4),
                stride=2,
                padding=2,
                groups=2,
                pool_size=(2, 3),
                pool_stride=1,
                pool_padding=1,
                ceil_mode=True,
            ),
            case(
                x=numbers(1, 2, 7, 6),
                weight=numbers(2, 2, 2, 2),
                padding="same",
                dilation=2,
                pool_size=2,
                pool_stride=2,
                pool_dilation=2,
            ),
            case(x=numbers(0, 2, 4, 4), weight=numbers(3, 2, 2, 2)),
        ],
    ),
    Op(
        "functional.avg_pool2d",
        F.avg_pool2d,
        avg_pool2d,
        [
            case(x=IMAGE, kernel_size=2, stride=2),
            case(x=numbers(1, 2, 4, 3), kernel_size=(2, 3)),
            case(x=IMAGE, kernel_size=3, stride=2, padding=1, count_include_pad=False),
            case(x=numbers(1, 1, 2, 5), kernel_size=(1, 2), stride=3, ceil_mode=True),
            case(x=numbers(1, 1, 4, 4), kernel_size=2, divisor_override=3),
            case(x=numbers(0, 2, 4, 4), kernel_size=2),
        ],
    ),
    Op(
        "functional.global_avg_pool2d",
        F.global_avg_pool2d,
        lambda x, keepdims=False: x.mean((2, 3), keepdims=keepdims),
        [case(x=IMAGE), case(x=numbers(2, 2, 2, 3), keepdims=True), case(x=numbers(0, 2, 3, 3))],
    ),
]


def statistics(x: Tensor, options: dict[str, Any]) -> list[Tensor | None]:
    """Take running statistics out of the options, in the dtype of the images."""
    running = [options.pop(name, None) for name in ("running_mean", "running_var")]
    return [None if array is None else Tensor(array, x.dtype) for array in running]


def batch_norm(x: Tensor, weight: Any = None, bias: Any = None, **options: Any) -> Tensor:
    """Call `functional.batch_norm` with running statistics as arrays, of any dtype."""
    return F.batch_norm(x, *statistics(x, options), weight, bias, **options)


def joined_batch_norm(
    x: Tensor,
    weight: Any = None,
    bias: Any = None,
    added: Any = None,
    relu: bool = False,
    **options: Any,
) -> Tensor:
    """Do batch norm, and an addition and ReLU in the same pass."""
    out: Any = F.pending_batch_norm(x, *statistics(x, options), weight, bias, **options)
    out = out if added is None else out + added
    if relu:
        return out.joined_relu()
    out.settle()
    return out


RUNNING = {"running_mean": Constant([0.5, -1]), "running_var": Constant([2, 0.5])}

NORMALIZATION = [
    Op(
        "functional.batch_norm",
        batch_norm,
        formulas.batch_norm,
        [
            case(x=numbers(4, 2), weight=numbers(2), bias=numbers(2), training=True),
            case(x=numbers(2, 2, 3), weight=numbers(2), training=True, **RUNNING),
            case(x=numbers(2, 2, 2, 2), weight=numbers(2), training=True, eps=0.1),
            case(x=numbers(1, 1, 2, 3), training=True),
            case(x=numbers(0, 2, 3), weight=numbers(2), bias=numbers(2), training=True),
            case(x=numbers(2, 2, 1, 2), weight=numbers(2), bias=numbers(2), **RUNNING),
            case(x=numbers(1, 2), eps=0.1, **RUNNING),
            case(x=numbers(0, 2), weight=numbers(2), bias=numbers(2), **RUNNING),
        ],
    ),
    Op(
        "functional.pending_batch_norm",
        joined_batch_norm,
        formulas.batch_norm,
        [
            case(x=numbers(4, 2), weight=numbers(2), bias=numbers(2), training=True),
            case(
                x=numbers(4, 2), weight=numbers(2), bias=numbers(2), added=numbers(4, 2), **RUNNING
            ),
            case(
                x=numbers(2, 2, 2, 2),
                weight=numbers(2),
                bias=numbers(2),
                added=numbers(2, 2, 2, 2),
                training=True,
                relu=True,
            ),
            case(x=numbers(2, 2, 3), weight=numbers(2), relu=True, **RUNNING),
            case(
                x=numbers(0, 2),
                weight=numbers(2),
                bias=numbers(2),
                added=numbers(0, 2),
                relu=True,
                **RUNNING,
            ),
        ],
    ),
    Op(
        "functional.layer_norm",
        lambda x, weight=None, bias=None, **options: F.layer_norm(
            x, weight=weight, bias=bias, **options
        ),
        formulas.layer_norm,
        [
            case(x=numbers(2, 3), normalized_shape=3, weight=numbers(3), bias=numbers(3)),
            case(x=numbers(2, 2, 3), normalized_shape=(2, 3), weight=numbers(2, 3), eps=0.1),
            case(x=numbers(2, 1, 3), normalized_shape=[3], weight=numbers(3)),
            case(x=numbers(3), normalized_shape=(3,)),
            case(x=numbers(0, 3), normalized_shape=3, weight=numbers(3), bias=numbers(3)),
        ],
    ),
    Op(
        "functional.group_norm",
        lambda x, weight=None, bias=None, **options: F.group_norm(
            x, weight=weight, bias=bias, **options
        ),
        formulas.group_norm,
        [
            case(x=numbers(2, 6), num_groups=2, weight=numbers(6), bias=numbers(6)),
            case(x=numbers(1, 4, 3), num_groups=2, weight=numbers(4)),
            case(x=numbers(2, 2, 2, 2), num_groups=1, weight=numbers(2), eps=0.1),
            case(x=numbers(2, 2, 1, 3), num_groups=2),
            case(x=numbers(0, 4, 2), num_groups=2, weight=numbers(4), bias=numbers(4)),
        ],
    ),
]

MORE_POOLING = [
    Op(
        "functional.max_pool1d",
        F.max_pool1d,
        pools.of_sequences(max_pool2d),
        [
            case(x=distinct(1, 2, 7), kernel_size=2),
            case(x=distinct(1, 1, 6), kernel_size=3, stride=2, padding=1, ceil_mode=True),
            case(x=distinct(2, 1, 5), kernel_size=2, stride=1, dilation=2),
            case(x=distinct(0, 2, 4), kernel_size=2),
        ],
    ),
    Op(
        "functional.avg_pool1d",
        F.avg_pool1d,
        pools.of_sequences(avg_pool2d),
        [
            case(x=numbers(1, 2, 7), kernel_size=2),
            case(x=numbers(1, 1, 6), kernel_size=3, stride=2, padding=1, ceil_mode=True),
            case(x=numbers(1, 1, 5), kernel_size=2, padding=1, count_include_pad=False),
            case(x=numbers(0, 2, 4), kernel_size=2),
        ],
    ),
    Op(
        "functional.min_pool2d",
        F.min_pool2d,
        pools.min_pool2d,
        [
            case(x=IMAGE, kernel_size=2),
            case(x=distinct(1, 2, 3, 4), kernel_size=3, stride=2, padding=1),
            case(x=distinct(1, 1, 4, 5), kernel_size=2, stride=(1, 2), dilation=2, ceil_mode=True),
            case(x=distinct(0, 2, 4, 4), kernel_size=2),
        ],
    ),
    Op(
        "functional.min_pool1d",
        F.min_pool1d,
        pools.of_sequences(pools.min_pool2d),
        [
            case(x=distinct(1, 2, 7), kernel_size=3, stride=2, padding=1, ceil_mode=True),
            case(x=distinct(0, 2, 4), kernel_size=2),
        ],
    ),
    Op(
        "functional.lp_pool2d",
        F.lp_pool2d,
        pools.lp_pool2d,
        [
            case(x=numbers(1, 2, 4, 4), norm_type=2, kernel_size=2),
            case(x=positive(1, 1, 3, 5), norm_type=3, kernel_size=(2, 3), stride=(1, 2)),
            case(x=positive(1, 1, 3, 3), norm_type=1.5, kernel_size=2, ceil_mode=True),
            case(x=distinct(1, 1, 4, 4), norm_type=math.inf, kernel_size=2),
            case(x=numbers(0, 2, 4, 4), norm_type=2, kernel_size=2),
        ],
    ),
    Op(
        "functional.lp_pool1d",
        F.lp_pool1d,
        pools.of_sequences(pools.lp_pool2d),
        [
            case(x=positive(1, 2, 5), norm_type=3.0, kernel_size=2, stride=1),
            case(x=numbers(1, 1, 5), norm_type=2, kernel_size=2, ceil_mode=True),
            case(x=numbers(0, 2, 4), norm_type=2, kernel_size=2),
        ],
    ),
    Op(
        "functional.adaptive_max_pool2d",
        F.adaptive_max_pool2d,
        pools.adaptive_max_pool2d,
        [
            case(x=IMAGE, output_size=3),
            case(x=distinct(2, 1, 4, 5), output_size=(2, 3)),
            case(x=distinct(1, 2, 3, 4), output_size=(None, 1)),
            case(x=distinct(1, 1, 3, 3), output_size=1),
            case(x=distinct(0, 2, 4, 4), output_size=3),
        ],
    ),
    Op(
        "functional.adaptive_avg_pool2d",
        F.adaptive_avg_pool2d,
        pools.adaptive_avg_pool2d,
        [
            case(x=IMAGE, output_size=3),
            case(x=numbers(2, 1, 4, 5), output_size=(2, 3)),
            case(x=numbers(1, 2, 3, 4), output_size=(None, 1)),
            case(x=numbers(0, 2, 4, 4), output_size=3),
        ],
    ),
    Op(
        "functional.adaptive_max_pool1d",
        F.adaptive_max_pool1d,
        pools.of_sequences(pools.adaptive_max_pool2d),
        [case(x=distinct(1, 2, 5), output_size=3), case(x=distinct(0, 2, 5), output_size=2)],
    ),
    Op(
        "functional.adaptive_avg_pool1d",
        F.adaptive_avg_pool1d,
        pools.of_sequences(pools.adaptive_avg_pool2d),
        [case(x=numbers(1, 2, 5), output_size=3), case(x=numbers(0, 2, 5), output_size=2)],
    ),
    Op(
        "functional.global_max_pool2d",
        F.global_max_pool2d,
        lambda x, keepdims=False: x.max((2, 3), keepdims=keepdims),
        [case(x=IMAGE), case(x=distinct(2, 2, 2, 3), keepdims=True), case(x=distinct(0, 2, 3, 3))],
    ),
    Op(
        "functional.global_max_pool1d",
        F.global_max_pool1d,
        lambda x, keepdims=False: x.max(2, keepdims=keepdims),
        [
            case(x=distinct(2, 2, 3)),
            case(x=distinct(1, 2, 3), keepdims=True),
            case(x=distinct(0, 2, 3)),
        ],
    ),
    Op(
        "functional.global_avg_pool1d",
        F.global_avg_pool1d,
        lambda x, keepdims=False: x.mean(2, keepdims=keepdims),
        [
            case(x=numbers(2, 2, 3)),
            case(x=numbers(1, 2, 3), keepdims=True),
            case(x=numbers(0, 2, 3)),
        ],
    ),
    Op(
        "functional.spatial_pyramid_pool2d",
        F.spatial_pyramid_pool2d,
        pools.spatial_pyramid_pool2d,
        [
            case(x=IMAGE),
            case(x=numbers(1, 2, 3, 5), levels=(1, 3), mode="avg"),
            case(x=distinct(0, 2, 4, 4), levels=[2]),
        ],
    ),
    Op(
        "functional.channel_max_pool",
        F.channel_max_pool,
        lambda x, size: pools.channel_pool(x, size, np.max),
        [
            case(x=distinct(1, 4, 2, 3), size=2),
            case(x=distinct(2, 6), size=3),
            case(x=distinct(1, 4, 3), size=4),
            case(x=distinct(0, 4, 2, 2), size=2),
        ],
    ),
    Op(
        "functional.channel_avg_pool",
        F.channel_avg_pool,
        lambda x, size: pools.channel_pool(x, size, np.mean),
        [
            case(x=numbers(1, 4, 2, 3), size=2),
            case(x=numbers(2, 6), size=3),
            case(x=numbers(0, 4, 2, 2), size=2),
        ],
    ),
    Op(
        "functional.blur_pool2d",
        F.blur_pool2d,
        pools.blur_pool2d,
        [
            case(x=numbers(1, 2, 4, 5)),
            case(x=numbers(1, 1, 3, 4), stride=(1, 2), filter_size=3),
            case(x=numbers(1, 1, 4, 4), filter_size=2, stride=3),
            case(x=numbers(1, 1, 3, 3), filter_size=1),
            case(x=numbers(0, 2, 4, 4)),
        ],
    ),
    Op(
        "functional.max_blur_pool2d",
        F.max_blur_pool2d,
        pools.max_blur_pool2d,
        [
            case(x=distinct(1, 2, 4, 5)),
            case(x=distinct(1, 1, 5, 4), kernel_size=3, stride=1, filter_size=3),
            case(x=distinct(0, 2, 5, 5)),
        ],
    ),
    Op(
        "functional.conv_pool2d",
        F.conv_pool2d,
        pools.conv_pool2d,
        [
            case(x=numbers(1, 2, 4, 5), weight=numbers(2, 2, 2, 2), bias=numbers(2)),
            case(x=IMAGE, weight=EDGE, pool_size=3, pool_stride=2, mode="avg", padding=1),
            case(
                x=numbers(1, 2, 4, 4),
                weight=numbers(4, 1, 2, 1),
                pool_size=(1, 2),
                mode="avg",
                stride=(1, 2),
                dilation=2,
                groups=2,
            ),
            case(x=numbers(0, 2, 4, 4), weight=numbers(3, 2, 2, 2)),
        ],
    ),
    Op(
        "functional.max_unpool2d",
        F.max_unpool2d,
        pools.max_unpool2d,
        [
            case(x=numbers(1, 1, 2, 2), indices=np.array([[[[5, 2], [8, 15]]]]), kernel_size=2),
            case(
                x=numbers(2, 1, 1, 2),
                indices=np.array([[[[7, 3]]], [[[1, 14]]]], np.int32),
                kernel_size=2,
                stride=(2, 3),
                padding=(0, 1),
                output_size=(3, 5),
            ),
            case(x=numbers(0, 2, 2, 2), indices=np.zeros((0, 2, 2, 2), int), kernel_size=2),
        ],
    ),
    Op(
        "functional.max_unpool1d",
        F.max_unpool1d,
        lambda x, indices, kernel_size, **o: pools.of_sequences(pools.max_unpool2d)(
            x, indices=indices[:, :, None], kernel_size=kernel_size
        ),
        [
            case(x=numbers(1, 2, 2), indices=np.array([[[0, 3], [1, 2]]]), kernel_size=2),
            case(x=numbers(0, 2, 2), indices=np.zeros((0, 2, 2), int), kernel_size=2),
        ],
    ),
    *(
        Op(
            f"functional.{fn.__name__}",
            lambda x, seed=0, fn=fn, **options: fn(x, rng=np.random.default_rng(seed), **options),
            reference,
            [
                case(x=positive(*shape, 4), kernel_size=2, seed=1),
                case(x=positive(*shape, 5), kernel_size=3, stride=2, padding=1, ceil_mode=True),
                case(x=numbers(*shape, 4), kernel_size=2, seed=2),
                case(x=positive(*shape, 4), kernel_size=2, training=False),
                case(x=numbers(*shape, 4), kernel_size=3, stride=1, padding=1, training=False),
                case(x=positive(0, *shape[1:], 4), kernel_size=2),
                case(x=positive(0, *shape[1:], 4), kernel_size=2, training=False),
            ],
        )
        for fn, reference, shape in [
            (F.stochastic_pool2d, pools.stochastic_pool2d, (1, 2, 4)),
            (F.stochastic_pool1d, pools.of_sequences(pools.stochastic_pool2d), (1, 2)),
        ]
    ),
    Op(
        "functional.fractional_max_pool2d",
        lambda x, samples, **options: F.fractional_max_pool2d(
            x, _random_samples=Tensor.wrap(samples), **options
        ),
        pools.fractional_max_pool2d,
        [
            case(x=distinct(1, 2, 5, 6), kernel_size=2, output_size=(3, 4), samples=SAMPLES),
            case(x=distinct(1, 2, 5, 6), output_ratio=0.7, samples=SAMPLES),
            case(
                x=distinct(1, 2, 5, 6), output_ratio=(0.7, 0.5), overlapping=False, samples=SAMPLES
            ),
            case(x=distinct(1, 2, 5, 6), kernel_size=(2, 3), output_size=(1, 3), samples=SAMPLES),
            case(
                x=distinct(0, 2, 7, 4),
                kernel_size=2,
                output_size=(5, 2),
                samples=Constant(np.zeros((0, 2, 2))),
            ),
        ],
        "fractional_max_pool2d(x, ...)",
    ),
    *(
        Op(
            f"functional.{fn.__name__}",
            lambda x, alpha=0.5, fn=fn, **options: fn(x, alpha=alpha, **options),
            reference,
            [
                case(x=distinct(*shape, 4), kernel_size=2),
                case(x=distinct(*shape, 5), kernel_size=3, stride=2, padding=1, alpha=0.25),
                case(x=distinct(*shape, 5), kernel_size=2, alpha=np.array(0.75), ceil_mode=True),
                case(x=distinct(0, *shape[1:], 4), kernel_size=2),
            ],
        )
        for fn, reference, shape in [
            (F.mixed_pool2d, pools.mixed_pool2d, (1, 2, 4)),
            (F.mixed_pool1d, pools.of_sequences(pools.mixed_pool2d), (1, 2)),
        ]
    ),
    Op(
        "functional.gated_pool2d",
        F.gated_pool2d,
        pools.gated_pool2d,
        [
            case(x=distinct(1, 2, 4, 4), weight=numbers(1, 1, 2, 2)),
            case(x=distinct(1, 2, 4, 5), weight=numbers(2, 1, 3, 2), stride=(1, 2), padding=1),
            case(x=distinct(0, 2, 4, 4), weight=numbers(1, 1, 2, 2)),
        ],
    ),
    *(
        Op(
            f"functional.{fn.__name__}",
            fn,
            reference,
            [
                case(x=positive(*shape, 3)),
                case(x=positive(*shape, 3), p=np.array([2.5])),
                case(x=positive(*shape, 5), p=np.array([2.5, 1.0]), kernel_size=2, stride=1),
                case(x=positive(*shape, 5), p=1.5, kernel_size=3, stride=2, padding=1),
                case(x=numbers(*shape, 3), p=2, eps=0.05),
                case(x=positive(0, *shape[1:], 3)),
            ],
        )
        for fn, reference, shape in [
            (F.gem_pool2d, pools.gem_pool2d, (1, 2, 3)),
            (F.gem_pool1d, pools.of_sequences(pools.gem_pool2d), (1, 2)),
        ]
    ),
    *(
        Op(
            f"functional.{fn.__name__}",
            lambda x, beta=1.0, fn=fn, **options: fn(x, beta=beta, **options),
            reference,
            [
                case(x=numbers(*shape, 4), kernel_size=2),
                case(x=numbers(*shape, 5), kernel_size=3, stride=2, padding=1, beta=-2.0),
                case(x=numbers(*shape, 5), kernel_size=2, beta=np.array([1.5]), ceil_mode=True),
                case(x=numbers(*shape, 4), kernel_size=2, stride=1, beta=np.array([0.5, 2.0])),
                case(x=numbers(0, *shape[1:], 4), kernel_size=2),
            ],
        )
        for fn, reference, shape in [
            (F.softmax_pool2d, pools.softmax_pool2d, (1, 2, 4)),
            (F.softmax_pool1d, pools.of_sequences(pools.softmax_pool2d), (1, 2)),
        ]
    ),
    Op(
        "functional.attention_pool2d",
        F.attention_pool2d,
        pools.attention_pool2d,
        [
            case(x=numbers(2, 3, 2, 2), weight=numbers(3)),
            case(x=numbers(0, 3, 2, 2), weight=numbers(3)),
        ],
    ),
    Op(
        "functional.attention_pool1d",
        F.attention_pool1d,
        pools.attention_pool2d,
        [
            case(x=numbers(2, 3, 4), weight=numbers(3)),
            case(x=numbers(0, 3, 2), weight=numbers(3)),
        ],
    ),
]

BOXES = Constant(
    [
        [0, 0, 0, 3, 2],
        [1, 1.25, 0.5, 4.75, 4],
        [1, -3, 2, 2.25, 9],
        [0, 3, 2, 1, 0],
        [0, 7, 8, 9, 9],
    ]
)


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    **geometry: Any,
) -> Tensor:
    """Call the function with the mask last among its inputs."""
    return F.deform_conv2d(x, offset, weight, bias, mask=mask, **geometry)


SAMPLING = [
    Op(
        "functional.interpolate",
        F.interpolate,
        sampling.interpolate,
        [
            case(x=numbers(1, 2, 2, 3), scale_factor=2),
            case(x=numbers(1, 1, 4, 5), size=(3, 7)),
            case(x=numbers(2, 1, 2, 3), scale_factor=2, mode="bilinear"),
            case(x=numbers(1, 1, 5, 4), scale_factor=(0.5, 1.5), mode="bilinear"),
            case(x=numbers(1, 2, 3, 4), size=(5, 2), mode="bilinear", align_corners=True),
            case(x=numbers(1, 1, 3, 4), size=(5, 6), mode="bicubic"),
            case(x=numbers(1, 1, 4, 3), size=(3, 6), mode="bicubic", align_corners=True),
            case(x=numbers(1, 1, 2, 20), size=(2, 40), mode="bilinear"),
            case(x=numbers(0, 2, 3, 4), size=2, mode="bilinear"),
        ],
    ),
    Op(
        "functional.roi_pool2d",
        F.roi_pool2d,
        sampling.roi_pool2d,
        [
            case(images=distinct(2, 1, 5, 6), boxes=BOXES, output_size=2),
            case(images=distinct(2, 2, 4, 3), boxes=BOXES, output_size=(3, 1), spatial_scale=0.5),
            case(images=distinct(1, 1, 9, 9), boxes=Constant([[0, 0, 0, 8, 8]]), output_size=2),
            case(images=distinct(2, 1, 3, 4), boxes=Constant(np.zeros((0, 5))), output_size=2),
            case(images=distinct(2, 0, 3, 4), boxes=BOXES, output_size=2),
        ],
    ),
    Op(
        "functional.roi_align2d",
        F.roi_align2d,
        sampling.roi_align2d,
        [
            case(images=numbers(2, 1, 5, 6), boxes=BOXES, output_size=2),
            case(
                images=numbers(2, 2, 4, 3),
                boxes=BOXES,
                output_size=(3, 1),
                spatial_scale=0.5,
                sampling_ratio=2,
            ),
            case(images=numbers(2, 1, 4, 4), boxes=BOXES, output_size=2, aligned=True),
            case(images=numbers(2, 1, 3, 4), boxes=Constant(np.zeros((0, 5))), output_size=2),
            case(images=numbers(2, 0, 3, 4), boxes=BOXES, output_size=2),
        ],
    ),
    Op(
        "functional.deform_conv2d",
        deform_conv2d,
        sampling.deform_conv2d,
        [
            case(
                x=numbers(1, 2, 3, 3),
                offset=between(1, 8, 2, 2),
                weight=numbers(2, 2, 2, 2),
                bias=numbers(2),
            ),
            case(
                x=numbers(1, 2, 4, 3),
                offset=between(1, 16, 2, 4),
                weight=numbers(2, 1, 2, 2),
                bias=numbers(2),
                mask=positive(1, 8, 2, 4),
                stride=(2, 1),
                padding=(1, 1),
                dilation=(2, 1),
            ),
            case(
                x=numbers(0, 2, 3, 3),
                offset=between(0, 8, 2, 2),
                weight=numbers(2, 2, 2, 2),
                bias=numbers(2),
            ),
        ],
    ),
]


def pixel_cross_entropy(
    logits: Tensor,
    target: Any,
    weight: Any = None,
    reduction: str = "none",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The operation that `cross_entropy` calls where layers are fused, with its arguments."""
    xp = logits.backend.xp
    labels = target.array if isinstance(target, Tensor) else xp.asarray(target)
    weights = xp.ones(3, logits.dtype) if weight is None else xp.asarray(weight, logits.dtype)
    counted = labels != -100
    safe = xp.where(counted, labels, 0)
    return F.pixel_cross_entropy(
        logits, safe, weights[safe] * counted, counted, Tensor.wrap(weights), label_smoothing
    )


LOSSES = [
    Op(
        "functional.cross_entropy",
        F.cross_entropy,
        formulas.cross_entropy,
        [
            case(logits=SCORES, target=LABELS),
            case(logits=SCORES, target=LABELS, weight=CLASS_WEIGHTS, label_smoothing=0.1),
            case(logits=numbers(3, 3), target=np.array([0, -100, 2]), weight=CLASS_WEIGHTS),
            case(
                logits=numbers(2, 3, 2),
                target=np.array([[0, 2], [1, -100]]),
                reduction="none",
                label_smoothing=0.1,
            ),
            case(logits=numbers(2, 3), target=SOFT),
            case(logits=numbers(2, 3), target=Constant([[0.5, 0.5, 0], [0.1, 0.2, 0.7]])),
            case(
                logits=numbers(2, 3),
                target=SOFT,
                weight=CLASS_WEIGHTS,
                reduction="sum",
                label_smoothing=0.1,
            ),
            case(logits=numbers(0, 3), target=np.zeros(0, int), reduction="sum"),
        ],
    ),
    Op(
        "functional.nll_loss",
        F.nll_loss,
        formulas.nll_loss,
        [
            case(log_probabilities=SCORES, target=LABELS),
            case(
                log_probabilities=numbers(2, 3, 2),
                target=np.array([[0, 2], [1, -1]]),
                weight=CLASS_WEIGHTS,
                ignore_index=-1,
            ),
            case(log_probabilities=numbers(2, 3), target=LABELS, reduction="none"),
            case(log_probabilities=numbers(0, 3), target=np.zeros(0, int), reduction="sum"),
        ],
    ),
    *(
        Op(
            f"functional.{fn.__name__}",
            fn,
            reference,
            [
                case(x=SCORES, target=probabilities(2, 3)),
                case(x=numbers(2, 3), target=probabilities(2, 3), reduction="sum"),
                case(x=numbers(2, 3), target=Constant(ROWS), reduction="none"),
                case(x=numbers(0, 3), target=numbers(0, 3), reduction="sum"),
            ],
        )
        for fn, reference in [(F.mse_loss, formulas.mse_loss), (F.l1_loss, formulas.l1_loss)]
    ),
    Op(
        "functional.binary_cross_entropy_with_logits",
        F.binary_cross_entropy_with_logits,
        formulas.binary_cross_entropy_with_logits,
        [
            case(logits=SCORES, target=Constant([[1, 0, 0], [0, 1, 1]])),
            case(logits=numbers(2, 3), target=probabilities(2, 3), reduction="sum"),
            case(
                logits=numbers(2, 3),
                target=probabilities(2, 3),
                weight=CLASS_WEIGHTS,
                pos_weight=Constant([[2.0], [0.5]]),
                reduction="none",
            ),
            case(logits=numbers(0, 3), target=numbers(0, 3), reduction="sum"),
        ],
    ),
    *(
        Op(
            f"functional.{fn.__name__}",
            fn,
            reference,
            [
                case(x=SCORES, target=between(2, 3)),
                case(x=numbers(2, 3), target=between(2, 3), reduction="sum", **{limit: 0.33}),
                case(x=numbers(2, 3), target=Constant(ROWS), reduction="none"),
                case(x=numbers(0, 3), target=numbers(0, 3), reduction="sum"),
            ],
        )
        for fn, reference, limit in [
            (F.smooth_l1_loss, formulas.smooth_l1_loss, "beta"),
            (F.huber_loss, formulas.huber_loss, "delta"),
        ]
    ),
    Op(
        "functional.sigmoid_focal_loss",
        F.sigmoid_focal_loss,
        formulas.sigmoid_focal_loss,
        [
            case(logits=SCORES, target=Constant([[1, 0, 0], [0, 1, 1]])),
            case(logits=numbers(2, 3), target=probabilities(2, 3), gamma=1.5, reduction="mean"),
            case(logits=numbers(2, 3), target=probabilities(2, 3), alpha=-1, gamma=0),
            case(logits=numbers(0, 3), target=numbers(0, 3), reduction="sum"),
        ],
    ),
    Op(
        "functional.focal_loss",
        F.focal_loss,
        formulas.focal_loss,
        [
            case(logits=SCORES, target=LABELS),
            case(logits=SCORES, target=LABELS, weight=CLASS_WEIGHTS, gamma=0.5),
            case(
                logits=numbers(2, 3, 2),
                target=np.array([[0, 2], [1, -1]]),
                weight=CLASS_WEIGHTS,
                ignore_index=-1,
                reduction="none",
            ),
            case(logits=numbers(0, 3), target=np.zeros(0, int), reduction="sum"),
        ],
    ),
    Op(
        "functional.dice_loss",
        F.dice_loss,
        formulas.dice_loss,
        [
            case(logits=numbers(2, 3, 2), target=np.array([[0, 2], [1, -100]])),
            case(
                logits=numbers(1, 2, 2, 2),
                target=np.array([[[0, 1], [9, 1]]]),
                ignore_index=9,
                smooth=0.1,
                reduction="none",
            ),
            case(logits=numbers(0, 3, 2), target=np.zeros((0, 2), int), reduction="sum"),
        ],
    ),
    Op(
        "functional.pixel_cross_entropy",
        pixel_cross_entropy,
        formulas.cross_entropy,
        [
            case(
                logits=numbers(2, 3, 2),
                target=np.array([[0, 2], [1, -100]]),
                reduction="none",
                weight=CLASS_WEIGHTS,
            ),
            case(
                logits=numbers(1, 3, 2, 2),
                target=np.array([[[0, -100], [1, 1]]]),
                reduction="none",
                weight=CLASS_WEIGHTS,
                label_smoothing=0.2,
            ),
            case(logits=numbers(0, 3, 2), target=np.zeros((0, 2), int), reduction="none"),
        ],
    ),
]


def evaluated(module: nn.Module) -> nn.Module:
    """Return a layer in evaluation, with running statistics that are not those it starts with."""
    state = {n: np.array(c.values, np.float32) for n, c in RUNNING.items()}
    module.load_state_dict(state, strict=False)
    return module.eval()


POOLING_LAYERS = [
    layer(case(module=module, same_as=same_as, **inputs))
    for module, same_as, inputs in [
        (
            nn.MaxPool1d(2, 1, 1, 2, ceil_mode=True),
            lambda x: F.max_pool1d(x, 2, 1, 1, 2, True),
            {"x": distinct(1, 2, 5)},
        ),
        (
            nn.AvgPool1d(3, 2, 1, True, False),
            lambda x: F.avg_pool1d(x, 3, 2, 1, True, False),
            {"x": numbers(1, 2, 6)},
        ),
        (
            nn.MinPool2d(2, 1, 1, 2, True),
            lambda x: F.min_pool2d(x, 2, 1, 1, 2, True),
            {"x": distinct(1, 1, 4, 4)},
        ),
        (
            nn.MinPool1d(2, 1, 1, 2, True),
            lambda x: F.min_pool1d(x, 2, 1, 1, 2, True),
            {"x": distinct(1, 2, 5)},
        ),
        (
            nn.LPPool2d(2, 3, 2, True),
            lambda x: F.lp_pool2d(x, 2, 3, 2, True),
            {"x": numbers(1, 1, 4, 4)},
        ),
        (
            nn.LPPool1d(3, 2, 1),
            lambda x: F.lp_pool1d(x, 3, 2, 1),
            {"x": positive(1, 1, 4)},
        ),
        (
            nn.AdaptiveMaxPool2d((2, 3)),
            lambda x: F.adaptive_max_pool2d(x, (2, 3)),
            {"x": distinct(1, 1, 3, 4)},
        ),
        (
            nn.AdaptiveMaxPool1d(2),
            lambda x: F.adaptive_max_pool1d(x, 2),
            {"x": distinct(1, 1, 3)},
        ),
        (
            nn.AdaptiveAvgPool2d((2, None)),
            lambda x: F.adaptive_avg_pool2d(x, (2, None)),
            {"x": numbers(1, 1, 3, 4)},
        ),
        (
            nn.AdaptiveAvgPool1d(2),
            lambda x: F.adaptive_avg_pool1d(x, 2),
            {"x": numbers(1, 1, 3)},
        ),
        (
            nn.SpatialPyramidPool2d((1, 3), "avg"),
            lambda x: F.spatial_pyramid_pool2d(x, (1, 3), "avg"),
            {"x": numbers(1, 1, 3, 4)},
        ),
        (nn.ChannelMaxPool(2), lambda x: F.channel_max_pool(x, 2), {"x": distinct(1, 4, 2)}),
        (nn.ChannelAvgPool(2), lambda x: F.channel_avg_pool(x, 2), {"x": numbers(1, 4, 2)}),
        (
            nn.BlurPool2d((1, 2), 3),
            lambda x: F.blur_pool2d(x, (1, 2), 3),
            {"x": numbers(1, 1, 3, 4)},
        ),
        (
            nn.Upsample(scale_factor=2, mode="bilinear"),
            lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
            {"x": numbers(1, 1, 2, 3)},
        ),
        (
            nn.RoIPool2d(2),
            lambda x, boxes: F.roi_pool2d(x, boxes, 2),
            {"x": distinct(2, 1, 4, 4), "boxes": BOXES},
        ),
        (
            nn.RoIAlign2d(2, aligned=True),
            lambda x, boxes: F.roi_align2d(x, boxes, 2, aligned=True),
            {"x": numbers(2, 1, 4, 4), "boxes": BOXES},
        ),
        (
            nn.MaxBlurPool2d(3, 1, 3),
            lambda x: F.max_blur_pool2d(x, 3, 1, 3),
            {"x": distinct(1, 1, 4, 5)},
        ),
        (
            nn.MaxUnpool2d(3, 2, 1),
            lambda x, indices: F.max_unpool2d(x, indices, 3, 2, 1),
            {"x": numbers(1, 1, 2, 2), "indices": np.array([[[[0, 2], [4, 8]]]])},
        ),
        (
            nn.MaxUnpool1d(3, 2, 1),
            lambda x, indices: F.max_unpool1d(x, indices, 3, 2, 1),
            {"x": numbers(1, 1, 2), "indices": np.array([[[0, 2]]])},
        ),
        (
            nn.ConvPool2d(2, 4, 2, (1, 2), 1, "avg", 1, 1, 2, 2, rng=np.random.default_rng(0)),
            lambda x, weight, bias: F.conv_pool2d(x, weight, bias, (1, 2), 1, "avg", 1, 1, 2, 2),
            {"x": numbers(1, 2, 3, 4)},
        ),
        (
            nn.StochasticPool2d(3, 1, 1, True, rng=np.random.default_rng(5)),
            lambda x: F.stochastic_pool2d(x, 3, 1, 1, True, rng=np.random.default_rng(5)),
            {"x": positive(1, 1, 3, 4)},
        ),
        (
            nn.StochasticPool1d(3, 1, 1, True, rng=np.random.default_rng(5)),
            lambda x: F.stochastic_pool1d(x, 3, 1, 1, True, rng=np.random.default_rng(5)),
            {"x": positive(1, 2, 5)},
        ),
        (
            nn.FractionalMaxPool2d(
                2, output_ratio=0.6, mode="random", rng=np.random.default_rng(5)
            ),
            lambda x: F.fractional_max_pool2d(
                x, 2, output_ratio=0.6, mode="random", rng=np.random.default_rng(5)
            ),
            {"x": distinct(1, 2, 5, 6)},
        ),
        (
            nn.MixedPool2d(2, 1, 1, True, 0.25),
            lambda x: F.mixed_pool2d(x, 2, 1, 1, True, 0.25),
            {"x": distinct(1, 1, 3, 3)},
        ),
        (
            nn.MixedPool1d(2, 1, 1, True, 0.25),
            lambda x: F.mixed_pool1d(x, 2, 1, 1, True, 0.25),
            {"x": distinct(1, 1, 4)},
        ),
        (
            nn.GatedPool2d(2, 1, 1, 2, rng=np.random.default_rng(0)),
            lambda x, weight: F.gated_pool2d(x, weight, 1, 1),
            {"x": distinct(1, 2, 3, 3)},
        ),
        (
            nn.GeMPool2d(2.0, 2, 1, 1, 0.1, 2),
            lambda x, p: F.gem_pool2d(x, p, 2, 1, 1, 0.1),
            {"x": positive(1, 2, 3, 3)},
        ),
        (nn.GeMPool1d(), lambda x, p: F.gem_pool1d(x, p), {"x": positive(1, 2, 3)}),
        (
            nn.SoftmaxPool2d(2, 1, 1, True, 0.5, 2),
            lambda x, beta: F.softmax_pool2d(x, 2, 1, 1, True, beta),
            {"x": numbers(1, 2, 3, 3)},
        ),
        (
            nn.SoftmaxPool1d(2),
            lambda x, beta: F.softmax_pool1d(x, 2, beta=beta),
            {"x": numbers(1, 2, 4)},
        ),
        (
            nn.AttentionPool(3, rng=np.random.default_rng(0)),
            F.attention_pool2d,
            {"x": numbers(2, 3, 2, 2)},
        ),
    ]
]


def of_rows(module: nn.Module, same_as: Callable[..., Tensor]) -> Case:
    return case(module=module, same_as=same_as, x=numbers(2, 3))


LAYERS = [
    layer(
        case(
            module=nn.Embedding(3, 2, rng=np.random.default_rng(0)),
            same_as=lambda weight, indices: F.embedding(indices, weight),
            indices=np.array([[2, 0], [2, 1]]),
        ),
    ),
    layer(
        case(
            module=nn.Linear(3, 2, rng=np.random.default_rng(0)),
            same_as=lambda x, weight, bias: F.linear(x, weight, bias),
            x=numbers(2, 3),
        ),
        case(
            module=nn.Linear(3, 2, bias=False, rng=np.random.default_rng(0)),
            same_as=lambda x, weight: F.linear(x, weight),
            x=numbers(2, 3),
        ),
        case(
            module=nn.Linear(3, 2, rng=np.random.default_rng(0)),
            same_as=lambda x, weight, bias: F.linear(x, weight, bias),
            x=numbers(0, 3),
        ),
    ),
    layer(
        case(
            module=nn.Conv1d(4, 2, 3, 2, 1, 2, 2, rng=np.random.default_rng(0)),
            same_as=lambda x, weight, bias: F.conv1d(
                x, weight, bias, stride=2, padding=1, dilation=2, groups=2
            ),
            x=numbers(1, 4, 5),
        )
    ),
    layer(
        case(
            module=nn.Conv2d(2, 4, (3, 2), (2, 1), 1, (1, 2), 2, rng=np.random.default_rng(0)),
            same_as=lambda x, weight, bias: F.conv2d(
                x, weight, bias, stride=(2, 1), padding=1, dilation=(1, 2), groups=2
            ),
            x=numbers(1, 2, 3, 3),
        ),
        case(
            module=nn.Conv2d(1, 1, 3, padding="same", bias=False, rng=np.random.default_rng(0)),
            same_as=lambda x, weight: F.conv2d(x, weight, padding="same"),
            x=IMAGE,
        ),
    ),
    layer(
        case(
            module=nn.DeformConv2d(2, 2, 2, padding=1, groups=2, rng=np.random.default_rng(0)),
            same_as=lambda x, offset, mask, weight, bias: F.deform_conv2d(
                x, offset, weight, bias, padding=1, mask=mask
            ),
            x=numbers(1, 2, 2, 2),
            offset=between(1, 8, 3, 3),
            mask=positive(1, 4, 3, 3),
        ),
    ),
    layer(
        case(
            module=nn.ConvTranspose2d(
                2, 4, 2, 2, 1, 1, 2, dilation=2, rng=np.random.default_rng(0)
            ),
            same_as=lambda x, weight, bias: F.conv_transpose2d(
                x, weight, bias, stride=2, padding=1, output_padding=1, groups=2, dilation=2
            ),
            x=numbers(1, 2, 2, 2),
        )
    ),
    layer(
        case(
            module=nn.BatchNorm1d(2, 0.1),
            same_as=lambda x, weight, bias: F.batch_norm(
                x, None, None, weight, bias, training=True, eps=0.1
            ),
            x=numbers(3, 2),
        ),
        case(
            module=nn.BatchNorm1d(2, affine=False),
            same_as=lambda x: F.batch_norm(x, None, None, training=True),
            x=numbers(2, 2, 3),
        ),
    ),
    layer(
        case(
            module=nn.BatchNorm2d(2, bias=False),
            same_as=lambda x, weight: F.batch_norm(x, None, None, weight, training=True),
            x=numbers(2, 2, 1, 2),
        ),
        case(
            module=evaluated(nn.BatchNorm2d(2)),
            same_as=lambda x, weight, bias: batch_norm(
                x, weight, bias, running_mean=[0.5, -1], running_var=[2, 0.5]
            ),
            x=numbers(1, 2, 2, 2),
        ),
        case(
            module=nn.BatchNorm2d(2, track_running_stats=False).eval(),
            same_as=lambda x, weight, bias: F.batch_norm(
                x, None, None, weight, bias, training=True
            ),
            x=numbers(1, 2, 2, 2),
        ),
    ),
    layer(
        case(
            module=nn.LayerNorm((2, 3), 0.1),
            same_as=lambda x, weight, bias: F.layer_norm(x, (2, 3), weight, bias, 0.1),
            x=numbers(2, 2, 3),
        ),
        case(
            module=nn.LayerNorm(3, elementwise_affine=False),
            same_as=lambda x: F.layer_norm(x, 3),
            x=numbers(2, 3),
        ),
    ),
    layer(
        case(
            module=nn.GroupNorm(2, 4, 0.1),
            same_as=lambda x, weight, bias: F.group_norm(x, 2, weight, bias, 0.1),
            x=numbers(1, 4, 2),
        ),
        case(
            module=nn.GroupNorm(1, 2, affine=False),
            same_as=lambda x: F.group_norm(x, 1),
            x=numbers(2, 2, 1, 2),
        ),
    ),
    layer(
        case(
            module=nn.MaxPool2d(2, 1, 1, 2, ceil_mode=True),
            same_as=lambda x: F.max_pool2d(x, 2, stride=1, padding=1, dilation=2, ceil_mode=True),
            x=distinct(1, 1, 4, 4),
        )
    ),
    layer(
        case(
            module=nn.AvgPool2d(3, 2, 1, True, False),
            same_as=lambda x: F.avg_pool2d(
                x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False
            ),
            x=numbers(1, 1, 4, 4),
        ),
        case(
            module=nn.AvgPool2d(2, divisor_override=3),
            same_as=lambda x: F.avg_pool2d(x, 2, divisor_override=3),
            x=numbers(1, 1, 4, 4),
        ),
    ),
    layer(
        case(module=nn.GlobalAvgPool(), same_as=F.global_avg_pool2d, x=IMAGE),
        case(
            module=nn.GlobalAvgPool(keepdims=True),
            same_as=lambda x: F.global_avg_pool2d(x, keepdims=True),
            x=IMAGE,
        ),
        case(module=nn.GlobalAvgPool(), same_as=F.global_avg_pool1d, x=numbers(1, 2, 3)),
    ),
    layer(
        case(module=nn.GlobalMaxPool(), same_as=F.global_max_pool2d, x=IMAGE),
        case(
            module=nn.GlobalMaxPool(keepdims=True),
            same_as=lambda x: F.global_max_pool1d(x, keepdims=True),
            x=distinct(1, 2, 3),
        ),
    ),
    *POOLING_LAYERS,
    layer(
        case(view=True, module=nn.Flatten(), same_as=lambda x: x.flatten(1), x=IMAGE),
        case(
            view=True, module=nn.Flatten(2), same_as=lambda x: x.flatten(2), x=numbers(1, 2, 2, 3)
        ),
    ),
    layer(
        of_rows(
            nn.Dropout(0.4, rng=np.random.default_rng(5)),
            lambda x: F.dropout(x, 0.4, rng=np.random.default_rng(5)),
        )
    ),
    *(
        layer(
            case(
                module=kind((1, 0, 2, 1)),
                same_as=lambda x, mode=mode: minidl.pad(
                    x, [(0, 0), (0, 0), (2, 1), (1, 0)], mode=mode
                ),
                x=numbers(1, 2, 3, 2),
            )
        )
        for kind, mode in [
            (nn.ZeroPad2d, "constant"),
            (nn.ReflectionPad2d, "reflect"),
            (nn.ReplicationPad2d, "edge"),
            (nn.CircularPad2d, "wrap"),
        ]
    ),
    *(
        layer(
            case(
                module=kind((2, 1)),
                same_as=lambda x, mode=mode: minidl.pad(x, [(0, 0), (0, 0), (2, 1)], mode=mode),
                x=numbers(2, 1, 3),
            )
        )
        for kind, mode in [
            (nn.ZeroPad1d, "constant"),
            (nn.ReflectionPad1d, "reflect"),
            (nn.ReplicationPad1d, "edge"),
            (nn.CircularPad1d, "wrap"),
        ]
    ),
    layer(of_rows(nn.ReLU(), F.relu)),
    layer(of_rows(nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2))),
    layer(of_rows(nn.GELU(), F.gelu), of_rows(nn.GELU("tanh"), lambda x: F.gelu(x, "tanh"))),
    layer(of_rows(nn.SiLU(), F.silu)),
    layer(of_rows(nn.ELU(0.5), lambda x: F.elu(x, 0.5))),
    layer(of_rows(nn.Softplus(2), lambda x: F.softplus(x, 2))),
    layer(of_rows(nn.Sigmoid(), F.sigmoid)),
    layer(of_rows(nn.Softmax(0), lambda x: F.softmax(x, 0))),
    layer(of_rows(nn.LogSoftmax(0), lambda x: F.log_softmax(x, 0))),
    layer(of_rows(nn.Tanh(), Tensor.tanh)),
    layer(
        case(
            module=nn.CrossEntropyLoss([1.0, 0.5, 2.0], -1, "sum", 0.1),
            same_as=lambda x, target: F.cross_entropy(
                x, target, [1.0, 0.5, 2.0], -1, "sum", label_smoothing=0.1
            ),
            x=numbers(3, 3),
            target=np.array([0, 2, -1]),
        )
    ),
    layer(
        case(
            module=nn.NLLLoss([1.0, 0.5, 2.0], -1, "none"),
            same_as=lambda x, target: F.nll_loss(
                x, target, [1.0, 0.5, 2.0], ignore_index=-1, reduction="none"
            ),
            x=numbers(3, 3),
            target=np.array([0, 2, -1]),
        )
    ),
    layer(
        case(
            module=nn.MSELoss("sum"),
            same_as=lambda x, target: F.mse_loss(x, target, reduction="sum"),
            x=numbers(2, 3),
            target=Constant(ROWS),
        )
    ),
    layer(
        case(
            module=nn.L1Loss("none"),
            same_as=lambda x, target: F.l1_loss(x, target, reduction="none"),
            x=numbers(2, 3),
            target=Constant(ROWS),
        )
    ),
    layer(
        case(
            module=nn.SmoothL1Loss("sum", 0.5),
            same_as=lambda x, target: F.smooth_l1_loss(x, target, "sum", beta=0.5),
            x=numbers(2, 3),
            target=Constant(ROWS),
        )
    ),
    layer(
        case(
            module=nn.HuberLoss("none", 0.5),
            same_as=lambda x, target: F.huber_loss(x, target, "none", delta=0.5),
            x=numbers(2, 3),
            target=Constant(ROWS),
        )
    ),
    layer(
        case(
            module=nn.SigmoidFocalLoss(0.3, 1.5),
            same_as=lambda x, target: F.sigmoid_focal_loss(x, target, 0.3, 1.5, "mean"),
            x=numbers(2, 3),
            target=Constant([[1, 0, 0], [0, 1, 1]]),
        )
    ),
    layer(
        case(
            module=nn.FocalLoss([1.0, 0.5, 2.0], 1.5, -1, "sum"),
            same_as=lambda x, target: F.focal_loss(x, target, [1.0, 0.5, 2.0], 1.5, -1, "sum"),
            x=numbers(3, 3),
            target=np.array([0, 2, -1]),
        )
    ),
    layer(
        case(
            module=nn.DiceLoss(-1, 0.5, "none"),
            same_as=lambda x, target: F.dice_loss(x, target, -1, 0.5, "none"),
            x=numbers(2, 3, 2),
            target=np.array([[0, 2], [1, -1]]),
        )
    ),
    layer(
        case(
            module=nn.BCEWithLogitsLoss([1.0, 0.5, 2.0], [2.0, 1.0, 0.5], "sum"),
            same_as=lambda x, target: F.binary_cross_entropy_with_logits(
                x, target, weight=[1.0, 0.5, 2.0], pos_weight=[2.0, 1.0, 0.5], reduction="sum"
            ),
            x=numbers(2, 3),
            target=Constant([[1, 0, 0], [0, 1, 1]]),
        )
    ),
]

from .sequence_ops import SEQUENCES  # noqa: E402 - its rows are written with what is above

OPS = [
    *ARITHMETIC,
    *FUNCTIONS_OF_ONE_ELEMENT,
    *REDUCTIONS,
    *SHAPE_AND_SELECTION,
    *ORDERING,
    *SCATTERING,
    *CHOOSING_AND_JOINING,
    *ACTIVATIONS,
    *LINEAR_AND_DROPOUT,
    *CONVOLUTIONS,
    *POOLING,
    *NORMALIZATION,
    *MORE_POOLING,
    *SAMPLING,
    *LOSSES,
    *LAYERS,
    *SEQUENCES,
]

# Public names that are no operations, by reason -----------------------------------------------

_REASONS = {
    "makes a tensor of data that has no gradient": """
        Tensor.__init__ Tensor.wrap Tensor.__reduce__ minidl.arange minidl.from_dlpack minidl.full
        minidl.ones minidl.rand minidl.randn minidl.zeros
    """,
    "leaves the graph": """
        Tensor.detach Tensor.item Tensor.numpy Tensor.__array__ Tensor.__array_function__
        Tensor.__bool__ Tensor.__dlpack__ Tensor.__dlpack_device__ Tensor.__float__
        Tensor.__format__ Tensor.__getattr__ Tensor.__index__ Tensor.__int__ Tensor.__len__
        Tensor.__repr__
    """,
    "compares, which has no gradient": """
        Tensor.__eq__ Tensor.__ge__ Tensor.__gt__ Tensor.__le__ Tensor.__lt__ Tensor.__ne__
    """,
    "says what a tensor is": """
        Tensor.array Tensor.backend Tensor.data Tensor.device Tensor.dtype Tensor.is_leaf
        Tensor.ndim Tensor.node Tensor.shape Tensor.size Tensor.version
    """,
    "belongs to the engine": """
        Tensor.backward Tensor.grad Tensor.hooked Tensor.hooks Tensor.register_hook
        Tensor.reset_grad
        Tensor.requires_grad Tensor.requires_grad_ Tensor.retain_grad Tensor.retains_grad
        Tensor.seed_gradient Tensor.stored
    """,
    "changes a leaf, or refuses to": """
        Tensor.mutable Tensor.to_ Tensor.__setitem__ Tensor.__iadd__ Tensor.__imatmul__
        Tensor.__imul__ Tensor.__ipow__ Tensor.__isub__ Tensor.__itruediv__
    """,
    "holds modules and computes nothing itself": """
        nn.Module nn.ModuleDict nn.ModuleList nn.Sequential
    """,
    "returns its argument": "nn.Identity",
    "is composed of rows above; test_sequences compares it with PyTorch or loops": """
        nn.GRU nn.LSTM nn.MultiheadAttention nn.PositionalEncoding nn.TransformerEncoder
        nn.TransformerEncoderLayer
    """,
}
NOT_OPS = {name: reason for reason, names in _REASONS.items() for name in names.split()}
