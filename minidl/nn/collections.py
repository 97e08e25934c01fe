"""Modules by name, and the module that does nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minidl.nn.module import Module
from minidl.tensor import Tensor

Named = Mapping[str, Module] | Iterable[tuple[str, Module]]


class Identity(Module):
    """Return the input: a layer to put where none is wanted.

    Args:
        args: ignored, so that it can replace a layer of any arguments.
        kwargs: ignored.

    Example:
        >>> import minidl
        >>> Identity()(minidl.ones(2))
        Tensor([1., 1.], dtype=float32)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself."""
        return x


class ModuleDict(Module):
    """A dict that registers its modules and their parameters under its keys; it has no `forward`.

    Keys stay in the order in which they were set. Its state dict has the names of PyTorch's:
    `key.weight`.

    Args:
        modules: a mapping, or pairs of keys and modules. Keys are strings without dots, and not
            names of methods or attributes.

    Raises:
        TypeError: a key is not a string, or a value is not a module.
        ValueError: a key is empty, contains a dot, or is the name of a method or attribute.

    Example:
        >>> from minidl import nn
        >>> heads = nn.ModuleDict({"class": nn.Linear(8, 3), "box": nn.Linear(8, 4)})
        >>> [name for name, _ in heads.named_parameters()]
        ['class.weight', 'class.bias', 'box.weight', 'box.bias']
    """

    def __init__(self, modules: Named = ()) -> None:
        self.update(modules)

    def __getitem__(self, key: str) -> Module:
        """Return a module; KeyError if there is none under this key."""
        return dict(self.named_children())[key]

    def __setitem__(self, key: str, module: Module) -> None:
        """Set or replace a module."""
        who = type(self).__name__
        if not isinstance(key, str) or not isinstance(module, Module):
            raise TypeError(
                f"{who}: got {key!r:.80} and {module!r:.80}, expected a string and a Module "
                "instance; did you mean nn.ReLU() (nn.ReLU is a class, F.relu a function)?"
            )
        if not key or "." in key or (key not in self and hasattr(self, key)):
            raise ValueError(
                f"{who}: got key {key!r}, expected a name without dots that is no method or "
                "attribute of modules"
            )
        setattr(self, key, module)

    def __delitem__(self, key: str) -> None:
        """Remove a module; KeyError if there is none under this key."""
        self.pop(key)

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return any(name == key for name, _ in self.named_children())

    def keys(self) -> list[str]:
        """Return the keys, in order."""
        return [name for name, _ in self.named_children()]

    def values(self) -> list[Module]:
        """Return the modules, in order."""
        return [module for _, module in self.named_children()]

    def items(self) -> list[tuple[str, Module]]:
        """Return keys and modules, in order."""
        return list(self.named_children())

    def update(self, modules: Named) -> None:
        """Set or replace several modules."""
        pairs = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for key, module in pairs:
            self[key] = module

    def pop(self, key: str) -> Module:
        """Remove a module and return it; KeyError if there is none under this key."""
        module = self[key]
        delattr(self, key)
        return module

    def clear(self) -> None:
        """Remove all modules."""
        for key in self.keys():
            del self[key]
