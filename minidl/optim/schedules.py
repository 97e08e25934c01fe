"""Learning-rate schedules, with the formulas and names of PyTorch's.

Each sets the rate of every parameter group when it is made, to that of step 0, and again whenever
`step` is called: after every `optimizer.step()` or once per epoch, depending on what its arguments
count. Rates are computed from the step number, so rounding errors do not accumulate, and the
groups' rates keep their ratios.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from minidl.checks import check_whole
from minidl.optim.optimizer import NUMBER, Optimizer


class Schedule:
    """Base of the schedules. Subclasses define `rate`.

    Args:
        optimizer: the one whose groups' rates are set, starting from their current rates.

    Attributes:
        steps: how many times `step` was called.
        found: each group's rate before the schedule.
        base_rates: each group's `base` in `rate`.

    Raises:
        TypeError: not an optimiser.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{self._name}: got a {type(optimizer).__name__}, expected an optimiser"
            )
        self.optimizer, self.steps = optimizer, 0
        self.found = self.rates()
        self._begin_from(self.found)
        self._apply()

    @property
    def _name(self) -> str:
        return type(self).__name__

    def rate(self, step: int, base: float) -> float:
        """Return the rate at a step, `>= 0`, of a group that started with rate `base`."""
        raise NotImplementedError

    def step(self) -> None:
        """Set the rates of the next step."""
        self.steps += 1
        self._apply()

    def rates(self) -> list[float]:
        """Return the groups' current rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _begin_from(self, rates: list[float]) -> None:
        self.base_rates = list(rates)

    def _apply(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = self.rate(self.steps, base)

    def state_dict(self) -> dict[str, Any]:
        """Return the step count and the base rates."""
        return {"steps": self.steps, "base_rates": list(self.base_rates)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a schedule of the same kind and arguments.

        Raises:
            ValueError: it is not one, or has another number of groups; nothing is changed then.
        """
        before = self.state_dict()
        try:
            self._restore(saved)
            for rate in self.rates():
                _check_range(f"{self._name}.load_state_dict", 0, math.inf, rate=rate)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            self._restore(before)
            raise ValueError(f"{error}; expected what state_dict() returned") from error

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Restore a `state_dict`, or raise an error, which may leave a part changed."""
        who = f"{self._name}.load_state_dict"
        if not isinstance(saved, Mapping) or not {"steps", "base_rates"} <= set(saved):
            raise ValueError(f"{who}: got {saved!r:.100}, expected 'steps' and 'base_rates'")
        steps, bases = saved["steps"], list(saved["base_rates"])
        check_whole(who, 0, steps=steps)
        for base in bases:
            _check_range(who, 0, math.inf, base_rate=base)
        if len(bases) != len(self.base_rates):
            raise ValueError(
                f"{who}: got rates of {len(bases)} groups, expected {len(self.base_rates)}; was it "
                "saved with other parameter groups?"
            )
        self.steps, self.base_rates = int(steps), [float(base) for base in bases]
        self._apply()


class StepLR(Schedule):
    """Multiply rates by `gamma` every `step_size` steps: `base * gamma**(step // step_size)`.

    Args:
        optimizer: see `Schedule`.
        step_size: number of steps, `>= 1`.
        gamma: factor, `>= 0`.

    Example:
        >>> from minidl import nn, optim
        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule, seen = StepLR(sgd, 2), []
        >>> for _ in range(5):
        ...     seen.append(sgd.param_groups[0]["lr"])
        ...     schedule.step()
        >>> seen
        [1.0, 1.0, 0.1, 0.1, 0.010000000000000002]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        check_whole(self._name, 1, step_size=step_size)
        _check_range(self._name, 0, math.inf, gamma=gamma)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, step: int, base: float) -> float:
        """Return the rate at a step."""
        return base * self.gamma ** (step // self.step_size)


class MultiStepLR(Schedule):
    """Multiply rates by `gamma` at each milestone: `base * gamma**(number of milestones <= step)`.

    Args:
        optimizer: see `Schedule`.
        milestones: steps, strictly increasing.
        gamma: factor, `>= 0`.
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        _check_range(self._name, 0, math.inf, gamma=gamma)
        self.milestones, self.gamma = _rising(self._name, milestones), gamma
        super().__init__(optimizer)

    def rate(self, step: int, base: float) -> float:
        """Return the rate at a step."""
        return base * self.gamma ** bisect.bisect_right(self.milestones, step)


class CosineAnnealingLR(Schedule):
    """Lower rates to `eta_min` along half a cosine in `T_max` steps.

    `eta_min + (base - eta_min) * (1 + cos(pi * step / T_max)) / 2`; after T_max it rises again.

    Args:
        optimizer: see `Schedule`.
        T_max: number of steps, `>= 1`.
        eta_min: the lowest rate, `>= 0`.

    Source: I. Loshchilov and F. Hutter, SGDR (2016), equation 5.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:  # noqa: N803
        check_whole(self._name, 1, T_max=T_max)
        _check_range(self._name, 0, math.inf, eta_min=eta_min)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, step: int, base: float) -> float:
        """Return the rate at a step."""
        return self.eta_min + (base - self.eta_min) * _cosine(step / self.T_max)


