"""Update rules against PyTorch's stored trajectories; memory, state, and clipping."""

from __future__ import annotations

import copy
import math
import tracemalloc

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl.optim.optimizer import kept

from .reference.cases import (
    CLIPPING,
    GROUP_LR,
    MAX_NORM,
    OPTIMISERS,
    PARAMETERS,
    STEPS,
    load,
    slope,
)

STORED = load("optim")


def start(dtype: type = np.float64, device: str = "cpu") -> list[Tensor]:
    arrays = [STORED[f"start/{i}"].astype(dtype) for i in range(len(PARAMETERS))]
    return [Tensor(a, device=device, requires_grad=True) for a in arrays]


def make(name: str, parameters: list[Tensor]) -> optim.Optimizer:
    rule, options = OPTIMISERS[name]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": GROUP_LR}]
    return getattr(optim, rule)(groups, **options)


def descend(optimiser: optim.Optimizer, parameters: list[Tensor], steps: range) -> None:
    for step in steps:
        for p in parameters:
            p.grad = slope(p.detach(), step)
        optimiser.step()


def values(parameters: list[Tensor]) -> list[np.ndarray]:
    return [p.numpy() for p in parameters]


# Trajectories


@pytest.mark.oracle
@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_amsgrad_follows_pytorch_for_50_steps_through_a_checkpoint(rule):
    """Gradients that grow and shrink: the largest mean of squares is not the last one."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    begin = rng.normal(size=(4, 3))
    options = {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.1, "amsgrad": True}
    p, t = Tensor(begin, requires_grad=True), torch.tensor(begin, requires_grad=True)
    ours, theirs = getattr(optim, rule)([p], **options), getattr(torch.optim, rule)([t], **options)
    for step in range(50):
        g = rng.normal(size=p.shape) * (1 + 10 * (step % 20 < 5))
        p.grad, t.grad = Tensor(g), torch.tensor(g)
        ours.step()
        theirs.step()
        np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=1e-10, atol=1e-12)
        if step == 20:
            saved = ours.state_dict()
            assert set(saved["state"][0]) == {"step", "mean", "square", "largest"}
            ours = getattr(optim, rule)([p], lr=1.0)
            ours.load_state_dict(saved)
    (state,) = theirs.state.values()
    wanted = state["max_exp_avg_sq"].numpy()
    np.testing.assert_allclose(ours.state[0]["largest"], wanted, rtol=1e-10)
    assert (ours.state[0]["largest"] > 1.5 * ours.state[0]["square"]).all()


def test_a_checkpoint_from_before_amsgrad_can_be_loaded():
    p = Tensor([1.0, 2.0], requires_grad=True)
    adam = optim.Adam([p])
    descend(adam, [p], range(2))
    saved = adam.state_dict()
    del saved["groups"][0]["amsgrad"]
    other = optim.Adam([p], amsgrad=True)
    other.load_state_dict(saved)
    assert other.param_groups[0]["amsgrad"] is False
    assert "largest" not in other.state_dict()["state"][0]
    descend(other, [p], range(2, 4))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rule_follows_pytorch_step_by_step(name, device):
    parameters = start(device=device)
    optimiser = make(name, parameters)
    for step in range(STEPS):
        descend(optimiser, parameters, range(step, step + 1))
        for i, found in enumerate(values(parameters)):
            wanted = STORED[f"{name}/{i}"][step]
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12, err_msg=f"{step}")


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rule_stays_in_float32(name, device):
    parameters = start(np.float32, device)
    optimiser = make(name, parameters)
    for group in optimiser.param_groups:
        group["lr"] = np.float64(group["lr"])  # a schedule computed with NumPy
    descend(optimiser, parameters, range(STEPS))
    for i, p in enumerate(parameters):
        assert p.dtype == np.float32
        np.testing.assert_allclose(p.numpy(), STORED[f"{name}/{i}"][-1], rtol=1e-3, atol=1e-3)
    for entries in optimiser.state_dict()["state"].values():
        assert {v.dtype for k, v in entries.items() if k != "step"} <= {np.dtype(np.float32)}


def test_learning_rate_may_be_changed_between_steps():
    p = Tensor(1.0, requires_grad=True)
    sgd = optim.SGD([p], lr=0.5)
    sgd.param_groups[0]["lr"] = 0.25
    p.grad = minidl.ones(())
    sgd.step()
    assert p.item() == 0.75


def test_centred_rmsprop_survives_a_gradient_that_never_changes():
    """Its variance is 0, and rounding can make it negative: PyTorch's square root is then NaN."""
    p = Tensor(np.linspace(0.1, 3, 50, dtype=np.float32), requires_grad=True)
    rule = optim.RMSprop([p], alpha=0.5, centered=True)
    for _ in range(60):
        p.grad = Tensor(np.linspace(0.1, 3, 50, dtype=np.float32))
        rule.step()
    assert np.isfinite(p.numpy()).all()


