"""Checks of the exercises for chapter 16."""

import numpy as np

QUERIES = np.array([[2.0, 0.0], [0.0, 1.0]])
KEYS = np.array([[1.0, 0.0], [0.0, 3.0], [-1.0, 2.0]])
VALUES = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 0.0]])


def softmax(scores, axis=-1):
    powers = np.exp(scores)
    return powers / powers.sum(axis, keepdims=True)


def test_attend_averages_the_values(exercise):
    scores, everything = QUERIES @ KEYS.T, np.ones((2, 3), bool)
    root = np.sqrt(2)
    hints = {
        "divide the products by the root of e, the length of a key": softmax(scores) @ VALUES,
        "by the root of e, not e itself": softmax(scores / 2) @ VALUES,
        "the softmax is over keys, axis 1: each query's weights add up to 1": softmax(
            scores / root, 0
        )
        @ VALUES,
    }
    expected = softmax(scores / root) @ VALUES
    exercise.expect("attend", QUERIES, KEYS, VALUES, everything, expected=expected, hints=hints)


def test_attend_gives_masked_keys_no_weight(exercise):
    mask = np.array([[True, False, True], [True, True, False]])
    scores = QUERIES @ KEYS.T / np.sqrt(2)
    expected = softmax(np.where(mask, scores, -np.inf)) @ VALUES
    hints = {
        "a masked key got weight": softmax(scores) @ VALUES,
        "a score of 0 still gets weight: use -inf": softmax(np.where(mask, scores, 0)) @ VALUES,
        "the remaining weights must add up to 1: mask before the softmax": (
            (softmax(scores) * mask) @ VALUES
        ),
        "True means that a query may attend to a key": softmax(np.where(mask, -np.inf, scores))
        @ VALUES,
    }
    exercise.expect("attend", QUERIES, KEYS, VALUES, mask, expected=expected, hints=hints)


def test_masked_mean_ignores_padding(exercise):
    states = np.array(
        [[[1.0, 2.0], [3.0, 6.0], [50.0, 50.0]], [[2.0, 1.0], [4.0, 1.0], [6.0, 4.0]]]
    )
    lengths = np.array([2, 3])
    real = np.array([[1, 1, 0], [1, 1, 1]])[:, :, None]
    hints = {
        "padding counts: only the first lengths[i] words of sentence i do": states.mean(1),
        "divide by the length of the sentence, not of the row": (states * real).mean(1),
        "take the mean over time, axis 1, not over channels": states.mean(2),
    }
    expected = [[2.0, 4.0], [4.0, 2.0]]
    exercise.expect("masked_mean", states, lengths, expected=expected, hints=hints)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_gru_step_follows_its_gates(exercise):
    rng = np.random.default_rng(0)
    x, h, w, u = (rng.normal(size=shape) for shape in ((3,), (2,), (6, 3), (6, 2)))
    a, b = w @ x, u @ h
    r, z = sigmoid(a[:2] + b[:2]), sigmoid(a[2:4] + b[2:4])
    n = np.tanh(a[4:] + r * b[4:])
    hints = {
        "z keeps the old state, 1 - z takes the new one": z * n + (1 - z) * h,
        "r multiplies u_n h, inside the tanh": (1 - z) * np.tanh(a[4:] + b[4:]) + z * h,
        "the first rows belong to r, the next ones to z": (
            (1 - r) * np.tanh(a[4:] + z * b[4:]) + r * h
        ),
        "n is a tanh, not a sigmoid": (1 - z) * sigmoid(a[4:] + r * b[4:]) + z * h,
    }
    exercise.expect("gru_step", x, h, w, u, expected=(1 - z) * n + z * h, hints=hints)
