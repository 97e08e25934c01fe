"""What all optimisers share: parameter groups, state, and one step over all parameters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl.backends import Array, Update, backend_of
from minidl.tensor import Tensor
from minidl.tensor.operands import check_device
from minidl.tensor.rows import RowGradient

Group = dict[str, Any]
NUMBER = (int, float, np.integer, np.floating)
SMALL = 2**18
"""Bytes of a parameter up to which an update is one slice, which takes no preparing."""

FLAGS = ("nesterov", "centered")  # the options that are no numbers


class Optimizer:
    """Base of the update rules. Subclasses write `update`.

    Args:
        parameters: tensors to train, or a list of groups: dicts with `"params"` and any options
            that differ from the defaults, such as `{"params": [...], "lr": 0.01}`.
        defaults: the options of groups that do not give their own.

    Attributes:
        param_groups: the groups, each with all options; change `group["lr"]` freely between steps.
        state: what the rule keeps for each parameter, in order through all groups.

    Raises:
        ValueError: no parameters, one that comes twice, or an unknown or impossible option.
        TypeError: not tensors.
    """

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]], **defaults: Any
    ) -> None:
        given = _listed(self._name, parameters)
        if not given:
            raise ValueError(f"{self._name}: got no parameters (was parameters() used up before?)")
        self.param_groups: list[Group] = []
        seen: set[int] = set()
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            if not isinstance(group, Mapping):
                raise TypeError(
                    f"{self._name}: got a {type(group).__name__} among groups, expected every "
                    f"group to be a dict"
                )
            self.param_groups.append(self._checked_group(group, defaults, seen))
        self.state: list[dict[str, Any]] = [
            {} for group in self.param_groups for _ in group["params"]
        ]

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
                raise ValueError(f"{self._name}: got the result of an operation, expected leaves")
            if id(parameter) in seen:
                raise ValueError(
                    f"{self._name}: a parameter of shape {parameter.shape} comes twice"
                )
            seen.add(id(parameter))
        return {"params": params, **self.checked_options({**defaults, **options})}

    def checked_options(self, options: Mapping[str, Any]) -> Group:
        """Return a group's options with numbers as Python's; ValueError for impossible ones."""
        checked = dict(options)
        for name, value in options.items():
            if name == "betas":
                two = isinstance(value, (tuple, list)) and len(value) == 2
                if not two or not all(isinstance(b, NUMBER) and 0 <= b < 1 for b in value):
                    raise ValueError(
                        f"{self._name}: got betas={value!r}, expected two numbers with 0 <= "
                        f"beta < 1"
                    )
                checked[name] = (float(value[0]), float(value[1]))
            elif name not in FLAGS:
                if not (isinstance(value, NUMBER) and 0 <= value < math.inf):
                    raise ValueError(f"{self._name}: got {name}={value!r}, expected a number >= 0")
                checked[name] = float(value)
        return checked

    def _places(self) -> Iterator[tuple[Tensor, dict[str, Any], Group]]:
        """Yield every parameter, through all groups, with its state and its group."""
        states = iter(self.state)
        return ((p, next(states), group) for group in self.param_groups for p in group["params"])

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters, so that the next backward starts afresh."""
        for parameter, _, _ in self._places():
            parameter.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, in place and without allocating memory.

        Frozen parameters stay as they are, even where a gradient is left from before.

        Of a `RowGradient`, as `Embedding(sparse=True)` has, only the rows that it names are
        updated, in the parameter and in what the rule keeps: the others have no momentum, decay of
        running means or weight decay in this step. SGD without these two gives what a whole
        gradient would; Adam becomes what PyTorch calls SparseAdam. Rules without a kernel, which
        may look at the shape, get the whole gradient. Do not `capture` steps with rows: in replays,
        the step's number, which Adam uses, would stay that of the recording.

        Raises:
            RuntimeError: none has one: `backward` was not called, or everything is frozen.
        """
        alike: dict[tuple[int, Any], list[Update]] = {}
        any_rows = False
        with contextlib.ExitStack() as open_arrays:
            for parameter, state, group in self._places():
                gradient = parameter.grad
                if gradient is None or not parameter.requires_grad:
                    continue
                array = open_arrays.enter_context(parameter.mutable())
                if isinstance(gradient, RowGradient) and self._kernel is not None:
                    self._update_rows(array, gradient, state, group)
                    any_rows = True
                else:
                    update = self._prepared(array, gradient.data, state, group)
                    alike.setdefault((id(parameter.backend), parameter.dtype), []).append(update)
            for updates in alike.values():
                backend_of(updates[0].p).update_all(self._kernel, updates)
        if not alike and not any_rows:
            raise RuntimeError(
                f"{self._name}.step: no parameter has a gradient; call loss.backward() first, and "
                "see that these tensors are not all frozen and that the loss was computed from them"
            )

    @property
    def _kernel(self) -> str | None:
        """The kernel that does what `update` does: named by the class that defines `update`."""
        owner = next(kind for kind in type(self).__mro__ if "update" in vars(kind))
        name: str | None = vars(owner).get("kernel")
        return name

    def _prepared(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> Update:
        def count(steps: int) -> None:
            state["step"] = state.get("step", 0) + steps

        return Update(
            p,
            g,
            count,
            for_kernel=lambda: self.for_kernel(p, state, group),
            plain=lambda: self._update(p, g, state, group),
        )

    def for_kernel(
        self, p: Array, state: dict[str, Any], group: Group
    ) -> tuple[Sequence[Array], Callable[[], Sequence[float]]]:
        """Return the arrays that the rule's kernel keeps, and what gives its numbers for a step.

        See `kernels.cu` for their order. A rule that names a `kernel` beside its `update` has this.
        """
        raise NotImplementedError

    def _update(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """Update a parameter: from its second step on, in slices that stay in cache.

        A rule passes over its arrays a dozen times. Adam on 20,000 x 128 numbers: 4.4 ms for 6.7
        (2 cores). Rules that have a kernel go element by element; others may look at the shape.
        """
        whole = self._kernel is None or state["step"] == 1 or p.nbytes <= SMALL
        wanted = dict(state)
        if not whole:
            self.for_kernel(p, wanted, group)
        if whole or wanted.keys() != state.keys():
            self.update(p, g, state, group)  # which makes its arrays first
            return
        arrays = {name: value for name, value in state.items() if name != "step"}
        alike = all(a.dtype == p.dtype and type(a) is type(p) for a in arrays.values())
        if not alike or not all(a.flags.c_contiguous for a in (p, *arrays.values())):
            self.update(p, g, state, group)
            return
        flat = {name: value.reshape(-1) for name, value in arrays.items()}
        all_p, all_g = p.reshape(-1), g.reshape(-1)

        made: set[str] = set()

        def work(part: slice) -> None:
            views = state | {name: value[part] for name, value in flat.items()}
            self.update(all_p[part], all_g[part], views, group)
            made.update(views.keys() - state.keys())

        backend_of(p).over_batch(p.size, p.itemsize * (2 + len(arrays)), work)
        for name in made:  # scratch memory, made anew for each slice: once is enough
            kept(state, name, p)

    def _update_rows(
        self, p: Array, gradient: RowGradient, state: dict[str, Any], group: Group
    ) -> None:
        """Update some rows of a parameter: taken out, with the rule's arrays, and put back.

        A row that comes twice is computed twice, and alike: no GPU need be asked how many differ.
        """
        state["step"] = state.get("step", 0) + 1
        names = [name for name in state if name != "step" and not name.startswith("_")]
        own = {name: kept(state, name, p)[gradient.rows] for name in names}
        own["step"] = state["step"]
        some = p[gradient.rows]
        self.update(some, gradient.values.data[gradient.first], own, group)
        p[gradient.rows] = some
        for name, array in own.items():
            if name != "step" and not name.startswith("_"):
                kept(state, name, p)[gradient.rows] = array

    def update(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """Change the parameter array `p` in place, given its gradient `g`, which stays as it is.

        `state` holds `"step"`, from 1, and whatever arrays the rule keeps there with `kept`.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that a later step depends on, with parameters as numbers.

        Returns:
            `{"groups": [options...], "state": {place: {"step": int, name: NumPy array}}}`, where
            `place` counts parameters through all groups.
        """
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.param_groups
        ]
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
        """Go on from a `state_dict` of an optimiser of the same kind over the same parameters.

        Raises:
            ValueError: parts are missing, groups, places, names or shapes do not fit, or an option
                is impossible; nothing is changed then.
        """
        who = f"{self._name}.load_state_dict"
        if not isinstance(saved, Mapping) or not {"groups", "state"} <= set(saved):
            got = sorted(saved) if isinstance(saved, Mapping) else type(saved).__name__
            raise ValueError(
                f"{who}: got {got}, expected 'groups' and 'state', as from state_dict()"
            )
        found = [sorted(group) for group in saved["groups"]]
        wanted = [sorted(set(group) - {"params"}) for group in self.param_groups]
        if found != wanted:
            raise ValueError(
                f"{who}: got groups with options {found}, expected {wanted}; was it saved from "
                "another kind of optimiser, or from other groups?"
            )
        options = [self.checked_options(group) for group in saved["groups"]]
        places = {str(place): p for place, (p, _, _) in enumerate(self._places())}
        unknown = [place for place in saved["state"] if str(place) not in places]
        if unknown:
            raise ValueError(
                f"{who}: got state {unknown[0]!r}, expected 0 to {len(places) - 1}: no such "
                f"parameter "
                "(was it saved from a larger network?)"
            )
        given = {str(place): entries for place, entries in saved["state"].items()}
        loaded = [
            _loaded(f"{who}: state {place}", p, given[place]) if place in given else {}
            for place, p in places.items()
        ]
        for own, new in zip(self.state, loaded, strict=True):
            _replace(own, new)
        for group, checked in zip(self.param_groups, options, strict=True):
            group.update(checked)


def _listed(who: str, parameters: Any) -> list[Any]:
    """Return parameters or groups as a list; TypeError if they are one thing, such as a model."""
    kind = type(parameters).__name__
    if hasattr(parameters, "parameters"):
        raise TypeError(f"{who}: got a {kind}, expected its parameters; pass model.parameters()")
    if isinstance(parameters, (Tensor, Mapping)) or not isinstance(parameters, Iterable):
        raise TypeError(f"{who}: got one {kind}, expected a list of tensors")
    return list(parameters)


def _loaded(who: str, p: Tensor, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state as arrays beside the parameter `p`."""
    arrays = {name: np.asarray(value) for name, value in entries.items()}
    step = arrays.pop("step", None)
    if step is None or step.dtype.kind not in "iu" or step.shape or step < 1:
        raise ValueError(f"{who} has step {step}, expected an integer >= 1")
    for array in arrays.values():
        if array.shape != p.shape or not np.can_cast(array.dtype, p.dtype, "same_kind"):
            shapes = {name: value.shape for name, value in arrays.items()}
            raise ValueError(f"{who} has shapes {shapes} ({array.dtype}), expected {p.shape}")
    moved = {name: p.backend.from_numpy(a.astype(p.dtype, order="C")) for name, a in arrays.items()}
    return {"step": int(step), **moved}


