"""`minidl.export_onnx`: files are valid, onnxruntime's results equal minidl's, refusals are clear.

The values of every operation are compared by running its file: on all cases of `op_table`, and
layers on images of odd sizes in batches of two sizes. These tests need onnx and onnxruntime; others
read files by a decoder of their own.
"""

from __future__ import annotations

import copy
import cProfile
import inspect
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn
from minidl import functional as F
from minidl.onnx import protobuf
from minidl.onnx.layers import LAYERS, REFUSED
from minidl.onnx.operations import FUNCTIONS, METHODS
from minidl.tensor import record

from .helpers.op_table import OPS, Case, Op
from .helpers.protobuf import fields

MISSING = "onnx and onnxruntime are not installed: pip install onnx onnxruntime"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Export a model, check the file, and run it: `run(model, example, *inputs)`."""
    monkeypatch.setattr("os.fsync", lambda file: None)  # waits longer than all else takes
    onnx = pytest.importorskip("onnx", reason=MISSING)
    runtime = pytest.importorskip("onnxruntime", reason=MISSING)

    def export_and_run(model: nn.Module, example: Any, *batches: tuple[Any, ...]) -> Any:
        path = minidl.export_onnx(model, example, tmp_path / "model.onnx")
        onnx.checker.check_model(str(path), full_check=True)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [x.name for x in session.get_inputs()]
        return [session.run(None, dict(zip(names, batch, strict=True))) for batch in batches]

    return export_and_run


def outputs(model: nn.Module, *inputs: np.ndarray) -> list[np.ndarray]:
    model.eval()
    with minidl.no_grad():
        out = model(*map(Tensor, inputs))
    return [host(x) for x in (out if isinstance(out, (tuple, list)) else (out,))]


def host(x: Any) -> np.ndarray:
    return x.numpy() if isinstance(x, Tensor) else x


def check(run: Any, model: nn.Module, *inputs: np.ndarray, batches: tuple[int, ...] = (1, 3)):
    """Compare a model with its file, at several batch sizes that repeat the example's rows."""
    batches_of = [
        tuple(np.resize(x, (n, *x.shape[1:])) for x in inputs) if n else inputs for n in batches
    ]
    example = tuple(map(Tensor, inputs)) if len(inputs) > 1 else Tensor(inputs[0])
    for batch, found in zip(batches_of, run(model, example, *batches_of), strict=True):
        for got, wanted in zip(found, outputs(model, *batch), strict=True):
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
            scale = np.abs(wanted).max(initial=0)
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * scale)


def images(n: int = 2, c: int = 3, h: int = 9, w: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, c, h, w)).astype(np.float32)


class Does(nn.Module):
    """A network that is one function of its inputs, with one parameter."""

    def __init__(self, function: Any, weight: Any = None) -> None:
        self.function = function
        self.weight = None if weight is None else nn.Parameter(weight)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *([] if self.weight is None else [self.weight]))


def contents(path: Path) -> dict[int, list[Any]]:
    """Return the fields of the graph in a file."""
    (graph,) = fields(path.read_bytes())[7]
    return fields(graph)


def kinds(path: Path) -> list[str]:
    return [fields(node)[4][0].decode() for node in contents(path)[1]]


# Every operation ------------------------------------------------------------------------------

# Cases of the table that a file cannot hold, by operation: a part of the error.
CANNOT = {
    "Tensor.__getitem__": "index in several steps",
    "functional.dropout": "random numbers",
    "functional.batch_norm": "statistics of the batch",
    "functional.pending_batch_norm": "no converter",
    "functional.pending_conv2d": "no converter",
    "functional.stochastic_pool1d": "random numbers",
    "functional.stochastic_pool2d": "random numbers",
    "functional.fractional_max_pool2d": "its windows at random",
    "functional.deform_conv2d": "DeformConv from opset 19 on; files have 18",
    "functional.cross_entropy": "class indices",
    "functional.huber_loss": "no converter",
    "functional.pixel_cross_entropy": "no converter",
    "functional.smooth_l1_loss": "no converter",
    "nn.BatchNorm2d": "statistics of the batch",
    "nn.DeformConv2d": "DeformConv from opset 19 on; files have 18",
    "nn.FractionalMaxPool2d": "its windows at random",
    "nn.CrossEntropyLoss": "class indices",
    "nn.HuberLoss": "no converter",
    "nn.SmoothL1Loss": "no converter",
}
PARTLY = {  # of these, some cases are exported
    *("Tensor.__getitem__", "functional.batch_norm", "functional.stochastic_pool1d"),
    *("functional.stochastic_pool2d", "functional.cross_entropy", "nn.BatchNorm2d"),
}


