"""What all optimisers share: parameter groups, state, and one step over all parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minidl.backends import Array, backend_of
from minidl.tensor import Tensor

Group = dict[str, Any]


class Optimizer:
    """Base of the update rules. Subclasses write `update`.

    Args:
        parameters: tensors to train, or a list of groups: dicts with `"params"` and any options
            that differ from the defaults, such as `{"params": [...], "lr": 0.01}`.
        defaults: the options of groups that do not give their own.

    Attributes:
        param_groups: the groups, each with all options; change `group["lr"]` freely between steps.

    Raises:
        ValueError: no parameters, one that comes twice, or an unknown or impossible option.
        TypeError: not tensors.
    """

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]], **defaults: Any
    ) -> None:
        if isinstance(parameters, (Tensor, Mapping)):
            raise TypeError(f"{self._name}: got one {type(parameters).__name__}, wants a list")
        given = list(parameters)
        if not given:
            raise ValueError(f"{self._name}: got no parameters (was parameters() used up before?)")
        self.param_groups: list[Group] = []
        self.state: dict[int, dict[str, Any]] = {}
        seen: set[int] = set()
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            if not isinstance(group, Mapping):
                raise TypeError(
                    f"{self._name}: got a {type(group).__name__} among groups, wants dicts alone"
                )
            self.param_groups.append(self._checked_group(group, defaults, seen))

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _checked_group(
        self, group: Mapping[str, Any], defaults: Mapping[str, Any], seen: set[int]
    ) -> Group:
        unknown = set(group) - set(defaults) - {"params"}
        if unknown or "params" not in group:
            raise ValueError(
                f"{self._name}: got a group with {sorted(group)}, wants 'params' and any of "
                f"{sorted(defaults)}"
            )
        params = group["params"]
        full = {
            **defaults,
            **group,
            "params": [params] if isinstance(params, Tensor) else [*params],
        }
        for parameter in full["params"]:
            if not isinstance(parameter, Tensor):
                raise TypeError(f"{self._name}: got a {type(parameter).__name__}, wants tensors")
            if not parameter.is_leaf:
                raise ValueError(f"{self._name}: got the result of an operation, wants leaves")
            if id(parameter) in seen:
                raise ValueError(
                    f"{self._name}: a parameter of shape {parameter.shape} comes twice"
                )
            seen.add(id(parameter))
        for name in ("lr", "momentum", "weight_decay", "eps", "alpha", "dampening"):
            value = full.get(name, 0.0)
            if not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise ValueError(f"{self._name}: got {name}={value!r}, wants a number from 0")
        betas = full.get("betas", (0, 0))
        if len(betas) != 2 or any(not 0 <= beta < 1 for beta in betas):
            raise ValueError(f"{self._name}: got betas={betas}, wants two from 0 to below 1")
        return full

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters, so that the next backward starts afresh."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, in place and without allocating memory.

        Frozen parameters stay as they are, even where a gradient is left from before.

        Raises:
            RuntimeError: none has one: `backward` was not called, or everything is frozen.
        """
        updated = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or not parameter.requires_grad:
                    continue
                state = self.state.setdefault(id(parameter), {"step": 0})
                state["step"] += 1
                with parameter.mutable() as array:
                    self.update(array, parameter.grad.data, state, group)
                updated += 1
        if not updated:
            raise RuntimeError(
                f"{self._name}.step: no parameter has a gradient; call loss.backward() first, and "
                "see that these tensors are not all frozen and that the loss was computed from them"
            )

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
        places = self._places()
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.param_groups
        ]
        state = {
            place: {
                name: value if name == "step" else parameter.backend.to_numpy(value)
                for name, value in self.state[id(parameter)].items()
                if not name.startswith("_")
            }
            for place, parameter in enumerate(places)
            if id(parameter) in self.state
        }
        return {"groups": groups, "state": state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of an optimiser of the same kind over the same parameters.

        Raises:
            ValueError: groups, names or shapes do not fit; nothing is changed then.
        """
        places = self._places()
        got = [sorted(group) for group in saved["groups"]]
        wanted = [sorted(set(group) - {"params"}) for group in self.param_groups]
        if got != wanted:
            raise ValueError(
                f"{self._name}.load_state_dict: got groups with options {got}, wants {wanted}; was "
                "it saved from another kind of optimiser, or from other groups?"
            )
        loaded: dict[int, dict[str, Any]] = {}
        for place, entries in saved["state"].items():
            parameter = places[int(place)] if int(place) < len(places) else None
            arrays = {n: np.asarray(v) for n, v in entries.items() if n != "step"}
            if parameter is None or any(v.shape != parameter.shape for v in arrays.values()):
                shapes = {name: value.shape for name, value in arrays.items()}
                raise ValueError(
                    f"{self._name}.load_state_dict: state {place} has shapes {shapes}, "
                    f"wants {'no such parameter' if parameter is None else parameter.shape}"
                )
            moved = {
                name: parameter.backend.from_numpy(value.astype(parameter.dtype))
                for name, value in arrays.items()
            }
            loaded[id(parameter)] = {"step": int(entries["step"]), **moved}
        self.state = loaded
        for group, options in zip(self.param_groups, saved["groups"], strict=True):
            group.update(options)

    def _places(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


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


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> float:
    """Scale all gradients by one factor so that their common norm is at most `max_norm`.

    Args:
        parameters: tensors, or one; those without a gradient are passed over.
        max_norm: the largest norm allowed, more than 0.
        norm_type: p of the p-norm; `math.inf` for the largest absolute value.

    Returns:
        The norm before clipping, over all gradients as if they were one vector.

    Raises:
        ValueError: `max_norm` is not positive.

    Source: R. Pascanu et al., On the difficulty of training recurrent neural networks (2012).
    """
    if not max_norm > 0 or not norm_type > 0:
        raise ValueError(
            f"clip_grad_norm_: got max_norm={max_norm}, norm_type={norm_type}, wants more than 0"
        )
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if norm_type == math.inf:
        total = max((float(abs(g.data).max()) for g in gradients), default=0.0)
    else:
        powers = (float((abs(g.data) ** norm_type).sum()) for g in gradients)
        total = sum(powers) ** (1 / norm_type)
    scale = max_norm / (total + 1e-6)
    if scale < 1:
        for gradient in gradients:
            with gradient.mutable() as array:
                array *= scale
    return total
