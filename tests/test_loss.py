"""Losses: every form of target with every option, extremes, and what costs nothing."""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F
from minidl.functional.loss import noted

from .helpers.formulas import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss
from .test_convolution import numbers

REDUCTIONS = ["mean", "sum", "none"]
CLASSES = 4


def targets(form: str, extra: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(1)
    if form == "indices":
        return rng.integers(0, CLASSES, (5, *extra))
    if form == "indices, some ignored":
        labels = rng.integers(0, CLASSES, (5, *extra))
        labels[1] = -100
        return labels
    powers = rng.random((5, CLASSES, *extra))
    return powers / powers.sum(1, keepdims=True)


FORMS = ["indices", "indices, some ignored", "probabilities"]
WEIGHT = np.array([1.0, 0.5, 2.0, 0.25])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("extra", [(), (2,), (2, 3)], ids=str)
def test_cross_entropy_equals_its_sums(form, extra, device):
    logits, target = numbers(5, CLASSES, *extra), targets(form, extra)
    options = itertools.product([None, WEIGHT], REDUCTIONS, [0.0, 0.1, 1.0])
    for weight, reduction, smoothing in options:
        wanted = cross_entropy(logits, target, weight, -100, reduction, smoothing)
        found = F.cross_entropy(
            Tensor(logits, device=device),
            Tensor(target, device=device),
            None if weight is None else Tensor(weight, device=device),
            reduction=reduction,
            label_smoothing=smoothing,
        )
        what = f"weight {weight}, {reduction}, smoothing {smoothing}"
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, err_msg=what)


def test_cross_entropy_takes_another_ignore_index():
    logits, labels = numbers(3, CLASSES), np.array([0, 3, 2])
    found = F.cross_entropy(Tensor(logits), labels, ignore_index=3).item()
    assert found == pytest.approx(F.cross_entropy(Tensor(logits[::2]), labels[::2]).item())


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_cross_entropy_takes_labels_of_every_integer_type(kind, device):
    labels = np.array([0, 3, 2], kind)
    found = F.cross_entropy(
        Tensor(numbers(3, CLASSES), device=device), Tensor(labels, device=device)
    )
    assert found.item() == pytest.approx(
        cross_entropy(numbers(3, CLASSES), labels, None, -100, "mean", 0)
    )


def test_cross_entropy_takes_a_list_of_labels_on_every_device(device):
    logits = Tensor(np.zeros((2, 10)), device=device)
    assert F.cross_entropy(logits, [3, 9]).item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_extreme_logits_is_exact(dtype, device):
    x = Tensor(np.array([[1000, -1000], [1000, -1000]], dtype), device=device, requires_grad=True)
    losses = F.cross_entropy(x, [0, 1], reduction="none")
    assert losses.numpy().tolist() == [0, 2000]
    losses.sum().backward()
    assert x.grad.numpy().tolist() == [[0, 0], [1, -1]]


def test_cross_entropy_of_a_masked_class_that_is_not_the_label_is_finite(device):
    x = Tensor([[0.0, -math.inf, 0.0]], device=device, requires_grad=True)
    loss = F.cross_entropy(x, [0])
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert x.grad.numpy().tolist() == [[-0.5, 0, 0.5]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_ignored_example_costs_nothing_however_wrong_it_is(smoothing, device):
    x = Tensor([[-math.inf, 0.0], [0.0, 0.0]], device=device, requires_grad=True)
    loss = F.cross_entropy(x[1:], [0], label_smoothing=smoothing)
    both = F.cross_entropy(x, [-100, 0], label_smoothing=smoothing)
    assert both.item() == pytest.approx(loss.item())
    if not smoothing:  # smoothing asks for the gradient of -inf itself, which is NaN
        both.backward()
        assert x.grad.numpy().tolist() == [[0, 0], [-0.5, 0.5]]


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_labels_that_are_all_ignored_cost_nothing(reduction, device):
    x = Tensor(numbers(2, 3), device=device, requires_grad=True)
    loss = F.cross_entropy(x, [-100, -100], reduction=reduction)
    assert not loss.numpy().any()
    loss.sum().backward()
    assert not x.grad.numpy().any()


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss], ids=lambda f: f.__name__)
def test_an_empty_batch_has_a_sum_but_no_mean(loss):
    logits, labels = Tensor(np.zeros((0, 3))), np.zeros(0, np.int64)
    assert loss(logits, labels, reduction="sum").item() == 0
    assert loss(logits, labels, reduction="none").shape == (0,)
    with pytest.raises(ValueError, match=f"^{loss.__name__}: got an empty batch"):
        loss(logits, labels)


