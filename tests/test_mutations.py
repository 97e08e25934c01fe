"""Proof that gradcheck catches bugs: each mutation plants one in the gradient of a real operation.

A mutation replaces a piece of a function's source text, and puts the result where the function is
used. Its forward result stays the same, to the last bit. Gradcheck must then name exactly the
inputs whose gradient is wrong, and must have passed the same call before; the last tests show that
right gradients pass at 200 random points each.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, autograd, gradcheck, nn
from minidl import functional as F
from minidl.backends import sums
from minidl.backends.base import Backend
from minidl.backends.cpu import planar, winograd
from minidl.backends.cpu.numpy_backend import NumpyBackend
from minidl.backends.windows import Windows
from minidl.functional import attention, cells, deformable, loss_kinds, resampling
from minidl.functional import channels as channel_kernels
from minidl.functional.pooling import boxes, regions
from minidl.inspect import GradcheckError, InputCheck
from minidl.tensor import edges, operations, ordering, record, running, scatter, special

# By name: the packages also export functions of some of these names.
functions, tensor, activation, convolution, loss, normalization, pooling, pooling_windows = (
    sys.modules[f"minidl.{name}"]
    for name in (
        "tensor.functions",
        "tensor.operations",
        "functional.activation",
        "functional.convolution",
        "functional.loss",
        "functional.normalization",
        "functional.pooling.basic",
        "functional.pooling.kinds",
    )
)
HERE = sys.modules[__name__]
DRAWS = [5, pytest.param(200, marks=pytest.mark.slow)]


# Two operations as a user would write them ----------------------------------------------------


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each channel over batch and pixels: one operation, gradient in closed form."""
    axes, shape = (0, 2, 3), (1, -1, 1, 1)
    centred = x.data - x.data.mean(axes, keepdims=True)
    out = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)

    def backward(gradient: Tensor) -> autograd.Gradients:
        # Computed again, of tensors: so it can itself be differentiated.
        inverse = 1 / (x.var(axes, keepdims=True) + eps).sqrt()
        normal = (x - x.mean(axes, keepdims=True)) * inverse
        scaled = gradient * gamma.reshape(shape)
        through_mean = scaled.mean(axes, keepdims=True)
        through_var = normal * (scaled * normal).mean(axes, keepdims=True)
        return (
            (scaled - through_mean - through_var) * inverse,
            (gradient * normal).sum(axes),
            gradient.sum(axes),
        )

    out = out * gamma.data.reshape(shape) + beta.data.reshape(shape)
    return record("batch_norm", out, (x, gamma, beta), backward)


LABELS = np.array([2, 0, -1, 2])  # -1 is ignored
CLASS_WEIGHTS = np.array([0.5, 1.0, 2.0])
ROIS = np.array([[0, 0.3, 1.6, 2.6, 2.9], [0, 1.2, 1, 5, 2.4], [1, 0, 0.2, 1.9, 2.2]])
STEPS = np.array([[True, True], [True, False], [True, False]])


def fused_cross_entropy(logits: Tensor, smoothing: float = 0.1) -> Tensor:
    """Do log-softmax, weights, smoothing and mean in one operation, gradient in closed form."""
    classes = logits.shape[1]
    counted = LABELS != -1
    target = (1 - smoothing) * np.eye(classes)[LABELS] + smoothing / classes
    terms = target * CLASS_WEIGHTS * counted[:, None]
    total = (CLASS_WEIGHTS[LABELS] * counted).sum()
    shifted = logits.data - logits.data.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def backward(gradient: Tensor) -> autograd.Gradients:
        p = F.softmax(logits, 1)
        return (gradient * (p * terms.sum(1, keepdims=True) - terms) / total,)

    return record("fused_cross_entropy", -(terms * log_p).sum() / total, (logits,), backward)


# Calls to check -------------------------------------------------------------------------------


