"""Checks of the exercises for chapter 10."""

import math

import numpy as np

from minidl import Tensor, nn


def normalized(x, axes, eps=1e-5, ddof=0):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True, ddof=ddof)
    return (x - mean) / np.sqrt(variance + eps)


def test_batch_norm_uses_mean_and_variance_per_channel(exercise):
    x = np.array([[[[1.0, 3.0]], [[10.0, 20.0]]], [[[5.0, 7.0]], [[20.0, 30.0]]]])
    hints = {
        "that is one mean per pixel: take it over images and pixels, axes (0, 2, 3)": (
            normalized(x, 0)
        ),
        "that is instance norm, each image by itself: take axes (0, 2, 3)": normalized(x, (2, 3)),
        "that is layer norm, over all channels of an image: take axes (0, 2, 3)": (
            normalized(x, (1, 2, 3))
        ),
        "each channel has its own mean and variance: leave out axis 1": (
            normalized(x, (0, 1, 2, 3))
        ),
        "the variance divides by the number of pixels, not by one less: no ddof": (
            normalized(x, (0, 2, 3), ddof=1)
        ),
        "divide by the square root of the variance": (
            (x - x.mean((0, 2, 3), keepdims=True)) / (x.var((0, 2, 3), keepdims=True) + 1e-5)
        ),
    }
    expected = normalized(x, (0, 2, 3))
    exercise.expect("batch_norm", x, np.ones(2), np.zeros(2), expected=expected, hints=hints)


def test_batch_norm_scales_and_shifts_each_channel(exercise):
    x = np.array([[[[1.0, 3.0]], [[10.0, 20.0]]], [[[5.0, 7.0]], [[20.0, 30.0]]]])
    gamma, beta, flat = np.array([1.0, 2.0]), np.array([0.0, 5.0]), normalized(x, (0, 2, 3))
    hints = {
        "gamma and beta were applied along the width, not along axis 1: gamma[:, None, None]": (
            flat * gamma + beta
        ),
        "gamma and beta are missing": flat,
        "beta is added last and not multiplied by gamma": (
            (flat + beta[:, None, None]) * gamma[:, None, None]
        ),
    }
    expected = flat * gamma[:, None, None] + beta[:, None, None]
    exercise.expect("batch_norm", x, gamma, beta, expected=expected, hints=hints)


def test_batch_norm_adds_eps_under_the_square_root(exercise):
    x = 1e-3 * np.array([[[[-1.0, 1.0]]]])
    hints = {
        "eps is missing: a constant channel would give 0 / 0": np.sign(x),
        "add eps to the variance, under the square root": x / (1e-3 + 1e-5),
    }
    exercise.expect(
        "batch_norm", x, np.ones(1), np.zeros(1), expected=normalized(x, (0, 2, 3)), hints=hints
    )


def less_3(x):
    return x - 3


def times_minus_2(x):
    return x * -2


def times_10(x):
    return x * 10


def identity(x):
    return x


def test_residual_block_adds_the_shortcut_before_the_last_relu(exercise):
    hints = {
        "the shortcut is missing": [0.0, 0.0, 0.0],
        "the shortcut is added before the last ReLU: relu(... + shortcut(x))": [-1.0, 2.0, 5.0],
        "the ReLU after the sum is missing": [-1.0, 2.0, 1.0],
        "the ReLU between first and second is missing": [7.0, 4.0, 1.0],
        "apply first, then second": [0.0, 0.0, 2.0],
    }
    x = Tensor([-1.0, 2.0, 5.0])
    expected = [0.0, 2.0, 1.0]
    exercise.expect(
        "residual_block", x, less_3, times_minus_2, identity, expected=expected, hints=hints
    )


def test_residual_block_uses_the_given_shortcut(exercise):
    hints = {"x itself was added: use shortcut(x), because x may have another shape": [2.0, 1.0]}
    x = Tensor([2.0, 5.0])
    exercise.expect(
        "residual_block", x, less_3, times_minus_2, times_10, expected=[20.0, 46.0], hints=hints
    )


def test_residual_block_passes_the_gradient_on(exercise):
    x = Tensor(np.ones((1, 2, 4, 4), np.float32), requires_grad=True)
    dead = nn.Conv2d(2, 2, 3, padding=1)
    dead.load_state_dict({name: 0 * array for name, array in dead.state_dict().items()})
    out = exercise.call("residual_block", x, dead, dead, identity)
    usual = "with zero weights the block is the identity: compute with tensors, not their arrays"
    with exercise.in_words("backward of residual_block, with zero convolutions", usual):
        out.sum().backward()
    exercise.compare(
        "the gradient with respect to x",
        x.grad is not None and float(x.grad.mean()),
        1.0,
        usual=usual,
    )


def rates(exercise, steps, peak, warmup):
    return [exercise.call("learning_rate", step, steps, peak, warmup) for step in range(steps)]


def test_learning_rate_rises_linearly(exercise):
    said = "learning_rate(step, 10, 0.4, 4) for the first 4 steps"
    hints = {
        "the first step would learn nothing: steps count from 0, use step + 1": [0, 0.1, 0.2, 0.3],
        "the last step of the warm-up has the peak rate": [0.08, 0.16, 0.24, 0.32],
        "there is no warm-up": [0.4 / 2 * (1 + math.cos(math.pi * s / 10)) for s in range(4)],
    }
    exercise.compare(said, rates(exercise, 10, 0.4, 4)[:4], [0.1, 0.2, 0.3, 0.4], hints)


def test_learning_rate_falls_along_a_half_cosine(exercise):
    said = "learning_rate(step, 10, 0.4, 2) from step 2 on"
    hints = {
        "t counts from the end of the warm-up, over the remaining steps": [
            0.2 * (1 + math.cos(math.pi * step / 10)) for step in range(2, 10)
        ],
        "that is a straight line: the rate follows a cosine": [
            0.4 * (1 - step / 8) for step in range(8)
        ],
        "a half cosine, from 1 to -1, spans pi, not 2 pi": [
            0.2 * (1 + math.cos(2 * math.pi * step / 8)) for step in range(8)
        ],
        "that is a quarter of a cosine": [0.4 * math.cos(math.pi * step / 16) for step in range(8)],
        "t reaches 1 at step `steps`, one after the last": [
            0.2 * (1 + math.cos(math.pi * step / 7)) for step in range(8)
        ],
    }
    expected = [0.2 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    exercise.compare(said, rates(exercise, 10, 0.4, 2)[2:], expected, hints)
