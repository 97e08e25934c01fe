"""Converters of the functions in `functional` to ONNX; `operations` explains converters.

Functions that are missing here are composed of others. ONNX convolves and pools both sequences and
images; pooling that it lacks treats sequences as images one pixel tall, as minidl does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from minidl.backends import Windows
from minidl.checks import pair
from minidl.functional.geometry import conv_geometry, pool_windows, transpose_geometry
from minidl.functional.normalization import normal_shape
from minidl.functional.pooling.basic import divisors_of
from minidl.functional.pooling.sized import output_size_of
from minidl.onnx.graph import Graph, host, ints
from minidl.onnx.operations import Converter
from minidl.onnx.protobuf import DTYPES, OPSET
from minidl.tensor import Tensor

# Convolution and linear maps ------------------------------------------------------------------


def _options(w: Windows, axes: int) -> dict[str, Any]:
    """Return the geometry of windows as ONNX's options."""
    pairs = {"kernel_shape": (w.k_h, w.k_w), "strides": (w.stride_h, w.stride_w)}
    if (w.dilation_h, w.dilation_w) != (1, 1):  # AveragePool has none
        pairs["dilations"] = (w.dilation_h, w.dilation_w)
    pads = (w.top, w.left, w.bottom, w.right) if axes == 2 else (w.left, w.right)
    return {name: pair[-axes:] for name, pair in pairs.items()} | {"pads": pads}


def _given(*values: Any) -> list[Any]:
    return [value for value in values if value is not None]


def _conv(g: Graph, c: Any) -> str:
    w = conv_geometry("conv", c.weight.shape[2:], c.stride, c.padding, c.dilation)
    options = _options(w, c.x.ndim - 2) | {"group": c.groups}
    return g.add("Conv", *_given(c.x, c.weight, c.bias), **options)


def _conv_relu(g: Graph, c: Any) -> str:
    return g.add("Relu", _conv(g, c))


def _conv_relu_pool(g: Graph, c: Any) -> str:
    w = conv_geometry("conv", c.weight.shape[2:], c.stride, c.padding, c.dilation)
    w = replace(w, in_h=c.x.shape[2], in_w=c.x.shape[3])
    geometry = (c.pool_size, c.pool_stride, c.pool_padding, c.pool_dilation, c.ceil_mode)
    pool = pool_windows("pool", c.x, *geometry, shape=(*c.out.shape[:2], w.out_h, w.out_w))
    return g.add("MaxPool", _conv_relu(g, c), **_options(pool, 2))


def _conv_transpose(g: Graph, c: Any) -> str:
    geometry = (c.stride, c.padding, c.output_padding, c.dilation)
    strides, pads, extra, dilations = transpose_geometry("conv_transpose2d", *geometry)
    options = {"strides": strides, "dilations": dilations, "group": c.groups}
    if all(e < s for e, s in zip(extra, strides, strict=True)):
        options |= {"pads": pads * 2, "output_padding": extra}
        return g.add("ConvTranspose", *_given(c.x, c.weight, c.bias), **options)
    name = g.add("ConvTranspose", c.x, c.weight, **options)  # ONNX adds less than a stride
    sides = [0, 0, *(-p for p in pads), 0, 0, *(e - p for e, p in zip(extra, pads, strict=True))]
    name = g.add("Pad", name, ints(sides))
    return name if c.bias is None else g.add("Add", name, _per_channel(g, c.bias))


def _linear(g: Graph, c: Any) -> str:
    if c.x.ndim == 2:
        return g.add("Gemm", *_given(c.x, c.weight, c.bias), transB=1)
    product = g.add("MatMul", c.x, g.add("Transpose", c.weight, perm=(1, 0)))
    return product if c.bias is None else g.add("Add", product, c.bias)


def _embedding(g: Graph, c: Any) -> str:
    kept = g.knows(c.indices) and c.indices.dtype in (np.int32, np.int64)
    return g.add("Gather", c.weight, c.indices if kept else g.cast(c.indices, np.int64))


# Activations ----------------------------------------------------------------------------------


def _softplus(g: Graph, c: Any) -> str:
    if c.beta == 1:
        return g.add("Softplus", c.x)
    return g.add("Div", g.add("Softplus", g.add("Mul", c.x, float(c.beta))), float(c.beta))


def _gelu(g: Graph, c: Any) -> str:
    if c.approximate == "tanh":
        cubes = g.add("Mul", g.add("Pow", c.x, 3.0), 0.044715)
        inner = g.add("Mul", g.add("Add", c.x, cubes), math.sqrt(8 / math.pi))
        return g.add("Mul", c.x, g.add("Sigmoid", inner))
    twice = g.add("Add", g.add("Erf", g.add("Mul", c.x, math.sqrt(0.5))), 1.0)
    return g.add("Mul", g.add("Mul", c.x, twice), 0.5)


