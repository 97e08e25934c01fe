"""Write a network as an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import nn
from minidl.files.whole import whole_file
from minidl.onnx import protobuf
from minidl.onnx.graph import Graph, Node, host
from minidl.onnx.trace import traced
from minidl.tensor import Tensor

MOST_BYTES = 2**31 - 1  # the limit of protocol buffers


def export_onnx(model: nn.Module, example: Any, path: str | os.PathLike[str]) -> Path:
    """Write a network in evaluation mode to an ONNX file, which other programs can run.

    Weights keep their dtypes (onnxruntime convolves only float32) and their names in the state
    dict. Results equal minidl's up to rounding, unless squares leave float32's range. A single
    input or output is named `input` or `output`; several are named `input_0`, `input_1` and so on.
    In the file, their first axis, the batch, may have any size if the network allows it; the other
    sizes are the example's. To run it, after `pip install onnxruntime`:

        session = onnxruntime.InferenceSession("model.onnx")
        logits, = session.run(None, {"input": images})

    The network is run at least twice, on the example and on random inputs from its range of values,
    and is not changed. Export does not see values that `forward` computes with NumPy, nor decisions
    that it makes in Python. If they differ between these runs, export raises; if an `if` takes the
    same branch in all of them, only that branch is exported.

    Args:
        model: any module composed of minidl's operations.
        example: an input for the model, a tensor or array; a tuple of them if it takes several.
        path: a file name ending in `.onnx`. Its folder is created if needed.

    Returns:
        The path.

    Raises:
        ValueError: a layer cannot be exported (the message gives its name and the reason), the
            network refuses the example, the file name has another ending, or the file would exceed
            2 GB, the format's limit.
        TypeError: the model is not a Module, or its inputs or outputs are not tensors.
        OSError: the disk is full, or the folder cannot be written to.

    Source: the ONNX specification, operator set 18; `trace` describes the method.

    Example:
        >>> import pathlib, tempfile, minidl
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.GlobalAvgPool())
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.onnx"
        >>> export_onnx(model, minidl.zeros((1, 3, 8, 8)), path).name
        'model.onnx'
    """
    path = Path(path)
    if not isinstance(model, nn.Module):
        raise TypeError(f"export_onnx: got a {type(model).__name__}, expected a Module")
    if path.suffix != ".onnx":
        raise ValueError(f"export_onnx: got {path.name!r}, expected a name ending in .onnx")
    examples = [_tensor(x) for x in (example if isinstance(example, tuple) else (example,))]
    first = _run(model, examples)
    try:
        second = _run(model, _others(examples, more=1, seed=0))
        graph = first[0].joined(second[0])
    except Exception:  # perhaps the batch size must not change; other errors recur below
        for seed in range(1, 4):  # several times: two runs could agree by chance
            second = _run(model, _others(examples, more=0, seed=seed))
            graph = first[0].joined(second[0])
    batch = tuple([next(iter(inputs.values())).shape[:1] for _, inputs, _ in (first, second)])
    weights = {name: host(tensor) for name, tensor in graph.weights.items()}
    chunks = protobuf.model(
        type(model).__name__,
        [protobuf.node(n.op, n.name, n.inputs, n.outputs, n.options) for n in graph.nodes],
        [protobuf.tensor(*item) for item in (weights | graph.constants).items()],
        *(_described(*ends, batch) for ends in zip(first[1:], second[1:], strict=True)),
    )
    size = protobuf.size_of(chunks)
    if size > MOST_BYTES:
        raise ValueError(
            f"export_onnx: got a file of {size / 1e9:.1f} GB, expected at most 2 GB, the format's "
            "limit; model.to(dtype='float32') halves the size of float64 weights"
        )
    with whole_file(path) as file:
        file.writelines(chunks)
    return path


Ends = dict[str, Any]
"""Inputs or outputs by name."""


def _run(model: nn.Module, examples: Sequence[Tensor]) -> tuple[Graph, Ends, Ends]:
    """Run a model; return its graph, inputs and outputs."""
    inputs = _named("input", examples)
    graph, output = traced(model, inputs)
    outputs = _named("output", output if isinstance(output, (tuple, list)) else (output,))
    for name, result in outputs.items():
        if not hasattr(result, "dtype"):
            raise TypeError(
                f"export_onnx: the network returned a {type(result).__name__}, expected a tensor, "
                "or a tuple of tensors: ONNX has no dicts, and no tuples in tuples"
            )
        graph.nodes.append(Node("Identity", name, (graph.read(result),), (name,), {}))
    return graph, inputs, outputs


def _named(kind: str, values: Sequence[Any]) -> Ends:
    return {kind if len(values) == 1 else f"{kind}_{i}": value for i, value in enumerate(values)}


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor) or hasattr(x, "dtype"):
        return Tensor(x)
    raise TypeError(
        f"export_onnx: got a {type(x).__name__} as an example, expected a tensor or an array, or "
        "a tuple of them for a network that takes several"
    )


def _others(examples: Sequence[Tensor], more: int, seed: int) -> list[Tensor]:
    """Draw inputs from the range of values of each example, with a batch larger by `more`."""
    rng, others = np.random.default_rng(seed), []
    for x in examples:
        array, shape = host(x)[np.isfinite(host(x))], list(x.shape)
        if shape and shape[:1] == list(examples[0].shape[:1]):
            shape[0] += more
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        drawn: Any = rng.uniform(low, high if high > low else low + 1, shape)
        if x.dtype.kind != "f":
            drawn = rng.integers(int(low), int(high), shape, endpoint=True)
        others.append(Tensor(drawn.astype(x.dtype), device=x.device))
    return others


def _described(first: Ends, second: Ends, batch: tuple[Any, ...]) -> list[protobuf.Chunks]:
    """Describe inputs or outputs; sizes that differ between the two runs are left variable."""
    found = []
    for name, x in first.items():
        sizes: list[Any] = list(x.shape)
        for axis, pair in enumerate(zip(x.shape, second[name].shape, strict=True)):
            if pair[0] != pair[1]:
                sizes[axis] = "batch" if ((pair[0],), (pair[1],)) == batch else None
        found.append(protobuf.value_info(name, x.dtype, sizes))
    return found
