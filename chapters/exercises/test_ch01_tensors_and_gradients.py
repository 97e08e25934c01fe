"""Checks of the exercises for chapter 1."""

import math


def cube(x):
    return x**3


def test_slope_of_a_cube_by_hand(exercise):
    hints = {
        "that is the slope to the right only, (f(x + h) - f(x)) / h: use both sides": 49.0,
        "that is the slope to the left only: use both sides": 13.0,
        "the two points are 2 h apart, not h": 62.0,
        "this is not divided by 2 h: `/ 2 * h` multiplies by h; write `/ (2 * h)`": 124.0,
    }
    exercise.expect("slope", cube, 3.0, 2.0, expected=31.0, hints=hints)


def test_slope_of_the_sine_with_the_default_step(exercise):
    usual = "does it use h, and only h, as the step?"
    exercise.expect("slope", math.sin, 1.0, expected=math.cos(1.0), usual=usual)


def test_backward_adds_up_for_a_value_used_twice(exercise):
    steps = [(2, [(0, 2.0), (1, 3.0)]), (3, [(2, 1.0), (0, 1.0)])]
    hints = {
        "value 0 is used twice: add up its gradients (+=)": [2.0, 3.0, 1.0, 1.0],
        "walk from the last step to the first, so gradients arrive in time": [1.0, 0.0, 1.0, 1.0],
        "the last value's derivative with respect to itself is 1: set it first": [0.0] * 4,
    }
    exercise.expect("backward", steps, 4, expected=[3.0, 3.0, 1.0, 1.0], hints=hints)


def test_backward_multiplies_along_a_chain(exercise):
    steps = [(1, [(0, 2.0)]), (2, [(1, 12.0)])]  # u = 2 x, y = u² at x = 3
    hints = {"multiply each slope by the derivative of the step's own result": [2.0, 12.0, 1.0]}
    exercise.expect("backward", steps, 3, expected=[24.0, 12.0, 1.0], hints=hints)


def test_hypotenuse_has_the_gradient_found_by_hand(exercise):
    hints = {
        "multiply by the incoming gradient, that of the loss with respect to c": ([0.6], [0.8]),
        "the two gradients are swapped": ([2.4], [1.8]),
        "divide by c": ([9.0], [12.0]),
        "twice too much: 2 a from the square and 1/2 from the root cancel": ([3.6], [4.8]),
        "half of it: 2 a from the square and 1/2 from the root cancel": ([0.9], [1.2]),
    }
    said, got = exercise.gradients("hypotenuse", [3.0], [4.0], gradient=[3.0])
    exercise.compare(said, got, ([1.8], [2.4]), hints)


def test_hypotenuse_passes_gradcheck(exercise):
    exercise.gradcheck("hypotenuse", [[0.5, -1.0, 2.0], [1.5, 3.0, -0.5]])