class Called(nn.Module):
    """A case of the table as a network: its first input is the network's, others are weights."""

    def __init__(self, op: Op, case: Case) -> None:
        first, *others = (a.astype(np.float32) for a in case.arrays())
        self.first, self.op, self.case, self.count = first, op, case, len(others)
        for i, array in enumerate(others):
            setattr(self, f"p{i}", nn.Parameter(array))

    def forward(self, x: Tensor) -> Any:
        parameters = [getattr(self, f"p{i}") for i in range(self.count)]
        options = {
            name: value.astype(np.float32) if getattr(value, "dtype", None) == np.float64 else value
            for name, value in self.case.options.items()
        }
        if "module" in options:  # the table's own stays as it is
            options["module"] = copy.deepcopy(options["module"]).eval()
        return self.op.fn(x, *parameters, **options)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_operation_equals_onnxruntime_or_says_why_not(op, run):
    refused, cases = 0, [case for case in op.cases if all(a.size for a in case.arrays())]
    for case in cases:
        model = Called(op, case)
        try:
            run(model, model.first)
        except ValueError as error:
            reason = str(error)
        else:
            check(run, model, model.first, batches=(0,))
            continue
        assert CANNOT.get(op.name, "none of the reasons") in reason
        refused += 1
    assert refused < len(cases) or op.name in CANNOT.keys() - PARTLY
    assert refused > 0 or op.name not in CANNOT


def test_every_public_function_is_known_or_composed_of_known_ones():
    """A new operation without a converter is in `CANNOT`, or its rows fail above."""
    names = {op.name for op in OPS}
    for home, known in (("Tensor", METHODS), ("minidl", FUNCTIONS), ("functional", LAYERS)):
        assert {f"{home}.{name}" for name in known} - names <= {
            f"Tensor.{name}"
            for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
        }


ARGUMENTS = """
    a align_corners aligned alpha approximate axes axis b beta bias boxes ceil_mode condition
    count_include_pad descending device dilation divisor_override dtype eps filter_size groups
    high ignore_index images index indices k keepdims kernel_size label_smoothing largest
    log_probabilities logits low max_norm mode momentum negative_slope norm_type
    normalized_shape num_groups operands other output_padding output_size p padding padding_idx
    pool_dilation pool_padding pool_size pool_stride reduction return_indices rng running_mean
    running_var sampling_ratio scale_factor self shape size sorted source sparse spatial_scale
    stable start_axis stride subscripts target tensors training value weight widths world x
"""


def test_converters_know_every_argument():
    """A new argument of an operation must be added here, after its converter."""
    for home, names in ((Tensor, METHODS), (minidl, FUNCTIONS), (F, LAYERS)):
        for name in names:
            arguments = inspect.signature(inspect.unwrap(getattr(home, name))).parameters
            assert set(arguments) <= set(ARGUMENTS.split()), name


# Layers at odd sizes --------------------------------------------------------------------------

