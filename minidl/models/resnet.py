"""Residual networks: blocks that add to their input, so that hundreds of layers train.

`out = relu(x + f(x))`: the gradient reaches `x` through `f`, and also directly. Two families:

| nets | for | layers | shortcut where the shape changes |
| --- | --- | --- | --- |
| `resnet20`, `32`, `44`, `56` | 32x32 images | 3 stages of 16, 32, 64 channels | nothing to train |
| `resnet18`, `34`, `50` | 224x224 images | 4 stages of 64 to 512 channels | a 1x1 convolution |

State dicts have the names and shapes of akamaster/pytorch_resnet_cifar10 and of torchvision, so
that weights trained there load.

Source: K. He et al., Deep Residual Learning for Image Recognition (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np

from minidl import nn
from minidl.recompute import checkpointed
from minidl.tensor import Tensor
from minidl.tensor.edges import pad


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the shortcut around them.

    Args:
        inputs: channels of the input, `(n, inputs, h, w)`.
        channels: channels of the output, `(n, channels, h / stride, w / stride)`.
        stride: stride of the first convolution.
        project: whether a shortcut that changes shape is a 1x1 convolution ("option B" of the
            paper), or drops pixels and adds channels of zeros ("option A").
        shortcut: False for a plain block that adds nothing.
        rng: generator for the initial weights.
    """

    expansion = 1

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int = 1,
        project: bool = True,
        shortcut: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False, rng=rng)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.stride, self.shortcut = stride, shortcut
        self.downsample = _projection(inputs, channels, stride, rng) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """Return `relu(shortcut(x) + f(x))`."""
        relu = self.relu
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = relu(out + self._shortcut(x)) if self.shortcut else relu(out)
        return result

    def _shortcut(self, x: Tensor) -> Tensor:
        channels = self.conv2.out_channels - x.shape[1]  # missing from x
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride > 1 or channels:
            x = x[:, :, :: self.stride, :: self.stride]
            widths = (channels // 2, channels - channels // 2)
            x = pad(x, ((0, 0), widths, (0, 0), (0, 0)))
        return x


class Bottleneck(nn.Module):
    """A 3x3 convolution between 1x1 ones that narrow and widen, and the shortcut around them.

    Args:
        inputs: channels of the input, `(n, inputs, h, w)`.
        channels: channels of the 3x3 convolution; the output has 4 times as many.
        stride: stride of the 3x3 convolution.
        rng: generator for the initial weights.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int = 1,
        rng: np.random.Generator | None = None,
    ) -> None:
        outputs = channels * self.expansion
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False, rng=rng)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False, rng=rng)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _projection(inputs, outputs, stride, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Return `relu(shortcut(x) + f(x))`."""
        relu = self.relu
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        result: Tensor = relu(self.bn3(self.conv3(out)) + shortcut)
        return result


def _projection(
    inputs: int, outputs: int, stride: int, rng: np.random.Generator | None
) -> nn.Sequential | None:
    """Return a shortcut that changes the shape, or None if the shape stays the same."""
    if stride == 1 and inputs == outputs:
        return None
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False, rng=rng)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class _ResNet(nn.Module):
    """Base of both families: stages, then a pool, then a head.

    Attributes:
        avgpool: the pool from the last stage's `(n, c, h, w)` to `(n, c)`: a GlobalAvgPool, unless
            replaced.
        num_features: c, the number of features that the head takes.
        checkpointed: whether backward computes each block's activations again instead of keeping
            them, to save memory: see `minidl.checkpointed`. Initially False.
    """

    checkpointed = False

    stages: int
    head: str  # the head's name
    num_features: int
    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    relu: nn.ReLU
    avgpool: nn.Module

    def _stem(self, x: Tensor) -> Tensor:
        """Return the input of the first stage."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        return out

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the head: `(n, num_features)`, pooled over all positions.

        Args:
            x: images `(n, 3, h, w)`.
        """
        x = self._stem(x)
        for number in range(1, self.stages + 1):
            stage = getattr(self, f"layer{number}")
            for part in stage if self.checkpointed else [stage]:
                x = checkpointed(part, x) if self.checkpointed else part(x)
        pooled: Tensor = self.avgpool(x)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, classes)` of images `(n, 3, h, w)`."""
        logits: Tensor = getattr(self, self.head)(self.features(x))
        return logits

    def replace_head(self, head: nn.Module | int, rng: np.random.Generator | None = None) -> Self:
        """Replace the head with one for a new task, under the same name; return the network.

        Args:
            head: a module from `(n, num_features)` to logits; or the number of classes of a new
                Linear.
            rng: generator for the Linear's weights.

        Example:
            >>> net = resnet20().replace_head(3)
            >>> net.linear
            Linear(64, 3)
        """
        if not isinstance(head, nn.Module):
            head = nn.Linear(self.num_features, head, rng=rng)
        setattr(self, self.head, head)
        return self


class CifarResNet(_ResNet):
    """A residual network for 32x32 images: 3 stages of `depth` blocks, 6 * depth + 2 layers.

    Args:
        depth: blocks per stage.
        classes: number of classes.
        shortcut: False for the plain network of the same layers, which trains badly when deep.
        rng: generator for the initial weights; the seeded stream if None.
    """

    stages, head, num_features = 3, "linear", 64

    def __init__(
        self,
        depth: int,
        classes: int = 10,
        shortcut: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        inputs = 16
        for number, channels in enumerate((16, 32, 64)):
            blocks = []
            for block in range(depth):
                stride = 2 if number > 0 and block == 0 else 1
                blocks.append(BasicBlock(inputs, channels, stride, False, shortcut, rng))
                inputs = channels
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.GlobalAvgPool()
        self.linear = nn.Linear(64, classes, rng=rng)
        _initialise(self, "fan_in", rng)


class ResNet(_ResNet):
    """A residual network for images of about 224x224: 4 stages, 1/32 of the size at the end.

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks of each stage.
        classes: number of classes.
        rng: generator for the initial weights; the seeded stream if None.
    """

    stages, head = 4, "fc"

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        classes: int = 1000,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for number, depth in enumerate(depths):
            channels, blocks = 64 * 2**number, []
            for place in range(depth):
                stride = 2 if number > 0 and place == 0 else 1
                blocks.append(block(inputs, channels, stride, rng=rng))
                inputs = channels * block.expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.GlobalAvgPool()
        self.num_features = inputs
        self.fc = nn.Linear(inputs, classes, rng=rng)
        _initialise(self, "fan_out", rng)

    def _stem(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.maxpool(super()._stem(x))
        return pooled


def _initialise(
    net: nn.Module, mode: Literal["fan_in", "fan_out"], rng: np.random.Generator | None
) -> None:
    """Draw the convolutions' weights as the two repositories above do."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu", rng=rng)


def resnet20(classes: int = 10, rng: np.random.Generator | None = None) -> CifarResNet:
    """Build a ResNet of 20 layers for 32x32 images: 269,722 parameters for 10 classes.

    Args:
        classes: number of classes.
        rng: generator for the initial weights; the seeded stream if None.
    """
    return CifarResNet(3, classes, rng=rng)


def resnet32(classes: int = 10, rng: np.random.Generator | None = None) -> CifarResNet:
    """Build a ResNet of 32 layers for 32x32 images: 464,154 parameters; see `resnet20`."""
    return CifarResNet(5, classes, rng=rng)


def resnet44(classes: int = 10, rng: np.random.Generator | None = None) -> CifarResNet:
    """Build a ResNet of 44 layers for 32x32 images: 658,586 parameters; see `resnet20`."""
    return CifarResNet(7, classes, rng=rng)


def resnet56(classes: int = 10, rng: np.random.Generator | None = None) -> CifarResNet:
    """Build a ResNet of 56 layers for 32x32 images: 853,018 parameters; see `resnet20`."""
    return CifarResNet(9, classes, rng=rng)


def resnet18(classes: int = 1000, rng: np.random.Generator | None = None) -> ResNet:
    """Build torchvision's ResNet-18: 11,689,512 parameters for 1000 classes.

    Args:
        classes: number of classes.
        rng: generator for the initial weights; the seeded stream if None.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), classes, rng)


def resnet34(classes: int = 1000, rng: np.random.Generator | None = None) -> ResNet:
    """Build torchvision's ResNet-34: 21,797,672 parameters; see `resnet18`."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes, rng)


def resnet50(classes: int = 1000, rng: np.random.Generator | None = None) -> ResNet:
    """Build torchvision's ResNet-50: 25,557,032 parameters; see `resnet18`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, rng)
