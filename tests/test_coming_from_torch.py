"""What `help(minidl)` says to those who come from PyTorch, line by line."""

import gc
import io
import operator

import numpy as np
import pytest

import minidl
from minidl import Tensor, data, models, nn, optim
from minidl import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle


def networks():
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    return ours, theirs


def test_weights_travel_by_name_and_a_step_gives_the_same_weights():
    ours, theirs = networks()
    weights = theirs.state_dict()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in weights.items()
    }
    ours.load_state_dict({k: v.numpy() for k, v in weights.items()})
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    labels = np.array([0, 1])
    sgd, their_sgd = optim.SGD(ours.parameters(), lr=0.1), torch.optim.SGD(theirs.parameters(), 0.1)
    loss = F.cross_entropy(ours(Tensor(images)), labels)
    their_loss = torch.nn.functional.cross_entropy(
        theirs(torch.tensor(images)), torch.tensor(labels)
    )
    for optimizer, value in ((sgd, loss), (their_sgd, their_loss)):
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    for name, weight in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], weight.numpy(), atol=1e-6)


def test_axes_have_numpy_s_name_and_max_returns_values_alone():
    x = Tensor([[1.0, 4.0], [3.0, 2.0]])
    assert x.max(axis=1).numpy().tolist() == [4, 3]
    assert torch.tensor(x.numpy()).max(dim=1).values.tolist() == [4, 3]
    with pytest.raises(TypeError, match="dim"):
        x.sum(dim=0)


def test_size_counts_elements():
    assert minidl.zeros((2, 3)).size == 6
    assert torch.zeros(2, 3).size() == (2, 3)


def test_nothing_is_both_method_and_function():
    for name in ("relu", "softmax", "view", "cuda", "argmax"):
        assert hasattr(torch.Tensor, name)
        assert not hasattr(Tensor, name)


def test_data_is_an_array_and_numpy_needs_no_detach():
    x = Tensor([1.0], requires_grad=True)
    assert isinstance(x.data, np.ndarray)
    assert x.numpy().tolist() == [1]
    with pytest.raises(RuntimeError, match="detach"):
        torch.tensor([1.0], requires_grad=True).numpy()


def test_float32_stays_whatever_number_comes_in_and_float64_arrays_stay_too():
    assert (Tensor([1.0]) * np.float64(2)).dtype == np.float32
    assert Tensor(np.zeros(2)).dtype == np.float64


def test_a_leaf_that_requires_a_gradient_is_not_changed_with_an_operator():
    x = Tensor([1.0], requires_grad=True)
    with minidl.no_grad(), pytest.raises(TypeError, match="mutable"):
        x -= 1
    with x.mutable() as array:
        array -= 1
    assert x.numpy().tolist() == [0]


def test_tensors_of_torch_become_ours():
    for dtype in (torch.float32, torch.float64, torch.int64, torch.bool):
        theirs = torch.tensor([0, 1, 2]).to(dtype)
        assert Tensor(theirs).dtype == theirs.numpy().dtype
        assert Tensor(theirs).numpy().tolist() == theirs.tolist()
    for dtype in (torch.bfloat16, torch.float16):
        ours = Tensor(torch.tensor([1.5, -2.0], dtype=dtype))
        assert (ours.dtype, ours.numpy().tolist()) == (np.float32, [1.5, -2])
    weight = torch.nn.Parameter(torch.ones(2))
    ours = Tensor(weight)
    with ours.mutable() as array:
        array[:] = 5
    assert weight.tolist() == [1, 1]
    for call in (nn.Linear(2, 2), nn.BatchNorm1d(2), lambda x: F.mse_loss(x, [0, 0])):
        with pytest.raises(TypeError, match=r"got a PyTorch tensor: wrap it in minidl\.Tensor"):
            call(torch.ones(2, 2))
    with pytest.raises(TypeError, match=r"got a PyTorch tensor: wrap it in minidl\.Tensor"):
        ours * weight


def test_a_module_needs_no_super_init():
    class Net(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 1)

    assert [name for name, _ in Net().named_parameters()] == ["layer.weight", "layer.bias"]


def test_grad_returns_a_list_and_create_graph_is_the_same():
    x = Tensor(3.0, requires_grad=True)
    (slope,) = minidl.grad(x**3, x, create_graph=True)
    assert minidl.grad(slope, x)[0].item() == 18