LAYERS_OF_IMAGES = [
    nn.Conv2d(3, 4, 3, padding="same"),
    nn.Conv2d(3, 4, (2, 4), padding="same", dilation=(1, 2)),
    nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=3, bias=False),
    nn.ConvTranspose2d(3, 6, 3, stride=2, padding=1, output_padding=1, groups=3),
    nn.ConvTranspose2d(3, 2, (3, 2), stride=(1, 3), dilation=(2, 1), bias=False),
    nn.ConvTranspose2d(3, 2, 2, dilation=4, output_padding=3, padding=1),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d((2, 3), (3, 2), 1, dilation=2, ceil_mode=True),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True, return_indices=True),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AvgPool2d(2, ceil_mode=True),
    nn.AvgPool2d((3, 2), 2, (1, 0), ceil_mode=True),
    nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d(3, 3, 1, ceil_mode=True, divisor_override=5),
    nn.MinPool2d(3, 2, 1, ceil_mode=True),
    nn.LPPool2d(2, 3, 2),
    nn.LPPool2d(1, 2, 2, ceil_mode=True),
    nn.LPPool2d(4, (2, 3), 2, ceil_mode=True),
    nn.LPPool2d(float("inf"), 2),
    nn.GlobalAvgPool(),
    nn.GlobalMaxPool(keepdims=True),
    nn.AdaptiveAvgPool2d((4, 5)),
    nn.AdaptiveAvgPool2d((3, None)),
    nn.AdaptiveAvgPool2d(12),
    nn.AdaptiveMaxPool2d((4, 3)),
    nn.AdaptiveMaxPool2d(1),
    nn.AdaptiveMaxPool2d((3, 1), return_indices=True),
    nn.SpatialPyramidPool2d((1, 2, 4)),
    nn.SpatialPyramidPool2d((1, 3), mode="avg"),
    nn.StochasticPool2d(3, 2, 1, ceil_mode=True),
    nn.ChannelMaxPool(3),
    nn.ChannelAvgPool(3),
    nn.BlurPool2d(2, 3),
    nn.BlurPool2d((1, 2), 4),
    nn.MaxBlurPool2d(3, 2),
    nn.ConvPool2d(3, 4, 3, pool_size=2, mode="avg", padding=1),
    nn.MixedPool2d(3, 2, 1, ceil_mode=True, alpha=0.3),
    nn.GatedPool2d(3, 2, 1),
    nn.GatedPool2d(2, channels=3),
    nn.GeMPool2d(),
    nn.GeMPool2d(2.5, 3, 2, 1, channels=3),
    nn.SoftmaxPool2d(3, 2, 1, ceil_mode=True, channels=3),
    nn.SoftmaxPool2d(2),
    nn.AttentionPool(3),
    nn.BatchNorm2d(3),
    nn.BatchNorm2d(3, affine=False),
    nn.BatchNorm2d(3, bias=False),
    nn.GroupNorm(3, 3),
    nn.GroupNorm(1, 3, affine=False),
    nn.LayerNorm((9, 7)),
    nn.LayerNorm(7, bias=False),
    nn.LayerNorm((3, 9, 7), elementwise_affine=False),
    *(nn.ReLU(), nn.LeakyReLU(0.2), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ELU(0.7)),
    *(nn.Softplus(), nn.Softplus(3.0), nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.LogSoftmax()),
    *(nn.Dropout(0.5), nn.Flatten(), nn.Linear(7, 2), nn.Sequential()),
]


@pytest.mark.parametrize("layer", LAYERS_OF_IMAGES, ids=repr)
def test_layers_equal_onnxruntime_on_images_of_odd_sizes(layer, run):
    for i, (name, tensor) in enumerate(layer.named_parameters()):
        rng = np.random.default_rng(i)
        if "p" not in name.split("."):
            tensor.data = rng.uniform(0.5, 1.5, tensor.shape) * rng.choice([-1, 1], tensor.shape)
    check(run, layer, images())


@pytest.mark.parametrize("size", [1e-30, 1e6])
def test_powers_of_very_small_and_large_pixels(size, run):
    x = np.abs(images()) * np.float32(size)
    for layer in (nn.GeMPool2d(7.0, eps=1e-37), nn.LPPool2d(7, 2), nn.StochasticPool2d(3, 2)):
        check(run, layer, x)
    check(run, nn.SoftmaxPool2d(3, 2, 1), images() * np.float32(size))


LAYERS_OF_SEQUENCES = [
    nn.Conv1d(4, 6, 3, padding="same", groups=2),
    nn.Conv1d(4, 2, 2, stride=2, padding=1, dilation=3),
    nn.MaxPool1d(3, 2, 1, return_indices=True),
    nn.MaxPool1d(2, ceil_mode=True),
    nn.AvgPool1d(3, 2, 1, ceil_mode=True),
    nn.MinPool1d(3, 2, 1),
    nn.LPPool1d(3, 2, ceil_mode=True),
    nn.AdaptiveAvgPool1d(4),
    nn.AdaptiveMaxPool1d(4),
    nn.GlobalAvgPool(keepdims=True),
    nn.GlobalMaxPool(),
    nn.StochasticPool1d(3, 2),
    nn.MixedPool1d(3, 2, 1),
    nn.GeMPool1d(3.0),
    nn.GeMPool1d(2.0, 2, channels=4),
    nn.SoftmaxPool1d(3, 2, 1, channels=4),
    nn.AttentionPool(4),
    nn.ChannelMaxPool(2),
    nn.BatchNorm1d(4),
    nn.GroupNorm(2, 4),
]