ARRAY_LOSSES = {
    "probabilities": lambda x, a: F.cross_entropy(x, a),
    "weights of smoothed labels": lambda x, a: F.cross_entropy(
        x, [0, 1], a[0], label_smoothing=0.5
    ),
    "weights of labels": lambda x, a: F.cross_entropy(x, [0, 1], a[0]),
    "binary targets": lambda x, a: F.binary_cross_entropy_with_logits(x, a),
    "binary weights": lambda x, a: F.binary_cross_entropy_with_logits(x, [[1, 0]] * 2, a, a),
}


@pytest.mark.parametrize("name", ARRAY_LOSSES)
def test_a_change_of_the_caller_s_array_before_backward_does_no_harm(name):
    gradients = []
    for change in (False, True):
        x, array = Tensor(numbers(2, 2), requires_grad=True), np.full((2, 2), 0.5)
        loss = ARRAY_LOSSES[name](x, array)
        array[...] = 100 if change else array
        loss.backward()
        gradients.append(x.grad.numpy())
    assert np.array_equal(*gradients)


def test_nll_loss_of_log_softmax_is_cross_entropy(device):
    x, weight = Tensor(numbers(5, CLASSES), device=device), Tensor(WEIGHT, device=device)
    labels = Tensor(targets("indices, some ignored", ()), device=device)
    for reduction in REDUCTIONS:
        found = F.nll_loss(F.log_softmax(x, 1), labels, weight, reduction=reduction)
        wanted = F.cross_entropy(x, labels, weight, reduction=reduction)
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12)


# Parts of a larger mean


def test_losses_note_what_they_divide_by(device):
    x, y = Tensor(numbers(5, CLASSES), device=device), targets("indices, some ignored", ())
    labels, weight = Tensor(y, device=device), Tensor(WEIGHT, device=device)
    kept = Tensor(np.where(y == -100, y[0], y), device=device)
    with noted() as found:
        losses = [
            F.cross_entropy(x, labels),
            F.nll_loss(x, kept, weight, ignore_index=int(y[0])),
            F.cross_entropy(x, labels, reduction="sum"),
            F.cross_entropy(x, x * x),
            F.mse_loss(x, x),
        ]
        F.mse_loss(x, x, reduction="none")
        with noted() as inner:
            F.l1_loss(x, x)
    F.l1_loss(x, x)
    assert all(a is b.loss for a, b in zip(losses, found, strict=True))
    divisors = [None if r.divisor is None else float(r.divisor) for r in found]
    assert divisors[0] == (y != -100).sum()
    assert divisors[1] == WEIGHT[y[(y != -100) & (y != y[0])]].sum()
    assert divisors[2:] == [None, 5, 5 * CLASSES]
    assert [r.divisor for r in inner] == [5 * CLASSES]
    assert found[0].target is labels
    assert [r.ignored for r in found] == [-100, int(y[0]), -100, -100, -100]


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: F.cross_entropy(x, [-100] * len(x)),
        lambda x: F.cross_entropy(x[:0], np.zeros(0, int)),
        lambda x: F.nll_loss(x, [0] * len(x), np.zeros(CLASSES, np.float32)),
        lambda x: F.mse_loss(x[:0], x[:0]),
    ],
)
def test_a_part_without_anything_that_counts_adds_nothing(loss):
    x = Tensor(numbers(2, CLASSES), np.float32, requires_grad=True)
    with noted() as found:
        value = loss(x)
    value.backward()
    assert (value.item(), float(found[0].divisor)) == (0, 0)
    assert not x.grad.numpy().any()
    with np.errstate(invalid="ignore"), contextlib.suppress(ValueError):  # it is no mean by itself
        assert math.isnan(loss(x).item())


# Regression and binary losses


@pytest.mark.parametrize(
    ("loss", "definition"),
    [
        (F.mse_loss, mse_loss),
        (F.l1_loss, l1_loss),
        (F.binary_cross_entropy_with_logits, binary_cross_entropy_with_logits),
    ],
    ids=["mse_loss", "l1_loss", "binary_cross_entropy_with_logits"],
)
def test_a_target_of_another_dtype_takes_the_input_s(loss, definition, device):
    x, t = numbers(4).astype(np.float32), np.array([0, 1, 1, 0])
    for kind in (np.int64, np.float64, np.uint8):
        found = loss(Tensor(x, device=device), Tensor(t.astype(kind), device=device))
        assert found.dtype == np.float32
        assert found.item() == pytest.approx(definition(x, t), rel=1e-5)


