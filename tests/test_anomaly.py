"""Where NaN and infinity are born: the operation, the place, and the line of the user's code."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import minidl
from minidl import Tensor, autograd, nn
from minidl import functional as F
from minidl.tensor import record

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def leaf(*values, device="cpu"):
    return Tensor(np.array(values), device=device, requires_grad=True)


def line_of(text: str) -> int:
    """Return the number of the one line of this file that ends in a comment."""
    lines = inspect.getsource(inspect.getmodule(line_of)).splitlines()
    (found,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return found


def test_a_forward_operation_is_named_with_its_line_and_its_input(device):
    x = leaf(2.0, -1.0, -2.0, device=device)
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError) as caught:
        (x * 1).log().sum()  # born in log
    message = str(caught.value)
    assert "'log' produced 2 NaN among 3 values (shape (3,), the first at (1,))" in message
    assert "there, input 0 is -1" in message
    assert f'File "{__file__}", line {line_of("born in log")}, in test_a_forward' in message
    assert message.endswith("(x * 1).log().sum()  # born in log")


def test_infinities_are_counted_by_sign():
    x = leaf(0.0, 1.0)
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError, match="'log' produced 1 -inf"):
        x.log()
    message = "'div' produced 1 NaN and 1 inf among 2 values"
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError, match=message):
        x / Tensor([0.0, 0.0], np.float64)


def test_a_gradient_is_traced_to_the_line_where_its_operation_ran(device):
    x = leaf(4.0, 0.0, device=device)
    with minidl.detect_anomaly():
        y = x.sqrt()  # sqrt of zero
        loss = (y * 3).sum()
        with pytest.raises(FloatingPointError) as caught:
            loss.backward()
    message = str(caught.value)
    assert message.startswith("the gradient of 'sqrt' for input 0 has 1 inf among 2 values")
    assert "there, input 0 is 0" in message
    assert f"line {line_of('sqrt of zero')}, in" in message


def test_grad_is_watched_as_backward_is():
    x = leaf(0.0)
    with minidl.detect_anomaly():
        y = x.sqrt()
        with pytest.raises(FloatingPointError, match="the gradient of 'sqrt' for input 0"):
            minidl.grad(y.sum(), x, create_graph=True)


def test_without_the_forward_pass_it_says_how_to_learn_the_line():
    y = leaf(0.0).sqrt().sum()
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError, match="run the forward pass"):
        y.backward()


def test_numbers_that_came_with_the_data_are_told_from_those_that_were_made():
    pictures = Tensor([1.0, np.nan])
    with (
        minidl.detect_anomaly(),
        pytest.raises(FloatingPointError, match=r"input 1 of 'mul' has 1 NaN .* with the data or"),
    ):
        leaf(1.0, 2.0).to(dtype=np.float32) * pictures


def test_a_gradient_that_no_rule_made_is_told_apart():
    x = leaf(1.0)
    message = (
        "the gradient of the result of 'mul' has 1 inf .*, though no rule produced it: it was pa"
    )
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError, match=message):
        (x * 2).backward(x.data * np.inf)
    with (
        minidl.detect_anomaly(),
        x.register_hook(lambda gradient: gradient * np.nan),
        pytest.raises(FloatingPointError, match=r"the gradient of a leaf has 1 NaN .*a hook"),
    ):
        (x * 2).backward()
    with minidl.detect_anomaly():
        for size in (1e308, 0.9e308):
            y = (x * size).sum()
            if size == 1e308:
                y.backward()
        with pytest.raises(FloatingPointError, match=r"the gradient of a leaf has 1 inf .*sum"):
            y.backward()


def test_gradients_of_gradients_are_traced_to_the_line_of_the_operation():
    x = leaf(0.0, 1.0)
    with minidl.detect_anomaly():
        y = x**1.5  # a bend at zero
        (slope,) = minidl.grad(y.sum(), x, create_graph=True)
        with pytest.raises(FloatingPointError) as caught:
            minidl.grad(slope.sum(), x)
    assert f"line {line_of('a bend at zero')}, in" in str(caught.value)


def test_an_input_used_twice_is_told_by_its_place():
    def first_times(x, y):
        return record("twice", x.data * y.data, (x, y), lambda g: (g * y, g / 0))

    x = leaf(2.0)
    with (
        minidl.detect_anomaly(),
        pytest.raises(FloatingPointError, match="'twice' for input 1 has"),
    ):
        first_times(x, x).backward()


def test_infinities_may_be_allowed_but_not_nan():
    scores = leaf(1.0, 2.0)
    mask = Tensor([0.0, -np.inf], np.float64)
    with minidl.detect_anomaly(allow_inf=True):
        F.softmax(scores + mask).sum().backward()
        with pytest.raises(FloatingPointError, match="'sub' produced 1 NaN"):
            mask - mask
    assert scores.grad is not None


def test_the_layer_is_named():
    minidl.manual_seed(0)

    class Logarithm(nn.Module):
        def forward(self, x):
            return x.log()

    model = nn.Sequential(nn.Linear(3, 4), Logarithm())
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError) as caught:
        model(minidl.ones(2, 3))
    assert "return x.log()" in str(caught.value)
    assert any("in layer '1', Logarithm()" in note for note in caught.value.__notes__)


def test_inside_minidl_the_users_own_line_is_the_one_named():
    labels = np.array([0])
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError) as caught:
        F.cross_entropy(Tensor([[np.inf, 0.0]]), labels)  # deep inside
    assert f"line {line_of('deep inside')}, in" in str(caught.value)


def test_what_rules_compute_is_not_taken_for_the_users_operations():
    """A NaN that a rule computes and discards is ignored."""

    def halved(x):
        def backward(gradient):
            assert np.isnan((gradient * np.nan).numpy()).all()
            return (gradient / 2,)

        return record("halved", x.data / 2, (x,), backward)

    x = leaf(1.0)
    with minidl.detect_anomaly():
        halved(x).backward()
    assert x.grad.item() == 0.5


def test_integers_and_sound_numbers_pass():
    minidl.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    with minidl.detect_anomaly():
        loss = F.cross_entropy(model(minidl.randn(2, 1, 6, 6)), np.array([1, 7]))
        (minidl.arange(3) + 1).sum()
        loss.backward()
    assert all(np.isfinite(g.numpy()).all() for _, g in model.named_gradients())


def test_watching_ends_with_the_block_however_it_ends():
    with pytest.raises(ZeroDivisionError), minidl.detect_anomaly():
        raise ZeroDivisionError
    assert autograd.watcher() is None
    assert np.isnan((Tensor([-1.0])).log().numpy()).all()


def test_it_may_be_used_inside_a_block_of_itself():
    with minidl.detect_anomaly(allow_inf=True):
        with minidl.detect_anomaly(), pytest.raises(FloatingPointError):
            Tensor([0.0]).log()
        assert re.match("inf|-inf", str(Tensor([0.0]).log().item()))


def test_numbers_without_axes_have_no_place():
    with minidl.detect_anomaly(), pytest.raises(FloatingPointError, match=r"\(shape \(\)\) from"):
        Tensor(-1.0).log()