# Memory


@pytest.fixture
def one_thread():
    """Work on one thread, so that memory does not depend on how many there are."""
    before = minidl.get_num_threads()
    minidl.set_num_threads(1)
    yield
    minidl.set_num_threads(before)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_steps_are_in_place_and_allocate_a_few_slices_alone(name, one_thread):
    size = 4_000_000
    p = Tensor(np.ones(size, np.float32), requires_grad=True)
    rule, options = OPTIMISERS[name]
    optimiser = getattr(optim, rule)([p], **options)
    p.grad = minidl.ones(size)
    optimiser.step()
    array, arrays = p.array, {k: v for k, v in optimiser.state[0].items() if k != "step"}
    tracemalloc.start()
    try:
        optimiser.step()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20, f"{peak} bytes: more than 4 slices of 256 KiB"
    assert left < 10_000
    assert p.array is array
    assert optimiser.state[0].keys() == {"step", *arrays}
    assert all(optimiser.state[0][key] is value for key, value in arrays.items())


@pytest.mark.parametrize("shape", [(10,), (300, 400)])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_state_has_what_is_saved_alone(name, shape):
    p = Tensor(np.ones(shape, np.float32), requires_grad=True)
    rule, options = OPTIMISERS[name]
    optimiser = getattr(optim, rule)([p], **options)
    p.grad = minidl.ones(shape)
    optimiser.step()
    assert optimiser.state[0].keys() == optimiser.state_dict()["state"][0].keys()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_gradients_are_left_as_they_are(name):
    parameters = start()
    optimiser = make(name, parameters)
    for step in range(3):
        gradients = [slope(p.detach(), step) for p in parameters]
        before = values(gradients)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        optimiser.step()
        assert all(np.array_equal(g.numpy(), b) for g, b in zip(gradients, before, strict=True))
        assert all(p.grad is g for p, g in zip(parameters, gradients, strict=True))


def test_a_backward_that_needs_old_weights_raises_after_a_step():
    w = Tensor([1.0, 2.0], requires_grad=True)
    loss = (w * w).sum()
    w.grad = minidl.ones(2)
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


# Which parameters


def test_parameters_without_a_gradient_are_passed_over():
    a, b = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True)
    adam = optim.Adam([a, b], weight_decay=0.5)
    a.grad = minidl.ones(1)
    adam.step()
    assert a.item() != 1
    assert b.item() == 1
    assert list(adam.state_dict()["state"]) == [0]


@pytest.mark.parametrize("rule", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
def test_a_parameter_frozen_after_its_gradient_came_stays(rule):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net(minidl.ones((3, 2))).sum().backward()
    net[0].requires_grad_(False)
    before = net.state_dict()
    rule(net.parameters(), lr=0.1, weight_decay=0.1).step()
    after = net.state_dict()
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {"1.weight", "1.bias"}


def test_a_step_without_any_gradient_raises():
    w = Tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^Adam.step: no parameter has a gradient; call loss"):
        optim.Adam([w]).step()


def test_zero_grad_forgets_gradients():
    w = Tensor([1.0], requires_grad=True)
    w.grad = minidl.ones(1)
    optim.SGD([w]).zero_grad()
    assert w.grad is None


def test_a_group_s_options_win_over_the_defaults():
    a, b = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True)
    sgd = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.25)
    assert [group["lr"] for group in sgd.param_groups] == [0.25, 0.5]


# State


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_loaded_optimiser_goes_on_bit_by_bit(name, device):
    straight = start(np.float32, device)
    descend(make(name, straight), straight, range(STEPS))

    first = start(np.float32, device)
    before = make(name, first)
    descend(before, first, range(7))
    saved = before.state_dict()
    second = [Tensor(p.numpy(), device=device, requires_grad=True) for p in first]
    descend(before, first, range(7, 9))  # what was saved must not move with it
    rule, _ = OPTIMISERS[name]
    after = getattr(optim, rule)([{"params": second[:1]}, {"params": second[1:]}])
    after.load_state_dict(saved)
    descend(after, second, range(7, STEPS))
    for wanted, found in zip(values(straight), values(second), strict=True):
        assert np.array_equal(found, wanted)


def test_scratch_memory_of_a_rule_of_ones_own_is_not_saved():
    class Scratched(optim.Optimizer):
        def update(self, p, g, state, group):
            kept(state, "mean", p)[...] = g
            kept(state, "_scratch", p)[...] = g

    p = Tensor([1.0], requires_grad=True)
    rule = Scratched([p])
    p.grad = minidl.ones(1)
    rule.step()
    assert set(rule.state_dict()["state"][0]) == {"step", "mean"}