def test_binary_cross_entropy_takes_a_number_as_weight_on_every_device(device):
    x, t = numbers(3).astype(np.float32), np.array([0, 1, 1], np.float32)
    on_device = (Tensor(a, device=device) for a in (x, t))
    found = F.binary_cross_entropy_with_logits(*on_device, pos_weight=2.0)
    assert found.dtype == np.float32
    assert found.item() == pytest.approx(
        binary_cross_entropy_with_logits(x, t, pos_weight=2.0), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_of_extreme_logits_is_exact(dtype, device):
    x = Tensor(np.array([1000, -1000, 1000, -1000], dtype), device=device, requires_grad=True)
    losses = F.binary_cross_entropy_with_logits(x, [1, 0, 0, 1], reduction="none")
    assert losses.numpy().tolist() == [0, 0, 1000, 1000]
    losses.sum().backward()
    assert x.grad.numpy().tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [10, 20, 60])
def test_binary_cross_entropy_of_a_sure_right_answer_keeps_its_digits(size, dtype, device):
    """For both labels: as a difference of large numbers, one of the losses would be 0."""
    x = Tensor(np.array([size, -size], dtype), device=device, requires_grad=True)
    losses = F.binary_cross_entropy_with_logits(x, [1, 0], reduction="none")
    losses.sum().backward()
    small, rel = math.exp(-size), 1e-6 if dtype == np.float32 else 1e-14
    assert losses.numpy() == pytest.approx([math.log1p(small)] * 2, rel=rel, abs=0)
    slope = small / (1 + small)
    assert x.grad.numpy() == pytest.approx([-slope, slope], rel=rel, abs=0)


@pytest.mark.parametrize(
    "target",
    [np.array([0, 255], np.uint8), np.array([0, 2]), [0.5, -0.1], [0.0, math.nan]],
    ids=["a mask of 0 and 255", "a class index", "below 0", "NaN"],
)
def test_binary_cross_entropy_refuses_targets_beyond_0_and_1(target, device):
    x, t = (Tensor(np.asarray(a), device=device) for a in (np.zeros(2, np.float32), target))
    with pytest.raises(ValueError, match="expected 0 <= t <= 1"):
        F.binary_cross_entropy_with_logits(x, t).item()


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.binary_cross_entropy_with_logits])
def test_losses_of_numbers_refuse_integers_whose_differences_wrap_around(loss, device):
    x, t = (Tensor(np.array([a], np.uint8), device=device) for a in (0, 16))
    with pytest.raises(TypeError, match=f"^{loss.__name__}: got dtype uint8, expected float32"):
        loss(x, t)
    assert F.mse_loss(x.to(dtype="float32"), t).item() == 256
    assert F.l1_loss(x.to(dtype="float32"), t).item() == 16


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_a_masked_class_that_has_no_share_is_finite(smoothing, device):
    """A class that cannot occur has the logit -inf, and the probability or weight 0."""
    whole = F.cross_entropy(Tensor([[0.0, 1.0]]), [0]).item()
    x = Tensor([[0.0, 1.0, -math.inf]], device=device, requires_grad=True)
    without = Tensor([1.0, 1.0, 0.0], device=device)
    both, both_weighted = (
        F.cross_entropy(x, target, weight=without, label_smoothing=smoothing)
        for target in (Tensor([[1.0, 0.0, 0.0]], device=device), [0])
    )
    smoothed = (1 - smoothing) * whole + smoothing * (whole + whole - 1) / 3
    assert [both.item(), both_weighted.item()] == pytest.approx([smoothed] * 2)
    (both + both_weighted).backward()
    assert np.isfinite(x.grad.numpy()).all()
    assert F.cross_entropy(x, [2], weight=without, reduction="sum").item() == 0
    soft = Tensor([[0.25, 0.75, 0.0]], device=device)
    assert F.cross_entropy(x, soft).item() == pytest.approx(whole - 0.75)
    assert F.cross_entropy(x, Tensor([[0.5, 0.0, 0.5]], device=device)).item() == math.inf


def test_cross_entropy_refuses_probabilities_of_one_class_whose_loss_is_always_0(device):
    logits, target = (Tensor([[a], [b]], device=device) for a, b in ((3.0, -2.0), (1.0, 0.0)))
    with pytest.raises(ValueError, match="use binary_cross_entropy_with_logits"):
        F.cross_entropy(logits, target)


# Boxes, masks and rare classes