@pytest.mark.parametrize("layer", LAYERS_OF_SEQUENCES, ids=repr)
def test_layers_equal_onnxruntime_on_sequences(layer, run):
    x = np.random.default_rng(0).uniform(0.1, 2, (2, 4, 11)).astype(np.float32)
    check(run, layer, x)


def test_pixels_return_to_where_they_came_from(run):
    def forward(x: Tensor) -> Tensor:
        best, places = F.max_pool2d(x, 2, return_indices=True)
        small, inner = F.max_pool2d(best, (2, 3), return_indices=True)
        back = F.max_unpool2d(small, inner, (2, 3), output_size=best.shape)
        return F.max_unpool2d(back, places, 2, output_size=x.shape) + 1

    check(run, Does(forward), images())


def test_an_embedding_of_any_integers(run):
    layer = nn.Embedding(50, 4, padding_idx=0)
    for dtype in (np.int32, np.int64, np.uint8):
        check(run, layer, np.array([[3, 49, 0], [7, 7, 1]], dtype))
    check(run, Does(lambda x: F.embedding([[4, 1]], layer.weight) + x), np.ones((2, 1, 1), "f"))


# What is between layers -----------------------------------------------------------------------

ROWS = np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: minidl.where(x > 0.5, x, -x),
        lambda x: minidl.where(x.sum(1, keepdims=True) <= x, x * 2, 0),
        lambda x: (x * (x != 0)) + (x == x) - x * (x < 1) + (x >= Tensor(0)),
        lambda x: x.std(1) + x.var(1) + x.norm(1, 1) + x.norm(3, 1) + x.norm(float("inf"), 1),
        lambda x: x.reshape(-1, 2, 3).transpose(0, 2, 1).reshape(len(x), -1),
        lambda x: x.reshape(x.size).reshape(len(x), 6) @ x.T.broadcast_to((6, len(x))),
        lambda x: x[:, ::-1][:, 1:-1:2] * x[:, None, 0] - x[..., -1:],
        lambda x: x[:, [3, 0, 0]] + x[:, 1:4] + x[:, np.arange(6) % 2 == 0],
        lambda x: x[..., np.int64(-1)] + x.T[[1, 2], 1:2].sum() + x.T[(1, 3), (0, 0)].sum(),
        lambda x: minidl.stack([x, x.exp()], 1).max(2).min(1) ** 2,
        lambda x: minidl.pad(x, [(0, 0), (1, 2)], value=3).clip(-0.5, 0.5),
        lambda x: minidl.pad(x, [(0, 0), (6, 4)], mode="wrap") * minidl.sin(x).sum(),
        lambda x: minidl.pad(x, [(0, 0), (5, 1)], mode="reflect") + minidl.prod(x, 1, True),
        lambda x: minidl.pad(x, [(0, 0), (9, 0)], mode="edge")[:, 4:] * minidl.prod(x).tanh(),
        lambda x: minidl.cumsum(minidl.cos(x), 1) + minidl.cumsum(minidl.erf(x), 0),
        lambda x: (minidl.cumsum((x * 9).to(dtype="int32"), 1) / 4, minidl.prod(x, (0, 1))),
        lambda x: minidl.topk(x, 3) + minidl.sort(x, 1, descending=True),
        lambda x: minidl.topk(-x, 2, 1, largest=False)[0] * minidl.sort(x)[0][:, 1:3],
        lambda x: minidl.index_add(x, 1, [5, 0, 5], x[:, 1:4]),
        lambda x: minidl.index_add(x[0], 0, [5, 0, 5], x[0, 1:4] * 2),
        lambda x: minidl.scatter_add(x[0], 0, [5, 0, 5], x[0]),
        lambda x: minidl.einsum("ni,nj->nij", x, x) / x.expand_dims(1).abs().sqrt(),
        lambda x: 1 / (2**x) + 3 - np.float32(2) * x + np.ones(6, np.float64),
        lambda x: x.detach().copy().to(dtype="float64").mean(1).to(dtype="float32"),
        lambda x: (x * 10).to(dtype="int32").sum(1).to(dtype="float32") / 3,
        lambda x: minidl.maximum(x, 0) + minidl.minimum(0.1, x) + abs(x),
        lambda x: sum(x.T[i] * i for i in range(6)),
        lambda x: x.log() if (x > 0).all() else x.tanh(),
    ],
)
def test_what_is_done_between_layers_is_exported(function, run):
    check(run, Does(function), ROWS)


