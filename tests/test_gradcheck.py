"""gradcheck: what it compares, what it reports, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl import functional as F
from minidl.inspect import GradcheckError
from minidl.tensor import record


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def squares(slope):
    """Return `x**2` as an operation whose gradient rule is `slope(x, g)`."""

    def square(x):
        return record("square", x.data * x.data, (x,), lambda g: (slope(x, g),))

    return square


def failure(fn, inputs, **options):
    """Return the one row of the table that is wrong, and the message."""
    with pytest.raises(GradcheckError) as caught:
        minidl.gradcheck(fn, inputs, **options)
    (row,) = [check for check in caught.value.report.checks if check.wrong]
    return row, str(caught.value)


# What passes


@pytest.mark.parametrize("fast", [False, True])
def test_a_right_gradient_passes_and_every_element_is_counted(fast, device):
    x, w = Tensor(numbers(4, 3), device=device), Tensor(numbers(3, 2, seed=1), device=device)
    report = minidl.gradcheck(lambda x, w: (x @ w).tanh(), [x, w], order=2, fast=fast)
    assert [(c.order, c.name) for c in report.checks] == [
        (1, "x"),
        (1, "w"),
        (2, "x"),
        (2, "w"),
        (2, "gradient of output"),
    ]
    assert [c.checked for c in report.checks] == ([3] * 5 if fast else [12, 6, 12, 6, 8])
    assert all(c.error < 1e-7 and not c.wrong and not c.kinks for c in report.checks)


def test_only_floats_are_moved_the_rest_is_handed_on():
    labels, seen = np.array([2, 0]), []

    def loss(scores, target, smoothing):
        seen.append((target, smoothing))
        return F.cross_entropy(scores, target, label_smoothing=smoothing)

    report = minidl.gradcheck(loss, [numbers(2, 3), labels, 0.1])
    assert [c.name for c in report.checks] == ["scores"]
    assert all(target is labels and smoothing == 0.1 for target, smoothing in seen)


def test_several_outputs_are_weighted_and_whole_numbers_left_out():
    report = minidl.gradcheck(
        lambda x: (x * x, F.max_pool2d(x, 2, return_indices=True), x.sum())[::2],
        Tensor(numbers(1, 1, 4, 4)),
        order=2,
    )
    names = [c.name for c in report.checks]
    assert names == ["x", "x", "gradient of output 0", "gradient of output 1"]
    report = minidl.gradcheck(
        lambda x: F.max_pool2d(x, 2, return_indices=True), Tensor(numbers(1, 1, 4, 4))
    )
    assert report.checks[0].checked == 16


def test_arguments_without_names_are_numbered():
    report = minidl.gradcheck(lambda *xs: xs[0] * xs[1], [numbers(2), numbers(2, seed=1)])
    assert [c.name for c in report.checks] == ["input 0", "input 1"]


def test_inputs_of_any_size_dtype_and_memory_order_are_taken():
    x = Tensor.wrap(np.asfortranarray(numbers(3, 2).astype(np.float32)))
    assert minidl.gradcheck(lambda x: x.exp(), x).checks[0].checked == 6
    assert minidl.gradcheck(lambda x: x.exp(), numbers(0, 2), order=2).checks[0].checked == 0
    assert minidl.gradcheck(lambda x: x.exp(), numbers(0, 2), fast=True).checks[0].checked == 0
    assert minidl.gradcheck(lambda x: x.exp(), Tensor(0.5)).checks[0].worst == ()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_inputs_of_any_magnitude_pass(scale):
    x = scale * (1 + np.random.default_rng(0).random((2, 5)))
    for fn in (lambda x: x.log(), lambda x: x.sqrt(), lambda x: 1 / x, lambda x: x**3):
        minidl.gradcheck(fn, x)
        minidl.gradcheck(fn, x, fast=True)
    minidl.gradcheck(lambda x: F.log_softmax(x * 10), x)


def test_a_function_that_does_not_depend_on_an_input_has_gradient_zero():
    report = minidl.gradcheck(lambda x, y: y * y, [numbers(2), numbers(3)], order=2)
    assert [c.wrong for c in report.checks] == [0] * 5
    minidl.gradcheck(lambda x: Tensor(np.ones(3)), numbers(2), order=2)


# Modules


def network():
    minidl.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )


@pytest.mark.parametrize("fast", [False, True])
def test_a_module_is_checked_with_every_parameter_by_name(fast, device):
    model, x = network().to(device), Tensor(numbers(2, 2, 4, 4), device=device)
    report = minidl.gradcheck(model, x, order=2, fast=fast)
    names = ["0.weight", "0.bias", "4.weight", "4.bias", "x"]
    assert [c.name for c in report.checks] == [*names, *names, "gradient of output"]


def test_a_module_among_the_inputs_is_checked_under_its_arguments_name():
    labels = np.array([1, 0])
    report = minidl.gradcheck(
        lambda model, images: F.cross_entropy(model(images), labels),
        [network(), numbers(2, 2, 4, 4)],
    )
    names = ["model.0.weight", "model.0.bias", "model.4.weight", "model.4.bias", "images"]
    assert [c.name for c in report.checks] == names


def test_frozen_parameters_are_checked_too():
    report = minidl.gradcheck(network().requires_grad_(False), numbers(1, 2, 4, 4))
    assert len(report.checks) == 5


def test_nothing_of_the_users_is_changed():
    model = network()
    x = Tensor(numbers(2, 2, 4, 4), np.float32, requires_grad=True)
    (x * x).sum().backward()
    before = model.state_dict()
    kept, gradient, array = x.numpy(), x.grad, x.array
    minidl.gradcheck(model, x, order=2)
    assert (x.array is array, x.grad is gradient) == (True, True)
    assert np.array_equal(x.numpy(), kept)
    for name, value in model.state_dict().items():
        assert value.dtype == np.float32
        assert np.array_equal(value, before[name])
    assert all(g is None for _, g in model.named_gradients())


def test_dropout_is_checked_with_one_mask_and_the_stream_goes_on_as_if_nothing_had_been():
    minidl.manual_seed(3)
    wanted = minidl.rand(4).numpy()
    minidl.manual_seed(3)
    report = minidl.gradcheck(nn.Dropout(0.5), numbers(5, 4), order=2)
    assert report.checks[0].checked == 20
    assert np.array_equal(minidl.rand(4).numpy(), wanted)


def test_recording_may_be_off_around_it():
    with minidl.no_grad():
        minidl.gradcheck(lambda x: x * x, numbers(2), order=2)


# Kinks


@pytest.mark.parametrize(
    ("fn", "x", "kinks"),
    [
        (F.relu, [-1.0, 0.0, 2.0], [(1,)]),
        (F.relu, [0.0], [(0,)]),
        (F.relu, [0.0, 1e-6, -1e-6, 1e-8], [(0,)]),  # close to a kink is not on it
        (abs, [0.0, 1e-7], [(0,)]),
        (lambda x: x.max(), [3.0, 1.0, 3.0], [(0,), (2,)]),
        (lambda x: x.clip(-1, 1), [-1.0, 0.5, 1.0], [(0,), (2,)]),
        (lambda x: minidl.maximum(x, 1.0), [1.0], [(0,)]),
        (lambda x: F.max_pool2d(x.reshape(1, 1, 2, 2), 2), [1.0, 5.0, 5.0, 2.0], [(1,), (2,)]),
        (lambda x: x.sqrt(), [0.0, 1e-6, 4.0], [(0,)]),  # the edge of the domain
    ],
)
def test_where_a_function_has_no_gradient_is_reported_and_is_no_failure(fn, x, kinks):
    report = minidl.gradcheck(fn, np.array(x))
    assert list(report.checks[0].kinks) == kinks
    assert report.checks[0].checked == len(x) - len(kinks)
    more = f" and {len(kinks) - 1} more" if len(kinks) > 1 else ""
    assert f"not differentiable at {kinks[0]}{more}" in str(report)


def test_a_step_is_no_gradient_either():
    def step(x):
        return record("step", np.floor(x.data), (x,), lambda g: (g * 0,))

    assert minidl.gradcheck(step, np.array([1.0, 1.5])).checks[0].kinks == ((0,),)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("fn", [abs, lambda x: minidl.maximum(x, 0), lambda x: F.l1_loss(x, 0 * x)])
def test_the_slope_of_a_kink_may_jump_to_both_sides(fn, fast):
    """Its second derivative was called wrong, because both sides agree on a slope of 1 / step."""
    report = minidl.gradcheck(fn, np.array([0.0, 1.5]), order=2, fast=fast)
    assert report.checks[1].kinks
    assert report.checks[1].wrong == 0


def test_a_steep_slope_is_no_jump():
    def steep(x):
        return record("steep", np.tanh(1e6 * x.array), (x,), lambda g: (g * 9.0,))

    row, _ = failure(steep, np.array([0.0]))
    assert (row.wrong, row.worst) == (1, (0,))


def test_a_gradient_far_beside_both_slopes_of_a_kink_is_wrong():
    def relu(x):
        return record("relu", np.maximum(x.data, 0), (x,), lambda g: (g * (9.0 * (x >= 0)),))

    row, _ = failure(relu, np.array([-1.0, 0.0]))
    assert (row.wrong, row.worst, row.kinks) == (1, (1,), ())


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
@pytest.mark.parametrize("fast", [False, True])
def test_many_kinks_at_once_are_no_failure(seed, fast):
    """One move switches several ReLUs, whose outputs weigh in with either sign."""
    x = np.random.default_rng(0).normal(size=(3, 4))
    x[1] = 0
    w = np.random.default_rng(seed).normal(size=(4, 5))
    minidl.gradcheck(lambda x, w, b: F.relu(x @ w + b), [x, w, np.zeros(5)], seed=seed, fast=fast)
    minidl.gradcheck(F.relu, np.zeros(10), seed=seed, fast=fast, order=2)
    ties = np.random.default_rng(seed).integers(0, 3, (1, 1, 6, 6)).astype(float)
    minidl.gradcheck(lambda x: F.max_pool2d(x, 2), ties, seed=seed, fast=fast, order=2)


def test_a_black_image_before_a_pool_is_no_failure():
    black = np.zeros((1, 1, 6, 6))
    report = minidl.gradcheck(
        nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        black,
    )
    assert report.checks[1].checked == 0


def test_a_random_direction_over_a_kink_is_counted():
    report = minidl.gradcheck(F.relu, np.array([0.0, 1.0]), fast=True)
    assert report.checks[0].kinks == (None, None, None)
    assert "not differentiable at a direction and 2 more" in str(report)


# Near infinity, and near the edge of the domain


NEAR = {
    "log": (np.log, lambda x: 1 / x, [1e-5, 1e-7, 1e-12, 1e-200]),
    "1/x": (lambda x: 1 / x, lambda x: -1 / x**2, [1e-5, -1e-8, 1e-20, 3e-150]),
    "sqrt": (np.sqrt, lambda x: 0.5 / np.sqrt(x), [1e-5, 1e-12, 1e-300]),
    "exp": (np.exp, np.exp, [709.78, 709.0, -700.0]),
    "sinh": (np.sinh, np.cosh, [710.4, -710.4]),
    "square": (lambda x: x * x, lambda x: 2 * x, [1.3e154, 1e-12]),
    "log1p": (np.log1p, lambda x: 1 / (1 + x), [-1 + 1e-5, -1 + 1e-9]),
    "arcsin": (np.arcsin, lambda x: 1 / np.sqrt((1 - x) * (1 + x)), [0.999999, -1 + 1e-7]),
    "pole": (lambda x: 1 / (x - 1), lambda x: -1 / (x - 1) ** 2, [1 + 1e-5, 1 + 1e-7]),
    "denormal": (lambda x: x * 1e-310, lambda x: np.full_like(x, 1e-310), [1.0]),
}


def made(value, slope):
    """Return an operation with the given value and slope."""
    return lambda x: record("made", value(x.data), (x,), lambda g: (g * slope(x.data),))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("value", "slope", "places"), NEAR.values(), ids=NEAR)
def test_near_infinity_right_gradients_pass_and_wrong_ones_fail(value, slope, places, fast):
    for place in places:
        x = np.array([place])
        assert minidl.gradcheck(made(value, slope), x, fast=fast).checks[0].checked
        for wrong in (
            lambda x: np.full_like(x, 123.0),
            lambda x: -slope(x),
            lambda x: np.full_like(x, np.inf),
            lambda x: np.full_like(x, np.nan),
        ):
            failure(made(value, wrong), x, fast=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_one_element_near_infinity_hides_no_other(fast):
    x = np.array([[1e-5, 2e-5], [3e-4, 5e-3]])
    assert minidl.gradcheck(made(np.log, lambda x: 1 / x), x, fast=fast).checks[0].checked
    for place in np.ndindex(2, 2):

        def wrong(x, place=place):
            slope = 1 / x
            slope[place] *= 1.01
            return slope

        row, _ = failure(made(np.log, wrong), x, fast=fast)
        assert (row.wrong, row.worst) == (1, place)


def test_second_gradients_near_infinity_are_compared():
    def log(wrong):
        def backward(x):
            return record("slope", 1 / x.data, (x,), lambda g: (g * (-wrong / x.data**2),))

        return lambda x: record("log", np.log(x.data), (x,), lambda g: (g * backward(x),))

    x = np.array([1e-5, 3e-5])
    assert [c.checked for c in minidl.gradcheck(log(1.0), x, order=2).checks] == [2, 2, 2]
    row, _ = failure(log(1.01), x, order=2)
    assert (row.order, row.wrong) == (2, 2)


def test_where_nothing_can_be_compared_the_report_says_so():
    """x**1.5 at 0: no left side, and the slope to the right converges slowly."""
    slope = lambda x: 1.5 * np.sqrt(x)  # noqa: E731
    report = minidl.gradcheck(made(lambda x: x**1.5, slope), np.array([0.0, 1.0]))
    check = report.checks[0]
    assert (check.checked, check.kinks, check.edges) == (1, ((0,),), ((0,),))
    assert "not checkable, infinite or undefined next to (0,)" in str(report)
    row, _ = failure(made(lambda x: x**1.5, lambda x: slope(x) + 123), np.array([0.0]))
    assert row.numeric < 1e-3  # the right side contradicts
    root = minidl.gradcheck(lambda x: x.sqrt(), np.array([0.0]))
    assert (root.checks[0].checked, root.checks[0].edges) == (0, ((0,),))
    cube = made(np.cbrt, lambda x: 1 / (3 * np.cbrt(x) ** 2))  # an infinite slope, rightly
    assert minidl.gradcheck(cube, np.array([0.0])).checks[0].edges == ((0,),)


def test_a_minimum_alone_passes():
    """The slopes on its two sides are opposite, and no other element has a slope."""
    assert minidl.gradcheck(lambda x: x * x, np.array([0.0])).checks[0].checked == 1
    failure(squares(lambda x, g: g * (2 * x + 1)), np.array([0.0]))


# What is wrong, in a table


def test_the_message_is_a_table_with_the_worst_element():
    def slope(x, g):
        off = np.zeros(x.shape)
        off[1, 2] = 0.5
        return g * (x * 2 + off)

    row, message = failure(
        lambda first, second: squares(slope)(second) + first, [numbers(2, 3)] * 2
    )
    assert (row.name, row.order, row.wrong, row.checked, row.worst) == ("second", 1, 1, 6, (1, 2))
    assert abs(row.analytic - row.numeric) == pytest.approx(
        0.5 * abs(row.numeric / numbers(2, 3)[1, 2] / 2)
    )
    lines = message.splitlines()
    assert lines[0] == "gradcheck: wrong gradient of second"
    assert lines[1].split() == [
        "order",
        "input",
        "off",
        "worst",
        "at",
        "analytic",
        "numeric",
        "error",
    ]
    assert lines[2].split()[:5] == ["1", "first", "0", "of", "6"]
    assert lines[3].split()[:7] == ["1", "second", "1", "of", "6", "(1,", "2)"]
    assert f"{row.analytic:.6g}" in lines[3]
    assert f"{row.numeric:.6g}" in lines[3]
    assert f"{row.error:.1e}" in lines[3]


@pytest.mark.parametrize(
    ("slope", "diagnosis"),
    [
        (lambda x, g: 4 * x * g, "exactly 2x: added twice?"),
        (lambda x, g: x * g, "exactly half: used twice, added once?"),
        (lambda x, g: -2 * x * g, "exactly -1x: sign?"),
        (lambda x, g: -4 * x * g, "sign, and exactly 2x: added twice?"),
        (lambda x, g: 2 * x * g * 48, "exactly 48x: 1/N missing, N = 48, the size of an output?"),
        (lambda x, g: 2 * x * g / 3, "exactly 1/3x: divided twice by N = 3, the length of axis 0"),
        (lambda x, g: 2.5 * x * g, "exactly 1.25x everywhere: a constant factor?"),
        (lambda x, g: g * 0, "all zero: detached?"),
        (lambda x, g: g * np.nan, "not finite"),
        (lambda x, g: (2 * x * g)[::-1], "flipped along axes (0,)?"),
        (lambda x, g: (2 * x * g)[:, ::-1, ::-1], "flipped along axes (1, 2)?"),
        (lambda x, g: (2 * x * g)[:, :, [3, 0, 1, 2]], "shifted by 1 along axis 2?"),
        (
            lambda x, g: (2 * x * g).swapped(),
            "transposed? right with its axes in the order (0, 2, 1)",
        ),
        (lambda x, g: 2 * x * g + 0.3, "off by a constant along axis 2: the gradient of a mean"),
        (lambda x, g: 2 * x * g * (1 + 1e-5), "nearly right: float32 inside"),
        (
            lambda x, g: minidl.pad((2 * x * g)[:, 1:-1, 1:-1], [(0, 0), (1, 1), (1, 1)]),
            "right inside the border: gradient of the padded border lost?",
        ),
        (
            lambda x, g: 2 * x * g * (np.arange(4) != 1),
            "zero where it is wrong: part of the gradient lost?",
        ),
        (lambda x, g: 2 * x * g * (1 + (np.arange(4) == 1)), "exactly 2x where it is wrong"),
    ],
)
def test_the_numbers_tell_the_mistake(slope, diagnosis):
    row, message = failure(squares(slope), numbers(3, 4, 4))
    assert diagnosis in row.diagnosis
    assert row.diagnosis in message


def test_nothing_is_said_where_the_numbers_tell_nothing():
    row, _ = failure(squares(lambda x, g: g * numbers(3, 4, 4, seed=5)), numbers(3, 4, 4))
    assert row.diagnosis == ""


def test_a_gradient_cut_off_from_the_graph_is_wrong_at_order_2_alone():
    cut = squares(lambda x, g: g * x.detach() * 2)
    minidl.gradcheck(cut, numbers(3))
    row, message = failure(cut, numbers(3), order=2)
    assert (row.order, row.name, row.diagnosis) == (2, "x", "all zero: detached?")
    assert "wrong gradient of x" in message


def test_a_fast_check_looks_at_single_elements_to_say_what_is_wrong():
    def slope(x, g):
        off = np.zeros(x.shape)
        off[3, 7] = 10
        return g * (x * 2 + off)

    row, _ = failure(squares(slope), numbers(20, 10), fast=True)
    assert (row.checked, row.wrong, row.worst) == (200, 1, (3, 7))


def test_a_fast_check_fails_also_where_no_element_of_its_sample_is_wrong():
    def slope(x, g):
        off = np.zeros(x.shape)
        off[-1] = 10
        return g * (x * 2 + off)

    row, message = failure(squares(slope), numbers(20_000), fast=True)
    assert row.wrong == row.checked == 3
    assert row.worst is None
    assert "a direction" in message


def test_weights_of_one_would_have_hidden_it():
    """The sum over softmax is 1 whatever the input: its gradient is 0, as that of a wrong rule."""

    def wrong_softmax(x):
        y = F.softmax(x).data

        def backward(g):
            return (g * 0 * y,)

        return record("wrong_softmax", y.copy(), (x,), backward)

    minidl.gradcheck(lambda x: wrong_softmax(x).sum(), numbers(3, 4))
    row, _ = failure(wrong_softmax, numbers(3, 4))
    assert row.diagnosis == "all zero: detached?"


@pytest.mark.parametrize("seed", range(5))
def test_another_seed_draws_other_weights(seed):
    report = minidl.gradcheck(lambda x: x * 2, numbers(3), seed=seed)
    values = {
        minidl.gradcheck(lambda x: x * 2, numbers(3), seed=s).checks[0].analytic for s in range(5)
    }
    assert len(values) == 5
    assert report.checks[0].analytic in values


# What must not hide a mistake


def double(x):
    """Return x; its gradient is twice what it should be."""
    return record("double", x.data * 1.0, (x,), lambda g: (g * 2,))


MASK = np.array([0, -1e9, 0, 0])


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (lambda x, mask: F.softmax(double(x) + mask), [np.arange(4.0), MASK]),
        (
            lambda x, mask: F.softmax(double(x) + mask),
            [np.arange(4.0), np.where(MASK < 0, -np.inf, 0.0)],
        ),
        (lambda x, other: double(x) + 0 * other, [np.ones(3), np.full(3, 1e10)]),
        (lambda x: double(x) * 1e-12, [np.ones(3)]),
        (lambda x: double(x) + 1e6, [np.ones(3)]),
        (lambda x: (x * x, (x, {"state": double(x)})), [np.ones(3)]),
        (lambda x, others: x + double(others[1]["a"]), [np.ones(3), [0, {"a": np.ones(3)}]]),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_gradient_of_twice_the_size_is_found_beside_anything(fn, inputs, fast):
    row, _ = failure(fn, inputs, fast=fast)
    assert row.wrong


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("offset", "error"), [(0, 1e-6), (1, 1e-6), (1e4, 1e-5), (1e6, 1e-3)])
def test_small_errors_are_found_in_functions_of_any_size(factor, offset, error):
    def slope(x, g):
        return g * (x * 2 * (1 + error))

    row, _ = failure(lambda x: (squares(slope)(x) + offset) * factor, numbers(3, 4))
    assert row.wrong > 6


def test_nested_inputs_are_named_by_their_place():
    report = minidl.gradcheck(
        lambda xs, state: minidl.concatenate(xs) * state["scale"],
        [[np.ones(2), np.ones(3)], {"scale": np.ones(5), "name": "any"}],
    )
    assert [c.name for c in report.checks] == ["xs[0]", "xs[1]", "state['scale']"]


def test_weights_tied_across_modules_stay_tied():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    report = minidl.gradcheck(lambda a, b, x: b(a(x)), [first, second, numbers(2, 3)])
    assert [c.name for c in report.checks] == ["a.weight", "a.bias", "b.bias", "x"]


def test_the_error_can_be_pickled():
    with pytest.raises(GradcheckError) as caught:
        minidl.gradcheck(double, np.ones(2))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.report == caught.value.report


# What it refuses


@pytest.mark.parametrize(
    ("fn", "inputs", "options", "error", "message"),
    [
        (
            F.relu,
            [np.arange(3)],
            {},
            TypeError,
            "got nothing to check, expected tensors or arrays of floats",
        ),
        (F.relu, [], {}, TypeError, "got nothing to check, expected tensors or arrays of floats"),
        (
            lambda x: 3.0,
            [np.ones(2)],
            {},
            TypeError,
            "the function returned float, expected a tensor",
        ),
        (
            lambda x: (),
            [np.ones(2)],
            {},
            TypeError,
            "the function returned nothing, expected a tens",
        ),
        (
            lambda x: x.to(dtype=int),
            [np.ones(2)],
            {},
            TypeError,
            "returned Tensor of int64, expected",
        ),
        (
            lambda x: x.to(dtype="float32"),
            [np.ones(2)],
            {},
            TypeError,
            "returned float32 for float64",
        ),
        (
            lambda x: x.log(),
            [np.zeros(2)],
            {},
            ValueError,
            "returns NaN or infinity at these inputs",
        ),
        (3, [np.ones(2)], {}, TypeError, "got a int, expected a function or a module"),
        (F.relu, [np.ones(2)], {"rtol": -1.0}, ValueError, "got rtol=-1.0, expected a number >= 0"),
        (F.relu, [np.ones(2)], {"order": True}, ValueError, "got order=True, expected 1 or 2"),
        (F.relu, [np.ones(2)], {"order": 3}, ValueError, "got order=3, expected 1 or 2"),
    ],
)
def test_what_cannot_be_checked_is_refused(fn, inputs, options, error, message):
    with pytest.raises(error, match=f"gradcheck: .*{message}"):
        minidl.gradcheck(fn, inputs, **options)


def test_a_function_with_random_numbers_of_its_own_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two calls with the same inputs differ"):
        minidl.gradcheck(lambda x: F.dropout(x, rng=rng), numbers(20))


def test_the_state_is_restored_when_the_function_fails():
    minidl.manual_seed(1)
    wanted = minidl.rand(2).numpy()
    minidl.manual_seed(1)

    def failing(x):
        minidl.rand(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        minidl.gradcheck(failing, numbers(2))
    assert np.array_equal(minidl.rand(2).numpy(), wanted)
    assert math.isfinite(wanted[0])
