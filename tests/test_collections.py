"""`nn.Identity`, `nn.ModuleDict`, and walks over a module's children."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn


def heads() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"class": nn.Linear(2, 3), "box": nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1))}
    )


def test_identity_returns_its_argument_whatever_it_was_made_with():
    x = Tensor([1.0], requires_grad=True)
    layer = nn.Identity(3, unused=True)
    assert layer(x) is x
    assert list(layer.parameters()) == []
    assert repr(layer) == "Identity()"
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity(), nn.ReLU())
    assert model(minidl.ones(1, 2)).shape == (1, 2)


def test_a_dict_of_modules_is_a_dict():
    found = heads()
    assert list(found) == found.keys() == ["class", "box"]
    assert len(found) == 2
    assert "box" in found
    assert "training" not in found
    assert 3 not in found
    assert found.values() == [found["class"], found["box"]]
    assert found.items() == list(zip(found.keys(), found.values(), strict=True))
    linear = found["class"]
    assert found.pop("class") is linear
    assert list(found) == ["box"]
    found.update([("class", linear), ("box", nn.Identity())])
    assert [type(m) for m in found.values()] == [nn.Identity, nn.Linear]
    del found["box"]
    assert list(found) == ["class"]
    found.clear()
    assert len(found) == 0
    assert len(nn.ModuleDict()) == 0
    assert nn.ModuleDict(heads()).keys() == ["class", "box"]
    for missing in (lambda: found["box"], lambda: found.pop("box"), lambda: found.__delitem__("x")):
        with pytest.raises(KeyError):
            missing()


def test_its_modules_are_trained_saved_moved_and_copied():
    found = heads()
    names = [name for name, _ in found.named_parameters()]
    assert names == ["class.weight", "class.bias", "box.1.weight", "box.1.bias"]
    other = heads()
    other.load_state_dict(found.state_dict())
    for twin in (other, copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        for name, array in twin.state_dict().items():
            np.testing.assert_array_equal(array, found.state_dict()[name])
    found.eval().to(dtype="float64")
    assert not found["class"].training
    assert found["class"].weight.dtype == np.float64
    assert repr(found).splitlines()[:2] == ["ModuleDict(", "  (class): Linear(2, 3)"]


@pytest.mark.oracle
def test_names_in_the_state_dict_are_pytorchs():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.ModuleDict(
        {
            "class": torch.nn.Linear(2, 3),
            "box": torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(1, 1, 1)),
        }
    )
    ours = heads()
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("key", ["", "a.b", "training", "keys", "forward", "__init__", "_state"])
def test_a_key_that_would_hide_something_is_refused(key):
    with pytest.raises(ValueError, match=f"ModuleDict: got key '{key}', expected a name without"):
        nn.ModuleDict({key: nn.ReLU()})


@pytest.mark.parametrize(("key", "module"), [(1, nn.ReLU()), ("a", nn.ReLU), ("a", Tensor(1.0))])
def test_what_is_no_module_or_name_is_refused(key, module):
    found = heads()
    with pytest.raises(TypeError, match=r"ModuleDict: got .*, expected a string and a Module inst"):
        found[key] = module
    assert found.keys() == ["class", "box"]


def test_a_plain_dict_of_modules_is_refused_with_a_hint():
    class Net(nn.Module):
        def __init__(self) -> None:
            self.heads = {"a": nn.Linear(1, 1)}

    with pytest.raises(
        TypeError, match=r"Net\.heads is a dict .*; use nn\.ModuleList or nn\.ModuleD"
    ):
        list(Net().parameters())


def test_children_are_the_modules_one_level_below():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()), nn.Identity())
    assert list(model.children()) == list(model)
    assert [name for name, _ in model.named_children()] == ["0", "1", "2"]
    assert list(nn.ReLU().children()) == []


@pytest.mark.oracle
def test_apply_visits_modules_in_pytorchs_order():
    torch = pytest.importorskip("torch")

    def visited(nn):
        model = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Identity())
        names: list[str] = []
        assert model.apply(lambda module: names.append(type(module).__name__)) is model
        return names

    assert visited(nn) == visited(torch.nn)


def test_apply_initialises_layers_by_kind():
    def fill(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.ones_(module.weight)

    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1)), nn.Conv2d(1, 1, 1))
    model.apply(fill)
    assert (model[0].weight.numpy() == 1).all()
    assert (model[1][0].weight.numpy() == 1).all()
    assert (model[2].weight.numpy() != 1).all()