class Call:
    """A function and the shapes of its inputs; their values are drawn, `positive` ones from 0.5."""

    def __init__(
        self, fn: Callable[..., Tensor], *shapes: tuple[int, ...], positive: bool = False
    ) -> None:
        self.fn, self.shapes, self.positive = fn, shapes, positive

    def draw(self, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        arrays = [rng.standard_normal(shape) for shape in self.shapes]
        return [np.abs(a) + 0.5 for a in arrays] if self.positive else arrays


# Functions are looked up when they are called: what a mutation replaced is what runs.
CALLS = {
    "conv2d": Call(
        lambda x, weight, bias: F.conv2d(x, weight, bias, stride=(2, 1), padding=1),
        (3, 1, 3, 3),
        (2, 1, 2, 3),
        (2,),
    ),
    "conv2d_relu": Call(
        lambda x, weight, bias: F.conv2d_relu(x, weight, bias),
        (1, 2, 3, 3),
        (2, 2, 2, 2),
        (2,),
    ),
    "conv2d square": Call(lambda x, weight: F.conv2d(x, weight), (1, 2, 3, 3), (2, 2, 2, 2)),
    "conv2d dilated": Call(
        lambda x, weight: F.conv2d(x, weight, dilation=(2, 1)), (1, 1, 4, 3), (1, 1, 2, 2)
    ),
    "conv2d same": Call(
        lambda x, weight: F.conv2d(x, weight, padding="same"), (1, 1, 3, 4), (1, 1, 2, 2)
    ),
    "conv2d padded": Call(
        lambda x, weight: F.conv2d(x, weight, padding=1), (1, 1, 4, 4), (1, 1, 3, 3)
    ),
    "conv2d groups": Call(
        lambda x, weight: F.conv2d(x, weight, groups=2), (1, 4, 2, 2), (4, 2, 1, 2)
    ),
    "conv_transpose2d": Call(
        lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, stride=(2, 1), padding=(1, 0)),
        (1, 2, 2, 2),
        (2, 1, 3, 2),
        (1,),
    ),
    "max_pool2d": Call(lambda x: pooling.max_pool2d(x, (2, 3), stride=1), (2, 1, 3, 4)),
    "max_pool2d ceil": Call(
        lambda x: pooling.max_pool2d(x, 2, padding=(1, 0), ceil_mode=True), (1, 1, 3, 3)
    ),
    "avg_pool2d": Call(lambda x: pooling.avg_pool2d(x, (2, 3), stride=(2, 1)), (1, 1, 4, 4)),
    "avg_pool2d border": Call(
        lambda x: pooling.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
        (1, 1, 5, 5),
    ),
    "avg_pool2d ceil": Call(lambda x: pooling.avg_pool2d(x, 2, ceil_mode=True), (1, 1, 3, 5)),
    "global_avg_pool2d": Call(lambda x: F.global_avg_pool2d(x), (2, 1, 2, 3)),
    "adaptive_max_pool2d": Call(lambda x: F.adaptive_max_pool2d(x, 4), (2, 1, 5, 5)),
    "adaptive_avg_pool2d": Call(lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (1, 1, 3, 4)),
    "max_unpool2d": Call(
        lambda x: F.max_unpool2d(x, np.array([[[[5, 2], [8, 15]]]]), 2), (1, 1, 2, 2)
    ),
    "batch_norm": Call(lambda x, gamma, beta: batch_norm(x, gamma, beta), (2, 2, 2, 2), (2,), (2,)),
    "F.batch_norm": Call(
        lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True, eps=0.1),
        (2, 2, 2, 2),
        (2,),
        (2,),
    ),
    "F.batch_norm around 0": Call(  # whose mean is not taken off first
        lambda x, weight: F.batch_norm(x, None, None, weight, training=True, eps=0.1),
        (4, 2, 3, 3),
        (2,),
    ),
    "F.batch_norm far from 0": Call(
        lambda x, weight: F.batch_norm(x + 20, None, None, weight, training=True, eps=0.1),
        (4, 2, 2),
        (2,),
    ),
    "F.batch_norm in evaluation": Call(
        lambda x, weight: F.batch_norm(
            x, Tensor(np.array([0.5, -1])), Tensor(np.array([2, 0.5])), weight
        ),
        (3, 2, 2),
        (2,),
    ),
    "F.layer_norm": Call(lambda x: F.layer_norm(x, 3, eps=0.1), (2, 3)),
    "fused_cross_entropy": Call(lambda logits: fused_cross_entropy(logits), (4, 3)),
    "cross_entropy": Call(
        lambda logits: F.cross_entropy(
            logits, LABELS, CLASS_WEIGHTS, ignore_index=-1, label_smoothing=0.1
        ),
        (4, 3),
    ),
    "mse_loss": Call(lambda x, target: F.mse_loss(x, target), (3, 4), (3, 4)),
    "l1_loss": Call(lambda x, target: F.l1_loss(x, target), (3, 4), (3, 4)),
    "binary_cross_entropy": Call(
        lambda logits: F.binary_cross_entropy_with_logits(logits, np.eye(3)), (3, 3)
    ),
    "add, broadcast": Call(lambda a, b: a + b, (3, 4), (3, 1)),
    "add, new axis": Call(lambda a, b: a + b, (3, 4), (4,)),
    "sub": Call(lambda a, b: a - b, (3, 2), (3, 2)),
    "mul": Call(lambda a, b: a * b, (3, 2), (3, 2)),
    "div": Call(lambda a, b: a / b, (3, 2), (3, 2), positive=True),
    "pow": Call(lambda a, b: a**b, (3, 2), (3, 2), positive=True),
    "sqrt": Call(lambda x: x.sqrt(), (3, 2), positive=True),
    "matmul": Call(lambda a, b: a @ b, (3, 3), (3, 3)),
    "matmul of stacks": Call(lambda a, b: a @ b, (2, 2, 3), (3, 2)),
    "linear": Call(lambda x, weight, bias: F.linear(x, weight, bias), (3, 2), (4, 2), (4,)),
    "einsum": Call(lambda a, b: minidl.einsum("ij,jk->ik", a, b), (3, 3), (3, 3)),
    "index, repeated": Call(lambda x: x[[0, 2, 0, 1]], (3, 2)),
    "index, reversed": Call(lambda x: x[::-1], (4, 2)),
    "index, columns": Call(lambda x: x[:, 1:], (3, 4)),
    "transpose": Call(lambda x: x.transpose(1, 2, 0), (3, 3, 3)),
    "concatenate": Call(lambda a, b: functions.concatenate([a, b], 1), (2, 3), (2, 3)),
    "pad": Call(lambda x: functions.pad(x, [(1, 0), (0, 2)]), (3, 3)),
    "where": Call(
        lambda a, b: functions.where(np.array([True, False, True]), a, b), (2, 3), (2, 3)
    ),
    "maximum": Call(lambda a, b: minidl.maximum(a, b), (3, 2), (3, 2)),
    "maximum, all ties": Call(lambda x: minidl.maximum(x, x), (3, 2)),
    "max": Call(lambda x: x.max(1), (3, 4)),
    "max, all ties": Call(lambda x: minidl.stack([x, x]).max(0), (3, 2)),
    "clip": Call(lambda x: x.clip(-0.5, 0.5), (3, 4)),
    "var": Call(lambda x: x.var(1), (2, 4)),
    "mean": Call(lambda x: x.mean(1), (2, 5)),
    "sum": Call(lambda x: x.sum(0), (3, 2)),
    "tanh": Call(lambda x: x.tanh(), (3, 2)),
    "sin": Call(lambda x: special.sin(x), (3, 2)),
    "erf": Call(lambda x: special.erf(x), (3, 2)),
    "cumsum": Call(lambda x: running.cumsum(x, 0), (4, 2)),
    "sort": Call(lambda x: ordering.sort(x, 0, descending=True)[0], (4, 2)),
    "topk": Call(lambda x: ordering.topk(x, 2)[0], (2, 5)),
    "index_add": Call(lambda x, source: scatter.index_add(x, 1, [2, 0, 2], source), (2, 3), (2, 3)),
    "scatter_add": Call(
        lambda x, source: scatter.scatter_add(x, 0, [[2, 0], [2, 1]], source), (3, 2), (3, 2)
    ),
    "pad, reflected": Call(lambda x: edges.pad(x, [(2, 1), (0, 2)], mode="reflect"), (3, 4)),
    "pad, repeated": Call(lambda x: edges.pad(x, [(2, 1), (0, 2)], mode="edge"), (2, 3)),
    "sigmoid": Call(lambda x: activation.sigmoid(x), (3, 2)),
    "softmax": Call(lambda x: activation.softmax(x, 1), (2, 4)),
    "log_softmax": Call(lambda x: activation.log_softmax(x, 1), (2, 4)),
    "relu": Call(lambda x: F.relu(x), (3, 4)),
    "leaky_relu": Call(lambda x: activation.leaky_relu(x, 0.2), (3, 4)),
    "elu": Call(lambda x: activation.elu(x, 0.7), (3, 4)),
    "gelu": Call(lambda x: activation.gelu(x), (3, 2)),
    "interpolate": Call(lambda x: F.interpolate(x, (4, 3), mode="bilinear"), (1, 1, 3, 2)),
    "roi_align2d": Call(
        lambda x: F.roi_align2d(x, ROIS, 2, sampling_ratio=2, aligned=True), (2, 1, 3, 3)
    ),
    "roi_pool2d": Call(lambda x: F.roi_pool2d(x, ROIS, 2), (2, 1, 3, 3)),
    "deform_conv2d": Call(
        lambda x, offset, weight, mask: F.deform_conv2d(x, offset, weight, mask=mask),
        (1, 2, 3, 3),
        (1, 8, 2, 2),
        (1, 2, 2, 2),
        (1, 4, 2, 2),
    ),
    "attention": Call(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (1, 3, 2),
        (1, 3, 2),
        (1, 3, 2),
    ),
    "gru": Call(
        lambda x, h0, w, u: F.gru(x, h0, w, u, mask=STEPS),
        *((3, 2, 2), (2, 2), (6, 2), (6, 2)),
    ),
    "lstm": Call(
        lambda x, h0, c0, w, u: F.lstm(x, h0, c0, w, u, mask=STEPS)[0],
        *((3, 2, 2), (2, 2), (2, 2), (8, 2), (8, 2)),
    ),
    "pixel_cross_entropy": Call(
        lambda logits: F.pixel_cross_entropy(logits, LABELS[None, :2], CLASS_WEIGHTS[None, :2]),
        (1, 3, 2),
    ),
    "huber_loss": Call(lambda x: F.huber_loss(x, np.zeros((2, 3)), delta=0.5), (2, 3)),
    "used twice": Call(lambda x: x.tanh() * x, (3, 2)),
    "shared gradient": Call(lambda a, b: ((a + b) + a.tanh()) + b.exp(), (3, 2), (3, 2)),
}

# Where what is left of the gradient is rounding alone.
ZERO_BY_CANCELLATION = {
    "sum of softmax": Call(lambda x: F.softmax(x, 1).sum(1), (3, 4)),
    "bias before batch norm": Call(
        lambda x, bias: batch_norm(
            x + bias.reshape(1, 2, 1, 1), Tensor(np.ones(2)), Tensor(np.zeros(2))
        ),
        (2, 2, 2, 2),
        (2,),
    ),
    "sum of deviations": Call(lambda x: (x - x.mean()).sum(), (3, 4)),
    "exp undone": Call(lambda x: x.exp() * (-x).exp(), (3, 2)),
}


# Mutations ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutation:
    """A bug: `old` becomes `new` in the source of `owner.name`; what gradcheck must find in `call`.

    Attributes:
        bug: what it is, in words.
        owner: the module or class from which the function is used.
        name: of the function.
        old: its piece of text, found exactly once.
        new: what replaces it.
        call: which of CALLS.
        wrong: the inputs to be named, separated by commas.
        says: part of the diagnosis of each; "" where the numbers allow none.
        order: at which order of derivatives it is caught.
        rtol: largest error to allow.
        raises: where the engine refuses such a gradient itself: part of its message, which names
            operation and input. Nothing is named by gradcheck then.
    """

    bug: str
    owner: Any
    name: str
    old: str
    new: str
    call: str
    wrong: str = ""
    says: str = ""
    order: int = 1
    rtol: float = 1e-6
    raises: str = ""


SEED = "gradient of output"  # what gradcheck calls the output's gradient, an input at order 2

