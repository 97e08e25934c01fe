"""Answers to the exercises for chapter 16."""

import numpy as np


# Why: -inf becomes a weight of exactly 0, and the softmax of the rest adds up to 1 by itself.
# Subtracting the largest score first changes nothing but keeps exp from overflowing.
def attend(queries, keys, values, mask):
    scores = np.where(mask, queries @ keys.T / np.sqrt(keys.shape[1]), -np.inf)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True) @ values


# Why: Both the sum and the count leave the padding out. A mean over the whole row would depend on
# the longest sentence in the batch.
def masked_mean(states, lengths):
    real = np.arange(states.shape[1]) < lengths[:, None]  # (n, length)
    return (states * real[:, :, None]).sum(1) / lengths[:, None]


# Why: Where z is near 1, the state passes through unchanged, and so does its gradient: that is how
# a GRU remembers over many words. r decides how much of the old state the candidate n sees.
def gru_step(x, h, w, u):
    size = len(h)
    inputs, inner = w @ x, u @ h
    r, z = (1 / (1 + np.exp(-(inputs + inner)[: 2 * size]))).reshape(2, size)
    n = np.tanh(inputs[2 * size :] + r * inner[2 * size :])
    return (1 - z) * n + z * h


# Predict, then run. The Transformer's does not change: each word's output depends on the set of
# words, not on their order, so shuffled words have shuffled outputs, of the same mean. The GRU's
# changes: every state depends on all words before it.
#
# Change this and explain. It comes to the mean of words: it, too, sees only which words occur. It
# can learn a little more, because a word's vector now depends on the other words of the sentence:
# which words occur together.