class LinearLR(Schedule):
    """Scale rates by a factor that changes linearly, then stays constant: a warm-up.

    Args:
        optimizer: see `Schedule`.
        start_factor: at step 0, `0 < start_factor <= 1`.
        end_factor: from step `total_iters` on, `0 <= end_factor <= 1`.
        total_iters: number of steps, `>= 1`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        check_whole(self._name, 1, total_iters=total_iters)
        _check_range(self._name, 0, 1, start_factor=start_factor, end_factor=end_factor)
        if start_factor == 0:
            raise ValueError(
                f"{self._name}: got start_factor=0, expected > 0: step 0 would do nothing"
            )
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def rate(self, step: int, base: float) -> float:
        """Return the rate at a step."""
        part = min(step / self.total_iters, 1)
        return base * (self.start_factor + (self.end_factor - self.start_factor) * part)


class OneCycleLR(Schedule):
    """Raise rates to a peak, then lower them to almost 0, in one cycle of `total_steps` steps.

    Rates go from `max_lr / div_factor` to `max_lr` in the first `pct_start` of the steps, then to
    `max_lr / div_factor / final_div_factor` at the last. Large rates in the middle skip narrow
    minima; small ones at the end converge.

    Args:
        optimizer: see `Schedule`; its own rates do not matter.
        max_lr: the peak, `> 0`; or one for each group.
        total_steps: steps of the whole run, `>= 2`.
        pct_start: share of the steps in which rates rise, `0 < pct_start < 1`.
        anneal_strategy: `"cos"` for half a cosine, `"linear"` for a straight line.
        div_factor: `> 0`.
        final_div_factor: `> 0`.

    Momentum is not changed, as with PyTorch's `cycle_momentum=False`.

    Raises:
        ValueError: an argument is out of range; in `step`, the cycle is over.

    Source: L. Smith and N. Topin, Super-Convergence (2017).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        who = self._name
        check_whole(who, 2, total_steps=total_steps)
        factors = {"div_factor": div_factor, "final_div_factor": final_div_factor}
        _check_range(who, 0, 1, pct_start=pct_start)
        if pct_start in (0, 1) or not all(0 < factor < math.inf for factor in factors.values()):
            raise ValueError(
                f"{who}: got pct_start={pct_start}, {factors}, expected 0 < pct_start < 1 "
                "and factors > 0"
            )
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"{who}: got anneal_strategy={anneal_strategy!r}, expected 'cos' or 'linear'"
            )
        self.total_steps, self.pct_start = total_steps, pct_start
        self.anneal_strategy = anneal_strategy
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self.max_lr = max_lr
        super().__init__(optimizer)

    def _begin_from(self, rates: list[float]) -> None:
        peaks = [self.max_lr] * len(rates) if isinstance(self.max_lr, NUMBER) else self.max_lr
        if not isinstance(peaks, Sequence) or len(peaks) != len(rates):
            raise ValueError(
                f"{self._name}: got max_lr={self.max_lr!r}, expected one rate for each of "
                f"{len(rates)} groups, or one for all"
            )
        for peak in peaks:
            _check_range(self._name, 0, math.inf, max_lr=peak)
        super()._begin_from([float(peak) for peak in peaks])

    def step(self) -> None:
        """Set the rates of the next step; after the last they stay constant.

        Raises:
            ValueError: called more than `total_steps` times.
        """
        if self.steps >= self.total_steps:
            raise ValueError(
                f"{self._name}: got step {self.steps + 1} of a cycle of {self.total_steps}; is "
                "total_steps epochs * len(batches)?"
            )
        super().step()

    def rate(self, step: int, base: float) -> float:
        """Return the rate at a step."""
        top, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        start = base / self.div_factor
        if step <= top:
            first, end, part = start, base, step / top if top else 1.0
        else:
            part = min((step - top) / (last - top), 1.0)
            first, end = base, start / self.final_div_factor
        return end + (first - end) * (_cosine(part) if self.anneal_strategy == "cos" else 1 - part)