MUTATIONS = [
    # Sums and order
    Mutation("sin: sign", special, "sin", "gradient * cos", "-gradient * cos", "sin", "x", "sign?"),
    Mutation("erf: half", special, "erf", "(2 / math", "(1 / math", "erf", "x"),
    Mutation(
        "cumsum: forwards again",
        running,
        "cumsum",
        "cumsum(gradient[backwards], place)[backwards]",
        "cumsum(gradient, place)",
        "cumsum",
        "x",
    ),
    Mutation(
        "sort: gradients in the order of the values",
        ordering,
        "_placed",
        "array[grid(values.backend.xp, index, axis)] = values.array",
        "array[...] = values.array",
        "sort",
        "x",
    ),
    Mutation(
        "topk: gradients of the values at the places of others",
        ordering,
        "_placed",
        "grid(values.backend.xp, index, axis)",
        "grid(values.backend.xp, index[..., ::-1], axis)",
        "topk",
        "x",
    ),
    Mutation(
        "index_add: no gradient of what is added to",
        scatter,
        "index_add",
        "return gradient, selected",
        "return gradient * 0, selected",
        "index_add",
        "x",
    ),
    Mutation(
        "scatter_add: no gradient of the source",
        scatter,
        "scatter_add",
        "pad(gradient[places], rest)",
        "pad(gradient[places] * 0, rest)",
        "scatter_add",
        "source",
    ),
    Mutation(
        "pad: reflected elements lose the gradients of their copies",
        edges,
        "_folded",
        "array[source] += copies",
        "array[source] += 0 * copies",
        "pad, reflected",
        "x",
    ),
    Mutation(
        "pad: of repeated elements one copy counts",
        edges,
        "_folded",
        "copies.sum(len(target) - 1, keepdims=True)",
        "copies.max(len(target) - 1, keepdims=True)",
        "pad, repeated",
        "x",
    ),
    # Convolution
    Mutation(
        "input gradient lacks the sign",
        convolution,
        "convolve_gradients",
        "return dx, dw, db",
        "return -dx, dw, db",
        "conv2d",
        "x",
        "sign?",
    ),
    Mutation(
        "input gradient: overlapping windows overwrite each other",
        Backend,
        "scatter_windows",
        "padded[:, :, rows, columns] += taps",
        "padded[:, :, rows, columns] = taps",
        "conv2d",
        "x",
    ),
    Mutation(
        "input gradient: k_h and k_w exchanged",
        Backend,
        "scatter_windows",
        "taps_last[..., tap]",
        "taps_last[..., tap % windows.k_w * windows.k_h + tap // windows.k_w]",
        "conv2d",
        "x",
    ),
    Mutation(
        "input gradient: kernel flipped",
        Backend,
        "scatter_windows",
        "taps_last[..., tap]",
        "taps_last[..., windows.k_h * windows.k_w - 1 - tap]",
        "conv2d square",
        "x",
    ),
    Mutation(
        "input gradient: stride ignored",
        Windows,
        "taps",
        "slice(first, first + (self.out_h - 1) * self.stride_h + 1, self.stride_h)",
        "slice(first, first + self.out_h)",
        "conv2d",
        "x",
    ),
    Mutation(
        "input gradient: dilation of rows ignored",
        Windows,
        "taps",
        "first = i * self.dilation_h",
        "first = i",
        "conv2d dilated",
        "x",
    ),
    Mutation(
        "input gradient: dilations exchanged",
        Windows,
        "taps",
        "first = i * self.dilation_h",
        "first = i * self.dilation_w",
        "conv2d dilated",
        "x",
    ),
    Mutation(
        "input gradient: padding of top and bottom, left and right exchanged",
        Backend,
        "zero_images",
        "*windows.inside",
        "windows.bottom : windows.bottom + windows.in_h, "
        "windows.right : windows.right + windows.in_w",
        "conv2d same",
        "x",
    ),
    Mutation(
        "input gradient: border lost",
        Backend,
        "scatter_windows",
        "return images",
        "images[:, :, ::images.shape[2] - 1] = 0\n"
        "    images[:, :, :, ::images.shape[3] - 1] = 0\n"
        "    return images",
        "conv2d padded",
        "x",
        "border",
    ),
    Mutation(
        "input gradient: groups exchanged",
        Backend,
        "transpose_convolve",
        "rows.transpose(2, 1, 0, 3)",
        "rows.transpose(2, 1, 0, 3)[:, :, ::-1]",
        "conv2d groups",
        "x",
    ),
    Mutation(
        "input gradient: channels of a group exchanged",
        Backend,
        "transpose_convolve",
        "rows.transpose(2, 1, 0, 3)",
        "rows.transpose(2, 1, 0, 3)[..., ::-1]",
        "conv2d groups",
        "x",
    ),
    Mutation(
        "weight gradient: kernel transposed",
        Backend,
        "weight_gradient",
        "split.transpose(0, 3, 1, 2)",
        "split.transpose(0, 3, 2, 1)",
        "conv2d square",
        "weight",
        "transposed? right with its axes in the order (0, 1, 3, 2)",
    ),
    Mutation(
        "weight gradient: kernel that is not square transposed",
        Backend,
        "weight_gradient",
        "split.transpose(0, 3, 1, 2)",
        "split.transpose(0, 3, 2, 1)",
        "conv2d",
        raises="the gradient rule of 'conv2d' returned shape (2, 1, 3, 2) for input 1",
    ),
    Mutation(
        "weight gradient: taps taken for channels",
        Backend,
        "weight_gradient",
        "windows.k_h, windows.k_w, channels // groups)\n    return split.transpose(0, 3, 1, 2)",
        "channels // groups, windows.k_h, windows.k_w)\n    return split",
        "conv2d square",
        "weight",
    ),
    Mutation(
        "weight gradient: mean over the batch in place of the sum",
        Backend,
        "weight_gradient",
        ".copy()",
        ".copy() / n",
        "conv2d",
        "weight",
        "exactly 1/3x: divided twice by N = 3",
    ),
    Mutation(
        "weight gradient: of the first image only",
        Backend,
        "weight_gradient",
        "pixels = _pixels(",
        "part = slice(0, 1); pixels = _pixels(",
        "conv2d",
        "weight",
    ),
    Mutation(
        "bias gradient: batch axis averaged in place of summed",
        convolution,
        "convolve_gradients",
        "gradient.sum((0, 2, 3))",
        "gradient.sum((2, 3)).mean(0)",
        "conv2d",
        "bias",
        "exactly 1/3x: divided twice by N = 3",
    ),
    Mutation(
        "bias gradient: batch axis not summed",
        convolution,
        "convolve_gradients",
        "gradient.sum((0, 2, 3))",
        "gradient.sum((2, 3))[0]",
        "conv2d",
        "bias",
    ),
    Mutation(
        "bias gradient: columns not summed",
        convolution,
        "convolve_gradients",
        "gradient.sum((0, 2, 3))",
        "gradient.sum((0, 2))",
        "conv2d",
        raises="the gradient rule of 'conv2d' returned shape (2, 3) for input 2",
    ),
    Mutation(
        "weight gradient's own input gradient lost",
        convolution,
        "_weight_gradient",
        "_convolve(x, outer, None, windows, groups)",
        "_convolve(x, outer, None, windows, groups) * 0",
        "conv2d",
        SEED,
        order=2,
    ),
    Mutation(
        "input gradient cut off from the weight",
        convolution,
        "convolve_gradients",
        "_transpose_convolve(gradient, weight, windows, groups)",
        "_transpose_convolve(gradient, weight.detach(), windows, groups)",
        "conv2d",
        "weight",
        "all zero: detached?",
        order=2,
    ),
    Mutation(
        "transposed: input gradient twice",
        convolution,
        "_transpose_convolve",
        "_convolve(outer, weight, None, windows, groups)",
        "_convolve(outer, weight + weight, None, windows, groups)",
        "conv_transpose2d",
        "x",
        "exactly 2x: added twice?",
    ),
    Mutation(
        "transposed: weight gradient of the flipped input",
        convolution,
        "_transpose_convolve",
        "_weight_gradient(outer, gradient, windows, groups)",
        "_weight_gradient(outer, gradient[..., ::-1], windows, groups)",
        "conv_transpose2d",
        "weight",
    ),
    Mutation(
        "transposed: weight gradient cut off from the output's gradient",
        convolution,
        "_transpose_convolve",
        "_weight_gradient(outer, gradient, windows, groups)",
        "_weight_gradient(outer.detach(), gradient, windows, groups)",
        "conv_transpose2d",
        SEED,
        order=2,
    ),
    # Pooling
    Mutation(
        "gradient to the winner's neighbour",
        pooling,
        "max_over",
        "scatter_winners(gradient, winners, windows)",
        "scatter_winners(gradient, (winners + 1) % (windows.k_h * windows.k_w), windows)",
        "max_pool2d",
        "x",
    ),
    Mutation(
        "winners of another image",
        pooling,
        "max_over",
        "scatter_winners(gradient, winners, windows)",
        "scatter_winners(gradient, winners[::-1], windows)",
        "max_pool2d",
        "x",
    ),
    Mutation(
        "max pool: overlapping windows overwrite each other",
        Backend,
        "scatter_winners",
        "padded[:, :, rows, columns] += self",
        "padded[:, :, rows, columns] = self",
        "max_pool2d",
        "x",
    ),
    Mutation(
        "max pool: k_h and k_w exchanged",
        Backend,
        "scatter_winners",
        "+= self.masked(values[part], winners[part] == tap",
        "+= self.masked(values[part], winners[part] == tap % windows.k_w * windows.k_h "
        "+ tap // windows.k_w",
        "max_pool2d",
        "x",
    ),
    Mutation(
        "max pool: sides of the padding exchanged",
        Backend,
        "zero_images",
        "*windows.inside",
        "windows.bottom : windows.bottom + windows.in_h, "
        "windows.right : windows.right + windows.in_w",
        "max_pool2d ceil",
        "x",
    ),
    Mutation(
        "max pool: gradient's own gradient from the wrong pixel",
        Backend,
        "gather_winners",
        "winners[part] == tap",
        "winners[part] == windows.k_h * windows.k_w - 1 - tap",
        "max_pool2d",
        SEED,
        order=2,
    ),
    Mutation(
        "adaptive max pool: windows that share a pixel overwrite each other",
        regions,
        "scatter_places",
        "pixels[flat[these]] += values",
        "pixels[flat[these]] = values",
        "adaptive_max_pool2d",
        "x",
    ),
    Mutation(
        "adaptive max pool: windows taken to be further apart than they are",
        regions,
        "scatter_places",
        "if apart == (1, 1):",
        "if True:",
        "adaptive_max_pool2d",
        "x",
    ),
    Mutation(
        "adaptive average pool: gradient of the opposite rows",
        regions,
        "spread_regions",
        "_sum(backend, values, rows, columns)",
        "_sum(backend, values[:, :, ::-1], rows, columns)",
        "adaptive_avg_pool2d",
        "x",
    ),
    Mutation(
        "unpooling: gradient from the neighbour's place",
        pooling_windows,
        "_unpool",
        "gather_places(gradient, places, ",
        "gather_places(gradient, (places + 1) % (size[0] * size[1]), ",
        "max_unpool2d",
        "x",
    ),
    Mutation(
        "average pool: divisor forgotten",
        pooling,
        "mean_over",
        "_spread(gradient / divisors, windows)",
        "_spread(gradient, windows)",
        "avg_pool2d",
        "x",
        "exactly 6x",
    ),
    Mutation(
        "average pool: only one side of the window counted",
        pooling,
        "mean_over",
        "_spread(gradient / divisors, windows)",
        "_spread(gradient / windows.k_h, windows)",
        "avg_pool2d",
        "x",
        "exactly 3x",
    ),
    Mutation(
        "average pool: padding counted where it is not to be",
        pooling,
        "mean_over",
        "_spread(gradient / divisors, windows)",
        "_spread(gradient / (windows.k_h * windows.k_w), windows)",
        "avg_pool2d border",
        "x",
    ),
    Mutation(
        "average pool: what hangs over the edge counted",
        pooling,
        "mean_over",
        "_spread(gradient / divisors, windows)",
        "_spread(gradient / (windows.k_h * windows.k_w), windows)",
        "avg_pool2d ceil",
        "x",
        "",
    ),
    Mutation(
        "average pool: overlapping windows overwrite each other",
        Backend,
        "spread_windows",
        "padded[:, :, rows, columns] += values",
        "padded[:, :, rows, columns] = values",
        "avg_pool2d",
        "x",
    ),
    Mutation(
        "average pool: gradient's own gradient twice",
        pooling,
        "_spread",
        "_sum(outer, windows)",
        "_sum(outer, windows) * 2",
        "avg_pool2d",
        SEED,
        "exactly 2x",
        order=2,
    ),
    Mutation(
        "global average: not divided by the pixels",
        Tensor,
        "mean",
        "(gradient / count)",
        "gradient",
        "global_avg_pool2d",
        "x",
        "exactly 6x: 1/N missing, N = 6",
    ),
    # Normalisation
    Mutation(
        "batch norm: way through the mean forgotten",
        HERE,
        "batch_norm",
        "scaled - through_mean - through_var",
        "scaled - through_var",
        "batch_norm",
        "x",
    ),
    Mutation(
        "batch norm: way through the variance forgotten",
        HERE,
        "batch_norm",
        "scaled - through_mean - through_var",
        "scaled - through_mean",
        "batch_norm",
        "x",
    ),
    Mutation(
        "batch norm: mean and variance taken for constants",
        HERE,
        "batch_norm",
        "scaled - through_mean - through_var",
        "scaled",
        "batch_norm",
        "x",
    ),
    Mutation(
        "batch norm: variance of ddof=1 in the gradient",
        HERE,
        "batch_norm",
        "x.var(axes, keepdims=True)",
        "x.var(axes, keepdims=True, ddof=1)",
        "batch_norm",
        "x, gamma",
    ),
    Mutation(
        "batch norm: eps forgotten in the gradient",
        HERE,
        "batch_norm",
        "x.var(axes, keepdims=True) + eps",
        "x.var(axes, keepdims=True)",
        "batch_norm",
        "x, gamma",
        "nearly right",
    ),
    Mutation(
        "batch norm: gamma's gradient summed over the wrong axes",
        HERE,
        "batch_norm",
        "(gradient * normal).sum(axes)",
        "(gradient * normal).sum((1, 2, 3))",
        "batch_norm",
        "gamma",
    ),
    Mutation(
        "batch norm: gamma's gradient averaged",
        HERE,
        "batch_norm",
        "(gradient * normal).sum(axes)",
        "(gradient * normal).mean(axes)",
        "batch_norm",
        "gamma",
        "exactly 1/8x",
    ),
    Mutation(
        "batch norm: gamma forgotten in the input gradient",
        HERE,
        "batch_norm",
        "gradient * gamma.reshape(shape)",
        "gradient",
        "batch_norm",
        "x",
    ),
    Mutation(
        "batch norm: standard deviation a constant at order 2",
        HERE,
        "batch_norm",
        "(x.var(axes, keepdims=True) + eps).sqrt()",
        "(x.detach().var(axes, keepdims=True) + eps).sqrt()",
        "batch_norm",
        "x",
        order=2,
    ),
    # Losses
    Mutation(
        "loss: 1/N missing",
        Tensor,
        "mean",
        "(gradient / count)",
        "gradient",
        "mse_loss",
        "x, target",
        "exactly 12x: 1/N missing, N = 12",
    ),
    Mutation(
        "loss: 1/N twice",
        Tensor,
        "mean",
        "(gradient / count)",
        "(gradient / count / count)",
        "binary_cross_entropy",
        "logits",
        "exactly 1/9x: divided twice by N = 9",
    ),
    Mutation(
        "cross-entropy: not divided",
        HERE,
        "fused_cross_entropy",
        " - terms) / total",
        " - terms)",
        "fused_cross_entropy",
        "logits",
        "exactly 4.5x everywhere: a constant factor?",
    ),
    Mutation(
        "cross-entropy: divided by the examples in place of their weights",
        HERE,
        "fused_cross_entropy",
        " - terms) / total",
        " - terms) / len(LABELS)",
        "fused_cross_entropy",
        "logits",
        "everywhere: a constant factor?",
    ),
    Mutation(
        "cross-entropy: label smoothing forgotten",
        HERE,
        "fused_cross_entropy",
        "(p * terms.sum(1, keepdims=True) - terms)",
        "((p - np.eye(classes)[LABELS]) * (CLASS_WEIGHTS[LABELS] * counted)[:, None])",
        "fused_cross_entropy",
        "logits",
    ),
    Mutation(
        "cross-entropy: class weights forgotten",
        HERE,
        "fused_cross_entropy",
        "(p * terms.sum(1, keepdims=True) - terms)",
        "((p - target) * counted[:, None])",
        "fused_cross_entropy",
        "logits",
    ),
    Mutation(
        "cross-entropy: ignored label not ignored",
        HERE,
        "fused_cross_entropy",
        "(p * terms.sum(1, keepdims=True) - terms)",
        "(p * (target * CLASS_WEIGHTS).sum(1, keepdims=True) - target * CLASS_WEIGHTS)",
        "fused_cross_entropy",
        "logits",
    ),
    Mutation(
        "cross-entropy: wrong sign",
        HERE,
        "fused_cross_entropy",
        "(p * terms.sum(1, keepdims=True) - terms)",
        "(terms - p * terms.sum(1, keepdims=True))",
        "fused_cross_entropy",
        "logits",
        "exactly -1x: sign?",
    ),
    Mutation(
        "cross-entropy: softmax over the batch",
        HERE,
        "fused_cross_entropy",
        "F.softmax(logits, 1)",
        "F.softmax(logits, 0)",
        "fused_cross_entropy",
        "logits",
    ),
    Mutation(
        "cross-entropy: sum over the classes forgotten in log_softmax",
        loss,
        "log_softmax",
        "gradient - output.exp() * gradient.sum(axis, keepdims=True)",
        "gradient",
        "cross_entropy",
        "logits",
    ),
    Mutation(
        "cross-entropy: smoothing's part detached",
        loss,
        "_likelihood",
        "_weighted(log_p, class_weights)",
        "_weighted(log_p.detach(), class_weights)",
        "cross_entropy",
        "logits",
    ),
    Mutation(
        "cross-entropy: gradient of the labels that do not count in place of those that do",
        loss,
        "where",
        "where(chosen, gradient, 0)",
        "where(~chosen, gradient, 0)",
        "cross_entropy",
        "logits",
    ),
    Mutation(
        "absolute error: negative side lost",
        Tensor,
        "abs",
        "self.backend.xp.sign(self.array)",
        "(self.array > 0)",
        "l1_loss",
        "x, target",
        "zero where it is wrong",
    ),
    Mutation(
        "softplus: slope mirrored",
        loss,
        "softplus",
        "sigmoid(x * beta)",
        "sigmoid(-x * beta)",
        "binary_cross_entropy",
        "logits",
    ),
    # Broadcasting
    Mutation(
        "broadcasting undone by a mean",
        autograd,
        "sum_to",
        "gradient.sum(",
        "gradient.mean(",
        "add, broadcast",
        "b",
        "exactly 1/4x: divided twice by N = 4",
    ),
    Mutation(
        "broadcasting undone by taking the first",
        autograd,
        "sum_to",
        "gradient.sum(tuple(range(extra)) + tuple(repeated), keepdims=True)",
        "gradient[:, :1]",
        "add, broadcast",
        "b",
    ),
    Mutation(
        "new leading axis averaged in place of summed",
        autograd,
        "sum_to",
        "gradient.sum(",
        "gradient.mean(",
        "linear",
        "bias",
        "exactly 1/3x: divided twice by N = 3",
    ),
    Mutation(
        "axis of length 1 not summed",
        autograd,
        "sum_to",
        "+ tuple(repeated)",
        "",
        "add, broadcast",
        raises="the gradient rule of 'add' returned shape (3, 4) for input 1",
    ),
    Mutation(
        "summed axis not kept",
        autograd,
        "sum_to",
        "keepdims=True",
        "keepdims=False",
        "add, broadcast",
        raises="the gradient rule of 'add' returned shape (3, 4) for input 1",
    ),
    Mutation(
        "new leading axis: the first in place of the sum",
        autograd,
        "sum_to",
        "gradient.sum(tuple(range(extra)) + tuple(repeated), keepdims=True)",
        "gradient[:1]",
        "add, new axis",
        "b",
    ),
    # Arithmetic
    Mutation("sub: sign", Tensor, "__sub__", "-gradient", "gradient", "sub", "b", "sign?"),
    Mutation(
        "mul: times the wrong factor",
        Tensor,
        "__mul__",
        "gradient * b",
        "gradient * a",
        "mul",
        "a",
    ),
    Mutation(
        "mul: one factor detached",
        Tensor,
        "__mul__",
        "gradient * b",
        "gradient * b.detach()",
        "mul",
        "b",
        "all zero: detached?",
        order=2,
    ),
    Mutation(
        "div: divisor not squared",
        Tensor,
        "__truediv__",
        "a / b / b",
        "a / b",
        "div",
        "b",
    ),
    Mutation(
        "div: sign of the divisor",
        Tensor,
        "__truediv__",
        "-gradient * (a",
        "gradient * (a",
        "div",
        "b",
        "sign?",
    ),
    Mutation(
        "pow: exponent not lowered",
        Tensor,
        "__pow__",
        "base ** (b - 1)",
        "base ** b",
        "pow",
        "a",
    ),
    Mutation(
        "pow: logarithm of the exponent in place of the base",
        Tensor,
        "__pow__",
        "base.log()",
        "b.log()",
        "pow",
        "b",
    ),
    Mutation(
        "sqrt: factor 2 forgotten",
        Tensor,
        "sqrt",
        "(output * 2)",
        "output",
        "sqrt",
        "x",
        "exactly 2x",
    ),
    Mutation(
        "matmul: gradient of a transposed",
        Tensor,
        "__matmul__",
        "gradient @ b.swapped()",
        "b @ gradient.swapped()",
        "matmul",
        "a",
        "transposed?",
    ),
    Mutation(
        "matmul: b not transposed",
        Tensor,
        "__matmul__",
        "gradient @ b.swapped()",
        "gradient @ b",
        "matmul",
        "a",
    ),
    Mutation(
        "matmul: factors swapped",
        Tensor,
        "__matmul__",
        "a.swapped() @ gradient",
        "gradient @ a.swapped()",
        "matmul",
        "b",
    ),
    Mutation(
        "matmul: gradient of a matrix shared by a stack from its first only",
        Tensor,
        "__matmul__",
        "a.swapped() @ gradient",
        "(a.swapped() @ gradient)[0]",
        "matmul of stacks",
        "b",
    ),
    Mutation(
        "einsum: letters of the gradient reversed",
        functions,
        "_contract",
        " terms[place], ",
        " terms[place][::-1], ",
        "einsum",
        "a, b",
        "transposed?",
    ),
    Mutation(
        "einsum: other operands detached",
        functions,
        "_contract",
        "*others",
        "*(x.detach() for x in others)",
        "einsum",
        "a, b",
        "all zero: detached?",
        order=2,
    ),
    # Indexing and shapes
    Mutation(
        "repeated index overwrites in the gradient",
        sums,
        "add_rows",
        "while (rows[1:] == rows[:-1]).any():",
        "while False:",
        "index, repeated",
        "x",
    ),
    Mutation(
        "repeated index added once, as NumPy's += does",
        sums,
        "add_rows",
        "values[at[second - 1]] += values[at[second]]",
        "pass",
        "index, repeated",
        "x",
    ),
    Mutation(
        "reversed slice not reversed back",
        tensor,
        "_put",
        "array[index] = gradient.array",
        "array[...] = gradient.array",
        "index, reversed",
        "x",
        "flipped along axes (0,)",
    ),
    Mutation(
        "slice put at the beginning",
        tensor,
        "_put",
        "array[index] = gradient.array",
        "array[:, :gradient.shape[1]] = gradient.array",
        "index, columns",
        "x",
        "shifted by -1 along axis 1",
    ),
    Mutation(
        "gradient of an index, differentiated, is half",
        tensor,
        "_put",
        "(outer[index],)",
        "(outer[index] * 0.5,)",
        "index, repeated",
        SEED,
        "exactly half",
        order=2,
    ),
    Mutation(
        "transpose: order not inverted",
        Tensor,
        "transpose",
        "gradient.transpose(inverse)",
        "gradient.transpose(order)",
        "transpose",
        "x",
        "transposed?",
    ),
    Mutation(
        "concatenate: pieces exchanged",
        functions,
        "concatenate",
        "zip(tensors, shapes, ends, strict=True)",
        "zip(tensors, shapes, ends[::-1], strict=True)",
        "concatenate",
        "a, b",
    ),
    Mutation(
        "pad: gradient taken from the corner",
        functions,
        "pad",
        "gradient[inside]",
        "gradient[tuple(slice(size) for size in x.shape)]",
        "pad",
        "x",
    ),
    Mutation(
        "where: branches exchanged",
        functions,
        "where",
        "where(chosen, gradient, 0) if a.requires_grad else None,\n"
        "            where(chosen, 0, gradient)",
        "where(chosen, 0, gradient) if a.requires_grad else None,\n"
        "            where(chosen, gradient, 0)",
        "where",
        "a, b",
    ),
    Mutation(
        "where: condition forgotten for one branch",
        functions,
        "where",
        "where(chosen, gradient, 0)",
        "gradient",
        "where",
        "a",
    ),
    # Maxima and reductions
    Mutation(
        "maximum: gradient to the smaller",
        functions,
        "_larger",
        '(a < b, a > b) if op == "maximum"',
        '(a > b, a < b) if op == "maximum"',
        "maximum",
        "a, b",
    ),
    Mutation(
        "maximum: both get all where they are equal",
        functions,
        "_larger",
        "gradient.dtype.type(0.5) * (a == b)",
        "gradient.dtype.type(0) * (a == b)",
        "maximum, all ties",
        "x",
        "exactly 2x: added twice?",
    ),
    Mutation(
        "max: equal ones do not share",
        tensor,
        "_extreme",
        "winners / winners.sum(axes, keepdims=True)",
        "winners * 1.0",
        "max, all ties",
        "x",
        "exactly 2x: added twice?",
    ),
    Mutation(
        "max: shared over the wrong axes",
        tensor,
        "_extreme",
        "winners.sum(axes, keepdims=True)",
        "winners.sum(keepdims=True)",
        "max",
        "x",
        "exactly 1/3x: divided twice by N = 3",
    ),
    Mutation(
        "clip: gradient passes where it is cut off",
        Tensor,
        "clip",
        "x.array == xp.clip(x.array, low, high)",
        "x.array != xp.clip(x.array, low, high)",
        "clip",
        "x",
    ),
    Mutation(
        "sum: gradient of the first element only",
        Tensor,
        "sum",
        "gradient.reshape(kept).broadcast_to(self.shape)",
        "gradient.reshape(kept).broadcast_to(self.shape) * (np.arange(len(self)) == 0)[:, None]",
        "sum",
        "x",
        "zero where it is wrong: part of the gradient lost?",
    ),
    Mutation(
        "mean: along the wrong axis",
        Tensor,
        "mean",
        "gradient / count",
        "gradient / len(x)",
        "mean",
        "x",
        "everywhere: a constant factor?",
    ),
    Mutation(
        "var: its mean a constant, which only the second derivative shows",
        operations,
        "_centred",
        "x - x.mean(axis, keepdims=True)",
        "x - x.mean(axis, keepdims=True).detach()",
        "var",
        "x",
        order=2,
    ),
    # Activations
    Mutation(
        "tanh: output not squared",
        Tensor,
        "tanh",
        "output * output",
        "output",
        "tanh",
        "x",
    ),
    Mutation(
        "tanh: gradient made of plain arrays",
        Tensor,
        "tanh",
        "gradient * (1 - output * output)",
        "Tensor.wrap(gradient.array * (1 - output.array**2))",
        "tanh",
        f"x, {SEED}",
        "all zero: detached?",
        order=2,
    ),
    Mutation(
        "tanh: float32 inside",
        Tensor,
        "tanh",
        "1 - output * output",
        "1 - (output * output).to(dtype=np.float32)",
        "tanh",
        "x",
        "nearly right: float32 inside",
        rtol=1e-8,  # one rounding to float32 is smaller than what is allowed by default
    ),
    Mutation(
        "sigmoid: factor forgotten",
        activation,
        "sigmoid",
        "(output * (1 - output))",
        "(1 - output)",
        "sigmoid",
        "x",
    ),
    Mutation(
        "sigmoid: output detached",
        activation,
        "sigmoid",
        "(output * (1 - output))",
        "(output.detach() * (1 - output.detach()))",
        "sigmoid",
        "x",
        "all zero: detached?",
        order=2,
    ),
    Mutation(
        "sigmoid: gradient detached",
        activation,
        "sigmoid",
        "(gradient * (output * (1 - output)),)",
        "((gradient * (output * (1 - output))).detach(),)",
        "sigmoid",
        f"x, {SEED}",
        "all zero: detached?",
        order=2,
    ),
    Mutation(
        "softmax: only the diagonal",
        activation,
        "softmax",
        "weighted - output * weighted.sum(axis, keepdims=True)",
        "weighted - output * weighted",
        "softmax",
        "x",
    ),
    Mutation(
        "softmax: summed over everything",
        activation,
        "softmax",
        "weighted.sum(axis, keepdims=True)",
        "weighted.sum(None, keepdims=True)",
        "softmax",
        "x",
    ),
    Mutation(
        "log_softmax: sum over the batch",
        activation,
        "log_softmax",
        "gradient.sum(axis, keepdims=True)",
        "gradient.sum(0, keepdims=True)",
        "log_softmax",
        "x",
    ),
    Mutation(
        "relu: mask forgotten",
        F,
        "relu",
        "gated(gradient, x.array)",
        "gradient",
        "relu",
        "x",
    ),
    Mutation(
        "relu after a convolution: mask forgotten",
        F,
        "conv2d_relu",
        "gated(gradient, out.array)",
        "gradient",
        "conv2d_relu",
        "bias, weight, x",
    ),
    Mutation(
        "relu: mask forgotten in the gradient's gradient",
        activation,
        "gated",
        "(gated(outer, x),)",
        "(outer,)",
        "relu",
        SEED,
        order=2,
    ),
    Mutation(
        "leaky_relu: saved slopes changed in forward",
        activation,
        "leaky_relu",
        'return record("leaky_relu", x.array * factor, (x,), backward)',
        "out = x.array * factor\n    factor[...] = 1\n"
        '    return record("leaky_relu", out, (x,), backward)',
        "leaky_relu",
        "x",
        "exactly 5x where it is wrong",
    ),
    Mutation(
        "elu: alpha forgotten",
        activation,
        "elu",
        "alpha * below.exp()",
        "below.exp()",
        "elu",
        "x",
        "where it is wrong",
    ),
    Mutation(
        "gelu: pi too short",
        activation,
        "_normal_cdf",
        "math.sqrt(0.5 / math.pi)",
        "math.sqrt(0.5 / 3.1415)",
        "gelu",
        "x",
        "nearly right",
    ),
    # Normalisation, as the package has it: sums in one kernel, a line in another
    Mutation(
        "normalisation: way through the mean forgotten",
        normalization,
        "_input_gradient",
        "offset = -statistics.mean * slope - total / count",
        "offset = -statistics.mean * slope",
        "F.batch_norm",
        "x",
    ),
    Mutation(
        "normalisation: way through the variance forgotten",
        normalization,
        "_input_gradient",
        "slope = -statistics.inverse * along / count",
        "slope = 0 * along",
        "F.layer_norm",
        "x",
    ),
    Mutation(
        "normalisation: way through the variance with the wrong sign",
        normalization,
        "_input_gradient",
        "slope = -statistics.inverse * along / count",
        "slope = statistics.inverse * along / count",
        "F.batch_norm",
        "x",
    ),
    Mutation(
        "normalisation: divided by n - 1 in the gradient",
        normalization,
        "_input_gradient",
        "count, world, axes = statistics.values",
        "count, world, axes = statistics.values - 1",
        "F.batch_norm",
        "x",
    ),
    Mutation(
        "normalisation: numbers taken for images only, not pixels",
        normalization,
        "_input_gradient",
        "count, world, axes = statistics.values",
        "count, world, axes = len(x)",
        "F.batch_norm",
        "x",
    ),
    Mutation(
        "normalisation: weight forgotten in the input gradient",
        normalization,
        "_input_gradient",
        "statistics.inverse * weight.array",
        "statistics.inverse",
        "F.batch_norm",
        "x",
    ),
    Mutation(
        "normalisation: products with x in place of deviations from the mean",
        normalization,
        "_sums",
        "(products - statistics.mean * total)",
        "products",
        "F.batch_norm around 0",
        "x, weight",
    ),
    Mutation(
        "normalisation: what is left of a far mean forgotten",
        normalization,
        "_input_gradient",
        "offset = -statistics.mean * slope - total / count",
        "offset = -20 * slope - total / count",
        "F.batch_norm far from 0",
        "x",
    ),
    Mutation(
        "normalisation: centre forgotten by the gradient's sums",
        normalization,
        "_sums",
        "x.array, statistics.centre, gradient.array",
        "x.array, None, gradient.array",
        "F.batch_norm far from 0",
        "x, weight",
    ),
    Mutation(
        "normalisation: deviation not divided by in the weight's gradient",
        normalization,
        "_weight_gradient",
        "out = sums[1]",
        "out = (sums[1] / statistics.inverse)",
        "F.batch_norm",
        "weight",
    ),
    Mutation(
        "normalisation: bias gradient twice",
        normalization,
        "_bias_gradient",
        "total.astype",
        "(2 * total).astype",
        "F.batch_norm",
        "bias",
        "exactly 2x",
    ),
    Mutation(
        "normalisation kernel: gradient with the wrong sign",
        channel_kernels,
        "channel_lines",
        "line += other[part]",
        "line -= other[part]",
        "F.batch_norm",
        "x",
    ),
    Mutation(
        "normalisation of order 2: deviation a constant",
        normalization,
        "_input_gradient",
        "normal * mean(outer * ours)",
        "0 * normal",
        "F.batch_norm",
        "x",
        order=2,
    ),
    Mutation(
        "normalisation of order 2: one of two symmetric terms",
        normalization,
        "_input_gradient",
        "+ theirs * mean(gradient * normal)",
        "",
        "F.layer_norm",
        "x",
        order=2,
    ),
    Mutation(
        "normalisation of order 2: sign of the change of x",
        normalization,
        "_input_gradient",
        "-scale * change",
        "scale * change",
        "F.batch_norm",
        "x",
        order=2,
    ),
    Mutation(
        "normalisation of order 2: weight of the outer map",
        normalization,
        "_weight_gradient",
        "else (gradient, outer)",
        "else (gradient, None)",
        "F.batch_norm",
        "x",
        order=2,
    ),
    Mutation(
        "normalisation of order 2: gradient of the weight averaged",
        normalization,
        "_input_gradient",
        "(outer * ours).sum(axes)",
        "(outer * ours).mean(axes)",
        "F.batch_norm",
        "weight",
        order=2,
    ),
    Mutation(
        "normalisation in evaluation: weight forgotten",
        normalization,
        "_input_gradient",
        "scale = inverse if weight is None else inverse * weight",
        "scale = inverse",
        "F.batch_norm in evaluation",
        "x",
    ),
    Mutation(
        "normalisation in evaluation: gradient as in training",
        normalization,
        "_input_gradient",
        "if statistics.fixed:",
        "if False:",
        "F.batch_norm in evaluation",
        "x",
    ),
    # Regions, sequences and maps
    Mutation(
        "interpolate: weights forgotten",
        resampling.Band,
        "transposed",
        "self.weights[rows, taps]",
        "self.weights[rows, taps] * 0 + 1",
        "interpolate",
        "x",
    ),
    Mutation(
        "interpolate: all taps at the first pixel",
        resampling.Band,
        "transposed",
        "self.first[rows] + taps",
        "self.first[rows]",
        "interpolate",
        "x",
    ),
    Mutation(
        "roi_align2d: boxes of other images",
        boxes,
        "_spread_means",
        "if own == image:",
        "if own is not None:",
        "roi_align2d",
        "x",
    ),
    Mutation(
        "roi_pool2d: mean over the bins that a pixel wins",
        boxes,
        "_put",
        "xp.bincount(flat, given, n * h * w * c + 1)",
        "(xp.bincount(flat, given, n * h * w * c + 1) "
        "/ xp.bincount(flat, None, n * h * w * c + 1).clip(1))",
        "roi_pool2d",
        "x",
    ),
    Mutation(
        "roi_pool2d: bins without pixels counted before the first",
        boxes,
        "_put",
        "pixels[:-1].reshape",
        "pixels[1:].reshape",
        "roi_pool2d",
        "x",
    ),
    Mutation(
        "deform_conv2d: corners exchanged",
        deformable,
        "_agree",
        "pixels[part, k]",
        "pixels[part, 3 - k]",
        "deform_conv2d",
        "offset, mask",
    ),
    Mutation(
        "deform_conv2d: samples overwrite each other",
        deformable,
        "_spread",
        "backend.index_add(table, pixels.T.reshape(-1), given.T)",
        "table[pixels.T.reshape(-1)] = given.T",
        "deform_conv2d",
        "x",
    ),
    Mutation(
        "attention: scale of the scores forgotten",
        attention,
        "_backward",
        "dq[part] *= factor",
        "pass",
        "attention",
        "q",
    ),
    Mutation(
        "attention: only the diagonal of softmax",
        attention,
        "_backward",
        'slopes -= xp.einsum("...s,...s->...", weights, slopes)[..., None]',
        "pass",
        "attention",
        "k, q",
    ),
    Mutation(
        "gru: sigmoid's slope of r forgotten",
        cells,
        "_gru_slopes",
        " * inner * (1 - r)",
        " * inner",
        "gru",
        "h0, u, w, x",
    ),
    Mutation(
        "gru: steps that are off not masked",
        cells,
        "gru_backward",
        "rows *= ~off[:, part, :, None]",
        "pass",
        "gru",
        "h0, u, w, x",
    ),
    Mutation(
        "lstm: tanh taken for a sigmoid",
        cells,
        "_lstm_slopes",
        "(1 - g) * (1 + g) * i",
        "(1 - g) * i",
        "lstm",
        "c0, h0, u, w, x",
    ),
    Mutation(
        "lstm: cells get no gradient of the output",
        cells,
        "lstm_backward",
        "xp.add(dc, spare, out=dc)",
        "pass",
        "lstm",
        "c0, h0, u, w, x",
    ),
    Mutation(
        "pixel cross-entropy: target not subtracted",
        loss_kinds,
        "_slope",
        "-= gradient[part] * factors[part]",
        "-= 0",
        "pixel_cross_entropy",
        "logits",
    ),
    Mutation(
        "pixel cross-entropy: weights forgotten",
        loss_kinds,
        "_slope",
        "(gradient[part] * whole[part])",
        "(gradient[part])",
        "pixel_cross_entropy",
        "logits",
    ),
    Mutation(
        "huber: not clipped",
        loss_kinds,
        "_huber",
        "d.clip(-limit, limit) * scale",
        "d * scale",
        "huber_loss",
        "x",
    ),
    # The engine
    Mutation(
        "accumulation overwrites",
        autograd,
        "accumulate",
        "gradient if before is None else before + gradient",
        "gradient",
        "used twice",
        "x",
    ),
    Mutation(
        "accumulation in place, into a gradient that another tensor shares",
        autograd,
        "accumulate",
        "before + gradient",
        "added_in_place(before, gradient)",
        "shared gradient",
        "b",
        raises="modified the gradient that it was given",
    ),
]


