"""Evaluation for a while, without writing to the model."""

from __future__ import annotations

from minidl.context import Block
from minidl.nn.module import Module, evaluated


def evaluating(module: Module) -> Block[dict[int, Module]]:
    """Evaluate a module and its sub-modules in a `with` block, in this thread or task only.

    Their `training` reads False there. What is stored does not change, so others can train or
    evaluate the same model meanwhile. `train` or `eval` inside the block ends this for the modules
    that it sets.
    """
    return evaluated.set({id(part): part for part in module.modules()})
