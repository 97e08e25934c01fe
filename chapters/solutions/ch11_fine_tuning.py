"""Answers to the exercises for chapter 11."""


def freeze_all_but(model, head):
    learning = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(f"{head}."))
        learning += parameter.size * parameter.requires_grad
    return learning


def load_matching(model, state):
    own = model.state_dict()
    given = {name.removeprefix("module."): array for name, array in state.items()}
    fitting = {n: array for n, array in given.items() if n in own and array.shape == own[n].shape}
    model.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]


def two_rates(model, head, lr):
    groups = [{"params": [], "lr": lr / 10}, {"params": [], "lr": lr}]
    for name, parameter in model.named_parameters():
        groups[name.startswith(f"{head}.")]["params"].append(parameter)
    return groups
