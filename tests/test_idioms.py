"""PyTorch's and NumPy's idioms: they work, or the error says what to write here."""

import operator
import re

import numpy as np
import pytest

import minidl
from minidl import Tensor, idioms, nn, optim
from minidl import functional as F


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
    adding = (lambda x: np.add(x, 1), lambda x: np.add.reduce(x), lambda x: np.stack([x, x]))
    for call in (np.exp, np.sqrt, *adding, np.sum, np.mean, np.max, np.linalg.norm):
        with pytest.raises(
            TypeError, match=r"np\.\w+: got a Tensor, expected arrays; write an opera"
        ):
            call(x)
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((2, 2), 2, 4)
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
    assert np.shares_memory(w.data, before)
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
