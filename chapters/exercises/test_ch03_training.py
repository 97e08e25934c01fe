"""Checks of the exercises for chapter 3."""

import numpy as np

from minidl import Tensor, nn, optim


def test_batches_have_the_requested_size_except_the_last(exercise):
    got = exercise.call("batches", 10, 4, np.random.default_rng(0))
    hints = {
        "the last batch is smaller, but its images count: do not drop it": [4, 4],
        "the last batch has 2, not 4: no index occurs twice": [4, 4, 4],
    }
    sizes = [len(batch) for batch in got]
    exercise.compare("the sizes of batches(10, 4, rng)", sizes, [4, 4, 2], hints)


def test_batches_hold_every_index_once(exercise):
    got = exercise.call("batches", 10, 3, np.random.default_rng(0))
    usual = "draw one order of all indices and split it: drawing every batch again repeats some"
    found = np.sort(np.concatenate([np.asarray(batch) for batch in got]))
    exercise.compare("batches(10, 3, rng), all indices sorted", found, np.arange(10), usual=usual)


def test_batches_are_shuffled_by_the_generator_only(exercise):
    rng = np.random.default_rng(0)
    first, second = (np.concatenate(exercise.call("batches", 50, 8, rng)) for _ in range(2))
    again = np.concatenate(exercise.call("batches", 50, 8, np.random.default_rng(0)))
    usual = "every epoch needs a new order: shuffle with rng.permutation(count)"
    exercise.compare(
        "two epochs have the same order", bool((first == second).all()), False, usual=usual
    )
    usual = "the same seed must give the same batches: draw from `rng` only"
    exercise.compare("the order drawn again with the same seed", again, first, usual=usual)


FIRST = (1.0, 4.0, 0.0, 0.0, 1, 0.1)  # value, gradient, mean, square, step, lr


def test_adam_step_moves_by_lr_at_first(exercise):
    uncorrected = 1 - 0.1 * 0.4 / np.sqrt(0.016), 0.4, 0.016
    hints = {
        "without the bias correction, mean and square are biased towards 0": uncorrected,
        "that went uphill: subtract the step": (1.1, 0.4, 0.016),
        "return mean and square without the correction": (0.9, 4.0, 16.0),
        "square averages the square of the gradient": (1 - 0.1 * 4 / 2, 0.4, 0.004),
        "divide by the square root of s": (1 - 0.1 * 4 / 16, 0.4, 0.016),
    }
    usual = "step starts at 1; use b1**step, not b1 * step"
    exercise.expect("adam_step", *FIRST, expected=(0.9, 0.4, 0.016), hints=hints, usual=usual)


def test_adam_step_adds_eps_outside_the_root(exercise):
    tiny = 1e-8
    expected = (1 - 0.1 / 2, 0.1 * tiny, 0.001 * tiny**2)
    hints = {
        "eps is added outside the root: inside, the root of 1e-8 would be added": (
            1 - 0.1 * tiny / np.sqrt(tiny**2 + 1e-8),
            *expected[1:],
        ),
        "eps is missing: a gradient of 0 would divide 0 by 0": (0.9, *expected[1:]),
    }
    exercise.expect("adam_step", 1.0, tiny, 0.0, 0.0, 1, 0.1, expected=expected, hints=hints)


def test_adam_step_matches_minidl_for_three_steps(exercise):
    weight = nn.Parameter(np.array([1.0, -2.0, 0.5]))
    optimizer = optim.Adam([weight], lr=0.1)
    value, mean, square = weight.numpy(), np.zeros(3), np.zeros(3)
    for step in (1, 2, 3):
        gradient = np.array([0.3, -1.0, 2.0]) * step
        weight.grad = Tensor(gradient)
        optimizer.step()
        got = exercise.call("adam_step", value, gradient, mean, square, step, 0.1)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        corrected = mean / (1 - 0.9**step), square / (1 - 0.999**step)
        hints = {
            "return mean and square without the correction: in the next step they would be "
            "corrected again": corrected,
        }
        said = f"the mean and square after step {step}"
        usual = "do mean and square continue the previous ones?"
        exercise.compare(said, tuple(got[1:]), (mean, square), hints, usual)
        usual = "right at first, then wrong: the correction is 1 - b1**step, which grows with step"
        exercise.compare(f"the values after step {step}", got[0], weight.numpy(), usual=usual)
        value = got[0]


def test_stopping_waits_until_patience_runs_out(exercise):
    hints = {
        "an epoch too early: wait for `patience` epochs without a new lowest loss": (1, 2),
        "an epoch too late: stop after `patience` epochs without a new lowest loss": (1, 4),
        "it should have stopped after epoch 3; later losses are not known by then": (5, 5),
    }
    losses = [1.0, 0.5, 0.6, 0.7, 0.8, 0.4]
    exercise.expect("stopping", losses, 2, expected=(1, 3), hints=hints)


def test_stopping_compares_with_the_best_epoch(exercise):
    hints = {
        "compare each loss with the lowest so far, not with the previous one": (7, 7),
        "each new lowest loss restarts the count": (3, 5),
    }
    losses = [1.0, 0.8, 0.9, 0.7, 0.75, 0.72, 0.71, 0.6]
    exercise.expect("stopping", losses, 3, expected=(3, 6), hints=hints)


def test_stopping_runs_to_the_end_while_the_loss_falls(exercise):
    exercise.expect(
        "stopping", [3.0, 2.0, 1.0], 2, expected=(2, 2), usual="the loss fell until the end"
    )
    usual = "an equal loss is not lower: it does not count as better"
    exercise.expect("stopping", [1.0, 1.0, 1.0, 1.0], 2, expected=(0, 2), usual=usual)