def _replace(state: dict[str, Any], new: dict[str, Any]) -> None:
    """Put other values into a state, into the same arrays where they fit: a replay writes there.

    Arrays that have no new value start from 0 again, as they do when they are made.
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
    """Return an array of the shape of `p` that a rule keeps under a name; zeros the first time.

    Names that begin with an underscore are scratch memory: worth keeping, but not saving.
    """
    backend, found = backend_of(p), state.get(name)
    if found is None:
        state[name] = backend.xp.zeros(p.shape, p.dtype)
    elif found.dtype != p.dtype or backend_of(found) is not backend:  # the parameter was moved
        state[name] = backend.from_numpy(backend_of(found).to_numpy(found).astype(p.dtype))
    return state[name]


def clip_grad_norm_(
    parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """Scale all gradients by one factor so that their common norm is at most `max_norm`.

    Args:
        parameters: tensors, or one; those without a gradient are passed over.
        max_norm: the largest norm allowed, more than 0.
        norm_type: p of the p-norm; `math.inf` for the largest absolute value.

    Returns:
        The norm before clipping, over all gradients as if they were one vector: float64, without
        axes, on the gradients' device, so that a GPU need not be waited for.

    Raises:
        ValueError: `max_norm` or `norm_type` is not positive.
        TypeError: not tensors, or gradients on several devices.

    Source: R. Pascanu et al., On the difficulty of training recurrent neural networks (2012).
    """
    who = "clip_grad_norm_"
    if not all(isinstance(value, NUMBER) and value > 0 for value in (max_norm, norm_type)):
        raise ValueError(
            f"{who}: got max_norm={max_norm!r}, norm_type={norm_type!r}, expected a positive number"
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
    sizes = [abs(gradient.data) for gradient in gradients]
    if norm_type == math.inf:
        total = backend.xp.stack([size.max().astype(np.float64) for size in sizes]).max()
    else:
        powers = [(size**norm_type).sum().astype(np.float64) for size in sizes]
        total = backend.xp.stack(powers).sum() ** (1 / norm_type)
    scale = backend.xp.minimum(max_norm / (total + 1e-6), 1)
    for gradient in gradients:
        with gradient.mutable() as array:
            array *= scale.astype(array.dtype)
    return Tensor.wrap(total)