class Block(nn.Module):
    """Layers that are shared, called twice and left out; functions and operators in between."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.twin = nn.Conv2d(3, 3, 3, padding=1)
        self.twin.weight = self.conv.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)) + x)
        return self.conv(y) * self.twin(x)


def test_shared_weights_are_stored_once_under_their_first_name(run, tmp_path):
    model = Block()
    check(run, model, images())
    names = [fields(tensor)[8][0].decode() for tensor in contents(tmp_path / "model.onnx")[5]]
    assert names == ["conv.weight", "conv.bias", *(f"norm.{n}" for n in ("weight", "bias",
        "running_mean", "running_var")), "twin.bias"]  # fmt: skip


def test_nodes_are_named_after_layers(tmp_path):
    path = minidl.export_onnx(Block(), images(), tmp_path / "block.onnx")
    names = [fields(node)[3][0].decode() for node in contents(path)[1]]
    assert names == [
        *("conv/Conv", "norm/BatchNormalization", "Add", "Relu", "conv/Conv_1", "twin/Conv"),
        *("Mul", "output"),
    ]


def test_a_layer_that_raises_and_is_caught_leaves_no_trace(run, tmp_path):
    def forward(x: Tensor) -> Tensor:
        try:
            return F.max_pool2d(x, 100)
        except ValueError:
            return F.relu(x) + 1

    check(run, nn.Sequential(nn.ReLU(), Does(forward), nn.ReLU()), images())
    assert kinds(tmp_path / "model.onnx") == ["Relu", "Relu", "Add", "Relu", "Identity"]


def test_several_inputs_and_outputs(run):
    model = Does(lambda x, y: (x @ y.T, [y.sum(), x][1], x.mean((0, 1))))
    a, b = ROWS, ROWS[::-1].copy()
    check(run, model, a, b, batches=(0,))
    check(run, Does(lambda x, rows: x.sum(1) + rows), ROWS, np.ones((1, 1), "f"), batches=(0,))


def test_a_network_that_returns_its_input_or_a_parameter(run):
    model = Does(lambda x, w: (x, w.exp(), x.flatten()), [1.0, 2.0])
    check(run, model, ROWS)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 0])
def test_the_values_of_the_example_do_not_matter(value, run):
    example = np.full((2, 3), value, np.float32)
    example[0, 0] = -example[0, 0]
    ((got,),) = run(nn.Tanh(), example, (ROWS[:, :3],))
    np.testing.assert_allclose(got, np.tanh(ROWS[:, :3]), rtol=1e-5)


def test_a_network_for_batches_of_one_size_has_this_size(run, tmp_path):
    model = Does(lambda x: x + minidl.arange(24, dtype="float32").reshape(4, 6))
    check(run, model, ROWS, batches=(4,))
    assert shapes(tmp_path / "model.onnx") == {"input": [4, 6], "output": [4, 6]}
    model = Does(lambda x: x.reshape(2, 2, 6))
    check(run, model, ROWS, batches=(4,))


def shapes(path: Path) -> dict[str, list[Any]]:
    found = {}
    for value in contents(path)[11] + contents(path)[12]:
        name, kind = fields(value)[1][0].decode(), fields(fields(value)[2][0])[1][0]
        sizes = [fields(dim) for dim in fields(fields(kind)[2][0]).get(1, [])]
        found[name] = [s[1][0] if 1 in s else s[2][0].decode() if s else None for s in sizes]
    return found


def test_shapes_name_the_batch(tmp_path):
    model = Does(lambda x: (x, x.sum(), x.reshape(-1, 3), x.T))
    path = minidl.export_onnx(model, ROWS, tmp_path / "m.onnx")
    assert shapes(path) == {
        "input": ["batch", 6],
        "output_0": ["batch", 6],
        "output_1": [],
        "output_2": [None, 3],
        "output_3": [6, "batch"],
    }


def test_parameters_may_have_the_names_of_inputs_and_outputs(run):
    model = Does(lambda x: x * model.input + model.output)
    model.input, model.output = nn.Parameter(2 * np.ones(6, "f")), nn.Parameter(np.ones(6, "f"))
    check(run, model, ROWS)


def test_float64_stays_float64(run):
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Softmax()).to(dtype="float64")
    x = ROWS.astype(np.float64)
    ((got,),) = run(model, x, (x,))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, outputs(model, x)[0], rtol=1e-12)


def test_plain_kernels_give_the_same_file(tmp_path):
    paths = []
    for kernels in ("fast", "plain"):
        minidl.set_kernels(kernels)
        try:
            minidl.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
            paths.append(minidl.export_onnx(model, images(), tmp_path / f"{kernels}.onnx"))
        finally:
            minidl.set_kernels("fast")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_model_on_another_device(run):
    model = Block()
    wanted = outputs(model, images())
    model.to("guarded")
    ((got,),) = run(model, Tensor(images(), device="guarded"), (images(),))
    np.testing.assert_allclose(got, wanted[0], rtol=1e-5, atol=1e-5)


# Networks -------------------------------------------------------------------------------------


def with_statistics(model: nn.Module) -> nn.Module:
    """Give a network running statistics that are not 0 and 1."""
    rng = np.random.default_rng(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.data = rng.normal(0, 0.1, module.num_features)
            module.running_var.data = rng.uniform(0.5, 2, module.num_features)
    return model


def test_the_network_of_chapter_6(run, tmp_path):
    check(run, models.cifar10_cnn(), images(2, 3, 32, 32))
    assert kinds(tmp_path / "model.onnx") == [
        *["Conv", "Relu", "MaxPool"] * 2,
        *["Conv", "Relu", "Flatten", "Gemm", "Relu", "Gemm", "Identity"],
    ]


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_text_cnn(run, pooling):
    words = np.random.default_rng(0).integers(0, 1000, (2, 13))
    check(run, models.TextCNN(1000, 16, pooling=pooling), words)


def test_resnet20(run, tmp_path):
    check(run, with_statistics(models.resnet20()), images(2, 3, 32, 32))
    assert kinds(tmp_path / "model.onnx").count("BatchNormalization") == 19


def test_resnet50(run, tmp_path):
    check(run, with_statistics(models.resnet50(10)), images(1, 3, 64, 64), batches=(1, 2))
    found = kinds(tmp_path / "model.onnx")
    assert (found.count("Conv"), found.count("Add"), found.count("Gemm")) == (53, 16, 1)


# What is refused ------------------------------------------------------------------------------


def refusal(model: nn.Module, example: Any, path: Path) -> str:
    with pytest.raises(ValueError, match="export_onnx: ") as caught:
        minidl.export_onnx(model, example, path / "model.onnx")
    assert not list(path.iterdir())
    assert sys.getprofile() is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.FractionalMaxPool2d(2, output_size=3), "draws its windows at random"),
        (nn.BatchNorm2d(3, track_running_stats=False), "statistics of the batch"),
        (Does(lambda x: F.dropout(x, 0.5)), "random numbers"),
        (Does(lambda x: F.stochastic_pool2d(x, 2)), "random numbers"),
        (nn.AdaptiveMaxPool2d(4, return_indices=True), "windows of different sizes"),
        (Does(lambda x: x[x > 0]), "depends on the input"),
        (Does(lambda x: record("mine", x.array + 1, (x,), lambda g: (g,))), "no converter"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_error_names_the_layer_that_cannot_be_exported(layer, reason, tmp_path):
    before = layer.state_dict()
    minidl.manual_seed(7)
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), layer))
    message = refusal(model, images(), tmp_path)
    assert f"layer '1.1' ({type(layer).__name__}): " in message
    assert reason in message
    assert all((layer.state_dict()[n] == a).all() for n, a in before.items())
    drawn = minidl.rand(2).numpy()
    minidl.manual_seed(7)
    assert (drawn == minidl.rand(2).numpy()).all()  # nothing was drawn


def test_an_embedding_whose_lookups_change_it_is_refused_before_it_does(tmp_path):
    layer = nn.Embedding(5, 3, max_norm=0.1)
    before = layer.weight.numpy()
    assert "max_norm" in refusal(nn.Sequential(layer), np.array([[1, 2]]), tmp_path)
    assert (layer.weight.numpy() == before).all()


def changed(x: Tensor) -> Tensor:
    y = x * 2
    with y.mutable() as array:
        array[...] = 0
    return y + 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * float(x.mean()),
        lambda x: x + x.sum().item(),
        lambda x: x - Tensor(x.numpy().mean(0)),
        lambda x: minidl.where((x.array > 0) & (x.array < 0.5), x, 0),
        lambda x: minidl.where(~(x > 0), x, 0),
        lambda x: x * minidl.rand(6),
        lambda x: x.exp() if x.numpy().sum() > 1.3 else x,
        lambda x: x[:, : int(x.array.argmax()) % 5 + 1],
        changed,
    ],
)
def test_values_that_come_from_outside_the_operations_are_noticed(function, tmp_path):
    message = refusal(Does(function), ROWS, tmp_path)
    assert "two inputs gave" in message or "changed in place" in message


def test_errors_of_layers_and_arguments_pass(tmp_path):
    path = tmp_path / "model.onnx"
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    with pytest.raises(ValueError, match="got an input of 4 channels"):
        minidl.export_onnx(model, images(2, 4), path)
    with pytest.raises(TypeError, match="got a function, expected a Module"):
        minidl.export_onnx(F.relu, images(), path)
    with pytest.raises(ValueError, match=r"got 'model\.onx', expected a name ending in \.onnx"):
        minidl.export_onnx(model, images(), tmp_path / "model.onx")
    for example in ([[1.0, 2.0]], {"x": ROWS}, "x", None, ({"x": ROWS},)):
        with pytest.raises(TypeError, match="as an example, expected a tensor or an array"):
            minidl.export_onnx(model, example, path)
    for result in ({"y": 1}, (1, 2), None, ([ROWS],)):
        with pytest.raises(TypeError, match="the network returned a"):
            minidl.export_onnx(Does(lambda x, result=result: result), ROWS, path)
    assert not list(tmp_path.iterdir())
    assert minidl.export_onnx(model, images(), tmp_path / "new" / "model.onnx").is_file()


def test_a_failure_leaves_the_older_file(tmp_path):
    path = minidl.export_onnx(nn.ReLU(), ROWS, tmp_path / "model.onnx")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no converter"):
        minidl.export_onnx(Does(lambda x: record("mine", x.array, (x,), lambda g: g)), ROWS, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_larger_than_the_format_allows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("minidl.onnx.export.MOST_BYTES", 1000)
    assert "expected at most 2 GB" in refusal(nn.Linear(60, 60), np.ones((1, 60), "f"), tmp_path)


def test_a_refusal_that_the_network_catches_is_still_raised(tmp_path):
    def forward(x: Tensor) -> Tensor:
        try:
            return F.dropout(x, 0.5)
        except ValueError:
            return x

    assert "random numbers" in refusal(Does(forward), ROWS, tmp_path)


# What is left as it was -----------------------------------------------------------------------


def test_the_model_is_not_changed(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())
    model[1].eval()
    model(Tensor(images())).sum().backward()
    before = model.state_dict()
    gradients = [g.numpy() for _, g in model.named_gradients()]
    modes = [module.training for module in model.modules()]
    example = Tensor(images(), requires_grad=True)
    minidl.export_onnx(model, example, tmp_path / "model.onnx")
    assert all((array == before[name]).all() for name, array in model.state_dict().items())
    assert all((g.numpy() == old).all() for (_, g), old in
               zip(model.named_gradients(), gradients, strict=True))  # fmt: skip
    assert [module.training for module in model.modules()] == modes
    assert example.grad is None


def test_a_profile_function_goes_on_after_export(tmp_path):
    def profile(*event: Any) -> None:
        del event

    sys.setprofile(profile)
    try:
        minidl.export_onnx(nn.ReLU(), ROWS, tmp_path / "model.onnx")
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)


def test_a_profiler_that_runs_does_not_hinder_export(tmp_path):
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        path = minidl.export_onnx(nn.Sequential(nn.ReLU()), ROWS, tmp_path / "model.onnx")
        assert sum(range(3)) == 3
    finally:
        profiler.disable()
        sys.setprofile(None)
    assert kinds(path) == ["Relu", "Identity"]


def test_other_threads_are_not_traced(tmp_path):
    def forward(x: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: minidl.ones(3).exp())
        thread.start()
        thread.join()
        return x * 2

    path = minidl.export_onnx(Does(forward), ROWS, tmp_path / "model.onnx")
    assert kinds(path) == ["Mul", "Identity"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    minidl.manual_seed(0)
    model = models.resnet20()
    paths = [
        minidl.export_onnx(model, images(1, 3, 32, 32), tmp_path / f"{i}.onnx") for i in range(2)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


# The format -----------------------------------------------------------------------------------


def test_the_bytes_of_a_small_model(tmp_path):
    model = Does(lambda x, w: F.leaky_relu(x * w, 0.5), [1.0, -2.0])
    path = minidl.export_onnx(model, np.zeros((3, 2), "f"), tmp_path / "model.onnx")
    assert path.read_bytes() == bytes.fromhex(GOLDEN)
    file = fields(path.read_bytes())
    assert file[1] == [protobuf.IR_VERSION]
    assert fields(file[8][0]) == {1: [b""], 2: [protobuf.OPSET]}
    graph = contents(path)
    assert [fields(node)[4] for node in graph[1]] == [[b"Mul"], [b"LeakyRelu"], [b"Identity"]]
    assert fields(graph[1][0])[1] == [b"input", b"weight"]
    assert fields(fields(graph[1][1])[5][0]) == {1: [b"alpha"], 2: [0.5], 20: [1]}
    (weight,) = graph[5]
    assert fields(weight) == {
        1: [2],
        2: [1],
        8: [b"weight"],
        9: [np.array([1, -2], "<f4").tobytes()],
    }


GOLDEN = """
    080812066d696e69646c3adb011204446f65730a1e0a05696e7075740a0677656967687412034d756c1a034d756c
    22034d756c0a370a034d756c12094c65616b7952656c751a094c65616b7952656c7522094c65616b7952656c752a
    0f0a05616c706861150000003fa001010a250a094c65616b7952656c7512066f75747075741a066f757470757422
    084964656e746974792a160802100142067765696768744a080000803f000000c05a1c0a05696e70757412130a11
    0801120d0a07120562617463680a020802621d0a066f757470757412130a110801120d0a07120562617463680a02
    080242040a001012
