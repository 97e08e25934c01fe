"""Checks of the exercises for chapter 11."""

import numpy as np

from minidl import nn, optim


class Net(nn.Module):
    """Three layers; the name of the first starts with the name of the last."""

    def __init__(self, classes=2):
        self.fc_in = nn.Linear(3, 4)
        self.layer_norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, classes)


BODY = ["fc_in.weight", "fc_in.bias", "layer_norm.weight", "layer_norm.bias"]
HEAD = ["fc.weight", "fc.bias"]


def learning(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_freeze_all_but_trains_only_the_head(exercise):
    model = Net()
    exercise.call("freeze_all_but", model, "fc")
    hints = {
        "that is the wrong way round: the head learns, the rest is frozen": BODY,
        "`fc_in` starts with `fc` as well: look for the name with a dot, `fc.`": BODY[:2] + HEAD,
        "nothing is frozen: call parameter.requires_grad_(False)": BODY + HEAD,
        "the head's bias belongs to the head": HEAD[:1],
    }
    said = 'what learns in fc_in, layer_norm and fc after freeze_all_but(model, "fc")'
    exercise.compare(said, learning(model), HEAD, hints)
    exercise.call("freeze_all_but", model.requires_grad_(False), "fc")
    hints = {"the head was frozen before: call requires_grad_(True) on it": []}
    exercise.compare(f"{said}, if all was frozen before", learning(model), HEAD, hints)


def test_freeze_all_but_counts_values_that_learn(exercise):
    hints = {
        "that is the number of tensors: count their values, parameter.size": 2,
        "the bias learns too": 8,
        "that is the number of frozen values": 24,
        "that is the number of all values in the network": 34,
    }
    exercise.expect("freeze_all_but", Net(), "fc", expected=10, hints=hints)


PREFIX = "every name starts with `module.`: remove that first, name.removeprefix"


def given(prefix=""):
    state = Net(classes=5).state_dict() | {"old.weight": np.zeros(3)}
    del state["layer_norm.bias"]
    return {prefix + name: array for name, array in state.items()}


def test_load_matching_loads_what_fits(exercise):
    model, state = Net(), given()
    usual = (
        "load only names that the model has, with the same shape: first drop the rest, then call "
        "model.load_state_dict(..., strict=False)"
    )
    exercise.call("load_matching", model, state, usual=usual)
    got = model.state_dict()
    loaded = [name for name in state if name in got and np.array_equal(got[name], state[name])]
    fit = [name for name in state if name.startswith(("fc_in", "layer_norm"))]
    exercise.compare("what load_matching loaded", loaded, fit, usual=usual)


def test_load_matching_returns_the_names_not_loaded(exercise):
    hints = {
        "a head of another shape is not loaded either": ["layer_norm.bias"],
        "layer_norm.bias is missing in the state: it is not loaded either": [
            "fc.weight",
            "fc.bias",
        ],
        "return only the model's own names: old.weight is not one of them": [
            "layer_norm.bias",
            "fc.weight",
            "fc.bias",
            "old.weight",
        ],
        "in the order of model.state_dict()": ["fc.bias", "fc.weight", "layer_norm.bias"],
    }
    got = exercise.call("load_matching", Net(), given())
    expected = ["layer_norm.bias", "fc.weight", "fc.bias"]
    exercise.compare("load_matching(model, state)", got, expected, hints)


def test_load_matching_removes_the_prefix(exercise):
    hints = {
        PREFIX: list(Net().state_dict()),
        "lstrip removes any of the letters in `module.`, not the word: use removeprefix": [
            "layer_norm.weight",
            "layer_norm.bias",
        ],
    }
    got = exercise.call("load_matching", Net(classes=5), given("module."), usual=PREFIX)
    said = "load_matching(model, state), if all names in state start with `module.`"
    exercise.compare(said, got, ["layer_norm.bias"], hints)


def rates(groups, model):
    of = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: of.get(id(parameter)) for name, parameter in model.named_parameters()}


def test_two_rates_gives_the_head_the_larger_rate(exercise):
    model = Net()
    got = exercise.call("two_rates", model, "fc", 0.1)
    with exercise.in_words("the groups of two_rates"):
        found = list(rates(got, model).values())
    hints = {
        "the rates are swapped: the new head learns faster": [0.1] * 4 + [0.01] * 2,
        "`fc_in` starts with `fc` as well: look for the name with a dot, `fc.`": (
            [0.1] * 2 + [0.01] * 2 + [0.1] * 2
        ),
    }
    said = "the rates from two_rates for fc_in, layer_norm and fc, each weight and bias"
    exercise.compare(said, found, [0.01] * 4 + [0.1] * 2, hints)


def test_two_rates_works_with_an_optimiser(exercise):
    groups = exercise.call("two_rates", Net(), "fc", 0.1)
    usual = "put each parameter in one group, as a list, which can be read more than once"
    with exercise.in_words("optim.SGD(two_rates(model, 'fc', 0.1), lr=1.0)", usual):
        optimizer = optim.SGD(groups, lr=1.0)
        counts = [len(group["params"]) for group in optimizer.param_groups]
    exercise.compare(
        "how many parameters are in the rest and in the head",
        counts,
        [4, 2],
        {
            "first the rest, then the head": [2, 4],
        },
        usual,
    )
