"""Checks of the exercises for chapter 2."""

import math

import numpy as np

from minidl import Tensor, nn, optim
from minidl.functional import mse_loss


def test_line_gradient_by_hand(exercise):
    x, y, w = np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones(2), np.array([1.0, 0.0])
    hints = {
        "that is the gradient of the sum: the loss is the mean, divide by n": ([12.0, 16.0], 4.0),
        "the derivative of a square has a factor 2": ([3.0, 4.0], 1.0),
        "the sign is that of y - (x w + b): the error is x w + b - y": (
            [-6.0, -8.0],
            -2.0,
        ),
        "x @ error sums over features: x.T @ error sums over examples": ([4.0, 8.0], 2.0),
    }
    exercise.expect("line_gradient", x, y, w, 0.0, expected=([6.0, 8.0], 2.0), hints=hints)


def test_line_gradient_matches_autograd(exercise):
    rng = np.random.default_rng(0)
    x, y, w, b = (rng.normal(size=shape) for shape in ((5, 3), (5,), (3,), ()))
    weight, bias = (Tensor(value, requires_grad=True) for value in (w, b))
    mse_loss(Tensor(x) @ weight + bias, Tensor(y)).backward()
    expected = (weight.grad.numpy(), bias.grad.numpy())
    usual = "with 5 examples of 3 features, w has 3 gradients: each sums over the 5 examples"
    exercise.expect("line_gradient", x, y, w, float(b), expected=expected, usual=usual)


def test_cross_entropy_by_hand(exercise):
    scores = np.log([[1.0, 3.0], [1.0, 3.0]])
    expected = (math.log(4 / 3) + math.log(4)) / 2
    hints = {
        "that is the sum over the examples, not the mean": 2 * expected,
        "the sign is wrong: the loss is minus the logarithm, and never negative": -expected,
        "the probabilities of one example, a row, sum to 1: use axis 1": math.log(2),
        "the logarithm is missing: that is minus the probability": -0.5,
        "the mean is over examples, not over classes: no factor 1 / classes": expected / 2,
        "use the natural logarithm, np.log": expected / math.log(2),
    }
    exercise.expect("cross_entropy", scores, np.array([1, 0]), expected=expected, hints=hints)


def test_cross_entropy_does_not_overflow_at_scores_of_1000(exercise):
    usual = (
        "exp(1000) overflows, and the probability exp(-1000) rounds to 0, whose logarithm is "
        "-infinity: subtract each row's largest score from its scores, then use "
        "log(a / b) = log(a) - log(b), where log(exp(s)) is s itself"
    )
    scores = np.array([[1000.0, 0.0], [1000.0, 0.0], [-1000.0, -1000.0]])
    expected = (0 + 1000 + math.log(2)) / 3
    exercise.expect("cross_entropy", scores, np.array([0, 1, 0]), expected=expected, usual=usual)


ORDER = "the order is: optimizer.zero_grad(), loss, backward, optimizer.step()"


def one_weight():
    model = nn.Linear(1, 1, bias=False)
    model.load_state_dict({"weight": np.ones((1, 1), np.float32)})
    return model, mse_loss, optim.SGD(model.parameters(), lr=0.1)


def test_train_step_moves_the_weight(exercise):
    model, loss, optimizer = one_weight()
    exercise.call(
        "train_step", model, loss, optimizer, Tensor([[2.0]]), Tensor([[0.0]]), usual=ORDER
    )
    hints = {
        "it did not move: is optimizer.step() called, after backward()?": 1.0,
    }
    said = "the weight 1 after train_step with input 2, label 0 and SGD(lr=0.1)"
    exercise.compare(said, model.weight.item(), 0.2, hints, usual=ORDER)


def test_train_step_clears_the_previous_gradient(exercise):
    model, loss, optimizer = one_weight()
    for _ in range(2):
        batch = Tensor([[2.0]]), Tensor([[0.0]])
        exercise.call("train_step", model, loss, optimizer, *batch, usual=ORDER)
    hints = {
        "gradients add up until they are cleared: call optimizer.zero_grad() first": -0.76,
        "it did not move: is optimizer.step() called, after backward()?": 1.0,
    }
    said = "the weight 1 after two train_steps with input 2, label 0 and SGD(lr=0.1)"
    exercise.compare(said, model.weight.item(), 0.04, hints, usual=ORDER)


def test_train_step_returns_the_loss_as_a_number(exercise):
    batch = Tensor([[2.0]]), Tensor([[0.0]])
    got = exercise.call("train_step", *one_weight(), *batch, usual=ORDER)
    said = "train_step with weight 1, input 2 and label 0"
    hints = {"that is the loss after the step: compute it once, before the step": 0.16}
    exercise.compare(said, got, 4.0, hints)
    usual = "a tensor would keep the whole graph in memory: return loss.item()"
    exercise.compare("the type of train_step's result", type(got), float, usual=usual)
