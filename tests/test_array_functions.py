"""Functions that make tensors or join several: operands, ties, dtypes, errors."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import minidl
from minidl import Tensor, gradcheck
from minidl.backends import backend_for


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tensors(arrays, device):
    return [Tensor(a, device=device) for a in arrays]


# New tensors


@pytest.mark.parametrize("shape", [(), 3, (2, 3), (0, 2)])
def test_full_zeros_and_ones(shape, device):
    for made, value in [
        (minidl.full(shape, 2.5, device=device), 2.5),
        (minidl.zeros(shape, device=device), 0),
        (minidl.ones(shape, device=device), 1),
    ]:
        assert made.dtype == np.float32
        assert made.device == device
        assert np.array_equal(made.numpy(), np.full(shape, value))


def test_new_tensors_take_a_dtype(device):
    assert minidl.zeros(2, dtype=np.int64, device=device).dtype == np.int64
    assert minidl.full(2, 1.5, np.float64, device).dtype == np.float64
    assert minidl.arange(3, dtype=np.float32, device=device).dtype == np.float32
    assert minidl.randn(2, dtype=np.float64, device=device).dtype == np.float64


@pytest.mark.parametrize("make", [minidl.zeros, minidl.ones, minidl.rand, minidl.randn])
def test_a_shape_is_one_tuple_or_separate_numbers(make, device):
    for shape in [((2, 3),), ([2, 3],), (2, 3)]:
        made = make(*shape, device=device)
        assert (made.shape, made.dtype, made.device) == ((2, 3), np.float32, device)
    assert make(4).shape == (4,)
    assert make(()).shape == ()


@pytest.mark.parametrize("make", [minidl.zeros, minidl.ones, minidl.rand, minidl.randn])
@pytest.mark.parametrize("shape", [(2.0,), (2, "float64"), ((2, 3), np.float32), (-1,)])
def test_a_shape_of_anything_else_is_named(make, shape):
    with pytest.raises(
        TypeError, match=f"{make.__name__}: got shape .*pass dtype and device by name"
    ):
        make(*shape)


@pytest.mark.parametrize("dtype", ["float16", "complex64", "datetime64[s]", object])
def test_dtypes_that_tensors_do_not_have_are_refused(dtype):
    for make in (minidl.zeros, minidl.ones, minidl.rand, minidl.arange):
        with pytest.raises(
            TypeError, match=r"got dtype .*, expected float32 or float64, integers or"
        ):
            make(2, dtype=dtype)
    with pytest.raises(TypeError, match="full: got dtype"):
        minidl.full(2, 1, dtype)


def test_arange_of_floats_is_float32_unless_asked_otherwise():
    quarters = minidl.arange(0, 1, 0.25)
    assert quarters.dtype == np.float32
    assert quarters.numpy().tolist() == [0, 0.25, 0.5, 0.75]
    assert minidl.arange(0, 1, 0.25, dtype="float64").dtype == np.float64
    assert minidl.arange(3).dtype == np.int64


def test_arange_is_numpys(device):
    assert minidl.arange(4, device=device).numpy().tolist() == [0, 1, 2, 3]
    assert minidl.arange(5, 1, -2, device=device).numpy().tolist() == [5, 3]


@pytest.mark.parametrize("draw", [minidl.rand, minidl.randn])
def test_one_seed_means_the_same_numbers_on_every_device(draw, device):
    minidl.manual_seed(7)
    here = draw(3, 4)
    minidl.manual_seed(7)
    there = draw(3, 4, device=device)
    assert there.dtype == np.float32
    assert there.device == device
    assert np.array_equal(here.numpy(), there.numpy())


def test_random_numbers_can_come_from_a_generator_of_ones_own():
    drawn = minidl.randn(2, rng=np.random.default_rng(3)).numpy()
    assert np.array_equal(drawn, np.random.default_rng(3).standard_normal(2).astype(np.float32))


class AlwaysTheLargest(np.random.Generator):
    """Draws the largest float64 below the upper bound."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def uniform(self, low=0.0, high=1.0, size=None):
        return np.full(size, np.nextafter(high, low))

    def random(self, size=None, dtype=np.float64):
        return np.full(size, np.nextafter(dtype(1), dtype(0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_drawn_number_is_never_rounded_up_to_its_upper_bound(dtype, device):
    rng = AlwaysTheLargest()
    found = minidl.rand(2, 3, dtype=dtype, device=device, rng=rng).numpy()
    assert found.dtype == dtype
    assert (found == np.nextafter(dtype(1), dtype(0))).all()
    for low, high in ((-0.1, 0.1), (-3, -2), (0, 1e-30)):
        x = minidl.nn.init.uniform_(minidl.zeros(4, dtype=dtype), low, high, rng)
        assert (x.numpy() < dtype(high)).all()
        assert (x.numpy() >= dtype(low)).all()


def test_numbers_between_equal_bounds_are_the_bounds():
    assert minidl.nn.init.uniform_(minidl.zeros(2), 3, 3).numpy().tolist() == [3.0, 3.0]


def test_random_integers_and_numbers_keep_their_dtypes():
    assert minidl.rand(3, dtype=int).dtype == np.int64
    assert minidl.rand().shape == ()


def test_random_windows_stay_inside_the_image_whatever_is_drawn():
    """With a sample of 1.0, or a random part rounded up to the whole sum, they would not."""
    x, rng = minidl.rand(2, 3, 7, 9), AlwaysTheLargest()
    F = minidl.functional
    wanted = F.fractional_max_pool2d(x, 2, (4, 5), rng=rng).numpy()
    given = np.full((2, 3, 2), np.nextafter(1, 0))
    assert np.array_equal(
        F.fractional_max_pool2d(x, 2, (4, 5), _random_samples=given).numpy(), wanted
    )
    for size in (1.0, 1.5, 1.9999999):
        pixels = np.zeros((1, 1, 2, 2), np.float32)
        pixels[0, 0, 0, 1] = size
        assert F.stochastic_pool2d(Tensor(pixels), 2, rng=rng).item() == np.float32(size)


def test_a_seed_in_place_of_a_generator_is_refused():
    with pytest.raises(TypeError, match=r"got rng=3, expected a numpy.random.Generator, e.g."):
        minidl.rand(2, rng=3)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None])
def test_a_seed_is_a_whole_number_from_0(seed):
    with pytest.raises(ValueError, match=r"manual_seed: got .*, expected an integer >= 0"):
        minidl.manual_seed(seed)


# where, maximum, minimum

NUMPYS = {
    "where": lambda a, b: np.where(np.arange(3) > 0, a, b),
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def choosing(name, device="cpu"):
    if name == "where":
        condition = backend_for(device).from_numpy(np.arange(3) > 0)
        return lambda a, b: minidl.where(condition, a, b)
    return getattr(minidl, name)


@pytest.mark.parametrize("name", NUMPYS)
@pytest.mark.parametrize("number", [0, 0.5, np.float64(0.5)])
def test_either_side_may_be_a_number_and_does_not_widen(name, number, device):
    fn = choosing(name, device)
    array = values(2, 3).astype(np.float32)
    x = Tensor(array, device=device)
    assert fn(x, number).dtype == fn(number, x).dtype == np.float32
    np.testing.assert_array_equal(fn(number, x).numpy(), NUMPYS[name](np.float32(number), array))
    gradcheck(lambda t: fn(number, t), Tensor(values(2, 3), device=device), order=2)


def test_where_takes_a_comparison_of_tensors_without_axes(device):
    x = Tensor(2.0, device=device, requires_grad=True)
    minidl.where(x > 1, x * 3, 0).backward()
    assert x.grad.item() == 3


def test_where_keeps_its_condition_when_the_callers_array_changes():
    condition = np.array([True, False])
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = minidl.where(condition, x, 0).sum()
    condition[:] = False
    y.backward()
    assert x.grad.numpy().tolist() == [1, 0]


def test_where_hides_what_it_does_not_choose():
    x = Tensor([1.0, math.nan], requires_grad=True)
    minidl.where(np.array([True, False]), x, 0).sum().backward()
    assert x.grad.numpy().tolist() == [1, 0]


def test_larger_and_smaller_share_ties_evenly():  # torch.maximum and torch.minimum, PyTorch 2.13
    nan = math.nan
    left, right = [1.0, 2, 3, nan, 1, nan], [1.0, 3, 2, 1, nan, nan]
    for fn, wanted_left, wanted_right in [
        (minidl.maximum, [0.5, 0, 1, 1, 1, 1], [0.5, 1, 0, 1, 1, 1]),
        (minidl.minimum, [0.5, 1, 0, 1, 1, 1], [0.5, 0, 1, 1, 1, 1]),
    ]:
        a, b = Tensor(left, requires_grad=True), Tensor(right, requires_grad=True)
        y = fn(a, b)
        assert np.isnan(y.numpy()[3:]).all()
        y.sum().backward()
        assert a.grad.numpy().tolist() == wanted_left
        assert b.grad.numpy().tolist() == wanted_right


@pytest.mark.parametrize("condition", [1, [True], np.array([1, 0]), None])
def test_where_expects_bools(condition):
    with pytest.raises(TypeError, match=r"where: got a condition .*, expected an array of bools"):
        minidl.where(condition, Tensor([1.0, 2.0]), 0)


@pytest.mark.parametrize("name", NUMPYS)
def test_choosing_expects_a_tensor(name):
    with pytest.raises(TypeError, match=f"{name}: got float and int, expected a tensor"):
        choosing(name)(1.0, 2)


# concatenate, stack, pad


def test_the_same_tensor_may_be_joined_twice():
    x = Tensor([1.0], requires_grad=True)
    (minidl.concatenate([x, x]) * Tensor([1.0, 10.0])).sum().backward()
    assert x.grad.item() == 11


@pytest.mark.parametrize("join", [minidl.concatenate, minidl.stack])
def test_joining_floats_of_two_widths_gives_the_wider_and_integers_widen_none(join):
    single, double = Tensor([1.0], requires_grad=True), Tensor(np.ones(1), requires_grad=True)
    y = join([single, double])
    assert y.dtype == np.float64
    y.sum().backward()
    assert (single.grad.dtype, double.grad.dtype) == (np.float32, np.float64)
    assert join([single, Tensor([1])]).dtype == np.float32


@pytest.mark.parametrize("value", [-np.inf, 2])
def test_pad_takes_infinities_and_integers(value, device):
    array, widths = values(2, 3), [(1, 0), (0, 2)]
    padded = minidl.pad(Tensor(array, device=device), widths, value)
    assert np.array_equal(padded.numpy(), np.pad(array, widths, constant_values=value))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: minidl.concatenate([]), "concatenate: got no tensors"),
        (lambda x: minidl.stack([]), "stack: got no tensors"),
        (lambda x: minidl.concatenate([x, x[0]]), r"got shapes \[\(2, 3\), \(3,\)\] and axis 0"),
        (lambda x: minidl.concatenate([x, x.T]), r"expected equal sizes except at that axis"),
        (lambda x: minidl.concatenate([x], 2), r"concatenate: got shapes \[\(2, 3\)\] and axis 2"),
        (
            lambda x: minidl.stack([x, x.T]),
            r"stack: got shapes \[\(2, 3\), \(3, 2\)\], expected all eq",
        ),
        (lambda x: minidl.pad(x, [(1, 1)]), r"pad: got widths \[\(1, 1\)\] for shape \(2, 3\)"),
        (lambda x: minidl.pad(x, [(1, 1), (-1, 0)]), "pad: got widths .* integers >= 0"),
        (lambda x: minidl.pad(x, 1), r"pad: got widths 1 for shape \(2, 3\), expected a \(before"),
        (lambda x: minidl.pad(x, (1, 1)), r"pad: got widths \(1, 1\) for shape \(2, 3\)"),
    ],
)
def test_what_cannot_be_joined_or_padded_is_named(wrong, message, device):
    with pytest.raises(ValueError, match=message):
        wrong(Tensor(values(2, 3), device=device))