def map_of(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (n, classes, ...) and labels (n, ...), some of them ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    return rng.normal(size=shape), np.where(rng.random(labels.shape) < 0.2, -100, labels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.0, 0.25]], ids=["plain", "weighted"])
@pytest.mark.parametrize("order", ["classes first", "classes last"])
def test_maps_in_one_pass_have_the_loss_of_their_pixels(order, weight, smoothing, dtype):
    """The rows of the same pixels take several passes; the map is large enough for slices."""
    scores, labels = map_of(9, 4, 40, 70)
    if order == "classes last":
        scores = np.ascontiguousarray(scores.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    options = {"weight": weight, "label_smoothing": smoothing}
    near = {"rtol": 0, "atol": 1e-12 if dtype == "float64" else 2e-6}
    for reduction in REDUCTIONS:
        x = Tensor(scores, dtype, requires_grad=True)
        loss = F.cross_entropy(x, labels, reduction=reduction, **options)
        rows = Tensor(scores.transpose(0, 2, 3, 1).reshape(-1, 4), dtype, requires_grad=True)
        of_rows = F.cross_entropy(rows, labels.reshape(-1), reduction=reduction, **options)
        scale = max(1.0, float(np.abs(of_rows.numpy()).max()))
        np.testing.assert_allclose(
            loss.numpy().ravel() / scale, of_rows.numpy().ravel() / scale, **near
        )
        upstream = np.random.default_rng(1).normal(size=loss.shape)
        loss.backward(Tensor(upstream, dtype))
        of_rows.backward(Tensor(upstream.reshape(of_rows.shape), dtype))
        expected = rows.grad.numpy().reshape(9, 40, 70, 4).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(x.grad.numpy(), expected, **near)
        assert (x.grad.numpy()[np.broadcast_to((labels == -100)[:, None], x.shape)] == 0).all()


def test_the_gradient_of_a_map_lies_in_memory_as_the_map_does():
    scores, labels = map_of(2, 3, 5, 4)
    last = Tensor.wrap(np.ascontiguousarray(scores.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    for x in (Tensor(scores), last):
        x.requires_grad_()
        F.cross_entropy(x, labels).backward()
        assert x.grad.array.strides == x.array.strides


def test_a_map_with_a_class_that_cannot_occur_has_a_finite_loss(device):
    masked = np.zeros((1, 3, 2, 2))
    masked[:, 2] = -np.inf
    x = Tensor(masked, device=device, requires_grad=True)
    without = Tensor([1.0, 1.0, 0.0], dtype="float64", device=device)
    labels = [[[0, 1], [2, -100]]]
    for smoothing in (0.0, 0.1):
        loss = F.cross_entropy(x, labels, without, label_smoothing=smoothing)
        assert loss.item() == pytest.approx(
            np.log(2) * (1 if not smoothing else 0.9 + 0.1), rel=0.4
        )
        x.reset_grad()
        loss.backward()
        assert np.isfinite(x.grad.numpy()).all()
    assert F.cross_entropy(x, labels).item() == math.inf


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_focal_loss_without_focus_is_the_cross_entropy(reduction, device):
    scores, labels = map_of(2, 4, 3, 5)
    x, y = Tensor(scores, device=device), Tensor(labels, device=device)
    weight = Tensor(WEIGHT, device=device)
    ours = F.focal_loss(x, y, weight, 0, reduction=reduction)
    theirs = F.cross_entropy(x, y, weight, reduction=reduction)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)
    assert F.focal_loss(x, y, weight, 2).item() < F.cross_entropy(x, y, weight).item()


def test_the_binary_focal_loss_is_the_one_of_two_classes(device):
    """With the scores 0 and x, softmax is sigmoid."""
    x = np.random.default_rng(0).normal(size=9)
    t = np.arange(9) % 2
    both = Tensor(np.stack([0 * x, x], 1), device=device)
    two = F.focal_loss(both, t.tolist(), gamma=1.5, reduction="none")
    one = F.sigmoid_focal_loss(Tensor(x, device=device), t.tolist(), -1, 1.5)
    np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-12)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_focal_losses_of_certain_answers_are_finite_with_finite_gradients(gamma, device):
    x = Tensor([[800.0, -800.0], [0.0, 800.0]], device=device, requires_grad=True)
    for loss in (
        F.focal_loss(x, [0, 0], gamma=gamma),
        F.sigmoid_focal_loss(x, [[1.0, 1.0], [0.0, 1.0]], gamma=gamma, reduction="mean"),
    ):
        x.reset_grad()
        loss.backward()
        assert np.isfinite(loss.item())
        assert np.isfinite(x.grad.numpy()).all()
    assert F.focal_loss(x, [0, 1], gamma=gamma).item() == 0


def test_dice_loss_of_the_right_masks_is_0_and_of_wrong_ones_nearly_1(device):
    labels = np.array([[[0, 0, 1], [1, 1, -100]]])
    scores = np.where(labels[:, None] == np.arange(3)[:, None, None], 50.0, -50.0)
    right = F.dice_loss(Tensor(scores, device=device), labels.tolist(), reduction="none")
    np.testing.assert_allclose(right.numpy(), [[0, 0, 0]], atol=1e-12)  # nor does the third occur
    wrong = F.dice_loss(Tensor(scores[:, [1, 0, 2]], device=device), labels.tolist(), smooth=1e-3)
    assert wrong.item() == pytest.approx(2 / 3, abs=1e-3)  # the third is still right


def test_smooth_l1_and_huber_differ_by_their_factor(device):
    x, t = (Tensor(np.random.default_rng(s).normal(size=(3, 4)), device=device) for s in (0, 1))
    for limit in (0.1, 1, 10):
        smooth, huber = F.smooth_l1_loss(x, t, beta=limit), F.huber_loss(x, t, delta=limit)
        assert huber.item() == pytest.approx(limit * smooth.item(), rel=1e-12)
    assert F.smooth_l1_loss(x, t, beta=0).item() == F.l1_loss(x, t).item()
    halved = F.huber_loss(x, t, delta=100).item()
    assert halved == pytest.approx(F.mse_loss(x, t).item() / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.smooth_l1_loss(x, x, beta=-1), "smooth_l1_loss: got beta=-1, expected"),
        (lambda x: F.smooth_l1_loss(x, x[:, :1]), "smooth_l1_loss: got an input of shape"),
        (lambda x: F.huber_loss(x, x, delta=0), "huber_loss: got delta=0, expected a number > 0"),
        (lambda x: F.huber_loss(x, x, "men"), "huber_loss: got reduction='men', expected"),
        (lambda x: F.sigmoid_focal_loss(x, x * 0, 1.5), "sigmoid_focal_loss: got alpha=1.5"),
        (lambda x: F.sigmoid_focal_loss(x, x * 0, 1, -1), "sigmoid_focal_loss: got gamma=-1"),
        (lambda x: F.sigmoid_focal_loss(x, x + 9), "expected 0 <= t <= 1"),
        (lambda x: F.focal_loss(x, [[0, 0]] * 2, gamma=math.nan), "focal_loss: got gamma=nan"),
        (lambda x: F.focal_loss(x, [[0, 3]] * 2), r"focal_loss: got label 3 at \(0, 1\)"),
        (lambda x: F.focal_loss(x, [[-100] * 2] * 2), "focal_loss: got an empty batch, or only"),
        (lambda x: F.focal_loss(x, [[0, 0]] * 2, [1.0]), r"focal_loss: got weights of shape \(1,"),
        (lambda x: F.focal_loss(x, [[0, 0]] * 2, reduction="no"), "focal_loss: got reduction='no'"),
        (lambda x: F.dice_loss(x, [[0, 0]] * 2, smooth=0), "dice_loss: got smooth=0, expected"),
        (lambda x: F.dice_loss(x, [[0, 5]] * 2), r"dice_loss: got label 5 at \(0, 1\)"),
        (lambda x: F.dice_loss(x[:, :1], [[0, 0]] * 2), "dice_loss: got scores of shape .*2 cla"),
        (lambda x: F.dice_loss(x[:, :, 0], [0, 0]), "dice_loss: got scores of shape .* pixels"),
        (lambda x: F.dice_loss(x[:0], np.zeros((0, 2), int)), "dice_loss: got an empty batch"),
    ],
)
def test_losses_of_boxes_and_masks_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(Tensor(np.zeros((2, 3, 2))))


@pytest.mark.parametrize("loss", [F.focal_loss, F.dice_loss])
def test_losses_of_masks_refuse_probabilities(loss, device):
    x = Tensor(np.zeros((2, 3, 2)), device=device)
    with pytest.raises(TypeError, match=f"{loss.__name__}: got labels of dtype float64"):
        loss(x, Tensor(np.zeros((2, 2)), device=device))


def test_a_batch_of_ignored_pixels_is_noted_as_0(device):
    x = Tensor(np.zeros((1, 2, 2)), device=device, requires_grad=True)
    with noted() as found:
        F.focal_loss(x, [[-100, -100]]).backward()
    assert (found[0].loss.item(), found[0].divisor.item()) == (0, 0)
    assert not x.grad.numpy().any()
