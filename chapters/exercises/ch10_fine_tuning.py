"""Exercises for chapter 10: fine-tuning.

Fill in the functions; then

    python -m pytest chapters/exercises -k ch10

says what is right and what is not yet. Answers: chapters/solutions/ch10_fine_tuning.py.
"""


def freeze_all_but(model, head):
    """Freeze a network except for one of its modules; return how many numbers still learn.

    `head` is that module's name: what it holds is called `head.weight`, `head.bias` and so on.
    Everything else stops asking for a gradient, and the head asks for one, whatever was before.

    By hand: a head that is a linear layer from 4 to 2 has 10 numbers that learn.
    """
    raise NotImplementedError


def load_matching(model, state):
    """Load the weights that fit a network; return the names of those of its weights that got none.

    `state` maps names to NumPy arrays. It comes from another network, so some names are missing,
    some unknown, and some have another shape: the head of another task. All names may begin with
    `module.`, a prefix that training on several GPUs leaves. Load what has, without the prefix, a
    name and a shape of the model's; return the names in `model.state_dict()` that are left, as a
    list in its order.

    By hand: a model with `body.weight` and `head.weight`, given a `module.body.weight` that fits,
    loads it and returns ["head.weight"].
    """
    raise NotImplementedError


def two_rates(model, head, lr):
    """Return parameter groups for an optimizer: lr for the new head, a tenth of it for the rest.

    A list of two dicts, first the rest, then the head, each with "params", a list of parameters,
    and "lr". `head` is the name of a module, as in `freeze_all_but`. No parameter is in both.

    By hand: with lr 0.1, the rest gets 0.01.
    """
    raise NotImplementedError
