"""A network as a table: the output and the cost of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import nn
from minidl.autograd import set_recording
from minidl.inspect.receptive import Fields
from minidl.inspect.text import aligned
from minidl.nn.modes import evaluating
from minidl.tensor import Tensor
from minidl.tensor.functions import zeros


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: dotted name in the network.
        kind: class of the layer.
        output_shape: without the batch axis.
        parameters: number of its parameter values, trained or frozen.
        multiply_adds: products summed for one example; 0 for layers without weights.
        receptive_field: how many pixels of the input one output value can depend on, along each
            axis of the image, padding included; None if unknown.
        memory: of the output for one example, in bytes.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, ...] | None = None
    memory: int = 0


@dataclass(frozen=True)
class Summary:
    """The layers in the order they ran, with totals; print it to see the table."""

    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Total number of parameters of the layers that ran."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Total number of multiply-adds for one example."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def memory(self) -> int:
        """Bytes of all outputs for one example, the most that training stores for the gradient.

        It stores less if layers are fused, or if an output is the reshaped input.
        """
        return sum(layer.memory for layer in self.layers)

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "parameters", "multiply-adds", "sees", "kB")]
        for layer in self.layers:
            shape, sees = (
                " x ".join(map(str, sizes or ()))
                for sizes in (layer.output_shape, layer.receptive_field)
            )
            counts = (f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
            rows.append((layer.name, layer.kind, shape, *counts, sees, _kilobytes(layer.memory)))
        totals = (f"{self.parameters:,}", f"{self.multiply_adds:,}", "", _kilobytes(self.memory))
        rows.append(("total", "", "", *totals))
        lines = aligned(rows, right=(3, 4, 5, 6))
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def summary(model: nn.Module, input_shape: Sequence[int]) -> Summary:
    """Run a network once on zeros and list its layers.

    Args:
        model: any module; it is run in evaluation mode, which does not change it.
        input_shape: of one example, without the batch axis; for a network that begins with an
            `Embedding`, the number of words.

    Returns:
        A `Summary` of the modules that have no sub-modules, or have parameters next to them, in the
        order they finished. One that runs twice is listed twice, its parameters once; one that
        does not run, or returns no tensor, is not listed. Images are `(c, h, w)`, sequences
        `(c, length)`.

    Example:
        >>> from minidl import nn
        >>> print(summary(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)))
        layer  kind     output  parameters  multiply-adds   sees    kB
        --------------------------------------------------------------
        0      Flatten  12               0              0  2 x 2  0.05
        1      Linear   5               65             60  2 x 2  0.02
        --------------------------------------------------------------
        total                           65             60         0.07
    """
    names = {id(module): name for name, module in model.named_modules()}
    layers: list[Layer] = []
    counted: set[int] = set()
    made: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        holds_modules = any(True for _ in module.named_children())
        held = [p for p in vars(module).values() if isinstance(p, nn.Parameter)]
        x: Any = inputs[0] if inputs else None
        out = _first_tensor(output)
        if (holds_modules and not held) or id(module) not in names or out is None:
            return
        own = [p for p in held if id(p) not in counted]
        counted.update(id(p) for p in own)
        parameters, kind = sum(p.size for p in own), type(module).__name__
        name, cost = names[id(module)], multiply_adds(module, x, out)
        field = fields.of(out) if holds_modules else fields.pass_layer(module, x, out)
        sees = None if field is None else tuple(map(round, field.size))
        is_new = not (holds_modules and any(out is tensor for tensor in made))
        memory = is_new * math.prod(out.shape[1:]) * out.dtype.itemsize
        made.append(out)
        layers.append(Layer(name, kind, out.shape[1:], parameters, cost, sees, memory))

    example = _zeros(model, input_shape)
    fields = Fields(example, tuple(input_shape[1:]))
    # Recorded, so that sums of branches can be traced to the layers they come from.
    with evaluating(model), set_recording(True), nn.observe(note):
        model(example)
    return Summary(tuple(layers))


def _first_tensor(output: Any) -> Tensor | None:
    """Return the first tensor of a module's output, which may be a sequence or mapping."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((t for t in map(_first_tensor, output) if t is not None), None)
    return output if isinstance(output, Tensor) else None


def _zeros(model: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """Return an example input of the network: floats, or word index 0."""
    first = next(model.parameters(), None)
    device = "cpu" if first is None else first.device
    layer = next((m for m in model.modules() if any(p is first for p in vars(m).values())), None)
    if first is not None and isinstance(layer, nn.Embedding):
        return zeros((1, *input_shape), dtype=np.int64, device=device)
    x = zeros((1, *input_shape), dtype=None if first is None else first.dtype, device=device)
    return x.requires_grad_()


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f}" if size >= 100 else f"{size / 1000:.2f}"


def multiply_adds(module: nn.Module, x: Tensor, out: Tensor) -> int:
    """Return how many products a layer sums for one example; 0 if it has no weights.

    A convolution computes one product per output value and weight that it depends on:
    `out_h * out_w * weight.size`; a transposed one, one product per input pixel and weight.
    """
    if isinstance(module, nn.ConvTranspose2d):
        return math.prod(x.shape[2:]) * module.weight.size
    if isinstance(module, (nn.Conv2d, nn.Conv1d)):
        return math.prod(out.shape[2:]) * module.weight.size
    if isinstance(module, nn.Linear):
        return math.prod(out.shape[1:-1]) * module.weight.size
    return 0