def test_every_entrance_takes_tensors_of_torch():
    """Whether they require a gradient, are negated lazily, or have floats that NumPy lacks."""
    values = torch.tensor([[1.0, 2.0]])
    hidden = torch.tensor([1j, 2j]).conj().imag[None]  # its memory holds 1 and 2, negated lazily
    for theirs in (
        values.clone().requires_grad_(),
        values.clone().requires_grad_() * 1,
        torch.tensor([[1.0], [2.0]]).T,
        -hidden,
        torch._neg_view(-values),
        values.bfloat16(),
        values.half(),
        values.to(torch.float8_e4m3fn),
        values.double(),
    ):
        layer = nn.Linear(2, 1, bias=False)
        layer.load_state_dict({"weight": theirs})
        assert layer.weight.numpy().tolist() == [[1, 2]]
        layer.weight.data *= 0
        layer.weight.data = theirs
        assert layer.weight.numpy().tolist() == [[1, 2]]
        for ours in (Tensor(theirs), nn.Parameter(theirs)):
            assert ours.numpy().tolist() == [[1, 2]]
            assert ours.dtype == (np.float64 if theirs.dtype == torch.float64 else np.float32)
        assert F.mse_loss(Tensor([[1.0, 2.0]]), theirs).item() == 0
        if theirs.element_size() >= 4:
            (batch,) = next(iter(data.DataLoader(theirs)))
            assert batch.numpy().tolist() == [[1, 2]]
    logits = Tensor(np.eye(3, dtype=np.float32))
    labels = torch.tensor([0, 1, 2])
    assert F.cross_entropy(logits, labels).item() == F.cross_entropy(logits, [0, 1, 2]).item()
    assert nn.Embedding(3, 2)(labels).shape == (3, 2)
    assert models.TextCNN(9, 2)(labels[None]).shape == (1, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(2).to_sparse(), "Sparse layout"),
        (lambda: torch.ones(2, device="meta"), "meta tensor"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "dtype complex64"),
        (lambda: [torch.ones(2, requires_grad=True)], "detach"),
    ],
)
def test_tensors_of_torch_without_real_values_are_refused(make, message):
    with pytest.raises(TypeError, match=f"Tensor: got a (Tensor|list).*{message}"):
        Tensor(make())


def test_operators_refuse_tensors_of_torch_on_either_side():
    ours, theirs = Tensor([1.0, 2.0]), torch.ones(2)
    for name in ("add", "sub", "mul", "truediv", "pow", "matmul", "eq", "lt"):
        for a, b in ((ours, theirs), (theirs, ours)):
            with pytest.raises(TypeError, match="got a PyTorch tensor: wrap it in minidl"):
                getattr(operator, name)(a, b)


def test_memory_is_shared_with_torch_both_ways():
    ours = Tensor([[1.0, 2.0], [3.0, 4.0]]).T
    theirs = torch.from_dlpack(ours)
    assert theirs.data_ptr() == ours.array.ctypes.data
    assert theirs.tolist() == [[1, 3], [2, 4]]
    back = minidl.from_dlpack(theirs)
    assert np.shares_memory(back.array, ours.array)
    # What the docstring of __dlpack__ warns of: PyTorch writes to memory that is read-only.
    theirs[0, 0] = 9
    assert ours.numpy()[0, 0] == back.numpy()[0, 0] == 9
    torch.from_dlpack(ours, copy=True)[0, 0] = 1
    assert ours.numpy()[0, 0] == 9
    for refused in (nn.Parameter([1.0]), torch.ones(1, requires_grad=True)):
        take = minidl.from_dlpack if isinstance(refused, torch.Tensor) else torch.from_dlpack
        with pytest.raises(BufferError, match="detach"):
            take(refused)


def test_memory_lives_as_long_as_one_of_the_two_uses_it():
    theirs = torch.from_dlpack(Tensor(np.arange(1000.0)))
    ours = minidl.from_dlpack(torch.arange(1000.0))
    gc.collect()
    assert theirs.sum().item() == ours.sum().item() == 499500


def test_torch_saves_a_model_of_ours():
    model = nn.Linear(2, 1)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert np.array_equal(again.weight.numpy(), model.weight.numpy())
