"""Ask PyTorch for the logits of residual networks, and store them in `resnet.npz`.

Run it from the repository's root with torch==2.13.0 installed:

    python -m tests.reference.make_resnet
"""

from __future__ import annotations

import numpy as np
import torch

from .cases import HERE
from .resnet import SIZES, images, weights
from .torch_resnet import ResNet20, ResNet50, load


def answers() -> dict[str, np.ndarray]:
    """Return each network's logits, in evaluation, computed in float64."""
    found = {}
    for name, kind in zip(SIZES, (ResNet20, ResNet50), strict=True):
        net = kind()
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        net = load(net, weights(shapes)).double().eval()
        with torch.no_grad():
            found[name] = net(torch.from_numpy(images(name)).double()).numpy()
    return found


if __name__ == "__main__":
    np.savez_compressed(HERE / "resnet.npz", **answers())
