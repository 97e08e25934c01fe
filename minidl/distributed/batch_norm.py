"""Batch norm over a batch that is shared among ranks."""

from __future__ import annotations

from typing import TypeVar

from minidl import nn
from minidl.distributed.world import World
from minidl.distributed.world import world as the_world

M = TypeVar("M", bound=nn.Module)


def synchronize_batch_norm(model: M, world: World | None = None) -> M:
    """Make each batch norm of a model use the mean and variance over all ranks, in training.

    Without it, each rank normalises by its own share of the batch, so results depend on the number
    of ranks, and small shares give noisy statistics. With it, results are those of one process, and
    running statistics are the same on every rank. Each layer then exchanges two numbers per channel
    in the forward pass, and two in the backward pass. Evaluation needs no exchange.

    The layers are changed in place; names, weights and state dicts stay the same. To undo it, set
    `world` of each layer to None.

    Args:
        model: a layer or a network. One without batch norm is left unchanged.
        world: the ranks; `distributed.world()` if None.

    Returns:
        The model.

    Raises:
        TypeError: the model is not a `Module`.

    Example:
        >>> synchronize_batch_norm(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), World())
        Sequential(
          (0): BatchNorm1d(4, world=World(rank=0, size=1))
          (1): ReLU()
        )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"synchronize_batch_norm: got a {type(model).__name__}, expected a model (an nn.Module)"
        )
    ranks = the_world() if world is None else world
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.world = ranks
    return model