def added_in_place(before: Tensor, gradient: Tensor) -> Tensor:
    before.array.setflags(write=True)
    return Tensor.wrap(np.add(before.array, gradient.array, out=before.array))


def mutant(mutation: Mutation) -> Callable[..., Any]:
    """Return the function with the bug in it."""
    function = getattr(mutation.owner, mutation.name)
    function = inspect.unwrap(function)  # below without_underflow
    source = textwrap.dedent(inspect.getsource(function))
    count = source.count(mutation.old)
    assert count == 1, (
        f"the mutation {mutation.bug!r} is stale: {mutation.old!r} comes {count} times in "
        f"{function.__qualname__}"
    )
    namespace = {**function.__globals__, "added_in_place": added_in_place}
    code = compile(source.replace(mutation.old, mutation.new), f"<{mutation.bug}>", "exec")
    exec(code, namespace)
    return namespace[function.__name__]


@pytest.fixture(autouse=True)
def same_kernels():
    """Restore the kernels that `use_its_kernels` changed."""
    before = minidl.get_kernels()
    yield
    minidl.set_kernels(before)


def use_its_kernels(mutation: Mutation) -> None:
    """Run what the mutation is in: fast kernels have other forms of some convolutions."""
    if mutation.name in ("transpose_convolve", "weight_gradient"):
        minidl.set_kernels("plain")


