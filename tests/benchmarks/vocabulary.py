"""Time a TextCNN's training step over sizes of the vocabulary, gradients whole and kept as rows.

    python -m tests.benchmarks.vocabulary --peers torch

Each batch is 50 sentences of 56 words, so at most 2,800 rows of the table are touched, whatever its
size. PyTorch's contestant with rows trains the table with SparseAdam, the rest with Adam.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .contest import Contest, Run, main
from .step import FILTERS, LENGTH, SENTENCES, WIDTH

SIZES = (20_000, 200_000)


def batch(words: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(1, words, (SENTENCES, LENGTH)), rng.integers(0, 2, SENTENCES)


def start(words: int) -> Any:
    """Build minidl's network, whose weights both contestants begin with."""
    from minidl.models import TextCNN

    rng = np.random.default_rng(1)
    return TextCNN(words, WIDTH, FILTERS, dropout=0.0, rng=rng)


def minidl_step(words: int, sparse: bool) -> Run:
    from minidl import functional as F
    from minidl import optim

    model = start(words)
    model.embedding.sparse = sparse
    adam = optim.Adam(model.parameters(), lr=1e-3)
    inputs, labels = batch(words)

    def step() -> float:
        loss = F.cross_entropy(model(inputs), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return float(loss.item())

    return step


def torch_step(words: int, sparse: bool) -> Run:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class TextCNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(words, WIDTH, padding_idx=0, sparse=sparse)
            self.convs = nn.ModuleList([nn.Conv2d(1, FILTERS, (k, WIDTH)) for k in (3, 4, 5)])
            self.fc = nn.Linear(3 * FILTERS, 2)

        def forward(self, numbers: Any) -> Any:
            images = self.embedding(numbers)[:, None]
            maps = [F.relu(conv(images))[..., 0] for conv in self.convs]
            return self.fc(torch.cat([F.max_pool1d(m, m.shape[2])[..., 0] for m in maps], 1))

    model = TextCNN()
    state = start(words).state_dict()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    table, *rest = model.parameters()
    rules: list[Any] = [torch.optim.Adam(rest if sparse else model.parameters(), lr=1e-3)]
    if sparse:
        rules.append(torch.optim.SparseAdam([table], lr=1e-3))
    inputs, labels = (torch.from_numpy(array) for array in batch(words))

    def step() -> float:
        loss = F.cross_entropy(model(inputs), labels)
        model.zero_grad()
        loss.backward()
        for rule in rules:
            rule.step()
        return float(loss.item())

    return step


def contest(words: int, sparse: bool) -> Contest:
    contestants = {
        "minidl": lambda: minidl_step(words, sparse),
        "torch": lambda: torch_step(words, sparse),
    }
    title = f"{words:,} words, {'rows' if sparse else 'whole'}"
    return Contest(title, contestants, repeats=15)


CONTESTS = {
    f"{words}-{'rows' if sparse else 'whole'}": contest(words, sparse)
    for words in SIZES
    for sparse in (False, True)
}

if __name__ == "__main__":
    main("tests.benchmarks.vocabulary", __doc__.split("\n")[0], CONTESTS)
