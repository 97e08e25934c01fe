"""A network as a table: what comes out of each layer, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minidl import nn
from minidl.array_functions import zeros
from minidl.autograd import no_grad
from minidl.inspect.text import aligned
from minidl.tensor import Tensor


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: dotted name in the network.
        kind: class of the layer.
        output_shape: without the batch axis.
        parameters: numbers in it that are trained or frozen.
        multiply_adds: products summed for one example; 0 for layers without weights.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """The layers in the order they ran, with totals; print it to see the table."""

    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Total number of parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Total number of multiply-adds for one example."""
        return sum(layer.multiply_adds for layer in self.layers)

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "parameters", "multiply-adds")]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.output_shape))
            counts = (f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
            rows.append((layer.name, layer.kind, shape, *counts))
        rows.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"))
        lines = aligned(rows, right=(3, 4))
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def summary(model: nn.Module, input_shape: Sequence[int]) -> Summary:
    """Run a network once on zeros and list its layers.

    Args:
        model: any module; it is run in evaluation mode and left in the mode it was in.
        input_shape: of one example, without the batch axis.

    Returns:
        A `Summary`: modules without sub-modules, in the order they ran. One that runs twice is
        listed twice, its parameters once.

    Example:
        >>> from minidl import nn
        >>> print(summary(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)))
        layer  kind     output  parameters  multiply-adds
        -------------------------------------------------
        0      Flatten  12               0              0
        1      Linear   5               65             60
        -------------------------------------------------
        total                           65             60
    """
    names = {id(module): name for name, module in model.named_modules()}
    modes = {id(module): module.training for module in model.modules()}
    layers: list[Layer] = []
    counted: set[int] = set()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if any(True for _ in module.named_children()) or id(module) not in names:
            return
        out = output if isinstance(output, Tensor) else output[0]
        own = [p for p in module.parameters() if id(p) not in counted]
        counted.update(id(p) for p in own)
        parameters, kind = sum(p.size for p in own), type(module).__name__
        name, cost = names[id(module)], multiply_adds(module, inputs[0], out)
        layers.append(Layer(name, kind, out.shape[1:], parameters, cost))

    first = next(model.parameters(), None)
    device = "cpu" if first is None else first.device
    dtype = None if first is None else first.dtype
    model.eval()
    try:
        with no_grad(), nn.observe(note):
            model(zeros((1, *input_shape), dtype=dtype, device=device))
    finally:
        for module in model.modules():
            module.training = modes[id(module)]
    return Summary(tuple(layers))


def multiply_adds(module: nn.Module, x: Tensor, out: Tensor) -> int:
    """Return how many products a layer sums for one example; 0 if it has no weights.

    A convolution does one product for each output number and each weight that it depends on:
    `out_h * out_w * weight.size`; its transpose, for each input pixel.
    """
    if isinstance(module, nn.ConvTranspose2d):
        return math.prod(x.shape[2:]) * module.weight.size
    if isinstance(module, (nn.Conv2d, nn.Conv1d)):
        return math.prod(out.shape[2:]) * module.weight.size
    if isinstance(module, nn.Linear):
        return math.prod(out.shape[1:-1]) * module.weight.size
    return 0
