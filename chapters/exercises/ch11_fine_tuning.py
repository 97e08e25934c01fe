"""Exercises for chapter 11: fine-tuning.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch11

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch11_fine_tuning.py, with those to the two questions at the end.
"""


def freeze_all_but(model, head):
    """Freeze a network except for one of its modules; return how many parameter values still learn.

    `head` is that module's name: its parameters are called `head.weight`, `head.bias` and so on.
    Whatever was set before, they require a gradient afterwards, and all other parameters do not.

    By hand: a head that is a linear layer from 4 to 2 has 10 values that learn.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def load_matching(model, state):
    """Load the weights that fit a network; return the names of the weights that were not loaded.

    `state` maps names to NumPy arrays. It comes from another network, so some names are missing,
    some are unknown, and some have another shape: the head of another task. All names may start
    with `module.`, a prefix left by training on several GPUs. Load each array whose name, without
    the prefix, and shape are those of a weight of the model. Return the remaining names of
    `model.state_dict()`, as a list in its order.

    By hand: a model with `body.weight` and `head.weight`, given a `module.body.weight` that fits,
    loads it and returns ["head.weight"].

    Difficulty: 3 of 3.
    """
    raise NotImplementedError


def two_rates(model, head, lr):
    """Return parameter groups for an optimiser: lr for the new head, a tenth of it for the rest.

    Return a list of two dicts, first the rest, then the head, each with "params", a list of
    parameters, and "lr". `head` is a module's name, as in `freeze_all_but`. No parameter is in
    both.

    By hand: with lr 0.1, the rest gets 0.01.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: A `BatchNorm2d` layer was frozen by `requires_grad_(False)`, and the network is
# in training mode. Do the layer's running mean and variance change with each batch?
#
# Change this and explain: Where the chapter trains everything unfrozen, raise the learning rate
# tenfold, from 0.01 to the 0.1 that a new network gets. What becomes of the lead over training from
# scratch, and why?
