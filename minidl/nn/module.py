"""Module: a layer or a network, with its parameters, buffers and sub-modules."""

from __future__ import annotations

import inspect
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar

import numpy as np

from minidl.autograd import watcher
from minidl.context import Block, Scoped
from minidl.idioms import unknown
from minidl.nn.state import IncompatibleKeys, fitting_arrays, shown_arguments
from minidl.tensor import Tensor
from minidl.tensor.storage import forwards

T = TypeVar("T", bound=Tensor)
P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Parameter(Tensor):
    """A tensor that is trained: it requires a gradient and owns its memory.

    Args:
        data: as for `Tensor`; copied.
        requires_grad: False to freeze it from the start.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad=requires_grad)


class Buffer(Tensor):
    """A tensor that belongs to a module's state but is not trained, such as a running mean."""

    __slots__ = ()


Observer = Callable[["Module", tuple[Any, ...], Any], None]
observers: Scoped[Any] = Scoped(None)
evaluated: Scoped[dict[int, Module]] = Scoped({})
"""Modules, by id, in evaluation mode in this thread or task only; see `nn.modes`."""


def observe(callback: Observer) -> Block[Observer]:
    """Call `callback(module, inputs, output)` after every module that runs in a `with` block.

    `inputs` is a tuple of all arguments, keyword arguments last. Modules that run in other threads
    or tasks are not observed.

    This is how `minidl.inspect` looks into networks without changing them.

    Example:
        >>> import minidl
        >>> from minidl import nn
        >>> with observe(lambda module, inputs, output: print(module, output.shape)):
        ...     y = nn.Linear(3, 2)(minidl.ones((5, 3)))
        Linear(3, 2) (5, 2)
    """
    return observers.set(callback)


def may_fuse(x: Any) -> bool:
    """Return whether layers may run in one pass over `x`: not while single ones are observed."""
    watched = observers.get() is not None or watcher() is not None
    return isinstance(x, Tensor) and x.backend.fuses and not watched


def pending_results(x: Any) -> list[weakref.ref[Any]] | None:
    """Return the list in which a layer may leave a result of `x` to the next one.

    The module around the layer computes what is still pending when its forward ends; None if there
    is no such module, or nothing may be fused.
    """
    running = forwards.values()
    return running[-2] if len(running) > 1 and may_fuse(x) else None


