"""Temporary switches between training and evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from minidl.nn.module import Module


@contextlib.contextmanager
def evaluating(module: Module) -> Iterator[None]:
    """Switch a module to evaluation in a `with` block, then restore the mode of each sub-module."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
