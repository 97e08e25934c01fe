"""What `help(minidl)` says to those who come from PyTorch, line by line."""

import operator
import re

import numpy as np
import pytest

import minidl
from minidl import Tensor, idioms, nn, optim
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


@pytest.mark.parametrize("kind", [nn.Linear(1, 1), Tensor([1.0])], ids=["module", "tensor"])
def test_an_attribute_that_no_one_knows_is_named_as_python_does(kind):
    with pytest.raises(
        AttributeError, match=rf"'{type(kind).__name__}' object has no attribute 'wat'$"
    ):
        kind.wat()
    assert not hasattr(kind, "wat")


def test_a_property_of_a_users_module_raises_its_own_error():
    class Net(nn.Module):
        @property
        def cuda(self):
            return self.layer.missing

        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'missing'"):
        Net().cuda  # noqa: B018


WRITTEN = {
    "x.view(2)": r"x\.reshape\(\.\.\.\)",
    "x.cuda()": r'x\.to\("cuda"\)',
    "x.cpu()": "x.numpy",
    "x.permute(1, 0)": r"x\.transpose",
    "x.numel()": r"x\.size",
    "x.relu()": r"F\.relu\(x\)",
    "x.grad_zero.zero_()": "no attribute 'grad_zero'",
    "x.zero_()": r"x\.grad = None",
    "x.add_(1)": "mutable",
    "x.clamp(0, 1)": r"x\.clip",
    "model.cuda()": r'model\.to\("cuda"\)',
    "model.double()": r'model\.to\(dtype="float64"\)',
    "model.register_buffer('a', x)": r"nn\.Buffer",
    "F.relu_(x)": r"F\.relu\(x\)",
    "nn.BCELoss()": r"nn\.BCEWithLogitsLoss",
    "nn.functional.relu(x)": "from minidl import functional as F",
    "optim.lr_scheduler.StepLR": r"optim\.StepLR",
    "minidl.data.TensorDataset(x)": r"data\.DataLoader\(images, labels",
    "minidl.cat([x, x])": r"minidl\.concatenate",
    "minidl.from_numpy(x)": r"minidl\.Tensor",
    "minidl.save(model, 'x')": r"save_weights",
}


@pytest.mark.parametrize(("written", "here"), WRITTEN.items(), ids=WRITTEN)
def test_the_error_for_pytorchs_name_says_what_to_write_here(written, here):
    known = {"x": Tensor([1.0, 2.0]), "model": nn.Sequential(nn.Linear(2, 2)), "minidl": minidl}
    with pytest.raises(AttributeError, match=here):
        eval(written, known | {"F": F, "nn": nn, "optim": optim})


def test_what_the_table_says_to_write_exists():
    table = dict(
        line.split(maxsplit=1) for line in idioms.__doc__.splitlines() if line[:4] == " " * 4
    )
    assert len(table) > 100
    for name in {n for hint in table.values() for n in re.findall(r"minidl(?:\.\w+)+", hint)}:
        assert eval(name, {"minidl": minidl}) is not None
    for name in {n for hint in table.values() for n in re.findall(r"\b(?:nn|optim|F)\.\w+", hint)}:
        assert eval(name, {"nn": nn, "optim": optim, "F": F}) is not None
    for name in table:  # what exists needs no error
        assert not hasattr(Tensor, name[1:]) or name[0] != "."


def test_numpys_functions_are_refused_in_words_and_its_operators_are_not():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    for call in (np.exp, np.sqrt, lambda x: np.add(x, 1), lambda x: np.add.reduce(x)):
        with pytest.raises(
            TypeError, match=r"np\.\w+: got a Tensor, expected arrays; write an opera"
        ):
            call(x)
    array = np.array([[2.0, 1.0], [1.0, 2.0]], np.float32)
    with pytest.raises(TypeError, match=r"np\.add: got a Tensor"):
        array += x
    for result, wanted in (
        (array + x, array + x.numpy()),
        (array - x, array - x.numpy()),
        (array * x, array * x.numpy()),
        (array / x, array / x.numpy()),
        (array**x, array ** x.numpy()),
        (array @ x, array @ x.numpy()),
        (np.float64(2) - x, 2 - x.numpy()),
    ):
        assert result.requires_grad
        np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-6)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        found = getattr(operator, name)(array, x)
        assert np.array_equal(found, getattr(operator, name)(array, x.numpy()))


def test_data_minus_a_tensor_updates_and_is_noticed():
    w = Tensor([1.0, 2.0], requires_grad=True)
    pending = (w * w).sum()
    (w * w).sum().backward()
    before = w.data
    w.data -= 0.1 * w.grad
    np.testing.assert_allclose(w.numpy(), [0.8, 1.6])
    assert w.data is before
    with pytest.raises(RuntimeError, match="changed"):
        pending.backward()
    w.grad.data *= Tensor([0.5, 0.5])
    np.testing.assert_allclose(w.grad.numpy(), [1, 2])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_set_to_none_or_zero(set_to_none):
    model = nn.Linear(2, 1)
    for owner in (model, optim.SGD(model.parameters(), 0.1)):
        model(Tensor([[np.inf, 1.0]])).sum().backward()
        owner.zero_grad(set_to_none=set_to_none)
        if set_to_none:
            assert model.weight.grad is None
        else:
            assert model.weight.grad.numpy().tolist() == [[0, 0]]


def test_a_relu_may_be_said_to_work_in_place():
    x = Tensor([-1.0, 1.0])
    assert nn.ReLU(inplace=True)(x).numpy().tolist() == [0, 1]
    assert repr(nn.ReLU(True)) == "ReLU()"


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