# Resampling -----------------------------------------------------------------------------------


def _interpolate(g: Graph, c: Any) -> str:
    scaled = c.scale_factor is not None and (c.mode == "nearest" or not c.align_corners)
    factors = c.scale_factor if isinstance(c.scale_factor, (tuple, list)) else (c.scale_factor,) * 2
    target: list[Any] = ["", np.asarray((1, 1, *factors), np.float32)] if scaled else ["", ""]
    if not scaled:
        target.append(ints(c.out.shape))
    where = "align_corners" if c.align_corners else "half_pixel"
    options: dict[str, Any] = {
        "mode": {"bilinear": "linear", "bicubic": "cubic"}.get(c.mode, c.mode)
    }
    if c.mode == "nearest":
        where, options["nearest_mode"] = "asymmetric", "floor"
    return g.add("Resize", c.x, *target, coordinate_transformation_mode=where, **options)


def _regions(align: bool) -> Converter:
    def convert(g: Graph, c: Any) -> str:
        out_h, out_w = pair("roi", "output_size", c.output_size, 1)
        scale, boxes = float(c.spatial_scale), g.cast(c.boxes)
        if not align:
            return g.add(
                "MaxRoiPool", c.images, boxes, pooled_shape=(out_h, out_w), spatial_scale=scale
            )
        corners = g.add("Gather", boxes, ints([1, 2, 3, 4]), axis=1)
        index = g.add("Gather", boxes, ints(0).reshape(()), axis=1)
        return g.add(
            "RoiAlign",
            c.images,
            corners,
            g.add("Cast", index, to=DTYPES["int64"]),
            coordinate_transformation_mode="half_pixel" if c.aligned else "output_half_pixel",
            output_height=out_h,
            output_width=out_w,
            sampling_ratio=max(0, int(c.sampling_ratio)),
            spatial_scale=scale,
        )

    return convert


# Normalisation --------------------------------------------------------------------------------


def _batch_norm(g: Graph, c: Any) -> str:
    scale, offset = np.ones(c.x.shape[1], g.dtype), np.zeros(c.x.shape[1], g.dtype)
    affine = (scale if c.weight is None else c.weight, offset if c.bias is None else c.bias)
    statistics = (c.running_mean, c.running_var)
    return g.add("BatchNormalization", c.x, *affine, *statistics, epsilon=float(c.eps))


def _layer_norm(g: Graph, c: Any) -> str:
    shape = normal_shape("layer_norm", c.normalized_shape)
    weight = np.ones(shape, g.dtype) if c.weight is None else c.weight
    options = {"axis": -len(shape), "epsilon": float(c.eps)}
    return g.add("LayerNormalization", c.x, *_given(weight, c.bias), **options)