def test_joining_expects_tensors():
    with pytest.raises(TypeError, match="concatenate: got a ndarray, expected tensors"):
        minidl.concatenate([Tensor([1.0]), np.ones(1)])


@pytest.mark.parametrize("join", [minidl.concatenate, minidl.stack])
def test_joining_two_arguments_asks_for_a_list(join):
    x = Tensor([1.0])
    with pytest.raises(
        TypeError, match=f"got a Tensor, expected a list.* {join.__name__}\\(\\[a, b"
    ):
        join(x, x)


def test_joining_takes_any_iterable():
    assert minidl.stack(Tensor([i]) for i in range(2)).numpy().tolist() == [[0], [1]]


# einsum


@hypothesis.given(st.data())
def test_einsum_of_any_letters_is_numpys(data):
    sizes = {"a": 2, "b": 3, "c": 1, "d": 2}
    terms = data.draw(st.lists(st.text("abcd", max_size=3), min_size=1, max_size=3))
    used = sorted(set("".join(terms)))
    output = "".join(data.draw(st.permutations(used)))[: data.draw(st.integers(0, len(used)))]
    subscripts = ",".join(terms) + data.draw(st.sampled_from(["", f"->{output}"]))
    arrays = [values(*(sizes[letter] for letter in term), seed=i) for i, term in enumerate(terms)]
    result = minidl.einsum(subscripts, *map(Tensor, arrays))
    np.testing.assert_allclose(result.numpy(), np.einsum(subscripts, *arrays), atol=1e-12)
    gradcheck(lambda *xs: minidl.einsum(subscripts, *xs), arrays)


