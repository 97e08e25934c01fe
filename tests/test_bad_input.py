"""Wrong calls say who was called, what they got, what they want, and the usual cause."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

import minidl
import minidl.backends.cuda.setup as setup
from minidl import Tensor, nn, optim
from minidl import functional as F
from minidl.nn import init


def ones(*shape: int, dtype: str = "float32", device: str = "cpu") -> Tensor:
    return minidl.ones(shape, dtype=dtype, device=device)


def trained(*shape: int) -> Tensor:
    return ones(*shape).requires_grad_()


IMAGES, KERNELS, LOGITS = ones(2, 3, 8, 8), ones(4, 3, 3, 3), ones(4, 10)

# What is wrong: the call, the kind of error, and what its text must say.
WRONG_CALLS = {
    # Convolution
    "a single image": (
        lambda: F.conv2d(ones(3, 8, 8), KERNELS),
        ValueError,
        r"conv2d: got shape \(3, 8, 8\), expected \(n, c, h, w\); "
        r"for a single one, use expand_dims",
    ),
    "images as an array": (
        lambda: F.conv2d(np.ones((2, 3, 8, 8)), KERNELS),
        TypeError,
        "conv2d: got a ndarray, expected a Tensor",
    ),
    "weight as an array": (
        lambda: F.conv2d(IMAGES, np.ones((4, 3, 3, 3), np.float32)),
        TypeError,
        "conv2d: got a ndarray as weight, expected a Tensor",
    ),
    "uint8 images": (
        lambda: F.conv2d(Tensor(np.zeros((1, 3, 8, 8), np.uint8)), KERNELS),
        TypeError,
        r"conv2d: got dtype uint8, expected float32 or float64; .* scaled first, for example x "
        r"/ 255",
    ),
    "channels that do not fit": (
        lambda: F.conv2d(ones(2, 1, 8, 8), KERNELS),
        ValueError,
        r"conv2d: got an input of 1 channels, shape \(2, 1, 8, 8\), and a weight of shape "
        r"\(4, 3, 3, 3\) for 3 channels",
    ),
    "groups that do not divide": (
        lambda: F.conv2d(IMAGES, ones(4, 1, 3, 3), groups=3),
        ValueError,
        "in 3 group.*output channels divisible by groups",
    ),
    "no groups": (
        lambda: F.conv2d(IMAGES, KERNELS, groups=0),
        ValueError,
        "conv2d: got groups=0, expected an integer >= 1",
    ),
    "a bias of the inputs' size": (
        lambda: F.conv2d(IMAGES, KERNELS, ones(3)),
        ValueError,
        r"conv2d: got a bias of shape \(3,\), expected \(4,\)",
    ),
    "a kernel larger than the image": (
        lambda: F.conv2d(ones(2, 3, 2, 8), KERNELS),
        ValueError,
        "window spans 3 but the padded input has only 2.*too small for this many layers",
    ),
    "a dilated kernel larger than the image": (
        lambda: F.conv2d(IMAGES, KERNELS, dilation=4),
        ValueError,
        "window spans 9 but the padded input has only 8",
    ),
    "stride 0": (
        lambda: F.conv2d(IMAGES, KERNELS, stride=0),
        ValueError,
        "conv2d: got stride=0, expected an integer >= 1",
    ),
    "a fractional stride": (
        lambda: F.conv2d(IMAGES, KERNELS, stride=1.5),
        ValueError,
        r"conv2d: got stride=1\.5, expected an integer >= 1",
    ),
    "negative padding": (
        lambda: F.conv2d(IMAGES, KERNELS, padding=-1),
        ValueError,
        "conv2d: got padding=-1, expected an integer >= 0",
    ),
    "three strides": (
        lambda: F.conv2d(IMAGES, KERNELS, stride=(1, 1, 1)),
        ValueError,
        r"conv2d: got stride=\(1, 1, 1\), expected .* or a pair of them \(height, width\)",
    ),
    "an unknown padding": (
        lambda: F.conv2d(IMAGES, KERNELS, padding="full"),
        ValueError,
        "conv2d: got padding='full', expected an integer, a pair, 'same' or 'valid'",
    ),
    "same padding with a stride": (
        lambda: F.conv2d(IMAGES, KERNELS, stride=2, padding="same"),
        ValueError,
        "conv2d: got stride=2, expected 1 with padding='same'",
    ),
    "two dtypes": (
        lambda: F.conv2d(ones(2, 3, 8, 8, dtype="float64"), KERNELS),
        TypeError,
        r"conv2d: got input with dtype float64 and weight with dtype float32; move .* \.to\(\)",
    ),
    "two devices": (
        lambda: F.conv2d(ones(2, 3, 8, 8, device="guarded"), KERNELS),
        TypeError,
        r"conv2d: got input with device guarded and weight with device cpu; move .* model\.to\(\)",
    ),
    "images for a sequence": (
        lambda: F.conv1d(IMAGES, ones(4, 3, 3)),
        ValueError,
        r"conv1d: got shape \(2, 3, 8, 8\), expected \(n, c, length\)",
    ),
    "a single sequence": (
        lambda: F.conv1d(ones(3, 8), ones(4, 3, 3)),
        ValueError,
        r"conv1d: got shape \(3, 8\), expected \(n, c, length\); for a single one, use expand_dims",
    ),
    "a sequence's channels": (
        lambda: F.conv1d(ones(2, 1, 8), ones(4, 3, 3)),
        ValueError,
        r"conv1d: got an input of 1 channels, shape \(2, 1, 8\), and .* shape \(4, 3, 3\) for 3",
    ),
    "a sequence's weight of images": (
        lambda: F.conv1d(ones(2, 3, 8), KERNELS),
        ValueError,
        r"conv1d: got a weight of shape \(4, 3, 3, 3\), expected \(d, c // groups, k\)",
    ),
    "a sequence's bias": (
        lambda: F.conv1d(ones(2, 3, 8), ones(4, 3, 3), ones(3)),
        ValueError,
        r"conv1d: got a bias of shape \(3,\), expected \(4,\)",
    ),
    "a sequence shorter than its kernel": (
        lambda: F.conv1d(ones(2, 3, 2), ones(4, 3, 3)),
        ValueError,
        r"conv1d: the window spans 3 but the padded input has only 2; got input shape \(2, 3, 2\)",
    ),
    "a pair of strides along a sequence": (
        lambda: F.conv1d(ones(2, 3, 8), ones(4, 3, 3), stride=(1, 2)),
        ValueError,
        r"conv1d: got stride=\(1, 2\), expected an integer >= 1",
    ),
    "same padding with a stride along a sequence": (
        lambda: F.conv1d(ones(2, 3, 8), ones(4, 3, 3), stride=2, padding="same"),
        ValueError,
        "conv1d: got stride=2, expected 1 with padding='same'",
    ),
    "output_padding of a whole stride": (
        lambda: F.conv_transpose2d(IMAGES, ones(3, 4, 3, 3), stride=2, output_padding=2),
        ValueError,
        "conv_transpose2d: got output_padding=2, expected less than stride=2",
    ),
    "padding that leaves no output": (
        lambda: F.conv_transpose2d(ones(1, 3, 1, 1), ones(3, 4, 2, 2), padding=1),
        ValueError,
        "conv_transpose2d: got padding=1, which cuts off the whole output",
    ),
    "a convolution's weight for its transpose": (
        lambda: F.conv_transpose2d(IMAGES, KERNELS),
        ValueError,
        r"conv_transpose2d: got an input of 3 channels, .* for 4",
    ),
    # Pooling
    "padding over half the window": (
        lambda: F.max_pool2d(IMAGES, 2, padding=2),
        ValueError,
        "max_pool2d: got padding=2 with kernel_size=2.*at most half the window",
    ),
    "windows of padding alone": (
        lambda: F.max_pool2d(ones(1, 1, 1, 9), 2, 1, padding=1, dilation=2),
        ValueError,
        "max_pool2d: .* a window could contain nothing but padding",
    ),
    "a window larger than the image": (
        lambda: F.avg_pool2d(IMAGES, 9),
        ValueError,
        "avg_pool2d: the window spans 9 but the padded input has only 8",
    ),
    "a window of no pixels": (
        lambda: F.max_pool2d(IMAGES, 0),
        ValueError,
        "max_pool2d: got kernel_size=0, expected an integer >= 1",
    ),
    "a divisor of 0": (
        lambda: F.avg_pool2d(IMAGES, 2, divisor_override=0),
        ValueError,
        "avg_pool2d: got divisor_override=0, expected an integer >= 1",
    ),
    "half a divisor": (
        lambda: F.avg_pool2d(IMAGES, 2, divisor_override=2.5),
        ValueError,
        r"avg_pool2d: got divisor_override=2\.5, expected an integer >= 1",
    ),
    "pooling of vectors": (
        lambda: F.global_avg_pool2d(LOGITS),
        ValueError,
        r"global_avg_pool2d: got shape \(4, 10\), expected \(n, c, h, w\)",
    ),
    # Normalisation
    "one value for each channel": (
        lambda: F.batch_norm(ones(1, 3), None, None, training=True),
        ValueError,
        r"batch_norm: got an input of shape \(1, 3\)\. Expected more than 1 value per channel when "
        r"training: .* a last batch of one\? Use DataLoader\(drop_last=True\)",
    ),
    "one value for each group": (
        lambda: F.group_norm(ones(1, 3, 1), 3),
        ValueError,
        r"group_norm: got an input of shape \(1, 3, 1\)\. Expected more than 1 value per channel",
    ),
    "numbers without channels": (
        lambda: F.batch_norm(ones(3), None, None, training=True),
        ValueError,
        r"batch_norm: got an input of shape \(3,\), expected \(n, c\) or \(n, c, \.\.\.\)",
    ),
    "evaluation without statistics": (
        lambda: F.batch_norm(ones(2, 3), None, ones(3)),
        ValueError,
        "batch_norm: got no running statistics in evaluation, expected .* or training=True",
    ),
    "statistics of other channels": (
        lambda: F.batch_norm(ones(2, 3), ones(2), ones(3)),
        ValueError,
        r"batch_norm: got running_mean of shape \(2,\) for .* \(2, 3\), expected \(3,\)",
    ),
    "a bias of other channels": (
        lambda: F.batch_norm(IMAGES, ones(3), ones(3), bias=ones(8)),
        ValueError,
        r"batch_norm: got bias of shape \(8,\) for an input of shape \(2, 3, 8, 8\), expected "
        r"\(3,\)",
    ),
    "statistics as an array": (
        lambda: F.batch_norm(ones(2, 3), np.zeros(3, np.float32), ones(3)),
        TypeError,
        "batch_norm: got a ndarray as running_mean, expected a Tensor",
    ),
    "statistics of another dtype": (
        lambda: F.batch_norm(ones(2, 3), ones(3), ones(3, dtype="float64")),
        TypeError,
        r"batch_norm: got input with dtype float32 and running_var with dtype float64; .* \.to\(\)",
    ),
    "statistics on another device": (
        lambda: nn.BatchNorm1d(3)(ones(2, 3, device="guarded")),
        TypeError,
        "batch_norm: got input with device guarded and running_mean with device cpu",
    ),
    "a momentum of 2": (
        lambda: F.batch_norm(ones(2, 3), None, None, training=True, momentum=2),
        ValueError,
        "batch_norm: got momentum=2, expected 0 <= momentum <= 1",
    ),
    "a negative eps": (
        lambda: F.layer_norm(ones(2, 3), 3, eps=-1),
        ValueError,
        "layer_norm: got eps=-1, expected a number >= 0",
    ),
    "integers to normalise": (
        lambda: F.batch_norm(Tensor([[1, 2], [3, 4]]), None, None, training=True),
        TypeError,
        "batch_norm: got dtype int64, expected float32 or float64",
    ),
    "another last axis": (
        lambda: F.layer_norm(ones(2, 3), 4),
        ValueError,
        r"layer_norm: got an input of shape \(2, 3\), expected its last axes to be \(4,\)",
    ),
    "fewer axes than normalised": (
        lambda: F.layer_norm(ones(3), (2, 3)),
        ValueError,
        r"layer_norm: got an input of shape \(3,\), expected \(\.\.\., 2, 3\)",
    ),
    "no axis to normalise": (
        lambda: F.layer_norm(ones(3), ()),
        ValueError,
        r"layer_norm: got normalized_shape=\(\), expected at least one size",
    ),
    "a weight of the channels for layer norm": (
        lambda: F.layer_norm(IMAGES, (8, 8), ones(3)),
        ValueError,
        r"layer_norm: got weight of shape \(3,\) for .*, expected \(8, 8\)",
    ),
    "groups of unequal size": (
        lambda: F.group_norm(IMAGES, 2),
        ValueError,
        r"group_norm: got 3 channels, shape .*, expected a multiple of num_groups=2",
    ),
    "no groups of channels": (
        lambda: F.group_norm(IMAGES, 0),
        ValueError,
        "group_norm: got num_groups=0, expected an integer >= 1",
    ),
    "a weight of other channels for group norm": (
        lambda: F.group_norm(IMAGES, 3, ones(8)),
        ValueError,
        r"group_norm: got weight of shape \(8,\) for an input of .*, expected \(3,\)",
    ),
    # Linear, activations, dropout
    "images that were not flattened": (
        lambda: F.linear(IMAGES, ones(10, 192)),
        ValueError,
        r"linear: got an input of 8 features, shape \(2, 3, 8, 8\), .* flattened first",
    ),
    "integers into a linear layer": (
        lambda: F.linear(Tensor([[1, 2, 3]]), ones(10, 3)),
        TypeError,
        "linear: got dtype int64, expected float32 or float64",
    ),
    "integers into an activation": (
        lambda: F.silu(Tensor([1, 2])),
        TypeError,
        "silu: got dtype int64, expected float32 or float64",
    ),
    "a list into an activation": (
        lambda: F.relu([1.0, 2.0]),
        TypeError,
        "relu: got a list, expected a Tensor",
    ),
    "a softmax over no such axis": (
        lambda: F.softmax(LOGITS, 2),
        ValueError,
        r"softmax: got axis 2 for shape \(4, 10\)",
    ),
    "softplus with beta 0": (
        lambda: F.softplus(LOGITS, 0),
        ValueError,
        "softplus: got beta=0, expected a positive number",
    ),
    "an unknown approximation": (
        lambda: F.gelu(LOGITS, "erf"),
        ValueError,
        "gelu: got approximate='erf', expected 'none' or 'tanh'",
    ),
    "dropout of 20 percent, written 20": (
        lambda: F.dropout(LOGITS, 20),
        ValueError,
        "dropout: got p=20, expected 0 <= p <= 1",
    ),
    "dropout of uint8 images": (
        lambda: F.dropout(Tensor(np.zeros(4, np.uint8))),
        TypeError,
        "dropout: got dtype uint8, expected float32 or float64",
    ),
    "a seed in place of a generator": (
        lambda: F.dropout(LOGITS, rng=0),
        TypeError,
        r"rng=0, expected a numpy\.random\.Generator",
    ),
    # Losses
    "label -1": (
        lambda: F.cross_entropy(LOGITS, np.array([0, 1, -1, 2])),
        ValueError,
        r"cross_entropy: got label -1 at \(2,\), expected 0 to 9 for 10 classes",
    ),
    "label 10 of 10 classes": (
        lambda: F.cross_entropy(LOGITS, np.array([10, 1, 1, 2])),
        ValueError,
        r"cross_entropy: got label 10 at \(0,\), expected 0 to 9 .*are labels counted from 1",
    ),
    "one-hot labels": (
        lambda: F.cross_entropy(LOGITS, np.eye(10, dtype=np.int64)[:4]),
        ValueError,
        r"cross_entropy: .* labels of shape \(4, 10\), expected labels of shape \(4,\): .* one-hot",
    ),
    "float labels": (
        lambda: F.cross_entropy(LOGITS, np.array([0.0, 1.0, 2.0, 3.0])),
        ValueError,
        r"cross_entropy: .* float targets of shape \(4,\); expected probabilities .*integer labels",
    ),
    "labels for another batch": (
        lambda: F.nll_loss(LOGITS, np.zeros(3, np.int64)),
        ValueError,
        r"nll_loss: got scores of shape \(4, 10\) and labels of shape \(3,\)",
    ),
    "float labels for nll_loss": (
        lambda: F.nll_loss(LOGITS, np.zeros(4, np.float32)),
        TypeError,
        "nll_loss: got labels of dtype float32, expected integers",
    ),
    "labels on another device": (
        lambda: F.cross_entropy(ones(4, 10, device="guarded"), np.zeros(4, np.int64)),
        TypeError,
        r"cross_entropy: got tensors on 'guarded' and 'cpu'; move one with \.to\('guarded'\)",
    ),
    "weights for other classes": (
        lambda: F.cross_entropy(LOGITS, np.zeros(4, np.int64), np.ones(9)),
        ValueError,
        r"cross_entropy: got weights of shape \(9,\), expected \(10,\)",
    ),
    "label smoothing of 10 percent, written 10": (
        lambda: F.cross_entropy(LOGITS, np.zeros(4, np.int64), label_smoothing=10),
        ValueError,
        "cross_entropy: got label_smoothing=10, expected 0 <= label_smoothing <= 1",
    ),
    "scores without classes": (
        lambda: F.cross_entropy(ones(4), np.zeros(4, np.int64)),
        ValueError,
        r"cross_entropy: got scores of shape \(4,\), expected \(n, classes\)",
    ),
    "logits as an array": (
        lambda: F.cross_entropy(np.ones((4, 10)), np.zeros(4, np.int64)),
        TypeError,
        "cross_entropy: got a ndarray, expected a Tensor",
    ),
    "an empty batch": (
        lambda: F.cross_entropy(ones(0, 10), np.zeros(0, np.int64)),
        ValueError,
        "cross_entropy: got an empty batch, or only ignored labels: nothing to average",
    ),
    "an empty batch of numbers": (
        lambda: F.mse_loss(ones(0, 3), np.ones((0, 3))),
        ValueError,
        r"mse_loss: got an empty batch, shape \(0, 3\), which has no mean",
    ),
    "an unknown reduction": (
        lambda: F.cross_entropy(LOGITS, np.zeros(4, np.int64), reduction="avg"),
        ValueError,
        "cross_entropy: got reduction='avg', expected 'mean', 'sum' or 'none'",
    ),
    "predictions (n, 1) against targets (n,)": (
        lambda: F.mse_loss(ones(4, 1), np.ones(4)),
        ValueError,
        r"mse_loss: got an input of shape \(4, 1\) and a target of shape \(4,\), expected equal",
    ),
    "labels for binary cross-entropy": (
        lambda: F.binary_cross_entropy_with_logits(LOGITS, np.ones(4)),
        ValueError,
        r"binary_cross_entropy_with_logits: .* \(4, 10\) and a target of shape \(4,\)",
    ),
    # Layers
    "a layer of no features": (
        lambda: nn.Linear(0, 10),
        ValueError,
        "Linear: got in_features=0, expected an integer >= 1",
    ),
    "a layer of half a channel": (
        lambda: nn.Conv2d(3, 16.5, 3),
        ValueError,
        r"Conv2d: got out_channels=16\.5, expected an integer >= 1",
    ),
    "a layer whose groups do not divide": (
        lambda: nn.Conv2d(3, 4, 3, groups=2),
        ValueError,
        "Conv2d: got 3 input and 4 output channels in 2 groups, expected both to be divisible",
    ),
    "a pooling layer of stride 0": (
        lambda: nn.MaxPool2d(2, 0),
        ValueError,
        "MaxPool2d: got stride=0, expected an integer >= 1",
    ),
    "a convolution layer of stride 0": (
        lambda: nn.Conv2d(3, 4, 3, stride=0),
        ValueError,
        "Conv2d: got stride=0, expected an integer >= 1",
    ),
    "a convolution layer with misspelt padding": (
        lambda: nn.Conv2d(3, 4, 3, padding="sam"),
        ValueError,
        "Conv2d: got padding='sam', expected an integer, a pair, 'same' or 'valid'",
    ),
    "a sequence layer with negative padding": (
        lambda: nn.Conv1d(3, 4, 3, padding=-1),
        ValueError,
        "Conv1d: got padding=-1, expected an integer >= 0",
    ),
    "a transposed layer with too much output_padding": (
        lambda: nn.ConvTranspose2d(3, 4, 3, output_padding=1),
        ValueError,
        "ConvTranspose2d: got output_padding=1, expected less than stride=1",
    ),
    "a pooling layer with too much padding": (
        lambda: nn.MaxPool2d(2, padding=2),
        ValueError,
        "MaxPool2d: got padding=2 with kernel_size=2, expected at most half the window",
    ),
    "a pooling layer with half a divisor": (
        lambda: nn.AvgPool2d(2, divisor_override=2.5),
        ValueError,
        r"AvgPool2d: got divisor_override=2\.5, expected an integer >= 1",
    ),
    "a weight replaced by an array": (
        lambda: setattr(nn.Linear(2, 2), "weight", np.zeros((2, 2))),
        TypeError,
        r"Linear\.weight: got a ndarray, expected an nn\.Parameter"
        r".*`with m\.weight\.mutable\(\) as array",
    ),
    "a weight replaced by a result": (
        lambda: setattr(layer := nn.Linear(2, 2), "weight", layer.weight - 1),
        TypeError,
        r"Linear\.weight: got a Tensor, expected an nn\.Parameter.* load_state_dict",
    ),
    "a child that holds its parent": (
        lambda: setattr((net := nn.Sequential(nn.ReLU()))[0], "parent", net),
        ValueError,
        r"ReLU\.parent: got a Sequential that is or contains this module, expected no",
    ),
    "a dropout layer of p -1": (
        lambda: nn.Dropout(-1),
        ValueError,
        "Dropout: got p=-1, expected 0 <= p <= 1",
    ),
    "a dropout layer in words": (
        lambda: nn.Dropout("a"),
        ValueError,
        "Dropout: got p='a', expected 0 <= p <= 1",
    ),
    "label smoothing in words": (
        lambda: nn.CrossEntropyLoss(label_smoothing="a"),
        ValueError,
        "CrossEntropyLoss: got label_smoothing='a', expected 0 <= label_smoothing <= 1",
    ),
    "a loss layer with an unknown reduction": (
        lambda: nn.CrossEntropyLoss(reduction="avg"),
        ValueError,
        "CrossEntropyLoss: got reduction='avg', expected 'mean', 'sum' or 'none'",
    ),
    "a function in a Sequential": (
        lambda: nn.Sequential(nn.Linear(2, 2), F.relu),
        TypeError,
        r"Sequential: got <function relu .*>, expected a Module instance; "
        r"did you mean nn\.ReLU\(\)",
    ),
    "a class in a Sequential": (
        lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU),
        TypeError,
        r"Sequential: got <class .*ReLU'>, expected a Module instance; did you mean nn\.ReLU\(\)",
    ),
    "a wrong state": (
        lambda: nn.Linear(2, 2).load_state_dict({"weight": np.ones((3, 2))}),
        ValueError,
        r"Linear\.load_state_dict: .* another network\?\n  bias: missing\n  weight: got shape",
    ),
    "weights of integers": (
        lambda: nn.Linear(2, 2).to(dtype="int32"),
        TypeError,
        r"Linear\.to: got dtype int32, expected float32 or float64",
    ),
    "an unknown activation's gain": (
        lambda: init.calculate_gain("relu6"),
        ValueError,
        "calculate_gain: got 'relu6', expected one of",
    ),
    "an unknown mode of initialisation": (
        lambda: init.kaiming_normal_(ones(2, 2), mode="fan"),
        ValueError,
        "init: got mode='fan', expected 'fan_in' or 'fan_out'",
    ),
    "the fan of a bias": (
        lambda: init.xavier_uniform_(ones(3)),
        ValueError,
        r"init: got shape \(3,\), expected a weight of shape \(out, in, \.\.\.\)",
    ),
    "images for BatchNorm1d": (
        lambda: nn.BatchNorm1d(3)(IMAGES),
        ValueError,
        r"BatchNorm1d: got an input of shape \(2, 3, 8, 8\), expected \(n, 3\) or \(n, 3, length\)",
    ),
    "rows for BatchNorm2d": (
        lambda: nn.BatchNorm2d(3)(ones(2, 3)),
        ValueError,
        r"BatchNorm2d: got an input of shape \(2, 3\), expected \(n, 3, h, w\)",
    ),
    "other channels for BatchNorm2d": (
        lambda: nn.BatchNorm2d(8)(IMAGES),
        ValueError,
        r"BatchNorm2d: got an input of shape \(2, 3, 8, 8\), expected \(n, 8, h, w\)",
    ),
    "an array for BatchNorm2d": (
        lambda: nn.BatchNorm2d(3)(np.ones((2, 3, 8, 8))),
        TypeError,
        "BatchNorm2d: got a ndarray, expected a Tensor",
    ),
    "BatchNorm2d of no features": (
        lambda: nn.BatchNorm2d(0),
        ValueError,
        "BatchNorm2d: got num_features=0, expected an integer >= 1",
    ),
    "BatchNorm1d with a momentum of -1": (
        lambda: nn.BatchNorm1d(3, momentum=-1),
        ValueError,
        "BatchNorm1d: got momentum=-1, expected 0 <= momentum <= 1",
    ),
    "BatchNorm1d with a negative eps": (
        lambda: nn.BatchNorm1d(3, eps=-1e-5),
        ValueError,
        "BatchNorm1d: got eps=-1e-05, expected a number >= 0",
    ),
    "LayerNorm of a fraction": (
        lambda: nn.LayerNorm((3, 2.5)),
        ValueError,
        r"LayerNorm: got normalized_shape=2\.5, expected an integer >= 1",
    ),
    "GroupNorm of unequal groups": (
        lambda: nn.GroupNorm(4, 6),
        ValueError,
        "GroupNorm: got num_channels=6 and num_groups=4, expected channels divisible by groups",
    ),
    "other channels for GroupNorm": (
        lambda: nn.GroupNorm(2, 4)(IMAGES),
        ValueError,
        r"GroupNorm: got an input of shape \(2, 3, 8, 8\), expected \(n, 4, \.\.\.\)",
    ),
    # Optimisers
    "no parameters": (
        lambda: optim.SGD([]),
        ValueError,
        r"SGD: got no parameters \(was the generator already consumed, or is everything frozen\?\)",
    ),
    "one tensor": (
        lambda: optim.SGD(trained(3)),
        TypeError,
        "SGD: got one Tensor, expected a list",
    ),
    "named parameters": (
        lambda: optim.Adam(nn.Linear(2, 2).named_parameters()),
        TypeError,
        "Adam: got a tuple, expected tensors",
    ),
    "the result of an operation": (
        lambda: optim.SGD([trained(3) * 2]),
        ValueError,
        "SGD: got the result of an operation, expected a leaf",
    ),
    "a parameter twice": (
        lambda: optim.SGD([weight := trained(3), weight]),
        ValueError,
        r"SGD: a parameter of shape \(3,\) occurs twice",
    ),
    "a negative learning rate": (
        lambda: optim.Adam([trained(3)], lr=-1e-3),
        ValueError,
        r"Adam: got lr=-0\.001, expected a number >= 0",
    ),
    "a learning rate that is no number": (
        lambda: optim.RMSprop([trained(3)], lr=float("nan")),
        ValueError,
        "RMSprop: got lr=nan, expected a number >= 0",
    ),
    "beta 1": (
        lambda: optim.AdamW([trained(3)], betas=(0.9, 1.0)),
        ValueError,
        r"AdamW: got betas=\(0\.9, 1\.0\), expected two numbers with 0 <= beta < 1",
    ),
    "one beta": (
        lambda: optim.Adam([trained(3)], betas=(0.9,)),
        ValueError,
        r"Adam: got betas=\(0\.9,\), expected two numbers with 0 <= beta < 1",
    ),
    "betas as one number": (
        lambda: optim.Adam([trained(3)], betas=0.9),
        ValueError,
        r"Adam: got betas=0\.9, expected two numbers with 0 <= beta < 1",
    ),
    "a dampening in words": (
        lambda: optim.SGD([trained(3)], momentum=0.9, dampening="a"),
        ValueError,
        "SGD: got dampening='a', expected a number >= 0",
    ),
    "a model in place of its parameters": (
        lambda: optim.Adam(nn.Sequential(nn.Linear(2, 2))),
        TypeError,
        r"Adam: got a Sequential, expected its parameters; pass model\.parameters\(\)",
    ),
    "a model in a group": (
        lambda: optim.Adam([{"params": nn.Linear(2, 2)}]),
        TypeError,
        r"Adam: got a Linear, expected its parameters; pass model\.parameters\(\)",
    ),
    "a model to clip": (
        lambda: optim.clip_grad_norm_(nn.Linear(2, 2), 1.0),
        TypeError,
        r"clip_grad_norm_: got a Linear, expected its parameters; pass model\.parameters\(\)",
    ),
    "names to clip": (
        lambda: optim.clip_grad_norm_(nn.Linear(2, 2).named_parameters(), 1.0),
        TypeError,
        "clip_grad_norm_: got a tuple, expected tensors",
    ),
    "Nesterov without momentum": (
        lambda: optim.SGD([trained(3)], nesterov=True),
        ValueError,
        "SGD: got nesterov=True, expected momentum > 0 and dampening 0",
    ),
    "an option of another rule": (
        lambda: optim.SGD([{"params": [trained(3)], "betas": (0.9, 0.99)}]),
        ValueError,
        r"SGD: got a group with \['betas', 'params'\], expected 'params' and any of",
    ),
    "a tensor among groups": (
        lambda: optim.SGD([{"params": [trained(3)]}, trained(3)]),
        TypeError,
        "SGD: expected every group to be a dict, got a Tensor",
    ),
    "a step before backward": (
        lambda: optim.SGD([trained(3)]).step(),
        RuntimeError,
        r"SGD\.step: no parameter has a gradient; call loss\.backward\(\) first",
    ),
    "a largest norm of 0": (
        lambda: optim.clip_grad_norm_([trained(3)], 0),
        ValueError,
        r"clip_grad_norm_: got max_norm=0, norm_type=2\.0, expected both to be > 0",
    ),
    # Tensors, devices, seeds
    "words": (
        lambda: Tensor(["cat"]),
        TypeError,
        "Tensor: got a list of dtype <U3, expected real numbers",
    ),
    "gradients of integers": (
        lambda: Tensor([1, 2], requires_grad=True),
        TypeError,
        "requires_grad: got dtype int64, only floats have gradients",
    ),
    "shapes that do not combine": (
        lambda: ones(2, 3) + ones(2),
        ValueError,
        r"add: got shapes \(2, 3\) and \(2,\); expected sizes that are equal or 1",
    ),
    "backward from many numbers": (
        lambda: (trained(3) * 2).backward(),
        ValueError,
        r"backward: got an output of shape \(3,\), expected a single number such as a mean loss",
    ),
    "backward twice": (
        lambda: [loss.backward() for loss in [(trained(3) ** 2).sum()] * 2],
        RuntimeError,
        "a second time: .* pass retain_graph=True",
    ),
    "backward without gradients": (
        lambda: ones(3).sum().backward(),
        RuntimeError,
        "backward: this tensor was not computed from any tensor that requires a gradient",
    ),
    "an unknown device": (
        lambda: minidl.zeros(3, device="gpu"),
        ValueError,
        "device='gpu', expected 'cpu' or 'cuda'",
    ),
    "a model to an unknown device": (
        lambda: nn.Linear(2, 2).to("tpu"),
        ValueError,
        "device='tpu', expected 'cpu' or 'cuda'",
    ),
    "tensors on two devices": (
        lambda: ones(2) + ones(2, device="guarded"),
        TypeError,
        r"add: got tensors on 'cpu' and 'guarded'; move one with \.to\('cpu'\)",
    ),
    "a negative seed": (
        lambda: minidl.manual_seed(-1),
        ValueError,
        "manual_seed: got -1, expected an integer >= 0",
    ),
    "a fractional seed": (
        lambda: minidl.manual_seed(0.5),
        ValueError,
        r"manual_seed: got 0\.5, expected an integer >= 0",
    ),
}


@pytest.mark.parametrize("what", WRONG_CALLS)
def test_wrong_call_says_what_is_wrong(what):
    call, kind, text = WRONG_CALLS[what]
    with pytest.raises(kind, match=text) as caught:
        call()
    assert type(caught.value) is kind  # and not a subclass that NumPy raised somewhere below


REGION = Tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
LONG = Tensor([[0.0, 0.0, 0.0, 1e30, 4.0]])
MASK = np.ones((2, 8), bool)
STEPS, STATE, GATES = ones(3, 2, 4), ones(2, 4), ones(12, 4)
NOT_NUMBERS = [None, "2", [1.0], 1j, np.array([1.0, 2.0]), float("nan"), True]
NUMBERS = {
    "smooth_l1_loss: got beta=": lambda n: F.smooth_l1_loss(LOGITS, np.zeros((4, 10)), beta=n),
    "huber_loss: got delta=": lambda n: F.huber_loss(LOGITS, np.zeros((4, 10)), delta=n),
    "sigmoid_focal_loss: got alpha=": lambda n: F.sigmoid_focal_loss(LOGITS, LOGITS, alpha=n),
    "sigmoid_focal_loss: got gamma=": lambda n: F.sigmoid_focal_loss(LOGITS, LOGITS, gamma=n),
    "focal_loss: got gamma=": lambda n: F.focal_loss(LOGITS, [0, 1, 2, 3], gamma=n),
    "dice_loss: got smooth=": lambda n: F.dice_loss(ones(1, 2, 3), [[0, 1, 1]], smooth=n),
    "layer_norm: got eps=": lambda n: F.layer_norm(LOGITS, 10, eps=n),
    "roi_pool2d: got spatial_scale=": lambda n: F.roi_pool2d(IMAGES, REGION, 2, n),
    "interpolate: got scale_factor=": lambda n: F.interpolate(IMAGES, None, "" if n is None else n),
    "boundary_f1: got masks of shape (1, 2, 2) and tolerance=": lambda n: (
        minidl.training.boundary_f1(*[np.zeros((1, 2, 2), int)] * 2, 2, n)
    ),
}


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
@pytest.mark.parametrize("begins", NUMBERS)
def test_what_is_no_number_is_refused_where_one_is_expected(begins, value):
    with pytest.raises(ValueError, match=re.escape(begins)):
        NUMBERS[begins](value)


@pytest.mark.parametrize("value", [2, np.int64(2), np.float32(2), np.float64(2)], ids=repr)
@pytest.mark.parametrize("begins", [name for name in NUMBERS if "alpha" not in name])
def test_numbers_of_numpy_are_numbers(begins, value):
    got, expected = NUMBERS[begins](value), NUMBERS[begins](2.0)
    assert getattr(got, "dtype", None) == getattr(expected, "dtype", None)
    both = [x.numpy() if isinstance(x, Tensor) else x for x in (got, expected)]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("value", ["no", None, 1.0, [0], (1, 2), np.zeros(2), True], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda n: F.cross_entropy(LOGITS, [0, 1, 2, 3], ignore_index=n),
        lambda n: F.focal_loss(LOGITS, [0, 1, 2, 3], ignore_index=n),
        lambda n: F.dice_loss(ones(1, 2, 3), [[0, 1, 1]], ignore_index=n),
        lambda n: minidl.training.mean_iou(*[np.zeros((1, 2), int)] * 2, 2, ignore_index=n),
        lambda n: minidl.training.boundary_f1(*[np.zeros((1, 2, 2), int)] * 2, 2, ignore_index=n),
    ],
)
def test_an_ignored_label_is_an_integer(call, value):
    with pytest.raises(ValueError, match=r"^\w+: got ignore_index=.*, expected an integer"):
        call(value)


@pytest.mark.parametrize("value", [None, "3", 3.5, float("nan"), [3], 0, True, {}], ids=repr)
def test_a_number_of_classes_is_an_integer(value):
    with pytest.raises(ValueError, match=r"^mean_iou: got classes=.*, expected an integer >= 1"):
        minidl.training.mean_iou(np.zeros(2, int), np.zeros(2, int), value)


# Tensors that are missing, or arrays in their place.
MISSING = {
    "deform_conv2d: got a NoneType as offset": lambda: F.deform_conv2d(IMAGES, None, KERNELS),
    "deform_conv2d: got a NoneType as weight": lambda: F.deform_conv2d(IMAGES, IMAGES, None),
    "scaled_dot_product_attention: got a NoneType as key": lambda: F.scaled_dot_product_attention(
        LOGITS, None, LOGITS
    ),
    "masked_attention_pool1d: got a NoneType as weight": lambda: F.masked_attention_pool1d(
        ones(2, 3, 8), None, MASK
    ),
    "gru: got a NoneType as h0": lambda: F.gru(STEPS, None, GATES, GATES),
    "gru: got a NoneType as weight_ih": lambda: F.gru(STEPS, STATE, None, GATES),
    "gru: got a NoneType as weight_hh": lambda: F.gru(STEPS, STATE, GATES, None),
    "lstm: got a NoneType as c0": lambda: F.lstm(STEPS, STATE, None, ones(16, 4), ones(16, 4)),
    "GRU: got a ndarray": lambda: nn.GRU(4, 4)(STEPS.numpy()),
    "GRU: got a list as state": lambda: nn.GRU(4, 4)(STEPS, [[0.0]]),
    "LSTM: got a float as state": lambda: nn.LSTM(4, 4)(STEPS, (1.0, None)),
    "LSTM: got a float as state, expected two": lambda: nn.LSTM(4, 4)(STEPS, 1.5),
    "LSTM: got a tuple as state, expected two": lambda: nn.LSTM(4, 4)(STEPS, ()),
    "MultiheadAttention: got a list": lambda: nn.MultiheadAttention(4, 2)([1.0], STEPS, STEPS),
    "MultiheadAttention: got a ndarray": lambda: nn.MultiheadAttention(4, 2)(
        STEPS, STEPS, STEPS.numpy()
    ),
    "MultiheadAttention: got dtype int64": lambda: nn.TransformerEncoderLayer(4, 2)(
        STEPS.to(dtype="int64")
    ),
    "PositionalEncoding: got a NoneType": lambda: nn.PositionalEncoding(3, 4)(None),
    "prod: got axis=1.5, expected integers": lambda: minidl.prod(LOGITS, 1.5),
    "prod: got axis='a', expected integers": lambda: minidl.prod(LOGITS, "a"),
    "pad: got a str, expected a": lambda: minidl.pad(LOGITS, [(1, 1), (0, 0)], "0"),
    "pad: got a list, expected a": lambda: minidl.pad(LOGITS, [(1, 1), (0, 0)], [0.0]),
}


@pytest.mark.parametrize("begins", MISSING)
def test_what_is_no_tensor_is_named(begins):
    with pytest.raises(TypeError, match="^" + re.escape(begins)):
        MISSING[begins]()


BOX, KIND, SCORE = np.array([[0.0, 0.0, 8.0, 8.0]]), np.array([1]), np.array([0.5])


def found(boxes=BOX, kinds=KIND, scores=SCORE, objects=BOX, labels=KIND, threshold=0.5):
    return minidl.training.mean_average_precision(
        [(boxes, kinds, scores)], [(objects, labels)], threshold
    )


DETECTIONS = {
    "box_iou: got boxes of list": lambda: minidl.training.box_iou(BOX.tolist(), BOX),
    "box_iou: got boxes of Tensor": lambda: minidl.training.box_iou(BOX, Tensor(BOX)),
    "box_iou: got boxes of complex128": lambda: minidl.training.box_iou(BOX + 1j, BOX),
    "box_iou: got boxes of shape (4,), expected (m, 4)": lambda: minidl.training.box_iou(
        BOX[0], BOX
    ),
    "box_iou: got boxes of shape (), expected (m, 4)": lambda: minidl.training.box_iou(
        BOX[0, 0, None].reshape(()), BOX
    ),
    "box_iou: got boxes with NaN": lambda: minidl.training.box_iou(BOX, BOX * np.nan),
    "got boxes of NoneType": lambda: found(boxes=None),
    "got boxes of list": lambda: found(objects=BOX.tolist()),
    "got boxes of shape (1, 3)": lambda: found(boxes=BOX[:, :3]),
    "got boxes with NaN": lambda: found(objects=BOX + np.inf),
    "got classes of shape (2,), expected (1,)": lambda: found(kinds=np.array([1, 1])),
    "got classes of shape (1, 1), expected (1,)": lambda: found(labels=KIND[None]),
    "got classes of bool": lambda: found(labels=KIND > 0),
    "got scores of shape (0,), expected (1,)": lambda: found(scores=SCORE[:0]),
    "got scores of <U3": lambda: found(scores=SCORE.astype("U3")),
    "got scores with NaN": lambda: found(scores=SCORE * np.nan),
    "got threshold=None": lambda: found(threshold=None),
    "got threshold='a'": lambda: found(threshold="a"),
    "got threshold=True": lambda: found(threshold=True),
    "got None as detections": lambda: minidl.training.mean_average_precision(None, []),
    "got [1] as objects": lambda: minidl.training.mean_average_precision([], [1]),
    "got 2 arrays as detections": lambda: minidl.training.mean_average_precision(
        [(BOX, KIND)], [(BOX, KIND)]
    ),
}


@pytest.mark.parametrize("begins", DETECTIONS)
def test_wrong_detections_say_what_is_wrong(begins):
    start = begins if ":" in begins else f"mean_average_precision: {begins}"
    with pytest.raises((ValueError, TypeError), match="^" + re.escape(start)) as caught:
        DETECTIONS[begins]()
    assert type(caught.value) in (ValueError, TypeError)


@pytest.mark.parametrize("device", ["cpu", "guarded"])
@pytest.mark.parametrize(
    "call",
    [
        lambda x, array: F.masked_avg_pool1d(x[0], array > 0),
        lambda x, array: F.masked_max_pool1d(x[0], array > 0),
        lambda x, array: F.roi_pool2d(x, array, 2),
        lambda x, array: F.roi_align2d(x, array, 2),
        lambda x, array: minidl.index_add(x, 0, array[0, :1].to(dtype="int64").data, x),
        lambda x, array: nn.GRU(5, 2).to(x.device)(x[0], mask=array > 0),
    ],
)
def test_masks_boxes_and_indices_on_another_device_are_refused(call, device):
    other = {"cpu": "guarded", "guarded": "cpu"}[device]
    x, array = ones(1, 1, 5, 5, device=device), Tensor(np.zeros((1, 5), np.float32), device=other)
    with pytest.raises(
        TypeError, match=r"^\w+: got tensors on '(cpu|guarded)' and '(cpu|guarded)'"
    ):
        call(x, array)


HUGE = {
    "interpolate: got images of 8 by 8 and an output of 1000000000 by 1": lambda: F.interpolate(
        IMAGES, (10**9, 1)
    ),
    "interpolate: got images of 8 by 8 and an output of 8000000000 by 8": lambda: F.interpolate(
        IMAGES, None, (1e9, 1)
    ),
    "roi_pool2d: got output_size=(1, 1000000000)": lambda: F.roi_pool2d(IMAGES, REGION, (1, 10**9)),
    "roi_align2d: got output_size=1000000000": lambda: F.roi_align2d(IMAGES, REGION, 10**9),
    "roi_align2d: got 1e+09 samples along a bin, expected at most 16384": lambda: F.roi_align2d(
        IMAGES, REGION, 2, 1.0, 10**9
    ),
    "roi_align2d: got 5e+29 samples along a bin": lambda: F.roi_align2d(IMAGES, LONG, 2),
    "load_toy_scenes: got train=1000000000, expected an integer >= 1 and <= 1000000": lambda: (
        minidl.data.load_toy_scenes(train=10**9)
    ),
}


@pytest.mark.parametrize("begins", HUGE)
def test_what_would_never_end_or_never_fit_is_refused_at_once(begins):
    with pytest.raises(ValueError, match="^" + re.escape(begins)):
        HUGE[begins]()


def test_the_value_around_an_array_is_a_single_number():
    with pytest.raises(ValueError, match=r"^pad: got a value of shape \(2,\), expected a number"):
        minidl.pad(LOGITS, [(1, 1), (0, 0)], np.zeros(2))


@pytest.mark.parametrize("value", [["mean"], {}, None, np.zeros(2), {1}], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda mode: minidl.pad(LOGITS, [(1, 1), (0, 0)], mode=mode),
        lambda mode: F.interpolate(IMAGES, 4, mode=mode),
        lambda mode: F.dice_loss(ones(1, 2, 3), [[0, 1, 1]], reduction=mode),
        lambda mode: F.huber_loss(LOGITS, np.zeros((4, 10)), mode),
    ],
)
def test_a_mode_that_is_no_string_is_refused_like_an_unknown_one(call, value):
    with pytest.raises(ValueError, match=r"^\w+: got (mode|reduction)=.*, expected"):
        call(value)


def test_cuda_without_cupy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it then fails, as if it were absent
    setup.load_cupy.cache_clear()
    monkeypatch.setattr(minidl.backends, "_by_device", {})
    with pytest.raises(RuntimeError, match=r"device 'cuda' needs CuPy.*cupy-cuda13x"):
        minidl.zeros(3, device="cuda")
    setup.load_cupy.cache_clear()


def test_an_error_in_a_network_names_the_layer_and_its_place():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Flatten(), nn.Linear(8, 10))
    with pytest.raises(ValueError, match="flattened first") as caught:
        net(IMAGES)
    assert caught.value.__notes__ == ["in layer '2', Linear(8, 10)"]
