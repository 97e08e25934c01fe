"""Learning-rate schedules: their formulas, groups, and going on from a saved state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import Tensor, nn, optim
from minidl.data import DataLoader
from minidl.functional import cross_entropy
from minidl.training import fit

RATES = [1.0, 0.1]


def sgd(rates: list[float] = RATES) -> optim.SGD:
    groups = [{"params": Tensor([1.0], requires_grad=True), "lr": rate} for rate in rates]
    return optim.SGD(groups)


def sequential(o: Any, lib: Any) -> Any:
    parts = [lib.LinearLR(o, total_iters=4), lib.CosineAnnealingLR(o, 10), lib.StepLR(o, 3)]
    return lib.SequentialLR(o, parts, [4, 12])


# Of either library: minidl.optim, or torch.optim.lr_scheduler.
SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "step": lambda o, lib: lib.StepLR(o, 3, 0.5),
    "milestones": lambda o, lib: lib.MultiStepLR(o, [2, 5, 11]),
    "cosine": lambda o, lib: lib.CosineAnnealingLR(o, 8, 0.01),
    "linear": lambda o, lib: lib.LinearLR(o, 0.2, 0.9, 6),
    "sequence": sequential,
    "one cycle": lambda o, lib: lib.OneCycleLR(
        o, max_lr=[0.4, 0.2], total_steps=19, **({} if lib is optim else {"cycle_momentum": False})
    ),
    "one straight cycle": lambda o, lib: lib.OneCycleLR(
        o,
        max_lr=0.4,
        total_steps=19,
        pct_start=0.5,
        anneal_strategy="linear",
        div_factor=10,
        final_div_factor=100,
        **({} if lib is optim else {"cycle_momentum": False}),
    ),
}


def path(schedule: Any, optimizer: Any, steps: int) -> list[list[float]]:
    """Return the groups' rates at the beginning and after each step."""
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        schedule.step()
    return found


def test_rates_are_those_of_the_formulas():
    o = sgd()
    found = np.array(path(optim.CosineAnnealingLR(o, 8, 0.01), o, 9))
    half = (1 + np.cos(np.pi * np.arange(9) / 8)) / 2
    wanted = 0.01 + (np.array(RATES) - 0.01) * half[:, None]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    o = sgd()
    found = path(optim.MultiStepLR(o, [2, 3], 0.5), o, 5)
    assert [first for first, _ in found] == [1, 1, 0.5, 0.25, 0.25]
    o = sgd()
    found = path(optim.LinearLR(o, 0.5, 1.0, 2), o, 4)
    assert [first for first, _ in found] == [0.5, 0.75, 1, 1]


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.sampled_from(["cos", "linear"]))
def test_one_cycle_rises_to_its_peak_and_falls_from_there(total, part, strategy):
    o = sgd([1.0])
    schedule = optim.OneCycleLR(o, 0.4, total, part, strategy)
    rates = [rates[0] for rates in path(schedule, o, total)]
    top = int(np.argmax(rates))
    assert max(rates) <= 0.4 + 1e-12
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rates[top:]))
    assert rates[-1] == pytest.approx(0.4 / 25 / 1e4)
    with pytest.raises(ValueError, match=f"step {total + 1} of a cycle of {total}; is total_steps"):
        schedule.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_loaded_schedule_goes_on_exactly(name):
    straight = sgd()
    wanted = path(SCHEDULES[name](straight, optim), straight, 18)
    first = sgd()
    schedule = SCHEDULES[name](first, optim)
    path(schedule, first, 7)
    saved = schedule.state_dict()
    second = sgd()
    again = SCHEDULES[name](second, optim)
    again.load_state_dict(saved)
    assert path(again, second, 11) == wanted[7:]


