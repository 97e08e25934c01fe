"""A user's script without casts or ignores, which must pass mypy and pyright, both strict."""

import sys
from pathlib import Path

import numpy as np

import minidl
from minidl import Tensor, data, inspect, models, nn, optim, training
from minidl import functional as F


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
        self.pool, self.head = nn.GlobalAvgPool(), nn.Linear(8, classes)

    def forward(self, images: Tensor, scale: float = 1.0) -> Tensor:
        x = self.features(images)
        for block in self.blocks:
            x = F.relu(minidl.checkpointed(block, x)) + x
        return self.head(self.pool(x)) * scale


def main(folder: Path) -> float:
    rng = minidl.manual_seed(0)
    pixels, labels = rng.random((64, 3, 16, 16), np.float32), rng.integers(10, size=64)
    batches = data.DataLoader(pixels, labels, batch_size=32, shuffle=True)
    model, loss = Net(classes=10), nn.CrossEntropyLoss(label_smoothing=0.1)
    adam = optim.Adam(model.parameters(), lr=1e-2)
    for images, targets in batches:
        logits = model(images, scale=0.5)
        penalty = sum((p * p).sum() for p in model.parameters())
        adam.zero_grad()
        (loss(logits, targets) + 1e-4 * penalty).backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()

    history = training.fit(model, loss, adam, batches, batches, epochs=2, progress=False)
    losses: list[float] = history["train_loss"]
    scores = training.predict(model, batches)

    with minidl.no_grad():
        logits = model(Tensor(pixels[:4]))
        first, rest = logits[0], logits[1:]
        mixed = (1 - first) @ rest.T / 2 - rest.mean(axis=1).exp()
        positive = mixed > 0
    rows, columns = logits.shape
    heights = models.cifar10_cnn()[:3]

    path = training.save_weights(model.state_dict(), folder / "net.npz")
    twin = Net(10)
    missing: list[str] = twin.load_state_dict(training.load_weights(path)).missing_keys
    inspect.plots.save(inspect.gradient_flow(model), folder / "flow.png")
    print(inspect.summary(model, (3, 16, 16)), len(heights), missing, scores.shape)
    return losses[-1] + float(positive.sum()) + rows * columns


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