def test_a_state_that_does_not_fit_is_refused_and_nothing_changed():
    small, large = [Tensor(np.ones(n), requires_grad=True) for n in (2, 3)]
    adam = optim.Adam([large], lr=0.5)
    for p in (small, large):
        p.grad = minidl.ones(p.shape, dtype="float64")
    adam.step()
    before = adam.state_dict()
    other = optim.Adam([small])
    other.step()
    with pytest.raises(ValueError, match=r"state 0 has shapes .*\(2,\).*, expected \(3,\)"):
        adam.load_state_dict(other.state_dict())
    after = adam.state_dict()
    assert after["groups"] == before["groups"]
    assert np.array_equal(after["state"][0]["mean"], before["state"][0]["mean"])


def test_the_state_of_another_rule_is_refused():
    p = Tensor([1.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"^SGD.load_state_dict: .* another kind of optimiser"):
        optim.SGD([p]).load_state_dict(optim.Adam([p]).state_dict())


def test_a_deep_copy_goes_on_as_the_original():
    """State kept under the parameters' ids would be left behind, and Adam start afresh."""
    p = Tensor([1.0, 2.0], requires_grad=True)
    adam = optim.Adam([p], lr=0.1)
    descend(adam, [p], range(3))
    twin, q = copy.deepcopy((adam, p))
    descend(adam, [p], range(3, 6))
    descend(twin, [q], range(3, 6))
    assert np.array_equal(p.numpy(), q.numpy())
    assert twin.state[0]["step"] == 6


MISFITS = {
    "groups": (lambda s: s.pop("groups"), r"got .*, expected 'groups' and 'state'"),
    "step": (lambda s: s["state"][1].pop("step"), "state 1 has step None, expected an integer"),
    "step 0": (lambda s: s["state"][1].update(step=0), "state 1 has step 0, expected an integer"),
    "place -1": (
        lambda s: s["state"].update({-1: s["state"][0]}),
        r"got state -1, expected 0 to 1",
    ),
    "place 2": (lambda s: s["state"].update({2: s["state"][0]}), r"got state 2, expected 0 to 1"),
    "lr": (lambda s: s["groups"][0].update(lr=-1.0), r"got lr=-1\.0, expected a number >= 0"),
    "nesterov": (lambda s: s["groups"][0].update(momentum=0), "nesterov=True, expected momentum"),
    "kind": (lambda s: s["state"][1].update(velocity=["a"]), r"shapes .* \(<U1\), expected \(1,\)"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_damaged_state_is_refused_and_nothing_changed(what):
    damage, text = MISFITS[what]
    parameters = [Tensor([1.0], requires_grad=True) for _ in range(2)]
    sgd = optim.SGD(parameters, lr=0.5, momentum=0.9, nesterov=True)
    descend(sgd, parameters, range(2))
    saved = sgd.state_dict()
    saved["groups"][0]["lr"], saved["state"][0]["step"] = 0.25, 9
    damage(saved)
    with pytest.raises(ValueError, match=text):
        sgd.load_state_dict(saved)
    assert sgd.param_groups[0]["lr"] == 0.5
    assert [entries["step"] for entries in sgd.state] == [2, 2]


def test_options_may_be_numpy_numbers():
    adam = optim.Adam([Tensor([1.0], requires_grad=True)], lr=np.float32(0.5), eps=np.int64(1))
    assert adam.param_groups[0]["lr"] == 0.5
    assert type(adam.param_groups[0]["lr"]) is float


# Clipping


@pytest.mark.parametrize("name", CLIPPING)
def test_clipping_equals_pytorch(name, device):
    parameters = start(device=device)
    for p in parameters:
        p.grad = slope(p.detach(), 0)
    total = optim.clip_grad_norm_(parameters, MAX_NORM, CLIPPING[name])
    assert (total.device, total.shape) == (device, ())
    assert total.item() == pytest.approx(float(STORED[f"clip {name}/total"]), rel=1e-12)
    for i, p in enumerate(parameters):
        np.testing.assert_allclose(p.grad.numpy(), STORED[f"clip {name}/{i}"], rtol=1e-12)


def test_clipping_leaves_small_gradients_and_missing_ones_alone():
    a, b = Tensor([3.0], requires_grad=True), Tensor([4.0], requires_grad=True)
    a.grad = Tensor([0.5])
    assert optim.clip_grad_norm_([a, b], 1.0) == 0.5
    assert a.grad.numpy().tolist() == [0.5]
    assert optim.clip_grad_norm_([b], 1.0) == 0
    assert optim.clip_grad_norm_(a, 1.0, math.inf) == 0.5


@pytest.mark.parametrize("size", [1e-25, 1e20, 1e38])
@pytest.mark.parametrize("norm_type", [2.0, 3.0, math.inf])
def test_clipping_measures_gradients_whose_squares_are_beyond_float32(size, norm_type, device):
    p = Tensor(np.zeros(4, np.float32), device=device, requires_grad=True)
    p.grad = Tensor(np.full(4, size, np.float32), device=device)
    total, wanted = optim.clip_grad_norm_([p], 1.0, norm_type), size * 4 ** (1 / norm_type)
    assert total.item() == pytest.approx(wanted, rel=1e-6, abs=0)
    assert p.grad.numpy() == pytest.approx(np.full(4, size * min(1, 1 / wanted)), rel=1e-5, abs=0)


def test_clipping_writes_to_no_other_gradient():
    """DeZero's add gives both inputs one array, which clipping then scales twice."""
    a, b = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True)
    (a + b).sum().backward()
    optim.clip_grad_norm_([a, b], 0.1)
    norm = math.hypot(a.grad.item(), b.grad.item())
    assert norm == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("size", [10, 400_000])
@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_momentum_that_is_switched_on_later_counts(size, dampening):
    """PyTorch's figure, for gradients of 1: the first velocity is the gradient, undamped."""
    p = Tensor(np.zeros(size), requires_grad=True)
    rule = optim.SGD([p], lr=1.0, dampening=dampening)
    wanted, velocity = 0.0, None
    for step in range(6):
        if step == 2:
            rule.param_groups[0]["momentum"] = 0.9
        p.grad = Tensor(np.ones(size))
        rule.step()
        if step >= 2:
            velocity = 1.0 if velocity is None else 0.9 * velocity + 1 - dampening
        wanted -= 1.0 if velocity is None else velocity
    np.testing.assert_allclose(p.numpy(), wanted)


def test_a_state_in_another_memory_order_is_loaded_as_well():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(6, 30, 20))

    def trained(order):
        p = Tensor(np.zeros((30, 20)), requires_grad=True)
        rule = optim.Adam([p], lr=0.1)
        for step, gradient in enumerate(gradients):
            if step == 3:
                saved = rule.state_dict()
                for entries in saved["state"].values():
                    entries |= {
                        n: np.array(v, order=order) for n, v in entries.items() if n != "step"
                    }
                rule = optim.Adam([p], lr=0.1)
                rule.load_state_dict(saved)
            p.grad = Tensor(gradient)
            rule.step()
        return p.numpy()

    assert np.array_equal(trained("C"), trained("F"))


def test_a_rule_of_ones_own_sees_whole_arrays_at_every_step():
    class Normalised(optim.Optimizer):
        def update(self, p, g, state, group):
            p -= group["lr"] * g / np.sqrt((g * g).sum())

    p = Tensor(np.zeros((1000, 1000)), requires_grad=True)
    rule = Normalised([p], lr=1.0)
    for _ in range(3):
        before = p.numpy()
        p.grad = Tensor(np.ones((1000, 1000)))
        rule.step()
        assert np.linalg.norm(p.numpy() - before) == pytest.approx(1)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_slices_of_any_memory_order_give_what_whole_arrays_give(name):
    """A parameter of 200 x 300 float64 numbers is sliced, its five parts are not."""
    start = np.random.default_rng(0).normal(size=(200, 300))
    rule, options = OPTIMISERS[name]
    found = []
    for arrays in ([start], [np.asfortranarray(start)], np.split(start, 5)):
        parameters = [Tensor.wrap(a.copy(order="K")).requires_grad_() for a in arrays]
        descend(getattr(optim, rule)(parameters, **options), parameters, range(4))
        found.append(np.concatenate(values(parameters)))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_a_rule_of_ones_own_for_each_element_gets_slices_and_rows():
    sizes = []

    class Counted(optim.Optimizer):
        def keeps(self, group):
            return ["total"]

        def numbers(self, group, step, is_first):
            return [group["lr"], step, is_first]

        def formula(self, p, g, arrays, numbers):
            lr, step, is_first = numbers
            assert is_first == (step == 1)
            sizes.append(p.size)
            arrays[0][...] += g
            p -= lr * arrays[0]

    p, layer = Tensor(np.zeros((1000, 1000)), requires_grad=True), nn.Embedding(9, 2, sparse=True)
    rule = Counted([p, layer.weight], lr=1.0)
    before = layer.weight.numpy()
    for _ in range(2):
        rule.zero_grad()
        p.grad = minidl.ones(p.shape, dtype="float64")
        layer([3, 5, 3]).sum().backward()
        rule.step()
    assert (p.numpy() == -3).all()
    np.testing.assert_allclose((before - layer.weight.numpy())[:, 0], [0, 0, 0, 6, 0, 3, 0, 0, 0])
    assert max(sizes) <= 2**18 // 8
    assert rule.state_dict()["state"][1]["step"] == 2