"""


def test_numbers_are_encoded_as_google_does():
    encoder = pytest.importorskip("google.protobuf.internal.encoder", reason=MISSING)
    for value in (0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63) + 1):
        (chunk,) = protobuf.message((3, value))
        wanted: list[bytes] = []
        encoder.Int64Encoder(3, False, False)(wanted.append, value, False)
        assert chunk == b"".join(wanted)
        assert fields(chunk) == {3: [value]}


def test_every_dtype_and_shape_of_a_constant():
    onnx = pytest.importorskip("onnx", reason=MISSING)
    for name, number in protobuf.DTYPES.items():
        if name in ("str", "float16"):
            continue
        for shape in ((), (0, 3), (2, 3)):
            array = np.ones(shape, name)
            chunks = protobuf.tensor("x", array)
            read = onnx.TensorProto.FromString(b"".join(chunks))
            assert (read.data_type, read.name) == (number, "x")
            found = onnx.numpy_helper.to_array(read)
            assert (found.dtype, found.shape) == (array.dtype, shape)
            assert (found == array).all()
    big = np.arange(6, dtype=">f4").reshape(2, 3).T
    read = onnx.TensorProto.FromString(b"".join(protobuf.tensor("x", big)))
    assert (onnx.numpy_helper.to_array(read) == big).all()


def test_importing_minidl_imports_no_onnx():
    assert not re.search(r"^\s*(import|from) onnx", Path(protobuf.__file__).read_text(), re.M)
    assert set(REFUSED) <= set(dir(F))
