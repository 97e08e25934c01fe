import functools
import warnings

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn, optim
from minidl.data import DataLoader
from minidl.functional import cross_entropy
from minidl.training import TrainingWarning, fit, overfit_one_batch


def points(n=200, classes=4, seed=0):
    """Return points of `classes` heaps, and which heap each belongs to."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.standard_normal((n, classes), np.float32) + 3 * np.eye(classes, dtype="f4")[y], y


def train(x, y, model=None, lr=0.1, loss=cross_entropy, **options):
    minidl.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
    batches = DataLoader(x, y, batch_size=8)
    sgd = optim.SGD(model.parameters(), lr=lr)
    return fit(model, loss, sgd, batches, progress=False, **options)


def test_a_sound_run_has_no_warnings():
    x, y = points()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(x, y, epochs=2)


def test_inputs_that_are_not_normalised_are_named_with_their_numbers():
    x, y = points()
    with (
        pytest.warns(TrainingWarning, match=r"first loss is \d+\.\d+, .*: inputs not normalised"),
        pytest.warns(TrainingWarning, match=r"are not normalised: the first batch has mean 12\d"),
    ):
        train(128 + x, y, lr=1e-6)
    with pytest.warns(TrainingWarning, match=r"mean 0 and standard deviation 0, but"):
        train(0 * x[:16], y[:16])


def test_labels_outside_the_range_are_listed():
    x, y = points()
    message = r"of 200 labels are not from 0 to 3, .* has 4 outputs: they are \[4\], .* at 1"
    with (
        pytest.warns(TrainingWarning, match=message),
        pytest.raises(ValueError, match="cross_entropy: got label 4"),
    ):
        train(x, y + 1)


def test_labels_to_be_ignored_are_none_of_those():
    x, y = points()
    y[:5] = -100
    train(x, y)


def test_a_first_loss_far_from_guessing_is_reported():
    x, y = points()
    with pytest.warns(TrainingWarning, match=r"first loss is \d.*ln\(4\) = 1\.386: inputs not"):
        train(x, y, loss=lambda scores, y: cross_entropy(scores, y, reduction="sum"), lr=1e-3)
    with pytest.warns(
        TrainingWarning, match=r"ln\(4\) = 1\.386, yet only \d+% are right: is the loss"
    ):
        train(x, y, loss=lambda scores, y: 0.01 * cross_entropy(scores, y))


def test_a_network_that_is_trained_further_is_not_suspected():
    x, y = points()
    x += 3 * np.eye(4, dtype="f4")[y]  # further apart
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
    first = train(x, y, model, epochs=20).step_losses[0]
    again = train(x, y, model).step_losses[0]
    assert again < 0.1 * np.log(4) < first


def test_a_loss_that_stays_that_of_guessing_is_reported_with_causes():
    x, y = points()
    rng = np.random.default_rng(1)
    with pytest.warns(TrainingWarning, match=r"after an epoch the loss is 1\.\d+, still .*softmax"):
        train(rng.standard_normal(x.shape, np.float32), y, lr=1e-4)


def test_a_parameter_that_never_gets_a_gradient_is_named():
    class Forgetful(nn.Module):
        def __init__(self):
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

        def forward(self, x):
            return self.used(self.frozen(x))

    x, y = points()
    message = r"2 parameter\(s\) never got a gradient, .*: unused.bias, unused.weight; is"
    with pytest.warns(TrainingWarning, match=message):
        train(x, y, Forgetful())


def test_a_layer_that_is_used_in_some_batches_is_trained():
    class Sometimes(nn.Module):
        calls = 0

        def __init__(self):
            self.always, self.sometimes = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            self.calls += 1
            return self.always(x) + (self.sometimes(x) if self.calls == 5 else 0)

    train(*points(), Sometimes())


class Logarithm(nn.Module):
    """Makes -inf, in a batch whose first number is 0."""

    def __init__(self):
        self.out = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.out(self.drop((x * x + 0.1 * (x[0, 0] != 0).item()).log()))


def test_an_optimiser_made_before_a_layer_was_replaced_is_reported():
    x, y = points(classes=4)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 9))
    sgd = optim.SGD(net.parameters(), lr=0.1)
    setattr(net, "2", nn.Linear(16, 4))
    message = r"holds 2 tensor\(s\) .* lacks 2.weight, 2.bias, which are not trained"
    with pytest.warns(TrainingWarning, match=message):
        fit(net, cross_entropy, sgd, DataLoader(x, y, batch_size=8), progress=False)


def test_an_optimiser_of_some_layers_or_of_the_loss_too_is_not_reported():
    x, y = points(classes=4)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
    loss = nn.Sequential(nn.Linear(4, 4))
    loss.forward = lambda outputs, labels: cross_entropy(loss[0](outputs), labels)
    batches = DataLoader(x, y, batch_size=8)
    for parameters in (net[2].parameters(), [*net[2].parameters(), *loss.parameters()]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(net, loss, optim.SGD(parameters, lr=0.1), batches, progress=False)


def test_a_stream_that_a_thread_and_the_network_share_is_reported():
    x, y = points(16)
    stream = np.random.default_rng(0)
    model = nn.Sequential(nn.Dropout(0.1, rng=stream), nn.Linear(4, 4))

    def noisy(batch, rng):
        return batch + rng.random(batch.shape, np.float32)

    def run(rng):
        transform = functools.partial(noisy, rng=rng)
        batches = DataLoader(x, y, transform=transform, prefetch=1, shuffle=True, rng=stream)
        fit(model, cross_entropy, optim.SGD(model.parameters()), batches, progress=False)

    with pytest.warns(TrainingWarning, match=r"prefetch draws from the same stream .* its own rng"):
        run(stream)
    run(np.random.default_rng(1))


def test_nan_is_traced_to_the_operation_that_made_the_first(tmp_path):
    x, y = points()
    x[80] = 0  # the first of batch 11
    message = (
        r"loss is nan in epoch 1, batch 11, .*When repeated, 'log' produced \d+ -inf among 32 va"
    )
    with pytest.raises(FloatingPointError, match=message), np.errstate(all="ignore"):
        train(x, y, Logarithm(), checkpoint=tmp_path, save_seconds=0)
    saved = minidl.training.load_checkpoint(tmp_path / "last.npz")
    assert saved["batch"] == 10
    assert np.isfinite(saved["model"]["out.weight"]).all()


def test_a_gradient_that_is_not_finite_is_found_before_the_step():
    class Root(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter(np.zeros(4, np.float32))

        def forward(self, x):
            return x + self.scale.sqrt()

    x, y = points()
    model = Root()
    message = r"or a gradient is not finite; .*the gradient of 'sqrt' for input 0 has \d -?inf"
    with pytest.raises(FloatingPointError, match=message), np.errstate(all="ignore"):
        train(x, y, model)
    np.testing.assert_array_equal(model.scale.numpy(), 0)


def test_a_step_that_does_not_repeat_is_said_to_do_so():
    calls = []

    def loss(scores, y):
        calls.append(0)
        return cross_entropy(scores, y) * (np.nan if len(calls) == 3 else 1)

    with pytest.raises(FloatingPointError, match=r"batch 3, .*; is it nondeterministic\?"):
        train(*points(), loss=loss)


def test_large_gradients_that_are_finite_are_let_pass():
    x, y = points()
    model = nn.Linear(4, 4)
    model.load_state_dict({"bias": np.zeros(4)}, strict=False)

    def loss(scores, y):  # each gradient is 9e37, their sum infinite in float32
        return cross_entropy(scores, y) + (model.bias * 3e38).sum() * 0.3

    train(x, y, model, loss=loss, lr=1e-45, epochs=1)


def test_one_batch_is_memorised_and_everything_is_restored():
    rng = minidl.manual_seed(0)
    model = models.cifar10_cnn(rng=rng)
    batch = minidl.randn((8, 3, 32, 32)), Tensor(np.arange(8))
    before, stream = model.state_dict(), rng.bit_generator.state
    losses = overfit_one_batch(model, batch, steps=40)
    assert losses[-1] < 0.05 < 2 < losses[0]
    for name, array in model.state_dict().items():
        assert array.tobytes() == before[name].tobytes()
    assert rng.bit_generator.state == stream
    assert all(gradient is None for _, gradient in model.named_gradients())


def test_one_batch_expects_a_step_at_least():
    model, batch = nn.Linear(4, 2), (Tensor(np.ones((2, 4))), Tensor([0, 1]))
    with pytest.raises(ValueError, match="overfit_one_batch: got steps=0, expected an integer"):
        overfit_one_batch(model, batch, steps=0)


def test_a_network_that_cannot_learn_one_batch_is_reported():
    minidl.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmax(1))
    x, y = points(16)
    with pytest.warns(TrainingWarning, match=r"one batch of 16 could not be memorised: the loss"):
        overfit_one_batch(model, (Tensor(x), Tensor(y)))


def test_warnings_point_at_the_line_that_asked_for_the_training():
    x, y = points()
    with pytest.warns(TrainingWarning) as caught:
        train(0 * x, y)
    assert {w.filename for w in caught} == {__file__}
