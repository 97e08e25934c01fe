"""Answers to the exercises for chapter 2."""

import numpy as np


def line_gradient(x, y, w, b):
    error = x @ w + b - y  # (n,)
    return 2 * x.T @ error / len(y), 2 * error.mean()


def cross_entropy(scores, labels):
    shifted = scores - scores.max(1, keepdims=True)  # the largest is 0: exp cannot overflow
    log_sums = np.log(np.exp(shifted).sum(1))  # (n,)
    return (log_sums - shifted[np.arange(len(labels)), labels]).mean()


def train_step(model, loss, optimizer, inputs, labels):
    optimizer.zero_grad()
    value = loss(model(inputs), labels)
    value.backward()
    optimizer.step()
    return value.item()
