"""Answers to the exercises for chapter 9."""

import numpy as np


def encode(sentences, numbers, shortest):
    width = max(shortest, *(len(words) for words in sentences))
    padding = [0] * width
    rows = [([numbers.get(word, 1) for word in words] + padding)[:width] for words in sentences]
    return np.array(rows)


def max_over_time(features, lengths):
    real = np.arange(features.shape[2]) < lengths[:, None]  # (n, time)
    return np.where(real[:, None], features, -np.inf).max(2)


def winning_phrases(words, responses, size):
    return [" ".join(words[start : start + size]) for start in responses.argmax(1)]
