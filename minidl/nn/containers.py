"""Modules that contain other modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload

from minidl.backends import Array
from minidl.nn.fusion import fused_length, in_one_pass
from minidl.nn.module import Module
from minidl.tensor import Tensor


class ModuleList(Module):
    """A list that registers its modules and their parameters; it has no `forward`.

    Example:
        >>> from minidl import nn
        >>> len(nn.ModuleList([nn.ReLU(), nn.ReLU()]))
        2
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Append a module, named by its index."""
        if not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__}: got {module!r:.80}, expected a Module instance; did "
                "you mean nn.ReLU() (nn.ReLU is a class, F.relu a function)?"
            )
        index = len(self)
        while str(index) in vars(self):  # earlier ones were deleted
            index += 1
        setattr(self, str(index), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module | ModuleList:
        """Return one module, or for a slice a list of the same kind that shares its modules."""
        found = list(self)[index]
        return found if isinstance(found, Module) else type(self)._of(found)

    @classmethod
    def _of(cls, modules: list[Module]) -> ModuleList:
        return cls(modules)


class Sequential(ModuleList):
    """Modules that run one after another, each on the previous one's output.

    Args:
        modules: in the order in which they run.

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

    def forward(self, x: Tensor | Array) -> Tensor:
        """Run all modules in turn; a convolution, ReLU and max pool, or the first two, in one pass.

        See `functional.conv2d_relu_max_pool2d` for what that saves. Under `observe` and
        `detect_anomaly`, which look at single layers, they run one by one.
        """
        layers = list(self)
        while layers:
            count = fused_length(layers, x)
            try:
                x = in_one_pass(x, *layers[:count]) if count > 1 else layers[0](x)
            except (TypeError, ValueError):
                if count == 1:
                    raise
                x, count = layers[0](x), 1  # so that the error names the layer
            layers = layers[count:]
        return x