def plant(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    use_its_kernels(mutation)
    monkeypatch.setattr(mutation.owner, mutation.name, mutant(mutation))


def wrong_inputs(fn: Callable[..., Any], inputs: Any, **options: Any) -> dict[str, InputCheck]:
    """Return what was found for each input whose gradient is wrong, by name."""
    with pytest.raises(GradcheckError) as error:
        gradcheck(fn, inputs, **options)
    return {c.name: c for c in error.value.report.checks if c.wrong}


@functools.cache  # several mutations have the same call
def check_clean(name: str, fast: bool) -> None:
    gradcheck(CALLS[name].fn, CALLS[name].draw(3), order=2, fast=fast)


def mutation_of(bug: str) -> Mutation:
    return next(m for m in MUTATIONS if m.bug == bug)


def check_draws(call: Call, draws: int) -> None:
    """Check at points that are not chosen to be far from kinks; at some, the second derivative."""
    for seed in range(draws):
        gradcheck(call.fn, call.draw(seed), order=2 if seed % 20 == 0 else 1, seed=1000 + seed)


def check_found(mutation: Mutation, found: dict[str, InputCheck]) -> None:
    assert sorted(found) == sorted(mutation.wrong.split(", "))
    for check in found.values():
        assert check.order == mutation.order
        assert mutation.says in check.diagnosis


# Tests ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolve small images by columns: bugs are planted there, not in `planar` or `winograd`."""
    monkeypatch.setattr(planar, "CHANNELS", 0)
    monkeypatch.setattr(winograd, "suits", lambda *_: False)


def test_every_call_has_a_mutation_and_no_mutation_comes_twice():
    assert len({(m.owner, m.name, m.old, m.new, m.call) for m in MUTATIONS}) == len(MUTATIONS) > 100
    assert {m.call for m in MUTATIONS} == set(CALLS)


def test_a_mutation_whose_source_text_has_changed_says_so():
    with pytest.raises(
        AssertionError, match=r"'old' is stale: 'gone' comes 0 times in Tensor.tanh"
    ):
        mutant(Mutation("old", Tensor, "tanh", "gone", "", "tanh"))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.bug)