class SequentialLR(Schedule):
    """Run one schedule after another, such as a warm-up and then a cosine.

    Each counts steps from its own milestone, and starts from the groups' original rates.

    Args:
        optimizer: the one that all schedules were made for.
        schedulers: in order.
        milestones: the steps at which the second, third, ... schedule starts.

    Raises:
        ValueError: there is not one milestone fewer than schedules, or a schedule belongs to
            another optimiser.

    Example:
        >>> from minidl import nn, optim
        >>> sgd = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        >>> parts = [LinearLR(sgd, total_iters=10), CosineAnnealingLR(sgd, 90)]
        >>> schedule = SequentialLR(sgd, parts, milestones=[10])
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]
    ) -> None:
        self.milestones = _rising(self._name, milestones)
        if not schedulers or len(schedulers) != len(self.milestones) + 1:
            raise ValueError(
                f"{self._name}: got {len(schedulers)} schedules and milestones {milestones!r}, "
                "expected one milestone fewer than schedules"
            )
        if any(schedule.optimizer is not optimizer for schedule in schedulers):
            raise ValueError(f"{self._name}: a schedule was made for another optimiser")
        self.schedulers = list(schedulers)
        super().__init__(optimizer)

    def _begin_from(self, rates: list[float]) -> None:
        first = self.schedulers[0].found  # later ones found the rates that this one had set
        super()._begin_from(first)
        for schedule in self.schedulers:
            schedule._begin_from(first)

    def _apply(self) -> None:
        place = bisect.bisect_right(self.milestones, self.steps)
        chosen = self.schedulers[place]
        chosen.steps = self.steps - (self.milestones[place - 1] if place else 0)
        chosen._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the step count, the base rates and the states of the schedules."""
        parts = [schedule.state_dict() for schedule in self.schedulers]
        return super().state_dict() | {"schedulers": parts}

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a schedule with the same parts."""
        parts = saved.get("schedulers") if isinstance(saved, Mapping) else None
        if parts is None or len(parts) != len(self.schedulers):
            raise ValueError(
                f"{self._name}.load_state_dict: got {saved!r:.100}, expected the states of "
                f"{len(self.schedulers)} 'schedulers'"
            )
        for schedule, part in zip(self.schedulers, parts, strict=True):
            schedule._restore(part)
        super()._restore(saved)


def _cosine(part: float) -> float:
    """Return half a cosine: 1 at `part = 0`, 0 at `part = 1`."""
    return (1 + math.cos(math.pi * part)) / 2


def _rising(who: str, milestones: Sequence[int]) -> list[int]:
    steps = list(milestones)
    for step in steps:
        check_whole(who, 1, milestone=step)
    if steps != sorted(set(steps)):
        raise ValueError(
            f"{who}: got milestones={milestones!r}, expected strictly increasing steps"
        )
    return steps


def _check_range(who: str, low: float, high: float, **given: float) -> None:
    for name, value in given.items():
        fits = isinstance(value, NUMBER) and not isinstance(value, bool)
        if not fits or not low <= value <= high or value == math.inf:
            least, most = f"a number >= {low:g}", f"{low:g} <= {name} <= {high:g}"
            expected = least if high == math.inf else most
            raise ValueError(f"{who}: got {name}={value!r}, expected {expected}")