class _HasForward(Protocol[P, R]):
    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Module:
    """A layer or network. Subclasses set parameters and modules as attributes and define `forward`.

    Attributes:
        training: whether layers behave as in training; set by `train` and `eval`.

    The repr shows constructor arguments that are stored in attributes of the same name.

    Example:
        >>> from minidl import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [name for name, parameter in model.named_parameters()]
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    @property
    def training(self) -> bool:
        """Whether layers behave as in training."""
        mode: bool = vars(self).get("training", True)
        return mode and not any(id(self) in modules for modules in evaluated.values())

    @training.setter
    def training(self, mode: bool) -> None:
        vars(self)["training"] = mode
        for modules in evaluated.values():
            modules.pop(id(self), None)

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse modules and parameters as class attributes, which `parameters` would not find."""
        super().__init_subclass__(**options)
        if isinstance(vars(cls).get("training"), bool):
            raise TypeError(
                f"{cls.__name__}.training: got a class attribute, which `predict` could not change "
                "in one thread only; set self.training or call self.eval() in __init__"
            )
        for name, value in vars(cls).items():
            if _hides(value):
                raise TypeError(
                    f"{cls.__name__}.{name}: got a {type(value).__name__} as a class attribute, "
                    f"which would not be trained; set self.{name} in __init__"
                )

    def __setattr__(self, name: str, value: Any) -> None:
        who, old = f"{type(self).__name__}.{name}", vars(self).get(name)
        kind = next((k for k in (Parameter, Buffer) if isinstance(old, k)), None)
        if kind is not None and not isinstance(value, (kind, type(None))):
            raise TypeError(
                f"{who}: got a {type(value).__name__}, expected an nn.{kind.__name__}(...) or None "
                "(others are not trained or saved); change values in "
                f"`with m.{name}.mutable() as array`, by `m.{name}.data = ...` or with "
                "load_state_dict"
            )
        if isinstance(value, Module) and any(module is self for module in value.modules()):
            raise ValueError(
                f"{who}: got a {type(value).__name__} that is or contains this module, expected no "
                "cycles; pass a parent to forward instead of storing it"
            )
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # type checkers know the attributes that there are

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, which says what to write instead of PyTorch's names."""
            if name == "__signature__":  # `inspect.signature(model)` and notebooks show it
                return inspect.signature(self.forward)
            if hasattr(type(self), name):  # a property that failed: raise its own error
                return object.__getattribute__(self, name)
            raise unknown(self, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; calling the module runs this."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    # The type of `self` tells type checkers and editors the arguments and result of `forward`.
    def __call__(self: _HasForward[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `forward`; an error in it names the layer that it came from."""
        with forwards.set([]) as pending:
            try:
                output = self.forward(*args, **kwargs)
                for reference in pending:
                    if (result := reference()) is not None:
                        result.settle()
            except (TypeError, ValueError, FloatingPointError) as error:
                _note_layer(self, error)
                raise
        for callback in observers.values():
            callback(self, (*args, *kwargs.values()), output)
        return output

    # Contents ---------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield sub-modules with their names, in the order in which they were set."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif not isinstance(value, Parameter) and _hides(value):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a {type(value).__name__} that holds modules "
                    "or parameters, which would not be trained; use nn.ModuleList or nn.ModuleDict"
                )

    def children(self) -> Iterator[Module]:
        """Yield sub-modules, in the order in which they were set."""
        return (child for _, child in self.named_children())

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function(module)` for all modules below this one, then for itself; return it.

        As in PyTorch, a way to initialise layers by kind:

            model.apply(lambda m: nn.init.zeros_(m.bias) if isinstance(m, nn.Linear) else None)
        """
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module, named `prefix`, and all below it with dotted names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield parameters with dotted names in definition order, shared ones once."""
        return self._named_tensors(Parameter)

    def parameters(self) -> Iterator[Parameter]:
        """Yield parameters in definition order, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        """Yield each parameter's dotted name and `.grad`, which may be None."""
        return ((name, parameter.grad) for name, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Yield buffers with dotted names in definition order."""
        return self._named_tensors(Buffer)

    def _named_tensors(self, kind: type[T], repeat: bool = False) -> Iterator[tuple[str, T]]:
        """Yield tensors of a kind; shared ones once, or with `repeat` under each of their names."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, kind) and (repeat or id(value) not in seen):
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    # State ------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all sub-modules to training, or with False to evaluation."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch this module and all sub-modules to evaluation: no dropout, fixed statistics."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Unfreeze all parameters, or with False freeze them."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients of all parameters to None, or to zeros if they have one."""
        for parameter in self.parameters():
            parameter.reset_grad(set_to_none)

    def to(self, device: str | None = None, dtype: Any = None) -> Self:
        """Move parameters and buffers to a device, change their float dtype, or both, in place.

        Raises:
            TypeError: the dtype is not float32 or float64.
        """
        if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(
                f"{type(self).__name__}.to: got dtype {dtype}, expected float32 or float64"
            )
        for _, tensor in self._state():
            tensor.to_(device, dtype if tensor.dtype.kind == "f" else None)
        return self

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of the state dict: each module's parameters and buffers in order."""
        return self._named_tensors((Parameter, Buffer), repeat=True)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return copies of all parameters and buffers as NumPy arrays, by dotted name."""
        return {name: tensor.numpy() for name, tensor in self._state()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays into the parameters and buffers of the same names: all or none.

        Args:
            state: arrays, or tensors of any library that NumPy can read, by dotted name. If all
                names start with `module.` or `_orig_mod.`, which PyTorch's DataParallel and
                compile add, this prefix is removed.
            strict: require identical names; otherwise load those present in both, and warn if
                there are none, or if removing a prefix such as `model.` would give more. Only
                `num_batches_tracked` may always be missing: older files lack it.

        Returns:
            The names that only one of the two has: `missing_keys` and `unexpected_keys`.

        Raises:
            TypeError: the state is not a mapping, or a name is not a string.
            ValueError: names are missing or not expected, shapes or dtypes do not fit, or a shared
                tensor has different values under its two names; the message lists every case.
        """
        own = dict(self._state())
        arrays, incompatible = fitting_arrays(type(self).__name__, own, state, strict)
        for name, tensor in own.items():
            if name in arrays:
                tensor.data = arrays[name]
        return incompatible

    # Repr -------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        lines = [
            f"  ({name}): " + repr(child).replace("\n", "\n  ")
            for name, child in self.named_children()
        ]
        kept = {n: value for n, value in vars(self).items() if not isinstance(value, Module)}
        arguments = ", ".join(shown_arguments(type(self).__init__, kept))
        head = f"{type(self).__name__}({arguments}"
        return head + ("\n" + "\n".join(lines) + "\n)" if lines else ")")


def _note_layer(module: Any, error: Exception) -> None:
    """Note the innermost layer on the error, once, with its name as seen from `module`."""
    source, place = getattr(error, "_minidl_layer", (module, -1))
    if place < 0:
        error.add_note("")
        place = len(error.__notes__) - 1
        error._minidl_layer = (source, place)  # type: ignore[attr-defined]
    names = [name for name, part in module.named_modules() if part is source]
    where = f"'{names[0]}', " if names and names[0] else ""
    error.__notes__[place] = f"in layer {where}{source!r}"


def _hides(value: Any, levels: int = 3) -> bool:
    """Return whether plain containers hide a parameter or module, which would never be trained.

    Only their beginnings are looked at: this runs in every step, and long containers hold data.
    """
    if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
        items = value.values() if isinstance(value, dict) else value
        return levels > 0 and any(_hides(item, levels - 1) for item in islice(items, 100))
    return isinstance(value, (Module, Parameter))