def test_a_bug_is_caught_and_the_right_input_named(mutation, monkeypatch):
    call = CALLS[mutation.call]
    inputs = call.draw(3)
    use_its_kernels(mutation)
    check_clean(mutation.call, fast=False)
    gradcheck(call.fn, inputs, rtol=mutation.rtol)
    output = call.fn(*map(Tensor, inputs)).numpy()

    plant(monkeypatch, mutation)
    same = np.array_equal(call.fn(*map(Tensor, inputs)).numpy(), output)
    assert same, "the bug is to be in the gradient alone"
    if mutation.raises:
        with pytest.raises((RuntimeError, ValueError), match=re.escape(mutation.raises)):
            gradcheck(call.fn, inputs)
        return
    check_found(mutation, wrong_inputs(call.fn, inputs, order=2, rtol=mutation.rtol))


ALONG_DIRECTIONS = [m for m in MUTATIONS if not m.raises and "float32" not in m.bug]


@pytest.mark.parametrize("mutation", ALONG_DIRECTIONS, ids=lambda m: m.bug)
def test_a_bug_is_caught_along_random_directions_too(mutation, monkeypatch):
    call = CALLS[mutation.call]
    check_clean(mutation.call, fast=True)
    plant(monkeypatch, mutation)
    check_found(mutation, wrong_inputs(call.fn, call.draw(3), order=2, fast=True))


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("name", CALLS)
def test_right_gradients_pass_at_random_points(name, draws):
    check_draws(CALLS[name], draws)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("name", ZERO_BY_CANCELLATION)
