"""Base of all optimisers: parameter groups, state, and one step over all parameters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl.backends import Array, Update, backend_of, without_underflow
from minidl.tensor import Tensor
from minidl.tensor.operands import check_device
from minidl.tensor.rows import RowGradient

Group = dict[str, Any]
Numbers = Sequence[float]  # what a rule's formula takes besides arrays
NUMBER = (int, float, np.integer, np.floating)
SMALL = 2**18
"""Updates of at most this many bytes are not sliced."""

ARRAYS = 8
"""How many arrays an update holds a slice of in cache: parameter, gradient, state, temporaries."""

FLAGS = ("nesterov", "centered", "amsgrad")  # the options that are not numbers


class Optimizer:
    """Base of the update rules. Subclasses define `update`, which may do anything with arrays.

    Elementwise rules define `formula`, `keeps` and `numbers` instead. They then run on slices that
    fit in cache, on the rows of a `RowGradient`, and on a GPU in the CUDA kernel that the class
    attribute `kernel` names, if any.

    Args:
        parameters: tensors to train, or a list of groups: dicts with `"params"` and any options
            that differ from the defaults, such as `{"params": [...], "lr": 0.01}`.
        defaults: the options of groups that do not set their own.

    Attributes:
        param_groups: the groups, each with all options; change `group["lr"]` freely between steps.
        state: the rule's state for each parameter, in order over all groups.

    Raises:
        ValueError: there are no parameters, one occurs twice, or an option is unknown or invalid.
        TypeError: a parameter is not a tensor.
    """

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]], **defaults: Any
    ) -> None:
        given = _listed(self._name, parameters)
        if not given:
            raise ValueError(
                f"{self._name}: got no parameters (was the generator already consumed, or "
                "is everything frozen?)"
            )
        self.param_groups: list[Group] = []
        seen: set[int] = set()
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            if not isinstance(group, Mapping):
                raise TypeError(
                    f"{self._name}: expected every group to be a dict, got a {type(group).__name__}"
                )
            self.param_groups.append(self._checked_group(group, defaults, seen))
        self.state: list[dict[str, Any]] = [{} for g in self.param_groups for _ in g["params"]]

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _checked_group(
        self, group: Mapping[str, Any], defaults: Mapping[str, Any], seen: set[int]
    ) -> Group:
        options = dict(group)
        params = options.pop("params", None)
        if params is None or set(options) - set(defaults):
            raise ValueError(
                f"{self._name}: got a group with {sorted(group)}, expected 'params' and any of "
                f"{sorted(defaults)}"
            )
        params = [params] if isinstance(params, Tensor) else _listed(self._name, params)
        for parameter in params:
            if not isinstance(parameter, Tensor):
                raise TypeError(f"{self._name}: got a {type(parameter).__name__}, expected tensors")
            if not parameter.is_leaf:
                raise ValueError(f"{self._name}: got the result of an operation, expected a leaf")
            if id(parameter) in seen:
                raise ValueError(
                    f"{self._name}: a parameter of shape {parameter.shape} occurs twice"
                )
            seen.add(id(parameter))
        return {"params": params, **self.checked_options({**defaults, **options})}

    def checked_options(self, options: Mapping[str, Any]) -> Group:
        """Return a group's options as Python numbers; raise ValueError for invalid ones."""
        checked = dict(options)
        for name, value in options.items():
            if name in FLAGS:
                checked[name] = bool(value)
                continue
            given, end, wanted = [value], math.inf, "a number >= 0"
            if name == "betas":
                is_pair = isinstance(value, (tuple, list)) and len(value) == 2
                given, end = value if is_pair else [None], 1
                wanted = "two numbers with 0 <= beta < 1"
            if not all(isinstance(number, NUMBER) and 0 <= number < end for number in given):
                raise ValueError(f"{self._name}: got {name}={value!r}, expected {wanted}")
            checked[name] = tuple(map(float, value)) if name == "betas" else float(value)
        return checked

    def _places(self) -> Iterator[tuple[Tensor, dict[str, Any], Group]]:
        """Yield every parameter of all groups with its state and its group."""
        states = iter(self.state)
        return ((p, next(states), group) for group in self.param_groups for p in group["params"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, or to zeros, so that the next backward starts from zero."""
        for parameter, _, _ in self._places():
            parameter.reset_grad(set_to_none)

    @without_underflow
    def step(self) -> None:
        """Update every parameter that has a gradient, in place.

        Frozen parameters are not changed, even if they still have an old gradient.

        A `RowGradient`, as from `Embedding(sparse=True)`, updates only its rows, in the parameter
        and in the rule's state: for the other rows, momentum, running means and weight decay do
        nothing in this step. SGD without momentum and weight decay gives the same result as with a
        dense gradient; Adam becomes what PyTorch calls SparseAdam. Rules that define `update`,
        which may depend on the shape, get the dense gradient. Do not `capture` steps with rows:
        replays would not advance the step count in `state`.

        Raises:
            RuntimeError: no parameter has one: `backward` was not called, or everything is frozen.
        """
        alike: dict[tuple[int, Any], list[Update]] = {}
        with contextlib.ExitStack() as opened:
            for parameter, state, group in self._places():
                gradient = parameter.grad
                if gradient is None or not parameter.requires_grad:
                    continue
                array = opened.enter_context(parameter.mutable())
                for name in self.keeps(group) if self._is_elementwise else ():
                    if name not in state:  # now: if memory runs out, nothing is updated
                        kept(state, f"_{name}", array)
                if isinstance(gradient, RowGradient) and self._is_elementwise:
                    update = opened.enter_context(self._taken_out(array, gradient, state, group))
                else:
                    update = self._prepared(array, gradient.array, state, group)
                alike.setdefault((id(parameter.backend), parameter.dtype), []).append(update)
            for updates in alike.values():
                backend_of(updates[0].p).update_all(self._kernel, updates)
        if not alike:
            raise RuntimeError(
                f"{self._name}.step: no parameter has a gradient; call loss.backward() first, and "
                "check that these tensors are not all frozen and that the loss depends on them"
            )

    @property
    def _is_elementwise(self) -> bool:
        return type(self).update is Optimizer.update

    @property
    def _kernel(self) -> str | None:
        """The kernel that computes `formula`, named by the class that defines `formula`."""
        owner = next(kind for kind in type(self).__mro__ if "formula" in vars(kind))
        name: str | None = vars(owner).get("kernel")
        return name if self._is_elementwise else None

    def _prepared(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> Update:
        def count(steps: int) -> None:
            state["step"] = state.get("step", 0) + steps

        return Update(
            p,
            g,
            count,
            for_kernel=lambda: self.for_kernel(p, state, group),
            plain=lambda: self.update(p, g, state, group),
        )

    @contextlib.contextmanager
    def _taken_out(
        self, p: Array, gradient: RowGradient, state: dict[str, Any], group: Group
    ) -> Iterator[Update]:
        """Copy a gradient's rows out of the parameter and the state; write them back at the end.

        Duplicate rows are computed twice with equal results, which avoids a GPU sync to count them.
        """
        rows, names = gradient.rows, self.keeps(group)
        own = {name: kept(state, name, p)[rows] for name in names if name in state}
        own["step"] = state.get("step", 0)
        some = p[rows]
        yield self._prepared(some, gradient.values.array[gradient.first], own, group)
        p[rows] = some
        for name in names:
            kept(state, name, p)[rows] = own[name]
        state["step"] = own["step"]

    def for_kernel(
        self, p: Array, state: dict[str, Any], group: Group
    ) -> tuple[Sequence[Array], Callable[[], Numbers]]:
        """Return the state arrays for `formula` or the kernel, and a function for its numbers."""
        names = self.keeps(group)
        is_new = any(name not in state for name in names)

        def numbers() -> Numbers:
            nonlocal is_new
            is_first, is_new = is_new or state["step"] == 1, False
            return self.numbers(group, state["step"], is_first)

        return [kept(state, name, p) for name in names], numbers

    def update(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """Update the parameter array `p` in place from its gradient `g`, which is not changed.

        `state` holds `"step"`, which is >= 1, and the arrays that the rule stores with `kept`.

        Unless a subclass overrides this method, it applies `formula` to slices that fit in cache.
        """
        arrays, numbers = self.for_kernel(p, state, group)
        now = numbers()
        if p.nbytes <= SMALL:
            self.formula(p, g, arrays, now)
            return
        flat = [array.reshape(-1) for array in (p, g, *arrays)]

        def work(part: slice) -> None:
            some_p, some_g, *some = [array[part] for array in flat]
            self.formula(some_p, some_g, some, now)

        backend_of(p).over_batch(p.size, (ARRAYS,), p.dtype, work)
        if not p.flags.c_contiguous:  # then flat[0] is a copy
            p[...] = flat[0].reshape(p.shape)

    def keeps(self, group: Group) -> Sequence[str]:
        """Return the names in `state` of the arrays that `formula` takes, in the same order."""
        raise NotImplementedError

    def numbers(self, group: Group, step: int, is_first: bool) -> Numbers:
        """Return the numbers that `formula` takes in a step, in the same order.

        Args:
            group: the options.
            step: the number of the step, >= 1.
            is_first: whether an array is new (all zeros): in step 1, or after an option changed.
        """
        raise NotImplementedError

    def formula(self, p: Array, g: Array, arrays: Sequence[Array], numbers: Numbers) -> None:
        """Update `p` and the arrays in place, element by element; `g` is not changed.

        All arrays have the same shape, which may be that of any part of the parameter. `kernels.cu`
        has the same formula and takes arrays and numbers in the same order.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that later steps depend on; parameters appear as indices.

        Returns:
            `{"groups": [options...], "state": {index: {"step": int, name: NumPy array}}}`, where
            `index` counts parameters over all groups.
        """
        groups = [{n: v for n, v in group.items() if n != "params"} for group in self.param_groups]
        state = {
            place: {
                name: value if name == "step" else backend_of(value).to_numpy(value)
                for name, value in entries.items()
                if not name.startswith("_")
            }
            for place, entries in enumerate(self.state)
            if "step" in entries
        }
        return {"groups": groups, "state": state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of an optimiser of the same kind over the same parameters.

        Raises:
            ValueError: parts are missing, groups, indices, names or shapes do not fit, or an option
                is invalid; nothing is changed then.
        """
        who = f"{self._name}.load_state_dict"
        wanted = [sorted(set(group) - {"params"}) for group in self.param_groups]
        places = {str(place): p for place, (p, _, _) in enumerate(self._places())}
        off = {name: False for name in FLAGS if name in self.param_groups[0]}  # in older files
        try:
            groups = [{**off, **group} for group in saved["groups"]]
            found = [sorted(group) for group in groups]
            if found != wanted:
                raise ValueError(
                    f"{who}: got groups with options {found}, expected {wanted}; was it saved from "
                    "another kind of optimiser, or with other groups?"
                )
            options = [self.checked_options(group) for group in groups]
            given = {str(place): entries for place, entries in saved["state"].items()}
            for place in given.keys() - places.keys():
                raise ValueError(
                    f"{who}: got state {place}, expected 0 to {len(places) - 1}; "
                    "was it saved from a larger network?"
                )
            loaded = [
                _loaded(f"{who}: state {place}", p, given[place]) if place in given else {}
                for place, p in places.items()
            ]
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            what = f"{saved!r:.100}, expected 'groups' and 'state', as from state_dict()"
            raise ValueError(f"{who}: got {what} ({error!r:.100})") from error
        for own, new in zip(self.state, loaded, strict=True):
            _replace(own, new)
        for group, checked in zip(self.param_groups, options, strict=True):
            group.update(checked)


def _listed(who: str, parameters: Any) -> list[Any]:
    """Return parameters or groups as a list; raise TypeError for one object, like a model."""
    kind = type(parameters).__name__
    if hasattr(parameters, "parameters"):
        raise TypeError(f"{who}: got a {kind}, expected its parameters; pass model.parameters()")
    if isinstance(parameters, (Tensor, Mapping)) or not isinstance(parameters, Iterable):
        raise TypeError(f"{who}: got one {kind}, expected a list of tensors")
    return list(parameters)


def _loaded(who: str, p: Tensor, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state as arrays on the device of `p`."""
    arrays = {name: np.asarray(value) for name, value in entries.items()}
    step = arrays.pop("step", None)
    if step is None or step.dtype.kind not in "iu" or step.shape or step < 1:
        raise ValueError(f"{who} has step {step}, expected an integer >= 1")
    for name, array in arrays.items():
        fits = array.shape == p.shape and np.can_cast(array.dtype, p.dtype, "same_kind")
        if not (fits and isinstance(name, str)):
            shapes = {n: value.shape for n, value in arrays.items()}
            raise ValueError(f"{who} has shapes {shapes} ({array.dtype}), expected {p.shape}")
    moved = {name: p.backend.from_numpy(a.astype(p.dtype, order="C")) for name, a in arrays.items()}
    return {"step": int(step), **moved}


def _replace(state: dict[str, Any], new: dict[str, Any]) -> None:
    """Replace a state's values, in the same arrays where they fit, because replays write to them.

    Arrays without a new value are reset to 0, as when they were created.
    """
    state.pop("step", None)
    for name, old in state.items():
        value = new.get(name)
        if value is None:
            old[...] = 0
        elif old.dtype == value.dtype and backend_of(old) is backend_of(value):
            old[...] = value
            new[name] = old
    state.update(new)


def kept(state: dict[str, Any], name: str, p: Array) -> Array:
    """Return the array, shaped like `p`, that a rule stores under a name; zeros the first time.

    Names that start with an underscore are scratch memory: reused, but not saved. An array that
    was created before the step under `name` with an underscore is renamed here.
    """
    backend, found = backend_of(p), state.get(name)
    if found is None:
        made = state.pop(f"_{name}", None)
        state[name] = backend.xp.zeros(p.shape, p.dtype) if made is None else made
    elif found.dtype != p.dtype or backend_of(found) is not backend:  # the parameter was moved
        state[name] = backend.from_numpy(backend_of(found).to_numpy(found).astype(p.dtype))
    return state[name]


@without_underflow
def clip_grad_norm_(
    parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """Scale all gradients by one factor so that their joint norm is at most `max_norm`.

    Args:
        parameters: tensors, or a single one; those without a gradient are skipped.
        max_norm: the largest norm allowed, `> 0`.
        norm_type: p of the p-norm; `math.inf` for the largest absolute value.

    Returns:
        The norm before clipping, over all gradients as if they were one vector: a 0-d float64
        tensor on the gradients' device, which avoids waiting for a GPU.

    Raises:
        ValueError: `max_norm` or `norm_type` is not positive.
        TypeError: a parameter is not a tensor, or the gradients are on several devices.

    Source: R. Pascanu et al., On the difficulty of training recurrent neural networks (2012).
    """
    who = "clip_grad_norm_"
    if not all(isinstance(value, NUMBER) and value > 0 for value in (max_norm, norm_type)):
        raise ValueError(
            f"{who}: got max_norm={max_norm!r}, norm_type={norm_type!r}, expected both to be > 0"
        )
    given = [parameters] if isinstance(parameters, Tensor) else _listed(who, parameters)
    for parameter in given:
        if not isinstance(parameter, Tensor):
            raise TypeError(f"{who}: got a {type(parameter).__name__}, expected tensors")
    gradients = [p.grad.stored for p in given if p.grad is not None and p.grad.size]
    if not gradients:
        return Tensor(0.0, np.float64)
    backend = gradients[0].backend
    for gradient in gradients:
        check_device(who, gradient.backend, backend)
    sizes = [abs(gradient.array) for gradient in gradients]
    total = top = backend.xp.stack([size.max().astype(np.float64) for size in sizes]).max()
    if norm_type != math.inf:  # divide by the largest size first, so that powers stay in range
        unit = backend.xp.where((top == 0) | (top == np.inf), 1.0, top)
        powers = [((s / unit.astype(s.dtype)) ** norm_type).sum().astype(np.float64) for s in sizes]
        total = backend.xp.stack(powers).sum() ** (1 / norm_type) * unit
    scale = backend.xp.minimum(max_norm / (total + 1e-6), 1)
    for gradient in gradients:
        with gradient.mutable() as array:
            array *= scale.astype(array.dtype)
    return Tensor.wrap(total)
