"""Layers that pad: PyTorch's sides, modes and names, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn

KINDS = ("ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [1, (2, 0), (2, 0, 1, 3)], ids=str)
def test_padding_is_that_of_pytorch(kind, padding):
    torch = pytest.importorskip("torch")
    for axes in (1, 2):
        if isinstance(padding, tuple) and len(padding) != 2 * axes:
            continue
        x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)[: 2 + axes])
        ours = getattr(nn, f"{kind}{axes}d")(padding)(Tensor(x))
        theirs = getattr(torch.nn, f"{kind}{axes}d")(padding)(torch.tensor(x))
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("ReflectionPad2d", "reflect"),
        ("ReplicationPad2d", "replicate"),
        ("CircularPad2d", "circular"),
    ],
)
def test_before_a_convolution_it_does_what_pytorchs_padding_mode_does(kind, mode):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode).double()
    conv = nn.Conv2d(2, 3, 3)
    conv.load_state_dict(theirs.float().state_dict())
    ours = nn.Sequential(getattr(nn, kind)(1), conv)
    x = np.random.default_rng(0).normal(size=(2, 2, 6, 5)).astype(np.float32)
    wanted = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(Tensor(x)).numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_the_repr_is_the_call():
    assert repr(nn.ReflectionPad2d((1, 2, 0, 0))) == "ReflectionPad2d((1, 2, 0, 0))"
    assert repr(nn.CircularPad1d(2)) == "CircularPad1d(2)"


@pytest.mark.parametrize("padding", [-1, (1, 2), (1, 2, 3, -1), 1.0, None])
def test_other_paddings_are_refused(padding):
    message = r"ZeroPad2d: got padding=.*expected an integer >= 0, or one for each of \(left, righ"
    with pytest.raises(ValueError, match=message):
        nn.ZeroPad2d(padding)


def test_other_inputs_are_refused():
    with pytest.raises(
        ValueError, match=r"CircularPad2d: got shape \(1, 3, 3\), expected \(n, c, h"
    ):
        nn.CircularPad2d(1)(minidl.ones(1, 3, 3))
    with pytest.raises(
        ValueError, match=r"pad: got widths .* expected at most 2 with mode='reflect'"
    ):
        nn.ReflectionPad1d(3)(minidl.ones(1, 1, 3))