def test_gradients_that_are_zero_but_for_rounding_pass_at_random_points(name, draws):
    check_draws(ZERO_BY_CANCELLATION[name], draws)


def test_the_fused_cross_entropy_is_the_package_s_own():
    x = np.random.default_rng(0).normal(size=(4, 3))
    mine, other = CALLS["fused_cross_entropy"].fn, CALLS["cross_entropy"].fn
    assert mine(Tensor(x)).item() == pytest.approx(other(Tensor(x)).item(), rel=1e-14)


def test_output_gradients_of_one_would_hide_a_bug_in_batch_norm(monkeypatch):
    # The outputs of a channel add up to the same, whatever the inputs: the gradient of their sum is
    # 0, and with this bug it still is. Gradcheck catches it since it draws output gradients.
    def gradient_of_sum() -> np.ndarray:
        inputs = [Tensor(a, requires_grad=True) for a in CALLS["batch_norm"].draw(3)]
        batch_norm(*inputs).sum().backward()
        return inputs[0].grad.numpy()

    np.testing.assert_allclose(gradient_of_sum(), 0, atol=1e-14)
    mutation = mutation_of("batch norm: way through the variance forgotten")
    plant(monkeypatch, mutation)
    np.testing.assert_allclose(gradient_of_sum(), 0, atol=1e-14)
    check_found(mutation, wrong_inputs(batch_norm, CALLS["batch_norm"].draw(3)))


