"""Modules made of other modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, overload

from minidl import functional as F
from minidl.autograd import watcher
from minidl.nn.activation import ReLU
from minidl.nn.convolution import Conv2d
from minidl.nn.module import Module, is_observed
from minidl.nn.pooling.basic import MaxPool2d
from minidl.tensor import Tensor


class ModuleList(Module):
    """A list of modules whose parameters are found; it has no `forward` of its own.

    Example:
        >>> from minidl import nn
        >>> len(nn.ModuleList([nn.ReLU(), nn.ReLU()]))
        2
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a module at the end, named by its place."""
        if not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__}: got {module!r:.80}, wants a Module, made, "
                "such as nn.ReLU(), where nn.ReLU is a class and F.relu a function"
            )
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module | ModuleList:
        """Return one module, or a list of the same kind that shares the modules of a slice."""
        found = list(self)[index]
        return found if isinstance(found, Module) else type(self)._of(found)

    @classmethod
    def _of(cls, modules: list[Module]) -> ModuleList:
        return cls(modules)


class Sequential(ModuleList):
    """Modules run one after another, each on the last one's output.

    Args:
        modules: in the order they run.

    Example:
        >>> import minidl
        >>> from minidl import nn
        >>> nn.Sequential(nn.Flatten(), nn.Linear(12, 2))(minidl.zeros((5, 3, 2, 2))).shape
        (5, 2)
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    @classmethod
    def _of(cls, modules: list[Module]) -> ModuleList:
        return cls(*modules)

    def forward(self, x: Any) -> Any:
        """Run all modules in turn; a convolution, ReLU and max pool, or the first two, at one go.

        `functional.conv2d_relu_max_pool2d` says what that saves. Where somebody looks at single
        layers (`observe`, `detect_anomaly`), they run one by one.
        """
        layers = list(self)
        while layers:
            count = _fused_length(layers, x)
            try:
                x = _at_one_go(x, *layers[:count]) if count > 1 else layers[0](x)
            except (TypeError, ValueError):
                if count == 1:
                    raise
                x, count = layers[0](x), 1  # the layer that raises it says its name
            layers = layers[count:]
        return x


def _fused_length(layers: list[Module], x: Any) -> int:
    """Return how many of the first layers can run in one pass over `x`: 1, 2 or 3."""
    if not isinstance(x, Tensor) or not x.backend.fuses or is_observed() or watcher() is not None:
        return 1
    count = 0
    for layer, kind in zip(layers, (Conv2d, ReLU, MaxPool2d), strict=False):
        replaced = "forward" in vars(layer)  # by the user
        if type(layer) is not kind or replaced or getattr(layer, "return_indices", False):
            break
        count += 1
    return max(1, count)


def _at_one_go(x: Any, conv: Any, relu: Module, pool: Any = None) -> Any:
    """Return what the two or three layers make of `x`."""
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if pool is None:
        return F.conv2d_relu(x, conv.weight, conv.bias, *geometry)
    pooling = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return F.conv2d_relu_max_pool2d(x, conv.weight, conv.bias, *geometry, *pooling)
