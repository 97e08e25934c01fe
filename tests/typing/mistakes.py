"""What a type checker must find: both are strict about an `ignore` on a line that has no error."""

import minidl
from minidl import Tensor, models, nn, optim, training


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        return a * scale, b * scale


def mistakes(x: Tensor, adam: optim.Adam, batches: minidl.data.DataLoader) -> None:
    nn.Linear(2, 3)("x")  # type: ignore[arg-type]
    nn.Linear(2, 3)(x, x)  # type: ignore[call-arg]
    nn.MaxPool2d(2)(kernel=x)  # type: ignore[call-arg]
    models.resnet20()([1.0])  # type: ignore[arg-type]
    models.cifar10_cnn()(x).shap  # type: ignore[attr-defined]  # noqa: B018
    nn.CrossEntropyLoss()(x)  # type: ignore[call-arg]
    Pair()(x)  # type: ignore[call-arg]
    Pair()(x, x, scale="1")  # type: ignore[arg-type]
    Pair()(x, x).sum()  # type: ignore[attr-defined]
    _, _, _ = Pair()(x, x)  # type: ignore[misc]
    training.fit(nn.ReLU(), nn.ReLU(), adam, batches)  # type: ignore[arg-type]