def test_who_wins_a_tie_is_no_error_but_reported(monkeypatch):
    # The first or the last of the equal pixels gets the gradient: differences cannot tell which.
    def check(winner: list[int]) -> None:
        x = Tensor(np.zeros((1, 1, 1, 2)), requires_grad=True)
        F.max_pool2d(x, (1, 2)).sum().backward()
        assert x.grad.numpy().ravel().tolist() == winner
        (found,) = gradcheck(lambda x: F.max_pool2d(x, (1, 2)), x).checks
        assert found.kinks == ((0, 0, 0, 0), (0, 0, 0, 1))

    check([1, 0])
    last = Mutation("the last wins", Backend, "find_winners", "value > best", "value >= best", "")
    monkeypatch.setattr(NumpyBackend, "find_winners", mutant(last))
    check([0, 1])


def test_a_forward_in_float32_is_caught_as_well(monkeypatch):
    x = np.linspace(-1, 1, 5)
    gradcheck(Tensor.exp, x)
    narrow = "np.exp(x.array.astype(np.float32)).astype(np.float64)"
    plant(monkeypatch, Mutation("float32", Tensor, "exp", 'each("exp", x)', narrow, ""))
    assert len(wrong_inputs(lambda x: x.exp(), x)) == 1


@pytest.mark.parametrize(
    "bug",
    [
        "weight gradient: taps taken for channels",
        "softmax: only the diagonal",
        "div: sign of the divisor",
    ],
)
def test_a_bug_is_caught_with_float32_inputs(bug, monkeypatch):
    mutation = mutation_of(bug)
    call = CALLS[mutation.call]
    inputs = [Tensor(a, dtype=np.float32) for a in call.draw(4)]
    gradcheck(call.fn, inputs)
    plant(monkeypatch, mutation)
    check_found(mutation, wrong_inputs(call.fn, inputs))
    assert all(x.dtype == np.float32 for x in inputs)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("bug", "wrong"),
    [
        ("weight gradient: taps taken for channels", {"0.weight"}),
        ("bias gradient: batch axis not summed", {"0.bias"}),
        ("new leading axis averaged in place of summed", {"3.bias"}),
        ("relu: mask forgotten", {"x", "0.weight", "0.bias"}),
    ],
)
def test_a_bug_in_a_network_names_the_parameter(bug, wrong, fast, monkeypatch):
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(2, 2, 2, rng=rng), nn.Flatten(), nn.ReLU(), nn.Linear(8, 3, rng=rng)
    )
    x = Tensor(rng.normal(size=(3, 2, 3, 3)))
    gradcheck(model, x, fast=fast)
    plant(monkeypatch, mutation_of(bug))
    assert set(wrong_inputs(model, x, fast=fast)) == wrong