def _group_norm(g: Graph, c: Any) -> str:
    n, *sizes = c.x.shape
    groups = g.reshape(c.x, (n, c.num_groups, math.prod(sizes) // c.num_groups))
    plain = (np.ones(c.num_groups, g.dtype), np.zeros(c.num_groups, g.dtype))
    name = g.add("InstanceNormalization", groups, *plain, epsilon=float(c.eps))
    name = g.reshape(name, c.x.shape)
    for op, values in (("Mul", c.weight), ("Add", c.bias)):
        name = name if values is None else g.add(op, name, _per_channel(g, values, c.x.ndim - 2))
    return name


def _per_channel(g: Graph, values: Any, axes: int = 2) -> Any:
    """Return `(c,)` values in a shape that combines with images; numbers as they are."""
    if not isinstance(values, Tensor):
        return float(values)
    return g.reshape(values, (*values.shape, *(1,) * axes)) if values.shape and axes else values


# Windows --------------------------------------------------------------------------------------


def _windows(c: Any, axes: int) -> Windows:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = {name: getattr(c, name) for name in names if hasattr(c, name)}
    return pool_windows("pool", c.x, axes=axes, **given)


def _max(g: Graph, x: Any, w: Windows, axes: int, indices: bool = False) -> Any:
    if not indices and (max(w.top, w.bottom) >= w.k_h or max(w.left, w.right) >= w.k_w):
        pads = _options(w, axes)["pads"]  # more than MaxPool accepts
        x = g.add("Pad", x, ints([0, 0, *pads[:axes], 0, 0, *pads[axes:]]), -math.inf)
        w = Windows(w.padded_h, w.padded_w, *astuple(w)[2:8])
    if not indices:
        return g.add("MaxPool", x, **_options(w, axes))
    best, places = g.add_many(2, "MaxPool", x, **_options(w, axes))
    return best, g.add("Mod", places, ints(w.in_h * w.in_w))  # ONNX counts over all images


def _mean(g: Graph, x: Any, w: Windows, axes: int = 2, padded: bool = False) -> str:
    """Average the pixels of each window; padding counts if `padded`."""
    return g.add("AveragePool", x, **_options(w, axes), count_include_pad=int(padded))


def _max_pool(g: Graph, c: Any, axes: int) -> Any:
    return _max(g, c.x, _windows(c, axes), axes, c.return_indices)


def _min_pool(g: Graph, c: Any, axes: int) -> str:
    return g.add("Neg", _max(g, g.add("Neg", c.x), _windows(c, axes), axes))


def _avg_pool(g: Graph, c: Any, axes: int) -> str:
    w, fixed = _windows(c, axes), getattr(c, "divisor_override", None)
    if not c.count_include_pad and fixed is None:
        return _mean(g, c.x, w, axes)
    mean = _mean(g, c.x, w, axes, padded=True)  # sum / (k_h * k_w), even at the edges
    factor = w.k_h * w.k_w / host(fixed or divisors_of(c.x.backend, w, True, g.dtype))
    return mean if (factor == 1).all() else g.add("Mul", mean, np.asarray(factor, g.dtype))


def _lp_pool(g: Graph, c: Any, axes: int) -> Any:
    w, p = _windows(c, axes), float(c.norm_type)
    if math.isinf(p):
        return _max(g, g.add("Abs", c.x), w, axes)
    if p == 2 and not w.is_padded:
        return g.add("LpPool", c.x, **_options(w, axes), p=2)
    x, most = (c.x, 1.0) if p == 1 else _scaled(g, c.x)
    mean = _mean(g, x if p == 1 else g.add("Pow", x, p), w, axes)  # LpPool would take abs
    total = g.add("Mul", mean, float(w.k_h * w.k_w))
    return total if p == 1 else g.add("Mul", g.add("Pow", total, 1 / p), most)


def _scaled(g: Graph, x: Any) -> tuple[str, str]:
    """Divide images by their largest pixels, so that powers do not overflow; return both."""
    most = g.add("GlobalMaxPool", g.add("Abs", x))
    most = g.add("Max", most, float(np.finfo(g.dtype).tiny))
    return g.add("Div", x, most), most


def _channel_pool(op: str) -> Converter:
    def convert(g: Graph, c: Any) -> str:
        n, channels, *rest = c.x.shape
        groups = g.reshape(c.x, (n, channels // c.size, c.size, *rest))
        return g.add(op, groups, ints(2), keepdims=0)

    return convert


def _blur_pool(g: Graph, c: Any) -> str:
    last, channels = c.filter_size - 1, c.x.shape[1]
    row = np.array([math.comb(last, i) for i in range(last + 1)]) / 2**last
    weight = np.tile(np.outer(row, row).astype(g.dtype), (channels, 1, 1, 1))
    sides = ints([0, 0, *[last // 2] * 2, 0, 0, *[c.filter_size // 2] * 2])
    w = conv_geometry("blur_pool2d", weight.shape[2:], c.stride, 0, 1)
    padded = g.add("Pad", c.x, sides, mode="reflect")
    return g.add("Conv", padded, weight, **_options(w, 2), group=channels)


def _unpool(g: Graph, c: Any, axes: int) -> str:
    size = ints(math.prod(c.out.shape[2:]))
    zeros = g.add("Expand", 0.0, g.add("Concat", g.add("Shape", c.x, end=2), size, axis=0))
    flat = (*c.x.shape[:2], math.prod(c.x.shape[2:]))
    places, values = g.reshape(g.cast(c.indices, np.int64), flat), g.reshape(c.x, flat)
    return g.reshape(g.add("ScatterElements", zeros, places, values, axis=2), c.out.shape)


# To a given size ------------------------------------------------------------------------------


def _sized(op: str) -> Callable[..., Any]:
    def convert(g: Graph, c: Any, axes: int) -> Any:
        sizes, outs = output_size_of(op, c.x, c.output_size, axes)
        indices = getattr(c, "return_indices", False)
        steps = [divmod(size, out) for size, out in zip(sizes, outs, strict=True)]
        if not any(rest for _, rest in steps):
            w = Windows(*sizes, *(size for size, _ in steps * 2))
            if outs == (1, 1) and not indices:
                return g.add(f"Global{op}Pool", c.x)
            return _max(g, c.x, w, axes, indices) if op == "Max" else _mean(g, c.x, w, axes)
        if indices:
            raise ValueError("ONNX has no indices for windows of different sizes")
        name = g.read(c.x)
        for axis in range(-axes, 0):
            name = _along(op, g, name, sizes[axis], outs[axis], axis, axes + 2 + axis)
        return name

    return convert


def _along(op: str, g: Graph, x: str, size: int, out: int, end: int, axis: int) -> str:
    """Pool an axis to a size: a maximum over gathered pixels, or a product with their weights."""
    i = np.arange(out)[:, None]
    starts, stops = i * size // out, -(-(i + 1) * size // out)
    if op == "Max":
        table = np.minimum(starts + np.arange((stops - starts).max()), stops - 1)
        pixels = g.add("Gather", x, ints(table), axis=axis)
        return g.add("ReduceMax", pixels, ints(axis + 1), keepdims=0)
    inside = (starts <= np.arange(size)) & (np.arange(size) < stops)
    shares = (inside / (stops - starts)).astype(g.dtype)
    return g.add("MatMul", x, shares.T) if end == -1 else g.add("MatMul", shares, x)


def _whole(op: str) -> Callable[..., Any]:
    def convert(g: Graph, c: Any, axes: int) -> str:
        name = g.add(op, c.x)
        return name if c.keepdims else g.add("Flatten", name, axis=1)

    return convert


# Learned and random ---------------------------------------------------------------------------


def _as_images(kind: Callable[..., str]) -> Callable[..., Any]:
    """Return a converter for a kind of pooling that ONNX lacks, for images and sequences."""

    def convert(g: Graph, c: Any, axes: int) -> str:
        w = None if c.kernel_size is None else _windows(c, axes)
        if axes == 2:
            return kind(g, c, c.x, w)
        pooled = kind(g, c, g.add("Unsqueeze", c.x, ints(2)), w)
        return pooled if w is None else g.add("Squeeze", pooled, ints(2))

    return convert


def _mixed(g: Graph, c: Any, x: Any, w: Windows) -> str:
    mean, alpha = _mean(g, x, w), c.alpha if isinstance(c.alpha, (Tensor, str)) else float(c.alpha)
    return g.add("Add", mean, g.add("Mul", g.add("Sub", _max(g, x, w, 2), mean), alpha))


def _gated(g: Graph, c: Any) -> str:
    channels, c.kernel_size = c.x.shape[1], c.weight.shape[2:]
    w = _windows(c, 2)
    gates = g.add("Expand", c.weight, ints([channels, 1, 1, 1]))
    scores = g.add("Conv", c.x, gates, **_options(w, 2), group=channels)
    c.alpha = g.add("Sigmoid", scores)
    return _mixed(g, c, c.x, w)


def _gem(g: Graph, c: Any, x: Any, w: Windows | None) -> str:
    p = _per_channel(g, c.p)
    root = g.add("Reciprocal", p) if isinstance(c.p, Tensor) else 1 / p
    x, most = _scaled(g, g.add("Max", x, float(c.eps)))
    terms = g.add("Pow", x, p)
    mean = g.add("GlobalAveragePool", terms) if w is None else _mean(g, terms, w)
    out = g.add("Mul", g.add("Pow", mean, root), most)
    return g.add("Flatten", out, axis=1) if w is None else out


def _softmax_pool(g: Graph, c: Any, x: Any, w: Windows) -> str:
    """Copy each window into an axis, by a convolution; weigh its pixels by their softmax."""
    n, channels = c.x.shape[:2]
    taps = w.k_h * w.k_w
    pick = np.tile(np.eye(taps, dtype=g.dtype).reshape(taps, 1, w.k_h, w.k_w), (channels, 1, 1, 1))
    pixels = g.add("Conv", x, pick, **_options(w, 2), group=channels)
    pixels = g.reshape(pixels, (n, channels, taps, w.out_h, w.out_w))
    scores = g.add("Mul", pixels, _per_channel(g, c.beta, 3))
    if w.is_padded:
        around = np.full((w.padded_h, w.padded_w), -np.inf, g.dtype)
        around[w.inside] = 0
        scores = g.add("Add", scores, np.stack([around[y, x] for _, y, x in w.taps()]))
    shares = g.add("Softmax", scores, axis=2)
    return g.add("ReduceSum", g.add("Mul", shares, pixels), ints(2), keepdims=0)


def _attention(g: Graph, c: Any, axes: int) -> str:
    pixels = g.reshape(c.x, (*c.x.shape[:2], math.prod(c.x.shape[2:])))
    shares = g.add("Softmax", g.add("MatMul", c.weight, pixels), axis=-1)
    weighed = g.add("Mul", pixels, g.add("Unsqueeze", shares, ints(1)))
    return g.add("ReduceSum", weighed, ints(2), keepdims=0)


def _stochastic(g: Graph, c: Any, x: Any, w: Windows) -> str:
    """Return the expectation: the mean of squares divided by the mean; 0 where the mean is 0."""
    x, most = _scaled(g, g.add("Relu", x))
    mean = g.add("Max", _mean(g, x, w), float(np.finfo(g.dtype).tiny))
    return g.add("Mul", g.add("Div", _mean(g, g.add("Mul", x, x), w), mean), most)


# Losses and random layers ---------------------------------------------------------------------


def _likelihood(op: str, scores: str) -> Converter:
    def convert(g: Graph, c: Any) -> str:
        if c.target.dtype.kind == "f" or getattr(c, "label_smoothing", 0):
            raise ValueError("ONNX supports only class indices, without label smoothing")
        parts = (getattr(c, scores), g.cast(c.target, np.int64), *_given(c.weight))
        return g.add(op, *parts, ignore_index=c.ignore_index, reduction=c.reduction)

    return convert


def _drawn(is_random: bool) -> str | None:
    return "it draws random numbers; pass training=self.training" if is_random else None


_STATISTICS = "it normalises with statistics of the batch, not running ones"
_NORM = "max_norm changes the weight in each lookup; scale its rows once and set max_norm to None"
REFUSED: dict[str, Callable[[Any], str | None]] = {
    "dropout": lambda c: _drawn(c.training and c.p > 0),
    "stochastic_pool1d": lambda c: _drawn(c.training),
    "stochastic_pool2d": lambda c: _drawn(c.training),
    "fractional_max_pool2d": lambda c: "it draws its windows at random, in evaluation mode too",
    "deform_conv2d": lambda c: f"ONNX has DeformConv from opset 19 on; files have {OPSET}",
    "batch_norm": lambda c: _STATISTICS if c.training else None,
    "embedding": lambda c: None if c.max_norm is None else _NORM,
}
"""Functions of a call's arguments: the reason why it cannot be exported, or None."""

# The table ------------------------------------------------------------------------------------

_POOLS: dict[str, Callable[..., Any]] = {  # each for sequences (1d) and images (2d)
    "max_pool": _max_pool,
    "min_pool": _min_pool,
    "avg_pool": _avg_pool,
    "lp_pool": _lp_pool,
    "max_unpool": _unpool,
    "adaptive_max_pool": _sized("Max"),
    "adaptive_avg_pool": _sized("Average"),
    "global_max_pool": _whole("GlobalMaxPool"),
    "global_avg_pool": _whole("GlobalAveragePool"),
    "mixed_pool": _as_images(_mixed),
    "gem_pool": _as_images(_gem),
    "softmax_pool": _as_images(_softmax_pool),
    "attention_pool": _attention,
    "stochastic_pool": _as_images(_stochastic),
}
LAYERS: dict[str, Converter] = {
    "conv1d": _conv,
    "conv2d": _conv,
    "conv2d_relu": _conv_relu,
    "conv2d_relu_max_pool2d": _conv_relu_pool,
    "conv_transpose2d": _conv_transpose,
    "linear": _linear,
    "embedding": _embedding,
    "relu": lambda g, c: g.add("Relu", c.x),
    "leaky_relu": lambda g, c: g.add("LeakyRelu", c.x, alpha=float(c.negative_slope)),
    "elu": lambda g, c: g.add("Elu", c.x, alpha=float(c.alpha)),
    "sigmoid": lambda g, c: g.add("Sigmoid", c.x),
    "softplus": _softplus,
    "gelu": _gelu,
    "softmax": lambda g, c: g.add("Softmax", c.x, axis=c.axis),
    "log_softmax": lambda g, c: g.add("LogSoftmax", c.x, axis=c.axis),
    "cross_entropy": _likelihood("SoftmaxCrossEntropyLoss", "logits"),
    "nll_loss": _likelihood("NegativeLogLikelihoodLoss", "log_probabilities"),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "channel_max_pool": _channel_pool("ReduceMax"),
    "channel_avg_pool": _channel_pool("ReduceMean"),
    "blur_pool2d": _blur_pool,
    "gated_pool2d": _gated,
    "roi_align2d": _regions(align=True),
    "roi_pool2d": _regions(align=False),
    "interpolate": _interpolate,
}
LAYERS |= {
    f"{name}{axes}d": functools.partial(convert, axes=axes)
    for name, convert in _POOLS.items()
    for axes in (1, 2)
}
