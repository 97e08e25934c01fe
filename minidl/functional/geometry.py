"""Checks of the tensors that operations get, and the geometry of windows on images."""

from __future__ import annotations

from dataclasses import replace

from minidl.backends import Array, Windows
from minidl.checks import Pair, check_whole, pair
from minidl.tensor import Tensor
from minidl.tensor.operands import array_beside, kind_of


def check_floats(op: str, x: Tensor) -> None:
    """Raise unless `x` is a tensor of floats."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: got a {kind_of(x)}, expected a Tensor")
    if x.dtype.kind != "f":
        raise TypeError(
            f"{op}: got dtype {x.dtype}, expected float32 or float64; "
            "images read as uint8 must be scaled first, for example x / 255"
        )


def check_indices(op: str, indices: Tensor | Array, x: Tensor) -> Array:
    """Return indices as an array on the device of `x`; TypeError unless integers on that device."""
    array = array_beside(op, indices, x)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{op}: got indices of dtype {array.dtype}, expected integers")
    return array


def check_images(op: str, x: Tensor, axes: int = 2) -> None:
    """Raise unless `x` is a batch of float images, or of sequences if `axes` is 1."""
    check_floats(op, x)
    missing = axes + 2 - x.ndim
    if missing:
        wanted = "(n, c, length)" if axes == 1 else "(n, c, h, w)"
        raise ValueError(
            f"{op}: got shape {x.shape}, expected {wanted}"
            + ("; for a single one, use expand_dims(0)" if missing == 1 else "")
        )


def check_given(op: str, **tensors: Tensor) -> None:
    """Raise TypeError unless the named arguments are tensors."""
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: got a {kind_of(x)} as {name}, expected a Tensor")


def check_together(op: str, **tensors: Tensor | None) -> None:
    """Raise unless the named arguments are tensors of the same dtype, on the same device."""
    given = {name: x for name, x in tensors.items() if x is not None}
    check_given(op, **given)
    (first_name, first), *rest = given.items()
    for name, x in rest:
        for what in ("device", "dtype"):
            got, wanted = getattr(x, what), getattr(first, what)
            if got != wanted:
                raise TypeError(
                    f"{op}: got {first_name} with {what} {wanted!s} and {name} with {what} {got!s};"
                    " move one to the other with .to(), or the whole model with model.to()"
                )


def check_weight(
    op: str, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool = False
) -> None:
    """Raise unless these are valid arguments of a convolution, or of a transposed one."""
    check_together(op, input=x, weight=weight, bias=bias)
    if weight.ndim != x.ndim or min(weight.shape) < 1:
        kernel = "k_h, k_w" if x.ndim == 4 else "k"
        raise ValueError(
            f"{op}: got a weight of shape {weight.shape}, expected (d, c // groups, {kernel})"
        )
    check_whole(op, 1, groups=groups)
    d, c = weight.shape[0], weight.shape[1] * groups
    inputs, outputs, divided = (d, c, "input") if transposed else (c, d, "output")
    if x.shape[1] != inputs or d % groups:
        raise ValueError(
            f"{op}: got an input of {x.shape[1]} channels, shape {x.shape}, and a weight of "
            f"shape {weight.shape} for {inputs} channels in {groups} group(s); expected equal "
            f"numbers of channels, and {divided} channels divisible by groups"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{op}: got a bias of shape {bias.shape}, expected ({outputs},)")


def pool_geometry(
    op: str,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    axes: int = 2,
) -> tuple[tuple[int, int], ...]:
    """Return kernel, stride, padding and dilation as pairs; ValueError if they do not fit."""
    kernel = pair(op, "kernel_size", kernel_size, 1, axes)
    strides = pair(op, "stride", kernel_size if stride is None else stride, 1, axes)
    pads = pair(op, "padding", padding, 0, axes)
    dilations = pair(op, "dilation", dilation, 1, axes)
    if any(2 * p > d * (k - 1) + 1 for p, d, k in zip(pads, dilations, kernel, strict=True)):
        raise ValueError(
            f"{op}: got padding={padding!r} with kernel_size={kernel_size!r}, expected at most "
            "half the window: otherwise a window could contain nothing but padding"
        )
    return kernel, strides, pads, dilations


def pool_windows(
    op: str,
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    axes: int = 2,
    shape: tuple[int, ...] | None = None,
) -> Windows:
    """Lay pooling windows over a batch of images, or of sequences if `axes` is 1, like PyTorch.

    `out = (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1`, rounded down; rounded up
    with `ceil_mode`, unless the last window would then start beyond the image and its left padding.
    `shape` is the shape of the images if they are still to be computed from `x`.
    """
    check_images(op, x, axes)
    shape = x.shape if shape is None else shape
    geometry = pool_geometry(op, kernel_size, stride, padding, dilation, axes)
    in_h, in_w = (1, *shape[2:])[-2:]
    ends = []
    for size, k, s, p, d in zip((in_h, in_w), *geometry, strict=True):
        span = d * (k - 1) + 1
        # The first tap at or after pixel 0 of a window that starts in the padding is at pixel
        # `start % d`: in an image no larger than that, this tap is already beyond the image.
        if any(start % d >= size for start in range(-p, 0, s)):
            raise ValueError(
                f"{op}: got dilation={dilation!r} with padding={padding!r} and input shape "
                f"{shape}; expected a dilation no larger than the image: otherwise a window could "
                "contain nothing but padding"
            )
        out = (size + 2 * p - span + (s - 1 if ceil_mode else 0)) // s + 1
        if out < 1:
            _check_fits(op, shape, span, size + 2 * p)
        if ceil_mode and (out - 1) * s >= size + p:
            out -= 1
        ends.append(max(p, (out - 1) * s + span - size - p))
    kernel, strides, pads, dilations = geometry
    sides = (pads[0], ends[0], pads[1], ends[1])  # ceil_mode pads the far ends only
    return Windows(in_h, in_w, *kernel, *strides, *dilations, *sides)


def conv_geometry(
    op: str, kernel: tuple[int, ...], stride: Pair, padding: Pair | str, dilation: Pair
) -> Windows:
    """Return convolution windows for images of unknown size, which is set to 0.

    `"valid"` is no padding. `"same"` keeps height and width at stride 1: `dilation * (kernel - 1)`
    pixels in all, an odd one at the bottom or right. A kernel with one axis is for sequences.
    """
    axes, (k_h, k_w) = len(kernel), (1, *kernel)[-2:]
    strides = pair(op, "stride", stride, 1, axes)
    dilations = pair(op, "dilation", dilation, 1, axes)
    if isinstance(padding, str) and padding == "same":
        if strides != (1, 1):
            raise ValueError(f"{op}: got stride={stride!r}, expected 1 with padding='same'")
        total_h, total_w = dilations[0] * (k_h - 1), dilations[1] * (k_w - 1)
        sides = (total_h // 2, total_h - total_h // 2, total_w // 2, total_w - total_w // 2)
    elif isinstance(padding, str) and padding == "valid":
        sides = (0, 0, 0, 0)
    elif isinstance(padding, str):
        raise ValueError(
            f"{op}: got padding={padding!r}, expected an integer, a pair, 'same' or 'valid'"
        )
    else:
        pad_h, pad_w = pair(op, "padding", padding, 0, axes)
        sides = (pad_h, pad_h, pad_w, pad_w)
    return Windows(0, 0, k_h, k_w, *strides, *dilations, *sides)


def conv_windows(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair | str,
    dilation: Pair,
    groups: int,
    axes: int = 2,
) -> Windows:
    """Lay convolution windows over a batch of images, or of sequences if `axes` is 1.

    Validates every argument of a convolution.
    """
    check_images(op, x, axes)
    check_weight(op, x, weight, bias, groups)
    in_h, in_w = (1, *x.shape[2:])[-2:]
    geometry = conv_geometry(op, weight.shape[2:], stride, padding, dilation)
    windows = replace(geometry, in_h=in_h, in_w=in_w)
    _check_fits(op, x.shape, windows.dilation_h * (windows.k_h - 1) + 1, windows.padded_h)
    _check_fits(op, x.shape, windows.dilation_w * (windows.k_w - 1) + 1, windows.padded_w)
    return windows


def transpose_geometry(
    op: str, stride: Pair, padding: Pair, output_padding: Pair, dilation: Pair
) -> tuple[tuple[int, int], ...]:
    """Return the arguments as pairs; ValueError if they do not fit."""
    strides, dilations = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    pads, extra = pair(op, "padding", padding, 0), pair(op, "output_padding", output_padding, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise ValueError(
            f"{op}: got output_padding={output_padding!r}, expected less than stride={stride!r} or "
            f"dilation={dilation!r}, as in PyTorch; pad() adds more rows and columns of zeros"
        )
    return strides, pads, extra, dilations


def transpose_windows(
    op: str,
    x: Tensor,
    kernel: tuple[int, int],
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
) -> tuple[Windows, tuple[int, int]]:
    """Lay the windows of the convolution whose output has the size of the images `x`.

    Return them, and how many more rows and columns the output has, which no window covers: zeros.
    """
    strides, pads, extra, dilations = transpose_geometry(
        op, stride, padding, output_padding, dilation
    )
    geometry = zip(x.shape[2:], strides, pads, dilations, kernel, extra, strict=True)
    out_h, out_w = ((n - 1) * s - 2 * p + d * (k - 1) + 1 + e for n, s, p, d, k, e in geometry)
    if min(out_h, out_w) < 1:
        raise ValueError(f"{op}: got padding={padding!r}, which cuts off the whole output")
    axes = zip(extra, pads, strides, strict=True)
    zeros_h, zeros_w = (max(0, e - p - (s - 1)) for e, p, s in axes)
    ends = [max(0, p - e) for e, p in zip(extra, pads, strict=True)]
    sides = (pads[0], ends[0], pads[1], ends[1])
    inside = out_h - zeros_h, out_w - zeros_w
    return Windows(*inside, *kernel, *strides, *dilations, *sides), (zeros_h, zeros_w)


def _check_fits(op: str, shape: tuple[int, ...], span: int, padded: int) -> None:
    if span > padded:
        raise ValueError(
            f"{op}: the window spans {span} but the padded input has only {padded}; "
            f"got input shape {shape}: is it too small for this many layers?"
        )
