"""Answers to the exercises for chapter 11."""


# Why: Look for the name with a dot: `fc` is also the beginning of `fc_in.weight`. Set both, True
# and False, because the head may have been frozen before.
def freeze_all_but(model, head):
    learning = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(f"{head}."))
        learning += parameter.size * parameter.requires_grad
    return learning


# Why: The prefix has to be removed as a word; `lstrip` would remove any of its letters, so also the
# first of `layer_norm`. Compare shapes too: the head of another task has the right name and the
# wrong size.
def load_matching(model, state):
    own = model.state_dict()
    given = {name.removeprefix("module."): array for name, array in state.items()}
    fitting = {n: array for n, array in given.items() if n in own and array.shape == own[n].shape}
    model.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]


# Why: Each parameter in one group only, in lists: a generator would be empty when it is read a
# second time. The body has learned already, so it gets small steps; the head starts at random.
def two_rates(model, head, lr):
    groups = [{"params": [], "lr": lr / 10}, {"params": [], "lr": lr}]
    for name, parameter in model.named_parameters():
        groups[name.startswith(f"{head}.")]["params"].append(parameter)
    return groups


# Predict, then run. Not in minidl: a frozen layer stays in evaluation, so the frozen body computes
# the same features for an image in every epoch. In PyTorch they do change: there a frozen body
# needs eval() as well, and forgetting it is the usual reason why a "frozen" network gets worse.
#
# Change this and explain. With 0.01 the unfrozen network reaches 96.4 % on the toy task (seed 0),
# with 0.1 only 84.4 %: less than a new head on the frozen body, 93.9 %, but still more than
# training from scratch, 58 to 63 %. Large steps destroy part of what the body had learned, before
# the few labelled images can replace it. That is why `two_rates` gives the body a tenth of the
# head's rate.