def test_einsum_keeps_float32_beside_integers_and_widens_to_float64():
    single = Tensor([1.0, 2.0], requires_grad=True)
    assert minidl.einsum("i,i->", single, Tensor([3, 4])).dtype == np.float32
    y = minidl.einsum("i,i->", single, Tensor(np.ones(2)))
    assert y.dtype == np.float64
    y.backward()
    assert single.grad.dtype == np.float32


def test_einsum_refuses_a_changed_input():
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    y = minidl.einsum("ij,jk->", x, x)
    x.data = np.zeros((2, 2))
    with pytest.raises(RuntimeError, match=r"of '(einsum|sum)'.*was changed in place"):
        y.backward()


@pytest.mark.parametrize(
    ("subscripts", "message"),
    [
        ("ij,jk->ik", "'ij,jk->ik' names 2 operands, got 1"),
        ("ijk->i", r"term 'ijk' does not fit shape \(2, 3\)"),
        ("i->i", r"term 'i' does not fit shape \(2, 3\)"),
        ("ijk...->i", r"term 'ijk...' does not fit shape \(2, 3\)"),
        ("ij->ik", "output of 'ij->ik' has a repeated or unknown letter"),
        ("ij->ii", "output of 'ij->ii' has a repeated or unknown letter"),
        ("ii->i", "letter 'i' of 'ii->i' stands for sizes 2 and 3"),
        ("i1->i", "subscripts 'i1->i' contain '1'; expected letters, commas, '...' and one '->'"),
        ("ij->i->j", "subscripts 'ij->i->j' contain"),
        ("i.j->i", "subscripts 'i.j->i' contain"),
    ],
)
def test_subscripts_that_do_not_fit_are_named(subscripts, message, device):
    with pytest.raises(ValueError, match=f"einsum: {message}"):
        minidl.einsum(subscripts, Tensor(values(2, 3), device=device))


def test_einsum_names_sizes_that_differ(device):
    a, b = tensors([values(2, 3), values(4, 2)], device)
    with pytest.raises(
        ValueError, match="einsum: letter 'j' of 'ij,jk->ik' stands for sizes 3 and 4"
    ):
        minidl.einsum("ij,jk->ik", a, b)


def test_einsum_expects_an_operand():
    with pytest.raises(ValueError, match="einsum: '' names 1 operands, got 0"):
        minidl.einsum("")


def test_pad_and_the_gradient_of_a_slice_keep_images_channels_last():
    """Or each kernel after them reorders the images: a step of ResNet-20 took 203 ms for 180."""
    last = np.zeros((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2)
    x = Tensor.wrap(last)
    x.requires_grad_()
    padded = minidl.pad(x[:, :, ::2, ::2], ((0, 0), (1, 1), (0, 0), (0, 0)))
    assert padded.data.strides[1] == padded.dtype.itemsize
    gradient = Tensor.wrap(padded.data)
    for tensor in (padded, x[:, :, ::2, ::2]):
        node = tensor.node
        gradient = node.gradients(gradient, tensor)[0][1]
    assert gradient.data.strides == last.strides
