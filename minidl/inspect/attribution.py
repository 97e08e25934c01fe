"""Grad-CAM and saliency: which parts of an input drive a prediction, as arrays."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import nn
from minidl.autograd import set_recording
from minidl.derivatives import grad
from minidl.nn.modes import evaluating
from minidl.tensor import Tensor


def grad_cam(
    model: nn.Module, layer: nn.Module, x: Tensor, classes: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return where a layer's feature maps support a class: `relu(sum over c of w[c] * A[c])`.

    `w[c]` is the mean gradient of the class's score over map c. If global average pooling and
    one linear layer follow `layer`, these are that layer's weights, up to a factor.

    Args:
        model: run in evaluation mode, without changing its mode or any `.grad`, so other threads
            may use it meanwhile. Some or all of it may be frozen.
        layer: one of its modules, whose output is `(n, c, h, w)`; usually the last convolution.
        x: images, normalised, `(n, c, h, w)`.
        classes: index of the score to explain for each image, `(n,)`; None for the highest.

    Returns:
        float64 `(n, h, w)`, >= 0, as high and wide as the layer's output.

    Raises:
        ValueError: the layer did not run, or its output is not 4-d.

    Source: R. Selvaraju et al., Grad-CAM (2017), equations 1 and 2.
    """
    made: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module is layer:
            made.append(output)
            if isinstance(output, Tensor) and not output.requires_grad:  # frozen up to here
                marked.callback(output.requires_grad_, False)
                output.requires_grad_()

    with contextlib.ExitStack() as marked, evaluating(model), set_recording(True), nn.observe(note):
        score = _score(model(x.detach()), classes)
        if not made or not isinstance(made[-1], Tensor) or made[-1].ndim != 4:
            raise ValueError(
                f"grad_cam: {layer!r:.80} did not run in this network, or its output is "
                "not (n, c, h, w)"
            )
        (slope,) = grad(score, [made[-1]])
    weights = slope.numpy().mean((2, 3), dtype=np.float64, keepdims=True)  # (n, c, 1, 1)
    evidence: NDArray[Any] = (weights * made[-1].numpy()).sum(1)
    found: NDArray[Any] = np.maximum(evidence, 0.0, out=evidence)
    return found


def saliency(model: nn.Module, x: Tensor, classes: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return how much each pixel affects a class's score: its largest |gradient| over channels.

    Args:
        model: run in evaluation mode, without changing its mode or any `.grad`.
        x: images, normalised, `(n, c, h, w)`.
        classes: index of the score to explain for each image, `(n,)`; None for the highest.

    Returns:
        float64 `(n, h, w)`, >= 0.

    Source: K. Simonyan et al., Deep Inside Convolutional Networks (2013), section 3.
    """
    image = x.detach().requires_grad_()
    with evaluating(model), set_recording(True):
        (slope,) = grad(_score(model(image), classes), [image])
    largest: NDArray[Any] = np.abs(slope.numpy()).max(1)
    return largest.astype(np.float64)


def _score(scores: Tensor, classes: NDArray[Any] | None) -> Tensor:
    """Return the sum of the scores to explain: no image influences another's."""
    chosen = scores.numpy().argmax(1) if classes is None else np.asarray(classes)
    return scores[np.arange(len(chosen)), chosen].sum()
