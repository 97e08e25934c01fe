"""Temporary evaluation mode, without writing to the model."""

from __future__ import annotations

from minidl.context import Block
from minidl.nn.module import Module, evaluated


def evaluating(module: Module) -> Block[dict[int, Module]]:
    """Put a module and its sub-modules in evaluation mode in a `with` block.

    Their `training` is False there, in this thread or task only. The stored mode does not change,
    so others can train or evaluate the same model meanwhile. Calling `train` or `eval` inside the
    block ends this for the modules that it affects.
    """
    return evaluated.set({id(part): part for part in module.modules()})
