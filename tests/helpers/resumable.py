"""A training that uses every stream of random numbers there is; tests stop it and let it go on.

    python -m tests.helpers.resumable FOLDER PREFETCH EPOCHS [CALL COUNT]

saves after every step, and prints the losses of all steps and a digest of the final weights. With a
function of `os` that writing needs, it kills itself in that function's call number COUNT.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import numpy as np

import minidl
from minidl import nn, optim
from minidl.data import DataLoader
from minidl.functional import cross_entropy
from minidl.training import History, fit


class Noise:
    """An augmentation with a stream of its own."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x + 0.1 * self.rng.standard_normal(x.shape, np.float32)


class Decay:
    """A schedule: the rate falls with every step."""

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self.optimizer, self.steps = optimizer, 0

    def step(self) -> None:
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.05 / (1 + 0.1 * self.steps)

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, saved: dict[str, int]) -> None:
        self.steps = saved["steps"]


def train(
    folder: Path | None, *, prefetch: int = 0, epochs: int = 4, save_seconds: float = 0, **options
) -> tuple[History, nn.Module]:
    """Train a small network; initial weights, orders and dropout come from the seeded stream."""
    minidl.manual_seed(0)
    data = np.random.default_rng(1)
    x, y = data.standard_normal((96, 6), np.float32), data.integers(0, 3, 96)
    x[np.arange(96), y] += 2
    y[2::7] = -100  # so that batches weigh differently
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(
        *(x[:80], y[:80]), batch_size=8, shuffle=True, transform=Noise(2), prefetch=prefetch
    )
    validation = DataLoader(x[80:], y[80:], batch_size=8, shuffle=True, rng=data)
    defaults = {"schedule": Decay(sgd), "accumulate": 2, "clip_norm": 1.0, "progress": False}
    history = fit(
        *(model, cross_entropy, sgd, loader, validation, epochs),
        **(defaults | {"checkpoint": folder, "save_seconds": save_seconds} | options),
    )
    return history, model


def fingerprint(history: History, model: nn.Module) -> str:
    """Return all that must not differ between two runs, bit for bit."""
    weights = b"".join(array.tobytes() for array in model.state_dict().values())
    numbers = {name: values for name, values in history.items() if name != "seconds"}
    return f"{history.step_losses} {numbers} {hashlib.sha256(weights).hexdigest()}"


def die_in(call: str, count: int) -> None:
    """Let this process be killed when it calls `os.<call>` for the time number `count`."""
    real, left = getattr(os, call), iter(range(count - 1))

    def counted(*arguments: object) -> object:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(os, call, counted)


if __name__ == "__main__":
    if sys.argv[4:]:
        die_in(sys.argv[4], int(sys.argv[5]))
    print(
        fingerprint(*train(Path(sys.argv[1]), prefetch=int(sys.argv[2]), epochs=int(sys.argv[3])))
    )
