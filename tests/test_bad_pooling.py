"""Errors of pooling name the function, what it got, what it expected, and the usual cause."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl import functional as F


def ones(*shape: int) -> Tensor:
    return minidl.ones(shape)


# What the calls below are made of: images, sequences, vectors.
NAMES = {"I": ones(2, 3, 8, 8), "S": ones(2, 3, 8), "L": ones(4, 10)}
NAMES |= {"F": F, "nn": nn, "np": np, "Tensor": Tensor, "ones": ones}

# Wrong calls, and the text that their error begins with.
WRONG_VALUES = {
    "F.max_pool1d(S, 0)": "max_pool1d: got kernel_size=0, expected an integer >= 1",
    "F.max_pool1d(S, (2, 2))": "max_pool1d: got kernel_size=(2, 2), expected an integer >= 1",
    "F.max_pool1d(I, 2)": "max_pool1d: got shape (2, 3, 8, 8), expected (n, c, length)",
    "F.max_pool1d(S, 9)": "max_pool1d: the window spans 9 but the padded input has only 8",
    "F.avg_pool1d(S, 2, -1)": "avg_pool1d: got stride=-1, expected an integer >= 1",
    "F.avg_pool1d(S, 2, padding=2)": (
        "avg_pool1d: got padding=2 with kernel_size=2, expected at most half the window"
    ),
    "F.min_pool2d(I, 0)": "min_pool2d: got kernel_size=0, expected an integer >= 1",
    "F.min_pool2d(I, 2, padding=2)": (
        "min_pool2d: got padding=2 with kernel_size=2, expected at most half the window"
    ),
    "F.min_pool1d(S, 9)": "min_pool1d: the window spans 9 but the padded input has only 8",
    "F.lp_pool2d(I, 0, 2)": "lp_pool2d: got p=0, expected a positive number",
    "F.lp_pool1d(S, -1, 2)": "lp_pool1d: got p=-1, expected a positive number",
    "F.lp_pool2d(I, '2', 2)": "lp_pool2d: got p='2', expected a positive number",
    "F.lp_pool2d(I, 2, 9)": "lp_pool2d: the window spans 9 but the padded input has only 8",
    "F.adaptive_max_pool2d(ones(2, 3, 0, 8), 1)": (
        "adaptive_max_pool2d: got input shape (2, 3, 0, 8), expected images of at least one pixel"
    ),
    "F.adaptive_max_pool2d(I, 0)": (
        "adaptive_max_pool2d: got output_size=0, expected an integer >= 1"
    ),
    "F.adaptive_avg_pool2d(I, (2, 2, 2))": (
        "adaptive_avg_pool2d: got output_size=(2, 2, 2), expected an integer >= 1"
    ),
    "F.adaptive_max_pool1d(S, None)": (
        "adaptive_max_pool1d: got output_size=None, expected an integer >= 1"
    ),
    "F.adaptive_max_pool2d(L, 2)": "adaptive_max_pool2d: got shape (4, 10), expected (n, c, h, w)",
    "F.global_max_pool2d(S)": (
        "global_max_pool2d: got shape (2, 3, 8), expected (n, c, h, w); for a single one, use "
        "expand_dims(0)"
    ),
    "F.global_max_pool1d(L)": (
        "global_max_pool1d: got shape (4, 10), expected (n, c, length); for a single one, use "
        "expand_dims(0)"
    ),
    "F.spatial_pyramid_pool2d(I, ())": (
        "spatial_pyramid_pool2d: got levels=(), expected sizes such as (1, 2, 4)"
    ),
    "F.spatial_pyramid_pool2d(I, (1, 0))": (
        "spatial_pyramid_pool2d: got level=0, expected an integer >= 1"
    ),
    "F.spatial_pyramid_pool2d(I, mode='sum')": (
        "spatial_pyramid_pool2d: got mode='sum', expected 'max' or 'avg'"
    ),
    "F.channel_max_pool(I, 2)": (
        "channel_max_pool: got shape (2, 3, 8, 8) and size=2, expected (n, c, ...) with c "
        "divisible by size"
    ),
    "F.channel_avg_pool(I, 0)": "channel_avg_pool: got size=0, expected an integer >= 1",
    "F.channel_max_pool(ones(3), 3)": (
        "channel_max_pool: got shape (3,) and size=3, expected (n, c, ...) with c divisible by size"
    ),
    "F.blur_pool2d(I, 0)": "blur_pool2d: got stride=0, expected an integer >= 1",
    "F.blur_pool2d(I, filter_size=0)": ("blur_pool2d: got filter_size=0, expected an integer >= 1"),
    "F.blur_pool2d(ones(1, 1, 2, 8), filter_size=4)": (
        "blur_pool2d: got input shape (1, 1, 2, 8), expected height and width > 2, "
        "half of filter_size=4, to mirror the edges"
    ),
    "F.max_blur_pool2d(I, 9)": (
        "max_blur_pool2d: the window spans 9 but the padded input has only 8"
    ),
    "F.conv_pool2d(I, ones(4, 3, 3, 3), mode='sum')": (
        "conv_pool2d: got mode='sum', expected 'max' or 'avg'"
    ),
    "F.conv_pool2d(I, ones(4, 3, 3, 3), pool_size=7)": (
        "max_pool2d: the window spans 7 but the padded input has only 6"
    ),
    "F.max_unpool2d(I, np.full((2, 3, 8, 8), 256), 2)": (
        "max_unpool2d: got indices from 256 to 256 for an output of 16 by 16, expected 0 to 255"
    ),
    "F.max_unpool2d(I, np.full((2, 3, 8, 8), -1), 2)": (
        "max_unpool2d: got indices from -1 to -1 for an output of 16 by 16, expected 0 to 255"
    ),
    "F.max_unpool2d(I, np.zeros((2, 3, 8, 4), int), 2)": (
        "max_unpool2d: got indices of shape (2, 3, 8, 4), expected (2, 3, 8, 8), the shape of the "
        "input"
    ),
    "F.max_unpool2d(I, np.zeros((2, 3, 8, 8), int), 2, output_size=(18, 16))": (
        "max_unpool2d: got output_size=(18, 16) for an input of (8, 8), expected a size "
        ">= 1 that pools to the input's"
    ),
    "F.max_unpool2d(I, np.zeros((2, 3, 8, 8), int), 2, output_size=(17.5, 16))": (
        "max_unpool2d: got output_size=(17.5, 16) for an input of (8, 8), expected a size "
        ">= 1 that pools to the input's"
    ),
    "F.max_unpool2d(I, np.zeros((2, 3, 8, 8), int), 0)": (
        "max_unpool2d: got kernel_size=0, expected an integer >= 1"
    ),
    "F.max_unpool1d(S, np.zeros((2, 3, 8), int), 2, output_size=(18,))": (
        "max_unpool1d: got output_size=(18,) for an input of (8,), expected a size >= 1 "
        "that pools to the input's"
    ),
    "F.max_unpool1d(S, np.full((2, 3, 8), 16), 2)": (
        "max_unpool1d: got indices from 16 to 16 for an output of 1 by 16, expected 0 to 15"
    ),
    "F.stochastic_pool2d(I, 0)": ("stochastic_pool2d: got kernel_size=0, expected an integer >= 1"),
    "F.stochastic_pool1d(I, 2)": (
        "stochastic_pool1d: got shape (2, 3, 8, 8), expected (n, c, length)"
    ),
    "F.fractional_max_pool2d(I, 2)": (
        "fractional_max_pool2d: got output_size=None and output_ratio=None, expected "
        "exactly one of them"
    ),
    "F.fractional_max_pool2d(I, 2, 4, 0.5)": (
        "fractional_max_pool2d: got output_size=4 and output_ratio=0.5, expected "
        "exactly one of them"
    ),
    "F.fractional_max_pool2d(I, 2, output_ratio=1.5)": (
        "fractional_max_pool2d: got output_ratio=1.5, expected 0 < output_ratio < 1, or a pair"
    ),
    "F.fractional_max_pool2d(I, 2, output_ratio=0.1)": (
        "fractional_max_pool2d: got output_ratio=0.1 for input shape (2, 3, 8, 8), expected an "
        "output of at least one pixel"
    ),
    "F.fractional_max_pool2d(I, 2, output_size=8)": (
        "fractional_max_pool2d: got input shape (2, 3, 8, 8), kernel_size=2 and output size (8, 8)"
    ),
    "F.fractional_max_pool2d(I, 3, output_size=9)": (
        "fractional_max_pool2d: got input shape (2, 3, 8, 8), kernel_size=3 and output size "
        "(9, 9), expected out + kernel_size - 1 <= the input's size"
    ),
    "F.fractional_max_pool2d(I, output_size=8)": (
        "fractional_max_pool2d: got input shape (2, 3, 8, 8), kernel_size=None and "
        "output size (8, 8)"
    ),
    "F.fractional_max_pool2d(I, 0, output_size=4)": (
        "fractional_max_pool2d: got kernel_size=0, expected an integer >= 1"
    ),
    "F.fractional_max_pool2d(I, 2, output_size=4, mode='pseudo')": (
        "fractional_max_pool2d: got mode='pseudo', expected 'pseudorandom' or 'random'"
    ),
    "F.fractional_max_pool2d(I, 2, output_size=4, _random_samples=np.zeros((2, 3)))": (
        "fractional_max_pool2d: got _random_samples of shape (2, 3), expected (2, 3, 2) "
        "with values 0 <= u < 1"
    ),
    "F.fractional_max_pool2d(I, 2, output_size=(4, None))": (
        "fractional_max_pool2d: got input shape (2, 3, 8, 8), kernel_size=2 and output size (4, 8)"
    ),
    "F.mixed_pool2d(I, 2, alpha=1.5)": "mixed_pool2d: got alpha=1.5, expected 0 <= alpha <= 1",
    "F.mixed_pool2d(I, 9)": "mixed_pool2d: the window spans 9 but the padded input has only 8",
    "F.gated_pool2d(I, ones(2, 1, 2, 2))": (
        "gated_pool2d: got a weight of shape (2, 1, 2, 2) for input shape (2, 3, 8, 8), "
        "expected (1, 1, k_h, k_w) or (3, 1, k_h, k_w)"
    ),
    "F.gated_pool2d(I, ones(2, 2))": (
        "gated_pool2d: got a weight of shape (2, 2) for input shape (2, 3, 8, 8), expected "
        "(1, 1, k_h, k_w) or (3, 1, k_h, k_w)"
    ),
    "F.gated_pool2d(I, ones(1, 1, 9, 2))": (
        "gated_pool2d: the window spans 9 but the padded input has only 8"
    ),
    "F.gem_pool2d(I, 0)": "gem_pool2d: got p=0, expected a positive number",
    "F.gem_pool2d(I, Tensor([-1.0]))": "gem_pool2d: got p=[-1.0], expected a positive number",
    "F.gem_pool2d(I, Tensor([1.0, 2.0]))": "gem_pool2d: got p of shape (2,), expected (1,) or (3,)",
    "F.gem_pool2d(I, eps=0)": "gem_pool2d: got eps=0, expected a positive number",
    "F.softmax_pool2d(I, 2, beta=Tensor([1.0, 2.0]))": (
        "softmax_pool2d: got beta of shape (2,), expected (1,) or (3,)"
    ),
    "F.softmax_pool2d(I, 2, padding=2)": (
        "softmax_pool2d: got padding=2 with kernel_size=2, expected at most half the window"
    ),
    "F.attention_pool2d(I, ones(8))": (
        "attention_pool2d: got a weight of shape (8,) for 3 channels, expected (3,)"
    ),
    "F.attention_pool1d(S, ones(3, 1))": (
        "attention_pool1d: got a weight of shape (3, 1) for 3 channels, expected (3,)"
    ),
    "nn.MaxPool1d((2, 2))": "MaxPool1d: got kernel_size=(2, 2), expected an integer >= 1",
    "nn.AvgPool1d(2, padding=2)": (
        "AvgPool1d: got padding=2 with kernel_size=2, expected at most half the window"
    ),
    "nn.MinPool2d(2, 0)": "MinPool2d: got stride=0, expected an integer >= 1",
    "nn.LPPool2d(0, 2)": "LPPool2d: got p=0, expected a positive number",
    "nn.LPPool1d(2, 0)": "LPPool1d: got kernel_size=0, expected an integer >= 1",
    "nn.AdaptiveAvgPool2d(0)": "AdaptiveAvgPool2d: got output_size=0, expected an integer >= 1",
    "nn.AdaptiveMaxPool1d((1, 2))": (
        "AdaptiveMaxPool1d: got output_size=(1, 2), expected an integer >= 1"
    ),
    "nn.SpatialPyramidPool2d(4)": (
        "SpatialPyramidPool2d: got levels=4, expected sizes such as (1, 2, 4)"
    ),
    "nn.ChannelAvgPool(0)": "ChannelAvgPool: got size=0, expected an integer >= 1",
    "nn.BlurPool2d(filter_size=0)": "BlurPool2d: got filter_size=0, expected an integer >= 1",
    "nn.MaxBlurPool2d(0)": "MaxBlurPool2d: got kernel_size=0, expected an integer >= 1",
    "nn.MaxUnpool1d(2, 0)": "MaxUnpool1d: got stride=0, expected an integer >= 1",
    "nn.ConvPool2d(3, 4, 3, mode='sum')": "ConvPool2d: got mode='sum', expected 'max' or 'avg'",
    "nn.ConvPool2d(3, 4, 3, 0)": "ConvPool2d: got pool_size=0, expected an integer >= 1",
    "nn.ConvPool2d(3, 4, 3, 2, 0)": "ConvPool2d: got pool_stride=0, expected an integer >= 1",
    "nn.FractionalMaxPool2d(2)": (
        "FractionalMaxPool2d: got output_size=None and output_ratio=None, expected "
        "exactly one of them"
    ),
    "nn.MixedPool2d(2, alpha=2)": "MixedPool2d: got alpha=2, expected 0 <= alpha <= 1",
    "nn.GatedPool2d(2, channels=0)": "GatedPool2d: got channels=0, expected an integer >= 1",
    "nn.GeMPool2d(0)": "GeMPool2d: got p=0, expected a positive number",
    "nn.GeMPool2d(eps=0)": "GeMPool2d: got eps=0, expected a positive number",
    "nn.SoftmaxPool1d((2, 2))": ("SoftmaxPool1d: got kernel_size=(2, 2), expected an integer >= 1"),
    "nn.AttentionPool(0)": "AttentionPool: got channels=0, expected an integer >= 1",
}
WRONG_TYPES = {
    "F.max_unpool2d(I, np.zeros((2, 3, 8, 8)), 2)": (
        "max_unpool2d: got indices of dtype float64, expected integers"
    ),
    "F.stochastic_pool2d(I, 2, rng=0)": "got rng=0, expected a numpy.random.Generator",
    "F.attention_pool1d(S, np.ones(3))": (
        "attention_pool1d: got a ndarray as weight, expected a Tensor"
    ),
    "nn.StochasticPool2d(2, rng=0)": "got rng=0, expected a numpy.random.Generator",
}
CASES = [(ValueError, *case) for case in WRONG_VALUES.items()]
CASES += [(TypeError, *case) for case in WRONG_TYPES.items()]


@pytest.mark.parametrize(("kind", "call", "text"), CASES, ids=str)
def test_wrong_call_says_what_is_wrong(kind, call, text):
    with pytest.raises(kind, match="^" + re.escape(text)) as caught:
        eval(call, dict(NAMES))
    assert type(caught.value) is kind  # and not a subclass that NumPy raised somewhere below
