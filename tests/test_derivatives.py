"""Derivatives as values: grad, hvp, Jacobians and Hessians, and what they are used for."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn
from minidl import functional as F
from minidl.tensor import record


def leaf(*values, dtype=np.float64, device="cpu"):
    return Tensor(np.array(values, dtype), device=device, requires_grad=True)


# grad


def test_third_derivative_of_a_cube():
    x = Tensor(2.0, requires_grad=True)
    y = x**3
    for expected in (12, 12, 6):
        (y,) = minidl.grad(y, x, create_graph=True)
        assert y.item() == expected


def test_grad_leaves_every_grad_alone():
    x, w = leaf(1.0), leaf(2.0)
    (found,) = minidl.grad((x * w).sum(), x)
    assert found.item() == 2
    assert x.grad is None
    assert w.grad is None


def test_grad_reaches_results_of_operations():
    x = leaf(3.0)
    y = x * 2
    assert minidl.grad((y * y).sum(), y)[0].item() == 12


def test_grad_takes_several_outputs_with_weights():
    x = leaf(1.0, 2.0)
    weights = [Tensor([1.0, 10.0], np.float64), Tensor(100.0, np.float64)]
    (found,) = minidl.grad([x * 3, x.sum()], [x], weights)
    assert found.numpy().tolist() == [103, 130]


def test_grad_of_an_unused_input_is_refused():
    x, unused = leaf(1.0), leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"grad: input 1, of shape \(2,\), was not used"):
        minidl.grad((x * 2).sum(), [x, unused])


def test_grad_of_an_input_without_gradient_says_so():
    x, fixed = leaf(1.0), Tensor([1.0])
    with pytest.raises(ValueError, match=r"not used.*; it does not require a gradient"):
        minidl.grad((x * fixed).sum(), fixed)


def test_grad_of_what_needs_no_gradient_is_refused_as_by_backward():
    fixed = Tensor(1.0)
    with pytest.raises(RuntimeError, match="not computed from any tensor that requires a gradient"):
        minidl.grad(fixed, fixed)
    x = leaf(1.0)
    with minidl.no_grad():
        loss = (x * x).sum()
    with pytest.raises(RuntimeError, match="requires a gradient, or was computed under"):
        minidl.grad(loss, x)


def test_grad_refuses_weights_that_do_not_fit():
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match="grad: got 2 gradients for 1 outputs"):
        minidl.grad(x * 2, x, [Tensor([1.0]), Tensor([1.0])])
    with pytest.raises(ValueError, match=r"got a gradient of shape \(1,\), expected \(2,\)"):
        minidl.grad(x * 2, x, [Tensor([1.0])])


@pytest.mark.usefixtures("no_collector")
def test_grad_with_create_graph_leaves_no_cycle():
    x = leaf(1.0, 2.0)
    y = (x**3).sum()
    (slope,) = minidl.grad(y, x, create_graph=True)
    (curvature,) = minidl.grad(slope.sum(), x)
    watched = [weakref.ref(t) for t in (x, y, slope, curvature)]
    del x, y, slope, curvature
    assert [ref() for ref in watched] == [None] * 4


def test_grad_gives_zeros_for_what_was_not_used_if_asked_to():
    x, unused = leaf(1.0), leaf([1.0, 2.0], [3.0, 4.0])
    found = minidl.grad((x * 2).sum(), [x, unused], materialize_grads=True)
    assert [g.numpy().tolist() for g in found] == [[2], [[0, 0], [0, 0]]]


def test_what_requires_no_gradient_is_refused_though_zeros_were_asked_for():
    x, fixed = leaf(1.0), Tensor([1.0], np.float64)
    with pytest.raises(ValueError, match=r"input 0, .* does not require a gradient"):
        minidl.grad((x * fixed).sum(), fixed, materialize_grads=True)
    with pytest.raises(RuntimeError, match="not computed from any tensor that requires a gradient"):
        minidl.grad(fixed.sum(), x, materialize_grads=True)
    for derive in (minidl.hessian, minidl.jacobian, lambda y, z: minidl.hvp(y, z, z)):
        with pytest.raises(ValueError, match=r"input 0, .* does not require a gradient"):
            derive((x * fixed**3).sum(), fixed)


def test_grad_goes_only_where_it_leads_to_what_was_asked_for():
    x, w = leaf(2.0), leaf(3.0)
    seen = []
    w.register_hook(lambda gradient: seen.append("w"))

    def watched(t):
        return record("watched", t.data * 1, (t,), lambda g: (seen.append("rule"), (g,))[1])

    y = (watched(w) * x).sum()
    assert minidl.grad(y, x, retain_graph=True)[0].item() == 3
    assert seen == []
    assert minidl.grad(y, w)[0].item() == 2
    assert seen == ["rule", "w"]


def test_grad_refuses_what_is_no_tensor():
    x = leaf(1.0)
    with pytest.raises(TypeError, match="grad: got a function, expected tensors, not the function"):
        minidl.grad(lambda t: t, x)
    with pytest.raises(TypeError, match="grad: got a float, expected tensors"):
        minidl.grad(x.sum(), [1.0])


# Jacobians, Hessians, and products


def test_the_jacobian_of_a_product_is_the_matrix(device):
    a = np.arange(6.0).reshape(2, 3)
    x = leaf(1.0, 2.0, 3.0, device=device)
    found = minidl.jacobian(Tensor(a, device=device) @ x, x)
    assert found.numpy().tolist() == a.tolist()
    assert (found.device, found.dtype) == (device, np.float64)


def test_the_jacobian_has_the_axes_of_the_output_then_the_input():
    x, w = leaf([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]), leaf(2.0)
    in_x, in_w = minidl.jacobian((x * x * w).T, [x, w])
    assert in_x.shape == (2, 3, 3, 2)
    assert in_w.shape == (2, 3, 1)
    for i, j, k, m in np.ndindex(in_x.shape):
        wanted = 2 * x.numpy()[j, i] * 2 if (j, i) == (k, m) else 0
        assert in_x.numpy()[i, j, k, m] == wanted
    assert in_w.numpy()[..., 0].tolist() == (x.numpy() ** 2).T.tolist()


def test_the_jacobian_of_a_number_has_the_inputs_shape_and_of_nothing_none():
    x = leaf(1.0, 2.0)
    assert minidl.jacobian((x * x).sum(), x).numpy().tolist() == [2, 4]
    assert minidl.jacobian(x[:0] * 2, x).shape == (0, 2)


def test_the_jacobian_can_be_differentiated_again():
    x = leaf(1.0, 2.0)
    found = minidl.jacobian(x**3, x, create_graph=True)
    again = minidl.jacobian(found, x)
    assert again.shape == (2, 2, 2)
    assert again.numpy()[0].tolist() == [[6, 0], [0, 0]]
    assert again.numpy()[1].tolist() == [[0, 0], [0, 12]]
    assert not minidl.jacobian(x**3, x).requires_grad


def test_the_hessian_of_a_quadratic_form_is_its_matrix():
    a = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 4.0]])
    x = leaf(1.0, -2.0, 0.5)
    found = minidl.hessian((x @ Tensor(a) @ x) / 2, x)
    np.testing.assert_allclose(found.numpy(), a, atol=1e-15)


def test_the_hessian_by_several_inputs_is_made_of_blocks():
    x, y = leaf(2.0, 3.0), leaf(5.0)
    blocks = minidl.hessian((x * x * y).sum(), [x, y])
    assert blocks[0][0].numpy().tolist() == [[10, 0], [0, 10]]
    assert blocks[0][1].numpy().tolist() == [[4], [6]]
    assert blocks[1][0].numpy().tolist() == [[4, 6]]
    assert blocks[1][1].numpy().tolist() == [[0]]


def test_second_derivatives_of_a_linear_function_are_zero():
    x = leaf(1.0, 2.0)
    assert minidl.hessian((x * 3).sum(), x).numpy().tolist() == [[0, 0], [0, 0]]
    assert minidl.hvp((x * 3).sum(), x, leaf(1.0, 1.0)).numpy().tolist() == [0, 0]


def test_hvp_is_the_hessian_times_the_vector(device):
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(2, 3)), device=device, requires_grad=True)
    w = Tensor(rng.normal(size=(4, 3)), device=device, requires_grad=True)
    loss = F.cross_entropy(F.linear(x, w).tanh(), Tensor([1, 3], device=device))
    vectors = [Tensor(rng.normal(size=t.shape), device=device) for t in (x, w)]
    found = minidl.hvp(loss, [x, w], vectors)
    blocks = minidl.hessian(loss, [x, w])
    for row, product in zip(blocks, found, strict=True):
        wanted = sum(
            np.tensordot(block.numpy(), v.numpy(), axes=2)
            for block, v in zip(row, vectors, strict=True)
        )
        np.testing.assert_allclose(product.numpy(), wanted, atol=1e-14)
    for block, other in ((0, 1), (1, 0)):
        turned = blocks[other][block].numpy().transpose(2, 3, 0, 1)
        np.testing.assert_allclose(blocks[block][other].numpy(), turned, atol=1e-14)


def test_they_keep_the_graph_and_leave_grads_alone():
    x = leaf(1.0, 2.0)
    loss = (x**3).sum()
    for _ in range(2):
        minidl.hessian(loss, x)
        minidl.hvp(loss, x, x)
        minidl.jacobian(loss, x)
    assert x.grad is None
    loss.backward()
    assert x.grad.numpy().tolist() == [3, 12]


def test_they_work_where_recording_is_off():
    x = leaf(1.0, 2.0)
    loss = (x**3).sum()
    with minidl.no_grad():
        assert minidl.hvp(loss, x, leaf(1.0, 1.0)).numpy().tolist() == [6, 12]
        assert minidl.hessian(loss, x).numpy().tolist() == [[6, 0], [0, 12]]


@pytest.mark.usefixtures("no_collector")
def test_they_leave_no_cycle():
    x = leaf(1.0, 2.0)
    loss = (x**3).sum()
    found = [minidl.hvp(loss, x, x), minidl.hessian(loss, x), minidl.jacobian(loss, x)]
    watched = [weakref.ref(t) for t in (loss, x, *found)]
    del loss, x, found
    assert [ref() for ref in watched] == [None] * 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: minidl.hvp(x * 2, x, x), ValueError, r"hvp: got outputs of shapes \[\(2,\)\]"),
        (lambda x: minidl.hvp((x * 3).sum(), x, x[0]), ValueError, r"hvp: got vectors of shapes"),
        (
            lambda x: minidl.hvp((x * x).sum(), x, np.ones(2)),
            TypeError,
            "hvp: got a ndarray, expected",
        ),
        (lambda x: minidl.hessian(x * 2, x), ValueError, r"hessian: got outputs of shapes"),
        (lambda x: minidl.hvp((x * x).sum(), x, x[0]), ValueError, r"hvp: got vectors of shapes"),
        (
            lambda x: minidl.hvp((x * x).sum(), [x], [x, x]),
            ValueError,
            "hvp: got vectors of shapes",
        ),
        (
            lambda x: minidl.hvp(F.relu, x, x),
            TypeError,
            "hvp: got a function, expected tensors, not",
        ),
        (
            lambda x: minidl.hessian(F.relu, x),
            TypeError,
            "hessian: got a function, expected tensors",
        ),
        (
            lambda x: minidl.jacobian(F.relu, x),
            TypeError,
            "jacobian: got a function, expected tens",
        ),
        (lambda x: minidl.jacobian([x, x], x), TypeError, "jacobian: got 2 outputs, expected one"),
    ],
)
def test_wrong_calls_say_what_is_wanted(call, error, message):
    with pytest.raises(error, match=message):
        call(leaf(1.0, 2.0))


# What they are for


def test_newtons_method_finds_the_minimum_of_rosenbrocks_valley():
    point = np.array([-1.2, 1.0])
    for _ in range(8):
        x = Tensor(point, requires_grad=True)
        height = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        (slope,) = minidl.grad(height, x, retain_graph=True)
        point = point - np.linalg.solve(minidl.hessian(height, x).numpy(), slope.numpy())
    np.testing.assert_allclose(point, [1, 1], atol=1e-9)


def test_a_gradient_penalty_is_trained_through_convolution_and_pooling():
    """As in WGAN-GP: the slope of a network by its input is driven to length 1."""
    minidl.manual_seed(0)
    critic = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 1),
    ).to(dtype=np.float64)
    adam = minidl.optim.Adam(critic.parameters(), lr=0.05)
    images = Tensor(np.random.default_rng(0).normal(size=(8, 1, 4, 4)), requires_grad=True)
    for _ in range(60):
        (slopes,) = minidl.grad(critic(images).sum(), images, create_graph=True)
        lengths = (slopes * slopes).sum((1, 2, 3)).sqrt()
        penalty = ((lengths - 1) ** 2).mean()
        adam.zero_grad()
        penalty.backward()
        adam.step()
    np.testing.assert_allclose(lengths.numpy(), 1, atol=0.05)


def test_hessian_vector_products_of_the_cifar10_network_are_those_of_differences():
    """`H v = (g(w + h v) - g(w - h v)) / 2h`, with max pooling and ReLU as they come."""
    minidl.manual_seed(0)
    rng = np.random.default_rng(0)
    model = models.cifar10_cnn().to(dtype=np.float64).eval()
    images, labels = Tensor(rng.normal(size=(2, 3, 32, 32))), rng.integers(0, 10, 2)
    weights = list(model.parameters())
    vectors = [Tensor(rng.normal(size=w.shape) * 0.01) for w in weights]

    def slopes_at(distance):
        for w, v in zip(weights, vectors, strict=True):
            w.data = w.numpy() + distance * v.numpy()
        loss = F.cross_entropy(model(images), labels)
        return [g.numpy() for g in minidl.grad(loss, weights)]

    products = minidl.hvp(F.cross_entropy(model(images), labels), weights, vectors)
    step = 1e-6  # so small that no ReLU switches and no pool changes its winner
    ahead, behind = slopes_at(step), slopes_at(-2 * step)
    for product, after, before in zip(products, ahead, behind, strict=True):
        wanted = (after - before) / (2 * step)
        np.testing.assert_allclose(product.numpy(), wanted, atol=1e-6 * np.abs(wanted).max())