def test_fit_takes_a_step_of_the_schedule_after_each_of_the_optimiser():
    x = minidl.manual_seed(0).normal(size=(32, 2)).astype(np.float32)
    batches = DataLoader(x, (x[:, 0] > 0).astype(int), batch_size=8)
    model = nn.Linear(2, 2)
    o = optim.SGD(model.parameters(), lr=1.0)
    schedule = optim.LinearLR(o, 0.5, 1.0, 100)
    fit(model, cross_entropy, o, batches, epochs=2, schedule=schedule, progress=False)
    assert schedule.steps == 8
    assert schedule.rates() == [pytest.approx(0.5 + 0.5 * 8 / 100)]


@pytest.mark.oracle
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rates_are_torch_s(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ours = sgd()
    groups = [{"params": [torch.ones(1, requires_grad=True)], "lr": rate} for rate in RATES]
    theirs = torch.optim.SGD(groups)
    found = path(SCHEDULES[name](ours, optim), ours, 19)
    wanted = path(SCHEDULES[name](theirs, torch.optim.lr_scheduler), theirs, 19)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


BAD = {
    "no optimiser": (
        lambda: optim.StepLR(nn.Linear(1, 1), 1),
        TypeError,
        "StepLR: got a Linear, expected an optimiser",
    ),
    "no steps": (
        lambda: optim.StepLR(sgd(), 0),
        ValueError,
        "StepLR: got step_size=0, expected an integer >= 1",
    ),
    "a negative factor": (
        lambda: optim.MultiStepLR(sgd(), [1], -1),
        ValueError,
        "MultiStepLR: got gamma=-1, expected a number >= 0",
    ),
    "falling milestones": (
        lambda: optim.MultiStepLR(sgd(), [3, 2]),
        ValueError,
        r"MultiStepLR: got milestones=\[3, 2\], expected strictly increasing steps",
    ),
    "a rate that is not finite": (
        lambda: optim.CosineAnnealingLR(sgd(), 3, math.inf),
        ValueError,
        "CosineAnnealingLR: got eta_min=inf, expected a number >= 0",
    ),
    "a warm-up from nothing": (
        lambda: optim.LinearLR(sgd(), 0),
        ValueError,
        "LinearLR: got start_factor=0, expected > 0",
    ),
    "peaks of other groups": (
        lambda: optim.OneCycleLR(sgd(), [0.1], 5),
        ValueError,
        r"OneCycleLR: got max_lr=\[0\.1\], expected one rate for each of 2 groups, or one for all",
    ),
    "a cycle that only rises": (
        lambda: optim.OneCycleLR(sgd(), 0.1, 5, pct_start=1),
        ValueError,
        "OneCycleLR: got pct_start=1, .*expected 0 < pct_start < 1",
    ),
    "another way to anneal": (
        lambda: optim.OneCycleLR(sgd(), 0.1, 5, anneal_strategy="exp"),
        ValueError,
        "OneCycleLR: got anneal_strategy='exp', expected 'cos' or 'linear'",
    ),
    "a milestone too few": (
        lambda: optim.SequentialLR(o := sgd(), [optim.StepLR(o, 1)] * 2, []),
        ValueError,
        r"SequentialLR: got 2 schedules and milestones \[\], expected one milestone fewer",
    ),
    "a schedule of another optimiser": (
        lambda: optim.SequentialLR(sgd(), [optim.StepLR(sgd(), 1)], []),
        ValueError,
        "SequentialLR: a schedule was made for another optimiser",
    ),
    "a state of other groups": (
        lambda: optim.StepLR(sgd(), 1).load_state_dict({"steps": 1, "base_rates": [1]}),
        ValueError,
        "StepLR.load_state_dict: got rates of 1 groups, expected 2",
    ),
    "no state": (
        lambda: optim.StepLR(sgd(), 1).load_state_dict({"steps": 1}),
        ValueError,
        "StepLR.load_state_dict: got .*, expected 'steps' and 'base_rates'",
    ),
    "no state of a sequence": (
        lambda: optim.SequentialLR(o := sgd(), [optim.StepLR(o, 1)], []).load_state_dict({}),
        ValueError,
        "SequentialLR.load_state_dict: got .*, expected the states of 1 'schedulers'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=f"^{message}"):
        call()
